//! `config.*`, `logs.tail`, and a configuration that changes while the daemon
//! runs.

use moltbot_protocol::methods::{
    config::{ConfigGet, ConfigSchema},
    logs::LogsTail,
};
use moltbot_tests::{Connect, Daemon, Options, daemon::TOKEN};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const CANARY: &str = "canary-5f2e9c7a1b3d4e6f-secret";

fn with_canaries() -> Options {
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "env": { "vars": { "SOME_KEY": format!("{CANARY}-env") } },
        "hooks": { "token": format!("{CANARY}-hooks") },
        "models": { "providers": { "mock": {
            "baseUrl": "http://127.0.0.1:9/v1",
            "apiKey": format!("{CANARY}-key"),
            "headers": { "Authorization": format!("Bearer {CANARY}") },
        } } },
        "ui": { "assistant": { "name": "${CANARY_NAME}" } },
        "unknown": { "password": format!("{CANARY}-password") },
    });
    let mut options = Options::with(config);
    options.variables.push(("CANARY_NAME".into(), "visible".into()));
    options.variables.push(("OTHER_TOKEN".into(), format!("{CANARY}-variable")));
    options.arguments.extend(["--log".into(), "trace".into()]);
    options
}

#[tokio::test]
async fn the_configuration_is_shown_without_its_secrets() {
    let daemon = Daemon::start_with(with_canaries()).await;
    let mut operator = daemon.operator().await;
    let shown = operator.request(ConfigGet {}).await.unwrap();
    assert!(shown.exists && shown.valid && shown.issues.is_empty(), "{shown:?}");
    assert_eq!(shown.config["gateway"]["auth"]["token"], "__REDACTED__");
    assert_eq!(shown.config["ui"]["assistant"]["name"], "visible");
    assert_eq!(shown.parsed["ui"]["assistant"]["name"], "${CANARY_NAME}");
    assert_eq!(shown.config["agents"]["defaults"]["maxConcurrent"], 4);
    assert_eq!(shown.hash.len(), 64);
    assert_eq!(shown.warnings[0].path, "unknown");
    assert!(shown.raw.as_ref().unwrap().contains("__REDACTED__"));
    let text = serde_json::to_string(&shown).unwrap();
    assert!(!text.contains(CANARY) && !text.contains(TOKEN), "{text}");
}

#[tokio::test]
async fn no_secret_reaches_a_log() {
    let mut daemon = Daemon::start_with(with_canaries()).await;
    let mut operator = daemon.operator().await;
    operator.request(ConfigGet {}).await.unwrap();
    daemon.connect(Connect::operator()).await.close().await;
    daemon.signal(Signal::SIGHUP);
    until_logged(&mut operator, "configuration reloaded").await;
    daemon.stop().await;
    let file = std::fs::read_to_string(daemon.state_dir().join("logs/moltbot.log")).unwrap();
    for (name, text) in [("stderr", daemon.log()), ("moltbot.log", file)] {
        assert!(text.contains("starting"), "{name}: {text}");
        assert!(!text.contains(CANARY) && !text.contains(TOKEN), "{name}: {text}");
    }
}

#[tokio::test]
async fn every_key_is_described() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let described = operator.request(ConfigSchema {}).await.unwrap();
    assert_eq!(described.schema["type"], "object");
    assert_eq!(described.ui_hints["gateway.auth.token"]["sensitive"], true);
    assert_eq!(described.ui_hints["gateway"]["order"], 30);
    assert!(described.generated_at.ends_with('Z'));
}

#[tokio::test]
async fn the_log_is_read_on_from_where_it_ended() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let first = operator.request(LogsTail::default()).await.unwrap();
    assert!(first.file.ends_with("moltbot.log"));
    let line: Value = serde_json::from_str(&first.lines[0]).unwrap();
    assert_eq!(line["_meta"]["logLevelName"], "INFO");
    let subsystem: Value = serde_json::from_str(line["0"].as_str().unwrap()).unwrap();
    assert!(subsystem["subsystem"].is_string());
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    daemon.signal(Signal::SIGHUP);
    until_logged(&mut operator, "configuration reloaded").await;
    let since =
        operator.request(LogsTail { cursor: Some(first.cursor), ..LogsTail::default() }).await;
    let since = since.unwrap();
    assert!(!since.reset && !since.lines.contains(&first.lines[0]), "{since:?}");
    let refused = operator.call("logs.tail", json!({ "limit": 0 })).await.unwrap_err();
    assert_eq!(refused["message"], "invalid logs.tail params: at /limit: must be >= 1");
}

#[tokio::test]
async fn the_log_is_for_administrators() {
    let daemon = Daemon::start().await;
    let mut reader = daemon.connect(Connect::operator().scopes(&["operator.read"])).await;
    for method in ["logs.tail", "config.get", "config.schema"] {
        let refused = reader.call(method, json!({})).await.unwrap_err();
        assert_eq!(refused["message"], "missing scope: operator.admin", "{method}");
    }
}

#[tokio::test]
async fn a_hangup_puts_a_new_level_in_force_and_keeps_the_last_good_file() {
    let mut daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let auth = json!({ "auth": { "token": TOKEN } });
    daemon.configure(json!({ "gateway": auth, "logging": { "level": "debug" } }));
    daemon.signal(Signal::SIGHUP);
    until_logged(&mut operator, "configuration reloaded changed=logging.level").await;
    let refused = operator.call("no.such.method", json!({})).await;
    refused.unwrap_err();
    until_logged(&mut operator, "call refused").await;

    daemon.configure(json!({ "gateway": auth, "logging": { "level": "loud" } }));
    daemon.signal(Signal::SIGHUP);
    let line = until_logged(&mut operator, "configuration kept").await;
    assert!(line.contains("logging.level"), "{line}");
    let shown = operator.request(ConfigGet {}).await.unwrap();
    assert_eq!(shown.config["logging"]["level"], "debug");
}

/// Returns the first line that holds a text, once there is one.
async fn until_logged(operator: &mut moltbot_tests::Client, text: &str) -> String {
    let search = async {
        loop {
            let tail = operator.request(LogsTail::default()).await.unwrap();
            if let Some(line) = tail.lines.into_iter().find(|line| line.contains(text)) {
                return line;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(moltbot_tests::PATIENCE, search).await;
    found.unwrap_or_else(|_| panic!("never logged: {text}"))
}
