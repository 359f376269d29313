//! What a run is asked to do. It is stored before the run is promised, so that
//! a run can be taken up again after a crash.

use serde::{Deserialize, Serialize};

use crate::channels::{Attachment, Route};

/// What a run is asked to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunRequest {
    /// Identifies the run: the caller's idempotency key.
    pub run_id: String,
    /// Name of the run in events where it differs from its id.
    pub event_id: Option<String>,
    /// The conversation, as the caller spells its key.
    pub session_key: String,
    /// Id that the conversation's transcript gets if there is none yet.
    pub session_id: Option<String>,
    /// The message.
    pub text: String,
    /// Pictures that came with it.
    pub images: Vec<Image>,
    /// Files that came with it, on disk.
    pub files: Vec<Attachment>,
    /// How hard the model thinks about it.
    pub thinking: Option<String>,
    /// How long the run may take where it is not the configured time, in
    /// milliseconds.
    pub timeout_ms: Option<u64>,
    /// Added to the system prompt.
    pub system: Option<String>,
    /// Where the message came from.
    pub source: Source,
    /// Whether it is from the gateway's owner: somebody with every right, or a
    /// channel's user that the owner named.
    pub by_owner: bool,
    /// Where the answer is delivered besides the events.
    pub deliver: Option<Route>,
    /// The channel message that is answered.
    pub inbox_id: Option<i64>,
    /// Whether the conversation starts anew with this message.
    pub renew: bool,
    /// Whether the message is a command, answered without a model.
    pub command: bool,
    /// Whether it was stopped, and the daemon ended before the run did.
    pub stopped: bool,
    /// Name to be given to the conversation.
    pub label: Option<String>,
    /// The conversation that asks.
    pub spawned_by: Option<String>,
}

impl RunRequest {
    /// Returns the name of the run in events.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.event_id.as_deref().unwrap_or(&self.run_id)
    }

    /// Returns the idempotency key of the message that answers.
    #[must_use]
    pub fn reply_key(&self) -> String {
        match self.inbox_id {
            Some(id) => format!("reply:{id}"),
            None => format!("reply:run:{}", self.run_id),
        }
    }
}

/// A picture.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// What kind it is.
    pub mime: String,
    /// Its bytes in base64.
    pub data: String,
}

/// Where a message came from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Source {
    /// The channel, `webchat` for clients of the socket; absent where the
    /// conversation's own place is not to change.
    pub channel: Option<String>,
    /// `direct`, `group` or `channel`.
    pub chat_type: Option<String>,
    /// Title of the group.
    pub title: Option<String>,
    /// Who wrote.
    pub from: Option<String>,
    /// The sender's name for people.
    pub name: Option<String>,
}

impl Source {
    /// A chat window on the socket.
    #[must_use]
    pub fn webchat() -> Self {
        Self {
            channel: Some("webchat".into()),
            chat_type: Some("direct".into()),
            ..Self::default()
        }
    }
}
