//! Which keys may be changed from another host only by somebody who shows the gateway's secret
//! again.
//!
//! A session of an administrator can be stolen: a page left open, a token in a browser's storage.
//! It must not be enough to open the gateway to others, to have a program of one's choice run, or
//! to send files and stored secrets to an address of one's choice. Keys that can do so declare it
//! next to their type (`#[schemars(extend("x-guarded" = true))]`), and it is part of the schema
//! that clients see. The nearest declaration on the way to a key counts.
//!
//! What has no type here nobody can judge, so it is guarded, unless its section says that it is
//! not; there, too, names of programs and folders are.

use moltbot_settings::{Path, Step};
use serde_json::Value;

use super::effect::inner;

/// Where the schema says it.
pub(super) const KEYWORD: &str = "x-guarded";

/// How the name of a key ends that says which program runs or which files are read.
const PROGRAM_ENDINGS: [&str; 12] = [
    "path",
    "bin",
    "binary",
    "command",
    "args",
    "argv",
    "exec",
    "executable",
    "program",
    "script",
    "roots",
    "env",
];

/// Refused keys that are named at most: one is enough to refuse, and a person reads the rest.
const MOST_NAMED: usize = 32;

/// Whether guarded keys may be changed.
#[derive(Clone, Copy, Debug)]
pub enum Guard<'a> {
    /// They may: by this host, or by somebody who showed the secret.
    Lifted,
    /// Not those that this schema declares.
    Up(&'a Value),
}

impl Guard<'_> {
    /// Returns the guarded keys that differ, for which the guard is not lifted.
    pub(super) fn refuses(self, old: &Value, new: &Value) -> Vec<String> {
        let Self::Up(schema) = self else { return Vec::new() };
        let mut refused = Vec::new();
        compare(old, new, &Path::default(), &mut |path| {
            if refused.len() < MOST_NAMED && is_guarded(path, schema) {
                refused.push(path.to_string());
            }
        });
        refused
    }
}

/// Names every leaf that differs; what comes or goes is named leaf by leaf, too.
fn compare(old: &Value, new: &Value, at: &Path, differs: &mut dyn FnMut(&Path)) {
    match (old, new) {
        (old, new) if old == new => {}
        (Value::Object(_), Value::Object(_) | Value::Null) | (Value::Null, Value::Object(_)) => {
            let keys = |value: &Value| -> Vec<String> {
                value.as_object().into_iter().flat_map(|it| it.keys().cloned()).collect()
            };
            let mut names = keys(old);
            names.extend(keys(new).into_iter().filter(|name| old.get(name).is_none()));
            if names.is_empty() {
                return;
            }
            for name in names {
                let value = |of: &Value| of.get(&name).cloned().unwrap_or(Value::Null);
                compare(&value(old), &value(new), &at.key(&name), differs);
            }
        }
        (Value::Array(_), Value::Array(_) | Value::Null) | (Value::Null, Value::Array(_)) => {
            let length = |of: &Value| of.as_array().map_or(0, Vec::len);
            for index in 0..length(old).max(length(new)) {
                let value = |of: &Value| of.get(index).cloned().unwrap_or(Value::Null);
                compare(&value(old), &value(new), &at.index(index), differs);
            }
        }
        // One kind became another: each leaf of either has changed.
        (old, new) if old.is_object() || new.is_object() || old.is_array() || new.is_array() => {
            compare(old, &Value::Null, at, differs);
            compare(&Value::Null, new, at, differs);
        }
        _ => differs(at),
    }
}

fn is_guarded(path: &Path, schema: &Value) -> bool {
    let mut declared = None;
    let mut node = schema;
    for step in &path.0 {
        let Some(next) = inner(node, step) else {
            // Below a section that is kept as it is, what the section says counts.
            let kept = node.get("properties").is_none() && declared == Some(false);
            return !kept || names_a_program(path);
        };
        node = next;
        declared = node.get(KEYWORD).and_then(Value::as_bool).or(declared);
    }
    declared.unwrap_or(false)
}

