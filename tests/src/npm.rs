//! The programs that `tests/run` installs from npm.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::programs;

/// Names another folder with the installed packages.
pub const FOLDER_VARIABLE: &str = "MOLTBOT_TESTS_NODE_MODULES";

/// Returns a command that runs a script of a package, for example
/// `clawdbot/dist/entry.js`, in an empty environment and the given home.
///
/// # Panics
///
/// When the package is not installed: `tests/run` does that.
#[must_use]
pub fn script(path: &str, home: &Path) -> Command {
    let script = folder().join(path);
    assert!(script.is_file(), "{} is missing; tests/run installs it", script.display());
    let mut command = prepared(home);
    command.arg(script);
    command
}

/// Returns a command that runs a program of a few lines, which may require the
/// packages.
///
/// # Panics
///
/// When the packages are not installed: `tests/run` does that.
#[must_use]
pub fn program(code: &str, home: &Path) -> Command {
    let folder = folder();
    assert!(folder.is_dir(), "{} is missing; tests/run installs it", folder.display());
    let mut command = prepared(home);
    command.env("NODE_PATH", folder).args(["--eval", code]);
    command
}

fn prepared(home: &Path) -> Command {
    let mut command = on_a_leash(&node());
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .env("NO_COLOR", "1")
        .current_dir(home)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    command
}

/// Has the program ended when the test is killed and cannot do it, where
/// util-linux is there.
fn on_a_leash(program: &Path) -> Command {
    let leash = Path::new("/usr/bin/setpriv");
    if !leash.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(leash);
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

fn folder() -> PathBuf {
    std::env::var_os(FOLDER_VARIABLE)
        .map_or_else(|| programs::source_root().join("tests/node_modules"), PathBuf::from)
}

/// The packages want a newer Node than many systems have, so one comes with
/// them where npm carries one.
fn node() -> PathBuf {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let carried = folder().join(format!("node-{}-{architecture}/bin/node", std::env::consts::OS));
    if carried.is_file() { carried } else { PathBuf::from("node") }
}
