//! `messages`: how messages are queued and shown.

use regex::Regex;
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
    /// matter.
    pub mention_patterns: Vec<String>,
    /// How many unanswered messages are kept as context: 50 when absent.
    pub history_limit: Option<usize>,
}

impl GroupChat {
    /// Returns one of the [mention patterns](Self::mention_patterns) as messages
    /// are searched with it: without regard to case.
    ///
    /// # Errors
    ///
    /// When it is no regular expression.
    pub fn mention(pattern: &str) -> Result<Regex, regex::Error> {
        Regex::new(&format!("(?i){pattern}"))
    }
}
