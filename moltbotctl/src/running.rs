//! What the gateway of a profile wrote down about its process. The note sits in
//! the file it holds locked; a gateway that was killed leaves it behind.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    sys::signal::kill,
    unistd::{Pid, Uid},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::paths::Paths;

/// How often the list of locks is looked through before one is missing.
const LOOKS: usize = 8;
/// Most that is read of a lock's file.
const LONGEST_NOTE_BYTES: u64 = 4096;

/// A running gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Process id.
    pub pid: u32,
    /// When it started, in milliseconds since the epoch.
    pub started_at_ms: u64,
    /// Its version.
    pub version: String,
    /// Where it listens, such as `127.0.0.1:18789`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Running {
    /// Returns the gateway that runs on these paths.
    #[must_use]
    pub fn find(paths: &Paths) -> Option<Self> {
        serde_json::from_value(note(&paths.state_dir.join("lock"))?).ok()
    }

    /// Returns the process that holds the profile's lock.
    #[must_use]
    pub fn holder(paths: &Paths) -> Option<u32> {
        Self::find(paths).map(|running| running.pid)
    }

    /// Returns the port it listens on.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.address.as_ref()?.rsplit(':').next()?.parse().ok()
    }
}

/// Returns what a lock's file says, if the process it names lives and holds it.
/// The kernel's list of locks confirms that where there is one, so that a number
/// that is somebody else's by now is not taken for a gateway.
#[must_use]
pub fn note(file: &Path) -> Option<Value> {
    let file = open_ours(file)?;
    let inode = file.metadata().ok()?.ino();
    let mut text = String::new();
    file.take(LONGEST_NOTE_BYTES).read_to_string(&mut text).ok()?;
    let note: Value = serde_json::from_str(&text).ok()?;
    let pid = note.get("pid")?.as_u64().and_then(|pid| u32::try_from(pid).ok())?;
    (lives(pid) && is_held(inode, pid)).then_some(note)
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

/// The kernel tells a long list in parts, and leaves one out where others come
/// and go in between: only one that is missing every time is missing.
fn is_held(inode: u64, pid: u32) -> bool {
    (0..LOOKS)
        .any(|_| fs::read_to_string("/proc/locks").map_or(true, |locks| holds(&locks, inode, pid)))
}

/// Returns the notes of all gateways in the places where the daemon puts its
/// pidfiles, as far as this user may read them.
#[must_use]
pub fn all() -> Vec<Value> {
    let uid = Uid::effective();
    let mut folders =
        vec![format!("/run/user/{uid}").into(), PathBuf::from(format!("/tmp/moltbot-{uid}"))];
    // Anybody can make the one below `/tmp`.
    folders.retain(|folder| {
        fs::metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == uid.as_raw())
    });
    folders.extend(entries(Path::new("/run")).filter(|path| is_named(path, "moltbot")));
    let files = folders.iter().flat_map(|folder| entries(folder));
    files.filter(|path| is_named(path, "moltbotd")).filter_map(|path| note(&path)).collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is_named(path: &Path, start: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(start))
}

/// Lines are such as `1: FLOCK  ADVISORY  WRITE 4242 fd:01:131 0 EOF`. The
/// device is not compared: some file systems show another one here.
fn holds(locks: &str, inode: u64, pid: u32) -> bool {
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", .., holder, file, _, _] = words[..] else { return false };
        let at = file.rsplit(':').next().and_then(|at| at.parse::<u64>().ok());
        holder.parse() == Ok(pid) && at == Some(inode)
    })
}

/// A process nobody has waited for yet is dead all the same.
fn lives(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']));
    !ended && matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        sync::atomic::{AtomicBool, Ordering},
    };

    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    fn paths(folder: &Path) -> Paths {
        Paths {
            profile: None,
            config_file: folder.join("moltbot.json"),
            state_dir: folder.into(),
            client_state_dir: folder.into(),
            runtime_dir: folder.into(),
            system_runtime_dir: None,
        }
    }

    fn write_and_lock(file: &Path, pid: u32) -> Flock<File> {
        fs::write(file, note(pid)).unwrap();
        Flock::lock(File::open(file).unwrap(), FlockArg::LockExclusiveNonblock).unwrap()
    }

    fn note(pid: u32) -> String {
        format!(
            r#"{{"pid":{pid},"startedAtMs":1,"profile":"default","version":"1","stateDir":"/","address":"[::1]:7"}}"#
        )
    }

    #[test]
    fn a_living_process_is_found_with_its_port() {
        let folder = tempfile::tempdir().unwrap();
        let _held = write_and_lock(&folder.path().join("lock"), std::process::id());
        assert_eq!(Running::find(&paths(folder.path())).unwrap().port(), Some(7));
    }

    #[test]
    fn only_the_holder_of_the_lock_is_the_gateway() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:2f:131 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4242 fd:01:131 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 9 fd:01:131 0 EOF\n";
        assert!(holds(locks, 131, 4242));
        assert!(!holds(locks, 131, 7) && !holds(locks, 131, 9) && !holds(locks, 132, 4242));
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lock"), note(std::process::id())).unwrap();
        // This process lives and has not locked it.
        assert_eq!(Running::holder(&paths(folder.path())), None);
        assert_eq!(Running::find(&paths(folder.path())), None);
        assert_eq!(super::note(&folder.path().join("lock")), None);
    }

    #[test]
    fn a_gateway_is_found_on_a_host_whose_locks_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lock");
        let _held = write_and_lock(&file, std::process::id());
        // More of them than the kernel tells at once.
        let others = (0..100).map(|number| folder.path().join(format!("other{number}")));
        let others: Vec<_> = others.map(|path| File::create(path).unwrap()).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    others.iter().for_each(|file| file.lock().unwrap());
                    others.iter().for_each(|file| file.unlock().unwrap());
                }
            });
            let found = (0..1000).filter(|_| super::note(&file).is_some()).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(found, 1000);
        });
    }

    #[test]
    fn what_others_put_beside_the_notes_is_neither_followed_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let _held = write_and_lock(&at("elsewhere"), std::process::id());
        std::os::unix::fs::symlink(at("elsewhere"), at("moltbotd-link.pid")).unwrap();
        assert_eq!(super::note(&at("moltbotd-link.pid")), None);
        let pipe = at("moltbotd-pipe.pid");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (told, looked) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(super::note(&pipe)));
        // It would wait for a writer, and none comes.
        assert_eq!(looked.recv_timeout(std::time::Duration::from_secs(60)), Ok(None));
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
    fn a_process_that_ended_but_was_not_waited_for_does_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        fs::write(folder.path().join("lock"), note(child.id())).unwrap();
        while lives(child.id()) {
            std::thread::yield_now();
        }
        assert_eq!(Running::find(&paths(folder.path())), None);
        child.wait().unwrap();
        assert_eq!(Running::find(&paths(folder.path())), None);
    }
}
