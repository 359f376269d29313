//! The configuration: one struct with one field per section.
//!
//! Keys and defaults are those of the reference. An unknown key is a warning,
//! an invalid value names its file, line and column.

mod agents;
mod check;
mod commands;
mod discovery;
mod document;
mod effect;
mod gateway;
mod guard;
mod issue;
mod known;
mod live;
mod load;
mod logging;
mod mentions;
mod messages;
mod models;
mod redact;
mod schema;
mod secrets;
mod session;
mod snapshot;
mod tools;
mod write;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    agents::{Agent, AgentDefaults, AgentGroupChat, Agents, Identity, ModelChoice},
    commands::{Commands, PersonId},
    discovery::{Discovery, Mdns, MdnsMode},
    document::Overlay,
    effect::Effect,
    gateway::{
        AuthMode, Bind, Gateway, GatewayAuth, GatewayTls, LoopbackPairing, Mode, Reload,
        ReloadMode, Remote, Tailscale, TailscaleMode,
    },
    guard::Guard,
    issue::Issue,
    live::{Live, Plan, Trigger, gone, kept},
    load::{ChannelCheck, Findings, Loaded, ModelCheck, Refusal, Source, StartCheck},
    logging::{LogLevel, Logging},
    mentions::mention,
    messages::{GroupChat, Messages},
    models::{ModelCost, Models, Provider, ProviderModel},
    redact::PLACEHOLDER,
    schema::{ChannelSchema, hints, schema},
    secrets::{AuthSecrets, GivenToken, SecretsError, Source as SecretSource, is_exposed},
    session::{
        ChatType, DmScope, Reset, ResetByType, ResetMode, SendAction, SendMatch, SendPolicy,
        SendRule, Session,
    },
    snapshot::shown,
    tools::{
        ChannelTools, ChatTools, ExecSecurity, Restriction, Sandbox, SandboxMode, SandboxTools,
        TOOLS, ToolList, ToolPolicy, ToolProfile, Tools, ToolsExec, TopicTools, restrictions,
    },
    write::{WriteError, Written},
};
use crate::environment::Environment;

/// Everything the configuration file can say.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// The daemon's socket and who may use it.
    #[schemars(extend("x-effect" = Effect::Restart, "x-guarded" = false))]
    pub gateway: Gateway,
    /// Who answers.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = false))]
    pub agents: Agents,
    /// Which models there are.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = false))]
    pub models: Models,
    /// Which tools there are, and for whom they act.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = true))]
    pub tools: Tools,
    /// Who owns the gateway, and who may give commands in chats.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = true))]
    pub commands: Commands,
    /// How conversations are kept apart and when they start anew.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = false))]
    pub session: Session,
    /// How messages are queued and shown.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = false))]
    pub messages: Messages,
    /// Logs.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = false))]
    pub logging: Logging,
    /// How the gateway is found on the network.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = false))]
    pub discovery: Discovery,
    /// Messaging channels: each parses its own section.
    #[schemars(extend("x-effect" = Effect::Channel, "x-guarded" = false))]
    pub channels: BTreeMap<String, Value>,
    /// Which credentials belong to which provider.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = false))]
    pub auth: Value,
    /// Environment variables to set where they are unset.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = true))]
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

/// Those of [`OTHER_SECTIONS`] that decide what is run, who may have it run, or which code is part
/// of the gateway; see [`guard`].
const GUARDED_SECTIONS: &[&str] = &[
    "approvals",
    "bindings",
    "browser",
    "canvasHost",
    "hooks",
    "nodeHost",
    "plugins",
    "skills",
    "update",
];

/// Sections of the reference that are kept as they are, what a change of
/// them takes, and what they are for.
const OTHER_SECTIONS: &[(&str, Effect, &str)] = &[
    ("approvals", Effect::Hot, "Where requests for approval are shown."),
    ("audio", Effect::Hot, "How speech is turned into text."),
    ("bindings", Effect::Hot, "Which agent answers where."),
    ("broadcast", Effect::Hot, "Groups that several agents answer."),
    ("browser", Effect::Hot, "The browser that agents use."),
    ("canvasHost", Effect::Restart, "The web pages that nodes show."),
    ("cron", Effect::Hot, "Scheduled work."),
    ("diagnostics", Effect::Hot, "What is recorded to find faults."),
    ("hooks", Effect::Hot, "Addresses that other programs call."),
    ("media", Effect::Hot, "How files are understood."),
    ("meta", Effect::Hot, "Who wrote the file last."),
    ("nodeHost", Effect::Hot, "What this host lends as a node."),
    ("plugins", Effect::Restart, "Further code."),
    ("skills", Effect::Hot, "What agents have learned."),
    ("talk", Effect::Hot, "Spoken conversations."),
    ("ui", Effect::Hot, "How the web page looks."),
    ("update", Effect::Hot, "Where newer versions come from."),
    ("web", Effect::Hot, "The WhatsApp web connection."),
    ("wizard", Effect::Hot, "What the set-up did."),
];
