//! Work on a database file that no daemon serves at the moment, or that one
//! serves at the same time: copies, checks, and what a copy needs before it
//! takes the original's place.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Db, StoreError, migrate, version};
use crate::private;

/// Most complaints of SQLite that are repeated: one is enough to act.
const MOST_PROBLEMS: usize = 10;

/// What a look at a database file told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    /// Version of the file: how many migrations it has seen.
    pub schema: usize,
    /// What SQLite found damaged; empty when nothing is.
    pub problems: Vec<String>,
}

/// Work that was open when a copy was made and was ended in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settled {
    /// Messages that were to be sent.
    pub outgoing: usize,
    /// Messages that were to be answered.
    pub incoming: usize,
    /// Turns of the agent.
    pub runs: usize,
}

/// How much of a database is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Pages and rows.
    Quick,
    /// Indexes too; takes longer.
    Full,
}

/// Writes a consistent copy of a database to a new file that only its owner
/// may read. The database may be in use: the copy is of one moment.
pub fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let connection = open_to_read(from)?;
    version(&connection)?;
    // SQLite takes an empty file of ours and keeps its mode.
    let file = private::new_file(to).map_err(|error| file_error(to, error))?;
    let name = to.to_str().ok_or_else(|| file_error(to, io::ErrorKind::InvalidFilename.into()))?;
    connection.execute("VACUUM INTO ?1", [name])?;
    file.sync_all().map_err(|error| file_error(to, error))
}

/// Looks for damage. A file of a newer version is an error.
pub fn examine(path: &Path, depth: Depth) -> Result<Examination, StoreError> {
    let connection = open_to_read(path)?;
    let schema = version(&connection)?;
    let pragma = match depth {
        Depth::Quick => "PRAGMA quick_check",
        Depth::Full => "PRAGMA integrity_check",
    };
    let mut problems: Vec<String> = connection
        .prepare(pragma)?
        .query_map([], |row| row.get(0))?
        .take(MOST_PROBLEMS)
        .collect::<Result<_, _>>()?;
    problems.retain(|problem| problem != "ok");
    let orphans =
        connection.prepare("PRAGMA foreign_key_check")?.query_map([], |_| Ok(()))?.count();
    if orphans > 0 {
        problems.push(format!("{orphans} rows refer to rows that are not there"));
    }
    if schema == 0 {
        problems.push("it holds no state of a gateway".into());
    }
    Ok(Examination { schema, problems })
}

/// Brings a copy to this version and ends the work that was open when it was
/// made: what it was to send or to answer has probably been sent and answered
/// since, and must not be a second time.
pub fn settle(path: &Path, now_ms: i64) -> Result<Settled, StoreError> {
    let mut connection = Connection::open(path)?;
    version(&connection)?;
    migrate(&mut connection)?;
    let transaction = connection.transaction()?;
    let settled = Db(&transaction).settle(now_ms)?;
    transaction.commit()?;
    // One file, without side files that a rename would leave behind.
    connection.pragma_update(None, "journal_mode", "delete")?;
    Ok(settled)
}

impl Db<'_> {
    fn settle(&self, now_ms: i64) -> rusqlite::Result<Settled> {
        const WHY: &str = "ended by a restore: it was open when the backup was made";
        Ok(Settled {
            outgoing: self.0.execute(
                "UPDATE outbox SET state = 'failed', error = ?1, updated_at_ms = ?2
                 WHERE state IN ('queued', 'sending', 'unknown')",
                (WHY, now_ms),
            )?,
            incoming: self
                .0
                .execute("UPDATE inbox SET state = 'done' WHERE state = 'received'", [])?,
            runs: self.0.execute(
                "UPDATE run SET state = 'failed', error = ?1, ended_at_ms = ?2, request = NULL
                 WHERE state IN ('queued', 'running')",
                (WHY, now_ms),
            )?,
        })
    }
}

/// Opens a database that may be in use, or lie where nothing can be written.
fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    // SQLite says only that it cannot; the system says why.
    std::fs::File::open(path).map_err(|error| file_error(path, error))?;
    let connection = reading(path)?;
    match connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)) {
        Ok(_) => Ok(connection),
        // Reading beside a writer takes a file beside the database. Where none
        // can be made and none is there, nobody writes.
        Err(error) if needs_side_file(&error) && !has_log(path) => {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            Ok(Connection::open_with_flags(unchanging(path), flags)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a database to be read, and leaves no files beside it that were not
/// there: the last connection removes them if it may write. (`query_only`
/// would forbid `VACUUM INTO` too.) What a gateway that was killed left there
/// is not touched.
fn reading(path: &Path) -> rusqlite::Result<Connection> {
    let is_closed = !log(path).exists();
    let flags = if is_closed {
        OpenFlags::SQLITE_OPEN_READ_WRITE
    } else {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    };
    Connection::open_with_flags(path, flags)
}

fn needs_side_file(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

fn has_log(path: &Path) -> bool {
    std::fs::metadata(log(path)).is_ok_and(|log| log.len() > 0)
}

fn log(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

fn unchanging(path: &Path) -> String {
    let path = path.display().to_string();
    let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{path}?immutable=1")
}

fn file_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::File(private::Error::Io { path: path.display().to_string(), source })
}
