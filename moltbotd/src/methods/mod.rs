//! What the daemon does when asked. One file per family, one function per
//! method.

mod agent;
mod agents;
mod channels;
mod chat;
mod commands;
mod config;
mod device;
mod exec_approvals;
mod gateway;
mod health;
mod logs;
mod models;
mod node;
mod send;
mod sessions;
mod system;
mod talk;
mod voicewake;

use crate::{
    gateway::Gateway,
    rpc::{self, Router},
    store::StoreError,
};

/// What the handlers of this daemon are given.
pub type Context = rpc::Context<Gateway>;

/// Returns the table of every method.
#[must_use]
pub fn router() -> Router<Gateway> {
    let mut router = Router::default();
    health::register(&mut router);
    logs::register(&mut router);
    channels::register(&mut router);
    config::register(&mut router);
    talk::register(&mut router);
    models::register(&mut router);
    agents::register(&mut router);
    voicewake::register(&mut router);
    sessions::register(&mut router);
    system::register(&mut router);
    gateway::register(&mut router);
    node::register(&mut router);
    exec_approvals::register(&mut router);
    device::register(&mut router);
    send::register(&mut router);
    agent::register(&mut router);
    chat::register(&mut router);
    commands::register(&mut router);
    router
}

impl From<StoreError> for rpc::Error {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.into())
    }
}
