//! Conversations: their keys, their settings, their transcripts.
//!
//! Nothing is kept in memory: a list reads as many rows as it shows, so that
//! ten thousand conversations cost nothing at start.

mod archive;
pub mod freshness;
pub mod key;
mod list;
pub mod message;
pub mod model;
mod patch;
pub mod policy;
mod preview;
pub mod system_events;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use moltbot_protocol::{
    Text,
    methods::{
        chat::History,
        sessions::{
            SessionDeleted, SessionEntry, SessionPatched, SessionPreview, SessionPreviews,
            SessionReset, SessionResolved, SessionsPatch, SessionsPreview, SessionsResolve,
        },
    },
};
use serde_json::Value;
use uuid::Uuid;

pub use self::patch::{thinking_level, verbose_level};
use crate::{
    channels::Route,
    clock::now_ms,
    config::{self, Config},
    providers::Models,
    rpc::{Error, Result},
    store::{Db, NewTranscriptMessage, Store, StoreError},
};

const PREVIEW_KEYS: usize = 64;
const PREVIEW_ITEMS: usize = 50;
const PREVIEW_CHARS: usize = 2000;
const PREVIEW_BYTES: usize = 1024 * 1024;
/// What clients of the reference are prepared to read as one answer.
const HISTORY_BYTES: usize = 6 * 1024 * 1024;
const HISTORY_MESSAGES: u64 = 200;

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The configuration in force.
    pub config: Arc<config::Live>,
    /// Where conversations are stored.
    pub store: Store,
    /// Which models there are.
    pub models: Arc<Models>,
    /// The file that clients are told.
    pub database: PathBuf,
    /// Where messages of deleted conversations are kept.
    pub archives: PathBuf,
}

/// The conversations.
#[derive(Clone, Debug)]
pub struct Sessions(Parts);

