//! What a peer may cost: frame sizes, sockets, time.

use moltbot_tests::{Client, Connect, Daemon, Options, daemon::TOKEN};
use serde_json::{Value, json};

#[tokio::test]
async fn a_stranger_may_not_send_more_than_64_kib() {
    let daemon = Daemon::start().await;
    let mut client = Client::open(&daemon.url(), &[]).await.unwrap();
    client.send("connect", json!({ "padding": "x".repeat(64 * 1024) })).await;
    assert_closed_for_size(client.closed().await);
    daemon.operator().await.call("health", json!({})).await.unwrap();
}

#[tokio::test]
async fn an_operator_may_send_up_to_the_announced_limit() {
    let daemon = with_limits(&json!({ "maxPayload": 2_000_000 })).await;
    let mut client = daemon.operator().await;
    let error =
        client.call("sessions.list", json!({ "x": "y".repeat(1_500_000) })).await.unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("unexpected property 'x'"), "{error}");
    client.send("health", json!({ "x": "y".repeat(2_000_001) })).await;
    assert_closed_for_size(client.closed().await);
}

#[tokio::test]
async fn a_silent_stranger_is_shown_the_door() {
    let daemon = with_limits(&json!({ "handshakeTimeoutMs": 100 })).await;
    let mut client = Client::open(&daemon.url(), &[]).await.unwrap();
    assert!(matches!(client.closed().await.0, 1000 | 1005), "closed without an error");
}

#[tokio::test]
async fn calls_that_wait_hold_up_no_others_and_are_refused_beyond_a_limit() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    let first = wait_for_run(&mut client, "run").await;
    for _ in 1..1024 {
        wait_for_run(&mut client, "run").await;
    }
    let abort = json!({ "sessionKey": "main", "runId": "none" });
    client.call("chat.abort", abort).await.unwrap();
    let beyond = wait_for_run(&mut client, "run").await;
    let error = client.answer(&beyond).await.unwrap_err();
    assert_eq!(error["code"], "UNAVAILABLE", "{error}");
    assert_eq!(error["retryable"], true, "{error}");
    assert!(error["retryAfterMs"].is_u64(), "{error}");
    client.call("health", json!({})).await.unwrap();

    let run = json!({ "message": "hello", "idempotencyKey": "run", "sessionKey": "main" });
    client.call("agent", run).await.unwrap();
    assert_eq!(client.answer(&first).await.unwrap()["status"], "ok");
    let again = wait_for_run(&mut client, "run").await;
    assert_eq!(client.answer(&again).await.unwrap()["status"], "ok");
}

#[tokio::test]
async fn a_caller_that_leaves_leaves_no_waiting_calls_behind() {
    let mut daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    for _ in 0..100 {
        wait_for_run(&mut client, "never").await;
    }
    client.call("health", json!({})).await.unwrap();
    client.close().await;
    // A stop waits for calls that are under way, and complains about the rest.
    assert!(daemon.stop().await.success());
    assert!(!daemon.log().contains("stopped before everything"), "{}", daemon.log());
}

/// Asks for the end of a run and does not wait for it.
async fn wait_for_run(client: &mut Client, run: &str) -> String {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    client.send("agent.wait", json!({ "runId": run, "timeoutMs": DAY_MS })).await
}

#[tokio::test]
async fn deep_json_is_refused_and_the_daemon_lives() {
    let daemon = Daemon::start().await;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":"#, "}]"), ("[", "")] {
        let nested = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
        for text in [nested(60_000 / open.len() / 2), nested(70)] {
            let connect = format!(
                r#"{{"type":"req","id":"1","method":"connect","params":{{"scopes":{text}}}}}"#
            );
            let mut stranger = Client::open(&daemon.url(), &[]).await.unwrap();
            stranger.send_text(&connect).await;
            let answer = stranger.read_frame().await;
            assert_eq!(answer, None, "a stranger's frame is read no deeper than 64 levels");
            let (code, reason) = stranger.closed().await;
            let wanted = "invalid request frame: must NOT be nested deeper than 64 levels";
            assert_eq!((code, reason.as_str()), (1008, wanted));
        }
    }
    let mut operator = daemon.operator().await;
    let deep = format!(
        r#"{{"type":"req","id":"deep","method":"health","params":{}{}}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    operator.send_text(&deep).await;
    let error = operator.answer("deep").await.unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("nested deeper"), "{error}");
    operator.call("health", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_binary_frame_is_read_as_text_and_answered_with_text() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    let frame = json!({ "type": "req", "id": "binary", "method": "last-heartbeat" });
    client.send_binary(frame.to_string().as_bytes()).await;
    client.answer("binary").await.unwrap();
    client.send_binary(&[0xff, 0xfe, 0x00]).await;
    client.call("health", json!({})).await.unwrap();
}

