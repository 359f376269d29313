//! `tools` and the tool lists of agents, channels and chats: what is taken from whom.
//!
//! Names, groups and their order are OpenClaw's; what they come to for a call is decided in
//! [`crate::tools::policy`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Config, commands::PersonId};
use crate::asker::AskerKind;

/// Which tools there are, and for whom they act.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tools {
    /// A ready-made list of allowed tools.
    pub profile: Option<ToolProfile>,
    /// The only tools there are; all when empty. Names, groups such as `group:nodes`, and `*`.
    pub allow: Option<Vec<String>>,
    /// Tools beside those of the profile.
    pub also_allow: Option<Vec<String>>,
    /// Tools that there are not; takes precedence over `allow`.
    pub deny: Option<Vec<String>>,
    /// Further restrictions for models, by `provider` or `provider/model`.
    pub by_provider: BTreeMap<String, ToolPolicy>,
    /// For whom a tool may change something, by tool or `*`: `owner`, `admitted`, `schedule`.
    /// Only for the owner when absent.
    pub act_for: BTreeMap<String, Vec<AskerKind>>,
    /// Programs.
    pub exec: ToolsExec,
    /// Sandboxed conversations.
    pub sandbox: SandboxTools,
}

/// Programs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolsExec {
    /// `deny` keeps the tool `nodes` from running programs. Otherwise each node decides by its
    /// own list.
    pub security: Option<ExecSecurity>,
}

/// Which programs may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExecSecurity {
    /// None.
    Deny,
    /// Those of a list.
    Allowlist,
    /// All.
    Full,
}

/// Sandboxed conversations.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SandboxTools {
    /// Tools of conversations that `sandbox.mode` puts into a sandbox.
    pub tools: ToolPolicy,
}

/// A list of tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolPolicy {
    /// A ready-made list of allowed tools.
    pub profile: Option<ToolProfile>,
    /// The only tools there are; all when empty.
    pub allow: Option<Vec<String>>,
    /// Tools beside those of `allow`.
    pub also_allow: Option<Vec<String>>,
    /// Tools that there are not; takes precedence over the others.
    pub deny: Option<Vec<String>>,
}

/// A ready-made list of allowed tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolProfile {
    /// Session status only.
    Minimal,
    /// Files, programs, sessions, memory.
    Coding,
    /// Messages and sessions.
    Messaging,
    /// No restriction.
    Full,
}

/// Which conversations are sandboxed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxMode {
    /// None.
    #[default]
    Off,
    /// All but the main one.
    NonMain,
    /// All.
    All,
}

/// Sandboxes. There are none in this version: a sandboxed conversation keeps the tools that its
/// list leaves it, and nothing runs on the gateway's host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Sandbox {
    /// Which conversations are sandboxed, and so have the tools of `tools.sandbox.tools` only.
    pub mode: Option<SandboxMode>,
}

/// The tool lists of a channel, or of one of its accounts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChannelTools {
    /// Tools of the channel.
    pub tools: Option<ToolPolicy>,
    /// For whom a tool may change something.
    pub act_for: BTreeMap<String, Vec<AskerKind>>,
    /// By group, `*` for all others.
    pub groups: BTreeMap<String, ChatTools>,
    /// By person in direct chats, `*` for all others.
    pub direct: BTreeMap<String, ChatTools>,
}

/// The tool lists of a chat.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChatTools {
    /// Tools of the chat.
    pub tools: Option<ToolPolicy>,
    /// Tools by sender: `id:7`, `username:ann`, `name:Ann`, `*`.
    pub tools_by_sender: BTreeMap<String, ToolPolicy>,
    /// For whom a tool may change something.
    pub act_for: BTreeMap<String, Vec<AskerKind>>,
    /// By topic of a group.
    pub topics: BTreeMap<String, TopicTools>,
}

/// The tool lists of a topic.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicTools {
    /// Tools of the topic.
    pub tools: Option<ToolPolicy>,
    /// For whom a tool may change something.
    pub act_for: BTreeMap<String, Vec<AskerKind>>,
}

/// Keys of a channel's section that [`ChannelTools`] reads.
const CHANNEL_KEYS: [&str; 4] = ["tools", "actFor", "groups", "direct"];

