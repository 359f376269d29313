//! Talk mode.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Request, Scope, events::talk::TalkModeChanged};

/// Tells every client that spoken conversation starts or ends.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TalkMode {
    /// Whether it is on.
    pub enabled: bool,
    /// What it is doing, for example `listening`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

impl Request for TalkMode {
    const METHOD: &'static str = "talk.mode";
    const ACCESS: Access = Access::Operator(Scope::Write);
    type Response = TalkModeChanged;
}
