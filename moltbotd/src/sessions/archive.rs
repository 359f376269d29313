//! Files that keep the messages of deleted conversations.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::json;

use crate::store::MessageRow;

/// Writes messages to a new file, one JSON object a line, in the form in which
/// the reference keeps transcripts.
pub(super) fn write(
    folder: &Path,
    session_id: &str,
    messages: &[MessageRow],
    now: Timestamp,
) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let at = format!("{now:.3}").replace(':', "-");
    let path = folder.join(format!("{}.jsonl.deleted.{at}", file_stem(session_id)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let mut text = lines(session_id, messages, now);
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(path)
}

fn lines(session_id: &str, messages: &[MessageRow], now: Timestamp) -> String {
    let head =
        json!({"type": "session", "version": 3, "id": session_id, "timestamp": now.to_string()});
    let mut parent = None;
    let mut lines = vec![head.to_string()];
    for row in messages {
        let line = json!({
            "type": "message",
            "id": row.id,
            "parentId": parent,
            "timestamp": Timestamp::from_millisecond(row.at_ms).unwrap_or(now).to_string(),
            "message": row.message,
        });
        parent = Some(&row.id);
        lines.push(line.to_string());
    }
    lines.join("\n")
}

/// An id may come from a foreign database: nothing in it leads out of the
/// folder.
fn file_stem(session_id: &str) -> String {
    session_id
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
        .take(128)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_stays_in_its_folder_and_links_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let row = |id: &str| MessageRow {
            seq: 1,
            id: id.into(),
            run_id: None,
            at_ms: 0,
            message: json!({"role": "user"}),
        };
        let path =
            write(folder.path(), "../x", &[row("a"), row("b")], Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(path.parent(), Some(folder.path()));
        let text = std::fs::read_to_string(&path).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&last["id"], &last["parentId"]), (&json!("b"), &json!("a")));
    }
}
