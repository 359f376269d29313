//! Where log lines go: the journal where there is one, else standard error,
//! and always a file of limited size that clients read with `logs.tail`.
//!
//! What a peer chose (names, headers, versions) is logged through [`Peer`].
//! Secrets are types that print nothing, so they cannot reach a log.

use std::{
    fmt::{self, Write as _},
    fs::{self, File},
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::json;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};
use tracing_subscriber::{
    Layer, Registry,
    field::MakeExt as _,
    filter::Targets,
    fmt::format::debug_fn,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use crate::{environment::Environment, private};

/// Most bytes of a string that a peer chose.
const LONGEST_PEER_STRING: usize = 256;
/// Most bytes of any field in our own file.
const LONGEST_FIELD: usize = 2048;
/// Size at which the file is set aside; one older file is kept.
const LARGEST_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Crates whose inner life nobody asked for.
const QUIET: [&str; 6] = ["hyper", "hyper_util", "reqwest", "rustls", "tungstenite", "genai"];

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people, on standard error.
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// The system's journal, with native fields.
    Journald,
}

/// A handle to the running logs.
#[derive(Clone, Debug)]
pub struct Logs {
    filter: reload::Handle<Targets, Registry>,
    file: PathBuf,
    pinned: bool,
}

/// Why logs cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The journal was asked for by name and does not answer.
    #[error("cannot log to the journal: {0}; use --log-format text")]
    Journal(io::Error),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] private::Error),
    /// Logs have been started before.
    #[error("logs run already")]
    Twice,
}

impl Logs {
    /// Starts logs for the whole process.
    pub fn start(
        format: Option<LogFormat>,
        level: LevelFilter,
        file: &Path,
        profile: &str,
        environment: &Environment,
    ) -> Result<Self, LoggingError> {
        let (filter, handle) = reload::Layer::new(targets(level));
        let lines = Lines::open(file)?;
        Registry::default()
            .with(filter)
            .with(output(format, profile, environment)?)
            .with(lines)
            .try_init()
            .map_err(|_| LoggingError::Twice)?;
        Ok(Self { filter: handle, file: file.into(), pinned: false })
    }

    /// Keeps the level: it was given on the command line.
    #[must_use]
    pub fn pinned(self) -> Self {
        Self { pinned: true, ..self }
    }

    /// Changes how much is logged, unless that is pinned.
    pub fn set_level(&self, level: LevelFilter) {
        if self.pinned {
            return;
        }
        // Fails only when the process has no logs any more.
        let _ = self.filter.reload(targets(level));
    }

    /// Returns the file that clients read.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// A string that a peer chose: one line of ASCII, cut to 256 bytes.
#[derive(Clone, Copy)]
pub struct Peer<'a>(pub &'a str);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, LONGEST_PEER_STRING)
    }
}

impl fmt::Debug for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn write_escaped(out: &mut impl fmt::Write, text: &str, longest: usize) -> fmt::Result {
    let mut bytes = 0;
    for character in text.chars() {
        let escaped = character.escape_default();
        bytes += escaped.len();
        if bytes > longest {
            return out.write_str("...");
        }
        match character {
            '"' | '\'' => out.write_char(character)?,
            _ => write!(out, "{escaped}")?,
        }
    }
    Ok(())
}

fn targets(level: LevelFilter) -> Targets {
    let quiet = level.min(LevelFilter::WARN);
    QUIET.iter().fold(Targets::new().with_default(level), |targets, target| {
        targets.with_target(*target, quiet)
    })
}

type Output<S> = Box<dyn Layer<S> + Send + Sync>;

fn output<S>(
    format: Option<LogFormat>,
    profile: &str,
    environment: &Environment,
) -> Result<Output<S>, LoggingError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    match format {
        Some(LogFormat::Journald) => journal(profile).map_err(LoggingError::Journal),
        Some(LogFormat::Json) => {
            Ok(tracing_subscriber::fmt::layer().json().with_writer(io::stderr).boxed())
        }
        Some(LogFormat::Text) => Ok(text()),
        None if is_journal(environment) => Ok(journal(profile).unwrap_or_else(|_| text())),
        None => Ok(text()),
    }
}

fn text<S>() -> Output<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let fields = debug_fn(|out, field, value| {
        let mut escaped = String::new();
        write_line(&mut escaped, value)?;
        match field.name() {
            "message" => write!(out, "{escaped}"),
            name => write!(out, "{name}={escaped}"),
        }
    });
    tracing_subscriber::fmt::layer()
        .fmt_fields(fields.delimited(" "))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .boxed()
}

fn journal<S>(profile: &str) -> io::Result<Output<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let layer = tracing_journald::layer()?
        .with_field_prefix(Some("MOLTBOT".into()))
        .with_syslog_identifier("moltbotd".into())
        .with_custom_fields([("MOLTBOT_PROFILE", profile)]);
    Ok(layer.boxed())
}

/// Returns whether standard error is the stream that the service manager
/// connected to the journal: it may have been redirected since.
fn is_journal(environment: &Environment) -> bool {
    let Some((device, inode)) = environment.get("JOURNAL_STREAM").and_then(|id| id.split_once(':'))
    else {
        return false;
    };
    let Ok(stream) = nix::sys::stat::fstat(io::stderr()) else { return false };
    device.parse() == Ok(stream.st_dev) && inode.parse() == Ok(stream.st_ino)
}

