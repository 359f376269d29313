//! The configuration: one struct with one field per section.
//!
//! Keys and defaults are those of the reference. An unknown key is a warning,
//! an invalid value names its file, line and column.

mod agents;
mod check;
mod document;
mod gateway;
mod issue;
mod known;
mod live;
mod load;
mod logging;
mod messages;
mod models;
mod redact;
mod schema;
mod secrets;
mod session;
mod snapshot;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    agents::{Agent, AgentDefaults, Agents, ModelChoice},
    gateway::{AuthMode, Bind, Gateway, GatewayAuth, LoopbackPairing, Mode, Remote},
    issue::Issue,
    live::{Live, Plan},
    load::{ChannelCheck, Findings, Loaded, Source},
    logging::{LogLevel, Logging},
    messages::{GroupChat, Messages},
    models::{ModelCost, Models, Provider, ProviderModel},
    redact::PLACEHOLDER,
    schema::{ChannelSchema, hints, schema},
    secrets::{AuthSecrets, GivenToken, SecretsError, Source as SecretSource, is_exposed},
    session::{DmScope, ResetMode, Session},
};
use crate::environment::Environment;

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
    /// Variables of the process, and those of `env` where it has none.
    #[serde(skip)]
    pub variables: Environment,
}

impl Config {
    /// Returns a variable of the process, else of the section `env`.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name)
    }

    /// Returns a section that is kept as it is.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Value> {
        self.other.get(name)
    }
}

/// Sections of the reference that are kept as they are, and what they are for.
const OTHER_SECTIONS: &[(&str, &str)] = &[
    ("approvals", "Where requests for approval are shown."),
    ("audio", "How speech is turned into text."),
    ("bindings", "Which agent answers where."),
    ("broadcast", "Groups that several agents answer."),
    ("browser", "The browser that agents use."),
    ("canvasHost", "The web pages that nodes show."),
    ("commands", "Which chat commands there are."),
    ("cron", "Scheduled work."),
    ("diagnostics", "What is recorded to find faults."),
    ("discovery", "How the gateway is found on the network."),
    ("hooks", "Addresses that other programs call."),
    ("media", "How files are understood."),
    ("meta", "Who wrote the file last."),
    ("nodeHost", "What this host lends as a node."),
    ("plugins", "Further code."),
    ("skills", "What agents have learned."),
    ("talk", "Spoken conversations."),
    ("tools", "What agents may do."),
    ("ui", "How the web page looks."),
    ("update", "Where newer versions come from."),
    ("web", "The WhatsApp web connection."),
    ("wizard", "What the set-up did."),
];
