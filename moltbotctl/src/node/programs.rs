//! Finding programs.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

use super::account::Account;

/// Where programs of this node are looked for.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    path: String,
    home: PathBuf,
}

impl Programs {
    pub(super) fn new(account: &Account) -> Self {
        Self { path: account.path.clone(), home: account.home.clone() }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// Returns the path of the program that a word of a command line names; `~/`
    /// is the account's home folder.
    pub(super) fn find(&self, name: &str, folder: &Path) -> Option<PathBuf> {
        let expanded = crate::paths::expand(name, Some(&self.home));
        self.find_literally(expanded.to_str()?, folder)
    }

    /// Returns the path of the program that a word of a script names, looked for
    /// as a shell does.
    pub(super) fn find_literally(&self, name: &str, folder: &Path) -> Option<PathBuf> {
        if name.is_empty() {
            return None;
        }
        if name.contains('/') {
            return Some(folder.join(name)).filter(|path| is_program(path));
        }
        let folders = std::env::split_paths(OsStr::from_bytes(self.path.as_bytes()));
        folders.map(|place| place.join(name)).find(|path| is_program(path))
    }
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
impl Programs {
    pub(super) fn of_test() -> Self {
        Self { path: "/usr/bin:/bin".into(), home: "/nowhere".into() }
    }

    pub(super) fn at_home(self, home: &Path) -> Self {
        Self { home: home.into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_the_path_and_a_missing_one_is_not() {
        let programs = Programs { path: "/nowhere:/usr/bin:/bin".into(), home: "/bin".into() };
        let found = programs.find("sh", Path::new("/")).unwrap();
        assert!(found.ends_with("sh"));
        assert_eq!(programs.find("no-such-program", Path::new("/")), None);
        assert!(programs.find("./sh", Path::new("/bin")).is_some());
        assert!(programs.find("~/sh", Path::new("/")).is_some());
        assert_eq!(programs.find_literally("~/sh", Path::new("/")), None);
    }

    #[test]
    fn a_path_through_a_parent_folder_has_only_its_real_spelling() {
        let spellings = spellings(Path::new("/usr/../bin/sh"));
        assert!(spellings.iter().all(|spelling| !spelling.contains("..")), "{spellings:?}");
    }
}
