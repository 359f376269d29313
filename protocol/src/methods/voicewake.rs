//! Wake words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Access, Request, Scope};

/// Returns the wake words. Parameters are ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct VoicewakeGet {}

impl Request for VoicewakeGet {
    const METHOD: &'static str = "voicewake.get";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = Triggers;
}

/// Replaces the wake words; an empty list restores the default ones.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct VoicewakeSet {
    /// The words: at most 32, of at most 64 characters.
    #[serde(default)]
    pub triggers: Value,
}

impl Request for VoicewakeSet {
    const METHOD: &'static str = "voicewake.set";
    const ACCESS: Access = Access::Operator(Scope::Write);
    type Response = Triggers;
}

/// The wake words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Triggers {
    /// The words.
    pub triggers: Vec<String>,
}