/// The file of limited size, in the line format that the reference's clients
/// parse: numbered arguments, `_meta` and `time`.
struct Lines {
    path: PathBuf,
    largest_bytes: u64,
    open: Mutex<Open>,
}

struct Open {
    file: File,
    bytes: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, private::Error> {
        if let Some(folder) = path.parent() {
            private::folder(folder)?;
        }
        let open = Open::at(path)?;
        Ok(Self { path: path.into(), largest_bytes: LARGEST_FILE_BYTES, open: Mutex::new(open) })
    }

    /// A line that cannot be written is lost: there is nowhere to say so, and
    /// the daemon's work does not depend on it.
    fn write(&self, line: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = line.len() as u64;
        if open.bytes + bytes > self.largest_bytes
            && fs::rename(&self.path, self.path.with_extension("log.1")).is_ok()
            && let Ok(next) = Open::at(&self.path)
        {
            *open = next;
        }
        if open.file.write_all(line.as_bytes()).is_ok() {
            open.bytes += bytes;
        }
    }
}

impl Open {
    fn at(path: &Path) -> Result<Self, private::Error> {
        let file = private::appended(path)?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.size());
        Ok(Self { file, bytes })
    }
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, cx: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = cx.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, cx: Context<'_, S>) {
        if let Some(span) = cx.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut text = fields.message + &fields.rest;
        for span in cx.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                text += &outer.rest;
            }
        }
        self.write(&line(event.metadata().level(), event.metadata().target(), &text));
    }
}

fn line(level: &Level, target: &str, text: &str) -> String {
    let (id, name) = match *level {
        Level::TRACE => (1, "TRACE"),
        Level::DEBUG => (2, "DEBUG"),
        Level::INFO => (3, "INFO"),
        Level::WARN => (4, "WARN"),
        Level::ERROR => (5, "ERROR"),
    };
    let target = target.strip_prefix("moltbotd::").unwrap_or(target);
    let subsystem = json!({ "subsystem": target.replace("::", "/") }).to_string();
    // The clients of the reference read dates with three decimals.
    let now = format!("{:.3}", Timestamp::now());
    let mut line = json!({
        "0": subsystem,
        "1": text,
        "_meta": {
            "runtime": "moltbotd",
            "name": subsystem,
            "date": now,
            "logLevelId": id,
            "logLevelName": name,
        },
        "time": now,
    })
    .to_string();
    line.push('\n');
    line
}

/// The fields of a span or an event, as text.
#[derive(Default)]
struct Fields {
    message: String,
    /// ` name=value` for each other field.
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write_line(&mut self.message, value),
            name => write!(self.rest, " {name}=").and_then(|()| write_line(&mut self.rest, value)),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Writes a value without anything that could end the line or move a
/// terminal's cursor.
fn write_line(out: &mut String, value: &dyn fmt::Debug) -> fmt::Result {
    let text = format!("{value:?}");
    for (index, character) in text.char_indices() {
        if index > LONGEST_FIELD {
            return out.write_str("...");
        }
        match character {
            character if character.is_control() => write!(out, "{}", character.escape_default())?,
            '\u{2028}' | '\u{2029}' => write!(out, "{}", character.escape_default())?,
            character => out.push(character),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn logged(path: &Path, work: impl FnOnce()) -> Vec<serde_json::Value> {
        let subscriber = Registry::default().with(Lines::open(path).unwrap());
        tracing::subscriber::with_default(subscriber, work);
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_those_that_clients_parse() {
        let dir = tempfile::tempdir().unwrap();
        let lines = logged(&dir.path().join("moltbot.log"), || {
            let span = tracing::info_span!("conn", conn = 7);
            span.in_scope(|| tracing::warn!(target: "moltbotd::net::http", code = 3, "refused"));
        });
        assert_eq!(lines[0]["0"], r#"{"subsystem":"net/http"}"#);
        assert_eq!(lines[0]["1"], "refused code=3 conn=7");
        assert_eq!(lines[0]["_meta"]["logLevelName"], "WARN");
        let time = lines[0]["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() == 24, "{time}");
    }

    #[test]
    fn nothing_a_peer_says_makes_a_second_line() {
        let dir = tempfile::tempdir().unwrap();
        let name = "eve\n{\"0\":\"forged\"}\u{1b}[2J";
        let lines = logged(&dir.path().join("moltbot.log"), || {
            tracing::info!(plain = name, shown = %name, peer = %Peer(name), "hello");
        });
        assert_eq!(lines.len(), 1);
        let text = lines[0]["1"].as_str().unwrap();
        assert!(!text.contains('\n') && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn what_a_peer_chose_is_ascii_and_short() {
        let text = Peer(&"ü\r\n".repeat(500)).to_string();
        assert!(text.is_ascii() && !text.contains('\n'));
        assert!(text.len() <= LONGEST_PEER_STRING + 3, "{}", text.len());
        assert_eq!(Peer("it's \"me\"").to_string(), "it's \"me\"");
    }

    #[test]
    fn a_full_file_is_set_aside_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbot.log");
        let lines = Lines { largest_bytes: 1000, ..Lines::open(&path).unwrap() };
        for _ in 0..50 {
            lines.write(&format!("{}\n", "x".repeat(99)));
        }
        let size = |path: &Path| fs::metadata(path).unwrap().size();
        assert!(size(&path) <= 1000 && size(&path) > 0);
        assert_eq!(size(&dir.path().join("moltbot.log.1")), 1000);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}
