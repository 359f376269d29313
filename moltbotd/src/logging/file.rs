//! The own log: a file of limited size and age, and the last lines in memory
//! for when there is no file.
//!
//! What cannot be written is counted and said once writing works again. The
//! daemon never waits for that nor stops over it.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use crate::{clock, private};

/// How long a file that cannot be written is left alone.
const RETRY: Duration = Duration::from_secs(5);
/// How often the age of the files is looked at.
const AGE_CHECK: Duration = Duration::from_secs(60);
/// Most bytes of lines kept in memory.
const MEMORY: usize = 256 * 1024;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Size at which the file is set aside; one older file is kept.
    pub bytes: u64,
    /// Age at which it is, and at which the older one is removed.
    pub age: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { bytes: 8 * 1024 * 1024, age: Duration::from_secs(14 * 24 * 60 * 60) }
    }
}

/// Where lines are kept for those who ask for them.
#[derive(Debug)]
pub(super) struct Store {
    keep: Keep,
    file: Option<LogFile>,
    memory: Memory,
}

/// A part of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The text; may begin within a line.
    pub text: Vec<u8>,
    /// Where the text begins.
    pub start: u64,
    /// Where the log ends.
    pub end: u64,
    /// Whether the text begins with a whole line.
    pub begins_line: bool,
    /// Whether there is earlier text.
    pub is_cut: bool,
}

impl Store {
    /// Without a path, only the last lines are kept, in memory.
    pub(super) fn new(path: Option<&Path>) -> Self {
        Self { keep: Keep::default(), file: path.map(LogFile::new), memory: Memory::new() }
    }

    pub(super) fn keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    pub(super) fn write(&mut self, line: &str) {
        let Some(file) = &mut self.file else { return self.memory.push(line) };
        if !file.write(line, self.keep) {
            // Better than nothing for whoever asks what is wrong.
            self.memory.push(line);
        }
    }

    /// Returns why the file is not written, if it is not.
    pub(super) fn trouble(&self) -> Option<String> {
        let file = self.file.as_ref()?;
        file.trouble.as_ref().map(|reason| format!("{}: {reason}", file.path.display()))
    }

    /// Returns how many lines were not written to the file.
    pub(super) fn lost(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.lost_ever)
    }

    /// Returns the path to read, or what memory holds.
    pub(super) fn source(&self) -> Source<'_> {
        match &self.file {
            Some(file) if file.trouble.is_none() => Source::File(file.path.clone()),
            _ => Source::Memory(&self.memory),
        }
    }
}

/// Where lines can be read.
pub(super) enum Source<'a> {
    File(PathBuf),
    Memory(&'a Memory),
}

/// Reads the last `most` bytes of a file, or what follows `from` if that is
/// less.
pub(super) fn read(path: &Path, from: Option<u64>, most: u64) -> io::Result<Part> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Part::default()),
        Err(error) => return Err(error),
    };
    let end = file.metadata()?.len();
    let start = start(0, end, from, most);
    // One byte more tells whether a line begins there.
    let before = start.min(1);
    file.seek(SeekFrom::Start(start - before))?;
    let mut text = Vec::new();
    file.take(end - start + before).read_to_end(&mut text)?;
    let begins_line = before == 0 || text.first() == Some(&b'\n');
    if before > 0 && !text.is_empty() {
        text.remove(0);
    }
    Ok(Part { text, start, end, begins_line, is_cut: start > 0 })
}

fn start(first: u64, end: u64, from: Option<u64>, most: u64) -> u64 {
    let earliest = end.saturating_sub(most).max(first);
    from.filter(|from| (earliest..=end).contains(from)).unwrap_or(earliest)
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    open: Option<Open>,
    trouble: Option<String>,
    /// When writing is tried again.
    retry_at: Option<Instant>,
    /// Lines lost since writing worked.
    lost: u64,
    lost_ever: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    began: SystemTime,
    age_checked: Instant,
}

impl LogFile {
    fn new(path: &Path) -> Self {
        let mut file = Self {
            path: path.into(),
            open: None,
            trouble: None,
            retry_at: None,
            lost: 0,
            lost_ever: 0,
        };
        if let Err(error) = file.ensure_open() {
            file.failed(&error);
        }
        file
    }

