//! Finding programs, and the environment they are started with.

use std::{
    env,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};
use serde_json::{Map, Value};

use crate::environment::Environment;

/// Variables that would let a caller load code into a program.
const REFUSED: [&str; 6] =
    ["NODE_OPTIONS", "PYTHONHOME", "PYTHONPATH", "PERL5LIB", "PERL5OPT", "RUBYOPT"];
const REFUSED_PREFIXES: [&str; 2] = ["DYLD_", "LD_"];
/// What opens the gateway is not for programs.
const SECRET_ENDINGS: [&str; 2] = ["TOKEN", "PASSWORD"];
const OWN_PREFIXES: [&str; 2] = ["MOLTBOT_", "CLAWDBOT_"];

/// The search path and home of this process.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    path: String,
    home: Option<PathBuf>,
}

impl Programs {
    pub(super) fn new(environment: &Environment) -> Self {
        Self {
            path: environment.var("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin").into(),
            home: environment.var("HOME").map(Into::into),
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// Returns the path of a program, looked for as a shell would.
    pub(super) fn find(&self, name: &str, path: &str, folder: &Path) -> Option<PathBuf> {
        if name.is_empty() {
            return None;
        }
        if name.contains('/') {
            let name = crate::paths::expand(name, self.home());
            return Some(folder.join(name)).filter(|path| is_program(path));
        }
        let folders = env::split_paths(OsStr::from_bytes(path.as_bytes()));
        folders.map(|place| folder.join(place).join(name)).find(|path| is_program(path))
    }

    /// Returns the allowed changes of the environment; `PATH` may only be put in
    /// front of ours.
    pub(super) fn overrides(&self, given: Option<&Map<String, Value>>) -> Vec<(String, String)> {
        let texts = given
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.trim().to_owned(), value.as_str()?.to_owned())));
        texts.filter(|(name, value)| self.may_set(name, value)).collect()
    }

    fn may_set(&self, name: &str, value: &str) -> bool {
        let upper = name.to_ascii_uppercase();
        let plain = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        let refused = REFUSED.contains(&upper.as_str())
            || REFUSED_PREFIXES.iter().any(|prefix| upper.starts_with(prefix));
        if !plain || refused {
            return false;
        }
        upper != "PATH" || value == self.path || value.ends_with(&format!(":{}", self.path))
    }
}

/// Returns whether a variable of this process is kept from programs.
pub(super) fn is_own_secret(name: &str) -> bool {
    OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Returns the spellings of a program's path that a pattern may match: as found
/// when that is unambiguous, and with its folder's links resolved.
pub(super) fn spellings(program: &Path) -> Vec<String> {
    let mut spellings = Vec::new();
    let plain =
        program.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if plain && program.is_absolute() {
        spellings.push(program.to_string_lossy().into_owned());
    }
    if let (Some(folder), Some(name)) = (program.parent(), program.file_name())
        && let Ok(folder) = folder.canonicalize()
    {
        let real = folder.join(name).to_string_lossy().into_owned();
        if !spellings.contains(&real) {
            spellings.push(real);
        }
    }
    spellings
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn programs() -> Programs {
        Programs { path: "/usr/bin:/bin".into(), home: None }
    }

    #[test]
    fn a_program_is_found_in_the_path_and_a_missing_one_is_not() {
        let found = programs().find("sh", "/nowhere:/usr/bin:/bin", Path::new("/")).unwrap();
        assert!(found.ends_with("sh"));
        assert_eq!(programs().find("no-such-program", "/usr/bin", Path::new("/")), None);
        assert!(programs().find("./sh", "", Path::new("/bin")).is_some());
    }

    #[test]
    fn variables_that_load_code_are_dropped_and_the_path_only_grows_in_front() {
        let given = json!({
            "LD_PRELOAD": "x", "DYLD_X": "x", "node_options": "x", "A": "b", "N": 5, "B=C": "x",
            "PATH": "/evil",
        });
        let kept = programs().overrides(given.as_object());
        assert_eq!(kept, [("A".to_owned(), "b".to_owned())]);
        let front = json!({ "PATH": "/opt/bin:/usr/bin:/bin" });
        assert_eq!(programs().overrides(front.as_object()).len(), 1);
    }

    #[test]
    fn our_own_secrets_are_known() {
        assert!(
            is_own_secret("MOLTBOT_GATEWAY_TOKEN") && is_own_secret("CLAWDBOT_GATEWAY_PASSWORD")
        );
        assert!(!is_own_secret("GITHUB_TOKEN") && !is_own_secret("MOLTBOT_PROFILE"));
    }

    #[test]
    fn a_path_through_a_parent_folder_has_only_its_real_spelling() {
        let spellings = spellings(Path::new("/usr/../bin/sh"));
        assert!(spellings.iter().all(|spelling| !spelling.contains("..")), "{spellings:?}");
    }
}
