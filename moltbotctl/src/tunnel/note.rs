//! What a tunnel says about itself, and the lock that says it lives. Both are
//! private files beside the device key; a tunnel that was killed leaves the note
//! behind, but not the lock.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{address::SshAddress, client::now_ms, files, paths::Paths};

/// How a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// ssh is on its way.
    Connecting,
    /// A gateway answers at the port.
    Up,
    /// ssh is through; no gateway answers behind it.
    Degraded,
    /// ssh ended; the next one starts in a moment.
    Waiting,
}

impl State {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Waiting => "waiting",
        }
    }
}

/// What a tunnel says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The process that keeps it up.
    pub pid: u32,
    /// Its ssh.
    pub ssh_pid: Option<u32>,
    /// When the process started, in milliseconds since the epoch.
    pub started_at_ms: u64,
    /// The far end, such as `ssh://me@host/18789`.
    pub url: String,
    /// The port on this host.
    pub local_port: u16,
    /// How it is.
    pub state: State,
    /// What is wrong, or what the gateway says.
    pub detail: Option<String>,
    /// Since when a gateway answers; kept while it is lost for a while.
    pub up_since_ms: Option<u64>,
    /// When the gateway was last asked.
    pub checked_at_ms: Option<u64>,
    /// The gateway's version, when it let us in.
    pub version: Option<String>,
    /// How often ssh was started anew.
    pub reconnects: u32,
}

impl Note {
    pub(super) fn new(ssh: &SshAddress, local_port: u16) -> Self {
        Self {
            pid: std::process::id(),
            ssh_pid: None,
            started_at_ms: now_ms(),
            url: crate::address::Address::Ssh(ssh.clone()).key(),
            local_port,
            state: State::Connecting,
            detail: None,
            up_since_ms: None,
            checked_at_ms: None,
            version: None,
            reconnects: 0,
        }
    }

    /// Changes how it is and writes it down.
    pub(super) fn set(&mut self, paths: &Paths, state: State, detail: Option<String>) {
        if state == State::Up && self.state != State::Up {
            self.up_since_ms = Some(now_ms());
        }
        (self.state, self.detail) = (state, detail);
        let text = serde_json::to_string(self).expect("a note serializes");
        // A tunnel works without being watched.
        let _ = files::replace(&file(paths, self.local_port, "json"), &text);
    }

    /// Describes it in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let (port, url, state) = (self.local_port, &self.url, self.state.name());
        match &self.detail {
            Some(detail) => format!("ws://127.0.0.1:{port} to {url} is {state}: {detail}"),
            None => format!("ws://127.0.0.1:{port} to {url} is {state}"),
        }
    }
}

/// Takes the lock of a port; `None` when another process has it.
///
/// # Errors
/// When the file cannot be made.
pub fn lock(paths: &Paths, port: u16) -> anyhow::Result<Option<Flock<File>>> {
    let path = file(paths, port, "lock");
    files::create(&path, "")?;
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

/// Returns the tunnel that serves a port.
///
/// # Errors
/// When the folder cannot be used.
pub fn find(paths: &Paths, port: u16) -> anyhow::Result<Option<Note>> {
    if !file(paths, port, "lock").exists() || lock(paths, port)?.is_some() {
        return Ok(None);
    }
    let text = files::read(&file(paths, port, "json"))?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Returns the tunnels that run, by port.
///
/// # Errors
/// When the folder cannot be used.
pub fn all(paths: &Paths) -> anyhow::Result<Vec<Note>> {
    let entries = fs::read_dir(paths.client_dir()).into_iter().flatten().flatten();
    let port = |name: &str| name.strip_prefix("tunnel-")?.strip_suffix(".lock")?.parse().ok();
    let mut ports: Vec<u16> =
        entries.filter_map(|entry| port(entry.file_name().to_str()?)).collect();
    ports.sort_unstable();
    let found = ports.into_iter().map(|port| find(paths, port));
    found.filter_map(Result::transpose).collect()
}

pub(crate) fn remove(paths: &Paths, port: u16) {
    // Without the lock nobody believes it anyway.
    let _ = fs::remove_file(file(paths, port, "json"));
}

/// Returns one of a tunnel's files: `lock`, `json` or `log`.
#[must_use]
pub fn file(paths: &Paths, port: u16, kind: &str) -> PathBuf {
    paths.client_dir().join(format!("tunnel-{port}.{kind}"))
}
