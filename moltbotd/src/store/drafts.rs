//! Table `draft`.

use rusqlite::{OptionalExtension as _, params};

use super::Db;

/// A message that shows an answer while it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Chat it is in.
    pub chat_id: String,
    /// Its id; `None` while nobody knows whether it was sent.
    pub message_id: Option<String>,
}

impl Db<'_> {
    /// Notes that a draft is about to be sent. Returns `false` when the answer
    /// has one already.
    pub fn begin_draft(
        &self,
        key: &str,
        channel: &str,
        account: &str,
        chat_id: &str,
        now_ms: i64,
    ) -> rusqlite::Result<bool> {
        let added = self
            .0
            .prepare_cached(
                "INSERT INTO draft (key, channel, account, chat_id, created_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            )?
            .execute(params![key, channel, account, chat_id, now_ms])?;
        Ok(added > 0)
    }

    /// Notes the id of a draft that arrived.
    pub fn confirm_draft(&self, key: &str, message_id: &str) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("UPDATE draft SET message_id = ?2 WHERE key = ?1")?
            .execute(params![key, message_id])?;
        Ok(())
    }

    /// Forgets a draft that certainly was not sent or is gone.
    pub fn forget_draft(&self, key: &str) -> rusqlite::Result<()> {
        self.0.prepare_cached("DELETE FROM draft WHERE key = ?1")?.execute([key])?;
        Ok(())
    }

    /// Returns the draft of an answer.
    pub fn draft(&self, key: &str) -> rusqlite::Result<Option<Draft>> {
        self.0
            .prepare_cached("SELECT chat_id, message_id FROM draft WHERE key = ?1")?
            .query_row([key], |row| Ok(Draft { chat_id: row.get(0)?, message_id: row.get(1)? }))
            .optional()
    }

    /// Forgets drafts begun before a point in time whose answers never came.
    pub fn prune_drafts(&self, before_ms: i64) -> rusqlite::Result<()> {
        self.0.execute(
            "DELETE FROM draft WHERE created_at_ms < ?1
             AND key NOT IN (SELECT key FROM outbox WHERE state IN ('queued', 'sending', 'unknown'))",
            [before_ms],
        )?;
        Ok(())
    }
}
