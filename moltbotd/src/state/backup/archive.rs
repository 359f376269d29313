//! Writes and reads the file. A reader trusts nothing in it: names stay below
//! the folder they are for, only plain files are taken, and every byte is
//! counted in the manifest.
//!
//! Reading takes memory for the names and the manifest only, and both have a
//! limit, so a small file that unpacks to a large one costs time and no memory.
//! That is why the entries are read raw: the `tar` crate reads a long name or a
//! PAX header as a whole, however long it claims to be.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use sha2::{Digest as _, Sha256};

use super::manifest::{self, FORMAT, Found, Item, Manifest};

const BUFFER_BYTES: usize = 64 * 1024;
/// [`MOST_FILES`] with usual names need about half of it.
const LARGEST_MANIFEST_BYTES: u64 = 64 * 1024 * 1024;
/// Files in one backup. Their names are kept in memory while it is read.
const MOST_FILES: usize = 100_000;
/// The same names together.
const LONGEST_NAMES_BYTES: usize = 32 * 1024 * 1024;
const LONGEST_NAME_BYTES: usize = 4096;
const LONGEST_PART_BYTES: usize = 255;
/// How much of a name a message repeats.
const LONGEST_SHOWN_BYTES: usize = 200;
/// Where the entries other than the manifest are.
const FOLDERS: [&str; 4] = ["database", "config", "state", "elsewhere"];

/// Why a file is no usable backup.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    /// It cannot be opened or read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The backup.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A pipe, a device or a folder stands in the place of a file: opening it
    /// could wait for ever, and reading it may never end.
    #[error("{0} is not a regular file; name a backup that moltbotctl backup create made")]
    NoFile(PathBuf),
    /// There are more files than a reader would take.
    #[error(
        "{0} holds more than {MOST_FILES} files, which is the most that a backup may hold; move \
         what the gateway does not need out of it"
    )]
    TooMany(PathBuf),
    /// A file to be put into it changed its size meanwhile.
    #[error("{0} changed while it was copied; try again")]
    Changed(PathBuf),
    /// It is damaged, or was never one.
    #[error("{path} is no whole backup: {why}; use another one")]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It was made by a later version.
    #[error(
        "{path} has the layout {found}, this program knows up to {FORMAT}; use the version of \
         moltbotd that made it, or a later one"
    )]
    Newer {
        /// The backup.
        path: PathBuf,
        /// Version of its layout.
        found: u32,
    },
}

/// Writes a backup.
pub(super) struct Writer {
    path: PathBuf,
    tar: tar::Builder<GzEncoder<File>>,
    items: Vec<Item>,
}

impl Writer {
    pub(super) fn new(path: &Path, file: File) -> Self {
        let tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
        Self { path: path.into(), tar, items: Vec::new() }
    }

    /// Adds a file under a name. `origin` is where it belongs.
    pub(super) fn add(
        &mut self,
        name: &str,
        source: &Path,
        origin: &Path,
    ) -> Result<(), ArchiveError> {
        let unreadable = |error| ArchiveError::Read { path: source.into(), source: error };
        if self.items.len() == MOST_FILES {
            // One that could not be restored would be no backup.
            return Err(ArchiveError::TooMany(origin.parent().unwrap_or(origin).into()));
        }

        let file = open_regular(source).map_err(unreadable)?;
        let file = file.ok_or_else(|| ArchiveError::NoFile(source.into()))?;
        let size = file.metadata().map_err(unreadable)?.len();
        let mut reader = Summed { inner: file.take(size), sum: Sha256::new(), count: 0 };
        self.append(name, size, &mut reader)?;
        if reader.count != size {
            return Err(ArchiveError::Changed(source.into()));
        }
        self.items.push(Item {
            path: name.into(),
            origin: origin.display().to_string(),
            size,
            sha256: manifest::hex(&reader.sum.finalize()),
        });
        Ok(())
    }

