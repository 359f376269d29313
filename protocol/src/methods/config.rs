//! The configuration file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Access, Request, Scope};

/// Returns the configuration file and what it means. Secrets are replaced by
/// `__REDACTED__`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigGet {}

impl Request for ConfigGet {
    const METHOD: &'static str = "config.get";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = ConfigSnapshot;
}

/// The configuration file and what it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSnapshot {
    /// The file.
    pub path: String,
    /// Whether it exists.
    pub exists: bool,
    /// Its text; `null` when there is none or it cannot be shown.
    pub raw: Option<String>,
    /// The text's value, an empty object without one.
    pub parsed: Value,
    /// Whether it can be used.
    pub valid: bool,
    /// The value with what it includes, variables looked up, and defaults that
    /// clients rely on; an empty object when it is invalid.
    pub config: Value,
    /// SHA-256 of the text, in hex.
    pub hash: String,
    /// Why it cannot be used.
    pub issues: Vec<ConfigIssue>,
    /// What is odd.
    pub warnings: Vec<ConfigIssue>,
    /// Which keys have moved.
    pub legacy_issues: Vec<ConfigIssue>,
}

/// Something wrong or odd about the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigIssue {
    /// The way to the value, such as `gateway.port`; empty for the whole file.
    pub path: String,
    /// What is wrong with it, and where.
    pub message: String,
}

/// Describes every key of the configuration file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigSchema {}

impl Request for ConfigSchema {
    const METHOD: &'static str = "config.schema";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = ConfigDescription;
}

/// A description of the configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigDescription {
    /// JSON Schema.
    pub schema: Value,
    /// What a form shows for each key, by its dotted name; `*` stands for any
    /// item. Fields: `label`, `help`, `group`, `order`, `sensitive`.
    pub ui_hints: Map<String, Value>,
    /// Version of the daemon.
    pub version: String,
    /// When the description was made, as ISO 8601.
    pub generated_at: String,
}
