//! Node pairing and invokes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Delivery, Event, Scope, methods::node::NodePending};

/// Somebody asks for a node to be paired.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct NodePairRequested(pub NodePending);

impl Event for NodePairRequested {
    const EVENT: &'static str = "node.pair.requested";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    const DELIVERY: Delivery = Delivery::Skippable;
}

/// A request to pair a node was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePairResolved {
    /// Id of the request.
    pub request_id: String,
    /// Which node.
    pub node_id: String,
    /// `approved` or `rejected`.
    pub decision: String,
    /// When, in milliseconds since the epoch.
    pub ts: u64,
}

impl Event for NodePairResolved {
    const EVENT: &'static str = "node.pair.resolved";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    const DELIVERY: Delivery = Delivery::Skippable;
}

/// A node is to run a command. Sent to that node alone, without a sequence
/// number; it answers with `node.invoke.result`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInvokeRequest {
    /// Identifies the request.
    pub id: String,
    /// The node that is meant.
    pub node_id: String,
    /// Which command.
    pub command: String,
    /// Its parameters as JSON text, `null` when there are none.
    #[serde(rename = "paramsJSON")]
    pub params_json: Option<String>,
    /// How long the caller waits, in milliseconds, when it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Recognises a repetition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

impl Event for NodeInvokeRequest {
    const EVENT: &'static str = "node.invoke.request";
    const ACCESS: Access = Access::Node;
    const DELIVERY: Delivery = Delivery::Required;
}

/// A node is to end a command: nobody may have its result any more, because the device that asked
/// for it was sent away. Sent to that node alone, without a sequence number. Nodes of protocol 3
/// that do not know it go on; it is what protocol 4 has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInvokeCancel {
    /// The `id` of the request.
    pub invoke_id: String,
    /// The node that is meant.
    pub node_id: String,
}

impl Event for NodeInvokeCancel {
    const EVENT: &'static str = "node.invoke.cancel";
    const ACCESS: Access = Access::Node;
    const DELIVERY: Delivery = Delivery::Required;
}
