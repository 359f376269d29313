//! Who is this: challenge, `connect`, and the hello or the refusal.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use moltbot_protocol::{
    ErrorCode, ErrorShape, PROTOCOL_VERSION, Text, events,
    frame::{RequestFrame, ResponseFrame},
    handshake::{
        CLOSE_REASON_BYTES, ConnectParams, Features, HelloOk, IssuedToken, Policy, ServerInfo,
        SessionDefaults, Snapshot,
    },
    limits::{self, Frames},
};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use uuid::Uuid;

use super::{
    Place, Shared, connection,
    connection::{Client, goodbye},
    wire::{Reader, Socket, Writer, is_too_much},
};
use crate::{
    auth::{Admitted, Caller, Ingress, Refusal},
    bus::{self, Close, Outbox},
    clock,
    rpc::{self, Rules},
};

/// How often clients hear that the daemon is alive.
pub(crate) const TICK: Duration = Duration::from_secs(30);

/// How a handshake failed: perhaps an answer, then a close frame.
struct Failed {
    /// Whether it was understood, and refused.
    refused: bool,
    answer: Option<Utf8Bytes>,
    code: u16,
    reason: String,
}

/// A peer that got in.
struct Login {
    request_id: String,
    params: ConnectParams,
    admitted: Admitted,
}

/// Takes a fresh socket through the handshake and, when the peer gets in,
/// serves it to its end.
pub(super) async fn run<S: Socket>(
    mut reader: Reader<S>,
    mut writer: Writer<S>,
    ingress: Ingress,
    shared: Shared,
    place: Place,
) {
    let deadline = place.deadline(&shared.gateway.config.get().gateway);
    let conn_id = Uuid::new_v4().to_string();
    let login = tokio::select! {
        () = shared.closing.cancelled() => {
            return goodbye(&mut reader, &mut writer, &Close::RESTART).await;
        }
        login = timeout_at(deadline, login(&mut reader, &mut writer, &ingress, &shared)) => login,
    };
    let handshakes = &shared.handshakes;
    match &login {
        Ok(Ok(Some(_))) => &handshakes.accepted,
        Ok(Ok(None)) => &handshakes.left,
        Ok(Err(failed)) if failed.refused => &handshakes.refused,
        Ok(Err(_)) => &handshakes.malformed,
        Err(_) => &handshakes.timed_out,
    }
    .one();
    match login {
        Ok(Ok(Some(login))) => {
            drop(place);
            welcome(reader, writer, conn_id, login, &shared, deadline).await;
        }
        Ok(Ok(None)) => {}
        Ok(Err(failed)) => refuse(&mut reader, &mut writer, failed).await,
        Err(_) => {
            let silence = Close { code: 1000, reason: "".into() };
            goodbye(&mut reader, &mut writer, &silence).await;
        }
    }
}

/// Returns `None` when the peer went away.
async fn login<S: Socket>(
    reader: &mut Reader<S>,
    writer: &mut Writer<S>,
    ingress: &Ingress,
    shared: &Shared,
) -> Result<Option<Login>, Failed> {
    let nonce = Uuid::new_v4().to_string();
    let challenge = events::system::ConnectChallenge { nonce: nonce.clone(), ts: clock::now_u64() };
    if writer.send([bus::addressed(&challenge)]).await.is_err() {
        return Ok(None);
    }
    let Some(text) = first_text(reader, writer).await? else { return Ok(None) };
    let (request_id, params) = connect_params(&text)?;
    match shared.gateway.auth.admit(&params, ingress, &nonce).await {
        Ok(admitted) => Ok(Some(Login { request_id, params, admitted })),
        Err(Refusal { error, code }) => {
            tracing::info!(
                client = %printable(&params.client.id),
                ip = ingress.reported_ip,
                reason = error.message,
                "connect refused"
            );
            Err(Failed::answered(&request_id, &error, code))
        }
    }
}

