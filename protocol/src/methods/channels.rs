//! Messaging channels: their state and who may write to the assistant.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Access, Request, Scope, Text};

/// Returns the state of every channel and account.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChannelsStatus {
    /// Whether the services are asked if they know the accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<bool>,
    /// How long one such question may take: 10 s when absent, at least 1 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timeout_ms: Option<u64>,
}

impl Request for ChannelsStatus {
    const METHOD: &'static str = "channels.status";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = ChannelsStatusResult;
}

/// State of every channel. The maps have the channel's id as key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelsStatusResult {
    /// When it was taken, in milliseconds since the epoch.
    pub ts: i64,
    /// Ids in the order to show them.
    pub channel_order: Vec<String>,
    /// Short names.
    pub channel_labels: Map<String, Value>,
    /// Longer names.
    pub channel_detail_labels: Map<String, Value>,
    /// Names of symbols.
    pub channel_system_images: Map<String, Value>,
    /// The same by channel.
    pub channel_meta: Vec<ChannelMeta>,
    /// State of each channel's preferred account.
    pub channels: Map<String, Value>,
    /// State of each channel's accounts.
    pub channel_accounts: BTreeMap<String, Vec<Value>>,
    /// Account that is used when none is named.
    pub channel_default_account_id: BTreeMap<String, String>,
}

/// How a channel is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelMeta {
    /// Id of the channel.
    pub id: String,
    /// Short name.
    pub label: String,
    /// Longer name.
    pub detail_label: String,
    /// Name of a symbol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_image: Option<String>,
}

/// Lists the strangers who wait to be let in.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChannelsPairingList {
    /// Id of the channel; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

impl Request for ChannelsPairingList {
    const METHOD: &'static str = "channels.pairing.list";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = ChannelsPairingListResult;
}

/// The strangers who wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelsPairingListResult {
    /// Oldest first.
    pub requests: Vec<ChannelPairingRequest>,
}

/// A stranger who waits to be let in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelPairingRequest {
    /// Id of the channel.
    pub channel: String,
    /// Account of the channel.
    pub account: String,
    /// Id of the sender in the channel.
    pub id: String,
    /// What `channels.pairing.approve` takes.
    pub code: String,
    /// When the code was made, in milliseconds since the epoch.
    pub created_at: i64,
    /// When the sender last wrote.
    pub last_seen_at: i64,
    /// What is known of the sender, for example `name` and `username`.
    pub meta: Map<String, Value>,
}

/// Lets a stranger in.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChannelsPairingApprove {
    /// Id of the channel.
    pub channel: Text,
    /// The code that the stranger was told.
    pub code: Text,
    /// Whether the stranger is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<bool>,
}

impl Request for ChannelsPairingApprove {
    const METHOD: &'static str = "channels.pairing.approve";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = ChannelsPairingApproveResult;
}

/// Who was let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelsPairingApproveResult {
    /// Id of the channel.
    pub channel: String,
    /// Account of the channel.
    pub account: String,
    /// Id of the sender in the channel.
    pub id: String,
}
