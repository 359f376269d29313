//! A restart that was asked for from inside: by a client, by a method that
//! changed what only a new process reads, or by an agent in the middle of a
//! run.
//!
//! The process never starts its successor. It writes down who asked, ends with
//! [`supervisor::RESTART`], and the service manager does the rest; where there
//! is none the request is refused, because nothing would come back. The new
//! process tells whoever asked once it serves.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use moltbot_protocol::methods::gateway::{RestartNote, RestartPlan, Restarting, Sentinel};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    agent::{Agent, RunRequest},
    asker::{Asker, AskerKind},
    clock, config,
    sessions::{
        Sessions, key, last_route,
        policy::{self, Place},
        system_events::SystemEvents,
    },
    store::{Store, StoreError},
    supervisor::{self, Supervisor},
    tools::{ToolError, gateway::GatewayCalls, nodes::Answering},
};

/// Where the notes are kept.
const NOTES: &str = "restart.notes";
/// Most notes that wait for one restart; the oldest goes first.
const MOST_NOTES: usize = 16;
const DEFAULT_DELAY_MS: u64 = 2000;
const LONGEST_DELAY_MS: u64 = 60_000;
/// How long after a restart that an agent asked for no agent gets another: a
/// model that does not understand its report must not keep the gateway busy
/// with restarts.
const AGENTS_PAUSE: Duration = Duration::from_secs(5 * 60);

/// What the service needs.
#[derive(Clone)]
pub struct Parts {
    /// Who starts the daemon again.
    pub supervisor: Option<Supervisor>,
    /// The configuration in force.
    pub config: Arc<config::Live>,
    /// Where notes outlive the process.
    pub store: Store,
    /// Where the answer to a conversation goes.
    pub sessions: Arc<Sessions>,
    /// Tells a conversation.
    pub agent: Arc<Agent>,
    /// Tells a conversation at its next turn.
    pub system_events: Arc<SystemEvents>,
    /// Owns the waiting task.
    pub tracker: TaskTracker,
    /// Stops the daemon.
    pub stop: CancellationToken,
}

/// Ends the process for a new one.
pub struct Restart {
    parts: Parts,
    /// Somebody asked; the delay may still run.
    asked: AtomicBool,
    /// The daemon stops because of it.
    under_way: AtomicBool,
    started: Instant,
    /// An agent asked for the restart that brought this process about.
    by_agent: AtomicBool,
}

impl std::fmt::Debug for Restart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let supervisor = &self.parts.supervisor;
        f.debug_struct("Restart").field("supervisor", supervisor).finish_non_exhaustive()
    }
}

/// Who asks for a restart, and why.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `restart`, `config-apply` or `update`, as clients of the reference know
    /// it.
    pub kind: &'static str,
    /// For the log and the answer, such as `config.apply`.
    pub reason: String,
    /// The conversation that is told when the new process serves.
    pub session_key: Option<String>,
    /// What it is told beside the fact.
    pub note: Option<String>,
    /// How long to wait before; bounded.
    pub delay_ms: Option<u64>,
    /// What was done, by kind.
    pub stats: Option<Value>,
    /// Whether an agent asks in the middle of a run.
    pub by_agent: bool,
}

impl Asked {
    /// Returns a request that nobody is told about.
    #[must_use]
    pub fn of_kind(kind: &'static str, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), ..Self::default() }
    }

    fn note(&self) -> RestartNote {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        RestartNote {
            kind: self.kind.to_owned(),
            status: "ok".to_owned(),
            ts: clock::now_ms(),
            session_key: given(&self.session_key),
            message: given(&self.note),
            stats: self.stats.clone(),
        }
    }
}

/// Why there is no restart.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// Nobody would start the daemon again.
    #[error(
        "the gateway runs without a service manager, so nothing would start it again; stop it \
         and start it, or {}",
        supervisor::how_to_get_one()
    )]
    Unsupervised,
    /// Agents have to wait.
    #[error(
        "the gateway was restarted at an agent's request {0} s ago; its owner can restart it with: \
         moltbotctl gateway restart"
    )]
    TooSoon(u64),
    /// The note was not stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A note and the id of the run that tells it, which makes telling it twice
