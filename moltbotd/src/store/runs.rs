//! Tables `run` and `tool_call`.

use rusqlite::{OptionalExtension as _, Row, params};

use super::Db;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It waits for its turn.
    Queued,
    /// It is under way.
    Running,
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// It was stopped.
    Aborted,
}

impl RunState {
    /// Returns whether it will do something yet.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    fn parse(name: &str) -> Self {
        [Self::Queued, Self::Running, Self::Done, Self::Aborted]
            .into_iter()
            .find(|state| state.name() == name)
            .unwrap_or(Self::Failed)
    }
}

/// A run to be remembered before it is promised.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Identifies the run: the idempotency key of the call that asked for it.
    pub id: String,
    /// The conversation.
    pub session_key: String,
    /// The channel message that caused it.
    pub inbox_id: Option<i64>,
    /// Enough to take the run up again, as JSON.
    pub request: String,
    /// When it was accepted, in milliseconds since the epoch.
    pub accepted_at_ms: i64,
}

/// A run.
#[derive(Clone, Debug)]
pub struct RunRow {
    /// Identifies the run.
    pub id: String,
    /// The conversation.
    pub session_key: String,
    /// Its transcript, once the run has started.
    pub session_id: Option<String>,
    /// The channel message that caused it.
    pub inbox_id: Option<i64>,
    /// How far it is.
    pub state: RunState,
    /// What was asked, as JSON; absent once it ended.
    pub request: Option<String>,
    /// What came of it, as JSON.
    pub result: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was accepted, in milliseconds since the epoch.
    pub accepted_at_ms: i64,
    /// When it started, in milliseconds since the epoch.
    pub started_at_ms: Option<i64>,
    /// When it ended, in milliseconds since the epoch.
    pub ended_at_ms: Option<i64>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// Done, failed or aborted.
    pub state: RunState,
    /// What came of it, as JSON.
    pub result: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
}

const COLUMNS: &str = "id, session_key, session_id, inbox_id, state, request, result, error,
                       accepted_at_ms, started_at_ms, ended_at_ms";

impl Db<'_> {
    /// Remembers a run that waits; returns whether its id and its channel
    /// message were new.
    pub fn add_run(&self, run: &NewRun) -> rusqlite::Result<bool> {
        let NewRun { id, session_key, inbox_id, request, accepted_at_ms } = run;
        let added = self
            .0
            .prepare_cached(
                "INSERT INTO run (id, session_key, inbox_id, state, request, accepted_at_ms)
                 VALUES (?1, ?2, ?3, 'queued', ?4, ?5) ON CONFLICT DO NOTHING",
            )?
            .execute(params![id, session_key, inbox_id, request, accepted_at_ms])?;
        Ok(added > 0)
    }

    /// Returns a run.
    pub fn run(&self, id: &str) -> rusqlite::Result<Option<RunRow>> {
        self.0
            .prepare_cached(&format!("SELECT {COLUMNS} FROM run WHERE id = ?1"))?
            .query_row([id], run_row)
            .optional()
    }

    /// Returns the runs that have not ended, in the order they were accepted.
    pub fn open_runs(&self) -> rusqlite::Result<Vec<RunRow>> {
        self.0
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM run WHERE state IN ('queued', 'running') ORDER BY rowid"
            ))?
            .query_map([], run_row)?
            .collect()
    }

    /// Marks a run as started, in a transcript if it writes to one.
    pub fn start_run(
        &self,
        id: &str,
        session_id: Option<&str>,
        at_ms: i64,
    ) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "UPDATE run SET state = 'running', session_id = ?2, started_at_ms = ?3
                 WHERE id = ?1",
            )?
            .execute(params![id, session_id, at_ms])?;
        Ok(())
    }

    /// Ends a run. What was asked is forgotten: it may be large.
    pub fn end_run(&self, id: &str, end: &RunEnd) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "UPDATE run SET state = ?2, result = ?3, error = ?4, ended_at_ms = ?5,
                                request = NULL
                 WHERE id = ?1",
            )?
            .execute(params![id, end.state.name(), end.result, end.error, end.at_ms])?;
        self.0
            .prepare_cached("UPDATE tool_call SET state = 'done' WHERE run_id = ?1")?
            .execute([id])?;
        Ok(())
    }

    /// Notes that runs were stopped whose end is not stored yet: in what was
    /// asked, since that is what takes them up again.
    pub fn stop_runs(&self, ids: &[String]) -> rusqlite::Result<()> {
        let mut update = self.0.prepare_cached(
            "UPDATE run SET request = json_set(request, '$.stopped', json('true'))
             WHERE id = ?1 AND state IN ('queued', 'running')",
        )?;
        ids.iter().try_for_each(|id| update.execute([id]).map(drop))
    }

    /// Replaces what was asked of a run that has not ended.
    pub fn set_request(&self, id: &str, request: &str) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("UPDATE run SET request = ?2 WHERE id = ?1 AND request IS NOT NULL")?
            .execute(params![id, request])?;
        Ok(())
    }

    /// Forgets the runs that ended before a time.
    pub fn forget_runs(&self, before_ms: i64) -> rusqlite::Result<()> {
        self.0.prepare_cached("DELETE FROM run WHERE ended_at_ms < ?1")?.execute([before_ms])?;
        Ok(())
    }

    /// Remembers that a tool is about to be called. Models may use an id
    /// twice in one run.
    pub fn start_tool_call(
        &self,
        run_id: &str,
        call_id: &str,
        name: &str,
        args: &str,
    ) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO tool_call (run_id, call_id, name, args, state)
                 VALUES (?1, ?2, ?3, ?4, 'started')
                 ON CONFLICT (run_id, call_id)
                 DO UPDATE SET name = ?3, args = ?4, state = 'started', result = NULL",
            )?
            .execute(params![run_id, call_id, name, args])?;
        Ok(())
    }

    /// Remembers what a tool answered.
    pub fn end_tool_call(&self, run_id: &str, call_id: &str, result: &str) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "UPDATE tool_call SET state = 'done', result = ?3
                 WHERE run_id = ?1 AND call_id = ?2",
            )?
            .execute(params![run_id, call_id, result])?;
        Ok(())
    }

    /// Returns id and name of the calls of a run that have no answer.
    pub fn open_tool_calls(&self, run_id: &str) -> rusqlite::Result<Vec<(String, String)>> {
        self.0
            .prepare_cached(
                "SELECT call_id, name FROM tool_call
                 WHERE run_id = ?1 AND state = 'started' ORDER BY rowid",
            )?
            .query_map([run_id], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let state: String = row.get(4)?;
    Ok(RunRow {
        id: row.get(0)?,
        session_key: row.get(1)?,
        session_id: row.get(2)?,
        inbox_id: row.get(3)?,
        state: RunState::parse(&state),
        request: row.get(5)?,
        result: row.get(6)?,
        error: row.get(7)?,
        accepted_at_ms: row.get(8)?,
        started_at_ms: row.get(9)?,
        ended_at_ms: row.get(10)?,
    })
}