    /// Adds the manifest, made from the files so far, and returns the file.
    pub(super) fn finish(
        mut self,
        manifest: impl FnOnce(Vec<Item>) -> Manifest,
    ) -> Result<(File, Manifest), ArchiveError> {
        let manifest = manifest(std::mem::take(&mut self.items));
        let text = serde_json::to_vec_pretty(&manifest).expect("manifests serialize");
        self.append(manifest::NAME, text.len() as u64, &mut &text[..])?;
        let path = self.path;
        let write = |source| ArchiveError::Write { path: path.clone(), source };
        let file = self.tar.into_inner().and_then(GzEncoder::finish).map_err(write)?;
        file.sync_all().map_err(write)?;
        Ok((file, manifest))
    }

    fn append(&mut self, name: &str, size: u64, data: &mut dyn Read) -> Result<(), ArchiveError> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o600);
        header.set_entry_type(tar::EntryType::Regular);
        self.tar
            .append_data(&mut header, name, data)
            .map_err(|source| ArchiveError::Write { path: self.path.clone(), source })
    }
}

/// Sums up what is read through it.
struct Summed<R> {
    inner: R,
    sum: Sha256,
    count: u64,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.sum.update(&buffer[..read]);
        self.count += read as u64;
        Ok(read)
    }
}

/// Gives the file that an entry's bytes go to; `None` when they are not needed.
pub(super) type Destination<'a> =
    dyn FnMut(&str) -> Result<Option<(PathBuf, File)>, ArchiveError> + 'a;

/// Opens a backup.
pub(super) fn open(path: &Path) -> Result<(&Path, File), ArchiveError> {
    let file = open_regular(path);
    let file = file.map_err(|source| ArchiveError::Read { path: path.into(), source })?;
    Ok((path, file.ok_or_else(|| ArchiveError::NoFile(path.into()))?))
}

/// Opens a regular file; returns `None` for anything else, without opening it.
pub(super) fn open_regular(path: &Path) -> io::Result<Option<File>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }

    // A pipe may have taken its place since: opening that must not wait either.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Reads a backup from beginning to end and checks all of it.
pub(super) fn read(
    (path, file): (&Path, File),
    destination: &mut Destination<'_>,
) -> Result<Manifest, ArchiveError> {
    let damaged = |why: String| ArchiveError::Damaged { path: path.into(), why };
    let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::new(file)));
    let mut reader = Reader {
        path,
        destination,
        found: Vec::new(),
        names: HashSet::new(),
        names_bytes: 0,
        long_name: None,
    };

    let entries = archive.entries().map_err(|error| damaged(broken(&error)))?;
    let mut manifest = None;
    for entry in entries.raw(true) {
        let entry = entry.map_err(|error| damaged(broken(&error)))?;
        if manifest.is_some() {
            return Err(damaged("something follows its manifest".into()));
        }
        manifest = reader.entry(entry)?;
    }
    if reader.long_name.is_some() {
        return Err(damaged("its end is missing".into()));
    }
    let found = reader.found;

    // The sum of the compressed bytes stands at their end.
    let mut rest = archive.into_inner();
    let ends = io::copy(&mut rest, &mut io::sink());
    ends.map_err(|error| damaged(broken(&error)))?;
    if rest.into_inner().fill_buf().is_ok_and(|left| !left.is_empty()) {
        return Err(damaged("something follows its end".into()));
    }

    let manifest = manifest.ok_or_else(|| damaged("its end is missing".into()))?;
    match manifest.disagreement(&found) {
        Some(why) => Err(damaged(why)),
        None => Ok(manifest),
    }
}

struct Reader<'a, 'b> {
    path: &'a Path,
    destination: &'a mut Destination<'b>,
    found: Vec<Found>,
    names: HashSet<String>,
    names_bytes: usize,
    /// The name of the next entry, where its header has no room for it.
    long_name: Option<Vec<u8>>,
}

