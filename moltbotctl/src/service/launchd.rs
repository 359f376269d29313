//! The gateway as a job of launchd.
//!
//! A job is never booted out to restart it: bootout returns before the job is
//! gone, a bootstrap that comes too early fails with an input/output error,
//! and the job is then loaded nowhere. Only a changed property list needs it,
//! and then: bootout, wait until the label is gone, bootstrap until it works,
//! else the former list comes back.

use std::{fs, path::PathBuf};

use super::{Done, Exit, Host, Install, Outcome, RunError, Scope, State};
use crate::{context::helped, paths::Paths};

/// The beginning of every label.
pub const LABEL: &str = "bot.molt.moltbotd";
const AGENT: &str = include_str!("../../../launchd/bot.molt.moltbotd.agent.plist");
const DAEMON: &str = include_str!("../../../launchd/bot.molt.moltbotd.daemon.plist");

/// The job of one profile.
#[derive(Debug)]
pub struct Job<'a> {
    host: &'a Host,
    paths: &'a Paths,
    scope: Scope,
    /// `bot.molt.moltbotd[.PROFILE]`.
    pub label: String,
}

impl<'a> Job<'a> {
    /// Returns the job of a profile.
    #[must_use]
    pub fn new(host: &'a Host, paths: &'a Paths, scope: Scope) -> Self {
        let label = match &paths.profile {
            None => LABEL.to_owned(),
            Some(profile) => format!("{LABEL}.{profile}"),
        };
        Self { host, paths, scope, label }
    }

    /// Asks launchd about it.
    pub async fn state(&self) -> State {
        let mut state = State {
            manager: "launchd",
            scope: Some(self.scope),
            unit: self.label.clone(),
            enabled_text: "unknown".into(),
            active: "unknown".into(),
            files: Some(self.file()).filter(|path| path.exists()).into_iter().collect(),
            ..State::default()
        };
        match self.print().await {
            Ok(printed) => fill(&mut state, printed.as_deref()),
            Err(error) => state.unreachable = Some(error.to_string()),
        }
        if state.unreachable.is_none() {
            let disabled = self.is_disabled().await;
            state.enabled = !disabled && !state.files.is_empty();
            state.enabled_text = if disabled { "disabled" } else { "enabled" }.into();
        }
        state
    }

