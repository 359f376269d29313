//! What goes on while ssh, or the gateway behind it, is killed; and what is met
//! at the far end that is no gateway of ours.

use std::process::Stdio;

use moltbot_tests::{
    Client, Connect, Ctl, Daemon, NodeHost, Options, PATIENCE, Sshd, SteeredModel, daemon::TOKEN,
    sshd,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Child,
};

use crate::{
    foreign::Foreign,
    ssh::{Laptop, failure},
};

/// A laptop whose configuration names the gateway behind the server.
async fn configured(sshd: &Sshd, daemon: &Daemon) -> (tempfile::TempDir, Ctl) {
    let Laptop { home, ctl } = Laptop::new(sshd);
    let ctl = ctl.set("MOLTBOT_STATE_DIR", &home.path().join("state").display().to_string());
    let (port, token) = (daemon.port().to_string(), home.path().join("token"));
    let token = token.display().to_string();
    ctl.json(&["remote", "set", "--ssh", sshd::HOST, "--port", &port, "--token-file", &token])
        .await;
    (home, ctl)
}

async fn steered(model: &SteeredModel) -> Daemon {
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "agents": { "defaults": { "model": { "primary": "mock/mock-1" } } },
        "models": model.models(),
    });
    Daemon::start_with(Options::with(config)).await
}

