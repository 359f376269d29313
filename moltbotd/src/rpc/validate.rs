//! Says what is wrong with parameters, in the words clients of OpenClaw know:
//! those of its JSON Schema validator.
//!
//! Only the keywords that our own types produce are understood.
//!
//! It runs on what strangers send, so its work is linear in the input and its
//! answer is bounded: the check stops at [`limits::VIOLATIONS`] violations or
//! [`limits::VIOLATION_BYTES`] of text, and nothing is built for a value that
//! fits. The way to a value is a chain of borrowed steps, written out only for
//! a violation that is reported: text built on the way down would cost a peer
//! nothing and us the length of its keys for every value below them.

use std::{cell::Cell, fmt, fmt::Write as _};

use moltbot_protocol::limits;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

/// Said in place of the violations that are not listed.
const MORE: &str = "further violations are not listed";

/// Longest piece of a peer's own text in an answer, in characters.
const QUOTED_CHARS: usize = 64;

/// What a type's schema demands.
#[derive(Debug)]
pub struct Rules {
    schema: Value,
    definitions: Map<String, Value>,
    /// Whether the schema demands more than parsing into the type enforces.
    bounded: bool,
    /// Whether it allows the members it names and no others.
    closed: bool,
}

/// What a check cost, for tests that bound it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Values that were compared with a schema.
    pub(super) visited: usize,
    /// Texts that were built to describe a violation.
    pub(super) described: usize,
}

impl Rules {
    /// Returns the rules of a type. Costs far more than using them: keep them.
    #[must_use]
    pub fn of<T: JsonSchema>() -> Self {
        let mut types = SchemaGenerator::default();
        let schema = T::json_schema(&mut types).to_value();
        let definitions = types.take_definitions(true);
        let bounded = is_bounded(&schema) || definitions.values().any(is_bounded);
        let closed = schema["additionalProperties"] == false;
        Self { schema, definitions, bounded, closed }
    }

    /// Returns whether the type alone would take what the schema does not:
    /// values out of bounds, and a list for the members of an object in their
    /// order.
    pub(super) fn knows_more(&self, text: &str) -> bool {
        self.bounded || (self.closed && text.trim_start().starts_with('['))
    }

    /// Returns the first violations in a JSON text, joined by `; `, or `None`
    /// when there is none.
    #[must_use]
    pub fn violations(&self, text: &str) -> Option<String> {
        self.check(text).0
    }

    /// The same with what it cost.
    pub(super) fn check(&self, text: &str) -> (Option<String>, Work) {
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            return (None, Work::default());
        };
        let work = Cell::default();
        let mut check = Check {
            definitions: &self.definitions,
            found: Vec::new(),
            bytes: 0,
            most: limits::VIOLATIONS,
            full: false,
            work: &work,
        };
        check.value(&self.schema, &value, &Way::Root);

        if check.full {
            check.found.push(MORE.to_owned());
        }
        let text = (!check.found.is_empty()).then(|| check.found.join("; "));
        (text, work.get())
    }
}

fn is_bounded(schema: &Value) -> bool {
    const BOUNDS: [&str; 6] =
        ["minimum", "maximum", "maxLength", "minItems", "maxItems", "maxProperties"];
    match schema {
        Value::Object(object) => {
            BOUNDS.iter().any(|bound| object.get(*bound).is_some_and(|value| value != 0))
                || object.values().any(is_bounded)
        }
        Value::Array(items) => items.iter().any(is_bounded),
        _ => false,
    }
}

/// The way from the outermost value to the one that is checked.
#[derive(Clone, Copy)]
enum Way<'a> {
    Root,
    Key(&'a Self, &'a str),
    Index(&'a Self, usize),
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(outer, key) => write!(f, "{outer}/{}", quoted(key)),
            Self::Index(outer, index) => write!(f, "{outer}/{index}"),
        }
    }
}

/// Returns a peer's text, cut to what an answer repeats of it.
fn quoted(text: &str) -> String {
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(QUOTED_CHARS).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

struct Check<'a> {
    definitions: &'a Map<String, Value>,
    found: Vec<String>,
    /// Length of what was found.
    bytes: usize,
    /// How many violations are looked for.
    most: usize,
    /// Whether there was more than that: the check is over.
    full: bool,
    work: &'a Cell<Work>,
}

