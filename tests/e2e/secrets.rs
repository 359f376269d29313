//! Shared secrets that change while the daemon runs.

use std::os::unix::fs::PermissionsExt as _;

use moltbot_tests::{
    Client, Connect, Daemon, Options,
    daemon::TOKEN,
    device::{Device, Version},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const NEXT: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

fn with_token(token: &str) -> Value {
    json!({ "gateway": { "auth": { "token": token } } })
}

async fn is_served(client: &mut Client) {
    client.call("health", json!({})).await.unwrap();
}

#[tokio::test]
async fn another_token_counts_at_once_and_ends_what_the_old_one_opened() {
    let mut daemon = Daemon::start().await;
    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut control = control.introduce(Connect::operator()).await.unwrap();
    let mut stranger = daemon.operator().await;
    let device = Device::new();
    let paired = Connect::operator().device(&device, Version::V2);
    let mut first = daemon.connect(paired.clone()).await;
    let own = first.hello["auth"]["deviceToken"].as_str().unwrap().to_owned();
    let mut kept = daemon.connect(paired.clone().token(&own)).await;
    let mut node = daemon.connect(Connect::node(&Device::new(), &["system.run"])).await;

    daemon.configure(with_token(NEXT));
    for client in [&mut stranger, &mut first, &mut node] {
        assert_eq!(client.closed().await, (1008, "the gateway's secret changed".to_owned()));
    }
    // What never depended on it goes on.
    is_served(&mut kept).await;
    is_served(&mut control).await;
    Client::connect(&daemon.url(), Connect::operator()).await.unwrap_err();
    daemon.connect(paired.token(&own)).await;
    is_served(&mut daemon.connect(Connect::operator().token(NEXT)).await).await;
    assert!(!daemon.log().contains(NEXT), "{}", daemon.log());
}

#[tokio::test]
async fn whoever_changes_the_secret_is_answered_and_comes_again_with_the_new_one() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let hash = operator.call("config.get", json!({})).await.unwrap()["hash"].clone();
    let raw = json!({ "gateway": { "auth": { "mode": "password", "password": NEXT } } });
    let params = json!({ "raw": raw.to_string(), "baseHash": hash });
    let answer = operator.call("config.patch", params).await.unwrap();
    assert_eq!(answer["restart"]["mode"], "none", "{answer}");
    assert_eq!(operator.closed().await.0, 1008);
    Client::connect(&daemon.url(), Connect::operator()).await.unwrap_err();
    let connect = Connect::operator().set("/auth", json!({ "token": "x", "password": NEXT }));
    is_served(&mut daemon.connect(connect).await).await;
}

#[tokio::test]
async fn narrower_scopes_reach_those_who_are_connected() {
    let mut daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let mut config = with_token(TOKEN);
    config["gateway"]["auth"]["sharedSecretScopes"] = json!(["operator.read"]);
    daemon.configure(config);
    assert_eq!(operator.closed().await.0, 1008);
    let mut operator = daemon.operator().await;
    operator.call("config.get", json!({})).await.unwrap_err();
    is_served(&mut operator).await;
}

#[tokio::test]
async fn a_file_with_a_token_is_read_again_when_a_reload_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let write = |token: &str| {
        std::fs::write(&file, token).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(TOKEN);
    let mut options = Options::with(json!({}));
    options.arguments = vec!["--token-file".into(), file.display().to_string()];
    let daemon = Daemon::start_with(options).await;
    let mut operator = daemon.operator().await;
    write(NEXT);
    daemon.signal(Signal::SIGHUP);
    assert_eq!(operator.closed().await.0, 1008);
    let mut operator = daemon.connect(Connect::operator().token(NEXT)).await;
    // What cannot be used changes nothing.
    write("");
    daemon.signal(Signal::SIGHUP);
    while !daemon.log().contains("shared secrets kept") {
        is_served(&mut operator).await;
    }
    is_served(&mut daemon.connect(Connect::operator().token(NEXT)).await).await;
}

/// Secrets of every kind that a configuration holds, each at a place of its own. `N` is replaced
/// by a number, so that each is found again by itself.
const PLANTED: &str = r#"{
  // An older token was planted-N-in-a-comment, and logging must not tell it.
  gateway: {
    auth: { token: "TOKEN" },
    remote: { token: "planted-N", password: "planted-N" },
  },
  env: { A_KEY: "planted-N", vars: { B: "planted-N" } },
  models: { providers: {
    one: {
      baseUrl: "http://user:planted-N@127.0.0.1:9/v1", apiKey: "planted-N",
      api: "openai-completions",
      headers: { Authorization: "Bearer planted-N", "X-Tenant": "planted-N", Cookie: "planted-N" },
      models: [{ id: "m", headers: { "X-More": "planted-N" } }],
    },
    two: { baseUrl: "http://127.0.0.1:9/x?key=planted-N", api: "openai-completions", models: [] },
  } },
  channels: {
    telegram: {
      enabled: false, botToken: "1:planted-N", webhookSecret: "planted-N",
      webhookUrl: "https://h.example/planted-N", proxy: "http://u:planted-N@127.0.0.1:9",
      accounts: { b: { enabled: false, botToken: "2:planted-N" } },
    },
  },
  skills: { entries: {
    s: { apiKey: "planted-N", env: { ANYTHING: "planted-N", PLAIN: "planted-N" } },
    t: { config: { secretKey: "planted-N", code: "planted-N", clientSecret: "planted-N" } },
  } },
  agents: { defaults: { sandbox: { docker: { env: { D: "planted-N" } } } } },
  tools: {
    web: { search: { apiKey: "planted-N" }, fetch: { headers: { Anything: "planted-N" } } },
  },
  hooks: { token: "planted-N", mappings: [{ webhookUrl: "https://hooks.example/x/planted-N" }] },
  browser: { profiles: { p: { cdpUrl: "wss://h.example/?token=planted-N", cookie: "planted-N" } } },
  talk: { apiKey: "planted-N", providers: { x: { accessKey: "planted-N", signingKey: "planted-N" } } },
  nodeHost: { password: "planted-N", passphrase: "planted-N", env: { E: "planted-N" } },
  plugins: { entries: { q: { config: {
    jwt: "planted-N", credentials: { a: "planted-N" }, tokens: ["planted-N", "planted-N"],
    privateKey: "-----BEGIN PRIVATE KEY-----\nplanted-N\n-----END PRIVATE KEY-----",
    note: "-----BEGIN EC PRIVATE KEY-----\nplanted-N\n-----END EC PRIVATE KEY-----",
    args: ["serve", "--api-key", "planted-N", "--token=planted-N", "plain"],
    dsn: "postgres://u:planted-N@h.example/db", slack: "https://hooks.slack.com/services/planted-N",
    accessCode: "planted-N", pin: "planted-N", apiHash: "planted-N", connectionString: "planted-N",
    free: "sk-planted-N-0123456789", header: "Bearer planted-N-0123456789",
  } } } },
}"#;

