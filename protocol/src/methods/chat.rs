//! Chatting as people do in a chat window: the answer comes as `chat` events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Access, Request, Scope, Text, limits};

/// Returns the messages of a conversation, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChatHistory {
    /// Key of the conversation.
    pub session_key: Text,
    /// At most this many, the newest ones; 200 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u64>,
}

impl Request for ChatHistory {
    const METHOD: &'static str = "chat.history";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = History;
}

/// The messages of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The key as it was asked for.
    pub session_key: String,
    /// Identifies the transcript; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Messages of the roles `user`, `assistant` and `toolResult`.
    pub messages: Vec<Value>,
    /// How hard models think in this conversation.
    pub thinking_level: String,
}

/// Sends a message to the assistant. The run's id is the idempotency key.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChatSend {
    /// Key of the conversation.
    #[schemars(length(max = limits::SESSION_KEY_CHARS))]
    pub session_key: Text,
    /// The message.
    pub message: Text,
    /// How hard the model thinks about this message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Accepted and ignored: answers to chat clients are events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver: Option<bool>,
    /// Pictures and files, each with base64 in `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Value>>,
    /// After how many milliseconds the run is given up, within two minutes and
    /// a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timeout_ms: Option<u64>,
    /// Identifies the message: sent twice, it is handled once.
    #[schemars(length(max = limits::REQUEST_ID_CHARS))]
    pub idempotency_key: Text,
}

impl Request for ChatSend {
    const METHOD: &'static str = "chat.send";
    const ACCESS: Access = Access::Operator(Scope::Write);
    type Response = ChatSent;
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ChatSent {
    /// It is or was handled.
    Run(ChatRun),
    /// It was a word that stops.
    Stopped(ChatAborted),
}

/// The run that handles a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatRun {
    /// Identifies the run.
    pub run_id: String,
    /// `started`; for a key sent before `in_flight`, `ok` or `error`.
    pub status: String,
    /// Why an earlier run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}

/// Stops the runs of a conversation.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChatAbort {
    /// Key of the conversation.
    pub session_key: Text,
    /// Only this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<Text>,
}

impl Request for ChatAbort {
    const METHOD: &'static str = "chat.abort";
    const ACCESS: Access = Access::Operator(Scope::Write);
    type Response = ChatAborted;
}

/// What was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatAborted {
    /// Always true.
    pub ok: bool,
    /// Whether anything was.
    pub aborted: bool,
    /// The runs that were.
    pub run_ids: Vec<String>,
}

/// Adds a message of the assistant to a conversation without asking a model.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChatInject {
    /// Key of the conversation.
    #[schemars(length(max = limits::SESSION_KEY_CHARS))]
    pub session_key: Text,
    /// The message.
    pub message: Text,
    /// Put before the message in brackets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub label: Option<String>,
}

impl Request for ChatInject {
    const METHOD: &'static str = "chat.inject";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    const ADVERTISED: bool = false;
    type Response = ChatInjected;
}

/// The message that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatInjected {
    /// Always true.
    pub ok: bool,
    /// Eight hexadecimal digits.
    pub message_id: String,
}
