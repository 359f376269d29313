//! The log: what is kept, what is left out, and what happens when it cannot be
//! written.

use std::fs;

use moltbot_tests::{Client, Daemon, Options, daemon::TOKEN};
use serde_json::{Value, json};

fn options(logging: Value) -> Options {
    Options::with(json!({ "gateway": { "auth": { "token": TOKEN } }, "logging": logging }))
}

async fn tail(client: &mut Client) -> (String, Vec<String>) {
    let answer = client.call("logs.tail", json!({})).await.unwrap();
    let lines = answer["lines"].as_array().unwrap().iter();
    let text = |line: &Value| {
        let line: Value = serde_json::from_str(line.as_str().unwrap()).unwrap();
        line["1"].as_str().unwrap().to_owned()
    };
    (answer["file"].as_str().unwrap().to_owned(), lines.map(text).collect())
}

async fn guess(daemon: &Daemon, times: usize) {
    let from = [("X-Forwarded-For", "192.0.2.7"), ("Authorization", "Bearer guess")];
    for _ in 0..times {
        assert_eq!(daemon.get("/metrics", &from).await.0, 401);
    }
}

#[tokio::test]
async fn lines_that_keep_coming_are_counted_instead() {
    let mut daemon = Daemon::start().await;
    guess(&daemon, 50).await;
    let metrics = daemon.get("/metrics", &[]).await.1;
    let left_out = metrics.lines().find_map(|line| {
        line.strip_prefix("moltbot_log_lines_left_out_total{reason=\"repeated\"} ")
    });
    assert!(left_out.unwrap().parse::<u32>().unwrap() >= 40, "{metrics}");
    assert!(daemon.stop().await.success());
    let file = fs::read_to_string(daemon.state_dir().join("logs/moltbot.log")).unwrap();
    for log in [daemon.log(), file] {
        let lines = log.matches("request refused: ").count();
        assert!((2..=10).contains(&lines), "{lines} of 50: {log}");
        assert!(log.contains("last line repeated "), "{log}");
    }
}

#[tokio::test]
async fn no_secret_reaches_a_log() {
    let logging = json!({ "level": "debug", "redactPatterns": ["AC-[0-9]+"] });
    let daemon = Daemon::start_with(options(logging)).await;
    let said = [TOKEN, "sk-proj-0123456789abcdefghij", "AC-4711"];
    let mut client = daemon.operator().await;
    for word in said {
        client.call(word, json!({})).await.unwrap_err();
    }
    let file = fs::read_to_string(daemon.state_dir().join("logs/moltbot.log")).unwrap();
    let lines = tail(&mut client).await.1.join("\n");
    for log in [daemon.log(), file, lines] {
        assert_eq!(log.matches("[redacted]").count(), said.len(), "{log}");
        for word in said {
            assert!(!log.contains(word), "{log}");
        }
    }
}

#[tokio::test]
async fn a_named_file_is_written_and_set_aside_when_it_is_full() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("logs/gateway.log");
    let logging = json!({ "file": file, "maxFileBytes": 4096, "level": "debug" });
    let daemon = Daemon::start_with(options(logging)).await;
    let mut client = daemon.operator().await;
    for _ in 0..60 {
        client.call("no.such.method", json!({})).await.unwrap_err();
    }
    let (name, lines) = tail(&mut client).await;
    assert_eq!(name, file.display().to_string());
    assert!(!lines.is_empty());
    let size = |name: &str| fs::metadata(home.path().join("logs").join(name)).unwrap().len();
    assert!(size("gateway.log") <= 4096 && size("gateway.log.1") <= 4096);
    assert!(!daemon.state_dir().join("logs/moltbot.log").exists());
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nobody_and_is_told() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("logs"), "in the way").unwrap();
    let file = home.path().join("logs/gateway.log");
    let daemon = Daemon::start_with(options(json!({ "file": file, "level": "debug" }))).await;
    let mut client = daemon.operator().await;
    let status = client.call("status", json!({})).await.unwrap();
    let degraded = status["degraded"][0].as_str().unwrap();
    assert!(degraded.starts_with(&format!("log: {}: ", file.display())), "{degraded}");
    assert!(daemon.log().contains("the log file cannot be written"), "{}", daemon.log());
    let (name, lines) = tail(&mut client).await;
    assert_eq!(name, "memory");
    assert!(lines.iter().any(|line| line.starts_with("ready ")), "{lines:?}");
    // What was in the way goes away, and the log is there again.
    fs::remove_file(home.path().join("logs")).unwrap();
    let written = async {
        while !fs::read_to_string(&file).is_ok_and(|text| text.contains("were not written")) {
            client.call("no.such.method", json!({})).await.unwrap_err();
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(moltbot_tests::PATIENCE, written).await.unwrap();
    let status = client.call("status", json!({})).await.unwrap();
    assert_eq!(status["degraded"], Value::Null);
}

#[tokio::test]
async fn rules_of_the_log_are_checked() {
    let mut daemon = Daemon::start().await;
    for (key, logging) in [
        ("logging.redactPatterns[0]", json!({ "redactPatterns": ["("] })),
        ("logging.maxFileBytes", json!({ "maxFileBytes": 7 })),
        ("logging.maxAgeDays", json!({ "maxAgeDays": 0 })),
        ("logging.file", json!({ "file": " " })),
    ] {
        daemon.stop().await;
        let gateway = json!({ "auth": { "token": TOKEN } });
        daemon.configure(json!({ "gateway": gateway, "logging": logging }));
        daemon.start_again().await;
        let status = daemon.operator().await.call("status", json!({})).await.unwrap();
        assert!(status["degraded"].to_string().contains(key), "{status}");
    }
}
