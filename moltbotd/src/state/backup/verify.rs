//! `moltbotd state backup verify`.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    archive::{self, ArchiveError},
    create::{Temporary, archive_failure},
    failure,
    manifest::{self, Manifest, readable},
};
use crate::{
    boot::Failure,
    paths::per_user_temporary,
    private,
    state::{
        Place,
        report::{Report, size},
    },
    store::{self, Depth},
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified<'a> {
    file: &'a Path,
    ok: bool,
    bytes: u64,
    manifest: &'a Manifest,
}

pub(super) fn run(place: &Place, file: &Path) -> Result<Report, Failure> {
    let (database, out) = temporary(file)?;
    let mut out = Some(out);
    let mut take = |name: &str| {
        let wanted = name == manifest::DATABASE;
        Ok(if wanted { out.take().map(|out| (database.0.clone(), out)) } else { None })
    };
    let manifest = archive::open(file)
        .and_then(|backup| archive::read(backup, &mut take))
        .map_err(archive_failure)?;
    check_database(file, &database.0, &manifest, place)?;
    let lines = vec![
        format!(
            "{} is whole: {} files, {}",
            file.display(),
            manifest.files.len(),
            size(manifest.total())
        ),
        format!(
            "profile {}, made by version {}, database version {}, {}",
            readable(&manifest.profile),
            readable(&manifest.version),
            manifest.schema,
            jiff::Timestamp::from_millisecond(manifest.created_at_ms).unwrap_or_default()
        ),
    ];
    let verified = Verified { file, ok: true, bytes: manifest.total(), manifest: &manifest };
    Ok(Report::new(&verified, lines))
}

/// Refuses a database that is damaged, or that this version cannot open.
pub(super) fn check_database(
    file: &Path,
    database: &Path,
    manifest: &Manifest,
    place: &Place,
) -> Result<(), Failure> {
    let damaged = |why: String| archive_failure(ArchiveError::Damaged { path: file.into(), why });
    if !manifest.files.iter().any(|item| item.path == manifest::DATABASE) {
        return Err(damaged("it holds no database".into()));
    }
    let found = store::examine(database, Depth::Full).map_err(|error| match error {
        store::StoreError::Sqlite(error) => damaged(format!("its database is damaged: {error}")),
        error => failure(error, &place.paths),
    })?;
    match found.problems.first() {
        Some(problem) => Err(damaged(format!("its database is damaged: {problem}"))),
        None if found.schema != manifest.schema => {
            Err(damaged("its database has another version than its manifest says".into()))
        }
        None => Ok(()),
    }
}

/// Returns a file for the database: beside the backup, or where it may lie
/// on a medium that cannot be written, among this user's temporary files.
fn temporary(file: &Path) -> Result<(Temporary, File), Failure> {
    let beside = Temporary::beside(file);
    if let Ok(out) = private::new_file(&beside.0) {
        return Ok((beside, out));
    }
    let folder: PathBuf = per_user_temporary();
    private::folder(&folder)?;
    let temporary = Temporary::beside(&folder.join("verify"));
    let out = private::new_file(&temporary.0).map_err(super::io_failure(&temporary.0))?;
    Ok((temporary, out))
}
