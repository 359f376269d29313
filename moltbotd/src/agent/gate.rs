//! The gate before every tool call and every command that changes something: it knows where a run
//! came from, asks [`policy`](crate::tools::policy), and logs who was refused what.

use super::{
    request::{RunRequest, Source},
    runs::Run,
};
use crate::{
    asker::Asker,
    config::Config,
    sessions::key,
    tools::{
        Intent,
        policy::{Chat, Refusal, Rules, Whereabouts, Writer},
    },
};

/// A request at the gate.
pub(super) struct Asked<'a> {
    /// Who asked.
    pub(super) asker: &'a Asker,
    /// The run it belongs to.
    pub(super) run: &'a Run,
    /// Where it came from.
    pub(super) place: &'a Whereabouts,
}

/// Decides, and says in the log who is refused.
pub(super) fn check(
    config: &Config,
    asked: &Asked<'_>,
    tool: &str,
    intent: &Intent,
) -> Result<(), Refusal> {
    let Asked { asker, run, place } = asked;
    let decided = Rules::of(config, place).check(tool, intent, asker);
    if let Err(refusal) = &decided {
        tracing::warn!(
            tool,
            action = intent.action,
            asker = asker.kind.name(),
            who = %asker,
            channel = place.channel.as_deref().unwrap_or("none"),
            session = run.session_key,
            run = run.id,
            reason = %refusal,
            "tool call refused"
        );
    }
    decided
}

/// Returns where a request came from: the chat whose message it answers, else the chat that its
/// conversation belongs to, whoever writes into that.
pub(super) fn whereabouts(config: &Config, session_key: &str, request: &RunRequest) -> Whereabouts {
    let place = Whereabouts {
        agent_id: key::owner(config, session_key),
        is_main: key::is_main(session_key),
        ..Whereabouts::default()
    };
    match (&request.deliver, request.inbox_id) {
        (Some(route), Some(_)) => {
            let Source { from, name, username, chat_type, .. } = &request.source;
            let chat = if chat_type.as_deref() == Some("direct") {
                Chat::Direct(route.to.clone())
            } else {
                Chat::Group { id: route.to.clone(), topic: route.thread.clone() }
            };
            let sender = from.clone().map(|id| Writer {
                id,
                username: username.clone(),
                name: name.clone(),
            });
            Whereabouts {
                channel: Some(route.channel.clone()),
                account: Some(route.account.clone()),
                chat: Some(chat),
                sender,
                ..place
            }
        }
        _ => match chat_of_key(session_key) {
            Some((channel, chat)) => {
                Whereabouts { channel: Some(channel), chat: Some(chat), ..place }
            }
            None => place,
        },
    }
}

/// Reads `agent:<agent>:<channel>:group:<id>[:topic:<topic>]`, and the same of direct chats, which
/// may name an account.
fn chat_of_key(session_key: &str) -> Option<(String, Chat)> {
    let rest = key::without_agent(session_key);
    let (channel, rest) = rest.split_once(':')?;
    let rest = rest.split_once(":thread:").map_or(rest, |(before, _)| before);
    for kind in ["group:", "channel:"] {
        if let Some(id) = rest.strip_prefix(kind) {
            let (id, topic) = match id.split_once(":topic:") {
                Some((id, topic)) => (id, Some(topic.to_owned())),
                None => (id, None),
            };
            return Some((channel.to_owned(), Chat::Group { id: id.to_owned(), topic }));
        }
    }
    let id = rest.strip_prefix("dm:").or_else(|| Some(rest.split_once(":dm:")?.1))?;
    Some((channel.to_owned(), Chat::Direct(id.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_of_a_chat_has_that_chats_restrictions_whoever_writes_into_it() {
        let group = |id: &str, topic: Option<&str>| {
            let topic = topic.map(str::to_owned);
            Some(("telegram".to_owned(), Chat::Group { id: id.to_owned(), topic }))
        };
        assert_eq!(chat_of_key("agent:main:telegram:group:-5"), group("-5", None));
        assert_eq!(chat_of_key("agent:main:telegram:group:-5:topic:3"), group("-5", Some("3")));
        let direct = Some(("telegram".to_owned(), Chat::Direct("7".to_owned())));
        for key in ["agent:main:telegram:dm:7", "agent:main:telegram:default:dm:7:thread:4"] {
            assert_eq!(chat_of_key(key), direct, "{key}");
        }
        for key in ["agent:main:main", "global", "agent:main:node-abc", "agent:main:a:b"] {
            assert_eq!(chat_of_key(key), None, "{key}");
        }
    }
}
