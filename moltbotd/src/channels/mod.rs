//! Messaging services. One folder each, and one line in the list of them.
//!
//! A channel turns what arrives into an [`InboundMessage`], which is committed
//! to the inbox before it goes on, and sends what is queued in the outbox. It
//! knows nothing of agents.

mod draft;
mod driver;
mod inbox;
mod outbox;
mod service;
mod state;
mod telegram;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

pub use self::{
    driver::{Entry, Target},
    service::{AccountFigures, Channels},
};
use crate::{
    config::Findings,
    store::{Db, Store},
};

/// Every channel the daemon knows.
pub const ALL: &[Entry] = &[telegram::ENTRY];

/// Key of the section that holds for all channels.
const DEFAULTS: &str = "defaults";

/// Looks through a channel's section of the configuration.
pub fn check(id: &str, section: &Value, findings: &mut Findings<'_>) {
    match ALL.iter().find(|entry| entry.id == id) {
        Some(entry) => (entry.check)(section, findings),
        None if id == DEFAULTS => {}
        None => {
            let served = served();
            findings.odd(format!("is no channel of this version, and is ignored; it has {served}"));
        }
    }
}

/// Says what is missing where a channel is named that is not there.
#[must_use]
pub fn missing(channel: &str) -> String {
    match ALL.iter().find(|entry| entry.id == channel) {
        Some(entry) => {
            format!("{channel}: {} is not set up on this gateway; {}", entry.label, entry.setup)
        }
        None => format!("{channel}: this version has no such channel; it has {}", served()),
    }
}

fn served() -> String {
    ALL.iter().map(|entry| entry.id).collect::<Vec<_>>().join(", ")
}

/// Messages on their way to the agent. Bounded: a full queue makes channels
/// wait, and what they read is in the inbox by then.
pub type InboundQueue = mpsc::Sender<Inbound>;

/// A message with its place in the inbox.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Row of the inbox; whoever handles the message marks it as done in the
    /// transaction that stores the outcome.
    pub inbox_id: i64,
    /// The message.
    pub message: InboundMessage,
}

/// A message that a channel's access rules let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InboundMessage {
    /// Where it came from and where the answer goes.
    pub route: Route,
    /// What kind of conversation it belongs to.
    pub peer: Peer,
    /// Who wrote it.
    pub sender: Sender,
    /// Its id in the channel.
    pub message_id: String,
    /// The text, without a leading mention of the assistant.
    pub text: String,
    /// What follows where the text begins with the assistant's name: words that
    /// act when they are said alone act there too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_name: Option<String>,
    /// The text of the message it answers, if any.
    pub quoted: Option<String>,
    /// Whether the text itself is not the sender's: it was forwarded, or written by a bot.
    #[serde(default)]
    pub forwarded: bool,
    /// Whose words the message carries besides the sender's, as ids in the channel. Absent in
    /// rows of earlier versions, which did not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<Vec<String>>,
    /// Messages of a group since the assistant's last answer, oldest first,
    /// each as `name: text`.
    #[serde(default)]
    pub context: Vec<String>,
    /// Pictures and files.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// Whether the sender may give commands.
    pub authorized: bool,
    /// When it was written, in milliseconds since the epoch.
    pub sent_at_ms: i64,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Id of the channel, for example `telegram`.
    pub channel: String,
    /// Account of the channel.
    pub account: String,
    /// Chat, in the channel's own form.
    pub to: String,
    /// Thread or topic within the chat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Message that is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
}

/// The conversation a message belongs to; session keys are made from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// What kind it is.
    pub kind: PeerKind,
    /// Its id: the sender's for a direct chat, else the group's, with
    /// `:topic:<id>` for a topic.
    pub id: String,
    /// Title of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

/// What kind of conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// With one person.
    Direct,
    /// With several.
    Group,
    /// Broadcast.
    Channel,
}

/// Who wrote a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sender {
    /// Id in the channel.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Handle, without `@`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// A picture or file, stored below the state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub mime: String,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
}

/// What is to be sent: the body of an outbox row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboundMessage {
    /// Where it goes.
    pub route: Route,
    /// The text, in Markdown.
    pub text: String,
    /// Pictures and files: paths or http(s) addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<String>,
}

/// A message the channel confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// Id of its last part.
    pub message_id: String,
    /// Chat it went to.
    pub chat_id: String,
}

/// Why a message could not be sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// No such channel is configured.
    #[error("unsupported channel: {}", missing(.0))]
    UnknownChannel(String),
    /// The channel refused it for good.
    #[error("{0}")]
    Refused(String),
    /// It is queued and will be tried again.
    #[error("{0}")]
    Delayed(String),
}

/// The way out, as the agent and the methods see it.
pub trait Outbound: Send + Sync + 'static {
    /// Tells the senders that committed rows wait in the outbox.
    fn wake(&self);

    /// Shows that an answer is being written. `key` is the idempotency key that
    /// the finished message will be queued under, so that it replaces the
    /// draft. Dropping the value ends the display.
    fn progress(&self, route: &Route, key: &str) -> Box<dyn Progress>;

    /// Queues a message durably and waits until the channel confirmed or
    /// refused it.
    fn send(&self, key: String, message: OutboundMessage) -> Sending;

    /// Returns whether a channel of this id is configured.
    fn has(&self, channel: &str) -> bool;
}

/// A message being sent.
pub type Sending = Pin<Box<dyn Future<Output = Result<Sent, SendError>> + Send>>;

/// A display of an answer that is being written.
pub trait Progress: Send {
    /// Shows the text so far; never waits, and may skip.
    fn update(&mut self, text: &str);
}

/// Writes until it is written: what a service sent or answered must not be
/// forgotten, and going on without would repeat it.
async fn persist(
    store: &Store,
    work: impl Fn(&Db<'_>) -> rusqlite::Result<()> + Send + Sync + 'static,
) {
    let work = Arc::new(work);
    loop {
        let again = Arc::clone(&work);
        match store.insist(move |db| again(db)).await {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, "cannot write to the inbox or the outbox"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
