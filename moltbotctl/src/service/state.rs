//! What a service manager says about a service.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Scope;

/// What a service manager says about the service of a profile.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// `systemd` or `launchd`.
    pub manager: &'static str,
    /// Whose.
    pub scope: Option<Scope>,
    /// Name of the unit or job.
    pub unit: String,
    /// Why the manager could not be asked.
    pub unreachable: Option<String>,
    /// Whether the manager knows the service.
    pub installed: bool,
    /// The files it is made of.
    pub files: Vec<PathBuf>,
    /// Whether it starts by itself.
    pub enabled: bool,
    /// The manager's word for that.
    pub enabled_text: String,
    /// The manager's word for how it is, such as `active`.
    pub active: String,
    /// The manager's more exact word.
    pub sub_state: String,
    /// Whether it runs.
    pub running: bool,
    /// Its main process.
    pub pid: Option<u32>,
    /// Since when it is as it is, in milliseconds since the epoch.
    pub since_ms: Option<u64>,
    /// How often the manager started it again by itself.
    pub restarts: Option<u64>,
    /// How the last process ended.
    pub last_exit: Option<Exit>,
    /// Whether the manager gave up after too many starts.
    pub start_limit_hit: bool,
    /// What the gateway says about itself.
    pub status_text: Option<String>,
    /// Whether files changed since the manager read them.
    pub needs_reload: bool,
    /// Whether the manager holds the port: the state of the socket unit.
    pub socket: Option<String>,
    /// Whether a user's service goes on after logout.
    pub lingers: Option<bool>,
    /// The command it runs.
    pub command: Vec<String>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or number of the signal.
    pub status: i32,
    /// The manager's word for it, such as `exit-code`, `watchdog` or `timeout`.
    pub reason: String,
}

impl Exit {
    /// Returns what an exit code of the gateway means.
    #[must_use]
    pub fn meaning(&self) -> Option<&'static str> {
        Some(match self.status {
            64 => "wrong flags in the unit",
            69 => "its port is taken",
            75 => "another gateway holds its lock",
            77 => "refused for safety",
            78 => "the configuration is invalid",
            79 => "asked to be started again",
            _ => return None,
        })
    }

    /// Returns it for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self.meaning() {
            Some(meaning) => format!("{} {} ({meaning})", self.reason, self.status),
            None => format!("{} {}", self.reason, self.status),
        }
    }
}

impl State {
    /// Returns whether somebody wants this service: it starts by itself, runs,
    /// or was run and failed. A unit file that a package brought says nothing.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.enabled || self.running || matches!(&*self.active, "failed" | "activating")
    }

    /// Returns whether its file was made on this host and not by a package.
    #[must_use]
    pub fn is_of_this_host(&self) -> bool {
        let file = self.files.first();
        file.is_some_and(|file| !["/usr", "/lib"].iter().any(|folder| file.starts_with(folder)))
    }

    /// Returns the state for programs. The first members are those of the
    /// reference's `gateway status`.
    #[must_use]
    pub fn report(&self) -> Value {
        let label = if self.manager == "launchd" { "LaunchAgent" } else { "systemd" };
        let launchd = self.manager == "launchd";
        let status = match (self.unreachable.is_some(), self.running) {
            (true, _) => "unknown",
            (_, true) => "running",
            (_, false) => "stopped",
        };
        let mut runtime = json!({
            "status": status, "state": self.active, "subState": self.sub_state, "pid": self.pid,
            "lastExitStatus": self.last_exit.as_ref().map(|exit| exit.status),
            "lastExitReason": self.last_exit.as_ref().map(|exit| exit.reason.clone()),
            "detail": self.unreachable,
        });
        if let Some(members) = runtime.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        json!({
            "label": label,
            "loaded": if launchd { self.installed } else { self.enabled },
            "loadedText": if launchd { "loaded" } else { "enabled" },
            "notLoadedText": if launchd { "not loaded" } else { "disabled" },
            "command": {
                "programArguments": self.command,
                "sourcePath": self.files.first(),
            },
            "runtime": runtime,
            "manager": self.manager,
            "scope": self.scope.map(Scope::name),
            "unit": self.unit,
            "installed": self.installed,
            "enabled": self.enabled,
            "enabledText": self.enabled_text,
            "sinceMs": self.since_ms,
            "restarts": self.restarts,
            "startLimitHit": self.start_limit_hit,
            "statusText": self.status_text,
            "needsReload": self.needs_reload,
            "socket": self.socket,
            "lingers": self.lingers,
            "files": self.files,
            "unreachable": self.unreachable,
        })
    }
}
