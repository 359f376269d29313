//! The differences that are meant.

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
    /// Whether timing decides if they occur.
    #[serde(default)]
    sometimes: bool,
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
    pub(super) fn allows(&self, difference: &str) -> bool {
        self.patterns().any(|one| fits(one, difference))
    }

    /// Returns the entries that no difference needs.
    pub(super) fn no_longer_found<'a>(
        &self,
        found: impl Iterator<Item = &'a String> + Clone,
    ) -> Vec<String> {
        let certain = self.0.iter().filter(|reason| !reason.sometimes);
        let patterns = certain.flat_map(|reason| &reason.differences);
        let gone = patterns.filter(|one| !found.clone().any(|line| fits(one, line)));
        gone.cloned().collect()
    }

    fn patterns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|reason| reason.differences.iter().map(String::as_str))
    }
}

fn fits(pattern: &str, line: &str) -> bool {
    wildcard_fits(&pattern.split('*').collect::<Vec<_>>(), line)
}
