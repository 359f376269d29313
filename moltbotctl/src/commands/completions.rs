//! `moltbotctl completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{cli::Cli, context::Context};

/// Prints the completion script of a shell.
pub fn run(cx: &Context, shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "moltbotctl", &mut script);
    cx.output.text(&String::from_utf8_lossy(&script));
}
