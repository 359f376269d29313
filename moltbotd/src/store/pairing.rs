//! Tables `channel_pairing` and `channel_allow`.

use rusqlite::{OptionalExtension as _, Row, params};

use super::Db;

/// How long a code can be approved, from its creation.
const LIFETIME_MS: i64 = 60 * 60 * 1000;

/// How many strangers may wait on an account at once. More get no answer, so
/// that a crowd cannot fill the list.
const MAX_PENDING: i64 = 3;

/// A stranger who wants to be let in.
#[derive(Clone, Debug)]
pub struct PairingRow {
    /// Id of the channel.
    pub channel: String,
    /// Account of the channel.
    pub account: String,
    /// Who wants in.
    pub sender_id: String,
    /// What the owner approves.
    pub code: String,
    /// What is known of the sender, as JSON.
    pub meta: String,
    /// When the code was made, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// When the sender last wrote.
    pub last_seen_at_ms: i64,
}

impl Db<'_> {
    /// Notes that a stranger wrote. Returns whether the code is a new one, and
    /// so is to be told; a request that waits keeps its code.
    pub fn request_pairing(&self, request: &PairingRow) -> rusqlite::Result<bool> {
        let PairingRow { channel, account, sender_id, code, meta, created_at_ms: now_ms, .. } =
            request;
        self.expire_pairing(*now_ms)?;
        let known = self
            .0
            .prepare_cached(
                "UPDATE channel_pairing SET last_seen_at_ms = ?4, meta = ?5
                 WHERE channel = ?1 AND account = ?2 AND sender_id = ?3",
            )?
            .execute(params![channel, account, sender_id, now_ms, meta])?;
        let waiting: i64 = self
            .0
            .prepare_cached(
                "SELECT count(*) FROM channel_pairing WHERE channel = ?1 AND account = ?2",
            )?
            .query_row(params![channel, account], |row| row.get(0))?;
        if known > 0 || waiting >= MAX_PENDING {
            return Ok(false);
        }
        self.0
            .prepare_cached(
                "INSERT INTO channel_pairing (channel, account, sender_id, code, meta,
                                              created_at_ms, last_seen_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
            )?
            .execute(params![channel, account, sender_id, code, meta, now_ms])?;
        Ok(true)
    }

    /// Returns the strangers who wait, oldest first.
    pub fn pairing_requests(&self, now_ms: i64) -> rusqlite::Result<Vec<PairingRow>> {
        self.0
            .prepare_cached(
                "SELECT channel, account, sender_id, code, meta, created_at_ms, last_seen_at_ms
                 FROM channel_pairing WHERE created_at_ms > ?1 ORDER BY created_at_ms, rowid",
            )?
            .query_map([now_ms - LIFETIME_MS], pairing_row)?
            .collect()
    }

    /// Lets the stranger with a code in; `None` when no code like it waits.
    pub fn approve_pairing(
        &self,
        channel: &str,
        code: &str,
        now_ms: i64,
    ) -> rusqlite::Result<Option<PairingRow>> {
        self.expire_pairing(now_ms)?;
        let request = self
            .0
            .prepare_cached(
                "DELETE FROM channel_pairing WHERE channel = ?1 AND code = ?2
                 RETURNING channel, account, sender_id, code, meta, created_at_ms, last_seen_at_ms",
            )?
            .query_row(params![channel, code], pairing_row)
            .optional()?;
        if let Some(request) = &request {
            self.allow_sender(channel, &request.account, &request.sender_id, now_ms)?;
        }
        Ok(request)
    }

    /// Lets a sender in.
    pub fn allow_sender(
        &self,
        channel: &str,
        account: &str,
        sender_id: &str,
        now_ms: i64,
    ) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO channel_allow (channel, account, sender_id, added_at_ms)
                 VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            )?
            .execute(params![channel, account, sender_id, now_ms])?;
        Ok(())
    }

    /// Returns who was let in on an account.
    pub fn allowed_senders(&self, channel: &str, account: &str) -> rusqlite::Result<Vec<String>> {
        self.0
            .prepare_cached(
                "SELECT sender_id FROM channel_allow WHERE channel = ?1 AND account = ?2",
            )?
            .query_map(params![channel, account], |row| row.get(0))?
            .collect()
    }

    fn expire_pairing(&self, now_ms: i64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("DELETE FROM channel_pairing WHERE created_at_ms <= ?1")?
            .execute([now_ms - LIFETIME_MS])?;
        Ok(())
    }
}

fn pairing_row(row: &Row<'_>) -> rusqlite::Result<PairingRow> {
    Ok(PairingRow {
        channel: row.get(0)?,
        account: row.get(1)?,
        sender_id: row.get(2)?,
        code: row.get(3)?,
        meta: row.get(4)?,
        created_at_ms: row.get(5)?,
        last_seen_at_ms: row.get(6)?,
    })
}
