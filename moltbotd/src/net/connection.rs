//! One client, from its hello to its last byte.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use moltbot_protocol::{Delivery, Text, frame::RequestFrame};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{Shared, guarded::Guarded};
use crate::{
    auth::Caller,
    bus::{Close, Outbox},
    methods::Context,
    rpc::violations,
};

/// Calls of one client that may be under way. At the limit it is not read from,
/// and TCP makes it wait.
const IN_FLIGHT: usize = 128;
/// How long a goodbye may take to leave, and the peer to answer it.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// A byte stream a client may come through.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

type Sink<'a, S> = SplitSink<&'a mut WebSocketStream<Guarded<S>>, Message>;
type Stream<'a, S> = SplitStream<&'a mut WebSocketStream<Guarded<S>>>;

/// Serves a client until it leaves or is sent away.
pub(super) async fn run<S: Socket>(
    socket: &mut WebSocketStream<Guarded<S>>,
    shared: &Shared,
    caller: &Arc<Caller>,
    outbox: &Arc<Outbox>,
) {
    let close = {
        let (mut sink, mut stream) = socket.split();
        tokio::select! {
            close = read(&mut stream, shared, caller, outbox) => close,
            close = write(&mut sink, outbox) => close,
            // A writer blocked on a full socket does not look at the queue.
            close = outbox.closed() => Some(close),
        }
    };
    if let Some(close) = close {
        goodbye(socket, &close).await;
    }
}

/// Turns incoming messages into calls. A client that does not read its answers
/// is not read from either.
async fn read<S: Socket>(
    stream: &mut Stream<'_, S>,
    shared: &Shared,
    caller: &Arc<Caller>,
    outbox: &Arc<Outbox>,
) -> Option<Close> {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        outbox.room().await;
        let permit = Arc::clone(&in_flight).acquire_owned().await.expect("never closed");
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(Error::Capacity(_))) => return Some(Close { code: 1009, reason: "".into() }),
            Some(Err(_)) | None => return None,
        };
        let text: &str = match &message {
            Message::Text(text) => text,
            // Some clients send the same text as a binary message.
            Message::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Message::Close(_) => return None,
            _ => continue,
        };
        let frame = match serde_json::from_str::<RequestFrame<'_>>(text) {
            Ok(frame) if frame.is_valid() => frame,
            _ => {
                answer_bad_frame(text, outbox);
                continue;
            }
        };
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
                // Methods have effects, so a call outlives its connection.
                shared.tasks.spawn(async move {
                    reply.await.deliver(&outbox);
                    drop(permit);
                });
            }
        }
    }
}

/// Writes what is queued, flushing once per batch, until the queue is finished
/// or the peer is gone.
async fn write<S: Socket>(sink: &mut Sink<'_, S>, outbox: &Outbox) -> Option<Close> {
    let mut frames = VecDeque::new();
    loop {
        if let Some(close) = outbox.take(&mut frames).await {
            return Some(close);
        }
        let mut bytes = 0;
        for frame in frames.drain(..) {
            bytes += frame.len();
            sink.feed(Message::Text(frame)).await.ok()?;
        }
        sink.flush().await.ok()?;
        outbox.written(bytes);
        // A burst would leave its room behind for as long as the client stays.
        frames.shrink_to(16);
    }
}

/// Says goodbye and waits a moment for the peer to have read it: closing a
/// socket with unread input would destroy what is still on the way.
pub(super) async fn goodbye<S: Socket>(socket: &mut WebSocketStream<Guarded<S>>, close: &Close) {
    if close.code == 0 {
        return;
    }
    let frame =
        CloseFrame { code: CloseCode::from(close.code), reason: close.reason.as_ref().into() };
    let farewell = async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
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
