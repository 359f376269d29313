//! The reference's own programs, unmodified, against `moltbotd`.

use moltbot_tests::{Client, Daemon, Options, daemon::TOKEN};
use serde_json::{Value, json};

use crate::foreign::Foreign;

#[tokio::test]
async fn the_cli_of_the_reference_works() {
    let daemon = Daemon::start().await;
    let cli = Foreign::clawdbot(&pointed_at(&daemon)).await;
    let target = ["--url", &daemon.url(), "--token", TOKEN];

    let health = cli.json(&[&["gateway", "call", "health", "--json"], &target[..]].concat()).await;
    assert_eq!(health["ok"], true);
    let health = cli.json(&["health", "--json"]).await;
    assert_eq!(health["ok"], true);
    let answer = cli.json(&["agent", "--agent", "main", "-m", "hello there", "--json"]).await;
    assert_eq!(answer["status"], "ok", "{answer}");
    assert!(answer["result"]["payloads"][0]["text"].as_str().unwrap().contains("hello there"));
    let nodes = cli.text(&[&["nodes", "list"], &target[..]].concat()).await;
    assert!(nodes.contains("Paired: 0"), "{nodes}");
}

#[tokio::test]
async fn the_node_host_of_the_reference_is_approved_and_invoked() {
    let gateway = json!({ "auth": { "token": TOKEN }, "pairing": { "loopback": "ask" } });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await;
    let mut config = pointed_at(&daemon);
    config["tools"] = json!({ "exec": { "security": "full", "ask": "off" } });
    let host = Foreign::clawdbot(&config).await;
    let mut operator = daemon.operator().await;

    let port = daemon.port().to_string();
    // It ends when it is refused; people start it again once it is approved.
    let run = ["node", "run", "--host", "127.0.0.1", "--port", &port];
    let mut refused = host.start(&run);
    let request = wait_for(&mut operator, "device.pair.list", &host, |list| {
        list["pending"][0]["requestId"].clone()
    })
    .await;
    operator.call("device.pair.approve", json!({ "requestId": request })).await.unwrap();
    refused.wait().await.unwrap();
    let mut node = host.start(&run);
    let id = wait_for(&mut operator, "node.list", &host, |list| {
        let nodes = list["nodes"].as_array().cloned().unwrap_or_default();
        nodes
            .iter()
            .find(|node| node["connected"] == true)
            .map_or(Value::Null, |node| node["nodeId"].clone())
    })
    .await;

    let invoke = json!({
        "nodeId": id,
        "command": "system.which",
        "params": { "bins": ["sh"] },
        "idempotencyKey": "which",
    });
    let found = operator.call("node.invoke", invoke).await.unwrap();
    assert!(found["payload"]["bins"]["sh"].as_str().unwrap().ends_with("/sh"), "{found}");
    let invoke = json!({
        "nodeId": id,
        "command": "system.run",
        "params": { "command": ["echo", "from the node"] },
        "idempotencyKey": "run",
    });
    let ran = operator.call("node.invoke", invoke).await;
    let ran = ran.unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    assert_eq!(ran["payload"]["stdout"].as_str().unwrap().trim(), "from the node", "{ran}");
    node.kill().await.unwrap();
}

#[tokio::test]
async fn the_newer_cli_works() {
    let daemon = Daemon::start().await;
    let cli = Foreign::openclaw(&pointed_at(&daemon)).await;
    let target = ["--url", &daemon.url(), "--token", TOKEN];

    let health = cli.json(&["health", "--json"]).await;
    assert_eq!(health["ok"], true);
    let status = cli.json(&["status", "--json"]).await;
    assert_eq!(status["gateway"]["reachable"], true, "{status}");
    let call = cli.json(&[&["gateway", "call", "status", "--json"], &target[..]].concat()).await;
    assert!(call.is_object(), "{call}");
    let devices = cli.json(&[&["devices", "list", "--json"], &target[..]].concat()).await;
    assert_eq!(devices["paired"].as_array().unwrap().len(), 1, "its own device: {devices}");
    let answer = cli.json(&["agent", "--agent", "main", "-m", "hello there", "--json"]).await;
    assert_eq!(answer["status"], "ok", "{answer}");
}

fn pointed_at(daemon: &Daemon) -> Value {
    json!({ "gateway": {
        "mode": "local",
        "port": daemon.port(),
        "auth": { "mode": "token", "token": TOKEN },
    } })
}

/// Asks again until there is an answer. The other side needs seconds to start.
async fn wait_for(
    client: &mut Client,
    method: &str,
    host: &Foreign,
    pick: impl Fn(&Value) -> Value,
) -> Value {
    for _ in 0..600 {
        let found = pick(&client.call(method, json!({})).await.unwrap());
        if !found.is_null() {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{method} never showed it; the host says: {}", host.log());
}
