//! Blots out secrets before a configuration is shown.

use moltbot_settings::{Path, Step, locate};
use serde_json::Value;

use super::load::is_reference;

/// What is shown in place of a secret.
pub const PLACEHOLDER: &str = "__REDACTED__";

/// Shortest secret that is looked for outside of its own place, such as in a
/// comment: shorter ones would match by chance.
const SHORTEST_SEARCHED: usize = 8;

/// Returns a value without its secrets. References to variables stay.
pub(super) fn value(value: &Value) -> Value {
    let mut shown = value.clone();
    each_secret(&mut shown, &Path::default(), &mut |secret| *secret = PLACEHOLDER.into());
    shown
}

/// Returns the secrets that are long enough to be looked for elsewhere.
pub(super) fn secrets(value: &Value) -> Vec<String> {
    let mut secrets = Vec::new();
    each_secret(&mut value.clone(), &Path::default(), &mut |secret| {
        secrets
            .extend(secret.as_str().filter(|it| it.len() >= SHORTEST_SEARCHED).map(str::to_owned));
    });
    secrets
}

/// Returns a text without its secrets; `None` when they cannot be found.
pub(super) fn text(text: &str, parsed: &Value) -> Option<String> {
    let mut shown = text.to_owned();
    let spots = locate::spots(text)?;
    // From the end, so that earlier positions stay right.
    for spot in spots.iter().rev() {
        let found: Value = match json5::from_str(&text[spot.bytes.clone()]) {
            Ok(found @ (Value::String(_) | Value::Number(_))) => found,
            _ => continue,
        };
        if is_secret_value(&spot.path, &found) {
            shown.replace_range(spot.bytes.clone(), &format!("\"{PLACEHOLDER}\""));
        }
    }
    Some(secrets(parsed).iter().fold(shown, |shown, secret| shown.replace(secret, PLACEHOLDER)))
}

/// Returns whether what stands at this place is a secret.
pub(super) fn is_secret(path: &Path) -> bool {
    let keys = || {
        path.0.iter().filter_map(|step| match step {
            Step::Key(key) => Some(key.to_ascii_lowercase()),
            Step::Index(_) => None,
        })
    };
    let Some(name) = keys().next_back() else { return false };
    if keys().next().is_some_and(|first| first == "env") {
        return name != "env";
    }
    if keys().any(|key| key == "headers")
        && ["auth", "key", "token", "secret", "cookie"].iter().any(|part| name.contains(part))
    {
        return true;
    }
    let name = name.strip_suffix('s').unwrap_or(&name).replace(['_', '-'], "");
    ["token", "password", "secret", "apikey", "passphrase", "privatekey", "credential"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

fn each_secret(value: &mut Value, at: &Path, found: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                each_secret(item, &at.index(index), found);
            }
        }
        Value::Object(object) => {
            for (key, item) in object {
                each_secret(item, &at.key(key), found);
            }
        }
        scalar if is_secret_value(at, scalar) => found(scalar),
        _ => {}
    }
}

fn is_secret_value(at: &Path, value: &Value) -> bool {
    match value {
        Value::String(text) if text.is_empty() || is_reference(text) => false,
        Value::String(text) => is_secret(at) || has_login(text),
        // `maxTokens: 4096` is none.
        Value::Number(_) => is_secret(at) && !at.name().is_some_and(|name| name.ends_with('s')),
        _ => false,
    }
}

/// Returns whether an address holds a password: `https://user:password@host`.
fn has_login(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.rsplit_once('@').is_some_and(|(login, _)| login.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
  // The old token was hunter2hunter2.
  gateway: { auth: { token: 'hunter2hunter2', password: "p" }, port: 18789 },
  channels: { telegram: { botToken: "1:abc", tokenFile: "/run/t", proxy: "http://u:pw@h:1" } },
  models: { providers: { a: { apiKey: "${A_KEY}", headers: { Authorization: "Bearer x", Accept: "y" },
    models: [ { maxTokens: 4096 } ] } } },
  env: { vars: { A_KEY: "k" }, B: "b" },
}"#;

    #[test]
    fn secrets_are_blotted_out_of_values() {
        let parsed: Value = json5::from_str(TEXT).unwrap();
        let shown = value(&parsed).to_string();
        for secret in ["hunter2", "\"p\"", "1:abc", "pw@", "Bearer", "\"k\"", "\"b\""] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
        for open in ["${A_KEY}", "/run/t", "18789", "4096", "\"y\""] {
            assert!(shown.contains(open), "{open} not in {shown}");
        }
    }

    #[test]
    fn secrets_are_blotted_out_of_texts_and_comments() {
        let parsed: Value = json5::from_str(TEXT).unwrap();
        let shown = text(TEXT, &parsed).unwrap();
        assert!(
            !shown.contains("hunter2") && !shown.contains("1:abc") && !shown.contains("Bearer")
        );
        assert!(shown.contains("// The old token was __REDACTED__."));
        let again: Value = json5::from_str(&shown).unwrap();
        assert_eq!(again, value(&parsed));
    }
}