impl<'a> Check<'a> {
    fn report(&mut self, way: &Way<'_>, message: fmt::Arguments<'_>) {
        match way {
            Way::Root => self.add(message),
            way => self.add(format_args!("at {way}: {message}")),
        }
    }

    fn add(&mut self, message: fmt::Arguments<'_>) {
        // A check that only asks whether there is a violation describes none.
        if self.full || self.most == 0 {
            self.full = true;
            return;
        }
        let work = self.work.get();
        self.work.set(Work { described: work.described + 1, ..work });

        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = text.write_fmt(message);
        if self.found.contains(&text) {
            return;
        }
        self.full =
            self.found.len() == self.most || self.bytes + text.len() > limits::VIOLATION_BYTES;
        if !self.full {
            self.bytes += text.len();
            self.found.push(text);
        }
    }

    /// Returns whether a value has no violation; describes none of them.
    fn fits(&self, schema: &'a Value, value: &Value) -> bool {
        let mut check = Check { found: Vec::new(), bytes: 0, most: 0, full: false, ..*self };
        check.value(schema, value, &Way::Root);
        !check.full
    }

    fn value(&mut self, schema: &'a Value, value: &Value, way: &Way<'_>) {
        let Some(schema) = schema.as_object() else { return };
        if self.full {
            return;
        }
        let work = self.work.get();
        self.work.set(Work { visited: work.visited + 1, ..work });

        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let name = target.rsplit('/').next().unwrap_or_default();
            if let Some(target) = self.definitions.get(name) {
                self.value(target, value, way);
            }
            return;
        }
        if let Some(Value::Array(options)) = schema.get("anyOf").or_else(|| schema.get("oneOf")) {
            return self.any_of(options, value, way);
        }
        if !self.type_fits(schema, value, way) {
            return;
        }
        if let Some(constant) = schema.get("const")
            && constant != value
        {
            self.report(way, format_args!("must be equal to constant"));
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            self.report(way, format_args!("must be equal to one of the allowed values"));
        }
        match value {
            Value::Object(object) => self.object(schema, object, way),
            Value::Array(items) => self.array(schema, items, way),
            Value::String(text) => self.string(schema, text, way),
            Value::Number(_) => self.number(schema, value, way),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn any_of(&mut self, options: &'a [Value], value: &Value, way: &Way<'_>) {
        if options.iter().any(|option| self.fits(option, value)) {
            return;
        }
        // An optional value is an `anyOf` with null: the other branch says it all.
        let is_real = |option: &&Value| option.get("type") != Some(&Value::from("null"));
        let mut real = 0;
        for option in options.iter().filter(is_real) {
            self.value(option, value, way);
            real += 1;
        }
        if real > 1 {
            self.report(way, format_args!("must match a schema in anyOf"));
        }
    }

    fn type_fits(&mut self, schema: &Map<String, Value>, value: &Value, way: &Way<'_>) -> bool {
        let names = match schema.get("type") {
            Some(name @ Value::String(_)) => std::slice::from_ref(name),
            Some(Value::Array(names)) => names,
            _ => return true,
        };
        let names = || names.iter().filter_map(Value::as_str);
        if names().any(|name| is_type(value, name)) {
            return true;
        }
        let shown: Vec<_> = names().filter(|&name| name != "null").collect();
        self.report(way, format_args!("must be {}", shown.join(",")));
        false
    }

    fn object(
        &mut self,
        schema: &'a Map<String, Value>,
        object: &Map<String, Value>,
        way: &Way<'_>,
    ) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        let required = schema.get("required").and_then(Value::as_array);

        if let Some(most) = schema.get("maxProperties").and_then(Value::as_u64)
            && object.len() as u64 > most
        {
            self.report(way, format_args!("must NOT have more than {most} properties"));
        }
        if let Some(names) = schema.get("propertyNames").and_then(Value::as_object) {
            for name in object.keys() {
                self.string(names, name, &Way::Key(way, name));
                if self.full {
                    return;
                }
            }
        }
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                self.report(way, format_args!("must have required property '{name}'"));
            }
        }
        if others == Some(&Value::Bool(false)) {
            let is_unknown =
                |name: &&String| properties.is_none_or(|known| !known.contains_key(*name));
            for name in object.keys().filter(is_unknown) {
                let name = quoted(name);
                match way {
                    Way::Root => self.add(format_args!("at root: unexpected property '{name}'")),
                    way => self.add(format_args!("at {way}: unexpected property '{name}'")),
                }
                if self.full {
                    return;
                }
            }
        }
        for (name, value) in object {
            if let Some(rule) = properties.and_then(|known| known.get(name)).or(others) {
                self.value(rule, value, &Way::Key(way, name));
            }
            if self.full {
                return;
            }
        }
    }

    fn array(&mut self, schema: &'a Map<String, Value>, items: &[Value], way: &Way<'_>) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        let length = items.len() as u64;
        if let Some(least) = bound("minItems").filter(|&least| length < least) {
            self.report(way, format_args!("must NOT have fewer than {least} items"));
        }
        if let Some(most) = bound("maxItems").filter(|&most| length > most) {
            self.report(way, format_args!("must NOT have more than {most} items"));
        }
        let Some(item) = schema.get("items") else { return };
        for (index, value) in items.iter().enumerate() {
            self.value(item, value, &Way::Index(way, index));
            if self.full {
                return;
            }
        }
    }

    fn string(&mut self, schema: &Map<String, Value>, text: &str, way: &Way<'_>) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        // A text has no more characters than bytes, so most need no counting.
        let bytes = text.len() as u64;
        let length = || text.chars().count() as u64;
        if let Some(least) = bound("minLength").filter(|&least| bytes < least || length() < least) {
            self.report(way, format_args!("must NOT have fewer than {least} characters"));
        }
        if let Some(most) = bound("maxLength").filter(|&most| bytes > most && length() > most) {
            self.report(way, format_args!("must NOT have more than {most} characters"));
        }
    }

    fn number(&mut self, schema: &Map<String, Value>, value: &Value, way: &Way<'_>) {
        let Some(number) = value.as_f64() else { return };
        if let Some(least) = schema.get("minimum").filter(|least| least.as_f64() > Some(number)) {
            self.report(way, format_args!("must be >= {least}"));
        }
        if let Some(most) = schema.get("maximum").filter(|most| most.as_f64() < Some(number)) {
            self.report(way, format_args!("must be <= {most}"));
        }
    }
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use moltbot_protocol::{Text, handshake::ConnectParams};
    use schemars::JsonSchema;

    use super::{MORE, QUOTED_CHARS, Rules, Work};
    use moltbot_protocol::{limits, methods::sessions::SessionsPreview};

    fn violations<T: JsonSchema>(text: &str) -> Option<String> {
        Rules::of::<T>().violations(text)
    }

    #[derive(JsonSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[allow(dead_code)]
    struct Params {
        to: Text,
        #[schemars(range(min = 1))]
        limit: Option<u32>,
        keys: Vec<Text>,
    }

    #[test]
    fn every_violation_is_named_once() {
        let text = violations::<Params>(r#"{"keys":["",1],"limit":0,"x":1}"#);
        assert_eq!(
            text.as_deref(),
            Some(
                "must have required property 'to'; \
                 at root: unexpected property 'x'; \
                 at /keys/0: must NOT have fewer than 1 characters; \
                 at /keys/1: must be string; at /limit: must be >= 1"
            )
        );
    }

    #[test]
    fn what_fits_has_no_violation() {
        assert_eq!(violations::<Params>(r#"{"to":"a","keys":[],"limit":1}"#), None);
    }

    #[test]
    fn a_choice_that_fits_none_says_so_like_the_reference() {
        let text = violations::<ConnectParams>(
            r#"{"minProtocol":3,"maxProtocol":3,
                "client":{"id":"nope","version":"1","platform":"x","mode":"cli"}}"#,
        );
        assert_eq!(
            text.as_deref(),
            Some(
                "at /client/id: must be equal to constant; \
                 at /client/id: must match a schema in anyOf"
            )
        );
    }

    /// Checks a text and returns the violations as a list, with what they cost.
    fn checked<T: JsonSchema>(text: &str) -> (Vec<String>, Work) {
        let (found, work) = Rules::of::<T>().check(text);
        let found = found.unwrap_or_default();
        assert!(found.len() <= limits::VIOLATION_BYTES + 64, "{} bytes", found.len());
        (found.split("; ").map(str::to_owned).collect(), work)
    }

    /// Texts in which everything is wrong, each as large as a stranger's frame.
    fn hostile(value: &str) -> Vec<String> {
        let list = vec![value; 30_000].join(",");
        let connect = |fields: &str| {
            format!(
                r#"{{"minProtocol":3,"maxProtocol":3,
                    "client":{{"id":"test","version":"1","platform":"x","mode":"test"}},{fields}}}"#
            )
        };
        let keys: Vec<_> = (0..30_000).map(|index| format!("\"{index}\":{value}")).collect();
        let keys = keys.join(",");
        vec![
            connect(&format!(r#""scopes":[{list}]"#)),
            connect(&format!(r#""caps":[{list}],"commands":[{list}]"#)),
            connect(&format!(r#""permissions":{{{keys}}}"#)),
            connect(&keys),
        ]
    }

    #[test]
    fn the_work_stops_with_the_violations_that_are_listed() {
        for text in ["1", "[]", "{}", "\"\""].iter().flat_map(|value| hostile(value)) {
            let (found, work) = checked::<ConnectParams>(&text);
            assert_eq!(found.len(), limits::VIOLATIONS + 1, "{found:?}");
            assert_eq!(found.last().map(String::as_str), Some(MORE));
            // One more than is listed, to know that there is one.
            assert!(work.described <= limits::VIOLATIONS + 1, "{work:?}");
            assert!(work.visited <= 100, "{work:?}");
        }
        let keys = format!(r#"{{"keys":[{}]}}"#, vec!["1"; 60_000].join(","));
        let (_, work) = checked::<SessionsPreview>(&keys);
        assert!(work.described <= limits::VIOLATIONS + 1 && work.visited <= 100, "{work:?}");
    }

    #[test]
    fn what_fits_is_visited_once_and_nothing_is_built_for_it() {
        let keys = format!(r#"{{"keys":[{}]}}"#, vec!["\"a\""; 60_000].join(","));
        let (found, work) = Rules::of::<SessionsPreview>().check(&keys);
        assert_eq!(found, None);
        assert_eq!(work, Work { visited: 60_002, described: 0 });
    }

    #[test]
    fn a_key_of_a_peer_is_repeated_in_part_only() {
        let key = "k".repeat(1_000_000);
        let text = format!(r#"{{"to":"a","keys":[],"{key}":1}}"#);
        let (found, _) = checked::<Params>(&text);
        let shown = "k".repeat(QUOTED_CHARS);
        assert_eq!(found, [format!("at root: unexpected property '{shown}…'")]);
    }

    #[test]
    fn the_texts_of_connect_have_limits() {
        let long = "n".repeat(limits::NAME_CHARS + 1);
        let text = format!(
            r#"{{"minProtocol":3,"maxProtocol":3,"role":"{long}","caps":["{long}"],
                "permissions":{{"{long}":true}},"locale":"{long}",
                "client":{{"id":"test","version":"{long}","platform":"{long}","mode":"test",
                           "displayName":"{long}","instanceId":"{long}",
                           "deviceFamily":"{long}","modelIdentifier":"{long}"}},
                "device":{{"id":"{long}","publicKey":"k","signature":"{}","signedAt":1}},
                "auth":{{"token":"{}"}}}}"#,
            "s".repeat(limits::SIGNATURE_CHARS + 1),
            "t".repeat(limits::SECRET_CHARS + 1),
        );
        let (found, _) = checked::<ConnectParams>(&text);
        assert_eq!(found.len(), 13, "{found:#?}");
        assert!(found.iter().all(|it| it.contains("must NOT have more than")), "{found:#?}");

        let fits = text.replace(&long, &"ä".repeat(limits::NAME_CHARS));
        let (found, _) = checked::<ConnectParams>(&fits);
        assert_eq!(found.len(), 2, "{found:#?}");
    }
}
