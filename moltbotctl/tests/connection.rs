//! The client against a gateway that plays a script: what it sends, and what it
//! makes of odd answers.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{future::Future, time::Duration};

use futures_util::{SinkExt, StreamExt};
use moltbotctl::{
    address::Address,
    client::{Client, Options},
    error::Error,
    identity::Keyring,
    target::{Credentials, Secret, Target},
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// The gateway's end of one connection.
struct Peer(WebSocketStream<TcpStream>);

impl Peer {
    async fn send(&mut self, frame: Value) {
        self.text(&frame.to_string()).await;
    }

    async fn text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn receive(&mut self) -> Value {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(_) => return Value::Null,
                _ => {}
            }
        }
    }

    async fn challenge(&mut self) {
        let payload = json!({ "nonce": "n-1", "ts": 1 });
        self.send(json!({ "type": "event", "event": "connect.challenge", "payload": payload }))
            .await;
    }

    /// Lets the client in and returns its introduction.
    async fn welcome(&mut self) -> Value {
        self.challenge().await;
        let connect = self.receive().await;
        self.answer(&connect, json!({ "type": "hello-ok", "auth": { "deviceToken": "issued" } }))
            .await;
        connect["params"].clone()
    }

    async fn answer(&mut self, request: &Value, payload: Value) {
        let frame = json!({ "type": "res", "id": request["id"], "ok": true, "payload": payload });
        self.send(frame).await;
    }

    async fn refuse(&mut self, request: &Value, error: Value) {
        let frame = json!({ "type": "res", "id": request["id"], "ok": false, "error": error });
        self.send(frame).await;
    }

    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.0.close(Some(frame)).await.unwrap();
    }
}

/// Starts a gateway for one connection.
async fn gateway<F: Future<Output = ()> + Send>(
    script: impl FnOnce(Peer) -> F + Send + 'static,
) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        script(Peer(tokio_tungstenite::accept_async(stream).await.unwrap())).await;
    });
    target(&url)
}

fn target(url: &str) -> Target {
    let address: Address = url.parse().unwrap();
    Target { address, credentials: Credentials::default(), tls_fingerprint: None }
}

async fn connect(target: &Target) -> Client {
    Client::connect(target, &Options::operator()).await.unwrap()
}

#[tokio::test]
async fn the_introduction_holds_a_proof_bound_to_the_nonce() {
    let folder = tempfile::tempdir().unwrap();
    let (tx, rx) = tokio::sync::oneshot::channel();
    let mut target =
        gateway(|mut peer| async move { tx.send(peer.welcome().await).unwrap() }).await;
    target.credentials.token = Some(Secret::new("secret", "test"));
    let keyring = Keyring::new(folder.path());
    let options = Options { keyring: Some(keyring.clone()), ..Options::operator() };
    Client::connect(&target, &options).await.unwrap();
    let params = rx.await.unwrap();
    assert_eq!(params["client"]["id"], "cli");
    assert_eq!(params["role"], "operator");
    assert_eq!(params["auth"], json!({ "token": "secret" }));
    assert_eq!(params["device"]["nonce"], "n-1");
    let device = keyring.identity().unwrap().device_id();
    assert_eq!(params["device"]["id"], device);
    let stored = keyring.token(&target.address.key(), "operator", &device);
    assert_eq!(stored.as_deref(), Some("issued"));
}

#[tokio::test]
async fn a_device_token_is_shown_only_to_the_gateway_that_issued_it() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = Keyring::new(folder.path());
    let device = keyring.identity().unwrap().device_id();
    keyring.remember("ws://127.0.0.1:1", "operator", &device, "of-another").unwrap();
    let (tx, rx) = tokio::sync::oneshot::channel();
    let target = gateway(|mut peer| async move { tx.send(peer.welcome().await).unwrap() }).await;
    let options = Options { keyring: Some(keyring), ..Options::operator() };
    Client::connect(&target, &options).await.unwrap();
    assert_eq!(rx.await.unwrap().get("auth"), None);
}

