//! One gateway per host and profile, one per state folder, one per
//! configuration file.
//!
//! The locks are the kernel's: they end with the process, however it ends, so
//! none can go stale. What the files say is for people. The third guard is the
//! port, which the listener binds.
//!
//! The pidfile's place does not depend on flags or on what a shell exported,
//! or two gateways of one user could miss each other: `/run/moltbot[-NAME]`
//! where a system unit made that folder for this user, else `/run/user/UID`,
//! else `/tmp/moltbot-UID`. It is per user: a place that every user can write
//! to would let any of them keep the others' gateways from starting.
//!
//! The configuration's lock is a hidden file beside it, because the file itself
//! is replaced whenever it is edited; only where this user cannot write it is
//! the file itself.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    libc,
    sys::signal::kill,
    unistd::{Pid, Uid},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    paths::{self, Paths},
    private,
};

/// How often the list of locks is looked through before one is missing.
const LOOKS: usize = 8;

/// Most that is read of a lock's file.
const LONGEST_NOTE_BYTES: u64 = 4096;
/// How often a lock is tried that vanished between opening and locking, or
/// whose file names nobody that holds it, and how soon again then: a gateway
/// that removes what others left behind holds theirs for a moment, and so does
/// one that has not written its note yet. On a busy host that takes a while.
const ATTEMPTS: usize = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// The locks of a running gateway; dropping them lets another one start.
#[derive(Debug)]
pub struct Guards {
    host: Held,
    state: Held,
    config: Option<Held>,
    note: Mutex<Note>,
}

/// What a lock's file says about its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// Process id.
    pub pid: u32,
    /// When it started, in milliseconds since the epoch.
    pub started_at_ms: i64,
    /// Its profile.
    pub profile: String,
    /// Its version.
    pub version: String,
    /// Its folder.
    pub state_dir: String,
    /// Where it listens, once it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another gateway holds it.
    #[error("{}", conflict(.path, .holder.as_deref()))]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// What the file says; `None` when it names nobody that runs.
        holder: Option<Box<Note>>,
    },
    /// Another gateway reads the same configuration.
    #[error("{}", shared(.path, .holder.as_deref()))]
    Shared {
        /// The configuration file.
        path: PathBuf,
        /// What is known about the other one.
        holder: Option<Box<Note>>,
    },
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] private::Error),
    /// The system said no.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Guards {
    /// Takes all locks or none.
    pub fn acquire(paths: &Paths) -> Result<Self, LockError> {
        let note = Note {
            pid: process::id(),
            started_at_ms: clock::now_ms(),
            profile: paths.profile_name().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            state_dir: paths.state_dir.display().to_string(),
            address: None,
        };
        let host = Held::take(&pidfile(paths.profile.as_deref())?, &note)?;
        let state = Held::take(&paths.state_dir.join("lock"), &note)?;
        let config = configuration(&paths.config_file, &note)?;
        Ok(Self { host, state, config, note: Mutex::new(note) })
    }

    /// Writes down where the gateway listens.
    pub fn listening(&self, address: &str) {
        let mut note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        note.address = Some(address.into());
        for held in [&self.host, &self.state].into_iter().chain(&self.config) {
            held.write(&note);
        }
    }
}

/// Returns the gateway of this user that listens on a port, as it wrote down.
#[must_use]
pub fn listener(port: u16) -> Option<Note> {
    let user = Path::new("/run/user").join(Uid::effective().to_string());
    let mut folders = vec![user, paths::per_user_temporary()];
    // Anybody can make the one below `/tmp`.
    folders.retain(|folder| is_our_folder(folder));
    let system = fs::read_dir("/run").into_iter().flatten().flatten();
    folders.extend(system.map(|entry| entry.path()).filter(|path| is_named(path, "moltbot")));
    let notes = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    notes
        .map(|entry| entry.path())
        .filter(|path| is_named(path, "moltbotd"))
        .filter_map(|path| living(&path))
        .find(|note| note.listens_on(port) && note.pid != process::id())
}

