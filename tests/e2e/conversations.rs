//! What the configuration says about conversations.

use moltbot_tests::{Client, Daemon, Options, daemon::TOKEN};
use serde_json::{Value, json};

async fn daemon(session: Value) -> Daemon {
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "session": session,
        // Nobody answers there.
        "channels": { "telegram": { "botToken": "1:a", "apiRoot": "http://127.0.0.1:9" } },
    });
    Daemon::start_with(Options::with(config)).await
}

/// Says something and returns what is answered.
async fn says(client: &mut Client, session: &str, text: &str) -> String {
    let params = json!({ "sessionKey": session, "message": text, "idempotencyKey": text });
    client.call("chat.send", params).await.unwrap();
    let last = client.event_where("chat", |payload| payload["state"] == "final").await;
    last["payload"]["message"]["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

async fn transcript(client: &mut Client, session: &str) -> String {
    let history = client.call("chat.history", json!({ "sessionKey": session })).await.unwrap();
    history["sessionId"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_conversation_that_the_policy_mutes_is_refused() {
    let rule = json!({ "action": "deny", "match": { "keyPrefix": "quiet" } });
    let daemon = daemon(json!({ "sendPolicy": { "rules": [rule] } })).await;
    let mut client = daemon.operator().await;
    let said = json!({ "sessionKey": "quiet-1", "message": "hi", "idempotencyKey": "a" });
    let sent = json!({
        "sessionKey": "quiet-1", "message": "hi", "idempotencyKey": "b",
        "channel": "telegram", "to": "7",
    });
    for (method, params) in [("chat.send", &said), ("agent", &said), ("send", &sent)] {
        let error = client.call(method, params.clone()).await.unwrap_err();
        assert_eq!(error["code"], "INVALID_REQUEST", "{method}: {error}");
        assert_eq!(error["message"], "send blocked by session policy", "{method}");
    }
    let patch = json!({ "key": "quiet-1", "sendPolicy": "allow" });
    client.call("sessions.patch", patch).await.unwrap();
    assert!(says(&mut client, "quiet-1", "hello").await.contains("hello"));
}

#[tokio::test]
async fn other_words_start_a_conversation_anew() {
    let daemon = daemon(json!({ "resetTriggers": ["/frisch"] })).await;
    let mut client = daemon.operator().await;
    says(&mut client, "main", "one").await;
    let first = transcript(&mut client, "main").await;
    says(&mut client, "main", "/new").await;
    assert_eq!(transcript(&mut client, "main").await, first);
    says(&mut client, "main", "/Frisch").await;
    assert_ne!(transcript(&mut client, "main").await, first);
    let help = says(&mut client, "main", "/help").await;
    assert!(help.contains("/frisch – start a new"), "{help}");
    // The built-in model calls tools by hand.
    assert!(help.contains("/tool NAME {json} – call a tool of the assistant: "), "{help}");
    assert!(help.contains("nodes"), "{help}");
}

#[tokio::test]
async fn an_agent_is_called_what_people_call_it() {
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "agents": { "list": [
            { "id": "main", "name": "First", "identity": { "name": "Ada", "emoji": "🦞" } },
            { "id": "ops", "name": "Ops" },
        ] },
    });
    let daemon = Daemon::start_with(Options::with(config)).await;
    let mut client = daemon.operator().await;
    for (agent, name, avatar) in [("main", "Ada", "🦞"), ("ops", "Ops", "O")] {
        let asked = json!({ "agentId": agent });
        let identity = client.call("agent.identity.get", asked).await.unwrap();
        assert_eq!(identity, json!({ "agentId": agent, "name": name, "avatar": avatar }));
    }
}