impl Reader<'_, '_> {
    /// Takes an entry; returns the manifest if it is that.
    fn entry(
        &mut self,
        entry: tar::Entry<'_, impl Read>,
    ) -> Result<Option<Manifest>, ArchiveError> {
        if entry.header().entry_type() == tar::EntryType::GNULongName {
            return self.read_long_name(entry).map(|()| None);
        }

        let bytes = self.long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(self.damaged(format!("{} is no plain file", shown_name(&bytes))));
        }
        let name = safe_name(&bytes).map_err(|why| self.damaged(why))?;
        self.names_bytes += name.len();
        if self.names.len() > MOST_FILES || self.names_bytes > LONGEST_NAMES_BYTES {
            return Err(self.damaged(format!("it holds more than {MOST_FILES} files")));
        }
        if !self.names.insert(name.clone()) {
            return Err(self.damaged(format!("{name} is in it twice")));
        }
        if name == manifest::NAME {
            return self.manifest(entry).map(Some);
        }

        let out = (self.destination)(&name)?;
        let found = self.copy(name, entry, out)?;
        self.found.push(found);
        Ok(None)
    }

    /// Reads the name that stands before its entry and ends with a zero.
    fn read_long_name(&mut self, entry: impl Read) -> Result<(), ArchiveError> {
        let longest = LONGEST_NAME_BYTES as u64 + 1;
        let mut name = Vec::new();
        let read = entry.take(longest + 1).read_to_end(&mut name);
        read.map_err(|error| self.damaged(broken(&error)))?;

        let is_second = self.long_name.is_some();
        if is_second || name.pop() != Some(0) || name.len() > LONGEST_NAME_BYTES {
            return Err(self.damaged("a name in it is too long".into()));
        }
        self.long_name = Some(name);
        Ok(())
    }

    fn manifest(&self, entry: impl Read) -> Result<Manifest, ArchiveError> {
        let mut text = Vec::new();
        let read = entry.take(LARGEST_MANIFEST_BYTES).read_to_end(&mut text);
        read.map_err(|error| self.damaged(broken(&error)))?;
        let unreadable = |error| self.damaged(format!("its manifest cannot be read: {error}"));
        // A later layout may have another manifest; its number stays.
        #[derive(serde::Deserialize)]
        struct Layout {
            format: u32,
        }
        let Layout { format } = serde_json::from_slice(&text).map_err(unreadable)?;
        if format > FORMAT {
            return Err(ArchiveError::Newer { path: self.path.into(), found: format });
        }
        serde_json::from_slice(&text).map_err(unreadable)
    }

    fn copy(
        &self,
        name: String,
        mut entry: impl Read,
        mut out: Option<(PathBuf, File)>,
    ) -> Result<Found, ArchiveError> {
        let (mut sum, mut size) = (Sha256::new(), 0);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = entry.read(&mut buffer).map_err(|error| self.damaged(broken(&error)))?;
            if read == 0 {
                break;
            }
            sum.update(&buffer[..read]);
            size += read as u64;
            if let Some((path, file)) = &mut out {
                let written = file.write_all(&buffer[..read]);
                written.map_err(|source| ArchiveError::Write { path: path.clone(), source })?;
            }
        }
        if let Some((path, file)) = out {
            file.sync_all().map_err(|source| ArchiveError::Write { path, source })?;
        }
        Ok(Found { path: name, size, sha256: manifest::hex(&sum.finalize()) })
    }

    fn damaged(&self, why: String) -> ArchiveError {
        ArchiveError::Damaged { path: self.path.into(), why }
    }
}

fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "its end is missing".into(),
        _ => error.to_string(),
    }
}

/// Returns the beginning of a name that may be anything, for a message.
fn shown_name(bytes: &[u8]) -> String {
    let shown = bytes.get(..LONGEST_SHOWN_BYTES).unwrap_or(bytes);
    String::from_utf8_lossy(shown).escape_debug().to_string()
}

