//! Tells every connected client what happened.
//!
//! An event is turned into text once. Its clients share the bytes: a push is
//! a reference count and a place in a bounded queue. Nothing here waits.

mod answers;
mod outbox;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use moltbot_protocol::{
    Access, Delivery, Event, Role,
    frame::{EventFrame, StateVersion},
};
use tokio_tungstenite::tungstenite::Utf8Bytes;

pub use self::{
    answers::{AnswerBudget, Charge},
    outbox::{Close, Expected, Outbox, Outgoing, Push},
};
use crate::auth::Caller;

/// Sessions a node can listen to at once; it is not told of further ones.
const MAX_SESSIONS: usize = 256;

/// The set of connected clients.
#[derive(Debug, Default)]
pub struct Bus {
    hub: Mutex<Hub>,
    answers: Arc<AnswerBudget>,
    slow: AtomicU64,
    skipped: AtomicU64,
}

#[derive(Debug)]
struct Hub {
    seq: u64,
    version: StateVersion,
    delivered: u64,
    clients: Vec<Client>,
    /// How everybody was sent away, once that has happened.
    finished: Option<Close>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            seq: 0,
            version: StateVersion { presence: 1, health: 1 },
            delivered: 0,
            clients: Vec::new(),
            finished: None,
        }
    }
}

#[derive(Debug)]
struct Client {
    caller: Arc<Caller>,
    outbox: Arc<Outbox>,
    /// Session keys a node listens to, exactly as it spelled them.
    sessions: HashSet<String>,
}

/// Which nodes get a copy without a sequence number, besides the broadcast.
#[derive(Clone, Copy, Debug)]
enum Copies<'a> {
    None,
    /// Nodes that listen to any session.
    Listeners,
    /// Nodes that listen to this session.
    Session(&'a str),
}

/// A part of the replicated state whose version an event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioned {
    /// The presence list.
    Presence,
    /// The health report.
    Health,
}

/// Figures about the bus, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connected clients.
    pub clients: usize,
    /// Those of them that are nodes.
    pub nodes: usize,
    /// Events queued for a client, each counted for each client.
    pub delivered: u64,
    /// Clients closed because they read too slowly.
    pub slow: u64,
    /// Events skipped for slow clients.
    pub skipped: u64,
    /// Events published.
    pub published: u64,
}

impl Bus {
    /// Sends every later event to `outbox`, until it is closed. Who comes after
    /// everybody was sent away is sent after them: the handshake was under way.
    pub fn attach(&self, caller: Arc<Caller>, outbox: Arc<Outbox>) {
        let mut hub = self.hub();
        if let Some(close) = &hub.finished {
            return outbox.finish(close.clone());
        }
        hub.clients.push(Client { caller, outbox, sessions: HashSet::new() });
    }

    /// Returns the queue of a new client, whose answers count with those of all
    /// others.
    #[must_use]
    pub fn outbox(&self, limit: usize) -> Arc<Outbox> {
        Outbox::within(&self.answers, limit)
    }

    /// Returns the memory of all unread answers.
    #[must_use]
    pub fn answers(&self) -> &AnswerBudget {
        &self.answers
    }

    /// Forgets a client, by connection id.
    pub fn detach(&self, conn_id: &str) {
        self.hub().clients.retain(|client| client.caller.conn_id != conn_id);
    }

    /// Pushes an event to every client allowed to see it.
    pub fn publish<E: Event>(&self, event: &E) {
        self.send(event, None, Copies::None);
    }

    /// Pushes an event about the daemon itself: nodes that listen to any
    /// session get a second copy, as clients of the reference expect.
    pub fn publish_with_copies<E: Event>(&self, event: &E) {
        self.send(event, None, Copies::Listeners);
    }

    /// Pushes an event of one session: nodes subscribed to that spelling of
    /// its key get a second copy.
    pub fn publish_to_session<E: Event>(&self, event: &E, session_key: &str) {
        self.send(event, None, Copies::Session(session_key));
    }

    /// Raises the version of a replicated state and pushes the event that
    /// carries it, under one lock, so that order and versions agree. Returns
    /// the bytes queued for all clients together.
    pub fn publish_versioned<E: Event>(&self, event: &E, what: Versioned) -> usize {
        let copies = if what == Versioned::Health { Copies::Listeners } else { Copies::None };
        self.send(event, Some(what), copies)
    }

    /// Raises a version without telling anybody.
    pub fn raise(&self, what: Versioned) {
        raise(&mut self.hub().version, what);
    }

