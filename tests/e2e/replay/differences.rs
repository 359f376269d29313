//! The differences that are meant.

use std::collections::BTreeSet;

use moltbot_tests::programs::source_root;
use serde::Deserialize;

use super::compare::wildcard_fits;

/// The content of `differences.json5`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Accepted(Vec<Reason>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    /// Why ours is different.
    #[serde(rename = "reason")]
    _reason: String,
    /// The scenarios they are in; any if empty.
    #[serde(default, rename = "in")]
    scenarios: Vec<String>,
    /// Lines as the test prints them; `*` stands for anything.
    differences: Vec<String>,
}

impl Accepted {
    /// Reads the committed list.
    pub(super) fn load() -> Self {
        let path = source_root().join("tests/fixtures/transcripts/differences.json5");
        json5::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Returns whether something in the list allows a difference.
    pub(super) fn allows(&self, scenario: &str, difference: &str) -> bool {
        self.0.iter().any(|reason| {
            reason.holds_in(scenario) && reason.differences.iter().any(|one| fits(one, difference))
        })
    }

    /// Returns the entries that no difference needs.
    pub(super) fn no_longer_found(&self, found: &BTreeSet<(&str, String)>) -> Vec<String> {
        self.0.iter().flat_map(|reason| reason.no_longer_found(found)).collect()
    }
}

impl Reason {
    fn holds_in(&self, scenario: &str) -> bool {
        self.scenarios.is_empty() || self.scenarios.iter().any(|one| one == scenario)
    }

    fn no_longer_found(&self, found: &BTreeSet<(&str, String)>) -> Vec<String> {
        let needed = |one: &str, scenario: Option<&str>| {
            found.iter().any(|(name, line)| {
                scenario.map_or_else(|| self.holds_in(name), |scenario| scenario == *name)
                    && fits(one, line)
            })
        };
        let lines = self.differences.iter().filter(|one| !needed(one, None)).cloned();
        let idle = self.scenarios.iter().filter(|scenario| {
            !self.differences.iter().any(|one| needed(one, Some(scenario.as_str())))
        });
        lines.chain(idle.map(|scenario| format!("anything of a reason in {scenario}"))).collect()
    }
}

fn fits(pattern: &str, line: &str) -> bool {
    wildcard_fits(&pattern.split('*').collect::<Vec<_>>(), line)
}
