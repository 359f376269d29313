//! Runs `moltbotctl` as its users do.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::process::Command;

use crate::{Daemon, PATIENCE, programs};

/// A `moltbotctl` with its own home, pointed at one gateway or at none.
#[derive(Debug)]
pub struct Ctl {
    home: PathBuf,
    variables: Vec<(String, String)>,
}

impl Ctl {
    /// Shares the home of a daemon, so it finds the control socket by itself.
    #[must_use]
    pub fn beside(daemon: &Daemon) -> Self {
        let mut ctl = Self::alone(daemon.home());
        ctl.variables.extend(daemon.variables());
        ctl
    }

    /// Lives in a folder of its own; the caller names the gateway.
    #[must_use]
    pub fn alone(home: &Path) -> Self {
        let home = home.to_owned();
        let variables = vec![("HOME".to_owned(), home.display().to_string())];
        Self { home, variables }
    }

    /// Lives in a folder of its own, with an environment of its own.
    #[must_use]
    pub fn with(home: &Path, variables: Vec<(String, String)>) -> Self {
        Self { home: home.to_owned(), variables }
    }

    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns a command that has not been started, for long-running ones.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs::moltbotctl());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let running = self.command(arguments).output();
        tokio::time::timeout(PATIENCE, running)
            .await
            .unwrap_or_else(|_| panic!("moltbotctl {arguments:?} did not end"))
            .expect("moltbotctl starts")
    }

    /// Runs a command that must succeed and returns what it printed.
    pub async fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(
            output.status.success(),
            "moltbotctl {arguments:?} failed with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        String::from_utf8(output.stdout).expect("moltbotctl prints UTF-8")
    }

    /// Runs a command with `--json` that must succeed and returns the answer.
    pub async fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.text(&[arguments, &["--json"]].concat()).await;
        serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("moltbotctl {arguments:?} printed no JSON: {error}: {text}")
        })
    }
}
