//! Table `outbox`.

use rusqlite::params;
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

impl Db<'_> {
    /// Queues a message once; returns whether its key was new.
    pub fn queue_message(&self, message: &NewMessage, now_ms: i64) -> rusqlite::Result<bool> {
        let NewMessage { key, channel, account, body } = message;
        let added = self
            .0
            .prepare_cached(
                "INSERT INTO outbox (key, channel, account, body, state, next_attempt_ms,
                                     created_at_ms, updated_at_ms)
                 VALUES (?1, ?2, ?3, ?4, 'queued', ?5, ?5, ?5) ON CONFLICT DO NOTHING",
            )?
            .execute(params![key, channel, account, body.to_string(), now_ms])?;
        Ok(added > 0)
    }
}
