//! `moltbotctl import`.

use std::{ffi::OsString, process::ExitCode};

use super::daemon;
use crate::{cli::ImportArgs, context::Context};

/// Takes over the state of a reference gateway.
///
/// # Errors
/// When the daemon's program cannot be started.
pub fn run(cx: &Context, args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let mut arguments: Vec<OsString> = vec!["import".into(), (&args.folder).into()];
    if let Some(file) = &args.reference_config {
        arguments.extend(["--reference-config".into(), file.into()]);
    }
    daemon::state(cx.at_its_files()?, arguments)
}
