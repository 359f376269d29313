//! Devices: asking, approving, revoking, removing.

use moltbot_tests::{Client, Connect, Daemon, Device, Version, daemon::TOKEN};
use serde_json::{Value, json};

#[tokio::test]
async fn a_remote_device_waits_for_an_operator_and_comes_in_with_its_token() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let connect = Connect::operator().device(&device, Version::V3).remote();
    let request = ask(&daemon, &connect).await;
    let event = operator.next_event("device.pair.requested").await;
    assert_eq!(event["payload"]["requestId"], request.as_str());
    assert_eq!(event["payload"]["deviceId"], device.id());

    operator.call("device.pair.approve", json!({ "requestId": request })).await.unwrap();
    let event = operator.next_event("device.pair.resolved").await;
    assert_eq!(event["payload"]["decision"], "approved");

    let client = daemon.connect(connect.clone()).await;
    let token = client.hello["auth"]["deviceToken"].as_str().unwrap();
    daemon.connect(connect.token(token)).await;
}

#[tokio::test]
async fn a_rejected_device_stays_out() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let connect = Connect::operator().device(&Device::new(), Version::V2).remote();
    let request = ask(&daemon, &connect).await;
    operator.call("device.pair.reject", json!({ "requestId": request })).await.unwrap();
    let again = ask(&daemon, &connect).await;
    assert_ne!(again, request, "the old request is gone");
}

#[tokio::test]
async fn revoking_closes_the_sockets_and_nothing_is_minted_again() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let connect = Connect::operator().device(&device, Version::V2);
    let mut client = daemon.connect(connect.clone()).await;
    let token = client.hello["auth"]["deviceToken"].as_str().unwrap().to_owned();

    let which = json!({ "deviceId": device.id(), "role": "operator" });
    operator.call("device.token.revoke", which).await.unwrap();
    assert_eq!(client.closed().await.0, 1008);

    let refusal = Client::connect(&daemon.url(), connect.clone().token(&token)).await.unwrap_err();
    assert!(refusal.error.is_some(), "{refusal:?}");
    let refusal = Client::connect(&daemon.url(), connect).await.unwrap_err();
    assert_eq!(refusal.error.unwrap()["message"], "pairing required", "the secret is not enough");
}

#[tokio::test]
async fn rotating_closes_the_sockets_of_the_old_token() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let connect = Connect::operator().device(&device, Version::V2);
    let mut client = daemon.connect(connect.clone()).await;
    let old = client.hello["auth"]["deviceToken"].as_str().unwrap().to_owned();

    let which = json!({ "deviceId": device.id(), "role": "operator" });
    let rotated = operator.call("device.token.rotate", which).await.unwrap();
    assert_eq!(client.closed().await.0, 1008);
    let new = rotated["token"].as_str().unwrap();
    assert_ne!(new, old);
    daemon.connect(connect.clone().token(new)).await;
    Client::connect(&daemon.url(), connect.token(&old)).await.unwrap_err();
}

#[tokio::test]
async fn a_removed_device_is_a_stranger_again() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let connect = Connect::node(&device, &["system.run"]);
    let mut node = daemon.connect(connect.clone()).await;
    operator.call("device.pair.remove", json!({ "deviceId": device.id() })).await.unwrap();
    assert_eq!(node.closed().await.0, 1008);
    let list = operator.call("device.pair.list", json!({})).await.unwrap();
    assert!(!list["paired"].to_string().contains(&device.id()), "{list}");
    ask(&daemon, &connect.remote()).await;
}

#[tokio::test]
async fn nobody_grants_more_than_he_holds() {
    let daemon = Daemon::start().await;
    let mut doorman = daemon.connect(Connect::operator().scopes(&["operator.pairing"])).await;
    let connect = Connect::operator().device(&Device::new(), Version::V2).remote();
    let request = ask(&daemon, &connect).await;
    let error =
        doorman.call("device.pair.approve", json!({ "requestId": request })).await.unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("scope"), "{error}");
    ask(&daemon, &connect).await;
}

