//! `moltbotctl tunnel` and `moltbotctl remote` through a real sshd.

use std::{fs, process::Stdio, time::Duration};

use moltbot_tests::{Ctl, Daemon, PATIENCE, Sshd, ports, sshd};
use serde_json::{Value, json};

use crate::ssh::{Laptop, failure};

/// Asks until the tunnel is as wanted.
async fn until(ctl: &Ctl, port: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let asking = async {
        loop {
            let output = ctl.run(&["tunnel", "status", "--local-port", port, "--json"]).await;
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            last = report["tunnels"][0].clone();
            if wanted(&last) {
                return last.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(note) => note,
        Err(_) => panic!("the tunnel never was as wanted: {last}"),
    }
}

#[tokio::test]
async fn a_tunnel_is_put_up_used_shown_and_ended() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let ctl = &laptop.ctl;
    let (far, local) = (daemon.port().to_string(), ports::free().to_string());
    let token = laptop.token_file();
    let up = ["tunnel", "up", "--ssh", sshd::HOST, "--port", &far, "--token-file", &token];
    let up = [&up[..], &["--local-port", &local]].concat();
    let note = ctl.json(&up).await;
    assert_eq!(note["state"], "up", "{note}");
    assert_eq!(note["url"], format!("ssh://{}/{far}", sshd::HOST));
    assert!(note["version"].is_string(), "a real handshake told it: {note}");
    let url = format!("ws://127.0.0.1:{local}");
    let health = ctl.json(&["health", "--url", &url, "--token-file", &token]).await;
    assert_eq!(health["ok"], true);
    // Once more is no second one; another goal is refused.
    assert_eq!(ctl.json(&up).await["pid"], note["pid"]);
    let other = ["tunnel", "up", "--ssh", "elsewhere", "--local-port", &local];
    let (code, said) = failure(&ctl.run(&other).await);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("leads to ssh://far/") && said.contains("tunnel down"), "{said}");
    let arguments = fs::read(format!("/proc/{}/cmdline", note["pid"])).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains(moltbot_tests::daemon::TOKEN));
    let ended = ctl.json(&["tunnel", "down", "--local-port", &local]).await;
    assert_eq!((&ended["ended"], &ended["pid"]), (&json!(true), &note["pid"]));
    assert!(sshd.clients().is_empty(), "its ssh has ended with it");
    assert!(std::net::TcpListener::bind(format!("127.0.0.1:{local}")).is_ok());
    let ended = ctl.json(&["tunnel", "down", "--local-port", &local]).await;
    assert_eq!(ended["ended"], false);
    assert_eq!(ctl.run(&["tunnel", "status"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn a_tunnel_comes_back_after_ssh_the_server_or_the_gateway_died() {
    let (mut daemon, mut sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let ctl = &laptop.ctl;
    let (far, local) = (daemon.port().to_string(), ports::free().to_string());
    let token = laptop.token_file();
    let tunnel = ["--ssh", sshd::HOST, "--port", &far, "--token-file", &token];
    let tunnel = [&tunnel[..], &["--local-port", &local, "--check-every", "1"]].concat();
    ctl.json(&[&["tunnel", "up", "--timeout", "10000"], &tunnel[..]].concat()).await;
    let url = format!("ws://127.0.0.1:{local}");
    let works = || async {
        let health = ctl.json(&["health", "--url", &url, "--token-file", &token]).await;
        assert_eq!(health["ok"], true);
    };

    assert_eq!(sshd.kill_clients(), 1);
    until(ctl, &local, |note| note["state"] == "up" && note["reconnects"].as_u64() >= Some(1))
        .await;
    works().await;

    sshd.kill().await;
    until(ctl, &local, |note| note["state"] == "waiting").await;
    sshd.start_again().await;
    until(ctl, &local, |note| note["state"] == "up").await;
    works().await;

    daemon.kill().await;
    let refused =
        |note: &Value| note["detail"].as_str().is_some_and(|it| it.contains("Connection refused"));
    let note = until(ctl, &local, |note| note["state"] == "degraded" && refused(note)).await;
    let reconnects = note["reconnects"].clone();
    daemon.start_again_in_place().await;
    let note = until(ctl, &local, |note| note["state"] == "up").await;
    assert_eq!(note["reconnects"], reconnects, "ssh was not to blame");
    works().await;

    sshd.freeze_clients();
    until(ctl, &local, |note| note["state"] == "up" && note["reconnects"] != reconnects).await;
    works().await;
    ctl.json(&["tunnel", "down", "--local-port", &local]).await;
    assert!(sshd.clients().is_empty());
}

#[tokio::test]
async fn a_tunnel_never_takes_the_place_of_another_listener() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let local = other.local_addr().unwrap().port().to_string();
    let (far, token) = (daemon.port().to_string(), laptop.token_file());
    for command in ["run", "up"] {
        let words =
            ["tunnel", command, "--ssh", sshd::HOST, "--port", &far, "--local-port", &local];
        let output = laptop.ctl.run(&[&words[..], &["--token-file", &token]].concat()).await;
        let (code, said) = failure(&output);
        assert_eq!(code, 69, "{said}");
        assert!(said.contains(&format!("port {local} of this host cannot be used")), "{said}");
    }
    assert!(!sshd.log().contains("Accepted"), "nothing was begun");
    other.set_nonblocking(true).unwrap();
    assert!(other.accept().is_err(), "and nobody talked to the listener");
}

/// The guides for the reference's remote mode want a `LocalForward` in
/// `~/.ssh/config`.
#[tokio::test]
async fn a_forwarding_of_the_users_configuration_is_no_obstacle_or_is_named() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let (far, local) = (daemon.port().to_string(), ports::free().to_string());
    let token = laptop.token_file();
    let up = ["tunnel", "up", "--ssh", sshd::HOST, "--port", &far, "--token-file", &token];
    let up = [&up[..], &["--local-port", &local]].concat();
    sshd.configure_client(&format!("LocalForward {local} 127.0.0.1:{far}\n"));
    assert_eq!(laptop.ctl.json(&up).await["state"], "up");
    let health = ["health", "--ssh", sshd::HOST, "--port", &far, "--token-file", &token];
    assert_eq!(laptop.ctl.json(&health).await["ok"], true, "which opens no port");
    laptop.ctl.json(&["tunnel", "down", "--local-port", &local]).await;

    sshd.configure_client(&format!("LocalForward 127.0.0.1:{local} localhost:{far}\n"));
    let (code, said) = failure(&laptop.ctl.run(&up).await);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains(&format!("ssh -G {} | grep localforward", sshd::HOST)), "{said}");
}

#[tokio::test]
async fn a_tunnel_without_a_gateway_behind_it_says_so_and_notices_when_it_comes() {
    let (mut daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let (far, local) = (daemon.port().to_string(), ports::free().to_string());
    let token = laptop.token_file();
    daemon.kill().await;
    let words = ["tunnel", "up", "--ssh", sshd::HOST, "--port", &far, "--local-port", &local];
    let words = [&words[..], &["--token-file", &token, "--check-every", "1"]].concat();
    let (code, said) = failure(&laptop.ctl.run(&words).await);
    assert_eq!(code, 26, "{said}");
    daemon.start_again_in_place().await;
    until(&laptop.ctl, &local, |note| note["state"] == "up").await;
    laptop.ctl.json(&["tunnel", "down", "--local-port", &local]).await;
}

#[tokio::test]
async fn a_tunnel_that_ssh_refuses_fails_with_the_words_of_ssh() {
    let sshd = Sshd::start().await;
    let laptop = Laptop::new(&sshd);
    sshd.know(None);
    let local = ports::free().to_string();
    let words = ["tunnel", "up", "--ssh", sshd::HOST, "--local-port", &local];
    let (code, said) = failure(&laptop.ctl.run(&words).await);
    assert_eq!(code, 21, "{said}");
    assert!(said.contains("Host key verification failed"), "{said}");
    let words = [&words[..], &["--token", "secret"]].concat();
    let (code, said) = failure(&laptop.ctl.run(&words).await);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("--token-file"), "{said}");
}

/// Set-up 2: the gateway runs at home, and nothing but `moltbotctl` on the laptop.
#[tokio::test]
async fn a_remote_gateway_of_the_configuration_serves_every_command() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let Laptop { home, ctl } = Laptop::new(&sshd);
    let (port, token) = (daemon.port().to_string(), home.path().join("token"));
    let config = home.path().join("moltbot.json");
    fs::write(&config, "{\n  // mine\n  logging: { level: \"info\" }, // keep\n}\n").unwrap();
    let ctl = ctl.set("MOLTBOT_CONFIG_PATH", &config.display().to_string());
    let ctl = ctl.set("MOLTBOT_STATE_DIR", &home.path().join("state").display().to_string());
    let set = ["remote", "set", "--ssh", sshd::HOST, "--port", &port, "--token-file"];
    let shown = ctl.json(&[&set[..], &[&token.display().to_string()]].concat()).await;
    assert_eq!(shown["active"], true, "{shown}");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("// mine") && text.contains("// keep"), "{text}");
    assert!(!text.contains(moltbot_tests::daemon::TOKEN), "{text}");

    let tested = ctl.json(&["remote", "test"]).await;
    assert_eq!((&tested["ok"], &tested["healthy"]), (&json!(true), &json!(true)));
    assert_eq!(ctl.json(&["health"]).await["ok"], true);
    ctl.text(&["status", "--deep"]).await;
    let answer = ctl.text(&["agent", "-m", "hello from the laptop"]).await;
    assert!(answer.contains("hello from the laptop"), "{answer}");
    let mut chat = ctl.command(&["chat"]);
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = chat.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut input, b"hello again\n").await.unwrap();
    drop(input);
    let output = chat.wait_with_output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("hello again"));
    let report = ctl.json(&["where"]).await;
    assert_eq!(report["chosen"]["kind"], "configRemote", "{report}");
    assert_eq!(report["chosen"]["url"], format!("ssh://{}/{port}", sshd::HOST));

    // Another gateway is not shown the secret of this one.
    let pin = format!("sha256:{}", "ab".repeat(32));
    let other = ["remote", "set", "--url", "wss://other.example", "--tls-fingerprint", &pin];
    let shown = ctl.json(&other).await;
    assert_eq!(shown["remote"]["tlsFingerprint"], pin, "{shown}");
    assert!(shown["remote"]["token"].is_null(), "{shown}");
    assert!(!fs::read_to_string(&config).unwrap().contains("tokenFile"));
    let (code, said) = failure(&ctl.run(&["remote", "set", "--url", "ws://other.example:1"]).await);
    assert_eq!(code, 10, "{said}");
    assert_eq!(ctl.json(&["remote", "clear"]).await["changed"], true);
    let text = fs::read_to_string(&config).unwrap();
    assert!(!text.contains("remote") && text.contains("// keep"), "{text}");
    assert_eq!(ctl.json(&["where"]).await["chosen"]["kind"], "localLoopback");
}

#[tokio::test]
async fn a_tunnel_to_a_name_that_is_not_known_ends_and_leaves_nothing() {
    let sshd = Sshd::start().await;
    let laptop = Laptop::new(&sshd);
    let local = ports::free().to_string();
    let up = ["tunnel", "up", "--ssh", "no-such-host.invalid", "--local-port", &local];
    for _ in 0..2 {
        let (code, said) = failure(&laptop.ctl.run(&up).await);
        assert_eq!(code, 24, "{said}");
    }
    let report = laptop.ctl.run(&["tunnel", "status", "--json"]).await;
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["tunnels"], json!([]));
}
