//! `session`: how conversations are kept apart and when they start anew.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How conversations are kept apart and when they start anew.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Session {
    /// `per-sender` or `global`.
    pub scope: Option<String>,
    /// Whether direct chats share a session.
    pub dm_scope: DmScope,
    /// When a conversation starts anew.
    pub reset: Option<ResetMode>,
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
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetMode {
    /// `daily` or `idle`.
    pub mode: String,
    /// Hour of the local day.
    pub at_hour: u8,
    /// Minutes without a message.
    pub idle_minutes: Option<u64>,
}

impl Default for ResetMode {
    fn default() -> Self {
        Self { mode: "daily".into(), at_hour: 4, idle_minutes: None }
    }
}