async fn first_text<S: Socket>(
    reader: &mut Reader<S>,
    writer: &mut Writer<S>,
) -> Result<Option<String>, Failed> {
    loop {
        let message = tokio::select! {
            message = reader.next() => message,
            () = writer.has_control() => {
                if writer.send_control().await.is_err() {
                    return Ok(None);
                }
                continue;
            }
        };
        match message {
            Some(Ok(Message::Text(text))) => return Ok(Some(text.to_string())),
            // Some clients send the same text as a binary message.
            Some(Ok(Message::Binary(bytes))) => {
                return String::from_utf8(bytes.into()).map(Some).map_err(|_| Failed::silent());
            }
            Some(Ok(Message::Close(_))) => {
                connection::acknowledge(reader, writer).await;
                return Ok(None);
            }
            Some(Ok(_)) => {}
            Some(Err(error)) if is_too_much(&error) => {
                return Err(Failed {
                    refused: false,
                    answer: None,
                    code: 1009,
                    reason: String::new(),
                });
            }
            Some(Err(_)) | None => return Ok(None),
        }
    }
}

fn connect_params(text: &str) -> Result<(String, ConnectParams), Failed> {
    if let Err(error) = rpc::measure(text, limits::JSON_BEFORE_LOGIN) {
        let reason = format!("invalid request frame: {error}");
        return Err(Failed { reason, ..Failed::bad_frame() });
    }
    let Ok(frame) = serde_json::from_str::<RequestFrame<'_>>(text) else {
        let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
        return Err(if is_json { Failed::bad_frame() } else { Failed::silent() });
    };
    if !frame.is_valid() {
        return Err(Failed::bad_frame());
    }
    let refuse = |message: String| {
        let error = ErrorShape::new(ErrorCode::InvalidRequest, message);
        Failed::answered(&frame.id, &error, 1008)
    };
    if frame.method != "connect" {
        return Err(refuse("invalid handshake: first request must be connect".into()));
    }
    let params = frame.params.map_or("null", |params| params.get());
    static RULES: LazyLock<Rules> = LazyLock::new(Rules::of::<ConnectParams>);
    if let Some(text) = RULES.violations(params) {
        return Err(refuse(format!("invalid connect params: {text}")));
    }
    let mut parsed: ConnectParams = serde_json::from_str(params)
        .map_err(|error| refuse(format!("invalid connect params: {error}")))?;
    parsed.cut();
    Ok((frame.id.into_owned(), parsed))
}

/// Attach first, then the snapshot, then the hello, then the stream: nothing
/// falls between snapshot and stream.
async fn welcome<S: Socket>(
    mut reader: Reader<S>,
    mut writer: Writer<S>,
    conn_id: String,
    login: Login,
    shared: &Shared,
    deadline: Instant,
) {
    let Login { request_id, params, admitted } = login;
    let caller = Arc::new(admitted.caller(&conn_id, &params));
    let gateway = &shared.gateway;
    // A client that finds no report takes the gateway for one that is not up
    // yet; where the store cannot be read there is none.
    let _ = timeout_at(deadline, gateway.health.first()).await;
    let limits = gateway.config.get().gateway.limits.clone();
    let offered = params.caps.iter().chain(&params.commands).flatten().map(Text::as_str);
    let frames = Frames::of(caller.role, &caller.scopes, offered, limits.max_payload);
    let outbox = Arc::new(Outbox::new(limits.max_buffered_bytes));
    gateway.attach(&caller, &outbox, &params);
    let text = hello_text(shared, &caller, &request_id, admitted.token, frames);
    reader.trust(frames.bytes);
    tracing::debug!(
        conn = conn_id,
        client = %printable(&caller.client.id),
        role = %caller.role,
        device = caller.device_id,
        "connected"
    );
    let sent = timeout_at(deadline, writer.send([text.into()])).await;
    if !matches!(sent, Ok(Ok(()))) {
        return connection::depart(shared, &caller, &outbox);
    }
    gateway.connected(&caller, &outbox).await;
    // On a task of its own: what the handshake needed would otherwise be kept
    // for as long as the client stays.
    let client = Client { caller, outbox, frames };
    shared.tasks.spawn(connection::serve(reader, writer, shared.clone(), client));
}

