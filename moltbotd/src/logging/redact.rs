//! Blots secrets out of log lines: the gateway's own, those of the
//! configuration, and what looks like one in the words of others.

use std::{borrow::Cow, sync::OnceLock};

use regex::Regex;

const PLACEHOLDER: &str = "[redacted]";
/// Shorter ones would match by chance.
const SHORTEST_SECRET: usize = 8;

/// One of these is in whatever the patterns below find. Looking for them is
/// cheap, and the patterns are built only once one was found.
const MARKERS: [&str; 26] = [
    "earer ",
    "EARER ",
    "sk-",
    "pk-",
    "gh",
    "github_pat_",
    "xox",
    "AIza",
    ":A",
    "eyJ",
    "PRIVATE KEY",
    "oken",
    "ecret",
    "assw",
    "key",
    "Key",
    "asic ",
    "AKIA",
    "ASIA",
    "glpat-",
    "hf_",
    "npm_",
    "tskey-",
    "ya29.",
    "SG.",
    "://",
];

/// Shapes of secrets. A group named `keep` is shown.
const SHAPES: [&str; 11] = [
    r"(?P<keep>(?i:bearer)\s+)[A-Za-z0-9._~+/=-]{8,}",
    r"(?P<keep>\b(?i:basic)\s+)[A-Za-z0-9+/]{16,}={0,2}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"\b(?:glpat-|hf_|npm_|tskey-|ya29\.|SG\.)[A-Za-z0-9_.-]{16,}",
    // The password in an address, and the path that is one.
    r"(?P<keep>://)[^/\s:@]+:[^/\s@]{3,}@",
    r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{12,}",
    r"\b(?:gh[oprsu]_|github_pat_|xox[abeoprs]-|AIza)[A-Za-z0-9_-]{10,}",
    // A Telegram bot's token, also within an address.
    r"\d{6,}:[A-Za-z0-9_-]{30,}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    r#"(?P<keep>(?i:token|api_?key|secret|password)\\?"?\s?[=:]\s?\\?"?)[A-Za-z0-9+_-][^\s"'\\,;&]{11,}"#,
];

/// What is never written to a log.
#[derive(Clone, Debug, Default)]
pub struct Redactions {
    /// Secrets that are known word by word.
    pub known: Vec<Known>,
    /// Whether what looks like a secret is one: `logging.redactSensitive`.
    pub by_shape: bool,
    /// Further patterns: `logging.redactPatterns`.
    pub patterns: Vec<Regex>,
}

/// A secret that prints nothing.
#[derive(Clone)]
pub struct Known(String);

impl Known {
    /// Wraps a secret that is long enough to be looked for.
    #[must_use]
    pub fn of(secret: &str) -> Option<Self> {
        (secret.len() >= SHORTEST_SECRET).then(|| Self(secret.to_owned()))
    }
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known")
    }
}

impl Redactions {
    /// Returns the text without secrets; `None` when it holds none.
    pub(super) fn clean(&self, text: &str) -> Option<String> {
        let mut clean = Cow::Borrowed(text);
        for Known(secret) in &self.known {
            if clean.contains(secret.as_str()) {
                clean = clean.replace(secret.as_str(), PLACEHOLDER).into();
            }
        }
        if self.by_shape && MARKERS.iter().any(|marker| clean.contains(marker)) {
            for shape in shapes() {
                replace(&mut clean, shape);
            }
        }
        for pattern in &self.patterns {
            replace(&mut clean, pattern);
        }
        match clean {
            Cow::Owned(clean) if clean != text => Some(clean),
            _ => None,
        }
    }
}

fn replace(text: &mut Cow<'_, str>, pattern: &Regex) {
    let replaced = pattern.replace_all(text, |found: &regex::Captures<'_>| {
        let keep = found.name("keep").map_or("", |keep| keep.as_str());
        format!("{keep}{PLACEHOLDER}")
    });
    if let Cow::Owned(replaced) = replaced {
        *text = replaced.into();
    }
}

/// Returns whether a text holds what looks like a secret.
pub(crate) fn holds_secret(text: &str) -> bool {
    MARKERS.iter().any(|marker| text.contains(marker))
        && shapes().iter().any(|shape| shape.is_match(text))
}

fn shapes() -> &'static [Regex] {
    static SHAPES_BUILT: OnceLock<Vec<Regex>> = OnceLock::new();
    SHAPES_BUILT.get_or_init(|| SHAPES.iter().filter_map(|shape| Regex::new(shape).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_a_pattern() {
        assert_eq!(shapes().len(), SHAPES.len());
    }

    #[test]
    fn what_looks_like_a_secret_is_blotted_out() {
        let redactions = Redactions { by_shape: true, ..Redactions::default() };
        for (text, clean) in [
            (
                "Authorization: Bearer abcdefgh12345678 sent",
                "Authorization: Bearer [redacted] sent",
            ),
            (
                "Incorrect API key provided: sk-proj-0123456789abcdef.",
                "Incorrect API key provided: [redacted].",
            ),
            (
                "error sending request for url (https://api.telegram.org/bot123456789:AAbbccddeeffgghhiijjkkllmmnnooppqq/getUpdates)",
                "error sending request for url (https://api.telegram.org/bot[redacted]/getUpdates)",
            ),
            (r#"{"token":"0123456789abcdef"}"#, r#"{"token":"[redacted]"}"#),
            ("api_key=0123456789abcdef&x=1", "api_key=[redacted]&x=1"),
            ("pushed by ghp_0123456789abcdefghij", "pushed by [redacted]"),
            ("key AIzaSyA0123456789abcdefghij", "key [redacted]"),
        ] {
            assert_eq!(redactions.clean(text).as_deref(), Some(clean), "{text}");
        }
    }

    #[test]
    fn ordinary_words_stay() {
        let redactions = Redactions { by_shape: true, ..Redactions::default() };
        for text in [
            "gateway.auth.token: expected a string",
            "token: /run/credentials/telegram-bot.token is missing",
            "login failed kind=Token failures=3",
            "ready address=\"127.0.0.1:18789\" pid=7236",
            "task-force risk-averse",
        ] {
            assert_eq!(redactions.clean(text), None, "{text}");
        }
    }

    #[test]
    fn known_secrets_and_own_patterns_are_blotted_out_always() {
        let redactions = Redactions {
            known: Known::of("hunter2hunter2").into_iter().collect(),
            by_shape: false,
            patterns: vec![Regex::new(r"AC-\d+").unwrap()],
        };
        let clean = redactions.clean("it is hunter2hunter2 of AC-17").unwrap();
        assert_eq!(clean, "it is [redacted] of [redacted]");
        assert_eq!(redactions.clean("sk-proj-0123456789abcdef"), None);
        assert!(Known::of("short").is_none());
    }
}
