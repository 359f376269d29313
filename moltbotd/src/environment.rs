//! The environment, read once at start and passed on as a value.

use std::{collections::BTreeMap, env, fmt};

/// Environment variables. Empty ones count as absent.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads this process's environment. Variables that are not Unicode are
    /// left out: none of ours can hold such a value.
    #[must_use]
    pub fn current() -> Self {
        env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// Returns a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
    }

    /// Adds variables that are not set.
    #[must_use]
    pub fn or(mut self, others: &BTreeMap<String, String>) -> Self {
        for (name, value) in others {
            if self.get(name).is_none() {
                self.0.insert(name.clone(), value.clone());
            }
        }
        self
    }

    /// Returns the first of several spellings that is set, with its name.
    #[must_use]
    pub fn first<'a>(&self, names: &[&'a str]) -> Option<(&'a str, &str)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
    }
}

// Values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}
