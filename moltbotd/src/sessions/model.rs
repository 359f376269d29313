//! Which model answers in a conversation.

use moltbot_protocol::methods::sessions::{SessionDefaults, SessionEntry};

use crate::{
    config::{Config, ModelChoice},
    providers::{ModelInfo, ModelRef, Models, configured},
};

/// Answers where nothing is configured.
const BUILT_IN: (&str, &str) = ("builtin", "echo");
/// What a provider offers is unknown until it is asked; the reference assumes
/// the same.
const CONTEXT_TOKENS: u64 = 200_000;

/// Returns the models to be tried, in their order: the conversation's own or
/// the configured one, then those that replace it.
#[must_use]
pub fn candidates(config: &Config, agent: &str, entry: Option<&SessionEntry>) -> Vec<ModelRef> {
    let choice = choice_of(config, agent);
    let first = entry.and_then(own).unwrap_or(choice.first);
    let mut models = vec![first];
    for model in choice.others {
        if !models.contains(&model) {
            models.push(model);
        }
    }
    models
}

/// Returns the model of an agent where a conversation has none of its own.
#[must_use]
pub fn default_model(config: &Config, agent: &str) -> ModelRef {
    choice_of(config, agent).first
}

/// Reads a model's name; one without a provider belongs to the provider of
/// `default`.
#[must_use]
pub fn parse(name: &str, default: &ModelRef) -> ModelRef {
    ModelRef::parse(name).unwrap_or_else(|| ModelRef {
        provider: default.provider.clone(),
        model: name.trim().to_owned(),
    })
}

/// Returns what new conversations start with.
#[must_use]
pub fn defaults(config: &Config, models: &Models, agent: &str) -> SessionDefaults {
    let model = default_model(config, agent);
    let context_tokens = Some(context_tokens(models, &model));
    SessionDefaults {
        model_provider: Some(model.provider),
        model: Some(model.model),
        context_tokens,
    }
}

/// Returns the size of a model's context.
#[must_use]
pub fn context_tokens(models: &Models, model: &ModelRef) -> u64 {
    info(models, model).and_then(|info| info.context_window).unwrap_or(CONTEXT_TOKENS)
}

/// Returns how hard a model thinks in a conversation.
#[must_use]
pub fn thinking(
    config: &Config,
    models: &Models,
    entry: Option<&SessionEntry>,
    model: &ModelRef,
) -> String {
    entry
        .and_then(|entry| entry.thinking_level.clone())
        .or_else(|| config.agents.defaults.thinking_default.clone())
        .unwrap_or_else(|| {
            let reasons = info(models, model).is_some_and(|info| info.reasoning);
            if reasons { "low".to_owned() } else { "off".to_owned() }
        })
}

struct Choice {
    first: ModelRef,
    others: Vec<ModelRef>,
}

fn choice_of(config: &Config, agent: &str) -> Choice {
    let defaults = config.agents.defaults.model.as_ref();
    let own = config
        .agents
        .list
        .iter()
        .find(|listed| listed.id.eq_ignore_ascii_case(agent))
        .and_then(|listed| listed.model.as_ref());
    let first = own.and_then(primary).or_else(|| defaults.and_then(primary)).map_or_else(
        || ModelRef { provider: BUILT_IN.0.into(), model: BUILT_IN.1.into() },
        configured,
    );
    // An agent's own list counts even when it is empty: it means none.
    let others = match (own, defaults) {
        (Some(ModelChoice::Several { fallbacks, .. }), _)
        | (_, Some(ModelChoice::Several { fallbacks, .. })) => fallbacks.as_slice(),
        _ => &[],
    };
    Choice { first, others: others.iter().map(|name| configured(name)).collect() }
}

fn primary(choice: &ModelChoice) -> Option<&str> {
    match choice {
        ModelChoice::One(name) => Some(name),
        ModelChoice::Several { primary, .. } => primary.as_deref(),
    }
}

fn own(entry: &SessionEntry) -> Option<ModelRef> {
    Some(ModelRef {
        provider: entry.provider_override.clone()?,
        model: entry.model_override.clone()?,
    })
}

fn info(models: &Models, model: &ModelRef) -> Option<ModelInfo> {
    models.list().into_iter().find(|info| info.model == *model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Agent;

    fn several(primary: &str, fallbacks: &[&str]) -> Option<ModelChoice> {
        Some(ModelChoice::Several {
            primary: Some(primary.into()),
            fallbacks: fallbacks.iter().map(|&name| name.into()).collect(),
        })
    }

    fn names(config: &Config, agent: &str, entry: Option<&SessionEntry>) -> Vec<String> {
        candidates(config, agent, entry).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_a_choice_the_built_in_model_answers() {
        assert_eq!(names(&Config::default(), "main", None), ["builtin/echo"]);
    }

    #[test]
    fn a_conversations_own_model_comes_before_the_agents_and_the_defaults() {
        let mut config = Config::default();
        config.agents.defaults.model = several("a/1", &["b/2"]);
        config.agents.list.push(Agent {
            id: "ops".into(),
            model: several("c/3", &[]),
            ..Agent::default()
        });
        let entry = SessionEntry {
            provider_override: Some("d".into()),
            model_override: Some("4".into()),
            ..Default::default()
        };
        assert_eq!(names(&config, "main", None), ["a/1", "b/2"]);
        assert_eq!(names(&config, "ops", None), ["c/3"]);
        assert_eq!(names(&config, "main", Some(&entry)), ["d/4", "b/2"]);
    }
}
