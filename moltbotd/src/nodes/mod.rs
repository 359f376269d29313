//! Connected nodes and the calls made to them.
//!
//! A node is registered by its connection, so that the late end of an old
//! socket never takes a new one off the list. A call waits for one thing at
//! most: its deadline, which it takes along to the node.

mod calls;
mod listing;
mod pairing;
mod policy;
mod registry;
pub mod wake_words;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use moltbot_protocol::{
    Event, Scope, Text,
    events::{
        node::{NodeInvokeCancel, NodeInvokeRequest},
        voicewake::VoicewakeChanged,
    },
    handshake::ConnectParams,
    methods::node::{NodeError, NodeInvokeNoted, NodeInvokeResult},
};
use serde_json::Value;
use tokio::time::timeout;

pub use self::{
    calls::AgentCalls,
    policy::{Denial, grants, withheld},
    registry::Answer,
};
use self::{
    policy::Platform,
    registry::{Connected, Outcome, Registry},
};
use crate::{
    auth::{Caller, pairing::OWN_HOST},
    bus::{self, Bus, Outbox, Push},
    clock, config,
    metrics::{Count, Durations},
    rpc,
    store::{Store, StoreError},
    tools::nodes::is_reserved,
};

/// How long a call waits when its caller does not say.
pub const DEFAULT_TIMEOUT_MS: u64 = 30_000;

/// Fields of `system.run` that stand for a person's approval. Only the gateway
/// may attach them, so what a client sends of them is dropped.
const APPROVAL_FIELDS: [&str; 5] =
    ["approved", "approvalDecision", "approvalId", "decision", "runId"];

/// The nodes and what operators know of them.
#[derive(Debug)]
pub struct Nodes {
    config: Arc<config::Live>,
    store: Store,
    bus: Arc<Bus>,
    registry: Mutex<Registry>,
    invokes: Invokes,
}

/// Figures about the calls made to nodes, by how they came out.
#[derive(Debug)]
pub struct Invokes {
    /// The node answered that it worked.
    pub ok: Count,
    /// The node answered that it failed.
    pub failed: Count,
    /// The node did not answer in time.
    pub timed_out: Count,
    /// The node was not there, or left before it answered.
    pub unreachable: Count,
    /// Policy forbade it.
    pub denied: Count,
    /// Too many calls waited for the node.
    pub busy: Count,
    /// How long those took that were sent.
    pub took: Durations,
}

impl Invokes {
    fn of(&self, result: &Result<Answer, InvokeError>) -> &Count {
        match result {
            Ok(_) => &self.ok,
            Err(InvokeError::Failed(_)) => &self.failed,
            Err(InvokeError::TimedOut) => &self.timed_out,
            Err(
                InvokeError::Denied { .. }
                | InvokeError::NotGranted { .. }
                | InvokeError::Reserved { .. },
            ) => &self.denied,
            Err(InvokeError::Busy) => &self.busy,
            Err(
                InvokeError::NotConnected
                | InvokeError::NotSent
                | InvokeError::Disconnected(_)
                | InvokeError::Cancelled
                | InvokeError::Store(_),
            ) => &self.unreachable,
        }
    }
}

impl Default for Invokes {
    fn default() -> Self {
        Self {
            ok: Count::default(),
            failed: Count::default(),
            timed_out: Count::default(),
            unreachable: Count::default(),
            denied: Count::default(),
            busy: Count::default(),
            took: Durations::slow(),
        }
    }
}

/// What a node says it offers when it connects.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// What it can do.
    pub caps: Vec<String>,
    /// Commands it takes.
    pub commands: Vec<String>,
    /// What its operating system lets it do.
    pub permissions: Option<BTreeMap<String, bool>>,
    /// Its search path.
    pub path_env: Option<String>,
}

impl From<&ConnectParams> for Declared {
    fn from(params: &ConnectParams) -> Self {
        let texts = |list: &Option<Vec<Text>>| {
            list.iter().flatten().map(|text| text.as_str().to_owned()).collect()
        };
        Self {
            caps: texts(&params.caps),
            commands: texts(&params.commands),
            permissions: params.permissions.clone(),
            path_env: params.path_env.clone(),
        }
    }
}

