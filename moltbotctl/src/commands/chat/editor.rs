//! The line that a person types in a conversation.
//!
//! The editor blocks while it waits for keys, so it has a thread of its own and
//! reads one line each time it is asked for one. Between two lines the terminal
//! is an ordinary one: an answer is printed as it comes, and Ctrl-C is a signal.
//! While a line is being typed, remarks go through the editor, which prints them
//! above that line and draws it again.

use std::{
    io::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
};

use anyhow::Context as _;
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use rustyline::{
    Config, Context, Editor, ExternalPrinter, Helper, completion::Completer, error::ReadlineError,
    highlight::Highlighter, hint::Hinter, history::FileHistory, validate::Validator,
};
use tokio::sync::mpsc;

use crate::files;

/// Lines that are remembered; older ones make room.
const REMEMBERED: usize = 1000;
/// What is certainly no secret is shorter than this.
const SECRET_CHARS: usize = 20;
/// Words of lines that are not remembered.
const SECRET_WORDS: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "api key", "api_key", "bearer"];

/// What a person did with the line.
#[derive(Debug)]
pub(super) enum Typed {
    /// Sent it. It has line breaks when it was pasted with them.
    Line(String),
    /// Ctrl-C: the line is gone.
    Cleared,
    /// Ctrl-D on an empty line, or the terminal is gone.
    End,
}

/// The editor, and the thread it works on.
pub(super) struct LineEditor {
    prompts: mpsc::Sender<()>,
    typed: mpsc::Receiver<io::Result<Typed>>,
    printer: Mutex<Box<dyn ExternalPrinter + Send>>,
    commands: Arc<OnceLock<Vec<String>>>,
    /// Whether the thread has the terminal.
    reading: bool,
    terminal: TerminalState,
}

impl LineEditor {
    /// Prepares the editor; its history is a private file.
    pub(super) fn start(history: &Path) -> anyhow::Result<Self> {
        let terminal = TerminalState::save()?;
        files::create(history, "")?;
        // Narrows the file's mode, should it be wider.
        files::read(history)?;
        let config = Config::builder()
            .max_history_size(REMEMBERED)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .build();
        let commands = Arc::new(OnceLock::new());
        let mut editor: Editor<Commands, FileHistory> = Editor::with_config(config)?;
        editor.set_helper(Some(Commands(Arc::clone(&commands))));
        // A damaged history is no reason not to talk.
        let _ = editor.load_history(history);
        let printer = Box::new(editor.create_external_printer()?);
        let (prompts, asked) = mpsc::channel(1);
        let (told, typed) = mpsc::channel(1);
        let history = history.to_owned();
        thread::Builder::new()
            .name("line editor".into())
            .spawn(move || read_lines(editor, &history, asked, &told))
            .context("cannot start the line editor")?;
        let printer = Mutex::new(printer as Box<dyn ExternalPrinter + Send>);
        Ok(Self { prompts, typed, printer, commands, reading: false, terminal })
    }

    /// Sets what Tab completes after `/`.
    pub(super) fn complete(&self, commands: Vec<String>) {
        // The first list stays: a gateway does not change its commands while it runs.
        let _ = self.commands.set(commands);
    }

    /// Waits for the next line. May be dropped and called again: the line that is
    /// being typed stays.
    pub(super) async fn next(&mut self) -> anyhow::Result<Typed> {
        if !self.reading {
            self.reading = self.prompts.send(()).await.is_ok();
        }
        let typed = self.typed.recv().await;
        self.reading = false;
        Ok(typed.transpose()?.unwrap_or(Typed::End))
    }

    /// Prints a line above the one that is being typed.
    pub(super) fn print(&self, text: &str) {
        let mut printer = self.printer.lock().unwrap_or_else(PoisonError::into_inner);
        // The terminal may be gone; then nobody reads this.
        let _ = printer.print(format!("{text}\n"));
    }

    /// Returns whether a line is being typed.
    pub(super) const fn is_reading(&self) -> bool {
        self.reading
    }
}

