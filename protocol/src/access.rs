//! Roles, scopes, and the rule that compares them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of peer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person's client: CLI, app, web page.
    Operator,
    /// A device that lends its camera, screen, or shell.
    Node,
}

impl Role {
    /// Returns the name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Node => "node",
        }
    }

    /// Parses the name on the wire.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "operator" => Some(Self::Operator),
            "node" => Some(Self::Node),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A permission granted to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// See state.
    Read,
    /// Act on the assistant's behalf. Implies [`Scope::Read`].
    Write,
    /// Answer approval requests.
    Approvals,
    /// Admit devices and nodes.
    Pairing,
    /// Change configuration. Implies every other scope.
    Admin,
}

impl Scope {
    /// Every scope there is.
    pub const ALL: [Self; 5] =
        [Self::Admin, Self::Read, Self::Write, Self::Approvals, Self::Pairing];

    /// Returns the name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "operator.read",
            Self::Write => "operator.write",
            Self::Approvals => "operator.approvals",
            Self::Pairing => "operator.pairing",
            Self::Admin => "operator.admin",
        }
    }

    /// Parses the name on the wire.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// The scopes a peer holds, by name and in the order they were given. Unknown
/// names are kept, because a newer client may know them, and grant nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Scopes(pub Vec<String>);

impl Scopes {
    /// Returns a set holding the given scopes.
    #[must_use]
    pub fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().map(|scope| scope.name().to_owned()).collect())
    }

    /// Returns whether the scope is held, directly or through a wider one.
    #[must_use]
    pub fn holds(&self, scope: Scope) -> bool {
        self.0.iter().any(|held| match Scope::parse(held) {
            Some(Scope::Admin) => true,
            Some(Scope::Write) => matches!(scope, Scope::Write | Scope::Read),
            held => held == Some(scope),
        })
    }

    /// Returns whether every scope of `other` is covered by this set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|name| match Scope::parse(name) {
            Some(scope) => self.holds(scope),
            None => self.0.contains(name) || self.holds(Scope::Admin),
        })
    }

    /// Returns what both sets allow: a wide scope of one meets the narrow ones
    /// of the other.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        if other.covers(self) {
            return self.clone();
        }
        let mut both = Self::default();
        for (one, two) in [(self, other), (other, self)] {
            let held = one.0.iter().filter(|name| two.covers(&Self(vec![(*name).clone()])));
            both.extend(&Self(held.cloned().collect()));
        }
        both
    }

    /// Adds the scopes of `other` that are not listed yet.
    pub fn extend(&mut self, other: &Self) {
        for name in &other.0 {
            if !self.0.contains(name) {
                self.0.push(name.clone());
            }
        }
    }
}

/// Who may call a method or see an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone past the handshake.
    Connected,
    /// Operators holding the scope.
    Operator(Scope),
    /// Nodes only.
    Node,
}

impl Access {
    /// Returns whether a peer with this role and these scopes is let in.
    #[must_use]
    pub fn allows(self, role: Role, scopes: &Scopes) -> bool {
        match self {
            Self::Connected => true,
            Self::Node => role == Role::Node,
            Self::Operator(needed) => role == Role::Operator && scopes.holds(needed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grants are checked with `covers` and narrowed with `meet`; both must agree with what
    /// the scopes open, whatever is held and whatever is asked for.
    #[test]
    fn every_two_sets_compare_as_what_they_open() {
        let subsets: Vec<Scopes> = (0..1_u32 << Scope::ALL.len())
            .map(|bits| {
                let held = |(index, _): &(usize, Scope)| bits >> index & 1 == 1;
                let chosen = Scope::ALL.into_iter().enumerate().filter(held);
                Scopes::of(&chosen.map(|(_, scope)| scope).collect::<Vec<_>>())
            })
            .collect();
        for one in &subsets {
            for two in &subsets {
                let opens_all = |scope: Scope| !two.holds(scope) || one.holds(scope);
                assert_eq!(
                    one.covers(two),
                    Scope::ALL.into_iter().all(opens_all),
                    "{one:?} {two:?}"
                );
                let both = one.meet(two);
                for scope in Scope::ALL {
                    let opened = one.holds(scope) && two.holds(scope);
                    assert_eq!(both.holds(scope), opened, "{one:?} {two:?} {scope:?}");
                }
            }
        }
    }

    #[test]
    fn admin_implies_everything_and_write_implies_read() {
        let admin = Scopes::of(&[Scope::Admin]);
        assert!(Scope::ALL.into_iter().all(|scope| admin.holds(scope)));
        let write = Scopes::of(&[Scope::Write]);
        assert!(write.holds(Scope::Read) && write.holds(Scope::Write));
        assert!(!write.holds(Scope::Pairing) && !write.holds(Scope::Admin));
    }

    #[test]
    fn unknown_scopes_grant_nothing() {
        let scopes = Scopes(vec!["operator.everything".into()]);
        assert!(!Scope::ALL.into_iter().any(|scope| scopes.holds(scope)));
        assert!(scopes.covers(&scopes));
        assert!(!Scopes::of(&[Scope::Read]).covers(&scopes));
    }

    #[test]
    fn two_sets_meet_in_what_both_allow() {
        let all = Scopes::of(&[Scope::Admin, Scope::Pairing]);
        let read = Scopes::of(&[Scope::Read]);
        assert_eq!(all.meet(&read), read);
        assert_eq!(read.meet(&all), read);
        assert_eq!(all.meet(&Scopes::of(&Scope::ALL)), all);
        assert_eq!(Scopes::of(&[Scope::Write]).meet(&read), read);
        assert_eq!(Scopes::of(&[Scope::Pairing]).meet(&read), Scopes::default());
    }

    #[test]
    fn no_scope_lets_an_operator_act_as_a_node() {
        let admin = Scopes::of(&[Scope::Admin]);
        assert!(!Access::Node.allows(Role::Operator, &admin));
        assert!(!Access::Operator(Scope::Read).allows(Role::Node, &admin));
    }
}
