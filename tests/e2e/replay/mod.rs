//! Replays what clients said to a reference gateway and compares the answers.
//!
//! Compared are keys, types and constants. Every difference is printed; those
//! that are meant are listed with their reason in `differences.json5`. One
//! that is not listed fails the test, and so does a listed one that is gone.

mod compare;
mod differences;
mod scenario;
mod transcript;

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use moltbot_tests::{Options, SteeredModel};
use serde_json::{Value, json};

use self::{differences::Accepted, scenario::Scenario};

/// Scenarios recorded against a gateway with a token and a model.
const ORDINARY: &[&str] = &[
    "after_handshake",
    "agent",
    "chat",
    "chat_abort",
    "chat_barekey",
    "chat_error",
    "chat_slash",
    "config",
    "connect_ok",
    "connect_refused",
    "first_frame",
    "logs",
    "node_pair_legacy",
    "pairing_node",
    "presence_events",
    "reads",
    "scopes",
    "sessions",
    "shutdown",
    "ticks",
];

/// How many scenarios run at once; most of their time is waiting.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_are_those_of_the_reference_but_for_the_listed_differences() {
    let model = SteeredModel::start().await;
    let token = json!({ "mode": "token", "token": "testtoken" });
    let password = json!({ "mode": "password", "password": "secret" });
    let mut runs: Vec<(&str, Value)> =
        ORDINARY.iter().map(|name| (*name, config(&token, Some(&model)))).collect();
    runs.push(("no_model", config(&token, None)));
    runs.push(("password_mode", config(&password, Some(&model))));

    let found: Vec<_> = stream::iter(runs)
        .map(|(name, config)| async move {
            let differences = Scenario::start(name, Options::with(config)).await.replay().await;
            (name, differences)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut scenarios: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, differences) in found {
        for difference in differences {
            scenarios.entry(difference).or_default().push(name);
        }
    }
    let accepted = Accepted::load();
    let new: Vec<String> = scenarios
        .iter()
        .filter(|(difference, _)| !accepted.allows(difference))
        .map(|(difference, names)| format!("{difference}    (in {})", names.join(", ")))
        .collect();
    let gone = accepted.no_longer_found(scenarios.keys());
    assert!(
        new.is_empty() && gone.is_empty(),
        "differences that are not listed:\n{}\n\nlisted differences that are gone:\n{}",
        new.join("\n"),
        gone.join("\n")
    );
}

fn config(auth: &Value, model: Option<&SteeredModel>) -> Value {
    let mut config = json!({ "gateway": { "mode": "local", "auth": auth } });
    if let Some(model) = model {
        config["models"] = model.models();
        config["agents"] = json!({ "defaults": { "model": { "primary": "mock/mock-1" } } });
    }
    config
}
