//! `moltbotctl backup …`.

use std::{ffi::OsString, process::ExitCode};

use super::daemon;
use crate::{cli::BackupCommand, context::Context};

/// Runs one of the commands about backups.
///
/// # Errors
/// When the daemon's program cannot be started.
pub fn run(cx: &Context, command: &BackupCommand) -> anyhow::Result<ExitCode> {
    let mut arguments: Vec<OsString> = vec!["backup".into()];
    match command {
        BackupCommand::Create { output } => {
            arguments.push("create".into());
            if let Some(output) = output {
                arguments.extend(["--output".into(), output.into()]);
            }
        }
        BackupCommand::Verify { file } => arguments.extend(["verify".into(), file.into()]),
        BackupCommand::Restore { file, without_config } => {
            arguments.extend(["restore".into(), file.into()]);
            arguments.extend(without_config.then(|| "--without-config".into()));
        }
    }
    daemon::state(cx.at_its_files()?, arguments)
}
