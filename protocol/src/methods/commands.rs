//! The commands that a conversation takes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Request, Scope, Text};

/// Lists what begins with `/` and is answered by the gateway itself, for completion. A method of
/// protocol 4.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandsList {
    /// Which agent; all have the same commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<Text>,
    /// Which conversation; all have the same commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<Text>,
    /// For which provider names are wanted; the words typed are the same for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// `text`, `native` or `both`; every command here is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<CommandScope>,
    /// Whether arguments are wanted; they are not described apart from `acceptsArgs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_args: Option<bool>,
}

impl Request for CommandsList {
    const METHOD: &'static str = "commands.list";
    const ACCESS: Access = Access::Operator(Scope::Read);
    // Clients of protocol 3 are told of the methods of protocol 3.
    const ADVERTISED: bool = false;
    type Response = CommandListing;
}

/// How a command can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CommandScope {
    /// As a message.
    Text,
    /// As a command of the channel.
    Native,
    /// Either way.
    Both,
}

/// The commands that a conversation takes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CommandListing {
    /// In the order `/help` lists them.
    pub commands: Vec<ChatCommand>,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatCommand {
    /// Its name, without `/`.
    pub name: String,
    /// What is typed, each with its `/`.
    pub text_aliases: Vec<String>,
    /// What it does.
    pub description: String,
    /// Where it comes from: `native`.
    pub source: String,
    /// How it can be given.
    pub scope: CommandScope,
    /// Whether something may follow it.
    pub accepts_args: bool,
}
