//! The keys of conversations: `agent:<agent>:<rest>`, in lower case.

use crate::{
    channels::{Peer, PeerKind, Route},
    config::{ChatType, Config, DmScope},
};

/// Last part of the key of an agent's main conversation.
pub const MAIN: &str = "main";

/// Returns the agent that answers when nobody else is named: the first one
/// marked as default, else the first one, else `main`.
#[must_use]
pub fn default_agent(config: &Config) -> String {
    let list = &config.agents.list;
    list.iter()
        .find(|agent| agent.default)
        .or_else(|| list.first())
        .map_or_else(|| MAIN.to_owned(), |agent| agent.id.to_lowercase())
}

/// Returns the agent that a key names.
#[must_use]
pub fn agent_of(key: &str) -> Option<&str> {
    let (agent, rest) = key.strip_prefix("agent:")?.split_once(':')?;
    (!agent.is_empty() && !rest.is_empty()).then_some(agent)
}

/// Returns the agent that owns a conversation.
#[must_use]
pub fn owner(config: &Config, key: &str) -> String {
    agent_of(key).map_or_else(|| default_agent(config), str::to_owned)
}

/// Returns the key of an agent's main conversation.
#[must_use]
pub fn main(config: &Config, agent: &str) -> String {
    if config.session.scope.as_deref() == Some("global") {
        return "global".to_owned();
    }
    format!("agent:{agent}:{MAIN}")
}

/// Returns whether a stored key is that of a main conversation.
#[must_use]
pub fn is_main(key: &str) -> bool {
    key == "global"
        || agent_of(key).is_some_and(|agent| key.len() == "agent::main".len() + agent.len())
            && key.ends_with(":main")
}

/// Returns the one spelling under which a conversation is stored. Keys that
/// name no agent belong to the default one.
#[must_use]
pub fn canonical(config: &Config, key: &str) -> String {
    let key = key.trim().to_lowercase();
    if agent_of(&key).is_some() || key == "global" || key == "unknown" {
        return key;
    }
    let agent = default_agent(config);
    if key == MAIN { main(config, &agent) } else { format!("agent:{agent}:{key}") }
}

/// Returns the key of the conversation that a channel's message belongs to.
#[must_use]
pub fn of_peer(config: &Config, route: &Route, peer: &Peer) -> String {
    let agent = default_agent(config);
    let Route { channel, account, thread, .. } = route;
    let id = &peer.id;
    let key = match peer.kind {
        PeerKind::Group => return of_group(&agent, channel, id),
        PeerKind::Channel => format!("agent:{agent}:{channel}:channel:{id}"),
        PeerKind::Direct => {
            let base = match config.session.dm_scope {
                DmScope::Main => main(config, &agent),
                DmScope::PerPeer => format!("agent:{agent}:dm:{id}"),
                DmScope::PerChannelPeer => format!("agent:{agent}:{channel}:dm:{id}"),
                DmScope::PerAccountChannelPeer => {
                    format!("agent:{agent}:{channel}:{account}:dm:{id}")
                }
            };
            match thread {
                Some(thread) => format!("{base}:thread:{thread}"),
                None => base,
            }
        }
    };
    key.to_lowercase()
}

/// Returns the key of an agent's conversation in a group or topic of a channel.
#[must_use]
pub fn of_group(agent: &str, channel: &str, id: &str) -> String {
    format!("agent:{agent}:{channel}:group:{id}").to_lowercase()
}

/// Returns a key without the agent before it.
#[must_use]
pub fn without_agent(key: &str) -> &str {
    agent_of(key).map_or(key, |agent| &key["agent::".len() + agent.len()..])
}

/// Returns whether a key is that of a thread or topic.
#[must_use]
pub fn is_thread(key: &str) -> bool {
    [":thread:", ":topic:"].iter().any(|mark| key.contains(mark))
}

/// Returns whether a key is that of a conversation with several people.
#[must_use]
pub fn is_group(key: &str) -> bool {
    chat_type(key).is_some()
}

/// Returns what kind of conversation with several people a key names.
#[must_use]
pub fn chat_type(key: &str) -> Option<ChatType> {
    let kinds = [(":group:", ChatType::Group), (":channel:", ChatType::Channel)];
    kinds.into_iter().find(|(mark, _)| key.contains(mark)).map(|(_, kind)| kind)
}

/// Returns the channel that the key of a conversation with several people names.
#[must_use]
pub fn group_channel(key: &str) -> Option<&str> {
    let mut parts = without_agent(key).split(':');
    let channel = parts.next().filter(|channel| !channel.is_empty())?;
    matches!(parts.next()?, "group" | "channel").then_some(channel)
}

/// Returns what kind of conversation a key and its chat type tell of.
#[must_use]
pub fn kind(key: &str, chat_type: Option<&str>) -> &'static str {
    match key {
        "global" => "global",
        "unknown" => "unknown",
        _ if matches!(chat_type, Some("group" | "channel")) => "group",
        _ if is_group(key) => "group",
        _ => "direct",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Agent;

    fn route(thread: Option<&str>) -> Route {
        Route {
            channel: "telegram".into(),
            account: "Work".into(),
            to: "7".into(),
            thread: thread.map(Into::into),
            reply_to: None,
        }
    }

    fn peer(kind: PeerKind, id: &str) -> Peer {
        Peer { kind, id: id.into(), title: None }
    }

    #[test]
    fn keys_without_an_agent_belong_to_the_default_one() {
        let mut config = Config::default();
        assert_eq!(canonical(&config, " Main "), "agent:main:main");
        assert_eq!(canonical(&config, "Rec-A"), "agent:main:rec-a");
        assert_eq!(canonical(&config, "agent:x:Y"), "agent:x:y");
        assert_eq!(canonical(&config, "global"), "global");
        config.agents.list.push(Agent { id: "Ops".into(), default: true, ..Agent::default() });
        assert_eq!(canonical(&config, "main"), "agent:ops:main");
        config.session.scope = Some("global".into());
        assert_eq!(canonical(&config, "main"), "global");
    }

    #[test]
    fn direct_chats_are_kept_apart_as_configured() {
        let mut config = Config::default();
        let peer = peer(PeerKind::Direct, "42");
        let mut key = |scope| {
            config.session.dm_scope = scope;
            of_peer(&config, &route(None), &peer)
        };
        assert_eq!(key(DmScope::Main), "agent:main:main");
        assert_eq!(key(DmScope::PerPeer), "agent:main:dm:42");
        assert_eq!(key(DmScope::PerChannelPeer), "agent:main:telegram:dm:42");
        assert_eq!(key(DmScope::PerAccountChannelPeer), "agent:main:telegram:work:dm:42");
    }

    #[test]
    fn groups_topics_and_threads_have_their_own_keys() {
        let config = Config::default();
        let of = |thread, peer| of_peer(&config, &route(thread), &peer);
        let topic = peer(PeerKind::Group, "-100:topic:3");
        assert_eq!(of(None, peer(PeerKind::Group, "-100")), "agent:main:telegram:group:-100");
        assert_eq!(of(Some("3"), topic), "agent:main:telegram:group:-100:topic:3");
        assert_eq!(of(Some("9"), peer(PeerKind::Direct, "1")), "agent:main:main:thread:9");
        assert_eq!(kind("agent:main:telegram:group:-100", None), "group");
    }
}
