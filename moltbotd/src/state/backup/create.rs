//! `moltbotd state backup create`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    archive::{ArchiveError, Writer},
    failure, io_failure, is_reserved,
    manifest::{self, FORMAT, LeftOut, Manifest},
};
use crate::{
    boot::Failure,
    clock,
    config::Loaded,
    paths::{Paths, expand_home},
    private,
    state::{
        Place,
        report::{Report, size},
    },
    store::{self, Depth},
};

/// Keys of the configuration that name a file with a secret.
pub(in crate::state) const SECRET_FILES: [&str; 4] = ["tokenFile", "certPath", "keyPath", "caPath"];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    file: &'a Path,
    bytes: u64,
    manifest: &'a Manifest,
}

pub(super) fn run(place: &Place, output: Option<&Path>) -> Result<Report, Failure> {
    let paths = &place.paths;
    if !paths.database().exists() {
        return Err(Failure::Other(anyhow::anyhow!(
            "there is no state in {}; see where it is looked for with: moltbotctl where",
            paths.state_dir.display()
        )));
    }
    let output = output.map_or_else(|| default_name(paths), Path::to_owned);
    let output = std::path::absolute(&output).map_err(io_failure(&output))?;
    let partial = Partial::create(&output)?;
    let manifest = write(place, &partial)?;
    let bytes = fs::metadata(&partial.path).map_err(io_failure(&partial.path))?.len();
    partial.publish(&output)?;
    let mut lines = vec![format!(
        "{} ({}, {} files, database version {})",
        output.display(),
        size(bytes),
        manifest.files.len(),
        manifest.schema
    )];
    let left_out = manifest.left_out.iter();
    lines.extend(left_out.map(|LeftOut { path, why }| format!("left out: {path}: {why}")));
    lines.push("it holds tokens and conversations: keep it where only you can read it".into());
    Ok(Report::new(&Created { file: &output, bytes, manifest: &manifest }, lines))
}

fn default_name(paths: &Paths) -> PathBuf {
    let at = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    format!("moltbot-{}-{at}.tar.gz", paths.profile_name()).into()
}

fn write(place: &Place, partial: &Partial) -> Result<Manifest, Failure> {
    let paths = &place.paths;
    let copy = Temporary::beside(&partial.path);
    store::copy(&paths.database(), &copy.0).map_err(|error| failure(error, paths))?;
    let found = store::examine(&copy.0, Depth::Full).map_err(|error| failure(error, paths))?;
    if let Some(problem) = found.problems.first() {
        return Err(Failure::Other(anyhow::anyhow!(
            "the database {} is damaged: {problem}; restore a backup, or look at it with: \
             moltbotctl doctor",
            paths.database().display()
        )));
    }
    let loaded = place.source(&paths.config_file).inspect();

    let file = partial.open()?;
    let mut writer = Writer::new(&partial.path, file);
    writer.add(manifest::DATABASE, &copy.0, &paths.database()).map_err(archive_failure)?;
    drop(copy);
    let mut taken =
        Taken { writer, paths, known: vec![partial.path.clone()], left_out: Vec::new() };
    let config = taken.config(&loaded)?;
    taken.folder(&paths.state_dir, "state")?;
    taken.elsewhere(&loaded)?;
    let Taken { writer, left_out, .. } = taken;
    let manifest = |files| Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        schema: found.schema,
        profile: paths.profile_name().into(),
        created_at_ms: clock::now_ms(),
        config,
        files,
        left_out,
    };
    Ok(writer.finish(manifest).map_err(archive_failure)?.1)
}

/// What goes into a backup besides the database. The database was copied
/// first, so every file that it speaks of was there by then.
struct Taken<'a> {
    writer: Writer,
    paths: &'a Paths,
    /// Files that are in it, or belong into none.
    known: Vec<PathBuf>,
    left_out: Vec<LeftOut>,
}

