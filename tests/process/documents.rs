//! What packages carry beside the programs fits the programs.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::{fs, path::Path, process::Command};

use clap::CommandFactory as _;

#[test]
fn every_command_has_a_page_and_every_shell_its_completions() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("documents");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("stale"), "").unwrap();
    let status =
        Command::new(env!("CARGO_BIN_EXE_moltbot-documents")).arg(&folder).status().unwrap();
    assert!(status.success());
    assert!(!folder.join("stale").exists());

    let page = fs::read_to_string(folder.join("man/moltbotd.8")).unwrap();
    assert!(page.contains(".TH MOLTBOTD 8") && page.contains("state\\-dir"), "{page}");
    let mut ctl = moltbotctl::cli::Cli::command();
    ctl.build();
    let pages = count(&folder.join("man"));
    assert!(pages > 1 + ctl.get_subcommands().count(), "{pages} pages");
    for command in ctl.get_subcommands().filter(|command| command.get_name() != "help") {
        let page = folder.join(format!("man/moltbotctl-{}.1", command.get_name()));
        assert!(page.exists() || command.is_hide_set(), "{}", page.display());
    }
    for name in ["bash/moltbotd", "bash/moltbotctl", "zsh/_moltbotctl", "fish/moltbotctl.fish"] {
        let script = fs::read_to_string(folder.join("completions").join(name)).unwrap();
        assert!(script.contains("profile"), "{name}");
    }
    let bash = folder.join("completions/bash/moltbotctl");
    assert!(Command::new("bash").arg("-n").arg(bash).status().unwrap().success());
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}