/// Returns the answer to `connect`.
fn hello_text(
    shared: &Shared,
    caller: &Caller,
    request_id: &str,
    token: Option<IssuedToken>,
    frames: Frames,
) -> String {
    let payload = Some(hello(shared, caller, token, frames));
    let frame = ResponseFrame { id: request_id, ok: true, payload, error: None };
    serde_json::to_string(&frame).expect("wire types serialize")
}

fn hello(shared: &Shared, caller: &Caller, token: Option<IssuedToken>, frames: Frames) -> HelloOk {
    let gateway = &shared.gateway;
    let config = gateway.config.get();
    let default_agent_id = config.agents.default_id();
    let scope = config.session.scope.clone().unwrap_or_else(|| "per-sender".to_owned());
    let main_session_key =
        if scope == "global" { scope.clone() } else { format!("agent:{default_agent_id}:main") };
    let health = gateway.health.last().and_then(|report| serde_json::to_value(report).ok());
    let limits = &config.gateway.limits;
    HelloOk {
        kind: "hello-ok".to_owned(),
        protocol: PROTOCOL_VERSION,
        server: ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("GIT_COMMIT").map(str::to_owned),
            host: Some(crate::presence::host_name()),
            conn_id: caller.conn_id.clone(),
        },
        features: Features {
            methods: shared.router.advertised().map(str::to_owned).collect(),
            events: events::NAMES.iter().map(|&name| name.to_owned()).collect(),
        },
        snapshot: Snapshot {
            presence: gateway.presence.list(),
            health: health.unwrap_or_else(|| json!({})),
            state_version: gateway.bus.version(),
            uptime_ms: u64::try_from(gateway.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            config_path: Some(gateway.paths.config_file.display().to_string()),
            state_dir: Some(gateway.paths.state_dir.display().to_string()),
            session_defaults: Some(SessionDefaults {
                default_agent_id,
                main_key: "main".to_owned(),
                main_session_key,
                scope,
            }),
        },
        canvas_host_url: None,
        auth: token,
        policy: Policy {
            max_payload: frames.bytes as u64,
            max_buffered_bytes: limits.max_buffered_bytes as u64,
            tick_interval_ms: u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX),
        },
    }
}

async fn refuse<S: Socket>(reader: &mut Reader<S>, writer: &mut Writer<S>, failed: Failed) {
    let Failed { answer, code, reason, .. } = failed;
    if let Some(text) = answer {
        // The peer may be gone; the close frame below finds out the same.
        let _ = timeout(connection::CLOSE_GRACE, writer.send([text])).await;
    }
    goodbye(reader, writer, &Close { code, reason: cut(&reason).to_owned().into() }).await;
}

impl Failed {
    fn silent() -> Self {
        Self { refused: false, answer: None, code: 1000, reason: String::new() }
    }

    fn bad_frame() -> Self {
        Self {
            refused: false,
            answer: None,
            code: 1008,
            reason: "invalid request frame".to_owned(),
        }
    }

    fn answered(id: &str, error: &ErrorShape, code: u16) -> Self {
        let frame = ResponseFrame::<()> { id, ok: false, payload: None, error: Some(error) };
        let text = serde_json::to_string(&frame).expect("wire types serialize");
        Self { refused: true, answer: Some(text.into()), code, reason: error.message.clone() }
    }
}

/// Cuts a close reason to what a close frame holds, between characters.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(CLOSE_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// Makes a peer's word fit for a log: one line, bounded.
fn printable(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let long = "é".repeat(100);
        assert_eq!(cut(&long).len(), 120);
        assert_eq!(cut("short"), "short");
        let odd = format!("x{}", "é".repeat(100));
        assert_eq!(cut(&odd).len(), 119);
    }
}
