//! The last entry of a backup: what the others are.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// Name of the entry.
pub(super) const NAME: &str = "manifest.json";
/// Version of the archive's layout. A reader refuses a higher one.
pub(super) const FORMAT: u32 = 1;
/// Name of the database's entry.
pub(super) const DATABASE: &str = "database/moltbot.db";

/// What is in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    /// Version of the layout.
    pub(super) format: u32,
    /// Version of the program that made it.
    pub(super) version: String,
    /// Version of the database.
    pub(super) schema: usize,
    /// Whose state it is.
    pub(super) profile: String,
    /// When it was made, in milliseconds since the epoch.
    pub(super) created_at_ms: i64,
    /// Entry of the configuration file; `None` without one.
    pub(super) config: Option<String>,
    /// The other entries.
    pub(super) files: Vec<Item>,
    /// What was seen and not taken.
    pub(super) left_out: Vec<LeftOut>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    /// Its entry.
    pub(super) path: String,
    /// Where it was.
    pub(super) origin: String,
    /// Bytes.
    pub(super) size: u64,
    /// SHA-256 in hex.
    pub(super) sha256: String,
}

/// A file that is not in the backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LeftOut {
    /// Where it is.
    pub(super) path: String,
    /// Why.
    pub(super) why: String,
}

/// An entry as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl Manifest {
    /// Returns what does not agree with the entries found.
    pub(super) fn disagreement(&self, found: &[Found]) -> Option<String> {
        let listed: HashSet<&str> = self.files.iter().map(|item| &*item.path).collect();
        if let Some(extra) = found.iter().find(|entry| !listed.contains(&*entry.path)) {
            return Some(format!("{} is not in its manifest", extra.path));
        }
        for Item { path, size, sha256, .. } in &self.files {
            let Some(entry) = found.iter().find(|entry| entry.path == *path) else {
                return Some(format!("{path} is missing"));
            };
            if (entry.size, &entry.sha256) != (*size, sha256) {
                return Some(format!("{path} is not what was written (its SHA-256 differs)"));
            }
        }
        None
    }

    /// Returns the bytes of all files together.
    pub(super) fn total(&self) -> u64 {
        self.files.iter().map(|item| item.size).sum()
    }
}

/// Returns a digest in hex.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
