//! The daemon's state: what the methods act on.

use std::{sync::Arc, time::Instant};

use crate::{bus::Bus, config, paths::Paths, rpc::Dedupe, store::Store};

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
}
