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
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::{
    Shared,
    admission::Permit,
    connection,
    connection::{Client, expel, goodbye},
    frames::Violation,
    metrics::Reason,
    wire::{Reader, Said, Socket, Writer},
};
use crate::{
    auth::{Admitted, Caller, Ingress, Refusal},
    bus::{self, Close},
    clock,
    rpc::{self, Rules},
};

/// How often clients hear that the daemon is alive.
pub(crate) const TICK: Duration = Duration::from_secs(30);

/// How a handshake failed.
enum Failed {
    /// The peer did not keep to the WebSocket protocol.
    Violated(Violation),
    /// What it said is no login, or one that is refused.
    Refused(Refused),
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Perhaps an answer, then a close frame.
struct Refused {
    /// Whether it was understood, and refused.
    understood: bool,
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
    permit: Permit,
) {
    let deadline = permit.deadline(&shared.gateway.config.get().gateway);
    let conn_id = Uuid::new_v4().to_string();
    let dropped = permit.dropped();
    let login = tokio::select! {
        () = shared.closing.cancelled() => {
            return goodbye(&mut reader, &mut writer, &Close::RESTART).await;
        }
        () = dropped.cancelled() => return displaced(&mut writer, &shared).await,
        login = timeout_at(deadline, login(&mut reader, &mut writer, &ingress, &shared, &permit))
            => login,
    };
    let handshakes = &shared.handshakes;
    match &login {
        Ok(Ok(Some(_))) => &handshakes.accepted,
        Ok(Ok(None)) => &handshakes.left,
        Ok(Err(Failed::Refused(it))) if it.understood => &handshakes.refused,
        Ok(Err(_)) => &handshakes.malformed,
        Err(_) => &handshakes.timed_out,
    }
    .one();
    let failed = match login {
        Ok(Ok(Some(login))) => {
            drop(permit);
            return welcome(reader, writer, conn_id, login, &shared, deadline).await;
        }
        Ok(Ok(None)) => return,
        Ok(Err(failed)) => Some(failed),
        Err(_) => None,
    };
    // What is left to do is a farewell, and nobody who comes waits for that.
    permit.set_busy(false);
    tokio::select! {
        () = dropped.cancelled() => {}
        () = send_away(&mut reader, &mut writer, failed, &shared) => {}
    }
}

/// Ends the connection of a peer that did not get in; without a failure it was
/// silent for too long.
async fn send_away<S: Socket>(
    reader: &mut Reader<S>,
    writer: &mut Writer<S>,
    failed: Option<Failed>,
    shared: &Shared,
) {
    match failed {
        Some(Failed::Refused(refused)) => refuse(reader, writer, refused).await,
        Some(Failed::Violated(violation)) => {
            shared.dropped.count(violation.reason());
            expel(reader, writer, violation).await;
        }
        None => goodbye(reader, writer, &Close { code: 1000, reason: "".into() }).await,
    }
}

/// Says why a silent peer has to make room, without waiting for its answer:
/// its place has gone to another one already.
async fn displaced<S: Socket>(writer: &mut Writer<S>, shared: &Shared) {
    shared.dropped.count(Reason::Displaced);
    let close = Close { code: 1013, reason: "too many peers have not authenticated yet".into() };
    let _ = timeout(connection::CLOSE_GRACE, writer.close(&close)).await;
}

/// Returns `None` when the peer went away.
async fn login<S: Socket>(
    reader: &mut Reader<S>,
    writer: &mut Writer<S>,
    ingress: &Ingress,
    shared: &Shared,
    permit: &Permit,
) -> Result<Option<Login>, Failed> {
    let nonce = Uuid::new_v4().to_string();
    let challenge = events::system::ConnectChallenge { nonce: nonce.clone(), ts: clock::now_u64() };
    if writer.send([bus::addressed(&challenge)]).await.is_err() {
        return Ok(None);
    }
    let Some(text) = first_text(reader, writer).await? else { return Ok(None) };
    // It has spoken: the decision is quick, and only a silent peer makes room for others.
    permit.set_busy(true);
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
            Err(Refused::answered(&request_id, &error, code).into())
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
            // Some clients send the same text as a binary message.
            Some(Ok(Said::Message(message))) => {
                return Ok(Some(message.text().to_owned()));
            }
            Some(Ok(Said::Goodbye(code))) => {
                connection::acknowledge(writer, code).await;
                return Ok(None);
            }
            Some(Err(violation)) => return Err(Failed::Violated(violation)),
            None => return Ok(None),
        }
    }
}

fn connect_params(text: &str) -> Result<(String, ConnectParams), Refused> {
    if let Err(error) = rpc::measure(text, limits::JSON_BEFORE_LOGIN) {
        let reason = format!("invalid request frame: {error}");
        return Err(Refused { reason, ..Refused::bad_frame() });
    }
    let Ok(frame) = serde_json::from_str::<RequestFrame<'_>>(text) else {
        let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
        return Err(if is_json { Refused::bad_frame() } else { Refused::silent() });
    };
    if !frame.is_valid() {
        return Err(Refused::bad_frame());
    }
    let refuse = |message: String| {
        let error = ErrorShape::new(ErrorCode::InvalidRequest, message);
        Refused::answered(&frame.id, &error, 1008)
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
    let outbox = gateway.bus.outbox(limits.max_buffered_bytes);
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

async fn refuse<S: Socket>(reader: &mut Reader<S>, writer: &mut Writer<S>, refused: Refused) {
    let Refused { answer, code, reason, .. } = refused;
    if let Some(text) = answer {
        // The peer may be gone; the close frame below finds out the same.
        let _ = timeout(connection::CLOSE_GRACE, writer.send([text])).await;
    }
    goodbye(reader, writer, &Close { code, reason: cut(&reason).to_owned().into() }).await;
}

impl Refused {
    fn silent() -> Self {
        Self { understood: false, answer: None, code: 1000, reason: String::new() }
    }

    fn bad_frame() -> Self {
        Self {
            understood: false,
            answer: None,
            code: 1008,
            reason: "invalid request frame".to_owned(),
        }
    }

    fn answered(id: &str, error: &ErrorShape, code: u16) -> Self {
        let frame = ResponseFrame::<()> { id, ok: false, payload: None, error: Some(error) };
        let text = serde_json::to_string(&frame).expect("wire types serialize");
        Self { understood: true, answer: Some(text.into()), code, reason: error.message.clone() }
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
