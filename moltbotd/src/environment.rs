//! The environment, read once at start and passed on as a value, and the
//! secrets that the service manager hands over as files.

use std::{collections::BTreeMap, env, fmt, fs, io::Read as _, path::Path};

use crate::private;

/// Most that is read of a credential.
const LONGEST_CREDENTIAL_BYTES: u64 = 64 * 1024;

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

    /// Adds the files of `$CREDENTIALS_DIRECTORY` as variables that are not
    /// set: `telegram-bot-token` is `TELEGRAM_BOT_TOKEN`. Unlike real variables
    /// they are no one else's to see: neither children's nor that of people
    /// who look at the unit or at the process.
    pub fn with_credentials(self, folder: Option<&Path>) -> Result<Self, private::Error> {
        let Some(folder) = folder else { return Ok(self) };
        let failed = |source| private::Error::Io { path: folder.display().to_string(), source };
        let mut credentials = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if let Some(text) = credential(&path)? {
                credentials.insert(name.replace('-', "_").to_ascii_uppercase(), text);
            }
        }
        Ok(self.or(&credentials))
    }

    /// Returns the first of several spellings that is set, with its name.
    #[must_use]
    pub fn first<'a>(&self, names: &[&'a str]) -> Option<(&'a str, &str)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }
}

/// Returns a credential without the line's end; `None` for one that is not
/// text.
fn credential(path: &Path) -> Result<Option<String>, private::Error> {
    let (file, _) = private::trusted(path)?;
    let mut bytes = Vec::new();
    file.take(LONGEST_CREDENTIAL_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|source| private::Error::Io { path: path.display().to_string(), source })?;
    Ok(String::from_utf8(bytes).ok().map(|text| text.trim_end().to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_variables_that_are_not_set() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("anthropic-api-key"), "from the manager\n").unwrap();
        fs::write(dir.path().join("OPENAI_API_KEY"), "unused").unwrap();
        fs::write(dir.path().join("binary"), [0xff, 0xfe]).unwrap();
        let environment = Environment::from([("OPENAI_API_KEY", "from the environment")]);
        let environment = environment.with_credentials(Some(dir.path())).unwrap();
        assert_eq!(environment.get("ANTHROPIC_API_KEY"), Some("from the manager"));
        assert_eq!(environment.get("OPENAI_API_KEY"), Some("from the environment"));
        assert_eq!(environment.get("BINARY"), None);
        assert!(environment.with_credentials(Some(&dir.path().join("none"))).is_err());
    }
}
