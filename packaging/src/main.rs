//! Writes what packages carry beside the programs: man pages and completions,
//! made from the programs' own flags.
//!
//! `moltbot-documents FOLDER` fills `FOLDER/man` and `FOLDER/completions`.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

/// The daemon is started by the system.
const DAEMON_SECTION: &str = "8";
const CLIENT_SECTION: &str = "1";

/// Completions and the names under which shells look for them.
const SHELLS: [(Shell, &str, &str); 3] =
    [(Shell::Bash, "", ""), (Shell::Zsh, "_", ""), (Shell::Fish, "", ".fish")];

fn main() -> Result<()> {
    let folder: PathBuf = env::args_os().nth(1).context("usage: moltbot-documents FOLDER")?.into();
    let programs = [
        (moltbotd::cli::Cli::command(), DAEMON_SECTION),
        (moltbotctl::cli::Cli::command(), CLIENT_SECTION),
    ];
    // What an earlier version had and this one has not must not be packaged.
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let man = created(folder.join("man"))?;
    for (program, section) in programs {
        for (shell, before, after) in SHELLS {
            let folder = created(folder.join("completions").join(shell.to_string()))?;
            let name = program.get_name().to_owned();
            let mut file = create(&folder.join(format!("{before}{name}{after}")))?;
            clap_complete::generate(shell, &mut program.clone(), name, &mut file);
        }
        let mut program = program.disable_help_subcommand(true);
        program.build();
        pages(&program, section, &man)?;
    }
    Ok(())
}

/// Writes the page of a command and those of its subcommands:
/// `moltbotctl-devices-approve.1`.
fn pages(command: &Command, section: &str, folder: &Path) -> Result<()> {
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages(subcommand, section, folder)?;
    }
    let title = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut file = create(&folder.join(format!("{title}.{section}")))?;
    Man::new(command.clone())
        .title(title.to_uppercase())
        .section(section)
        .render(&mut file)
        .with_context(|| format!("cannot write the page of {title}"))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

fn created(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
