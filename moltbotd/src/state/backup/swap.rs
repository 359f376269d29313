//! The change of the state for another: everything or nothing.
//!
//! The new files lie ready in a folder of their own. A plan that lists every
//! rename is put down durably; from then on the change is done to its end,
//! by this process or, if it is killed, by the next one that takes the locks.
//! Until then nothing of the old state has moved.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::io_failure;
use crate::{boot::Failure, lock::Guards, paths::Paths, private};

/// Beginning of the names of what is being put into place.
pub(in crate::state) const STAGE: &str = ".restore-";
/// Beginning of the names of what was put aside.
pub(in crate::state) const KEPT: &str = "before-restore-";
const PLAN: &str = ".restore-plan.json";

/// A change that is to be made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Old files, and where they are kept.
    pub(super) aside: Vec<Move>,
    /// New files, and where they belong.
    pub(super) place: Vec<Move>,
    /// The folder of the new files; removed at the end.
    pub(super) stage: PathBuf,
}

/// A rename.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Move {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
}

impl Plan {
    /// Refuses a change that could not be done to its end.
    pub(super) fn check(&self) -> Result<(), Failure> {
        for Move { to, .. } in &self.place {
            let leaves = self.aside.iter().any(|aside| aside.from == *to);
            if exists(to) && !leaves {
                return Err(Failure::Other(anyhow::anyhow!(
                    "{} is in the way; move it elsewhere and try again",
                    to.display()
                )));
            }
        }
        Ok(())
    }

    /// Puts the plan down durably: the change is made. The caller holds the
    /// locks of the state and calls [`finish`].
    pub(super) fn put_down(&self, paths: &Paths) -> Result<(), Failure> {
        let plan = plan_file(paths);
        let draft = plan.with_extension(super::create::PARTIAL);
        let text = serde_json::to_vec_pretty(self).expect("plans serialize");
        let write = || {
            use io::Write as _;
            match fs::remove_file(&draft) {
                // Left by one that was killed; the locks are the caller's.
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let mut file = private::new_file(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, &plan)?;
            sync_folder(&paths.state_dir)
        };
        if let Err(error) = write() {
            // Either is harmless: nothing was moved yet.
            let _ = fs::remove_file(&draft);
            let _ = fs::remove_file(&plan);
            return Err(io_failure(&plan)(error));
        }
        Ok(())
    }

    /// Does what is left to do.
    fn carry_out(&self, paths: &Paths) -> Result<(), Failure> {
        for Move { from, to } in &self.aside {
            // What is kept already was moved by an earlier attempt, and the
            // new file may be in its place.
            if !exists(to) {
                fs::rename(from, to).map_err(|error| stuck(from, to, &error))?;
            }
        }
        for Move { from, to } in &self.place {
            if exists(from) {
                fs::rename(from, to).map_err(|error| stuck(from, to, &error))?;
            }
        }
        for Move { from, to } in self.aside.iter().chain(&self.place) {
            for folder in [from, to].into_iter().filter_map(|path| path.parent()) {
                // A folder of the stage may be gone with an earlier attempt.
                if folder.exists() {
                    sync_folder(folder).map_err(io_failure(folder))?;
                }
            }
        }
        if exists(&self.stage) {
            fs::remove_dir_all(&self.stage).map_err(io_failure(&self.stage))?;
        }
        let plan = plan_file(paths);
        fs::remove_file(&plan).map_err(io_failure(&plan))?;
        sync_folder(&paths.state_dir).map_err(io_failure(&paths.state_dir))
    }
}

fn stuck(from: &Path, to: &Path, error: &io::Error) -> Failure {
    Failure::Other(anyhow::anyhow!(
        "cannot move {} to {}: {error}; put that right, then the next start of the gateway or \
         restore goes on",
        from.display(),
        to.display()
    ))
}

/// Ends a change that was interrupted. Takes the locks only if there is one.
pub fn finish_interrupted(paths: &Paths) -> Result<(), Failure> {
    if !exists(&plan_file(paths)) {
        return Ok(());
    }
    paths.create()?;
    let _locks = Guards::acquire(paths)?;
    finish(paths)
}

/// The same for a caller that holds the locks. What one left behind that was
/// killed before its change was made is removed.
pub fn finish(paths: &Paths) -> Result<(), Failure> {
    let file = plan_file(paths);
    match fs::read(&file) {
        Ok(text) => read(&text, &file)?.carry_out(paths)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_failure(&file)(error)),
    }
    remove_stages(paths);
    Ok(())
}

