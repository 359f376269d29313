//! Runs of the agent: started, awaited, and who it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Access, Request, Scope, Text, Waits, limits};

/// Runs the agent on a message. Answers at once, and again with the result.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentRun {
    /// The message.
    pub message: Text,
    /// Who answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<Text>,
    /// Destination of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Another destination; wins over `to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The conversation, by the id of its transcript.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The conversation, by its key; wins over the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::SESSION_KEY_CHARS))]
    pub session_key: Option<String>,
    /// How hard the model thinks about this message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Whether the answer goes to the channel too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver: Option<bool>,
    /// Pictures, each with base64 in `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Value>>,
    /// Channel of the answer; `last` is the one used last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Another channel; wins over `channel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_channel: Option<String>,
    /// Account of the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// Another account; wins over `accountId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_account_id: Option<String>,
    /// Thread within the chat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<String>,
    /// Group the message belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// Room of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_channel: Option<String>,
    /// Server or team of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_space: Option<String>,
    /// How long the run may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timeout: Option<u64>,
    /// Accepted and ignored: there is one lane for each conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Added to the system prompt of this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_system_prompt: Option<String>,
    /// Identifies the run: sent twice, it is done once.
    #[schemars(length(max = limits::REQUEST_ID_CHARS))]
    pub idempotency_key: Text,
    /// Name of the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub label: Option<String>,
    /// The conversation that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spawned_by: Option<String>,
}

impl Request for AgentRun {
    const METHOD: &'static str = "agent";
    const ACCESS: Access = Access::Operator(Scope::Write);
    type Response = AgentAnswer;
}

/// An answer to `agent`: the first one, or the stored one of a repeated key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentAnswer {
    /// Identifies the run.
    pub run_id: String,
    /// `accepted`, later `ok` or `error`.
    pub status: String,
    /// When it was accepted, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<i64>,
    /// How it ended, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<AgentResult>,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentResult {
    /// What the assistant said.
    pub payloads: Vec<AgentPayload>,
    /// How it came to that.
    pub meta: AgentMeta,
}

/// Something the assistant said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentPayload {
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A picture or file; `null` when there is none.
    pub media_url: Option<String>,
}

/// How a run went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentMeta {
    /// How long it took.
    pub duration_ms: i64,
    /// Which model did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_meta: Option<ModelMeta>,
    /// Whether it was stopped.
    pub aborted: bool,
}

/// Which model did a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelMeta {
    /// Identifies the transcript.
    pub session_id: String,
    /// Provider of the model.
    pub provider: String,
    /// The model.
    pub model: String,
    /// Tokens used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<RunUsage>,
}

/// Tokens used by a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunUsage {
    /// Tokens read.
    pub input: u64,
    /// Tokens written.
    pub output: u64,
    /// Tokens read from the provider's cache.
    pub cache_read: u64,
    /// Tokens written to the provider's cache.
    pub cache_write: u64,
    /// All of them.
    pub total: u64,
}

/// Waits for the end of a run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentWait {
    /// Identifies the run.
    pub run_id: Text,
    /// How long to wait, in milliseconds; 30000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timeout_ms: Option<u64>,
}

impl Request for AgentWait {
    const METHOD: &'static str = "agent.wait";
    const ACCESS: Access = Access::Operator(Scope::Write);
    const WAITS: Waits = Waits::AsOnlooker;
    type Response = AgentWaited;
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentWaited {
    /// Identifies the run.
    pub run_id: String,
    /// `ok`, `error`, or `timeout` when it has not ended.
    pub status: String,
    /// When it started, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// When it ended, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
