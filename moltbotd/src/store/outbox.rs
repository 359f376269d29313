//! Table `outbox`.

use rusqlite::{
    OptionalExtension as _, Row, params,
    types::{FromSql, FromSqlError, FromSqlResult, ValueRef},
};
use serde_json::Value;

use super::Db;

/// A message to be sent through a channel.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Idempotency key: a second row with the same key is not queued.
    pub key: String,
    /// Id of the channel.
    pub channel: String,
    /// Account of the channel.
    pub account: String,
    /// Route, text and media, in the form of the channels.
    pub body: Value,
}

/// What is known of an outgoing message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxState {
    /// It waits.
    Queued,
    /// The network was asked; the answer is not here yet.
    Sending,
    /// The channel confirmed it.
    Sent,
    /// The network was asked, and nobody knows what came of it.
    Unknown,
    /// It cannot be sent.
    Failed,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// Its place in the table.
    pub id: i64,
    /// Idempotency key.
    pub key: String,
    /// Id of the channel.
    pub channel: String,
    /// Account of the channel.
    pub account: String,
    /// Route, text and media as JSON.
    pub body: String,
    /// What is known of it.
    pub state: OutboxState,
    /// How many of its parts were confirmed.
    pub parts_sent: u32,
    /// How often it was tried.
    pub attempts: u32,
    /// When it may be tried again, in milliseconds since the epoch.
    pub next_attempt_ms: i64,
}

/// What became of a message.
#[derive(Clone, Debug)]
pub struct Fate {
    /// What is known of it.
    pub state: OutboxState,
    /// Id of its last part in the channel, once confirmed.
    pub message_id: Option<String>,
    /// Chat it went to, once confirmed.
    pub chat_id: Option<String>,
    /// What went wrong last.
    pub error: Option<String>,
}

