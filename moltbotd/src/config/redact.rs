//! Redacts secrets before a configuration is shown.
//!
//! A key with a type says itself that it holds a secret (`#[schemars(extend("x-secret" = true))]`,
//! part of the schema that clients see). Everything else is judged by shape: by the name of the
//! key, by what it stands in (an environment, headers), and by what the value looks like. A value
//! that is hidden for nothing costs little, since its placeholder sent back means the value itself;
//! a secret that is shown costs the secret. So where the two rules leave a doubt, it is hidden.

use std::sync::OnceLock;

use moltbot_settings::{Path, Step, locate};
use serde_json::Value;

use super::{load::is_reference, schema};
use crate::logging;

/// Where the schema says that a key holds a secret.
pub(super) const KEYWORD: &str = "x-secret";

/// What is shown in place of a secret.
pub const PLACEHOLDER: &str = "__REDACTED__";

/// Shortest secret that is looked for outside of its own place, such as in a
/// comment: shorter ones would match by chance.
const SHORTEST_SEARCHED: usize = 8;

/// Returns a value without its secrets. References to variables stay.
pub(super) fn value(value: &Value) -> Value {
    let mut shown = value.clone();
    each_secret(&mut shown, &Path::default(), false, &mut |secret| *secret = PLACEHOLDER.into());
    shown
}

/// Returns the secrets that are long enough to be looked for elsewhere.
pub(super) fn secrets(value: &Value) -> Vec<String> {
    let mut secrets = Vec::new();
    each_secret(&mut value.clone(), &Path::default(), false, &mut |secret| {
        secrets
            .extend(secret.as_str().filter(|it| it.len() >= SHORTEST_SEARCHED).map(str::to_owned));
    });
    secrets
}

/// Returns a text without its secrets; `None` when they cannot be found.
pub(super) fn text(text: &str, parsed: &Value) -> Option<String> {
    let mut shown = text.to_owned();
    let spots = locate::spots(text)?;
    let own = json5::from_str(text).ok();
    // From the end, so that earlier positions stay right.
    for spot in spots.iter().rev() {
        let found: Value = match json5::from_str(&text[spot.bytes.clone()]) {
            Ok(found @ (Value::String(_) | Value::Number(_))) => found,
            _ => continue,
        };
        let flagged = own.as_ref().is_some_and(|own| follows_secret_flag(own, &spot.path));
        if is_secret_value(&spot.path, &found, flagged) {
            shown.replace_range(spot.bytes.clone(), &format!("\"{PLACEHOLDER}\""));
        }
    }
    Some(secrets(parsed).iter().fold(shown, |shown, secret| shown.replace(secret, PLACEHOLDER)))
}

/// Returns whether what stands at this place is a secret.
pub(super) fn is_secret(path: &Path) -> bool {
    let keys: Vec<String> = path
        .0
        .iter()
        .filter_map(|step| match step {
            Step::Key(key) => Some(key.to_ascii_lowercase().replace(['_', '-', ' '], "")),
            Step::Index(_) => None,
        })
        .collect();
    let Some((name, around)) = keys.split_last() else { return false };
    is_declared(path)
        // Whatever a program or a server is given by name: no list of names would be complete.
        || around.iter().any(|key| {
            matches!(key.as_str(), "env" | "environment") || key.ends_with("headers")
        })
        || around.iter().any(|key| SECRET_GROUPS.contains(&key.as_str()))
        || names_secret(name)
}

/// Objects and lists that hold nothing but secrets.
const SECRET_GROUPS: [&str; 6] =
    ["apikeys", "cookies", "credentials", "passwords", "secrets", "tokens"];

/// How the name of a secret ends, in lower case and without hyphens.
const SECRET_ENDINGS: [&str; 22] = [
    "token",
    "password",
    "passwd",
    "pwd",
    "secret",
    "passphrase",
    "passcode",
    "credential",
    "cookie",
    "authorization",
    "bearer",
    "jwt",
    "apihash",
    "code",
    "pin",
    "otp",
    "mnemonic",
    "dsn",
    "connectionstring",
    "signature",
    "clientassertion",
    "key",
];

