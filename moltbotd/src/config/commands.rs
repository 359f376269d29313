//! `commands`: who owns the gateway, and who may give commands in chats.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who owns the gateway, and who may give commands in chats.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Commands {
    /// Who owns the gateway: `telegram:123456789`, or an id that counts in every channel. Being
    /// let in by an allowlist or a pairing code makes nobody an owner.
    pub owners: Option<Vec<PersonId>>,
    /// The same under OpenClaw's name; both lists count.
    pub owner_allow_from: Option<Vec<PersonId>>,
    /// Who may give commands, by channel, `*` for all. Where it is set, being let in is not
    /// enough.
    pub allow_from: Option<BTreeMap<String, Vec<PersonId>>>,
    /// Whether the tool `gateway` may restart the gateway for its owner: it may when absent.
    pub restart: Option<bool>,
    /// Whether channels obey `/commands` in messages: they do when absent. Words that stop a run
    /// are always obeyed.
    pub text: Option<bool>,
}

impl Commands {
    /// Returns whether somebody who writes in a channel owns the gateway.
    #[must_use]
    pub fn is_owner(&self, channel: &str, sender: &str) -> bool {
        self.owners().any(|owner| owner.names(channel, sender))
    }

    /// Returns everybody who is named as an owner.
    pub fn owners(&self) -> impl Iterator<Item = &PersonId> {
        self.owners.iter().chain(&self.owner_allow_from).flatten()
    }

    /// Returns whether it was decided who the owners are, be it nobody.
    #[must_use]
    pub fn has_owners(&self) -> bool {
        self.owners.is_some() || self.owner_allow_from.is_some()
    }

    /// Returns whether somebody may give commands, where that is not left to the channel.
    #[must_use]
    pub fn allows(&self, channel: &str, sender: &str) -> Option<bool> {
        let lists = self.allow_from.as_ref()?;
        let mut named = ["*", channel].into_iter().filter_map(|key| lists.get(key)).flatten();
        Some(named.any(|id| id.text() == "*" || id.names(channel, sender)))
    }
}

/// Somebody in a channel: `telegram:123`, or an id without a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PersonId {
    /// An id that is a number.
    Number(i64),
    /// An id, with its channel or without.
    Text(String),
}

impl PersonId {
    /// Returns it as it is written.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.trim().to_owned(),
        }
    }

    /// Returns the channel it is bound to, if any, and the id.
    #[must_use]
    pub fn parts(&self) -> (Option<String>, String) {
        let text = self.text().to_lowercase();
        match text.split_once(':') {
            Some(("tg", id)) => (Some("telegram".into()), id.trim().to_owned()),
            Some((channel, id)) => (Some(channel.trim().to_owned()), id.trim().to_owned()),
            None => (None, text),
        }
    }

    fn names(&self, channel: &str, sender: &str) -> bool {
        let (bound_to, id) = self.parts();
        !id.is_empty()
            && id != "*"
            && id == sender.to_lowercase()
            && bound_to.is_none_or(|bound_to| bound_to == channel)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_owner_is_named_by_id_with_a_channel_or_without() {
        let commands: Commands = serde_json::from_value(json!({
            "owners": ["telegram:7", "tg:8"], "ownerAllowFrom": [9, "discord:10", "*"],
        }))
        .unwrap();
        for id in ["7", "8", "9"] {
            assert!(commands.is_owner("telegram", id), "{id}");
        }
        for id in ["10", "*", "", "77"] {
            assert!(!commands.is_owner("telegram", id), "{id}");
        }
        assert!(!commands.is_owner("discord", "7") && commands.is_owner("discord", "10"));
    }

    #[test]
    fn a_list_of_who_may_command_goes_before_the_channels_own() {
        let allows = |section, id| {
            serde_json::from_value::<Commands>(section).unwrap().allows("telegram", id)
        };
        assert_eq!(allows(json!({}), "7"), None);
        let section = json!({ "allowFrom": { "telegram": [7], "discord": ["*"] } });
        assert_eq!(allows(section.clone(), "7"), Some(true));
        assert_eq!(allows(section, "8"), Some(false));
        assert_eq!(allows(json!({ "allowFrom": { "*": ["*"] } }), "8"), Some(true));
    }
}
