//! Presence, system events and heartbeats.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Access, Request, Scope, Scopes};

/// One gateway, client or node that is or was recently there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresenceEntry {
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Address, absent for clients on the gateway's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Version of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Kind of device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Model of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_identifier: Option<String>,
    /// What it is used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Seconds since a person touched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_input_seconds: Option<u64>,
    /// Why the entry last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// When it last changed, in milliseconds since the epoch.
    pub ts: u64,
    /// Id of its device key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Roles it connected with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// Scopes it connected with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Scopes>,
    /// Identifies one running instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
}

/// Lists who is there. Parameters are ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SystemPresence {}

impl Request for SystemPresence {
    const METHOD: &'static str = "system-presence";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = Vec<PresenceEntry>;
}

/// Reports that something happened on a client's host; every operator sees the
/// presence list that follows from it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemEvent {
    /// What happened.
    #[serde(default)]
    pub text: Value,
    /// Id of the reporting device.
    #[serde(default)]
    pub device_id: Value,
    /// Identifies the reporting instance.
    #[serde(default)]
    pub instance_id: Value,
    /// Name of the reporting host.
    #[serde(default)]
    pub host: Value,
    /// Address of the reporting host.
    #[serde(default)]
    pub ip: Value,
    /// What the reporter is used for.
    #[serde(default)]
    pub mode: Value,
    /// Version of the reporter.
    #[serde(default)]
    pub version: Value,
    /// Operating system of the reporter.
    #[serde(default)]
    pub platform: Value,
    /// Kind of the reporting device.
    #[serde(default)]
    pub device_family: Value,
    /// Model of the reporting device.
    #[serde(default)]
    pub model_identifier: Value,
    /// Seconds since a person touched the reporter.
    #[serde(default)]
    pub last_input_seconds: Value,
    /// Why it reports.
    #[serde(default)]
    pub reason: Value,
    /// Roles of the reporter.
    #[serde(default)]
    pub roles: Value,
    /// Scopes of the reporter.
    #[serde(default)]
    pub scopes: Value,
    /// Free labels.
    #[serde(default)]
    pub tags: Value,
}

impl Request for SystemEvent {
    const METHOD: &'static str = "system-event";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    type Response = Done;
}

/// The answer of a method that has nothing else to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// Always true.
    pub ok: bool,
}

impl Done {
    /// The only value.
    pub const OK: Self = Self { ok: true };
}

/// Returns the last heartbeat, `null` before the first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct LastHeartbeat {}

impl Request for LastHeartbeat {
    const METHOD: &'static str = "last-heartbeat";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = Option<Value>;
}
