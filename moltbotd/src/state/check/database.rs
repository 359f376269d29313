//! Whether the database is whole, and of a version that this program knows.

use super::{Findings, Severity};
use crate::{
    paths::Paths,
    store::{self, Depth, StoreError},
};

pub(super) fn look(paths: &Paths, findings: &mut Findings) {
    let file = paths.database();
    if !file.exists() {
        return;
    }
    let place = file.display().to_string();
    let restore = || Some("moltbotctl backup restore FILE".to_owned());
    match store::examine(&file, Depth::Quick) {
        Ok(found) => {
            for problem in found.problems {
                let what = format!("it is damaged: {problem}");
                findings.add("database", Severity::Error, &place, what, restore());
            }
        }
        Err(error @ StoreError::Newer { .. }) => {
            let what =
                format!("{error}: use the version of moltbotd that wrote it, or a later one");
            let command = Some("moltbotd --version".to_owned());
            findings.add("database", Severity::Error, place, what, command);
        }
        Err(StoreError::File(error)) => {
            findings.add("database", Severity::Error, place, error, None);
        }
        Err(error) => {
            let what = format!("it cannot be read: {error}");
            findings.add("database", Severity::Error, place, what, restore());
        }
    }
}
