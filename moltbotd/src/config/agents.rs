//! `agents`: who answers.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::tools::{Sandbox, Tools};

/// Who answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Agents {
    /// What every agent starts from.
    pub defaults: AgentDefaults,
    /// The agents; one named `main` when empty.
    pub list: Vec<Agent>,
}

impl Agents {
    /// Returns the ids of all agents, lower-case; `main` when none is listed.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        if self.list.is_empty() {
            return vec!["main".to_owned()];
        }
        self.list.iter().map(|agent| agent.id.to_lowercase()).collect()
    }

    /// Returns the id of the agent that answers when nobody else is named: the
    /// first marked as default, else the first.
    #[must_use]
    pub fn default_id(&self) -> String {
        let agent = self.list.iter().find(|agent| agent.default).or(self.list.first());
        agent.map_or_else(|| "main".to_owned(), |agent| agent.id.to_lowercase())
    }
}

/// What every agent starts from.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentDefaults {
    /// The model and what replaces it when it fails.
    pub model: Option<ModelChoice>,
    /// How many runs may be under way at once.
    #[schemars(range(min = 1))]
    pub max_concurrent: usize,
    /// How long a run may take, in seconds.
    #[schemars(range(min = 1))]
    pub timeout_seconds: u64,
    /// How hard models think.
    pub thinking_default: Option<String>,
    /// Whether tools are shown: `off`, `on`, `full`.
    pub verbose_default: Option<String>,
    /// Which conversations are sandboxed.
    #[schemars(extend("x-guarded" = true))]
    pub sandbox: Sandbox,
}

impl Default for AgentDefaults {
    fn default() -> Self {
        Self {
            model: None,
            max_concurrent: 4,
            timeout_seconds: 600,
            thinking_default: None,
            verbose_default: None,
            sandbox: Sandbox::default(),
        }
    }
}

/// A model, alone or with what replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ModelChoice {
    /// `provider/model`.
    One(String),
    /// The first, and those tried when it fails.
    Several {
        /// `provider/model`.
        primary: Option<String>,
        /// Tried in this order.
        #[serde(default)]
        fallbacks: Vec<String>,
    },
}

/// By hand, because the derived way reads the value into a buffer first, and keys that nobody knows
/// are not noticed in there: a misspelt `primary` would silently mean the built-in model.
impl<'de> Deserialize<'de> for ModelChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Several {
            primary: Option<String>,
            fallbacks: Vec<String>,
        }

        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = ModelChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object with \"primary\" and \"fallbacks\"")
            }

            fn visit_str<E: de::Error>(self, model: &str) -> Result<ModelChoice, E> {
                Ok(ModelChoice::One(model.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelChoice, A::Error> {
                let Several { primary, fallbacks } =
                    Several::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ModelChoice::Several { primary, fallbacks })
            }
        }

        deserializer.deserialize_any(Form)
    }
}

/// An agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    // Guarded, as is `default`: another agent in the place of one with fewer tools would lift what
    // that one may not do.
    /// Its id: letters, digits, `-` and `_`.
    #[schemars(extend("x-guarded" = true))]
    pub id: String,
    /// Whether it answers when nobody else is named.
    #[serde(default)]
    #[schemars(extend("x-guarded" = true))]
    pub default: bool,
    /// Its name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// Its model.
    #[serde(default)]
    pub model: Option<ModelChoice>,
    /// What people call it.
    #[serde(default)]
    pub identity: Identity,
    /// Its conversations with several people.
    #[serde(default)]
    pub group_chat: AgentGroupChat,
    /// Its tools, within those of `tools`.
    #[serde(default)]
    #[schemars(extend("x-guarded" = true))]
    pub tools: Tools,
    /// Which of its conversations are sandboxed; as in `agents.defaults` when absent.
    #[serde(default)]
    #[schemars(extend("x-guarded" = true))]
    pub sandbox: Sandbox,
}

impl Agent {
    /// Returns what it is called: by people, else in lists.
    #[must_use]
    pub fn called(&self) -> Option<&str> {
        let names = [&self.identity.name, &self.name];
        names.into_iter().flatten().map(|name| name.trim()).find(|name| !name.is_empty())
    }
}

/// What people call an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// A name; counts as a mention where no patterns are set.
    pub name: Option<String>,
    /// A sign; counts as a mention where no patterns are set.
    pub emoji: Option<String>,
}

/// An agent's conversations with several people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentGroupChat {
    /// Expressions that count as a mention of the agent, instead of
    /// `messages.groupChat.mentionPatterns`; none when empty.
    pub mention_patterns: Option<Vec<String>>,
}
