//! Compares a recorded value with ours, placeholders and all.

use std::{
    collections::{HashMap, HashSet},
    mem::discriminant,
};

use serde_json::{Map, Value};

/// The values that stand behind placeholders such as `<uuid:1>`.
#[derive(Clone, Debug, Default)]
pub(super) struct Bindings(HashMap<String, Value>);

impl Bindings {
    /// Notes what a placeholder stands for.
    pub(super) fn bind(&mut self, placeholder: &str, value: Value) {
        self.0.insert(placeholder.to_owned(), value);
    }

    /// Puts values in the place of placeholders.
    pub(super) fn fill(&self, recorded: &Value) -> Value {
        match recorded {
            Value::String(text) => self.fill_text(text),
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), self.fill(value))).collect()
            }
            other => other.clone(),
        }
    }

    fn fill_text(&self, text: &str) -> Value {
        if let Some(value) = self.0.get(text) {
            return value.clone();
        }
        let filled = self.0.iter().fold(text.to_owned(), |text, (placeholder, value)| {
            value.as_str().map_or_else(|| text.clone(), |value| text.replace(placeholder, value))
        });
        filled.into()
    }

    /// Compares a recorded value with ours and notes what placeholders stand
    /// for. `tell` gets the path and the difference.
    pub(super) fn compare(
        &mut self,
        recorded: &Value,
        ours: &Value,
        path: &str,
        tell: &mut dyn FnMut(&str, String),
    ) {
        match (recorded, ours) {
            (Value::Object(recorded), Value::Object(ours)) => {
                for (name, value) in recorded {
                    let path = join(path, name);
                    match ours.get(name) {
                        Some(ours) => self.compare(value, ours, &path, tell),
                        None if is_placeholder(name) => {}
                        None => tell(&path, "missing".into()),
                    }
                }
                self.compare_varying(recorded, ours, path, tell);
            }
            (Value::Array(recorded), Value::Array(ours)) if is_past(path) => {
                compare_kinds(recorded, ours, &format!("{path}[]"), tell);
            }
            (Value::Array(recorded), Value::Array(ours)) if is_name_list(path) => {
                for name in recorded.iter().filter(|name| !ours.contains(name)) {
                    tell(path, format!("without {name}"));
                }
                for name in ours.iter().filter(|name| !recorded.contains(name)) {
                    tell(path, format!("with {name}"));
                }
            }
            (Value::Array(recorded), Value::Array(ours)) => {
                if recorded.len() != ours.len() {
                    tell(path, "length".to_owned());
                }
                self.compare_items(recorded, ours, &format!("{path}[]"), tell);
            }
            (Value::String(_), Value::String(_)) if is_call_id(path) => {}
            (Value::String(text), ours) => self.compare_text(text, ours, path, tell),
            (Value::Number(_), Value::Number(_)) if is_counter(path) => {}
            (recorded, ours) if recorded == ours => {}
            (recorded, ours) => tell(path, told(recorded, ours)),
        }
    }

    /// Compares the fields whose names vary, and tells which of ours are extra.
    fn compare_varying(
        &mut self,
        recorded: &Map<String, Value>,
        ours: &Map<String, Value>,
        path: &str,
        tell: &mut dyn FnMut(&str, String),
    ) {
        let varying: Vec<Value> = recorded
            .iter()
            .filter(|(name, _)| is_placeholder(name) && !ours.contains_key(*name))
            .map(|(_, value)| value.clone())
            .collect();
        let others = || ours.iter().filter(|(name, _)| !recorded.contains_key(*name));
        if varying.is_empty() {
            // Whether the last report was made before or after something went
            // wrong depends on timing.
            let told = others()
                .filter(|(name, _)| !(path.ends_with("snapshot.health") && *name == "degraded"));
            told.for_each(|(name, _)| tell(&join(path, name), "extra".into()));
            return;
        }
        let others: Vec<Value> = others().map(|(_, value)| value.clone()).collect();
        if varying.len() != others.len() {
            tell(&join(path, "<name>"), "length".to_owned());
        }
        self.compare_items(&varying, &others, &join(path, "<name>"), tell);
    }

    /// Compares each recorded item with the one of ours that is most like it:
    /// the order and the rest of a list depend on what happened before.
    fn compare_items(
        &mut self,
        recorded: &[Value],
        ours: &[Value],
        path: &str,
        tell: &mut dyn FnMut(&str, String),
    ) {
        let mut pairs = Vec::new();
        for (one, recorded) in recorded.iter().enumerate() {
            for (other, ours) in ours.iter().enumerate() {
                let mut distance = 0;
                self.clone().compare(recorded, ours, path, &mut |_, _| distance += 1);
                pairs.push((distance, one, other));
            }
        }
        pairs.sort_unstable();
        let (mut used, mut taken) = (HashSet::new(), HashSet::new());
        for (_, one, other) in pairs {
            if !used.contains(&one) && !taken.contains(&other) {
                used.insert(one);
                taken.insert(other);
                self.compare(&recorded[one], &ours[other], path, tell);
            }
        }
    }

    fn compare_text(
        &mut self,
        recorded: &str,
        ours: &Value,
        path: &str,
        tell: &mut dyn FnMut(&str, String),
    ) {
        let fits = match placeholder_kind(recorded) {
            Some("ms" | "int" | "pid" | "port") => ours.is_u64(),
            Some("num" | "ms.float") => ours.is_number(),
            Some(_) => ours.is_string(),
            None => {
                ours.as_str().is_some_and(|ours| pattern_fits(recorded, ours) || is_speech(path))
            }
        };
        if !fits {
            tell(path, told(&recorded.into(), ours));
        } else if placeholder_kind(recorded).is_some() {
            self.0.insert(recorded.to_owned(), ours.clone());
        }
    }
}

