//! Runs: one at a time in a session, a bounded number at once.
//!
//! A run is stored before it is promised and its outcome (messages, session,
//! reply) in one transaction, so that a crash loses nothing and repeats
//! nothing: [`Agent::recall`] and [`Agent::resume`] take up what had not ended.
//!
//! Messages that arrive while a conversation is busy wait for their turn, in
//! their order, each with a run of its own. Of the reference's queue modes
//! this is `followup`; `collect`, `steer` and `interrupt` are not offered, and
//! a word that stops reaches the run at once, as in every mode.

pub mod attachments;
mod beginning;
pub mod commands;
mod conversing;
mod ending;
mod gate;
mod inbound;
mod lanes;
mod permits;
mod prompt;
mod request;
mod runs;
mod telling;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use self::{
    beginning::Begun,
    ending::Outcome,
    lanes::{Lanes, Place},
    permits::Permits,
    runs::Runs,
};
pub use self::{
    request::{Image, RunRequest, Source},
    runs::{Ended, Ends, Run},
    telling::StopCause,
};
use crate::{
    bus::Bus,
    channels::Outbound,
    clock::now_ms,
    config::{self, Config},
    providers::Models,
    sessions::{key, message, system_events::SystemEvents},
    store::{Db, NewRun, RunRow, RunState, Store, StoreError},
    tools::{Tools, nodes::NodeCalls},
};

/// Runs accepted and not ended. Callers beyond it are refused; messages of
/// channels wait, safe in the inbox.
const OPEN_RUNS: usize = 1024;

/// What the agent works with.
pub struct Parts {
    /// The configuration in force.
    pub config: Arc<config::Live>,
    /// Durable state.
    pub store: Store,
    /// Where steps are told.
    pub bus: Arc<Bus>,
    /// The models that can answer.
    pub models: Arc<Models>,
    /// What a model may do.
    pub tools: Tools,
    /// Nodes, for commands.
    pub nodes: Arc<dyn NodeCalls>,
    /// The way back to the channels.
    pub outbound: Arc<dyn Outbound>,
    /// What the next run of a conversation is told.
    pub system_events: Arc<SystemEvents>,
    /// Owns the tasks of the runs.
    pub tracker: TaskTracker,
    /// Cancelled when the daemon stops: runs are left as they are and taken up
    /// again by the next start.
    pub stop: CancellationToken,
    /// How long runs under way may go on after that.
    pub grace: Duration,
}

/// The agent.
pub struct Agent {
    parts: Parts,
    lanes: Lanes,
    runs: Runs,
    permits: Permits,
    open: Arc<Semaphore>,
}

/// What became of a request for a run.
#[derive(Debug)]
pub enum Started {
    /// It was accepted.
    New(Accepted),
    /// A run with this id is under way.
    InFlight {
        /// When that one was accepted, in milliseconds since the epoch.
        accepted_at_ms: i64,
    },
    /// A run with this id has ended.
    Ended(Box<Ended>),
}

/// A run that will be done. Its events begin when the value is dropped, so
/// that the caller can answer first.
#[derive(Debug)]
pub struct Accepted {
    /// The run.
    pub run: Arc<Run>,
    /// Whether it waits for another one.
    pub queued: bool,
    _gate: oneshot::Sender<()>,
}

/// Why a run was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Too many wait.
    #[error("too many runs are waiting; try again in a moment")]
    Busy,
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A run on its way through the agent.
struct Job {
    run: Arc<Run>,
    request: RunRequest,
    place: Option<Place>,
    begun: Option<Begun>,
    /// The one it was writing to when the daemon last stopped.
    transcript: Option<String>,
    /// Whether it was under way then.
    interrupted: bool,
    gate: oneshot::Receiver<()>,
    _slot: OwnedSemaphorePermit,
}

/// Runs that had not ended when the daemon last stopped, in their places.
#[derive(Debug)]
pub struct Recalled(Vec<Left>);

