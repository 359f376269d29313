//! Conversations: listing, reading, changing and ending them.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{Access, Request, Scope, Text, limits};

/// Everything remembered about a conversation besides its messages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionEntry {
    /// Identifies the transcript; a reset gives a new one.
    pub session_id: String,
    /// When it last changed, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<i64>,
    /// Whether the system prompt was part of an earlier run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_sent: Option<bool>,
    /// Whether the last run was aborted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_last_run: Option<bool>,
    /// `direct`, `group` or `channel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_type: Option<String>,
    /// How hard models think.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_level: Option<String>,
    /// Whether tools are shown: `on`, `full`, `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbose_level: Option<String>,
    /// Whether reasoning is shown: `on`, `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_level: Option<String>,
    /// How far tools may go: `off`, `on`, `ask`, `full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elevated_level: Option<String>,
    /// Where commands run: `sandbox`, `gateway`, `node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_host: Option<String>,
    /// Which commands run: `deny`, `allowlist`, `full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_security: Option<String>,
    /// When a person is asked: `off`, `on-miss`, `always`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_ask: Option<String>,
    /// The node on which commands run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_node: Option<String>,
    /// Whether answers end with their usage: `tokens`, `full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_usage: Option<String>,
    /// Provider chosen for this conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_override: Option<String>,
    /// Model chosen for this conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_override: Option<String>,
    /// When a group is answered: `mention`, `always`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_activation: Option<String>,
    /// Whether it is answered at all: `allow`, `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_policy: Option<String>,
    /// Tokens read by the last run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens written by the last run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Tokens of the context that the last run filled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_tokens: Option<u64>,
    /// Provider of the last run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_provider: Option<String>,
    /// Model of the last run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Size of that model's context, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// Name given by a client; unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Channel it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Id of its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// Title of its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Room of its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_channel: Option<String>,
    /// Server or team of its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// Where it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Where its answers go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_context: Option<DeliveryContext>,
    /// Channel of its last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_channel: Option<String>,
    /// Chat of its last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_to: Option<String>,
    /// Account of its last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_account_id: Option<String>,
    /// Thread of its last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_thread_id: Option<Value>,
    /// The conversation that started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spawned_by: Option<String>,
    /// Fields of other versions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Where a conversation began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Origin {
    /// Name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Channel, or `webchat` for clients of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The same, as the channel names itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surface: Option<String>,
    /// `direct`, `group` or `channel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_type: Option<String>,
    /// Who wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Where the answer goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Account of the channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// Thread within the chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<Value>,
    /// Fields of other versions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Where a conversation's answers go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeliveryContext {
    /// Channel, or `webchat` for clients of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Account of the channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// Thread within the chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<Value>,
}

/// Lists conversations, the last changed first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionsList {
    /// At most this many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
    /// Only those that changed within so many minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub active_minutes: Option<u64>,
    /// Also the global conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_global: Option<bool>,
    /// Also the conversation of unknown peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_unknown: Option<bool>,
    /// Also a title made of the first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_derived_titles: Option<bool>,
    /// Also the last message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_last_message: Option<bool>,
    /// Only the one with this label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub label: Option<String>,
    /// Only those that this conversation started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spawned_by: Option<Text>,
    /// Only those of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<Text>,
    /// Only those whose name, title, id or key holds this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
}

impl Request for SessionsList {
    const METHOD: &'static str = "sessions.list";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = SessionsPage;
}

/// A list of conversations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionsPage {
    /// When the list was made, in milliseconds since the epoch.
    pub ts: i64,
    /// Where they are stored.
    pub path: String,
    /// How many there are in this list.
    pub count: usize,
    /// What a new conversation starts with.
    pub defaults: SessionDefaults,
    /// The conversations.
    pub sessions: Vec<SessionRow>,
}

/// What a new conversation starts with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionDefaults {
    /// Provider of the model, `null` when unknown.
    pub model_provider: Option<String>,
    /// The model, `null` when unknown.
    pub model: Option<String>,
    /// Size of its context in tokens, `null` when unknown.
    pub context_tokens: Option<u64>,
}

