//! Links the release program with short relocations: the ordinary ones are over a
//! megabyte of the file, and of the memory of every daemon, read once at the start.
//!
//! The linker and the C library at hand must know them (glibc does from 2.36 on), so a
//! program of one line is linked and run first; where that fails, nothing changes.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const SHORT_RELOCATIONS: &str = "-Wl,-z,pack-relative-relocs";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    let native = variable("TARGET") == variable("HOST");
    if variable("PROFILE") == "release"
        && variable("CARGO_CFG_TARGET_OS") == "linux"
        && native
        && links_and_runs(&PathBuf::from(variable("OUT_DIR")))
    {
        println!("cargo::rustc-link-arg-bins={SHORT_RELOCATIONS}");
    }
}

fn links_and_runs(folder: &Path) -> bool {
    let (source, program) = (folder.join("probe.rs"), folder.join("probe"));
    if std::fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let linked = Command::new(rustc)
        .arg(format!("-Clink-arg={SHORT_RELOCATIONS}"))
        .arg("-o")
        .args([&program, &source])
        .output()
        .is_ok_and(|output| output.status.success());
    linked && Command::new(program).status().is_ok_and(|status| status.success())
}
