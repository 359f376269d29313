//! What a run says, for chat windows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Access, Delivery, Event};

/// What a run says, or how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatEvent {
    /// Identifies the run.
    pub run_id: String,
    /// Key of the conversation, as the caller spelled it.
    pub session_key: String,
    /// Number of the step of the run that this follows from.
    pub seq: u64,
    /// How far it is.
    pub state: ChatState,
    /// The text so far, or all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<ChatMessage>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Why it was stopped: `rpc`, `stop` or `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChatState {
    /// More will come.
    Delta,
    /// It is complete.
    Final,
    /// It was stopped.
    Aborted,
    /// It failed.
    Error,
}

/// A message of the assistant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatMessage {
    /// Always `assistant`.
    pub role: String,
    /// Its parts: `{type: "text", text}`.
    pub content: Vec<Value>,
    /// When it was told, in milliseconds since the epoch.
    pub timestamp: i64,
    /// `injected` when no model wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// Tokens it cost; zeros when no model wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Value>,
}

impl Event for ChatEvent {
    const EVENT: &'static str = "chat";
    const ACCESS: Access = Access::Connected;
    const DELIVERY: Delivery = Delivery::Required;
}

/// A [`ChatEvent`] of state `delta`: the next one replaces it, so that a slow
/// reader may miss it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ChatDelta(pub ChatEvent);

impl Event for ChatDelta {
    const EVENT: &'static str = ChatEvent::EVENT;
    const ACCESS: Access = ChatEvent::ACCESS;
    const DELIVERY: Delivery = Delivery::Skippable;
}
