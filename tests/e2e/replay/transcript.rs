//! The recorded frames, line by line.

use moltbot_tests::programs::source_root;
use serde::Deserialize;
use serde_json::Value;

/// One line of a transcript.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Line {
    /// Which of the scenario's connections.
    pub(super) conn: Option<String>,
    /// `open`, `in` (from the gateway), `out` (to it) or `close`.
    pub(super) dir: Option<String>,
    /// Path of the upgrade.
    pub(super) url: Option<String>,
    /// Headers of the upgrade.
    #[serde(default)]
    pub(super) headers: serde_json::Map<String, Value>,
    /// A JSON frame.
    pub(super) frame: Option<Value>,
    /// A text frame that is no JSON.
    pub(super) raw: Option<String>,
    /// A binary frame, in hex.
    pub(super) binary: Option<String>,
    /// Who closed; the gateway when absent.
    pub(super) by: Option<String>,
    /// Close code.
    pub(super) code: Option<u16>,
    /// Close reason.
    pub(super) reason: Option<String>,
    /// A method called with the parameters of [`super::scenario`]; only the
    /// error was recorded.
    pub(super) call: Option<String>,
    /// Whether that call succeeded.
    pub(super) ok: Option<bool>,
    /// Its error.
    pub(super) error: Option<Value>,
    /// What the recorder says about the line.
    pub(super) note: Option<String>,
}

/// Reads a transcript.
pub(super) fn read(name: &str) -> Vec<Line> {
    let path = source_root().join("tests/fixtures/transcripts").join(format!("{name}.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
