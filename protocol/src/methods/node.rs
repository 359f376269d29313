//! Nodes: what they offer, calling them, pairing them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::system::Done;
use crate::{
    Access, Request, Scope, Text, Waits,
    limits::{CAPS, COMMANDS, NAME_CHARS, REQUEST_ID_CHARS, WORD_CHARS},
};

/// A device that lends its camera, screen or shell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Id of its device key, else the name of its program.
    pub node_id: String,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Version of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Version of its core, when it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_version: Option<String>,
    /// Version of its user interface, when it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ui_version: Option<String>,
    /// Kind of device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Model of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_identifier: Option<String>,
    /// Address, absent for nodes on the gateway's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    /// What it can do, sorted.
    pub caps: Vec<String>,
    /// Commands it offers and policy lets through, sorted.
    pub commands: Vec<String>,
    /// Of the commands that need an approval of their own, those it was
    /// approved for: names and families such as `browser.*`. Absent when there
    /// is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// Those of `commands` that it was not approved for, so that asking for
    /// them is refused. Absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Vec<String>>,
    /// Its search path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_env: Option<String>,
    /// What its operating system lets it do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<BTreeMap<String, bool>>,
    /// When it connected, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_at_ms: Option<u64>,
    /// Whether its device is paired for the role `node`.
    pub paired: bool,
    /// Whether it is there now.
    pub connected: bool,
}

/// Lists the nodes that are connected or paired.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeList {}

impl Request for NodeList {
    const METHOD: &'static str = "node.list";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = NodeListing;
}

/// The nodes that are connected or paired.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NodeListing {
    /// The daemon's clock, in milliseconds since the epoch.
    pub ts: u64,
    /// Connected ones first, then by name.
    pub nodes: Vec<Node>,
}

/// Describes one node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeDescribe {
    /// Which one.
    pub node_id: Text,
}

impl Request for NodeDescribe {
    const METHOD: &'static str = "node.describe";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = NodeDescription;
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NodeDescription {
    /// The daemon's clock, in milliseconds since the epoch.
    pub ts: u64,
    /// The node.
    #[serde(flatten)]
    pub node: Node,
}

/// Runs a command on a node and waits for its answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeInvoke {
    /// Which node.
    pub node_id: Text,
    /// Which command, for example `system.run`.
    #[schemars(length(max = WORD_CHARS))]
    pub command: Text,
    /// Its parameters. Fields that stand for an approval are dropped: only the
    /// gateway attaches those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
    /// How long to wait, in milliseconds; 30,000 when absent, and 0 does not
    /// wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timeout_ms: Option<u64>,
    /// Handed to the node, which may use it to recognise a repetition.
    #[schemars(length(max = REQUEST_ID_CHARS))]
    pub idempotency_key: Text,
}

impl Request for NodeInvoke {
    const METHOD: &'static str = "node.invoke";
    const ACCESS: Access = Access::Operator(Scope::Write);
    const WAITS: Waits = Waits::ForOthers;
    type Response = NodeInvoked;
}

/// What a node answered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInvoked {
    /// Always true.
    pub ok: bool,
    /// Which node.
    pub node_id: String,
    /// Which command.
    pub command: String,
    /// The result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// The result as the node wrote it, `null` when it sent no text.
    #[serde(rename = "payloadJSON")]
    pub payload_json: Option<String>,
}

/// Gives a node a name for people.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeRename {
    /// Which node.
    #[schemars(length(max = WORD_CHARS))]
    pub node_id: Text,
    /// Its name.
    #[schemars(length(max = NAME_CHARS))]
    pub display_name: Text,
}

impl Request for NodeRename {
    const METHOD: &'static str = "node.rename";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = NodeRenamed;
}

/// A node's name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRenamed {
    /// Which node.
    pub node_id: String,
    /// Its name.
    pub display_name: String,
}

/// A node's answer to `node.invoke.request`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeInvokeResult {
    /// Id of the request.
    pub id: Text,
    /// The answering node.
    pub node_id: Text,
    /// Whether the command succeeded.
    pub ok: bool,
    /// The result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// The result as JSON text; `null` counts as absent.
    #[serde(default, rename = "payloadJSON", skip_serializing_if = "Option::is_none")]
    pub payload_json: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<NodeError>,
}

impl Request for NodeInvokeResult {
    const METHOD: &'static str = "node.invoke.result";
    const ACCESS: Access = Access::Node;
    type Response = NodeInvokeNoted;
}

/// Why a node could not run a command. Codes are the node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeError {
    /// For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What became of a node's answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NodeInvokeNoted {
    /// Always true.
    pub ok: bool,
    /// Set when nobody waits for this answer any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<bool>,
}

