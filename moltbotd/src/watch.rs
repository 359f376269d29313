//! Tells when files change.
//!
//! The folders are watched rather than the files, because most editors write a
//! new file and rename it. What the system tells is only a hint to look: files
//! are compared by what identifies their content, links are followed, folders
//! may come and go. A slow look now and then finds what the system did not tell
//! (network file systems, exhausted limits).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::Notify, task, time};

/// How often is looked without a hint.
const LOOK: Duration = Duration::from_secs(10);
/// How many links in a row are followed.
const LINKS: usize = 8;
/// How often a file may change again before it is read anyway.
const RESTLESS: usize = 20;

/// Watches some files.
#[derive(Debug)]
pub struct Watch {
    files: Vec<PathBuf>,
    seen: Seen,
    /// Watched folders with what identifies them: one that is made anew has to
    /// be watched anew.
    folders: BTreeMap<PathBuf, Identity>,
    watcher: Option<RecommendedWatcher>,
    hints: Arc<Hints>,
}

/// What the system's hints are measured by.
#[derive(Debug, Default)]
struct Hints {
    /// The files, and every folder and link on the way to them: other files
    /// beside them may change all the time.
    matter: Mutex<BTreeSet<PathBuf>>,
    look: Notify,
}

type Identity = (u64, u64);
/// What identifies the content of each file; `None` where there is none.
type Seen = BTreeMap<PathBuf, Option<(Identity, u64, i64, i64)>>;

impl Watch {
    /// Begins to watch. Where the system cannot tell about changes, they are
    /// found by looking.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        let hints = Arc::<Hints>::default();
        let watcher = watcher(Arc::clone(&hints))
            .map_err(|error| tracing::warn!(%error, "file changes are noticed with a delay"))
            .ok();
        let folders = BTreeMap::new();
        let mut watch = Self { files: Vec::new(), seen: Seen::new(), folders, watcher, hints };
        watch.follow(files);
        watch
    }

    /// Watches these files from now on. One that is new counts as changed,
    /// because it may have changed since the caller read it.
    pub fn follow(&mut self, files: Vec<PathBuf>) {
        self.seen.retain(|file, _| files.contains(file));
        self.files = files;
        self.arm();
    }

    /// Waits until a file has changed and has then been left alone for a while.
    pub async fn changed(&mut self, quiet: Duration) {
        loop {
            let _ = time::timeout(LOOK, self.hints.look.notified()).await;
            let mut now = self.look().await;
            if now == self.seen {
                continue;
            }
            for _ in 0..RESTLESS {
                time::sleep(quiet).await;
                let later = self.look().await;
                let still = later == now;
                now = later;
                if still {
                    break;
                }
            }
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    /// Looks at the files, and watches folders that have come.
    async fn look(&mut self) -> Seen {
        self.arm();
        let files = self.files.clone();
        // A file system may be slow, or hang.
        task::spawn_blocking(move || look(&files)).await.unwrap_or_else(|_| self.seen.clone())
    }

    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let ways: BTreeSet<PathBuf> = self.files.iter().flat_map(|file| ways(file)).collect();
        let wanted: BTreeSet<PathBuf> = ways.iter().filter_map(|way| folder(way)).collect();
        let matter = ways.iter().flat_map(|way| way.ancestors()).map(Path::to_owned).collect();
        *self.hints.matter.lock().unwrap_or_else(PoisonError::into_inner) = matter;
        let gone: Vec<PathBuf> = self
            .folders
            .iter()
            .filter(|(folder, known)| {
                !wanted.contains(*folder) || identity(folder) != Some(**known)
            })
            .map(|(folder, _)| folder.clone())
            .collect();
        for folder in gone {
            let _ = watcher.unwatch(&folder); // The system forgets a folder that went by itself.
            self.folders.remove(&folder);
        }
        for folder in wanted {
            let Some(found) = identity(&folder) else { continue };
            if self.folders.contains_key(&folder) {
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.folders.insert(folder, found)),
                Err(error) => tracing::debug!(%error, folder = %folder.display(), "not watched"),
            }
        }
    }
}

impl Hints {
    fn take(&self, event: &notify::Result<notify::Event>) {
        let matter = self.matter.lock().unwrap_or_else(PoisonError::into_inner);
        let matters = match event {
            // Reading a file, ours included, changes nothing.
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
            Ok(event) => {
                event.paths.is_empty() || event.paths.iter().any(|path| matter.contains(path))
            }
            Err(_) => true,
        };
        if matters {
            self.look.notify_one();
        }
    }
}

fn watcher(hints: Arc<Hints>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event| hints.take(&event))
}

/// Returns a file, each link on the way to it, and where that ends.
fn ways(file: &Path) -> Vec<PathBuf> {
    let mut ways = vec![file.to_owned()];
    for _ in 0..LINKS {
        let last = &ways[ways.len() - 1];
        let Ok(target) = fs::read_link(last) else { break };
        let next = last.parent().unwrap_or(Path::new("/")).join(target);
        ways.push(next);
    }
    // A link may also be one of the folders.
    ways.extend(file.canonicalize());
    ways
}

/// Returns the folder of a file; of folders that are not there, the nearest
/// one around them.
fn folder(file: &Path) -> Option<PathBuf> {
    file.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_owned)
}

fn look(files: &[PathBuf]) -> Seen {
    let state = |file: &PathBuf| {
        let found = fs::metadata(file).ok()?;
        let changed = found.ctime().wrapping_mul(1_000_000_000).wrapping_add(found.ctime_nsec());
        let written = found.mtime().wrapping_mul(1_000_000_000).wrapping_add(found.mtime_nsec());
        Some(((found.dev(), found.ino()), found.size(), written, changed))
    };
    files.iter().map(|file| (file.clone(), state(file))).collect()
}

fn identity(folder: &Path) -> Option<Identity> {
    let found: io::Result<fs::Metadata> = fs::metadata(folder);
    found.ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(20);

    async fn noticed(watch: &mut Watch) {
        time::timeout(Duration::from_secs(60), watch.changed(QUIET)).await.expect("a change");
    }

    #[tokio::test]
    async fn files_are_noticed_however_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/moltbot.json");
        let mut watch = Watch::new(vec![file.clone()]);
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(&file, "1").unwrap();
        noticed(&mut watch).await;
        fs::write(&file, "22").unwrap();
        noticed(&mut watch).await;
        fs::write(dir.path().join("a/new"), "33").unwrap();
        fs::rename(dir.path().join("a/new"), &file).unwrap();
        noticed(&mut watch).await;
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        noticed(&mut watch).await;
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(&file, "1").unwrap();
        noticed(&mut watch).await;
        fs::write(&file, "again").unwrap();
        noticed(&mut watch).await;
    }

    #[tokio::test]
    async fn a_link_is_followed_and_its_change_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["one", "two", "here"] {
            fs::create_dir(path(folder)).unwrap();
        }
        fs::write(path("one/f"), "1").unwrap();
        fs::write(path("two/f"), "2").unwrap();
        std::os::unix::fs::symlink("../one/f", path("here/f")).unwrap();
        let mut watch = Watch::new(vec![path("here/f")]);
        fs::write(path("one/f"), "11").unwrap();
        noticed(&mut watch).await;
        std::os::unix::fs::symlink("../two/f", path("here/new")).unwrap();
        fs::rename(path("here/new"), path("here/f")).unwrap();
        noticed(&mut watch).await;
        fs::write(path("two/f"), "22").unwrap();
        noticed(&mut watch).await;
    }
}
