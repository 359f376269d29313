//! Where the daemon listens, and what it wants before it lets others in.

use std::time::Duration;

use moltbot_tests::{Client, Connect, Ctl, Daemon, Device, Options, Version, daemon::TOKEN};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

async fn bound(mut gateway: Value) -> Daemon {
    gateway["auth"] = json!({ "token": TOKEN });
    Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await
}

async fn answers(host: &str, port: u16) -> bool {
    TcpStream::connect((host, port)).await.is_ok()
}

/// Some hosts the tests run on have no IPv6.
async fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").await.is_ok()
}

#[tokio::test]
async fn loopback_stays_open_for_local_control_in_every_mode() {
    for gateway in [
        json!({ "bind": "loopback" }),
        json!({ "bind": "auto" }),
        json!({ "bind": "lan" }),
        json!({ "bind": "tailnet" }),
        json!({ "bind": "custom", "customBindHost": "127.0.0.2" }),
        json!({ "bind": "custom", "customBindHost": "0.0.0.0" }),
    ] {
        let daemon = bound(gateway.clone()).await;
        daemon.operator().await.call("health", json!({})).await.unwrap();
        let control = Client::open_control(&daemon.control_socket()).await.unwrap();
        control.introduce(Connect::operator()).await.unwrap();
        let v6 = gateway["customBindHost"] != "0.0.0.0" && has_ipv6().await;
        assert_eq!(answers("::1", daemon.port()).await, v6, "{gateway}");
        let others = gateway["bind"] != "loopback" && gateway["bind"] != "auto";
        let reached = answers("127.0.0.2", daemon.port()).await;
        assert_eq!(reached, others && gateway["bind"] != "tailnet", "{gateway}");
    }
}

#[tokio::test]
async fn a_missing_tailnet_is_waited_for_on_loopback_only() {
    let daemon = bound(json!({ "bind": "tailnet" })).await;
    let status = daemon.operator().await.call("status", json!({})).await.unwrap();
    let said = status["degraded"].to_string();
    assert!(said.contains("no tailnet address now"), "{said}");
    let listening: Vec<String> =
        serde_json::from_value(status["gateway"]["listening"].clone()).unwrap();
    let is_here =
        |address: &String| address.starts_with("127.0.0.1:") || address.starts_with("[::1]:");
    assert!(listening.iter().all(is_here), "{listening:?}");
    assert!(daemon.log().contains("no tailnet address now"), "{}", daemon.log());
}

#[tokio::test]
async fn an_address_of_another_host_is_an_error_and_never_every_address() {
    let mut daemon = bound(json!({})).await;
    daemon.stop().await;
    let gateway = json!({
        "auth": { "token": TOKEN }, "bind": "custom", "customBindHost": "10.255.255.77",
    });
    daemon.configure(json!({ "gateway": gateway }));
    let (code, said) = daemon.fail_to_start().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("10.255.255.77") && said.contains("gateway.customBindHost"), "{said}");
}

#[tokio::test]
async fn a_host_that_is_another_gateways_client_runs_none_unless_told_to() {
    let mut daemon = bound(json!({})).await;
    let remote = json!({
        "mode": "remote", "auth": { "token": TOKEN }, "remote": { "sshTarget": "me@far" },
    });
    // One that runs goes on, and says what the next start would do.
    daemon.configure(json!({ "gateway": remote }));
    let mut operator = daemon.operator().await;
    let told = |status: &Value| status["degraded"].to_string().contains("gateway.mode is");
    while !told(&operator.call("status", json!({})).await.unwrap()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.stop().await;
    let (code, said) = daemon.fail_to_start().await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("the gateway at me@far"), "{said}");
    let way_out = ["config", "set", "gateway.mode", "local"];
    assert!(said.contains(&format!("moltbotctl {}", way_out.join(" "))), "{said}");
    Ctl::beside(&daemon).text(&way_out).await;
    daemon.start_again().await;
    daemon.stop().await;

    let mut options = Options::with(json!({ "gateway": remote }));
    options.arguments.push("--allow-unconfigured".into());
    let daemon = Daemon::start_with(options).await;
    assert_eq!(
        daemon.operator().await.call("status", json!({})).await.unwrap()["degraded"],
        Value::Null
    );
}

#[tokio::test]
async fn others_are_let_in_only_with_a_secret_that_a_person_chose() {
    let mut daemon = Daemon::start_with(Options::with(json!({}))).await;
    daemon.stop().await;
    let exposed = [
        json!({ "bind": "lan" }),
        json!({ "bind": "tailnet" }),
        json!({ "bind": "custom", "customBindHost": "10.255.255.77" }),
        json!({ "bind": "custom", "customBindHost": "::" }),
    ];
    for mut gateway in exposed {
        for auth in [
            // The daemon's own token was made at its first start.
            json!({}),
            json!({ "token": "easy" }),
            json!({ "mode": "password", "password": "easy" }),
        ] {
            gateway["auth"] = auth;
            daemon.configure(json!({ "gateway": gateway }));
            let (code, said) = daemon.fail_to_start().await;
            assert_eq!(code, Some(77), "{gateway}: {said}");
            assert!(said.contains("openssl rand -hex 32"), "{gateway}: {said}");
        }
    }
}

#[tokio::test]
async fn a_proxys_clients_are_limited_one_by_one() {
    let daemon = bound(json!({
        "trustedProxies": ["127.0.0.0/8"],
        "limits": { "unauthenticatedPerAddress": 2 },
    }))
    .await;
    let from = |address: &str| Connect::operator().header("X-Forwarded-For", address);
    let mut last = Value::Null;
    for _ in 0..12 {
        let wrong = from("198.51.100.1").token("guess");
        last = Client::connect(&daemon.url(), wrong).await.unwrap_err().error.unwrap();
    }
    assert!(last["message"].as_str().unwrap().contains("too many"), "{last}");
    let forged = Connect::operator().header("X-Forwarded-For", "192.0.2.1, 198.51.100.1");
    let refusal = Client::connect(&daemon.url(), forged).await.unwrap_err();
    assert!(refusal.error.unwrap()["message"].as_str().unwrap().contains("too many"));
    Client::connect(&daemon.url(), from("198.51.100.2")).await.unwrap();

    let header = |address: &str| vec![("X-Forwarded-For".to_owned(), address.to_owned())];
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(Client::open(&daemon.url(), &header("2001:db8::1")).await.unwrap());
    }
    let third = Client::open(&daemon.url(), &header("2001:db8::2")).await.unwrap();
    Client::open(&daemon.url(), &header("2001:db8:1::1")).await.unwrap();
    assert_eq!(silent[0].closed().await.0, 1013, "the oldest of the same network makes room");
    third.introduce(Connect::operator()).await.unwrap();
}

#[tokio::test]
async fn strangers_behind_a_proxy_that_is_not_trusted_do_not_lock_out_this_host() {
    let daemon = bound(json!({})).await;
    let mut last = Value::Null;
    for _ in 0..12 {
        let wrong = Connect::operator().token("guess").header("X-Forwarded-For", "127.0.0.1");
        last = Client::connect(&daemon.url(), wrong).await.unwrap_err().error.unwrap();
    }
    assert!(last["message"].as_str().unwrap().contains("too many"), "{last}");
    daemon.operator().await;
    let proven = Connect::operator().device(&Device::new(), Version::V2);
    daemon.connect(proven).await;
}
