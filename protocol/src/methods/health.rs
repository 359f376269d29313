//! Health and status reports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Access, Request, Scope};

/// Reports how the daemon and its channels are. Other parameters are ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `true` asks the channels' servers too, and waits for them.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub probe: Value,
}

impl Request for Health {
    const METHOD: &'static str = "health";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = HealthSummary;
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthSummary {
    /// Always true: a daemon that can answer is alive. See `degraded`.
    pub ok: bool,
    /// When this was found out, in milliseconds since the epoch.
    pub ts: u64,
    /// How long the channels took to answer.
    pub duration_ms: u64,
    /// A summary for each channel, with one for each of its accounts.
    pub channels: Map<String, Value>,
    /// Ids of the channels in the order to show them.
    pub channel_order: Vec<String>,
    /// Names of the channels for people.
    pub channel_labels: Map<String, Value>,
    /// Seconds between heartbeats of the default agent; 0 when it has none.
    pub heartbeat_seconds: u64,
    /// The agent that answers when nobody else is named.
    pub default_agent_id: String,
    /// The agents.
    pub agents: Vec<AgentHealth>,
    /// Conversations of the default agent.
    pub sessions: SessionsHealth,
    /// What is wrong, one line each; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<Vec<String>>,
}

/// How an agent is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentHealth {
    /// Its id.
    pub agent_id: String,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it answers when nobody else is named.
    pub is_default: bool,
    /// Its heartbeat.
    pub heartbeat: HeartbeatHealth,
    /// Its conversations.
    pub sessions: SessionsHealth,
}

/// An agent's heartbeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatHealth {
    /// Whether it beats.
    pub enabled: bool,
    /// How often, for people.
    pub every: String,
    /// How often, in milliseconds; `null` when it does not.
    pub every_ms: Option<u64>,
    /// What the agent is asked.
    pub prompt: String,
    /// Where alerts go.
    pub target: String,
    /// Longest answer that counts as quiet.
    pub ack_max_chars: u64,
}

/// Conversations in short.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionsHealth {
    /// Where they are kept.
    pub path: String,
    /// How many there are.
    pub count: u64,
    /// The last five.
    pub recent: Vec<RecentSession>,
}

/// A conversation in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecentSession {
    /// Its key.
    pub key: String,
    /// When it last changed, in milliseconds since the epoch.
    pub updated_at: Option<u64>,
    /// The same as an age in milliseconds.
    pub age: Option<u64>,
}

/// Reports what the daemon is doing. Parameters are ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Status {}

impl Request for Status {
    const METHOD: &'static str = "status";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = StatusSummary;
}

/// What the daemon is doing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusSummary {
    /// Heartbeats.
    pub heartbeat: HeartbeatStatus,
    /// One line for each channel.
    pub channel_summary: Vec<String>,
    /// What the next run of the main session will be told.
    pub queued_system_events: Vec<String>,
    /// Conversations.
    pub sessions: SessionsStatus,
    /// The daemon itself.
    pub gateway: GatewayStatus,
    /// What is wrong, one line each; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<Vec<String>>,
}

/// The daemon itself.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Its profile; absent for the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// How long it has been running.
    pub uptime_ms: u64,
    /// Connected clients.
    pub clients: u64,
    /// Events published since it started.
    pub events: u64,
    /// Clients closed because they read too slowly.
    pub slow_consumers: u64,
    /// Its resident memory, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// The TCP addresses it listens on, each with its port.
    #[serde(default)]
    pub listening: Vec<String>,
    /// Its certificate; absent when its port speaks no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
    /// How it is reached through a tailnet; absent when it is not to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tailscale: Option<TailscaleStatus>,
}

/// How the daemon is reached through a tailnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TailscaleStatus {
    /// `serve` or `funnel`.
    pub mode: String,
    /// Name of the tailnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tailnet: Option<String>,
    /// Its host's name in the tailnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is reached; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether Tailscale leads to it.
    pub served: bool,
    /// Why not, and what helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The certificate the daemon shows.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// Its SHA-256 in lower-case hex: what clients pin.
    pub sha256: String,
    /// The file it is in.
    pub certificate: String,
}

/// Heartbeats of all agents.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatStatus {
    /// The default agent.
    pub default_agent_id: String,
    /// Each agent.
    pub agents: Vec<AgentHeartbeat>,
}

/// Heartbeat of one agent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentHeartbeat {
    /// Its id.
    pub agent_id: String,
    /// Whether it beats.
    pub enabled: bool,
    /// How often, for people.
    pub every: String,
    /// How often, in milliseconds; `null` when it does not.
    pub every_ms: Option<u64>,
}

/// Conversations of all agents.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionsStatus {
    /// Where they are kept.
    pub paths: Vec<String>,
    /// How many there are.
    pub count: u64,
    /// What a new conversation uses.
    pub defaults: SessionDefaultsStatus,
    /// The last ten.
    pub recent: Vec<SessionStatus>,
    /// The same for each agent.
    pub by_agent: Vec<AgentSessions>,
}

/// What a new conversation uses.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionDefaultsStatus {
    /// The model.
    pub model: Option<String>,
    /// Size of its context.
    pub context_tokens: Option<u64>,
}

/// Conversations of one agent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSessions {
    /// The agent.
    pub agent_id: String,
    /// Where they are kept.
    pub path: String,
    /// How many there are.
    pub count: u64,
    /// The last ten.
    pub recent: Vec<SessionStatus>,
}

/// A conversation.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// The agent that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Its key.
    pub key: String,
    /// `direct`, `group`, `global` or `unknown`.
    pub kind: String,
    /// Identifies its transcript.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// When it last changed, in milliseconds since the epoch.
    pub updated_at: Option<u64>,
    /// The same as an age in milliseconds.
    pub age: Option<u64>,
    /// How hard the model thinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_level: Option<String>,
    /// Whether tools are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verbose_level: Option<String>,
    /// Whether the last run was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted_last_run: Option<bool>,
    /// Tokens read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Tokens of the context.
    pub total_tokens: Option<u64>,
    /// Tokens left of it.
    pub remaining_tokens: Option<u64>,
    /// Share used, in percent.
    pub percent_used: Option<u64>,
    /// The model.
    pub model: Option<String>,
    /// Size of its context.
    pub context_tokens: Option<u64>,
    /// Settings in short.
    pub flags: Vec<String>,
}

impl From<&SessionStatus> for RecentSession {
    fn from(session: &SessionStatus) -> Self {
        Self { key: session.key.clone(), updated_at: session.updated_at, age: session.age }
    }
}
