//! The last entry of a backup: what the others are.

use std::collections::{HashMap, HashSet};

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
        let found: HashMap<&str, &Found> =
            found.iter().map(|entry| (&*entry.path, entry)).collect();
        let mut listed = HashSet::new();
        for Item { path, size, sha256, .. } in &self.files {
            let shown = readable(path);
            if !listed.insert(&**path) {
                return Some(format!("{shown} is in its manifest twice"));
            }
            let Some(entry) = found.get(&**path) else {
                return Some(format!("{shown} is missing"));
            };
            if (entry.size, &entry.sha256) != (*size, sha256) {
                return Some(format!("{shown} is not what was written (its SHA-256 differs)"));
            }
        }
        let extra = found.keys().find(|path| !listed.contains(**path));
        if let Some(extra) = extra {
            return Some(format!("{extra} is not in its manifest"));
        }
        let main = self.config.as_deref().filter(|main| !listed.contains(main));
        main.map(|main| format!("{} is missing", readable(main)))
    }

    /// Returns the bytes of all files together.
    pub(super) fn total(&self) -> u64 {
        self.files.iter().map(|item| item.size).sum()
    }
}

/// Returns a text of a manifest as it may be printed. Whoever forged the backup
/// chose it: what a terminal would obey, or not show, is escaped.
pub(super) fn readable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if is_visible(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
    }
    shown
}

/// Returns whether a character is seen where it stands: it is no control
/// character, sets no direction of writing and has a width.
pub(super) fn is_visible(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Returns a digest in hex.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
