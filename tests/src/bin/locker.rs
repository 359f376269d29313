//! Takes a gateway's locks the way the daemon does, says so, and keeps them
//! until it is killed. For tests that need thousands of starts.
//!
//! `locker PROFILE STATE_DIR once|again`: `again` tries until it has them.
//!
//! A second, unrelated lock is the witness: whoever gets the first one while
//! somebody else still has the witness holds it twice.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    process::{ExitCode, id},
    time::Duration,
};

use moltbotd::{
    lock::{Guards, LockError},
    paths::Paths,
};
use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile, state_dir, mode] = &arguments[..] else { return ExitCode::from(64) };
    let paths =
        Paths { profile: Some(profile.clone()), ..Paths::below(Path::new(state_dir.as_str())) };
    let result = loop {
        match Guards::acquire(&paths) {
            Err(LockError::Held { .. }) if mode == "again" => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => break result,
        }
    };
    match result {
        Err(error) => {
            say(&format!("refused {error}"));
            ExitCode::FAILURE
        }
        Ok(guards) => {
            say(if witnessed(&paths) { "held" } else { "double" });
            // Until it is killed.
            std::thread::sleep(Duration::from_secs(600));
            drop(guards);
            ExitCode::SUCCESS
        }
    }
}

/// One write, so that lines of several processes do not mix.
fn say(text: &str) {
    let line = format!("{} {}\n", id(), text.replace('\n', " "));
    // Nobody listens any more when this fails.
    let _ = std::io::stdout().write_all(line.as_bytes());
}

/// Takes the witness. It is opened after the locks, so that a dying process
/// gives it back before them.
fn witnessed(paths: &Paths) -> bool {
    let path = paths.state_dir.join("witness");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let Ok(file) = file else { return false };
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let taken = fcntl(&file, FcntlArg::F_SETLK(&whole)).is_ok();
    // Open for as long as the process lives.
    std::mem::forget(file);
    taken
}
