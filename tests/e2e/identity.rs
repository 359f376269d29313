//! Device tokens, guessed secrets and clocks: who a peer is, and how often it may be wrong about it.

use moltbot_tests::{
    Client, Connect, Daemon, Device, Options, Version, client::own_clock, daemon::TOKEN,
};
use serde_json::{Value, json};

/// The frame that the CLI of OpenClaw 2026.5.7 sends, as recorded, but for its credentials.
fn newer_cli(device: &Device, auth: Value) -> Connect {
    Connect::with(json!({
        "minProtocol": 3,
        "maxProtocol": 3,
        "client": {
            "id": "cli",
            "version": "2026.5.7",
            "platform": "linux",
            "mode": "cli",
            "instanceId": "2f1f0e6c-6c1f-4be5-9b8e-0a7c5c7c9f11",
        },
        "caps": [],
        "auth": auth,
        "role": "operator",
        "scopes": ["operator.read"],
    }))
    .device(device, Version::V3)
}

async fn paired(daemon: &Daemon, device: &Device) -> String {
    let client = daemon.connect(newer_cli(device, json!({ "token": TOKEN }))).await;
    client.hello["auth"]["deviceToken"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_paired_client_may_send_its_device_token_in_the_field_of_that_name() {
    let daemon = Daemon::start().await;
    let device = Device::new();
    let token = paired(&daemon, &device).await;
    for auth in [
        // The CLI of 2026.5.7 that knows no shared token.
        json!({ "token": token, "deviceToken": token }),
        // Its second try after the shared token it was given was refused.
        json!({ "token": "an old shared token", "deviceToken": token }),
        // The node host of 2026.9.6.
        json!({ "deviceToken": token }),
        json!({ "deviceToken": token, "bootstrapToken": "a used setup code" }),
    ] {
        let mut client = daemon.connect(newer_cli(&device, auth.clone()).remote()).await;
        assert_eq!(client.hello["auth"]["deviceToken"], token.as_str(), "{auth}");
        client.call("status", json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn the_signature_covers_the_first_token_that_is_there() {
    let daemon = Daemon::start().await;
    let device = Device::new();
    let token = paired(&daemon, &device).await;
    let mut client = Client::open(&daemon.url(), &[]).await.unwrap();
    let mut params = newer_cli(&device, json!({ "deviceToken": token })).signed(&client.nonce);
    // What was signed for the one token does not vouch for another.
    params["auth"] = json!({ "token": "slipped in", "deviceToken": token });
    let error = client.call("connect", params).await.unwrap_err();
    assert_eq!(error["message"], "device signature invalid");
}

#[tokio::test]
async fn a_wrong_device_token_is_named_as_such_so_that_the_client_forgets_it() {
    let daemon = Daemon::start().await;
    let device = Device::new();
    paired(&daemon, &device).await;
    let wrong = newer_cli(&device, json!({ "deviceToken": "0".repeat(32) }));
    let error = refused(&daemon, wrong).await;
    let text = "unauthorized: device token mismatch (rotate/reissue device token)";
    assert_eq!(error["message"], text);
    assert_eq!(error["details"]["code"], "AUTH_DEVICE_TOKEN_MISMATCH");
    assert_eq!(error["details"]["authReason"], "device_token_mismatch");
    // A stranger's own key makes no one else's token right.
    let stranger = newer_cli(&Device::new(), json!({ "deviceToken": "0".repeat(32) }));
    assert_eq!(refused(&daemon, stranger).await["message"], text);
    let nobody = newer_cli(&device, json!({ "deviceToken": "0".repeat(32) }));
    let nobody = Connect { device: None, ..nobody };
    assert_eq!(refused(&daemon, nobody).await["code"], "NOT_PAIRED");
}

#[tokio::test]
async fn a_device_token_that_is_too_narrow_is_named_as_such() {
    let daemon = Daemon::start().await;
    let device = Device::new();
    let token = paired(&daemon, &device).await;
    let wide =
        newer_cli(&device, json!({ "deviceToken": token })).scopes(&["operator.admin"]).remote();
    let error = refused(&daemon, wide).await;
    assert_eq!(
        error["message"],
        "unauthorized: device token scope mismatch (re-pair or approve scope upgrade)"
    );
    assert_eq!(error["details"]["code"], "AUTH_SCOPE_MISMATCH");
}

#[tokio::test]
async fn an_unknown_setup_code_is_refused_and_counted() {
    let daemon = Daemon::start().await;
    let mut last = Value::Null;
    for attempt in 0..20 {
        let auth = json!({ "bootstrapToken": format!("guess {attempt}") });
        let error = refused(&daemon, newer_cli(&Device::new(), auth).remote()).await;
        if attempt == 0 {
            assert_eq!(error["details"]["code"], "AUTH_BOOTSTRAP_TOKEN_INVALID", "{error}");
            assert!(message(&error).starts_with("unauthorized: setup code invalid, "), "{error}");
        }
        last = error;
    }
    assert!(message(&last).contains("too many"), "{last}");
}

#[tokio::test]
async fn a_paired_device_cannot_guess_the_shared_secret_without_limit() {
    let daemon = Daemon::start().await;
    let device = Device::new();
    let token = paired(&daemon, &device).await;

    let limit = guess_until_limited(&daemon, |guess| {
        newer_cli(&device, json!({ "token": guess })).remote()
    })
    .await;
    assert!(message(&limit).contains("device"), "the counter is named: {limit}");
    assert_eq!(limit["details"]["counter"], "device", "{limit}");
    assert!(limit["details"]["failures"].as_u64().unwrap() >= 10, "{limit}");

    // Now that it must wait, not even the right secret is looked at, or the wait would tell.
    let right = newer_cli(&device, json!({ "token": TOKEN })).remote();
    assert!(message(&refused(&daemon, right).await).contains("too many"));

    // Its own token is no guess: it is never locked out with that.
    let own = newer_cli(&device, json!({ "deviceToken": token })).remote();
    daemon.connect(own).await;
    // And it took nobody else down: another device, from the same address, is let in.
    let other = Device::new();
    paired(&daemon, &other).await;
    daemon.connect(newer_cli(&other, json!({ "token": TOKEN })).remote()).await;
    let logged = daemon.log();
    assert!(logged.contains("counter=\"device\"") && logged.contains("failures="), "{logged}");
}

#[tokio::test]
async fn a_paired_device_cannot_guess_behind_its_own_token() {
    let daemon = Daemon::start().await;
    let device = Device::new();
    let token = paired(&daemon, &device).await;
    let both = |guess: &str| {
        newer_cli(&device, json!({ "token": guess, "deviceToken": token }))
            .scopes(&["operator.admin"])
    };
    guess_until_limited(&daemon, |guess| both(guess)).await;
    // The right guess would have widened its scopes.
    refused(&daemon, both(TOKEN)).await;
}

#[tokio::test]
async fn a_revoked_device_cannot_guess_the_shared_secret_without_limit() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    paired(&daemon, &device).await;
    let which = json!({ "deviceId": device.id(), "role": "operator" });
    operator.call("device.token.revoke", which).await.unwrap();
    guess_until_limited(&daemon, |guess| newer_cli(&device, json!({ "token": guess }))).await;
}

#[tokio::test]
async fn an_unknown_device_is_counted_by_its_key_wherever_it_comes_from() {
    let config = json!({ "gateway": {
        "auth": { "token": TOKEN },
        "trustedProxies": ["127.0.0.1"],
    } });
    let daemon = Daemon::start_with(Options::with(config)).await;
    let device = Device::new();
    let mut host = 0;
    let limit = guess_until_limited(&daemon, |guess| {
        host += 1;
        let address = format!("203.0.113.{host}");
        newer_cli(&device, json!({ "token": guess })).header("X-Forwarded-For", &address)
    })
    .await;
    assert_eq!(limit["details"]["counter"], "device", "{limit}");
}

/// Tries one secret after the other, and returns the refusal that says to wait.
async fn guess_until_limited(daemon: &Daemon, mut connect: impl FnMut(&str) -> Connect) -> Value {
    for guess in 0..100 {
        let attempt = connect(&format!("guess {guess}"));
        match Client::connect(&daemon.url(), attempt).await {
            Ok(_) => panic!("guess {guess} was let in"),
            Err(refusal) => {
                let error = refusal.error.unwrap_or_default();
                if message(&error).contains("too many") {
                    return error;
                }
            }
        }
    }
    panic!("100 guesses and none was turned away unseen");
}

#[tokio::test]
async fn a_client_whose_clock_is_wrong_is_let_in_by_the_nonce_it_signed() {
    let daemon = Daemon::start().await;
    let device = Device::new();
    const YEAR_MS: u64 = 31_536_000_000;
    for signed_at in
        [0, 1, own_clock() - 3_600_000, own_clock() + 10 * YEAR_MS, (1 << 53) - 1, u64::MAX]
    {
        for version in [Version::V2, Version::V3] {
            let connect = Connect::operator().device(&device, version).signed_at(signed_at);
            daemon.connect(connect).await;
        }
    }
    assert!(daemon.log().contains("clock"), "the difference is logged: {}", daemon.log());
}

#[tokio::test]
async fn a_signature_without_a_nonce_has_nothing_but_its_time_to_be_fresh_by() {
    let daemon = Daemon::start().await;
    for signed_at in [own_clock() - 660_000, own_clock() + 660_000] {
        let connect = Connect::operator().device(&Device::new(), Version::V1).signed_at(signed_at);
        assert_eq!(message(&refused(&daemon, connect).await), "device signature expired");
    }
}

async fn refused(daemon: &Daemon, connect: Connect) -> Value {
    Client::connect(&daemon.url(), connect).await.unwrap_err().error.unwrap_or_default()
}

fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap_or_default()
}
