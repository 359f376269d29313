//! The configuration file as far as a client needs it: where the gateway is and
//! what opens it. The daemon owns the meaning of everything else.

use std::{
    borrow::Cow,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use crate::environment::Environment;

/// How deep `$include` may nest.
const INCLUDE_DEPTH: usize = 10;

/// A configuration file, read and with its includes merged.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The file.
    pub path: PathBuf,
    /// Whether there is one.
    pub exists: bool,
    /// Why it cannot be used; its values then count as unset.
    pub problem: Option<String>,
    value: Value,
    environment: Environment,
}

impl LocalConfig {
    /// Reads the file. A missing or broken one is an empty configuration with
    /// the reason kept: most commands work without.
    #[must_use]
    pub fn read(path: &Path, environment: &Environment) -> Self {
        let exists = path.exists();
        let (value, problem) = match exists.then(|| load(path, &mut Vec::new())) {
            Some(Ok(value)) => (value, None),
            Some(Err(error)) => (Value::Null, Some(format!("{error:#}"))),
            None => (Value::Null, None),
        };
        Self { path: path.to_owned(), exists, problem, value, environment: environment.clone() }
    }

    /// Returns what is at a dotted path, as written.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Value> {
        at(&self.value, path)
    }

    /// Returns the text at a dotted path with `${NAME}` replaced; blank counts as
    /// unset.
    ///
    /// # Errors
    /// When it names a variable that is not set.
    pub fn text(&self, path: &str) -> anyhow::Result<Option<String>> {
        let Some(raw) = self.at(path).and_then(Value::as_str) else { return Ok(None) };
        let text = substitute(raw, |name| self.variable(name))
            .with_context(|| format!("{}: {path}", self.path.display()))?;
        let text = text.trim();
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// Returns every value with `${NAME}` replaced.
    ///
    /// # Errors
    /// Names the keys whose variables are not set.
    pub fn expanded(&self) -> anyhow::Result<Value> {
        let mut value = self.value.clone();
        let mut problems = String::new();
        self.expand(&mut value, &mut String::new(), &mut problems);
        if problems.is_empty() {
            return Ok(value);
        }
        bail!("{}: {}", self.path.display(), problems.trim_end_matches("; "))
    }

    fn expand(&self, value: &mut Value, path: &mut String, problems: &mut String) {
        match value {
            Value::String(text) => match substitute(text, |name| self.variable(name)) {
                Ok(Cow::Owned(new)) => *text = new,
                Ok(Cow::Borrowed(_)) => {}
                Err(error) => {
                    let _ = write!(problems, "{path}: {error}; "); // A string takes everything.
                }
            },
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.expand_below(item, &index.to_string(), path, problems);
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    self.expand_below(member, key, path, problems);
                }
            }
            _ => {}
        }
    }

    fn expand_below(&self, value: &mut Value, key: &str, path: &mut String, problems: &mut String) {
        let length = path.len();
        if length > 0 {
            path.push('.');
        }
        path.push_str(key);
        self.expand(value, path, problems);
        path.truncate(length);
    }

    /// The environment wins over `env` and `env.vars` of the file.
    fn variable(&self, name: &str) -> Option<String> {
        let own = |path: String| self.at(&path).and_then(Value::as_str).map(ToOwned::to_owned);
        self.environment
            .var(name)
            .map(ToOwned::to_owned)
            .or_else(|| own(format!("env.vars.{name}")))
            .or_else(|| own(format!("env.{name}")))
            .filter(|value| !value.is_empty())
    }
}

/// Returns what is at a dotted path of a value; numbers index arrays.
#[must_use]
pub fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| match value {
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        value => value.get(key),
    })
}