/// Names with such an ending that are no secrets.
const NO_SECRETS: [&str; 18] = [
    "mainkey",
    "sessionkey",
    "publickey",
    "idempotencykey",
    "hotkey",
    "cachekey",
    "sortkey",
    "groupkey",
    "monkey",
    "languagecode",
    "countrycode",
    "regioncode",
    "statuscode",
    "exitcode",
    "localecode",
    "opencode",
    "claudecode",
    "vscode",
];

fn names_secret(name: &str) -> bool {
    let one = name.strip_suffix('s').unwrap_or(name);
    // A name alone; `xai`, `secretRef` and paths say where a secret is, not what it is.
    SECRET_ENDINGS.iter().any(|ending| one.ends_with(ending))
        && !NO_SECRETS.iter().any(|other| one.ends_with(other))
}

/// Returns whether the type of this key says that it is a secret.
fn is_declared(path: &Path) -> bool {
    static DECLARED: OnceLock<Vec<Path>> = OnceLock::new();
    let declared = DECLARED.get_or_init(|| {
        let parsed = |path: String| path.parse().unwrap_or_else(|never| match never {});
        schema::marked(KEYWORD).into_iter().map(parsed).collect()
    });
    declared.iter().any(|pattern| fits(pattern, path))
}

fn fits(pattern: &Path, path: &Path) -> bool {
    pattern.0.len() == path.0.len()
        && pattern.0.iter().zip(&path.0).all(|(pattern, step)| match pattern {
            Step::Key(key) if key == "*" => true,
            pattern => pattern == step,
        })
}

/// Calls `found` with each secret. `flagged` says that the value before this one, in the same
/// list, was the flag of a program that takes a secret.
fn each_secret(value: &mut Value, at: &Path, flagged: bool, found: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Array(items) => {
            let mut flagged = false;
            for (index, item) in items.iter_mut().enumerate() {
                let flag = is_secret_flag(item);
                each_secret(item, &at.index(index), flagged, found);
                flagged = flag;
            }
        }
        Value::Object(object) => {
            for (key, item) in object {
                each_secret(item, &at.key(key), false, found);
            }
        }
        scalar if is_secret_value(at, scalar, flagged) => found(scalar),
        _ => {}
    }
}

fn is_secret_value(at: &Path, value: &Value, flagged: bool) -> bool {
    match value {
        Value::String(text) if text.is_empty() || is_reference(text) => false,
        Value::String(text) => {
            flagged || is_secret(at) || looks_secret(text) || is_secret_address(at, text)
        }
        // `maxTokens: 4096` is none.
        Value::Number(_) => {
            let plural = at.name().is_some_and(|name| name.ends_with('s'));
            is_secret(at) && !plural
        }
        _ => false,
    }
}

/// Returns whether the item before this one, in the same list, is the flag of a secret.
fn follows_secret_flag(whole: &Value, at: &Path) -> bool {
    let Some((Step::Index(index), around)) = at.0.split_last() else { return false };
    let list = around.iter().try_fold(whole, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    });
    let before = index.checked_sub(1).and_then(|before| list?.get(before));
    before.is_some_and(is_secret_flag)
}

/// `--api-key` and the like, whose value is the next argument.
fn is_secret_flag(argument: &Value) -> bool {
    let name = argument.as_str().and_then(|text| text.strip_prefix("--"));
    name.is_some_and(|name| !name.contains('=') && names_secret(&squeezed(name)))
}

fn squeezed(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '-', ' '], "")
}

/// Returns whether a text is, or holds, what looks like a secret wherever it stands.
fn looks_secret(text: &str) -> bool {
    let argument = || {
        let assigned = text.strip_prefix("--").and_then(|text| text.split_once('='));
        assigned.is_some_and(|(name, value)| !value.is_empty() && names_secret(&squeezed(name)))
    };
    logging::holds_secret(text) || argument()
}

