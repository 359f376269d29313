//! What a channel must be able to do, and what it is given.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::{Attachment, InboundMessage, OutboundMessage, Peer, Route, inbox::Desk};
use crate::{
    config::{Config, Findings},
    paths::Paths,
};

/// A channel as the list of them knows it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its key in the configuration.
    pub id: &'static str,
    /// Short name.
    pub label: &'static str,
    /// Longer name.
    pub detail_label: &'static str,
    /// Name of a symbol.
    pub system_image: &'static str,
    /// What its owner does to set it up.
    pub setup: &'static str,
    /// Schema of its section.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Looks through its section.
    pub(super) check: fn(&Value, &mut Findings<'_>),
    /// Whether it is configured at all.
    pub(super) present: fn(&Config) -> bool,
    /// Reads the form of a recipient that people write.
    pub(super) target: fn(&str) -> Result<Target, String>,
    /// Reads its accounts.
    pub(super) accounts: fn(&Config, &Paths) -> Vec<Account>,
}

/// A recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Chat, in the channel's own form.
    pub to: String,
    /// Thread or topic within the chat.
    pub thread: Option<String>,
    /// The conversation it belongs to.
    pub peer: Peer,
}

/// An account as it is configured.
pub(super) struct Account {
    /// Its key in the configuration.
    pub(super) id: String,
    /// Whether it is to run.
    pub(super) enabled: bool,
    /// What runs it, or why nothing can.
    pub(super) driver: Result<Arc<dyn Driver>, String>,
    /// What somebody who wants to send is told while it is not configured.
    pub(super) lacks: Option<String>,
    /// What it was made from; another value means it must be started anew.
    pub(super) seed: Value,
    /// What `channels.status` shows beside its state.
    pub(super) facts: Map<String, Value>,
}

/// A running account's way in and out.
pub(super) trait Driver: Send + Sync + 'static {
    /// Receives until told to stop. An error is why it cannot go on; it is
    /// started again after a pause.
    fn receive<'a>(
        &'a self,
        desk: &'a Desk,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Fetches a file of a message and stores it.
    fn fetch<'a>(&'a self, file: &'a FileRef) -> BoxFuture<'a, Result<Attachment, FetchError>>;

    /// Cuts a message into parts. The first is plain text when it is to
    /// replace a draft. The same message always gives the same parts.
    fn parts(&self, message: &OutboundMessage, draft: bool) -> Vec<Part>;

    /// Sends a part; `repeated` puts a visible mark on it. Returns its id.
    fn send<'a>(
        &'a self,
        route: &'a Route,
        part: &'a Part,
        repeated: bool,
    ) -> BoxFuture<'a, Result<String, SendFailure>>;

    /// Replaces the text of a message that was sent.
    fn edit<'a>(
        &'a self,
        route: &'a Route,
        message_id: &'a str,
        part: &'a Part,
    ) -> BoxFuture<'a, Result<(), SendFailure>>;

    /// Shows that an answer is being written.
    fn typing<'a>(&'a self, route: &'a Route) -> BoxFuture<'a, ()>;

    /// How many new characters make a draft worth an edit; `None` when no
    /// drafts are shown.
    fn draft_step(&self) -> Option<usize>;

    /// Asks the service whether it knows the account.
    fn probe(&self, timeout: Duration) -> BoxFuture<'_, Value>;
}

/// A message in the outbox, and how it was cut.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outgoing {
    /// The message.
    #[serde(flatten)]
    pub(super) message: OutboundMessage,
    /// Its parts, once the first of several is about to be sent: what is left of
    /// them is sent as it was cut, whatever the settings have become.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Part>,
}

/// One message of the channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    /// Text in the channel's markup; a caption when there is a file.
    pub(super) rich: String,
    /// The same without markup.
    pub(super) plain: String,
    /// A file: path or http(s) address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media: Option<String>,
    /// Whether it is shown as an answer to the message of the route.
    pub(super) reply: bool,
}

/// Why a part was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SendFailure {
    /// It will never be accepted.
    Refused(String),
    /// The message to be edited is not there.
    Gone,
    /// It was certainly not sent and may be tried again.
    Later {
        /// What was wrong.
        reason: String,
        /// How long the service wants to be left alone.
        after: Option<Duration>,
    },
    /// Nobody knows whether it was sent.
    Unknown(String),
}

/// A message in the inbox, some files of which may still be with the service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pending {
    /// The message.
    #[serde(flatten)]
    pub(super) message: InboundMessage,
    /// What is to be fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) files: Vec<FileRef>,
    /// Messages of one album become one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) album: Option<String>,
}

/// A file that is with the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileRef {
    /// Its id there.
    pub(super) id: String,
    /// What it is.
    pub(super) mime: String,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file_name: Option<String>,
}

/// Why a file could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FetchError {
    /// It is larger than the settings allow; the text tells the sender.
    TooLarge(String),
    /// It cannot be had.
    Failed(String),
}

/// What an update comes to.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Nothing.
    Ignored,
    /// A message for the assistant.
    Message(Box<Pending>),
    /// A part of an album that does not say itself whether it is for the
    /// assistant: another part may.
    Held(Box<Pending>),
    /// A stranger, who may get a code.
    Stranger {
        /// Id of the sender.
        id: String,
        /// What is known of the sender.
        meta: Map<String, Value>,
        /// Where the code is sent.
        route: Route,
    },
    /// A text for the sender.
    Notice {
        /// Where it is sent.
        route: Route,
        /// What it says.
        text: String,
    },
}

/// An update with what it comes to.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// Its number in the channel.
    pub(super) update_id: i64,
    /// What it comes to.
    pub(super) outcome: Outcome,
}
