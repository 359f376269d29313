//! The words that wake a listening device.

use serde_json::Value;

const DEFAULTS: [&str; 3] = ["clawd", "claude", "computer"];
const MAX_WORDS: usize = 32;
const MAX_CHARS: usize = 64;

/// Name of the setting.
pub const SETTING: &str = "voicewake.triggers";

/// Returns the words used when none are set.
#[must_use]
pub fn defaults() -> Vec<String> {
    DEFAULTS.map(String::from).to_vec()
}

/// Trims words, drops what is empty or not text, and limits number and length;
/// nothing left means the default ones.
#[must_use]
pub fn normalize(words: &[Value]) -> Vec<String> {
    let words: Vec<String> = words
        .iter()
        .filter_map(Value::as_str)
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .take(MAX_WORDS)
        .map(|word| word.chars().take(MAX_CHARS).collect())
        .collect();
    if words.is_empty() { defaults() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_trimmed_and_limited() {
        let long = "x".repeat(100);
        let words = normalize(&[json!(" hey "), json!(""), json!(7), json!(long)]);
        assert_eq!(words, ["hey".to_owned(), "x".repeat(64)]);
        assert_eq!(normalize(&vec![json!("w"); 50]).len(), 32);
    }

    #[test]
    fn an_empty_list_means_the_default_words() {
        assert_eq!(normalize(&[]), defaults());
        assert_eq!(normalize(&[json!("  ")]), defaults());
    }
}
