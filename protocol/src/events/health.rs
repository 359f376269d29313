//! Health reports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Delivery, Event, methods::health::HealthSummary};

/// How the daemon is, after something about it changed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct HealthChanged(pub HealthSummary);

impl Event for HealthChanged {
    const EVENT: &'static str = "health";
    const ACCESS: Access = Access::Connected;
    const DELIVERY: Delivery = Delivery::Required;
}
