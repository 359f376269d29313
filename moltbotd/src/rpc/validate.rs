//! Says what is wrong with parameters, in the words clients of the reference
//! know: those of its JSON Schema validator.
//!
//! Only the keywords that our own types produce are understood.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

/// What a type's schema demands.
#[derive(Debug)]
pub(super) struct Rules {
    schema: Value,
    definitions: Map<String, Value>,
    /// Whether the schema demands more than parsing into the type enforces.
    bounded: bool,
    /// Whether it allows the members it names and no others.
    closed: bool,
}

impl Rules {
    pub(super) fn of<T: JsonSchema>() -> Self {
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

    /// Returns every violation in a JSON text, joined by `; `, or `None` when
    /// there is none.
    pub(super) fn violations(&self, text: &str) -> Option<String> {
        let value: Value = serde_json::from_str(text).ok()?;
        let mut check = Check { definitions: &self.definitions, found: Vec::new() };
        check.value(&self.schema, &value, "");
        (!check.found.is_empty()).then(|| check.found.join("; "))
    }
}

/// Returns every violation of `T`'s schema in a JSON text, joined by `; `, or
/// `None` when the schema finds none.
#[must_use]
pub fn violations<T: JsonSchema>(text: &str) -> Option<String> {
    Rules::of::<T>().violations(text)
}

fn is_bounded(schema: &Value) -> bool {
    const BOUNDS: [&str; 4] = ["minimum", "maximum", "maxLength", "minItems"];
    match schema {
        Value::Object(object) => {
            BOUNDS.iter().any(|bound| object.get(*bound).is_some_and(|value| value != 0))
                || object.values().any(is_bounded)
        }
        Value::Array(items) => items.iter().any(is_bounded),
        _ => false,
    }
}

struct Check<'a> {
    definitions: &'a Map<String, Value>,
    found: Vec<String>,
}

impl Check<'_> {
    fn report(&mut self, path: &str, message: &str) {
        let text =
            if path.is_empty() { message.to_owned() } else { format!("at {path}: {message}") };
        if !self.found.contains(&text) {
            self.found.push(text);
        }
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(schema) = schema.as_object() else { return };
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let name = target.rsplit('/').next().unwrap_or_default();
            let target = self.definitions.get(name).cloned().unwrap_or_default();
            return self.value(&target, value, path);
        }
        if let Some(options) = schema.get("anyOf").or_else(|| schema.get("oneOf")) {
            return self.any_of(options, value, path);
        }
        if !self.type_fits(schema, value, path) {
            return;
        }
        if let Some(constant) = schema.get("const")
            && constant != value
        {
            self.report(path, "must be equal to constant");
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            self.report(path, "must be equal to one of the allowed values");
        }
        match value {
            Value::Object(object) => self.object(schema, object, path),
            Value::Array(items) => self.array(schema, items, path),
            Value::String(text) => self.string(schema, text, path),
            Value::Number(_) => self.number(schema, value, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn any_of(&mut self, options: &Value, value: &Value, path: &str) {
        let options = options.as_array().cloned().unwrap_or_default();
        let before = std::mem::take(&mut self.found);
        for option in &options {
            self.found.clear();
            self.value(option, value, path);
            if self.found.is_empty() {
                self.found = before;
                return;
            }
        }
        // An optional value is an `anyOf` with null: the other branch says it all.
        let real: Vec<_> =
            options.iter().filter(|option| option.get("type") != Some(&"null".into())).collect();
        self.found = before;
        for option in &real {
            self.value(option, value, path);
        }
        if real.len() > 1 {
            self.report(path, "must match a schema in anyOf");
        }
    }

    fn type_fits(&mut self, schema: &Map<String, Value>, value: &Value, path: &str) -> bool {
        let names: Vec<&str> = match schema.get("type") {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => return true,
        };
        if names.iter().any(|name| is_type(value, name)) {
            return true;
        }
        let shown: Vec<_> = names.into_iter().filter(|&name| name != "null").collect();
        self.report(path, &format!("must be {}", shown.join(",")));
        false
    }

    fn object(&mut self, schema: &Map<String, Value>, object: &Map<String, Value>, path: &str) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                self.report(path, &format!("must have required property '{name}'"));
            }
        }
        for name in object.keys() {
            let known = properties.is_some_and(|known| known.contains_key(name));
            if !known && schema.get("additionalProperties") == Some(&Value::Bool(false)) {
                let place = if path.is_empty() { "root" } else { path };
                self.report("", &format!("at {place}: unexpected property '{name}'"));
            }
        }
        for (name, value) in object {
            let path = format!("{path}/{name}");
            let known = properties.and_then(|known| known.get(name));
            if let Some(rule) = known.or(schema.get("additionalProperties")) {
                self.value(rule, value, &path);
            }
        }
    }

    fn array(&mut self, schema: &Map<String, Value>, items: &[Value], path: &str) {
        if let Some(least) = schema.get("minItems").and_then(Value::as_u64)
            && (items.len() as u64) < least
        {
            self.report(path, &format!("must NOT have fewer than {least} items"));
        }
        if let Some(item) = schema.get("items") {
            for (index, value) in items.iter().enumerate() {
                self.value(item, value, &format!("{path}/{index}"));
            }
        }
    }

    fn string(&mut self, schema: &Map<String, Value>, text: &str, path: &str) {
        let length = text.chars().count() as u64;
        if let Some(least) = schema.get("minLength").and_then(Value::as_u64)
            && length < least
        {
            self.report(path, &format!("must NOT have fewer than {least} characters"));
        }
        if let Some(most) = schema.get("maxLength").and_then(Value::as_u64)
            && length > most
        {
            self.report(path, &format!("must NOT have more than {most} characters"));
        }
    }

    fn number(&mut self, schema: &Map<String, Value>, value: &Value, path: &str) {
        let Some(number) = value.as_f64() else { return };
        if let Some(least) = schema.get("minimum").filter(|least| least.as_f64() > Some(number)) {
            self.report(path, &format!("must be >= {least}"));
        }
        if let Some(most) = schema.get("maximum").filter(|most| most.as_f64() < Some(number)) {
            self.report(path, &format!("must be <= {most}"));
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

    use super::violations;

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
}
