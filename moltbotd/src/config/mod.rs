//! The configuration: one struct with one field per section.
//!
//! Keys and defaults are those of the reference. An unknown key is a warning,
//! an invalid value names its file, line and column.

mod agents;
mod gateway;
mod logging;
mod messages;
mod models;
mod secrets;
mod session;

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    agents::{Agent, AgentDefaults, Agents, ModelChoice},
    gateway::{AuthMode, Bind, Gateway, GatewayAuth, LoopbackPairing, Mode, Remote},
    logging::{LogLevel, Logging},
    messages::Messages,
    models::{Models, Provider, ProviderModel},
    secrets::{AuthSecrets, GivenToken, SecretsError, Source as SecretSource, is_exposed},
    session::{DmScope, ResetMode, Session},
};

/// Everything the configuration file can say.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// The daemon's socket and who may use it.
    pub gateway: Gateway,
    /// Who answers.
    pub agents: Agents,
    /// Which models there are.
    pub models: Models,
    /// How conversations are kept apart and when they start anew.
    pub session: Session,
    /// How messages are queued and shown.
    pub messages: Messages,
    /// Logs.
    pub logging: Logging,
    /// Messaging channels: each parses its own section.
    pub channels: BTreeMap<String, Value>,
    /// Which credentials belong to which provider.
    pub auth: Value,
    /// Environment variables to set where they are unset.
    pub env: Value,
    /// Sections that are kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Config {
    /// Returns a section that is kept as it is.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Value> {
        self.other.get(name)
    }
}

/// The configuration in force; replaced as a whole on reload.
#[derive(Debug)]
pub struct Live(ArcSwap<Config>);

impl Live {
    /// Starts with a configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self(ArcSwap::from_pointee(config))
    }

    /// Returns the configuration in force.
    #[must_use]
    pub fn get(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Puts another configuration in force.
    pub fn set(&self, config: Config) {
        self.0.store(Arc::new(config));
    }
}
