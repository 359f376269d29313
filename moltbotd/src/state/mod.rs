//! Work on a gateway's state from the command line: `moltbotd state …`.
//!
//! It is part of the daemon's program because it needs the daemon's database,
//! configuration and paths; `moltbotctl` runs it. Nothing here talks to a
//! running gateway: what a gateway may use at the same time is only read, and
//! what changes the state needs the gateway's locks.

pub mod backup;
mod check;
mod import;
mod owner;
mod report;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use self::owner::Owner;
use crate::{
    boot::Failure,
    channels,
    config::Source,
    environment::Environment,
    paths::{Choice, Paths, UserFolders},
    providers,
};

/// Work on the state of a gateway.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StateArgs {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: StateCommand,
}

/// What to do with the state.
#[derive(Clone, Debug, Subcommand)]
pub enum StateCommand {
    /// Make, check and put back copies of everything a gateway remembers
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Take over the state of a reference gateway; it is not changed
    Import {
        /// Its state folder, such as ~/.clawdbot
        folder: PathBuf,
        /// Its configuration file, where that is not in its state folder
        #[arg(long, value_name = "FILE")]
        reference_config: Option<PathBuf>,
    },
    /// Look for what keeps a gateway from working: files, locks, port, disk, clock, database
    Check {
        /// Narrow modes and make folders; nothing is deleted or rewritten
        #[arg(long)]
        fix: bool,
    },
}

/// Copies of the state.
#[derive(Clone, Debug, Subcommand)]
pub enum BackupCommand {
    /// Copy database, configuration and files into one file; the gateway may run
    Create {
        /// The file; in this folder and named after the profile and the time when left out
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check that a copy is whole and can be restored by this version
    Verify {
        /// The copy
        file: PathBuf,
    },
    /// Put a copy in the place of the state, which is kept aside
    Restore {
        /// The copy
        file: PathBuf,
        /// Leave the configuration as it is
        #[arg(long)]
        without_config: bool,
    },
}

const AFTER_HELP: &str = "\
Give --profile, --config and --state-dir as to the gateway itself.

Exit codes: 0 done, 1 failed, in part or, of a check, something found, 64 wrong flags, 75 a gateway runs on this state, \
77 refused for safety.";

/// Does what the command line asks for; returns the exit code.
pub fn run(arguments: &StateArgs, choice: &Choice) -> Result<u8, Failure> {
    let environment = Environment::current();
    let user = UserFolders::of_this_user();
    let paths = Paths::resolve(choice, &environment, user.as_ref())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let place = Place { paths, environment };
    let report = match &arguments.command {
        StateCommand::Backup(command) => backup::run(&place, command)?,
        StateCommand::Import { folder, reference_config } => {
            import::run(&place, folder, reference_config.as_deref())?
        }
        StateCommand::Check { fix } => {
            let _owner = Owner::of(&place.paths)?;
            check::run(&place, *fix)?
        }
    };
    report.print(arguments.json);
    Ok(report.exit_code())
}

/// Whose state it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where its files are.
    pub paths: Paths,
    /// What `${NAME}` stands for in its configuration.
    pub environment: Environment,
}

impl Place {
    /// Returns how a configuration file is read for this gateway.
    #[must_use]
    pub fn source(&self, file: &Path) -> Source {
        Source {
            file: file.into(),
            must_exist: false,
            environment: self.environment.clone(),
            channel: Some(channels::check),
            models: Some(providers::check),
            start: None,
        }
    }
}
