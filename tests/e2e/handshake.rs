//! Who gets in, beyond what the recorded transcripts show.

use moltbot_tests::{Client, Connect, Daemon, Device, Options, Refusal, Version, daemon::TOKEN};
use serde_json::{Value, json};

#[tokio::test]
async fn a_device_may_sign_with_any_version() {
    let daemon = Daemon::start().await;
    for version in [Version::V1, Version::V2, Version::V3] {
        let device = Device::new();
        let client = daemon.connect(Connect::operator().device(&device, version)).await;
        assert_eq!(client.hello["auth"]["role"], "operator", "{version:?}");
        assert_eq!(client.hello["auth"]["deviceToken"].as_str().unwrap().len(), 32);
    }
}

#[tokio::test]
async fn a_newer_client_signs_its_platform_and_family() {
    let daemon = Daemon::start().await;
    let connect = Connect::operator()
        .set("/client/platform", " Linux ")
        .set("/client/deviceFamily", "Mac Pro")
        .device(&Device::new(), Version::V3);
    daemon.connect(connect).await;
}

#[tokio::test]
async fn a_signature_without_a_nonce_counts_once() {
    let daemon = Daemon::start().await;
    let mut first = Client::open(&daemon.url(), &[]).await.unwrap();
    let connect = Connect::operator().device(&Device::new(), Version::V1);
    let params = connect.signed("");
    first.call("connect", params.clone()).await.unwrap();
    let mut second = Client::open(&daemon.url(), &[]).await.unwrap();
    let error = second.call("connect", params).await.unwrap_err();
    assert!(message(&error).contains("signature"), "{error}");
    assert_eq!(second.closed().await.0, 1008);
}

#[tokio::test]
async fn a_signature_over_another_connections_nonce_is_refused() {
    let daemon = Daemon::start().await;
    let first = Client::open(&daemon.url(), &[]).await.unwrap();
    let mut second = Client::open(&daemon.url(), &[]).await.unwrap();
    let connect = Connect::operator().device(&Device::new(), Version::V2);
    let params = connect.signed(&first.nonce);
    let error = second.call("connect", params).await.unwrap_err();
    assert_eq!(message(&error), "device nonce mismatch");
}

#[tokio::test]
async fn a_token_does_not_make_up_for_a_bad_signature() {
    let daemon = Daemon::start().await;
    let mut client = Client::open(&daemon.url(), &[]).await.unwrap();
    let connect = Connect::operator().device(&Device::new(), Version::V2);
    let mut params = connect.signed(&client.nonce);
    params["device"]["signature"] = Device::new().sign("something else").into();
    let error = client.call("connect", params).await.unwrap_err();
    assert_eq!(message(&error), "device signature invalid");
}

#[tokio::test]
async fn a_device_token_replaces_the_shared_one() {
    let daemon = Daemon::start().await;
    let device = Device::new();
    let first = daemon.connect(Connect::operator().device(&device, Version::V2)).await;
    let token = first.hello["auth"]["deviceToken"].as_str().unwrap().to_owned();
    let connect = Connect::operator().device(&device, Version::V2).token(&token).remote();
    daemon.connect(connect).await;
    let stolen = Connect::operator().device(&Device::new(), Version::V2).token(&token);
    let refusal = Client::connect(&daemon.url(), stolen).await.unwrap_err();
    assert!(message_of(&refusal).starts_with("unauthorized"), "{refusal:?}");
}

#[tokio::test]
async fn hello_tells_the_limits_in_force() {
    let config =
        json!({ "gateway": { "auth": { "token": TOKEN }, "limits": { "maxPayload": 100_000 } } });
    let daemon = Daemon::start_with(Options::with(config)).await;
    let policy = daemon.operator().await.hello["policy"].clone();
    assert_eq!(
        policy,
        json!({ "maxPayload": 100_000, "maxBufferedBytes": 1_572_864, "tickIntervalMs": 30_000 })
    );
}

#[tokio::test]
async fn a_client_that_knows_only_the_secret_gets_at_most_the_configured_scopes() {
    let auth = json!({ "token": TOKEN, "sharedSecretScopes": ["operator.read"] });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": { "auth": auth } }))).await;
    let connect = Connect::operator().scopes(&["operator.read", "operator.admin"]);
    let mut client = daemon.connect(connect).await;
    client.call("health", json!({})).await.unwrap();
    let error = client.call("config.get", json!({})).await.unwrap_err();
    assert_eq!(message(&error), "missing scope: operator.admin");
}

#[tokio::test]
async fn a_daemon_without_configuration_wants_the_token_it_made() {
    let daemon = Daemon::start_with(Options::with(json!({}))).await;
    let nobody = Connect::operator().without("auth");
    let refusal = Client::connect(&daemon.url(), nobody).await.unwrap_err();
    assert_eq!(refusal.error.unwrap()["code"], "NOT_PAIRED");
    let token = std::fs::read_dir(daemon.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("token")))
        .expect("the state directory holds the token");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&token).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let token = std::fs::read_to_string(token).unwrap();
    daemon.connect(Connect::operator().token(token.trim())).await;
}

fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap_or_default()
}

fn message_of(refusal: &Refusal) -> &str {
    refusal.error.as_ref().map_or("", message)
}
