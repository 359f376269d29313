//! What types alone cannot tell: ranges, addresses, things that belong
//! together.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use moltbot_protocol::Scope;
use moltbot_settings::Path;
use serde_json::Value;

use super::{
    Bind, Config, OTHER_SECTIONS, Reset, Session, gateway::network, issue::Issue, mentions,
};
use crate::asker::AskerKind;

/// Smallest frame limit with which clients can still authenticate.
const SMALLEST_PAYLOAD_BYTES: usize = 64 * 1024;
/// Smallest log that still tells something.
const SMALLEST_LOG_BYTES: u64 = 4096;

const LONGEST_DEBOUNCE_MS: u64 = 60_000;

/// Notes everything that is wrong.
pub(super) fn all(config: &Config, root: &Value, issues: &mut Vec<Issue>) {
    let mut wrong = |path: &str, message: String| {
        let Ok(path) = path.parse::<Path>();
        // A value that has been reported is at its default here.
        if !issues.iter().any(|issue| path.to_string().starts_with(&issue.path)) {
            issues.push(Issue::at(&path, message));
        }
    };
    gateway(config, &mut wrong);
    agents(config, &mut wrong);
    session(config, &mut wrong);
    models(config, &mut wrong);
    logging(config, &mut wrong);
    owners(config, &mut wrong);
    tools(config, &mut wrong);
    kinds(root, &mut wrong);
}

/// Notes what is ignored because it cannot be used.
pub(super) fn odd(config: &Config, warnings: &mut Vec<Issue>) {
    for (at, pattern) in config.written_patterns() {
        if mentions::mention(pattern).is_err() {
            let text = "is not a regular expression that can be used, and is ignored";
            warnings.push(Issue::at(&at, text));
        }
    }
}

/// Notes who is left without rights by an upgrade, or by a spelling that names nobody.
pub(super) fn ownership(config: &Config, warnings: &mut Vec<Issue>) {
    let Some(section) = config.channels.get(TELEGRAM).filter(|it| it["enabled"] != false) else {
        return;
    };
    let at = Path::default().key("commands").key("owners");
    if !config.commands.has_owners() {
        let text = format!(
            "is not set: nobody who writes through a channel may have tools or /node change \
             something. Name yourself: moltbotctl config set commands.owners '[\"{TELEGRAM}:{}\"]'; \
             or say that nobody is to: moltbotctl config set commands.owners '[]'",
            only_person(section).unwrap_or_else(|| "YOUR-ID".into()),
        );
        warnings.push(Issue::at(&at, text));
    }
    for owner in config.commands.owners() {
        let (channel, id) = owner.parts();
        let is_here = channel.as_deref().is_none_or(|channel| channel == TELEGRAM);
        if is_here && id.parse::<i64>().is_err() && id != "*" {
            let text = format!(
                "has {:?}, which names nobody in Telegram: owners are named by their numeric id, \
                 since a username can change hands",
                owner.text()
            );
            warnings.push(Issue::at(&at, text));
        }
    }
}

/// The channel of this version.
const TELEGRAM: &str = "telegram";

/// Returns the id of the only person in a channel's `allowFrom`, if there is only one.
fn only_person(section: &Value) -> Option<String> {
    let [person] = section.get("allowFrom")?.as_array()?.as_slice() else { return None };
    let text = person.as_str().map_or_else(|| person.to_string(), str::to_owned);
    let (_, id) = super::PersonId::Text(text).parts();
    id.parse::<i64>().is_ok().then_some(id)
}

fn owners(config: &Config, wrong: Wrong<'_>) {
    if config.commands.owners().any(|owner| owner.parts().1 == "*") {
        let text = "has \"*\", which would make everybody the owner; name the owners by their ids";
        let key = if config.commands.owners.iter().flatten().any(|it| it.parts().1 == "*") {
            "commands.owners"
        } else {
            "commands.ownerAllowFrom"
        };
        wrong(key, text.into());
    }
}

fn tools(config: &Config, wrong: Wrong<'_>) {
    acting("tools", &config.tools.act_for, wrong);
    for (index, agent) in config.agents.list.iter().enumerate() {
        acting(&format!("agents.list[{index}].tools"), &agent.tools.act_for, wrong);
    }
    let accounts = config.channels.get(TELEGRAM).and_then(|it| it.get("accounts")?.as_object());
    let accounts = accounts.into_iter().flatten().map(|(id, _)| Some(id.as_str()));
    for account in std::iter::once(None).chain(accounts) {
        let key = match account {
            Some(id) => format!("channels.{TELEGRAM}.accounts.{id}"),
            None => format!("channels.{TELEGRAM}"),
        };
        match config.channel_tools(TELEGRAM, account) {
            Ok(tools) => {
                acting(&key, &tools.act_for, wrong);
                for (kind, chats) in [("groups", &tools.groups), ("direct", &tools.direct)] {
                    for (id, chat) in chats {
                        acting(&format!("{key}.{kind}.{id}"), &chat.act_for, wrong);
                        for (topic, rules) in &chat.topics {
                            let key = format!("{key}.{kind}.{id}.topics.{topic}");
                            acting(&key, &rules.act_for, wrong);
                        }
                    }
                }
            }
            Err(error) => wrong(&key, format!("has tool lists that cannot be read: {error}")),
        }
    }
    bindings(config, wrong);
}

