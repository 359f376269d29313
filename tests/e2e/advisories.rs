//! One test for each published weakness of the reference that a gateway like
//! this one could share. The name tells which.

use moltbot_tests::{Client, Connect, Daemon, Device, Options, Version, daemon::TOKEN};
use serde_json::{Value, json};

#[tokio::test]
async fn cve_2026_25253_a_page_of_another_site_cannot_use_a_stolen_token() {
    let daemon = Daemon::start().await;
    let connect = Connect::operator().header("Origin", "https://evil.example");
    let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
    assert_eq!(refusal.status, Some(403));
}

#[tokio::test]
async fn cve_2026_32025_a_page_cannot_guess_the_secret_over_loopback() {
    let daemon = Daemon::start().await;
    for guess in ["a", "b"] {
        let connect = Connect::operator().token(guess).header("Origin", "http://localhost:8080");
        let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
        assert_eq!(refusal.status, Some(403), "refused before the guess was looked at");
    }
}

#[tokio::test]
async fn cve_2026_26317_plain_http_changes_nothing() {
    let daemon = Daemon::start().await;
    for path in ["/", "/healthz", "/tools/invoke", "/hooks/wake", "/config"] {
        let headers = [("Content-Length", "0"), ("Origin", "https://evil.example")];
        let (status, _) =
            moltbot_tests::daemon::request(daemon.port(), "POST", path, &headers).await.unwrap();
        assert!((400..500).contains(&status), "{path}: {status}");
    }
}

#[tokio::test]
async fn cve_2026_53817_a_spoofed_origin_host_mints_no_device_token() {
    let daemon = Daemon::start().await;
    let connect = Connect::operator()
        .device(&Device::new(), Version::V2)
        .header("X-Forwarded-For", "127.0.0.1")
        .header("X-Forwarded-Host", "localhost");
    let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
    assert_eq!(refusal.error.unwrap()["message"], "pairing required");
}

#[tokio::test]
async fn cve_2026_22172_the_shared_secret_does_not_choose_its_own_scopes() {
    let auth = json!({ "token": TOKEN, "sharedSecretScopes": ["operator.read"] });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": { "auth": auth } }))).await;
    let mut client = daemon.operator().await;
    for method in ["config.get", "device.pair.list", "chat.send", "node.invoke"] {
        let error = client.call(method, json!({})).await.unwrap_err();
        assert!(text(&error).starts_with("missing scope"), "{method}: {error}");
    }
}

#[tokio::test]
async fn cve_2026_28472_a_token_that_was_not_verified_replaces_no_device_key() {
    let daemon = Daemon::start().await;
    let connect = Connect::operator()
        .set("/client/id", "moltbot-control-ui")
        .set("/client/mode", "webchat")
        .token("present but wrong");
    Client::connect(&daemon.url(), connect.clone()).await.unwrap_err();
    let right = connect.token(TOKEN);
    Client::connect(&daemon.url(), right).await.unwrap_err();
}

#[tokio::test]
async fn cve_2026_34503_a_removed_node_loses_its_socket() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = daemon.connect(Connect::node(&device, &["system.run"])).await;
    operator.call("device.pair.remove", json!({ "deviceId": device.id() })).await.unwrap();
    assert_eq!(node.closed().await.0, 1008);
}

#[tokio::test]
async fn ghsa_4jpw_hj22_2xmc_rotating_grants_nothing_the_caller_lacks() {
    let daemon = Daemon::start().await;
    let device = Device::new();
    let connect = Connect::operator().scopes(&["operator.read"]).device(&device, Version::V2);
    daemon.connect(connect).await;
    let mut doorman = daemon.connect(Connect::operator().scopes(&["operator.pairing"])).await;
    let params =
        json!({ "deviceId": device.id(), "role": "operator", "scopes": ["operator.admin"] });
    doorman.call("device.token.rotate", params).await.unwrap_err();
}

