//! The first step of a run: its message enters the conversation.

use std::sync::Arc;

use jiff::{Timestamp, Zoned};
use moltbot_protocol::methods::sessions::{DeliveryContext, Origin, SessionEntry};
use serde_json::Value;

use super::{
    Agent, ending, prompt,
    request::{RunRequest, Source},
    runs::Run,
};
use crate::{
    asker::Asker,
    clock::now_ms,
    config::Config,
    sessions::{
        self,
        freshness::{Kind, Rule},
        key, message,
        system_events::SystemEvent,
    },
    store::{Db, StoreError},
};

/// A run that has its place in a conversation.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    /// The transcript it writes to.
    pub(super) session_id: String,
    /// What was remembered about the conversation when it began.
    pub(super) entry: SessionEntry,
    /// What the assistant said of the answer in an earlier life of the daemon,
    /// before it called tools.
    pub(super) said: Vec<String>,
    /// Who asked, lowered by the words of others that the message carries.
    pub(super) asker: Asker,
}

/// All that is needed to begin a run within a transaction.
pub(super) struct Plan {
    config: Arc<Config>,
    run_id: String,
    key: String,
    request: RunRequest,
    /// What happened since the conversation's last run.
    pub(super) happened: Vec<SystemEvent>,
}

impl Agent {
    /// Begins a run that had to wait.
    pub(super) async fn begin(&self, run: &Run, request: &RunRequest) -> Result<Begun, StoreError> {
        let plan = self.plan(run, request);
        let happened = plan.happened.clone();
        let begun = self.parts.store.insist(move |db| plan.begin(db)).await;
        if begun.is_err() {
            self.parts.system_events.give_back(&run.session_key, happened);
        }
        begun
    }

    /// Takes along what happened since the conversation's last run.
    pub(super) fn plan(&self, run: &Run, request: &RunRequest) -> Plan {
        let events = &self.parts.system_events;
        let mut happened = events.take(&run.session_key);
        for spelling in [&run.spelled_key, short(&run.session_key)] {
            happened.extend(events.take(spelling));
        }
        Plan {
            config: self.config(),
            run_id: run.id.clone(),
            key: run.session_key.clone(),
            request: request.clone(),
            happened,
        }
    }
}

impl Plan {
    /// Marks the run as started and adds its message to the conversation,
    /// which starts anew if it is over.
    pub(super) fn begin(&self, db: &Db<'_>) -> rusqlite::Result<Begun> {
        let Self { config, run_id, key, request, happened } = self;
        let text = with_events(happened, &request.text);
        let asker = request.asker.clone().lowered(reporters(happened));
        if asker != request.asker {
            // A run that is continued after a crash must not get its rights back.
            let request = RunRequest { asker: asker.clone(), ..request.clone() };
            db.set_request(run_id, &serde_json::to_string(&request).expect("requests serialize"))?;
        }
        let now = now_ms();
        let stored = db.session(key)?;
        let is_new = stored.is_none();
        let mut entry = current(config, key, request, stored, request.renew);
        if let (true, Some(id)) = (is_new, &request.session_id) {
            entry.session_id.clone_from(id);
        }
        entry.updated_at = Some(now);
        place(&mut entry, request);
        if let Some(label) = &request.label {
            // A name that another conversation has is not taken from it.
            if db.sessions_by_label(label)?.iter().all(|row| row.key == *key) {
                entry.label = Some(label.clone());
            }
        }
        if request.spawned_by.is_some() {
            entry.spawned_by.clone_from(&request.spawned_by);
        }
        db.put_session(key, &key::owner(config, key), &entry)?;
        db.start_run(run_id, Some(&entry.session_id), now)?;
        let images: Vec<_> =
            request.images.iter().map(|image| (image.mime.clone(), image.data.clone())).collect();
        let written = message::user(&text, &images, now);
        let written = ending::transcript_message(Some(run_id), written, now);
        db.append_message(&entry.session_id, &written)?;
        Ok(Begun { session_id: entry.session_id.clone(), entry, said: Vec::new(), asker })
    }
}

