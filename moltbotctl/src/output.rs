//! The only place that prints: text and tables for people, JSON for programs.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process,
};

use jiff::Timestamp;
use nu_ansi_term::{Color, Style};
use serde_json::{Value, json};

use crate::{client::now_ms, environment::Environment, table};

/// How and where to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON.
    pub json: bool,
    coloured: bool,
    coloured_remarks: bool,
    terminal: bool,
}

impl Output {
    /// Colours go to a terminal only, and never with `NO_COLOR`. Results and
    /// remarks go to different places, so each is judged by its own.
    #[must_use]
    pub fn new(json: bool, environment: &Environment) -> Self {
        let terminal = io::stdout().is_terminal();
        let plain = environment.var("NO_COLOR").is_some()
            || environment.var("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            coloured: terminal && !plain && !json,
            coloured_remarks: io::stderr().is_terminal() && !plain && !json,
            terminal,
        }
    }

    /// Returns whether a person watches.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a line.
    pub fn line(&self, text: impl Display) {
        write(io::stdout().lock(), &format!("{text}\n"));
    }

    /// Prints text as it is and at once.
    pub fn text(&self, text: &str) {
        write(io::stdout().lock(), text);
    }

    /// Prints a value, indented.
    pub fn value(&self, value: &Value) {
        let text = serde_json::to_string_pretty(value).expect("JSON values serialize");
        self.line(text);
    }

    /// Prints a value as one line.
    pub fn value_line(&self, value: &Value) {
        self.line(value);
    }

    /// Prints a remark that is not part of the result.
    pub fn remark(&self, text: impl Display) {
        write(io::stderr().lock(), &format!("{text}\n"));
    }

    /// Prints an error and what helps.
    pub fn error(&self, message: &str, code: Option<&str>, advice: Option<&str>) {
        if self.json {
            let error = json!({ "message": message, "code": code, "advice": advice });
            return self.remark(json!({ "ok": false, "error": error }));
        }
        let label = self.paint_remark(Color::Red.bold(), "error:");
        self.remark(format!("{label} {}", clean(message)));
        if let Some(advice) = advice {
            let label = self.paint_remark(Color::Cyan.normal(), "help:");
            self.remark(format!("{label} {}", clean(advice)));
        }
    }

    /// Prints a remark in a quiet colour.
    pub fn quiet_remark(&self, text: &str) {
        self.remark(self.paint_remark(Style::new().dimmed(), text));
    }

    /// Prints a heading.
    pub fn heading(&self, text: &str) {
        self.line(self.paint(Style::new().bold(), text));
    }

    /// Prints labelled values, one a line.
    pub fn pairs(&self, pairs: &[(&str, String)]) {
        let width = pairs.iter().map(|(label, _)| label.len()).max().unwrap_or_default();
        for (label, value) in pairs {
            let label = self.paint(Style::new().dimmed(), &format!("{label:width$}"));
            self.line(format!("{label}  {value}"));
        }
    }

    /// Prints a table, or a remark when it has no rows. In a terminal that is too
    /// narrow for it, the rows are printed as a list.
    pub fn table(&self, headers: &[&str], rows: Vec<Vec<String>>, empty: &str) {
        if rows.is_empty() {
            return self.line(self.paint(Style::new().dimmed(), empty));
        }
        let width =
            if self.terminal { terminal_size::terminal_size_of(io::stdout()) } else { None };
        // A terminal that does not tell its size has no columns.
        let width = width.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0);
        let heading = |name: &str| self.paint(Style::new().bold(), name);
        for line in table::lay_out(headers, &rows, width, heading) {
            self.line(line);
        }
    }

    /// Returns the text green or red.
    #[must_use]
    pub fn verdict(&self, good: bool, text: &str) -> String {
        self.paint(if good { Color::Green.normal() } else { Color::Red.normal() }, text)
    }

    /// Returns the text in a quiet colour.
    #[must_use]
    pub fn quiet(&self, text: &str) -> String {
        self.paint(Style::new().dimmed(), text)
    }

    /// Returns the text in a colour.
    #[must_use]
    pub fn colour(&self, colour: Color, text: &str) -> String {
        self.paint(colour.normal(), text)
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if self.coloured { style.paint(text).to_string() } else { text.to_owned() }
    }

    fn paint_remark(&self, style: Style, text: &str) -> String {
        if self.coloured_remarks { style.paint(text).to_string() } else { text.to_owned() }
    }
}

/// A reader that went away, such as `head`, has what it wanted.
fn write(mut stream: impl Write, text: &str) {
    let written = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => process::exit(0),
        // There is no place left to report it.
        _ => {}
    }
}

/// Returns text from a peer without characters that could steer a terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    let harmless = |c: char| matches!(c, '\n' | '\t') || !(c.is_control() || is_bidi(c));
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let escaped = (!harmless(c)).then(|| c.escape_unicode());
            escaped.into_iter().flatten().chain(harmless(c).then_some(c))
        })
        .collect()
}

/// Characters that reorder the text around them.
const fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns a cell for a member of a peer's value: its text, number or list.
#[must_use]
pub fn cell(value: &Value, pointer: &str) -> String {
    show(value.pointer(pointer).unwrap_or(&Value::Null))
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => clean(text),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(", "),
        other => clean(&other.to_string()),
    }
}

/// Returns how long ago a moment was, such as `3m ago`.
#[must_use]
pub fn ago(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer).and_then(Value::as_u64) {
        Some(then) => format!("{} ago", duration(now_ms().saturating_sub(then))),
        None => "-".into(),
    }
}

/// Returns a duration such as `45s`, `3m` or `2d`.
#[must_use]
pub fn duration(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..=59 => format!("{seconds}s"),
        seconds @ 60..=3599 => format!("{}m", seconds / 60),
        seconds @ 3600..=86_399 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Returns a moment in RFC 3339, UTC.
#[must_use]
pub fn moment(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| "-".into(), |at| at.to_string())
}

/// Returns the first twelve characters of an id, enough to name it on the
/// command line.
#[must_use]
pub fn short(id: &str) -> String {
    clean(&id.chars().take(12).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(clean("plain\ttext\n"), "plain\ttext\n");
        assert_eq!(clean("a\u{1b}[31mb\u{202e}"), "a\\u{1b}[31mb\\u{202e}");
    }

    #[test]
    fn cells_read_well() {
        let value = json!({ "a": ["x", "y"], "b": true, "c": 3, "d": "" });
        let cells = ["/a", "/b", "/c", "/d", "/e"].map(|pointer| cell(&value, pointer));
        assert_eq!(cells, ["x, y", "yes", "3", "-", "-"]);
    }

    #[test]
    fn durations_have_one_unit() {
        let texts = [0, 59_999, 60_000, 3_600_000, 86_400_000].map(duration);
        assert_eq!(texts, ["0s", "59s", "1m", "1h", "1d"]);
    }
}