/// A conversation in a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    /// Its key.
    pub key: String,
    /// `direct`, `group`, `global` or `unknown`.
    pub kind: String,
    /// Name given by a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Channel it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Title of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Room of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_channel: Option<String>,
    /// Server or team of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// `direct`, `group` or `channel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_type: Option<String>,
    /// Where it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// When it last changed, in milliseconds since the epoch; `null` when
    /// unknown.
    pub updated_at: Option<i64>,
    /// Identifies its transcript.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Whether the system prompt was part of an earlier run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_sent: Option<bool>,
    /// Whether the last run was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted_last_run: Option<bool>,
    /// How hard models think.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_level: Option<String>,
    /// Whether tools are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verbose_level: Option<String>,
    /// Whether reasoning is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_level: Option<String>,
    /// How far tools may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elevated_level: Option<String>,
    /// Whether it is answered at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_policy: Option<String>,
    /// Tokens read by the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens written by the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Tokens of the context that the last run filled.
    #[serde(default)]
    pub total_tokens: u64,
    /// Whether answers end with their usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_usage: Option<String>,
    /// Provider of the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_provider: Option<String>,
    /// Model of the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Size of that model's context, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// Where its answers go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_context: Option<DeliveryContext>,
    /// Channel of its last message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_channel: Option<String>,
    /// Chat of its last message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_to: Option<String>,
    /// Account of its last message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_account_id: Option<String>,
    /// A title made of the first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_title: Option<String>,
    /// The last message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message_preview: Option<String>,
}

/// Returns the last messages of conversations, shortened.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionsPreview {
    /// Keys of the conversations; the first 64 count.
    #[schemars(length(min = 1))]
    pub keys: Vec<Text>,
    /// At most so many messages of each; 12 when absent, never more than 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
    /// At most so many characters of each message; 240 when absent, never more
    /// than 2000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20))]
    pub max_chars: Option<u64>,
}

impl Request for SessionsPreview {
    const METHOD: &'static str = "sessions.preview";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = SessionPreviews;
}

/// The last messages of conversations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionPreviews {
    /// When they were read, in milliseconds since the epoch.
    pub ts: i64,
    /// One for each key.
    pub previews: Vec<SessionPreview>,
}

/// The last messages of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionPreview {
    /// The key as it was asked for.
    pub key: String,
    /// `ok`, `empty`, `missing` or `error`.
    pub status: String,
    /// The messages, oldest first.
    pub items: Vec<PreviewItem>,
}

/// A message in a preview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreviewItem {
    /// `user`, `assistant`, `tool`, `system` or `other`.
    pub role: String,
    /// Its text, shortened.
    pub text: String,
}

/// Finds the key of a conversation.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionsResolve {
    /// Its key, in any spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Text>,
    /// Id of its transcript.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Text>,
    /// Its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub label: Option<String>,
    /// Only conversations of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<Text>,
    /// Only those that this conversation started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spawned_by: Option<Text>,
    /// Also the global conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_global: Option<bool>,
    /// Also the conversation of unknown peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_unknown: Option<bool>,
}

impl Request for SessionsResolve {
    const METHOD: &'static str = "sessions.resolve";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    const ADVERTISED: bool = false;
    type Response = SessionResolved;
}

/// The key of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionResolved {
    /// Always true.
    pub ok: bool,
    /// The key.
    pub key: String,
}