impl Sessions {
    /// Returns the conversations of a store.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(parts)
    }

    /// Returns the one spelling under which a conversation is stored.
    #[must_use]
    pub fn canonical(&self, key: &str) -> String {
        key::canonical(&self.config(), key)
    }

    /// Returns what is remembered about a conversation, by its stored key.
    pub async fn entry(&self, key: &str) -> Result<Option<SessionEntry>, StoreError> {
        let key = key.to_owned();
        self.0.store.read(move |db| db.session(&key)).await
    }

    /// Returns the last messages of conversations.
    pub async fn preview(&self, request: SessionsPreview) -> Result<SessionPreviews> {
        let limit = bounded(request.limit.unwrap_or(12), PREVIEW_ITEMS);
        let max_chars = bounded(request.max_chars.unwrap_or(240), PREVIEW_CHARS);
        let config = self.config();
        let keys: Vec<_> = request.keys.into_iter().take(PREVIEW_KEYS).collect();
        let previews = self
            .0
            .store
            .read(move |db| {
                let preview = |key: &Text| preview_of(db, &config, key, limit, max_chars);
                Ok(keys.iter().map(preview).collect())
            })
            .await?;
        Ok(SessionPreviews { ts: now_ms(), previews })
    }

    /// Finds the key of a conversation.
    pub async fn resolve(&self, request: SessionsResolve) -> Result<SessionResolved> {
        let given = [request.key.is_some(), request.session_id.is_some(), request.label.is_some()];
        match given.into_iter().filter(|&given| given).count() {
            0 => return Err(Error::invalid("Either key, sessionId, or label is required")),
            1 => {}
            _ => {
                let text = "Provide either key, sessionId, or label (not multiple)";
                return Err(Error::invalid(text));
            }
        }
        let config = self.config();
        let key = self.0.store.read(move |db| Ok(resolved(db, &config, &request))).await??;
        Ok(SessionResolved { ok: true, key })
    }

    /// Changes what is remembered about a conversation.
    pub async fn patch(&self, request: SessionsPatch) -> Result<SessionPatched> {
        let config = self.config();
        let key = required(&config, &request.key)?;
        let stored_key = key.clone();
        let entry = self
            .0
            .store
            .write(move |db| {
                let mut entry = db.session(&stored_key)?.unwrap_or_else(new_entry);
                if let Some(Some(label)) = &request.label
                    && db.sessions_by_label(label)?.iter().any(|row| row.key != stored_key)
                {
                    return Ok(Err(format!("label already in use: {label}")));
                }
                let agent = key::owner(&config, &stored_key);
                let default_model = model::default_model(&config, &agent);
                if let Err(text) = patch::apply(&stored_key, &mut entry, &request, &default_model) {
                    return Ok(Err(text));
                }
                entry.updated_at = Some(now_ms());
                db.put_session(&stored_key, &agent, &entry)?;
                Ok(Ok(entry))
            })
            .await?
            .map_err(Error::Invalid)?;
        Ok(SessionPatched { ok: true, path: self.path(), key, entry })
    }

    /// Starts a conversation anew under the same key.
    pub async fn reset(&self, key: &str) -> Result<SessionReset> {
        let config = self.config();
        let key = required(&config, key)?;
        let stored_key = key.clone();
        let entry = self
            .0
            .store
            .write(move |db| {
                let entry = renewed(db.session(&stored_key)?.unwrap_or_default());
                db.put_session(&stored_key, &key::owner(&config, &stored_key), &entry)?;
                Ok(entry)
            })
            .await?;
        Ok(SessionReset { ok: true, key, entry })
    }

    /// Forgets a conversation that nothing runs in. Its messages are moved to
    /// a file, or stay in the store when `keep` says so.
    pub async fn delete(&self, key: &str, keep: bool) -> Result<SessionDeleted> {
        let config = self.config();
        let key = required(&config, key)?;
        if key::is_main(&key) {
            return Err(Error::Invalid(format!("Cannot delete the main session ({key}).")));
        }
        let Some(entry) = self.entry(&key).await? else {
            return Ok(SessionDeleted { ok: true, key, deleted: false, archived: Vec::new() });
        };
        // The file is complete before the rows go: a crash in between leaves
        // both.
        let archived = if keep { None } else { self.archive(&key, &entry.session_id).await? };
        let (stored_key, session_id) = (key.clone(), entry.session_id);
        let deleted = self
            .0
            .store
            .write(move |db| {
                if !keep {
                    db.remove_transcript(&session_id)?;
                }
                db.remove_session(&stored_key)
            })
            .await?;
        Ok(SessionDeleted { ok: true, key, deleted, archived: archived.into_iter().collect() })
    }

    /// Returns the messages of a conversation, oldest first.
    pub async fn history(&self, key: &str, limit: Option<u64>) -> Result<History> {
        let limit = bounded(limit.unwrap_or(HISTORY_MESSAGES), 1000);
        let config = self.config();
        let stored_key = key::canonical(&config, key);
        let agent = key::owner(&config, &stored_key);
        let (entry, rows) = self
            .0
            .store
            .read(move |db| {
                let entry = db.session(&stored_key)?;
                let rows = match &entry {
                    Some(entry) => db.last_messages(&entry.session_id, limit, HISTORY_BYTES)?,
                    None => Vec::new(),
                };
                Ok((entry, rows))
            })
            .await?;
        let candidates = model::candidates(&config, &agent, entry.as_ref());
        let thinking_level = candidates.first().map_or_else(
            || "off".to_owned(),
            |model| model::thinking(&config, &self.0.models, entry.as_ref(), model),
        );
        Ok(History {
            session_key: key.to_owned(),
            session_id: entry.map(|entry| entry.session_id),
            messages: rows.into_iter().map(|row| shown(row.message)).collect(),
            thinking_level,
        })
    }

    /// Adds a message of the assistant that no model wrote; returns its id.
    pub async fn inject(&self, key: &str, message: Value) -> Result<String> {
        let key = self.canonical(key);
        let id = message::new_id();
        let message =
            NewTranscriptMessage { id: id.clone(), run_id: None, at_ms: now_ms(), message };
        let found = self
            .0
            .store
            .write(move |db| {
                let Some(entry) = db.session(&key)? else { return Ok(false) };
                db.append_message(&entry.session_id, &message)?;
                Ok(true)
            })
            .await?;
        if found { Ok(id) } else { Err(Error::invalid("session not found")) }
    }

    /// Adds a copy of a message that went out beside the conversation, which is
    /// begun if there is none.
    pub async fn mirror(&self, key: &str, text: &str) -> Result<()> {
        let key = self.canonical(key);
        let owner = key::owner(&self.config(), &key);
        let message = NewTranscriptMessage {
            id: message::new_id(),
            run_id: None,
            at_ms: now_ms(),
            message: message::mirrored(text, now_ms()),
        };
        self.0
            .store
            .write(move |db| {
                let entry = db.session(&key)?.unwrap_or_else(new_entry);
                db.put_session(&key, &owner, &entry)?;
                db.append_message(&entry.session_id, &message)
            })
            .await?;
        Ok(())
    }

    async fn archive(&self, key: &str, session_id: &str) -> Result<Option<String>> {
        let id = session_id.to_owned();
        let rows =
            self.0.store.read(move |db| db.last_messages(&id, usize::MAX, usize::MAX)).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let agent = key::agent_of(key).unwrap_or(key::MAIN);
        let agent: String =
            agent.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let folder = self.0.archives.join("agents").join(agent).join("sessions");
        let id = session_id.to_owned();
        let written = tokio::task::spawn_blocking(move || {
            archive::write(&folder, &id, &rows, Timestamp::now())
        })
        .await;
        match written {
            Ok(Ok(path)) => Ok(Some(path.display().to_string())),
            Ok(Err(error)) => Err(Error::Internal(error.into())),
            Err(error) => Err(Error::Internal(error.into())),
        }
    }

    fn path(&self) -> String {
        self.0.database.display().to_string()
    }

    fn config(&self) -> Arc<Config> {
        self.0.config.get()
    }
}

