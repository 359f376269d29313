//! A machine with systemd as process 1, and the packages.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio, id},
};

use moltbot_tests::{
    daemon::TOKEN,
    ports,
    programs::{packages, source_root},
};

/// Which systemd.
#[derive(Clone, Copy, Debug)]
pub(super) enum Suite {
    /// Debian 12, systemd 252.
    Bookworm,
    /// Debian 13, systemd 257.
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// Returns what is installed beside systemd; `tests/run` prepares it.
    fn packages(self) -> &'static str {
        match self {
            Self::Bookworm => "",
            Self::Trixie => "rpm",
        }
    }
}

/// A booted machine, destroyed when dropped. It shares this host's network, so
/// that the tests can be its gateways' clients, unless it was booted alone.
#[derive(Debug)]
pub(super) struct Machine {
    suite: Suite,
    name: String,
    /// What else it sees of this host: a folder, and where.
    bind: Option<(PathBuf, &'static str)>,
    /// `host`, or `private` for a loopback of its own.
    network: &'static str,
    /// Where the gateway of the default profile listens.
    pub(super) port: u16,
}

impl Machine {
    /// Boots a fresh machine.
    pub(super) fn boot(suite: Suite, story: &str) -> Self {
        Self::boot_with(suite, story, None)
    }

    /// Boots a fresh machine with a loopback of its own, where the default port is free whatever
    /// runs on this host.
    pub(super) fn boot_alone(suite: Suite, story: &str) -> Self {
        Self::boot_in("private", suite, story, None)
    }

    /// Boots a fresh machine that sees a folder of this host.
    pub(super) fn boot_with(
        suite: Suite,
        story: &str,
        bind: Option<(PathBuf, &'static str)>,
    ) -> Self {
        Self::boot_in("host", suite, story, bind)
    }

    fn boot_in(
        network: &'static str,
        suite: Suite,
        story: &str,
        bind: Option<(PathBuf, &'static str)>,
    ) -> Self {
        let name = format!("{story}-{}-{}", suite.name(), id());
        let machine = Self { suite, name, bind, network, port: ports::free() };
        machine.host(&["prepare"]);
        machine.host(&["boot"]);
        machine
    }

    /// Boots a machine with the first version of the packages. Its token is a
    /// credential, its port is in the configuration.
    pub(super) fn with_package(suite: Suite, story: &str) -> Self {
        let machine = Self::boot(suite, story);
        machine.sh("dpkg -i /packages/*-1_*.deb");
        machine.for_clients();
        machine
    }

    /// Gives the gateway of the default profile its token and its port.
    pub(super) fn for_clients(&self) {
        self.credential("moltbotd.gateway-token");
        self.configure("/etc/moltbot", self.port);
    }

    /// Turns the machine off and on again.
    pub(super) fn reboot(&self) {
        self.host(&["poweroff"]);
        self.host(&["boot"]);
    }

    /// Gives root's secret [`TOKEN`] to services that load it by this name.
    pub(super) fn credential(&self, name: &str) {
        self.sh(&format!(
            "mkdir -p /etc/credstore; umask 077; echo {TOKEN} > /etc/credstore/{name}"
        ));
    }

    /// Writes a configuration that names a port.
    pub(super) fn configure(&self, folder: &str, port: u16) {
        let config = format!("{{ gateway: {{ port: {port} }} }}");
        self.sh(&format!("mkdir -p {folder}; echo '{config}' > {folder}/moltbot.json"));
    }

    /// Runs a script that must succeed; returns what it wrote, trimmed.
    pub(super) fn sh(&self, script: &str) -> String {
        let output = self.run(&[], script);
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{script}\nsays {}\n{out}\n{err}", output.status);
        out
    }

    /// Runs a script as a user, as a login of theirs would.
    pub(super) fn sh_as(&self, user: &str, script: &str) -> String {
        let output = self.run(&["-u", user], script);
        let (out, err) = texts(&output);
        assert!(output.status.success(), "{script}\nsays {}\n{out}\n{err}", output.status);
        out
    }

    /// Runs a script that must fail; returns what it wrote.
    pub(super) fn fails(&self, script: &str) -> String {
        let output = self.run(&[], script);
        let (out, err) = texts(&output);
        assert!(!output.status.success(), "{script}\nsucceeds\n{out}\n{err}");
        format!("{out}\n{err}")
    }

    /// Returns a property of a unit.
    pub(super) fn property(&self, unit: &str, name: &str) -> String {
        self.sh(&format!("systemctl show --value -p {name} {unit}"))
    }

    /// Returns the process id that a unit's main process has outside.
    pub(super) fn outer_pid(&self, unit: &str) -> i32 {
        let inner = self.property(unit, "MainPID");
        let group = format!("sdhost-{}/", self.name);
        let is_it = |pid: &str| {
            let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
            let (Ok(status), Ok(groups)) = (read("status"), read("cgroup")) else { return false };
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            groups.contains(&group)
                && ids.and_then(|ids| ids.split_whitespace().last()) == Some(&inner)
        };
        let found = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            .find(|pid| is_it(pid));
        found.unwrap_or_else(|| panic!("{unit}: no process {inner} inside")).parse().unwrap()
    }

    fn run(&self, options: &[&str], script: &str) -> Output {
        let mut command = self.script();
        command.arg("exec").args(options);
        // Bounds a hang, measures nothing.
        command.args(["--", "timeout", "600", "bash", "-euo", "pipefail", "-c", script]);
        command.stdin(Stdio::null()).output().expect("bash is there")
    }

    fn host(&self, arguments: &[&str]) {
        let output = self.script().args(arguments).stdin(Stdio::null()).output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "systemd-host.sh {arguments:?}\n{out}\n{err}");
    }

    fn binds(&self) -> String {
        let more = self.bind.iter().map(|(from, to)| format!(" {}:{to}:ro", from.display()));
        format!("{}:/packages:ro{}", packages().display(), more.collect::<String>())
    }

    fn script(&self) -> Command {
        let script: PathBuf = source_root().join("tests/systemd-host.sh");
        let mut command = Command::new(script);
        command
            .env("SDHOST_SUITE", self.suite.name())
            .env("SDHOST_PACKAGES", self.suite.packages())
            .env("SDHOST_NAME", &self.name)
            .env("SDHOST_NET", self.network)
            .env("SDHOST_BIND", self.binds());
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.run(&[], "journalctl -b --no-pager | tail -n 25");
            eprintln!("{}\n{}", self.name, texts(&output).0);
        }
        let _ = self.script().arg("destroy").output();
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (text(&output.stdout), text(&output.stderr))
}
