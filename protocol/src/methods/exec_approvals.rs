//! Exec approvals: what may run on a node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Access, Request, Scope, Text, Waits};

/// Returns the rules of a node: its exec approvals file, `{path, exists, hash, file}`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecApprovalsNodeGet {
    /// Which node.
    pub node_id: Text,
}

impl Request for ExecApprovalsNodeGet {
    const METHOD: &'static str = "exec.approvals.node.get";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    const WAITS: Waits = Waits::ForOthers;
    type Response = Value;
}

/// Replaces the rules of a node and returns them as the method that reads them does. The node must
/// have been started with a switch that lets the gateway do that.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecApprovalsNodeSet {
    /// Which node.
    pub node_id: Text,
    /// The content of the file.
    pub file: Map<String, Value>,
    /// The hash of the rules that it replaces, as they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_hash: Option<Text>,
}

impl Request for ExecApprovalsNodeSet {
    const METHOD: &'static str = "exec.approvals.node.set";
    const ACCESS: Access = Access::Operator(Scope::Admin);
    const WAITS: Waits = Waits::ForOthers;
    type Response = Value;
}