fn read(text: &[u8], file: &Path) -> Result<Plan, Failure> {
    serde_json::from_slice(text).map_err(|error| {
        Failure::Other(anyhow::anyhow!(
            "{} is no plan of a restore: {error}; move it elsewhere",
            file.display()
        ))
    })
}

/// What cannot be removed does no harm, and the check of the state names it.
fn remove_stages(paths: &Paths) {
    let entries = fs::read_dir(&paths.state_dir).into_iter().flatten().flatten();
    for entry in
        entries.filter(|it| it.file_name().as_encoded_bytes().starts_with(STAGE.as_bytes()))
    {
        let _ = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
            _ => fs::remove_file(entry.path()),
        };
    }
}

/// Returns whether a restore was interrupted.
pub(in crate::state) fn is_interrupted(paths: &Paths) -> bool {
    exists(&plan_file(paths))
}

fn plan_file(paths: &Paths) -> PathBuf {
    paths.state_dir.join(PLAN)
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Makes renames in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Old `a` and `b`, new `a` and `c`.
    fn prepared(folder: &Path) -> (Paths, Plan) {
        let paths = Paths::below(folder);
        paths.create().unwrap();
        let stage = folder.join(".restore-1");
        let kept = folder.join("before-restore-1");
        for (file, text) in [("a", "old a"), ("b", "old b")] {
            fs::write(folder.join(file), text).unwrap();
        }
        fs::create_dir(&kept).unwrap();
        fs::create_dir(&stage).unwrap();
        for (file, text) in [("a", "new a"), ("c", "new c")] {
            fs::write(stage.join(file), text).unwrap();
        }
        let moves = |from: &Path, to: &Path, names: [&str; 2]| {
            names.map(|name| Move { from: from.join(name), to: to.join(name) }).to_vec()
        };
        let plan = Plan {
            aside: moves(folder, &kept, ["a", "b"]),
            place: moves(&stage, folder, ["a", "c"]),
            stage,
        };
        (paths, plan)
    }

    fn assert_new(folder: &Path) {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!((&*read("a"), &*read("b"), &*read("c")), ("new a", "", "new c"));
        assert_eq!(read("before-restore-1/a") + &read("before-restore-1/b"), "old aold b");
        assert!(!folder.join(".restore-1").exists() && !folder.join(PLAN).exists());
    }

    #[test]
    fn a_change_that_stops_after_any_step_is_ended_later() {
        for steps in 0..=4 {
            let dir = tempfile::tempdir().unwrap();
            let (paths, plan) = prepared(dir.path());
            fs::write(plan_file(&paths), serde_json::to_vec(&plan).unwrap()).unwrap();
            for step in plan.aside.iter().chain(&plan.place).take(steps) {
                fs::rename(&step.from, &step.to).unwrap();
            }
            finish(&paths).unwrap();
            assert_new(dir.path());
            finish(&paths).unwrap();
        }
    }

    #[test]
    fn what_one_left_who_was_killed_before_the_change_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, plan) = prepared(dir.path());
        fs::write(dir.path().join(".restore-plan.partial"), "{").unwrap();
        std::os::unix::fs::symlink(dir.path().join("b"), dir.path().join(".restore-2")).unwrap();
        finish(&paths).unwrap();
        assert!(!exists(&plan.stage) && !exists(&dir.path().join(".restore-2")));
        assert!(!exists(&dir.path().join(".restore-plan.partial")));
        for left in ["a", "b", "before-restore-1"] {
            assert!(exists(&dir.path().join(left)), "{left}");
        }
    }

    #[test]
    fn a_draft_that_one_left_who_was_killed_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, plan) = prepared(dir.path());
        let draft = plan_file(&paths).with_extension(crate::state::backup::PARTIAL);
        fs::write(&draft, "{").unwrap();
        plan.put_down(&paths).unwrap();
        finish(&paths).unwrap();
        assert_new(dir.path());
        assert!(!draft.exists());
    }

    #[test]
    fn what_is_in_the_way_and_not_put_aside_is_refused_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, plan) = prepared(dir.path());
        plan.check().unwrap();
        plan.put_down(&paths).unwrap();
        finish(&paths).unwrap();
        assert_new(dir.path());
        let dir = tempfile::tempdir().unwrap();
        let (_, plan) = prepared(dir.path());
        fs::write(dir.path().join("c"), "a stranger's").unwrap();
        assert!(plan.check().unwrap_err().to_string().contains("in the way"));
    }
}
