//! Locks under fire: real processes, hostile files, holders that are killed.

use std::{
    fs,
    io::{BufRead as _, BufReader, PipeReader},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use moltbotd::lock::pidfile;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, mkfifo},
};
use serde_json::json;
use tempfile::TempDir;

const STARTERS: usize = 8;
const ROUNDS: usize = 1000;

/// What stands where the lock's file should be.
#[derive(Clone, Copy, Debug)]
enum Found {
    Nothing,
    Empty,
    Garbage,
    Zeros,
    Stale,
    /// The note names a process that lives, but is no gateway.
    Recycled,
    ReadOnly,
    WideOpen,
    Link,
    Folder,
    Pipe,
    /// Another user's file; an ordinary user cannot make one, and meets a
    /// folder again.
    Foreign,
    /// A holder that was stopped, not ended.
    Stopped,
}

const ALL: [Found; 13] = [
    Found::Nothing,
    Found::Empty,
    Found::Garbage,
    Found::Zeros,
    Found::Stale,
    Found::Recycled,
    Found::ReadOnly,
    Found::WideOpen,
    Found::Link,
    Found::Folder,
    Found::Pipe,
    Found::Foreign,
    Found::Stopped,
];

impl Found {
    fn put(self, path: &Path) {
        let note = |pid: u32| json!({ "pid": pid, "startedAtMs": 1, "profile": "p", "version": "0", "stateDir": "/s" });
        // In place at once: a gateway that starts meanwhile may remove it.
        let write_as = |text: &[u8], mode: u32, user: Option<u32>| {
            let new = path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&new, user, None).unwrap();
            fs::rename(new, path).unwrap();
        };
        let write = |text: &[u8], mode: u32| write_as(text, mode, None);
        match self {
            Self::Nothing | Self::Stopped => {}
            Self::Empty => write(b"", 0o600),
            Self::Garbage => write(b"{\"pid\":\xff\xfe", 0o600),
            Self::Zeros => write(&[0; 4096], 0o600),
            Self::Stale => write(note(4_000_000).to_string().as_bytes(), 0o600),
            Self::Recycled => write(note(std::process::id()).to_string().as_bytes(), 0o600),
            Self::ReadOnly => write(b"{}", 0o400),
            Self::WideOpen => write(b"{}", 0o666),
            Self::Link => symlink(path.with_extension("target"), path).unwrap(),
            Self::Folder => fs::create_dir(path).unwrap(),
            Self::Pipe => mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            Self::Foreign if Uid::effective().is_root() => {
                write_as(b"{}", 0o600, Some(4242));
            }
            Self::Foreign => fs::create_dir(path).unwrap(),
        }
    }

    /// Words of the refusal that help; `None` where the lock is to be had.
    fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Link => Some("is a link; move it out of the way: mv "),
            Self::Folder => Some("is a folder; move it out of the way: mv "),
            Self::Pipe => Some("is a pipe; move it out of the way: mv "),
            Self::Foreign if Uid::effective().is_root() => Some("belongs to user 4242"),
            Self::Foreign => Some("is a folder; "),
            Self::Stopped => Some("stop it with: kill "),
            _ => None,
        }
    }
}

/// A state folder, a profile, and everybody who wants its locks.
struct Arena {
    folder: TempDir,
    profile: String,
    starters: Vec<Child>,
    lines: BufReader<PipeReader>,
    writer: std::io::PipeWriter,
}

impl Arena {
    fn new() -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let profile = format!("lk-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let folder = tempfile::tempdir().unwrap();
        Self { folder, profile, starters: Vec::new(), lines: BufReader::new(reader), writer }
    }

    /// The two files that are locked.
    fn files(&self) -> [PathBuf; 2] {
        [pidfile(Some(&self.profile)).unwrap(), self.folder.path().join("lock")]
    }

