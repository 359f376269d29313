//! Remote access through a real sshd.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use moltbot_tests::{Ctl, Daemon, Options, PATIENCE, Sshd, daemon::TOKEN, ports, sshd};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

/// A laptop: a `moltbotctl` with a home of its own and an ssh to the server.
pub(crate) struct Laptop {
    pub(crate) home: TempDir,
    pub(crate) ctl: Ctl,
}

impl Laptop {
    pub(crate) fn new(sshd: &Sshd) -> Self {
        let home = tempfile::Builder::new().prefix("laptop").tempdir().unwrap();
        fs::write(home.path().join("token"), TOKEN).unwrap();
        let ctl = sshd.client(Ctl::alone(home.path()));
        Self { home, ctl }
    }

    pub(crate) fn token_file(&self) -> String {
        self.home.path().join("token").display().to_string()
    }
}

/// Returns the exit code and what was said on standard error.
pub(crate) fn failure(output: &Output) -> (i32, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), said)
}

#[tokio::test]
async fn a_gateway_is_reached_through_ssh_and_the_device_is_remembered() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let (port, token) = (daemon.port().to_string(), laptop.token_file());
    let target = ["--ssh", sshd::HOST, "--port", &port];
    let (code, said) = failure(&laptop.ctl.run(&[&["health"], &target[..]].concat()).await);
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("ssh far cat .local/state/moltbot/gateway-token"), "{said}");
    let first = [&["health", "--token-file", &token], &target[..]].concat();
    assert_eq!(laptop.ctl.json(&first).await["ok"], true);
    // The gateway on the loopback of its host paired the device, so the token is not needed again.
    assert_eq!(laptop.ctl.json(&[&["health"], &target[..]].concat()).await["ok"], true);
    let report = laptop.ctl.json(&[&["where"], &target[..]].concat()).await;
    assert_eq!(report["chosen"]["kind"], "sshTunnel", "{report}");
    assert_eq!(report["chosen"]["url"], format!("ssh://{}/{port}", sshd::HOST));
    assert!(report["chosen"]["deviceToken"]["sha256"].is_string(), "{report}");
    assert!(sshd.clients().is_empty(), "no ssh is left behind");
}

#[tokio::test]
async fn a_target_with_user_address_and_port_works_with_a_key_of_its_own() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let (port, token, target) = (daemon.port().to_string(), laptop.token_file(), sshd.target());
    let key = sshd.key("id").display().to_string();
    let command = [
        "health",
        "--token-file",
        &token,
        "--ssh",
        &target,
        "--ssh-identity",
        &key,
        "--port",
        &port,
    ];
    assert_eq!(laptop.ctl.json(&command).await["ok"], true);
    let url = format!("ssh://{target}/{port}");
    assert_eq!(laptop.ctl.json(&["health", "--url", &url]).await["ok"], true);
}

/// Set-up 3: others come to the gateway of a laptop with a key that opens nothing else.
#[tokio::test]
async fn a_key_that_may_only_reach_the_gateway_is_enough() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    let laptop = Laptop::new(&sshd);
    let (port, token) = (daemon.port().to_string(), laptop.token_file());
    sshd.limit_key(&format!("restrict,port-forwarding,permitopen=\"127.0.0.1:{port}\""));
    let words = ["health", "--ssh", sshd::HOST, "--token-file", &token, "--port"];
    assert_eq!(laptop.ctl.json(&[&words[..], &[&port]].concat()).await["ok"], true);
    let other = ports::free().to_string();
    let (code, said) = failure(&laptop.ctl.run(&[&words[..], &[&other]].concat()).await);
    assert_eq!(code, 27, "{said}");
}

#[tokio::test]
async fn the_port_of_the_far_gateway_comes_from_the_variable_too() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    for name in ["MOLTBOT_GATEWAY_PORT", "CLAWDBOT_GATEWAY_PORT"] {
        let Laptop { home, ctl } = Laptop::new(&sshd);
        let token = home.path().join("token").display().to_string();
        let ctl = ctl.set(name, &daemon.port().to_string());
        let health = ctl.json(&["health", "--ssh", sshd::HOST, "--token-file", &token]).await;
        assert_eq!(health["ok"], true, "{name}");
    }
}

#[tokio::test]
async fn a_shared_connection_of_the_users_configuration_is_used() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    sshd.multiplex();
    let laptop = Laptop::new(&sshd);
    let (port, token) = (daemon.port().to_string(), laptop.token_file());
    let command = ["health", "--ssh", sshd::HOST, "--port", &port, "--token-file", &token];
    assert_eq!(laptop.ctl.json(&command).await["ok"], true);
    let logins = sshd.log().matches("Accepted publickey").count();
    assert_eq!(laptop.ctl.json(&command).await["ok"], true);
    assert_eq!(sshd.log().matches("Accepted publickey").count(), logins);
    let dead = ports::free().to_string();
    let output = laptop.ctl.run(&["health", "--ssh", sshd::HOST, "--port", &dead]).await;
    assert_eq!(failure(&output).0, 26, "{}", failure(&output).1);
    sshd.ssh(&["-O", "exit", sshd::HOST]).output().await.unwrap();
}