impl Config {
    /// Returns the tool lists of a channel's account: its own keys, else those of the channel.
    ///
    /// # Errors
    /// When they cannot be read; nothing may be allowed then.
    pub fn channel_tools(
        &self,
        channel: &str,
        account: Option<&str>,
    ) -> Result<ChannelTools, serde_json::Error> {
        let section = self.channels.get(channel).and_then(Value::as_object);
        let accounts = section.and_then(|section| section.get("accounts")?.as_object());
        let own = account.and_then(|id| {
            let mut named = accounts?.iter();
            named.find(|(name, _)| name.eq_ignore_ascii_case(id))?.1.as_object()
        });
        let mut rules = Map::new();
        for key in CHANNEL_KEYS {
            let found = own.and_then(|own| own.get(key)).or_else(|| section?.get(key));
            if let Some(value) = found.filter(|value| !value.is_null()) {
                rules.insert(key.to_owned(), value.clone());
            }
        }
        ChannelTools::deserialize(Value::Object(rules))
    }
}

/// The tools of this version; those of OpenClaw that it lacks cannot be taken away.
pub const TOOLS: [&str; 2] = ["gateway", "nodes"];

/// Tools of OpenClaw whose power the tool `nodes` has over a node: a list that denies one keeps
/// `nodes` from it.
const POWERS: [(&str, &str); 3] =
    [("exec", "programs"), ("browser", "browsers"), ("canvas", "canvases")];

/// Groups of tools, as OpenClaw names them. Members that this version lacks are listed where a
/// command of a node stands for them.
const GROUPS: [(&str, &[&str]); 8] = [
    ("group:nodes", &["nodes"]),
    ("group:automation", &["cron", "gateway"]),
    ("group:runtime", &["exec", "process"]),
    ("group:ui", &["browser", "canvas"]),
    ("group:openclaw", &["*"]),
    ("group:moltbot", &["*"]),
    ("group:clawdbot", &["*"]),
    ("bash", &["exec"]),
];

/// A list of tools with the key that it was written under, its groups replaced by their members.
#[derive(Clone, Debug)]
pub struct ToolList {
    /// The key.
    pub key: String,
    allow: Vec<String>,
    deny: Vec<String>,
}

impl ToolList {
    /// Returns the list of a profile, with tools beside it; none for one that restricts nothing.
    #[must_use]
    pub fn of_profile(
        key: String,
        profile: Option<ToolProfile>,
        more: Option<&Vec<String>>,
    ) -> Option<Self> {
        let allow: &[&str] = match profile? {
            ToolProfile::Minimal => &["session_status"],
            ToolProfile::Coding => &["group:fs", "group:runtime", "cron"],
            ToolProfile::Messaging => &["group:messaging"],
            ToolProfile::Full => return None,
        };
        let mut allow: Vec<_> = allow.iter().map(|&name| name.to_owned()).collect();
        allow.extend(more.into_iter().flatten().cloned());
        Some(Self { key, allow: expanded(&allow), deny: Vec::new() })
    }

    /// Returns the lists `allow` and `deny` below a key. One of nothing restricts nothing, as in
    /// OpenClaw.
    pub fn of_policy(key: &str, policy: &ToolPolicy) -> impl Iterator<Item = Self> {
        let names = |list: &Option<Vec<String>>| expanded(list.as_deref().unwrap_or_default());
        let (allow, deny) = (names(&policy.allow), names(&policy.deny));
        let allow = (!allow.is_empty()).then(|| Self {
            key: format!("{key}.allow"),
            allow,
            deny: Vec::new(),
        });
        let deny = (!deny.is_empty()).then(|| Self {
            key: format!("{key}.deny"),
            allow: Vec::new(),
            deny,
        });
        allow.into_iter().chain(deny)
    }

    /// Returns a list that has no tool.
    #[must_use]
    pub fn of_nothing(key: String) -> Self {
        Self { key, allow: Vec::new(), deny: vec!["*".into()] }
    }

    /// Returns whether it leaves a tool.
    #[must_use]
    pub fn allows(&self, tool: &str) -> bool {
        !self.denies(tool) && (self.allow.is_empty() || matches_any(tool, &self.allow))
    }

    /// Returns whether it names a tool as one that there is not.
    #[must_use]
    pub fn denies(&self, tool: &str) -> bool {
        matches_any(tool, &self.deny)
    }

    /// Says what it comes to in this version.
    fn describe(&self) -> String {
        let taken: Vec<_> = TOOLS.into_iter().filter(|tool| !self.allows(tool)).collect();
        let denied = POWERS.iter().filter(|(power, _)| self.denies(power));
        let powers: Vec<_> = denied.map(|(_, what)| *what).collect();
        match (taken.as_slice(), powers.as_slice()) {
            ([], []) => "takes away nothing that this version has".to_owned(),
            (taken, powers) if taken.contains(&"nodes") || powers.is_empty() => {
                format!("takes away the tools {}", taken.join(", "))
            }
            ([], powers) => format!("keeps the tool nodes from {}", powers.join(", ")),
            (taken, powers) => format!(
                "takes away the tools {}, and keeps the tool nodes from {}",
                taken.join(", "),
                powers.join(", ")
            ),
        }
    }
}

