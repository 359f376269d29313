//! The content of the exec approvals file.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What may run; the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// Nothing.
    Deny,
    /// What is on the allowlist or approved.
    Allowlist,
    /// Everything.
    Full,
}

/// When a person must agree; the least often first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Never; what is not allowed fails.
    Off,
    /// For what is not on the allowlist.
    OnMiss,
    /// Always.
    Always,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub(super) version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) socket: Option<Socket>,
    #[serde(default)]
    pub(super) defaults: Rules,
    #[serde(default)]
    pub(super) agents: BTreeMap<String, Rules>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Socket {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rules {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) security: Option<Security>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ask: Option<Ask>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ask_fallback: Option<Security>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) auto_allow_skills: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) allowlist: Vec<Entry>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    pub(super) pattern: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_used_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_used_command: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_resolved_path: Option<String>,
}