/// Returns the process that holds the lock of a file; `None` where nobody does
/// or the kernel has no list of locks to look at. It tells a long one in parts,
/// and leaves a lock out where others come and go in between: only one that is
/// missing every time is missing.
#[must_use]
pub fn holder(path: &Path) -> Option<u32> {
    let inode = fs::metadata(path).ok()?.ino();
    (0..LOOKS).find_map(|_| holder_in(&locks().ok()?, inode))
}

fn locks() -> io::Result<String> {
    fs::read_to_string("/proc/locks")
}

/// Removes what this user's gateways of other profiles left behind that were
/// killed. A file that somebody holds stays, and so does everything else that
/// the folder holds.
pub fn remove_stale(paths: &Paths) {
    let Ok(own) = pidfile(paths.profile.as_deref()) else { return };
    let removed = own.parent().map_or(0, remove_stale_in);
    if removed > 0 {
        tracing::info!(removed, "notes of killed gateways removed");
    }
}

fn remove_stale_in(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_pidfile = |path: &PathBuf| {
        is_named(path, "moltbotd") && path.extension().is_some_and(|end| end == "pid")
    };
    entries.map(|entry| entry.path()).filter(is_pidfile).filter(|path| remove_free(path)).count()
}

/// Removes a file of ours unless somebody holds its lock; returns whether it
/// did.
fn remove_free(path: &Path) -> bool {
    let Some(file) = open_ours(path) else { return false };
    let owned = |found: fs::Metadata| found.uid() == Uid::effective().as_raw();
    if !file.metadata().is_ok_and(owned) {
        return false;
    }
    // Whoever opened it meanwhile sees that it is gone, and opens it again.
    let Ok(held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return false };
    is_at(&held, path) && fs::remove_file(path).is_ok()
}

/// Lines are such as `1: FLOCK  ADVISORY  WRITE 4242 fd:01:131 0 EOF`. The
/// device is not compared: some file systems show another one here.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", .., holder, file, _, _] = words[..] else { return None };
        let at: u64 = file.rsplit(':').next()?.parse().ok()?;
        (at == inode).then(|| holder.parse().ok()).flatten()
    })
}

/// Returns what a lock's file says if the process it names holds it.
fn living(path: &Path) -> Option<Note> {
    living_by(path, locks)
}

/// Where the kernel shows no list of locks, as in a unit that has
/// `ProcSubset=pid`, a process that lives is believed to hold it.
fn living_by(path: &Path, locks: impl Fn() -> io::Result<String>) -> Option<Note> {
    let mut file = open_ours(path)?;
    let inode = file.metadata().ok()?.ino();
    let note = read(&mut file)?;
    let holds = |locks: String| holder_in(&locks, inode) == Some(note.pid);
    let is_held = (0..LOOKS).any(|_| locks().map_or(true, holds));
    (is_held && lives(note.pid)).then_some(note)
}

/// A process nobody has waited for yet is dead all the same; one of another
/// user may be hidden.
fn lives(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']));
    !ended && matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

/// Opens a lock's file to read what it says. Others may have put something
/// there: what is no plain file is neither followed nor waited for, and what is
/// theirs says nothing.
fn open_ours(path: &Path) -> Option<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let found = file.metadata().ok()?;
    (found.is_file() && is_believed(path, found.uid(), Uid::effective())).then_some(file)
}

/// Root looks after everybody's gateways. Right below `/run` only root makes
/// folders, and says whose files are in them.
fn is_believed(path: &Path, owner: u32, user: Uid) -> bool {
    owner == user.as_raw() || user.is_root() || path.starts_with("/run")
}

fn is_our_folder(path: &Path) -> bool {
    let uid = Uid::effective().as_raw();
    fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == uid)
}

fn is_named(path: &Path, start: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(start))
}

impl Note {
    /// Returns what identifies the gateway, for people.
    #[must_use]
    pub fn identity(&self) -> String {
        let uptime = uptime((clock::now_ms() - self.started_at_ms) / 1000);
        format!("pid {}, profile {}, up {uptime}", self.pid, self.profile)
    }

    fn listens_on(&self, port: u16) -> bool {
        let own = self.address.as_ref().and_then(|address| address.rsplit(':').next());
        own == Some(&*port.to_string())
    }
}

