//! What a run is asked to do. It is stored before the run is promised, so that
//! a run can be taken up again after a crash.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    asker::{Asker, AskerKind},
    channels::{Attachment, Route},
};

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
    /// Who asked.
    pub asker: Asker,
    /// What the asker wrote, without what the message quotes, forwards or carries besides:
    /// commands and calls written by hand are read from nothing else. Empty where nobody's words
    /// are known to be the asker's own.
    pub own_words: String,
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
    /// Reads a request from the store.
    ///
    /// Earlier versions knew only whether the owner asked. For a client that meant
    /// `operator.admin`, which still makes an owner; in a channel it meant everybody who was let
    /// in, and says no more today.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        let mut stored: Value = serde_json::from_str(text).ok()?;
        let fields = stored.as_object_mut()?;
        if !fields.contains_key("asker") {
            let trusted = fields.get("byOwner") == Some(&Value::Bool(true));
            let in_channel = fields.get("inboxId").is_some_and(|id| !id.is_null());
            let kind = match (trusted, in_channel) {
                (true, false) => AskerKind::Owner,
                (true, true) => AskerKind::Admitted,
                (false, _) => AskerKind::Stranger,
            };
            fields.insert("asker".into(), json!(Asker::new(kind, "before the upgrade")));
        }
        serde_json::from_value(stored).ok()
    }

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
    /// The sender's handle, without `@`.
    pub username: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_an_earlier_version_keeps_no_more_rights_than_are_certain() {
        let kind = |stored: &str| RunRequest::from_stored(stored).unwrap().asker.kind;
        assert_eq!(kind(r#"{"runId":"a","byOwner":true,"inboxId":null}"#), AskerKind::Owner);
        assert_eq!(kind(r#"{"runId":"a","byOwner":true,"inboxId":3}"#), AskerKind::Admitted);
        assert_eq!(kind(r#"{"runId":"a","byOwner":false}"#), AskerKind::Stranger);
        assert_eq!(kind(r#"{"runId":"a"}"#), AskerKind::Stranger);
    }

    #[test]
    fn who_asked_survives_the_store() {
        let asker = Asker::new(AskerKind::Owner, "telegram:7").lowered(["telegram:8".to_owned()]);
        let request = RunRequest { asker, ..RunRequest::default() };
        let stored = serde_json::to_string(&request).unwrap();
        assert_eq!(RunRequest::from_stored(&stored).unwrap().asker, request.asker);
    }
}
