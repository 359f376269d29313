//! Talk mode.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Delivery, Event};

/// Spoken conversation started or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TalkModeChanged {
    /// Whether it is on.
    pub enabled: bool,
    /// What it is doing, `null` when that was not said.
    pub phase: Option<String>,
    /// When, in milliseconds since the epoch.
    pub ts: u64,
}

impl Event for TalkModeChanged {
    const EVENT: &'static str = "talk.mode";
    const ACCESS: Access = Access::Connected;
    const DELIVERY: Delivery = Delivery::Skippable;
}
