//! TLS on the daemon's port, and what `moltbotctl` makes of it.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use moltbot_tests::{
    Client, Connect, Ctl, Daemon, Device, NodeHost, Options, PATIENCE, Version, daemon::TOKEN,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

async fn start(tls: Value, limits: Value) -> Daemon {
    let gateway = json!({ "auth": { "token": TOKEN }, "tls": tls, "limits": limits });
    Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await
}

async fn with_tls() -> Daemon {
    start(json!({ "enabled": true }), json!({})).await
}

fn wss(daemon: &Daemon) -> String {
    format!("wss://127.0.0.1:{}", daemon.port())
}

/// Calls a gateway from a home that knows nothing of it.
async fn call(url: &str, more: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["gateway", "call", "health", "--url", url, "--token", TOKEN];
    Ctl::alone(home.path()).run(&[&arguments, more].concat()).await
}

fn said(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr];
    parts.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

async fn until(mut fact: impl FnMut() -> bool) {
    let waiting = async {
        while !fact() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it becomes true");
}

#[tokio::test]
async fn the_daemon_makes_a_certificate_and_clients_pin_it() {
    let daemon = with_tls().await;
    let ctl = Ctl::beside(&daemon);
    let digits = ctl.json(&["gateway", "tls"]).await["sha256"].as_str().unwrap().to_owned();
    assert_eq!(format!("sha256:{digits}"), daemon.pins().to_string());
    assert!(daemon.log().contains(&digits), "{}", daemon.log());
    assert!(ctl.text(&["gateway", "tls"]).await.contains(&digits));
    for file in ["gateway-cert.pem", "gateway-key.pem"] {
        let path = daemon.state_dir().join("gateway/tls").join(file);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let pairs: Vec<&str> = (0..32).map(|at| &digits[at * 2..at * 2 + 2]).collect();
    let other = "0".repeat(64);
    for pin in [
        digits.clone(),
        format!("SHA256:{}", pairs.join(":").to_uppercase()),
        format!("{other},{digits}"),
    ] {
        let output = call(&wss(&daemon), &["--tls-fingerprint", &pin]).await;
        assert!(output.status.success(), "{pin}: {}", said(&output));
    }
    // Its own host needs no pin: it reads the certificate.
    std::fs::remove_file(daemon.control_socket()).unwrap();
    assert_eq!(ctl.json(&["where"]).await["chosen"]["kind"], "localLoopback");
    assert_eq!(ctl.json(&["health"]).await["ok"], true);
}

#[tokio::test]
async fn a_wrong_pin_sends_nothing_and_says_what_was_seen() {
    let daemon = with_tls().await;
    let wrong = "12".repeat(32);
    let output = call(&wss(&daemon), &["--tls-fingerprint", &wrong]).await;
    assert_eq!(output.status.code(), Some(11), "{}", said(&output));
    for part in [&*wrong, &daemon.pins().to_string(), "gateway.remote.tlsFingerprint"] {
        assert!(said(&output).contains(part), "{part} in {}", said(&output));
    }
    let output = call(&wss(&daemon), &[]).await;
    assert_eq!(output.status.code(), Some(12), "{}", said(&output));
    assert!(said(&output).contains("moltbotctl gateway tls"), "{}", said(&output));
    let metrics = metrics(&daemon).await;
    assert!(metrics.contains("moltbot_handshakes_total{result=\"refused\"} 0"), "{metrics}");
    let output = call(&daemon.url(), &["--tls-fingerprint", &wrong]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("needs a wss:// URL"), "{}", said(&output));
}

async fn metrics(daemon: &Daemon) -> String {
    let mut stream = tokio::net::UnixStream::connect(daemon.control_socket()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn both_sides_say_which_of_them_speaks_tls() {
    let daemon = with_tls().await;
    let output = call(&daemon.url(), &[]).await;
    assert_eq!(output.status.code(), Some(14), "{}", said(&output));
    assert!(said(&output).contains("use wss://"), "{}", said(&output));
    assert!(daemon.log().contains("this port speaks TLS only"), "{}", daemon.log());
    let plain = Daemon::start().await;
    for more in [&[][..], &["--tls-fingerprint", &"12".repeat(32)]] {
        let output = call(&wss(&plain), more).await;
        assert_eq!(output.status.code(), Some(14), "{}", said(&output));
        assert!(said(&output).contains("speaks no TLS"), "{}", said(&output));
    }
    assert!(plain.log().contains("gateway.tls.enabled"), "{}", plain.log());
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_restart_and_a_bad_one_is_not_taken() {
    let (one, two) = (with_tls().await, with_tls().await);
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str| home.path().join(name);
    let install = |daemon: &Daemon| {
        for (from, to) in [("gateway-cert.pem", "c.pem"), ("gateway-key.pem", "k.pem")] {
            replace(&daemon.state_dir().join("gateway/tls").join(from), &file(to));
        }
    };
    install(&one);
    let tls = json!({ "enabled": true, "certPath": file("c.pem"), "keyPath": file("k.pem") });
    let daemon = start(tls, json!({})).await;
    let mut early = Client::open_tls(&daemon.url(), &[], &one.pins()).await.unwrap();
    install(&two);
    daemon.signal(Signal::SIGHUP);
    until(|| daemon.log().contains("certificate replaced")).await;
    let both = format!("{} {}", bare(&one), bare(&two));
    let output = call(&wss(&daemon), &["--tls-fingerprint", &both]).await;
    assert!(output.status.success(), "{}", said(&output));
    let output = call(&wss(&daemon), &["--tls-fingerprint", &bare(&one)]).await;
    assert_eq!(output.status.code(), Some(11), "{}", said(&output));
    early.send("connect", Connect::operator().params).await;
    assert!(early.answer("1").await.is_ok(), "who was there before stays");

    std::fs::write(file("c.pem"), "no certificate").unwrap();
    // Without a signal: the file is looked at every few seconds.
    until(|| daemon.log().contains("the old one stays")).await;
    let output = call(&wss(&daemon), &["--tls-fingerprint", &bare(&two)]).await;
    assert!(output.status.success(), "{}", said(&output));
    let status = Ctl::beside(&daemon).json(&["gateway", "call", "status"]).await;
    let degraded = status["degraded"].to_string();
    assert!(degraded.contains("tls: the old certificate stays"), "{degraded}");
}

fn replace(from: &Path, to: &Path) {
    let draft = to.with_extension("new");
    std::fs::copy(from, &draft).unwrap();
    std::fs::rename(draft, to).unwrap();
}

fn bare(daemon: &Daemon) -> String {
    daemon.pins().to_string().replace("sha256:", "")
}

#[tokio::test]
async fn files_that_are_no_certificate_end_with_78() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    let nothing = daemon.home().join("nothing.pem");
    std::fs::write(&nothing, "nothing").unwrap();
    for (tls, code, part) in [
        (json!({ "enabled": true, "certPath": "/c.pem" }), 78, "gateway.tls.keyPath"),
        (json!({ "enabled": true, "autoGenerate": false }), 78, "certPath and keyPath"),
        (
            json!({ "enabled": true, "certPath": nothing, "keyPath": nothing }),
            78,
            "holds no certificate",
        ),
        (json!({ "enabled": true, "certPath": "/no/c", "keyPath": "/no/k" }), 1, "/no/c"),
    ] {
        daemon.configure(json!({ "gateway": { "auth": { "token": TOKEN }, "tls": tls } }));
        // What it said when it was last good would otherwise be started with.
        let _ = std::fs::remove_file(daemon.state_dir().join("config.last-good.json"));
        let (found, text) = daemon.fail_to_start().await;
        assert_eq!(found, Some(code), "{tls}: {text}");
        assert!(text.contains(part), "{tls}: {text}");
    }
}

#[tokio::test]
async fn a_tls_handshake_takes_a_place_and_has_the_deadline() {
    let limits = json!({ "unauthenticated": 2, "handshakeTimeoutMs": 3000 });
    let daemon = start(json!({ "enabled": true }), limits).await;
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(("127.0.0.1", daemon.port())).await.unwrap();
        stream.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
        strangers.push(stream);
    }
    // A newcomer takes the place of the oldest.
    let client = Client::open_tls(&daemon.url(), &[], &daemon.pins()).await.unwrap();
    client.introduce(Connect::operator()).await.unwrap();
    let metrics = metrics(&daemon).await;
    let displaced = "moltbot_connections_dropped_total{reason=\"displaced\"} 1";
    assert!(metrics.contains(displaced), "{metrics}");
    for mut stranger in strangers {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stranger.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "a silent stranger is sent away");
    }
}

#[tokio::test]
async fn rules_of_origin_host_and_locality_hold_behind_tls() {
    let daemon = with_tls().await;
    let open = |name: &str, value: &str| {
        let headers = vec![(name.to_owned(), value.to_owned())];
        let (url, pins) = (daemon.url(), daemon.pins());
        async move { Client::open_tls(&url, &headers, &pins).await }
    };
    let refused = open("Origin", "https://evil.example").await.unwrap_err();
    assert_eq!(refused.status, Some(403));
    let refused = open("Host", "evil.example").await.unwrap_err();
    assert_eq!(refused.status, Some(421));
    let device = || Connect::operator().device(&Device::new(), Version::V2);
    let proxied = open("X-Forwarded-For", "127.0.0.1").await.unwrap();
    let refused = proxied.introduce(device()).await.unwrap_err();
    assert_eq!(refused.error.unwrap()["message"], "pairing required");
    let direct = Client::open_tls(&daemon.url(), &[], &daemon.pins()).await.unwrap();
    let mut direct = direct.introduce(device()).await.unwrap();
    let id =
        direct.call("device.pair.list", json!({})).await.unwrap()["paired"][0]["deviceId"].clone();
    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut control = control.introduce(Connect::operator()).await.unwrap();
    control.call("device.pair.remove", json!({ "deviceId": id })).await.unwrap();
    assert_eq!(direct.closed().await, (1008, "device removed".to_owned()));
}

#[tokio::test]
async fn a_node_host_comes_in_over_tls() {
    let daemon = with_tls().await;
    let home = tempfile::tempdir().unwrap();
    let (url, pin) = (wss(&daemon), bare(&daemon));
    let mut node = NodeHost::start(
        &Ctl::alone(home.path()),
        &["--url", &url, "--token", TOKEN, "--tls-fingerprint", &pin],
    );
    node.says("connected to").await;
    let nodes = Ctl::beside(&daemon).json(&["nodes", "list", "--connected"]).await;
    assert_eq!(nodes["nodes"][0]["displayName"], "lab");
}
