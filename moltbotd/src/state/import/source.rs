//! The folder of the reference gateway. Files are only ever opened to read.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{Items, Outcome};
use crate::{boot::Failure, paths::Paths};

/// Largest file that is read as one value. The reference keeps its sessions in
/// one, and tells people of a hundred megabytes.
const LARGEST_FILE_BYTES: u64 = 1 << 30;

/// What the reference keeps and this gateway has no use for.
const NOT_NEEDED: [(&str, &str); 24] = [
    ("identity", "the key and tokens of the reference's own CLI, which goes on using them"),
    ("node.json", "the settings of the reference's node host, which goes on using them"),
    ("restart-sentinel.json", "a note of one restart"),
    ("update-check.json", "a note of the reference's updater"),
    ("logs", "logs stay where they are"),
    ("exec-approvals.sock", "a socket"),
    ("media", "conversations name these files by their path: keep the folder"),
    ("workspace", "the agent's files stay where they are"),
    ("canvas", "this version has no canvas"),
    ("memory", "this version has no memory index"),
    ("skills", "this version has no skills"),
    ("extensions", "this version runs no code of others"),
    ("plugins", "this version runs no code of others"),
    ("hooks", "this version runs no hooks"),
    ("sandboxes", "this version has no sandboxes"),
    ("sandbox", "this version has no sandboxes"),
    ("subagents", "this version has no sub-agents"),
    ("browser", "this version has no browser"),
    ("completions", "shell completions of the reference's CLI"),
    ("tools", "programs that the reference installed"),
    ("gateway.lock", "a lock of the reference"),
    ("gateway", "certificates that the reference made for itself"),
    ("nodes/pending.json", "requests end after 5 minutes; the node asks again"),
    ("devices/pending.json", "requests end after 5 minutes; the device asks again"),
];

/// The state folder of a reference gateway.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Files that were looked at, below the folder.
    seen: RefCell<BTreeSet<PathBuf>>,
}

impl Folder {
    pub(super) fn open(path: &Path, paths: &Paths) -> Result<Self, Failure> {
        let refused = |why: String| Err(Failure::Usage(why));
        let shown = path.display();
        let path = match path.canonicalize() {
            Ok(path) if path.is_dir() => path,
            Ok(_) => return refused(format!("{shown} is no folder")),
            Err(error) => return refused(format!("cannot read {shown}: {error}")),
        };
        if paths.state_dir.canonicalize().is_ok_and(|own| own == path) {
            return refused(format!(
                "{shown} is the state folder of this profile; give it another one with \
                 --state-dir, or unset MOLTBOT_STATE_DIR and CLAWDBOT_STATE_DIR"
            ));
        }
        let signs = ["moltbot.json", "clawdbot.json", "agents", "devices", "credentials", "cron"];
        if !signs.iter().any(|sign| path.join(sign).exists()) {
            return refused(format!(
                "{shown} is no state folder of a reference gateway: it has none of {}",
                signs.join(", ")
            ));
        }
        Ok(Self { path, seen: RefCell::default() })
    }

    /// Returns a file that is there, and notes that it was looked at.
    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        let path = self.path.join(name);
        self.note(&path);
        path.is_file().then_some(path)
    }

    /// Notes that something was looked at.
    pub(super) fn note(&self, path: &Path) {
        self.seen.borrow_mut().insert(path.into());
    }

    /// Returns the names in a folder, in order.
    pub(super) fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path.join(name)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Names what nothing looked at.
    pub(super) fn name_the_rest(&self, items: &mut Items) {
        for name in self.names("") {
            let path = self.path.join(&name);
            let not_needed = NOT_NEEDED.iter().find(|(known, _)| *known == name);
            if let Some((_, why)) = not_needed {
                items.explain("file", name, Outcome::Skipped, *why);
            } else if path.is_dir() {
                self.name_in(&name, items);
            } else if !self.has_seen(&path) {
                items.explain("file", &name, Outcome::Skipped, unknown(&name));
            }
        }
    }

    fn name_in(&self, folder: &str, items: &mut Items) {
        let seen = self.seen.borrow().iter().any(|seen| seen.starts_with(self.path.join(folder)));
        if !seen {
            let why = "not known here; it stays where it is";
            return items.explain("folder", folder, Outcome::Skipped, why);
        }
        for name in self.names(folder) {
            let name = format!("{folder}/{name}");
            let path = self.path.join(&name);
            let below = self.seen.borrow().iter().any(|seen| seen.starts_with(&path));
            if !below {
                let known = NOT_NEEDED.iter().find(|(known, _)| *known == name);
                let why = known.map_or_else(|| unknown(&name), |(_, why)| *why);
                items.explain("file", name, Outcome::Skipped, why);
            }
        }
    }

    /// Returns whether something was looked at.
    pub(super) fn has_seen(&self, path: &Path) -> bool {
        self.seen.borrow().contains(path)
    }
}

fn unknown(name: &str) -> &'static str {
    let name = name.rsplit('/').next().unwrap_or(name);
    if name == ".env" {
        "variables are not read from here: put them under env.vars of the configuration"
    } else if name.contains(".bak") {
        "an older copy"
    } else if name.ends_with(".lock") || name.ends_with(".tmp") {
        "left over"
    } else {
        "not known here; it stays where it is"
    }
}

/// Opens a plain file.
pub(super) fn open(path: &Path) -> io::Result<File> {
    // A pipe in the place of a file would be waited for.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no plain file")) }
}

/// Reads a file that holds one JSON object.
pub(super) fn object(path: &Path) -> Result<Map<String, Value>, String> {
    let mut text = String::new();
    let file = open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST_FILE_BYTES).read_to_string(&mut text).map_err(|error| error.to_string())?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("it holds no object".into()),
        Err(error) => Err(format!("it is no JSON: {error}")),
    }
}
