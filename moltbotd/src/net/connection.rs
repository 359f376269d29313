//! One client, from its hello to its last byte.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    task::{self, Poll, Waker},
    time::Duration,
};

use moltbot_protocol::{
    Delivery, Text, Waits,
    frame::RequestFrame,
    limits::{self, Frames},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{
    Shared,
    wire::{Reader, Socket, Writer, is_too_much},
};
use crate::{
    auth::Caller,
    bus::{Close, Outbox},
    methods::Context,
    rpc::{self, Error, Rules, TooComplex},
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

/// A client that was let in.
pub(super) struct Client {
    pub(super) caller: Arc<Caller>,
    pub(super) outbox: Arc<Outbox>,
    /// What it may send at once.
    pub(super) frames: Frames,
}

/// Serves a client until it leaves or is sent away.
pub(super) async fn serve<S: Socket>(
    mut reader: Reader<S>,
    mut writer: Writer<S>,
    shared: Shared,
    client: Client,
) {
    let calls = Arc::new(Calls::new(shared, client));
    let outbox = &calls.client.outbox;
    let end = tokio::select! {
        end = read(&mut reader, &calls) => end,
        end = write(&mut writer, outbox) => end,
        // A writer blocked on a full socket does not look at the queue.
        close = outbox.closed() => End::SentAway(close),
    };
    match end {
        End::Gone => {}
        End::Left => acknowledge(&mut reader, &mut writer).await,
        End::SentAway(close) => goodbye(&mut reader, &mut writer, &close).await,
    }
    depart(&calls.shared, &calls.client.caller, outbox);
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

/// Large frames that are read at once. Each takes a core for some milliseconds,
/// and the runtime must get its share of them; further ones wait, with the
/// client that sent them.
static LARGE_FRAMES: Semaphore = Semaphore::const_new(2);

/// Turns incoming messages into calls. A client that does not read its answers
/// is not read from either.
async fn read<S: Socket>(reader: &mut Reader<S>, calls: &Arc<Calls>) -> End {
    loop {
        calls.client.outbox.room().await;
        let in_flight = Arc::clone(&calls.in_flight);
        let permit = in_flight.acquire_owned().await.expect("never closed");
        let message = match reader.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) if is_too_much(&error) => {
                return End::SentAway(Close { code: 1009, reason: "".into() });
            }
            Some(Err(_)) | None => return End::Gone,
        };
        let text = match message {
            Message::Text(text) => text,
            // Some clients send the same text as a binary message.
            Message::Binary(bytes) => Utf8Bytes::try_from(bytes).unwrap_or_default(),
            Message::Close(_) => return End::Left,
            _ => continue,
        };
        if text.len() <= limits::INLINE_BYTES {
            calls.take(&text, permit);
            continue;
        }
        let turn = LARGE_FRAMES.acquire().await.expect("never closed");
        let calls = Arc::clone(calls);
        // A call that has begun goes on when its client leaves meanwhile.
        let taken = tokio::task::spawn_blocking(move || {
            calls.take(&text, permit);
            drop(turn);
        });
        if taken.await.is_err() {
            return End::Gone;
        }
    }
}

/// The calls of one client.
struct Calls {
    shared: Shared,
    client: Client,
    in_flight: Arc<Semaphore>,
    /// Bytes that are left for calls that wait for something outside.
    waiting: Arc<Semaphore>,
}

impl Calls {
    fn new(shared: Shared, client: Client) -> Self {
        Self {
            shared,
            client,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            waiting: Arc::new(Semaphore::new(WAITING_BYTES as usize)),
        }
    }

    /// Makes a call of a message, as far as it goes without waiting. Most
    /// methods answer without waiting: a task for them would cost more than
    /// they do.
    fn take(&self, text: &str, permit: OwnedSemaphorePermit) {
        let Self { shared, client, .. } = self;
        let outbox = &client.outbox;
        let complexity = rpc::measure(text, client.frames.json);
        let frame = match serde_json::from_str::<RequestFrame<'_>>(text) {
            Ok(frame) if frame.is_valid() => frame,
            _ => return answer_bad_frame(text, complexity, outbox),
        };
        if let Err(error) = complexity {
            let error = Error::invalid(format!("invalid request frame: {error}"));
            return shared.router.refuse(&frame, error).deliver(outbox);
        }

        let held = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let held = held.clamp(WAITING_CALL_BYTES, WAITING_BYTES);
        let waits = shared.router.waits(&frame.method);
        // Before the call begins: one that was half done could not be refused.
        if self.waiting.available_permits() < held as usize && waits != Waits::ForDaemon {
            return shared.router.refuse(&frame, too_many_wait()).deliver(outbox);
        }
        let cx = Context {
            gateway: Arc::clone(&shared.gateway),
            caller: Arc::clone(&client.caller),
            outbox: Arc::clone(outbox),
        };
        let mut reply = shared.router.dispatch(cx, &frame);
        // The task below asks again, in its own name.
        let mut nobody = task::Context::from_waker(Waker::noop());
        if let Poll::Ready(answer) = reply.as_mut().poll(&mut nobody) {
            return answer.deliver(outbox);
        }

        let permit = match waits {
            Waits::ForDaemon => permit,
            Waits::ForOthers | Waits::AsOnlooker => {
                // Never waits: a call dropped here would be half done. There was
                // room above, and only one message is taken at a time.
                Arc::clone(&self.waiting).try_acquire_many_owned(held).expect("there was room")
            }
        };
        let outbox = Arc::clone(outbox);
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
    #[schemars(length(max = limits::REQUEST_ID_CHARS))]
    id: Text,
    #[schemars(length(max = limits::WORD_CHARS))]
    method: Text,
    params: Option<Value>,
}

fn req(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "const": "req" })
}

/// Answers what is JSON but no request; what is not JSON is left unanswered,
/// because there is no id to answer to.
fn answer_bad_frame(text: &str, complexity: Result<(), TooComplex>, outbox: &Outbox) {
    static RULES: LazyLock<Rules> = LazyLock::new(Rules::of::<RequestShape>);
    let (id, wrong) = match complexity {
        // Nothing is built of it, not even to find its id.
        Err(error) => (None, Some(error.to_string())),
        Ok(()) => {
            let Ok(mut value) = serde_json::from_str::<Value>(text) else {
                tracing::debug!(bytes = text.len(), "not JSON; ignored");
                return;
            };
            (value.get_mut("id").map(Value::take), RULES.violations(text))
        }
    };
    let is_id = |id: &Value| match id {
        Value::String(id) => id.len() <= limits::REQUEST_ID_CHARS,
        Value::Array(_) | Value::Object(_) => false,
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    };
    let wrong = wrong.unwrap_or_else(|| "not a request".to_owned());
    let answer = json!({
        "type": "res",
        "id": id.filter(is_id).unwrap_or_else(|| "invalid".into()),
        "ok": false,
        "error": { "code": "INVALID_REQUEST", "message": format!("invalid request frame: {wrong}") },
    });
    outbox.push(answer.to_string().into(), Delivery::Answer);
}
