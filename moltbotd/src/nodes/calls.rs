//! The nodes as a model may use them: listed, described, invoked within
//! policy. Pairing and naming are not here.

use std::sync::Arc;

use moltbot_protocol::methods::node::Node;
use serde_json::{Value, json};

use super::{Answer, Invoke, InvokeError, Nodes};
use crate::{
    store::StoreError,
    tools::{
        ToolError,
        nodes::{Answering, NodeCalls},
    },
};

/// Shortest part of an id that names a node.
const PREFIX_CHARS: usize = 6;

/// What the agent may do with nodes.
#[derive(Clone, Debug)]
pub struct AgentCalls(Arc<Nodes>);

impl AgentCalls {
    /// Returns the agent's view of the nodes.
    #[must_use]
    pub fn new(nodes: Arc<Nodes>) -> Self {
        Self(nodes)
    }
}

impl NodeCalls for AgentCalls {
    fn list(&self) -> Answering {
        let nodes = Arc::clone(&self.0);
        Box::pin(async move { Ok(json!({ "nodes": nodes.list().await.map_err(stored)? })) })
    }

    fn describe(&self, node: String) -> Answering {
        let nodes = Arc::clone(&self.0);
        Box::pin(async move { Ok(json!(resolve(&nodes, &node).await?)) })
    }

    fn invoke(&self, node: String, command: String, params: Value, timeout_ms: u64) -> Answering {
        let nodes = Arc::clone(&self.0);
        Box::pin(async move {
            let found = resolve(&nodes, &node).await?;
            let invoke = Invoke {
                node_id: found.node_id.clone(),
                command,
                params: (!params.is_null()).then_some(params),
                timeout_ms: Some(timeout_ms),
                idempotency_key: Some(uuid::Uuid::new_v4().to_string()),
                asked_by: None,
            };
            match nodes.invoke(invoke).await {
                Ok(Answer { payload, .. }) => Ok(payload.unwrap_or(Value::Null)),
                Err(error) => Err(ToolError(explain(&found, &error))),
            }
        })
    }
}

/// Finds the node that is meant. An empty text means the only one connected.
async fn resolve(nodes: &Nodes, wanted: &str) -> Result<Node, ToolError> {
    let known = nodes.list().await.map_err(stored)?;
    let wanted = wanted.trim();
    let matching: Vec<&Node> = known.iter().filter(|node| matches(node, wanted)).collect();
    let exact = matching.iter().find(|node| node.node_id == wanted);
    // A machine that was paired again has an older entry of the same name.
    let connected: Vec<&&Node> = matching.iter().filter(|node| node.connected).collect();
    match (exact, connected.as_slice(), matching.as_slice()) {
        (Some(node), _, _) => Ok((**node).clone()),
        (None, [node], _) => Ok((***node).clone()),
        (None, [], [node]) if !wanted.is_empty() => Ok((*node).clone()),
        (None, [], []) => Err(unknown(wanted, &known)),
        (None, [], _) if wanted.is_empty() => Err(ToolError("no node is connected".into())),
        _ => Err(ToolError(format!("more than one node matches: {}", labels(&matching)))),
    }
}

fn matches(node: &Node, wanted: &str) -> bool {
    let named = |name: &str| simplified(name) == simplified(wanted);
    wanted.is_empty()
        || node.node_id == wanted
        || node.remote_ip.as_deref() == Some(wanted)
        || node.display_name.as_deref().is_some_and(named)
        || (wanted.len() >= PREFIX_CHARS && node.node_id.starts_with(wanted))
}

/// Lets "Living Room" be written `living-room`.
fn simplified(name: &str) -> String {
    let parts = name.to_lowercase();
    let parts = parts.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

fn unknown(wanted: &str, known: &[Node]) -> ToolError {
    if known.is_empty() {
        return ToolError("there are no nodes: pair one first".into());
    }
    let known: Vec<&Node> = known.iter().collect();
    ToolError(format!("unknown node: {wanted}; known ones: {}", labels(&known)))
}

fn labels(nodes: &[&Node]) -> String {
    let label = |node: &&Node| match &node.display_name {
        Some(name) => format!("{name} ({})", node.node_id),
        None => node.node_id.clone(),
    };
    nodes.iter().map(label).collect::<Vec<_>>().join(", ")
}

fn explain(node: &Node, error: &InvokeError) -> String {
    match error {
        InvokeError::Denied { reason, command } => {
            format!("{error}: {command}: {reason}; it offers: {}", node.commands.join(", "))
        }
        InvokeError::Failed(Some(cause)) => match &cause.code {
            Some(code) => format!("{code}: {error}"),
            None => error.to_string(),
        },
        _ => error.to_string(),
    }
}

fn stored(error: StoreError) -> ToolError {
    tracing::error!(%error, "cannot read nodes");
    ToolError("temporarily unavailable".into())
}
