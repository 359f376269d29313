//! Copies of everything a gateway remembers: one file, made while it runs.
//!
//! The file is a gzipped tar archive that any tool can list:
//!
//! | In the archive | What |
//! |---|---|
//! | `database/moltbot.db` | the database at one moment |
//! | `config/…` | the configuration, and what it includes from its own folder |
//! | `state/…` | the other files of the state folder: token, media, keys of client and node host |
//! | `elsewhere/N/…` | files that the configuration names in other folders: includes, tokens, certificates |
//! | `manifest.json` | the last entry: sizes and SHA-256 of all others |
//!
//! Sockets, locks and logs are not in it. The sums tell damage, not
//! forgery: who can write the file can write the sums.

mod archive;
mod create;
mod manifest;
mod restore;
mod swap;
mod verify;

use super::{BackupCommand, Place, report::Report};
use crate::{boot::Failure, paths::Paths, private, store::StoreError};

pub use self::swap::{finish, finish_interrupted};
pub(super) use self::{
    create::{PARTIAL, SECRET_FILES},
    swap::{KEPT, STAGE, is_interrupted},
};

/// Runs a command about backups.
pub(super) fn run(place: &Place, command: &BackupCommand) -> Result<Report, Failure> {
    match command {
        BackupCommand::Create { output } => create::run(place, output.as_deref()),
        BackupCommand::Verify { file } => verify::run(place, file),
        BackupCommand::Restore { file, without_config } => {
            restore::run(place, file, !without_config)
        }
    }
}

/// Names at the top of the state folder that belong to the running gateway or
/// to this module, and so to no backup.
fn is_reserved(name: &str) -> bool {
    matches!(name, "lock" | "run" | "logs" | "moltbot.db" | "moltbot.db-wal" | "moltbot.db-shm")
        || is_ours(name)
}

/// Names that restores give.
fn is_ours(name: &str) -> bool {
    name.starts_with(STAGE) || name.starts_with(KEPT)
}

fn failure(error: StoreError, paths: &Paths) -> Failure {
    match error {
        StoreError::File(error) => error.into(),
        StoreError::Newer { .. } => Failure::Other(anyhow::anyhow!(
            "{error}: use the version of moltbotd that wrote it, or a later one"
        )),
        error => Failure::Other(anyhow::anyhow!(
            "the database {} cannot be copied: {error}; see what is wrong with: moltbotctl doctor",
            paths.database().display()
        )),
    }
}

fn io_failure(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |source| private::Error::Io { path, source }.into()
}
