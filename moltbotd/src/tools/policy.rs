//! Who may have a tool do what, and where.
//!
//! Two questions are asked of every call, in this order. Is the tool there at all, by the lists of
//! `tools`, of the agent, the channel, the chat and the model? And may this asker have it do what
//! the call would do? What changes something is for an owner unless `actFor` names others, and
//! what strangers, nodes and quotations say never changes anything, whatever is configured.
//!
//! The chat command `/node` passes the same gate as the tool `nodes`: it is the same power.

use std::collections::BTreeMap;

use super::{Effect, Intent};
use crate::{
    asker::{Asker, AskerKind},
    config::{
        Agent, ChannelTools, ChatTools, Config, ExecSecurity, SandboxMode, ToolList, ToolPolicy,
        ToolProfile, Tools,
    },
};

/// What a sandboxed conversation has where `tools.sandbox.tools` is silent: OpenClaw's defaults.
const SANDBOX_ALLOW: [&str; 12] = [
    "exec",
    "process",
    "read",
    "write",
    "edit",
    "apply_patch",
    "image",
    "sessions_list",
    "sessions_history",
    "sessions_send",
    "sessions_spawn",
    "session_status",
];
const SANDBOX_DENY: [&str; 5] = ["browser", "canvas", "nodes", "cron", "gateway"];

/// Where a request came from, as far as restrictions go by it.
#[derive(Clone, Debug, Default)]
pub struct Whereabouts {
    /// The agent that answers.
    pub agent_id: String,
    /// Whether the conversation is the agent's main one.
    pub is_main: bool,
    /// The channel; absent for clients in conversations of no channel.
    pub channel: Option<String>,
    /// Account of the channel.
    pub account: Option<String>,
    /// The chat.
    pub chat: Option<Chat>,
    /// Who wrote, in the channel.
    pub sender: Option<Writer>,
    /// The model that answers, `provider/model`.
    pub model: Option<String>,
}

/// A chat of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chat {
    /// With one person.
    Direct(String),
    /// With several.
    Group {
        /// Its id.
        id: String,
        /// The topic within it.
        topic: Option<String>,
    },
}

/// Who wrote a message.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// Id in the channel.
    pub id: String,
    /// Handle, without `@`.
    pub username: Option<String>,
    /// Name for people.
    pub name: Option<String>,
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A list takes the tool away.
    #[error("{tool} is not available here: {key} does not allow it")]
    Unavailable {
        /// What was asked for.
        tool: String,
        /// The key of the configuration.
        key: String,
    },
    /// It changes something, and the asker is no owner.
    #[error("refused: {tool} {action} changes something, which is for {}{advice}", .allowed.join(" and "))]
    NotOwner {
        /// The tool.
        tool: String,
        /// What it was to do.
        action: String,
        /// For whom it may.
        allowed: Vec<&'static str>,
        /// What the asker can do about it, as the end of the sentence and further ones.
        advice: String,
    },
    /// Nobody may have it done by a tool.
    #[error(
        "refused: no tool decides what may run on a node; use exec.approvals.node.get and \
         exec.approvals.node.set, which need operator.admin"
    )]
    Reserved,
    /// The asker may use no tools at all.
    #[error("refused: what a {0} says cannot use tools")]
    NoTools(AskerKind),
}

/// The restrictions that hold in one place.
#[derive(Debug)]
pub struct Rules<'a> {
    config: &'a Config,
    place: &'a Whereabouts,
    layers: Vec<ToolList>,
    act_for: Vec<BTreeMap<String, Vec<AskerKind>>>,
}