    fn clear(&self) {
        for path in self.files() {
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                fs::remove_dir(&path).unwrap();
            } else {
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn start(&mut self, mode: &str) -> u32 {
        let child = Command::new(env!("CARGO_BIN_EXE_locker"))
            .args([&*self.profile, self.folder.path().to_str().unwrap(), mode])
            .stdin(Stdio::null())
            .stdout(self.writer.try_clone().unwrap())
            .spawn()
            .unwrap();
        let pid = child.id();
        self.starters.push(child);
        pid
    }

    /// Waits for the next word of any of them.
    fn hear(&mut self) -> (u32, String) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let (pid, text) = line.trim_end().split_once(' ').unwrap();
        (pid.parse().unwrap(), text.to_owned())
    }

    fn kill(&mut self, pid: u32) {
        let at = self.starters.iter().position(|child| child.id() == pid).unwrap();
        let mut child = self.starters.swap_remove(at);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn kill_all(&mut self) {
        for child in &mut self.starters {
            child.kill().unwrap();
        }
        for mut child in self.starters.drain(..) {
            child.wait().unwrap();
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.kill_all();
        self.clear();
    }
}

/// Everybody wants the lock; whoever has it is killed, until nobody is left.
fn take_turns(arena: &mut Arena, waits: &mut Vec<Duration>) {
    for _ in 0..STARTERS {
        arena.start("again");
    }
    let mut killed: Option<Instant> = None;
    for _ in 0..STARTERS {
        let (pid, text) = arena.hear();
        waits.extend(killed.map(|at| at.elapsed()));
        assert_eq!(text, "held", "a lock was held twice");
        killed = Some(Instant::now());
        arena.kill(pid);
    }
}

/// Nobody gets the lock, and everybody is told why and what helps.
fn be_refused(arena: &mut Arena, why: &str) {
    // One that finds the first of the two locks free holds it until it meets
    // what is in the way of the second.
    for _ in 0..STARTERS {
        arena.start("again");
    }
    for _ in 0..STARTERS {
        let (_, text) = arena.hear();
        assert!(text.starts_with("refused ") && text.contains(why), "{text}");
    }
    arena.kill_all();
}

#[test]
fn eight_starters_and_a_thousand_hostile_files_never_make_two_holders() {
    let mut arena = Arena::new();
    let mut waits = Vec::new();
    let begun = Instant::now();
    for round in 0..ROUNDS {
        arena.clear();
        let found = ALL[round % ALL.len()];
        let path = arena.files()[round / ALL.len() % 2].clone();
        found.put(&path);
        if matches!(found, Found::Stopped) {
            let holder = arena.start("once");
            assert_eq!(arena.hear(), (holder, "held".to_owned()));
            let pid = Pid::from_raw(i32::try_from(holder).unwrap());
            kill(pid, Signal::SIGSTOP).unwrap();
            be_refused_by(&mut arena, holder);
            continue;
        }
        match found.refusal() {
            Some(why) => be_refused(&mut arena, why),
            None => take_turns(&mut arena, &mut waits),
        }
        assert!(!path.with_extension("target").exists(), "a link was followed");
    }
    waits.sort();
    let (middle, last) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    eprintln!(
        "{ROUNDS} rounds of {STARTERS} starters in {:.1?}; locks had again after SIGKILL {} times: \
         median {middle:.1?}, maximum {last:.1?}",
        begun.elapsed(),
        waits.len(),
    );
}

/// A stopped holder holds: the others name it, and get the lock once it is
/// killed.
fn be_refused_by(arena: &mut Arena, holder: u32) {
    for _ in 1..STARTERS {
        arena.start("once");
    }
    for _ in 1..STARTERS {
        let (_, text) = arena.hear();
        assert!(text.contains(&format!("stop it with: kill {holder}")), "{text}");
    }
    arena.kill(holder);
    let heir = arena.start("once");
    assert_eq!(arena.hear(), (heir, "held".to_owned()));
    arena.kill_all();
}