/// Returns whether an address opens something by itself: `https://user:password@host`,
/// `https://host/?token=…`, or the address of somebody's webhook.
fn is_secret_address(at: &Path, text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let (before_fragment, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (place, query) = before_fragment.split_once('?').unwrap_or((before_fragment, ""));
    let (host, path) = place.split_once('/').unwrap_or((place, ""));

    let login = host.rsplit_once('@').is_some_and(|(login, _)| {
        login.contains(':') || !matches!(scheme, "ssh" | "git+ssh" | "sftp")
    });
    let parameter = query.split('&').chain(fragment.split('&')).any(|parameter| {
        parameter.split_once('=').is_some_and(|(name, value)| {
            let name = squeezed(name);
            !value.is_empty() && (names_secret(&name) || matches!(name.as_str(), "sig" | "auth"))
        })
    });
    let webhook = |text: &str| squeezed(text).contains("webhook") || text.starts_with("hooks.");
    let is_webhook =
        !path.is_empty() && (webhook(host) || webhook(path) || at.name().is_some_and(webhook));
    login || parameter || is_webhook || path.split('/').any(is_random)
}

/// Returns whether a part of a path is too long and too mixed to be a word.
fn is_random(part: &str) -> bool {
    let count = |kind: fn(&u8) -> bool| part.bytes().filter(kind).count();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
    part.len() >= 24
        && part.bytes().all(word)
        && count(u8::is_ascii_digit) >= 3
        && count(u8::is_ascii_alphabetic) >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_hold_a_secret_say_so_themselves() {
        let marked = schema::marked(KEYWORD);
        for path in [
            "gateway.auth.token",
            "gateway.auth.password",
            "gateway.remote.token",
            "gateway.remote.password",
            "models.providers.*.apiKey",
        ] {
            assert!(marked.iter().any(|marked| marked == path), "{path} not in {marked:?}");
        }
        // And no typed key looks like one without saying it.
        for path in schema::paths() {
            let Ok(parsed) = path.parse::<Path>();
            let name = squeezed(parsed.name().unwrap_or_default());
            let looks = names_secret(&name) && !name.ends_with('s');
            assert!(!looks || marked.contains(&path), "{path} needs an {KEYWORD}");
        }
    }

    #[test]
    fn addresses_that_open_something_are_secrets_and_others_are_not() {
        let at: Path = "a.url".parse().unwrap_or_else(|never| match never {});
        for secret in [
            "https://user:pw@host/",
            "https://token@host/x",
            "wss://host/?token=abc",
            "https://host/p?x=1&api_key=abc",
            "https://host/#access_token=abc",
            "https://hooks.slack.com/services/T0/B0/xyz",
            "https://discord.com/api/webhooks/1/abcdef",
            "https://host/r/4f1c9a7be02d4c5fa6b7c8d9",
        ] {
            assert!(is_secret_address(&at, secret), "{secret}");
        }
        for open in [
            "https://api.openai.com/v1",
            "http://127.0.0.1:11434",
            "ssh://git@host/repo",
            "https://host/?page=2",
            "wss://box.tail1.ts.net",
            "https://host/a-long-and-plain-path",
            "user@host",
            "",
        ] {
            assert!(!is_secret_address(&at, open), "{open}");
        }
    }

    const TEXT: &str = r#"{
  // The old token was hunter2hunter2.
  gateway: { auth: { token: 'hunter2hunter2', password: "p" }, port: 18789 },
  channels: { telegram: { botToken: "1:abc", tokenFile: "/run/t", proxy: "http://u:pw@h:1" } },
  models: { providers: { a: { apiKey: "${A_KEY}", headers: { Authorization: "Bearer x", Accept: "y" }, auth: "api-key",
    models: [ { maxTokens: 4096 } ] } } },
  env: { vars: { A_KEY: "k" }, B: "b" },
}"#;

    #[test]
    fn secrets_are_blotted_out_of_values() {
        let parsed: Value = json5::from_str(TEXT).unwrap();
        let shown = value(&parsed).to_string();
        for secret in ["hunter2", "\"p\"", "1:abc", "pw@", "Bearer", "\"y\"", "\"k\"", "\"b\""] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
        for open in ["${A_KEY}", "/run/t", "18789", "4096", "\"api-key\""] {
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
