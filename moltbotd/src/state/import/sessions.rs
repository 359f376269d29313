//! Conversations with their messages.
//!
//! A conversation that is here under the same key stays, unless the other
//! gateway only went on with it: then the rest is added.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use jiff::Timestamp;
use moltbot_protocol::methods::sessions::SessionEntry;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Items, Outcome, Target,
    source::{self, Folder},
};
use crate::{
    paths::expand_home,
    sessions::key,
    store::{NewTranscriptMessage, StoreError},
};

/// Longest line of a transcript: a message may hold pictures.
const LONGEST_LINE_BYTES: u64 = 256 << 20;

pub(super) fn take(target: &Target<'_>, folder: &Folder, items: &mut Items) {
    for agent in folder.names("agents") {
        let store = store_of(target, folder, &agent);
        folder.note(&store);
        if store.is_file() {
            agent_sessions(target, folder, &agent, &store, items);
        } else {
            lone_transcripts(target, folder, &agent, items);
        }
    }
}

/// Takes transcripts that no list of conversations goes with: a run that named only a session id
/// leaves such a one. It gets the key that such a run has here, so the session id finds it again.
fn lone_transcripts(target: &Target<'_>, folder: &Folder, agent: &str, items: &mut Items) {
    let below = format!("agents/{agent}/sessions");
    let transcripts = folder.path.join(&below);
    for name in folder.names(&below) {
        let Some(id) = name.strip_suffix(".jsonl") else { continue };
        let changed = fs::metadata(transcripts.join(&name)).and_then(|file| file.modified()).ok();
        let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let entry = SessionEntry {
            session_id: id.to_owned(),
            updated_at: changed.and_then(|at| i64::try_from(at.as_millis()).ok()),
            ..SessionEntry::default()
        };
        match Conversation::read(id, agent, entry, &transcripts, folder) {
            Ok(conversation) if conversation.messages.is_empty() => {
                let why = "it holds no message";
                items.explain("conversation", conversation.key, Outcome::Skipped, why);
            }
            Ok(conversation) => conversation.put(target, items),
            Err(why) => items.fail("conversation", format!("{below}/{name}"), why),
        }
    }
    name_older_transcripts(folder, agent, &transcripts, items);
}

/// Returns the file that lists an agent's conversations.
fn store_of(target: &Target<'_>, folder: &Folder, agent: &str) -> PathBuf {
    let own = folder.path.join("agents").join(agent).join("sessions/sessions.json");
    let template = target.session_store.as_deref().filter(|_| !own.is_file());
    template.map_or(own, |template| expand_home(&template.replace("{agentId}", agent)))
}

fn agent_sessions(
    target: &Target<'_>,
    folder: &Folder,
    agent: &str,
    store: &Path,
    items: &mut Items,
) {
    let entries = match source::object(store) {
        Ok(entries) => entries,
        Err(why) => return items.fail("conversations", store.display().to_string(), why),
    };
    let transcripts = store.parent().unwrap_or(Path::new("/"));
    for (name, value) in entries {
        let entry: SessionEntry = match serde_json::from_value(value) {
            Ok(entry) => entry,
            Err(error) => {
                items.fail("conversation", name, format!("it is not understood: {error}"));
                continue;
            }
        };
        let own = Conversation::read(&name, agent, entry, transcripts, folder);
        match own {
            Ok(conversation) => conversation.put(target, items),
            Err(why) => items.fail("conversation", name, why),
        }
    }
    name_older_transcripts(folder, agent, transcripts, items);
}

/// Names the transcripts that belong to no conversation.
fn name_older_transcripts(folder: &Folder, agent: &str, transcripts: &Path, items: &mut Items) {
    let names = folder.names(&format!("agents/{agent}/sessions"));
    let left: Vec<_> = names
        .into_iter()
        .map(|name| transcripts.join(name))
        .filter(|path| path.to_string_lossy().contains(".jsonl") && !folder.has_seen(path))
        .collect();
    if !left.is_empty() {
        left.iter().for_each(|path| folder.note(path));
        let why = "they belong to conversations that were begun anew or deleted; they stay there";
        items.explain(
            "older transcripts",
            format!("agents/{agent}: {}", left.len()),
            Outcome::Skipped,
            why,
        );
    }
}

/// A conversation as the other gateway has it.
struct Conversation {
    key: String,
    agent: String,
    entry: SessionEntry,
    messages: Vec<NewTranscriptMessage>,
    /// Lines that were no message and should have been one.
    broken: usize,
}

