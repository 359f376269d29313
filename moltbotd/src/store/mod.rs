//! Durable state in one SQLite file.
//!
//! One thread owns the only writing connection. Writes queued while it was
//! busy are committed together, so that a burst costs one sync. Reads run on
//! their own connections and never wait for a write. Each table's queries are
//! methods of [`Db`] in a file named after the table; SQL appears nowhere else.

mod devices;
mod drafts;
mod imported;
mod inbox;
mod nodes;
mod outbox;
mod overview;
mod pairing;
mod runs;
mod sessions;
mod settings;
mod transcript;
mod upkeep;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use self::writer::Writer;
pub use self::{
    devices::{Device, DeviceToken},
    drafts::Draft,
    imported::ImportedRow,
    inbox::InboxRow,
    nodes::NodeDevice,
    outbox::{Fate, NewMessage, OutboxRow, OutboxState},
    overview::Overview,
    pairing::PairingRow,
    runs::{NewRun, RunEnd, RunRow, RunState},
    sessions::SessionRow,
    transcript::{MessageRow, NewTranscriptMessage},
    upkeep::{Depth, Examination, Settled, copy, examine, settle},
    writer::Figures,
};
use crate::private;

const READERS: u32 = 4;
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// A failure of the database or of the thread that owns it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite reported an error.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] private::Error),
    /// The file was written by a newer version of this program.
    #[error("the database has version {found}, this program knows up to {known}")]
    Newer {
        /// Version of the file.
        found: usize,
        /// Newest version known here.
        known: usize,
    },
    /// The transaction was not committed: the disk is full or broken.
    #[error("not committed: {0}")]
    Commit(String),
    /// The writer thread is gone.
    #[error("store is closed")]
    Closed,
}

impl StoreError {
    /// Returns whether the file is no database any more.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        let Self::Sqlite(error) = self else { return false };
        matches!(error.sqlite_error_code(), Some(Code::DatabaseCorrupt | Code::NotADatabase))
    }

    /// Returns whether the disk, rather than the request, is at fault.
    #[must_use]
    pub fn is_disk(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        let error = match self {
            Self::Sqlite(error) => error,
            Self::Commit(_) => return true,
            Self::File(_) | Self::Newer { .. } | Self::Closed => return false,
        };
        matches!(
            error.sqlite_error_code(),
            Some(Code::DiskFull | Code::SystemIoFailure | Code::ReadOnly | Code::CannotOpen)
        )
    }

    /// Returns whether the same write may well succeed later.
    fn passes(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        let busy = |error: &rusqlite::Error| {
            matches!(error.sqlite_error_code(), Some(Code::DatabaseBusy | Code::DatabaseLocked))
        };
        self.is_disk() || matches!(self, Self::Sqlite(error) if busy(error))
    }
}

/// A handle to the store; clones are cheap.
#[derive(Clone, Debug)]
pub struct Store {
    writer: Writer,
    readers: Arc<Readers>,
}

/// A connection seen by one query or one transaction.
#[derive(Debug)]
pub struct Db<'a>(pub(super) &'a Connection);

#[cfg(test)]
impl Db<'_> {
    /// Refuses writes, or takes them again, as a disk does that is full.
    pub fn freeze(&self, frozen: bool) -> rusqlite::Result<()> {
        self.0.pragma_update(None, "query_only", frozen)
    }
}

#[derive(Debug)]
struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Store {
    /// Opens the file, creating and migrating it as needed.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // SQLite gives its side files the mode of the database itself.
        private::file(path)?;
        let mut connection = Connection::open(path)?;
        // First of all: a file of a newer version is left as it is.
        version(&connection)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrate(&mut connection)?;
        Ok(Self {
            writer: Writer::spawn(connection),
            readers: Arc::new(Readers {
                path: path.to_owned(),
                idle: Mutex::default(),
                permits: Arc::new(Semaphore::new(READERS as usize)),
            }),
        })
    }

    /// Runs `work` in a transaction; returns once it is committed.
    pub async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Db<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.run(work).await
    }

    /// Runs `work` in a transaction, and again until the disk takes it: for
    /// what must not be forgotten because the disk is full for a while. An
    /// error means that the request is at fault, or that the store is closed.
    pub async fn insist<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Db<'_>) -> rusqlite::Result<T> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let since = Instant::now();
        let mut pause = FIRST_RETRY;
        loop {
            let again = Arc::clone(&work);
            let result = self.write(move |db| again(db)).await;
            let Err(error) = result.as_ref() else { return result };
            if !error.passes() {
                return result;
            }
            tracing::error!(%error, waiting = ?since.elapsed(), "a write waits for the disk");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
    }

    /// Returns why the last batch of writes was not committed, if it was not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.writer.trouble()
    }

    /// Returns figures about the writes.
    #[must_use]
    pub fn figures(&self) -> &Figures {
        self.writer.figures()
    }

    /// Returns how many writes wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.writer.waiting()
    }

    /// Lets the reads and writes under way end and closes the file, so that it
    /// needs no log beside it. Later reads and writes fail.
    ///
    /// A process that only ended would leave that to chance, and the locks of
    /// the state must outlast it: SQLite removes the log by its name.
    pub async fn close(&self) {
        // An error means that they are closed already.
        let _all = self.readers.permits.acquire_many(READERS).await;
        self.readers.permits.close();
        self.readers.close();
        self.writer.close().await;
    }

    /// Runs a query on a read-only connection.
    pub async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Db<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        let permit =
            Arc::clone(&readers.permits).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        tokio::task::spawn_blocking(move || {
            let connection = readers.take()?;
            let answer = query(&Db(&connection));
            readers.put(connection);
            drop(permit);
            Ok(answer?)
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }
}

impl Readers {
    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(
            || Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY),
            Ok,
        )
    }

    fn put(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_settings.sql"),
    include_str!("migrations/0002_devices.sql"),
    include_str!("migrations/0003_sessions.sql"),
    include_str!("migrations/0004_channels.sql"),
    include_str!("migrations/0005_nodes.sql"),
    include_str!("migrations/0006_imported.sql"),
    include_str!("migrations/0007_device_allow.sql"),
    include_str!("migrations/0008_device_approved_via.sql"),
];

/// Returns the version of the file: how many migrations it has seen.
fn version(connection: &Connection) -> Result<usize, StoreError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    let known = MIGRATIONS.len();
    if found > known { Err(StoreError::Newer { found, known }) } else { Ok(found) }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found = version(connection)?;
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(found) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(
            None,
            "user_version",
            i64::try_from(index + 1).unwrap_or(i64::MAX),
        )?;
        transaction.commit()?;
    }
    Ok(())
}