/// Returns an entry of a conversation that begins now.
#[must_use]
pub fn new_entry() -> SessionEntry {
    SessionEntry {
        session_id: Uuid::new_v4().to_string(),
        updated_at: Some(now_ms()),
        ..Default::default()
    }
}

/// Returns the entry of a conversation that starts anew with a message: what
/// was chosen for its course goes, everything else stays.
#[must_use]
pub fn restarted(old: SessionEntry) -> SessionEntry {
    let mut entry = SessionEntry {
        system_sent: Some(false),
        aborted_last_run: Some(false),
        thinking_level: None,
        verbose_level: None,
        reasoning_level: None,
        response_usage: None,
        provider_override: None,
        model_override: None,
        send_policy: None,
        session_id: Uuid::new_v4().to_string(),
        updated_at: Some(now_ms()),
        ..old
    };
    for field in ["ttsAuto", "queueMode", "queueDebounceMs", "queueCap", "queueDrop"] {
        entry.other.remove(field);
    }
    for field in ["compactionCount", "memoryFlushAt", "memoryFlushCompactionCount"] {
        entry.other.remove(field);
    }
    entry
}

/// Returns the entry of a conversation that was reset: settings and places
/// stay, everything about its course goes.
#[must_use]
pub fn renewed(old: SessionEntry) -> SessionEntry {
    let skills = old.other.get("skillsSnapshot").cloned();
    SessionEntry {
        system_sent: Some(false),
        aborted_last_run: Some(false),
        input_tokens: Some(0),
        output_tokens: Some(0),
        total_tokens: Some(0),
        thinking_level: old.thinking_level,
        verbose_level: old.verbose_level,
        reasoning_level: old.reasoning_level,
        response_usage: old.response_usage,
        model: old.model,
        context_tokens: old.context_tokens,
        send_policy: old.send_policy,
        label: old.label,
        origin: old.origin,
        last_channel: old.last_channel,
        last_to: old.last_to,
        other: skills.map(|skills| ("skillsSnapshot".to_owned(), skills)).into_iter().collect(),
        ..new_entry()
    }
}

