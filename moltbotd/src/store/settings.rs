//! Table `setting`.

use rusqlite::{OptionalExtension as _, params};
use serde::{Serialize, de::DeserializeOwned};

use super::Db;

impl Db<'_> {
    /// Returns a setting, `None` when it is absent or of another form.
    pub fn setting<T: DeserializeOwned>(&self, key: &str) -> rusqlite::Result<Option<T>> {
        let text: Option<String> = self
            .0
            .prepare_cached("SELECT value FROM setting WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Stores a setting.
    pub fn put_setting<T: Serialize>(&self, key: &str, value: &T) -> rusqlite::Result<()> {
        let text = serde_json::to_string(value).expect("settings serialize");
        self.0
            .prepare_cached(
                "INSERT INTO setting (key, value) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = ?2",
            )?
            .execute(params![key, text])?;
        Ok(())
    }
}
