//! Faults of a host that take more than a test program may do by itself: a
//! file system that cannot be written, and a clock that jumps.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use moltbot_tests::{Connect, Daemon, Device, Options, Version, daemon::TOKEN, programs};
use nix::unistd::Uid;
use serde_json::json;

/// Starts a daemon where its state is mounted read-only, in a mount namespace
/// of its own.
fn start_read_only(daemon: &Daemon) -> Output {
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && shift && \"$@\"";
    let mut command = Command::new("unshare");
    if !Uid::effective().is_root() {
        command.arg("--map-root-user");
    }
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(daemon.state_dir())
        .arg(programs::moltbotd())
        .args(["--port", "1", "--log-format", "text"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(daemon.variables())
        .current_dir(daemon.home())
        .output()
        .expect("unshare of util-linux is installed")
}

#[tokio::test]
async fn a_state_folder_that_is_read_only_is_refused_for_good() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    let output = start_read_only(&daemon);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{text}");
    assert!(text.contains("Read-only file system") && text.contains("findmnt -T"), "{text}");
    daemon.start_again().await;
    daemon.operator().await.call("health", json!({})).await.unwrap();
}

fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("there is a /usr/lib").flatten();
    let name = Path::new("faketime/libfaketime.so.1");
    folders
        .map(|folder| folder.path().join(name))
        .find(|path| path.exists())
        .expect("tests/run installs faketime")
}

/// A clock that can be set.
struct Clock(tempfile::TempDir);

impl Clock {
    fn new() -> Self {
        let clock = Self(tempfile::tempdir().unwrap());
        clock.set("+0");
        clock
    }

    /// Moves the wall clock of the daemon away from the real one.
    fn set(&self, offset: &str) {
        // In one step: the library may read at any time.
        let next = self.0.path().join("next");
        fs::write(&next, format!("{offset}\n")).unwrap();
        fs::rename(next, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }

    fn options(&self) -> Options {
        let mut options = Options::with(json!({ "gateway": { "auth": { "token": TOKEN } } }));
        options.variables = vec![
            ("LD_PRELOAD".into(), library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE".into(), self.file().display().to_string()),
            ("FAKETIME_NO_CACHE".into(), "1".into()),
            // A jump of the wall clock leaves the monotonic one alone.
            ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
        ];
        options
    }
}

fn seconds_from_now(ms: u64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    (i64::try_from(ms).unwrap() - i64::try_from(now).unwrap()) / 1000
}

#[tokio::test]
async fn a_clock_that_jumps_leaves_clients_runs_and_pairing_alone() {
    let clock = Clock::new();
    let daemon = Daemon::start_with(clock.options()).await;
    let mut client = daemon.operator().await;
    for (jump, offset_s) in
        [("+3600", 3600), ("-3600", -3600), ("+315360000", 315_360_000), ("-31536000", -31_536_000)]
    {
        clock.set(jump);
        let health = client.call("health", json!({})).await.unwrap();
        assert_eq!(health["ok"], true, "{jump}");
        // A new device is asked about, approved and let in.
        let device = Device::new();
        let connect = Connect::operator().device(&device, Version::V2);
        let mut fresh = daemon.connect(connect.clone()).await;
        let presence = fresh.call("system-presence", json!({})).await.unwrap();
        let ts = presence[0]["ts"].as_u64().unwrap();
        assert!((seconds_from_now(ts) - offset_s).abs() < 300, "{jump}: the clock did not jump");
        drop(fresh);
        daemon.connect(connect).await;
        let run = format!("run{jump}");
        let params = json!({ "message": "hello", "idempotencyKey": run, "sessionKey": "main" });
        client.call("agent", params).await.unwrap();
        let wait = json!({ "runId": run, "timeoutMs": 60_000 });
        let end = client.call("agent.wait", wait).await.unwrap();
        assert_eq!(end["status"], "ok", "{jump}: {end}");
        assert_eq!(daemon.get("/readyz", &[]).await.0, 200, "{jump}");
    }
    // A minute of the monotonic clock brings two ticks, whatever the wall says.
    let tick = tokio::time::timeout(Duration::from_secs(75), client.next_event("tick"));
    tick.await.expect("ticks go on");
}

#[tokio::test]
async fn a_daemon_starts_again_at_any_time_of_day() {
    let clock = Clock::new();
    let mut daemon = Daemon::start_with(clock.options()).await;
    for jump in ["+315360000", "-315360000", "+0"] {
        daemon.kill().await;
        clock.set(jump);
        daemon.start_again().await;
        daemon.operator().await.call("status", json!({})).await.unwrap();
    }
}