    /// Returns whether the line was written.
    fn write(&mut self, line: &str, keep: Keep) -> bool {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            self.lose();
            return false;
        }
        match self.try_write(line, keep) {
            Ok(()) => {
                self.trouble = None;
                self.retry_at = None;
                true
            }
            Err(error) => {
                self.failed(&error);
                self.lose();
                false
            }
        }
    }

    fn try_write(&mut self, line: &str, keep: Keep) -> Result<(), String> {
        self.ensure_open()?;
        self.rotate(line.len() as u64, keep)?;
        if self.lost > 0 {
            let reason = self.trouble.clone().unwrap_or_default();
            let text = format!("{} lines were not written: {reason}", self.lost);
            self.append(&super::line(&tracing::Level::WARN, "logging", &text))?;
            self.lost = 0;
        }
        self.append(line)
    }

    fn append(&mut self, line: &str) -> Result<(), String> {
        let Some(open) = &mut self.open else { return Err("not open".to_owned()) };
        if let Err(error) = open.file.write_all(line.as_bytes()) {
            // A full disk may have taken half of it. Cutting a file needs no
            // room.
            let _ = open.file.set_len(open.bytes);
            return Err(error.to_string());
        }
        open.bytes += line.len() as u64;
        Ok(())
    }

    fn ensure_open(&mut self) -> Result<(), String> {
        if self.open.is_none() {
            if let Some(folder) = self.path.parent() {
                private::folder(folder).map_err(|error| error.to_string())?;
            }
            self.open = Some(Open::at(&self.path)?);
        }
        Ok(())
    }

    /// Sets the file aside when it is too large or too old.
    fn rotate(&mut self, more: u64, keep: Keep) -> Result<(), String> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let full = open.bytes > 0 && open.bytes + more > keep.bytes;
        let mut old = false;
        if open.age_checked.elapsed() >= AGE_CHECK || open.bytes == 0 {
            open.age_checked = Instant::now();
            old = open.bytes > 0 && is_older(open.began, keep.age);
            self.forget_old(keep.age);
        }
        if full || old { self.set_aside() } else { Ok(()) }
    }

    /// In a folder that cannot be changed, the file starts anew instead: what
    /// comes now matters more than what was.
    fn set_aside(&mut self) -> Result<(), String> {
        let aside = self.aside();
        if fs::rename(&self.path, &aside).is_ok() {
            match Open::at(&self.path) {
                Ok(next) => {
                    self.open = Some(next);
                    return Ok(());
                }
                Err(error) => {
                    fs::rename(&aside, &self.path).map_err(|_| error)?;
                }
            }
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.file.set_len(0).map_err(|error| error.to_string())?;
        (open.bytes, open.began) = (0, SystemTime::now());
        Ok(())
    }

    fn forget_old(&self, age: Duration) {
        let aside = self.aside();
        let modified = fs::metadata(&aside).and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|modified| is_older(modified, age)) {
            // Tried again in a minute.
            let _ = fs::remove_file(aside);
        }
    }

    fn aside(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".1");
        name.into()
    }

    fn failed(&mut self, error: &str) {
        self.trouble = Some(error.to_owned());
        self.retry_at = Some(Instant::now() + RETRY);
        // A file that was removed, or a disk that came back, is opened anew.
        self.open = None;
    }

    fn lose(&mut self) {
        self.lost += 1;
        self.lost_ever += 1;
    }
}

impl Open {
    fn at(path: &Path) -> Result<Self, String> {
        let file = private::appended(path).map_err(|error| error.to_string())?;
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("it is no file".to_owned());
        }
        let began = metadata.created().or_else(|_| metadata.modified());
        Ok(Self {
            bytes: metadata.size(),
            began: began.unwrap_or_else(|_| SystemTime::now()),
            age_checked: Instant::now(),
            file,
        })
    }
}

/// A clock that was set back makes nothing old.
fn is_older(since: SystemTime, age: Duration) -> bool {
    since.elapsed().is_ok_and(|elapsed| elapsed > age)
}

/// The last lines.
#[derive(Debug)]
pub(super) struct Memory {
    lines: VecDeque<Box<str>>,
    bytes: usize,
    /// Where the first line begins. Starts at the time of the start, so that a
    /// place in the log of an earlier life is never taken for one in this.
    start: u64,
    /// Whether earlier lines were dropped.
    dropped: bool,
}

impl Memory {
    fn new() -> Self {
        Self { lines: VecDeque::new(), bytes: 0, start: clock::now_u64(), dropped: false }
    }

    fn push(&mut self, line: &str) {
        self.bytes += line.len();
        self.lines.push_back(line.into());
        while self.bytes > MEMORY
            && let Some(first) = self.lines.pop_front()
        {
            self.dropped = true;
            self.bytes -= first.len();
            self.start += first.len() as u64;
        }
    }

