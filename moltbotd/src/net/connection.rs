//! One client, from its hello to its last byte.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use moltbot_protocol::{Delivery, Text, Waits, frame::RequestFrame};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Shared,
    wire::{Reader, Socket, Writer, is_too_much},
};
use crate::{
    auth::Caller,
    bus::{Close, Outbox},
    methods::Context,
    rpc::{Error, violations},
};

/// Calls of one client that the daemon may be working on. At the limit it is
/// not read from, and TCP makes it wait.
const IN_FLIGHT: usize = 128;
/// Bytes that the calls of one client may hold which wait for something outside
/// the daemon. They would keep its other calls waiting if they counted above;
/// what goes beyond is refused.
const WAITING_BYTES: u32 = 64 * 1024 * 1024;
/// What a waiting call counts for at least, so that there are 1024 at most.
const WAITING_CALL_BYTES: u32 = 64 * 1024;
/// How long a goodbye may take to leave, and the peer to answer it.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Serves a client until it leaves or is sent away.
pub(super) async fn serve<S: Socket>(
    mut reader: Reader<S>,
    mut writer: Writer<S>,
    shared: Shared,
    caller: Arc<Caller>,
    outbox: Arc<Outbox>,
) {
    let end = tokio::select! {
        end = read(&mut reader, &shared, &caller, &outbox) => end,
        end = write(&mut writer, &outbox) => end,
        // A writer blocked on a full socket does not look at the queue.
        close = outbox.closed() => End::SentAway(close),
    };
    match end {
        End::Gone => {}
        End::Left => acknowledge(&mut reader, &mut writer).await,
        End::SentAway(close) => goodbye(&mut reader, &mut writer, &close).await,
    }
    depart(&shared, &caller, &outbox);
}

/// Forgets a client.
pub(super) fn depart(shared: &Shared, caller: &Caller, outbox: &Outbox) {
    outbox.close(Close::GONE);
    shared.gateway.bus.detach(&caller.conn_id);
    shared.gateway.disconnected(caller);
    tracing::debug!(conn = caller.conn_id, "disconnected");
}

/// How a connection ended.
enum End {
    /// The peer vanished.
    Gone,
    /// The peer said goodbye.
    Left,
    /// We say goodbye.
    SentAway(Close),
}

/// Turns incoming messages into calls. A client that does not read its answers
/// is not read from either.
async fn read<S: Socket>(
    reader: &mut Reader<S>,
    shared: &Shared,
    caller: &Arc<Caller>,
    outbox: &Arc<Outbox>,
) -> End {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    let waiting = Arc::new(Semaphore::new(WAITING_BYTES as usize));
    loop {
        outbox.room().await;
        let permit = Arc::clone(&in_flight).acquire_owned().await.expect("never closed");
        let message = match reader.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) if is_too_much(&error) => {
                return End::SentAway(Close { code: 1009, reason: "".into() });
            }
            Some(Err(_)) | None => return End::Gone,
        };
        let text: &str = match &message {
            Message::Text(text) => text,
            // Some clients send the same text as a binary message.
            Message::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Message::Close(_) => return End::Left,
            _ => continue,
        };
        let frame = match serde_json::from_str::<RequestFrame<'_>>(text) {
            Ok(frame) if frame.is_valid() => frame,
            _ => {
                answer_bad_frame(text, outbox);
                continue;
            }
        };
        let held = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let held = held.clamp(WAITING_CALL_BYTES, WAITING_BYTES);
        // Before the call begins: one that was half done could not be refused.
        if waiting.available_permits() < held as usize
            && shared.router.waits(&frame.method) != Waits::ForDaemon
        {
            shared.router.refuse(&frame, too_many_wait()).deliver(outbox);
            continue;
        }
        let cx = Context {
            gateway: Arc::clone(&shared.gateway),
            caller: Arc::clone(caller),
            outbox: Arc::clone(outbox),
        };
        let mut reply = shared.router.dispatch(cx, &frame);
        // Most methods answer without waiting: a task for them would cost more
        // than they do.
        match poll_fn(|cx| Poll::Ready(reply.as_mut().poll(cx))).await {
            Poll::Ready(answer) => answer.deliver(outbox),
            Poll::Pending => {
                let outbox = Arc::clone(outbox);
                let waits = shared.router.waits(&frame.method);
                let permit = match waits {
                    Waits::ForDaemon => permit,
                    Waits::ForOthers | Waits::AsOnlooker => {
                        // Never waits: a call dropped here would be half done. There was
                        // room above, and only this task takes any.
                        Arc::clone(&waiting).try_acquire_many_owned(held).expect("there was room")
                    }
                };
                shared.tasks.spawn(async move {
                    // Methods have effects, so a call outlives its connection.
                    tokio::select! {
                        answer = reply => answer.deliver(&outbox),
                        _ = outbox.closed(), if waits == Waits::AsOnlooker => {}
                    }
                    drop(permit);
                });
            }
        }
    }
}