#[tokio::test]
async fn the_control_socket_needs_no_secret() {
    let daemon = Daemon::start().await;
    let stranger = Client::open_control(&daemon.control_socket()).await.unwrap();
    let connect = Connect::operator().without("auth");
    let mut operator = stranger.introduce(connect).await.unwrap();
    let remote = Connect::operator().device(&Device::new(), Version::V2).remote();
    let request = ask(&daemon, &remote).await;
    operator.call("device.pair.approve", json!({ "requestId": request })).await.unwrap();
    daemon.connect(remote).await;
}

#[tokio::test]
async fn a_device_paired_over_the_control_socket_is_not_asked_about() {
    let daemon = Daemon::start().await;
    let stranger = Client::open_control(&daemon.control_socket()).await.unwrap();
    let connect = Connect::operator().without("auth").device(&Device::new(), Version::V2);
    let client = stranger.introduce(connect).await.unwrap();
    assert!(client.hello["auth"]["deviceToken"].is_string(), "{}", client.hello);
}

/// Connects and expects to be told to wait; returns the request's id.
async fn ask(daemon: &Daemon, connect: &Connect) -> String {
    let refusal = Client::connect(&daemon.url(), connect.clone()).await.unwrap_err();
    let error: Value = refusal.error.unwrap();
    assert_eq!(error["message"], "pairing required", "{error}");
    assert_eq!(refusal.code, Some(1008));
    error["details"]["requestId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_lowered_ceiling_also_binds_devices_that_the_secret_paired_before() {
    let mut daemon = Daemon::start().await;
    let device = Device::new();
    let connect = Connect::operator().device(&device, Version::V2);
    let first = daemon.connect(connect.clone()).await;
    let own = first.hello["auth"]["deviceToken"].as_str().unwrap().to_owned();
    // It does not depend on the secret any more, but was given what it has by nothing else.
    let mut kept = daemon.connect(connect.clone().token(&own)).await;

    lower_ceiling(&mut daemon);
    assert_eq!(kept.closed().await.0, 1008);
    for scopes in [&["operator.read"][..], &[]] {
        let narrow = connect.clone().token(&own).scopes(scopes);
        let mut client = daemon.connect(narrow).await;
        client.call("status", json!({})).await.unwrap();
        client.call("config.get", json!({})).await.unwrap_err();
    }
    Client::connect(&daemon.url(), connect.clone().token(&own)).await.unwrap_err();

    // Every place that shows it shows what it has now.
    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut control = control.introduce(Connect::operator().without("auth")).await.unwrap();
    let list = control.call("device.pair.list", json!({})).await.unwrap();
    let listed = list["paired"].as_array().unwrap().iter().find(|it| it["deviceId"] == device.id());
    let listed = listed.unwrap();
    assert_eq!(listed["scopes"], json!(["operator.read"]), "{listed}");
    assert_eq!(listed["tokens"][0]["scopes"], json!(["operator.read"]), "{listed}");
    assert_eq!(listed["approvedVia"], "silent");
}

#[tokio::test]
async fn what_a_person_approved_may_be_wider_than_the_secret_grants() {
    let mut daemon = Daemon::start().await;
    lower_ceiling(&mut daemon);
    let device = Device::new();
    let connect = Connect::operator().device(&device, Version::V2).remote();
    let request = loop {
        let refusal = Client::connect(&daemon.url(), connect.clone()).await.unwrap_err();
        let error: Value = refusal.error.unwrap();
        if let Some(request) = error["details"]["requestId"].as_str() {
            break request.to_owned();
        }
    };
    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut control = control.introduce(Connect::operator().without("auth")).await.unwrap();
    control.call("device.pair.approve", json!({ "requestId": request })).await.unwrap();
    for connect in [connect.clone(), Connect::operator().device(&device, Version::V2)] {
        let mut client = daemon.connect(connect).await;
        client.call("config.get", json!({})).await.unwrap();
    }
    let list = control.call("device.pair.list", json!({})).await.unwrap();
    assert_eq!(list["paired"][0]["approvedVia"], "owner", "{list}");
}

fn lower_ceiling(daemon: &mut Daemon) {
    let auth = json!({ "token": TOKEN, "sharedSecretScopes": ["operator.read"] });
    daemon.configure(json!({ "gateway": { "auth": auth } }));
}