/// harmless.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    id: String,
    note: RestartNote,
    #[serde(default)]
    by_agent: bool,
}

impl Restart {
    /// Returns the service.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let flag = || AtomicBool::new(false);
        let (asked, under_way, by_agent) = (flag(), flag(), flag());
        Arc::new(Self { parts, asked, under_way, started: Instant::now(), by_agent })
    }

    /// Returns who would start the daemon again.
    #[must_use]
    pub fn supervisor(&self) -> Option<Supervisor> {
        self.parts.supervisor
    }

    /// Returns whether somebody has been promised a restart.
    #[must_use]
    pub fn is_promised(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Returns whether the daemon stops in order to be started again.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Acquire)
    }

    /// Promises a restart: the note is stored when this returns. Requests that
    /// come while one waits share its restart.
    pub async fn request(self: &Arc<Self>, asked: Asked) -> Result<Restarting, RestartError> {
        let supervisor = self.parts.supervisor.ok_or(RestartError::Unsupervised)?;
        let since = self.started.elapsed();
        if asked.by_agent && self.by_agent.load(Ordering::Acquire) && since < AGENTS_PAUSE {
            return Err(RestartError::TooSoon(since.as_secs()));
        }
        let note = asked.note();
        self.keep(note.clone(), asked.by_agent).await?;
        let delay_ms = asked.delay_ms.unwrap_or(DEFAULT_DELAY_MS).min(LONGEST_DELAY_MS);
        tracing::info!(reason = asked.reason, delay_ms, %supervisor, "restart asked for");
        if !self.asked.swap(true, Ordering::AcqRel) {
            let restart = Arc::clone(self);
            self.parts.tracker.spawn(async move { restart.leave(delay_ms).await });
        }
        Ok(Restarting {
            ok: true,
            restart: RestartPlan {
                ok: true,
                pid: std::process::id(),
                delay_ms,
                reason: asked.reason,
                mode: "exit".to_owned(),
                supervisor: supervisor.to_string(),
            },
            sentinel: Sentinel { path: None, payload: note },
        })
    }

    /// Tells whoever asked for something that needed no restart after all; a
    /// request without a name and a note wants to hear nothing.
    pub async fn tell_at_once(&self, asked: Asked) -> Result<RestartNote, StoreError> {
        let note = asked.note();
        if note.session_key.is_some() || note.message.is_some() {
            let id = Uuid::new_v4().to_string();
            let kept = Kept { id, note: note.clone(), by_agent: asked.by_agent };
            self.tell(&kept).await?;
        }
        Ok(note)
    }

    /// Tells whoever asked for the restart that brought this process about.
    /// Returns how many were told.
    pub async fn report(&self) -> Result<usize, StoreError> {
        let notes = self.parts.store.read(|db| db.setting::<Vec<Kept>>(NOTES)).await?;
        let notes = notes.unwrap_or_default();
        // First: what is told may lead to another request.
        self.by_agent.fetch_or(notes.iter().any(|kept| kept.by_agent), Ordering::AcqRel);
        for kept in &notes {
            self.tell(kept).await?;
        }
        if !notes.is_empty() {
            self.forget(notes.iter().map(|kept| kept.id.clone()).collect()).await?;
            tracing::info!(notes = notes.len(), "restart reported");
        }
        Ok(notes.len())
    }

    async fn leave(&self, delay_ms: u64) {
        tokio::select! {
            () = self.parts.stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(delay_ms)) => {}
        }
        // Set first: whoever sees the daemon stop must know why.
        self.under_way.store(true, Ordering::Release);
        self.parts.stop.cancel();
    }

    async fn keep(&self, note: RestartNote, by_agent: bool) -> Result<(), StoreError> {
        let kept = Kept { id: Uuid::new_v4().to_string(), note, by_agent };
        self.parts
            .store
            .write(move |db| {
                let mut notes: Vec<Kept> = db.setting(NOTES)?.unwrap_or_default();
                if notes.len() >= MOST_NOTES {
                    notes.remove(0);
                }
                notes.push(kept);
                db.put_setting(NOTES, &notes)
            })
            .await
    }

    /// Others may have been added meanwhile.
    async fn forget(&self, told: Vec<String>) -> Result<(), StoreError> {
        self.parts
            .store
            .write(move |db| {
                let mut notes: Vec<Kept> = db.setting(NOTES)?.unwrap_or_default();
                notes.retain(|kept| !told.contains(&kept.id));
                db.put_setting(NOTES, &notes)
            })
            .await
    }

    /// A conversation that exists gets a turn, and its answer goes where the
    /// conversation's answers go. Anything else is told at the next turn.
    async fn tell(&self, kept: &Kept) -> Result<(), StoreError> {
        let text = text(&kept.note);
        let config = self.parts.config.get();
        let Some(asked) = &kept.note.session_key else {
            let main = key::main(&config, &key::default_agent(&config));
            self.parts.system_events.queue(&main, text);
            return Ok(());
        };
        let session_key = key::canonical(&config, asked);
        let entry = self.parts.sessions.entry(&session_key).await?;
        let listens = entry.filter(|entry| {
            !policy::is_muted(&config, &session_key, Some(entry), Place::default())
        });
        let Some(entry) = listens else {
            self.parts.system_events.queue(&session_key, text);
            return Ok(());
        };
        let request = RunRequest {
            run_id: format!("restart-{}", kept.id),
            session_key: session_key.clone(),
            text: text.clone(),
            deliver: last_route(&entry),
            asker: Asker::new(AskerKind::Schedule, "gateway restart"),
            ..RunRequest::default()
        };
        if let Err(error) = self.parts.agent.start(request).await {
            tracing::warn!(%error, session = session_key, "restart told at the next turn");
            self.parts.system_events.queue(&session_key, format!("{text}\nError: {error}"));
        }
        Ok(())
    }
}