fn names_a_program(path: &Path) -> bool {
    path.0.iter().any(|step| match step {
        Step::Key(key) => {
            let key = key.to_ascii_lowercase();
            PROGRAM_ENDINGS.iter().any(|ending| key.ends_with(ending))
        }
        Step::Index(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{channels, config::schema};

    fn whole() -> Value {
        let channels: Vec<_> = channels::ALL.iter().map(|entry| (entry.id, entry.schema)).collect();
        schema(&channels)
    }

    #[test]
    fn what_opens_the_host_is_guarded_and_the_rest_is_not() {
        let schema = whole();
        let is_guarded = |path: &str| {
            let Ok(path) = path.parse();
            is_guarded(&path, &schema)
        };
        for path in [
            "gateway.auth.token",
            "gateway.auth.mode",
            "gateway.auth.allowTailscale",
            "gateway.auth.sharedSecretScopes[0]",
            "gateway.bind",
            "gateway.customBindHost",
            "gateway.trustedProxies[0]",
            "gateway.controlUi.allowInsecureAuth",
            "gateway.controlUi.dangerouslyDisableDeviceAuth",
            "gateway.controlUi.allowedOrigins[0]",
            "gateway.tailscale.mode",
            "gateway.tailscale.path",
            "gateway.tls.keyPath",
            "gateway.tls.enabled",
            "gateway.pairing.loopback",
            "gateway.nodes.allowCommands[0]",
            "gateway.remote.url",
            "gateway.http.endpoints",
            "env.PATH",
            "env.vars.LD_PRELOAD",
            "tools.exec.host",
            "tools.deny[0]",
            "commands.owners[0]",
            "approvals.exec.enabled",
            "plugins.load.paths[0]",
            "hooks.token",
            "browser.executablePath",
            "skills.load.extraDirs[0]",
            "mcp.servers.a.b",
            "agents.defaults.sandbox.mode",
            "agents.list[0].tools.allow[0]",
            "agents.list[1].id",
            "agents.list[1].default",
            "bindings[0].agentId",
            "session.dmScope",
            "channels.telegram.dmPolicy",
            "channels.telegram.allowFrom[0]",
            "channels.telegram.groupPolicy",
            "channels.telegram.groupAllowFrom[0]",
            "channels.telegram.groups.x.allowFrom[0]",
            "channels.telegram.groups.x.topics.y.allowFrom[0]",
            "channels.telegram.groups.x.toolsBySender.z.deny[0]",
            "channels.telegram.actFor.nodes[0]",
            "channels.telegram.direct.x.actFor.nodes[0]",
            "channels.telegram.accounts.a.dmPolicy",
            "agents.defaults.cliBackends.x.command",
            "channels.telegram.mediaRoots[0]",
            "channels.telegram.accounts.a.apiRoot",
            "channels.telegram.proxy",
            "channels.signal.cliPath",
            "models.providers.a.baseUrl",
            "models.providers.a.headers.b",
            "logging.file",
            "logging.redactSensitive",
            "talk.program.path",
            "audio.command[0]",
            "secrets.providers.x",
        ] {
            assert!(is_guarded(path), "{path}");
        }
        for path in [
            "gateway.port",
            "gateway.limits.maxPayload",
            "gateway.reload.mode",
            "agents.defaults.model.primary",
            "agents.list[0].identity.name",
            "channels.telegram.groups.x.requireMention",
            "models.providers.a.apiKey",
            "session.scope",
            "messages.responsePrefix",
            "logging.level",
            "ui.assistant.name",
            "talk.voiceId",
            "cron.enabled",
        ] {
            assert!(!is_guarded(path), "{path}");
        }
    }

    #[test]
    fn every_section_says_whether_it_is_guarded() {
        let schema = whole();
        for (name, section) in schema["properties"].as_object().unwrap() {
            assert!(section[KEYWORD].is_boolean(), "{name} needs an {KEYWORD}");
        }
    }

    #[test]
    fn whatever_comes_goes_or_changes_its_kind_is_seen() {
        let schema = whole();
        let refused = |old: &Value, new: &Value| Guard::Up(&schema).refuses(old, new);
        let open = json!({ "gateway": { "bind": "lan", "port": 1 } });
        assert_eq!(refused(&json!({}), &open), ["gateway.bind"]);
        assert_eq!(refused(&open, &json!({})), ["gateway.bind"]);
        assert_eq!(refused(&open, &json!({ "gateway": 5 })), ["gateway.bind"]);
        assert_eq!(refused(&open, &open), Vec::<String>::new());
        let agent = |tools: Value| json!({ "agents": { "list": [{ "id": "a" }, tools] } });
        let changed = agent(json!({ "id": "b", "tools": { "allow": ["*"] } }));
        assert_eq!(
            refused(&agent(json!({ "id": "b" })), &changed),
            ["agents.list[1].tools.allow[0]"]
        );
        assert!(Guard::Lifted.refuses(&json!({}), &open).is_empty());
    }
}
