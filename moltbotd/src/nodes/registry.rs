//! The connected nodes and the calls that wait for their answers.
//!
//! Plain data: it sends nothing and waits for nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use moltbot_protocol::{
    limits,
    methods::node::{NodeError, NodeInvokeResult},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::policy::Platform;
use crate::{auth::Caller, bus::Outbox, rpc};

/// Calls that may wait for one node; further ones are refused.
pub(super) const MAX_WAITING: usize = 256;

/// A connected node.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    pub(super) caller: Arc<Caller>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) platform: Platform,
    pub(super) caps: Vec<String>,
    pub(super) commands: Vec<String>,
    pub(super) permissions: Option<BTreeMap<String, bool>>,
    pub(super) path_env: Option<String>,
    pub(super) connected_at_ms: u64,
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The node answered.
    Answered(Answer),
    /// The node refused or failed.
    Failed(Option<NodeError>),
    /// The node left.
    Disconnected,
    /// Who asked was sent away.
    Cancelled,
}

/// What a node answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The result.
    pub payload: Option<Value>,
    /// The result as the node wrote it, when it sent text.
    pub payload_json: Option<String>,
}

#[derive(Debug)]
struct Waiting {
    node_id: String,
    conn_id: String,
    outbox: Arc<Outbox>,
    /// The client that asked; `None` for the gateway's own agent.
    asked_by: Option<Arc<Caller>>,
    reply: oneshot::Sender<Outcome>,
}

/// A call that nobody waits for any more, and the way to the node that runs it.
#[derive(Debug)]
pub(super) struct CancelledCall {
    pub(super) id: String,
    pub(super) node_id: String,
    pub(super) outbox: Arc<Outbox>,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    /// By node id, in the order they connected: the last one is asked. A node
    /// may connect again before its old socket is seen closed.
    nodes: BTreeMap<String, Vec<Connected>>,
    /// By id of the invoke.
    waiting: HashMap<String, Waiting>,
}

impl Registry {
    pub(super) fn add(&mut self, node: Connected) {
        self.nodes.entry(node.caller.node_id().to_owned()).or_default().push(node);
    }

    /// Forgets a connection and fails the calls sent over it.
    pub(super) fn remove(&mut self, conn_id: &str) {
        self.retain(|node| node.caller.conn_id != conn_id);
        self.fail(|waiting| waiting.conn_id == conn_id);
    }

    /// Forgets a node and fails the calls sent to it.
    pub(super) fn remove_node(&mut self, node_id: &str) {
        self.nodes.remove(node_id);
        self.fail(|waiting| waiting.node_id == node_id);
    }

    pub(super) fn find(&self, node_id: &str) -> Option<&Connected> {
        self.nodes.get(node_id)?.last()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Connected> {
        self.nodes.values().filter_map(|connections| connections.last())
    }

    /// Notes that an answer is awaited; `None` when too many are.
    pub(super) fn wait(
        &mut self,
        id: &str,
        node: &Connected,
        asked_by: Option<Arc<Caller>>,
    ) -> Option<oneshot::Receiver<Outcome>> {
        let node_id = node.caller.node_id();
        if self.waiting.values().filter(|waiting| waiting.node_id == node_id).count() >= MAX_WAITING
        {
            return None;
        }
        let (reply, outcome) = oneshot::channel();
        let waiting = Waiting {
            node_id: node_id.to_owned(),
            conn_id: node.caller.conn_id.clone(),
            outbox: Arc::clone(&node.outbox),
            asked_by,
            reply,
        };
        self.waiting.insert(id.to_owned(), waiting);
        Some(outcome)
    }

    /// Fails the calls that some clients asked for, and returns them.
    pub(super) fn cancel_calls_of(
        &mut self,
        which: impl Fn(&Caller) -> bool,
    ) -> Vec<CancelledCall> {
        let is_hit = |waiting: &Waiting| waiting.asked_by.as_deref().is_some_and(&which);
        let hit = self.waiting.extract_if(|_, waiting| is_hit(waiting));
        hit.map(|(id, waiting)| {
            // The caller may have stopped waiting.
            let _ = waiting.reply.send(Outcome::Cancelled);
            CancelledCall { id, node_id: waiting.node_id, outbox: waiting.outbox }
        })
        .collect()
    }

    /// Nobody waits for this answer any more.
    pub(super) fn forget(&mut self, id: &str) {
        self.waiting.remove(id);
    }

    /// Hands an answer to whoever waits; returns whether somebody did.
    pub(super) fn settle(&mut self, node_id: &str, result: NodeInvokeResult) -> bool {
        let id = result.id.as_str();
        if self.waiting.get(id).is_none_or(|waiting| waiting.node_id != node_id) {
            return false;
        }
        let Some(waiting) = self.waiting.remove(id) else { return false };
        waiting.reply.send(outcome(result)).is_ok()
    }

    #[cfg(test)]
    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    fn retain(&mut self, keep: impl Fn(&Connected) -> bool) {
        self.nodes.retain(|_, connections| {
            connections.retain(&keep);
            !connections.is_empty()
        });
    }

    fn fail(&mut self, which: impl Fn(&Waiting) -> bool) {
        for (_, waiting) in self.waiting.extract_if(|_, waiting| which(waiting)) {
            // The caller may have stopped waiting.
            let _ = waiting.reply.send(Outcome::Disconnected);
        }
    }
}

fn outcome(result: NodeInvokeResult) -> Outcome {
    if !result.ok {
        return Outcome::Failed(result.error);
    }
    Outcome::Answered(match result.payload_json.filter(|text| !text.is_empty()) {
        Some(text) => {
            let payload = parsed(&text).unwrap_or_else(|| json!({ "payloadJSON": text }));
            Answer { payload: Some(payload), payload_json: Some(text) }
        }
        None => Answer { payload: result.payload, payload_json: None },
    })
}

/// Reads a result that came as text, unless it would become too much.
fn parsed(text: &str) -> Option<Value> {
    rpc::measure(text, limits::JSON_OF_A_RESULT).ok()?;
    serde_json::from_str(text).ok()
}
