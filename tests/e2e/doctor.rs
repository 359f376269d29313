//! `moltbotctl doctor`: finds what is wrong, says what helps, and puts right
//! only what is safe. And what the gateway itself says of a full disk.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use moltbot_tests::{Ctl, Daemon, Options, PATIENCE, daemon::TOKEN};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn doctor(ctl: &Ctl, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = ctl.run(&[&["doctor", "--json"], arguments].concat()).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

/// Returns what one of the looks found. The host's own clock and disk are
/// not those of the test.
fn found<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().filter(|it| it["check"] == check && it["severity"] != "note").collect()
}

fn only<'a>(report: &'a Value, check: &str) -> &'a Value {
    let found = found(report, check);
    assert_eq!(found.len(), 1, "{check}: {report:#}");
    found[0]
}

const OWN: [&str; 9] = [
    "permissions",
    "owner",
    "folder",
    "leftover",
    "configuration",
    "lock",
    "port",
    "database",
    "gateway",
];

fn is_healthy(report: &Value) {
    for check in OWN {
        assert_eq!(found(report, check), Vec::<&Value>::new(), "{report:#}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_healthy_gateway_has_no_findings_running_or_stopped() {
    let mut daemon = Daemon::start_with(Options::with_own_port()).await;
    let ctl = Ctl::beside(&daemon);
    ctl.text(&["agent", "-m", "hello"]).await;
    let (_, report) = doctor(&ctl, &[]).await;
    is_healthy(&report);
    assert_eq!(report["holder"], daemon.pid());
    daemon.stop().await;
    let (_, report) = doctor(&ctl, &[]).await;
    is_healthy(&report);
    assert_eq!(report["holder"], Value::Null);
}

#[tokio::test]
async fn modes_are_narrowed_and_folders_made_only_when_asked_for() {
    let mut daemon = Daemon::start_with(Options::with_own_port()).await;
    daemon.stop().await;
    let ctl = Ctl::beside(&daemon);
    let (state, database) = (daemon.state_dir(), daemon.state_dir().join("moltbot.db"));
    fs::set_permissions(&database, Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(daemon.home().join("moltbot.json"), Permissions::from_mode(0o644)).unwrap();
    fs::remove_dir_all(state.join("logs")).unwrap();
    // What a link leads to is not ours to change.
    let outside = daemon.home().join("outside");
    fs::write(&outside, "").unwrap();
    fs::set_permissions(&outside, Permissions::from_mode(0o666)).unwrap();
    symlink(&outside, state.join("link")).unwrap();

    let (code, report) = doctor(&ctl, &[]).await;
    assert_eq!(code, Some(1));
    assert_eq!(found(&report, "permissions").len(), 2, "{report:#}");
    let command = format!("chmod go-rwx {}", database.display());
    assert!(found(&report, "permissions").iter().any(|it| it["command"] == *command), "{report:#}");
    assert!(only(&report, "folder")["command"].as_str().unwrap().starts_with("mkdir -p -m 700"));
    assert_eq!(mode(&database), 0o666);

    let (_, report) = doctor(&ctl, &["--fix"]).await;
    let fixed = report["findings"].as_array().unwrap().iter().filter(|it| it["fixed"] == true);
    assert_eq!(fixed.count(), 3, "{report:#}");
    assert_eq!((mode(&database), mode(&outside)), (0o600, 0o666));
    assert_eq!(mode(&state.join("logs")), 0o700);
    let (_, report) = doctor(&ctl, &[]).await;
    is_healthy(&report);
}

#[tokio::test]
async fn a_file_of_another_user_is_named_with_the_command() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    let database = daemon.state_dir().join("moltbot.db");
    if std::os::unix::fs::chown(&database, Some(4242), None).is_err() {
        return; // Only root can make such a file.
    }
    let ctl = Ctl::beside(&daemon);
    let (code, report) = doctor(&ctl, &["--fix"]).await;
    assert_eq!(code, Some(1));
    let finding = only(&report, "owner");
    assert_eq!(finding["fixed"], false);
    assert!(finding["command"].as_str().unwrap().contains("chown"), "{finding}");
    let (code, text) = daemon.fail_to_start().await;
    assert_eq!(code, Some(77), "{text}");
    assert!(text.contains("belongs to user 4242"), "{text}");
    std::os::unix::fs::chown(daemon.state_dir(), Some(4242), None).unwrap();
    // Root looks after another user's gateway as that user, and what is root's is out of place.
    let (_, report) = doctor(&ctl, &[]).await;
    let of_root = found(&report, "owner");
    assert!(!of_root.is_empty(), "{report:#}");
    for finding in of_root {
        assert!(finding["command"].as_str().unwrap().contains("chown 4242 "), "{finding}");
        assert_ne!(finding["place"], database.display().to_string(), "that is the user's");
    }
    std::os::unix::fs::chown(daemon.state_dir(), Some(0), None).unwrap();
}

#[tokio::test]
async fn a_database_that_is_damaged_or_of_a_later_version_is_named() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    let ctl = Ctl::beside(&daemon);
    let database = daemon.state_dir().join("moltbot.db");
    for side in ["moltbot.db-wal", "moltbot.db-shm"] {
        let _ = fs::remove_file(daemon.state_dir().join(side));
    }
    let known = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/state/0.1.0.db");
    let whole = fs::read(known).unwrap();
    let mut later = whole.clone();
    later[60..64].copy_from_slice(&9999_u32.to_be_bytes());
    let mut damaged = whole.clone();
    damaged[4096..].fill(0x5a);
    let half = whole[..whole.len() / 2].to_vec();
    for (bytes, word) in [(later, "9999"), (damaged, ""), (half, ""), (b"hello".to_vec(), "")] {
        fs::write(&database, &bytes).unwrap();
        let (code, report) = doctor(&ctl, &["--fix"]).await;
        assert_eq!(code, Some(1), "{report:#}");
        let findings = found(&report, "database");
        assert!(
            findings.iter().any(|it| it["what"].as_str().unwrap().contains(word)),
            "{report:#}"
        );
        assert!(findings.iter().all(|it| it["command"].is_string()), "{report:#}");
        assert_eq!(fs::read(&database).unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_stranger_at_the_port_is_named_and_the_gateway_itself_is_not() {
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = stranger.local_addr().unwrap().port();
    let config = json!({ "gateway": { "port": port, "auth": { "token": TOKEN } } });
    let mut daemon = Daemon::start_with(Options::with(config)).await;
    let ctl = Ctl::beside(&daemon);
    // The harness gave the daemon another port by a flag.
    let (_, report) = doctor(&ctl, &[]).await;
    is_healthy(&report);
    daemon.stop().await;
    let (code, report) = doctor(&ctl, &[]).await;
    assert_eq!(code, Some(1));
    let finding = only(&report, "port");
    assert_eq!(finding["place"], port.to_string());
    let pid = std::process::id().to_string();
    assert!(finding["what"].as_str().unwrap().contains(&pid), "{finding}");
    drop(stranger);
    let (_, report) = doctor(&ctl, &[]).await;
    is_healthy(&report);
}

#[tokio::test]
async fn a_stopped_holder_and_a_broken_configuration_are_named() {
    let mut daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    daemon.signal(Signal::SIGSTOP);
    let (code, report) = doctor(&ctl, &["--timeout", "300"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(only(&report, "lock")["command"], format!("kill -CONT {}", daemon.pid()));
    daemon.signal(Signal::SIGCONT);
    daemon.stop().await;
    fs::write(daemon.home().join("moltbot.json"), "{ gateway: { bind: 'wifi' }, oops: 1 }")
        .unwrap();
    let (code, report) = doctor(&ctl, &["--fix"]).await;
    assert_eq!(code, Some(1));
    let findings = found(&report, "configuration");
    let errors: Vec<_> = findings.iter().filter(|it| it["severity"] == "error").collect();
    assert_eq!(errors.len(), 1, "{report:#}");
    assert!(errors[0]["what"].as_str().unwrap().contains("gateway.bind"));
    assert!(errors[0]["place"].as_str().unwrap().contains("moltbot.json:1:"));
}

#[tokio::test]
async fn leftovers_and_a_clock_that_was_set_back_are_named_and_stay() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    let ctl = Ctl::beside(&daemon);
    let left = daemon.state_dir().join(".restore-20200101T000000Z-abcd");
    fs::create_dir(&left).unwrap();
    fs::set_permissions(&left, Permissions::from_mode(0o700)).unwrap();
    let database = fs::File::options().write(true).open(daemon.state_dir().join("moltbot.db"));
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    database.unwrap().set_modified(tomorrow).unwrap();
    let (code, report) = doctor(&ctl, &["--fix"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(only(&report, "leftover")["command"], format!("rm -r {}", left.display()));
    assert!(left.exists());
    let clock = found(&report, "clock");
    assert!(clock.iter().any(|it| it["what"].as_str().unwrap().contains("set back")), "{report:#}");
}

#[tokio::test]
async fn a_full_disk_is_told_over_the_socket_and_ends_by_itself() {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    ctl.text(&["agent", "-m", "hello"]).await;
    let mut client = daemon.operator().await;
    // A limit on the size of files ends writes as a full disk does.
    limit_files(&daemon, "20000");
    let long = "x".repeat(100_000);
    let refused = ctl.run(&["agent", "-m", &long]).await;
    assert!(!refused.status.success());
    let health = client.call("health", json!({})).await.unwrap();
    let degraded = health["degraded"].to_string();
    assert!(degraded.contains("disk"), "{health:#}");
    let (code, report) = doctor(&ctl, &[]).await;
    assert_eq!(code, Some(1));
    assert!(only(&report, "gateway")["what"].as_str().unwrap().contains("degraded"), "{report:#}");

    limit_files(&daemon, "unlimited");
    ctl.text(&["agent", "-m", "room again"]).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !client.call("health", json!({})).await.unwrap()["degraded"].is_null() {
        assert!(tokio::time::Instant::now() < deadline, "it stays degraded: {}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    let history = history.to_string();
    assert!(history.contains("hello") && history.contains("room again"), "{history}");
}

fn limit_files(daemon: &Daemon, bytes: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &daemon.pid().to_string(), &format!("--fsize={bytes}:unlimited")])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_stranger_with_the_process_id_of_a_killed_gateway_is_no_gateway() {
    let mut daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    let lock = daemon.state_dir().join("lock");
    let (note, killed) = (fs::read_to_string(&lock).unwrap(), daemon.pid());
    daemon.kill().await;
    // This process lives, and is none either.
    let stranger = std::process::id();
    let reused = note.replace(&killed.to_string(), &stranger.to_string());
    assert_ne!(note, reused);
    fs::write(&lock, reused).unwrap();
    let (_, report) = doctor(&ctl, &[]).await;
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|it| it["what"] == "it does not run"), "{report:#}");
    let chosen = ctl.json(&["where"]).await;
    assert!(!chosen.to_string().contains(&format!("pid {stranger}")), "{chosen:#}");
    let output = ctl.run(&["gateway", "status", "--deep", "--json"]).await;
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["process"], Value::Null, "{status:#}");
}

#[tokio::test]
async fn a_gateway_removes_the_notes_of_killed_ones_and_no_others() {
    let living = Daemon::start().await;
    let mut killed = Daemon::start().await;
    let note = |daemon: &Daemon| {
        let profile = &daemon.variables().into_iter().find(|it| it.0 == "MOLTBOT_PROFILE").unwrap();
        moltbotd::lock::pidfile(Some(&profile.1)).unwrap()
    };
    killed.kill().await;
    let (kept, stale) = (note(&living), note(&killed));
    let _next = Daemon::start().await;
    let removed = async {
        while stale.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, removed).await.expect("the note is removed");
    assert!(kept.exists());
}
