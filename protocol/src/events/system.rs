//! The daemon's own life: challenge, ticks, presence, shutdown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Delivery, Event, methods::system::PresenceEntry};

/// The first frame on every socket.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConnectChallenge {
    /// To be signed by clients with a device key.
    pub nonce: String,
    /// The daemon's clock, in milliseconds since the epoch.
    pub ts: u64,
}

impl Event for ConnectChallenge {
    const EVENT: &'static str = "connect.challenge";
    const ACCESS: Access = Access::Connected;
    const DELIVERY: Delivery = Delivery::Answer;
}

/// The daemon is alive.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Tick {
    /// Milliseconds since the epoch.
    pub ts: u64,
}

impl Event for Tick {
    const EVENT: &'static str = "tick";
    const ACCESS: Access = Access::Connected;
    const DELIVERY: Delivery = Delivery::Skippable;
}

/// The presence list changed; this is all of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Presence {
    /// Newest first.
    pub presence: Vec<PresenceEntry>,
}

impl Event for Presence {
    const EVENT: &'static str = "presence";
    const ACCESS: Access = Access::Connected;
    const DELIVERY: Delivery = Delivery::Skippable;
}

/// The daemon is about to stop.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shutdown {
    /// Why.
    pub reason: String,
    /// When it is expected back, in milliseconds; `null` when it stops.
    pub restart_expected_ms: Option<u64>,
}

impl Event for Shutdown {
    const EVENT: &'static str = "shutdown";
    const ACCESS: Access = Access::Connected;
    const DELIVERY: Delivery = Delivery::Required;
}
