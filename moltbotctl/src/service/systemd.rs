//! The gateway as a unit of systemd.
//!
//! `systemctl` is asked rather than the bus: it is where systemd is, it finds
//! the right bus, and its properties are a stable interface. They come in an
//! order of their own, so they are read by name.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use super::{Done, Exit, Host, Install, Outcome, Scope, State};
use crate::{context::helped, paths::Paths};

/// What the unit files of the packages are, and what is written where there
/// is no package.
mod text {
    pub(super) const SYSTEM: [(&str, &str); 4] = [
        ("moltbotd.service", include_str!("../../../systemd/moltbotd.service")),
        ("moltbotd.socket", include_str!("../../../systemd/moltbotd.socket")),
        ("moltbotd@.service", include_str!("../../../systemd/moltbotd@.service")),
        ("moltbotd@.socket", include_str!("../../../systemd/moltbotd@.socket")),
    ];
    pub(super) const USER: [(&str, &str); 4] = [
        ("moltbotd.service", include_str!("../../../systemd/user/moltbotd.service")),
        ("moltbotd.socket", include_str!("../../../systemd/user/moltbotd.socket")),
        ("moltbotd@.service", include_str!("../../../systemd/user/moltbotd@.service")),
        ("moltbotd@.socket", include_str!("../../../systemd/user/moltbotd@.socket")),
    ];
    pub(super) const USERS: &str = include_str!("../../../systemd/sysusers.d/moltbotd.conf");
}

/// The first line of what is written here, so that it is known again.
const MARK: &str = "# Written by `moltbotctl service install`.";
/// What is asked of `systemctl show`.
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,Result,\
    ExecMainStatus,ExecMainCode,ExecMainPID,StateChangeTimestamp,StatusText,FragmentPath,DropInPaths,\
    NeedDaemonReload,ExecStart";

/// The unit of one profile.
#[derive(Debug)]
pub struct Unit<'a> {
    host: &'a Host,
    paths: &'a Paths,
    scope: Scope,
    /// `moltbotd.service`, or `moltbotd@PROFILE.service`.
    pub name: String,
}

impl<'a> Unit<'a> {
    /// Returns the unit of a profile.
    #[must_use]
    pub fn new(host: &'a Host, paths: &'a Paths, scope: Scope) -> Self {
        Self { host, paths, scope, name: unit(paths, "service") }
    }

