//! The daemon's log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Request, Scope};

/// Returns the end of the log, or what was written since an earlier call.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogsTail {
    /// The `cursor` of an earlier answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<u64>,
    /// Most lines; 500 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5000))]
    pub limit: Option<u64>,
    /// Most bytes that are read; 250,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_bytes: Option<u64>,
}

impl Request for LogsTail {
    const METHOD: &'static str = "logs.tail";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = LogsTailed;
}

/// A part of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogsTailed {
    /// The file.
    pub file: String,
    /// Where the next call goes on.
    pub cursor: u64,
    /// Size of the file in bytes.
    pub size: u64,
    /// The lines, each a JSON object.
    pub lines: Vec<String>,
    /// Whether earlier lines were left out.
    pub truncated: bool,
    /// Whether the given cursor was of no use: the file had been set aside, or
    /// too much was written since.
    pub reset: bool,
}
