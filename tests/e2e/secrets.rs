//! Shared secrets that change while the daemon runs.

use std::os::unix::fs::PermissionsExt as _;

use moltbot_tests::{
    Client, Connect, Daemon, Options,
    daemon::TOKEN,
    device::{Device, Version},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const NEXT: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

fn with_token(token: &str) -> Value {
    json!({ "gateway": { "auth": { "token": token } } })
}

async fn is_served(client: &mut Client) {
    client.call("health", json!({})).await.unwrap();
}

#[tokio::test]
async fn another_token_counts_at_once_and_ends_what_the_old_one_opened() {
    let mut daemon = Daemon::start().await;
    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut control = control.introduce(Connect::operator()).await.unwrap();
    let mut stranger = daemon.operator().await;
    let device = Device::new();
    let paired = Connect::operator().device(&device, Version::V2);
    let mut first = daemon.connect(paired.clone()).await;
    let own = first.hello["auth"]["deviceToken"].as_str().unwrap().to_owned();
    let mut kept = daemon.connect(paired.clone().token(&own)).await;
    let mut node = daemon.connect(Connect::node(&Device::new(), &["system.run"])).await;

    daemon.configure(with_token(NEXT));
    for client in [&mut stranger, &mut first, &mut node] {
        assert_eq!(client.closed().await, (1008, "the gateway's secret changed".to_owned()));
    }
    // What never depended on it goes on.
    is_served(&mut kept).await;
    is_served(&mut control).await;
    Client::connect(&daemon.url(), Connect::operator()).await.unwrap_err();
    daemon.connect(paired.token(&own)).await;
    is_served(&mut daemon.connect(Connect::operator().token(NEXT)).await).await;
    assert!(!daemon.log().contains(NEXT), "{}", daemon.log());
}

#[tokio::test]
async fn whoever_changes_the_secret_is_answered_and_comes_again_with_the_new_one() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let hash = operator.call("config.get", json!({})).await.unwrap()["hash"].clone();
    let raw = json!({ "gateway": { "auth": { "mode": "password", "password": NEXT } } });
    let params = json!({ "raw": raw.to_string(), "baseHash": hash });
    let answer = operator.call("config.patch", params).await.unwrap();
    assert_eq!(answer["restart"]["mode"], "none", "{answer}");
    assert_eq!(operator.closed().await.0, 1008);
    Client::connect(&daemon.url(), Connect::operator()).await.unwrap_err();
    let connect = Connect::operator().set("/auth", json!({ "token": "x", "password": NEXT }));
    is_served(&mut daemon.connect(connect).await).await;
}

#[tokio::test]
async fn narrower_scopes_reach_those_who_are_connected() {
    let mut daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let mut config = with_token(TOKEN);
    config["gateway"]["auth"]["sharedSecretScopes"] = json!(["operator.read"]);
    daemon.configure(config);
    assert_eq!(operator.closed().await.0, 1008);
    let mut operator = daemon.operator().await;
    operator.call("config.get", json!({})).await.unwrap_err();
    is_served(&mut operator).await;
}

#[tokio::test]
async fn a_file_with_a_token_is_read_again_when_a_reload_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let write = |token: &str| {
        std::fs::write(&file, token).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(TOKEN);
    let mut options = Options::with(json!({}));
    options.arguments = vec!["--token-file".into(), file.display().to_string()];
    let daemon = Daemon::start_with(options).await;
    let mut operator = daemon.operator().await;
    write(NEXT);
    daemon.signal(Signal::SIGHUP);
    assert_eq!(operator.closed().await.0, 1008);
    let mut operator = daemon.connect(Connect::operator().token(NEXT)).await;
    // What cannot be used changes nothing.
    write("");
    daemon.signal(Signal::SIGHUP);
    while !daemon.log().contains("shared secrets kept") {
        is_served(&mut operator).await;
    }
    is_served(&mut daemon.connect(Connect::operator().token(NEXT)).await).await;
}
