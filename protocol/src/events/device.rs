//! Device pairing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Delivery, Event, Scope, methods::device::PendingDevice};

/// A device asks to be let in.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct DevicePairRequested(pub PendingDevice);

impl Event for DevicePairRequested {
    const EVENT: &'static str = "device.pair.requested";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    const DELIVERY: Delivery = Delivery::Skippable;
}

/// A device was let in or refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePairResolved {
    /// Names the request.
    pub request_id: String,
    /// The device.
    pub device_id: String,
    /// What was decided.
    pub decision: Decision,
    /// When, in milliseconds since the epoch.
    pub ts: u64,
}

impl Event for DevicePairResolved {
    const EVENT: &'static str = "device.pair.resolved";
    const ACCESS: Access = Access::Operator(Scope::Pairing);
    const DELIVERY: Delivery = Delivery::Skippable;
}

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It was granted.
    Approved,
    /// It was refused.
    Rejected,
}