impl Conversation {
    fn read(
        name: &str,
        agent: &str,
        mut entry: SessionEntry,
        folder: &Path,
        seen: &Folder,
    ) -> Result<Self, String> {
        let key = own_key(name, agent);
        let file = transcript(&mut entry, folder)?;
        let mut own = Self { key, agent: agent.into(), entry, messages: Vec::new(), broken: 0 };
        if let Some(file) = file {
            seen.note(&file);
            own.read_messages(&file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        }
        Ok(own)
    }

    fn read_messages(&mut self, file: &Path) -> std::io::Result<()> {
        let mut reader = BufReader::new(source::open(file)?);
        let mut line = Vec::new();
        let mut number = 0_usize;
        loop {
            line.clear();
            let read = reader.by_ref().take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Value>(&line) {
                Ok(mut value) => self.add(number, &mut value),
                // The last line may be half written.
                Err(_) => self.broken += 1,
            }
        }
    }

    /// Adds a line, if it is a message: as clients are shown, in the order of
    /// the file.
    fn add(&mut self, number: usize, line: &mut Value) {
        let message = line["message"].take();
        if !message["role"].is_string() {
            return;
        }
        let id = line["id"].as_str().map_or_else(
            || {
                let name = format!("{}:{number}", self.entry.session_id);
                let digest = Sha256::digest(name);
                digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
            },
            str::to_owned,
        );
        let written = || line["timestamp"].as_str()?.parse::<Timestamp>().ok();
        let at_ms = message["timestamp"].as_i64().or_else(|| Some(written()?.as_millisecond()));
        let at_ms = at_ms.or(self.entry.updated_at).unwrap_or_default();
        self.messages.push(NewTranscriptMessage { id, run_id: None, at_ms, message });
    }

    fn put(self, target: &Target<'_>, items: &mut Items) {
        let (key, count, broken) = (self.key.clone(), self.messages.len(), self.broken);
        let messages = match broken {
            0 => format!("{count} messages"),
            _ => format!("{count} messages; {broken} lines are broken and were left out"),
        };
        match self.write(target) {
            Ok(Outcome::Kept) => items.explain(
                "conversation",
                key,
                Outcome::Kept,
                "another conversation is here under this key, or it went on in both places",
            ),
            Ok(outcome) => items.explain("conversation", key, outcome, messages),
            Err(error) => items.fail("conversation", key, error),
        }
    }

    fn write(self, target: &Target<'_>) -> Result<Outcome, StoreError> {
        let Self { key, agent, entry, messages, .. } = self;
        target.write(move |db| {
            let here = db.session(&key)?;
            if here.as_ref().is_some_and(|here| here.session_id != entry.session_id) {
                return Ok(Outcome::Kept);
            }
            let ids = db.message_ids(&entry.session_id)?;
            let same = ids.iter().zip(&messages).all(|(here, there)| *here == there.id);
            if !same {
                return Ok(Outcome::Kept);
            }
            if here.is_some() && ids.len() >= messages.len() {
                return Ok(Outcome::Present);
            }
            for message in messages.iter().skip(ids.len()) {
                db.append_message(&entry.session_id, message)?;
            }
            db.put_session(&key, &agent, &entry)?;
            Ok(Outcome::Taken)
        })
    }
}

/// Returns the key under which a conversation is stored here. Keys that name
/// no agent belong to the one in whose folder they are.
fn own_key(name: &str, agent: &str) -> String {
    let name = name.trim().to_lowercase();
    let whole = key::agent_of(&name).is_some() || name == "global" || name == "unknown";
    if whole { name } else { format!("agent:{}:{name}", agent.to_lowercase()) }
}

/// Returns the file with the messages of a conversation, if there is one. The
/// folder may have been moved since its path was written down.
fn transcript(entry: &mut SessionEntry, folder: &Path) -> Result<Option<PathBuf>, String> {
    let named = entry.other.shift_remove("sessionFile");
    let id = &entry.session_id;
    if id.is_empty() || id.contains(['/', '\0']) || id.starts_with('.') {
        return Err("it has no usable session id".into());
    }
    let named = named.as_ref().and_then(Value::as_str).map(Path::new);
    let moved = named.and_then(Path::file_name).map(|name| folder.join(name));
    let usual = folder.join(format!("{id}.jsonl"));
    let mut places = moved.into_iter().chain([usual]).chain(named.map(Path::to_owned));
    Ok(places.find(|place| place.is_file()))
}
