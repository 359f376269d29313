//! What a peer's frames may cost: work, memory and the size of answers.
//!
//! Nothing here is timed. A gateway whose work grows with the square of a frame
//! needs minutes for what is sent here, and the clean client's patience ends.

use std::time::Duration;

use moltbot_tests::{Client, Connect, Daemon, Device, PATIENCE, Refusal};
use serde_json::{Value, json};

/// What no answer to a refused request exceeds, in bytes: the message of an
/// error has 8192 characters, and here they are of one byte each.
const MOST_ANSWERED: usize = 10_000;

/// Largest frame of a stranger, in bytes.
const STRANGERS_FRAME: usize = 64 * 1024;

#[tokio::test]
async fn a_strangers_frame_gets_a_short_answer_however_much_is_wrong_with_it() {
    let daemon = Daemon::start().await;
    for (name, value, count) in [
        ("scopes", json!(vec![1; 31_000]), 31_000),
        ("scopes", json!(vec!["x"; 15_000]), 15_000),
        ("scopes", json!(vec![1; 2_000]), 2_000),
        ("commands", json!(vec![""; 2_000]), 2_000),
        ("permissions", numbered(2_000), 2_000),
        ("client", numbered(2_000), 2_000),
        ("unknown", numbered(4_000), 4_000),
    ] {
        let connect = Connect::operator().set(&format!("/{name}"), value);
        assert!(connect.params.to_string().len() < STRANGERS_FRAME, "{name}");
        let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
        let said = refusal.error.map_or(0, |error| error.to_string().len());
        assert!(said <= MOST_ANSWERED, "{count} wrong {name} are answered with {said} bytes");
    }
    daemon.operator().await.call("health", json!({})).await.unwrap();
}

/// Sixteen is what one address may hold open before login; repeated, because a
/// stranger may come back.
#[tokio::test]
async fn strangers_with_costly_frames_hold_up_nobody() {
    let mut daemon = Daemon::start().await;
    let url = daemon.url();
    let strangers: Vec<_> = (0..16)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                loop {
                    for count in [31_000, 2_000] {
                        let connect = Connect::operator().set("/scopes", vec![1; count]);
                        let _ = Client::connect(&url, connect).await;
                    }
                }
            })
        })
        .collect();

    serves_a_clean_client(&daemon).await;
    assert!(daemon.stop().await.success(), "it ends when it is told to");
    strangers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn two_nodes_with_frames_of_two_megabytes_hold_up_nobody() {
    let mut daemon = Daemon::start().await;
    let frames = [
        // Too many values to be read.
        large_frame("node.event", &json!({ "event": vec![1; 1_050_000] })),
        // As many as a node may send, all of them wrong.
        large_frame("node.event", &json!({ "event": "x", "payloadJSON": numbered(150_000) })),
        large_frame("node.event", &numbered(150_000)),
        // Nothing wrong, and much to read.
        large_frame("node.event", &json!({ "event": "x", "payload": numbered(150_000) })),
    ];
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let connect = Connect::node(&Device::new(), &["camera.snap"]).set("/caps", vec!["camera"]);
        let mut node = daemon.connect(connect).await;
        let frames = frames.clone();
        nodes.push(tokio::spawn(async move {
            for frame in frames.iter().cycle() {
                node.send_text(frame).await;
                if node.answer("large").await == Err(Value::Null) {
                    return;
                }
            }
        }));
    }

    serves_a_clean_client(&daemon).await;
    assert!(daemon.stop().await.success(), "it ends when it is told to");
    for node in nodes {
        tokio::time::timeout(PATIENCE, node).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_frame_of_a_reader_gets_a_short_answer_however_much_is_wrong_with_it() {
    let daemon = Daemon::start().await;
    let mut reader = daemon.connect(Connect::operator().scopes(&["operator.read"])).await;
    for count in [9_000, 60_000] {
        let params = json!({ "keys": vec![1; count] });
        let error = reader.call("sessions.preview", params).await.unwrap_err();
        let said = error.to_string().len();
        assert!(said <= MOST_ANSWERED, "{count} wrong keys are answered with {said} bytes");
        assert_eq!(error["code"], "INVALID_REQUEST", "{error}");
    }
    let previews = reader.call("sessions.preview", json!({ "keys": vec!["main"; 5_000] })).await;
    assert_eq!(previews.unwrap()["previews"].as_array().unwrap().len(), 64);
}

#[tokio::test]
async fn a_text_of_connect_that_is_too_long_is_refused_and_named() {
    let daemon = Daemon::start().await;
    for (pointer, value, place) in [
        ("/client/displayName", json!("n".repeat(129)), "/client/displayName"),
        ("/client/version", json!("1".repeat(129)), "/client/version"),
        ("/client/platform", json!("p".repeat(129)), "/client/platform"),
        ("/client/instanceId", json!("i".repeat(129)), "/client/instanceId"),
        ("/client/modelIdentifier", json!("m".repeat(129)), "/client/modelIdentifier"),
        ("/locale", json!("l".repeat(129)), "/locale"),
        ("/role", json!("r".repeat(129)), "/role"),
        ("/scopes", json!(["s".repeat(129)]), "/scopes/0"),
        ("/scopes", json!(vec!["operator.read"; 65]), "/scopes"),
        ("/caps", json!(["c".repeat(129)]), "/caps/0"),
        ("/caps", json!(vec!["camera"; 129]), "/caps"),
        ("/commands", json!(vec!["camera.snap"; 257]), "/commands"),
        ("/permissions", numbered(129), "/permissions"),
        ("/auth/token", json!("t".repeat(4097)), "/auth/token"),
        ("/auth/deviceToken", json!("t".repeat(4097)), "/auth/deviceToken"),
    ] {
        let connect = Connect::operator().set(pointer, value);
        let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
        let said = message(&refusal);
        let wanted = format!("at {place}: must NOT have more than");
        assert!(said.contains(&wanted), "{pointer}: {said}");
    }
    let name = "ä".repeat(128);
    let fits = Connect::operator()
        .set("/client/displayName", name)
        .set("/userAgent", "u".repeat(20_000))
        .set("/pathEnv", "/a:".repeat(9_000));
    daemon.connect(fits).await;
}

#[tokio::test]
async fn a_client_may_send_what_its_hello_announces_and_no_more() {
    let daemon = Daemon::start().await;
    let whole = 16 * 1024 * 1024;
    let node = |commands: &[&str]| {
        Connect::node(&Device::new(), commands).set("/caps", Vec::<String>::new())
    };
    for (connect, announced) in [
        (Connect::operator(), whole),
        (Connect::operator().scopes(&["operator.write"]), whole),
        (Connect::operator().scopes(&["operator.read"]), 512 * 1024),
        (Connect::operator().scopes(&["operator.pairing"]), 512 * 1024),
        (node(&[]), 512 * 1024),
        (node(&["system.run"]), 1024 * 1024),
        (node(&["system.run", "camera.snap"]), whole),
    ] {
        let said = connect.params.to_string();
        let mut client = daemon.connect(connect).await;
        assert_eq!(client.hello["policy"]["maxPayload"], announced, "{said}");
        if announced == whole {
            continue;
        }
        // As long as a frame may be: it is read and answered.
        let frame = |length: usize| {
            let empty = large_frame("health", &json!({ "x": "" })).len();
            large_frame("health", &json!({ "x": "y".repeat(length - empty) }))
        };
        client.send_text(&frame(announced)).await;
        assert_ne!(client.answer("large").await, Err(Value::Null), "{said}");
        client.send_text(&frame(announced + 1)).await;
        let (code, _) = client.closed().await;
        assert!(matches!(code, 1009 | 1006), "{said}: closed with {code}");
    }
}

#[tokio::test]
async fn a_frame_of_too_many_values_is_refused_before_they_are_built() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let frame = large_frame("chat.history", &json!({ "x": vec![json!([]); 3_000_000] }));
    let before = resident_kib(&daemon);
    for _ in 0..3 {
        operator.send_text(&frame).await;
        let error = operator.answer("large").await.unwrap_err();
        let said = error["message"].as_str().unwrap();
        assert_eq!(said, "invalid request frame: must NOT have more than 200000 values");
    }
    let more = resident_kib(&daemon).saturating_sub(before);
    // Its text is kept while it is read, with room to grow; built, it is some 200 MB.
    assert!(more < 100 * 1024, "{more} KiB more");

    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let frame = format!(r#"{{"type":"req","id":"large","method":"health","params":{deep}}}"#);
    operator.send_text(&frame).await;
    let error = operator.answer("large").await.unwrap_err();
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("nested deeper than 127 levels"), "{said}");
}