/// A command for a node.
#[derive(Clone, Debug, Default)]
pub struct Invoke {
    /// Which node.
    pub node_id: String,
    /// Which command.
    pub command: String,
    /// Its parameters.
    pub params: Option<Value>,
    /// How long to wait; [`DEFAULT_TIMEOUT_MS`] when absent.
    pub timeout_ms: Option<u64>,
    /// Handed to the node.
    pub idempotency_key: Option<String>,
    /// The client that asks: the call ends with its right to be here.
    pub asked_by: Option<Arc<Caller>>,
}

/// Why a node did not run a command.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// There is no such node now.
    #[error("node not connected")]
    NotConnected,
    /// It has a method of its own.
    #[error(
        "node.invoke does not allow system.execApprovals.*; use exec.approvals.node.*, which need \
         operator.admin"
    )]
    Reserved {
        /// Which command.
        command: String,
    },
    /// Policy forbids it.
    #[error("node command not allowed")]
    Denied {
        /// Why.
        reason: Denial,
        /// Which command.
        command: String,
    },
    /// The node was not approved for it.
    #[error("{}", grant_text(node_id, *has_key, command))]
    NotGranted {
        /// Which node.
        node_id: String,
        /// Whether it has a device key, without which nothing can be granted.
        has_key: bool,
        /// Which command.
        command: String,
    },
    /// What it was approved for cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many calls wait for this node.
    #[error("node is busy: {} calls wait for it", registry::MAX_WAITING)]
    Busy,
    /// The node does not take frames any more.
    #[error("failed to send invoke to node")]
    NotSent,
    /// The node did not answer in time.
    #[error("node invoke timed out")]
    TimedOut,
    /// The node left before it answered.
    #[error("node disconnected ({0})")]
    Disconnected(String),
    /// The client that asked was sent away.
    #[error("cancelled: the device that asked was sent away")]
    Cancelled,
    /// The node answered that it failed.
    #[error("{}", failure_text(.0.as_ref()))]
    Failed(Option<NodeError>),
}

impl Nodes {
    /// Returns an empty registry.
    #[must_use]
    pub fn new(config: Arc<config::Live>, store: Store, bus: Arc<Bus>) -> Self {
        Self { config, store, bus, registry: Mutex::default(), invokes: Invokes::default() }
    }

    /// Notes that a registered node got its `hello-ok`, and tells it the wake
    /// words.
    pub async fn connected(
        &self,
        caller: &Arc<Caller>,
        outbox: &Arc<Outbox>,
    ) -> Result<(), StoreError> {
        self.note_connection(caller).await?;
        let triggers = self.wake_words().await?;
        let event = VoicewakeChanged { triggers };
        outbox.push(bus::addressed(&event), VoicewakeChanged::DELIVERY);
        Ok(())
    }

    /// Forgets a connection. Calls sent over it fail at once.
    pub fn disconnected(&self, conn_id: &str) {
        self.registry().remove(conn_id);
    }

    /// Forgets a device whose right to connect was taken away. Calls sent to it
    /// fail at once; closing its sockets is up to the caller.
    pub fn drop_device(&self, device_id: &str) {
        self.registry().remove_node(device_id);
    }

    /// Ends the calls of clients that were sent away: whoever waits gets an error at once, and the
    /// nodes are told to stop what they run for them. Returns how many there were.
    pub fn cancel_calls_of(&self, which: impl Fn(&Caller) -> bool) -> usize {
        let cancelled = self.registry().cancel_calls_of(which);
        for call in &cancelled {
            let event =
                NodeInvokeCancel { invoke_id: call.id.clone(), node_id: call.node_id.clone() };
            // A node that takes no frames any more is closed, which ends its programs as well.
            let _ = call.outbox.push(bus::addressed(&event), NodeInvokeCancel::DELIVERY);
        }
        cancelled.len()
    }

    /// Runs a command on a node and waits for the answer.
    pub async fn invoke(&self, invoke: Invoke) -> Result<Answer, InvokeError> {
        let result = self.try_invoke(invoke).await;
        self.invokes.of(&result).one();
        result
    }

