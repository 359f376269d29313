//! Where log lines go: the journal where there is one, else standard error and
//! a file of limited size. Never to both the journal and a file, unless the
//! configuration names the file. What clients read with `logs.tail` is the
//! file, or else the last lines, which are kept in memory.
//!
//! What a peer chose (names, headers, versions) is logged through [`Peer`].
//! Secrets are types that print nothing; what others say of them is blotted out
//! before any output sees it. Lines that keep coming are counted instead.

mod file;
mod fold;
mod gate;
mod redact;

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
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

pub(crate) use self::redact::holds_secret;
pub use self::{
    file::{Keep, Part},
    redact::{Known, Redactions},
};
use self::{
    file::{Source, Store},
    gate::{Gate, Guard},
};
use crate::environment::Environment;

/// Most bytes of a string that a peer chose.
const LONGEST_PEER_STRING: usize = 256;
/// Most bytes of any field in our own file.
const LONGEST_FIELD: usize = 2048;
/// How often it is looked at whether lines were left out.
const SWEEP: Duration = Duration::from_secs(10);
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

/// What is logged, and where.
#[derive(Debug)]
pub struct Settings<'a> {
    /// How it is written; by default what suits standard error.
    pub format: Option<LogFormat>,
    /// How much.
    pub level: LevelFilter,
    /// The file where there is no journal.
    pub usual_file: &'a Path,
    /// The file that the configuration names, which is written always.
    pub wanted_file: Option<&'a Path>,
    /// How much of it is kept.
    pub keep: Keep,
    /// The gateway's own secrets, which are never written.
    pub own_secrets: Vec<Known>,
    /// What else is never written.
    pub redactions: Redactions,
    /// Name of the profile.
    pub profile: &'a str,
}

/// A handle to the running logs.
#[derive(Clone, Debug)]
pub struct Logs {
    filter: reload::Handle<Targets, Registry>,
    gate: Arc<Gate>,
    store: Arc<Mutex<Store>>,
    own_secrets: Arc<Mutex<Vec<Known>>>,
    pinned: bool,
}

/// Why logs cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The journal was asked for by name and does not answer.
    #[error("cannot log to the journal: {0}; use --log-format text")]
    Journal(io::Error),
    /// Logs have been started before.
    #[error("logs run already")]
    Twice,
}

impl Logs {
    /// Starts logs for the whole process. A file that cannot be written stops
    /// nobody: it is told, and tried again.
    pub fn start(settings: Settings<'_>, environment: &Environment) -> Result<Self, LoggingError> {
        let (filter, handle) = reload::Layer::new(targets(settings.level));
        let (output, is_journal) = output(settings.format, settings.profile, environment)?;
        let usual = (!is_journal).then_some(settings.usual_file);
        let store = Store::new(settings.wanted_file.or(usual));
        let store = Arc::new(Mutex::new(store));
        let gate = Arc::new(Gate::default());
        Registry::default()
            .with(filter)
            .with(output)
            .with(Lines(Arc::clone(&store)))
            .with(Guard(Arc::clone(&gate)))
            .try_init()
            .map_err(|_| LoggingError::Twice)?;
        let logs = Self {
            filter: handle,
            gate,
            store,
            own_secrets: Arc::new(Mutex::new(settings.own_secrets)),
            pinned: false,
        };
        logs.set_rules(settings.keep, settings.redactions);
        if let Some(trouble) = logs.trouble() {
            tracing::warn!(trouble, "the log file cannot be written; going on without");
        }
        Ok(logs)
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

    /// Changes what is kept and what is never written.
    pub fn set_rules(&self, keep: Keep, mut redactions: Redactions) {
        redactions.known.extend_from_slice(&self.own_secrets());
        self.store().keep(keep);
        self.gate.redactions.store(Arc::new(redactions));
    }

    /// Never writes these either; those of before stay unwritten.
    pub fn hide(&self, secrets: impl Iterator<Item = Known>) {
        let mut redactions = Redactions::clone(&self.gate.redactions.load());
        for secret in secrets {
            redactions.known.push(secret.clone());
            self.own_secrets().push(secret);
        }
        self.gate.redactions.store(Arc::new(redactions));
    }

    /// Reads the last `most` bytes of the log, or what follows `from` if that
    /// is less; returns where it was read, too. May read a file: not to be
    /// called on a runtime's thread.
    pub fn read(&self, from: Option<u64>, most: u64) -> io::Result<(String, Part)> {
        let path = match self.store().source() {
            Source::Memory(memory) => return Ok(("memory".to_owned(), memory.read(from, most))),
            Source::File(path) => path,
        };
        Ok((path.display().to_string(), file::read(&path, from, most)?))
    }

    /// Returns why the file is not written, if it is not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.store().trouble()
    }

    /// Returns how many lines were counted instead of written, and how many
    /// could not be written to the file.
    #[must_use]
    pub fn left_out(&self) -> (u64, u64) {
        (self.gate.folded.get(), self.store().lost())
    }

    /// Says now and then what was left out. Runs until cancelled.
    pub async fn keep_count(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.gate.sweep();
        }
    }

    /// Says what was left out, before the end.
    pub fn finish(&self) {
        self.gate.finish();
    }

    fn own_secrets(&self) -> MutexGuard<'_, Vec<Known>> {
        self.own_secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Returns the output, and whether it ends in the journal.
fn output<S>(
    format: Option<LogFormat>,
    profile: &str,
    environment: &Environment,
) -> Result<(Output<S>, bool), LoggingError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    // What goes to the journal as text is in the journal, too.
    let captured = is_journal(environment);
    match format {
        Some(LogFormat::Journald) => {
            journal(profile).map(|journal| (journal, true)).map_err(LoggingError::Journal)
        }
        Some(LogFormat::Json) => {
            Ok((tracing_subscriber::fmt::layer().json().with_writer(io::stderr).boxed(), captured))
        }
        None if captured => Ok((journal(profile).unwrap_or_else(|_| text()), true)),
        Some(LogFormat::Text) | None => Ok((text(), captured)),
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

/// The own log, in the line format that the reference's clients parse:
/// numbered arguments, `_meta` and `time`.
struct Lines(Arc<Mutex<Store>>);

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
        let line = line(event.metadata().level(), event.metadata().target(), &text);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(&line);
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
    use std::fs;

    use super::*;

    fn logged(path: &Path, work: impl FnOnce()) -> Vec<serde_json::Value> {
        let store = Arc::new(Mutex::new(Store::new(Some(path))));
        let subscriber = Registry::default().with(Lines(store));
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
}
