//! Frames as they come and go. What is not a frame of the protocol is skipped.

use std::collections::HashMap;

use futures_util::{SinkExt, StreamExt};
use moltbot_protocol::frame::Outgoing;
use serde_json::Value;
use tokio_tungstenite::tungstenite::{self, Message, protocol::CloseFrame};

use crate::{
    client::Pushed,
    error::{Closed, Error, Refusal},
    ssh,
    transport::Socket,
};

/// What a gateway sends.
pub(crate) enum Frame {
    Answer { id: String, result: Result<Value, Refusal> },
    Event(Pushed),
}

/// Returns `None` for whatever is not a frame of the protocol.
pub(crate) fn parse(message: Message) -> Option<Frame> {
    let mut frame: HashMap<String, Value> = match message {
        Message::Text(text) => serde_json::from_str(&text).ok()?,
        Message::Binary(bytes) => serde_json::from_slice(&bytes).ok()?,
        _ => return None,
    };
    let payload = frame.remove("payload");
    match frame.get("type")?.as_str()? {
        "event" => Some(Frame::Event(Pushed {
            event: frame.get("event")?.as_str()?.to_owned(),
            payload: payload.unwrap_or(Value::Null),
            seq: frame.get("seq").and_then(Value::as_u64),
        })),
        "res" => {
            let id = frame.get("id")?.as_str()?.to_owned();
            let result = match frame.get("ok") {
                Some(Value::Bool(true)) => Ok(payload.unwrap_or(Value::Null)),
                _ => Err(refusal(frame.get("error"), payload)),
            };
            Some(Frame::Answer { id, result })
        }
        _ => None,
    }
}

fn refusal(error: Option<&Value>, payload: Option<Value>) -> Refusal {
    let text = |key: &str| Some(error?.get(key)?.as_str()?.to_owned());
    Refusal {
        code: text("code").unwrap_or_else(|| "UNKNOWN".into()),
        message: text("message").unwrap_or_else(|| "the gateway refused without a reason".into()),
        details: error.and_then(|error| error.get("details")).cloned(),
        payload,
    }
}

/// Returns how a close frame ended the connection.
pub(crate) fn closed(frame: Option<CloseFrame>) -> Closed {
    frame.map_or_else(
        || Closed::with(1005, ""),
        |frame| Closed::with(frame.code.into(), frame.reason.to_string()),
    )
}

/// Returns how a failure ended the connection.
pub(crate) fn how_it_ended(error: &tungstenite::Error) -> Closed {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            Closed::abnormal("")
        }
        error => Closed {
            ssh: ssh_failure(error).cloned().map(Box::new),
            ..Closed::abnormal(error.to_string())
        },
    }
}

/// Returns how ssh failed, when that is what broke a socket.
pub(crate) fn ssh_failure(error: &tungstenite::Error) -> Option<&ssh::Failure> {
    cause(error)
}

/// Returns what an input or output error was made of.
pub(crate) fn cause<T: std::error::Error + 'static>(error: &tungstenite::Error) -> Option<&T> {
    match error {
        tungstenite::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// Sends a call.
pub(crate) async fn send(
    socket: &mut Socket,
    id: &str,
    method: &str,
    params: &Value,
) -> Result<(), tungstenite::Error> {
    let frame = serde_json::to_string(&Outgoing { id, method, params })
        .expect("strings and JSON values serialize");
    socket.send(Message::text(frame)).await
}
/// Waits for the next frame.
pub(crate) async fn next_frame(socket: &mut Socket) -> Result<Frame, Error> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => return Err(Error::Closed(closed(frame))),
            Some(Ok(message)) => {
                if let Some(frame) = parse(message) {
                    return Ok(frame);
                }
            }
            Some(Err(error)) => return Err(Error::Closed(how_it_ended(&error))),
            None => return Err(Error::Closed(Closed::abnormal(""))),
        }
    }
}
