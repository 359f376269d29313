//! Regression tests for published weaknesses of OpenClaw that a gateway like this one could
//! share.
//!
//! The name of a test says which advisory it is for. `security_record` maps every advisory to
//! its tests, including those that have another name because they prove more than one thing.

use std::path::{Path, PathBuf};

use moltbot_tests::{Client, Connect, Daemon, Device, Options, Version, daemon::TOKEN};
use serde_json::{Value, json};
use tokio::net::TcpListener;

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
    // A device key of the caller's own making does not lift the ceiling, at the first connection
    // or a later one, whether it names its scopes or leaves them out.
    let device = Device::new();
    let proven = Connect::operator().device(&device, Version::V2);
    for connect in [
        Connect::operator(),
        proven.clone(),
        proven.clone(),
        proven.without("scopes"),
        Connect::operator().without("scopes").device(&Device::new(), Version::V3),
    ] {
        let mut client = daemon.connect(connect).await;
        for method in ["config.get", "device.pair.list", "chat.send", "node.invoke"] {
            let error = client.call(method, json!({})).await.unwrap_err();
            assert!(text(&error).starts_with("missing scope"), "{method}: {error}");
        }
        client.call("status", json!({})).await.unwrap();
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
    // What the gateway may write: its state, its configuration's backups, its log.
    let outside = daemon.home().parent().unwrap().join("escaped");
    let before = files(daemon.home());
    for key in [
        "agent:main:../../../escaped",
        "../../../escaped",
        "agent:../../escaped:main",
        "agent:main:/tmp/escaped",
        "agent:main:..%2f..%2fescaped",
        "agent:main:a\0escaped",
    ] {
        // Each of these writes something about the conversation; deleting archives it to a file.
        let patch = json!({ "key": key, "thinkingLevel": "low" });
        let _ = operator.call("sessions.patch", patch).await;
        let say = json!({ "sessionKey": key, "message": "hello", "idempotencyKey": key });
        if operator.call("chat.send", say).await.is_ok() {
            operator.event_where("chat", |payload| payload["state"] == "final").await;
        }
        let _ = operator.call("chat.history", json!({ "sessionKey": key })).await;
        let _ = operator.call("sessions.reset", json!({ "key": key })).await;
        let _ = operator.call("sessions.delete", json!({ "key": key })).await;
        let _ = operator.call("sessions.preview", json!({ "keys": [key] })).await;
    }
    assert!(!outside.exists() && !Path::new("/tmp/escaped").exists());
    for file in files(daemon.home()).iter().filter(|file| !before.contains(file)) {
        let below_state = file.starts_with(daemon.state_dir());
        assert!(below_state && !file.to_string_lossy().contains("escaped"), "{}", file.display());
    }
}

/// Returns every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn ghsa_v865_p3gq_hw6m_an_encoded_path_reaches_no_other_page() {
    let daemon = Daemon::start().await;
    for path in ["/%2e%2e/healthz", "/%252fhealthz", "//healthz", "/x/../healthz", "/healthz%00"] {
        let (status, _) = daemon.get(path, &[]).await;
        assert_eq!(status, 400, "{path}");
        let url = format!("{}{path}", daemon.url());
        let refusal = Client::connect(&url, Connect::operator()).await.unwrap_err();
        assert_eq!(refusal.status, Some(400), "{path}: {refusal:?}");
    }
}

#[tokio::test]
async fn cve_2026_53832_identity_headers_of_a_proxy_log_nobody_in() {
    let gateway = json!({ "auth": { "token": TOKEN }, "trustedProxies": ["127.0.0.1"] });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await;
    for header in [
        "X-Forwarded-User",
        "X-Remote-User",
        "Remote-User",
        "X-Auth-Request-Email",
        "X-WebAuth-User",
        "Cf-Access-Authenticated-User-Email",
        "Tailscale-User-Login",
    ] {
        let connect = Connect::operator()
            .without("auth")
            .device(&Device::new(), Version::V2)
            .header("X-Forwarded-For", "203.0.113.9")
            .header(header, "owner@example.com");
        let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
        assert!(refusal.error.is_some() || refusal.status.is_some(), "{header}: {refusal:?}");
    }
}

#[tokio::test]
async fn ghsa_qjpc_qf9m_xwmr_scopes_that_a_client_declares_count_for_nothing_before_pairing() {
    let gateway = json!({ "auth": { "token": TOKEN }, "trustedProxies": ["127.0.0.1"] });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await;
    let connect = Connect::operator()
        .device(&Device::new(), Version::V2)
        .header("X-Forwarded-For", "203.0.113.9");
    let mut stranger = Client::open(&daemon.url(), &connect.headers).await.unwrap();
    let params = connect.signed(&stranger.nonce);
    let error = stranger.call("connect", params).await.unwrap_err();
    assert_eq!(text(&error), "pairing required");
    let error = stranger.call("config.get", json!({})).await.unwrap_err();
    assert!(error.is_null(), "the connection is closed: {error}");
}