/// Returns a name that leads nowhere but below one of the known folders.
fn safe_name(bytes: &[u8]) -> Result<String, String> {
    let shown = shown_name(bytes);
    let refused = |why: &str| Err(format!("the name {shown} {why}"));
    let Ok(name) = std::str::from_utf8(bytes) else { return refused("is not UTF-8") };
    if name.len() > LONGEST_NAME_BYTES || name.chars().any(char::is_control) {
        return refused("is no file name");
    }
    let parts: Vec<_> = name.split('/').collect();
    let odd = |part: &&str| matches!(*part, "" | "." | "..") || part.len() > LONGEST_PART_BYTES;
    if parts.iter().any(odd) {
        return refused("leads out of its folder");
    }
    let known = name == manifest::NAME || (parts.len() > 1 && FOLDERS.contains(&parts[0]));
    let reserved = parts[0] == "state" && super::is_reserved(parts.get(1).unwrap_or(&""));
    if !known || reserved || (parts[0] == "database" && name != manifest::DATABASE) {
        return refused("belongs to no backup");
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn sample(folder: &Path) -> Vec<u8> {
        let path = folder.join("whole.tar.gz");
        let mut writer = Writer::new(&path, File::create(&path).unwrap());
        // Zeros and repetitions, as in a database: many bits of their
        // compressed form could be others.
        let data = [vec![0; 3000], b"word ".repeat(100), (0..=255).collect()].concat();
        for name in ["state/a", "state/b"] {
            let source = folder.join("source");
            fs::write(&source, &data).unwrap();
            writer.add(name, &source, Path::new("/there")).unwrap();
        }
        let manifest = |files| Manifest {
            format: FORMAT,
            version: "1".into(),
            schema: 1,
            profile: "default".into(),
            created_at_ms: 1,
            config: None,
            files,
            left_out: Vec::new(),
        };
        writer.finish(manifest).unwrap();
        fs::read(path).unwrap()
    }

    fn passes(path: &Path) -> bool {
        read(open(path).unwrap(), &mut |_| Ok(None)).is_ok()
    }

    fn content(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let read = GzDecoder::new(bytes).read_to_end(&mut content);
        read.ok().map(|_| content)
    }

    #[test]
    fn no_damage_to_the_contents_passes_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let whole = sample(folder.path());
        let path = folder.path().join("whole.tar.gz");
        assert!(passes(&path));
        // Changed where it is: to write thousands of files takes long.
        let file = File::options().write(true).open(&path).unwrap();
        let written = content(&whole);
        for bit in 0..whole.len() * 8 {
            let at = bit / 8;
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (bit % 8);
            file.write_all_at(&damaged[at..=at], at as u64).unwrap();
            let same = content(&damaged) == written;
            assert!(same || !passes(&path), "bit {bit}");
            file.write_all_at(&whole[at..=at], at as u64).unwrap();
        }
        assert!(passes(&path));
        for length in (0..whole.len()).rev() {
            file.set_len(length as u64).unwrap();
            assert!(!passes(&path), "cut to {length}");
        }
    }

    #[test]
    fn names_stay_below_the_known_folders() {
        for name in ["state/media/inbound/a b.jpg", "config/moltbot.json", "manifest.json"] {
            assert_eq!(safe_name(name.as_bytes()).unwrap(), name);
        }
        let long = format!("state/{}", "x".repeat(256));
        let wrong = [
            "/etc/passwd",
            "../x",
            "state/../../x",
            "state//x",
            "state/.",
            "state",
            "x/y",
            "",
            "state/a\nb",
            "state/lock",
            "state/moltbot.db-wal",
            "state/run/control.sock",
            "database/other.db",
            "state/.restore-1/x",
            &long,
        ];
        for name in wrong {
            assert!(safe_name(name.as_bytes()).is_err(), "{name}");
        }
        assert!(safe_name(b"state/\xff").is_err());
    }
}
