//! Paired devices and their tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Request, Scope, Scopes, Text};

/// A device that asked to be let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingDevice {
    /// Names the request.
    pub request_id: String,
    /// Hex SHA-256 of its public key.
    pub device_id: String,
    /// Its public key as base64url.
    pub public_key: String,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Which program it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// What the program is used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_mode: Option<String>,
    /// The role it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The same as a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// The scopes it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Scopes>,
    /// Where it comes from; absent on the gateway's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    /// Whether it was let in without asking anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<bool>,
    /// Whether the device was known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_repair: Option<bool>,
    /// Whether it is on the gateway's host for sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<bool>,
    /// Commands it offers, when it asks to be a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<Vec<String>>,
    /// When it asked, in milliseconds since the epoch.
    pub ts: u64,
}

/// A device that was let in. Its tokens are described, never shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PairedDevice {
    /// Hex SHA-256 of its public key.
    pub device_id: String,
    /// Its public key as base64url.
    pub public_key: String,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Which program it ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// What the program is used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_mode: Option<String>,
    /// The role it used last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Every role it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// Every scope it may use; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Scopes>,
    /// Where it last came from; absent on the gateway's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    /// When it was first let in, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// When it was last approved, in milliseconds since the epoch.
    pub approved_at_ms: u64,
    /// Its tokens, one for each role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<TokenSummary>>,
    /// Of the commands that need an approval of their own, those it may be
    /// asked to run as a node: names such as `system.run`, families such as
    /// `browser.*`. Absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// Who let it in: `owner` for a person's approval or the control socket, `silent` for the
    /// shared secret on the gateway's own host. Absent when that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_via: Option<String>,
}

/// What may be shown of a device token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenSummary {
    /// The role it is good for.
    pub role: String,
    /// The scopes it is good for.
    pub scopes: Scopes,
    /// When the first one was made.
    pub created_at_ms: u64,
    /// When it was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at_ms: Option<u64>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<u64>,
    /// When it was last used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at_ms: Option<u64>,
}

/// Lists the devices that ask to be let in and those that were.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePairList {}

/// The devices.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DeviceList {
    /// Newest first.
    pub pending: Vec<PendingDevice>,
    /// Newest approval first.
    pub paired: Vec<PairedDevice>,
}

impl Request for DevicePairList {
    const METHOD: &'static str = "device.pair.list";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = DeviceList;
}

/// Lets a device in, with the role and scopes it asked for. The caller must
/// hold what it grants.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DevicePairApprove {
    /// Names the request.
    pub request_id: Text,
    /// What a node may be asked to run of the commands that need an approval of
    /// their own: `system.run`, `browser.proxy`, or a family such as
    /// `browser.*`. When absent, everything for a node on the gateway's host
    /// and nothing for one elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Text>>,
}

/// A device that was let in.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovedDevice {
    /// Names the request.
    pub request_id: String,
    /// The device.
    pub device: PairedDevice,
    /// Commands it offers that it was not approved for; absent when there is
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Vec<String>>,
}

impl Request for DevicePairApprove {
    const METHOD: &'static str = "device.pair.approve";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = ApprovedDevice;
}

/// Says anew what a paired node may be asked to run of the commands that need
/// an approval of their own. It counts from the next command on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DevicePairAllow {
    /// The device.
    pub device_id: Text,
    /// Replaces what was allowed: `system.run`, `browser.proxy`, or a family
    /// such as `browser.*`.
    pub allow: Vec<Text>,
}

/// What a node may be asked to run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedDevice {
    /// The device.
    pub device_id: String,
    /// All of it, sorted.
    pub allow: Vec<String>,
}

impl Request for DevicePairAllow {
    const METHOD: &'static str = "device.pair.allow";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = AllowedDevice;
}

/// Refuses a device.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DevicePairReject {
    /// Names the request.
    pub request_id: Text,
}

/// A device that was refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RejectedDevice {
    /// Names the request.
    pub request_id: String,
    /// The device.
    pub device_id: String,
}

impl Request for DevicePairReject {
    const METHOD: &'static str = "device.pair.reject";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = RejectedDevice;
}

/// Forgets a paired device and its tokens, and ends its connections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DevicePairRemove {
    /// The device.
    pub device_id: Text,
}

/// A device that was forgotten.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemovedDevice {
    /// The device.
    pub device_id: String,
    /// Always true.
    pub removed: bool,
}

impl Request for DevicePairRemove {
    const METHOD: &'static str = "device.pair.remove";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = RemovedDevice;
}

/// Replaces a device's token and ends the connections made with the old one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceTokenRotate {
    /// The device.
    pub device_id: Text,
    /// The role the token is for.
    pub role: Text,
    /// Scopes of the new token; those of the old one when absent. The caller
    /// must hold them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<Text>>,
}

/// A new device token.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotatedToken {
    /// The device.
    pub device_id: String,
    /// The role.
    pub role: String,
    /// The token, 32 hex digits.
    pub token: String,
    /// The scopes it is good for.
    pub scopes: Scopes,
    /// When it was made.
    pub rotated_at_ms: u64,
}

impl Request for DeviceTokenRotate {
    const METHOD: &'static str = "device.token.rotate";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = RotatedToken;
}

/// Revokes a device's token and ends its connections; the device needs a new
/// approval.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceTokenRevoke {
    /// The device.
    pub device_id: Text,
    /// The role the token is for.
    pub role: Text,
}

/// A revoked device token.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevokedToken {
    /// The device.
    pub device_id: String,
    /// The role.
    pub role: String,
    /// When it was revoked.
    pub revoked_at_ms: u64,
}

impl Request for DeviceTokenRevoke {
    const METHOD: &'static str = "device.token.revoke";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = RevokedToken;
}
