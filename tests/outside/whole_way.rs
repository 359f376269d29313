//! One message all the way: Telegram, gateway, agent, node, and back.

use moltbot_tests::{Ctl, Daemon, NodeHost, Options, SteeredModel, Telegram, daemon::TOKEN};
use serde_json::{Value, json};

/// A daemon with Telegram and an approved node `lab` that runs anything.
async fn with_node(telegram: &Telegram, more: Value) -> (Daemon, NodeHost) {
    let mut config = json!({
        "gateway": { "auth": { "token": TOKEN }, "pairing": { "loopback": "ask" } },
        "channels": { "telegram": telegram.section(json!({})) },
        "commands": { "owners": ["telegram:7"] },
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let daemon = Daemon::start_with(Options::with(config)).await;
    let ctl = Ctl::beside(&daemon);
    let url = daemon.url();
    let home = daemon.home().join("node");
    std::fs::create_dir(&home).unwrap();
    let arguments =
        ["--url", &url, "--token", TOKEN, "--exec-security", "full", "--exec-ask", "off"];
    let mut node = NodeHost::start(&Ctl::alone(&home), &arguments);
    let request =
        node.says("waiting for approval; on the gateway's host: moltbotctl devices approve").await;
    ctl.text(&["devices", "approve", &request, "--allow", "system.run"]).await;
    node.says("connected to").await;
    (daemon, node)
}

/// Runs on the node only: that is where its working folder is.
fn call() -> Value {
    let command = json!(["sh", "-c", "echo real-$((40 + 2)) in $PWD"]);
    json!({
        "action": "invoke", "node": "lab", "command": "system.run",
        "params": { "command": command },
    })
}

#[tokio::test]
async fn a_users_tool_line_comes_back_with_the_nodes_output() {
    let telegram = Telegram::start().await;
    let (_daemon, _node) = with_node(&telegram, json!({})).await;
    telegram.says(7, &format!("/tool nodes {}", call())).await;
    let answer = telegram.shows_text(7, "real-42 in ").await;
    assert!(answer.text.contains("/node"), "{}", answer.text);
}

#[tokio::test]
async fn a_models_tool_call_comes_back_with_the_nodes_output() {
    let telegram = Telegram::start().await;
    // It asks for the call it is told to, and then says what came of it.
    let model = SteeredModel::start().await;
    let more = json!({
        "models": model.models(),
        "agents": { "defaults": { "model": { "primary": "mock/mock-1" } } },
    });
    let (_daemon, _node) = with_node(&telegram, more).await;
    telegram.says(7, &format!("TOOL:nodes {}", call())).await;
    let answer = telegram.shows_text(7, "The tool has run.").await;
    assert!(answer.text.contains("real-42 in "), "{}", answer.text);
    assert!(answer.text.contains("/node"), "{}", answer.text);
}