/// Without `ControlPersist` the first ssh takes those down that share its
/// connection: that must not be ours.
#[tokio::test]
async fn a_command_that_ends_takes_no_ssh_of_the_user_down() {
    let (daemon, sshd) = (Daemon::start().await, Sshd::start().await);
    sshd.multiplex_while_used();
    let laptop = Laptop::new(&sshd);
    let (port, token) = (daemon.port().to_string(), laptop.token_file());
    let target = ["--ssh", sshd::HOST, "--port", &port, "--token-file", &token];
    let logins = || sshd.log().matches("Accepted publickey").count();
    let mut chat = laptop.ctl.command(&[&["chat"], &target[..]].concat());
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while logins() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "{}", sshd.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut other = sshd.ssh(&[sshd::HOST, "cat"]);
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = other.stdin.take().unwrap();
    let mut output = BufReader::new(other.stdout.take().unwrap()).lines();
    input.write_all(b"here\n").await.unwrap();
    assert_eq!(output.next_line().await.unwrap().as_deref(), Some("here"));
    let before = logins();
    assert_eq!(laptop.ctl.json(&[&["health"], &target[..]].concat()).await["ok"], true);
    assert_eq!(logins(), before, "the user's connection is shared");

    drop(chat.stdin.take());
    assert!(chat.wait().await.unwrap().success());
    input.write_all(b"still here\n").await.unwrap();
    assert_eq!(output.next_line().await.unwrap().as_deref(), Some("still here"));
}

/// The gateway on the far loopback speaks TLS, as one does that is also on a
/// local network.
#[tokio::test]
async fn tls_inside_ssh_wants_the_pinned_certificate() {
    let gateway = json!({ "auth": { "token": TOKEN }, "tls": { "enabled": true } });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await;
    let sshd = Sshd::start().await;
    let laptop = Laptop::new(&sshd);
    let (port, token) = (daemon.port().to_string(), laptop.token_file());
    let pin = daemon.pins().to_string();
    let health = ["health", "--ssh", sshd::HOST, "--port", &port, "--token-file", &token];
    let pinned = |pin| [&health[..], &["--tls-fingerprint", pin]].concat();

    let (code, said) = failure(&laptop.ctl.run(&health).await);
    assert_eq!(code, 14, "{said}");
    assert!(
        said.contains("moltbotctl gateway tls") && said.contains("--tls-fingerprint"),
        "{said}"
    );
    let url = format!("ssh+wss://{}/{port}", sshd::HOST);
    let unpinned = ["health", "--url", &url, "--token-file", &token];
    assert_eq!(failure(&laptop.ctl.run(&unpinned).await).0, 12, "nobody signed it");
    let wrong = "12".repeat(32);
    let (code, said) = failure(&laptop.ctl.run(&pinned(&wrong)).await);
    assert_eq!(code, 11, "{said}");
    assert!(said.contains(&pin), "it shows what it saw: {said}");
    let devices = Ctl::beside(&daemon).json(&["devices", "list"]).await;
    assert_eq!((&devices["pending"], &devices["paired"]), (&json!([]), &json!([])), "none came in");

    assert_eq!(laptop.ctl.json(&pinned(&pin)).await["ok"], true);
    // Once it is the remote gateway, its pin and its token go without saying.
    let config = laptop.home.path().join("moltbot.json");
    let ctl = sshd.client(Ctl::alone(laptop.home.path()));
    let ctl = ctl.set("MOLTBOT_CONFIG_PATH", &config.display().to_string());
    let set = [&["remote", "set"], &pinned(&pin)[1..]].concat();
    assert_eq!(ctl.json(&set).await["remote"]["url"], url);
    assert_eq!(ctl.json(&["health"]).await["ok"], true);
    let local = ports::free().to_string();
    let up = ctl.json(&["tunnel", "up", "--local-port", &local]).await;
    assert_eq!((&up["state"], &up["url"]), (&json!("up"), &json!(url)), "{up}");
    let through = format!("wss://127.0.0.1:{local}");
    let through = ["health", "--url", &through, "--token-file", &token, "--tls-fingerprint", &pin];
    assert_eq!(ctl.json(&through).await["ok"], true);
    ctl.json(&["tunnel", "down", "--local-port", &local]).await;
}

