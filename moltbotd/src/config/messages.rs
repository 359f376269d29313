//! `messages`: how messages are queued and shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How messages are queued and shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Messages {
    /// Put before every answer.
    pub response_prefix: Option<String>,
}