/// Locks the configuration; `None` where there is no folder for it yet, and so
/// nothing to share.
fn configuration(file: &Path, note: &Note) -> Result<Option<Held>, LockError> {
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return Ok(None) };
    let lock = folder.join(format!(".{}.gateway", name.display()));
    let held = match Held::take(&lock, note) {
        Err(LockError::File(_)) => Held::borrow(&file)?,
        Err(LockError::Held { holder, .. }) => {
            return Err(LockError::Shared { path: file, holder });
        }
        held => Some(held?),
    };
    Ok(held)
}

/// A locked file. It is removed before the lock is given up, so that nothing
/// is left behind; whoever opened it meanwhile sees that it is another file
/// and opens it again.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    file: Flock<File>,
    /// It exists for something else: it is neither written nor removed.
    borrowed: bool,
}

impl Held {
    fn take(path: &Path, note: &Note) -> Result<Self, LockError> {
        Self::take_by(path, note, || thread::sleep(PAUSE))
    }

    fn take_by(path: &Path, note: &Note, mut pause: impl FnMut()) -> Result<Self, LockError> {
        for left in (0..ATTEMPTS).rev() {
            let (file, _) = private::file(path)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) if is_at(&file, path) => {
                    let held = Self { path: path.into(), file, borrowed: false };
                    held.write(note);
                    return Ok(held);
                }
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK)) => {
                    let holder = living(path).map(Box::new);
                    if holder.is_some() || left == 0 {
                        return Err(LockError::Held { path: path.into(), holder });
                    }
                    pause();
                }
                Err((_, errno)) => {
                    return Err(LockError::Io { path: path.into(), source: errno.into() });
                }
            }
        }
        Err(LockError::Io { path: path.into(), source: io::ErrorKind::WouldBlock.into() })
    }

    /// Locks a file that can only be read; `None` where it cannot.
    fn borrow(path: &Path) -> Result<Option<Self>, LockError> {
        let Ok(file) = File::open(path) else { return Ok(None) };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { path: path.into(), file, borrowed: true })),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(LockError::Shared { path: path.into(), holder: None })
            }
            // Some file systems know no locks; the other guards still hold.
            Err(_) => Ok(None),
        }
    }

    /// Failing does not matter: the note is information, the lock is held.
    fn write(&self, note: &Note) {
        if self.borrowed {
            return;
        }
        let _ = self.try_write(note);
    }

    fn try_write(&self, note: &Note) -> io::Result<()> {
        let mut text = serde_json::to_vec(note)?;
        text.push(b'\n');
        // At once: whoever reads meanwhile finds the former note or this one.
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.borrowed && is_at(&self.file, &self.path) {
            // A file that stays does no harm.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

fn read(file: &mut File) -> Option<Note> {
    let mut text = String::new();
    file.take(LONGEST_NOTE_BYTES).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Returns the file whose lock keeps a second gateway of a profile from
/// starting on this host; makes its folder.
pub fn pidfile(profile: Option<&str>) -> Result<PathBuf, private::Error> {
    let suffix = profile.map_or(String::new(), |name| format!("-{name}"));
    let by_system = Path::new("/run").join(format!("moltbot{suffix}"));
    let of_user = Path::new("/run/user").join(Uid::effective().to_string());
    let folder = match [by_system, of_user].into_iter().find(|folder| is_our_folder(folder)) {
        Some(folder) => folder,
        None => {
            let folder = paths::per_user_temporary();
            private::folder(&folder)?;
            folder
        }
    };
    Ok(folder.join(format!("moltbotd{suffix}.pid")))
}

fn conflict(path: &Path, holder: Option<&Note>) -> String {
    let Some(holder) = holder else {
        return format!(
            "another gateway is running and holds {0}; find it with: fuser {0}",
            path.display()
        );
    };
    let Note { pid, started_at_ms, profile, version, state_dir, address } = holder;
    let uptime = uptime((clock::now_ms() - started_at_ms) / 1000);
    let address = address.as_ref().map_or(String::new(), |address| format!(", at {address}"));
    format!(
        "another gateway is running: pid {pid}, profile {profile}, up {uptime}{address}, \
         version {version}, state in {state_dir}; stop it with: kill {pid}"
    )
}

fn shared(path: &Path, holder: Option<&Note>) -> String {
    let who = holder.map_or_else(
        || format!("; find it with: fuser {}", path.display()),
        |note| format!(": {}", note.identity()),
    );
    format!(
        "{} is the configuration of another gateway that runs{who}; give each its own: \
         moltbotctl profile create NAME",
        path.display()
    )
}

fn uptime(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{} s", seconds.max(0)),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        note_of(process::id())
    }

    fn note_of(pid: u32) -> Note {
        Note {
            pid,
            started_at_ms: clock::now_ms() - 7_500_000,
            profile: "work".into(),
            version: "0.1.0".into(),
            state_dir: "/state".into(),
            address: Some("127.0.0.1:18789".into()),
        }
    }

    /// A process that has ended.
    fn nobody() -> u32 {
        let mut child = process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    /// Locks a file that another process wrote.
    fn lock(path: &Path, pid: u32) -> Flock<File> {
        fs::write(path, serde_json::to_string(&note_of(pid)).unwrap()).unwrap();
        Flock::lock(File::open(path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap()
    }

    #[test]
    fn a_second_holder_is_refused_and_told_about_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let first = Held::take(&path, &note()).unwrap();
        let text = Held::take(&path, &note()).unwrap_err().to_string();
        let pid = process::id();
        let (process, kill) = (format!("pid {pid}, "), format!("kill {pid}"));
        for part in [&*process, "profile work", "up 2 h 5 min", "at 127.0.0.1:18789", &kill] {
            assert!(text.contains(part), "{text}");
        }
        drop(first);
        assert!(!path.exists());
        Held::take(&path, &note()).unwrap();
    }

    #[test]
    fn only_what_nobody_holds_is_removed_of_what_the_killed_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["moltbotd-a.pid", "moltbotd.pid", "moltbotd.sock", "other.pid"] {
            fs::write(at(name), "{\"pid\":1}").unwrap();
        }
        fs::create_dir(at("moltbotd-folder.pid")).unwrap();
        std::os::unix::fs::symlink(at("other.pid"), at("moltbotd-link.pid")).unwrap();
        let held = Held::take(&at("moltbotd-b.pid"), &note()).unwrap();
        // Only root can give files away, and only root could remove them then.
        let foreign = if Uid::effective().is_root() { "moltbotd-c.pid" } else { "other.pid" };
        fs::write(at(foreign), "{\"pid\":1}").unwrap();
        if Uid::effective().is_root() {
            std::os::unix::fs::chown(at(foreign), Some(4242), None).unwrap();
        }
        assert_eq!(remove_stale_in(dir.path()), 2);
        let left = ["moltbotd-b.pid", "moltbotd.sock", foreign, "moltbotd-folder.pid"];
        assert!(left.iter().all(|name| at(name).exists()));
        assert!(at("moltbotd-link.pid").is_symlink());
        drop(held);
    }

    #[test]
    fn a_starter_waits_for_the_one_who_removes_its_stale_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbotd.pid");
        for _ in 0..200 {
            fs::write(&path, "{\"pid\":1}").unwrap();
            thread::scope(|scope| {
                scope.spawn(|| remove_free(&path));
                drop(Held::take(&path, &note()).unwrap());
            });
        }
    }

    #[test]
    fn a_starter_outwaits_one_who_removes_its_stale_file_on_a_busy_host() {
        assert!(PAUSE * u32::try_from(ATTEMPTS).unwrap() >= Duration::from_secs(1));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbotd.pid");
        let mut remover = Some(lock(&path, nobody()));
        let mut pauses = 0;
        let held = Held::take_by(&path, &note(), || {
            pauses += 1;
            if pauses == ATTEMPTS / 2 {
                fs::remove_file(&path).unwrap();
                remover = None;
            }
        });
        held.unwrap();
    }

    #[test]
    fn a_note_of_a_gateway_that_ended_names_nobody_to_kill() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbotd.pid");
        let pid = nobody();
        let _remover = lock(&path, pid);
        let error = Held::take_by(&path, &note(), || {}).unwrap_err();
        assert!(matches!(error, LockError::Held { holder: None, .. }), "{error}");
        let text = error.to_string();
        assert!(!text.contains("kill") && !text.contains(&pid.to_string()), "{text}");
    }

    #[test]
    fn a_holder_is_found_where_the_list_of_locks_is_hidden() {
        let hidden = || Err(io::ErrorKind::NotFound.into());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moltbotd.pid");
        let held = Held::take(&path, &note()).unwrap();
        assert_eq!(living_by(&path, hidden).unwrap().pid, process::id());
        // A list that is there is believed.
        assert_eq!(living_by(&path, || Ok(String::new())), None);
        drop(held);
        let _held = lock(&path, nobody());
        assert_eq!(living_by(&path, hidden), None);
    }

    #[test]
    fn what_others_put_beside_the_notes_is_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _held = Held::take(&at("elsewhere"), &note()).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("moltbotd-link.pid")).unwrap();
        assert_eq!(living(&at("moltbotd-link.pid")), None);
        let pipe = at("moltbotd-pipe.pid");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (told, looked) = std::sync::mpsc::channel();
        thread::spawn(move || told.send(living(&pipe)));
        // It would wait for a writer, and none comes.
        assert_eq!(looked.recv_timeout(Duration::from_secs(60)), Ok(None));
    }

    #[test]
    fn files_of_others_say_nothing_except_to_root_and_in_places_of_root() {
        let (user, root) = (Uid::from_raw(1000), Uid::from_raw(0));
        let (system, public) = (Path::new("/run/moltbot/x"), Path::new("/tmp/moltbot-1000/x"));
        assert!(is_believed(public, 1000, user) && is_believed(system, 1000, user));
        assert!(is_believed(public, 1001, root) && is_believed(system, 1001, root));
        assert!(is_believed(system, 1001, user));
        assert!(!is_believed(public, 1001, user) && !is_believed(public, 0, user));
    }

    #[test]
    fn the_kernel_says_who_holds_a_lock() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:2f:131 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4242 fd:01:131 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 9 fd:01:132 0 EOF\n";
        assert_eq!(holder_in(locks, 131), Some(4242));
        assert_eq!(holder_in(locks, 133), None);
    }

    #[test]
    fn what_an_unlocked_file_says_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in
            [("empty", ""), ("garbage", "{\"pid\":"), ("stale", "{\"pid\":1}"), ("null", "\0\0\0")]
        {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            let note = note();
            let held = Held::take(&path, &note).unwrap();
            assert_eq!(read(&mut File::open(&held.path).unwrap()), Some(note));
        }
    }

    #[test]
    fn a_holder_whose_note_is_garbage_still_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let _held = Held::take(&path, &note()).unwrap();
        fs::write(&path, "garbage").unwrap();
        let error = Held::take(&path, &note()).unwrap_err();
        assert!(matches!(error, LockError::Held { holder: None, .. }), "{error}");
        assert!(error.to_string().contains("fuser"));
    }

    #[test]
    fn many_starters_leave_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for _ in 0..50 {
            let holders = thread::scope(|scope| {
                let starters: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| Held::take(&path, &note()).ok())).collect();
                let held: Vec<_> =
                    starters.into_iter().filter_map(|starter| starter.join().unwrap()).collect();
                held.len()
            });
            assert_eq!(holders, 1);
        }
    }

    #[test]
    fn a_configuration_has_one_gateway_however_it_is_called_and_edited() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("moltbot.json"), dir.path().join("link"));
        assert!(configuration(&dir.path().join("none/moltbot.json"), &note()).unwrap().is_none());
        fs::write(&file, "{}").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let held = configuration(&file, &note()).unwrap();
        assert!(held.is_some());
        // An edit replaces the file.
        fs::write(dir.path().join("new"), "{ }").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        for path in [&file, &link] {
            let text = configuration(path, &note()).unwrap_err().to_string();
            let holder = format!("pid {}, profile work", process::id());
            assert!(text.contains(&holder), "{text}");
            assert!(text.contains("moltbotctl profile create"), "{text}");
        }
        drop(held);
        assert!(configuration(&link, &note()).unwrap().is_some());
    }

    #[test]
    fn a_configuration_that_can_only_be_read_is_locked_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("moltbot.json");
        fs::write(&file, "{}").unwrap();
        let held = Held::borrow(&file).unwrap();
        assert!(matches!(Held::borrow(&file), Err(LockError::Shared { holder: None, .. })));
        drop(held);
        assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
    }
}
