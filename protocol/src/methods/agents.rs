//! Who answers: the agents and what they are called.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Request, Scope, Text};

/// Lists the agents.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentsList {}

impl Request for AgentsList {
    const METHOD: &'static str = "agents.list";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = AgentList;
}

/// The agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentList {
    /// The one that answers when nobody else is named.
    pub default_id: String,
    /// Last part of the keys of main conversations.
    pub main_key: String,
    /// `per-sender` or `global`.
    pub scope: String,
    /// Every agent.
    pub agents: Vec<AgentSummary>,
}

/// An agent in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentSummary {
    /// Its id.
    pub id: String,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Returns what an agent is called.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentIdentityGet {
    /// The agent; the default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<Text>,
    /// A conversation of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
}

impl Request for AgentIdentityGet {
    const METHOD: &'static str = "agent.identity.get";
    const ACCESS: Access = Access::Operator(Scope::Read);
    type Response = AgentIdentity;
}

/// What an agent is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentIdentity {
    /// Its id.
    pub agent_id: String,
    /// Its name.
    pub name: String,
    /// A letter or a sign to show beside its messages.
    pub avatar: String,
}
