//! Wake words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Delivery, Event};

/// The wake words are these now. Each node is also told them when it connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VoicewakeChanged {
    /// The words.
    pub triggers: Vec<String>,
}

impl Event for VoicewakeChanged {
    const EVENT: &'static str = "voicewake.changed";
    const ACCESS: Access = Access::Connected;
    const DELIVERY: Delivery = Delivery::Skippable;
}
