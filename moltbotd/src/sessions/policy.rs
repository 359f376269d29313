//! Whether a conversation is answered: what it was told itself, else
//! `session.sendPolicy`.

use moltbot_protocol::methods::sessions::SessionEntry;

use super::key;
use crate::config::{ChatType, Config, SendAction, SendMatch};

/// Where a message is from, as far as that is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// Its channel.
    pub channel: Option<&'a str>,
    /// What kind of conversation it belongs to.
    pub chat_type: Option<&'a str>,
}

/// Returns whether a conversation is not to be answered. Its place may be
/// remembered, or be told by its key, where the message does not tell it.
#[must_use]
pub fn is_muted(
    config: &Config,
    key: &str,
    entry: Option<&SessionEntry>,
    place: Place<'_>,
) -> bool {
    match entry.and_then(|entry| entry.send_policy.as_deref()) {
        Some("deny") => return true,
        Some("allow") => return false,
        _ => {}
    }
    let Some(policy) = &config.session.send_policy else { return false };
    let channel = entry.and_then(|entry| entry.channel.as_deref()).or(place.channel);
    let channel = channel.or_else(|| entry?.last_channel.as_deref());
    let channel = channel.or_else(|| key::group_channel(key));
    let chat_type = place.chat_type.or_else(|| entry?.chat_type.as_deref());
    let chat_type = chat_type.and_then(ChatType::of).or_else(|| key::chat_type(key));
    let fitting = policy.rules.iter().filter(|rule| fits(&rule.fits, key, channel, chat_type));
    let mut allowed = false;
    for rule in fitting {
        match rule.action {
            SendAction::Deny => return true,
            SendAction::Allow => allowed = true,
        }
    }
    !allowed && policy.default == Some(SendAction::Deny)
}

fn fits(rule: &SendMatch, key: &str, channel: Option<&str>, chat_type: Option<ChatType>) -> bool {
    let said = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or_default().trim().to_lowercase();
        (!text.is_empty()).then_some(text)
    };
    let short = key::without_agent(key);
    said(&rule.channel)
        .is_none_or(|wanted| channel.is_some_and(|it| it.eq_ignore_ascii_case(&wanted)))
        && rule.chat_type.is_none_or(|wanted| chat_type == Some(wanted))
        && said(&rule.key_prefix)
            .is_none_or(|prefix| key.starts_with(&prefix) || short.starts_with(&prefix))
        && said(&rule.raw_key_prefix).is_none_or(|prefix| key.starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const GROUP: &str = "agent:main:telegram:group:-1";
    const MAIN: &str = "agent:main:main";
    const NOWHERE: Place<'_> = Place { channel: None, chat_type: None };

    fn config(policy: Value) -> Config {
        let mut config = Config::default();
        config.session.send_policy = Some(serde_json::from_value(policy).unwrap());
        config
    }

    #[test]
    fn without_a_policy_everything_is_answered() {
        assert!(!is_muted(&Config::default(), MAIN, None, NOWHERE));
        assert!(!is_muted(&config(json!({})), MAIN, None, NOWHERE));
        assert!(is_muted(&config(json!({ "default": "deny" })), MAIN, None, NOWHERE));
    }

    #[test]
    fn what_a_conversation_was_told_goes_before_the_policy() {
        let told =
            |word: &str| SessionEntry { send_policy: Some(word.into()), ..Default::default() };
        let deny = config(json!({ "default": "deny" }));
        assert!(!is_muted(&deny, MAIN, Some(&told("allow")), NOWHERE));
        assert!(is_muted(&Config::default(), MAIN, Some(&told("deny")), NOWHERE));
    }

    #[test]
    fn a_rule_fits_when_all_it_says_is_true() {
        let fit = json!({ "channel": "Telegram", "chatType": "group" });
        let deny = config(json!({ "rules": [{ "action": "deny", "match": fit }] }));
        assert!(is_muted(&deny, GROUP, None, NOWHERE));
        let direct = Place { channel: Some("telegram"), chat_type: Some("direct") };
        assert!(!is_muted(&deny, MAIN, None, direct));
        let elsewhere = "agent:main:discord:group:9";
        assert!(!is_muted(&deny, elsewhere, None, NOWHERE));
        let remembered = SessionEntry {
            last_channel: Some("telegram".into()),
            chat_type: Some("group".into()),
            ..Default::default()
        };
        assert!(is_muted(&deny, "agent:main:x", Some(&remembered), NOWHERE));
    }

    #[test]
    fn a_key_begins_with_or_without_its_agent() {
        let deny = |fit: Value| config(json!({ "rules": [{ "action": "deny", "match": fit }] }));
        let cron = "agent:main:cron:1";
        assert!(is_muted(&deny(json!({ "keyPrefix": "cron:" })), cron, None, NOWHERE));
        assert!(is_muted(&deny(json!({ "keyPrefix": "agent:main:cron:" })), cron, None, NOWHERE));
        assert!(!is_muted(&deny(json!({ "keyPrefix": "cron:" })), MAIN, None, NOWHERE));
        assert!(!is_muted(&deny(json!({ "rawKeyPrefix": "cron:" })), cron, None, NOWHERE));
        assert!(is_muted(&deny(json!({ "rawKeyPrefix": "Agent:main" })), cron, None, NOWHERE));
    }

    #[test]
    fn a_rule_that_denies_goes_before_one_that_allows_and_both_before_the_default() {
        let rule = |action: &str, fit: Value| json!({ "action": action, "match": fit });
        let group = json!({ "chatType": "group" });
        let both = config(json!({ "rules": [
            rule("allow", json!({ "channel": "telegram" })), rule("deny", group.clone()),
        ] }));
        assert!(is_muted(&both, GROUP, None, NOWHERE));
        let only = config(json!({ "default": "deny", "rules": [rule("allow", group)] }));
        assert!(!is_muted(&only, GROUP, None, NOWHERE));
        assert!(is_muted(&only, MAIN, None, NOWHERE));
    }
}
