//! `messages`: how messages are queued and shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How messages are queued and shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Messages {
    /// Put before every answer.
    pub response_prefix: Option<String>,
    /// Conversations with several people.
    pub group_chat: GroupChat,
}

/// Conversations with several people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupChat {
    /// Expressions that count as a mention of the assistant; case does not
    /// matter. When absent, the agent's name does.
    pub mention_patterns: Option<Vec<String>>,
    /// How many unanswered messages are kept as context: 50 when absent.
    pub history_limit: Option<usize>,
}
