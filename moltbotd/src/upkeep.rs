//! What an always-on daemon forgets from time to time, so that its state does
//! not grow for ever.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    clock::now_ms,
    store::{Store, StoreError},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it is known what was received and sent: as long as a repeated
/// update or idempotency key may reasonably turn up.
const MESSAGES: Duration = DAY.saturating_mul(30);
/// How long what was said in a group beside the assistant waits to be needed:
/// the parts of an album come within seconds.
const HELD: Duration = Duration::from_secs(60 * 60);
/// How long a run's result answers calls that repeat its key.
const RUNS: Duration = DAY.saturating_mul(7);

/// Forgets what is old, now and once a day.
pub async fn run(store: Store, inbound_media: PathBuf) {
    loop {
        if let Err(error) = rows(&store).await {
            tracing::warn!(%error, "old rows stay in the store");
        }
        let folder = inbound_media.clone();
        let removing = tokio::task::spawn_blocking(move || files(&folder, MESSAGES));
        if let Ok(Err(error)) = removing.await {
            tracing::warn!(%error, "old files that came with messages stay");
        }
        tokio::time::sleep(DAY).await;
    }
}

async fn rows(store: &Store) -> Result<(), StoreError> {
    let before = |age: Duration| now_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let (messages, held, runs) = (before(MESSAGES), before(HELD), before(RUNS));
    store
        .write(move |db| {
            db.prune_inbox(messages)?;
            db.forget_held(held)?;
            db.prune_outbox(messages)?;
            db.prune_drafts(messages)?;
            db.forget_runs(runs)
        })
        .await
}

/// Removes the files of a folder that nobody wrote to for so long.
fn files(folder: &Path, age: Duration) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let now = SystemTime::now();
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let is_old = now.duration_since(metadata.modified()?).is_ok_and(|since| since > age);
        if metadata.is_file() && is_old {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_group_said_beside_the_assistant_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("test.db")).unwrap();
        let hold = |db: &crate::store::Db<'_>| {
            let old = now_ms() - 2 * 60 * 60 * 1000;
            db.hold_inbox("telegram", "default", 1, "old text", old)?;
            db.hold_inbox("telegram", "default", 2, "new text", now_ms()).map(drop)
        };
        store.write(hold).await.unwrap();
        rows(&store).await.unwrap();
        let left = store.read(|db| db.latest_with("telegram", "default", "text")).await.unwrap();
        let left: Vec<_> = left.into_iter().map(|(row, _)| row.body).collect();
        assert_eq!(left, ["new text"]);
    }

    #[test]
    fn old_files_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["old.jpg", "new.jpg"] {
            fs::write(path(name), "x").unwrap();
        }
        fs::create_dir(path("folder")).unwrap();
        let old = SystemTime::now() - DAY.saturating_mul(31);
        fs::File::options().write(true).open(path("old.jpg")).unwrap().set_modified(old).unwrap();
        files(folder.path(), MESSAGES).unwrap();
        files(&path("none"), MESSAGES).unwrap();
        let left = |name: &str| path(name).exists();
        assert_eq!((left("old.jpg"), left("new.jpg"), left("folder")), (false, true, true));
    }
}