impl<'a> Rules<'a> {
    /// Collects the restrictions of a place.
    #[must_use]
    pub fn of(config: &'a Config, place: &'a Whereabouts) -> Self {
        let mut rules = Self { config, place, layers: Vec::new(), act_for: Vec::new() };
        // Any name makes a session, so a name that is not listed must not be a way around the lists
        // of the agent that answers everybody else.
        let named = |id: &str| {
            let mut agents = config.agents.list.iter().enumerate();
            agents.find(|(_, agent)| agent.id.eq_ignore_ascii_case(id))
        };
        let agent = named(&place.agent_id).or_else(|| named(&config.agents.default_id()));
        let agent = agent.map(|(index, agent)| (format!("agents.list[{index}]"), agent));

        rules.add_channel();
        if let Some((_, agent)) = &agent {
            rules.act_for.push(agent.tools.act_for.clone());
        }
        rules.act_for.push(config.tools.act_for.clone());
        rules.add_tools(agent.as_ref());
        rules.add_sandbox(agent.as_ref().map(|(_, agent)| *agent));
        rules
    }

    /// Returns whether a tool is worth showing to the model: something of it could be done for
    /// this asker.
    #[must_use]
    pub fn offers(&self, tool: &str, asker: &Asker) -> bool {
        may_read(asker.kind) && self.withheld_by(tool).is_none()
    }

    /// Decides about a call.
    ///
    /// # Errors
    /// With a text for the model, or for the chat.
    pub fn check(&self, tool: &str, intent: &Intent, asker: &Asker) -> Result<(), Refusal> {
        if !may_read(asker.kind) {
            return Err(Refusal::NoTools(asker.kind));
        }
        if let Some(key) = self.withheld_by(tool) {
            return Err(Refusal::Unavailable { tool: tool.to_owned(), key });
        }
        if let Some((stands_for, key)) = self.withheld_power(intent) {
            let tool = format!("{} ({stands_for})", intent.action);
            return Err(Refusal::Unavailable { tool, key });
        }
        if tool == "gateway"
            && intent.action == "restart"
            && self.config.commands.restart == Some(false)
        {
            let (tool, key) = ("gateway restart".into(), "commands.restart".into());
            return Err(Refusal::Unavailable { tool, key });
        }
        match intent.effect {
            Effect::Reads => return Ok(()),
            Effect::Reserved => return Err(Refusal::Reserved),
            Effect::Acts => {}
        }
        let allowed = self.act_for(tool);
        if asker.kind.may_act() && allowed.contains(&asker.kind) {
            return Ok(());
        }
        let named = allowed.iter().copied().filter(|kind| kind.may_act());
        let mut named: Vec<_> = named.map(for_whom).collect();
        if named.is_empty() {
            named.push("nobody here");
        }
        Err(Refusal::NotOwner {
            tool: tool.to_owned(),
            action: intent.action.clone(),
            allowed: named,
            advice: self.advice(asker),
        })
    }

    /// Returns the key of the list that takes a tool away, if one does.
    fn withheld_by(&self, tool: &str) -> Option<String> {
        self.layers.iter().find(|layer| !layer.allows(tool)).map(|layer| layer.key.clone())
    }

    /// Returns which power of another tool the call would use in spite of a list that denies it:
    /// a program on a node is a program. Lists of allowed tools are not asked, since OpenClaw's
    /// tool `nodes` runs programs without `exec`.
    fn withheld_power(&self, intent: &Intent) -> Option<(&'static str, String)> {
        let power = intent.stands_for?;
        let denied = self.layers.iter().find(|layer| layer.denies(power));
        if let Some(layer) = denied {
            return Some((power, layer.key.clone()));
        }
        let (agent, tools) = (self.agent_tools(), &self.config.tools);
        let security = agent.and_then(|tools| tools.exec.security).or(tools.exec.security);
        (power == "exec" && security == Some(ExecSecurity::Deny))
            .then(|| (power, "tools.exec.security".to_owned()))
    }

    fn agent_tools(&self) -> Option<&Tools> {
        let mut listed = self.config.agents.list.iter();
        let agent = listed.find(|it| it.id.eq_ignore_ascii_case(&self.place.agent_id))?;
        Some(&agent.tools)
    }

