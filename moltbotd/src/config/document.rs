//! From files to one value: JSON5, and the files it includes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    path::{Path as FilePath, PathBuf},
};

use moltbot_settings::{
    Path,
    include::{INCLUDE, merge},
    locate::{self, Position},
};
use serde_json::{Map, Value};

use super::issue::Issue;
use crate::private;

/// Largest file that is read.
const LARGEST_FILE_BYTES: u64 = 4 * 1024 * 1024;
const DEEPEST_INCLUDE: usize = 10;

/// A file that was read.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) file: PathBuf,
    pub(super) text: String,
    /// Where its value went.
    mount: Path,
}

/// What files are to say instead of what they say; `None` for one that is to go.
pub type Overlay = BTreeMap<PathBuf, Option<String>>;

/// What one file and those it includes say.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// What counts instead of what is on disk.
    pub(super) overlay: Overlay,
    /// An included file stands before the one that includes it.
    pub(super) files: Vec<Document>,
    /// Every file that was looked for.
    pub(super) tried: Vec<PathBuf>,
    /// What is wrong with them.
    pub(super) issues: Vec<Issue>,
    /// Files whose modes were too wide.
    pub(super) narrowed: private::Narrowed,
    /// Whether a file was refused because others could have written it.
    pub(super) refused: bool,
    /// Whether a file was not read because this user may not.
    pub(super) unreadable: bool,
    /// Whether files keep modes that are too wide.
    pub(super) leave_modes: bool,
}

impl Documents {
    /// Reads a file. Returns its own value and the one with what it includes.
    pub(super) fn read(&mut self, file: &FilePath) -> Option<(Value, Value)> {
        let text = self.text(file)?;
        let parsed = self.parse(file, &text);
        let mut trail = vec![file.to_owned()];
        let value = parsed
            .as_ref()
            .map(|parsed| self.include(parsed.clone(), file, &Path::default(), &mut trail));
        self.files.push(Document { file: file.into(), text, mount: Path::default() });
        parsed.zip(value)
    }

    /// Returns where a value stands, or the nearest one around it: the lists
    /// of several files are joined, so an index may count in none of them.
    pub(super) fn position(&self, path: &Path) -> Option<(&FilePath, Position)> {
        let mut path = path.clone();
        loop {
            for document in self.files.iter().rev() {
                let Some(inner) = path.0.strip_prefix(&*document.mount.0) else { continue };
                if let Some(found) = locate::position(&document.text, &Path(inner.to_vec())) {
                    return Some((&document.file, found));
                }
            }
            path.0.pop()?;
        }
    }

    /// Returns what counts instead of a file.
    pub(super) fn overlaid(&self, file: &FilePath) -> Option<&Option<String>> {
        let real = || self.overlay.get(&file.canonicalize().ok()?);
        self.overlay.get(file).or_else(real)
    }

    fn text(&mut self, file: &FilePath) -> Option<String> {
        self.tried.push(file.into());
        if let Some(text) = self.overlaid(file) {
            return text.clone();
        }
        // A pipe would be waited for and a device read for ever, and neither can be read again.
        if fs::metadata(file).is_ok_and(|found| !found.is_file()) {
            let why = format!("cannot read {}: it is not a regular file", file.display());
            self.issues.push(Issue::about_file(file, why));
            return None;
        }
        let open = if self.leave_modes { private::trusted_as_it_is } else { private::trusted };
        let opened = open(file).map_err(|error| {
            // Nobody else could have written what only others may read.
            let unreadable = error.is_denied();
            self.unreadable |= unreadable;
            (error.is_refusal() && !unreadable, error.to_string())
        });
        let read = opened.and_then(|(opened, narrowed)| {
            self.narrowed.extend(narrowed.map(|mode| (file.to_owned(), mode)));
            read(opened).map_err(|why| (false, format!("cannot read {}: {why}", file.display())))
        });
        match read {
            Ok(text) => Some(text),
            Err((refused, why)) => {
                self.refused |= refused;
                self.issues.push(Issue::about_file(file, why));
                None
            }
        }
    }

