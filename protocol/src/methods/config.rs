//! The configuration file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::gateway::{RestartPlan, Sentinel};
use crate::{Access, Request, Scope, Text};

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

/// Shows again that the caller knows the gateway's secret. Keys that decide who gets in, what is
/// run and where files and secrets go are changed from another host only with it, so that a stolen
/// session or page does not hand over the host.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reauthentication {
    /// The gateway's token or password, whichever `gateway.auth.mode` says.
    pub reauth: String,
}

impl std::fmt::Debug for Reauthentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reauthentication")
    }
}

/// Replaces the configuration file. A secret's placeholder stands for the
/// secret that is at its place; a value that a variable gave stays a reference
/// to the variable. What can be is put in force at once.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigSet {
    /// What the file is to say, in JSON5.
    pub raw: Text,
    /// The hash of the file it is based on; needed when there is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_hash: Option<String>,
    /// The gateway's secret; needed from another host for some keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Reauthentication>,
}

impl Request for ConfigSet {
    const METHOD: &'static str = "config.set";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = ConfigWritten;
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigWritten {
    /// Always true.
    pub ok: bool,
    /// The file.
    pub path: String,
    /// What it means, without secrets.
    pub config: Value,
}

/// The same as `config.set`, with a restart where a change needs one, and with
/// word to whoever asked.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigApply {
    /// What the file is to say, in JSON5.
    pub raw: Text,
    /// The hash of the file it is based on; needed when there is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_hash: Option<String>,
    /// The gateway's secret; needed from another host for some keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Reauthentication>,
    /// The conversation that asks; it is told when the change is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// What it is told, beside the fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How long to wait before a restart, in milliseconds; 2000 when absent, at
    /// most 60000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_delay_ms: Option<u64>,
}

impl Request for ConfigApply {
    const METHOD: &'static str = "config.apply";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = ConfigApplied;
}

/// Changes some keys of the configuration and keeps the rest of the file as it
/// is. Otherwise like `config.apply`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigPatch {
    /// A merge patch, in JSON5: objects go into objects, `null` takes a key
    /// away, everything else replaces.
    pub raw: Text,
    /// The hash of the file it is based on; needed when there is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_hash: Option<String>,
    /// The gateway's secret; needed from another host for some keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Reauthentication>,
    /// The conversation that asks; it is told when the change is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// What it is told, beside the fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How long to wait before a restart, in milliseconds; 2000 when absent, at
    /// most 60000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_delay_ms: Option<u64>,
}

impl Request for ConfigPatch {
    const METHOD: &'static str = "config.patch";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = ConfigApplied;
}

/// What was written, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigApplied {
    /// Always true.
    pub ok: bool,
    /// The file.
    pub path: String,
    /// What it means, without secrets.
    pub config: Value,
    /// The restart that puts it in force; `ok` is false where none is needed or
    /// none is possible, and `reason` says which.
    pub restart: RestartPlan,
    /// What whoever asked is told.
    pub sentinel: Sentinel,
}

/// Tells what a change of the configuration would do. Changes nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigPlan {
    /// What files would say, by their paths: the configuration file and those
    /// it includes; `null` for one that would go. Without any, what they say.
    #[serde(default)]
    pub files: BTreeMap<String, Option<String>>,
}

impl Request for ConfigPlan {
    const METHOD: &'static str = "config.plan";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = ConfigPlanned;
}

/// What a change of the configuration would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigPlanned {
    /// The configuration file.
    pub path: String,
    /// Whether it could be used.
    pub valid: bool,
    /// Why it could not.
    pub issues: Vec<ConfigIssue>,
    /// What is odd.
    pub warnings: Vec<ConfigIssue>,
    /// What would change, compared with what is in force.
    pub changes: Vec<ConfigChange>,
    /// Every restriction of tools and commands in it, with what it comes to.
    #[serde(default)]
    pub restrictions: Vec<ConfigIssue>,
}

/// A value that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigChange {
    /// The way to it.
    pub path: String,
    /// What that takes: `hot` (nothing), `channel` (a channel starts anew) or
    /// `restart` (the process starts anew).
    pub effect: String,
}
