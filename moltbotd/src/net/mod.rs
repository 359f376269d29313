//! Sockets: accept, upgrade, handshake, then one task for each client.
//!
//! `listener` (a permit, a task) → `http` (upgrade or a plain answer) →
//! `handshake` (who) → `connection` (frames) → the router.

mod addresses;
mod admission;
mod connection;
mod frames;
mod greeting;
mod handshake;
mod holder;
mod http;
mod incoming;
mod ingress;
mod listener;
mod liveness;
mod metrics;
mod page;
mod tailnet;
mod visitor;
mod wire;

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    admission::Admission,
    incoming::IncomingBudget,
    ingress::origin_allowed,
    listener::{BindError, Listeners, bind},
    metrics::{Dropped, Handshakes},
};
pub(crate) use self::{handshake::TICK, listener::serve};
use crate::{gateway::Gateway, rpc::Router};

/// What every connection is given.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What the methods act on.
    pub gateway: Arc<Gateway>,
    /// The methods.
    pub router: Arc<Router<Gateway>>,
    /// Places of peers that have not authenticated yet.
    pub admission: Arc<Admission>,
    /// The memory of messages that clients have begun to send.
    pub incoming: Arc<IncomingBudget>,
    /// Every connection and every call that outlives its connection.
    pub tasks: TaskTracker,
    /// Cancelled when no further peer is let in.
    pub closing: CancellationToken,
    /// What became of the peers that came.
    pub handshakes: Arc<Handshakes>,
    /// Why connections were ended.
    pub dropped: Arc<Dropped>,
    /// The port that was bound, which names our own origin.
    pub port: u16,
}
