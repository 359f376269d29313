//! Programs of the reference, each in a home of its own.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use moltbot_tests::{Tree, npm, ports};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::Command,
    sync::{Semaphore, SemaphorePermit},
};

/// These programs need seconds of CPU and hundreds of megabytes each.
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

/// How long one of them may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program with its home, its configuration and the right to run.
pub(crate) struct Foreign {
    home: TempDir,
    script: &'static str,
    prefix: &'static str,
    _turn: SemaphorePermit<'static>,
}

impl Foreign {
    /// The reference itself: gateway, CLI, node host.
    pub(crate) async fn clawdbot(config: &Value) -> Self {
        Self::new("clawdbot/dist/entry.js", "CLAWDBOT", config).await
    }

    /// Its later CLI, which signs with version 3.
    pub(crate) async fn openclaw(config: &Value) -> Self {
        Self::new("openclaw/openclaw.mjs", "OPENCLAW", config).await
    }

    async fn new(script: &'static str, prefix: &'static str, config: &Value) -> Self {
        let turn = ONE_AT_A_TIME.acquire().await.unwrap();
        let home = tempfile::Builder::new().prefix("foreign").tempdir().unwrap();
        std::fs::write(home.path().join("config.json"), config.to_string()).unwrap();
        Self { home, script, prefix, _turn: turn }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = npm::script(self.script, self.home());
        command
            .args(arguments)
            .env(format!("{}_CONFIG_PATH", self.prefix), self.home().join("config.json"))
            .env(format!("{}_STATE_DIR", self.prefix), self.home().join("state"));
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        let mut running = Tree::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let ended = tokio::time::timeout(PATIENCE, running.output()).await;
        ended.unwrap_or_else(|_| panic!("{arguments:?} did not end")).unwrap()
    }

    /// Runs a command that must succeed and returns what it printed.
    pub(crate) async fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}\n{text}{errors}", output.status);
        text
    }

    /// Runs a command that must print JSON, perhaps below a line or two for
    /// people.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(arguments).await;
        let start = text.find(['{', '[']).unwrap_or_else(|| panic!("no JSON in {text}"));
        serde_json::from_str(&text[start..]).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Starts a command that goes on; its output goes to a file of the home.
    pub(crate) fn start(&self, arguments: &[&str]) -> Tree {
        let log = std::fs::File::create(self.home().join("log")).unwrap();
        let mut command = self.command(arguments);
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        Tree::spawn(&mut command)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home().join("log")).unwrap_or_default()
    }

    /// Starts a gateway on a free port and waits until it listens.
    ///
    /// Port and token go into its configuration: the flags of `gateway run` are
    /// taken by the command above it.
    pub(crate) async fn gateway(&self, config: &mut Value) -> (Tree, u16) {
        let port = ports::free();
        config["gateway"]["port"] = port.into();
        std::fs::write(self.home().join("config.json"), config.to_string()).unwrap();
        let mut child = self.start(&["gateway", "run"]);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the reference gateway ended: {}", self.log());
            assert!(tokio::time::Instant::now() < deadline, "no gateway: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (child, port)
    }
}
