//! Which of several files holds a key.
//!
//! A file may name others in `$include`, at any object. They are laid on each
//! other in their order, the file's own keys on top: objects key by key, lists
//! joined, else the last one wins.

use std::{
    collections::BTreeMap,
    io,
    path::{Path as FilePath, PathBuf},
};

use serde_json::Value;

use crate::{
    edit::{self, Change, EditError},
    locate::Path,
};

/// The key that names other files.
pub const INCLUDE: &str = "$include";
const DEEPEST: usize = 10;

/// Why it cannot be told which file is to be changed, or a file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum IncludeError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be understood or edited.
    #[error("{}: {source}", file.display())]
    Edit {
        /// The file.
        file: PathBuf,
        /// Why.
        source: EditError,
    },
    /// Several files hold parts of the value.
    #[error(
        "{path} is put together from {}; change it there with an editor",
        files.iter().map(|it| it.display().to_string()).collect::<Vec<_>>().join(" and ")
    )]
    Several {
        /// The way to the value.
        path: String,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// Files include each other.
    #[error("{} is included by itself or nested deeper than {DEEPEST} levels", .0.display())]
    Circular(PathBuf),
}

/// The texts of a configuration file and of those it includes, as they are or
/// as they are to become.
#[derive(Clone, Debug)]
pub struct Texts {
    main: PathBuf,
    texts: BTreeMap<PathBuf, String>,
}

/// A file that holds a value or the beginning of the way to it.
#[derive(Clone, Debug)]
struct Holder {
    file: PathBuf,
    /// How many steps of the way it holds.
    depth: usize,
    /// The way within this file.
    inner: Path,
    /// The value there.
    value: Value,
    /// After how many steps a list stands on the way or at its end.
    lists: Vec<usize>,
}

impl Texts {
    /// Reads a file and all it includes. A missing main file is empty.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read or understood.
    pub fn read(main: &FilePath) -> Result<Self, IncludeError> {
        let mut texts = Self { main: main.into(), texts: BTreeMap::new() };
        texts.read_file(main, &mut Vec::new())?;
        Ok(texts)
    }

    /// Returns a file's text.
    #[must_use]
    pub fn text(&self, file: &FilePath) -> Option<&str> {
        self.texts.get(file).map(String::as_str)
    }

    /// Returns the main file.
    #[must_use]
    pub fn main(&self) -> &FilePath {
        &self.main
    }

    /// Applies a change to the file that holds the value, else to the one that
    /// holds most of the way to it. Returns which file that was.
    ///
    /// # Errors
    ///
    /// When several files hold parts of it, or the change is not possible.
    pub fn apply(&mut self, change: &Change) -> Result<PathBuf, IncludeError> {
        let path = change.path();
        let mut holders = self.holders(path)?;
        if let Some(files) = joined_lists(&holders) {
            return Err(IncludeError::Several { path: path.to_string(), files });
        }
        let wanted = holders.iter().map(|holder| holder.depth).max().unwrap_or_default();
        holders.retain(|holder| holder.depth == wanted);
        let whole = |holder: &Holder| {
            matches!(change, Change::Unset(_))
                || holder.value.is_object()
                || holder.value.is_array()
        };
        if holders.len() > 1 && wanted == path.0.len() && holders.iter().any(whole) {
            let files = holders.into_iter().map(|holder| holder.file).collect();
            return Err(IncludeError::Several { path: path.to_string(), files });
        }
        // The last one wins when they are laid on each other.
        let Some(holder) = holders.pop() else { return Ok(self.main.clone()) };
        let mut inner = holder.inner;
        inner.0.extend_from_slice(&path.0[holder.depth..]);
        let change = match change {
            Change::Set(_, value) => Change::Set(inner, value.clone()),
            Change::Unset(_) => Change::Unset(inner),
        };
        let text = self.texts.get(&holder.file).map(String::as_str).unwrap_or_default();
        let edited = edit::apply(text, &[change])
            .map_err(|source| IncludeError::Edit { file: holder.file.clone(), source })?;
        self.texts.insert(holder.file.clone(), edited);
        Ok(holder.file)
    }