#[tokio::test]
async fn garbage_of_any_kind_gets_an_answer_or_silence_but_never_a_crash() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    for text in [
        "",
        "null",
        "[]",
        "{}",
        "\u{0}",
        r#"{"type":"req"}"#,
        r#"{"type":"req","id":{},"method":[]}"#,
        r#"{"type":"req","id":"1","method":"health","params":1e999}"#,
        r#"{"type":"req","id":"1","method":"health","method":"status"}"#,
        r#"{"type":"req","id":"\ud800","method":"health"}"#,
    ] {
        client.send_text(text).await;
    }
    client.call("last-heartbeat", json!({})).await.unwrap();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[tokio::test]
async fn every_method_survives_parameters_of_every_wrong_type() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    let hello = client.hello.clone();
    let large = large_wrong_parameters();
    for method in hello["features"]["methods"].as_array().unwrap() {
        let method = method.as_str().unwrap();
        for params in [json!([]), json!("x"), json!(7), json!(true), json!({ "": {} })] {
            // Some methods do not look at their parameters.
            let Err(error) = client.call(method, params.clone()).await else { continue };
            assert_eq!(error["code"], "INVALID_REQUEST", "{method} {params}: {error}");
        }
        for params in &large {
            let Err(error) = client.call(method, params.clone()).await else { continue };
            assert_eq!(error["code"], "INVALID_REQUEST", "{method}: {error}");
            let said = error.to_string().len();
            assert!(said <= MOST_ANSWERED, "{method}: a refusal of {said} bytes");
        }
    }
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

/// The message of an error has 8192 characters at most.
const MOST_ANSWERED: usize = 10_000;

/// Thousands of keys and items of wrong types, under the names that methods
/// know and under others.
fn large_wrong_parameters() -> [Value; 3] {
    const LISTS: [&str; 9] =
        ["keys", "scopes", "commands", "caps", "attachments", "triggers", "allow", "files", "tags"];
    let lists = LISTS.map(|name| (name.to_owned(), json!(vec![json!({}); 2_000])));
    let keys = (0..10_000).map(|index| (format!("key{index}"), json!([1])));
    let keys: serde_json::Map<_, _> = keys.collect();
    let mut objects = keys.clone();
    objects.extend(LISTS.map(|name| (name.to_owned(), keys.clone().into())));
    objects.retain(|name, _| !name.starts_with("key"));
    [Value::Object(lists.into_iter().collect()), Value::Object(keys), Value::Object(objects)]
}

#[tokio::test]
async fn guessing_gets_slower_and_never_locks_out_a_proven_device() {
    let daemon = Daemon::start().await;
    let device = moltbot_tests::Device::new();
    let known = Connect::operator().device(&device, moltbot_tests::Version::V2);
    daemon.connect(known.clone()).await;
    let mut last = Value::Null;
    for guess in 0..100 {
        let wrong = Connect::operator().token(&format!("guess {guess}"));
        let refusal = Client::connect(&daemon.url(), wrong).await.unwrap_err();
        last = refusal.error.unwrap_or_default();
        if is_limited(&last) {
            break;
        }
    }
    assert!(is_limited(&last), "{last}");
    daemon.connect(known).await;
}

async fn with_limits(limits: &Value) -> Daemon {
    let gateway = json!({ "auth": { "token": TOKEN }, "limits": limits });
    Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await
}

fn is_limited(error: &Value) -> bool {
    error["message"].as_str().is_some_and(|text| text.contains("too many"))
}

fn assert_closed_for_size((code, _): (u16, String)) {
    assert_eq!(code, 1009);
}
