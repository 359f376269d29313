//! Healthy is said when it is true: what keeps the gateway from answering is found without anybody
//! having to write to it.

use moltbot_tests::{
    Ctl, Daemon, Options, PATIENCE,
    daemon::TOKEN,
    model_server::{ModelServer, Reply},
    ports,
};
use serde_json::{Value, json};

fn with(sections: &Value) -> Options {
    let mut config = json!({ "gateway": { "auth": { "token": TOKEN } } });
    config.as_object_mut().unwrap().extend(sections.as_object().unwrap().clone());
    Options::with(config)
}

fn model(name: &str) -> Value {
    json!({ "agents": { "defaults": { "model": { "primary": name } } } })
}

/// Everything that tells how the gateway is says the same, with a command.
async fn is_degraded_everywhere(daemon: &Daemon, word: &str) {
    let ctl = Ctl::beside(daemon);
    for command in ["status", "health"] {
        let report = ctl.json(&[command]).await;
        assert!(report["degraded"].to_string().contains(word), "{command}: {report:#}");
        let shown = ctl.text(&[command]).await;
        assert!(shown.contains("degraded") && shown.contains(word), "{shown}");
    }
    let doctor = ctl.run(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let mut findings = report["findings"].as_array().unwrap().iter();
    let found = findings.find(|it| {
        it["check"] == "gateway" && it["what"].as_str().is_some_and(|what| what.contains(word))
    });
    let command = found.unwrap_or_else(|| panic!("{word}: {report:#}"))["command"].as_str();
    assert!(command.unwrap().starts_with("moltbotctl "), "{report:#}");
    assert_eq!(doctor.status.code(), Some(1));
    // It serves all the same: whoever balances load must not take it away.
    assert_eq!(daemon.get("/readyz", &[]).await.0, 200);
}

async fn is_healthy(daemon: &Daemon) {
    let ctl = Ctl::beside(daemon);
    for command in ["status", "health"] {
        let report = ctl.json(&[command]).await;
        assert_eq!(report["degraded"], Value::Null, "{command}: {report:#}");
    }
}

async fn until_degraded(daemon: &Daemon, word: &str) {
    let mut client = daemon.operator().await;
    let search = async {
        loop {
            let health = client.call("health", json!({})).await.unwrap();
            if health["degraded"].to_string().contains(word) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.unwrap_or_else(|_| panic!("never degraded: {word}\n{}", daemon.log()));
}

#[tokio::test]
async fn the_built_in_model_is_a_healthy_one() {
    let daemon = Daemon::start().await;
    is_healthy(&daemon).await;
    let checked = Ctl::beside(&daemon).text(&["config", "check"]).await;
    assert!(checked.contains(": good."), "{checked}");
}

#[tokio::test]
async fn a_model_that_cannot_be_asked_is_named_before_anybody_writes_to_it() {
    let odd_api =
        json!({ "providers": { "mine": { "baseUrl": "http://127.0.0.1:9", "api": "telepathy" } } });
    let mut with_odd_api = model("mine/m");
    with_odd_api["models"] = odd_api;
    for (sections, key, word) in [
        (model("anthropic/claude"), "agents.defaults.model.primary", "no API key for anthropic"),
        (model("nobody/m"), "agents.defaults.model.primary", "unknown model provider: nobody"),
        (model("mock"), "agents.defaults.model.primary", "names no provider"),
        (with_odd_api, "models.providers.mine.api", "telepathy"),
    ] {
        let daemon = Daemon::start_with(with(&sections)).await;
        is_degraded_everywhere(&daemon, word).await;
        let checked = Ctl::beside(&daemon).run(&["config", "check"]).await;
        let told = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(told.contains(key) && told.contains(word), "{told}");
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(!said.contains("good"), "{said}");
        assert!(daemon.log().contains(word), "a start says it, too: {}", daemon.log());
    }
}

#[tokio::test]
async fn the_advice_about_a_missing_key_can_be_followed() {
    let daemon = Daemon::start_with(with(&model("anthropic/claude"))).await;
    until_degraded(&daemon, "run: moltbotctl config set models.providers.anthropic.apiKey -").await;
    let ctl = Ctl::beside(&daemon);
    ctl.text(&["config", "set", "models.providers.anthropic.apiKey", "sk-test-0123456789"]).await;
    is_healthy(&daemon).await;
}

#[tokio::test]
async fn how_the_last_call_of_a_model_ended_counts_until_one_succeeds() {
    let refused = Reply::error(401, &json!({ "error": { "message": "invalid key" } }));
    let server = ModelServer::start([refused]).await;
    let mut sections = model("scripted/m");
    sections["models"] = server.models("openai-completions");
    let daemon = Daemon::start_with(with(&sections)).await;
    let ctl = Ctl::beside(&daemon);
    is_healthy(&daemon).await;

    assert!(!ctl.run(&["agent", "-m", "hello"]).await.status.success());
    is_degraded_everywhere(&daemon, "scripted refused the key").await;
    server.then(Reply::openai(&["well"]));
    ctl.text(&["agent", "-m", "hello again"]).await;
    is_healthy(&daemon).await;
}

#[tokio::test]
async fn a_model_server_that_is_not_there_is_named_after_the_first_call() {
    let mut sections = model("mine/m");
    let url = format!("http://127.0.0.1:{}/v1", ports::free());
    sections["models"] = json!({ "providers": { "mine": { "baseUrl": url } } });
    let daemon = Daemon::start_with(with(&sections)).await;
    assert!(!Ctl::beside(&daemon).run(&["agent", "-m", "hello"]).await.status.success());
    is_degraded_everywhere(&daemon, "cannot connect to http://127.0.0.1").await;
}

#[tokio::test]
async fn a_telegram_that_cannot_work_makes_the_gateway_degraded() {
    let telegram = |settings: Value| with(&json!({ "channels": { "telegram": settings } }));
    let missing = telegram(json!({ "tokenFile": "/nowhere/telegram.token" }));
    let daemon = Daemon::start_with(missing).await;
    is_degraded_everywhere(&daemon, "cannot read channels.telegram.tokenFile").await;
    let checked = Ctl::beside(&daemon).run(&["config", "check"]).await;
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(told.contains("channels.telegram") && told.contains("tokenFile"), "{told}");

    let root = format!("http://127.0.0.1:{}", ports::free());
    let unreachable = telegram(json!({ "botToken": "1:token", "apiRoot": root }));
    let daemon = Daemon::start_with(unreachable).await;
    until_degraded(&daemon, "channel: Telegram").await;
    let shown = Ctl::beside(&daemon).text(&["health"]).await;
    assert!(!shown.contains("Telegram: running"), "{shown}");

    let off = telegram(json!({ "enabled": false, "tokenFile": "/nowhere/telegram.token" }));
    is_healthy(&Daemon::start_with(off).await).await;
}