    fn parse(&mut self, file: &FilePath, text: &str) -> Option<Value> {
        if locate::is_too_deep(text) {
            let why = format!("nested deeper than {} levels", locate::DEEPEST);
            self.issues.push(Issue::about_file(file, why));
            return None;
        }
        match json5::from_str(text) {
            Ok(value) => Some(value),
            Err(error) => {
                let position = error
                    .position()
                    .map(|at| Position { line: at.line + 1, column: at.column + 1 });
                let why = error.code().map_or_else(|| error.to_string(), |code| code.to_string());
                self.issues.push(Issue::in_text(file, position, format!("not JSON5: {why}")));
                None
            }
        }
    }

    fn include(
        &mut self,
        value: Value,
        file: &FilePath,
        at: &Path,
        trail: &mut Vec<PathBuf>,
    ) -> Value {
        match value {
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| self.include(item, file, &at.index(index), trail))
                .collect(),
            Value::Object(mut object) => {
                let names = object.shift_remove(INCLUDE);
                let own: Map<String, Value> = object
                    .into_iter()
                    .map(|(key, item)| {
                        let item = self.include(item, file, &at.key(&key), trail);
                        (key, item)
                    })
                    .collect();
                let Some(names) = names else { return Value::Object(own) };
                let mut merged = self.included(&names, file, at, trail);
                if own.is_empty() && !merged.is_null() {
                    return merged;
                }
                merge(&mut merged, Value::Object(own));
                merged
            }
            value => value,
        }
    }

    fn included(
        &mut self,
        names: &Value,
        file: &FilePath,
        at: &Path,
        trail: &mut Vec<PathBuf>,
    ) -> Value {
        let listed = match names {
            Value::String(name) => Some(vec![&**name]),
            Value::Array(names) => names.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let Some(listed) = listed else {
            let why = "must be a file name or a list of file names";
            self.issues.push(Issue::at(&at.key(INCLUDE), why));
            return Value::Null;
        };
        let mut merged = Value::Null;
        for name in listed {
            let folder = file.parent().unwrap_or(FilePath::new("."));
            if let Some(value) = self.included_file(&folder.join(name), at, trail) {
                merge(&mut merged, value);
            }
        }
        merged
    }

    fn included_file(
        &mut self,
        file: &FilePath,
        at: &Path,
        trail: &mut Vec<PathBuf>,
    ) -> Option<Value> {
        let file = file.canonicalize().unwrap_or_else(|_| file.into());
        if let Some(why) = refusal(&file, trail) {
            self.issues.push(Issue::at(&at.key(INCLUDE), why));
            return None;
        }
        let text = self.text(&file)?;
        let parsed = self.parse(&file, &text)?;
        trail.push(file.clone());
        let value = self.include(parsed, &file, at, trail);
        trail.pop();
        self.files.push(Document { file, text, mount: at.clone() });
        Some(value)
    }
}

fn read(file: File) -> Result<String, String> {
    let mut text = String::new();
    file.take(LARGEST_FILE_BYTES + 1).read_to_string(&mut text).map_err(|why| why.to_string())?;
    if text.len() as u64 > LARGEST_FILE_BYTES {
        return Err(format!("larger than {LARGEST_FILE_BYTES} bytes"));
    }
    Ok(text)
}

fn refusal(file: &FilePath, trail: &[PathBuf]) -> Option<String> {
    let is_same = |other: &PathBuf| other.canonicalize().unwrap_or_else(|_| other.clone()) == *file;
    if trail.iter().any(is_same) {
        let names: Vec<_> = trail
            .iter()
            .map(PathBuf::as_path)
            .chain([file])
            .map(|it| it.display().to_string())
            .collect();
        return Some(format!("circular include: {}", names.join(" -> ")));
    }
    (trail.len() > DEEPEST_INCLUDE)
        .then(|| format!("includes are nested deeper than {DEEPEST_INCLUDE} levels"))
}
