//! The configuration's JSON Schema, and what a form shows beside each key.
//! Both are read off the types and their documentation.

use moltbot_settings::Path;
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{Config, GUARDED_SECTIONS, OTHER_SECTIONS, effect, guard, redact};

/// Where sections stand in a form; clients of the reference sort by it.
const ORDER: &[(&str, u32)] = &[
    ("wizard", 20),
    ("update", 25),
    ("diagnostics", 27),
    ("gateway", 30),
    ("nodeHost", 35),
    ("agents", 40),
    ("tools", 50),
    ("bindings", 55),
    ("audio", 60),
    ("models", 70),
    ("messages", 80),
    ("commands", 85),
    ("session", 90),
    ("cron", 100),
    ("hooks", 110),
    ("ui", 120),
    ("browser", 130),
    ("talk", 140),
    ("channels", 150),
    ("skills", 200),
    ("plugins", 205),
    ("discovery", 210),
    ("logging", 900),
];

/// Returns the JSON Schema. Channels describe their own sections.
#[must_use]
pub fn schema(channels: &[(&str, ChannelSchema)]) -> Value {
    let mut schema = generator().into_root_schema_for::<Config>().to_value();
    for (id, describe) in channels {
        schema["properties"]["channels"]["properties"][id] = describe(&mut generator()).into();
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, effect, description) in OTHER_SECTIONS {
            let kind = if *name == "bindings" { "array" } else { "object" };
            let section = json!({ "description": description, "type": kind, effect::KEYWORD: effect,
                    guard::KEYWORD: GUARDED_SECTIONS.contains(name) });
            properties.insert((*name).into(), section);
        }
    }
    schema["title"] = "MoltbotConfig".into();
    schema
}

/// Describes a channel's section.
pub type ChannelSchema = fn(&mut SchemaGenerator) -> Schema;

/// Returns label, help, place and sensitivity of each key.
#[must_use]
pub fn hints(schema: &Value) -> Map<String, Value> {
    let mut hints = Map::new();
    walk(schema, "", &mut |path, description| {
        hints.insert(path.into(), hint(path, description));
    });
    hints
}

/// Returns the dotted name of every key of the typed sections.
pub(super) fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    walk(&schema(&[]), "", &mut |path, _| paths.push(path.into()));
    paths
}

/// Returns the dotted name of every key of the typed sections that carries a mark.
pub(super) fn marked(keyword: &str) -> Vec<String> {
    let mut paths = Vec::new();
    walk_nodes(&schema(&[]), "", &mut |path, node| {
        if node.get(keyword).and_then(Value::as_bool) == Some(true) {
            paths.push(path.into());
        }
    });
    paths
}

/// Returns the dotted name of every key of a type that stands at `at`.
pub(super) fn paths_of<T: JsonSchema>(at: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let schema = T::json_schema(&mut generator()).to_value();
    walk(&schema, at, &mut |path, _| paths.push(path.into()));
    paths
}

/// Forms cannot follow references, so every type is written out where it is
/// used.
fn generator() -> SchemaGenerator {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    settings.into_generator()
}

fn hint(path: &str, description: Option<&str>) -> Value {
    let name = path.rsplit('.').find(|part| *part != "*").unwrap_or(path);
    let mut hint = json!({ "label": label(name) });
    if let Some(description) = description {
        hint["help"] = description.into();
    }
    if let Some((_, order)) = ORDER.iter().find(|(section, _)| *section == path) {
        hint["group"] = hint["label"].clone();
        hint["order"] = (*order).into();
    }
    let Ok(steps) = path.parse::<Path>();
    if redact::is_secret(&steps) {
        hint["sensitive"] = true.into();
    }
    hint
}

/// `customBindHost` becomes `Custom Bind Host`.
fn label(name: &str) -> String {
    let mut label = String::new();
    for (index, character) in name.chars().enumerate() {
        if character.is_uppercase() && index > 0 {
            label.push(' ');
        }
        if index == 0 {
            label.extend(character.to_uppercase());
        } else {
            label.push(character);
        }
    }
    label
}

fn walk(schema: &Value, at: &str, found: &mut dyn FnMut(&str, Option<&str>)) {
    walk_nodes(schema, at, &mut |path, node| {
        found(path, node.get("description").and_then(Value::as_str));
    });
}

fn walk_nodes(schema: &Value, at: &str, found: &mut dyn FnMut(&str, &Value)) {
    let join = |name: &str| if at.is_empty() { name.into() } else { format!("{at}.{name}") };
    for (name, property) in
        schema.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        let path = join(name);
        found(&path, property);
        walk_nodes(property, &path, found);
    }
    for items in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(items).filter(|inner| inner.is_object()) {
            walk_nodes(inner, &join("*"), found);
        }
    }
    for choices in ["anyOf", "oneOf", "allOf"] {
        for choice in schema.get(choices).and_then(Value::as_array).into_iter().flatten() {
            walk_nodes(choice, at, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_in_the_schema() {
        let schema = schema(&[]);
        let properties = schema["properties"].as_object().unwrap();
        for name in super::super::known::TYPED.iter().chain(OTHER_SECTIONS.iter().map(|it| &it.0)) {
            assert!(properties.contains_key(*name), "{name}");
        }
        assert!(!schema.to_string().contains("$ref"));
    }

    #[test]
    fn hints_come_from_the_types() {
        let hints = hints(&schema(&[]));
        assert_eq!(hints["gateway"]["order"], 30);
        assert_eq!(hints["gateway.customBindHost"]["label"], "Custom Bind Host");
        assert_eq!(hints["gateway.auth.token"]["sensitive"], true);
        assert_eq!(hints["models.providers.*.apiKey"]["sensitive"], true);
        assert!(hints["gateway.port"].get("sensitive").is_none());
        assert_eq!(hints["gateway.port"]["help"], "TCP port.");
    }
}
