//! State on a file system that cannot be written to. Needs `unshare` and the
//! right to mount.

use std::{path::Path, process::Output};

use moltbot_tests::{Ctl, Daemon, programs};
use tokio::process::Command;

#[tokio::test]
async fn a_read_only_state_is_refused_with_the_reason_and_can_be_copied() {
    let mut daemon = Daemon::start().await;
    Ctl::beside(&daemon).text(&["agent", "-m", "hello"]).await;
    daemon.stop().await;
    let ctl = programs::moltbotctl();

    let started = read_only(&daemon, &programs::moltbotd(), &[]).await;
    assert_eq!(started.status.code(), Some(77));
    let text = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(text.contains("Read-only file system"), "{text}");

    let doctor = read_only(&daemon, &ctl, &["doctor", "--fix", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    let disk = report["findings"].as_array().unwrap().iter().find(|it| it["check"] == "disk");
    assert!(disk.unwrap()["what"].as_str().unwrap().contains("read-only"), "{report:#}");

    let file = daemon.home().join("backup.tar.gz").display().to_string();
    for arguments in [["backup", "create", "-o", &file].as_slice(), &["backup", "verify", &file]] {
        let output = read_only(&daemon, &ctl, arguments).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let restored = read_only(&daemon, &ctl, &["backup", "restore", &file]).await;
    assert_eq!(restored.status.code(), Some(77));
    daemon.start_again().await;
}

/// Runs a program that sees the daemon's state folder read-only.
async fn read_only(daemon: &Daemon, program: &Path, arguments: &[&str]) -> Output {
    let script = "mount --bind -o ro \"$0\" \"$0\" && exec \"$@\"";
    Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(daemon.state_dir())
        .arg(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(daemon.variables())
        .output()
        .await
        .unwrap()
}
