//! The direction of dependence inside the daemon, read off its `use` lines and
//! compared with the map at the top of its `lib.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use moltbot_tests::programs::source_root;

#[test]
fn no_module_uses_one_above_it() {
    let source = source_root().join("moltbotd/src");
    let layers = layers(&source);
    let mut upward = Vec::new();
    for file in rust_files(&source) {
        let module = module_of(&source, &file);
        if module == "lib" {
            continue;
        }
        let own = layer(&layers, &module);
        let text = without_tests(&fs::read_to_string(&file).unwrap());
        for used in used_modules(&text) {
            if layer(&layers, &used) < own {
                upward
                    .push(format!("{} uses {used}", file.strip_prefix(&source).unwrap().display()));
            }
        }
    }
    assert!(upward.is_empty(), "upward dependence:\n{}", upward.join("\n"));
}

#[test]
fn the_contract_has_no_runtime_no_sockets_no_clock() {
    for file in rust_files(&source_root().join("protocol/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["tokio::", "std::net", "std::time::", "std::fs", "std::env"] {
            assert!(!text.contains(word), "{} mentions {word}", file.display());
        }
    }
}

/// A shell would read what peers say as commands, and a program found through `PATH` may be
/// another one. `tailscale` is run by its absolute path after its owner and mode were checked.
#[test]
fn the_daemon_starts_programs_in_one_place_and_never_a_shell() {
    let source = source_root().join("moltbotd/src");
    let mut places = Vec::new();
    for file in rust_files(&source) {
        let text = without_tests(&fs::read_to_string(&file).unwrap());
        if text.contains("Command::new") {
            places.push(file.strip_prefix(&source).unwrap().to_owned());
        }
        for shell in ["/bin/sh", "/bin/bash", "\"-c\""] {
            assert!(!text.contains(shell), "{} mentions {shell}", file.display());
        }
    }
    assert_eq!(places, [Path::new("tailscale/program.rs")]);
}

#[test]
fn nested_groups_are_read() {
    let text = "use crate::{\n    bus::{Bus, outbox},\n    store::Store,\n};\nuse crate::clock;\n\
                fn f() { crate::net::run(); }\n";
    assert_eq!(used_modules(text), ["bus", "store", "clock", "net"]);
}

/// Returns the lines of the map, from top to bottom. A module may use what is
/// on its own line or below.
fn layers(source: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(source.join("lib.rs")).unwrap();
    let map = text.split("//! ```text\n").nth(1).and_then(|rest| rest.split("//! ```").next());
    let names = |line: &str| {
        let words = line.trim_start_matches("//!").split_whitespace();
        words.filter(|word| *word != "·").map(str::to_owned).collect()
    };
    map.unwrap().lines().map(names).collect()
}

fn layer(layers: &[Vec<String>], module: &str) -> usize {
    layers
        .iter()
        .position(|line| line.iter().any(|name| name == module))
        .unwrap_or_else(|| panic!("{module} is missing in the map of moltbotd/src/lib.rs"))
}

fn module_of(source: &Path, file: &Path) -> String {
    let first = file.strip_prefix(source).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Unit tests stand at the end of a file and may use anything.
fn without_tests(text: &str) -> String {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
}

/// Returns the top-level modules named after `crate::`, those in a group
/// included.
fn used_modules(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).fold(
        String::new(),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    );
    let mut found = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        // `moltbot_crate::` and the like are other crates.
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &code[at + word.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group_heads(group));
        } else {
            found.push(identifier(rest));
        }
    }
    // Types re-exported at the root and macros are not modules.
    found.retain(|name| name.starts_with(|first: char| first.is_ascii_lowercase()));
    found
}

/// Returns the first word of every entry of a group, up to its closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut start = true;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            letter if start && !letter.is_whitespace() => {
                heads.push(identifier(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}
