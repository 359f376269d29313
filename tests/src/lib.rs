//! The harness of the end-to-end tests: starts daemons, talks to them, plays the other side.
//!
//! Everything here waits for facts (an answer, a closed socket, a process that
//! ended); the deadlines only turn a hang into a failed test.

// A test that cannot go on must say so and stop: panics are its way of failing.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod client;
pub mod ctl;
pub mod daemon;
pub mod device;
#[cfg(target_os = "linux")]
pub mod far_host;
pub mod hostile;
#[cfg(target_os = "linux")]
pub mod island;
pub mod model_server;
pub mod node_host;
pub mod npm;
pub mod ports;
pub mod programs;
pub mod sshd;
pub mod steered_model;
pub mod tailnet;
pub mod telegram;
pub mod telegram_front;
#[cfg(target_os = "linux")]
pub mod terminal;
pub mod tree;

use std::time::Duration;

pub use self::{
    client::{Client, Connect, Refusal},
    ctl::Ctl,
    daemon::{Daemon, Options},
    device::{Device, Version},
    node_host::NodeHost,
    sshd::Sshd,
    steered_model::SteeredModel,
    tailnet::Tailnet,
    telegram::Telegram,
    tree::Tree,
};
#[cfg(target_os = "linux")]
pub use self::{far_host::FarHost, island::on_an_island};

/// How long a test waits for something that must happen. Long on purpose: it
/// bounds a hang on a busy machine, it measures nothing. Longer than the pause
/// between two ticks, so that a client that only listens hears something.
pub const PATIENCE: Duration = Duration::from_secs(45);