#[tokio::test]
async fn cve_2026_32042_cve_2026_35663_a_reconnect_claims_no_scope_that_was_not_granted() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let modest =
        Connect::operator().scopes(&["operator.read"]).device(&device, Version::V2).remote();
    let request = ask(&daemon, modest.clone()).await;
    operator.call("device.pair.approve", json!({ "requestId": request })).await.unwrap();
    let client = daemon.connect(modest.clone()).await;
    let token = client.hello["auth"]["deviceToken"].as_str().unwrap().to_owned();

    // Neither the shared secret nor the device's own token makes more of it.
    let greedy = Connect::operator().device(&device, Version::V2).remote();
    for connect in [greedy.clone(), greedy.token(&token)] {
        if let Ok(mut client) = Client::connect(&daemon.url(), connect).await {
            let error = client.call("config.get", json!({})).await.unwrap_err();
            assert!(text(&error).starts_with("missing scope"), "{error}");
        }
    }
    let mut client = daemon.connect(modest).await;
    let error = client.call("device.pair.list", json!({})).await.unwrap_err();
    assert!(text(&error).starts_with("missing scope"), "{error}");
}

#[tokio::test]
async fn cve_2026_53862_cve_2026_53852_asking_again_widens_no_approval() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let modest =
        Connect::operator().scopes(&["operator.read"]).device(&device, Version::V2).remote();
    let request = ask(&daemon, modest.clone()).await;
    operator.call("device.pair.approve", json!({ "requestId": request.clone() })).await.unwrap();

    // The request that was answered cannot be answered once more.
    operator.call("device.pair.approve", json!({ "requestId": request })).await.unwrap_err();
    let granted = |list: &Value| {
        let paired = list["paired"].as_array().unwrap().iter();
        let own = paired.filter(|entry| entry["deviceId"] == device.id()).cloned();
        own.map(|mut entry| entry["scopes"].take()).collect::<Vec<_>>()
    };
    let before = granted(&operator.call("device.pair.list", json!({})).await.unwrap());
    // A device that asks for nothing, or for everything, keeps what it has.
    for scopes in [&[][..], &["operator.admin"], &["operator.read", "operator.pairing"]] {
        let _ = Client::connect(&daemon.url(), modest.clone().scopes(scopes)).await;
    }
    let after = granted(&operator.call("device.pair.list", json!({})).await.unwrap());
    assert_eq!(before, after);
}

#[tokio::test]
async fn pr_50637_pr_57647_a_device_does_not_switch_the_limiter_off() {
    let daemon = Daemon::start().await;
    let mut limited = false;
    for guess in 0..200 {
        let wrong = Connect::operator()
            .token(&format!("guess {guess}"))
            .device(&Device::new(), Version::V2);
        let refusal = Client::connect(&daemon.url(), wrong).await.unwrap_err();
        if refusal.error.as_ref().is_some_and(|error| text(error).contains("too many")) {
            limited = true;
            break;
        }
    }
    assert!(limited, "two hundred guesses and nobody minds");
}

#[tokio::test]
async fn cve_2026_32045_an_identity_of_the_tailnet_opens_no_page() {
    let daemon = Daemon::start().await;
    let headers = [
        ("Tailscale-User-Login", "owner@example.com"),
        ("Tailscale-User-Name", "Owner"),
        ("X-Forwarded-For", "100.64.0.7"),
    ];
    for path in ["/metrics", "/tools/invoke", "/v1/chat/completions", "/v1/responses"] {
        let (status, body) = daemon.get(path, &headers).await;
        assert!((400..500).contains(&status), "{path}: {status} {body}");
    }
}

