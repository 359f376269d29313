//! The inputs, each of them different, in families.
//!
//! They are lists written by hand or products of such lists, not random: a failure names its
//! input, and the same inputs are sent the next time.

use serde_json::{Map, Value, json};

use super::wire::{bits, frame, frame_head, text_frame};
use crate::{Connect, Device, daemon::TOKEN};

/// Something to send.
#[derive(Clone, Debug)]
pub enum Input {
    /// Bytes on a connection that was just opened.
    Bytes(Vec<u8>),
    /// Bytes after the upgrade, before login.
    BeforeLogin(Vec<u8>),
    /// Bytes after the login of an operator.
    AfterLogin(Vec<u8>),
    /// The first request; the gateway's nonce is signed unless that part is replaced.
    Connect {
        /// The parameters, without `device`.
        params: Box<Value>,
        /// What to replace in the proof, by JSON pointer; no proof at all if absent.
        proof: Option<Vec<(&'static str, Value)>>,
    },
    /// A call of an operator with every scope.
    OperatorCall(String, Value),
    /// A call of a node.
    NodeCall(&'static str, Value),
}

/// Inputs of one kind.
pub type Family = (&'static str, Vec<Input>);

/// Returns every family. `methods` are those that the gateway advertises.
///
/// Guesses come last: they use up the patience that the gateway has for failed logins from
/// this address, and would hide what it does with other bad parameters.
#[must_use]
pub fn families(methods: &[String]) -> Vec<Family> {
    vec![
        ("HTTP", http()),
        ("upgrade", upgrade()),
        ("RFC 6455 before login", violations().into_iter().map(Input::BeforeLogin).collect()),
        ("RFC 6455 after login", violations().into_iter().map(Input::AfterLogin).collect()),
        ("JSON before login", texts().map(|text| Input::BeforeLogin(text_frame(&text))).collect()),
        ("JSON after login", texts().map(|text| Input::AfterLogin(text_frame(&text))).collect()),
        ("connect parameters", connect_parameters()),
        ("device proofs", device_proofs()),
        ("parameters of methods", method_parameters(methods)),
        ("node", node_calls()),
        ("guesses", guesses()),
    ]
}

fn http() -> Vec<Input> {
    let request = |line: &str, headers: &str| format!("{line}\r\n{headers}\r\n").into_bytes();
    let host = "Host: 127.0.0.1\r\n";
    let mut inputs = Vec::new();
    let methods =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get"];
    let paths = [
        "/",
        "/healthz",
        "/metrics",
        "/%2e%2e/",
        "//",
        "/..%2f",
        "/%00",
        "*",
        "http://evil.example/",
        "/%252fmetrics",
        "\\",
        "/healthz?%",
    ];
    for method in methods {
        for path in paths {
            inputs.push(request(&format!("{method} {path} HTTP/1.1"), host));
        }
    }
    for headers in [
        "",
        "Host:\r\n",
        "Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n",
        "Host: evil.example\r\n",
        "Host: 127.0.0.1:99999\r\n",
        "Host: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
        "Host: 127.0.0.1\r\nContent-Length: -1\r\n",
        "Host: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n",
        "Host: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Host: 127.0.0.1\r\nTransfer-Encoding: chunked, identity\r\n",
        "Host: 127.0.0.1\r\nTransfer-Encoding: \u{b}chunked\r\n",
        "Host : 127.0.0.1\r\n",
        " Host: 127.0.0.1\r\n",
        "Host: 127.0.0.1\r\n folded: line\r\n",
        "Host: 127.0.0.1\r\nNo colon\r\n",
        "Host: 127.0.0.1\r\n: no name\r\n",
        "Host: 127.0.0.1\r\nX: \0\r\n",
        "Host: 127.0.0.1\r\nX: \u{1b}[31m\r\n",
        "Host: 127.0.0.1\r\nExpect: 100-continue\r\n",
        "Host: 127.0.0.1\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n",
        "Host: 127.0.0.1\r\nForwarded: for=\"[::1]\"\r\n",
        "Host: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1, 127.0.0.1\r\n",
        "Host: 127.0.0.1\r\nAuthorization: Bearer \r\n",
        "Host: 127.0.0.1\r\nAuthorization: Basic //8=\r\n",
    ] {
        inputs.push(request("GET /metrics HTTP/1.1", headers));
    }
    for line in [
        "GET / HTTP/0.9",
        "GET / HTTP/1.0",
        "GET / HTTP/2.0",
        "GET / HTTP/9.9",
        "GET /",
        "GET",
        "",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 x",
        "\0",
        "GET / http/1.1",
        "PRI * HTTP/2.0",
    ] {
        inputs.push(request(line, host));
    }
    inputs.push(request("GET / HTTP/1.1", &format!("{host}X: {}\r\n", "x".repeat(70_000))));
    inputs.push(request("GET / HTTP/1.1", &format!("{host}{}", "X: y\r\n".repeat(2_000))));
    inputs.push(request(&format!("GET /{} HTTP/1.1", "a".repeat(70_000)), host));
    inputs.push(b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n".to_vec());
    inputs.push(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03".to_vec());
    inputs.push(b"\x16\x03\x01\xff\xff".to_vec());
    inputs.push(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec());
    inputs.push(vec![0xff; 4096]);
    inputs.into_iter().map(Input::Bytes).collect()
}

fn upgrade() -> Vec<Input> {
    let headers = [
        ("Connection", ["Upgrade", "keep-alive", ""]),
        ("Upgrade", ["websocket", "WebSocket, h2c", ""]),
        ("Sec-WebSocket-Version", ["13", "8", "x"]),
        ("Sec-WebSocket-Key", ["dGhlIHNhbXBsZSBub25jZQ==", "short", ""]),
    ];
    let mut inputs = Vec::new();
    // Every combination of a right, a wrong and an absent value.
    for choice in 0..3_usize.pow(4) {
        let mut text = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n".to_owned();
        for (index, (name, values)) in headers.iter().enumerate() {
            let value = values[choice / 3_usize.pow(index as u32) % 3];
            if !value.is_empty() {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        text.push_str("\r\n");
        inputs.push(Input::Bytes(text.into_bytes()));
    }
    for header in [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://localhost:1",
        "Sec-WebSocket-Protocol: soap, wamp",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8",
        "Sec-WebSocket-Extensions: permessage-deflate; permessage-deflate",
        "Sec-Fetch-Site: cross-site",
        "Content-Length: 3",
    ] {
        let text = format!(
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             {header}\r\n\r\n"
        );
        inputs.push(Input::Bytes(text.into_bytes()));
    }
    inputs
}

/// Returns frames that RFC 6455 forbids, and a few that are merely unusual.
#[must_use]
pub fn violations() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    // Reserved bits and reserved opcodes.
    for reserved in 1..8_u8 {
        frames.push(frame(bits::FIN | reserved << 4 | bits::TEXT, b"{}"));
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        frames.push(frame(bits::FIN | opcode, b"x"));
    }
    // Control frames that are cut, too long, or carry what they must not.
    for opcode in [8, 9, 0xa] {
        frames.push(frame(opcode, b"part"));
        frames.push(frame(bits::FIN | opcode, &[b'x'; 126]));
        frames.push(frame_head(bits::FIN | opcode, 1 << 40));
    }
    frames.push(frame(bits::FIN | bits::CLOSE, &[3]));
    frames.push(frame(bits::FIN | bits::CLOSE, &[3, 0xe8, 0xff, 0xfe]));
    for code in [0_u16, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        frames.push(frame(bits::FIN | bits::CLOSE, &code.to_be_bytes()));
    }
    // Messages in pieces that do not belong together.
    frames.push(frame(bits::FIN, b"a continuation of nothing"));
    frames.push(frame(0, b"a continuation of nothing"));
    frames.push([frame(bits::TEXT, b"one"), frame(bits::FIN | bits::TEXT, b"two")].concat());
    frames.push([frame(bits::TEXT, b"one"), frame(bits::FIN | 2, b"two")].concat());
    frames.push([frame(2, b"one"), frame(2, b"two")].concat());
    frames.push([frame(bits::TEXT, b"never ended"), frame(bits::FIN | bits::PING, b"")].concat());
    frames.push(frame(bits::TEXT, b"").repeat(3));
    // Frames without a mask, and lengths in a form longer than needed.
    frames.push(vec![bits::FIN | bits::TEXT, 2, b'{', b'}']);
    frames.push(vec![bits::FIN | bits::PING, 0]);
    frames.push(vec![bits::FIN | bits::TEXT, 0x80 | 126, 0, 2, 0, 0, 0, 0, b'{', b'}']);
    let long = [&[bits::FIN | bits::TEXT, 0x80 | 127][..], &2_u64.to_be_bytes(), &[0; 4], b"{}"];
    frames.push(long.concat());
    // Lengths that no frame may have here.
    for length in [1 << 17, 1 << 25, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX] {
        frames.push(frame_head(bits::FIN | bits::TEXT, length));
    }
    // Text that is not UTF-8, whole and in pieces.
    for bad in [
        &[0xff][..],
        &[0xc0, 0x80],
        &[0xc3],
        &[0xed, 0xa0, 0x80],
        &[0xf4, 0x90, 0x80, 0x80],
        &[0xf8, 0x88, 0x80, 0x80, 0x80],
        &[0xe2, 0x28, 0xa1],
        &[0x80],
    ] {
        frames.push(frame(bits::FIN | bits::TEXT, bad));
        frames.push([frame(bits::TEXT, bad), frame(bits::FIN, b"")].concat());
    }
    frames.push(frame(bits::FIN | 2, &[0xff, 0xfe, 0]));
    frames
}

/// Returns texts that are no request, or nearly one.
fn texts() -> impl Iterator<Item = String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "null",
        "true",
        "7",
        "\"x\"",
        "[]",
        "{}",
        "{",
        "[1,",
        "\u{0}",
        "\u{feff}{}",
        "{'type':'req'}",
        r#"{"type":"req"}"#,
        r#"{"type":"req","id":null,"method":null}"#,
        r#"{"type":"req","id":{},"method":[]}"#,
        r#"{"type":"req","id":7,"method":"health"}"#,
        r#"{"type":"req","id":"","method":""}"#,
        r#"{"type":"req","id":"1","method":"health","params":1e999}"#,
        r#"{"type":"req","id":"1","method":"health","method":"status"}"#,
        r#"{"type":"req","id":"1","id":"2","method":"health"}"#,
        r#"{"type":"req","id":"\ud800","method":"health"}"#,
        r#"{"type":"req","id":"1","method":"\u0000"}"#,
        r#"{"type":"res","id":"1","ok":true,"payload":{}}"#,
        r#"{"type":"event","event":"connect.challenge","payload":{"nonce":"x"}}"#,
        r#"{"type":"event","event":"shutdown","payload":null,"seq":-1}"#,
        r#"{"type":"REQ","id":"1","method":"health"}"#,
        r#"{"type":["req"],"id":"1","method":"health"}"#,
        r#"{"type":"req","id":"1","method":"connect","params":{}}"#,
        r#"{"type":"req","id":"1","method":"health"} {"type":"req"}"#,
        r#"{"type":"req","id":"1","method":"health","params":{"a":01}}"#,
        r#"{"type":"req","id":"1","method":"health","params":{"a":-}}"#,
        r#"{"type":"req","id":"1","method":"health","params":{"a":.5}}"#,
        r#"{"type":"req","id":"1","method":"health","params":NaN}"#,
        r#"{"type":"req","id":"1","method":"__proto__","params":{"__proto__":{}}}"#,
    ]
    .map(str::to_owned)
    .into();
    let method = "m".repeat(40_000);
    texts.push(format!(r#"{{"type":"req","id":"1","method":"{method}"}}"#));
    texts.push(format!(r#"{{"type":"req","id":"{method}","method":"health"}}"#));
    texts.push("[".repeat(50_000));
    texts.push("{\"a\":".repeat(10_000));
    texts.push(format!("[{}", "1,".repeat(30_000)));
    texts.push(format!(
        "{{\"type\":\"req\",\"id\":\"1\",\"method\":\"health\",\"params\":{}",
        "9".repeat(50_000)
    ));
    texts.into_iter()
}

/// Values of every type, some of them at the limits of theirs.
fn odd_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!(""),
        json!("x"),
        json!("\u{0}\u{1b}[31m\u{202e}\n"),
        json!("../../../etc/passwd"),
        json!("y".repeat(5_000)),
        json!([]),
        json!([[[[]]]]),
        json!([null, 1, "x", {}]),
        json!({}),
        json!({ "": { "": {} } }),
    ]
}

fn connect_parameters() -> Vec<Input> {
    let base = Connect::operator().params;
    let fields = [
        "/minProtocol",
        "/maxProtocol",
        "/client",
        "/client/id",
        "/client/version",
        "/client/platform",
        "/client/mode",
        "/client/displayName",
        "/client/deviceFamily",
        "/client/instanceId",
        "/role",
        "/scopes",
        "/caps",
        "/commands",
        "/permissions",
        "/pathEnv",
        "/auth",
        "/locale",
        "/userAgent",
        "/device",
        "/unknown",
    ];
    let mut inputs = Vec::new();
    for field in fields {
        for value in odd_values() {
            let mut params = base.clone();
            set(&mut params, field, value);
            inputs.push(Input::Connect { params: Box::new(params), proof: None });
        }
    }
    for params in odd_values() {
        inputs.push(Input::Connect { params: Box::new(params), proof: None });
    }
    inputs
}

fn device_proofs() -> Vec<Input> {
    let mut inputs = Vec::new();
    let mut push = |replacements: Vec<(&'static str, Value)>| {
        let params = Box::new(Connect::operator().params);
        inputs.push(Input::Connect { params, proof: Some(replacements) });
    };
    for field in ["/id", "/publicKey", "/signature", "/signedAt", "/nonce", "/unknown"] {
        for value in odd_values() {
            push(vec![(field, value)]);
        }
    }
    let other = Device::from_seed([9; 32]);
    push(vec![("/id", json!(other.id()))]);
    push(vec![("/publicKey", json!(other.public_key()))]);
    push(vec![("/id", json!(other.id())), ("/publicKey", json!(other.public_key()))]);
    push(vec![("/signature", json!(other.sign("something else")))]);
    // Points of small order, for which a careless check accepts any message.
    for point in [
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        push(vec![("/publicKey", json!(point)), ("/signature", json!("A".repeat(86)))]);
    }
    for nonce in ["00000000-0000-4000-8000-000000000000", "🦀"] {
        push(vec![("/nonce", json!(nonce))]);
    }
    inputs
}

fn method_parameters(methods: &[String]) -> Vec<Input> {
    let mut inputs = Vec::new();
    for method in methods.iter().filter(|method| *method != "connect") {
        // Parameters that are right for it would restart the gateway.
        let restarts = method == "gateway.restart";
        for params in odd_values() {
            let empty = params.is_null() || params == json!({});
            if !(restarts && empty) {
                inputs.push(Input::OperatorCall(method.clone(), params));
            }
        }
        for name in ["sessionKey", "key", "nodeId", "deviceId", "raw", "limit", "message"] {
            for value in [json!(-1), json!({ "a": [] }), json!("\u{0}/../\u{202e}")] {
                inputs.push(Input::OperatorCall(method.clone(), json!({ name: value })));
            }
        }
    }
    for method in
        ["", "connect", "cron.add", "exec.approval.resolve", "health ", "HEALTH", "../health"]
    {
        inputs.push(Input::OperatorCall(method.to_owned(), json!({})));
    }
    inputs
}

fn node_calls() -> Vec<Input> {
    let mut inputs = Vec::new();
    let events = [
        "agent.request",
        "voice.transcript",
        "chat.subscribe",
        "chat.unsubscribe",
        "exec.started",
        "exec.finished",
        "exec.denied",
        "unknown",
        "",
    ];
    for event in events {
        for payload in [
            json!(null),
            json!(""),
            json!("{"),
            json!("[]"),
            json!("7"),
            json!("{}"),
            json!("{\"sessionKey\":7}"),
            json!("{\"sessionKey\":\"agent:main:main\",\"message\":7}"),
        ] {
            inputs.push(Input::NodeCall(
                "node.event",
                json!({ "event": event, "payloadJSON": payload }),
            ));
        }
    }
    for value in odd_values() {
        inputs.push(Input::NodeCall(
            "node.event",
            json!({ "event": "exec.finished", "payloadJSON": value.clone() }),
        ));
        inputs.push(Input::NodeCall("node.event", json!({ "event": value.clone() })));
        for field in ["id", "nodeId", "ok", "payloadJSON", "error"] {
            let mut result = json!({ "id": "forged", "nodeId": "somebody", "ok": true });
            result[field] = value.clone();
            inputs.push(Input::NodeCall("node.invoke.result", result));
        }
    }
    // What only operators may do.
    for method in
        ["config.get", "node.invoke", "device.pair.list", "chat.send", "logs.tail", "health"]
    {
        inputs.push(Input::NodeCall(method, json!({})));
    }
    inputs
}

fn guesses() -> Vec<Input> {
    let mut inputs = Vec::new();
    for (kind, guess) in ["token", "password", "deviceToken", "bootstrapToken"]
        .iter()
        .flat_map(|kind| guess_texts().into_iter().map(move |guess| (*kind, guess)))
    {
        let params = Connect::operator().set("/auth", json!({ kind: guess })).params;
        inputs.push(Input::Connect { params: Box::new(params.clone()), proof: None });
        inputs.push(Input::Connect { params: Box::new(params), proof: Some(Vec::new()) });
    }
    inputs
}

/// Returns texts close to the secret and far from it.
fn guess_texts() -> Vec<String> {
    vec![
        TOKEN[1..].to_owned(),
        TOKEN[..TOKEN.len() - 1].to_owned(),
        TOKEN.to_uppercase(),
        format!("{TOKEN}\0"),
        format!(" {TOKEN}"),
        "password".to_owned(),
        "undefined".to_owned(),
    ]
}

/// Sets what a pointer names, whose parent may be missing.
pub(super) fn set(target: &mut Value, pointer: &str, value: Value) {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return };
    if let Some(parent) = target.pointer_mut(parent) {
        match parent.as_object_mut() {
            Some(fields) => {
                fields.insert(name.to_owned(), value);
            }
            None => *parent = Value::Object(Map::from_iter([(name.to_owned(), value)])),
        }
    }
}
