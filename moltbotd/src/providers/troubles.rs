//! What keeps a model from answering: known from the configuration alone, or from the last call.
//!
//! A gateway whose model cannot answer is no healthy one, and nobody should have to write a message
//! to find that out. What only a call shows (a key that is refused, a server that is not there) is
//! remembered until a call succeeds, or until the model is asked in another way.

use std::{
    collections::HashMap,
    iter,
    sync::{Mutex, PoisonError},
};

use super::{
    ModelRef, ProviderError, echo,
    hosted::{self, Hosted},
};
use crate::config::{Config, ModelChoice};

/// The provider of a model that is named without one.
const PROVIDER: &str = "anthropic";

/// A model that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The key, such as `agents.defaults.model.primary`.
    pub key: String,
    /// What is written there.
    pub name: String,
    /// What that means.
    pub model: ModelRef,
}

/// Returns every model that the configuration names.
#[must_use]
pub fn named(config: &Config) -> Vec<Named> {
    let own = config.agents.list.iter().enumerate();
    let own = own.map(|(index, agent)| (format!("agents.list[{index}].model"), &agent.model));
    let choices = iter::once(("agents.defaults.model".to_owned(), &config.agents.defaults.model));
    let mut named = Vec::new();
    let mut add = |key: String, name: &str| {
        named.push(Named { key, name: name.to_owned(), model: configured(name) });
    };
    for (key, choice) in choices.chain(own) {
        match choice {
            None => {}
            Some(ModelChoice::One(name)) => add(key, name),
            Some(ModelChoice::Several { primary, fallbacks }) => {
                if let Some(name) = primary {
                    add(format!("{key}.primary"), name);
                }
                for (index, name) in fallbacks.iter().enumerate() {
                    add(format!("{key}.fallbacks[{index}]"), name);
                }
            }
        }
    }
    named
}

/// Reads the name of a model as the configuration writes it.
#[must_use]
pub fn configured(name: &str) -> ModelRef {
    ModelRef::parse(name)
        .unwrap_or_else(|| ModelRef { provider: PROVIDER.into(), model: name.trim().into() })
}

/// How the last calls failed, by model. Only models that the configuration names get here, so that
/// this has an end.
#[derive(Debug, Default)]
pub(super) struct LastFailures(Mutex<HashMap<ModelRef, LastFailure>>);

#[derive(Debug)]
struct LastFailure {
    /// How the model was asked; with another key it may answer.
    fingerprint: Option<u64>,
    why: String,
}

impl LastFailures {
    /// Notes how a call ended.
    pub(super) fn note(&self, config: &Config, model: &ModelRef, error: Option<&ProviderError>) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|model, _| named(config).iter().any(|it| it.model == *model));
        match error {
            None => _ = failures.remove(model),
            // It says something about the prompt, and nothing about the model.
            Some(ProviderError::TooLong(_)) => {}
            Some(_) if !named(config).iter().any(|it| it.model == *model) => {}
            Some(error) => {
                let fingerprint = Hosted::fingerprint(config, model);
                let why = format!("{model}: {error}; {}", advice(model, error));
                failures.insert(model.clone(), LastFailure { fingerprint, why });
            }
        }
    }

    /// Returns why the last call of a model failed, if it did.
    pub(super) fn of(&self, config: &Config, model: &ModelRef) -> Option<String> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = failures.get(model)?;
        let is_asked_so = failure.fingerprint == Hosted::fingerprint(config, model);
        is_asked_so.then(|| failure.why.clone())
    }
}