#[tokio::test]
async fn cve_2026_25593_nothing_but_connect_is_heard_before_connect() {
    let daemon = Daemon::start().await;
    for method in ["config.apply", "config.get", "node.invoke", "chat.send"] {
        let mut stranger = Client::open(&daemon.url(), &[]).await.unwrap();
        let error = stranger.call(method, json!({})).await.unwrap_err();
        assert_eq!(text(&error), "invalid handshake: first request must be connect");
        assert_eq!(stranger.closed().await.0, 1008);
    }
}

#[tokio::test]
async fn cve_2026_28466_a_caller_cannot_approve_its_own_command() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = daemon.connect(Connect::node(&device, &["system.run"])).await;
    let invoke = json!({
        "nodeId": device.id(),
        "command": "system.run",
        "params": {
            "command": ["id"],
            "approved": true,
            "approvalDecision": "allow-always",
            "approvalId": "x",
        },
        "idempotencyKey": "approved",
    });
    operator.send("node.invoke", invoke).await;
    let request = node.next_event("node.invoke.request").await;
    let params: Value =
        serde_json::from_str(request["payload"]["paramsJSON"].as_str().unwrap()).unwrap();
    assert_eq!(params, json!({ "command": ["id"] }));
}

#[tokio::test]
async fn cve_2026_28482_a_session_key_is_never_a_path() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let key = "agent:main:../../../escaped";
    let patch = json!({ "key": key, "thinkingLevel": "low" });
    let _ = operator.call("sessions.patch", patch).await;
    let _ = operator.call("chat.history", json!({ "sessionKey": key })).await;
    for folder in [daemon.home(), daemon.home().parent().unwrap()] {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!names.into_iter().any(|name| name.to_string_lossy().contains("escaped")));
    }
}

#[tokio::test]
async fn ghsa_v865_p3gq_hw6m_an_encoded_path_reaches_no_other_page() {
    let daemon = Daemon::start().await;
    for path in ["/%2e%2e/healthz", "/%252fhealthz", "//healthz", "/x/../healthz", "/healthz%00"] {
        let (status, _) = daemon.get(path, &[]).await;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
}

#[tokio::test]
async fn a_peers_text_is_one_line_of_the_log() {
    let options = Options { arguments: vec!["--log".into(), "debug".into()], ..Options::default() };
    let daemon = Daemon::start_with(options).await;
    let forged = "x\n2026-01-01T00:00:00Z ERROR forged line\u{1b}[31m";
    let connect = Connect::operator()
        .token("wrong")
        .set("/client/displayName", forged)
        .set("/client/version", forged);
    Client::connect(&daemon.url(), connect).await.unwrap_err();
    let mut operator = daemon.operator().await;
    let _ = operator.call(forged, json!({})).await;
    operator.call("health", json!({})).await.unwrap();
    let log = daemon.log();
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z ERROR")), "{log}");
    assert!(!log.contains("\u{1b}[31m"), "{log}");
}

#[tokio::test]
async fn no_secret_is_logged_or_told() {
    let canary = "sk-canary-7f3a1c";
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "models": { "providers": { "mine": {
            "baseUrl": "http://127.0.0.1:9/v1",
            "apiKey": canary,
            "api": "openai-completions",
            "models": [{ "id": "one", "name": "One" }],
        } } },
    });
    let options =
        Options { arguments: vec!["--log".into(), "trace".into()], ..Options::with(config) };
    let daemon = Daemon::start_with(options).await;
    let mut operator = daemon.operator().await;
    let mut told = String::new();
    for method in ["config.get", "status", "health", "models.list", "logs.tail"] {
        let answer = operator.call(method, json!({})).await;
        told.push_str(&answer.unwrap_or_else(|error| error).to_string());
    }
    let guess = Connect::operator().token("guessed-secret-91b2");
    let refusal = Client::connect(&daemon.url(), guess).await.unwrap_err();
    told.push_str(&format!("{refusal:?}"));
    told.push_str(&daemon.log());
    for secret in [canary, TOKEN, "guessed-secret-91b2"] {
        assert!(!told.contains(secret), "{secret} was told");
    }
}

fn text(error: &Value) -> &str {
    error["message"].as_str().unwrap_or_default()
}
