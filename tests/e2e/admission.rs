//! Who gets a socket while others hold theirs and say nothing: a new client and
//! the control socket always do, and no visitor of a proxy takes the place of
//! another.

use std::path::Path;

use moltbot_tests::{Client, Connect, Daemon, Options, Tailnet, daemon::TOKEN, tailnet::LOGIN};
use nix::unistd::Uid;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

/// More than any place that peers before their login share.
const FLOOD: usize = 500;

async fn start(gateway: Value) -> Daemon {
    let mut gateway = gateway;
    gateway["auth"] = json!({ "token": TOKEN });
    Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await
}

/// A new client of TCP and one of the control socket log in and are answered.
async fn newcomers_are_served(daemon: &Daemon) {
    daemon.operator().await.call("health", json!({})).await.unwrap();
    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut control = control.introduce(Connect::operator()).await.unwrap();
    control.call("health", json!({})).await.unwrap();
}

/// Waits until the other side has closed a socket.
async fn is_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let closed = async {
        let mut ignored = [0; 1024];
        while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
    };
    tokio::time::timeout(moltbot_tests::PATIENCE, closed).await.expect("it is closed");
}

#[tokio::test]
async fn silent_sockets_of_this_host_keep_nobody_out() {
    // Long enough that no deadline of theirs helps.
    let daemon = start(json!({ "limits": { "handshakeTimeoutMs": 600_000 } })).await;
    let mut operator = daemon.operator().await;
    let mut silent = Vec::new();
    for _ in 0..FLOOD {
        silent.push(TcpStream::connect(("127.0.0.1", daemon.port())).await.unwrap());
    }
    newcomers_are_served(&daemon).await;
    is_closed(&mut silent[0]).await;
    operator.call("health", json!({})).await.unwrap();

    // The youngest of them is still welcome.
    let mut youngest = silent.pop().unwrap();
    youngest.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    youngest.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn silent_upgrades_keep_nobody_out_and_are_told_why_they_go() {
    let limits = json!({ "unauthenticated": 8, "handshakeTimeoutMs": 600_000 });
    let daemon = start(json!({ "limits": limits })).await;
    let mut strangers = Vec::new();
    for _ in 0..8 {
        strangers.push(Client::open(&daemon.url(), &[]).await.unwrap());
    }
    let newcomer = Client::open(&daemon.url(), &[]).await.unwrap();
    let (code, reason) = strangers[0].closed().await;
    assert_eq!((code, &*reason), (1013, "too many peers have not authenticated yet"));
    newcomers_are_served(&daemon).await;
    newcomer.introduce(Connect::operator()).await.unwrap();
}

#[tokio::test]
async fn silent_peers_of_the_control_socket_keep_its_user_out_of_nothing() {
    let daemon = start(json!({ "limits": { "handshakeTimeoutMs": 600_000 } })).await;
    let mut silent = Vec::new();
    for _ in 0..FLOOD {
        silent.push(UnixStream::connect(daemon.control_socket()).await.unwrap());
    }
    newcomers_are_served(&daemon).await;
    is_closed(&mut silent[0]).await;
}

#[tokio::test]
async fn one_visitor_of_a_trusted_proxy_takes_no_place_of_another_or_of_its_own() {
    let limits = json!({ "handshakeTimeoutMs": 600_000 });
    let daemon = start(json!({ "trustedProxies": ["127.0.0.1"], "limits": limits })).await;
    let from = |ip: &str| [("X-Forwarded-For".to_owned(), ip.to_owned())];
    let mut silent = Vec::new();
    for _ in 0..FLOOD {
        silent.push(Client::open(&daemon.url(), &from("203.0.113.9")).await.unwrap());
    }
    for visitor in ["203.0.113.10", "203.0.113.9"] {
        let connect = Connect::operator().header("X-Forwarded-For", visitor);
        daemon.connect(connect).await.call("health", json!({})).await.unwrap();
    }
    newcomers_are_served(&daemon).await;
    assert_eq!(silent[0].closed().await.0, 1013);
}

/// Visitors through Serve, and one through a program that is not tailscaled.
struct Served {
    daemon: Daemon,
    tailnet: Tailnet,
    _tailscaled: moltbot_tests::tailnet::Tailscaled,
    url: String,
}

impl Served {
    async fn start() -> Self {
        let tailnet = Tailnet::new();
        let gateway = json!({
            "tailscale": tailnet.settings("serve"),
            "limits": { "handshakeTimeoutMs": 600_000 },
        });
        let daemon = start(gateway).await;
        let program = Path::new(env!("CARGO_BIN_EXE_tailscaled"));
        let tailscaled = tailnet.tailscaled(program, daemon.port(), LOGIN).await;
        let url = format!("ws://127.0.0.1:{}", tailscaled.port);
        Self { daemon, tailnet, _tailscaled: tailscaled, url }
    }
}

/// What the stand-in for tailscaled takes as the visitor's address.
fn visitor(ip: &str) -> (String, String) {
    ("Visitor".to_owned(), ip.to_owned())
}

#[tokio::test]
async fn one_visitor_of_serve_takes_no_place_of_another_or_of_its_own() {
    let served = Served::start().await;
    let mut silent = Vec::new();
    for _ in 0..FLOOD {
        silent.push(Client::open(&served.url, &[visitor("100.64.0.66")]).await.unwrap());
    }
    for ip in ["100.64.0.9", "100.64.0.66"] {
        let client = Client::open(&served.url, &[visitor(ip)]).await.unwrap();
        client.introduce(Connect::operator()).await.unwrap();
    }
    // Another proxy on this host, which nobody vouches for.
    let daemon = &served.daemon;
    daemon.connect(Connect::operator().remote()).await;
    newcomers_are_served(daemon).await;
    assert_eq!(silent[0].closed().await.0, 1013);
    assert!(!served.tailnet.calls().iter().any(|call| call.starts_with("whois")));
}

#[tokio::test]
async fn wrong_guesses_of_one_visitor_of_serve_lock_no_other_out() {
    let served = Served::start().await;
    let guess = |ip: &str| {
        let mut connect = Connect::operator().token("wrong");
        connect.headers.push(visitor(ip));
        connect
    };
    let message = |refusal: moltbot_tests::Refusal| {
        refusal.error.unwrap_or_default()["message"].as_str().unwrap_or_default().to_owned()
    };
    let mut last = String::new();
    for _ in 0..12 {
        last = message(Client::connect(&served.url, guess("100.64.0.66")).await.unwrap_err());
    }
    assert!(last.contains("too many"), "{last}");
    for ip in ["100.64.0.9", "fd7a:115c:a1e0::9"] {
        let other = message(Client::connect(&served.url, guess(ip)).await.unwrap_err());
        assert!(other.contains("mismatch"), "{other}");
    }
    let through_another = Connect::operator().token("wrong").remote();
    let other = Client::connect(&served.daemon.url(), through_another).await.unwrap_err();
    assert!(message(other).contains("mismatch"));
}

#[tokio::test]
async fn a_program_of_another_user_does_not_choose_its_address_as_a_trusted_proxy() {
    if !Uid::effective().is_root() {
        return;
    }
    // The stand-in forwards as an ordinary user of this host, who is no service.
    let tailnet = Tailnet::new();
    let daemon = start(json!({ "trustedProxies": ["127.0.0.1"] })).await;
    let program = Path::new(env!("CARGO_BIN_EXE_tailscaled"));
    let forger = tailnet.tailscaled(program, daemon.port(), "").await;
    let url = format!("ws://127.0.0.1:{}", forger.port);
    let mut messages = Vec::new();
    for guess in 0..12 {
        let mut connect = Connect::operator().token("wrong");
        connect.headers.push(visitor(&format!("203.0.113.{guess}")));
        let refusal = Client::connect(&url, connect).await.unwrap_err();
        messages.push(refusal.error.unwrap_or_default()["message"].to_string());
    }
    assert!(messages[11].contains("too many"), "one address for all of them: {messages:?}");
    assert!(daemon.log().contains("gateway.trustedProxies"), "{}", daemon.log());
    // The proxy itself runs as this user, as the gateway does.
    let connect = Connect::operator().token("wrong").header("X-Forwarded-For", "203.0.113.200");
    let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
    assert!(refusal.error.unwrap()["message"].as_str().unwrap().contains("mismatch"));
}
