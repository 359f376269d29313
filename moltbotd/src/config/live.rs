//! The configuration in force, and its replacement while the daemon runs.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::watch;

use super::{Config, Loaded, Source};

/// What takes effect only when the daemon starts anew: it is read once, or a
/// client already relies on it.
const NEEDS_RESTART: &[&str] = &[
    "gateway.port",
    "gateway.bind",
    "gateway.customBindHost",
    "gateway.auth",
    "gateway.limits",
    "gateway.tls",
    "gateway.tailscale",
    "gateway.http",
    "canvasHost",
    "discovery",
    "plugins",
];

/// The configuration in force. A reload replaces it as a whole, or not at all.
#[derive(Debug)]
pub struct Live {
    source: Source,
    /// What the file said when the daemon started.
    started_with: Value,
    config: ArcSwap<Config>,
    loaded: ArcSwap<Loaded>,
    degraded: Mutex<Option<String>>,
    changes: watch::Sender<u64>,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Paths whose new values are in force.
    pub hot: Vec<String>,
    /// Paths whose new values wait for a restart.
    pub restart: Vec<String>,
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
        Self {
            source,
            started_with: loaded.resolved.clone(),
            config: ArcSwap::from_pointee(loaded.config.clone()),
            loaded: ArcSwap::from_pointee(loaded),
            degraded: Mutex::default(),
            changes: watch::Sender::new(0),
        }
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

    /// Returns what is known about the file, as it was last read.
    #[must_use]
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    /// Returns why the file is not what is in force, if it is not.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        self.degraded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells about each change; the value counts them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Reads the file anew and puts in force what can be. A file that cannot
    /// be used changes nothing; its first fault is returned. Reads files: not
    /// to be called on a runtime's thread.
    pub fn reload(&self) -> Result<Plan, String> {
        let fresh = self.source.load();
        if let Some(issue) = fresh.issues.first() {
            let text = issue.to_string();
            let reason = format!("configuration kept, the file is invalid: {text}");
            *self.degraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
            return Err(text);
        }
        let plan = Plan {
            hot: changes(&self.loaded().resolved, &fresh.resolved).0,
            restart: changes(&self.started_with, &fresh.resolved).1,
        };
        let mut config = fresh.config.clone();
        keep_until_restart(&mut config, &self.get());
        self.loaded.store(Arc::new(fresh));
        let waiting = (!plan.restart.is_empty())
            .then(|| format!("waits for a restart: {}", plan.restart.join(", ")));
        *self.degraded.lock().unwrap_or_else(PoisonError::into_inner) = waiting;
        self.set(config);
        Ok(plan)
    }
}

fn keep_until_restart(config: &mut Config, old: &Config) {
    let (new, old) = (&mut config.gateway, &old.gateway);
    new.port = old.port;
    new.bind = old.bind;
    new.custom_bind_host.clone_from(&old.custom_bind_host);
    new.auth.clone_from(&old.auth);
    new.limits.clone_from(&old.limits);
}

/// Returns the paths of what changed: what can be put in force, and what waits
/// for a restart.
fn changes(old: &Value, new: &Value) -> (Vec<String>, Vec<String>) {
    let mut changed = Vec::new();
    compare(old, new, "", &mut changed);
    let waits = |path: &String| {
        NEEDS_RESTART.iter().any(|prefix| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    changed.into_iter().partition(|path| !waits(path))
}

/// Notes the path of each value that differs; lists count as one value.
fn compare(old: &Value, new: &Value, at: &str, changed: &mut Vec<String>) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        if old != new {
            changed.push(at.into());
        }
        return;
    };
    let join = |key: &str| if at.is_empty() { key.into() } else { format!("{at}.{key}") };
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
        compare(before, after, &join(key), changed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        write("{ gateway: { port: 20002 }, logging: { level: 'debug' }, ui: { seamColor: 'x' } }");
        let plan = live.reload().unwrap();
        assert_eq!(plan.hot, ["logging.level", "ui.seamColor"]);
        assert_eq!(plan.restart, ["gateway.port", "gateway.auth.token"]);
        let config = live.get();
        assert_eq!((config.gateway.port, config.logging.level), (20001, LogLevel::Debug));
        assert_eq!(config.gateway.auth.token.as_deref(), Some("a"));
        assert!(changes.has_changed().unwrap() && *changes.borrow_and_update() == 1);
        assert!(live.degraded().unwrap().contains("gateway.port"));
        let plan = live.reload().unwrap();
        assert!(plan.hot.is_empty() && plan.restart.len() == 2, "still waiting");
        write("{ gateway: { port: 20001, auth: { token: 'a' } } }");
        assert!(live.reload().unwrap().restart.is_empty() && live.degraded().is_none());
    }

    #[test]
    fn a_bad_file_changes_nothing_and_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let (live, write) = live(dir.path(), "{ logging: { level: 'debug' } }");
        write("{ logging: { level: 'loud' } }");
        let fault = live.reload().unwrap_err();
        assert!(fault.contains("moltbot.json:1:14: logging.level"), "{fault}");
        assert_eq!(live.get().logging.level, LogLevel::Debug);
        assert!(live.degraded().unwrap().contains("logging.level"));
        write("{ logging: { level: 'warn' } }");
        assert_eq!(live.reload().unwrap().hot, ["logging.level"]);
        assert_eq!(live.degraded(), None);
    }
}