    /// Returns the unit files that are not those of this version, each with
    /// what puts that right.
    #[must_use]
    pub fn outdated(&self) -> Vec<(PathBuf, String)> {
        let install =
            format!("{} service install --no-start{}", self.host.control.display(), self.flags());
        let mut outdated = Vec::new();
        for (path, text) in self.files() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let shipped = text.strip_prefix(&format!("{MARK}\n")).unwrap_or(&text);
            let there = fs::read_to_string(&path).ok();
            if let Some(packaged) = self.packaged(name) {
                let package = fs::read_to_string(&packaged).unwrap_or_default();
                if there.is_some() {
                    let remove = format!("compare it with {}, then remove it", packaged.display());
                    outdated.push((path, remove));
                } else if package != self.plain(name) {
                    outdated.push((packaged, "install the package of this version anew".into()));
                }
                continue;
            }
            match there {
                Some(there) if there.starts_with(MARK) && there != text => {
                    outdated.push((path, install.clone()));
                }
                Some(there) if !there.starts_with(MARK) && there != shipped => {
                    let force = format!("{install} --force");
                    outdated
                        .push((path, format!("compare it with the output of `{force} --dry-run`")));
                }
                _ => {}
            }
        }
        outdated
    }

    /// Returns whether a start of the manager is to start it, as far as the
    /// disk tells: the manager itself may not run.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let target = match self.scope {
            Scope::System => "multi-user.target.wants",
            Scope::User => "default.target.wants",
        };
        self.folder().join(target).join(&self.name).is_symlink()
    }

    /// Returns the text of a unit file as packages have it.
    fn plain(&self, name: &str) -> &'static str {
        let texts = match self.scope {
            Scope::System => text::SYSTEM,
            Scope::User => text::USER,
        };
        texts.into_iter().find(|(known, _)| *known == name).map_or("", |(_, text)| text)
    }

    /// Asks systemd about it.
    pub async fn state(&self) -> State {
        let mut state = State {
            manager: "systemd",
            scope: Some(self.scope),
            unit: self.name.clone(),
            enabled_text: "unknown".into(),
            active: "unknown".into(),
            lingers: (self.scope == Scope::User).then(|| self.lingers()),
            ..State::default()
        };
        match self.show(&self.name).await {
            Ok(found) => fill(&mut state, &found),
            Err(reason) => state.unreachable = Some(reason),
        }
        if state.unreachable.is_none()
            && let Ok(socket) = self.show(&self.socket()).await
            && socket.get("LoadState").is_some_and(|it| it == "loaded")
        {
            let words = ["UnitFileState", "ActiveState"].map(|key| socket.get(key));
            state.socket =
                Some(words.into_iter().flatten().cloned().collect::<Vec<_>>().join(", "));
        }
        state
    }

    pub(super) async fn install(&self, how: Install) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "install")?;
        self.host.need_daemon()?;
        let before = self.reachable().await?;
        let wrote = self.write_units(how)?;
        if wrote && self.scope == Scope::System {
            self.add_user().await?;
        }
        self.host.must(self.command(&["daemon-reload"])).await?;
        let mut units = vec![self.name.clone()];
        if how.socket {
            units.insert(0, self.socket());
        }
        let words: Vec<&str> =
            ["enable"].into_iter().chain(units.iter().map(String::as_str)).collect();
        self.host.must(self.command(&words)).await?;
        let mut done = Done::new(if before.installed && before.enabled && !wrote {
            "already-installed"
        } else {
            "installed"
        });
        if !how.no_start {
            // One that runs is left alone: it goes on with the old unit until
            // it is restarted.
            let running = before.running;
            if !running {
                self.start_units().await?;
            } else if wrote {
                done.hints.push(format!(
                    "it runs with the former unit; to use the new one: {} service restart{}",
                    self.host.control.display(),
                    self.flags()
                ));
            }
        }
        self.remark(&mut done);
        Ok(done)
    }

    pub(super) async fn uninstall(&self) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "uninstall")?;
        let before = self.reachable().await?;
        if !before.installed {
            return Ok(Done::new("not-loaded"));
        }
        self.host.must(self.command(&["disable", "--now", &self.name])).await?;
        if before.socket.is_some() {
            self.host.must(self.command(&["disable", "--now", &self.socket()])).await?;
        }
        let mut done = Done::new("uninstalled");
        self.host.remove(&self.port_file())?;
        for (path, _) in self.files() {
            let ours = fs::read_to_string(&path).is_ok_and(|text| text.starts_with(MARK));
            if ours && !self.others_use(&path).await {
                self.host.remove(&path)?;
            }
        }
        self.host.must(self.command(&["daemon-reload"])).await?;
        // A unit that is gone may have left its failure behind.
        let _ = self.host.change(self.command(&["reset-failed", &self.name])).await;
        let packaged = before.files.iter().find(|path| !self.is_local(path));
        if let Some(path) = packaged {
            done.hints.push(format!("{} belongs to a package and stays", path.display()));
        }
        done.hints.push(format!("the state stays in {}", self.paths.state_dir.display()));
        Ok(done)
    }

    pub(super) async fn start(&self) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "start")?;
        self.must_be_installed(&self.reachable().await?)?;
        self.start_units().await?;
        let mut done = Done::new("started");
        self.remark(&mut done);
        Ok(done)
    }

    pub(super) async fn stop(&self) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "stop")?;
        let before = self.reachable().await?;
        if !before.installed {
            return Ok(Done::new("not-loaded"));
        }
        // A socket that stays would start it again at the next connection.
        let mut words = vec!["stop".to_owned()];
        if before.socket.as_deref().is_some_and(|it| it.ends_with(", active")) {
            words.push(self.socket());
        }
        words.push(self.name.clone());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.host.must(self.command(&words)).await?;
        Ok(Done::new("stopped"))
    }

    pub(super) async fn restart(&self) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "restart")?;
        self.must_be_installed(&self.reachable().await?)?;
        self.forget_failures().await;
        let outcome = self.host.change(self.command(&["restart", &self.name])).await?;
        self.explain(outcome, "restart").await?;
        let mut done = Done::new("restarted");
        self.remark(&mut done);
        Ok(done)
    }

    pub(super) async fn enable(&self, on: bool) -> anyhow::Result<Done> {
        let word = if on { "enable" } else { "disable" };
        self.host.may_change(self.scope, word)?;
        self.must_be_installed(&self.reachable().await?)?;
        self.host.must(self.command(&[word, &self.name])).await?;
        let mut done = Done::new(if on { "enabled" } else { "disabled" });
        if on {
            self.remark(&mut done);
        }
        Ok(done)
    }

    /// Returns the command that shows its log.
    #[must_use]
    pub fn log_command(&self, lines: u32, follow: bool) -> Vec<String> {
        let mut words = vec![self.host.journalctl.display().to_string()];
        if self.scope == Scope::User {
            words.push("--user".into());
        }
        let lines = format!("--lines={lines}");
        words.extend(["--no-pager".into(), lines, format!("--unit={}", self.name)]);
        if follow {
            words.push("--follow".into());
        }
        words
    }

    async fn start_units(&self) -> anyhow::Result<()> {
        self.forget_failures().await;
        let socket = self.show(&self.socket()).await.unwrap_or_default();
        let mut words = vec!["start"];
        let name = self.socket();
        // The socket first: it cannot be had once the service holds the port.
        if socket.get("UnitFileState").is_some_and(|it| it == "enabled") {
            words.push(&name);
        }
        words.push(&self.name);
        let outcome = self.host.change(self.command(&words)).await?;
        self.explain(outcome, "start").await
    }

    /// Too many failed starts keep a unit from being started; what a person
    /// asks for is a new beginning. It fails where nothing had failed.
    async fn forget_failures(&self) {
        let _ = self.host.change(self.command(&["reset-failed", &self.name])).await;
    }

    async fn explain(&self, outcome: Outcome, word: &str) -> anyhow::Result<()> {
        if outcome.ok() {
            return Ok(());
        }
        let state = self.state().await;
        let why = match &state.last_exit {
            Some(exit) if exit.status != 0 => exit.text(),
            _ => outcome.complaint(),
        };
        let flags = self.flags();
        let control = self.host.control.display();
        Err(helped(
            format!("{} did not {word}: {why}", self.name),
            format!("see why: {control} service logs{flags}"),
        ))
    }

    /// Asks for the state, and fails where systemd cannot be asked at all.
    async fn reachable(&self) -> anyhow::Result<State> {
        let state = self.state().await;
        let Some(reason) = &state.unreachable else { return Ok(state) };
        let advice = match self.scope {
            Scope::System => "see whether systemd runs: systemctl is-system-running".to_owned(),
            Scope::User => format!(
                "log in as {0} (not by su), or let {0}'s services run without a login: \
                 sudo loginctl enable-linger {0}",
                self.host.user
            ),
        };
        Err(helped(
            format!("the {}'s systemd does not answer: {reason}", self.scope.name()),
            advice,
        ))
    }

    fn must_be_installed(&self, state: &State) -> anyhow::Result<()> {
        if state.installed {
            return Ok(());
        }
        let control = self.host.control.display();
        Err(helped(
            format!("{} is not installed for the {}", self.name, self.scope.name()),
            format!("{control} service install{}", self.flags()),
        ))
    }

    async fn show(&self, unit: &str) -> Result<HashMap<String, String>, String> {
        let properties = format!("--property={PROPERTIES}");
        let command = self.command(&["show", "--timestamp=unix", &properties, unit]);
        let outcome = self.host.ask(&command).await.map_err(|error| error.to_string())?;
        if !outcome.ok() {
            return Err(outcome.complaint());
        }
        Ok(properties_of(&outcome.stdout))
    }

    fn command(&self, words: &[&str]) -> Vec<String> {
        let mut command = vec![self.host.systemctl.display().to_string()];
        if self.scope == Scope::User {
            command.push("--user".into());
        }
        command.push("--no-ask-password".into());
        command.extend(words.iter().map(|word| (*word).to_owned()));
        command
    }

    fn socket(&self) -> String {
        unit(self.paths, "socket")
    }

    fn flags(&self) -> String {
        let profile = self.paths.profile.as_ref();
        let profile = profile.map_or_else(String::new, |name| format!(" --profile {name}"));
        format!(" --{}{profile}", self.scope.name())
    }

    /// Where an administrator's or user's own units are.
    fn folder(&self) -> PathBuf {
        match self.scope {
            Scope::System => self.host.at("etc/systemd/system"),
            Scope::User => self.host.config_home.join("systemd/user"),
        }
    }

    fn is_local(&self, path: &Path) -> bool {
        path.starts_with(self.folder())
    }

    /// Returns where a package puts a unit, if it did.
    fn packaged(&self, name: &str) -> Option<PathBuf> {
        let kind = self.scope.name();
        let folders = ["usr/lib/systemd", "lib/systemd", "usr/local/lib/systemd"];
        let path = |folder: &str| self.host.at(&format!("{folder}/{kind}/{name}"));
        folders.iter().map(|folder| path(folder)).find(|path| path.exists())
    }

    /// Returns the unit files of this profile with the texts they should have.
    fn files(&self) -> Vec<(PathBuf, String)> {
        let texts = match self.scope {
            Scope::System => text::SYSTEM,
            Scope::User => text::USER,
        };
        let template = self.paths.profile.is_some();
        let wanted = texts.into_iter().filter(|(name, _)| name.contains('@') == template);
        wanted.map(|(name, text)| (self.folder().join(name), self.adapted(text))).collect()
    }

    /// Puts the places of this host into a text that is written for packages.
    fn adapted(&self, text: &str) -> String {
        let host = self.host;
        let mut text = text
            .replace("/usr/bin/moltbotd", &escaped(&host.daemon))
            .replace("/usr/bin/moltbotctl", &escaped(&host.control));
        if self.scope == Scope::User {
            for (home, usual) in
                [(&host.state_home, ".local/state"), (&host.config_home, ".config")]
            {
                if *home != host.home.join(usual) {
                    text = text.replace(&format!("%h/{usual}"), &escaped(home));
                }
            }
        }
        format!("{MARK}\n{text}")
    }

    /// Writes the units that no package brought. Returns whether anything
    /// changed.
    fn write_units(&self, how: Install) -> anyhow::Result<bool> {
        let mut wrote = false;
        for (path, text) in self.files() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if self.packaged(name).is_some() {
                continue;
            }
            match fs::read_to_string(&path) {
                Ok(old) if old == text => continue,
                Ok(old) if !old.starts_with(MARK) && !how.force => {
                    return Err(helped(
                        format!("{} was not written by this program", path.display()),
                        "look at it, then replace it with --force, or keep it and use \
                         `service start`",
                    ));
                }
                _ => {}
            }
            self.host.write(&path, &text)?;
            wrote = true;
        }
        if how.socket {
            wrote |= self.write_port()?;
        }
        Ok(wrote)
    }

    /// A socket unit of a profile has no port of its own.
    fn write_port(&self) -> anyhow::Result<bool> {
        let environment = crate::environment::Environment::default();
        let config = crate::config::LocalConfig::read(&self.paths.config_file, &environment);
        let port = config.at("gateway.port").and_then(serde_json::Value::as_u64).unwrap_or(18789);
        let text = format!("{MARK}\n[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n");
        let path = self.port_file();
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(false);
        }
        self.host.write(&path, &text)?;
        Ok(true)
    }

    fn port_file(&self) -> PathBuf {
        self.folder().join(format!("{}.d/listen.conf", self.socket()))
    }

    /// The unit runs as a user of its own, which a package would have made.
    async fn add_user(&self) -> anyhow::Result<()> {
        let file = self.host.at("etc/sysusers.d/moltbotd.conf");
        let shipped = self.host.at("usr/lib/sysusers.d/moltbotd.conf");
        if shipped.exists() || file.exists() {
            return Ok(());
        }
        self.host.write(&file, text::USERS)?;
        let program = self.host.at("usr/bin/systemd-sysusers").display().to_string();
        self.host.must(vec![program, file.display().to_string()]).await
    }

    /// A template stays as long as another instance is enabled or runs.
    async fn others_use(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((stem, kind)) = name.split_once("@.") else { return false };
        let pattern = format!("{stem}@*.{kind}");
        let lists: [&[&str]; 2] = [
            &["list-units", "--all", "--plain", "--no-legend", &pattern],
            &["list-unit-files", "--no-legend", &pattern],
        ];
        for words in lists {
            let Ok(outcome) = self.host.ask(&self.command(words)).await else { return true };
            let instances = outcome.stdout.lines().filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?, words.next()?))
            });
            let others = instances.filter(|(unit, loaded)| {
                *unit != self.name
                    && *unit != self.socket()
                    && *unit != name
                    && *loaded != "not-found"
            });
            if others.count() > 0 {
                return true;
            }
        }
        false
    }

    fn lingers(&self) -> bool {
        self.host.at("var/lib/systemd/linger").join(&self.host.user).exists()
    }

    fn remark(&self, done: &mut Done) {
        if self.scope == Scope::User && !self.lingers() {
            let user = &self.host.user;
            done.warnings.push(format!("the service ends when {user} logs out"));
            done.hints
                .push(format!("keep it running without a login: loginctl enable-linger {user}"));
        }
    }
}