    /// Returns figures about the calls.
    #[must_use]
    pub fn invokes(&self) -> &Invokes {
        &self.invokes
    }

    /// Reads or replaces what may run on a node. For `exec.approvals.node.*` only: nothing but
    /// `denyCommands` is asked, as in OpenClaw.
    pub async fn exec_approvals(&self, invoke: Invoke) -> Result<Answer, InvokeError> {
        let node =
            self.registry().find(&invoke.node_id).cloned().ok_or(InvokeError::NotConnected)?;
        if policy::is_denied(&self.config.get(), &invoke.command) {
            let command = invoke.command;
            return Err(InvokeError::Denied { reason: Denial::NotAllowed, command });
        }
        self.send(&node, invoke).await
    }

    async fn try_invoke(&self, invoke: Invoke) -> Result<Answer, InvokeError> {
        if is_reserved(&invoke.command) {
            return Err(InvokeError::Reserved { command: invoke.command });
        }
        let node =
            self.registry().find(&invoke.node_id).cloned().ok_or(InvokeError::NotConnected)?;
        let command = invoke.command.trim().to_owned();
        policy::check(&self.config.get(), node.platform, &node.commands, &command)
            .map_err(|reason| InvokeError::Denied { reason, command: command.clone() })?;
        self.check_grant(&node.caller, &command).await?;
        let since = Instant::now();
        let result = self.send(&node, Invoke { command, ..invoke }).await;
        self.invokes.took.add(since.elapsed());
        result
    }

    async fn check_grant(&self, caller: &Caller, command: &str) -> Result<(), InvokeError> {
        if self.is_granted(caller, command).await? {
            return Ok(());
        }
        Err(InvokeError::NotGranted {
            node_id: caller.node_id().to_owned(),
            has_key: caller.device_id.is_some(),
            command: command.to_owned(),
        })
    }

    /// Asks the store each time, so that a grant counts at once, taken away too.
    async fn is_granted(&self, caller: &Caller, command: &str) -> Result<bool, StoreError> {
        if !policy::needs_grant(command) {
            return Ok(true);
        }
        let allow = match caller.device_id.clone() {
            Some(id) => {
                let device = self.store.read(move |db| db.device(&id)).await?;
                device.and_then(|device| device.info.allow).unwrap_or_default()
            }
            None => keyless(caller),
        };
        Ok(policy::is_granted(&allow, command))
    }

    /// Takes a node's answer. One that nobody waits for is ignored.
    pub fn answered(
        &self,
        caller: &Caller,
        result: NodeInvokeResult,
    ) -> rpc::Result<NodeInvokeNoted> {
        if result.node_id.trim() != caller.node_id() {
            return Err(rpc::Error::invalid("nodeId mismatch"));
        }
        let awaited = self.registry().settle(caller.node_id(), result);
        Ok(NodeInvokeNoted { ok: true, ignored: (!awaited).then_some(true) })
    }

    /// Returns whether a phone or tablet is connected.
    pub fn has_mobile(&self) -> bool {
        self.registry().all().any(|node| {
            let platform = node.caller.client.platform.to_lowercase();
            ["ios", "ipados", "android"].iter().any(|prefix| platform.starts_with(prefix))
        })
    }

    /// Returns whether a connected node offers a command and was approved for it.
    pub async fn may_run(&self, caller: &Caller, command: &str) -> Result<bool, StoreError> {
        let offers = |node: &Connected| node.commands.iter().any(|offered| offered == command);
        let offered = self.registry().find(caller.node_id()).is_some_and(offers);
        Ok(offered && self.is_granted(caller, command).await?)
    }

    /// Returns the words that wake a listening device.
    pub async fn wake_words(&self) -> Result<Vec<String>, StoreError> {
        let set = self.store.read(|db| db.setting(wake_words::SETTING)).await?;
        Ok(set.unwrap_or_else(wake_words::defaults))
    }

    /// Replaces the wake words, tells everybody, and returns what was kept.
    pub async fn set_wake_words(&self, words: &[Value]) -> Result<Vec<String>, StoreError> {
        let triggers = wake_words::normalize(words);
        let stored = triggers.clone();
        self.store.write(move |db| db.put_setting(wake_words::SETTING, &stored)).await?;
        self.bus.publish(&VoicewakeChanged { triggers: triggers.clone() });
        Ok(triggers)
    }