#[tokio::test]
async fn ghsa_943q_mwmv_hhvh_no_tool_is_reached_over_plain_http() {
    let daemon = Daemon::start().await;
    let bearer = format!("Bearer {TOKEN}");
    for method in ["GET", "POST", "PUT", "DELETE"] {
        for path in ["/tools/invoke", "/v1/chat/completions", "/v1/responses", "/hooks/agent"] {
            let headers = [("Authorization", bearer.as_str()), ("Content-Length", "0")];
            let answer =
                moltbot_tests::daemon::request(daemon.port(), method, path, &headers).await;
            let (status, _) = answer.unwrap();
            assert!(matches!(status, 404 | 405), "{method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn cve_2026_28478_no_body_is_collected() {
    let daemon = Daemon::start().await;
    for length in ["1000000000", "18446744073709551615"] {
        let headers = [("Content-Length", length), ("Content-Type", "application/json")];
        // The answer comes although the body never does.
        let answer =
            moltbot_tests::daemon::request(daemon.port(), "POST", "/hooks", &headers).await;
        assert!((400..500).contains(&answer.unwrap().0));
    }
}

#[tokio::test]
async fn cve_2026_41349_an_agent_has_no_tool_that_changes_the_configuration() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let config = daemon.home().join("moltbot.json");
    let before = std::fs::read(&config).unwrap();
    for call in [
        r#"gateway {"action":"config.patch","raw":"{gateway:{auth:{mode:'none'}}}"}"#,
        r#"gateway {"action":"config.apply","raw":"{}"}"#,
        r#"gateway {"action":"config.get"}"#,
        r#"config {"action":"set","path":"gateway.auth.mode","value":"none"}"#,
        r#"nodes {"action":"approve","requestId":"x"}"#,
        r#"exec {"command":"id"}"#,
    ] {
        let said = say(&mut operator, &format!("/tool {call}")).await;
        assert!(!said.contains(TOKEN), "{call}: {said}");
    }
    assert_eq!(std::fs::read(&config).unwrap(), before);
}

#[tokio::test]
async fn cve_2026_26322_cve_2026_28467_no_address_that_somebody_names_is_opened() {
    let daemon = Daemon::start().await;
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = trap.local_addr().unwrap();
    let mut operator = daemon.operator().await;
    for call in ["gateway", "nodes"] {
        for field in ["gatewayUrl", "url", "endpoint"] {
            let arguments = json!({ "action": "status", field: format!("ws://{address}") });
            say(&mut operator, &format!("/tool {call} {arguments}")).await;
        }
    }
    say(&mut operator, &format!("look at http://{address}/picture.png")).await;
    let attachments = json!([
        { "type": "image", "url": format!("http://{address}/a.png") },
        { "type": "file", "source": { "url": format!("http://{address}/b") } },
    ]);
    let message = json!({
        "sessionKey": "main", "message": "see this", "idempotencyKey": "attached",
        "attachments": attachments,
    });
    if operator.call("chat.send", message).await.is_ok() {
        operator.event_where("chat", |payload| payload["runId"] == "attached").await;
    }
    operator.call("health", json!({})).await.unwrap();
    // Everything that was asked for has ended: a connection would be waiting by now.
    let visitor = std::future::poll_fn(|cx| match trap.poll_accept(cx) {
        std::task::Poll::Ready(accepted) => std::task::Poll::Ready(Some(accepted)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    });
    assert!(visitor.await.is_none(), "somebody connected to {address}");
}

#[tokio::test]
async fn cve_2026_41396_cve_2026_53858_cve_2026_53865_a_file_of_the_folder_steers_nothing() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    // The daemon runs in its home; what lies there is the workspace's, not the operator's.
    let elsewhere = daemon.home().join("elsewhere");
    let planted = format!(
        "MOLTBOT_GATEWAY_TOKEN=planted\nCLAWDBOT_GATEWAY_TOKEN=planted\n\
         OPENCLAW_GATEWAY_TOKEN=planted\nMOLTBOT_STATE_DIR={0}\nSTATE_DIRECTORY={0}\n\
         MOLTBOT_CONFIG_PATH={0}/moltbot.json\nPATH={0}\nLD_PRELOAD={0}/evil.so\n",
        elsewhere.display()
    );
    for name in [".env", ".env.local", "state/.env"] {
        std::fs::write(daemon.home().join(name), &planted).unwrap();
    }
    daemon.start_again().await;
    let planted = Connect::operator().token("planted");
    Client::connect(&daemon.url(), planted).await.unwrap_err();
    daemon.operator().await;
    assert!(!elsewhere.exists());
}

/// Secrets are compared by `Secret::matches` alone, which compares digests: an early return
/// for another length, or at the first byte that differs, is what these were.
#[test]
fn cve_2026_28464_cve_2026_28475_cve_2026_41407_secrets_are_compared_in_one_place() {
    let source = moltbot_tests::programs::source_root().join("moltbotd/src");
    let compares = |path: &PathBuf| std::fs::read_to_string(path).unwrap().contains("ct_eq");
    let places: Vec<PathBuf> = files(&source).into_iter().filter(compares).collect();
    assert_eq!(places, [source.join("auth/secret.rs")]);
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

/// Connects a device that nobody has approved yet; returns the id of its request.
async fn ask(daemon: &Daemon, connect: Connect) -> String {
    let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
    refusal.error.unwrap()["details"]["requestId"].as_str().unwrap().to_owned()
}

/// Says something in the main conversation and returns the end of the run it led to.
async fn say(client: &mut Client, message: &str) -> String {
    let key = uuid::Uuid::new_v4().to_string();
    let params = json!({ "sessionKey": "main", "message": message, "idempotencyKey": key });
    client.call("chat.send", params).await.unwrap();
    let ended = |payload: &Value| {
        payload["runId"] == key && (payload["state"] == "final" || payload["state"] == "error")
    };
    client.event_where("chat", ended).await.to_string()
}

fn text(error: &Value) -> &str {
    error["message"].as_str().unwrap_or_default()
}
