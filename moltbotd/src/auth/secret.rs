//! Secrets: printed by nobody, compared in constant time.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A token or password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret; `None` for an empty one, which guards nothing.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (!text.is_empty()).then_some(Self(text))
    }

    /// Returns whether `guess` is the secret. The time it takes depends on the
    /// guess's length alone: digests are compared, so neither a shared prefix
    /// nor the secret's length shows.
    #[must_use]
    pub fn matches(&self, guess: &str) -> bool {
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(guess)).into()
    }

    /// Returns the first 8 hex digits of the secret's SHA-256: enough to tell
    /// two secrets apart, useless for anything else.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.0).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the secret itself, to be written to a file or sent to its owner.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_matches_itself_only_and_shows_nothing() {
        let secret = Secret::new("hunter2").unwrap();
        assert!(secret.matches("hunter2"));
        assert!(!secret.matches("hunter") && !secret.matches("hunter22") && !secret.matches(""));
        assert!(!format!("{secret:?}").contains("hunter"));
        assert_eq!(secret.fingerprint().len(), 8);
        assert!(Secret::new("").is_none());
    }
}
