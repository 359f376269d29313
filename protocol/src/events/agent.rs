//! What a run does, step by step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Access, Delivery, Event};

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentEvent {
    /// Identifies the run.
    pub run_id: String,
    /// What kind of step: `lifecycle`, `assistant` or `tool`.
    pub stream: Stream,
    /// The step.
    pub data: Value,
    /// Key of the conversation, as the caller spelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// Counts the steps of the run from one; steps that are not shown count.
    pub seq: u64,
    /// When it happened, in milliseconds since the epoch.
    pub ts: i64,
}

/// What kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Start, end or failure: `{phase, startedAt?, endedAt?, error?, aborted?}`.
    Lifecycle,
    /// Text: `{text, delta}`; `text` is all of the current message.
    Assistant,
    /// A tool: `{phase, name, toolCallId, args?, meta?, isError?, result?}`.
    Tool,
}

impl Event for AgentEvent {
    const EVENT: &'static str = "agent";
    const ACCESS: Access = Access::Connected;
    const DELIVERY: Delivery = Delivery::Required;
}