    /// Registers a node that passed the handshake. To be called before its
    /// `hello-ok` is written: who has seen that may call the node. What the
    /// node is asked meanwhile waits in its queue.
    pub fn register(&self, caller: &Arc<Caller>, outbox: &Arc<Outbox>, declared: Declared) {
        let client = &caller.client;
        let platform = Platform::of(&client.platform, client.device_family.as_deref());
        let mut caps = declared.caps;
        caps.sort_unstable();
        caps.dedup();
        self.registry().add(Connected {
            caller: Arc::clone(caller),
            outbox: Arc::clone(outbox),
            platform,
            caps,
            commands: policy::filter(&self.config.get(), platform, declared.commands),
            permissions: declared.permissions,
            path_env: declared.path_env,
            connected_at_ms: u64::try_from(clock::now_ms()).unwrap_or_default(),
        });
    }

    async fn send(&self, node: &Connected, invoke: Invoke) -> Result<Answer, InvokeError> {
        let event = NodeInvokeRequest {
            id: uuid::Uuid::new_v4().to_string(),
            node_id: node.caller.node_id().to_owned(),
            params_json: params_text(&invoke.command, invoke.params, invoke.asked_by.as_deref()),
            command: invoke.command,
            timeout_ms: invoke.timeout_ms,
            idempotency_key: invoke.idempotency_key,
        };
        let waiting = Waiting { nodes: self, id: &event.id };
        let outcome = self.registry().wait(waiting.id, node, invoke.asked_by);
        let outcome = outcome.ok_or(InvokeError::Busy)?;
        if node.outbox.push(bus::addressed(&event), NodeInvokeRequest::DELIVERY) != Push::Queued {
            return Err(InvokeError::NotSent);
        }
        let limit = Duration::from_millis(invoke.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS));
        match timeout(limit, outcome).await {
            Err(_) => Err(InvokeError::TimedOut),
            Ok(Ok(Outcome::Answered(answer))) => Ok(answer),
            Ok(Ok(Outcome::Failed(error))) => Err(InvokeError::Failed(error)),
            Ok(Ok(Outcome::Cancelled)) => Err(InvokeError::Cancelled),
            Ok(Ok(Outcome::Disconnected) | Err(_)) => Err(InvokeError::Disconnected(event.command)),
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a call off the list however it ends, its caller's leaving included.
struct Waiting<'a> {
    nodes: &'a Nodes,
    id: &'a str,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.nodes.registry().forget(self.id);
    }
}

/// Returns parameters as the text that nodes expect.
///
/// A node reports what it ran to the session that the call names, and a report makes the session's
/// next message one with words of others. Only an administrator chooses that session: anybody else
/// could keep the owner's tools from acting.
fn params_text(command: &str, params: Option<Value>, asked_by: Option<&Caller>) -> Option<String> {
    let mut params = params?;
    if command == "system.run"
        && let Value::Object(fields) = &mut params
    {
        for field in APPROVAL_FIELDS {
            fields.shift_remove(field);
        }
        if asked_by.is_some_and(|caller| !caller.scopes.holds(Scope::Admin)) {
            fields.shift_remove("sessionKey");
        }
    }
    Some(params.to_string())
}

/// Returns what a node without a device key may run: nobody can approve it.
fn keyless(caller: &Caller) -> Vec<String> {
    if caller.local { OWN_HOST.map(String::from).to_vec() } else { Vec::new() }
}

fn grant_text(node_id: &str, has_key: bool, command: &str) -> String {
    if !has_key {
        return format!("a node without a device key cannot be approved for {command}");
    }
    let short: String = node_id.chars().take(12).collect();
    format!(
        "the node was not approved for {command}; to approve it: moltbotctl devices allow {short} \
         {command}"
    )
}

fn failure_text(error: Option<&NodeError>) -> &str {
    error.and_then(|error| error.message.as_deref()).unwrap_or("node invoke failed")
}

#[cfg(test)]
mod tests;
