//! Asking the person at the terminal.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _},
};

use nix::sys::termios::{self, LocalFlags, SetArg, Termios};

/// Asks for a secret, which is not shown while it is typed. Returns `None` when nobody is there to
/// ask, or nothing is typed.
///
/// # Errors
/// When the terminal cannot be read.
pub fn ask_secret(question: &str) -> io::Result<Option<String>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    // Not standard output: that may be a file, and the answer is for the terminal.
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(question.as_bytes())?;
    let mut secret = String::new();
    {
        let _hidden = Hidden::of(terminal.try_clone()?)?;
        BufReader::new(terminal.try_clone()?).read_line(&mut secret)?;
    }
    terminal.write_all(b"\n")?;
    let secret = secret.trim_end_matches(['\r', '\n']).to_owned();
    Ok((!secret.is_empty()).then_some(secret))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden {
    terminal: File,
    before: Termios,
}

impl Hidden {
    fn of(terminal: File) -> io::Result<Self> {
        let before = termios::tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        hidden.local_flags.insert(LocalFlags::ECHONL);
        termios::tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}