fn unit(paths: &Paths, kind: &str) -> String {
    match &paths.profile {
        None => format!("moltbotd.{kind}"),
        Some(profile) => format!("moltbotd@{profile}.{kind}"),
    }
}

/// Returns a path as a word of a unit file.
fn escaped(path: &Path) -> String {
    let text =
        path.display().to_string().replace('\\', r"\\").replace('%', "%%").replace('"', "\\\"");
    let quoted = text.contains([' ', '\'', '\t', '"', ';', '$']);
    if quoted { format!("\"{}\"", text.replace('$', "$$")) } else { text }
}

/// Reads what `systemctl show` prints: a property a line, in any order.
fn properties_of(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn fill(state: &mut State, found: &HashMap<String, String>) {
    let text = |name: &str| found.get(name).cloned().unwrap_or_default();
    let number = |name: &str| found.get(name).and_then(|value| value.parse::<u64>().ok());
    state.installed = text("LoadState") == "loaded";
    state.active = text("ActiveState");
    state.sub_state = text("SubState");
    state.running = matches!(&*state.active, "active" | "reloading" | "deactivating")
        || (state.active == "activating" && state.sub_state != "auto-restart");
    state.enabled_text = Some(text("UnitFileState"))
        .filter(|it| !it.is_empty())
        .unwrap_or_else(|| if state.installed { "static" } else { "not installed" }.into());
    state.enabled = matches!(&*state.enabled_text, "enabled" | "enabled-runtime");
    state.pid = number("MainPID").and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    state.restarts = number("NRestarts");
    state.start_limit_hit = text("Result") == "start-limit-hit";
    state.since_ms = text("StateChangeTimestamp")
        .strip_prefix('@')
        .and_then(|seconds| seconds.parse::<u64>().ok())
        .map(|seconds| seconds * 1000);
    state.status_text = Some(text("StatusText")).filter(|it| !it.is_empty());
    state.needs_reload = text("NeedDaemonReload") == "yes";
    let fragment = Some(text("FragmentPath")).filter(|it| !it.is_empty());
    let drop_ins = text("DropInPaths");
    let drop_ins = drop_ins.split_whitespace().map(PathBuf::from);
    state.files = fragment.map(PathBuf::from).into_iter().chain(drop_ins).collect();
    state.command = arguments(&text("ExecStart"));
    state.last_exit = last_exit(found, state.pid);
}

/// `ExecMain…` speaks of the process that runs while there is one.
fn last_exit(found: &HashMap<String, String>, pid: Option<u32>) -> Option<Exit> {
    let result = found.get("Result").map(String::as_str).unwrap_or_default();
    let ended = found.get("ExecMainPID").is_some_and(|it| it != "0") && pid.is_none();
    if !ended {
        return (result != "success" && !result.is_empty())
            .then(|| Exit { status: 0, reason: result.to_owned() });
    }
    let status = found.get("ExecMainStatus").and_then(|value| value.parse().ok()).unwrap_or(0);
    let reason = if result == "success" { "exit-code" } else { result };
    Some(Exit { status, reason: reason.to_owned() })
}

/// Reads the words of the command from `{ path=… ; argv[]=… ; … }`.
fn arguments(text: &str) -> Vec<String> {
    let words = text.split_once("argv[]=").and_then(|(_, rest)| rest.split_once(" ; "));
    words.map_or_else(Vec::new, |(words, _)| words.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_by_name_in_any_order() {
        let found = properties_of(
            "Result=exit-code\nMainPID=0\nExecMainPID=77\nExecMainStatus=78\nLoadState=loaded\n\
             ActiveState=failed\nSubState=failed\nUnitFileState=enabled\nNRestarts=3\n\
             StateChangeTimestamp=@1700000000\nStatusText=\nFragmentPath=/etc/a.service\n\
             ExecStart={ path=/usr/bin/moltbotd ; argv[]=/usr/bin/moltbotd --log-format journald ; \
             ignore_errors=no ; start_time=[n/a] }\n",
        );
        let mut state = State::default();
        fill(&mut state, &found);
        assert!(state.installed && state.enabled && !state.running);
        assert_eq!(state.pid, None);
        assert_eq!(state.restarts, Some(3));
        assert_eq!(state.since_ms, Some(1_700_000_000_000));
        let exit = state.last_exit.unwrap();
        assert_eq!(exit.text(), "exit-code 78 (the configuration is invalid)");
        assert_eq!(state.command, ["/usr/bin/moltbotd", "--log-format", "journald"]);
    }

    #[test]
    fn a_unit_that_nobody_knows_is_not_installed() {
        let mut state = State::default();
        fill(&mut state, &properties_of("LoadState=not-found\nActiveState=inactive\nMainPID=0\n"));
        assert!(!state.installed && !state.running && !state.enabled);
        assert_eq!(state.enabled_text, "not installed");
    }

    fn host(root: &Path) -> Host {
        Host {
            kind: crate::service::Kind::Systemd,
            root: root.into(),
            systemctl: root.join("systemctl"),
            journalctl: root.join("journalctl"),
            launchctl: root.join("launchctl"),
            uid: 1000,
            user: "alice".into(),
            home: root.join("home"),
            config_home: root.join("home/.config"),
            state_home: root.join("home/.local/state"),
            runtime: None,
            daemon: "/opt/moltbotd".into(),
            control: "/opt/moltbotctl".into(),
            pace: crate::service::Pace::default(),
            dry_run: true,
            steps: std::sync::Mutex::default(),
        }
    }

    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn unit_files_of_another_version_are_named_and_those_of_this_one_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path());
        let paths = Paths::resolve(
            &crate::paths::Choices { state_dir: Some(dir.path()), ..Default::default() },
            &crate::environment::Environment::default(),
        )
        .unwrap();
        let unit = Unit::new(&host, &paths, Scope::System);
        assert_eq!(unit.outdated(), []);
        let files = unit.files();
        files.iter().for_each(|(path, text)| put(path, text));
        assert_eq!(unit.outdated(), []);

        let (own, text) = &files[0];
        put(own, &text.replace("[Service]", "[Service]\nRestart=no"));
        let found = unit.outdated();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, *own);
        assert_eq!(found[0].1, "/opt/moltbotctl service install --no-start --system");
        put(own, "[Service]\nExecStart=/my/own\n");
        assert!(unit.outdated()[0].1.contains("--force --dry-run"));

        files.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
        let name = own.file_name().unwrap().to_str().unwrap();
        let packaged = host.at("usr/lib/systemd/system").join(name);
        put(&packaged, unit.plain(name));
        assert_eq!(unit.outdated(), []);
        put(&packaged, "[Service]\n# of an older package\n");
        assert_eq!(unit.outdated()[0].0, packaged);
        put(own, text);
        assert_eq!(unit.outdated()[0].0, *own, "it hides what the package brings");
    }

    #[test]
    fn odd_paths_survive_in_a_unit() {
        assert_eq!(escaped(Path::new("/usr/bin/moltbotd")), "/usr/bin/moltbotd");
        assert_eq!(escaped(Path::new("/a b/50%/$x")), "\"/a b/50%%/$$x\"");
    }
}
