//! Commands of `moltbotctl` that `moltbotd` carries out: both describe them, in
//! programs that share no command line, and so that they stay the same.

use clap::{Command, CommandFactory as _};

#[test]
fn work_on_the_state_takes_the_same_words_from_both_programs() {
    let (mut client, mut daemon) = (moltbotctl::cli::Cli::command(), moltbotd::cli::Cli::command());
    client.build();
    daemon.build();
    let state = inner(&daemon, "state");
    for (own, theirs) in [("backup", "backup"), ("import", "import"), ("doctor", "check")] {
        same(inner(&client, own), inner(state, theirs));
    }
}

fn inner<'a>(command: &'a Command, name: &str) -> &'a Command {
    command.find_subcommand(name).unwrap_or_else(|| panic!("{} {name}", command.get_name()))
}

fn same(client: &Command, daemon: &Command) {
    assert_eq!(words(client), words(daemon), "{}", client.get_name());
    let names = |command: &Command| -> Vec<String> {
        let names = command.get_subcommands().map(|it| it.get_name().to_owned());
        names.filter(|name| name != "help").collect()
    };
    assert_eq!(names(client), names(daemon), "{}", client.get_name());
    for name in names(client) {
        same(inner(client, &name), inner(daemon, &name));
    }
}

/// Returns each flag and argument as people type it, with its help.
fn words(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter(|it| !it.is_global_set());
    let mut words: Vec<String> = own
        .map(|it| {
            format!("{it} -{:?}: {}", it.get_short(), it.get_help().cloned().unwrap_or_default())
        })
        .collect();
    words.sort();
    words
}
