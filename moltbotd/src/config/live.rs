//! The configuration in force, and its replacement while the daemon runs.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use moltbot_settings::{
    Path,
    book::write_whole,
    edit::{Change, change_value, get},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::{Config, Effect, Loaded, Reload, ReloadMode, Source, schema};

/// Changes that the health report names; it goes to every client.
const MOST_SHOWN: usize = 16;

/// The configuration in force. A reload replaces it as a whole, or not at all.
#[derive(Debug)]
pub struct Live {
    source: Source,
    /// Where the last good configuration outlives the process.
    copy: Option<PathBuf>,
    config: ArcSwap<Config>,
    loaded: ArcSwap<Loaded>,
    state: Mutex<State>,
    /// One reload at a time.
    turn: Mutex<()>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// What is in force, with variables looked up.
    in_force: Value,
    /// Why the file cannot be used.
    trouble: Option<String>,
    /// What waits for a restart.
    waiting: Vec<String>,
    /// What waits for somebody to ask for a reload.
    held_back: bool,
    /// What the copy says.
    copied: Option<Value>,
    /// Every file that was looked for when the configuration was last read.
    files: Vec<PathBuf>,
}

/// What made the daemon read the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Somebody asked for it.
    Asked,
    /// The file changed; `gateway.reload.mode` says what that means.
    Changed,
}

/// What a reload changes: the paths of the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is in force at once.
    pub hot: Vec<String>,
    /// What is in force once a channel has started anew.
    pub channels: Vec<String>,
    /// What waits for a restart of the process.
    pub restart: Vec<String>,
}

/// The copy of the last good configuration.
#[derive(Serialize, Deserialize)]
struct Copy {
    /// The file it was read from.
    file: PathBuf,
    /// What it said with all it included, before variables were looked up.
    config: Value,
}

impl Plan {
    /// Returns what it takes to get from one configuration to another.
    #[must_use]
    pub fn between(old: &Value, new: &Value) -> Self {
        Self::of(&changed(old, new))
    }

    /// Returns whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns each path with what its change takes.
    pub fn effects(&self) -> impl Iterator<Item = (&str, Effect)> {
        let effects = [
            (&self.hot, Effect::Hot),
            (&self.channels, Effect::Channel),
            (&self.restart, Effect::Restart),
        ];
        effects
            .into_iter()
            .flat_map(|(paths, effect)| paths.iter().map(move |path| (&**path, effect)))
    }

    fn of(changed: &[Path]) -> Self {
        let schema = schema(&[]);
        let mut plan = Self::default();
        for path in changed {
            let paths = match Effect::of(path, &schema) {
                Effect::Hot => &mut plan.hot,
                Effect::Channel => &mut plan.channels,
                Effect::Restart => &mut plan.restart,
            };
            paths.push(path.to_string());
        }
        plan.keep_secrets_with_addresses();
        plan
    }

    /// Secrets were checked against the addresses of the same file, so they
    /// wait where those do.
    fn keep_secrets_with_addresses(&mut self) {
        if self.restart.iter().any(|path| path.starts_with("gateway.")) {
            let secrets = self.hot.extract_if(.., |path| path.starts_with("gateway.auth."));
            self.restart.extend(secrets);
        }
    }

    /// Moves everything to where the process starts anew.
    fn all_by_restart(self) -> Self {
        let restart = [self.hot, self.channels, self.restart].concat();
        Self { restart, ..Self::default() }
    }
}

