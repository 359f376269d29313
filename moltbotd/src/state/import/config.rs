//! The configuration: copied as its owner wrote it, comments included, once it
//! passed our checks. One that is here already stays.

use std::{
    fs,
    path::{Path, PathBuf},
};

use moltbot_settings::{book::write_whole, edit, edit::Change, locate};
use serde_json::Value;

use super::{Items, Outcome, copy, source::Folder};
use crate::{
    config::{Config, Loaded, restrictions},
    paths::expand_home,
    private,
    state::{Place, backup::SECRET_FILES},
};

/// Takes the configuration over. Returns the one that will be in force, and
/// where the other gateway was told to keep conversations.
pub(super) fn take(
    place: &Place,
    folder: &Folder,
    named: Option<&Path>,
    items: &mut Items,
) -> (Config, Option<String>) {
    let mut session_store = None;
    match find(folder, named) {
        Some(file) => {
            let loaded = place.source(&file).inspect();
            let store = loaded.resolved.pointer("/session/store").and_then(Value::as_str);
            session_store = store.map(str::to_owned);
            take_file(place, folder, &loaded, items);
        }
        None => items.explain(
            "configuration",
            "moltbot.json",
            Outcome::Skipped,
            "there is none in the folder; name it with --reference-config",
        ),
    }
    (place.source(&place.paths.config_file).inspect().config, session_store)
}

fn find(folder: &Folder, named: Option<&Path>) -> Option<PathBuf> {
    let own = ["moltbot.json", "clawdbot.json"].map(|name| folder.file(name));
    named.map(Path::to_owned).or_else(|| own.into_iter().flatten().next())
}

fn take_file(place: &Place, folder: &Folder, loaded: &Loaded, items: &mut Items) {
    let file = &loaded.file;
    let name = file.display().to_string();
    loaded.files.iter().for_each(|file| folder.note(file));
    let Some(text) = &loaded.raw else {
        let why = loaded.issues.first().map_or("it cannot be read".into(), ToString::to_string);
        return items.fail("configuration", name, why);
    };
    for warning in &loaded.warnings {
        items.explain("key", &warning.path, Outcome::Skipped, &warning.message);
    }
    let target = &place.paths.config_file;
    let text = with_own_files(place, folder, loaded, text, items);
    if !loaded.is_valid() {
        return take_aside(loaded, target, &text, items);
    }
    match fs::read_to_string(target) {
        Ok(there) if there == text => {
            take_includes(target, loaded, items);
            items.add("configuration", name, Outcome::Present);
            name_restrictions(loaded, Outcome::Present, items);
        }
        Ok(_) => {
            let why = format!(
                "{0} is here already and stays; compare them with: diff {name} {0}",
                target.display()
            );
            items.explain("configuration", &name, Outcome::Kept, why);
            name_restrictions(loaded, Outcome::Kept, items);
        }
        Err(_) => {
            // First what it includes: without it the file would be invalid.
            take_includes(target, loaded, items);
            match write(target, &text) {
                Ok(()) => {
                    items.add("configuration", name, Outcome::Taken);
                    name_restrictions(loaded, Outcome::Taken, items);
                }
                Err(why) => items.fail("configuration", name, why),
            }
        }
    }
}

/// Says of each restriction what it comes to here, so that whoever locked the other gateway down
/// sees that this one is. Where a configuration is here already, they are not in force.
fn name_restrictions(loaded: &Loaded, outcome: Outcome, items: &mut Items) {
    for (key, what) in restrictions(&loaded.config) {
        let why = match outcome {
            Outcome::Kept => format!("not in force here: {what}"),
            _ => what,
        };
        items.explain("restriction", key, outcome, why);
    }
}

/// Puts a configuration that a gateway would not start with beside its place.
fn take_aside(loaded: &Loaded, target: &Path, text: &str, items: &mut Items) {
    let aside = target.with_extension("json.imported");
    let issues: Vec<_> = loaded.issues.iter().map(ToString::to_string).collect();
    let put = match write(&aside, text) {
        Ok(()) => format!(
            "a copy is in {0}: put it right, then: mv {0} {1}",
            aside.display(),
            target.display()
        ),
        Err(why) => format!("nor can it be copied: {why}"),
    };
    let why = format!("a gateway does not start with it: {}; {put}", issues.join("; "));
    items.fail("configuration", loaded.file.display().to_string(), why);
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    private::folder(folder).map_err(|error| error.to_string())?;
    write_whole(file, text).map_err(|error| error.to_string())
}

fn take_includes(target: &Path, loaded: &Loaded, items: &mut Items) {
    let file = &loaded.file;
    let from = file.parent().and_then(|folder| folder.canonicalize().ok()).unwrap_or_default();
    let to = target.parent().unwrap_or(Path::new("/"));
    let own = file.canonicalize().ok();
    for included in loaded.files.iter().filter(|it| *it != file && Some(*it) != own.as_ref()) {
        let name = included.display().to_string();
        match included.strip_prefix(&from) {
            Ok(inside) => match copy(included, &to.join(inside)) {
                Ok(outcome) => items.add("included file", name, outcome),
                Err(error) => items.fail("included file", name, error),
            },
            Err(_) => items.explain(
                "included file",
                name,
                Outcome::Skipped,
                "it is outside of the configuration's folder: it stays, and must be included by \
                 its full path",
            ),
        }
    }
}

/// Copies files with secrets that the configuration names and that are in the
/// folder, and returns the text with their new names.
fn with_own_files(
    place: &Place,
    folder: &Folder,
    loaded: &Loaded,
    text: &str,
    items: &mut Items,
) -> String {
    let mut named = Vec::new();
    secret_files(&loaded.parsed, &locate::Path::default(), &mut named);
    let mut text = text.to_owned();
    for (key, file) in named {
        let Ok(real) = file.canonicalize() else {
            items.fail("credential", file.display().to_string(), "it is not there");
            continue;
        };
        let Ok(inside) = real.strip_prefix(&folder.path) else {
            let why = format!("{key} names it; it is outside of the folder and stays");
            items.explain("credential", file.display().to_string(), Outcome::Skipped, why);
            continue;
        };
        folder.note(&real);
        let to = place.paths.state_dir.join("imported").join(inside);
        let name = inside.display().to_string();
        let changed = copy(&real, &to).map_err(|error| error.to_string()).and_then(|outcome| {
            let change = Change::Set(key.clone(), Value::from(to.display().to_string()));
            let text = edit::apply(&text, &[change]).map_err(|error| error.to_string())?;
            Ok((outcome, text))
        });
        match changed {
            Ok((outcome, changed)) => {
                text = changed;
                items.add("credential", name, outcome);
            }
            Err(why) => items.fail("credential", name, why),
        }
    }
    text
}

fn secret_files(value: &Value, at: &locate::Path, found: &mut Vec<(locate::Path, PathBuf)>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let at = at.key(key);
                match value.as_str() {
                    Some(path) if SECRET_FILES.contains(&&**key) && !path.trim().is_empty() => {
                        found.push((at, expand_home(path)));
                    }
                    _ => secret_files(value, &at, found),
                }
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                secret_files(value, &at.index(index), found);
            }
        }
        _ => {}
    }
}
