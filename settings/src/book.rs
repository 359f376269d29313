//! Writes configuration files so that nothing is ever half there or lost.
//!
//! A file is written beside its place, synced and renamed into it. What it
//! said before is kept as a numbered copy in the folder `FILE.backups`, with a
//! list of who changed what and when, so that changes can be taken back. A
//! lock in that folder makes programs wait for each other; an editor that does
//! not know the lock is noticed by what the file says.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::{fcntl::OFlag, unistd::Uid};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    account::{Access, ActingAs},
    edit::Change,
    include::{IncludeError, Texts},
};

/// How many changes can be taken back.
pub const KEPT: usize = 50;
const LIST: &str = "changes.json";
const LOCK: &str = "lock";
/// What a main file says that was not there before a change that is taken back.
const EMPTY: &str = "{}\n";
/// How long another program may hold the lock: edits take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Why a file is not changed. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The system said no.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another program does not let go of the lock.
    #[error("{} is being changed by another program for {} s", .0.display(), PATIENCE.as_secs())]
    Busy(PathBuf),
    /// Somebody wrote the file while it was being changed.
    #[error("{} was changed by somebody else in the meantime; try again", .0.display())]
    Changed(PathBuf),
    /// The list of changes cannot be read.
    #[error("{} is damaged ({reason}); move it away, the copies beside it are still good", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// There is nothing to take back.
    #[error("there is no change to take back")]
    Nothing,
    /// No such change is kept.
    #[error("there is no change {0}; see which there are: moltbotctl config history")]
    NoChange(u64),
    /// A file does not say any more what the change made it say.
    #[error(
        "{} was changed by other means since change {number}; to go back to what it said before \
         that change: moltbotctl config undo {number}",
        file.display()
    )]
    Moved {
        /// The file.
        file: PathBuf,
        /// The change.
        number: u64,
    },
    /// A file cannot be understood or edited.
    #[error(transparent)]
    Include(#[from] IncludeError),
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Counts up.
    pub number: u64,
    /// When, as ISO 8601.
    pub at: String,
    /// What made it, such as `moltbotctl config set gateway.port`.
    pub by: String,
    /// The change that this one took back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<u64>,
    /// The files it concerned.
    pub files: Vec<Part>,
}

/// One file of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// The file.
    pub file: PathBuf,
    /// Name of the copy of what it said before; absent when there was no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// SHA-256 of what it said then, in hex; absent when it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Whose it was before, and who could read it; absent when there was no
    /// file, and in changes of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

/// The changes of one configuration file.
#[derive(Clone, Debug)]
pub struct Book {
    main: PathBuf,
    /// The folder whose owner's rights are used, if not those of this process.
    owned: Option<PathBuf>,
}

/// A change in the making, with the lock held.
#[derive(Debug)]
pub struct Draft {
    book: Book,
    _lock: File,
    before: BTreeMap<PathBuf, Option<String>>,
    after: BTreeMap<PathBuf, Option<String>>,
    /// Whose the files were before the change that is taken back.
    restored: BTreeMap<PathBuf, Access>,
    undoes: Option<u64>,
}

/// Returns the SHA-256 of a text, in hex.
#[must_use]
pub fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Book {
    /// Takes the configuration file. Links are followed, so that the file and
    /// not the link is replaced.
    #[must_use]
    pub fn of(main: &Path) -> Self {
        Self { main: main.canonicalize().unwrap_or_else(|_| main.into()), owned: None }
    }

    /// Takes the configuration file of a gateway that may be another user's.
    ///
    /// Root works with the rights of the user who has the folder: the gateway
    /// is that user's. What is made belongs to that user, while a file that
    /// was there keeps owner and mode. It is the folder of the path as it was
    /// given, since a link in there is that user's work, too. [`ActingAs`]
    /// says who must not use this.
    #[must_use]
    pub fn of_owner(main: &Path) -> Self {
        Self { owned: main.parent().map(Path::to_owned), ..Self::of(main) }
    }

    fn act(&self) -> Result<Option<ActingAs>, BookError> {
        let Some(folder) = &self.owned else { return Ok(None) };
        ActingAs::owner_of(folder).map_err(|source| BookError::Io {
            action: "act as the owner of",
            path: folder.clone(),
            source,
        })
    }

    /// Returns the file, with links followed.
    #[must_use]
    pub fn main(&self) -> &Path {
        &self.main
    }

    /// Returns the folder of the copies.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let mut name = self.main.clone().into_os_string();
        name.push(".backups");
        name.into()
    }

    /// Returns the changes that are kept, oldest first.
    ///
    /// # Errors
    ///
    /// When the list is there but cannot be read.
    pub fn history(&self) -> Result<Vec<Entry>, BookError> {
        let _acting = self.act()?;
        let path = self.folder().join(LIST);
        let Some(text) = read(&path)? else { return Ok(Vec::new()) };
        serde_json::from_str(&text)
            .map_err(|error| BookError::List { path, reason: error.to_string() })
    }

    /// Begins a change: waits for the lock, then reads the file.
    ///
    /// # Errors
    ///
    /// When the lock is held for long, or a file cannot be read.
    pub fn change(&self) -> Result<Draft, BookError> {
        let _acting = self.act()?;
        let folder = self.folder();
        make_folder(&folder)?;
        let lock = lock(&folder.join(LOCK), &self.main)?;
        let text = read(&self.main)?;
        Ok(Draft {
            book: self.clone(),
            _lock: lock,
            before: BTreeMap::from([(self.main.clone(), text.clone())]),
            after: BTreeMap::from([(self.main.clone(), text)]),
            restored: BTreeMap::new(),
            undoes: None,
        })
    }

    /// Returns what a change replaced: each file with what it said before.
    ///
    /// # Errors
    ///
    /// When a copy cannot be read.
    pub fn before(&self, entry: &Entry) -> Result<Vec<(PathBuf, Option<String>)>, BookError> {
        let _acting = self.act()?;
        let text = |part: &Part| match &part.copy {
            None => Ok(None),
            Some(copy) => {
                let path = self.folder().join(copy);
                let missing = || BookError::Io {
                    action: "read",
                    path: path.clone(),
                    source: io::ErrorKind::NotFound.into(),
                };
                read(&path)?.ok_or_else(missing).map(Some)
            }
        };
        entry.files.iter().map(|part| Ok((part.file.clone(), text(part)?))).collect()
    }
}

