//! Who asked for a run, a tool call or a chat command.
//!
//! It is decided once, where a request enters the gateway, and travels with it into the store, so
//! that a run which is continued after a crash has the rights it was accepted with. Nothing on the
//! way may raise it: words of others can only lower it ([`Asker::lowered`]).

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What somebody is to the gateway.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AskerKind {
    /// Named in `commands.owners`, or a client with `operator.admin`.
    Owner,
    /// Let in by an allowlist or a pairing code, or a client without `operator.admin`.
    Admitted,
    /// Nobody in particular: the gateway itself, after a restart or at a set time.
    Schedule,
    /// An owner or an admitted person whose message carries words of others.
    Quoted,
    /// A paired device that lends its abilities.
    Node,
    /// Anybody else. The default, so that what says nothing has no rights.
    #[default]
    Stranger,
}

impl AskerKind {
    /// Returns whether configuration may let it change something. What a stranger, a node or a
    /// quotation said never does.
    #[must_use]
    pub const fn may_act(self) -> bool {
        matches!(self, Self::Owner | Self::Admitted | Self::Schedule)
    }

    /// Returns the word for logs and refusals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admitted => "admitted",
            Self::Schedule => "schedule",
            Self::Quoted => "quoted",
            Self::Node => "node",
            Self::Stranger => "stranger",
        }
    }
}

impl fmt::Display for AskerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Asker {
    /// What they are to the gateway.
    pub kind: AskerKind,
    /// Who exactly, for the log: `telegram:7`, `device:…`, `node:…`.
    pub id: String,
    /// Whose words the message carries besides the asker's own, for the log.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}

/// Authors named in the log; a group's talk may have many.
const MAX_OTHERS: usize = 8;

impl Asker {
    /// Returns an asker.
    #[must_use]
    pub fn new(kind: AskerKind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into(), others: Vec::new() }
    }

    /// Returns what is left of the asker's rights in a message that carries words of `others`.
    /// A stranger or a node stays what it is: the lowest rank counts.
    #[must_use]
    pub fn lowered(mut self, others: impl IntoIterator<Item = String>) -> Self {
        for other in others {
            self.kind = self.kind.max(AskerKind::Quoted);
            if self.others.len() < MAX_OTHERS && !self.others.contains(&other) {
                self.others.push(other);
            }
        }
        self
    }

    /// Returns whether it is an owner, and nobody else has a word in it.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.kind == AskerKind::Owner
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if !self.others.is_empty() {
            write!(f, " with words of {}", self.others.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_lower_an_asker_and_never_raise_one() {
        for (before, after) in [
            (AskerKind::Owner, AskerKind::Quoted),
            (AskerKind::Admitted, AskerKind::Quoted),
            (AskerKind::Schedule, AskerKind::Quoted),
            (AskerKind::Node, AskerKind::Node),
            (AskerKind::Stranger, AskerKind::Stranger),
        ] {
            let asker = Asker::new(before, "telegram:7").lowered(["telegram:8".to_owned()]);
            assert_eq!(asker.kind, after, "{before}");
            assert_eq!(asker.to_string(), "telegram:7 with words of telegram:8");
        }
        assert!(Asker::new(AskerKind::Owner, "a").lowered([]).is_owner());
    }

    #[test]
    fn what_says_nothing_about_its_asker_is_a_strangers() {
        let asker: Asker = serde_json::from_str("{}").unwrap();
        assert_eq!(asker.kind, AskerKind::Stranger);
    }
}
