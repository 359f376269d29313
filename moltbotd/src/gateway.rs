//! The daemon's state: what the methods act on.

use std::{sync::Arc, time::Instant};

use moltbot_protocol::{Role, handshake::ConnectParams};

use crate::{
    agent::Agent,
    auth::{Auth, Caller, SECRET_CHANGED},
    bus::{Bus, Outbox},
    channels::Channels,
    config,
    health::Health,
    listening::Listening,
    logging::Logs,
    nodes::{Declared, Nodes},
    paths::Paths,
    presence::Presence,
    providers::Models,
    restart::Restart,
    rpc::Dedupe,
    sessions::{Sessions, system_events::SystemEvents},
    store::Store,
    tailscale::Tailscale,
    tls::Tls,
};

/// One field per service.
#[derive(Debug)]
pub struct Gateway {
    /// When the daemon started.
    pub started: Instant,
    /// Where its files are.
    pub paths: Paths,
    /// The configuration in force.
    pub config: Arc<config::Live>,
    /// The running logs.
    pub logs: Logs,
    /// Where it listens.
    pub listening: Arc<Listening>,
    /// The certificate, when the port speaks TLS.
    pub tls: Option<Arc<Tls>>,
    /// The tailnet.
    pub tailscale: Arc<Tailscale>,
    /// Durable state.
    pub store: Store,
    /// Connected clients.
    pub bus: Arc<Bus>,
    /// Who may connect.
    pub auth: Auth,
    /// Who is there.
    pub presence: Presence,
    /// How the daemon is.
    pub health: Health,
    /// Answers to repeated calls.
    pub dedupe: Dedupe,
    /// Connected nodes.
    pub nodes: Arc<Nodes>,
    /// Messaging services.
    pub channels: Arc<Channels>,
    /// The models that can answer.
    pub models: Arc<Models>,
    /// Conversations.
    pub sessions: Arc<Sessions>,
    /// Who answers.
    pub agent: Arc<Agent>,
    /// What the next turn of a session is to be told.
    pub system_events: Arc<SystemEvents>,
    /// Ends the process for a new one.
    pub restart: Arc<Restart>,
}

impl Gateway {
    /// Adds a client that is about to get its hello. What it is told from now
    /// on is queued behind that.
    pub fn attach(&self, caller: &Arc<Caller>, outbox: &Arc<Outbox>, params: &ConnectParams) {
        self.presence.connected(caller);
        self.bus.attach(Arc::clone(caller), Arc::clone(outbox));
        // Only now a change of the secret finds it; one that came before did not.
        if self.auth.is_outdated(caller) {
            outbox.close(SECRET_CHANGED);
        }
        if caller.role == Role::Node {
            self.nodes.register(caller, outbox, Declared::from(params));
        }
    }

    /// Takes note of a client that got its hello.
    pub async fn connected(&self, caller: &Arc<Caller>, outbox: &Arc<Outbox>) {
        self.health.refresh_soon();
        if caller.role != Role::Node {
            return;
        }
        if let Err(error) = self.nodes.connected(caller, outbox).await {
            tracing::warn!(%error, node = caller.node_id(), "node connected, but not noted");
        }
    }

    /// Takes note of a client that left.
    pub fn disconnected(&self, caller: &Caller) {
        self.nodes.disconnected(&caller.conn_id);
        self.presence.disconnected(caller);
    }
}