    /// The most specific list that names the tool decides.
    fn act_for(&self, tool: &str) -> Vec<AskerKind> {
        let named = |lists: &BTreeMap<String, Vec<AskerKind>>| {
            lists.get(tool).or_else(|| lists.get("*")).cloned()
        };
        self.act_for.iter().find_map(named).unwrap_or_else(|| vec![AskerKind::Owner])
    }

    /// Adds the lists of the channel, most specific last, and for whom tools act, most specific
    /// first.
    fn add_channel(&mut self) {
        let Some(channel) = self.place.channel.clone() else { return };
        let key = format!("channels.{channel}");
        let Ok(rules) = self.config.channel_tools(&channel, self.place.account.as_deref()) else {
            // Nobody knows what was to be taken away.
            return self.layers.push(ToolList::of_nothing(key));
        };
        self.add_policy(format!("{key}.tools"), rules.tools.as_ref());
        match self.place.chat.clone() {
            Some(Chat::Group { id, topic }) => self.add_group(&key, &rules, &id, topic.as_deref()),
            Some(Chat::Direct(id)) => {
                for name in [id.as_str(), "*"] {
                    let Some(chat) = rules.direct.get(name) else { continue };
                    self.add_policy(format!("{key}.direct.{name}.tools"), chat.tools.as_ref());
                    self.act_for.push(chat.act_for.clone());
                    break;
                }
            }
            None => {}
        }
        self.act_for.push(rules.act_for);
    }

    /// Of a group, the first of these counts: its list for the sender, its list, the list of `*`
    /// for the sender, the list of `*`.
    fn add_group(&mut self, key: &str, rules: &ChannelTools, id: &str, topic: Option<&str>) {
        let own = rules.groups.get(id).map(|group| (id, group));
        let any = rules.groups.get("*").map(|group| ("*", group));
        let found = own.iter().chain(&any).find_map(|(name, group)| {
            let key = format!("{key}.groups.{name}");
            if let Some((sender, policy)) = self.of_sender(group) {
                return Some((format!("{key}.toolsBySender.{sender}"), policy.clone()));
            }
            Some((format!("{key}.tools"), group.tools.clone()?))
        });
        if let Some((key, policy)) = found {
            self.add_policy(key, Some(&policy));
        }
        let topic = topic.and_then(|topic| {
            let (name, group) = own.or(any)?;
            Some((format!("{key}.groups.{name}.topics.{topic}.tools"), group.topics.get(topic)?))
        });
        if let Some((key, topic)) = topic {
            self.add_policy(key, topic.tools.as_ref());
            self.act_for.push(topic.act_for.clone());
        }
        for (_, group) in own.iter().chain(&any) {
            self.act_for.push(group.act_for.clone());
        }
    }