    /// Returns the value of the main file with all it includes.
    ///
    /// # Errors
    ///
    /// When a text cannot be understood.
    pub fn value(&self) -> Result<Value, IncludeError> {
        self.merged(&self.main, 0)
    }

    fn read_file(&mut self, file: &FilePath, trail: &mut Vec<PathBuf>) -> Result<(), IncludeError> {
        if trail.len() > DEEPEST || trail.iter().any(|other| other == file) {
            return Err(IncludeError::Circular(file.into()));
        }
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if trail.is_empty() && error.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            Err(source) => return Err(IncludeError::Read { file: file.into(), source }),
        };
        self.texts.insert(file.into(), text);
        let mut included = Vec::new();
        each_include(&self.parsed(file)?, &mut |names| included.extend(files(names, file)));
        trail.push(file.into());
        for other in included {
            self.read_file(&other, trail)?;
        }
        trail.pop();
        Ok(())
    }

    fn parsed(&self, file: &FilePath) -> Result<Value, IncludeError> {
        let text = self.texts.get(file).map(String::as_str).unwrap_or_default();
        edit::parse(text).map_err(|source| IncludeError::Edit { file: file.into(), source })
    }

    fn merged(&self, file: &FilePath, depth: usize) -> Result<Value, IncludeError> {
        if depth > DEEPEST {
            return Err(IncludeError::Circular(file.into()));
        }
        self.expand(self.parsed(file)?, file, depth)
    }

    fn expand(&self, value: Value, file: &FilePath, depth: usize) -> Result<Value, IncludeError> {
        match value {
            Value::Array(items) => {
                items.into_iter().map(|item| self.expand(item, file, depth)).collect()
            }
            Value::Object(mut members) => {
                let names = members.shift_remove(INCLUDE);
                let mut own = serde_json::Map::new();
                for (key, member) in members {
                    own.insert(key, self.expand(member, file, depth)?);
                }
                let Some(names) = names else { return Ok(Value::Object(own)) };
                let mut merged = Value::Null;
                for other in files(&names, file) {
                    merge(&mut merged, self.merged(&other, depth + 1)?);
                }
                if !own.is_empty() || merged.is_null() {
                    merge(&mut merged, Value::Object(own));
                }
                Ok(merged)
            }
            value => Ok(value),
        }
    }

    /// Returns every file on the way, in the order in which they are laid on
    /// each other.
    fn holders(&self, path: &Path) -> Result<Vec<Holder>, IncludeError> {
        let mut holders = Vec::new();
        self.walk(&self.main, path, 0, 0, &mut holders)?;
        Ok(holders)
    }

    fn walk(
        &self,
        file: &FilePath,
        path: &Path,
        start: usize,
        nesting: usize,
        holders: &mut Vec<Holder>,
    ) -> Result<(), IncludeError> {
        if nesting > DEEPEST {
            return Err(IncludeError::Circular(file.into()));
        }
        let mut value = self.parsed(file)?;
        let mut depth = start;
        let mut lists = Vec::new();
        loop {
            if value.is_array() {
                lists.push(depth);
            }
            if let Some(names) = value.get(INCLUDE) {
                for other in files(names, file) {
                    self.walk(&other, path, depth, nesting + 1, holders)?;
                }
            }
            let step = Path(path.0[depth..].iter().take(1).cloned().collect());
            let inner = if step.0.is_empty() { None } else { edit::get(&value, &step).cloned() };
            let Some(inner) = inner else { break };
            value = inner;
            depth += 1;
        }
        let inner = Path(path.0[start..depth].to_vec());
        // An object that only includes holds nothing of its own at its end.
        let only_includes = depth == path.0.len()
            && value.as_object().is_some_and(|it| it.len() == 1 && it.contains_key(INCLUDE));
        if !only_includes {
            holders.push(Holder { file: file.into(), depth, inner, value, lists });
        }
        Ok(())
    }
}

