//! `models`: which model servers there are.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which models there are.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Models {
    /// Model servers by name.
    pub providers: BTreeMap<String, Provider>,
}

/// A model server.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Provider {
    /// Its address. Its key is sent there.
    #[schemars(extend("x-guarded" = true))]
    pub base_url: String,
    /// Its key.
    #[schemars(extend("x-secret" = true))]
    pub api_key: Option<String>,
    /// What it speaks: `openai-completions`, `openai-responses`,
    /// `anthropic-messages`, `google-generative-ai`, `ollama`.
    pub api: Option<String>,
    /// Further request headers.
    #[schemars(extend("x-guarded" = true))]
    pub headers: BTreeMap<String, String>,
    /// Its models.
    pub models: Vec<ProviderModel>,
}

/// A model of a server.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProviderModel {
    /// Its id at the server.
    pub id: String,
    /// Its name for people.
    pub name: Option<String>,
    /// Whether it reasons.
    pub reasoning: bool,
    /// What it reads: `text`, `image`.
    pub input: Option<Vec<String>>,
    /// Size of its context in tokens.
    pub context_window: Option<u64>,
    /// Longest answer in tokens.
    pub max_tokens: Option<u64>,
    /// What it costs.
    pub cost: Option<ModelCost>,
}

/// What a model costs, for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelCost {
    /// Tokens read.
    pub input: f64,
    /// Tokens written.
    pub output: f64,
    /// Tokens read from the provider's cache.
    pub cache_read: f64,
    /// Tokens written to the provider's cache.
    pub cache_write: f64,
}
