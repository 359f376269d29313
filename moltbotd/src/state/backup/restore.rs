//! `moltbotd state backup restore`.

use std::{
    cell::{Cell, RefCell},
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    archive::{self, ArchiveError},
    create::archive_failure,
    failure, io_failure, is_ours, is_reserved,
    manifest::{self, Item, Manifest},
    swap::{self, KEPT, Move, Plan, STAGE},
    verify,
};
use crate::{
    boot::Failure,
    clock,
    lock::Guards,
    paths::Paths,
    private,
    state::{Place, owner::Owner, report::Report},
    store::{self, Settled},
};

/// Folder of restored files whose place is outside of state and configuration.
const ELSEWHERE: &str = "restored-elsewhere";

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
    let elsewhere = stage.elsewhere(&manifest, paths)?;
    let mut plan = Plan { stage: stage.folder.clone(), ..Plan::default() };
    let config = if with_config { stage.config(&manifest, paths, &mut plan)? } else { None };
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
    lines.extend(elsewhere.iter().map(|Move { from, to }| {
        format!("put back by hand: install -m 600 {} {}", from.display(), to.display())
    }));
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
    /// the same file is in its place: nothing in a backup decides where on
    /// this host something is written.
    fn elsewhere(&self, manifest: &Manifest, paths: &Paths) -> Result<Vec<Move>, Failure> {
        let mut moves = Vec::new();
        for Item { path, origin, sha256, .. } in &manifest.files {
            let Some(rest) = path.strip_prefix("elsewhere/") else { continue };
            if fs::read(origin).is_ok_and(|there| sum(&there) == *sha256) {
                continue;
            }
            let staged = self.state().join(ELSEWHERE).join(rest);
            rename_below(&self.folder.join(path), &staged)?;
            let from = paths.state_dir.join(ELSEWHERE).join(rest);
            moves.push(Move { from, to: origin.into() });
        }
        Ok(moves)
    }

    /// Plans for the configuration; returns its main file.
    fn config(
        &self,
        manifest: &Manifest,
        paths: &Paths,
        plan: &mut Plan,
    ) -> Result<Option<PathBuf>, Failure> {
        let Some(main) = &manifest.config else { return Ok(None) };
        let target = &paths.config_file;
        let folder = target.parent().unwrap_or(Path::new("/"));
        for Item { path, .. } in &manifest.files {
            let Some(rest) = path.strip_prefix("config/") else { continue };
            let to = if path == main { target.clone() } else { folder.join(rest) };
            let staged = self.folder.join(path);
            match to.strip_prefix(&paths.state_dir) {
                Ok(inside) => rename_below(&staged, &self.state().join(inside))?,
                Err(_) => self.plan_outside(&staged, to, plan)?,
            }
        }
        Ok(Some(target.clone()))
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
            manifest.profile
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

fn sum(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    manifest::hex(&sha2::Sha256::digest(bytes))
}
