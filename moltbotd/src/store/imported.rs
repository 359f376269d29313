//! Table `imported`.

use rusqlite::{OptionalExtension as _, params};

use super::Db;

/// Something that was brought from another gateway and waits for the version
/// that runs it.
#[derive(Clone, Debug)]
pub struct ImportedRow {
    /// What it is: `cron-job`, `exec-approvals`, `auth-profiles`, `tts`.
    pub kind: &'static str,
    /// Which one.
    pub id: String,
    /// It, as JSON.
    pub body: String,
    /// The file it was in.
    pub origin: String,
}

impl Db<'_> {
    /// Keeps it, in the place of an earlier one; returns whether it is new or
    /// differs.
    pub fn put_imported(&self, row: &ImportedRow, now_ms: i64) -> rusqlite::Result<bool> {
        let ImportedRow { kind, id, body, origin } = row;
        let known: Option<String> = self
            .0
            .prepare_cached("SELECT body FROM imported WHERE kind = ?1 AND id = ?2")?
            .query_row(params![kind, id], |row| row.get(0))
            .optional()?;
        if known.as_ref() == Some(body) {
            return Ok(false);
        }
        self.0
            .prepare_cached(
                "INSERT INTO imported (kind, id, body, origin, imported_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (kind, id) DO UPDATE SET body = ?3, origin = ?4, imported_at_ms = ?5",
            )?
            .execute(params![kind, id, body, origin, now_ms])?;
        Ok(true)
    }
}