impl Taken<'_> {
    /// Adds the configuration; returns the entry of its main file.
    fn config(&mut self, loaded: &Loaded) -> Result<Option<String>, Failure> {
        let main = &self.paths.config_file;
        if let Err(error) = fs::metadata(main) {
            if error.kind() == io::ErrorKind::NotFound {
                return Ok(None);
            }
            return Err(io_failure(main)(error));
        }
        let name = main.file_name().and_then(|name| name.to_str()).unwrap_or("moltbot.json");
        let entry = format!("config/{name}");
        self.add(&entry, main)?;
        let folder = main.parent().and_then(|folder| folder.canonicalize().ok());
        let own = main.canonicalize().ok();
        for file in loaded.files.iter().filter(|file| *file != main && Some(*file) != own.as_ref())
        {
            let inside = folder.as_ref().and_then(|folder| file.strip_prefix(folder).ok());
            match inside.and_then(Path::to_str) {
                Some(inside) => self.add(&format!("config/{inside}"), file)?,
                None => self.outside(file)?,
            }
        }
        Ok(Some(entry))
    }

    /// Adds the files of a folder and those below it.
    fn folder(&mut self, folder: &Path, name: &str) -> Result<(), Failure> {
        let mut entries: Vec<_> = fs::read_dir(folder)
            .and_then(|entries| entries.collect::<Result<_, _>>())
            .map_err(io_failure(folder))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let Some(own) = entry.file_name().to_str().map(str::to_owned) else {
                self.leave_out(&path, "its name is not UTF-8");
                continue;
            };
            if self.is_known(&path) || (name == "state" && is_reserved(&own)) {
                continue;
            }
            let kind = entry.file_type().map_err(io_failure(&path))?;
            let entry = format!("{name}/{own}");
            if kind.is_dir() {
                self.folder(&path, &entry)?;
            } else if kind.is_file() {
                self.add(&entry, &path)?;
            } else {
                self.leave_out(&path, "it is no plain file");
            }
        }
        Ok(())
    }

    /// Adds files with secrets that the configuration names.
    fn elsewhere(&mut self, loaded: &Loaded) -> Result<(), Failure> {
        let mut named = Vec::new();
        secret_files(&loaded.resolved, &mut named);
        for file in named {
            if self.is_known(&file) {
                continue;
            }
            if fs::metadata(&file).is_ok_and(|found| found.is_file()) {
                self.outside(&file)?;
            } else {
                self.leave_out(&file, "the configuration names it, but it is not there");
            }
        }
        Ok(())
    }

    fn outside(&mut self, file: &Path) -> Result<(), Failure> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("file");
        let entry = format!("elsewhere/{}/{name}", self.known.len());
        self.add(&entry, file)
    }

    fn add(&mut self, entry: &str, file: &Path) -> Result<(), Failure> {
        self.writer.add(entry, file, file).map_err(archive_failure)?;
        self.known.push(file.to_owned());
        self.known.extend(file.canonicalize().ok());
        Ok(())
    }

    fn is_known(&self, path: &Path) -> bool {
        let folders = [&self.paths.runtime_dir, &self.paths.log_dir];
        self.known.iter().any(|known| known == path)
            || folders.contains(&&path.to_owned())
            || path.extension().is_some_and(|extension| extension == PARTIAL)
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        self.left_out.push(LeftOut { path: path.display().to_string(), why: why.into() });
    }
}

fn secret_files(value: &Value, found: &mut Vec<PathBuf>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(path) if SECRET_FILES.contains(&&**key) && !path.trim().is_empty() => {
                        found.push(expand_home(path));
                    }
                    _ => secret_files(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| secret_files(item, found)),
        _ => {}
    }
}

/// Ending of files that are being written.
pub(in crate::state) const PARTIAL: &str = "partial";

/// The backup while it is written: under another name, so that what bears the
/// name is whole.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn create(output: &Path) -> Result<Self, Failure> {
        let taken = || {
            let error = anyhow::anyhow!("{} is there already; give another name", output.display());
            Failure::Other(error)
        };
        if output.symlink_metadata().is_ok() {
            return Err(taken());
        }
        let name = output.file_name().ok_or_else(taken)?.to_string_lossy();
        let id = uuid::Uuid::new_v4().simple();
        Ok(Self { path: output.with_file_name(format!(".{name}.{id}.{PARTIAL}")) })
    }

    fn open(&self) -> Result<fs::File, Failure> {
        private::new_file(&self.path).map_err(io_failure(&self.path))
    }

    fn publish(self, output: &Path) -> Result<(), Failure> {
        fs::rename(&self.path, output).map_err(io_failure(output))?;
        let folder = output.parent().unwrap_or(Path::new("/"));
        super::swap::sync_folder(folder).map_err(io_failure(folder))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already when it got its name.
        let _ = fs::remove_file(&self.path);
    }
}

/// A file that is removed when it is no longer needed.
pub(super) struct Temporary(pub(super) PathBuf);

impl Temporary {
    /// Names a file in the same folder.
    pub(super) fn beside(path: &Path) -> Self {
        let id = uuid::Uuid::new_v4().simple();
        Self(path.with_file_name(format!(".moltbot-{id}.db.{PARTIAL}")))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn archive_failure(error: ArchiveError) -> Failure {
    Failure::Other(error.into())
}
