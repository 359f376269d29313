//! A restart that is asked for from inside.

use std::time::Duration;

use moltbot_tests::{Client, Connect, Daemon, Options};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn supervised() -> Options {
    let mut options = Options::default();
    options.variables.push(("MOLTBOT_SUPERVISED".into(), "1".into()));
    options
}

async fn say(client: &mut Client, text: &str) {
    let key = uuid::Uuid::new_v4().to_string();
    let params = json!({ "sessionKey": "main", "message": text, "idempotencyKey": key });
    client.call("chat.send", params).await.unwrap();
    client.event_where("chat", |payload| payload["state"] == "final").await;
}

async fn texts(client: &mut Client) -> Vec<String> {
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    let text = |message: &Value| message["content"][0]["text"].as_str().unwrap_or("").to_owned();
    history["messages"].as_array().unwrap().iter().map(text).collect()
}

#[tokio::test]
async fn whoever_asked_for_a_restart_is_told_once_by_the_new_process() {
    let mut daemon = Daemon::start_with(supervised()).await;
    let mut client = daemon.operator().await;
    say(&mut client, "hello").await;
    let params = json!({ "sessionKey": "main", "note": "new wheels", "restartDelayMs": 0 });
    let answer = client.call("gateway.restart", params).await.unwrap();
    assert_eq!(answer["restart"]["mode"], "exit");
    assert_eq!(answer["sentinel"]["payload"]["message"], "new wheels");
    let shutdown = client.next_event("shutdown").await;
    assert_eq!(shutdown["payload"]["reason"], "gateway restarting");
    assert_eq!(shutdown["payload"]["restartExpectedMs"], 1500);
    assert_eq!(client.closed().await.0, 1012);
    // Neither a success, which no manager follows with a start, nor an error
    // of which it tires.
    assert_eq!(daemon.ended().await.code(), Some(79));

    for _ in 0..2 {
        daemon.start_again().await;
        let mut client = daemon.operator().await;
        let told = loop {
            let texts = texts(&mut client).await;
            // The model's answer follows the report.
            if texts.len() >= 4 {
                break texts;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[2].starts_with("GatewayRestart:\n{"), "{told:?}");
        assert!(told[2].contains("new wheels"), "{told:?}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn without_a_service_manager_a_restart_is_refused_with_the_reason() {
    let mut daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    let refused = client.call("gateway.restart", json!({})).await.unwrap_err();
    assert_eq!(refused["code"], "UNAVAILABLE");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("without a service manager"), "{message}");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn an_update_from_inside_is_absent_and_says_what_to_do_instead() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    let methods = client.hello["features"]["methods"].to_string();
    assert!(methods.contains("gateway.restart") && !methods.contains("update.run"), "{methods}");
    let refused = client.call("update.run", json!({})).await.unwrap_err();
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("unknown method: update.run: "), "{message}");
    assert!(message.contains("install the new package"), "{message}");
}

#[tokio::test]
async fn a_stop_overtakes_a_restart_that_waits() {
    let mut daemon = Daemon::start_with(supervised()).await;
    let mut client = daemon.operator().await;
    client.call("gateway.restart", json!({ "restartDelayMs": 60_000 })).await.unwrap();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.ended().await.success());
}

#[tokio::test]
async fn an_agent_restarts_the_gateway_for_its_owner_and_is_told_when_it_is_back() {
    let ask = r#"/tool gateway {"action":"restart","note":"tell them it is done"}"#;
    let mut daemon = Daemon::start_with(supervised()).await;
    let mut guest = daemon.connect(Connect::operator().scopes(&["operator.write"])).await;
    let refused = answer(&mut guest, ask).await;
    assert!(
        refused.contains("for the owner of this gateway; a client needs operator.admin"),
        "{refused}"
    );
    let status = answer(&mut guest, r#"/tool gateway {"action":"status"}"#).await;
    assert!(status.contains("restartPromised\\\":false"), "{status}");

    let mut client = daemon.operator().await;
    let said = answer(&mut client, ask).await;
    assert!(said.contains("promised"), "{said}");
    assert_eq!(client.closed().await.0, 1012);
    assert_eq!(daemon.ended().await.code(), Some(79));
    daemon.start_again().await;
    let mut client = daemon.operator().await;
    loop {
        let texts = texts(&mut client).await;
        // The model's answer follows the report.
        let told = texts.iter().position(|it| it.starts_with("GatewayRestart:"));
        if told.is_some_and(|at| texts[at].contains("tell them") && at + 1 < texts.len()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A model that asks again and again does not keep it from working.
    let said = answer(&mut client, ask).await;
    assert!(said.contains("restarted at an agent's request"), "{said}");
    assert!(daemon.stop().await.success());
}

/// Says something, and returns what the conversation was told at the end.
async fn answer(client: &mut Client, text: &str) -> String {
    let key = uuid::Uuid::new_v4().to_string();
    let params = json!({ "sessionKey": "main", "message": text, "idempotencyKey": key });
    client.call("chat.send", params).await.unwrap();
    let fits = |payload: &Value| payload["state"] == "final" && payload["runId"] == key;
    client.event_where("chat", fits).await.to_string()
}

#[tokio::test]
async fn a_conversation_that_is_not_there_does_not_keep_the_report_waiting() {
    let mut daemon = Daemon::start_with(supervised()).await;
    let mut client = daemon.operator().await;
    let params = json!({ "sessionKey": "agent:main:nobody", "restartDelayMs": 0 });
    client.call("gateway.restart", params).await.unwrap();
    assert_eq!(daemon.ended().await.code(), Some(79));
    daemon.start_again().await;
    while !daemon.log().contains("restart reported") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut client = daemon.operator().await;
    let params = json!({ "sessionKey": "agent:main:nobody", "message": "hello",
        "idempotencyKey": "first" });
    client.call("chat.send", params).await.unwrap();
    let said = client.event_where("chat", |payload| payload["state"] == "final").await;
    assert!(said.to_string().contains("GatewayRestart"), "{said}");
}