#[tokio::test]
async fn frames_that_make_no_sense_are_skipped() {
    let target = gateway(|mut peer| async move {
        peer.welcome().await;
        let call = peer.receive().await;
        for odd in [
            "",
            "nonsense",
            "[]",
            "{}",
            "{\"type\":5}",
            "{\"type\":\"res\"}",
            "null",
            "{\"type\":\"res\",\"id\":7,\"ok\":true}",
            "{\"type\":\"event\"}",
            "{\"type\":\"res\",\"id\":\"999\",\"ok\":true}",
            "{\"type\":\"res\",\"id\":\"x\",\"ok\":1}",
        ] {
            peer.text(odd).await;
        }
        peer.0.send(Message::binary(vec![0xff, 0xfe])).await.unwrap();
        peer.answer(&call, json!({ "fine": true })).await;
        peer.receive().await;
    })
    .await;
    let client = connect(&target).await;
    assert_eq!(client.call_raw("health", json!({})).await.unwrap(), json!({ "fine": true }));
}

#[tokio::test]
async fn the_second_answer_is_waited_for_when_asked() {
    let target = gateway(|mut peer| async move {
        peer.welcome().await;
        let call = peer.receive().await;
        peer.answer(&call, json!({ "status": "accepted" })).await;
        peer.answer(&call, json!({ "status": "ok" })).await;
        peer.receive().await;
    })
    .await;
    let client = connect(&target).await;
    let result = client.call_final("agent", json!({}), Duration::from_secs(60)).await.unwrap();
    assert_eq!(result["status"], "ok");
}

#[tokio::test]
async fn a_refusal_keeps_code_message_and_details() {
    let target = gateway(|mut peer| async move {
        peer.challenge().await;
        let connect = peer.receive().await;
        let details = json!({ "requestId": "r-1" });
        let error =
            json!({ "code": "NOT_PAIRED", "message": "pairing required", "details": details });
        peer.refuse(&connect, error).await;
        peer.close(1008, "pairing required").await;
    })
    .await;
    let error = Client::connect(&target, &Options::operator()).await.unwrap_err();
    assert_eq!(error.pairing_request(), Some("r-1"));
    assert!(error.advice().unwrap().ends_with("moltbotctl devices approve r-1"));
}

#[tokio::test]
async fn a_close_during_a_call_names_code_and_reason() {
    let target = gateway(|mut peer| async move {
        peer.welcome().await;
        peer.receive().await;
        peer.close(1012, "service restart").await;
    })
    .await;
    let client = connect(&target).await;
    let error = client.call_raw("health", json!({})).await.unwrap_err();
    assert_eq!(error.to_string(), "gateway closed the connection (1012 service restart)");
    let later = client.call_raw("health", json!({})).await.unwrap_err();
    assert!(matches!(later, Error::Closed(closed) if closed.code == 1012));
}

#[tokio::test]
async fn a_gateway_that_never_answers_times_out() {
    let target = gateway(|mut peer| async move {
        peer.welcome().await;
        peer.receive().await;
        std::future::pending::<()>().await;
    })
    .await;
    let client = connect(&target).await;
    let patience = Duration::from_millis(50);
    let error = client.call_within("health", json!({}), patience).await.unwrap_err();
    assert_eq!(error.to_string(), "gateway timeout after 50 ms");
}

#[tokio::test]
async fn events_before_the_first_subscription_are_heard() {
    let target = gateway(|mut peer| async move {
        peer.welcome().await;
        peer.send(json!({ "type": "event", "event": "tick", "payload": { "ts": 1 }, "seq": 4 }))
            .await;
        peer.receive().await;
    })
    .await;
    let client = connect(&target).await;
    let pushed = client.events().recv().await.unwrap();
    assert_eq!((pushed.event.as_str(), pushed.seq), ("tick", Some(4)));
}

#[tokio::test]
async fn a_gateway_of_another_protocol_is_told_apart() {
    let target = gateway(|mut peer| async move {
        peer.challenge().await;
        let connect = peer.receive().await;
        let details = json!({ "expectedProtocol": 9 });
        let message = "protocol mismatch";
        let error = json!({ "code": "INVALID_REQUEST", "message": message, "details": details });
        peer.refuse(&connect, error).await;
        peer.receive().await;
    })
    .await;
    let error = Client::connect(&target, &Options::operator()).await.unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.advice().unwrap().contains("speaks version 3"), "{:?}", error.advice());
}

#[tokio::test]
async fn what_is_no_websocket_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        stream.try_write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap();
        std::future::pending::<()>().await;
    });
    let error = Client::connect(&target(&url), &Options::operator()).await.unwrap_err();
    assert!(
        error.to_string().ends_with("answers, but is no gateway: HTTP status 404 Not Found"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 4);
}
