//! Whose files and folders are, who may read them, and what was left behind.

use std::{
    fs::{self, File, Metadata, Permissions},
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use moltbot_settings::{
    account::{give_back, owned_by_root},
    book::Book,
};
use nix::unistd::{Gid, Group, Uid, User};

use super::{Findings, Severity};
use crate::{
    paths::Paths,
    private,
    state::backup::{self, KEPT, PARTIAL, STAGE},
};

/// Most files that are looked at: media may be many.
const MOST_FILES: usize = 100_000;
const OTHERS: u32 = 0o077;
const WRITABLE_BY_OTHERS: u32 = 0o022;

pub(super) fn look(paths: &Paths, configuration: &[PathBuf], findings: &mut Findings) {
    match fs::metadata(&paths.state_dir) {
        Ok(state) if is_foreign(&state) => return foreign_state(paths, &state, findings),
        Ok(_) => {
            let mut left = MOST_FILES;
            walk(&paths.state_dir, &mut left, findings);
            leftovers(paths, findings);
        }
        Err(_) => missing(&paths.state_dir, Severity::Note, "no gateway ran here yet", findings),
    }
    // A client of another gateway keeps its device key in the same folder.
    if !paths.log_dir.exists() && paths.database().exists() {
        missing(&paths.log_dir, Severity::Warning, "the folder of the logs is missing", findings);
    }
    for file in configuration {
        if !file.starts_with(&paths.state_dir) {
            config_file(file, findings);
        }
    }
}

fn is_foreign(metadata: &Metadata) -> bool {
    metadata.uid() != Uid::effective().as_raw()
}

/// Everything else would be a guess about another user's gateway.
fn foreign_state(paths: &Paths, state: &Metadata, findings: &mut Findings) {
    let owner = name_of(state.uid());
    // Root does not come here: it looks as the owner.
    let me = name_of(Uid::effective().as_raw());
    let command = format!("sudo chown -R {me} {}", shown(&paths.state_dir));
    let what = format!("it belongs to {owner}, so a gateway of this user does not start");
    findings.add("owner", Severity::Error, paths.state_dir.display(), what, Some(command));
}

fn missing(folder: &Path, severity: Severity, what: &str, findings: &mut Findings) {
    let command = format!("mkdir -p -m 700 {}", shown(folder));
    let make = || private::folder(folder).map(|_| ());
    findings.repairable("folder", severity, folder, what, command, make);
}

fn walk(path: &Path, left: &mut usize, findings: &mut Findings) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if *left == 0 || metadata.is_symlink() {
        return;
    }
    *left -= 1;
    judge(path, &metadata, findings);
    if !metadata.is_dir() {
        return;
    }
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().for_each(|entry| walk(&entry.path(), left, findings)),
        Err(error) => {
            let command = format!("chmod u+rwx {}", shown(path));
            findings.add("permissions", Severity::Error, path.display(), error, Some(command));
        }
    }
}

fn judge(path: &Path, metadata: &Metadata, findings: &mut Findings) {
    if is_foreign(metadata) {
        let what = format!("it belongs to {}", name_of(metadata.uid()));
        let me = name_of(Uid::effective().as_raw());
        let command = format!("sudo chown {me} {}", shown(path));
        return findings.add("owner", Severity::Error, path.display(), what, Some(command));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        let severity =
            if mode & WRITABLE_BY_OTHERS != 0 { Severity::Error } else { Severity::Warning };
        let what = format!("others can get at it (mode {mode:04o})");
        let command = format!("chmod go-rwx {}", shown(path));
        let narrow = || chmod(path, mode & !OTHERS);
        findings.repairable("permissions", severity, path, what, command, narrow);
    }
}

/// A configuration may belong to root, and a group may read it.
fn config_file(path: &Path, findings: &mut Findings) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.mode() & 0o7777;
    if !is_foreign(&metadata) {
        return judge(path, &metadata, findings);
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        let what = format!("others can change it (mode {mode:04o}), so it is refused");
        let command = format!("sudo chmod go-w {}", shown(path));
        findings.add("permissions", Severity::Error, path.display(), what, Some(command));
    }
}