    /// Returns the current versions.
    pub fn version(&self) -> StateVersion {
        self.hub().version
    }

    /// Lets a node listen to a session, or not any more.
    pub fn subscribe(&self, conn_id: &str, session_key: &str, listen: bool) {
        let mut hub = self.hub();
        for client in hub.clients.iter_mut().filter(|client| client.caller.conn_id == conn_id) {
            if listen && client.sessions.len() < MAX_SESSIONS {
                client.sessions.insert(session_key.to_owned());
            } else if !listen {
                client.sessions.remove(session_key);
            }
        }
    }

    /// Ends every connection that `which` picks: what is queued is dropped.
    /// Returns how many there were.
    pub fn close_where(&self, close: &Close, which: impl Fn(&Caller) -> bool) -> usize {
        let mut hub = self.hub();
        let before = hub.clients.len();
        hub.clients.retain(|client| {
            let hit = which(&client.caller);
            if hit {
                client.outbox.close(close.clone());
            }
            !hit
        });
        before - hub.clients.len()
    }

    /// Ends every connection, also later ones, once what is queued for it has
    /// been written.
    pub fn finish_all(&self, close: &Close) {
        let mut hub = self.hub();
        hub.finished = Some(close.clone());
        for client in hub.clients.drain(..) {
            client.outbox.finish(close.clone());
        }
    }

    /// Returns the callers that are connected now.
    pub fn callers(&self) -> Vec<Arc<Caller>> {
        self.hub().clients.iter().map(|client| Arc::clone(&client.caller)).collect()
    }

    /// Returns figures for status and metrics.
    pub fn stats(&self) -> Stats {
        let hub = self.hub();
        Stats {
            clients: hub.clients.len(),
            nodes: hub.clients.iter().filter(|it| it.caller.role == Role::Node).count(),
            delivered: hub.delivered,
            slow: self.slow.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            published: hub.seq,
        }
    }

    fn send<E: Event>(&self, event: &E, versioned: Option<Versioned>, copies: Copies<'_>) -> usize {
        let mut hub = self.hub();
        hub.seq += 1;
        if let Some(what) = versioned {
            raise(&mut hub.version, what);
        }
        let state_version = versioned.map(|_| hub.version);
        let seq = Some(hub.seq);
        let text = frame_text(event, seq, state_version);
        let listeners: Vec<Arc<Outbox>> = hub
            .clients
            .iter()
            .filter(|client| client.wants(copies))
            .map(|client| Arc::clone(&client.outbox))
            .collect();
        let mut frames = self.fan_out(&mut hub, &text, E::ACCESS, E::DELIVERY);
        frames += listeners.len();
        if !listeners.is_empty() {
            let copy = frame_text(event, None, state_version);
            for outbox in listeners {
                outbox.push(copy.clone(), E::DELIVERY);
            }
        }
        frames * text.len()
    }

    /// Queues a text for every client that may see it; returns for how many.
    fn fan_out(
        &self,
        hub: &mut Hub,
        text: &Utf8Bytes,
        access: Access,
        delivery: Delivery,
    ) -> usize {
        let mut queued = 0;
        hub.clients.retain(|client| {
            if !access.allows(client.caller.role, &client.caller.scopes) {
                return !client.outbox.is_closed();
            }
            match client.outbox.push(text.clone(), delivery) {
                Push::Queued => {
                    queued += 1;
                    true
                }
                Push::Skipped => {
                    self.skipped.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Push::Overflowed => {
                    self.slow.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(conn = client.caller.conn_id, "slow consumer closed");
                    false
                }
                Push::Closed => false,
            }
        });
        hub.delivered += queued as u64;
        queued
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn wants(&self, copies: Copies<'_>) -> bool {
        self.caller.role == Role::Node
            && match copies {
                Copies::None => false,
                Copies::Listeners => !self.sessions.is_empty(),
                Copies::Session(key) => self.sessions.contains(key),
            }
    }
}

/// Returns the text of an event addressed to one client: it has no sequence
/// number.
pub fn addressed<E: Event>(event: &E) -> Utf8Bytes {
    frame_text(event, None, None)
}

fn frame_text<E: Event>(
    event: &E,
    seq: Option<u64>,
    state_version: Option<StateVersion>,
) -> Utf8Bytes {
    let frame = EventFrame { event: E::EVENT, payload: event, seq, state_version };
    serde_json::to_string(&frame).expect("wire types serialize").into()
}

fn raise(version: &mut StateVersion, what: Versioned) {
    match what {
        Versioned::Presence => version.presence += 1,
        Versioned::Health => version.health += 1,
    }
}
