//! Table `inbox`.

use rusqlite::params;

use super::Db;

/// A channel's message that waits to be handled.
#[derive(Clone, Debug)]
pub struct InboxRow {
    /// Its place in the table.
    pub id: i64,
    /// The message as JSON.
    pub body: String,
}

impl Db<'_> {
    /// Stores an update of a channel once. Returns its id, or `None` when it
    /// was stored before. Without a body there is nothing to do for it, and it
    /// is kept only to know it again.
    pub fn put_inbox(
        &self,
        channel: &str,
        account: &str,
        update_id: i64,
        body: Option<&str>,
        now_ms: i64,
    ) -> rusqlite::Result<Option<i64>> {
        let state = if body.is_some() { "received" } else { "ignored" };
        let added = self
            .0
            .prepare_cached(
                "INSERT INTO inbox (channel, account, update_id, body, state, received_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?
            .execute(params![channel, account, update_id, body, state, now_ms])?;
        Ok((added > 0).then(|| self.0.last_insert_rowid()))
    }

    /// Marks a message as handled. Belongs into the transaction that stores
    /// what came of it.
    pub fn finish_inbox(&self, id: i64) -> rusqlite::Result<()> {
        self.0.prepare_cached("UPDATE inbox SET state = 'done' WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// Returns the messages that are not handled yet, oldest first.
    pub fn open_inbox(&self) -> rusqlite::Result<Vec<InboxRow>> {
        self.0
            .prepare_cached("SELECT id, body FROM inbox WHERE state = 'received' ORDER BY id")?
            .query_map([], |row| Ok(InboxRow { id: row.get(0)?, body: row.get(1)? }))?
            .collect()
    }

    /// Returns the highest update id seen on an account, `None` before the
    /// first: the channel's offset follows from it.
    pub fn last_update(&self, channel: &str, account: &str) -> rusqlite::Result<Option<i64>> {
        self.0
            .prepare_cached("SELECT max(update_id) FROM inbox WHERE channel = ?1 AND account = ?2")?
            .query_row(params![channel, account], |row| row.get(0))
    }
}
