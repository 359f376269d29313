//! The tool `nodes`: list them, describe one, run a command on one.

use std::pin::Pin;

use serde_json::Value;

use super::ToolError;

/// What the tool needs of the node registry. The registry decides whether a
/// command is allowed; the tool cannot get around it.
pub trait NodeCalls: Send + Sync + 'static {
    /// Returns the nodes as `node.list` shows them.
    fn list(&self) -> Answering;

    /// Returns one node as `node.describe` shows it. `node` is an id, a unique
    /// prefix of one, a name or an address.
    fn describe(&self, node: String) -> Answering;

    /// Runs a command on a node and returns its payload.
    fn invoke(&self, node: String, command: String, params: Value, timeout_ms: u64) -> Answering;
}

/// A question to the registry.
pub type Answering = Pin<Box<dyn Future<Output = Result<Value, ToolError>> + Send>>;
