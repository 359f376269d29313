//! `moltbotctl` and its node host against a daemon.

use std::process::Stdio;

use futures_util::StreamExt as _;
use moltbot_tests::{Ctl, Daemon, NodeHost, Options, PATIENCE, daemon::TOKEN};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

async fn invoke(ctl: &Ctl, command: &str, params: Value) -> Value {
    ctl.json(&["nodes", "invoke", "lab", command, &params.to_string()]).await["payload"].clone()
}

#[tokio::test]
async fn commands_find_the_daemon_by_its_control_socket() {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    assert_eq!(ctl.json(&["where"]).await["chosen"]["kind"], "controlSocket");
    assert_eq!(ctl.json(&["health"]).await["ok"], true);
    let status = ctl.text(&["status", "--deep"]).await;
    assert!(status.contains("reachable"), "{status}");
    assert_eq!(ctl.json(&["gateway", "status"]).await["process"]["pid"], daemon.pid());
    assert_eq!(ctl.json(&["gateway", "call", "health"]).await["ok"], true);
    assert_eq!(ctl.json(&["gateway", "probe"]).await["primaryTargetId"], "controlSocket");
    let answer = ctl.text(&["agent", "-m", "hello"]).await;
    assert!(answer.contains("hello"), "{answer}");
    let sessions = ctl.json(&["sessions"]).await;
    assert_eq!(sessions["sessions"][0]["key"], "agent:main:main");
    assert!(ctl.text(&["logs"]).await.contains("ready"));
    assert!(!ctl.text(&["config", "get", "gateway.auth.token"]).await.contains(TOKEN));
}

/// Any program may speak WebSocket; only a gateway sends a challenge.
#[tokio::test]
async fn what_sends_no_challenge_is_no_gateway_and_is_told_nothing() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", server.local_addr().unwrap());
    let heard = tokio::spawn(async move {
        let (stream, _) = server.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let mut heard = String::new();
        while let Some(Ok(message)) = socket.next().await {
            heard.push_str(message.to_text().unwrap_or_default());
        }
        heard
    });
    let home = tempfile::tempdir().unwrap();
    let output = Ctl::alone(home.path()).run(&["health", "--url", &url, "--token", TOKEN]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(heard.await.unwrap(), "", "{said}");
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("is no gateway: it speaks WebSocket"), "{said}");
}

#[tokio::test]
async fn a_chat_streams_answers_to_the_lines_of_its_input() {
    let daemon = Daemon::start().await;
    let mut command = Ctl::beside(&daemon).command(&["chat"]);
    let mut chat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = chat.stdin.take().unwrap();
    input.write_all(b"first line\n\nsecond line\n/quit\nnever\n").await.unwrap();
    let output = tokio::time::timeout(PATIENCE, chat.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let (first, second) = (said.find("first line").unwrap(), said.find("second line").unwrap());
    assert!(first < second && !said.contains("never"), "{said}");
}

#[tokio::test]
async fn a_node_host_waits_for_approval_and_then_serves() {
    let config = json!({ "gateway": {
        "auth": { "token": TOKEN }, "pairing": { "loopback": "ask" } } });
    let daemon = Daemon::start_with(Options::with(config)).await;
    let ctl = Ctl::beside(&daemon);
    let home = tempfile::tempdir().unwrap();
    let url = daemon.url();
    let mut node = NodeHost::start(
        &Ctl::alone(home.path()),
        &["--url", &url, "--token", TOKEN, "--exec-security", "full"],
    );
    let request =
        node.says("waiting for approval; on the gateway's host: moltbotctl devices approve").await;
    ctl.text(&["devices", "approve", &request]).await;
    node.says("connected to").await;
    let nodes = ctl.json(&["nodes", "list", "--connected"]).await;
    assert_eq!(nodes["nodes"][0]["displayName"], "lab");
    let found = invoke(&ctl, "system.which", json!({ "bins": ["sh", "no-such-program"] })).await;
    assert!(found["bins"]["sh"].as_str().unwrap().ends_with("/sh"));
    assert_eq!(found["bins"].get("no-such-program"), None);
    let ran = invoke(&ctl, "system.run", json!({ "command": ["echo", "real output"] })).await;
    assert_eq!((&ran["stdout"], &ran["success"]), (&json!("real output\n"), &json!(true)));
}

#[tokio::test]
async fn a_node_host_runs_nothing_that_is_not_allowed_whatever_a_client_claims() {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    let mut node = NodeHost::start(&ctl, &[]);
    node.says("connected to").await;
    let params =
        json!({ "command": ["echo"], "approved": true, "approvalDecision": "allow-always" });
    let output = ctl.run(&["nodes", "invoke", "lab", "system.run", &params.to_string()]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("SYSTEM_RUN_DENIED: approval required"), "{error}");
    assert!(error.contains("exec-approvals.json"), "{error}");
}

#[tokio::test]
async fn a_node_host_comes_back_after_the_daemon_did() {
    let mut daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    let mut node = NodeHost::start(&ctl, &[]);
    node.says("connected to").await;
    daemon.kill().await;
    node.says("disconnected").await;
    daemon.start_again().await;
    node.says("connected to").await;
    assert!(node.child.try_wait().unwrap().is_none());
}
