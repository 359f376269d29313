//! Replays what clients said to a reference gateway and compares the answers.
//!
//! Compared are keys, types and constants. Every difference is printed; those
//! that are meant are listed with their reason in `differences.json5`. One
//! that is not listed fails the test, and so does a listed one that is gone.

mod compare;
mod differences;
mod scenario;
mod transcript;

use std::collections::BTreeSet;

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
    "chat_tools",
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
    let mut channels = config(&token, Some(&model));
    channels["channels"] = json!({ "telegram": { "enabled": true } });
    runs.push(("channels_plugin", channels));
    runs.push(("no_model", config(&token, None)));
    runs.push(("password_mode", config(&password, Some(&model))));

    let accepted = Accepted::load();
    let found: Vec<BTreeSet<(&str, String)>> = stream::iter(runs)
        .map(|(name, config)| {
            let accepted = &accepted;
            async move {
                let scenario = Scenario::start(name, Options::with(config), accepted).await;
                scenario.replay().await.into_iter().map(|line| (name, line)).collect()
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let found: BTreeSet<(&str, String)> = found.into_iter().flatten().collect();
    let new: Vec<String> = found
        .iter()
        .filter(|(name, difference)| !accepted.allows(name, difference))
        .map(|(name, difference)| format!("in {name}: {difference}"))
        .collect();
    let gone = accepted.no_longer_found(&found);
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
