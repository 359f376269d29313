//! What clients can make the daemon hold for them, and what becomes of those
//! that are gone. Memory is read from the daemon's own counters, which count
//! what is allocated; resident memory would measure the allocator.

use moltbot_tests::{Client, Connect, Daemon, Device, PATIENCE};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

const MIB: usize = 1024 * 1024;

/// Returns a sample of `/metrics`.
async fn sample(daemon: &Daemon, name: &str) -> f64 {
    let (status, page) = daemon.get("/metrics", &[]).await;
    assert_eq!(status, 200, "{page}");
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}")).trim().parse().unwrap()
}

async fn held(daemon: &Daemon, kind: &str) -> f64 {
    sample(daemon, &format!("moltbot_connections_held_bytes{{kind=\"{kind}\"}}")).await
}

async fn dropped(daemon: &Daemon, reason: &str) -> f64 {
    sample(daemon, &format!("moltbot_connections_dropped_total{{reason=\"{reason}\"}}")).await
}

async fn until(what: &str, mut fits: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !fits().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// An operator on a socket that a test can leave in the middle of a frame.
async fn raw_operator(daemon: &Daemon) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", daemon.port())).await.unwrap();
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        daemon.port()
    );
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let connect = json!({
        "type": "req", "id": "login", "method": "connect", "params": Connect::operator().params,
    });
    let connect = connect.to_string();
    socket.write_all(&header(connect.len())).await.unwrap();
    socket.write_all(connect.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.windows(8).any(|window| window == b"hello-ok") {
        assert!(socket.read_buf(&mut read).await.unwrap() > 0, "let in");
    }
    socket
}

/// The header of a text with the mask 0, which changes nothing.
fn header(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x81];
    match u16::try_from(length) {
        Ok(length @ ..=125) => bytes.push(0x80 | u8::try_from(length).unwrap()),
        Ok(length) => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes
}

/// Begins a message of 15 MiB and leaves a part of it out.
async fn begin_message(socket: &mut TcpStream, sent: usize) {
    let _ = socket.write_all(&header(15 * MIB)).await;
    // One that is dropped meanwhile cannot go on.
    let _ = socket.write_all(&vec![b' '; sent]).await;
}

#[tokio::test]
async fn unfinished_messages_of_many_clients_share_a_budget() {
    let daemon = Daemon::start().await;
    let mut clean = daemon.operator().await;
    let mut unfinished = Vec::new();
    for _ in 0..12 {
        let mut socket = raw_operator(&daemon).await;
        begin_message(&mut socket, 12 * MIB).await;
        unfinished.push(socket);
        assert!(held(&daemon, "unfinished_messages").await <= 64.0 * MIB as f64);
    }
    until("some are dropped", async || dropped(&daemon, "message_memory").await >= 5.0).await;

    // A client that goes on takes the place of one that does not.
    let note = json!({ "text": "x", "padding": "y".repeat(12 * MIB) });
    clean.call("system-event", note).await.unwrap();
    drop(unfinished);
    until("memory is back", async || held(&daemon, "unfinished_messages").await == 0.0).await;
}

#[tokio::test]
async fn a_message_that_does_not_arrive_is_told_so() {
    let daemon = Daemon::start().await;
    let mut socket = raw_operator(&daemon).await;
    begin_message(&mut socket, MIB).await;
    until("it is begun", async || held(&daemon, "unfinished_messages").await > 0.0).await;
    let mut read = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut read)).await;
    closed.expect("it is closed").unwrap();
    let reason = b"a message was begun and not completed";
    assert!(read.ends_with(reason), "{}", String::from_utf8_lossy(&read));
    assert_eq!(held(&daemon, "unfinished_messages").await, 0.0);
    assert_eq!(dropped(&daemon, "stalled_message").await, 1.0);
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_every_answer_and_no_more_made_than_it_reads() {
    const CALLS: usize = 24;
    let daemon = Daemon::start().await;
    let mut writer = daemon.operator().await;
    let first = json!({ "sessionKey": "main", "message": "/status", "idempotencyKey": "1" });
    writer.call("chat.send", first).await.unwrap();
    writer.event_where("chat", |payload| payload["state"] == "final").await;
    let fill = "x".repeat(200_000);
    for _ in 0..20 {
        let note = json!({ "sessionKey": "agent:main:main", "message": fill });
        writer.call("chat.inject", note).await.unwrap();
    }
    drop(writer);

    let mut slow = daemon.operator().await;
    let mut ids = Vec::new();
    for _ in 0..CALLS {
        let history = json!({ "sessionKey": "main", "limit": 1000 });
        ids.push(slow.send("chat.history", history).await);
    }
    until("it has answers to read", async || held(&daemon, "unread_answers").await > 0.0).await;
    for id in ids {
        let held = held(&daemon, "unread_answers").await;
        assert!(held <= 32.0 * MIB as f64, "{held}");
        let history = slow.answer(&id).await.unwrap();
        assert!(history["messages"].as_array().unwrap().len() > 15, "large answers");
    }
    until("memory is back", async || held(&daemon, "unread_answers").await == 0.0).await;
}

#[tokio::test]
async fn a_node_that_gives_no_sign_of_life_is_gone_and_its_call_fails() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    // It is never read from again, as if its host had stopped.
    let node = daemon.connect(Connect::node(&device, &["system.which"])).await;
    let invoke = json!({
        "nodeId": device.id(), "command": "system.which", "params": { "bins": ["sh"] },
        "timeoutMs": 600_000, "idempotencyKey": "1",
    });
    let call = operator.send("node.invoke", invoke).await;
    let error = operator.answer(&call).await.unwrap_err();
    assert_eq!(error["code"], "UNAVAILABLE", "{error}");
    let list = operator.call("node.list", json!({})).await.unwrap();
    assert_eq!(list["nodes"][0]["connected"], false, "{list}");
    assert_eq!(dropped(&daemon, "no_pong").await, 1.0);
    // The operator was only waiting, and answered its pings.
    drop(node);
}

#[tokio::test]
async fn a_stop_is_obeyed_whatever_clients_left_unread_and_unfinished() {
    let mut daemon = Daemon::start().await;
    let mut clients = Vec::new();
    for number in 0..12 {
        let mut socket = raw_operator(&daemon).await;
        if number % 2 == 0 {
            begin_message(&mut socket, MIB / 2).await;
        } else {
            let call = json!({ "type": "req", "id": "1", "method": "config.schema" }).to_string();
            let calls = [header(call.len()), call.into_bytes()].concat().repeat(60);
            socket.write_all(&calls).await.unwrap();
        }
        clients.push(socket);
    }
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(Client::open(&daemon.url(), &[]).await.unwrap());
    }
    until("answers are unread", async || held(&daemon, "unread_answers").await > 0.0).await;
    let status = daemon.stop().await;
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    assert!(!daemon.log().contains("stopped before everything"), "{}", daemon.log());
    drop(clients);
}
