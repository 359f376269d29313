//! The first exchange on a socket: the challenge, the introduction, the answer,
//! and which credentials are shown.

use std::time::Duration;

use moltbot_protocol::{
    PROTOCOL_VERSION, Role, Text,
    handshake::{ClientInfo, ConnectParams, Credentials},
};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite;

use crate::{
    address::{Address, WebAddress},
    client::{Options, now_ms},
    error::Error,
    frames::{self, Frame},
    identity::{Identity, Keyring},
    target::Target,
    tls::Fault,
    transport::{self, Socket},
};

/// How long the gateway may take to send its challenge, which comes before
/// anything else.
const CHALLENGE_WAIT: Duration = Duration::from_secs(5);

/// Tries the given credentials, or the device token this gateway issued when
/// there are none.
pub(crate) async fn connect(target: &Target, options: &Options) -> Result<(Socket, Value), Error> {
    check_plaintext(target, options)?;
    let identity = match &options.keyring {
        Some(keyring) => Some(keyring.identity().map_err(Error::Identity)?),
        None => None,
    };
    let gateway = target.address.key();
    let role = options.role.name();
    let mut credentials = Credentials {
        token: target.credentials.token.as_ref().map(|token| token.reveal().to_owned()),
        password: target.credentials.password.as_ref().map(|secret| secret.reveal().to_owned()),
        // Older gateways know no field of its own for a device token.
        ..Credentials::default()
    };
    let stored = match (&options.keyring, &identity) {
        (Some(keyring), Some(identity)) if credentials.token.is_none() => {
            keyring.token(&gateway, role, &identity.device_id())
        }
        _ => None,
    };
    credentials.token = credentials.token.or_else(|| stored.clone());
    let result = introduce(target, options, identity.as_ref(), credentials).await;
    if let Some(keyring) = &options.keyring {
        keep_token(keyring, &gateway, role, identity.as_ref(), stored.is_some(), &result);
    }
    result
}

/// A token file that cannot be written costs a later approval, not this command.
fn keep_token(
    keyring: &Keyring,
    gateway: &str,
    role: &str,
    identity: Option<&Identity>,
    stored_was_sent: bool,
    result: &Result<(Socket, Value), Error>,
) {
    match (result, identity) {
        (Ok((_, hello)), Some(identity)) => {
            if let Some(token) = hello.pointer("/auth/deviceToken").and_then(Value::as_str) {
                let _ = keyring.remember(gateway, role, &identity.device_id(), token);
            }
        }
        (Err(error), _) if stored_was_sent && error.is_unauthorized() => {
            let _ = keyring.forget(gateway, role);
        }
        _ => {}
    }
}

fn check_plaintext(target: &Target, options: &Options) -> Result<(), Error> {
    match &target.address {
        Address::Web(WebAddress { tls: false, .. })
            if !(options.insecure
                || target.address.is_loopback()
                || target.address.is_plain_tailnet()) =>
        {
            Err(Error::Plaintext(target.address.to_string()))
        }
        _ => Ok(()),
    }
}

async fn introduce(
    target: &Target,
    options: &Options,
    identity: Option<&Identity>,
    credentials: Credentials,
) -> Result<(Socket, Value), Error> {
    let url = target.address.to_string();
    let mut socket = transport::open(target, options.timeout)
        .await
        .map_err(|error| no_connection(&url, &error))?;
    let nonce = challenge(&mut socket, &url).await?;
    let mut params = params(options, credentials);
    if let Some(identity) = identity {
        identity.sign(&mut params, &nonce, now_ms());
    }
    let params = serde_json::to_value(params).expect("connect parameters serialize");
    frames::send(&mut socket, "connect", "connect", &params)
        .await
        .map_err(|error| Error::Closed(frames::how_it_ended(&error)))?;
    let hello = loop {
        let Frame::Answer { id, result } = frames::next_frame(&mut socket).await? else { continue };
        if id == "connect" {
            break result.map_err(|refusal| Error::Refused(Box::new(refusal)))?;
        }
    };
    Ok((socket, hello))
}

fn no_connection(url: &str, error: &tungstenite::Error) -> Error {
    if let Some(failure) = frames::ssh_failure(error) {
        return Error::Ssh(Box::new(failure.clone()));
    }
    if let Some(fault) = Fault::of(error) {
        return Error::Tls { url: url.into(), fault };
    }
    if let Some(stranger) = frames::cause(error) {
        return Error::Stranger { url: url.into(), stranger: *stranger };
    }
    if let Some(reason) = no_gateway(error) {
        return Error::NoGateway { url: url.into(), reason };
    }
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let absent = matches!(error, tungstenite::Error::Io(error)
        if matches!(error.kind(), ConnectionRefused | NotFound));
    let reason = match error {
        tungstenite::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    };
    Error::Connect { url: url.into(), reason, absent, start: None }
}

/// Returns what something that is no gateway said.
fn no_gateway(error: &tungstenite::Error) -> Option<String> {
    match error {
        tungstenite::Error::Http(response) => Some(format!("HTTP status {}", response.status())),
        tungstenite::Error::HttpFormat(_) => Some("its answer is no HTTP".into()),
        tungstenite::Error::Protocol(error) => Some(error.to_string()),
        _ => None,
    }
}

/// Waits for the nonce. Any program may speak WebSocket: until it is known that
/// this one is a gateway, it is told nothing.
async fn challenge(socket: &mut Socket, url: &str) -> Result<String, Error> {
    let stranger = || Error::NoGateway {
        url: url.into(),
        reason: "it speaks WebSocket, but sent no challenge".into(),
    };
    let deadline = Instant::now() + CHALLENGE_WAIT;
    loop {
        let frame = timeout_at(deadline, frames::next_frame(socket)).await;
        if let Frame::Event(pushed) = frame.map_err(|_| stranger())??
            && pushed.event == "connect.challenge"
        {
            let nonce = pushed.payload.get("nonce").and_then(Value::as_str).map(str::trim);
            let nonce = nonce.filter(|nonce| !nonce.is_empty());
            return nonce.map(ToOwned::to_owned).ok_or_else(stranger);
        }
    }
}

fn params(options: &Options, credentials: Credentials) -> ConnectParams {
    let text = |text: &str| Text::new(text).expect("constants and checked names are not empty");
    let node = options.role == Role::Node;
    let known = credentials.token.is_some() || credentials.password.is_some();
    ConnectParams {
        min_protocol: PROTOCOL_VERSION,
        max_protocol: PROTOCOL_VERSION,
        client: ClientInfo {
            id: text(options.id),
            display_name: options.display_name.as_deref().and_then(Text::new),
            version: text(env!("CARGO_PKG_VERSION")),
            platform: text(platform()),
            device_family: None,
            model_identifier: None,
            mode: text(options.mode),
            instance_id: Text::new(&options.instance_id),
        },
        caps: Some(options.caps.clone()),
        commands: node.then(|| options.commands.clone()),
        permissions: None,
        path_env: options.path_env.clone(),
        role: Some(text(options.role.name())),
        scopes: Some(options.scopes.0.iter().filter_map(Text::new).collect()),
        device: None,
        auth: known.then_some(credentials),
        locale: None,
        user_agent: None,
    }
}

/// The reference's names for operating systems.
fn platform() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}
