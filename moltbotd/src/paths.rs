//! Where the daemon's files are.

use std::path::PathBuf;

/// The files and folders of one profile.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Name of the profile; `None` for the default one.
    pub profile: Option<String>,
    /// The configuration file, whether it exists or not.
    pub config_file: PathBuf,
    /// Durable state.
    pub state_dir: PathBuf,
    /// Sockets and pidfile.
    pub runtime_dir: PathBuf,
}

impl Paths {
    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("moltbot.db")
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }

    /// Files that arrived with messages.
    #[must_use]
    pub fn inbound_media(&self) -> PathBuf {
        self.state_dir.join("media").join("inbound")
    }
}
