//! `moltbotd state backup restore`.
//!
//! Nothing in a backup decides where on this host something is written: whoever
//! made it may have chosen every name in it, and the configuration may lie in a
//! home folder, between `.bashrc` and `.ssh`. So the state goes into the state
//! folder, and beside the configuration file only such files are written as the
//! gateway would read there (see [`Stage::config_files`]). The rest is unpacked
//! into a folder of the state, for a person to look at.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::Read as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    archive::{self, ArchiveError},
    create::archive_failure,
    failure, io_failure, is_ours, is_reserved,
    manifest::{self, Item, Manifest, is_visible, readable},
    swap::{self, KEPT, Move, Plan, STAGE},
    verify,
};
use crate::{
    boot::Failure,
    clock,
    lock::Guards,
    paths::Paths,
    private,
    state::{Place, check::shown, owner::Owner, report::Report},
    store::{self, Settled},
};

/// Folder of restored files whose place is outside of state and configuration.
const ELSEWHERE: &str = "restored-elsewhere";

/// Largest configuration file that is put back; the gateway reads no larger one.
const LARGEST_CONFIG_BYTES: u64 = 4 * 1024 * 1024;
/// Configuration files that are looked at together.
const MOST_CONFIG_FILES: usize = 256;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Restored<'a> {
    file: &'a Path,
    state_dir: &'a Path,
    kept: &'a Path,
    /// The configuration file that was put into place.
    config: Option<&'a Path>,
    /// What was open when the backup was made.
    ended: Settled,
    /// Files to be put back by hand.
    elsewhere: &'a [Move],
    warnings: &'a [String],
}

pub(super) fn run(place: &Place, file: &Path, with_config: bool) -> Result<Report, Failure> {
    let paths = &place.paths;
    let backup = archive::open(file).map_err(archive_failure)?;
    let _owner = Owner::of(paths)?;
    paths.create()?;
    let _locks = Guards::acquire(paths)?;
    swap::finish(paths)?;
    let stage = Stage::create(paths)?;
    let manifest = stage.unpack(backup)?;
    verify::check_database(file, &stage.database(), &manifest, place)?;
    let ended =
        store::settle(&stage.database(), clock::now_ms()).map_err(|error| failure(error, paths))?;
    let mut elsewhere = stage.elsewhere(&manifest, paths)?;
    let mut plan = Plan { stage: stage.folder.clone(), ..Plan::default() };
    let config =
        if with_config { stage.config(&manifest, place, &mut plan, &mut elsewhere)? } else { None };
    let staying = if with_config { Vec::new() } else { configuration(place) };
    let kept = stage.plan_state(paths, &staying, &mut plan)?;
    plan.check()?;
    plan.put_down(paths)?;
    // From here on the change goes on, whatever ends this process.
    stage.is_needed.set(true);
    swap::finish(paths)?;

    let warnings = warnings(place, &manifest);
    let mut lines = vec![
        format!("restored {} into {}", file.display(), paths.state_dir.display()),
        format!("what was there is kept in {}", kept.display()),
    ];
    if ended != Settled::default() {
        lines.push(format!(
            "ended, because they were open when the backup was made: {} messages to be sent, {} \
             to be answered, {} runs",
            ended.outgoing, ended.incoming, ended.runs
        ));
    }
    lines.extend(elsewhere.iter().map(by_hand));
    lines.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
    let restored = Restored {
        file,
        state_dir: &paths.state_dir,
        kept: &kept,
        config: config.as_deref(),
        ended,
        elsewhere: &elsewhere,
        warnings: &warnings,
    };
    Ok(Report::new(&restored, lines))
}

/// The new files, below the state folder. They are removed unless they are put
/// into place.
struct Stage {
    id: String,
    folder: PathBuf,
    /// Drafts beside the configuration, which may lie on another disk.
    drafts: RefCell<Vec<PathBuf>>,
    /// Whether a plan that is to be carried out speaks of them.
    is_needed: Cell<bool>,
}

