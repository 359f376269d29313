//! Events: numbering, who sees what, slow readers, the end.

use moltbot_tests::{Client, Connect, Daemon, Device, Options, Version, daemon::TOKEN};
use serde_json::{Value, json};

#[tokio::test]
async fn a_broadcast_has_one_number_for_everybody_and_numbers_have_no_gaps() {
    let daemon = Daemon::start().await;
    let mut first = daemon.operator().await;
    let mut second = daemon.operator().await;
    let mut numbers = Vec::new();
    for text in ["one", "two", "three"] {
        first.call("system-event", json!({ "text": text })).await.unwrap();
        let here = first.next_event("presence").await;
        let there = second.next_event("presence").await;
        assert_eq!(here, there);
        assert!(here["stateVersion"]["presence"].is_u64(), "{here}");
        assert!(here["stateVersion"]["health"].is_u64(), "{here}");
        numbers.push(here["seq"].as_u64().unwrap());
    }
    let others: Vec<u64> =
        first.take_read().iter().filter_map(|frame| frame["seq"].as_u64()).collect();
    numbers.extend(others);
    numbers.sort_unstable();
    let expected: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, expected);
}

#[tokio::test]
async fn presence_names_who_came_and_who_left() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let guest = Connect::operator()
        .set("/client/mode", "ui")
        .set("/client/displayName", "Guest")
        .set("/client/instanceId", "guest-1");
    let guest = daemon.connect(guest).await;
    let entry = presence_of(&mut operator, "Guest").await;
    assert_eq!(entry["reason"], "connect");
    guest.close().await;
    let event = operator
        .event_where("presence", |payload| {
            find(&payload["presence"], "Guest")["reason"] == "disconnect"
        })
        .await;
    assert!(event["seq"].is_u64());
}

#[tokio::test]
async fn nodes_do_not_hear_of_pairing() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let mut node = daemon.connect(Connect::node(&Device::new(), &["system.run"])).await;
    let stranger = Connect::operator().device(&Device::new(), Version::V2).remote();
    Client::connect(&daemon.url(), stranger).await.unwrap_err();
    operator.next_event("device.pair.requested").await;
    // A later event that everybody sees shows that the earlier one was not for the node.
    operator.call("system-event", json!({ "text": "later" })).await.unwrap();
    node.next_event("presence").await;
    let heard = node.take_read();
    assert!(heard.iter().all(|frame| frame["event"] != "device.pair.requested"), "{heard:?}");
}

#[tokio::test]
async fn a_stalled_client_is_dropped_and_others_are_not() {
    let gateway =
        json!({ "auth": { "token": TOKEN }, "limits": { "maxBufferedBytes": 1_000_000 } });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await;
    let mut stalled = daemon.operator().await;
    let mut reading = daemon.operator().await;
    // The conversation is there once its first message has an answer; the call
    // itself is answered before.
    reading.call("chat.send", said("/status", 0)).await.unwrap();
    reading.event_where("chat", |payload| payload["state"] == "final").await;
    let fill = "x".repeat(200_000);
    // The kernel's own buffers take some megabytes before the daemon's fill up, and a client that
    // might only be behind is given sixteen times its limit.
    for _ in 0..200 {
        let note = json!({ "sessionKey": "agent:main:main", "message": fill });
        reading.call("chat.inject", note).await.unwrap();
        reading.take_read();
    }
    let closed = stalled.closed().await;
    assert!(closed == (1008, "slow consumer".to_owned()) || closed.0 == 1006, "{closed:?}");
    reading.call("health", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_burst_of_long_messages_closes_no_client_that_reads() {
    let daemon = Daemon::start().await;
    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut control = control.introduce(Connect::operator()).await.unwrap();
    let mut reader = daemon.operator().await;
    let mut writer = daemon.operator().await;
    let long = "words ".repeat(60_000);
    let mut calls = Vec::new();
    for number in 0..3 {
        let session = format!("agent:main:burst-{number}");
        let send = json!({ "sessionKey": session, "message": long, "idempotencyKey": session });
        calls.push(writer.send("chat.send", send).await);
    }
    for call in calls {
        writer.answer(&call).await.unwrap();
    }
    for client in [&mut control, &mut reader] {
        for _ in 0..3 {
            client.event_where("chat", |payload| payload["state"] == "final").await;
        }
        client.call("health", json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn a_stop_is_announced_and_every_client_is_told_goodbye() {
    let mut daemon = Daemon::start().await;
    let mut clients = vec![daemon.operator().await, daemon.operator().await];
    clients.push(daemon.connect(Connect::node(&Device::new(), &[])).await);
    let status = daemon.stop().await;
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    for client in &mut clients {
        let event = client.next_event("shutdown").await;
        assert_eq!(
            event["payload"],
            json!({ "reason": "gateway stopping", "restartExpectedMs": null })
        );
        assert_eq!(client.closed().await, (1012, "service restart".to_owned()));
    }
}

fn said(message: &str, number: u32) -> Value {
    json!({ "sessionKey": "agent:main:main", "message": message, "idempotencyKey": format!("said-{number}") })
}

async fn presence_of(client: &mut Client, host: &str) -> Value {
    let list = client.call("system-presence", json!({})).await.unwrap();
    find(&list, host).clone()
}

fn find<'a>(list: &'a Value, host: &str) -> &'a Value {
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().find(|entry| entry["host"] == host).unwrap_or(&Value::Null)
}
