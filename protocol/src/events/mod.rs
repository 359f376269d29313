//! Every event, one file per family.

pub mod agent;
pub mod chat;
pub mod device;
pub mod health;
pub mod node;
pub mod system;
pub mod talk;
pub mod voicewake;

/// Names of every event, in the order the handshake lists them. `node.invoke.cancel` is not among
/// them: the list is that of protocol 3, and the event one of protocol 4 that old nodes pass over.
pub const NAMES: &[&str] = &[
    "connect.challenge",
    "agent",
    "chat",
    "presence",
    "tick",
    "talk.mode",
    "shutdown",
    "health",
    "heartbeat",
    "node.pair.requested",
    "node.pair.resolved",
    "node.invoke.request",
    "device.pair.requested",
    "device.pair.resolved",
    "voicewake.changed",
];
