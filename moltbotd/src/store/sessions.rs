//! Table `session`.

use std::ops::ControlFlow;

use moltbot_protocol::methods::sessions::SessionEntry;
use rusqlite::{OptionalExtension as _, Row, params, types::Type};

use super::Db;

/// A conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    /// Its key.
    pub key: String,
    /// What is remembered about it.
    pub entry: SessionEntry,
}

impl Db<'_> {
    /// Returns what is remembered about a conversation.
    pub fn session(&self, key: &str) -> rusqlite::Result<Option<SessionEntry>> {
        self.0
            .prepare_cached("SELECT key, entry FROM session WHERE key = ?1")?
            .query_row([key], session_row)
            .optional()
            .map(|row| row.map(|row| row.entry))
    }

    /// Stores what is remembered about a conversation.
    pub fn put_session(
        &self,
        key: &str,
        agent_id: &str,
        entry: &SessionEntry,
    ) -> rusqlite::Result<()> {
        let text = serde_json::to_string(entry).expect("wire types serialize");
        self.0
            .prepare_cached(
                "INSERT INTO session (key, agent_id, session_id, updated_at_ms, entry)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (key) DO UPDATE SET session_id = ?3, updated_at_ms = ?4, entry = ?5",
            )?
            .execute(params![key, agent_id, entry.session_id, entry.updated_at, text])?;
        Ok(())
    }

    /// Forgets a conversation; returns whether there was one.
    pub fn remove_session(&self, key: &str) -> rusqlite::Result<bool> {
        let removed =
            self.0.prepare_cached("DELETE FROM session WHERE key = ?1")?.execute([key])?;
        Ok(removed > 0)
    }

    /// Returns the conversations with this transcript.
    pub fn sessions_by_id(&self, session_id: &str) -> rusqlite::Result<Vec<SessionRow>> {
        self.0
            .prepare_cached("SELECT key, entry FROM session WHERE session_id = ?1")?
            .query_map([session_id], session_row)?
            .collect()
    }

    /// Returns the conversations with this label.
    pub fn sessions_by_label(&self, label: &str) -> rusqlite::Result<Vec<SessionRow>> {
        self.0
            .prepare_cached(
                "SELECT key, entry FROM session WHERE json_extract(entry, '$.label') = ?1",
            )?
            .query_map([label], session_row)?
            .collect()
    }

    /// Shows the conversations changed since a time to `visit`, the last
    /// changed first, until it has seen enough.
    pub fn each_session(
        &self,
        since_ms: Option<i64>,
        mut visit: impl FnMut(SessionRow) -> rusqlite::Result<ControlFlow<()>>,
    ) -> rusqlite::Result<()> {
        let mut query = self.0.prepare_cached(
            "SELECT key, entry FROM session
             WHERE ?1 IS NULL OR updated_at_ms >= ?1 ORDER BY updated_at_ms DESC, key",
        )?;
        let mut rows = query.query([since_ms])?;
        while let Some(row) = rows.next()? {
            if visit(session_row(row)?)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Returns how many conversations there are.
    pub fn session_count(&self) -> rusqlite::Result<u64> {
        let count: i64 = self
            .0
            .prepare_cached("SELECT count(*) FROM session")?
            .query_row([], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }
}

fn session_row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let text: String = row.get(1)?;
    let entry = serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, error.into()))?;
    Ok(SessionRow { key: row.get(0)?, entry })
}
