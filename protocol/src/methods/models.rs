//! The models that can answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Request, Scope};

/// Lists the models the configuration names, and the built-in one.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelsList {}

impl Request for ModelsList {
    const METHOD: &'static str = "models.list";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = ModelListing;
}

/// The models that can answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ModelListing {
    /// By provider, then by name.
    pub models: Vec<Model>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Its id at the provider.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Its provider.
    pub provider: String,
    /// Size of its context in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// Whether it reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<bool>,
    /// What it reads: `text`, `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Vec<String>>,
}
