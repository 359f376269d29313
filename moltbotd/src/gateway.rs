//! The daemon's state: what the methods act on.

use std::{sync::Arc, time::Instant};

use crate::{
    bus::Bus, config, nodes::Nodes, paths::Paths, providers::Models, rpc::Dedupe,
    sessions::system_events::SystemEvents, store::Store,
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
    /// Durable state.
    pub store: Store,
    /// Connected clients.
    pub bus: Arc<Bus>,
    /// Answers to repeated calls.
    pub dedupe: Dedupe,
    /// Connected nodes.
    pub nodes: Arc<Nodes>,
    /// The models that can answer.
    pub models: Arc<Models>,
    /// What the next turn of a session is to be told.
    pub system_events: Arc<SystemEvents>,
}