/// Changes what is remembered about a conversation, and creates it if there is
/// none. Absent fields stay, `null` clears.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionsPatch {
    /// Its key.
    #[schemars(length(max = limits::SESSION_KEY_CHARS))]
    pub key: Text,
    /// Name; unique.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(min = 1, max = 64))]
    pub label: Option<Option<String>>,
    /// `off`, `minimal`, `low`, `medium`, `high` or `xhigh`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub thinking_level: Option<Option<Text>>,
    /// `on`, `full` or `off`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub verbose_level: Option<Option<Text>>,
    /// `on`, `off` or `stream`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub reasoning_level: Option<Option<Text>>,
    /// `off`, `tokens`, `full` or `on`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ResponseUsage>")]
    pub response_usage: Option<Option<ResponseUsage>>,
    /// `off`, `on`, `ask` or `full`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub elevated_level: Option<Option<Text>>,
    /// `sandbox`, `gateway` or `node`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub exec_host: Option<Option<Text>>,
    /// `deny`, `allowlist` or `full`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub exec_security: Option<Option<Text>>,
    /// `off`, `on-miss` or `always`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub exec_ask: Option<Option<Text>>,
    /// Id or name of a node.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub exec_node: Option<Option<Text>>,
    /// `provider/model`, or a model of the default provider.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub model: Option<Option<Text>>,
    /// The conversation that started it; set once.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text>")]
    pub spawned_by: Option<Option<Text>>,
    /// Whether it is answered at all.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<SendPolicy>")]
    pub send_policy: Option<Option<SendPolicy>>,
    /// When a group is answered.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<GroupActivation>")]
    pub group_activation: Option<Option<GroupActivation>>,
}

impl SessionsPatch {
    /// Returns a patch that changes nothing.
    #[must_use]
    pub fn of(key: Text) -> Self {
        Self {
            key,
            label: None,
            thinking_level: None,
            verbose_level: None,
            reasoning_level: None,
            response_usage: None,
            elevated_level: None,
            exec_host: None,
            exec_security: None,
            exec_ask: None,
            exec_node: None,
            model: None,
            spawned_by: None,
            send_policy: None,
            group_activation: None,
        }
    }
}

impl Request for SessionsPatch {
    const METHOD: &'static str = "sessions.patch";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = SessionPatched;
}

/// Whether answers end with their usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResponseUsage {
    /// No.
    Off,
    /// With the number of tokens.
    Tokens,
    /// With tokens and cost.
    Full,
    /// Another word for `tokens`.
    On,
}

/// Whether a conversation is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SendPolicy {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// When a group is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupActivation {
    /// When the assistant is mentioned.
    Mention,
    /// Always.
    Always,
}

/// A conversation after a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionPatched {
    /// Always true.
    pub ok: bool,
    /// Where it is stored.
    pub path: String,
    /// Its key.
    pub key: String,
    /// All that is remembered about it.
    pub entry: SessionEntry,
}

/// Starts a conversation anew under the same key.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionsReset {
    /// Its key.
    #[schemars(length(max = limits::SESSION_KEY_CHARS))]
    pub key: Text,
}

impl Request for SessionsReset {
    const METHOD: &'static str = "sessions.reset";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = SessionReset;
}

/// A conversation that starts anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionReset {
    /// Always true.
    pub ok: bool,
    /// Its key.
    pub key: String,
    /// What is remembered about it.
    pub entry: SessionEntry,
}

/// Ends a conversation: its run is aborted, its entry removed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionsDelete {
    /// Its key.
    pub key: Text,
    /// Whether the messages are moved to a file of their own; true when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_transcript: Option<bool>,
}

impl Request for SessionsDelete {
    const METHOD: &'static str = "sessions.delete";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = SessionDeleted;
}

/// What became of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionDeleted {
    /// Always true.
    pub ok: bool,
    /// Its key.
    pub key: String,
    /// Whether there was one.
    pub deleted: bool,
    /// Files that hold its messages now.
    pub archived: Vec<String>,
}

/// Tells `null` from an absent field.
fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_other_versions_survive() {
        let text = r#"{"sessionId":"a","updatedAt":5,"skillsSnapshot":{"x":[1]}}"#;
        let entry: SessionEntry = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
    }

    #[test]
    fn null_clears_and_absence_keeps() {
        let patch: SessionsPatch = serde_json::from_str(r#"{"key":"a","label":null}"#).unwrap();
        assert_eq!(patch.label, Some(None));
        assert_eq!(patch.model, None);
    }
}
