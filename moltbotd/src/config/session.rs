//! `session`: how conversations are kept apart and when they start anew.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How conversations are kept apart and when they start anew.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Session {
    /// `per-sender` or `global`.
    pub scope: Option<String>,
    /// Whether direct chats share a session.
    #[schemars(extend("x-guarded" = true))]
    pub dm_scope: DmScope,
    /// When a conversation starts anew.
    pub reset: Option<Reset>,
    /// The same for one kind of conversation; what it leaves out is as in
    /// `reset`.
    pub reset_by_type: Option<ResetByType>,
    /// The same by channel; goes before the other two, which it replaces whole.
    pub reset_by_channel: BTreeMap<String, Reset>,
    /// Minutes without a message: the older name of `reset.idleMinutes`. Where
    /// neither `reset` nor `resetByType` is set, there is no daily reset then.
    pub idle_minutes: Option<u64>,
    /// Messages that start a conversation anew: `/new` and `/reset` when empty.
    /// Text after one is the first message.
    pub reset_triggers: Vec<String>,
    /// Which conversations are answered.
    pub send_policy: Option<SendPolicy>,
}

/// Whether direct chats share a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DmScope {
    /// All share the main session.
    #[default]
    Main,
    /// One for each person.
    PerPeer,
    /// One for each person and channel.
    PerChannelPeer,
    /// One for each person, channel and account.
    PerAccountChannelPeer,
}

/// When a conversation starts anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Reset {
    /// `daily` when absent.
    pub mode: Option<ResetMode>,
    /// Hour of the local day: 4 when absent.
    #[schemars(range(max = 23))]
    pub at_hour: Option<u8>,
    /// Minutes without a message: 60 when absent and the mode is `idle`; with
    /// `daily`, whichever comes first.
    #[schemars(range(min = 1))]
    pub idle_minutes: Option<u64>,
}

/// What ends a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResetMode {
    /// An hour of the day.
    #[default]
    Daily,
    /// A time without messages.
    Idle,
}

/// When a conversation starts anew, by its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetByType {
    /// With one person.
    #[serde(alias = "direct")]
    pub dm: Option<Reset>,
    /// With several.
    pub group: Option<Reset>,
    /// In a thread or topic, whoever it is with.
    pub thread: Option<Reset>,
}

/// Which conversations are answered. What a conversation was told itself goes
/// before it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SendPolicy {
    /// What no rule fits: `allow` when absent.
    pub default: Option<SendAction>,
    /// Of those that fit, one that denies goes before those that allow.
    pub rules: Vec<SendRule>,
}

/// What is done for the conversations that a rule fits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendRule {
    /// What is done.
    pub action: SendAction,
    /// Which it fits: all when empty.
    #[serde(default, rename = "match")]
    pub fits: SendMatch,
}

/// Whether a conversation is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SendAction {
    /// It is.
    Allow,
    /// It is not.
    Deny,
}

/// Conversations; all that is said must be true of one.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SendMatch {
    /// Its channel.
    #[serde(alias = "provider")]
    pub channel: Option<String>,
    /// Its kind.
    pub chat_type: Option<ChatType>,
    /// How its key begins, with or without the agent before it.
    pub key_prefix: Option<String>,
    /// How its whole key begins.
    pub raw_key_prefix: Option<String>,
}

/// What kind of conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChatType {
    /// With one person.
    #[serde(alias = "dm")]
    Direct,
    /// With several.
    Group,
    /// Broadcast.
    Channel,
}

impl ChatType {
    /// Reads the word that conversations are stored with.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "direct" | "dm" => Some(Self::Direct),
            "group" => Some(Self::Group),
            "channel" => Some(Self::Channel),
            _ => None,
        }
    }
}