/// Reports something that happened on a node. Unknown kinds are ignored.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeEvent {
    /// What kind: `voice.transcript`, `agent.request`, `chat.subscribe`,
    /// `chat.unsubscribe`, `exec.started`, `exec.finished`, `exec.denied`.
    pub event: Text,
    /// What happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// The same as JSON text; `null` counts as absent.
    #[serde(default, rename = "payloadJSON", skip_serializing_if = "Option::is_none")]
    pub payload_json: Option<String>,
}

impl Request for NodeEvent {
    const METHOD: &'static str = "node.event";
    const ACCESS: Access = Access::Node;
    type Response = Done;
}

/// What is known of a node that asks to be paired, or is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Version of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Version of its core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_version: Option<String>,
    /// Version of its user interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ui_version: Option<String>,
    /// Kind of device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_family: Option<String>,
    /// Model of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_identifier: Option<String>,
    /// What it can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caps: Option<Vec<String>>,
    /// Commands it offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<Vec<String>>,
    /// What its operating system lets it do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<BTreeMap<String, bool>>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
}

/// A request to pair a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePending {
    /// Id of the request.
    pub request_id: String,
    /// Which node.
    pub node_id: String,
    /// What is known of it.
    #[serde(flatten)]
    pub facts: NodeFacts,
    /// Whether nobody should be alerted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<bool>,
    /// Whether the node was paired before.
    #[serde(default)]
    pub is_repair: bool,
    /// When it asked, in milliseconds since the epoch.
    pub ts: u64,
}

/// A paired node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePaired {
    /// Which node.
    pub node_id: String,
    /// Its secret, 32 hex digits.
    pub token: String,
    /// What is known of it.
    #[serde(flatten)]
    pub facts: NodeFacts,
    /// Programs found on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bins: Option<Vec<String>>,
    /// When it was paired first, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// When it was approved last, in milliseconds since the epoch.
    pub approved_at_ms: u64,
    /// When it connected last, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_connected_at_ms: Option<u64>,
}

/// Asks for a node to be paired, in the older way. Devices with a key are
/// paired by connecting.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePairRequest {
    /// Which node.
    #[schemars(length(max = WORD_CHARS))]
    pub node_id: Text,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = NAME_CHARS))]
    pub display_name: Option<Text>,
    /// Its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub platform: Option<Text>,
    /// Version of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub version: Option<Text>,
    /// Version of its core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub core_version: Option<Text>,
    /// Version of its user interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub ui_version: Option<Text>,
    /// Kind of device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub device_family: Option<Text>,
    /// Model of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub model_identifier: Option<Text>,
    /// What it can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = CAPS), inner(length(max = WORD_CHARS)))]
    pub caps: Option<Vec<Text>>,
    /// Commands it offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = COMMANDS), inner(length(max = WORD_CHARS)))]
    pub commands: Option<Vec<Text>>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub remote_ip: Option<Text>,
    /// Whether nobody should be alerted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<bool>,
}

impl Request for NodePairRequest {
    const METHOD: &'static str = "node.pair.request";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = NodePairAsked;
}

/// A request to pair a node, new or found.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NodePairAsked {
    /// Always `pending`.
    pub status: String,
    /// The request.
    pub request: NodePending,
    /// Whether it is new.
    pub created: bool,
}

/// Lists requests to pair a node, and the paired ones.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodePairList {}

impl Request for NodePairList {
    const METHOD: &'static str = "node.pair.list";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = NodePairListing;
}

/// Requests to pair a node, and the paired ones.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NodePairListing {
    /// Newest first.
    pub pending: Vec<NodePending>,
    /// Newest first.
    pub paired: Vec<NodePaired>,
}

/// Pairs a node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePairApprove {
    /// Id of the request.
    pub request_id: Text,
}

impl Request for NodePairApprove {
    const METHOD: &'static str = "node.pair.approve";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = NodePairApproved;
}

/// A node that was paired.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePairApproved {
    /// Id of the request.
    pub request_id: String,
    /// The node.
    pub node: NodePaired,
}

/// Refuses to pair a node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePairReject {
    /// Id of the request.
    pub request_id: Text,
}

impl Request for NodePairReject {
    const METHOD: &'static str = "node.pair.reject";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = NodePairRejected;
}

/// A request that was refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePairRejected {
    /// Id of the request.
    pub request_id: String,
    /// Which node.
    pub node_id: String,
}

/// Checks the secret of a paired node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePairVerify {
    /// Which node.
    pub node_id: Text,
    /// Its secret.
    pub token: Text,
}

impl Request for NodePairVerify {
    const METHOD: &'static str = "node.pair.verify";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    type Response = NodePairVerified;
}

/// Whether a secret is that of a node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NodePairVerified {
    /// Whether it is.
    pub ok: bool,
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodePaired>,
}