/// Reads until a text was said.
async fn read_until(stream: &mut (impl AsyncRead + Unpin), heard: &mut String, text: &str) {
    let reading = async {
        let mut piece = [0; 512];
        while !heard.contains(text) {
            let length = stream.read(&mut piece).await.unwrap();
            assert!(length > 0, "it ended before {text:?}: {heard}");
            heard.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    };
    if tokio::time::timeout(PATIENCE, reading).await.is_err() {
        panic!("{text:?} was never said: {heard}");
    }
}

fn start(ctl: &Ctl, words: &[&str]) -> Child {
    let mut command = ctl.command(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[tokio::test]
async fn an_answer_is_heard_to_its_end_though_ssh_is_killed_in_the_middle_of_it() {
    let model = SteeredModel::start().await;
    let (daemon, sshd) = (steered(&model).await, Sshd::start().await);
    let (_home, ctl) = configured(&sshd, &daemon).await;
    let mut chat = start(&ctl, &["chat"]);
    let (mut input, mut output) = (chat.stdin.take().unwrap(), chat.stdout.take().unwrap());
    let (mut errors, mut said) = (chat.stderr.take().unwrap(), String::new());
    input.write_all(b"LONG\n").await.unwrap();
    let mut heard = String::new();
    read_until(&mut output, &mut heard, "word3 ").await;
    assert_eq!(sshd.kill_clients(), 1);
    read_until(&mut errors, &mut said, "connected again").await;
    assert!(said.contains("the ssh connection to far was lost"), "{said}");
    read_until(&mut output, &mut heard, "word199").await;
    assert_eq!(heard.matches("word4 ").count(), 1, "nothing twice, nothing left out: {heard}");
    // The conversation goes on.
    input.write_all(b"hello\n").await.unwrap();
    read_until(&mut output, &mut heard, "Hello from the mock model").await;
    drop(input);
    assert!(chat.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_node_and_a_log_come_back_after_ssh_and_after_the_gateway_were_killed() {
    let (mut daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let (_home, ctl) = configured(&sshd, &daemon).await;
    let mut node = NodeHost::start(&ctl, &[]);
    node.says("connected to ssh://far/").await;
    let mut logs = start(&ctl, &["logs", "--follow", "--interval", "100", "--timeout", "20000"]);
    let (mut lines, mut errors) = (logs.stdout.take().unwrap(), logs.stderr.take().unwrap());
    let (mut log, mut said) = (String::new(), String::new());
    read_until(&mut lines, &mut log, "\n").await;

    assert!(sshd.kill_clients() >= 2);
    node.says("disconnected").await;
    node.says("connected to ssh://far/").await;
    read_until(&mut errors, &mut said, "waiting").await;
    assert!(said.contains("was lost"), "{said}");

    daemon.kill().await;
    node.says("disconnected").await;
    daemon.start_again_in_place().await;
    node.says("connected to ssh://far/").await;
    log.clear();
    let refused = Client::connect(&daemon.url(), Connect::operator().token("wrong")).await;
    assert!(refused.is_err());
    read_until(&mut lines, &mut log, "token mismatch").await;
    let found = ctl.json(&["nodes", "invoke", "lab", "system.which", r#"{"bins":["sh"]}"#]).await;
    assert!(found.to_string().contains("/sh"), "{found}");
}

#[tokio::test]
async fn a_call_in_flight_fails_when_ssh_dies() {
    let model = SteeredModel::start().await;
    let (daemon, sshd) = (steered(&model).await, Sshd::start().await);
    let (_home, ctl) = configured(&sshd, &daemon).await;
    let mut operator = daemon.operator().await;
    let call = start(&ctl, &["agent", "-m", "SLOW"]);
    let runs = async {
        while !daemon.get("/metrics", &[]).await.1.contains("moltbot_runs_active 1") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, runs).await.unwrap();
    assert_eq!(sshd.kill_clients(), 1);
    let output = tokio::time::timeout(PATIENCE, call.wait_with_output()).await.unwrap().unwrap();
    let (code, said) = failure(&output);
    assert_eq!(code, 28, "{said}");
    assert!(said.contains("ssh -v far"), "{said}");
    assert!(operator.call("health", json!({})).await.is_ok());
}

#[tokio::test]
async fn what_is_no_gateway_of_ours_is_told_apart_and_shown_nothing() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let token = laptop.token_file();
    let web = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = web.local_addr().unwrap().port().to_string();
    let (tx, mut asked) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = web.accept().await {
            let mut text = vec![0; 4096];
            let length = stream.read(&mut text).await.unwrap_or_default();
            tx.send(String::from_utf8_lossy(&text[..length]).into_owned()).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
            stream.write_all(answer).await.unwrap();
        }
    });
    let words = ["health", "--ssh", sshd::HOST, "--token-file", &token, "--port"];
    let (code, said) = failure(&laptop.ctl.run(&[&words[..], &[&port]].concat()).await);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("is no gateway: HTTP status 200 OK"), "{said}");
    let asked = asked.recv().await.unwrap();
    assert!(!asked.contains(TOKEN), "{asked}");

    let port = daemon.port().to_string();
    let words = ["health", "--ssh", sshd::HOST, "--port", &port];
    let (code, said) =
        failure(&laptop.ctl.run(&[&words[..], &["--token", "wrong"]].concat()).await);
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("moltbotctl where"), "{said}");
}

#[tokio::test]
async fn a_probe_reaches_the_far_gateway_and_the_local_one_and_flags_that_they_are_two() {
    let sshd = Sshd::start().await;
    let far_config = json!({ "gateway": { "auth": { "token": "token-of-the-far-gateway" } } });
    let far = Daemon::start_with(Options::with(far_config)).await;
    let remote = json!({
        "transport": "ssh",
        "sshTarget": sshd::HOST,
        "url": format!("ws://127.0.0.1:{}", far.port()),
        "token": "token-of-the-far-gateway",
    });
    let config = json!({ "gateway": { "auth": { "token": TOKEN }, "remote": remote } });
    let near = Daemon::start_with(Options::with(config)).await;
    let ctl = sshd.client(Ctl::beside(&near));
    let report = ctl.json(&["gateway", "probe"]).await;
    let target = |kind: &str| {
        let targets = report["targets"].as_array().unwrap();
        targets.iter().find(|target| target["kind"] == kind).cloned().unwrap_or(Value::Null)
    };
    for kind in ["configRemote", "controlSocket", "localLoopback"] {
        assert_eq!(target(kind)["connect"]["ok"], true, "{kind}: {report}");
        assert!(target(kind)["version"].is_string() && target(kind)["host"].is_string());
        assert_eq!(target(kind)["auth"]["ok"], true, "{kind}");
    }
    assert_eq!(target("configRemote")["url"], format!("ssh://{}/{}", sshd::HOST, far.port()));
    assert_eq!(report["warnings"][0]["code"], "multiple_gateways", "{report}");
    let table = ctl.text(&["gateway", "probe"]).await;
    assert!(table.contains("ssh://far/"), "{table}");

    // The token for the far gateway opens nothing here.
    let url = near.url();
    let words = ["health", "--url", &url, "--token", "token-of-the-far-gateway"];
    let (code, said) = failure(&ctl.run(&words).await);
    assert_eq!(code, 6, "{said}");

    sshd.know(None);
    let report = ctl.json(&["gateway", "probe", "--ssh-auto"]).await;
    assert_eq!(report["warnings"][0]["code"], "ssh_tunnel_failed", "{report}");
    assert_eq!(report["primaryTargetId"], "controlSocket");
}

/// The reference's CLI in remote mode, through a tunnel of ours.
#[tokio::test]
async fn the_cli_of_the_reference_drives_the_gateway_through_the_tunnel() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let (far, local) = (daemon.port().to_string(), moltbot_tests::ports::free().to_string());
    let token = laptop.token_file();
    let words = ["--ssh", sshd::HOST, "--port", &far, "--local-port", &local];
    let up = [&["tunnel", "up", "--token-file", &token], &words[..]].concat();
    laptop.ctl.json(&up).await;
    let config = json!({ "gateway": { "mode": "remote", "remote": {
        "url": format!("ws://127.0.0.1:{local}"),
        "token": TOKEN,
    } } });
    let cli = Foreign::clawdbot(&config).await;
    assert_eq!(cli.json(&["health", "--json"]).await["ok"], true);
    let status = cli.json(&["gateway", "call", "status", "--json"]).await;
    assert!(status.is_object(), "{status}");
    let answer = cli.json(&["agent", "--agent", "main", "-m", "from afar", "--json"]).await;
    assert_eq!(answer["status"], "ok", "{answer}");
    laptop.ctl.json(&["tunnel", "down", "--local-port", &local]).await;
}

/// And ours, through ssh, a gateway of the reference.
#[tokio::test]
async fn moltbotctl_drives_a_gateway_of_the_reference_through_ssh() {
    let mut config = json!({
        "gateway": { "mode": "local", "auth": { "mode": "token", "token": TOKEN } },
        "agents": { "defaults": { "skipBootstrap": true } },
        "browser": { "enabled": false },
        "cron": { "enabled": false },
    });
    let reference = Foreign::clawdbot(&config).await;
    let (mut gateway, port) = reference.gateway(&mut config).await;
    let sshd = Sshd::start().await;
    let laptop = Laptop::new(&sshd);
    let (port, token) = (port.to_string(), laptop.token_file());
    let target = ["--ssh", sshd::HOST, "--port", &port, "--timeout", "60000"];
    let health = [&["health", "--token-file", &token], &target[..]].concat();
    assert_eq!(laptop.ctl.json(&health).await["ok"], true);
    let nodes = [&["nodes", "list"], &target[..]].concat();
    laptop.ctl.text(&nodes).await;
    gateway.kill().await.unwrap();
}
