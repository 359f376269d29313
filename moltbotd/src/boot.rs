//! Builds the services in order, serves, and takes them down again.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, AuthSecrets, Bind},
    lock::{Guards, LockError},
    logging::Logs,
    paths::Paths,
    private, supervisor,
};

/// What `main` found out before anything runs.
#[derive(Debug)]
pub struct Start {
    /// Where the files are.
    pub paths: Paths,
    /// The configuration in force.
    pub config: Arc<config::Live>,
    /// The shared secrets.
    pub secrets: AuthSecrets,
    /// TCP port: flag, environment or configuration.
    pub port: u16,
    /// Which addresses to listen on: flag or configuration.
    pub bind: Bind,
    /// The running logs.
    pub logs: Logs,
    /// Cancelled when the daemon is to stop.
    pub stop: CancellationToken,
    /// One item for each request to read the configuration anew.
    pub reload: mpsc::Receiver<()>,
    /// Held for as long as the daemon runs.
    pub locks: Guards,
}

/// Why the daemon ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The flags or variables make no sense.
    #[error("{0}")]
    Usage(String),
    /// The address is taken.
    #[error("{0}")]
    AddressInUse(String),
    /// Another gateway runs.
    #[error("{0}")]
    Locked(String),
    /// It would not be safe.
    #[error("{0}")]
    Refused(String),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Failure {
    /// Returns the exit code, which tells the service manager whether another
    /// try makes sense.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::AddressInUse(_) => 69,
            Self::Locked(_) => 75,
            Self::Refused(_) => 77,
            Self::Config(_) => 78,
            Self::Other(_) => 1,
        }
    }
}

impl From<private::Error> for Failure {
    fn from(error: private::Error) -> Self {
        if error.is_refusal() {
            Self::Refused(error.to_string())
        } else {
            Self::Other(error.into())
        }
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held { .. } => Self::Locked(error.to_string()),
            LockError::File(error) => error.into(),
            LockError::Io { .. } => Self::Other(error.into()),
        }
    }
}

/// Runs the daemon until it is told to stop.
pub async fn run(start: Start) -> Result<(), Failure> {
    supervisor::ready("running");
    start.stop.cancelled().await;
    supervisor::stopping("stopping");
    Ok(())
}