fn load(path: &Path, stack: &mut Vec<PathBuf>) -> anyhow::Result<Value> {
    let file = fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    if stack.contains(&file) {
        bail!("{} includes itself", path.display());
    }
    if stack.len() > INCLUDE_DEPTH {
        bail!("{} is included more than {INCLUDE_DEPTH} levels deep", path.display());
    }
    let text = fs::read_to_string(&file)
        .map_err(|error: io::Error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
    let value = parse(path, &text)?;
    stack.push(file);
    let merged = include(value, path, stack);
    stack.pop();
    merged
}

/// Parses JSON5; the error names file, line and column.
///
/// # Errors
/// When the text is not JSON5.
pub fn parse(path: &Path, text: &str) -> anyhow::Result<Value> {
    json5::from_str(text).map_err(|error| {
        let message = error.code().map_or_else(|| error.to_string(), |code| code.to_string());
        match error.position() {
            Some(at) => {
                anyhow::anyhow!("{}:{}:{}: {message}", path.display(), at.line + 1, at.column + 1)
            }
            None => anyhow::anyhow!("{}: {message}", path.display()),
        }
    })
}

fn include(value: Value, from: &Path, stack: &mut Vec<PathBuf>) -> anyhow::Result<Value> {
    match value {
        Value::Object(mut members) => {
            let files = members.shift_remove("$include");
            let mut merged = Map::new();
            for (key, member) in members {
                merged.insert(key, include(member, from, stack)?);
            }
            let Some(files) = files else { return Ok(Value::Object(merged)) };
            let mut value = included(&files, from, stack)?;
            if !merged.is_empty() {
                merge(&mut value, Value::Object(merged));
            }
            Ok(value)
        }
        Value::Array(items) => items
            .into_iter()
            .map(|item| include(item, from, stack))
            .collect::<Result<_, _>>()
            .map(Value::Array),
        other => Ok(other),
    }
}

fn included(files: &Value, from: &Path, stack: &mut Vec<PathBuf>) -> anyhow::Result<Value> {
    let names = match files {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => bail!("{}: $include must be a file name or a list of them", from.display()),
    };
    let folder = from.parent().unwrap_or(Path::new("."));
    let mut value = Value::Object(Map::new());
    for name in names {
        merge(&mut value, load(&folder.join(name), stack)?);
    }
    Ok(value)
}

/// Objects recurse, arrays are joined, anything else is replaced.
fn merge(into: &mut Value, other: Value) {
    match (into, other) {
        (Value::Object(into), Value::Object(other)) => {
            for (key, value) in other {
                match into.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => {
                        into.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(into), Value::Array(other)) => into.extend(other),
        (into, other) => *into = other,
    }
}

/// Replaces `${NAME}`; `$${NAME}` stands for the text itself.
fn substitute<'a>(
    text: &'a str,
    variable: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Cow<'a, str>> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        let name = after[2..].split_once('}').map(|(name, _)| name).filter(|name| is_name(name));
        let Some(name) = name else {
            out.push_str(before);
            out.push_str("${");
            rest = &after[2..];
            continue;
        };
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            let _ = write!(out, "${{{name}}}"); // A string takes everything.
        } else {
            out.push_str(before);
            let value = variable(name)
                .with_context(|| format!("the environment variable {name} is not set"))?;
            out.push_str(&value);
        }
        rest = &after[name.len() + 3..];
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn includes_merge_and_the_environment_is_substituted() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.json", "{ gateway: { port: 1, auth: { token: 'x' } }, l: [1] }");
        write(
            folder.path(),
            "b.json",
            "{ gateway: { auth: { token: '${GATE}-${IN_FILE}' } }, l: [2] }",
        );
        let main = write(
            folder.path(),
            "moltbot.json",
            "{ // comment\n $include: ['a.json', 'b.json'], gateway: { port: 2 }, env: { IN_FILE: 'f' }, }",
        );
        let config = LocalConfig::read(&main, &Environment::from([("GATE", "secret")]));
        assert_eq!(config.problem, None);
        assert_eq!(config.at("gateway.port").unwrap(), 2);
        assert_eq!(config.at("l").unwrap(), &serde_json::json!([1, 2]));
        assert_eq!(config.text("gateway.auth.token").unwrap().unwrap(), "secret-f");
    }

    #[test]
    fn a_missing_variable_is_named_and_an_escaped_one_kept() {
        let folder = tempfile::tempdir().unwrap();
        let main =
            write(folder.path(), "m.json", "{ a: '${NOPE}', b: '$${KEPT} ${lower} $', c: ' ' }");
        let config = LocalConfig::read(&main, &Environment::default());
        assert!(format!("{:#}", config.text("a").unwrap_err()).contains("NOPE is not set"));
        assert_eq!(config.text("b").unwrap().unwrap(), "${KEPT} ${lower} $");
        assert_eq!(config.text("c").unwrap(), None);
        assert!(config.expanded().unwrap_err().to_string().contains("a: the environment"));
    }

    #[test]
    fn a_broken_file_names_line_and_column_and_counts_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        let main = write(folder.path(), "m.json", "{\n  gateway: { port: }\n}");
        let config = LocalConfig::read(&main, &Environment::default());
        let problem = config.problem.clone().unwrap();
        assert!(problem.contains("m.json:2:20: "), "{problem}");
        assert!(config.exists);
        assert_eq!(config.at("gateway"), None);
    }

    #[test]
    fn a_file_that_includes_itself_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.json", "{ $include: 'b.json' }");
        let b = write(folder.path(), "b.json", "{ $include: 'a.json' }");
        let problem = LocalConfig::read(&b, &Environment::default()).problem.unwrap();
        assert!(problem.contains("includes itself"), "{problem}");
    }
}
