//! Channels that are named and not there.

use moltbot_tests::{Client, Daemon, Options, daemon::TOKEN};
use serde_json::{Value, json};

async fn sent(client: &mut Client, channel: &str) -> String {
    let params = json!({
        "channel": channel, "to": "7", "message": "hi", "idempotencyKey": channel,
    });
    let error = client.call("send", params).await.unwrap_err();
    assert_eq!(error["code"], "INVALID_REQUEST");
    error["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn whoever_names_a_channel_that_is_not_set_up_learns_how_to_do_it() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    let known = sent(&mut client, "telegram").await;
    assert!(known.starts_with("unsupported channel: telegram: Telegram is not set up"), "{known}");
    assert!(known.contains("moltbotctl config set channels.telegram.tokenFile"), "{known}");
    let other = sent(&mut client, "whatsapp").await;
    let words = "unsupported channel: whatsapp: this version has no such channel; it has telegram";
    assert_eq!(other, words);
    let params = json!({
        "message": "hi", "channel": "telegram", "to": "7", "deliver": true, "idempotencyKey": "a",
    });
    let id = client.send("agent", params).await;
    assert_eq!(client.answer(&id).await.unwrap()["status"], "accepted");
    let error = client.answer(&id).await.unwrap_err();
    let text = error["message"].as_str().unwrap_or_default();
    assert!(text.starts_with("Error: Unknown channel: telegram: Telegram is not set up"), "{text}");
}

#[tokio::test]
async fn a_section_of_a_channel_that_is_not_there_is_named_at_the_start() {
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "channels": { "defaults": { "groupPolicy": "open" }, "discord": { "token": "x" } },
    });
    let daemon = Daemon::start_with(Options::with(config)).await;
    let mut client = daemon.operator().await;
    let found = client.call("config.get", json!({})).await.unwrap();
    let warnings = found["warnings"].as_array().unwrap();
    let odd = |warning: &Value| warning["path"].as_str().map(str::to_owned);
    let paths: Vec<_> = warnings.iter().filter_map(odd).collect();
    assert_eq!(paths, ["channels.discord"]);
    let text = warnings[0]["message"].as_str().unwrap();
    let words = "is no channel of this version, and is ignored; it has telegram";
    assert!(text.starts_with(words), "{text}");
}