impl Draft {
    /// Returns what the main file says, or is to say.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.after.get(&self.book.main)?.as_deref()
    }

    /// Lets the main file say something else.
    pub fn replace(&mut self, text: impl Into<String>) {
        self.after.insert(self.book.main.clone(), Some(text.into()));
    }

    /// Applies changes, each to the file that holds the key. Returns which
    /// files these were.
    ///
    /// # Errors
    ///
    /// When a change is not possible; nothing of the draft has changed then.
    pub fn apply(&mut self, changes: &[Change]) -> Result<Vec<PathBuf>, BookError> {
        let _acting = self.book.act()?;
        let mut texts = Texts::read(&self.book.main)?;
        let mut files = Vec::new();
        for change in changes {
            files.push(texts.apply(change)?);
        }
        files.sort();
        files.dedup();
        for file in &files {
            let text = texts.text(file).unwrap_or_default().to_owned();
            if !self.before.contains_key(file) {
                self.before.insert(file.clone(), read(file)?);
            }
            self.after.insert(file.clone(), Some(text));
        }
        Ok(files)
    }

    /// Takes back a change; without a number, the last one that has not been
    /// taken back yet. Returns it. A main file that was not there becomes an
    /// empty one: to a running gateway one that goes is a fault.
    ///
    /// # Errors
    ///
    /// When there is none, or, without a number, when a file has been changed
    /// by other means since.
    pub fn undo(&mut self, number: Option<u64>) -> Result<Entry, BookError> {
        let _acting = self.book.act()?;
        let history = self.book.history()?;
        let entry = match number {
            Some(number) => history.iter().find(|entry| entry.number == number),
            None => self.last_standing(&history)?,
        };
        let none = || number.map_or(BookError::Nothing, BookError::NoChange);
        let entry = entry.ok_or_else(none)?.clone();
        for (part, (file, text)) in entry.files.iter().zip(self.book.before(&entry)?) {
            let now = read(&file)?;
            if number.is_none() && now.as_deref().map(hash) != part.hash {
                return Err(BookError::Moved { file, number: entry.number });
            }
            if let Some(access) = part.access {
                self.restored.insert(file.clone(), access);
            }
            let is_made = text.is_none() && now.is_some() && file == self.book.main;
            self.before.insert(file.clone(), now);
            self.after.insert(file, if is_made { Some(EMPTY.into()) } else { text });
        }
        self.undoes = Some(entry.number);
        Ok(entry)
    }

    /// Returns the files that change, with what they are to say; `None` for
    /// one that goes.
    #[must_use]
    pub fn changed(&self) -> BTreeMap<PathBuf, Option<String>> {
        let differs = |file: &Path, text: &Option<String>| self.before.get(file) != Some(text);
        let changed = self.after.iter().filter(|(file, text)| differs(file, text));
        changed.map(|(file, text)| (file.clone(), text.clone())).collect()
    }

    /// Writes the files and keeps what they said. Returns the change; `None`
    /// when there was nothing to change.
    ///
    /// # Errors
    ///
    /// When a file cannot be written, or says something else by now. A change
    /// of one file is made as a whole or not at all.
    pub fn install(self, by: &str) -> Result<Option<Entry>, BookError> {
        let _acting = self.book.act()?;
        let changed = self.changed();
        if changed.is_empty() {
            return Ok(None);
        }
        for file in changed.keys() {
            if Some(&read(file)?) != self.before.get(file) {
                return Err(BookError::Changed(file.clone()));
            }
        }
        let entry = self.record(&changed, by)?;
        for (file, text) in &changed {
            match text {
                Some(text) => write(file, text, self.access(file))?,
                None => remove(file)?,
            }
        }
        Ok(Some(entry))
    }

    /// Returns whose a file is to be: whose it is, or was before the change
    /// that is taken back. The list of changes may be another user's work, so
    /// it gives a file to nobody but those who could have it anyway, and never
    /// keeps the gateway from reading it.
    fn access(&self, file: &Path) -> Option<Access> {
        let now = Access::of(file);
        let may_have = |access: &&Access| {
            let known = [Some(0), Some(Uid::effective().as_raw()), now.map(|now| now.uid)];
            known.contains(&Some(access.uid)) && access.lets_us_read()
        };
        self.restored.get(file).filter(may_have).copied().or(now)
    }

    /// Keeps copies and notes the change. It comes before the change itself:
    /// one that was not made then is not standing, because the file's hash is
    /// another.
    fn record(
        &self,
        changed: &BTreeMap<PathBuf, Option<String>>,
        by: &str,
    ) -> Result<Entry, BookError> {
        let folder = self.book.folder();
        let mut history = self.book.history()?;
        let number = history.last().map_or(0, |entry| entry.number) + 1;
        let mut files = Vec::new();
        for (index, (file, text)) in changed.iter().enumerate() {
            let before = self.before.get(file).and_then(Option::as_deref);
            let copy = before.map(|_| match index {
                0 => format!("{number}.json5"),
                _ => format!("{number}.{index}.json5"),
            });
            if let Some((copy, text)) = copy.as_ref().zip(before) {
                write(&folder.join(copy), text, None)?;
            }
            let access = Access::of(file);
            files.push(Part { file: file.clone(), copy, hash: text.as_deref().map(hash), access });
        }
        let at = format!("{:.0}", Timestamp::now());
        let entry = Entry { number, at, by: by.into(), undoes: self.undoes, files };
        history.push(entry.clone());
        let old = history.len().saturating_sub(KEPT);
        let gone: Vec<Entry> = history.drain(..old).collect();
        let text = serde_json::to_string_pretty(&history).expect("entries serialize");
        write(&folder.join(LIST), &text, None)?;
        for copy in gone.iter().flat_map(|entry| &entry.files).filter_map(|it| it.copy.as_ref()) {
            // One that stays is in nobody's way.
            let _ = fs::remove_file(folder.join(copy));
        }
        Ok(entry)
    }

    /// Returns the last change that was made and not taken back.
    fn last_standing<'a>(&self, history: &'a [Entry]) -> Result<Option<&'a Entry>, BookError> {
        let mut standing: Vec<&Entry> = Vec::new();
        for entry in history {
            match entry.undoes {
                None => standing.push(entry),
                Some(number) => standing.retain(|other| other.number < number),
            }
        }
        while let Some(entry) = standing.pop() {
            if !self.was_cut_short(entry)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Returns whether a change was noted but never made.
    fn was_cut_short(&self, entry: &Entry) -> Result<bool, BookError> {
        let before = self.book.before(entry)?;
        for (part, (file, text)) in entry.files.iter().zip(before) {
            let now = read(&file)?;
            if now != text || now.as_deref().map(hash) == part.hash {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Replaces a file, as a whole or not at all: written beside its place, synced,
/// renamed. It keeps owner, group and mode; a new one is `0600`.
///
/// # Errors
///
/// When it cannot be written; the old one is then as it was.
pub fn write_whole(file: &Path, text: &str) -> Result<(), BookError> {
    write(file, text, Access::of(file))
}

fn read(path: &Path) -> Result<Option<String>, BookError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BookError::Io { action: "read", path: path.into(), source }),
    }
}

fn write(file: &Path, text: &str, access: Option<Access>) -> Result<(), BookError> {
    let failed = |action| {
        let path = file.to_owned();
        move |source| BookError::Io { action, path, source }
    };
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let draft = folder.join(name);
    let made = write_draft(&draft, text, access).and_then(|()| fs::rename(&draft, file));
    if let Err(error) = made {
        let _ = fs::remove_file(&draft); // It was never more than a draft.
        return Err(failed("write")(error));
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))
}

fn write_draft(draft: &Path, text: &str, access: Option<Access>) -> io::Result<()> {
    match fs::remove_file(draft) {
        // Left by a program that was cut short; the lock is ours now.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(draft)?;
    file.write_all(text.as_bytes())?;
    // Last, so that nobody who may read it ever finds half of it.
    if let Some(access) = access {
        access.give(&file)?;
    }
    file.sync_all()
}

fn remove(file: &Path) -> Result<(), BookError> {
    match fs::remove_file(file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BookError::Io { action: "remove", path: file.into(), source })
        }
        _ => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<(), BookError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path);
    made.map_err(|source| BookError::Io { action: "make the folder", path: path.into(), source })
}

fn lock(path: &Path, main: &Path) -> Result<File, BookError> {
    let failed = |source| BookError::Io { action: "lock", path: path.into(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    // What another user put there is not followed.
    options.custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = options.open(path).map_err(failed)?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
            Err(fs::TryLockError::WouldBlock) if since.elapsed() > PATIENCE => {
                return Err(BookError::Busy(main.into()));
            }
            Err(fs::TryLockError::WouldBlock) => thread::sleep(BETWEEN_TRIES),
        }
    }
}

#[cfg(test)]
mod tests;