impl Live {
    /// Starts with a configuration that has no file.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::of(Source::default(), Loaded { config, ..Loaded::default() })
    }

    /// Starts with what was loaded.
    #[must_use]
    pub fn of(source: Source, loaded: Loaded) -> Self {
        let state = State {
            in_force: loaded.resolved.clone(),
            files: loaded.tried.clone(),
            ..State::default()
        };
        Self {
            source,
            copy: None,
            config: ArcSwap::from_pointee(loaded.config.clone()),
            loaded: ArcSwap::from_pointee(loaded),
            state: Mutex::new(state),
            turn: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Keeps a copy of each good configuration in a file. Writes the first one
    /// unless the daemon started with the copy.
    #[must_use]
    pub fn copied_to(mut self, copy: PathBuf) -> Self {
        self.copy = Some(copy);
        if self.state().trouble.is_none() {
            self.write_copy(&self.loaded());
        }
        self
    }

    /// Notes that the daemon did not start with what the file says.
    #[must_use]
    pub fn in_trouble(self, why: String) -> Self {
        self.state().trouble = Some(why);
        self
    }

    /// Returns the configuration in force.
    #[must_use]
    pub fn get(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Puts another configuration in force.
    pub fn set(&self, config: Config) {
        self.config.store(Arc::new(config));
        self.changes.send_modify(|version| *version += 1);
    }

    /// Returns what the file said when it was last good.
    #[must_use]
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    /// Returns where the configuration comes from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns what is in force, with variables looked up.
    #[must_use]
    pub fn in_force(&self) -> Value {
        self.state().in_force.clone()
    }

    /// Returns the files whose changes matter: those that were last looked for,
    /// whether they could be read or not.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = self.state().files.clone();
        files.push(self.source.file.clone());
        files.sort();
        files.dedup();
        files
    }

    /// Returns how changes of the file are followed.
    #[must_use]
    pub fn reload_rules(&self) -> Reload {
        self.get().gateway.reload.clone()
    }

    /// Returns what the file says about following it: that counts at once,
    /// whatever waits.
    #[must_use]
    pub fn source_mode(&self) -> ReloadMode {
        self.loaded().config.gateway.reload.mode
    }

    /// Returns why the file is not what is in force, if it is not.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        let state = self.state();
        if let Some(why) = &state.trouble {
            return Some(why.clone());
        }
        if !state.waiting.is_empty() {
            let (shown, rest) = state.waiting.split_at(state.waiting.len().min(MOST_SHOWN));
            let more = match rest.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return Some(format!("waits for a restart: {}{more}", shown.join(", ")));
        }
        state.held_back.then(|| "the file has changes; gateway.reload.mode is off".into())
    }

    /// Tells about each change; the value counts them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Reads the file anew and puts in force what can be. A file that cannot
    /// be used changes nothing; its first fault is returned. Reads files: not
    /// to be called on a runtime's thread.
    pub fn reload(&self, trigger: Trigger) -> Result<Plan, String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = self.source.load();
        self.state().files.clone_from(&fresh.tried);
        if let Some(fault) = self.fault(&fresh) {
            self.state().trouble = Some(kept(&fresh, &fault));
            return Err(fault);
        }
        let old = self.in_force();
        let mut plan = Plan::between(&old, &fresh.resolved);
        let mode = fresh.config.gateway.reload.mode;
        if trigger == Trigger::Changed && mode == ReloadMode::Off {
            let mut state = self.state();
            (state.trouble, state.held_back) = (None, !plan.is_empty());
            return Ok(Plan::default());
        }
        if trigger == Trigger::Changed && mode == ReloadMode::Restart {
            plan = plan.all_by_restart();
        }
        self.write_copy(&fresh);
        self.put_in_force(fresh, &old, &plan);
        Ok(plan)
    }

    /// A file that was there and is gone is a fault, not an empty one.
    fn fault(&self, fresh: &Loaded) -> Option<String> {
        let is_gone = fresh.raw.is_none() && self.loaded().raw.is_some();
        match fresh.issues.first() {
            Some(issue) => Some(issue.to_string()),
            None => (is_gone || fresh.raw.is_none() && self.state().trouble.is_some())
                .then(|| gone(&fresh.file)),
        }
    }

    fn put_in_force(&self, fresh: Loaded, old: &Value, plan: &Plan) {
        let mut value = fresh.resolved.clone();
        for path in &plan.restart {
            let Ok(path) = path.parse::<Path>();
            let keep = match get(old, &path) {
                Some(before) => Change::Set(path, before.clone()),
                None => Change::Unset(path),
            };
            // It cannot fail: both values had the way there.
            let _ = change_value(&mut value, &keep);
        }
        let changed = value != *old;
        let config = self.source.config_of(&value);
        {
            let mut state = self.state();
            state.in_force = value;
            state.waiting.clone_from(&plan.restart);
            (state.trouble, state.held_back) = (None, false);
        }
        self.loaded.store(Arc::new(fresh));
        if changed {
            self.set(config);
        }
    }

    /// The daemon does without the copy if it has to.
    fn write_copy(&self, good: &Loaded) {
        let Some(path) = &self.copy else { return };
        if good.raw.is_none() || self.state().copied.as_ref() == Some(&good.written) {
            return;
        }
        let copy = Copy { file: good.file.clone(), config: good.written.clone() };
        let text = serde_json::to_string_pretty(&copy).expect("JSON values serialize");
        match write_whole(path, &text) {
            Ok(()) => self.state().copied = Some(copy.config),
            Err(error) => tracing::warn!(%error, "no copy kept of the good configuration"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    /// Returns the last good configuration of this file, if a copy was kept
    /// and is still good.
    #[must_use]
    pub fn last_good(&self, copy: &std::path::Path) -> Option<Loaded> {
        let text = std::fs::read_to_string(copy).ok()?;
        let copy: Copy = serde_json::from_str(&text).ok()?;
        let same = copy.file == self.file;
        same.then(|| self.take(copy.config)).filter(Loaded::is_valid)
    }
}

/// Says why what was last good is in force.
#[must_use]
pub fn kept(loaded: &Loaded, fault: &str) -> String {
    if loaded.unreadable {
        return format!(
            "configuration kept, the gateway's user may not read the file: {fault}; put that \
             right: sudo moltbotctl doctor --fix"
        );
    }
    format!("configuration kept, the file is invalid: {fault}")
}

/// Says that a file is not there any more.
#[must_use]
pub fn gone(file: &std::path::Path) -> String {
    let file = file.display();
    format!("{file}: the file is gone; put it back, or write {{}} into it to go on with defaults")
}

/// Returns the path of each value that differs; lists count as one value.
fn changed(old: &Value, new: &Value) -> Vec<Path> {
    let mut changed = Vec::new();
    compare(old, new, &Path::default(), &mut changed);
    changed
}

fn compare(old: &Value, new: &Value, at: &Path, changed: &mut Vec<Path>) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        if old != new {
            changed.push(at.clone());
        }
        return;
    };
    let empty = Value::Object(serde_json::Map::new());
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    for key in new.keys().chain(gone) {
        // Against an object, so that what came or went is named leaf by leaf.
        let (before, after) = match (old.get(key), new.get(key)) {
            (Some(before), Some(after)) => (before, after),
            (Some(before), None) => {
                (before, if before.is_object() { &empty } else { &Value::Null })
            }
            (None, Some(after)) => (if after.is_object() { &empty } else { &Value::Null }, after),
            (None, None) => continue,
        };
        compare(before, after, &at.key(key), changed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::config::LogLevel;

    fn live(dir: &std::path::Path, text: &str) -> (Live, impl Fn(&str)) {
        let file = dir.join("moltbot.json");
        fs::write(&file, text).unwrap();
        let write = {
            let file = file.clone();
            move |text: &str| fs::write(&file, text).unwrap()
        };
        let source = Source { file, ..Source::default() };
        let loaded = source.load();
        (Live::of(source, loaded), write)
    }

    #[test]
    fn a_reload_puts_in_force_what_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let (live, write) = live(dir.path(), "{ gateway: { port: 20001, auth: { token: 'a' } } }");
        let mut changes = live.changes();
        write(
            "{ gateway: { port: 20002 }, logging: { level: 'debug' }, ui: { seamColor: 'x' },
               channels: { telegram: { botToken: 't' } } }",
        );
        let plan = live.reload(Trigger::Changed).unwrap();
        assert_eq!(plan.hot, ["logging.level", "ui.seamColor"]);
        assert_eq!(plan.channels, ["channels.telegram.botToken"]);
        assert_eq!(plan.restart, ["gateway.port", "gateway.auth.token"]);
        let config = live.get();
        assert_eq!((config.gateway.port, config.logging.level), (20001, LogLevel::Debug));
        assert_eq!(config.gateway.auth.token.as_deref(), Some("a"));
        assert!(changes.has_changed().unwrap() && *changes.borrow_and_update() == 1);
        assert!(live.degraded().unwrap().contains("gateway.port"));
        let plan = live.reload(Trigger::Changed).unwrap();
        assert!(plan.hot.is_empty() && plan.restart.len() == 2, "still waiting");
        assert!(!changes.has_changed().unwrap(), "nothing new is in force");
        write("{ gateway: { port: 20001, auth: { token: 'a' } } }");
        assert!(live.reload(Trigger::Changed).unwrap().restart.is_empty());
        assert_eq!(live.degraded(), None);
    }

    #[test]
    fn a_secret_is_in_force_at_once_unless_addresses_wait() {
        let plan = |old, new| Plan::between(&old, &new);
        let auth = |token| json!({ "gateway": { "auth": { "token": token } } });
        assert_eq!(plan(auth("a"), auth("b")).hot, ["gateway.auth.token"]);
        let exposed = json!({ "gateway": { "bind": "lan", "auth": { "token": "a" } } });
        let plan = plan(exposed, auth("weak"));
        assert_eq!(plan.hot, [""; 0]);
        assert_eq!(plan.restart, ["gateway.bind", "gateway.auth.token"]);
    }

    #[test]
    fn a_bad_file_changes_nothing_and_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let (live, write) = live(dir.path(), "{ logging: { level: 'debug' } }");
        for (text, told) in [
            ("{ logging: { level: 'loud' } }", "moltbot.json:1:14: logging.level"),
            ("", "moltbot.json"),
        ] {
            write(text);
            let fault = live.reload(Trigger::Changed).unwrap_err();
            assert!(fault.contains(told), "{fault}");
            assert_eq!(live.get().logging.level, LogLevel::Debug);
            assert!(live.degraded().unwrap().contains(told));
        }
        fs::remove_file(dir.path().join("moltbot.json")).unwrap();
        assert!(live.reload(Trigger::Asked).unwrap_err().contains("the file is gone"));
        assert_eq!(live.get().logging.level, LogLevel::Debug);
        write("{ logging: { level: 'warn' } }");
        assert_eq!(live.reload(Trigger::Changed).unwrap().hot, ["logging.level"]);
        assert_eq!(live.degraded(), None);
    }

    #[test]
    fn the_mode_says_how_far_a_change_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (live, write) = live(dir.path(), "{}");
        write("{ gateway: { reload: { mode: 'off' } }, logging: { level: 'debug' } }");
        assert!(live.reload(Trigger::Changed).unwrap().is_empty());
        assert!(live.degraded().unwrap().contains("mode is off"));
        assert_eq!(live.get().logging.level, LogLevel::Info);
        live.reload(Trigger::Asked).unwrap();
        assert_eq!((live.get().logging.level, live.degraded()), (LogLevel::Debug, None));
        write("{ gateway: { reload: { mode: 'restart' } }, logging: { level: 'warn' } }");
        let plan = live.reload(Trigger::Changed).unwrap();
        assert_eq!(plan.restart, ["gateway.reload.mode", "logging.level"]);
        assert_eq!(live.get().logging.level, LogLevel::Debug);
    }

    #[test]
    fn the_last_good_configuration_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.json");
        let (live, write) = live(dir.path(), "{ env: { A: 'debug' }, logging: { level: '${A}' } }");
        let live = live.copied_to(copy.clone());
        write("{ nonsense");
        live.reload(Trigger::Changed).unwrap_err();
        let good = live.source().last_good(&copy).unwrap();
        assert_eq!(good.config.logging.level, LogLevel::Debug);
        assert_eq!(good.written["logging"]["level"], "${A}");
        let other = Source { file: dir.path().join("other.json"), ..Source::default() };
        assert!(other.last_good(&copy).is_none(), "the copy is of another file");
        fs::write(&copy, "{ half").unwrap();
        assert!(live.source().last_good(&copy).is_none());
    }
}