    fn of_sender<'g>(&self, group: &'g ChatTools) -> Option<(&'g str, &'g ToolPolicy)> {
        let written = |key: &str, prefix: &str, value: &str| {
            let rest = key.get(..prefix.len()).filter(|head| head.eq_ignore_ascii_case(prefix));
            rest.is_some()
                && key[prefix.len()..].trim_start_matches('@').eq_ignore_ascii_case(value)
        };
        let names = |key: &str| {
            self.place.sender.as_ref().is_some_and(|sender| {
                key == sender.id
                    || written(key, "id:", &sender.id)
                    || sender.username.as_deref().is_some_and(|it| written(key, "username:", it))
                    || sender.name.as_deref().is_some_and(|it| written(key, "name:", it))
            })
        };
        let by_sender = &group.tools_by_sender;
        let own = by_sender.iter().find(|(key, _)| names(key));
        own.or_else(|| by_sender.get_key_value("*")).map(|(key, policy)| (key.as_str(), policy))
    }

    fn add_tools(&mut self, agent: Option<&(String, &Agent)>) {
        let global = &self.config.tools;
        let of_agent = agent.map(|(key, agent)| (format!("{key}.tools"), &agent.tools));

        // An agent's profile replaces the global one; all further lists add up.
        let (key, profile) = match &of_agent {
            Some((key, tools)) if tools.profile.is_some() => (key.as_str(), tools.profile),
            _ => ("tools", global.profile),
        };
        let more = of_agent.as_ref().and_then(|(_, tools)| tools.also_allow.as_ref());
        let more = more.or(global.also_allow.as_ref());
        self.add_profile(format!("{key}.profile"), profile, more);

        let lists = [Some(("tools".to_owned(), global)), of_agent];
        for (key, tools) in lists.into_iter().flatten() {
            let policy = ToolPolicy {
                allow: tools.allow.clone(),
                deny: tools.deny.clone(),
                ..ToolPolicy::default()
            };
            self.add_lists(&key, &policy);
            if let Some((name, policy)) = self.of_model(tools) {
                let policy = policy.clone();
                self.add_policy(format!("{key}.byProvider.{name}"), Some(&policy));
            }
        }
    }

    fn of_model<'t>(&self, tools: &'t Tools) -> Option<(&'t String, &'t ToolPolicy)> {
        let model = self.place.model.as_deref()?.to_lowercase();
        let provider = model.split('/').next()?;
        let find = |wanted: &str| {
            tools.by_provider.iter().find(|(name, _)| name.trim().to_lowercase() == wanted)
        };
        find(&model).or_else(|| find(provider))
    }

    fn add_sandbox(&mut self, agent: Option<&Agent>) {
        let of_agent = agent.and_then(|agent| agent.sandbox.mode);
        let mode = of_agent.or(self.config.agents.defaults.sandbox.mode).unwrap_or_default();
        let applies = match mode {
            SandboxMode::Off => false,
            SandboxMode::NonMain => !self.place.is_main,
            SandboxMode::All => true,
        };
        if !applies {
            return;
        }
        let own = agent.map(|agent| &agent.tools.sandbox.tools);
        let global = &self.config.tools.sandbox.tools;
        let allow = own.and_then(|own| own.allow.clone()).or_else(|| global.allow.clone());
        let deny = own.and_then(|own| own.deny.clone()).or_else(|| global.deny.clone());
        let policy = ToolPolicy {
            allow: allow.or_else(|| Some(SANDBOX_ALLOW.map(String::from).to_vec())),
            deny: deny.or_else(|| Some(SANDBOX_DENY.map(String::from).to_vec())),
            ..ToolPolicy::default()
        };
        self.add_lists("tools.sandbox.tools", &policy);
    }

    fn add_policy(&mut self, key: String, policy: Option<&ToolPolicy>) {
        let Some(policy) = policy else { return };
        self.add_profile(format!("{key}.profile"), policy.profile, policy.also_allow.as_ref());
        let mut policy = policy.clone();
        if let (Some(allow), Some(more)) = (&mut policy.allow, &policy.also_allow) {
            allow.extend(more.iter().cloned());
        }
        self.add_lists(&key, &policy);
    }

    fn add_profile(
        &mut self,
        key: String,
        profile: Option<ToolProfile>,
        more: Option<&Vec<String>>,
    ) {
        self.layers.extend(ToolList::of_profile(key, profile, more));
    }

    fn add_lists(&mut self, key: &str, policy: &ToolPolicy) {
        self.layers.extend(ToolList::of_policy(key, policy));
    }

    /// Says what an asker who may be the owner can do. Who is none learns nothing about them.
    fn advice(&self, asker: &Asker) -> String {
        match asker.kind {
            AskerKind::Quoted => {
                format!(
                    ", and this message carries words of {}: ask again in a message without them",
                    asker.others.join(", ")
                )
            }
            AskerKind::Admitted
                if self.place.channel.is_some() && !self.config.commands.has_owners() =>
            {
                format!(
                    ". No owner is named yet; if {0} is the owner, on the gateway's host: \
                     moltbotctl config set commands.owners '[\"{0}\"]'",
                    asker.id
                )
            }
            AskerKind::Admitted if self.place.channel.is_some() => {
                format!("; {} is not one of commands.owners", asker.id)
            }
            AskerKind::Admitted => "; a client needs operator.admin for that".to_owned(),
            _ => String::new(),
        }
    }
}

