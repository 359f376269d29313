//! What service managers are told fits the daemon.

use std::fs;

use clap::Parser as _;
use moltbot_tests::programs::source_root;
use moltbotd::cli::Cli;

#[test]
fn the_unit_starts_the_daemon_with_flags_it_takes() {
    let unit = Unit::read("moltbotd.service");
    let mut words = unit.value("ExecStart").split_whitespace();
    assert_eq!(words.clone().next(), Some("/usr/bin/moltbotd"));
    Cli::try_parse_from(&mut words).unwrap();
}

#[test]
fn the_unit_relies_on_what_the_daemon_does() {
    let unit = Unit::read("moltbotd.service");
    // Other types either miss the readiness or are unknown to older managers.
    assert_eq!(unit.value("Type"), "notify");
    assert!(unit.value("WatchdogSec").parse::<u32>().unwrap() > 0);
    assert_eq!(unit.value("Restart"), "on-failure");
    assert_eq!(unit.value("RestartPreventExitStatus"), "64 77 78");
    assert!(unit.value("ExecReload").ends_with("-HUP $MAINPID"));
    for folder in ["ConfigurationDirectory", "StateDirectory", "RuntimeDirectory", "LogsDirectory"]
    {
        // The locks and `moltbotctl` look for the runtime folder by this name.
        assert_eq!(unit.value(folder), "moltbot", "{folder}");
    }
}

struct Unit(String);

impl Unit {
    fn read(name: &str) -> Self {
        Self(fs::read_to_string(source_root().join("systemd").join(name)).unwrap())
    }

    fn value(&self, key: &str) -> &str {
        let find = |line| str::strip_prefix(line, key)?.strip_prefix('=');
        self.0.lines().find_map(find).unwrap_or_else(|| panic!("the unit has no {key}"))
    }
}