/// The gateway's user reads the configuration, and keeps copies in the folder
/// beside it. What root wrote there with the rights of its own is in the way.
pub(super) fn configuration_access(paths: &Paths, findings: &mut Findings) {
    let file = &paths.config_file;
    let me = name_of(Uid::effective().as_raw());
    let sudo = if Uid::current().is_root() { "" } else { "sudo " };
    if let Err(error) = File::open(file)
        && error.kind() == ErrorKind::PermissionDenied
    {
        let whose = whose(file).unwrap_or_else(|| "unknown".into());
        let what = format!("the gateway's user {me} may not read it ({whose})");
        let command = format!("{sudo}chown {me}: {0} && {sudo}chmod 600 {0}", shown(file));
        let repair = || hand_over(file, 0o600);
        findings.repairable("permissions", Severity::Error, file, &what, command, repair);
    }

    let copies = Book::of(file).folder();
    let Ok(found) = fs::symlink_metadata(&copies) else { return };
    let is_own = |folder: &Path| fs::metadata(folder).is_ok_and(|found| !is_foreign(&found));
    // Beside a configuration that only root may write it is right.
    if is_foreign(&found) && copies.parent().is_some_and(is_own) {
        let whose = whose(&copies).unwrap_or_else(|| "unknown".into());
        let what = format!(
            "the gateway's user {me} may not use it ({whose}), so clients cannot change settings"
        );
        let command = format!("{sudo}chown -R {me}: {}", shown(&copies));
        let repair = || hand_over_folder(&copies);
        findings.repairable("permissions", Severity::Error, &copies, &what, command, repair);
    }
}

/// Returns owner, group and mode, as people know them.
fn whose(path: &Path) -> Option<String> {
    let found = fs::symlink_metadata(path).ok()?;
    let group = Group::from_gid(Gid::from_raw(found.gid())).ok().flatten();
    let group = group.map_or_else(|| found.gid().to_string(), |group| group.name);
    Some(format!("{}:{group} {:04o}", name_of(found.uid()), found.mode() & 0o7777))
}

fn hand_over(path: &Path, mode: u32) -> Result<(), private::Error> {
    give_back(path, mode)
        .map_err(|source| private::Error::Io { path: path.display().to_string(), source })
}

/// The folder last: until then only root can put anything into it.
fn hand_over_folder(folder: &Path) -> Result<(), private::Error> {
    let failed = |source| private::Error::Io { path: folder.display().to_string(), source };
    for file in owned_by_root(folder).map_err(failed)? {
        hand_over(&file, 0o600)?;
    }
    hand_over(folder, 0o700)
}

fn chmod(path: &Path, mode: u32) -> Result<(), private::Error> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|source| private::Error::Io { path: path.display().to_string(), source })
}

/// What restores, backups and imports that were killed left behind. It is
/// named and not removed.
fn leftovers(paths: &Paths, findings: &mut Findings) {
    let interrupted = backup::is_interrupted(paths);
    if interrupted {
        let what = "a restore was interrupted; the next start of the gateway ends it";
        findings.add("leftover", Severity::Warning, paths.state_dir.display(), what, None);
    }
    let entries = fs::read_dir(&paths.state_dir).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let command = Some(format!("rm -r {}", shown(&path)));
        if name.starts_with(KEPT) {
            let what = "the state before a restore; remove it once it is not needed";
            findings.add("leftover", Severity::Note, path.display(), what, command);
        } else if !interrupted
            && (name.starts_with(STAGE) || name.ends_with(&format!(".{PARTIAL}")))
        {
            let what = "left behind by a backup, restore or import that was killed";
            findings.add("leftover", Severity::Warning, path.display(), what, command);
        }
    }
}

fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// Returns a path as one types it into a shell.
pub(in crate::state) fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@:+,=%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
