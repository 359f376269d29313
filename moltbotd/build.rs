//! Lays out the release program so that little of it comes into memory: every page that is
//! touched counts, and the kernel brings in its neighbours with it.
//!
//! * Short relocations: the ordinary ones are over a megabyte, read once at the start. The linker
//!   and the C library at hand must know them (glibc does from 2.36 on).
//! * What the compiler takes for cold stands apart.
//! * The functions that an idle gateway runs stand side by side, as `layout/order.ld` lists them;
//!   in the order of the compiler they are spread over the whole program. `layout/record` makes
//!   that list. A function it names and the program does not have is passed over.
//!
//! Each is tried on a program of one line first; where that does not link and run, it is left out.
//! `MOLTBOT_LAYOUT_MAP` names a file for the linker's map instead, and then no order is made.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const SHORT_RELOCATIONS: &str = "-Wl,-z,pack-relative-relocs";
const COLD_APART: &str = "-Wl,-z,keep-text-section-prefix";
const ORDER: &str = "layout/order.ld";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ORDER}");
    println!("cargo::rerun-if-env-changed=MOLTBOT_LAYOUT_MAP");
    let variable = |name| env::var(name).unwrap_or_default();
    let native = variable("TARGET") == variable("HOST");
    if variable("PROFILE") != "release" || variable("CARGO_CFG_TARGET_OS") != "linux" || !native {
        return;
    }
    let last = match variable("MOLTBOT_LAYOUT_MAP") {
        map if map.is_empty() => format!("-Wl,-T,{}/{ORDER}", variable("CARGO_MANIFEST_DIR")),
        map => format!("-Wl,-Map,{map}"),
    };
    let folder = PathBuf::from(variable("OUT_DIR"));
    for argument in [SHORT_RELOCATIONS, COLD_APART, &last] {
        if links_and_runs(argument, &folder) {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}

fn links_and_runs(argument: &str, folder: &Path) -> bool {
    let (source, program) = (folder.join("probe.rs"), folder.join("probe"));
    if std::fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let linked = Command::new(rustc)
        .arg(format!("-Clink-arg={argument}"))
        .arg("-o")
        .args([&program, &source])
        .output()
        .is_ok_and(|output| output.status.success());
    linked && Command::new(program).status().is_ok_and(|status| status.success())
}
