//! `moltbotctl` against a gateway of the reference.

use std::process::Stdio;

use moltbot_tests::{Ctl, SteeredModel};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::foreign::Foreign;

const TOKEN: &str = "testtoken";

#[tokio::test]
async fn moltbotctl_drives_a_gateway_of_the_reference() {
    let model = SteeredModel::start().await;
    let mut config = json!({
        "gateway": { "mode": "local", "auth": { "mode": "token", "token": TOKEN } },
        "agents": { "defaults": { "model": { "primary": "mock/mock-1" }, "skipBootstrap": true } },
        "browser": { "enabled": false },
        "cron": { "enabled": false },
    });
    config["models"] = model.models();
    let reference = Foreign::clawdbot(&config).await;
    config["agents"]["defaults"]["workspace"] =
        reference.home().join("work").display().to_string().into();
    let (mut gateway, port) = reference.gateway(&mut config).await;

    let home = tempfile::tempdir().unwrap();
    let ctl = Ctl::alone(home.path());
    let url = format!("ws://127.0.0.1:{port}");
    let target = ["--url", &url, "--token", TOKEN, "--timeout", "60000"];
    let with = |arguments: &[&'static str]| [arguments, &target[..]].concat();

    let health = ctl.json(&with(&["health"])).await;
    assert_eq!(health["ok"], true, "{health}");
    ctl.text(&with(&["status", "--deep"])).await;
    ctl.text(&with(&["nodes", "list"])).await;
    let answer = ctl.text(&with(&["agent", "-m", "hello"])).await;
    assert!(answer.contains("Hello from the mock model."), "{answer}");

    let mut chat = ctl.command(&with(&["chat"]));
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = chat.stdin.take().unwrap();
    input.write_all(b"hello\n").await.unwrap();
    drop(input);
    let output = chat.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Hello from the mock model."), "{said}");
    gateway.kill().await.unwrap();
}