impl Stage {
    fn create(paths: &Paths) -> Result<Self, Failure> {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let id = format!("{}-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"), &unique[..4]);
        let folder = paths.state_dir.join(format!("{STAGE}{id}"));
        new_folder(&folder)?;
        Ok(Self { id, folder, drafts: RefCell::default(), is_needed: Cell::default() })
    }

    fn unpack(&self, backup: (&Path, File)) -> Result<Manifest, Failure> {
        for name in ["state", "config", "database", "elsewhere"] {
            new_folder(&self.folder.join(name))?;
        }
        let mut take = |name: &str| {
            let path = self.folder.join(name);
            let write = |source| ArchiveError::Write { path: path.clone(), source };
            let folder = path.parent().expect("names have a folder");
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(write)?;
            let out = private::new_file(&path).map_err(write)?;
            Ok(Some((path.clone(), out)))
        };
        archive::read(backup, &mut take).map_err(archive_failure)
    }

    fn database(&self) -> PathBuf {
        self.folder.join(manifest::DATABASE)
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Moves files whose place is elsewhere into a folder of the state, unless
    /// the same file is in its place.
    fn elsewhere(&self, manifest: &Manifest, paths: &Paths) -> Result<Vec<Move>, Failure> {
        let mut moves = Vec::new();
        for item in &manifest.files {
            let Some(rest) = item.path.strip_prefix("elsewhere/") else { continue };
            if !is_in_place(item) {
                moves.push(self.set_aside(&item.path, rest, (&item.origin).into(), paths)?);
            }
        }
        Ok(moves)
    }

    /// Moves a file into the folder of those that are put back by hand.
    fn set_aside(
        &self,
        entry: &str,
        rest: &str,
        to: PathBuf,
        paths: &Paths,
    ) -> Result<Move, Failure> {
        rename_below(&self.folder.join(entry), &self.state().join(ELSEWHERE).join(rest))?;
        Ok(Move { from: paths.state_dir.join(ELSEWHERE).join(rest), to })
    }

    /// Plans for the configuration; returns its main file.
    fn config(
        &self,
        manifest: &Manifest,
        place: &Place,
        plan: &mut Plan,
        elsewhere: &mut Vec<Move>,
    ) -> Result<Option<PathBuf>, Failure> {
        let Some(main) = &manifest.config else { return Ok(None) };
        let paths = &place.paths;
        let wanted = self.config_files(manifest, main, place);
        for Item { path, .. } in &manifest.files {
            let Some(rest) = path.strip_prefix("config/") else { continue };
            let to = self.config_place(path, main, paths);
            let staged = self.folder.join(path);
            if !wanted.contains(&to) {
                elsewhere.push(self.set_aside(path, &format!("config/{rest}"), to, paths)?);
                continue;
            }
            match to.strip_prefix(&paths.state_dir) {
                Ok(inside) => rename_below(&staged, &self.state().join(inside))?,
                Err(_) => self.plan_outside(&staged, to, plan)?,
            }
        }
        Ok(Some(paths.config_file.clone()))
    }

    /// Returns where an entry of the configuration belongs.
    fn config_place(&self, entry: &str, main: &str, paths: &Paths) -> PathBuf {
        let target = &paths.config_file;
        match entry.strip_prefix("config/") {
            Some(rest) if entry != main => target.parent().unwrap_or(Path::new("/")).join(rest),
            _ => target.clone(),
        }
    }

    /// Returns the files of the configuration that may be written: its main
    /// file, and those that this one includes once it is in its place, if they
    /// are called like configuration, are no hidden files, lie in real folders,
    /// and replace nothing that is not configuration already.
    fn config_files(&self, manifest: &Manifest, main: &str, place: &Place) -> Vec<PathBuf> {
        let paths = &place.paths;
        let mut texts = BTreeMap::new();
        let entries = manifest.files.iter().filter(|item| item.path.starts_with("config/"));
        for Item { path, size, .. } in entries {
            if texts.len() == MOST_CONFIG_FILES || *size > LARGEST_CONFIG_BYTES {
                continue;
            }
            let text = fs::read_to_string(self.folder.join(path)).ok();
            texts.insert(self.config_place(path, main, paths), text);
        }

        let target = &paths.config_file;
        let folder = target.parent().unwrap_or(Path::new("/"));
        let present = configuration(place);
        let restored = place.source(target).load_over(texts.clone());
        let is_free = |file: &PathBuf| present.contains(file) || file.symlink_metadata().is_err();
        let included = texts.into_keys().filter(|file| {
            restored.files.contains(file) && is_config_name(file, folder) && is_free(file)
        });
        included.chain([target.clone()]).collect()
    }

    /// Plans for a file outside of the state folder.
    fn plan_outside(&self, staged: &Path, to: PathBuf, plan: &mut Plan) -> Result<(), Failure> {
        let folder = to.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| unwritable(folder, &error))?;
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let draft = folder.join(format!(".{name}{STAGE}{}", self.id));
        let copy = || {
            let mut out = private::new_file(&draft)?;
            std::io::copy(&mut File::open(staged)?, &mut out)?;
            out.sync_all()
        };
        self.drafts.borrow_mut().push(draft.clone());
        copy().map_err(|error| unwritable(folder, &error))?;
        if to.symlink_metadata().is_ok() {
            let kept = folder.join(format!("{name}.{KEPT}{}", self.id));
            plan.aside.push(Move { from: to.clone(), to: kept });
        }
        plan.place.push(Move { from: draft, to });
        Ok(())
    }

    /// Plans for the state folder: all that is in it makes room for all that
    /// is new. Returns where the old files are kept.
    fn plan_state(
        &self,
        paths: &Paths,
        staying: &[PathBuf],
        plan: &mut Plan,
    ) -> Result<PathBuf, Failure> {
        let kept = paths.state_dir.join(format!("{KEPT}{}", self.id));
        new_folder(&kept)?;
        for name in names(&paths.state_dir)? {
            let from = paths.state_dir.join(&name);
            let is_database = name.starts_with("moltbot.db");
            let stays = (is_reserved(&name) && !is_database)
                || from == paths.runtime_dir
                || from == paths.log_dir
                || staying.iter().any(|file| file.starts_with(&from));
            if !stays && !is_ours(&name) {
                plan.aside.push(Move { from, to: kept.join(name) });
            }
        }
        let staged = self.state();
        for name in names(&staged)? {
            let (from, to) = (staged.join(&name), paths.state_dir.join(name));
            plan.place.push(Move { from, to });
        }
        plan.place.push(Move { from: self.database(), to: paths.database() });
        Ok(kept)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_needed.get() {
            return;
        }
        let _ = fs::remove_dir_all(&self.folder);
        for draft in self.drafts.borrow().iter() {
            let _ = fs::remove_file(draft);
        }
        // Only while it is empty.
        if let Some(state) = self.folder.parent() {
            let _ = fs::remove_dir(state.join(format!("{KEPT}{}", self.id)));
        }
    }
}

