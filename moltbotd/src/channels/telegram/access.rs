//! Who is heard: direct chats, groups and commands.
//!
//! `*` lets everybody talk to the assistant, but gives nobody commands: those
//! are for senders who are named or were let in.

use super::config::{DmPolicy, Group, GroupPolicy, Id, Settings, Topic};

/// The rules of an account.
pub(super) struct Access<'a> {
    pub(super) settings: &'a Settings,
    /// Policy of groups where the account has none.
    pub(super) group_policy: GroupPolicy,
    /// Ids that were let in by their code.
    pub(super) approved: &'a [String],
}

/// What becomes of a direct message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direct {
    Admitted { authorized: bool },
    Stranger,
    Dropped,
}

/// How a message of a group is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) authorized: bool,
    pub(super) require_mention: bool,
}

/// Who writes.
#[derive(Clone, Debug)]
pub(super) struct Who<'a> {
    pub(super) id: String,
    pub(super) username: Option<&'a str>,
}

impl Access<'_> {
    /// Decides on a direct message.
    pub(super) fn direct(&self, who: &Who<'_>) -> Direct {
        let Settings { dm_policy, allow_from, .. } = self.settings;
        let known = names(allow_from, who) || self.is_approved(who);
        let everybody = has_wildcard(allow_from);
        match dm_policy {
            DmPolicy::Disabled => Direct::Dropped,
            _ if known || everybody => Direct::Admitted { authorized: known },
            DmPolicy::Pairing => Direct::Stranger,
            DmPolicy::Open | DmPolicy::Allowlist => Direct::Dropped,
        }
    }

    /// Decides on a message of a group; `None` when it is not heard.
    pub(super) fn group(&self, chat: &str, topic: Option<&str>, who: &Who<'_>) -> Option<Admitted> {
        let groups = &self.settings.groups;
        let (own, any) = (groups.get(chat), groups.get("*"));
        let group = own.or(any);
        if group.is_none() && !groups.is_empty() {
            return None;
        }
        let topic = topic.and_then(|topic| group?.topics.get(topic));
        if !is_enabled(group, topic) {
            return None;
        }
        let special = topic
            .and_then(|topic| topic.allow_from.as_ref())
            .or_else(|| group?.allow_from.as_ref());
        let list = special
            .or(self.settings.group_allow_from.as_ref())
            .unwrap_or(&self.settings.allow_from);
        let known = names(list, who)
            || names(&self.settings.allow_from, who)
            || (special.is_none() && self.is_approved(who));
        let listed =
            has_wildcard(list) || names(list, who) || (special.is_none() && self.is_approved(who));
        let heard = match self.settings.group_policy.unwrap_or(self.group_policy) {
            GroupPolicy::Disabled => false,
            GroupPolicy::Allowlist => listed,
            GroupPolicy::Open => special.is_none() || listed,
        };
        let require_mention = topic
            .and_then(|topic| topic.require_mention)
            .or_else(|| own?.require_mention)
            .or_else(|| any?.require_mention)
            .unwrap_or(true);
        heard.then_some(Admitted { authorized: known, require_mention })
    }

    fn is_approved(&self, who: &Who<'_>) -> bool {
        self.approved.contains(&who.id)
    }
}

fn is_enabled(group: Option<&Group>, topic: Option<&Topic>) -> bool {
    group.is_none_or(|group| group.enabled != Some(false))
        && topic.is_none_or(|topic| topic.enabled != Some(false))
}

fn has_wildcard(list: &[Id]) -> bool {
    list.iter().any(|id| id.0 == "*")
}

fn names(list: &[Id], who: &Who<'_>) -> bool {
    let username = who.username.map(str::to_lowercase);
    list.iter().any(|id| id.0 == who.id || Some(&id.0) == username.as_ref())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settings(section: Value) -> Settings {
        serde_json::from_value(section).unwrap()
    }

    fn direct(section: Value, approved: &[&str]) -> Direct {
        let approved: Vec<String> = approved.iter().map(|id| (*id).to_owned()).collect();
        let settings = settings(section);
        let access = Access {
            settings: &settings,
            group_policy: GroupPolicy::Allowlist,
            approved: &approved,
        };
        access.direct(&Who { id: "7".into(), username: Some("Ann") })
    }

    fn group(section: Value, topic: Option<&str>) -> Option<Admitted> {
        let settings = settings(section);
        let access =
            Access { settings: &settings, group_policy: GroupPolicy::Allowlist, approved: &[] };
        access.group("-5", topic, &Who { id: "7".into(), username: Some("Ann") })
    }

    #[test]
    fn a_stranger_gets_a_code_only_under_pairing() {
        assert_eq!(direct(json!({}), &[]), Direct::Stranger);
        assert_eq!(direct(json!({ "dmPolicy": "allowlist" }), &[]), Direct::Dropped);
        assert_eq!(direct(json!({ "dmPolicy": "open" }), &[]), Direct::Dropped);
        assert_eq!(direct(json!({ "dmPolicy": "disabled" }), &["7"]), Direct::Dropped);
    }

    #[test]
    fn who_is_named_or_let_in_may_give_commands() {
        let authorized = Direct::Admitted { authorized: true };
        assert_eq!(direct(json!({ "allowFrom": ["tg:@ann"] }), &[]), authorized);
        assert_eq!(direct(json!({ "allowFrom": [7] }), &[]), authorized);
        assert_eq!(direct(json!({}), &["7"]), authorized);
    }

    #[test]
    fn everybody_may_talk_but_not_command() {
        let section = json!({ "dmPolicy": "open", "allowFrom": ["*"] });
        assert_eq!(direct(section, &[]), Direct::Admitted { authorized: false });
    }

    #[test]
    fn a_group_is_silent_until_someone_is_listed() {
        assert_eq!(group(json!({}), None), None);
        let heard = Some(Admitted { authorized: true, require_mention: true });
        assert_eq!(group(json!({ "groupAllowFrom": ["7"] }), None), heard);
        assert_eq!(group(json!({ "allowFrom": ["ann"] }), None), heard);
    }

    #[test]
    fn a_map_of_groups_shuts_out_the_others() {
        let section = json!({ "groupPolicy": "open", "groups": { "-6": {} } });
        assert_eq!(group(section, None), None);
        let section =
            json!({ "groupPolicy": "open", "groups": { "*": { "requireMention": false } } });
        assert_eq!(
            group(section, None),
            Some(Admitted { authorized: false, require_mention: false })
        );
    }

    #[test]
    fn a_topic_overrides_its_group() {
        let section = json!({ "groupPolicy": "open", "groups": { "-5": {
            "allowFrom": ["8"],
            "topics": { "3": { "allowFrom": ["7"], "requireMention": false }, "4": { "enabled": false } },
        } } });
        assert_eq!(group(section.clone(), None), None);
        assert_eq!(
            group(section.clone(), Some("3")),
            Some(Admitted { authorized: true, require_mention: false })
        );
        assert_eq!(group(section, Some("4")), None);
    }
}
