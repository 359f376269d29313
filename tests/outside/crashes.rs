//! Killed at every system call that changes a file: what is found afterwards
//! is the old or the new, works, and nobody has to tidy up. `strace` does the
//! killing, before the call has any effect.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use moltbot_tests::{Client, Connect, Ctl, Daemon, Tree, ports, programs};
use serde_json::{Value, json};
use tokio::process::Command;

/// Those that change files; not every machine has every one.
const CALLS: [&str; 17] = [
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "chmod",
    "fchmod",
    "ftruncate",
    "fsync",
    "fdatasync",
    "write",
    "pwrite64",
    "bind",
];

/// Returns a command that is killed at a call of that name, or works if there
/// are fewer.
fn killed_at(call: &str, nth: usize, daemon: &Daemon, program: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null"]);
    command.args(["-e", &format!("trace=?{call}")]);
    command.args(["-e", &format!("inject=?{call}:signal=KILL:when={nth}")]);
    command.arg(program).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.envs(daemon.variables()).current_dir(daemon.home());
    command
}

/// How often something was killed, by call.
#[derive(Debug, Default)]
struct Kills(BTreeMap<&'static str, usize>);

impl Kills {
    fn add(&mut self, call: &'static str) {
        *self.0.entry(call).or_default() += 1;
    }

    /// A test that killed nothing has shown nothing.
    fn are_some_of(&self, calls: &[&str]) {
        for call in calls {
            assert!(self.0.contains_key(call), "{self:?}");
        }
        println!("killed at {:?}", self.0);
    }
}

/// Puts the state back as it was kept.
fn put_back(kept: &Path, state: &Path) {
    let _ = fs::remove_dir_all(state);
    let copied = std::process::Command::new("cp").arg("-a").args([kept, state]).status();
    assert!(copied.unwrap().success());
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn history(client: &mut Client) -> Value {
    client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap()
}

/// Nothing is left that the doctor would have a person look at.
async fn is_tidy(ctl: &Ctl) {
    let output = ctl.run(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().all(|it| it["severity"] == "note"), "{report:#}");
}

#[tokio::test]
async fn a_restore_killed_at_any_call_leaves_the_old_or_the_new_and_can_be_repeated() {
    let mut daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    ctl.text(&["agent", "-m", "in the backup"]).await;
    let file = daemon.home().join("backup.tar.gz").display().to_string();
    ctl.json(&["backup", "create", "--output", &file]).await;
    ctl.text(&["agent", "-m", "not yet said"]).await;
    daemon.stop().await;
    let kept = daemon.home().join("kept");
    put_back(&daemon.state_dir(), &kept);
    let restore = ["state", "backup", "restore", &file];

    let mut kills = Kills::default();
    for call in CALLS {
        for nth in 1.. {
            put_back(&kept, &daemon.state_dir());
            let mut command = killed_at(call, nth, &daemon, &programs::moltbotd());
            let mut running = Tree::spawn(command.args(restore).stdout(Stdio::null()));
            if running.wait().await.unwrap().success() {
                break;
            }
            kills.add(call);
            let was_decided = daemon.state_dir().join(".restore-plan.json").exists();
            daemon.start_again().await;
            let told = history(&mut daemon.operator().await).await.to_string();
            assert!(told.contains("in the backup"), "{call} {nth}: {told}");
            if was_decided {
                assert!(!told.contains("not yet said"), "{call} {nth}: {told}");
            }
            is_tidy(&ctl).await;
            daemon.stop().await;
            let again = ctl.run(&["backup", "restore", &file]).await;
            assert!(again.status.success(), "{call} {nth}: {}", text(&again));
        }
    }
    kills.are_some_of(&["mkdir", "fsync", "write"]);
}

#[tokio::test]
async fn a_configuration_edit_killed_at_any_call_leaves_the_old_or_the_new_and_can_be_repeated() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    let ctl = Ctl::beside(&daemon);
    let file = daemon.home().join("moltbot.json");
    let old = "{\n  // mine\n  logging: { level: \"info\" },\n}\n";
    let new = old.replace("info", "debug");
    let kept = daemon.home().join("kept");
    put_back(&daemon.state_dir(), &kept);

    let mut kills = Kills::default();
    for call in CALLS {
        for nth in 1.. {
            put_back(&kept, &daemon.state_dir());
            fs::write(&file, old).unwrap();
            let mut command = killed_at(call, nth, &daemon, &programs::moltbotctl());
            let set = ["config", "set", "logging.level", "debug"];
            let mut running = Tree::spawn(command.args(set).stdout(Stdio::null()));
            if running.wait().await.unwrap().success() {
                break;
            }
            kills.add(call);
            let found = fs::read_to_string(&file).unwrap();
            assert!(found == old || found == new, "{call} {nth}: {found}");
            ctl.text(&set).await;
            assert_eq!(fs::read_to_string(&file).unwrap(), new, "{call} {nth}");
            ctl.text(&["config", "undo"]).await;
            assert_eq!(fs::read_to_string(&file).unwrap(), old, "{call} {nth}");
        }
    }
    kills.are_some_of(&["fsync", "write"]);
}

#[tokio::test]
async fn a_gateway_killed_at_any_call_of_its_first_start_and_turn_answers_once() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    let ctl = Ctl::beside(&daemon);
    let mut kills = Kills::default();
    for call in CALLS {
        for nth in sample() {
            let _ = fs::remove_dir_all(daemon.state_dir());
            let port = ports::free();
            let mut command = killed_at(call, nth, &daemon, &programs::moltbotd());
            let mut gateway = Tree::spawn(command.args(["--port", &port.to_string()]));
            let answered = tokio::select! {
                answered = turn_at(port) => answered,
                _ = gateway.wait() => false,
            };
            if answered {
                gateway.kill().await.unwrap();
                break;
            }
            gateway.wait().await.unwrap();
            kills.add(call);
            daemon.start_again().await;
            let mut client = daemon.operator().await;
            assert!(turn(&mut client).await, "{call} {nth}");
            let told = history(&mut client).await;
            let messages = told["messages"].as_array().unwrap();
            let roles: Vec<_> = messages.iter().map(|message| &message["role"]).collect();
            assert_eq!(roles, ["user", "assistant"], "{call} {nth}: {told:#}");
            client.close().await;
            is_tidy(&ctl).await;
            daemon.stop().await;
        }
    }
    kills.are_some_of(&["mkdir", "fsync", "pwrite64"]);
}

/// Every one of the first, then every seventh: many writes are of the log or
/// wake a thread.
fn sample() -> impl Iterator<Item = usize> {
    (1..24).chain((24..).step_by(7))
}

/// Has a turn once the gateway is there; `false` if it goes away.
async fn turn_at(port: u16) -> bool {
    let at = ("127.0.0.1", port);
    while tokio::net::TcpStream::connect(at).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let url = format!("ws://127.0.0.1:{port}");
    match Client::connect(&url, Connect::operator()).await {
        Ok(mut client) => turn(&mut client).await,
        Err(_) => false,
    }
}

/// Says something under the same key each time, and waits for the answer.
async fn turn(client: &mut Client) -> bool {
    let run = json!({ "message": "hello", "idempotencyKey": "turn", "sessionKey": "main" });
    let wait = json!({ "runId": "turn", "timeoutMs": 60_000 });
    client.call("agent", run).await.is_ok()
        && client.call("agent.wait", wait).await.is_ok_and(|end| end["status"] == "ok")
}