/// Returns whether a file is called like one of the configuration and lies in
/// real folders below `folder`: a link would lead out of it.
fn is_config_name(file: &Path, folder: &Path) -> bool {
    let Ok(below) = file.strip_prefix(folder) else { return false };
    let is_plain = |part: Component<'_>| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    };
    let extension = file.extension().and_then(|extension| extension.to_str());
    let folders = below.ancestors().skip(1).map(|below| folder.join(below));
    extension.is_some_and(|it| ["json", "json5"].contains(&it))
        && below.components().all(is_plain)
        && folders
            .filter(|it| it != folder)
            .all(|it| it.symlink_metadata().map_or(true, |found| found.is_dir()))
}

/// Returns whether the file of an entry is where it came from. Nothing but a
/// regular file of the same size is opened: the path is what the backup says.
fn is_in_place(item: &Item) -> bool {
    let origin = Path::new(&item.origin);
    let is_like = |found: fs::Metadata| found.is_file() && found.len() == item.size;
    if !origin.is_absolute() || !fs::metadata(origin).is_ok_and(is_like) {
        return false;
    }
    let Ok(Some(file)) = archive::open_regular(origin) else { return false };
    sum(file.take(item.size)).is_ok_and(|sum| sum == item.sha256)
}

/// Says how a file that was set aside gets to where it belongs.
fn by_hand(Move { from, to }: &Move) -> String {
    let (from, path) = (shown(from), to.display().to_string());
    if to.is_absolute() && path.chars().all(is_visible) {
        return format!("put back by hand: install -m 600 {from} {}", shown(to));
    }
    format!("look at it yourself: {from}, which claims to belong to {:?}", readable(&path))
}

/// Returns the files of the configuration in force.
fn configuration(place: &Place) -> Vec<PathBuf> {
    let file = place.paths.config_file.clone();
    let loaded = place.source(&place.paths.config_file).inspect();
    loaded.files.into_iter().chain([file]).collect()
}

fn warnings(place: &Place, manifest: &Manifest) -> Vec<String> {
    let mut warnings: Vec<_> = place
        .source(&place.paths.config_file)
        .inspect()
        .issues
        .iter()
        .map(ToString::to_string)
        .collect();
    let profile = place.paths.profile_name();
    if manifest.profile != profile {
        warnings.push(format!(
            "the backup is of profile {}, this is profile {profile}: look at gateway.port",
            readable(&manifest.profile)
        ));
    }
    warnings
}

fn names(folder: &Path) -> Result<Vec<String>, Failure> {
    let entries = fs::read_dir(folder).map_err(io_failure(folder))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(io_failure(folder))?.file_name();
        // A name that is not UTF-8 is none of ours, and stays.
        names.extend(name.into_string());
    }
    names.sort();
    Ok(names)
}

fn new_folder(path: &Path) -> Result<(), Failure> {
    DirBuilder::new().mode(0o700).create(path).map_err(io_failure(path))
}

fn rename_below(from: &Path, to: &Path) -> Result<(), Failure> {
    let folder = to.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_failure(folder))?;
    if to.symlink_metadata().is_ok() {
        return Err(Failure::Other(anyhow::anyhow!(
            "two files of the backup belong to {}; use another backup",
            to.display()
        )));
    }
    fs::rename(from, to).map_err(io_failure(to))
}

fn unwritable(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::Other(anyhow::anyhow!(
        "cannot write to {}: {error}; make it writable, or restore the rest with: \
         moltbotctl backup restore --without-config FILE",
        folder.display()
    ))
}

fn sum(mut file: impl std::io::Read) -> std::io::Result<String> {
    use sha2::Digest as _;
    let (mut sum, mut buffer) = (sha2::Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(manifest::hex(&sum.finalize())),
            read => sum.update(&buffer[..read]),
        }
    }
}