/// The daemon as agents may use it. It is made before the service that it
/// needs, which needs the agent.
#[derive(Debug, Default)]
pub struct ForAgents(OnceLock<Weak<Restart>>);

impl ForAgents {
    /// Takes the service, once.
    pub fn serve(&self, restart: &Arc<Restart>) {
        // The first one stays.
        let _ = self.0.set(Arc::downgrade(restart));
    }

    fn service(&self) -> Result<Arc<Restart>, ToolError> {
        let restart = self.0.get().and_then(Weak::upgrade);
        restart.ok_or_else(|| ToolError("the gateway starts or stops just now".into()))
    }
}

impl GatewayCalls for ForAgents {
    fn status(&self) -> Answering {
        let restart = self.service();
        Box::pin(async move {
            let restart = restart?;
            let uptime = restart.started.elapsed().as_secs();
            Ok(json!({
                "version": env!("CARGO_PKG_VERSION"),
                "uptimeSeconds": uptime,
                "serviceManager": restart.supervisor().map(|it| it.to_string()),
                "degraded": restart.parts.config.degraded(),
                "restartPromised": restart.is_promised(),
            }))
        })
    }

    fn restart(&self, session_key: String, note: Option<String>) -> Answering {
        let restart = self.service();
        Box::pin(async move {
            let asked = Asked {
                session_key: Some(session_key),
                note,
                by_agent: true,
                ..Asked::of_kind("restart", "an agent's tool")
            };
            let promised = restart?.request(asked).await;
            let Restarting { restart: plan, .. } =
                promised.map_err(|error| ToolError(error.to_string()))?;
            Ok(json!({
                "promised": true,
                "inMilliseconds": plan.delay_ms,
                "by": plan.supervisor,
                "next": "this conversation is told when the new process serves",
            }))
        })
    }
}

fn text(note: &RestartNote) -> String {
    let payload = serde_json::to_string_pretty(note).expect("notes serialize");
    format!("GatewayRestart:\n{payload}")
}
