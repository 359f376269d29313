//! The gateway's own process.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Access, Request, Scope};

/// Has the service manager start the gateway anew. Refused where no service
/// manager would: a process that ends there stays away.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayRestart {
    /// The conversation that asks; it is told when the new process is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// What it is told, beside the fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How long to wait before, in milliseconds; 2000 when absent, at most
    /// 60000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_delay_ms: Option<u64>,
}

impl Request for GatewayRestart {
    const METHOD: &'static str = "gateway.restart";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = Restarting;
}

/// A restart that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restarting {
    /// Always true.
    pub ok: bool,
    /// When and how.
    pub restart: RestartPlan,
    /// What is reported by the new process.
    pub sentinel: Sentinel,
}

/// When and how the gateway restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartPlan {
    /// Whether it will.
    pub ok: bool,
    /// The process that ends.
    pub pid: u32,
    /// In how many milliseconds it begins to stop.
    pub delay_ms: u64,
    /// Why.
    pub reason: String,
    /// `exit`: the process ends and the service manager starts the next one.
    pub mode: String,
    /// Who starts the next one: `systemd`, `launchd` or `other`.
    pub supervisor: String,
}

/// What survives a restart in order to be reported after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sentinel {
    /// Where it is kept; `null`, because that is the database.
    pub path: Option<String>,
    /// What is reported.
    pub payload: RestartNote,
}

/// What is reported after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartNote {
    /// `restart`, `config-apply` or `update`.
    pub kind: String,
    /// `ok`, `error` or `skipped`.
    pub status: String,
    /// When it was asked for, in milliseconds since the epoch.
    pub ts: i64,
    /// The conversation that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// What it wanted to be told.
    pub message: Option<String>,
    /// What was done, by kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Value>,
}