/// Returns the configuration and the secrets in it.
fn planted() -> (String, Vec<String>) {
    let mut secrets = Vec::new();
    let mut text = String::new();
    for part in PLANTED.replace("TOKEN", TOKEN).split("planted-N") {
        if !text.is_empty() {
            let secret =
                format!("planted{}x{:x}", secrets.len() + 100, secrets.len() * 7919 + 65536);
            text.push_str(&secret);
            secrets.push(secret);
        }
        text.push_str(part);
    }
    secrets.push(TOKEN.to_owned());
    (text, secrets)
}

fn assert_untold(told: &str, secrets: &[String], place: &str) {
    let found: Vec<_> = secrets.iter().filter(|secret| told.contains(*secret)).collect();
    assert!(found.is_empty(), "{place} tells {found:?} in {told}");
}

#[tokio::test]
async fn none_of_many_planted_secrets_is_shown_anywhere() {
    let (text, mut secrets) = planted();
    assert!(secrets.len() >= 40, "{}", secrets.len());
    let in_comment = secrets.remove(0);
    let parsed: Value = json5::from_str(&text).unwrap();
    let mut options = Options::with(parsed);
    options.arguments = vec!["--log".into(), "trace".into()];
    let daemon = Daemon::start_with(options).await;
    std::fs::write(daemon.home().join("moltbot.json"), &text).unwrap();
    let mut operator = Client::open_control(&daemon.control_socket())
        .await
        .unwrap()
        .introduce(Connect::operator().without("auth"))
        .await
        .unwrap();

    // What the file says, as clients see it.
    let shown = loop {
        let shown = operator.call("config.get", json!({})).await.unwrap();
        if shown["raw"].as_str().is_some_and(|raw| raw.contains("older token")) {
            break shown;
        }
    };
    assert_eq!(shown["valid"], true, "{shown}");
    assert_untold(&shown.to_string(), &secrets, "config.get");
    let shown_raw = shown["raw"].as_str().unwrap();
    assert!(shown_raw.contains("plain") && shown_raw.contains("\"serve\""), "{shown_raw}");
    // A secret that is nowhere else cannot be told from the words of a comment.
    assert!(shown_raw.contains(&in_comment));

    // Sent back as it was shown, it means what is there.
    let params = json!({ "raw": shown_raw, "baseHash": shown["hash"] });
    let written = operator.call("config.set", params).await.unwrap();
    assert_untold(&written.to_string(), &secrets, "config.set");
    assert_eq!(config_text(&daemon), text);

    // Errors name the place, not what stands there.
    let hash = operator.call("config.get", json!({})).await.unwrap()["hash"].clone();
    for wrong in [
        json!({ "gateway": { "auth": { "token": { "a": secrets[3] } }, "port": secrets[4] } }),
        json!({ "models": { "providers": { "one": { "apiKey": [secrets[5]] } } } }),
        json!({ "env": secrets[6] }),
    ] {
        let params = json!({ "raw": wrong.to_string(), "baseHash": hash });
        if let Err(error) = operator.call("config.patch", params).await {
            let told = error.to_string().replace(&secrets[4], "");
            assert_untold(&told, &secrets, "config.patch");
        }
    }

    let mut told = String::new();
    for method in [
        "config.schema",
        "config.plan",
        "status",
        "health",
        "models.list",
        "channels.status",
        "logs.tail",
        "system-presence",
        "device.pair.list",
        "agents.list",
    ] {
        let answer = operator.call(method, json!({})).await;
        told.push_str(&answer.unwrap_or_else(|error| error).to_string());
    }
    assert_untold(&told, &secrets, "a method");
    assert_untold(&daemon.get("/metrics", &[]).await.1, &secrets, "/metrics");

    let ctl = moltbot_tests::Ctl::beside(&daemon);
    for arguments in [
        &["config", "history"][..],
        &["config", "get", "gateway"],
        &["config", "check"],
        &["config", "validate"],
        &["status"],
        &["status", "--all"],
        &["doctor"],
        &["doctor", "--json"],
        &["logs"],
        &["where"],
    ] {
        let output = ctl.run(arguments).await;
        let told = format!("{output:?}");
        assert_untold(&told, &secrets, &arguments.join(" "));
    }

    assert_untold(&daemon.log(), &secrets, "the log");
    let command_line = std::fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap_or_default();
    assert_untold(&String::from_utf8_lossy(&command_line), &secrets, "the command line");
}

fn config_text(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.home().join("moltbot.json")).unwrap()
}
