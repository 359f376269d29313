//! The gateway behind Tailscale, with stand-ins for `tailscale` and tailscaled.
//!
//! Whose a socket is, the system tells, so the stand-in for tailscaled is a
//! program of its own. Under root it runs as another user, and whoever is not
//! that user is refused by that alone; else it runs as this user, and the
//! forgery is one that finds no tailscaled.

use std::{path::Path, time::Duration};

use moltbot_tests::{
    Client, Connect, Ctl, Daemon, Device, Options, PATIENCE, Tailnet, Version,
    daemon::{TOKEN, request},
    tailnet::{ADDRESS, LOGIN, NAME},
};
use nix::unistd::Uid;
use serde_json::{Value, json};

const PASSWORD: &str = "correct-horse-battery-staple";

fn behind(tailnet: &Tailnet, mode: &str, auth: Value) -> Options {
    let gateway = json!({ "auth": auth, "tailscale": tailnet.settings(mode) });
    Options::with(json!({ "gateway": gateway }))
}

async fn served(tailnet: &Tailnet) -> Daemon {
    let daemon = Daemon::start_with(behind(tailnet, "serve", json!({ "token": TOKEN }))).await;
    until(&daemon, |status| status["served"] == true).await;
    daemon
}

/// Waits until the gateway says so of its tailnet.
async fn until(daemon: &Daemon, fits: impl Fn(&Value) -> bool) -> Value {
    let mut operator = daemon.operator().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = operator.call("status", json!({})).await.unwrap();
        let tailnet = &status["gateway"]["tailscale"];
        if fits(tailnet) {
            return status;
        }
        assert!(tokio::time::Instant::now() < deadline, "{tailnet}\n{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for the trouble the gateway has, which must not be more than that.
async fn trouble(tailnet: &Tailnet) -> String {
    let daemon = Daemon::start_with(behind(tailnet, "serve", json!({ "token": TOKEN }))).await;
    let status = until(&daemon, |status| status["trouble"].is_string()).await;
    let trouble = status["gateway"]["tailscale"]["trouble"].as_str().unwrap().to_owned();
    assert_eq!(status["gateway"]["tailscale"]["served"], false);
    assert_eq!(status["degraded"], json!([format!("tailscale: {trouble}")]));
    let (code, _) = daemon.get("/readyz", &[]).await;
    assert_eq!(code, 200, "the gateway on loopback goes on");
    trouble
}

#[tokio::test]
async fn the_gateway_is_served_and_says_where() {
    let tailnet = Tailnet::new();
    let daemon = served(&tailnet).await;
    let target = format!("http://127.0.0.1:{}", daemon.port());
    let handlers = tailnet.served()["Web"][format!("{NAME}:443")]["Handlers"].clone();
    assert_eq!(handlers, json!({ "/": { "Proxy": target } }));
    let changes: Vec<_> =
        tailnet.calls().into_iter().filter(|call| call.contains("--bg")).collect();
    assert_eq!(changes, [format!("serve --bg --yes --https=443 {target}")]);

    let ctl = Ctl::beside(&daemon);
    for command in [&["gateway", "status"][..], &["status", "--deep"]] {
        let report = ctl.json(command).await;
        let shown = &report["tailscale"];
        assert_eq!(shown["tailnet"], "example.com", "{report}");
        assert_eq!(shown["name"], NAME);
        assert_eq!(shown["url"], format!("https://{NAME}"));
        // There is no such name: the address is tried, and does not answer.
        assert_eq!(shown["answers"]["ok"], false, "{shown}");
        let text = ctl.text(command).await;
        assert!(text.contains(NAME) && text.contains("does not answer"), "{text}");
    }
}

#[tokio::test]
async fn the_flag_beats_the_file_and_a_restart_finds_its_own_again() {
    let tailnet = Tailnet::new();
    let mut options = behind(&tailnet, "off", json!({ "token": TOKEN }));
    options.arguments = vec!["--tailscale".into(), "serve".into()];
    let mut daemon = Daemon::start_with(options).await;
    until(&daemon, |status| status["served"] == true).await;
    daemon.stop().await;
    let before = tailnet.served();
    assert!(before["Web"].is_object(), "it stays unless the configuration says otherwise");
    daemon.start_again_in_place().await;
    until(&daemon, |status| status["served"] == true).await;
    let changes = tailnet.calls().iter().filter(|call| call.contains("--bg")).count();
    assert_eq!((tailnet.served(), changes), (before, 1));
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_helps() {
    let not_there = Tailnet::new();
    std::fs::remove_file(not_there.at("bin/tailscale")).unwrap();
    let told = trouble(&not_there).await;
    assert!(told.contains("not installed") && told.contains("gateway.tailscale.path"), "{told}");

    for (state, https, helps) in [
        ("NeedsLogin", true, "tailscale up"),
        ("Stopped", true, "tailscale up"),
        ("Running", false, "https://login.tailscale.com/admin/dns"),
    ] {
        let tailnet = Tailnet::new();
        tailnet.status(state, https);
        let told = trouble(&tailnet).await;
        assert!(told.contains(helps), "{state}: {told}");
        assert!(!tailnet.calls().iter().any(|call| call.contains("--bg")), "{state}");
    }

    for (file, said, helps) in [
        ("fail-serve", "Access denied: serve config denied", "sudo tailscale set --operator=$USER"),
        (
            "fail-status",
            "failed to connect to local tailscaled; it doesn't appear to be running",
            "sudo systemctl start tailscaled",
        ),
        ("fail-serve", "something nobody thought of", "something nobody thought of"),
    ] {
        let tailnet = Tailnet::new();
        std::fs::write(tailnet.at(file), said).unwrap();
        let told = trouble(&tailnet).await;
        assert!(told.contains(helps), "{said}: {told}");
    }
}

#[tokio::test]
async fn a_program_that_hangs_is_given_up_and_its_last_words_count() {
    let silent = Tailnet::new();
    std::fs::write(silent.at("hang-status"), "").unwrap();
    let waits = Tailnet::new();
    let link = "https://login.tailscale.com/f/serve?node=n1CNTRL";
    let said = format!("Serve is not enabled on your tailnet.\nTo enable, visit:\n\n  {link}\n");
    std::fs::write(waits.at("hang-serve"), said).unwrap();
    let (silent, waits) = tokio::join!(trouble(&silent), trouble(&waits));
    assert!(silent.contains("`tailscale status --json --peers=false` did not answer"), "{silent}");
    assert!(waits.contains("not enabled for this tailnet") && waits.ends_with(link), "{waits}");
}

#[tokio::test]
async fn what_somebody_else_serves_is_never_overwritten() {
    let foreign = json!({
        "TCP": { "443": { "HTTPS": true } },
        "Web": { format!("{NAME}:443"): { "Handlers": { "/": { "Proxy": "http://127.0.0.1:3000" } } } },
    });
    let tailnet = Tailnet::new();
    tailnet.write("serve.json", &foreign);
    let told = trouble(&tailnet).await;
    assert!(told.contains("http://127.0.0.1:3000") && told.contains("--https=443 off"), "{told}");
    assert_eq!(tailnet.served(), foreign);
}

#[tokio::test]
async fn it_is_tried_again_until_it_works() {
    let tailnet = Tailnet::new();
    tailnet.status("NeedsLogin", true);
    let daemon = Daemon::start_with(behind(&tailnet, "serve", json!({ "token": TOKEN }))).await;
    until(&daemon, |status| status["trouble"].is_string()).await;
    tailnet.status("Running", true);
    let status = until(&daemon, |status| status["served"] == true).await;
    assert!(status["degraded"].is_null(), "{status}");
}

#[tokio::test]
async fn the_exit_takes_back_only_what_is_the_gateways() {
    let foreign = json!({ "TCP": { "443": { "TCPForward": "127.0.0.1:22" } } });
    for replaced in [false, true] {
        let tailnet = Tailnet::new();
        let mut options = behind(&tailnet, "serve", json!({ "token": TOKEN }));
        options.config["gateway"]["tailscale"]["resetOnExit"] = true.into();
        let mut daemon = Daemon::start_with(options).await;
        until(&daemon, |status| status["served"] == true).await;
        if replaced {
            tailnet.write("serve.json", &foreign);
        }
        assert!(daemon.stop().await.success());
        assert_eq!(tailnet.served(), if replaced { foreign.clone() } else { json!({}) });
        let off = tailnet.calls().iter().any(|call| call == "serve --https=443 off");
        assert_eq!(off, !replaced, "{:?}", tailnet.calls());
    }
}

#[tokio::test]
async fn the_internet_gets_in_with_a_good_password_only() {
    let tailnet = Tailnet::new();
    let good = json!({ "mode": "password", "password": PASSWORD });
    let mut daemon = Daemon::start_with(behind(&tailnet, "funnel", good)).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tailnet.served()["AllowFunnel"][format!("{NAME}:443")] != true {
        assert!(tokio::time::Instant::now() < deadline, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.stop().await;
    for (auth, told) in [
        (json!({ "token": TOKEN }), "requires gateway.auth.mode"),
        (json!({ "mode": "password", "password": "easy" }), "easy to guess"),
    ] {
        daemon.configure(behind(&tailnet, "funnel", auth).config);
        let (code, said) = daemon.fail_to_start().await;
        assert_eq!(code, Some(77), "{said}");
        assert!(said.contains(told), "{said}");
    }
}

fn stand_in() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tailscaled"))
}

/// A client that has no secret.
fn visitor(device: &Device) -> Connect {
    Connect::operator().without("auth").device(device, Version::V2)
}

/// The same, with what Serve would say of it.
fn forged(device: &Device) -> Connect {
    visitor(device)
        .header("Tailscale-User-Login", LOGIN)
        .header("X-Forwarded-For", ADDRESS)
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", NAME)
}

async fn message(url: &str, connect: Connect) -> String {
    let refusal = Client::connect(url, connect).await.unwrap_err();
    refusal.error.unwrap()["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_user_of_the_tailnet_needs_no_secret_but_an_approved_device() {
    let tailnet = Tailnet::new();
    let daemon = served(&tailnet).await;
    let tailscaled = tailnet.tailscaled(stand_in(), daemon.port(), LOGIN).await;
    let url = format!("ws://127.0.0.1:{}", tailscaled.port);
    let device = Device::new();
    let refusal = Client::connect(&url, visitor(&device)).await.unwrap_err();
    let error = refusal.error.unwrap();
    assert_eq!(error["message"], "pairing required", "{}", daemon.log());

    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut control = control.introduce(Connect::operator()).await.unwrap();
    let list = control.call("device.pair.list", json!({})).await.unwrap();
    assert_eq!(list["pending"][0]["remoteIp"], ADDRESS, "{list}");
    let asked = error["details"]["requestId"].clone();
    control.call("device.pair.approve", json!({ "requestId": asked })).await.unwrap();
    let mut client = Client::connect(&url, visitor(&device)).await.unwrap();
    client.call("health", json!({})).await.unwrap();
    let asked = tailnet.calls().iter().filter(|call| call.starts_with("whois")).count();
    assert_eq!(asked, 1, "the answer is good for a minute");

    // A page that the name leads to is ours, and no other page is.
    let page = |origin: &str| visitor(&device).header("Origin", origin);
    Client::connect(&url, page(&format!("https://{NAME}"))).await.unwrap();
    let other = Client::connect(&url, page("https://evil.tail1234.ts.net")).await;
    assert_eq!(other.unwrap_err().status, Some(403));

    // It is for operators with a device, on the WebSocket, and for nothing else.
    let without = Connect::operator().without("auth");
    assert_eq!(message(&url, without).await, "device identity required");
    let junk = Connect::operator().token("anything");
    assert!(message(&url, junk).await.contains("token mismatch"));
    let node = Connect::node(&Device::new(), &[]).without("auth");
    assert!(message(&url, node).await.contains("token missing"));
    let (status, _) = request(tailscaled.port, "GET", "/metrics", &[]).await.unwrap();
    assert_eq!(status, 401);
}

#[tokio::test]
async fn the_tailnet_has_the_last_word_about_who_somebody_is() {
    let tailnet = Tailnet::new();
    let daemon = served(&tailnet).await;
    for (login, whois) in [
        ("mallory@example.com", json!({ "UserProfile": { "LoginName": LOGIN } })),
        ("tagged-devices", json!({ "UserProfile": { "LoginName": "tagged-devices" } })),
        (LOGIN, json!({ "Node": {} })),
    ] {
        let tailnet_of_one = Tailnet::new();
        tailnet_of_one.write(&format!("whois-{ADDRESS}.json"), &whois);
        let daemon = served(&tailnet_of_one).await;
        let tailscaled = tailnet_of_one.tailscaled(stand_in(), daemon.port(), login).await;
        let url = format!("ws://127.0.0.1:{}", tailscaled.port);
        let told = message(&url, visitor(&Device::new())).await;
        assert!(told.contains("token missing"), "{login}: {told}");
        assert!(daemon.log().contains("tailscale whois"), "{}", daemon.log());
    }
    // An address the tailnet does not know.
    let tailscaled = tailnet.tailscaled(stand_in(), daemon.port(), LOGIN).await;
    std::fs::remove_file(tailnet.at(&format!("whois-{ADDRESS}.json"))).unwrap();
    let url = format!("ws://127.0.0.1:{}", tailscaled.port);
    assert!(message(&url, visitor(&Device::new())).await.contains("token missing"));
}

#[tokio::test]
async fn a_program_of_this_host_cannot_pass_itself_off_as_the_tailnet() {
    let tailnet = Tailnet::new();
    let daemon = served(&tailnet).await;
    // No tailscaled runs: nobody can be it.
    let told = message(&daemon.url(), forged(&Device::new())).await;
    assert!(told.contains("token missing"), "{told}");
    assert!(daemon.log().contains("tailscaled does not answer"), "{}", daemon.log());
    if Uid::effective().is_root() {
        // It runs as another user than this test, which is root as the gateway is.
        let _tailscaled = tailnet.tailscaled(stand_in(), daemon.port(), LOGIN).await;
        let told = message(&daemon.url(), forged(&Device::new())).await;
        assert!(told.contains("token missing"), "{told}");
        assert!(daemon.log().contains("opened by user 0, and tailscaled runs as user 65534"));
    }
    assert!(!tailnet.calls().iter().any(|call| call.starts_with("whois")), "nobody was asked");
    // The right secret still opens, whatever the headers say.
    let mut with_secret = forged(&Device::new());
    with_secret.params["auth"] = json!({ "token": TOKEN });
    assert_eq!(message(&daemon.url(), with_secret).await, "pairing required");
}

#[tokio::test]
async fn the_owner_may_want_the_secret_all_the_same() {
    let tailnet = Tailnet::new();
    let auth = json!({ "token": TOKEN, "allowTailscale": false });
    let daemon = Daemon::start_with(behind(&tailnet, "serve", auth)).await;
    until(&daemon, |status| status["served"] == true).await;
    let tailscaled = tailnet.tailscaled(stand_in(), daemon.port(), LOGIN).await;
    let url = format!("ws://127.0.0.1:{}", tailscaled.port);
    let told = message(&url, visitor(&Device::new())).await;
    assert!(told.contains("token missing"), "{told}");
}
