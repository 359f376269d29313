//! Runs that are under way, and how those of the last minutes ended.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::telling::Told;
use crate::{
    metrics::Count,
    store::{RunRow, RunState},
};

/// How long the end of a run is remembered here; later it is in the store.
const REMEMBERED: Duration = Duration::from_secs(600);
const REMEMBERED_RUNS: usize = 1000;

/// A run that is under way, as those who watch it see it.
#[derive(Debug)]
pub struct Run {
    /// Identifies the run.
    pub id: String,
    /// Its name in events.
    pub event_id: String,
    /// The conversation, as it is stored.
    pub session_key: String,
    /// The conversation, as the caller spelled it.
    pub spelled_key: String,
    /// When it was accepted, in milliseconds since the epoch.
    pub accepted_at_ms: i64,
    /// Cancelled when it is stopped.
    pub(super) cancel: CancellationToken,
    pub(super) told: Mutex<Told>,
    ended: watch::Sender<Option<Arc<Ended>>>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Done, failed or aborted.
    pub state: RunState,
    /// When it started, in milliseconds since the epoch.
    pub started_at_ms: Option<i64>,
    /// When it ended, in milliseconds since the epoch.
    pub ended_at_ms: i64,
    /// Why it failed.
    pub error: Option<String>,
    /// What came of it, as JSON.
    pub result: Option<String>,
}

impl Ended {
    /// Reads the end of a run from its row; `None` while it is open.
    #[must_use]
    pub fn of(row: RunRow) -> Option<Self> {
        if row.state.is_open() {
            return None;
        }
        Some(Self {
            state: row.state,
            started_at_ms: row.started_at_ms,
            ended_at_ms: row.ended_at_ms.unwrap_or(row.accepted_at_ms),
            error: row.error,
            result: row.result,
        })
    }
}

impl Run {
    pub(super) fn new(
        id: String,
        event_id: String,
        session_key: String,
        spelled_key: String,
        accepted_at_ms: i64,
    ) -> Self {
        Self {
            id,
            event_id,
            session_key,
            spelled_key,
            accepted_at_ms,
            cancel: CancellationToken::new(),
            told: Mutex::default(),
            ended: watch::Sender::new(None),
        }
    }

    /// Waits until the run has ended.
    pub async fn ended(&self) -> Arc<Ended> {
        let mut ended = self.ended.subscribe();
        let end = ended.wait_for(Option::is_some).await;
        end.ok().and_then(|end| end.clone()).expect("the sender lives as long as the run")
    }
}

/// The runs.
#[derive(Debug, Default)]
pub(super) struct Runs {
    table: Mutex<Table>,
    changed: Notify,
    ends: Ends,
}

/// How many runs ended which way.
#[derive(Debug, Default)]
pub struct Ends {
    /// With an answer.
    pub done: Count,
    /// Without one.
    pub failed: Count,
    /// They were stopped.
    pub aborted: Count,
}

#[derive(Debug, Default)]
struct Table {
    active: HashMap<String, Arc<Run>>,
    ended: HashMap<String, Arc<Ended>>,
    order: VecDeque<(Instant, String)>,
}

impl Runs {
    /// Adds a run, or returns the one with the same id.
    pub(super) fn add(&self, run: &Arc<Run>) -> Result<(), Arc<Run>> {
        let mut table = self.table();
        if let Some(known) = table.active.get(&run.id) {
            return Err(Arc::clone(known));
        }
        table.active.insert(run.id.clone(), Arc::clone(run));
        drop(table);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Forgets a run that never began.
    pub(super) fn remove(&self, id: &str) {
        self.table().active.remove(id);
    }

    /// Records the end of a run and tells those who wait for it.
    pub(super) fn end(&self, run: &Run, ended: Ended) {
        match ended.state {
            RunState::Done => self.ends.done.one(),
            RunState::Aborted => self.ends.aborted.one(),
            _ => self.ends.failed.one(),
        }
        let ended = Arc::new(ended);
        let mut table = self.table();
        table.active.remove(&run.id);
        table.ended.insert(run.id.clone(), Arc::clone(&ended));
        table.order.push_back((Instant::now(), run.id.clone()));
        table.forget();
        drop(table);
        run.ended.send_replace(Some(ended));
        self.changed.notify_waiters();
    }

    pub(super) fn ends(&self) -> &Ends {
        &self.ends
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Run>> {
        self.table().active.get(id).cloned()
    }

    pub(super) fn ended(&self, id: &str) -> Option<Arc<Ended>> {
        self.table().ended.get(id).cloned()
    }

    /// Returns the runs of a conversation.
    pub(super) fn of_session(&self, session_key: &str) -> Vec<Arc<Run>> {
        let mut runs: Vec<_> = self
            .table()
            .active
            .values()
            .filter(|run| run.session_key == session_key)
            .cloned()
            .collect();
        runs.sort_by_key(|run| run.accepted_at_ms);
        runs
    }

    pub(super) fn count(&self) -> usize {
        self.table().active.len()
    }

    /// Waits for the end of a run, also of one that is yet to come.
    pub(super) async fn wait(&self, id: &str) -> Arc<Ended> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Enabled before looking: what happens in between is not missed.
            changed.as_mut().enable();
            if let Some(ended) = self.ended(id) {
                return ended;
            }
            if let Some(run) = self.find(id) {
                return run.ended().await;
            }
            changed.await;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self) {
        while let Some((at, id)) = self.order.front() {
            if self.order.len() <= REMEMBERED_RUNS && at.elapsed() < REMEMBERED {
                return;
            }
            self.ended.remove(id);
            self.order.pop_front();
        }
    }
}