    /// As [`read`] does.
    pub(super) fn read(&self, from: Option<u64>, most: u64) -> Part {
        let end = self.start + self.bytes as u64;
        let start = start(self.start, end, from, most);
        let skip = usize::try_from(start - self.start).unwrap_or(usize::MAX);
        let mut text: Vec<u8> = Vec::with_capacity(self.bytes);
        self.lines.iter().for_each(|line| text.extend_from_slice(line.as_bytes()));
        let text = text.split_off(skip.min(text.len()));
        let mut begins = self.start;
        let begins_line = self.lines.iter().any(|line| {
            let here = begins == start;
            begins += line.len() as u64;
            here
        });
        Part {
            text,
            start,
            end,
            begins_line: begins_line || start == end,
            is_cut: start > self.start || self.dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(path: &Path) -> u64 {
        fs::metadata(path).unwrap().size()
    }

    fn hundred_bytes() -> String {
        format!("{}\n", "x".repeat(99))
    }

    #[test]
    fn a_full_file_is_set_aside_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbot.log");
        let mut store = Store::new(Some(&path));
        store.keep(Keep { bytes: 1000, ..Keep::default() });
        for _ in 0..50 {
            store.write(&hundred_bytes());
        }
        assert_eq!(size(&path), 1000);
        assert_eq!(size(&dir.path().join("moltbot.log.1")), 1000);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!((store.lost(), store.trouble()), (0, None));
    }

    #[test]
    fn a_file_that_cannot_be_set_aside_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbot.log");
        // A folder in its place, which also stops the superuser.
        fs::create_dir_all(dir.path().join("moltbot.log.1/full")).unwrap();
        let mut store = Store::new(Some(&path));
        store.keep(Keep { bytes: 1000, ..Keep::default() });
        for _ in 0..25 {
            store.write(&hundred_bytes());
        }
        assert_eq!(size(&path), 500);
        assert_eq!(store.lost(), 0);
    }

    #[test]
    fn old_files_are_set_aside_and_then_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbot.log");
        let mut store = Store::new(Some(&path));
        store.write(&hundred_bytes());
        let month = Duration::from_secs(31 * 24 * 60 * 60);
        let file = store.file.as_mut().unwrap();
        let open = file.open.as_mut().unwrap();
        open.began -= month;
        open.age_checked = Instant::now().checked_sub(AGE_CHECK).unwrap();
        store.write("new\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        let aside = dir.path().join("moltbot.log.1");
        assert_eq!(size(&aside), 100);
        File::open(&aside).unwrap().set_modified(SystemTime::now() - month).unwrap();
        store.file.as_mut().unwrap().open.as_mut().unwrap().age_checked =
            Instant::now().checked_sub(AGE_CHECK).unwrap();
        store.write("newer\n");
        assert!(!aside.exists());
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many_once_it_is_over() {
        // Every write to this device fails as on a full disk.
        let full = Path::new("/dev/full");
        if !full.exists() {
            return; // Linux has it.
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbot.log");
        let mut store = Store::new(Some(&path));
        store.write("one\n");
        let file = store.file.as_mut().unwrap();
        file.open.as_mut().unwrap().file = File::options().write(true).open(full).unwrap();
        store.write("two\n");
        store.write("three\n");
        assert_eq!(store.lost(), 2);
        assert!(store.trouble().unwrap().contains("moltbot.log: No space left"));
        let Source::Memory(memory) = store.source() else { panic!("the file is in trouble") };
        assert_eq!(memory.read(None, 1000).text, b"two\nthree\n");
        store.file.as_mut().unwrap().retry_at = None;
        store.write("four\n");
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[2]), ("one", "four"));
        assert!(lines[1].contains("2 lines were not written: No space left"), "{text}");
        assert_eq!(store.trouble(), None);
    }

    #[test]
    fn what_is_in_the_way_of_the_file_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("logs"), "a file, not a folder").unwrap();
        fs::create_dir(dir.path().join("moltbot.log")).unwrap();
        for path in ["logs/moltbot.log", "moltbot.log"] {
            let mut store = Store::new(Some(&dir.path().join(path)));
            store.write("one\n");
            assert_eq!(store.lost(), 1, "{path}");
            assert!(store.trouble().unwrap().contains(path));
        }
    }

    #[test]
    fn a_part_begins_where_it_was_left_or_as_far_back_as_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbot.log");
        assert_eq!(read(&path, None, 100).unwrap(), Part::default());
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let part = |from, most| {
            let part = read(&path, from, most).unwrap();
            (String::from_utf8(part.text).unwrap(), part.start, part.begins_line, part.is_cut)
        };
        assert_eq!(part(None, 100), ("one\ntwo\nthree\n".to_owned(), 0, true, false));
        assert_eq!(part(Some(4), 100), ("two\nthree\n".to_owned(), 4, true, true));
        assert_eq!(part(Some(9), 100), ("hree\n".to_owned(), 9, false, true));
        assert_eq!(part(Some(14), 100), (String::new(), 14, true, true));
        assert_eq!(part(Some(0), 6), ("three\n".to_owned(), 8, true, true));
        assert_eq!(part(Some(99), 100).1, 0);
    }

    #[test]
    fn memory_keeps_the_last_lines() {
        let mut memory = Memory::new();
        let start = memory.start;
        memory.push("one\n");
        memory.push("two\n");
        let all = memory.read(None, 100);
        assert_eq!((&*all.text, all.end - start), (&b"one\ntwo\n"[..], 8));
        assert_eq!(memory.read(Some(start + 4), 100).text, b"two\n");
        assert_eq!(memory.read(Some(3), 100), all, "a place in an earlier life");
        for _ in 0..MEMORY / 50 {
            memory.push(&hundred_bytes());
        }
        assert!(memory.bytes <= MEMORY);
        let part = memory.read(Some(start), u64::MAX);
        assert_eq!((part.text.len(), part.start > start), (memory.bytes, true));
    }
}
