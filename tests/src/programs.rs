//! The built executables.
//!
//! Cargo tells only a package's own tests where its binaries are, so the
//! harness finds them beside itself and has Cargo bring them up to date once
//! per process.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::ports;

/// Names a folder that already holds the executables; nothing is built then.
pub const FOLDER_VARIABLE: &str = "MOLTBOT_TESTS_BIN_DIR";

/// Names the folder of the packages.
pub const PACKAGES_VARIABLE: &str = "MOLTBOT_TESTS_PACKAGES";

/// Returns the path of `moltbotd`.
#[must_use]
pub fn moltbotd() -> PathBuf {
    folder().join("moltbotd")
}

/// Returns the path of `moltbotctl`.
#[must_use]
pub fn moltbotctl() -> PathBuf {
    folder().join("moltbotctl")
}

/// Returns the folder of the Debian packages that `tests/run` built.
///
/// # Panics
///
/// When they are not there.
#[must_use]
pub fn packages() -> PathBuf {
    let folder = std::env::var_os(PACKAGES_VARIABLE).map_or_else(
        || folder().parent().expect("a profile's folder has a parent").join("packages"),
        PathBuf::from,
    );
    assert!(folder.is_dir(), "no packages in {}: run tests/run", folder.display());
    folder
}

/// Copies a program to where a test runs it.
///
/// A process of its own does: what this one has open to write, a process that
/// another test starts meanwhile inherits for a moment, and such a file cannot
/// be run ("text file busy").
///
/// # Panics
///
/// When it cannot be copied.
pub fn install(program: &Path, at: &Path) {
    let status = Command::new("install").args(["-m", "755"]).args([program, at]).status();
    assert!(status.expect("install can be run").success(), "{} is copied", program.display());
}

/// Writes a script to where a test runs it.
///
/// # Panics
///
/// When it cannot be written.
pub fn install_script(text: &str, at: &Path) {
    let draft = at.with_extension("draft");
    std::fs::write(&draft, text).expect("the folder is writable");
    install(&draft, at);
}

/// Returns the top folder of the sources.
#[must_use]
pub fn source_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is inside the workspace")
}

fn folder() -> &'static Path {
    // No test runs a program of ours without passing here.
    ports::occupy_default();

    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os(FOLDER_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => build(),
    })
}

fn build() -> PathBuf {
    let own = std::env::current_exe().expect("the running program has a path");
    let folder = own
        .ancestors()
        .find(|folder| folder.join(".fingerprint").is_dir())
        .expect("tests run inside a Cargo target folder")
        .to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "moltbotd", "-p", "moltbotctl", "--bins"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.arg("--target-dir").arg(folder.parent().expect("a profile's folder has a parent"));
    let status = cargo.current_dir(source_root()).status().expect("cargo starts");
    assert!(status.success(), "moltbotd and moltbotctl do not build");
    folder
}