fn join(path: &str, name: &str) -> String {
    let name = if is_placeholder(name) { "<name>" } else { name };
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Compares keys and types of items that tell what happened before: each of
/// ours has those of the recorded ones.
fn compare_kinds(
    recorded: &[Value],
    ours: &[Value],
    path: &str,
    tell: &mut dyn FnMut(&str, String),
) {
    for ours in ours {
        let differences = recorded.iter().map(|recorded| kinds_apart(recorded, ours));
        for (name, difference) in differences.min_by_key(Vec::len).unwrap_or_default() {
            tell(&join(path, &name), difference);
        }
    }
}

/// Returns the fields that only one of two objects has, or with another type.
fn kinds_apart(recorded: &Value, ours: &Value) -> Vec<(String, String)> {
    let empty = Map::new();
    let fields = |value: &Value| value.as_object().unwrap_or(&empty).clone();
    let (recorded, ours) = (fields(recorded), fields(ours));
    let missing = recorded.keys().filter(|name| !ours.contains_key(*name));
    let mut told: Vec<_> = missing.map(|name| (name.clone(), "missing".to_owned())).collect();
    for (name, value) in &ours {
        match recorded.get(name) {
            None => told.push((name.clone(), "extra".to_owned())),
            Some(one) if one.is_string() && is_placeholder(one.as_str().unwrap_or_default()) => {}
            Some(one) if discriminant(one) == discriminant(value) => {}
            Some(one) => told.push((name.clone(), self::told(one, value))),
        }
    }
    told
}

/// Lists whose items tell what happened before: which sessions are in use.
fn is_past(path: &str) -> bool {
    path.ends_with("sessions.recent") || path.ends_with("byAgent[].recent")
}

/// Names that a model gives its calls.
fn is_call_id(path: &str) -> bool {
    path.ends_with("toolCallId") || path.ends_with("messages[].content[].id")
}

/// Lists of names whose order means nothing.
fn is_name_list(path: &str) -> bool {
    path.ends_with("features.methods") || path.ends_with("features.events")
}

/// Numbers that depend on what happened before the recording.
fn is_counter(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or(path);
    matches!(name, "count" | "health" | "presence" | "seq" | "timestamp" | "ts")
}

/// Text a model was still saying when the frame was sent: where it was cut
/// depends on timing.
fn is_speech(path: &str) -> bool {
    path.ends_with("data.text") || path.ends_with("data.delta")
}

fn told(recorded: &Value, ours: &Value) -> String {
    format!("recorded {}, ours {}", short(recorded), short(ours))
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(160) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn is_placeholder(text: &str) -> bool {
    placeholder_kind(text).is_some() || (text.contains('<') && text.contains('>'))
}

/// Returns the word in `<word>` or `<word:1>` when that is the whole text.
fn placeholder_kind(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('<')?.strip_suffix('>')?;
    let kind = inner.split(':').next()?;
    KINDS.contains(&kind).then_some(kind)
}

const KINDS: &[&str] = &[
    "uuid", "hex64", "hex32", "key", "sig", "ms", "ms.float", "int", "num", "iso", "host", "ip",
    "state", "home", "work", "pkg", "logdir", "port", "pid", "kernel", "dir",
];

/// Returns whether a text fits one with placeholders inside.
fn pattern_fits(pattern: &str, text: &str) -> bool {
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('<') {
        match after.split_once('>') {
            Some((inner, after)) if placeholder_kind(&format!("<{inner}>")).is_some() => {
                parts.push(before.to_owned());
                rest = after;
            }
            _ => return pattern == text,
        }
    }
    parts.push(rest.to_owned());
    wildcard_fits(&parts, text)
}

/// Returns whether `text` consists of the parts with anything between them.
pub(super) fn wildcard_fits<T: AsRef<str>>(parts: &[T], text: &str) -> bool {
    let (first, last) = (parts[0].as_ref(), parts[parts.len() - 1].as_ref());
    if parts.len() == 1 {
        return first == text;
    }
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in &parts[1..parts.len() - 1] {
        match rest.find(part.as_ref()) {
            Some(at) => rest = &rest[at + part.as_ref().len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
