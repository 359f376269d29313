//! Where a connection comes from: `Origin`, `Host`, forwarding headers, and
//! the plain HTTP paths.

use moltbot_tests::{Client, Connect, Daemon, Device, Options, Version, daemon::TOKEN};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_page_of_another_origin_is_refused_before_the_upgrade() {
    let daemon = Daemon::start().await;
    let port = daemon.port();
    for origin in [
        "https://evil.example".to_owned(),
        "null".to_owned(),
        format!("http://127.0.0.1:{}", port ^ 1),
        format!("http://127.0.0.1.evil:{port}"),
        format!("http://127.0.0.1:{port}."),
        format!("http://localhost:{port}@evil.example"),
    ] {
        let connect = Connect::operator().header("Origin", &origin);
        let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
        assert_eq!(refusal.status, Some(403), "{origin}: {refusal:?}");
    }
}

#[tokio::test]
async fn pages_of_the_own_and_of_listed_origins_may_connect() {
    let gateway = json!({
        "auth": { "token": TOKEN },
        "controlUi": { "allowedOrigins": ["https://panel.example"] },
    });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await;
    for origin in [format!("http://127.0.0.1:{}", daemon.port()), "https://panel.example".into()] {
        let connect = Connect::operator().header("Origin", &origin);
        daemon.connect(connect).await;
    }
}

#[tokio::test]
async fn a_name_that_was_rebound_to_this_host_is_refused() {
    let daemon = Daemon::start().await;
    for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:18789"] {
        let connect = Connect::operator().header("Host", host);
        let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
        assert_eq!(refusal.status, Some(421), "{host}: {refusal:?}");
        let (status, _) = daemon.get("/healthz", &[("Host", host)]).await;
        assert_eq!(status, 421, "{host}");
    }
}

#[tokio::test]
async fn a_forwarded_connection_is_never_local() {
    let daemon = Daemon::start().await;
    for (name, value) in [
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Real-IP", "127.0.0.1"),
        ("X-Forwarded-Host", "localhost"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=127.0.0.1"),
        ("Via", "1.1 proxy"),
        ("CF-Connecting-IP", "127.0.0.1"),
        ("Tailscale-User-Login", "alice@example.com"),
        ("X-Client-IP", "127.0.0.1"),
        ("True-Client-IP", "127.0.0.1"),
        ("X-Cluster-Client-IP", "127.0.0.1"),
        ("X-Original-Forwarded-For", "127.0.0.1"),
        ("Fastly-Client-IP", "127.0.0.1"),
        ("X-Envoy-External-Address", "127.0.0.1"),
        ("X-Made-Up-Client-IP", "127.0.0.1"),
        ("CDN-Loop", "somewhere"),
    ] {
        let connect = Connect::operator().device(&Device::new(), Version::V2).header(name, value);
        let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
        let error = refusal.error.unwrap();
        assert_eq!(error["message"], "pairing required", "{name}");
        assert!(error["details"]["requestId"].is_string(), "{name}");
    }
}

#[tokio::test]
async fn a_page_is_never_paired_silently() {
    let daemon = Daemon::start().await;
    let origin = format!("http://127.0.0.1:{}", daemon.port());
    let connect = Connect::operator().device(&Device::new(), Version::V2).header("Origin", &origin);
    let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
    assert_eq!(refusal.error.unwrap()["message"], "pairing required");
}

#[tokio::test]
async fn a_host_may_want_to_be_asked_about_its_own_devices() {
    let gateway = json!({ "auth": { "token": TOKEN }, "pairing": { "loopback": "ask" } });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await;
    let connect = Connect::operator().device(&Device::new(), Version::V2);
    let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
    assert_eq!(refusal.error.unwrap()["code"], "NOT_PAIRED");
}

#[tokio::test]
async fn the_health_pages_answer_without_a_secret_and_tell_none() {
    let daemon = Daemon::start().await;
    for path in ["/healthz", "/readyz"] {
        let (status, body) = daemon.get(path, &[]).await;
        assert_eq!(status, 200, "{path}");
        assert!(!body.contains(TOKEN) && !body.contains(daemon.home().to_str().unwrap()), "{body}");
    }
    let (status, body) = daemon.get("/etc/passwd", &[]).await;
    assert_eq!(status, 404, "{body}");
}

#[tokio::test]
async fn a_request_that_names_two_hosts_is_refused() {
    let daemon = Daemon::start().await;
    let host = format!("127.0.0.1:{}", daemon.port());
    for head in [
        format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nHost: evil.example"),
        format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nHost: {host}"),
        format!("GET http://evil.example/healthz HTTP/1.1\r\nHost: {host}"),
        format!("GET http://localhost:{}/healthz HTTP/1.1\r\nHost: {host}", daemon.port()),
    ] {
        let answer = raw(&daemon, &head).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
    }
    let head = format!("GET http://{host}/healthz HTTP/1.1\r\nHost: {host}");
    let answer = raw(&daemon, &head).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

async fn raw(daemon: &Daemon, head: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", daemon.port())).await.unwrap();
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_page_of_another_site_learns_nothing_from_the_plain_pages() {
    let daemon = Daemon::start().await;
    for (site, path, expected) in [
        ("cross-site", "/metrics", 403),
        ("cross-site", "/healthz", 403),
        ("same-site", "/readyz", 403),
        ("same-origin", "/metrics", 403),
        ("same-origin", "/healthz", 200),
        ("none", "/metrics", 200),
        ("none", "/healthz", 200),
    ] {
        let (status, body) = daemon.get(path, &[("Sec-Fetch-Site", site)]).await;
        assert_eq!(status, expected, "{site} {path}: {body}");
    }
}

#[tokio::test]
async fn any_path_upgrades() {
    let daemon = Daemon::start().await;
    let url = format!("{}/some/path?token=ignored", daemon.url());
    Client::connect(&url, Connect::operator()).await.unwrap();
}