#[tokio::test]
async fn what_is_kept_of_a_call_has_a_limit() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let (key, id) = ("k".repeat(513), "i".repeat(257));
    for (method, params) in [
        ("chat.send", json!({ "sessionKey": key, "message": "x", "idempotencyKey": "i" })),
        ("chat.send", json!({ "sessionKey": "main", "message": "x", "idempotencyKey": id })),
        ("agent", json!({ "sessionKey": key, "message": "x", "idempotencyKey": "i" })),
        ("agent", json!({ "message": "x", "idempotencyKey": id })),
        ("sessions.patch", json!({ "key": key })),
        ("node.invoke", json!({ "nodeId": "n", "command": "c", "idempotencyKey": id })),
    ] {
        let error = operator.call(method, params).await.unwrap_err();
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("must NOT have more than"), "{method}: {said}");
    }
    let frame = json!({ "type": "req", "id": id, "method": "health" });
    operator.send_text(&frame.to_string()).await;
    let error = operator.answer("invalid").await.unwrap_err();
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("at /id: must NOT have more than 256 characters"), "{said}");
}

/// Calls and asks over both sockets while somebody else is costly.
async fn serves_a_clean_client(daemon: &Daemon) {
    const TIMES: usize = 30;
    let mut operator = daemon.operator().await;
    let (mut answered, mut came_in) = (0, 0);
    for _ in 0..TIMES {
        operator.call("health", json!({})).await.unwrap();
        answered += 1;
        let control = Client::open_control(&daemon.control_socket()).await.unwrap();
        let connect = Connect::operator().without("auth");
        let mut control = control.introduce(connect).await.unwrap();
        control.call("status", json!({})).await.unwrap();
        came_in += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((answered, came_in), (TIMES, TIMES));
}

/// An object with that many numbered keys.
fn numbered(count: usize) -> Value {
    (0..count)
        .map(|index| (format!("k{index}"), json!(1)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn large_frame(method: &str, params: &Value) -> String {
    json!({ "type": "req", "id": "large", "method": method, "params": params }).to_string()
}

fn message(refusal: &Refusal) -> String {
    let error = refusal.error.as_ref().expect("it is answered");
    error["message"].as_str().unwrap_or_default().to_owned()
}

/// Returns what the daemon holds in memory.
fn resident_kib(daemon: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