/// Returns the place that a conversation's last message came from.
#[must_use]
pub fn last_route(entry: &SessionEntry) -> Option<Route> {
    let thread = entry.last_thread_id.as_ref().map(|thread| match thread {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    Some(Route {
        channel: entry.last_channel.clone().filter(|channel| channel != "webchat")?,
        account: entry.last_account_id.clone().unwrap_or_else(|| "default".into()),
        to: entry.last_to.clone()?,
        thread,
        reply_to: None,
    })
}

fn required(config: &Config, key: &str) -> Result<String> {
    if key.trim().is_empty() {
        return Err(Error::invalid("key required"));
    }
    Ok(key::canonical(config, key))
}

fn bounded(count: u64, most: usize) -> usize {
    usize::try_from(count).unwrap_or(most).min(most)
}

fn preview_of(
    db: &Db<'_>,
    config: &Config,
    asked: &str,
    limit: usize,
    max_chars: usize,
) -> SessionPreview {
    let read = || {
        let Some(entry) = db.session(&key::canonical(config, asked))? else {
            return Ok(("missing", Vec::new()));
        };
        let rows = db.last_messages(&entry.session_id, limit, PREVIEW_BYTES)?;
        let items: Vec<_> =
            rows.iter().filter_map(|row| preview::item(&row.message, max_chars)).collect();
        Ok::<_, rusqlite::Error>((if items.is_empty() { "empty" } else { "ok" }, items))
    };
    let (status, items) = read().unwrap_or_else(|error| {
        tracing::warn!(%error, "preview failed");
        ("error", Vec::new())
    });
    SessionPreview { key: asked.to_owned(), status: status.to_owned(), items }
}

fn resolved(db: &Db<'_>, config: &Config, request: &SessionsResolve) -> Result<String> {
    let failed = |error: rusqlite::Error| Error::from(StoreError::from(error));
    if let Some(asked) = &request.key {
        let key = key::canonical(config, asked);
        let found = db.session(&key).map_err(failed)?;
        return found
            .map(|_| key)
            .ok_or_else(|| Error::Invalid(format!("No session found: {asked}")));
    }
    let (rows, name, by) = match (&request.session_id, &request.label) {
        (Some(id), _) => (db.sessions_by_id(id).map_err(failed)?, id.as_str(), "for sessionId"),
        (None, label) => {
            let label = label.as_deref().unwrap_or_default();
            (db.sessions_by_label(label).map_err(failed)?, label, "with label")
        }
    };
    let mut keys: Vec<_> = rows
        .into_iter()
        .filter(|row| {
            list::belongs(
                row,
                request.agent_id.as_deref(),
                request.spawned_by.as_deref(),
                request.include_global.unwrap_or(true),
                request.include_unknown.unwrap_or(true),
            )
        })
        .map(|row| row.key)
        .collect();
    match keys.len() {
        0 if request.session_id.is_some() => {
            Err(Error::Invalid(format!("No session found: {name}")))
        }
        0 => Err(Error::Invalid(format!("No session found {by}: {name}"))),
        1 => Ok(keys.remove(0)),
        _ => {
            let keys = keys.join(", ");
            Err(Error::Invalid(format!("Multiple sessions found {by}: {name} ({keys})")))
        }
    }
}

fn shown(mut message: Value) -> Value {
    if message::role(&message) != "user" {
        return message;
    }
    for part in message["content"].as_array_mut().into_iter().flatten() {
        if let Some(text) = part["text"].as_str() {
            part["text"] = preview::without_envelope(text).into();
        }
    }
    message
}