/// A channel that another agent was to answer is answered by the default one in this version. That
/// is harmless unless the other one was to have fewer tools.
fn bindings(config: &Config, wrong: Wrong<'_>) {
    let bindings = config.section("bindings").and_then(Value::as_array);
    for (index, binding) in bindings.into_iter().flatten().enumerate() {
        let channel = binding["match"]["channel"].as_str().unwrap_or_default();
        let Some(id) = binding["agentId"].as_str() else { continue };
        let bound = config.agents.list.iter().find(|agent| agent.id.eq_ignore_ascii_case(id));
        let is_default = id.eq_ignore_ascii_case(&config.agents.default_id());
        let is_restricted = bound.is_some_and(super::tools::is_restricted);
        if channel.eq_ignore_ascii_case(TELEGRAM) && !is_default && is_restricted {
            wrong(
                &format!("bindings[{index}]"),
                format!(
                    "gives a chat to agent {id:?}, whose tools are restricted, but bindings are not \
                     implemented and agent {:?} would answer with its own; remove the binding, and \
                     restrict the chat with channels.{TELEGRAM}.groups.<id>.tools or \
                     channels.{TELEGRAM}.direct.<id>.tools",
                    config.agents.default_id()
                ),
            );
        }
    }
}

fn acting(key: &str, lists: &BTreeMap<String, Vec<AskerKind>>, wrong: Wrong<'_>) {
    for (tool, kinds) in lists {
        if let Some(kind) = kinds.iter().find(|kind| !kind.may_act()) {
            let text = format!(
                "names {:?}, for whom no tool ever acts; allowed are \"owner\", \"admitted\" and \
                 \"schedule\"",
                kind.name()
            );
            wrong(&format!("{key}.actFor.{tool}"), text);
        }
    }
}

type Wrong<'a> = &'a mut dyn FnMut(&str, String);

fn gateway(config: &Config, wrong: Wrong<'_>) {
    let gateway = &config.gateway;
    if gateway.port == 0 {
        wrong("gateway.port", "is 0, allowed is 1 to 65535".into());
    }
    let host = gateway.custom_bind_host.as_deref();
    if let Some(host) = host.filter(|host| host.trim().parse::<IpAddr>().is_err()) {
        wrong("gateway.customBindHost", format!("is {host:?}, allowed is an IP address"));
    }
    if gateway.bind == Bind::Custom && host.is_none() {
        wrong("gateway.bind", "is \"custom\", which needs gateway.customBindHost".into());
    }
    let tls = &gateway.tls;
    if tls.cert_path.is_some() != tls.key_path.is_some() {
        let (given, missing) = match tls.cert_path {
            Some(_) => ("certPath", "keyPath"),
            None => ("keyPath", "certPath"),
        };
        wrong(&format!("gateway.tls.{given}"), format!("needs gateway.tls.{missing} beside it"));
    }
    if tls.enabled && !tls.auto_generate && tls.cert_path.is_none() {
        let text = "is true, which needs gateway.tls.certPath and keyPath, or autoGenerate";
        wrong("gateway.tls.enabled", text.into());
    }
    for (index, proxy) in gateway.trusted_proxies.iter().enumerate() {
        let path = format!("gateway.trustedProxies[{index}]");
        match network(proxy) {
            None => wrong(
                &path,
                format!("is {proxy:?}, allowed is an IP address or a network such as 10.0.0.0/24"),
            ),
            Some(network) if network.prefix_len() == 0 => wrong(
                &path,
                format!("is {proxy:?}, which lets everybody claim any address; name the proxies"),
            ),
            Some(_) => {}
        }
    }
    let tailscale = &gateway.tailscale;
    for (key, path) in [("path", &tailscale.path), ("socket", &tailscale.socket)] {
        if let Some(path) = path.as_deref().filter(|path| !path.starts_with('/')) {
            wrong(
                &format!("gateway.tailscale.{key}"),
                format!("is {path:?}, allowed is an absolute path"),
            );
        }
    }
    let scopes = gateway.auth.shared_secret_scopes.iter().flatten();
    for (index, scope) in scopes.enumerate().filter(|(_, scope)| Scope::parse(scope).is_none()) {
        let path = format!("gateway.auth.sharedSecretScopes[{index}]");
        let names = Scope::ALL.map(Scope::name).join(", ");
        wrong(&path, format!("is {scope:?}, allowed are {names}"));
    }
    if gateway.reload.debounce_ms > LONGEST_DEBOUNCE_MS {
        let why = format!("is too long, allowed is 0 to {LONGEST_DEBOUNCE_MS}");
        wrong("gateway.reload.debounceMs", why);
    }
    if gateway.limits.max_payload < SMALLEST_PAYLOAD_BYTES {
        let least = SMALLEST_PAYLOAD_BYTES;
        wrong("gateway.limits.maxPayload", format!("is too small, allowed is {least} or more"));
    }
    let url = gateway.remote.url.as_deref();
    if url.is_some_and(|url| !url.starts_with("ws://") && !url.starts_with("wss://")) {
        wrong("gateway.remote.url", "must start with ws:// or wss://".into());
    }
}

