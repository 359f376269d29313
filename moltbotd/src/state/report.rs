//! What a command tells: lines for people, JSON for programs.

use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::Value;

/// What came of a command.
#[derive(Clone, Debug)]
pub(super) struct Report {
    value: Value,
    lines: Vec<String>,
    exit_code: u8,
}

impl Report {
    /// The same thing twice: as a value, and as lines.
    pub(super) fn new(value: &impl Serialize, lines: Vec<String>) -> Self {
        Self { value: serde_json::to_value(value).expect("reports serialize"), lines, exit_code: 0 }
    }

    /// The same for a command that did not do everything.
    pub(super) fn with_exit_code(self, exit_code: u8) -> Self {
        Self { exit_code, ..self }
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.exit_code
    }

    pub(super) fn print(&self, json: bool) {
        let text = if json { format!("{:#}", self.value) } else { self.lines.join("\n") };
        // A reader that left has seen enough.
        let _ = writeln!(io::stdout(), "{text}");
    }
}

/// Returns a size for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut whole, mut rest, mut unit) = (bytes, 0, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        (whole, rest, unit) = (whole / 1024, whole % 1024, unit + 1);
    }
    if unit == 0 {
        format!("{whole} B")
    } else {
        format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit])
    }
}
