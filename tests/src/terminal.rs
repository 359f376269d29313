//! A program in a terminal: what it shows there, and what a person types.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::pty::{Winsize, openpty};
use tokio::process::{Child, Command};

use crate::PATIENCE;

/// Lines of the screen: enough for everything a test prints.
const ROWS: u16 = 60;

/// A terminal with one program in it, which it controls.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").field("screen", &self.screen()).finish_non_exhaustive()
    }
}

impl Terminal {
    /// Starts a command with all its input and output here.
    #[must_use]
    pub fn start(command: &Command, columns: u16) -> Self {
        let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("there are pseudo terminals");
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let asked = command.as_std();
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(asked.get_program())
            .args(asked.get_args())
            .env_clear()
            .envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .kill_on_drop(true);
        if let Some(folder) = asked.get_current_dir() {
            command.current_dir(folder);
        }
        let child = command.spawn().expect("setsid is part of every Linux system");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, columns, 0)));
        let mut output = File::from(pty.master.try_clone().unwrap());
        let drawn = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error when the last program has closed its end.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                drawn.lock().unwrap().process(&buffer[..count]);
            }
        });
        Self { child, keyboard: File::from(pty.master), screen }
    }

    /// Types keys.
    pub fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal is open");
    }

    /// Pastes a text, as a terminal does for a program that asked to be told.
    pub fn paste(&mut self, text: &str) {
        assert!(self.screen.lock().unwrap().screen().bracketed_paste(), "pastes are marked");
        self.keys(&format!("\u{1b}[200~{text}\u{1b}[201~"));
    }

    /// Returns the lines on the screen, up to the last that is not empty.
    #[must_use]
    pub fn screen(&self) -> Vec<String> {
        let parser = self.screen.lock().unwrap();
        let columns = parser.screen().size().1;
        let mut lines: Vec<String> = parser.screen().rows(0, columns).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// Returns whether a line of the screen goes on in the next because it was too long.
    #[must_use]
    pub fn is_wrapped(&self, line: usize) -> bool {
        let row = u16::try_from(line).expect("screens are small");
        self.screen.lock().unwrap().screen().row_wrapped(row)
    }

    /// Returns whether something on the screen has a colour.
    #[must_use]
    pub fn is_coloured(&self) -> bool {
        let parser = self.screen.lock().unwrap();
        let (rows, columns) = parser.screen().size();
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let mut cells = cells.filter_map(|(row, column)| parser.screen().cell(row, column));
        cells.any(|cell| cell.fgcolor() != vt100::Color::Default)
    }

    /// Waits until the screen shows something.
    pub async fn until(&self, what: &str, fits: impl Fn(&[String]) -> bool) {
        let search = async {
            while !fits(&self.screen()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        assert!(found.is_ok(), "never {what}; on the screen: {:#?}", self.screen());
    }

    /// Waits until a line begins so.
    pub async fn shows(&self, beginning: &str) {
        let fits = |lines: &[String]| lines.iter().any(|line| line.starts_with(beginning));
        self.until(&format!("a line that begins with {beginning:?}"), fits).await;
    }

    /// Waits for the program's end.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("it did not end; on the screen: {:#?}", self.screen()))
            .unwrap()
    }
}