impl Recalled {
    /// Returns how many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[derive(Debug)]
enum Left {
    Run(Box<LeftRun>),
    /// What was asked cannot be read.
    Unreadable(RunRow),
}

#[derive(Debug)]
struct LeftRun {
    run: Arc<Run>,
    request: RunRequest,
    place: Option<Place>,
    interrupted: bool,
    /// The one it was writing to.
    transcript: Option<String>,
}

impl Agent {
    /// Returns an agent that has nothing to do.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            lanes: Lanes::default(),
            runs: Runs::default(),
            permits: Permits::default(),
            open: Arc::new(Semaphore::new(OPEN_RUNS)),
        })
    }

    /// Accepts a run: it is stored when this returns.
    pub async fn start(self: &Arc<Self>, request: RunRequest) -> Result<Started, StartError> {
        let slot = Arc::clone(&self.open).try_acquire_owned().map_err(|_| StartError::Busy)?;
        self.start_in(slot, request).await
    }

    /// Stops the runs of a conversation, or one of them, for good: they are not
    /// taken up by the next start either. Returns their ids.
    ///
    /// They stop at once; that it is for good is told when it is stored, which
    /// waits for a full disk.
    pub async fn stop(
        &self,
        session_key: &str,
        run_id: Option<&str>,
        why: StopCause,
    ) -> Result<Vec<String>, StoreError> {
        let ids = self.abort(session_key, run_id, why);
        let stopped = ids.clone();
        self.parts.store.insist(move |db| db.stop_runs(&stopped)).await?;
        Ok(ids)
    }

    /// Stops the runs of a conversation, or one of them; returns their ids.
    fn abort(&self, session_key: &str, run_id: Option<&str>, why: StopCause) -> Vec<String> {
        let key = key::canonical(&self.config(), session_key);
        self.runs
            .of_session(&key)
            .into_iter()
            .filter(|run| run_id.is_none_or(|id| run.id == id || run.event_id == id))
            .filter(|run| run.stop(&self.parts.bus, why))
            .map(|run| run.id.clone())
            .collect()
    }

    /// Stops the runs of a conversation and waits until they have ended;
    /// returns whether they did in time.
    pub async fn quiet(&self, session_key: &str, limit: Duration) -> bool {
        self.abort(session_key, None, StopCause::Word);
        let key = key::canonical(&self.config(), session_key);
        let all_ended = async {
            for run in self.runs.of_session(&key) {
                run.ended().await;
            }
        };
        tokio::time::timeout(limit, all_ended).await.is_ok()
    }

    /// Returns a run that is under way.
    pub fn active(&self, run_id: &str) -> Option<Arc<Run>> {
        self.runs.find(run_id)
    }

    /// Returns how many runs ended which way since the daemon started.
    pub fn ends(&self) -> &Ends {
        self.runs.ends()
    }

    /// Returns how many runs are under way or wait.
    pub fn open_runs(&self) -> usize {
        self.runs.count()
    }

    /// Waits for the end of a run; `None` when the time is over first.
    pub async fn wait(
        &self,
        run_id: &str,
        limit: Duration,
    ) -> Result<Option<Arc<Ended>>, StoreError> {
        if self.runs.find(run_id).is_none() && self.runs.ended(run_id).is_none() {
            let id = run_id.to_owned();
            let row = self.parts.store.read(move |db| db.run(&id)).await?;
            if let Some(ended) = row.and_then(Ended::of) {
                return Ok(Some(Arc::new(ended)));
            }
        }
        Ok(tokio::time::timeout(limit, self.runs.wait(run_id)).await.ok())
    }

    /// Tells the caller of a message that waits for its turn that it is queued.
    pub fn tell_queued(&self, run: &Run) {
        run.tell_queued(&self.parts.bus);
    }

    /// Tells clients of a message that was added to a conversation.
    pub fn tell_injected(&self, session_key: &str, id: &str, text: &str) {
        telling::tell_injected(&self.parts.bus, session_key, id, text);
    }

    /// Gives the runs that had not ended when the daemon last stopped their
    /// places again. Belongs before the first caller: one that repeats its key
    /// finds its run under way, and nobody gets ahead of those that waited.
    pub async fn recall(self: &Arc<Self>) -> Result<Recalled, StoreError> {
        let rows = self.parts.store.read(|db| db.open_runs()).await?;
        Ok(Recalled(rows.into_iter().map(|row| self.recall_one(row)).collect()))
    }

    /// Goes on with them.
    pub async fn resume(self: &Arc<Self>, recalled: Recalled) {
        for left in recalled.0 {
            self.resume_one(left).await;
        }
    }

    async fn start_in(
        self: &Arc<Self>,
        slot: OwnedSemaphorePermit,
        request: RunRequest,
    ) -> Result<Started, StartError> {
        // On a task of its own: a caller that goes away in between leaves no
        // run that is stored and not done.
        let agent = Arc::clone(self);
        let accepting = self.parts.tracker.spawn(async move { agent.accept(slot, request).await });
        accepting.await.unwrap_or(Err(StartError::Store(StoreError::Closed)))
    }

    async fn accept(
        self: Arc<Self>,
        slot: OwnedSemaphorePermit,
        mut request: RunRequest,
    ) -> Result<Started, StartError> {
        if let Some(known) = self.runs.find(&request.run_id) {
            return Ok(Started::InFlight { accepted_at_ms: known.accepted_at_ms });
        }
        let key = key::canonical(&self.config(), &request.session_key);
        let place = (!request.command).then(|| self.lanes.enter(&key));
        let waits = place.as_ref().is_some_and(Place::waits);
        // One that is about to leave keeps nobody waiting.
        let queued = waits && self.runs.of_session(&key).iter().any(|run| run.is_busy());
        if queued && request.source.channel.as_deref() == Some("webchat") {
            // The caller is told at once that its message waits, and clients
            // take that for the end of the run of this name.
            request.event_id = Some(Uuid::new_v4().to_string());
        }
        let run = self.run_of(&request, key, now_ms());
        if let Err(known) = self.runs.add(&run) {
            return Ok(Started::InFlight { accepted_at_ms: known.accepted_at_ms });
        }
        let begun = match self.store_accepted(&run, &request, waits).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(row)) => {
                self.runs.remove(&run.id);
                let accepted_at_ms =
                    row.as_ref().map_or(run.accepted_at_ms, |row| row.accepted_at_ms);
                return Ok(match row.and_then(Ended::of) {
                    Some(ended) => Started::Ended(Box::new(ended)),
                    None => Started::InFlight { accepted_at_ms },
                });
            }
            Err(error) => {
                self.runs.remove(&run.id);
                return Err(error.into());
            }
        };
        let (gate, open) = oneshot::channel();
        let job = Job {
            run: Arc::clone(&run),
            request,
            place,
            begun,
            transcript: None,
            interrupted: false,
            gate: open,
            _slot: slot,
        };
        self.parts.tracker.spawn(Arc::clone(&self).drive(job));
        Ok(Started::New(Accepted { run, queued, _gate: gate }))
    }

    /// Stores a run, and begins it in the same transaction where nothing is
    /// before it. Fails with the row that has the same id, if it is not the
    /// channel message that is known.
    async fn store_accepted(
        &self,
        run: &Run,
        request: &RunRequest,
        waits: bool,
    ) -> Result<Result<Option<Begun>, Option<RunRow>>, StoreError> {
        let row = NewRun {
            id: run.id.clone(),
            session_key: run.session_key.clone(),
            inbox_id: request.inbox_id,
            request: serde_json::to_string(request).expect("requests serialize"),
            accepted_at_ms: run.accepted_at_ms,
        };
        let plan = (!waits && !request.command).then(|| self.plan(run, request));
        let happened = plan.as_ref().map(|plan| plan.happened.clone()).unwrap_or_default();
        let stored = self
            .parts
            .store
            .write(move |db| {
                if !db.add_run(&row)? {
                    return Ok(Err(db.run(&row.id)?));
                }
                plan.map(|plan| plan.begin(db)).transpose().map(Ok)
            })
            .await;
        if !matches!(stored, Ok(Ok(_))) {
            self.parts.system_events.give_back(&run.session_key, happened);
        }
        stored
    }

    fn recall_one(&self, row: RunRow) -> Left {
        let request = row.request.as_deref().and_then(RunRequest::from_stored);
        let Some(request) = request else { return Left::Unreadable(row) };
        let run = self.run_of(&request, row.session_key.clone(), row.accepted_at_ms);
        // Ids are unique in the store, and nobody was there before.
        let _ = self.runs.add(&run);
        let place = (!request.command).then(|| self.lanes.enter(&run.session_key));
        if request.stopped {
            run.stop(&self.parts.bus, StopCause::Word);
        }
        let interrupted = row.state == RunState::Running;
        let transcript = row.session_id.filter(|_| interrupted && !request.command);
        Left::Run(Box::new(LeftRun { run, request, place, interrupted, transcript }))
    }

    async fn resume_one(self: &Arc<Self>, left: Left) {
        let LeftRun { run, request, place, interrupted, transcript } = match left {
            Left::Run(left) => *left,
            Left::Unreadable(row) => return self.give_up(row).await,
        };
        // Bounded by what the last process accepted.
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned();
        let slot = slot.expect("a new semaphore has its permit");
        let (_, gate) = oneshot::channel();
        let job =
            Job { run, request, place, begun: None, transcript, interrupted, gate, _slot: slot };
        self.parts.tracker.spawn(Arc::clone(self).drive(job));
    }

    async fn give_up(&self, row: RunRow) {
        tracing::warn!(run = row.id, "run cannot be read; it is given up");
        let end = ending::given_up(now_ms());
        let write = move |db: &Db<'_>| {
            db.end_run(&row.id, &end)?;
            row.inbox_id.map_or(Ok(()), |inbox_id| db.finish_inbox(inbox_id))
        };
        if let Err(error) = self.parts.store.write(write).await {
            tracing::error!(%error, "the run stays open");
        }
    }

    /// Reports the tools that were at work when the daemon stopped, and
    /// returns where the run stood.
    async fn take_up(
        &self,
        run: &Run,
        request: &RunRequest,
        session_id: String,
    ) -> Result<Begun, StoreError> {
        let (run_id, key) = (run.id.clone(), run.session_key.clone());
        let asker = request.asker.clone();
        self.parts
            .store
            .insist(move |db| {
                for (call_id, name) in db.open_tool_calls(&run_id)? {
                    let now = now_ms();
                    let text = "Interrupted: the gateway restarted while this call was under way. \
                                Its outcome is unknown.";
                    let result = message::tool_result(&call_id, &name, text, true, now);
                    let message = ending::transcript_message(Some(&run_id), result, now);
                    db.append_message(&session_id, &message)?;
                    db.end_tool_call(&run_id, &call_id, text)?;
                }
                let said = said_before(&db.messages_of_run(&session_id, &run_id)?);
                let entry = db.session(&key)?.unwrap_or_default();
                Ok(Begun { session_id: session_id.clone(), entry, said, asker: asker.clone() })
            })
            .await
    }

    async fn drive(self: Arc<Self>, mut job: Job) {
        let run = Arc::clone(&job.run);
        let mut unfinished = Unfinished { agent: &self, run: &run, tell: true };
        // An error means that the caller went away; the run is promised.
        let _ = (&mut job.gate).await;
        let stop = &self.parts.stop;
        let leaving = async {
            stop.cancelled().await;
            tokio::time::sleep(self.parts.grace).await;
        };
        // A run that is left open has no end to tell: it will be taken up.
        unfinished.tell = tokio::select! {
            biased;
            () = leaving => false,
            ended = self.run_job(&mut job) => ended,
        };
    }

    /// Returns whether the run has ended; otherwise it is left for the next
    /// start.
    async fn run_job(&self, job: &mut Job) -> bool {
        let Job { run, request, place, begun, transcript, interrupted, .. } = job;
        if request.command {
            self.run_command(run, request, *interrupted).await;
            return true;
        }
        if let Some(session_id) = transcript.take() {
            match self.take_up(run, request, session_id).await {
                Ok(left) => *begun = Some(left),
                Err(error) => {
                    self.lost(run, &error);
                    return true;
                }
            }
        }
        if let Some(place) = place {
            tokio::select! {
                biased;
                () = run.cancel.cancelled() => {
                    self.finish(run, request, begun.as_ref(), Outcome::Stopped).await;
                    return true;
                }
                () = self.parts.stop.cancelled() => return false,
                () = place.turn() => {}
            }
        }
        let begun = match begun.take() {
            Some(begun) => begun,
            None => match self.begin(run, request).await {
                Ok(begun) => begun,
                Err(error) => {
                    self.lost(run, &error);
                    return true;
                }
            },
        };
        let outcome = self.converse_in_time(run, request, &begun).await;
        self.finish(run, request, Some(&begun), outcome).await;
        true
    }

    async fn converse_in_time(
        &self,
        run: &Arc<Run>,
        request: &RunRequest,
        begun: &Begun,
    ) -> Outcome {
        let limit = self.time_limit(request);
        let answer = async {
            let _permit = self.permits.acquire(self.max_concurrent()).await;
            tokio::time::timeout(limit, self.converse(run, request, begun)).await
        };
        tokio::select! {
            biased;
            () = run.cancel.cancelled() => Outcome::Stopped,
            outcome = answer => outcome.unwrap_or_else(|_| {
                run.stop(&self.parts.bus, StopCause::Timeout);
                Outcome::TimedOut(limit)
            }),
        }
    }

    /// Ends a run here whose outcome the store refuses, for another reason than
    /// a full disk. Its row stays open: the next start takes it up.
    fn lost(&self, run: &Run, error: &StoreError) {
        tracing::error!(%error, run = run.id, "a run's outcome cannot be stored");
        let text = "the store refuses the answer; the message is kept and answered after a restart";
        let now = now_ms();
        run.tell_error(&self.parts.bus, text, now);
        self.runs.end(run, ending::failed(run, text.to_owned(), now));
    }

    fn run_of(&self, request: &RunRequest, key: String, accepted_at_ms: i64) -> Arc<Run> {
        Arc::new(Run::new(
            request.run_id.clone(),
            request.event_id().to_owned(),
            key,
            request.session_key.clone(),
            accepted_at_ms,
        ))
    }

    fn time_limit(&self, request: &RunRequest) -> Duration {
        let configured = self.config().agents.defaults.timeout_seconds.saturating_mul(1000);
        Duration::from_millis(request.timeout_ms.unwrap_or(configured).max(1))
    }

    fn max_concurrent(&self) -> usize {
        self.config().agents.defaults.max_concurrent
    }

    fn config(&self) -> Arc<Config> {
        self.parts.config.get()
    }
}

/// Returns what the assistant said before it called tools.
fn said_before(messages: &[Value]) -> Vec<String> {
    let assistant = messages.iter().filter(|message| message::role(message) == "assistant");
    assistant.map(message::text).filter(|text| !text.trim().is_empty()).collect()
}

/// Ends a run in the eyes of those who wait when its task panics.
struct Unfinished<'a> {
    agent: &'a Arc<Agent>,
    run: &'a Run,
    tell: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.tell && self.agent.runs.find(&self.run.id).is_some() {
            let text = "internal error".to_owned();
            self.agent.runs.end(self.run, ending::failed(self.run, text, now_ms()));
        }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("open_runs", &self.open_runs()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}