fn too_many_wait() -> Error {
    Error::Busy(
        "too many calls of this connection wait for something outside the gateway; repeat this \
         one when some are answered, or use another connection"
            .into(),
    )
}

/// Writes what is queued, in batches, until the queue is finished or the peer
/// is gone.
async fn write<S: Socket>(writer: &mut Writer<S>, outbox: &Outbox) -> End {
    let mut frames = VecDeque::new();
    loop {
        tokio::select! {
            close = outbox.take(&mut frames) => {
                if let Some(close) = close {
                    return End::SentAway(close);
                }
                let bytes = frames.iter().map(|frame| frame.len()).sum();
                if writer.send(frames.drain(..)).await.is_err() {
                    return End::Gone;
                }
                outbox.written(bytes);
                // A burst would leave its room behind for as long as the client stays.
                frames.shrink_to(4);
            }
            () = writer.has_control() => {
                if writer.send_control().await.is_err() {
                    return End::Gone;
                }
            }
        }
    }
}

/// Answers a peer's goodbye.
pub(super) async fn acknowledge<S: Socket>(reader: &mut Reader<S>, writer: &mut Writer<S>) {
    // Reading on makes the library hand out its answer, and then end.
    let farewell = async {
        let _ = reader.next().await;
        let _ = writer.send_control().await;
    };
    let _ = timeout(CLOSE_GRACE, farewell).await;
}

/// Says goodbye and waits a moment for the peer to have read it: closing a
/// socket with unread input would destroy what is still on the way.
pub(super) async fn goodbye<S: Socket>(
    reader: &mut Reader<S>,
    writer: &mut Writer<S>,
    close: &Close,
) {
    if close.code == 0 {
        return;
    }
    let farewell = async {
        if writer.close(close).await.is_ok() {
            while let Some(Ok(message)) = reader.next().await {
                if message.is_close() {
                    return;
                }
            }
        }
    };
    let _ = timeout(CLOSE_GRACE, farewell).await;
}

/// What a request must look like, to say what is wrong with one.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct RequestShape {
    #[schemars(schema_with = "req")]
    r#type: String,
    id: Text,
    method: Text,
    params: Option<Value>,
}

fn req(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "const": "req" })
}

/// Answers what is JSON but no request; what is not JSON is left unanswered,
/// because there is no id to answer to.
fn answer_bad_frame(text: &str, outbox: &Outbox) {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        tracing::debug!(bytes = text.len(), "not JSON; ignored");
        return;
    };
    let wrong = violations::<RequestShape>(text).unwrap_or_else(|| "not a request".to_owned());
    let answer = json!({
        "type": "res",
        "id": value.get("id").cloned().unwrap_or_else(|| "invalid".into()),
        "ok": false,
        "error": { "code": "INVALID_REQUEST", "message": format!("invalid request frame: {wrong}") },
    });
    outbox.push(answer.to_string().into(), Delivery::Answer);
}