    pub(super) async fn install(&self, how: Install) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "install")?;
        self.host.need_daemon()?;
        let (path, text) = (self.file(), self.text()?);
        let old = fs::read_to_string(&path).ok();
        let loaded = self.is_loaded().await?;
        if loaded && old.as_deref() == Some(&*text) && !how.force {
            return Ok(Done::new("already-installed"));
        }
        self.host.write(&path, &text)?;
        if how.no_start && !loaded {
            return Ok(Done::new("installed"));
        }
        // A label that was disabled once cannot be loaded.
        self.host.must(self.command(&["enable", &self.target()])).await?;
        let replaced = async {
            if loaded {
                self.unload().await?;
            }
            self.load().await
        };
        let Err(error) = replaced.await else { return Ok(Done::new("installed")) };
        Err(self.restore(old, loaded, error).await)
    }

    pub(super) async fn uninstall(&self) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "uninstall")?;
        let (loaded, path) = (self.is_loaded().await?, self.file());
        if !loaded && !path.exists() {
            return Ok(Done::new("not-loaded"));
        }
        if loaded {
            self.unload().await?;
        }
        self.host.remove(&path)?;
        let mut done = Done::new("uninstalled");
        done.hints.push(format!("the state stays in {}", self.paths.state_dir.display()));
        Ok(done)
    }

    pub(super) async fn start(&self) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "start")?;
        self.must_be_installed()?;
        if !self.is_loaded().await? {
            self.host.must(self.command(&["enable", &self.target()])).await?;
            self.load().await?;
        }
        self.again(&["kickstart", &self.target()]).await?;
        self.wait_for_process(None).await?;
        Ok(Done::new("started"))
    }

    pub(super) async fn stop(&self) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "stop")?;
        let Some(printed) = self.print().await? else { return Ok(Done::new("not-loaded")) };
        if pid(&printed).is_none() {
            return Ok(Done::new("stopped"));
        }
        // It ends with success, after which KeepAlive leaves it alone.
        self.again(&["kill", "SIGTERM", &self.target()]).await?;
        let gone = || async {
            matches!(self.print().await, Ok(it) if it.as_deref().and_then(pid).is_none())
        };
        if self.host.until(gone).await {
            return Ok(Done::new("stopped"));
        }
        Err(helped(
            format!("{} was told to stop and still runs", self.label),
            format!("end it at once: {} kill SIGKILL {}", self.launchctl(), self.target()),
        ))
    }

    pub(super) async fn restart(&self) -> anyhow::Result<Done> {
        self.host.may_change(self.scope, "restart")?;
        self.must_be_installed()?;
        let Some(printed) = self.print().await? else {
            self.start().await?;
            return Ok(Done::new("restarted"));
        };
        self.again(&["kickstart", "-k", &self.target()]).await?;
        self.wait_for_process(pid(&printed)).await?;
        Ok(Done::new("restarted"))
    }

    pub(super) async fn enable(&self, on: bool) -> anyhow::Result<Done> {
        let word = if on { "enable" } else { "disable" };
        self.host.may_change(self.scope, word)?;
        self.host.must(self.command(&[word, &self.target()])).await?;
        Ok(Done::new(if on { "enabled" } else { "disabled" }))
    }

    /// Returns the file its standard error goes to.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        let name = match &self.paths.profile {
            None => "moltbotd.log".to_owned(),
            Some(profile) => format!("moltbotd.{profile}.log"),
        };
        // launchd makes no folders; this one is always there.
        match self.scope {
            Scope::System => self.host.at("Library/Logs").join(name),
            Scope::User => self.host.home.join("Library/Logs").join(name),
        }
    }

    /// Boots the job out and waits until its label is gone. That bootout
    /// complains, or hangs, says little: what counts is the label.
    async fn unload(&self) -> anyhow::Result<()> {
        let outcome = self.host.change(self.command(&["bootout", &self.target()])).await;
        let gone = || async { matches!(self.print().await, Ok(None)) };
        if self.host.until(gone).await {
            return Ok(());
        }
        let said = match outcome {
            Ok(outcome) => outcome.complaint(),
            Err(error) => error.to_string(),
        };
        anyhow::bail!("{} is still loaded after bootout ({said})", self.label)
    }

    /// Bootstraps until the label is there.
    async fn load(&self) -> anyhow::Result<()> {
        let command =
            self.command(&["bootstrap", &self.domain(), &self.file().display().to_string()]);
        let mut said = String::new();
        for _ in 0..self.host.pace.attempts {
            said = match self.host.change(command.clone()).await {
                Ok(outcome) if outcome.ok() => String::new(),
                Ok(outcome) => outcome.complaint(),
                Err(error @ RunError::Timeout { .. }) => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            // It may have worked in spite of what was said, and the reverse.
            if self.host.dry_run || matches!(self.print().await, Ok(Some(_))) {
                return Ok(());
            }
            tokio::time::sleep(self.host.pace.pause).await;
        }
        anyhow::bail!("launchd does not load {}: {said}", self.file().display())
    }

    /// Puts the former property list back after a failure, and says so.
    async fn restore(
        &self,
        old: Option<String>,
        loaded: bool,
        why: anyhow::Error,
    ) -> anyhow::Error {
        let path = self.file();
        let restored = match &old {
            Some(old) => self.host.write(&path, old),
            None => self.host.remove(&path),
        };
        let outcome = match (restored, old.is_some() && loaded) {
            (Err(error), _) => format!("the former property list could not be put back: {error:#}"),
            (Ok(()), false) => "nothing was installed".to_owned(),
            (Ok(()), true) if self.is_loaded().await.unwrap_or(false) => {
                "the former property list is back".to_owned()
            }
            (Ok(()), true) => match self.load().await {
                Ok(()) => "the former property list is back and loaded".to_owned(),
                Err(error) => format!("the former property list is back, but: {error:#}"),
            },
        };
        helped(
            format!("{why:#}; {outcome}"),
            format!(
                "try again, or load it by hand: {} bootstrap {} {}",
                self.launchctl(),
                self.domain(),
                path.display()
            ),
        )
    }

    /// Runs a harmless command until it works.
    async fn again(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut said = String::new();
        for _ in 0..self.host.pace.attempts {
            said = match self.host.change(self.command(words)).await {
                Ok(outcome) if outcome.ok() => return Ok(()),
                Ok(outcome) => outcome.complaint(),
                Err(error @ RunError::Timeout { .. }) => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            tokio::time::sleep(self.host.pace.pause).await;
        }
        anyhow::bail!("launchctl {}: {said}", words.join(" "))
    }

    async fn wait_for_process(&self, former: Option<u32>) -> anyhow::Result<()> {
        let runs = || async {
            let Ok(Some(printed)) = self.print().await else { return false };
            pid(&printed).is_some_and(|pid| Some(pid) != former)
        };
        if self.host.until(runs).await {
            return Ok(());
        }
        let why =
            self.state().await.last_exit.map_or_else(String::new, |it| format!(": {}", it.text()));
        Err(helped(
            format!("{} does not run{why}", self.label),
            format!("see why: {}", self.log_file().display()),
        ))
    }

    fn must_be_installed(&self) -> anyhow::Result<()> {
        if self.file().exists() {
            return Ok(());
        }
        Err(helped(
            format!("{} is not installed for the {}", self.label, self.scope.name()),
            format!("{} service install --{}", self.host.control.display(), self.scope.name()),
        ))
    }

    async fn is_loaded(&self) -> anyhow::Result<bool> {
        Ok(self.print().await?.is_some())
    }

    /// Returns what launchd says about the job; `None` when it does not know
    /// it.
    async fn print(&self) -> Result<Option<String>, RunError> {
        let outcome = self.host.ask(&self.command(&["print", &self.target()])).await?;
        Ok(outcome.ok().then_some(outcome.stdout))
    }

    async fn is_disabled(&self) -> bool {
        let outcome = self.host.ask(&self.command(&["print-disabled", &self.domain()])).await;
        let Ok(Outcome { stdout, .. }) = outcome else { return false };
        let line = stdout.lines().find(|line| line.contains(&format!("\"{}\"", self.label)));
        line.is_some_and(|line| line.ends_with("disabled") || line.ends_with("true"))
    }

    fn command(&self, words: &[&str]) -> Vec<String> {
        let words = words.iter().map(|word| (*word).to_owned());
        [self.launchctl()].into_iter().chain(words).collect()
    }

    fn launchctl(&self) -> String {
        self.host.launchctl.display().to_string()
    }

    fn domain(&self) -> String {
        match self.scope {
            Scope::System => "system".into(),
            Scope::User => format!("gui/{}", self.host.uid),
        }
    }

    fn target(&self) -> String {
        format!("{}/{}", self.domain(), self.label)
    }

    /// The property list.
    fn file(&self) -> PathBuf {
        let folder = match self.scope {
            Scope::System => self.host.at("Library/LaunchDaemons"),
            Scope::User => self.host.home.join("Library/LaunchAgents"),
        };
        folder.join(format!("{}.plist", self.label))
    }

    fn text(&self) -> anyhow::Result<String> {
        let template = match self.scope {
            Scope::System => DAEMON,
            Scope::User => AGENT,
        };
        let host = self.host;
        if self.scope == Scope::System && host.user == "root" {
            return Err(helped(
                "the gateway does not run as root",
                "run this with sudo from the account the gateway is to run as",
            ));
        }
        let name = self.paths.profile_name();
        let values = [
            ("@LABEL@", self.label.clone()),
            ("@MOLTBOTD@", host.daemon.display().to_string()),
            ("@PROFILE@", name.to_owned()),
            ("@STATE@", self.paths.state_dir.display().to_string()),
            ("@CONFIG@", self.paths.config_file.display().to_string()),
            ("@LOG@", self.log_file().display().to_string()),
            ("@HOME@", host.home.display().to_string()),
            ("@USER@", host.user.clone()),
        ];
        let replaced = |text: String, (key, value): &(&str, String)| text.replace(key, &xml(value));
        Ok(values.iter().fold(template.to_owned(), replaced))
    }
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Reads `launchctl print`, whose lines are `name = value`.
fn fill(state: &mut State, printed: Option<&str>) {
    let Some(printed) = printed else {
        state.active = "not loaded".into();
        return;
    };
    state.installed = true;
    state.active = value(printed, "state").unwrap_or("unknown").to_owned();
    state.pid = pid(printed);
    state.running = state.pid.is_some();
    // The first start is no restart.
    let runs = value(printed, "runs").and_then(|runs| runs.parse::<u64>().ok());
    state.restarts = runs.map(|runs| runs.saturating_sub(1));
    state.command = value(printed, "program").map(str::to_owned).into_iter().collect();
    let code = value(printed, "last exit code")
        .and_then(|text| text.split([':', ' ']).next()?.parse().ok());
    state.last_exit = code.map(|status| Exit { status, reason: "exit-code".into() });
}

fn pid(printed: &str) -> Option<u32> {
    value(printed, "pid")?.parse().ok()
}

/// Returns a value of the job itself: those of its parts are indented deeper.
fn value<'a>(printed: &'a str, name: &str) -> Option<&'a str> {
    let own = |line: &'a str| {
        let line = line.strip_prefix('\t').or_else(|| line.strip_prefix("    ")).unwrap_or(line);
        (!line.starts_with(['\t', ' '])).then_some(line)
    };
    printed.lines().filter_map(own).find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_launchd_prints_is_read() {
        let printed = "gui/501/bot.molt.moltbotd = {\n\tactive count = 1\n\tpath = /x.plist\n\
            \tstate = running\n\n\tprogram = /opt/moltbotd\n\tinherited environment = {\n\
            \t\tpid = 9\n\t}\n\truns = 3\n\tpid = 4242\n\tlast exit code = 78: EX_CONFIG\n}\n";
        let mut state = State::default();
        fill(&mut state, Some(printed));
        assert!(state.installed && state.running);
        assert_eq!((state.pid, state.restarts), (Some(4242), Some(2)));
        assert_eq!(state.last_exit.unwrap().status, 78);
        assert_eq!(state.command, ["/opt/moltbotd"]);
        let mut state = State::default();
        fill(
            &mut state,
            Some("x = {\n\tstate = not running\n\tlast exit code = (never exited)\n}\n"),
        );
        assert!(state.installed && !state.running && state.last_exit.is_none());
    }
}
