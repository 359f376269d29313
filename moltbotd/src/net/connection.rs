//! One client, from its hello to its last byte.

use std::{
    collections::VecDeque,
    io,
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

use super::{
    Shared,
    frames::Violation,
    liveness::Silence,
    wire::{Reader, Said, Socket, Writer},
};
use crate::{
    auth::Caller,
    bus::{Close, Outbox, Outgoing},
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
/// How long the last answers and events may take to leave when the daemon stops.
const LAST_WORDS: Duration = Duration::from_secs(4);
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
    let Client { caller, outbox, .. } = &calls.client;
    let heartbeat = writer.heartbeat();
    let end = tokio::select! {
        end = read(&mut reader, &calls) => end,
        end = write(&mut writer, outbox) => end,
        silence = heartbeat.lost() => End::Lost(silence),
        // A writer blocked on a full socket does not look at the queue.
        close = outbox.closed() => End::SentAway(close),
        close = outlast(outbox) => End::SentAway(close),
    };

    // Before the farewell, which may take a moment: unread answers are forgotten
    // and calls to a node fail.
    depart(&calls.shared, caller, outbox);
    let dropped = &calls.shared.dropped;
    match end {
        End::Gone => {}
        End::Left(code) => acknowledge(&mut writer, code).await,
        End::SentAway(close) => {
            dropped.count_close(&close);
            goodbye(&mut reader, &mut writer, &close).await;
        }
        End::Violated(violation) => {
            dropped.count(violation.reason());
            tracing::info!(conn = caller.conn_id, %violation, "connection ended");
            expel(&mut reader, &mut writer, violation).await;
        }
        End::Lost(silence) => {
            dropped.count(silence.reason());
            tracing::info!(conn = caller.conn_id, ?silence, "client is gone");
            goodbye(&mut reader, &mut writer, &silence.close()).await;
        }
    }
}

/// Waits until a client that is being sent away has had its time to read what
/// is still queued for it: those who do not read must not delay a stop.
async fn outlast(outbox: &Outbox) -> Close {
    let close = outbox.ending().await;
    tokio::time::sleep(LAST_WORDS).await;
    close
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
    /// The peer said goodbye, with its code if it had one.
    Left(Option<u16>),
    /// We say goodbye.
    SentAway(Close),
    /// The peer did not keep to the protocol or the limits.
    Violated(Violation),
    /// The peer gives no sign of life.
    Lost(Silence),
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
            Some(Ok(Said::Message(message))) => message,
            Some(Ok(Said::Goodbye(code))) => return End::Left(code),
            Some(Err(violation)) => return End::Violated(violation),
            None => return End::Gone,
        };
        // What the daemon does meanwhile is not the client's silence.
        reader.pause();
        if message.len() <= limits::INLINE_BYTES {
            calls.take(message.text(), permit);
            continue;
        }
        let turn = LARGE_FRAMES.acquire().await.expect("never closed");
        let calls = Arc::clone(calls);
        // A call that has begun goes on when its client leaves meanwhile.
        let taken = tokio::task::spawn_blocking(move || {
            calls.take(message.text(), permit);
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
        // The next call is not started before there is room for its answer too.
        let expected = (waits == Waits::ForDaemon)
            .then(|| outbox.expect(shared.router.expected_answer(&frame.method)));
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
            drop((permit, expected));
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
                if write_batch(writer, outbox, frames.drain(..)).await.is_err() {
                    return End::Gone;
                }
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

/// Writes frames and gives back their memory and their room in the queue.
async fn write_batch<S: Socket>(
    writer: &mut Writer<S>,
    outbox: &Outbox,
    frames: impl Iterator<Item = Outgoing>,
) -> io::Result<()> {
    let (mut texts, mut charges) = (Vec::new(), Vec::new());
    let (mut bytes, mut answers) = (0, 0);
    for frame in frames {
        let (text, charge) = frame.into_parts();
        bytes += text.len();
        answers += if charge.is_some() { text.len() } else { 0 };
        texts.push(text);
        charges.extend(charge);
    }
    writer.send(texts).await?;
    drop(charges);
    outbox.written(bytes, answers);
    Ok(())
}

/// Answers a peer's goodbye.
pub(super) async fn acknowledge<S: Socket>(writer: &mut Writer<S>, code: Option<u16>) {
    let _ = timeout(CLOSE_GRACE, writer.answer_close(code)).await;
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
            reader.drain().await;
        }
    };
    let _ = timeout(CLOSE_GRACE, farewell).await;
}

/// Fails the connection of a peer that violated the protocol, RFC 6455 section
/// 7.1.7: it is told why, and no answer of it is waited for or understood.
pub(super) async fn expel<S: Socket>(
    reader: &mut Reader<S>,
    writer: &mut Writer<S>,
    violation: Violation,
) {
    let farewell = async {
        if writer.close(&violation.close()).await.is_ok() && writer.shutdown().await.is_ok() {
            reader.drain().await;
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
