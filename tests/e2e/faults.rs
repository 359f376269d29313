//! What a host can do to a gateway: each fault ends in a running daemon, or in
//! a refusal that names the reason and a command that helps.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use moltbot_tests::{Connect, Daemon, Options, PATIENCE, daemon::TOKEN, programs};
use nix::unistd::Uid;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Starts a daemon in the place of one that was stopped, where that must fail.
fn start(daemon: &Daemon, port: u16, variables: &[(&str, &str)]) -> Output {
    Command::new(programs::moltbotd())
        .args(["--port", &port.to_string(), "--log-format", "text"])
        .env_clear()
        .envs(daemon.variables())
        .envs(variables.iter().copied())
        .current_dir(daemon.home())
        .output()
        .unwrap()
}

fn told(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

async fn stopped() -> Daemon {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    daemon
}

#[tokio::test]
async fn a_stranger_on_the_port_is_named() {
    let daemon = stopped().await;
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let own = if cfg!(target_os = "linux") {
        format!("pid {}, listens there; stop it", std::process::id())
    } else {
        "ss -ltnp".to_owned()
    };
    told(&start(&daemon, port, &[]), 69, &[&format!("127.0.0.1:{port} is taken"), &own]);
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_is_refused_for_good() {
    let daemon = stopped().await;
    let home = daemon.home().display();
    fs::write(daemon.home().join("file"), "in the way").unwrap();
    for place in [format!("{home}/file"), format!("{home}/file/state")] {
        let output = start(&daemon, 1, &[("MOLTBOT_STATE_DIR", &place)]);
        told(&output, 77, &[&place, "namei -l"]);
    }
    // Not even the superuser makes folders there.
    let output = start(&daemon, 1, &[("MOLTBOT_STATE_DIR", "/sys/moltbot-state")]);
    told(&output, 77, &["/sys/moltbot-state", "; "]);
}

#[tokio::test]
async fn somebody_elses_state_folder_is_refused_for_good() {
    let daemon = stopped().await;
    let state = daemon.state_dir();
    // The superuser is sent to the owner's side: taking the folder away would stop another gateway.
    let (theirs, advice) = if Uid::effective().is_root() {
        std::os::unix::fs::chown(&state, Some(4242), None).unwrap();
        (state.to_str().unwrap(), "sudo -u '#4242'")
    } else {
        ("/usr", "chown -R")
    };
    let output = start(&daemon, 1, &[("MOLTBOT_STATE_DIR", theirs)]);
    told(&output, 77, &[theirs, "belongs to user", advice]);
}

#[tokio::test]
async fn a_folder_that_went_missing_is_made_again() {
    let mut daemon = stopped().await;
    for folder in ["state/logs", "state/run"] {
        fs::remove_dir_all(daemon.home().join(folder)).unwrap();
    }
    daemon.start_again().await;
    daemon.operator().await.call("health", json!({})).await.unwrap();
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_database_is_refused_for_good_and_left_as_it_is() {
    let daemon = stopped().await;
    let database = daemon.state_dir().join("moltbot.db");
    let known = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/state/0.1.0.db");
    let sound = fs::read(known).unwrap();
    // What was not written to the file yet would mend it.
    for side in ["moltbot.db-wal", "moltbot.db-shm"] {
        let _ = fs::remove_file(daemon.state_dir().join(side));
    }
    let half = sound.len() as u64 / 2;
    let damages: [(&str, &dyn Fn()); 3] = [
        ("garbage", &|| overwrite(&database, 0, &[0xA5; 4096])),
        ("half", &|| {
            fs::File::options().write(true).open(&database).unwrap().set_len(half).unwrap()
        }),
        ("text", &|| fs::write(&database, "{}".repeat(3000)).unwrap()),
    ];
    for (name, damage) in damages {
        fs::write(&database, &sound).unwrap();
        damage();
        let before = fs::read(&database).unwrap();
        let words = ["moltbot.db is damaged", "moltbotctl backup restore", "mv "];
        told(&start(&daemon, 1, &[]), 77, &words);
        assert_eq!(fs::read(&database).unwrap(), before, "{name}");
    }
}

#[tokio::test]
async fn an_empty_database_file_is_a_new_database() {
    let mut daemon = stopped().await;
    fs::write(daemon.state_dir().join("moltbot.db"), "").unwrap();
    daemon.start_again().await;
    daemon.operator().await.call("status", json!({})).await.unwrap();
}

#[tokio::test]
async fn half_a_configuration_does_not_stop_a_daemon_that_had_a_whole_one() {
    let mut daemon = stopped().await;
    let file = daemon.home().join("moltbot.json");
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    daemon.start_again().await;
    let status = daemon.operator().await.call("status", json!({})).await.unwrap();
    assert!(status["degraded"].to_string().contains("moltbot.json:"), "{status}");
}

/// Lowers how many files a running process may have open.
#[cfg(target_os = "linux")]
fn limit_files(pid: u32, most: usize) {
    let limit = format!("--nofile={most}:{most}");
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(status.expect("prlimit of util-linux is installed").success());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_daemon_out_of_files_serves_who_is_there_and_recovers() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    client.call("status", json!({})).await.unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    limit_files(daemon.pid(), open + 16);
    let mut crowd = Vec::new();
    for _ in 0..64 {
        crowd.push(TcpStream::connect(("127.0.0.1", daemon.port())).await.unwrap());
    }
    let out_of_files = async {
        while !daemon.log().contains("accept failed") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, out_of_files).await.unwrap();
    for _ in 0..20 {
        client.call("health", json!({})).await.unwrap();
    }
    drop(crowd);
    let mut late = daemon.connect(Connect::operator()).await;
    late.call("status", json!({})).await.unwrap();
    let mut text = String::new();
    fs::File::open(daemon.state_dir().join("logs/moltbot.log"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(text.matches("accept failed").count() <= 4, "folded: {text}");
}

#[tokio::test]
async fn a_failed_run_is_answered_alike_when_its_key_is_repeated() {
    let mut config = json!({ "gateway": { "auth": { "token": TOKEN } } });
    // Nobody gave a key for it.
    config["agents"]["defaults"]["model"]["primary"] = json!("anthropic/claude-sonnet-4-5");
    let daemon = Daemon::start_with(Options::with(config)).await;
    let mut operator = daemon.operator().await;
    let params = json!({ "message": "hi", "sessionKey": "main", "idempotencyKey": "once" });
    let is_failure = |frame: &Value| frame["type"] == "res" && frame["ok"] == false;
    operator.send("agent", params.clone()).await;
    let first = operator.read_where(is_failure).await.unwrap();
    operator.send("agent", params).await;
    let again = operator.read_where(is_failure).await.unwrap();
    assert_eq!((&first["payload"], &first["error"]), (&again["payload"], &again["error"]));
    assert_eq!(first["payload"]["status"], "error");
}