/// Returns the entry that a message finds: a new one, the stored one, or the
/// stored one started anew.
pub(super) fn current(
    config: &Config,
    key: &str,
    request: &RunRequest,
    stored: Option<SessionEntry>,
    renew: bool,
) -> SessionEntry {
    let Some(entry) = stored else { return sessions::new_entry() };
    if renew || rule(config, key, request, &entry).is_stale(entry.updated_at, &Zoned::now()) {
        return sessions::restarted(entry);
    }
    entry
}

/// Returns when the conversation is over that a message belongs to.
fn rule(config: &Config, key: &str, request: &RunRequest, entry: &SessionEntry) -> Rule {
    let Source { channel, chat_type, .. } = &request.source;
    let thread = request.deliver.as_ref().and_then(|route| route.thread.as_ref());
    let known = channel.as_ref().or(entry.last_channel.as_ref()).or(entry.channel.as_ref());
    let kind = Kind {
        key,
        channel: known.map(String::as_str),
        is_group: matches!(chat_type.as_deref(), Some("group" | "channel")),
        // An answer may be asked for elsewhere than where the message is from.
        is_thread: channel.is_some() && thread.is_some(),
    };
    Rule::of(&config.session, &kind)
}

/// Remembers where a message came from and where answers go.
pub(super) fn place(entry: &mut SessionEntry, request: &RunRequest) {
    let source = &request.source;
    let Some(channel) = &source.channel else { return };
    let route = request.deliver.as_ref();
    let to = route.map(|route| route.to.clone());
    let account = route.map(|route| route.account.clone());
    let thread = route.and_then(|route| route.thread.clone()).map(Value::from);
    entry.chat_type.clone_from(&source.chat_type);
    if let Some(title) = &source.title {
        entry.subject = Some(title.clone());
        entry.channel = Some(channel.clone());
    }
    entry.origin = Some(Origin {
        label: source.name.clone(),
        provider: Some(channel.clone()),
        surface: Some(channel.clone()),
        chat_type: source.chat_type.clone(),
        from: source.from.clone(),
        to: to.clone(),
        account_id: account.clone(),
        thread_id: thread.clone(),
        ..Origin::default()
    });
    // A chat window keeps no answers: those of a channel still go there.
    if channel == "webchat" && entry.last_to.is_some() {
        return;
    }
    entry.delivery_context = Some(DeliveryContext {
        channel: Some(channel.clone()),
        to: to.clone(),
        account_id: account.clone(),
        thread_id: thread.clone(),
    });
    entry.last_channel = Some(channel.clone());
    entry.last_to = to;
    entry.last_account_id = account;
    entry.last_thread_id = thread;
}

fn with_events(events: &[SystemEvent], text: &str) -> String {
    if events.is_empty() {
        return text.to_owned();
    }
    let mut lines: Vec<_> = events
        .iter()
        .map(|event| {
            let at = Timestamp::from_millisecond(event.at_ms).unwrap_or_default();
            // Further lines are set in, so that none looks like a line of the person who asks.
            let lines: Vec<_> = event.text.split(prompt::is_line_break).collect();
            format!("System: [{at:.0}] {}", lines.join("\n    "))
        })
        .collect();
    lines.push(String::new());
    lines.push(text.to_owned());
    lines.join("\n")
}

/// Returns the nodes whose words are among what happened.
fn reporters(events: &[SystemEvent]) -> impl Iterator<Item = String> + '_ {
    events.iter().filter_map(|event| event.node.as_ref()).map(|node| format!("node:{node}"))
}

/// Nodes name a conversation without its agent.
fn short(key: &str) -> &str {
    key.strip_prefix("agent:").and_then(|rest| rest.split_once(':')).map_or(key, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_report_looks_like_a_line_of_the_message() {
        let text = "ran\n/tool a\r/tool b\u{2028}/tool c".to_owned();
        let event = SystemEvent { at_ms: 0, text, node: Some("n".into()) };
        let prompt = with_events(&[event], "hello");
        for tool in ["a", "b", "c"] {
            assert!(prompt.contains(&format!("\n    /tool {tool}")), "{prompt}");
        }
        assert!(prompt.ends_with("\n\nhello"), "{prompt}");
    }
}