/// Returns what a configuration says about models that cannot work, with the keys.
#[must_use]
pub fn check(config: &Config) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, provider) in &config.models.providers {
        let oddities = hosted::oddities(name, provider).into_iter();
        found.extend(oddities.map(|(key, why)| (format!("models.providers.{name}.{key}"), why)));
    }
    for it in named(config) {
        let checked = if it.model == echo::model() {
            Ok(())
        } else if it.model.provider == echo::model().provider {
            Err(ProviderError::Unknown(format!("unknown model: {}", it.model)))
        } else {
            hosted::check(config, &it.model)
        };
        match checked {
            Err(error) => {
                let why = explain(&it, &error);
                found.push((it.key, why));
            }
            Ok(()) if ModelRef::parse(&it.name).is_none() => {
                let why =
                    format!("names no provider, so {} is asked; write provider/model", it.model);
                found.push((it.key, why));
            }
            Ok(()) => {}
        }
    }
    found
}

/// Says why a model of the configuration cannot be asked, and what helps.
pub(super) fn explain(named: &Named, error: &ProviderError) -> String {
    let model = &named.model;
    let taken = match ModelRef::parse(&named.name) {
        Some(_) => String::new(),
        None => format!(" ({:?} names no provider)", named.name),
    };
    format!("{model}{taken}: {error}; {}", advice(model, error))
}

fn advice(ModelRef { provider, .. }: &ModelRef, error: &ProviderError) -> String {
    match error {
        ProviderError::NoKey(_) | ProviderError::Unauthorized(_) => {
            format!("run: moltbotctl config set models.providers.{provider}.apiKey -")
        }
        ProviderError::Unknown(_) => "run: moltbotctl config edit".into(),
        _ => "try again with: moltbotctl agent -m hello".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: serde_json::Value) -> Config {
        serde_json::from_value(value).unwrap()
    }

    fn with_model(model: &str, providers: serde_json::Value) -> Config {
        config(json!({ "agents": { "defaults": { "model": { "primary": model } } },
            "models": { "providers": providers } }))
    }

    #[test]
    fn what_a_configuration_alone_shows_is_said_with_its_key() {
        for (model, providers, key, word) in [
            ("anthropic/x", json!({}), "agents.defaults.model.primary", "no API key for anthropic"),
            ("nobody/x", json!({}), "agents.defaults.model.primary", "unknown model provider"),
            ("mock", json!({}), "agents.defaults.model.primary", "\"mock\" names no provider"),
            ("builtin/ecco", json!({}), "agents.defaults.model.primary", "unknown model"),
            (
                "builtin/echo",
                json!({ "mine": { "baseUrl": "http://h", "api": "telepathy" } }),
                "models.providers.mine.api",
                "is not supported",
            ),
            ("builtin/echo", json!({ "mine": {} }), "models.providers.mine.baseUrl", "is missing"),
        ] {
            let found = check(&with_model(model, providers));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].0 == key && found[0].1.contains(word), "{found:?}");
        }
        assert_eq!(check(&Config::default()), []);
        assert_eq!(check(&with_model("builtin/echo", json!({}))), []);
        assert_eq!(
            check(&with_model("anthropic/x", json!({ "anthropic": { "apiKey": "k" } }))),
            []
        );
    }

    #[test]
    fn a_failed_call_counts_until_one_succeeds_or_another_key_is_set() {
        let failures = LastFailures::default();
        let with_key = |key: &str| with_model("openai/x", json!({ "openai": { "apiKey": key } }));
        let model = ModelRef::parse("openai/x").unwrap();
        let refused = ProviderError::Unauthorized("openai refused the key".into());
        let config = with_key("wrong-key");

        failures.note(&config, &model, Some(&refused));
        assert!(failures.of(&config, &model).unwrap().contains("refused the key"));
        assert_eq!(failures.of(&with_key("another"), &model), None);
        failures.note(&config, &model, Some(&ProviderError::TooLong("too long".into())));
        assert!(failures.of(&config, &model).is_some());
        failures.note(&config, &model, None);
        assert_eq!(failures.of(&config, &model), None);

        let other = ModelRef::parse("openai/unnamed").unwrap();
        failures.note(&config, &other, Some(&refused));
        assert_eq!(failures.of(&config, &other), None, "the configuration does not name it");
    }
}