fn logging(config: &Config, wrong: Wrong<'_>) {
    let logging = &config.logging;
    if logging.max_file_bytes < SMALLEST_LOG_BYTES {
        let least = SMALLEST_LOG_BYTES;
        wrong("logging.maxFileBytes", format!("is too small, allowed is {least} or more"));
    }
    if logging.max_age_days == 0 {
        wrong("logging.maxAgeDays", "is 0, allowed is 1 or more".into());
    }
    if logging.file.as_ref().is_some_and(|file| file.trim().is_empty()) {
        wrong("logging.file", "is empty, allowed is a path".into());
    }
    for (index, pattern) in logging.redact_patterns.iter().enumerate() {
        if let Err(error) = regex::Regex::new(pattern) {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            wrong(
                &format!("logging.redactPatterns[{index}]"),
                format!("is {pattern:?}, allowed is a regular expression: {reason}"),
            );
        }
    }
}

fn agents(config: &Config, wrong: Wrong<'_>) {
    let defaults = &config.agents.defaults;
    if defaults.max_concurrent == 0 {
        wrong("agents.defaults.maxConcurrent", "is 0, allowed is 1 or more".into());
    }
    if defaults.timeout_seconds == 0 {
        wrong("agents.defaults.timeoutSeconds", "is 0, allowed is 1 or more".into());
    }
    let mut seen = BTreeSet::new();
    for (index, agent) in config.agents.list.iter().enumerate() {
        let path = format!("agents.list[{index}].id");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if agent.id.is_empty() || agent.id.len() > 64 || !agent.id.bytes().all(plain) {
            wrong(&path, "must be 1 to 64 letters, digits, \"-\" and \"_\"".into());
        }
        if !seen.insert(agent.id.to_ascii_lowercase()) {
            wrong(&path, format!("is {:?}, which another agent has", agent.id));
        }
    }
}

fn session(config: &Config, wrong: Wrong<'_>) {
    let scope = config.session.scope.as_deref();
    if let Some(scope) = scope.filter(|scope| !matches!(*scope, "per-sender" | "global")) {
        wrong("session.scope", format!("is {scope:?}, allowed are \"per-sender\", \"global\""));
    }
    if config.session.idle_minutes == Some(0) {
        wrong("session.idleMinutes", "is 0, allowed is 1 or more".into());
    }
    for (path, reset) in resets(&config.session) {
        if let Some(hour) = reset.at_hour.filter(|hour| *hour > 23) {
            wrong(&format!("{path}.atHour"), format!("is {hour}, allowed is 0 to 23"));
        }
        if reset.idle_minutes == Some(0) {
            wrong(&format!("{path}.idleMinutes"), "is 0, allowed is 1 or more".into());
        }
    }
}

/// Returns every rule of when conversations start anew, with its key.
fn resets(session: &Session) -> Vec<(String, Reset)> {
    let by_type = session.reset_by_type.unwrap_or_default();
    let named = [
        ("session.reset", session.reset),
        ("session.resetByType.dm", by_type.dm),
        ("session.resetByType.group", by_type.group),
        ("session.resetByType.thread", by_type.thread),
    ];
    let named = named.into_iter().filter_map(|(path, reset)| Some((path.to_owned(), reset?)));
    let channels = session.reset_by_channel.iter();
    named
        .chain(channels.map(|(name, reset)| (format!("session.resetByChannel.{name}"), *reset)))
        .collect()
}

fn models(config: &Config, wrong: Wrong<'_>) {
    for (name, provider) in &config.models.providers {
        let url = &provider.base_url;
        // A known provider needs none; where one is missing, its models cannot be asked.
        if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
            wrong(
                &format!("models.providers.{name}.baseUrl"),
                "must start with http:// or https://".into(),
            );
        }
    }
}

fn kinds(root: &Value, wrong: Wrong<'_>) {
    for (name, ..) in OTHER_SECTIONS {
        let Some(section) = root.get(name) else { continue };
        match *name {
            "bindings" if !section.is_array() => wrong(name, "must be a list: [ … ]".into()),
            "bindings" => {}
            _ if !section.is_object() => wrong(name, "must be an object: { … }".into()),
            _ => {}
        }
    }
}
