//! What counts as a mention of an agent where several people talk.

use moltbot_settings::Path;
use regex::{Regex, RegexBuilder};

use super::{Config, Identity};

/// Largest compiled pattern, in bytes: far more than a name needs.
const PATTERN_BYTES: usize = 1024 * 1024;

/// A pattern, and the key it is from.
pub(super) type Placed<'a> = (Path, &'a str);

impl Config {
    /// Returns the expressions that count as a mention of an agent: its own,
    /// else those for all agents, else its name and its sign. An empty list is
    /// one as well: then only the channel's own mentions count.
    #[must_use]
    pub fn mention_patterns(&self, agent: &str) -> Vec<String> {
        let listed = self.agents.list.iter().find(|listed| listed.id.eq_ignore_ascii_case(agent));
        let own = listed.and_then(|listed| listed.group_chat.mention_patterns.as_ref());
        if let Some(patterns) = own.or(self.messages.group_chat.mention_patterns.as_ref()) {
            return patterns.clone();
        }
        listed.map(|listed| names(&listed.identity)).unwrap_or_default()
    }

    /// Returns every pattern that somebody wrote.
    pub(super) fn written_patterns(&self) -> Vec<Placed<'_>> {
        let group_chat = |at: Path| at.key("groupChat").key("mentionPatterns");
        let list = Path::default().key("agents").key("list");
        let agents = self.agents.list.iter().enumerate().map(|(index, agent)| {
            (group_chat(list.index(index)), &agent.group_chat.mention_patterns)
        });
        let shared = &self.messages.group_chat.mention_patterns;
        agents
            .chain([(group_chat(Path::default().key("messages")), shared)])
            .flat_map(|(at, patterns)| {
                let patterns = patterns.iter().flatten().enumerate();
                patterns.map(move |(index, pattern)| (at.index(index), pattern.as_str()))
            })
            .collect()
    }
}

/// Compiles a pattern as messages are searched with it: without regard to case.
///
/// # Errors
///
/// When it is no regular expression.
pub fn mention(pattern: &str) -> Result<Regex, regex::Error> {
    // What JSON makes of `"\b"` is a backspace, which nobody writes on purpose.
    let pattern = pattern.replace('\u{8}', r"\b");
    RegexBuilder::new(&pattern).case_insensitive(true).size_limit(PATTERN_BYTES).build()
}

/// Returns the expressions for what an agent is called.
fn names(identity: &Identity) -> Vec<String> {
    let said = |text: &Option<String>| {
        text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let name = said(&identity.name).map(|name| whole(&name));
    let emoji = said(&identity.emoji).map(|emoji| regex::escape(&emoji));
    name.into_iter().chain(emoji).collect()
}

/// Returns an expression for a name that is no part of a longer word. There is
/// no border beside a sign, which is why none is asked for there.
fn whole(name: &str) -> String {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    let border = |beside: Option<char>| if beside.is_some_and(is_word) { r"\b" } else { "" };
    let (before, after) = (border(name.chars().next()), border(name.chars().next_back()));
    let words: Vec<_> = name.split_whitespace().map(regex::escape).collect();
    format!("{before}{}{after}", words.join(r"\s+"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(agent: Value, shared: Value) -> Config {
        let mut agent = agent;
        agent["id"] = json!("Main");
        let agents = json!({ "list": [agent, { "id": "other", "identity": { "name": "Eve" } }] });
        let (agents, messages) = (serde_json::from_value(agents), serde_json::from_value(shared));
        Config { agents: agents.unwrap(), messages: messages.unwrap(), ..Config::default() }
    }

    fn means(config: &Config, text: &str) -> bool {
        let patterns = config.mention_patterns("main");
        patterns.iter().any(|pattern| mention(pattern).unwrap().is_match(text))
    }

    #[test]
    fn an_agents_own_patterns_win_over_those_for_all_and_those_over_its_name() {
        let identity = json!({ "name": "Ada" });
        let own = json!({ "identity": identity, "groupChat": { "mentionPatterns": ["boss"] } });
        let named = json!({ "identity": identity });
        let shared = json!({ "groupChat": { "mentionPatterns": ["helper"] } });
        let found = |agent: &Value, shared: &Value| {
            config(agent.clone(), shared.clone()).mention_patterns("main")
        };
        assert_eq!(found(&own, &shared), ["boss"]);
        assert_eq!(found(&named, &shared), ["helper"]);
        assert_eq!(found(&named, &json!({})), [r"\bAda\b"]);
        let none = json!({ "identity": identity, "groupChat": { "mentionPatterns": [] } });
        assert_eq!(found(&none, &shared), [""; 0]);
        assert_eq!(found(&named, &json!({ "groupChat": { "mentionPatterns": [] } })), [""; 0]);
        assert_eq!(found(&json!({}), &json!({})), [""; 0]);
    }

    #[test]
    fn a_name_is_meant_as_a_whole_and_in_any_case() {
        let ada = config(json!({ "identity": { "name": "Ada L." , "emoji": "🦞" } }), json!({}));
        for text in ["ada l. please", "@Ada  L., hi", "so, ADA\nL.?", "🦞 come"] {
            assert!(means(&ada, text), "{text}");
        }
        for text in ["ada", "Canada l.", "Ada Lx"] {
            assert!(!means(&ada, text), "{text}");
        }
        let ole = config(json!({ "identity": { "name": "Øle" } }), json!({}));
        assert!(means(&ole, "øle?") && !means(&ole, "Xøle"));
    }

    #[test]
    fn a_backspace_of_json_is_the_border_of_a_word() {
        assert!(mention("\u{8}ada\u{8}").unwrap().is_match("hi Ada!"));
        assert!(mention("(").is_err());
    }
}