/// Returns a list with its groups replaced by their members, in lower case.
fn expanded(names: &[String]) -> Vec<String> {
    let mut list = Vec::new();
    for name in names.iter().map(|name| name.trim().to_lowercase()) {
        match GROUPS.iter().find(|(group, _)| *group == name) {
            Some((_, members)) => list.extend(members.iter().map(|&member| member.to_owned())),
            None if name.is_empty() => {}
            None => list.push(name),
        }
    }
    list
}

fn matches_any(tool: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| matches(tool, pattern))
}

/// Compares a name with a pattern in which `*` stands for anything. Goes through the name once for
/// each part of the pattern, so that no pattern is costly.
fn matches(name: &str, pattern: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return name == pattern };
    let Some(mut rest) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = tail.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Returns whether an agent has fewer tools than others.
pub(super) fn is_restricted(agent: &super::Agent) -> bool {
    let mut found = Vec::new();
    of_tools("tools", &agent.tools, &mut found);
    let is_sandboxed = agent.sandbox.mode.is_some_and(|mode| mode != SandboxMode::Off);
    !found.is_empty() || is_sandboxed
}

/// A restriction and what it comes to.
pub type Restriction = (String, String);

/// Returns every restriction of tools and commands that is written, with what it comes to.
#[must_use]
pub fn restrictions(config: &Config) -> Vec<Restriction> {
    let mut found = Vec::new();
    of_commands(config, &mut found);
    of_tools("tools", &config.tools, &mut found);
    let mut sandboxes = vec![("agents.defaults".to_owned(), &config.agents.defaults.sandbox)];
    for (index, agent) in config.agents.list.iter().enumerate() {
        let key = format!("agents.list[{index}]");
        of_tools(&format!("{key}.tools"), &agent.tools, &mut found);
        sandboxes.push((key, &agent.sandbox));
    }
    for (key, sandbox) in sandboxes {
        let which = match sandbox.mode {
            Some(SandboxMode::All) => "all conversations",
            Some(SandboxMode::NonMain) => "conversations other than the main one",
            Some(SandboxMode::Off) | None => continue,
        };
        let text = format!("leaves {which} the tools of tools.sandbox.tools only");
        found.push((format!("{key}.sandbox.mode"), text));
    }
    for (channel, section) in &config.channels {
        // What cannot be read is an error of the configuration by itself.
        let key = format!("channels.{channel}");
        if let Ok(tools) = config.channel_tools(channel, None) {
            of_channel(&key, &tools, &mut found);
        }
        let accounts = section.get("accounts").and_then(Value::as_object);
        for (id, own) in accounts.into_iter().flatten() {
            let says_something = CHANNEL_KEYS.iter().any(|key| own.get(key).is_some());
            if let (true, Ok(tools)) = (says_something, config.channel_tools(channel, Some(id))) {
                of_channel(&format!("{key}.accounts.{id}"), &tools, &mut found);
            }
        }
    }
    found
}

fn of_commands(config: &Config, found: &mut Vec<Restriction>) {
    let commands = &config.commands;
    let mut add = |key: &str, text: String| found.push((format!("commands.{key}"), text));
    let owners: Vec<_> = commands.owners().map(PersonId::text).collect();
    if commands.has_owners() {
        let key = if commands.owners.is_some() { "owners" } else { "ownerAllowFrom" };
        let named = if owners.is_empty() { "nobody".into() } else { owners.join(", ") };
        add(key, format!("tools act for {named}, and for clients with operator.admin"));
    }
    if commands.allow_from.is_some() {
        add("allowFrom", "commands in chats are for these people and the owners only".into());
    }
    if commands.restart == Some(false) {
        add("restart", "keeps the tool gateway from restarting the gateway".into());
    }
    if commands.text == Some(false) {
        add("text", "channels obey no /commands, except words that stop a run".into());
    }
}

