//! Changes of the configuration that need the gateway's secret again, when another host asks.

use moltbot_tests::{Client, Connect, Daemon, Device, Options, Version, daemon::TOKEN};
use serde_json::{Value, json};

async fn far_admin(daemon: &Daemon) -> Client {
    let device = Device::new();
    let connect = Connect::operator().device(&device, Version::V2);
    daemon.connect(connect.clone()).await;
    daemon.connect(connect.remote()).await
}

async fn patch(client: &mut Client, patch: &Value, reauth: Option<&str>) -> Result<Value, Value> {
    let hash = client.call("config.get", json!({})).await.unwrap()["hash"].clone();
    let mut params = json!({ "raw": patch.to_string(), "baseHash": hash });
    if let Some(secret) = reauth {
        params["auth"] = json!({ "reauth": secret });
    }
    client.call("config.patch", params).await
}

/// Changes that would hand over the host, one for each way.
fn dangerous() -> Vec<(&'static str, Value)> {
    vec![
        ("gateway.auth.token", json!({ "gateway": { "auth": { "token": "x".repeat(40) } } })),
        ("gateway.bind", json!({ "gateway": { "bind": "auto" } })),
        ("gateway.trustedProxies[0]", json!({ "gateway": { "trustedProxies": ["10.0.0.1"] } })),
        (
            "gateway.controlUi.dangerouslyDisableDeviceAuth",
            json!({ "gateway": { "controlUi": { "dangerouslyDisableDeviceAuth": true } } }),
        ),
        (
            "gateway.controlUi.allowedOrigins[0]",
            json!({ "gateway": { "controlUi": { "allowedOrigins": ["https://evil.example"] } } }),
        ),
        ("gateway.tailscale.path", json!({ "gateway": { "tailscale": { "path": "/tmp/x" } } })),
        (
            "channels.telegram.mediaRoots[0]",
            json!({ "channels": { "telegram": { "enabled": false, "mediaRoots": ["/"] } } }),
        ),
        ("plugins.load.paths[0]", json!({ "plugins": { "load": { "paths": ["/tmp/x"] } } })),
        ("hooks.token", json!({ "hooks": { "token": "mine" } })),
        ("env.LD_PRELOAD", json!({ "env": { "LD_PRELOAD": "/tmp/x.so" } })),
    ]
}

#[tokio::test]
async fn s21_dangerous_configuration_from_another_host_needs_the_secret_again() {
    let daemon = Daemon::start().await;
    let mut far = far_admin(&daemon).await;
    let before = config_text(&daemon);
    for (path, change) in dangerous() {
        let error = patch(&mut far, &change, None).await.unwrap_err();
        assert_eq!(error["details"]["code"], "REAUTH_REQUIRED", "{path}: {error}");
        assert_eq!(error["details"]["paths"], json!([path]), "{error}");
        let text = error["message"].as_str().unwrap();
        assert!(text.contains("moltbotctl config set"), "it names what to run instead: {text}");

        let error = patch(&mut far, &change, Some("guessed-reauth")).await.unwrap_err();
        assert_ne!(error["code"], Value::Null, "{path}: {error}");
    }
    assert_eq!(config_text(&daemon), before);
    assert!(!daemon.log().contains("guessed-reauth"), "{}", daemon.log());
}

#[tokio::test]
async fn what_is_harmless_needs_no_secret_from_anywhere() {
    let daemon = Daemon::start().await;
    let mut far = far_admin(&daemon).await;
    patch(&mut far, &json!({ "ui": { "assistant": { "name": "Molty" } } }), None).await.unwrap();
    patch(&mut far, &json!({ "logging": { "level": "debug" } }), None).await.unwrap();
}

#[tokio::test]
async fn the_secret_lifts_the_guard_and_so_do_this_host_and_the_control_socket() {
    let daemon = Daemon::start().await;
    let mut far = far_admin(&daemon).await;
    let origin = |name: &str| json!({ "gateway": { "controlUi": { "allowedOrigins": [format!("https://{name}.example")] } } });
    patch(&mut far, &origin("far"), Some(TOKEN)).await.unwrap();
    let mut near = daemon.operator().await;
    patch(&mut near, &origin("near"), None).await.unwrap();
    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut control = control.introduce(Connect::operator().without("auth")).await.unwrap();
    patch(&mut control, &origin("control"), None).await.unwrap();
    assert!(config_text(&daemon).contains("https://control.example"));
    assert!(!daemon.log().contains(TOKEN));
}

#[tokio::test]
async fn the_whole_file_from_another_host_is_guarded_like_a_patch() {
    let daemon = Daemon::start().await;
    let mut far = far_admin(&daemon).await;
    let shown = far.call("config.get", json!({})).await.unwrap();
    for (method, raw) in [
        ("config.set", json!({ "gateway": { "bind": "auto" } })),
        // Leaving a guarded key out is a change of it.
        ("config.apply", json!({})),
    ] {
        let params = json!({ "raw": raw.to_string(), "baseHash": shown["hash"] });
        let error = far.call(method, params).await.unwrap_err();
        assert_eq!(error["details"]["code"], "REAUTH_REQUIRED", "{method}: {error}");
    }
    // As it was shown, it changes nothing.
    let params = json!({ "raw": shown["raw"], "baseHash": shown["hash"] });
    far.call("config.set", params).await.unwrap();
}

#[tokio::test]
async fn a_far_session_cannot_guess_the_secret_again_without_limit() {
    let config = json!({ "gateway": { "auth": { "token": TOKEN } } });
    let daemon = Daemon::start_with(Options::with(config)).await;
    let mut far = far_admin(&daemon).await;
    let change = json!({ "gateway": { "bind": "auto" } });
    for guess in 0..50 {
        let error = patch(&mut far, &change, Some(&format!("guess {guess}"))).await.unwrap_err();
        if error["message"].as_str().unwrap().contains("too many") {
            let error = patch(&mut far, &change, Some(TOKEN)).await.unwrap_err();
            assert!(error["message"].as_str().unwrap().contains("too many"), "{error}");
            return;
        }
    }
    panic!("50 guesses and none was turned away unseen");
}

fn config_text(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.home().join("moltbot.json")).unwrap()
}
