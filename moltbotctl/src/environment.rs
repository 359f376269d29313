//! The process environment, read once. Every variable exists under the current
//! and the older project name.

use std::collections::HashMap;

/// Prefixes of our variables, the preferred one first.
const PREFIXES: [&str; 2] = ["MOLTBOT_", "CLAWDBOT_"];

/// A copy of the environment.
#[derive(Clone, Debug, Default)]
pub struct Environment(HashMap<String, String>);

impl Environment {
    /// Copies the environment of this process; values that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// Returns a variable that is set and not blank.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Returns every variable as it is, in no order.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns `MOLTBOT_<suffix>`, else `CLAWDBOT_<suffix>`, with the name that won.
    #[must_use]
    pub fn named(&self, suffix: &str) -> Option<(String, &str)> {
        PREFIXES.iter().find_map(|prefix| {
            let name = format!("{prefix}{suffix}");
            self.var(&name).map(|value| (name.clone(), value))
        })
    }

    /// Returns the value of [`Self::named`].
    #[must_use]
    pub fn own(&self, suffix: &str) -> Option<&str> {
        self.named(suffix).map(|(_, value)| value)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_name_beats_the_older_one_and_blank_counts_as_unset() {
        let both = Environment::from([
            ("MOLTBOT_GATEWAY_TOKEN", "new"),
            ("CLAWDBOT_GATEWAY_TOKEN", "old"),
        ]);
        assert_eq!(both.own("GATEWAY_TOKEN"), Some("new"));
        let blank =
            Environment::from([("MOLTBOT_GATEWAY_TOKEN", " "), ("CLAWDBOT_GATEWAY_TOKEN", "old")]);
        assert_eq!(blank.named("GATEWAY_TOKEN").unwrap().0, "CLAWDBOT_GATEWAY_TOKEN");
    }
}