fn of_tools(key: &str, tools: &Tools, found: &mut Vec<Restriction>) {
    let mut lists: Vec<ToolList> = Vec::new();
    let more = tools.also_allow.as_ref();
    lists.extend(ToolList::of_profile(format!("{key}.profile"), tools.profile, more));
    let own = ToolPolicy {
        allow: tools.allow.clone(),
        deny: tools.deny.clone(),
        ..ToolPolicy::default()
    };
    lists.extend(ToolList::of_policy(key, &own));
    lists.extend(ToolList::of_policy(&format!("{key}.sandbox.tools"), &tools.sandbox.tools));
    found.extend(lists.iter().map(|list| (list.key.clone(), list.describe())));
    for (model, policy) in &tools.by_provider {
        of_one(&format!("{key}.byProvider.{model}"), Some(policy), found);
    }
    if tools.exec.security == Some(ExecSecurity::Deny) {
        let text = "keeps the tool nodes from programs".to_owned();
        found.push((format!("{key}.exec.security"), text));
    }
    act_for(key, &tools.act_for, found);
}

fn of_channel(key: &str, tools: &ChannelTools, found: &mut Vec<Restriction>) {
    of_one(&format!("{key}.tools"), tools.tools.as_ref(), found);
    act_for(key, &tools.act_for, found);
    for (kind, chats) in [("groups", &tools.groups), ("direct", &tools.direct)] {
        for (id, chat) in chats {
            let key = format!("{key}.{kind}.{id}");
            of_one(&format!("{key}.tools"), chat.tools.as_ref(), found);
            for (sender, policy) in &chat.tools_by_sender {
                of_one(&format!("{key}.toolsBySender.{sender}"), Some(policy), found);
            }
            act_for(&key, &chat.act_for, found);
            for (topic, rules) in &chat.topics {
                let key = format!("{key}.topics.{topic}");
                of_one(&format!("{key}.tools"), rules.tools.as_ref(), found);
                act_for(&key, &rules.act_for, found);
            }
        }
    }
}

fn of_one(key: &str, policy: Option<&ToolPolicy>, found: &mut Vec<Restriction>) {
    let Some(policy) = policy else { return };
    let more = policy.also_allow.as_ref();
    let profile = ToolList::of_profile(format!("{key}.profile"), policy.profile, more);
    let lists = profile.into_iter().chain(ToolList::of_policy(key, policy));
    found.extend(lists.map(|list| (list.key.clone(), list.describe())));
}

fn act_for(key: &str, lists: &BTreeMap<String, Vec<AskerKind>>, found: &mut Vec<Restriction>) {
    for (tool, kinds) in lists {
        let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        let whom = if kinds.is_empty() { "nobody".into() } else { kinds.join(", ") };
        found.push((format!("{key}.actFor.{tool}"), format!("{tool} acts for {whom} here")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_restriction_is_said_with_what_it_comes_to() {
        let config: Config = serde_json::from_value(json!({
            "tools": { "profile": "coding", "deny": ["exec", "image"], "allow": ["*"] },
            "agents": { "list": [{ "id": "a", "tools": { "deny": ["nodes", "gateway"] } }] },
            "commands": { "restart": false, "ownerAllowFrom": ["telegram:7"] },
            "channels": { "telegram": { "groups": { "-5": {
                "tools": { "deny": ["group:ui"] }, "toolsBySender": { "id:7": { "deny": ["cron"] } },
            } } } },
        }))
        .unwrap();
        let lines: Vec<_> =
            restrictions(&config).into_iter().map(|(key, text)| format!("{key}: {text}")).collect();
        assert_eq!(
            lines,
            [
                "commands.ownerAllowFrom: tools act for telegram:7, and for clients with operator.admin",
                "commands.restart: keeps the tool gateway from restarting the gateway",
                "tools.profile: takes away the tools gateway, nodes",
                "tools.allow: takes away nothing that this version has",
                "tools.deny: keeps the tool nodes from programs",
                "agents.list[0].tools.deny: takes away the tools gateway, nodes",
                "channels.telegram.groups.-5.tools.deny: keeps the tool nodes from browsers, canvases",
                "channels.telegram.groups.-5.toolsBySender.id:7.deny: takes away nothing that this \
                 version has",
            ]
        );
    }

    #[test]
    fn stars_stand_for_anything_and_cost_nothing() {
        for (name, pattern, fits) in [
            ("nodes", "*", true),
            ("nodes", "n*s", true),
            ("nodes", "*od*", true),
            ("nodes", "n*x", false),
            ("nodes", "nodes*", true),
            ("ab", "ab*ab", false),
            ("nodes", "", false),
        ] {
            assert_eq!(matches(name, pattern), fits, "{name} {pattern}");
        }
        assert!(!matches(&"a".repeat(1000), &format!("{}b", "a*".repeat(500))));
    }
}