impl Drop for LineEditor {
    /// The thread may still wait for keys, in a terminal that echoes nothing.
    fn drop(&mut self) {
        if self.reading {
            self.terminal.restore();
        }
    }
}

fn read_lines(
    mut editor: Editor<Commands, FileHistory>,
    history: &Path,
    mut asked: mpsc::Receiver<()>,
    told: &mpsc::Sender<io::Result<Typed>>,
) {
    while asked.blocking_recv().is_some() {
        let typed = match editor.readline("> ") {
            Ok(line) => {
                if !line.trim().is_empty() && !may_hold_secret(&line) {
                    // A history that cannot be written is no reason not to talk.
                    let _ = editor.add_history_entry(line.as_str());
                    let _ = editor.append_history(history);
                }
                Ok(Typed::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Cleared),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(ReadlineError::Signal(_)) => Ok(Typed::Cleared),
            Err(ReadlineError::Io(error)) => Err(error),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        if told.blocking_send(typed).is_err() {
            return;
        }
    }
}

/// Guesses whether a line holds a secret. One that is not remembered is typed
/// again; one that is remembered lies in a file.
fn may_hold_secret(line: &str) -> bool {
    let lower = line.to_lowercase();
    let is_token = |word: &str| {
        word.len() >= SECRET_CHARS
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-+/=.:".contains(c))
            && word.contains(|c: char| c.is_ascii_digit())
            && word.contains(|c: char| c.is_ascii_alphabetic())
            && !word.contains("://")
    };
    SECRET_WORDS.iter().any(|word| lower.contains(word)) || line.split_whitespace().any(is_token)
}

/// Completes the commands of the gateway and of this program.
struct Commands(Arc<OnceLock<Vec<String>>>);

impl Completer for Commands {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _cx: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..pos).unwrap_or_default();
        let known = self.0.get().into_iter().flatten();
        let fitting = known.filter(|name| typed.starts_with('/') && name.starts_with(typed));
        Ok((0, fitting.cloned().collect()))
    }
}

impl Hinter for Commands {
    type Hint = String;
}

impl Highlighter for Commands {}
impl Validator for Commands {}
impl Helper for Commands {}

/// How the terminal was before the editor.
struct TerminalState(Termios);

impl TerminalState {
    fn save() -> anyhow::Result<Self> {
        Ok(Self(tcgetattr(io::stdin()).context("cannot read the state of the terminal")?))
    }

    fn restore(&self) {
        // Without bracketed paste, and on a line of its own. There is nobody to tell of a failure.
        let _ = io::stdout().write_all(b"\x1b[?2004l\r\n");
        let _ = io::stdout().flush();
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_may_hold_a_secret_are_not_remembered() {
        // Written in two parts, so that no tool takes it for a key of somebody.
        let model_key = format!("use sk-{}", "a1B2".repeat(8));
        for line in
            ["my password is hunter2", &model_key, "TOKEN=x", "0123456789abcdef0123456789abcdef"]
        {
            assert!(may_hold_secret(line), "{line}");
        }
        for line in [
            "what is the weather like tomorrow?",
            "/node attic system.which {\"bins\":[\"git\"]}",
            "look at https://example.org/some/long/path/2026/12/01",
            "internationalization",
        ] {
            assert!(!may_hold_secret(line), "{line}");
        }
    }

    #[test]
    fn a_command_is_completed_at_the_start_of_the_line_only() {
        let commands = Commands(Arc::new(OnceLock::from(vec![
            "/new".to_owned(),
            "/node".to_owned(),
            "/nodes".to_owned(),
        ])));
        let history = rustyline::history::DefaultHistory::new();
        let cx = Context::new(&history);
        let complete = |line: &str| commands.complete(line, line.len(), &cx).unwrap();
        assert_eq!(complete("/nod"), (0, vec!["/node".to_owned(), "/nodes".to_owned()]));
        assert_eq!(complete("hello /n").1, Vec::<String>::new());
        assert_eq!(complete("").1, Vec::<String>::new());
    }
}
