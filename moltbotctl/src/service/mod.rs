//! The gateway as a service of this host: the same words for systemd and for
//! launchd.
//!
//! Everything that changes the host is a [`Step`]: it is done, or, with
//! `--dry-run`, only written down. Programs are called by their absolute paths,
//! with a limit in time, and nothing of the environment decides which.

pub mod advice;
pub mod host;
pub mod launchd;
pub mod owner;
pub mod program;
pub mod state;
pub mod systemd;

pub use self::{
    host::{Host, Kind, Pace},
    program::{Outcome, RunError, Step},
    state::{Exit, State},
};
use crate::{context::helped, paths::Paths};

/// Whose service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The host's: it runs from boot on. `sudo` is needed to change it.
    System,
    /// The user's.
    User,
}

impl Scope {
    /// Returns its name, which is also the flag.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
        }
    }
}

/// What became of a request.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// One word for programs, such as `started`.
    pub result: &'static str,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// What a person can do now.
    pub hints: Vec<String>,
}

impl Done {
    /// Returns a result without remarks.
    #[must_use]
    pub fn new(result: &'static str) -> Self {
        Self { result, ..Self::default() }
    }
}

/// How to install.
#[derive(Clone, Copy, Debug, Default)]
pub struct Install {
    /// Replace a file that somebody else wrote.
    pub force: bool,
    /// Leave the service as it is now.
    pub no_start: bool,
    /// Let the manager hold the port.
    pub socket: bool,
}

/// The service of one profile in one manager.
#[derive(Debug)]
pub enum Service<'a> {
    /// A unit.
    Systemd(systemd::Unit<'a>),
    /// A job.
    Launchd(launchd::Job<'a>),
}

impl<'a> Service<'a> {
    /// Returns the service of a profile.
    ///
    /// # Errors
    /// When this host has no service manager.
    pub fn of(host: &'a Host, paths: &'a Paths, scope: Scope) -> anyhow::Result<Self> {
        match host.kind {
            Kind::Systemd => Ok(Self::Systemd(systemd::Unit::new(host, paths, scope))),
            Kind::Launchd => Ok(Self::Launchd(launchd::Job::new(host, paths, scope))),
            Kind::None => Err(helped(
                "there is no service manager on this host: systemd does not run",
                "run moltbotd in the foreground, or in a container with a restart policy and \
                 MOLTBOT_SUPERVISED=1",
            )),
        }
    }

    /// Returns the name of the unit or job.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Systemd(unit) => &unit.name,
            Self::Launchd(job) => &job.label,
        }
    }

    /// Asks the manager.
    pub async fn state(&self) -> State {
        match self {
            Self::Systemd(unit) => unit.state().await,
            Self::Launchd(job) => job.state().await,
        }
    }

    /// Writes what is missing, enables and starts.
    ///
    /// # Errors
    /// When the host cannot be changed or the service does not start.
    pub async fn install(&self, how: Install) -> anyhow::Result<Done> {
        match self {
            Self::Systemd(unit) => unit.install(how).await,
            Self::Launchd(job) => job.install(how).await,
        }
    }

    /// Stops, disables and removes what [`Service::install`] wrote. State and
    /// configuration stay.
    ///
    /// # Errors
    /// When the host cannot be changed.
    pub async fn uninstall(&self) -> anyhow::Result<Done> {
        match self {
            Self::Systemd(unit) => unit.uninstall().await,
            Self::Launchd(job) => job.uninstall().await,
        }
    }

    /// Starts and waits until the gateway serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(&self) -> anyhow::Result<Done> {
        match self {
            Self::Systemd(unit) => unit.start().await,
            Self::Launchd(job) => job.start().await,
        }
    }

    /// Stops; the manager does not start it again by itself before the next
    /// boot or login.
    ///
    /// # Errors
    /// When the manager cannot be told.
    pub async fn stop(&self) -> anyhow::Result<Done> {
        match self {
            Self::Systemd(unit) => unit.stop().await,
            Self::Launchd(job) => job.stop().await,
        }
    }

    /// Ends the process and starts another one, within the manager.
    ///
    /// # Errors
    /// When the new one does not serve.
    pub async fn restart(&self) -> anyhow::Result<Done> {
        match self {
            Self::Systemd(unit) => unit.restart().await,
            Self::Launchd(job) => job.restart().await,
        }
    }

    /// Has it started at every boot or login, or no longer.
    ///
    /// # Errors
    /// When the manager cannot be told.
    pub async fn enable(&self, on: bool) -> anyhow::Result<Done> {
        match self {
            Self::Systemd(unit) => unit.enable(on).await,
            Self::Launchd(job) => job.enable(on).await,
        }
    }
}
