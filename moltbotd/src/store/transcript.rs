//! Table `transcript`.

use rusqlite::{OptionalExtension as _, Row, params, types::Type};
use serde_json::Value;

use super::Db;

/// A message to be added.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTranscriptMessage {
    /// Identifies the message: eight hexadecimal digits.
    pub id: String,
    /// The run that it belongs to.
    pub run_id: Option<String>,
    /// When it was written, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The message as clients see it.
    pub message: Value,
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageRow {
    /// Its place in the conversation.
    pub seq: i64,
    /// Identifies the message.
    pub id: String,
    /// The run that it belongs to.
    pub run_id: Option<String>,
    /// When it was written, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The message as clients see it.
    pub message: Value,
}

impl Db<'_> {
    /// Adds a message at the end of a conversation.
    pub fn append_message(
        &self,
        session_id: &str,
        message: &NewTranscriptMessage,
    ) -> rusqlite::Result<()> {
        let NewTranscriptMessage { id, run_id, at_ms, message } = message;
        self.0
            .prepare_cached(
                "INSERT INTO transcript (session_id, seq, id, run_id, at_ms, message)
                 VALUES (?1, (SELECT ifnull(max(seq), 0) + 1 FROM transcript WHERE session_id = ?1),
                         ?2, ?3, ?4, ?5)",
            )?
            .execute(params![session_id, id, run_id, at_ms, message.to_string()])?;
        Ok(())
    }

    /// Returns the newest messages of a conversation, oldest first: at most so
    /// many, and of so many bytes together. Messages may hold pictures.
    pub fn last_messages(
        &self,
        session_id: &str,
        limit: usize,
        max_bytes: usize,
    ) -> rusqlite::Result<Vec<MessageRow>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut query = self.0.prepare_cached(
            "SELECT seq, id, run_id, at_ms, message, length(message) FROM transcript
             WHERE session_id = ?1 ORDER BY seq DESC LIMIT ?2",
        )?;
        let mut rows = query.query(params![session_id, limit])?;
        let (mut messages, mut bytes) = (Vec::new(), 0_usize);
        while let Some(row) = rows.next()? {
            let length: i64 = row.get(5)?;
            bytes = bytes.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            if bytes > max_bytes {
                break;
            }
            messages.push(message_row(row)?);
        }
        messages.reverse();
        Ok(messages)
    }

    /// Returns what a run has added to a conversation, oldest first.
    pub fn messages_of_run(&self, session_id: &str, run_id: &str) -> rusqlite::Result<Vec<Value>> {
        self.0
            .prepare_cached(
                "SELECT seq, id, run_id, at_ms, message FROM transcript
                 WHERE session_id = ?1 AND run_id = ?2 ORDER BY seq",
            )?
            .query_map([session_id, run_id], |row| message_row(row).map(|row| row.message))?
            .collect()
    }

    /// Returns the ids of all messages of a conversation, oldest first.
    pub fn message_ids(&self, session_id: &str) -> rusqlite::Result<Vec<String>> {
        self.0
            .prepare_cached("SELECT id FROM transcript WHERE session_id = ?1 ORDER BY seq")?
            .query_map([session_id], |row| row.get(0))?
            .collect()
    }

    /// Returns the first message that a person wrote.
    pub fn first_user_message(&self, session_id: &str) -> rusqlite::Result<Option<Value>> {
        self.0
            .prepare_cached(
                "SELECT seq, id, run_id, at_ms, message FROM transcript
                 WHERE session_id = ?1 AND json_extract(message, '$.role') = 'user'
                 ORDER BY seq LIMIT 1",
            )?
            .query_row([session_id], message_row)
            .optional()
            .map(|row| row.map(|row| row.message))
    }

    /// Forgets the messages of a conversation.
    pub fn remove_transcript(&self, session_id: &str) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("DELETE FROM transcript WHERE session_id = ?1")?
            .execute([session_id])?;
        Ok(())
    }
}

fn message_row(row: &Row<'_>) -> rusqlite::Result<MessageRow> {
    let text: String = row.get(4)?;
    let message = serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(4, Type::Text, error.into()))?;
    Ok(MessageRow {
        seq: row.get(0)?,
        id: row.get(1)?,
        run_id: row.get(2)?,
        at_ms: row.get(3)?,
        message,
    })
}
