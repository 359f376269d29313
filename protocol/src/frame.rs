//! The three frames that cross the socket.
//!
//! Outgoing frames borrow what they carry and are serialized once; incoming
//! ones keep parameters and payloads as text until somebody knows their type.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{ErrorShape, limits};

/// A client's call, still holding its parameters as text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestFrame<'a> {
    /// Always `req`.
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    /// Chosen by the client; echoed in the response.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Name of the method.
    #[serde(borrow)]
    pub method: Cow<'a, str>,
    /// Parameters, parsed later by the method itself.
    #[serde(borrow, default)]
    pub params: Option<&'a RawValue>,
}

impl RequestFrame<'_> {
    /// Returns whether this is a request with an id and a method, which are
    /// repeated in answers and so are not too long either.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let fits = |text: &str, chars| !text.is_empty() && limits::cut(text, chars) == text;
        self.kind == "req"
            && fits(&self.id, limits::REQUEST_ID_CHARS)
            && fits(&self.method, limits::WORD_CHARS)
    }
}

/// The daemon's answer.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "res")]
pub struct ResponseFrame<'a, T> {
    /// Id of the request.
    pub id: &'a str,
    /// Whether the call succeeded.
    pub ok: bool,
    /// The result of a successful call; also part of a failed agent run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<T>,
    /// The reason of a failed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a ErrorShape>,
}

/// Something that happened, pushed to every client allowed to know.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "event", rename_all = "camelCase")]
pub struct EventFrame<'a, T> {
    /// Name of the event.
    pub event: &'a str,
    /// What happened.
    pub payload: &'a T,
    /// Position in the daemon's stream of events; absent on frames addressed
    /// to one client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Versions of the replicated state, on events that change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_version: Option<StateVersion>,
}

/// Counters that let a client discard an older copy of replicated state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StateVersion {
    /// Grows with every change of the presence list.
    pub presence: u64,
    /// Grows with every health refresh.
    pub health: u64,
}

/// A frame as a client reads it.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Incoming {
    /// An answer.
    Res {
        /// Id of the request.
        id: String,
        /// Whether the call succeeded.
        ok: bool,
        /// The result.
        #[serde(default)]
        payload: Option<serde_json::Value>,
        /// The reason of a failure.
        #[serde(default)]
        error: Option<ErrorShape>,
    },
    /// A pushed event.
    Event {
        /// Name of the event.
        event: String,
        /// What happened.
        #[serde(default)]
        payload: serde_json::Value,
        /// Position in the daemon's stream.
        #[serde(default)]
        seq: Option<u64>,
    },
}

/// A call as a client writes it.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "req")]
pub struct Outgoing<'a, P> {
    /// Chosen by the client.
    pub id: &'a str,
    /// Name of the method.
    pub method: &'a str,
    /// The parameters.
    pub params: P,
}
