//! State of earlier versions opens in this one.
//!
//! Each file in `tests/fixtures/state` is a database that a released version
//! wrote: a conversation of two messages, a paired node, wake words, and a
//! message that was sent. Files are added, never changed.

use moltbot_tests::{Ctl, Daemon, Options};
use serde_json::json;

#[tokio::test]
async fn the_state_of_every_earlier_version_opens() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/state");
    let mut versions = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "db") {
            opens(&path).await;
            versions += 1;
        }
    }
    assert!(versions > 0, "no files in {folder}");
}

async fn opens(path: &std::path::Path) {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    replace_database(&daemon, &std::fs::read(path).unwrap());
    daemon.start_again().await;

    let mut client = daemon.operator().await;
    let sessions = client.call("sessions.list", json!({})).await.unwrap();
    assert_eq!(sessions["sessions"][0]["label"], "first", "{}", path.display());
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    assert_eq!(history["messages"].as_array().unwrap().len(), 2);
    let devices = client.call("device.pair.list", json!({})).await.unwrap();
    assert_eq!(devices["paired"][0]["displayName"], "attic");
    // A node that was approved before commands were approved keeps them all.
    assert_eq!(devices["paired"][0]["allow"], json!(["browser.*", "system.*"]));
    // Nor was it recorded who let it in.
    assert!(devices["paired"][0].get("approvedVia").is_none(), "{devices}");
    let words = client.call("voicewake.get", json!({})).await.unwrap();
    assert_eq!(words["triggers"], json!(["hello molt"]));
}

#[tokio::test]
async fn the_state_of_a_later_version_is_refused_and_left_alone() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    let known = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/state/0.1.0.db");
    let mut bytes = std::fs::read(known).unwrap();
    // `user_version`, a big-endian number in the file's header.
    bytes[60..64].copy_from_slice(&9999_u32.to_be_bytes());
    replace_database(&daemon, &bytes);
    let (code, text) = daemon.fail_to_start().await;
    assert_eq!(code, Some(77));
    assert!(text.contains("9999"), "{text}");
    assert_eq!(std::fs::read(daemon.state_dir().join("moltbot.db")).unwrap(), bytes);
}

#[tokio::test]
async fn a_stopped_gateway_leaves_its_database_in_one_file_also_when_it_was_looked_at() {
    let mut daemon = Daemon::start_with(Options::with_own_port()).await;
    let ctl = Ctl::beside(&daemon);
    for round in 0..4 {
        ctl.text(&["agent", "-m", "hello"]).await;
        daemon.stop().await;
        assert_eq!(side_files(&daemon), Vec::<&str>::new(), "stopped, round {round}");
        ctl.text(&["doctor"]).await;
        let file = daemon.home().join(format!("{round}.tar.gz"));
        ctl.text(&["backup", "create", "--output", file.to_str().unwrap()]).await;
        assert_eq!(side_files(&daemon), Vec::<&str>::new(), "looked at, round {round}");
        daemon.start_again().await;
    }
}

/// Returns the files beside the database that hold what is not in it yet.
fn side_files(daemon: &Daemon) -> Vec<&'static str> {
    let mut names = vec!["moltbot.db-wal", "moltbot.db-shm"];
    names.retain(|name| daemon.state_dir().join(name).exists());
    names
}

fn replace_database(daemon: &Daemon, bytes: &[u8]) {
    for side in ["moltbot.db-wal", "moltbot.db-shm"] {
        let _ = std::fs::remove_file(daemon.state_dir().join(side));
    }
    std::fs::write(daemon.state_dir().join("moltbot.db"), bytes).unwrap();
}