/// A stranger learns nothing about the nodes or the gateway, and one node nothing about others.
const fn may_read(kind: AskerKind) -> bool {
    !matches!(kind, AskerKind::Stranger | AskerKind::Node)
}

const fn for_whom(kind: AskerKind) -> &'static str {
    match kind {
        AskerKind::Owner => "the owner of this gateway",
        AskerKind::Admitted => "people who were let in",
        AskerKind::Schedule => "the gateway itself",
        AskerKind::Quoted | AskerKind::Node | AskerKind::Stranger => "nobody",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(sections: Value) -> Config {
        serde_json::from_value(sections).unwrap()
    }

    fn owner() -> Asker {
        Asker::new(AskerKind::Owner, "telegram:7")
    }

    fn place() -> Whereabouts {
        Whereabouts { agent_id: "main".into(), is_main: true, ..Whereabouts::default() }
    }

    fn in_group(topic: Option<&str>) -> Whereabouts {
        let topic = topic.map(str::to_owned);
        Whereabouts {
            channel: Some("telegram".into()),
            account: Some("default".into()),
            chat: Some(Chat::Group { id: "-5".into(), topic }),
            sender: Some(Writer {
                id: "7".into(),
                username: Some("Ann".into()),
                name: Some("Ann Lee".into()),
            }),
            ..place()
        }
    }

    fn run_program() -> Intent {
        Intent {
            effect: Effect::Acts,
            action: "invoke system.run".into(),
            stands_for: Some("exec"),
        }
    }

    fn list() -> Intent {
        Intent { effect: Effect::Reads, action: "list".into(), stands_for: None }
    }

    /// Returns the key that takes the tool `nodes` from its owner.
    fn withheld(sections: Value, place: &Whereabouts) -> Option<String> {
        let config = config(sections);
        match Rules::of(&config, place).check("nodes", &run_program(), &owner()) {
            Err(Refusal::Unavailable { key, .. }) => Some(key),
            Err(other) => panic!("{other}"),
            Ok(()) => None,
        }
    }

    #[test]
    fn configuration_knows_the_tools_that_there_are() {
        let sources = [include_str!("nodes.rs"), include_str!("gateway.rs")];
        let names = crate::config::TOOLS.map(|name| format!("name: \"{name}\".into()"));
        for name in &names {
            assert!(sources.iter().any(|source| source.contains(name.as_str())), "{name}");
        }
        let modules = include_str!("mod.rs").lines().filter(|line| line.starts_with("pub mod "));
        assert_eq!(modules.count(), names.len() + 1, "a tool is missing in config::TOOLS");
    }

    #[test]
    fn who_may_have_a_tool_act_and_who_may_have_it_read() {
        let (config, place) = (Config::default(), place());
        let rules = Rules::of(&config, &place);
        let may = |kind, intent: &Intent| {
            rules.check("nodes", intent, &Asker::new(kind, "someone")).is_ok()
        };
        for (kind, reads, acts) in [
            (AskerKind::Owner, true, true),
            (AskerKind::Admitted, true, false),
            (AskerKind::Schedule, true, false),
            (AskerKind::Quoted, true, false),
            (AskerKind::Node, false, false),
            (AskerKind::Stranger, false, false),
        ] {
            assert_eq!((may(kind, &list()), may(kind, &run_program())), (reads, acts), "{kind}");
            assert_eq!(rules.offers("nodes", &Asker::new(kind, "someone")), reads, "{kind}");
        }
    }

    #[test]
    fn configuration_lets_admitted_people_act_by_tool_channel_and_chat_and_nobody_lower() {
        let act = |sections: Value, place: &Whereabouts, kind| {
            let config = config(sections);
            let asker = Asker::new(kind, "telegram:8");
            Rules::of(&config, place).check("nodes", &run_program(), &asker).is_ok()
        };
        let admitted = json!({ "nodes": ["owner", "admitted"] });
        let everybody = json!({ "*": ["owner", "admitted", "stranger", "node", "quoted"] });
        let tool = json!({ "tools": { "actFor": admitted } });
        assert!(act(tool.clone(), &place(), AskerKind::Admitted));
        let other = json!({ "tools": { "actFor": { "gateway": ["admitted"] } } });
        assert!(!act(other, &place(), AskerKind::Admitted));
        for kind in [AskerKind::Stranger, AskerKind::Node, AskerKind::Quoted] {
            assert!(!act(json!({ "tools": { "actFor": everybody } }), &place(), kind), "{kind}");
        }
        let group =
            json!({ "channels": { "telegram": { "groups": { "-5": { "actFor": admitted } } } } });
        assert!(act(group.clone(), &in_group(None), AskerKind::Admitted));
        assert!(!act(group, &place(), AskerKind::Admitted));
        let closed = json!({
            "tools": { "actFor": admitted },
            "channels": { "telegram": { "actFor": { "*": [] } } },
        });
        assert!(!act(closed, &in_group(None), AskerKind::Owner));
    }

    #[test]
    fn every_list_takes_the_tool_away_and_is_named() {
        for (sections, key) in [
            (json!({ "tools": { "deny": ["nodes", "gateway"] } }), "tools.deny"),
            (json!({ "tools": { "deny": ["group:nodes"] } }), "tools.deny"),
            (json!({ "tools": { "deny": ["Group:OpenClaw"] } }), "tools.deny"),
            (json!({ "tools": { "deny": ["n*s"] } }), "tools.deny"),
            (json!({ "tools": { "allow": ["gateway"] } }), "tools.allow"),
            (json!({ "tools": { "profile": "minimal" } }), "tools.profile"),
            (json!({ "tools": { "profile": "coding" } }), "tools.profile"),
            (json!({ "tools": { "deny": ["exec"] } }), "tools.deny"),
            (json!({ "tools": { "deny": ["bash"] } }), "tools.deny"),
            (json!({ "tools": { "deny": ["group:runtime"] } }), "tools.deny"),
            (json!({ "tools": { "exec": { "security": "deny" } } }), "tools.exec.security"),
            (
                json!({ "agents": { "list": [{ "id": "Main", "tools": { "deny": ["nodes"] } }] } }),
                "agents.list[0].tools.deny",
            ),
            (
                json!({ "agents": { "list": [{ "id": "main", "tools": { "profile": "messaging" } }] } }),
                "agents.list[0].tools.profile",
            ),
            (
                json!({ "agents": { "defaults": { "sandbox": { "mode": "all" } } } }),
                "tools.sandbox.tools.allow",
            ),
            (
                json!({ "channels": { "telegram": { "tools": { "deny": ["*"] } } } }),
                "channels.telegram.tools.deny",
            ),
            (
                json!({ "channels": { "telegram": { "groups": { "-5": { "tools": { "deny": ["nodes"] } } } } } }),
                "channels.telegram.groups.-5.tools.deny",
            ),
            (
                json!({ "channels": { "telegram": { "groups": { "*": { "tools": { "allow": ["x"] } } } } } }),
                "channels.telegram.groups.*.tools.allow",
            ),
            (
                json!({ "channels": { "telegram": { "groups": { "-5": {
                "toolsBySender": { "username:@ann": { "deny": ["nodes"] } } } } } } }),
                "channels.telegram.groups.-5.toolsBySender.username:@ann.deny",
            ),
            (
                json!({ "channels": { "telegram": { "accounts": { "default": {
                "tools": { "deny": ["nodes"] } } } } } }),
                "channels.telegram.tools.deny",
            ),
            (
                json!({ "channels": { "telegram": { "groups": { "-5": { "tools": "none" } } } } }),
                "channels.telegram",
            ),
        ] {
            let text = sections.to_string();
            assert_eq!(withheld(sections, &in_group(None)).as_deref(), Some(key), "{text}");
        }
    }

    #[test]
    fn what_restricts_others_leaves_it() {
        for sections in [
            json!({ "tools": { "profile": "full", "allow": [], "deny": ["browser"] } }),
            json!({ "tools": { "profile": "minimal", "alsoAllow": ["nodes"] } }),
            json!({ "tools": { "allow": ["group:nodes"] } }),
            json!({ "agents": { "list": [
                { "id": "main" },
                { "id": "family", "tools": { "deny": ["nodes"] } },
            ] } }),
            json!({ "tools": { "byProvider": { "mock": { "deny": ["nodes"] } } } }),
            json!({ "channels": { "telegram": { "groups": { "-6": { "tools": { "deny": ["nodes"] } } } } } }),
            json!({ "channels": { "telegram": { "groups": {
                "*": { "tools": { "deny": ["nodes"] } },
                "-5": { "toolsBySender": { "id:7": { "allow": ["nodes"] } } },
            } } } }),
            json!({ "agents": { "defaults": { "sandbox": { "mode": "non-main" } } } }),
        ] {
            let text = sections.to_string();
            assert_eq!(withheld(sections, &in_group(None)), None, "{text}");
        }
        let topics = json!({ "channels": { "telegram": { "groups": { "-5": {
            "topics": { "3": { "tools": { "deny": ["nodes"] } } } } } } } });
        assert_eq!(withheld(topics.clone(), &in_group(None)), None);
        assert!(withheld(topics, &in_group(Some("3"))).is_some());
        let by_model = json!({ "tools": { "byProvider": { "mock/one": { "deny": ["nodes"] } } } });
        let model = Whereabouts { model: Some("mock/one".into()), ..place() };
        assert_eq!(withheld(by_model, &model).as_deref(), Some("tools.byProvider.mock/one.deny"));
    }

    #[test]
    fn a_name_that_no_agent_has_escapes_no_list() {
        let restricted = json!({ "agents": { "list": [
            { "id": "family" },
            { "id": "main", "default": true, "tools": { "deny": ["nodes"] } },
        ] } });
        let invented = Whereabouts { agent_id: "zzz".into(), ..place() };
        let key = withheld(restricted.clone(), &invented);
        assert_eq!(key.as_deref(), Some("agents.list[1].tools.deny"));

        let listed = Whereabouts { agent_id: "family".into(), ..place() };
        assert_eq!(withheld(restricted, &listed), None);
    }

    #[test]
    fn a_restart_can_be_switched_off_for_the_owner_too() {
        let config = config(json!({ "commands": { "restart": false } }));
        let place = place();
        let intent = Intent { effect: Effect::Acts, action: "restart".into(), stands_for: None };
        let refused = Rules::of(&config, &place).check("gateway", &intent, &owner()).unwrap_err();
        let text = "gateway restart is not available here: commands.restart does not allow it";
        assert_eq!(refused.to_string(), text);
    }

    #[test]
    fn an_admitted_person_learns_how_to_become_the_owner_as_long_as_there_is_none() {
        let refused = |sections: Value| {
            let (config, place) = (config(sections), in_group(None));
            let asker = Asker::new(AskerKind::Admitted, "telegram:7");
            let refused = Rules::of(&config, &place).check("nodes", &run_program(), &asker);
            refused.unwrap_err().to_string()
        };
        let text = refused(json!({}));
        let command = "moltbotctl config set commands.owners '[\"telegram:7\"]'";
        assert!(
            text.contains("for the owner of this gateway") && text.ends_with(command),
            "{text}"
        );
        let text = refused(json!({ "commands": { "owners": ["telegram:1"] } }));
        assert!(text.ends_with("; telegram:7 is not one of commands.owners"), "{text}");
    }
}