impl Db<'_> {
    /// Queues a message once; returns whether its key was new.
    pub fn queue_message(&self, message: &NewMessage, now_ms: i64) -> rusqlite::Result<bool> {
        let NewMessage { key, channel, account, body } = message;
        let chat = body["route"]["to"].as_str().unwrap_or_default();
        let added = self
            .0
            .prepare_cached(
                "INSERT INTO outbox (key, channel, account, chat, body, state, next_attempt_ms,
                                     created_at_ms, updated_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'queued', ?6, ?6, ?6) ON CONFLICT DO NOTHING",
            )?
            .execute(params![key, channel, account, chat, body.to_string(), now_ms])?;
        Ok(added > 0)
    }

    /// Turns what an account was sending when its sender ended into rows whose
    /// fate nobody knows; returns how many there are.
    pub fn recover_outbox(&self, channel: &str, account: &str) -> rusqlite::Result<usize> {
        self.0.execute(
            "UPDATE outbox SET state = 'unknown'
             WHERE state = 'sending' AND channel = ?1 AND account = ?2",
            [channel, account],
        )
    }

    /// Returns the next message of each chat of an account, oldest first. A
    /// chat with a message on its way has none, so that order is kept.
    pub fn next_messages(
        &self,
        channel: &str,
        account: &str,
        limit: u32,
    ) -> rusqlite::Result<Vec<OutboxRow>> {
        self.0
            .prepare_cached(
                "SELECT id, key, channel, account, body, state, parts_sent, attempts,
                        next_attempt_ms
                 FROM outbox
                 WHERE state <> 'sending' AND id IN (
                     SELECT min(id) FROM outbox
                     WHERE state IN ('queued', 'sending', 'unknown')
                       AND channel = ?1 AND account = ?2
                     GROUP BY chat)
                 ORDER BY next_attempt_ms, id LIMIT ?3",
            )?
            .query_map(params![channel, account, limit], outbox_row)?
            .collect()
    }

    /// Replaces what is to be sent by the same with more known of it.
    pub fn replace_message(&self, id: i64, body: &str) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("UPDATE outbox SET body = ?2 WHERE id = ?1")?
            .execute(params![id, body])?;
        Ok(())
    }

    /// Notes that the network is about to be asked to take a message.
    pub fn begin_sending(&self, id: i64, now_ms: i64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "UPDATE outbox SET state = 'sending', attempts = attempts + 1, updated_at_ms = ?2
                 WHERE id = ?1",
            )?
            .execute(params![id, now_ms])?;
        Ok(())
    }

    /// Notes that the channel confirmed the first `parts` parts.
    pub fn confirm_parts(&self, id: i64, parts: u32, now_ms: i64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("UPDATE outbox SET parts_sent = ?2, updated_at_ms = ?3 WHERE id = ?1")?
            .execute(params![id, parts, now_ms])?;
        Ok(())
    }

    /// Notes that a message arrived, and forgets its draft.
    pub fn confirm_sent(
        &self,
        id: i64,
        message_id: &str,
        chat_id: &str,
        now_ms: i64,
    ) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "UPDATE outbox SET state = 'sent', message_id = ?2, chat_id = ?3, error = NULL,
                                   updated_at_ms = ?4 WHERE id = ?1",
            )?
            .execute(params![id, message_id, chat_id, now_ms])?;
        self.forget_draft_of(id)
    }

    /// Notes that a message is to be tried again, and whether it may have
    /// arrived already.
    pub fn retry_later(
        &self,
        id: i64,
        unknown: bool,
        next_attempt_ms: i64,
        error: &str,
        now_ms: i64,
    ) -> rusqlite::Result<()> {
        let state = if unknown { "unknown" } else { "queued" };
        self.0
            .prepare_cached(
                "UPDATE outbox SET state = ?2, next_attempt_ms = ?3, error = ?4,
                                   updated_at_ms = ?5 WHERE id = ?1",
            )?
            .execute(params![id, state, next_attempt_ms, error, now_ms])?;
        Ok(())
    }

    /// Notes that a message cannot be sent, and forgets its draft.
    pub fn fail_message(&self, id: i64, error: &str, now_ms: i64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "UPDATE outbox SET state = 'failed', error = ?2, updated_at_ms = ?3
                 WHERE id = ?1",
            )?
            .execute(params![id, error, now_ms])?;
        self.forget_draft_of(id)
    }

    /// Returns how many messages are not settled, by channel and state.
    pub fn outbox_depth(&self) -> rusqlite::Result<Vec<(String, String, u32)>> {
        self.0
            .prepare_cached(
                "SELECT channel, state, count(*) FROM outbox
                 WHERE state IN ('queued', 'sending', 'unknown') GROUP BY channel, state",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect()
    }

    /// Returns what became of the message with a key.
    pub fn fate(&self, key: &str) -> rusqlite::Result<Option<Fate>> {
        self.0
            .prepare_cached("SELECT state, message_id, chat_id, error FROM outbox WHERE key = ?1")?
            .query_row([key], |row| {
                Ok(Fate {
                    state: row.get(0)?,
                    message_id: row.get(1)?,
                    chat_id: row.get(2)?,
                    error: row.get(3)?,
                })
            })
            .optional()
    }

    /// Forgets what was settled before a point in time.
    pub fn prune_outbox(&self, before_ms: i64) -> rusqlite::Result<()> {
        self.0.execute(
            "DELETE FROM outbox WHERE state IN ('sent', 'failed') AND updated_at_ms < ?1",
            [before_ms],
        )?;
        Ok(())
    }

    fn forget_draft_of(&self, id: i64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("DELETE FROM draft WHERE key = (SELECT key FROM outbox WHERE id = ?1)")?
            .execute([id])?;
        Ok(())
    }
}

fn outbox_row(row: &Row<'_>) -> rusqlite::Result<OutboxRow> {
    Ok(OutboxRow {
        id: row.get(0)?,
        key: row.get(1)?,
        channel: row.get(2)?,
        account: row.get(3)?,
        body: row.get(4)?,
        state: row.get(5)?,
        parts_sent: row.get(6)?,
        attempts: row.get(7)?,
        next_attempt_ms: row.get(8)?,
    })
}

impl FromSql for OutboxState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "queued" => Ok(Self::Queued),
            "sending" => Ok(Self::Sending),
            "sent" => Ok(Self::Sent),
            "unknown" => Ok(Self::Unknown),
            "failed" => Ok(Self::Failed),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}