/// Returns the files whose lists at one place are joined: an index there counts
/// in none of them.
fn joined_lists(holders: &[Holder]) -> Option<Vec<PathBuf>> {
    let with = |depth: usize| -> Vec<PathBuf> {
        let found = holders.iter().filter(|holder| holder.lists.contains(&depth));
        found.map(|holder| holder.file.clone()).collect()
    };
    let depths = holders.iter().flat_map(|holder| &holder.lists);
    depths.map(|depth| with(*depth)).find(|files| files.len() > 1)
}

/// Lays `over` on `base`: objects key by key, lists joined, else `over` wins.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(over)) => base.extend(over),
        (base, over) => *base = over,
    }
}

/// Returns the files that `$include` names, relative to the one it is in.
fn files(names: &Value, file: &FilePath) -> Vec<PathBuf> {
    let folder = file.parent().unwrap_or(FilePath::new("."));
    let full = |name: &str| {
        let path = folder.join(name);
        path.canonicalize().unwrap_or(path)
    };
    match names {
        Value::String(name) => vec![full(name)],
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(full).collect(),
        _ => Vec::new(),
    }
}

fn each_include(value: &Value, found: &mut dyn FnMut(&Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| each_include(item, found)),
        Value::Object(members) => {
            members.get(INCLUDE).into_iter().for_each(&mut *found);
            members.values().for_each(|member| each_include(member, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn set(path: &str, value: Value) -> Change {
        let Ok(path) = path.parse();
        Change::Set(path, value)
    }

    fn unset(path: &str) -> Change {
        let Ok(path) = path.parse();
        Change::Unset(path)
    }

    #[test]
    fn a_change_goes_to_the_file_that_holds_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        write(
            "main.json",
            "{ $include: 'a.json', gateway: { $include: 'g.json', port: 1 }, l: [1] }",
        );
        write("a.json", "{ // a\n ui: { x: 1 }, both: 1, gateway: { bind: 'lan' }, l: [2] }");
        write("g.json", "{ auth: { token: 't' } }");
        let main = dir.join("main.json");
        let mut texts = Texts::read(&main).unwrap();
        let mut apply = |change: Change| {
            let file = texts.apply(&change).map_err(|error| error.to_string())?;
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            Ok::<_, String>((name, texts.clone()))
        };
        assert_eq!(apply(set("ui.x", json!(2))).unwrap().0, "a.json");
        assert_eq!(apply(set("ui.y", json!(2))).unwrap().0, "a.json", "where the rest of ui is");
        assert_eq!(apply(set("gateway.port", json!(2))).unwrap().0, "main.json");
        assert_eq!(apply(set("gateway.bind", json!("auto"))).unwrap().0, "a.json");
        assert_eq!(apply(set("gateway.auth.token", json!("u"))).unwrap().0, "g.json");
        assert_eq!(apply(set("fresh.key", json!(1))).unwrap().0, "main.json");
        assert_eq!(apply(set("both", json!(3))).unwrap().0, "a.json");
        let refused = apply(set("l[0]", json!(3))).unwrap_err();
        assert!(refused.contains("a.json and ") && refused.contains("main.json"), "{refused}");
        assert!(apply(unset("gateway")).unwrap_err().contains("g.json"));
        let (name, texts) = apply(unset("gateway.auth")).unwrap();
        assert_eq!(name, "g.json");
        assert!(texts.text(&dir.join("a.json")).unwrap().starts_with("{ // a\n"));
        let value = texts.value().unwrap();
        assert_eq!(value["gateway"], json!({ "bind": "auto", "port": 2 }));
        assert_eq!(value["l"], json!([2, 1]));
        assert_eq!(fs::read_to_string(&main).unwrap().matches("port: 1").count(), 1, "not written");
    }

    #[test]
    fn a_circle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().canonicalize().unwrap().join("main.json");
        fs::write(&main, "{ $include: 'main.json' }").unwrap();
        assert!(Texts::read(&main).unwrap_err().to_string().contains("main.json"));
        fs::write(&main, "{ a: 1,\n b: }").unwrap();
        let error = Texts::read(&main).unwrap_err().to_string();
        assert!(error.contains("main.json: 2:5: not JSON5"), "{error}");
    }
}