#[tokio::test]
async fn each_way_ssh_fails_has_its_words_its_command_and_its_exit_code() {
    let sshd = Sshd::start().await;
    let laptop = Laptop::new(&sshd);
    let ctl = &laptop.ctl;
    let dead = ports::free().to_string();
    let port = sshd.port().to_string();
    let by_alias = ["health", "--ssh", sshd::HOST, "--port", &dead];

    let (code, said) = failure(&ctl.run(&by_alias).await);
    assert_eq!(code, 26, "{said}");
    assert!(said.contains(&format!("no gateway listens on port {dead} there")), "{said}");
    assert!(said.contains("moltbotctl gateway status"), "{said}");

    let stranger = sshd.key("stranger").display().to_string();
    let bare = format!("127.0.0.1:{port}");
    sshd.know(None);
    let (code, said) = failure(&ctl.run(&by_alias).await);
    assert_eq!(code, 21, "{said}");
    assert!(said.contains("Host key verification failed"), "{said}");
    assert!(said.contains("help: connect once by hand"), "{said}");

    sshd.know("stranger");
    let (code, said) = failure(&ctl.run(&by_alias).await);
    assert_eq!(code, 22, "{said}");
    assert!(said.contains("known_hosts\" -R \"[127.0.0.1]:"), "{said}");
    sshd.know("host");

    let nobody = format!("no-such-user@{bare}");
    let command = ["health", "--ssh", &nobody, "--ssh-identity", &stranger];
    let (code, said) = failure(&ctl.run(&command).await);
    assert_eq!(code, 23, "{said}");
    assert!(said.contains("Permission denied") && said.contains("ssh-copy-id"), "{said}");

    let (code, said) = failure(&ctl.run(&["health", "--ssh", "no-such-host.invalid"]).await);
    assert_eq!(code, 24, "{said}");

    let refused = format!("127.0.0.1:{dead}");
    let (code, said) = failure(&ctl.run(&["health", "--ssh", &refused]).await);
    assert_eq!(code, 25, "{said}");
    assert!(said.contains("Connection refused"), "{said}");
}

#[tokio::test]
async fn a_server_that_forwards_nothing_is_recognised() {
    let daemon = Daemon::start().await;
    let sshd = Sshd::start_with("AllowTcpForwarding no").await;
    let laptop = Laptop::new(&sshd);
    let port = daemon.port().to_string();
    let output = laptop.ctl.run(&["health", "--ssh", sshd::HOST, "--port", &port]).await;
    let (code, said) = failure(&output);
    assert_eq!(code, 27, "{said}");
    assert!(said.contains("AllowTcpForwarding"), "{said}");
}

#[tokio::test]
async fn an_ssh_that_hangs_or_is_not_there_is_no_hang_of_ours() {
    let sshd = Sshd::start().await;
    let laptop = Laptop::new(&sshd);
    // A server that takes the connection and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("127.0.0.1:{}", silent.local_addr().unwrap().port());
    let command = ["health", "--ssh", &target, "--timeout"];
    let (code, said) = failure(&laptop.ctl.run(&[&command[..], &["500"]].concat()).await);
    assert_eq!(code, 29, "{said}");
    assert!(said.contains("nothing came back"), "{said}");
    let (code, said) = failure(&laptop.ctl.run(&[&command[..], &["5000"]].concat()).await);
    assert_eq!(code, 25, "ssh gives up first and says why: {said}");
    assert!(sshd.clients().is_empty(), "the one that hung is gone");

    let empty = laptop.home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let ctl = Ctl::alone(laptop.home.path()).set("PATH", &empty.display().to_string());
    let (code, said) = failure(&ctl.run(&["health", "--ssh", sshd::HOST]).await);
    assert_eq!(code, 20, "{said}");
    assert!(said.contains("openssh-client"), "{said}");
}

#[tokio::test]
async fn no_target_reaches_ssh_as_an_option_or_a_shell_as_a_command() {
    let sshd = Sshd::start().await;
    let laptop = Laptop::new(&sshd);
    let trap = laptop.home.path().join("trap");
    for target in [
        format!("-oProxyCommand=touch {}", trap.display()),
        format!("me@-oProxyCommand=touch${{IFS}}{}", trap.display()),
        format!("$(touch {})", trap.display()),
        format!("host;touch {}", trap.display()),
    ] {
        let flag = format!("--ssh={target}");
        let (code, said) = failure(&laptop.ctl.run(&["health", &flag]).await);
        assert_eq!(code, 2, "{said}");
        let config = serde_json::json!({
            "gateway": { "mode": "remote", "remote": { "sshTarget": target } }
        });
        let file = laptop.home.path().join("evil.json");
        fs::write(&file, config.to_string()).unwrap();
        let file = file.display().to_string();
        let (code, said) = failure(&laptop.ctl.run(&["health", "--config", &file]).await);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("gateway.remote.sshTarget"), "{said}");
    }
    assert!(!Path::new(&trap).exists());
    assert!(sshd.clients().is_empty() && !sshd.log().contains("Accepted"));
}
