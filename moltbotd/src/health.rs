//! How the daemon is: one report for all who ask, refreshed in the background.
//!
//! A refresh that somebody asked for and that found nothing new is told to
//! nobody, so that many clients connecting at once do not cost the square of
//! their number.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use moltbot_protocol::{
    events::health::HealthChanged,
    methods::health::{
        AgentHealth, AgentHeartbeat, AgentSessions, GatewayStatus, HealthSummary, HeartbeatHealth,
        HeartbeatStatus, SessionDefaultsStatus, SessionsHealth, SessionsStatus, StatusSummary,
        TlsStatus,
    },
};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::{
    bus::{Bus, Versioned},
    clock, config,
    listening::Listening,
    logging::Logs,
    providers::Models,
    store::{Overview, Store, StoreError},
    tailscale::Tailscale,
    tls::Tls,
};

/// How long a report answers without a refresh.
const FRESH: Duration = Duration::from_secs(60);

/// The channels' part of a report.
#[derive(Clone, Debug, Default)]
pub struct ChannelReport {
    /// A summary for each channel.
    pub channels: Map<String, Value>,
    /// Ids in the order to show them.
    pub order: Vec<String>,
    /// Names for people.
    pub labels: Map<String, Value>,
    /// One line for each channel.
    pub lines: Vec<String>,
}

/// What the report needs of the channels.
pub trait ChannelHealth: Send + Sync + 'static {
    /// Describes every channel; with `probe`, after asking its server.
    fn report(&self, probe: bool) -> Pin<Box<dyn Future<Output = ChannelReport> + Send + '_>>;

    /// Returns what hinders accounts now, one line each.
    fn troubles(&self) -> Vec<String>;
}

/// What the report is made from.
#[derive(Clone)]
pub struct Parts {
    /// The configuration in force.
    pub config: Arc<config::Live>,
    /// Conversations.
    pub store: Store,
    /// Where news goes.
    pub bus: Arc<Bus>,
    /// Where conversations are kept, as shown to clients.
    pub database: PathBuf,
    /// Name of the profile.
    pub profile: Option<String>,
    /// The running logs.
    pub logs: Logs,
    /// The channels.
    pub channels: Arc<dyn ChannelHealth>,
    /// The models that can answer.
    pub models: Arc<Models>,
    /// Where the daemon listens.
    pub listening: Arc<Listening>,
    /// The certificate, when the port speaks TLS.
    pub tls: Option<Arc<Tls>>,
    /// The tailnet.
    pub tailscale: Arc<Tailscale>,
    /// When the daemon started.
    pub started: Instant,
}

/// The daemon's report about itself.
pub struct Health {
    parts: Parts,
    last: Mutex<Option<(Instant, HealthSummary)>>,
    wanted: Notify,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    /// Starts without a report.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts, last: Mutex::default(), wanted: Notify::new() }
    }

    /// Returns the last report, however old.
    pub fn last(&self) -> Option<HealthSummary> {
        self.last_with_age().map(|(_, summary)| summary)
    }

    /// Returns a report: the last one while it is fresh, else a new one. With
    /// `probe`, always a new one that asked the channels' servers.
    pub async fn report(&self, probe: bool) -> Result<HealthSummary, StoreError> {
        match self.last_with_age() {
            // What began or ended to hinder a channel is in its part of the report, too.
            Some((age, summary)) if !probe && age < FRESH && !self.is_outdated() => {
                self.refresh_soon();
                Ok(summary)
            }
            _ => self.refresh(probe).await,
        }
    }

    /// Makes the first report, unless there is one.
    pub async fn first(&self) -> Result<(), StoreError> {
        if self.last_with_age().is_none() {
            self.refresh(false).await?;
        }
        Ok(())
    }

    /// Asks for a refresh in the background; several wishes make one.
    pub fn refresh_soon(&self) {
        self.wanted.notify_one();
    }

    /// Refreshes on demand and once a minute. Runs until cancelled.
    pub async fn keep_fresh(&self) {
        let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + FRESH, FRESH);
        loop {
            let told = tokio::select! {
                // Clients show how old the last report is, so that each of
                // these is told.
                _ = clock.tick() => Told::Anyway,
                () = self.wanted.notified() => Told::News,
            };
            if let Err(error) = self.renew(false, told).await {
                tracing::warn!(%error, "health not refreshed");
            }
            // Whoever asks in this second is served by one refresh.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Makes a new report, and tells everybody if it differs from the last.
    pub async fn refresh(&self, probe: bool) -> Result<HealthSummary, StoreError> {
        self.renew(probe, Told::News).await
    }

    async fn renew(&self, probe: bool, told: Told) -> Result<HealthSummary, StoreError> {
        let summary = self.collect(probe).await?;
        let changed = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = !last.as_ref().is_some_and(|(_, before)| same(before, &summary));
            *last = Some((Instant::now(), summary.clone()));
            changed
        };
        if changed || told == Told::Anyway {
            self.parts.bus.publish_versioned(&HealthChanged(summary.clone()), Versioned::Health);
        }
        Ok(summary)
    }

    /// Returns what the daemon is doing.
    pub async fn status(&self, queued_events: Vec<String>) -> Result<StatusSummary, StoreError> {
        let config = self.parts.config.get();
        let now_ms = clock::now_u64();
        let ids = config.agents.ids();
        let agent_ids = ids.clone();
        let (all, each) = self
            .parts
            .store
            .read(move |db| {
                let each: Vec<Overview> = agent_ids
                    .iter()
                    .map(|id| db.session_overview(Some(id), now_ms))
                    .collect::<Result<_, _>>()?;
                Ok((db.session_overview(None, now_ms)?, each))
            })
            .await?;
        let path = self.parts.database.display().to_string();
        let by_agent = ids.iter().zip(each).map(|(id, overview)| AgentSessions {
            agent_id: id.clone(),
            path: path.clone(),
            count: overview.count,
            recent: overview.recent,
        });
        let heartbeats = ids.iter().map(|id| AgentHeartbeat {
            agent_id: id.clone(),
            enabled: false,
            every: "0m".to_owned(),
            every_ms: None,
        });
        Ok(StatusSummary {
            heartbeat: HeartbeatStatus {
                default_agent_id: config.agents.default_id(),
                agents: heartbeats.collect(),
            },
            channel_summary: self.parts.channels.report(false).await.lines,
            queued_system_events: queued_events,
            sessions: SessionsStatus {
                paths: vec![path.clone()],
                count: all.count,
                defaults: default_model(&config),
                recent: all.recent,
                by_agent: by_agent.collect(),
            },
            gateway: self.gateway_status(),
            degraded: self.degraded(),
        })
    }

    /// Returns what is wrong, one line each.
    #[must_use]
    pub fn degraded(&self) -> Option<Vec<String>> {
        let disk = self.parts.store.trouble().map(|reason| format!("disk: {reason}"));
        let config = self.parts.config.degraded().map(|reason| format!("configuration: {reason}"));
        let log = self.parts.logs.trouble().map(|reason| format!("log: {reason}"));
        let tls = self.parts.tls.as_ref().and_then(|tls| tls.trouble());
        let tls = tls.map(|reason| format!("tls: {reason}"));
        let tailscale = self.parts.tailscale.trouble().map(|reason| format!("tailscale: {reason}"));
        let bind = self.parts.listening.trouble().map(|reason| format!("bind: {reason}"));
        let found = disk.into_iter().chain(config).chain(log).chain(tls).chain(tailscale);
        let models = self.parts.models.troubles().into_iter().map(|why| format!("model: {why}"));
        let channels = self.parts.channels.troubles();
        let channels = channels.into_iter().map(|why| format!("channel: {why}"));
        let found = found.chain(bind).chain(models).chain(channels);
        let found: Vec<String> = found.collect();
        (!found.is_empty()).then_some(found)
    }

    fn gateway_status(&self) -> GatewayStatus {
        let stats = self.parts.bus.stats();
        GatewayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            profile: self.parts.profile.clone(),
            uptime_ms: u64::try_from(self.parts.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            clients: stats.clients as u64,
            events: stats.published,
            slow_consumers: stats.slow,
            resident_bytes: resident_bytes(),
            listening: self.parts.listening.addresses(),
            tailscale: self.parts.tailscale.status(),
            tls: self.parts.tls.as_ref().map(|tls| TlsStatus {
                sha256: tls.fingerprint(),
                certificate: tls.certificate().display().to_string(),
            }),
        }
    }

    async fn collect(&self, probe: bool) -> Result<HealthSummary, StoreError> {
        let config = self.parts.config.get();
        let started = Instant::now();
        let channels = self.parts.channels.report(probe).await;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now_ms = clock::now_u64();
        let ids = config.agents.ids();
        let agent_ids = ids.clone();
        let overviews: Vec<Overview> = self
            .parts
            .store
            .read(move |db| {
                agent_ids.iter().map(|id| db.session_overview(Some(id), now_ms)).collect()
            })
            .await?;
        let default_id = config.agents.default_id();
        let agents: Vec<AgentHealth> = ids
            .iter()
            .zip(&overviews)
            .map(|(id, overview)| AgentHealth {
                agent_id: id.clone(),
                name: config.agents.list.iter().find(|a| a.id == *id).and_then(|a| a.name.clone()),
                is_default: *id == default_id,
                heartbeat: no_heartbeat(),
                sessions: self.sessions_health(overview),
            })
            .collect();
        let sessions = agents
            .iter()
            .find(|agent| agent.is_default)
            .map(|agent| agent.sessions.clone())
            .unwrap_or_default();
        Ok(HealthSummary {
            ok: true,
            ts: now_ms,
            duration_ms,
            channels: channels.channels,
            channel_order: channels.order,
            channel_labels: channels.labels,
            heartbeat_seconds: 0,
            default_agent_id: default_id,
            agents,
            sessions,
            degraded: self.degraded(),
        })
    }

    fn sessions_health(&self, overview: &Overview) -> SessionsHealth {
        SessionsHealth {
            path: self.parts.database.display().to_string(),
            count: overview.count,
            recent: overview.recent.iter().take(5).map(Into::into).collect(),
        }
    }

    /// Returns whether something else hinders the daemon than when the last report was made.
    fn is_outdated(&self) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().is_some_and(|(_, summary)| summary.degraded != self.degraded())
    }

    fn last_with_age(&self) -> Option<(Duration, HealthSummary)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, summary) = last.as_ref()?;
        // What hinders the daemon is told at once, however old the rest is.
        Some((at.elapsed(), HealthSummary { degraded: self.degraded(), ..summary.clone() }))
    }
}

/// Which reports everybody is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Those that differ from the one before.
    News,
    /// Every one.
    Anyway,
}

/// There is no heartbeat runner yet, and the report says so.
fn no_heartbeat() -> HeartbeatHealth {
    HeartbeatHealth {
        enabled: false,
        every: "0m".to_owned(),
        every_ms: None,
        prompt: String::new(),
        target: "none".to_owned(),
        ack_max_chars: 0,
    }
}

/// Compares two reports without what changes by itself: times and ages.
fn same(a: &HealthSummary, b: &HealthSummary) -> bool {
    fn still(summary: &HealthSummary) -> HealthSummary {
        let mut summary = HealthSummary { ts: 0, duration_ms: 0, ..summary.clone() };
        let agents = summary.agents.iter_mut().map(|agent| &mut agent.sessions);
        for sessions in agents.chain(std::iter::once(&mut summary.sessions)) {
            for recent in &mut sessions.recent {
                recent.age = None;
            }
        }
        summary
    }
    still(a) == still(b)
}

fn default_model(config: &config::Config) -> SessionDefaultsStatus {
    let choice = config.agents.defaults.model.as_ref();
    let model = choice.and_then(|choice| match choice {
        config::ModelChoice::One(model) => Some(model.clone()),
        config::ModelChoice::Several { primary, .. } => primary.clone(),
    });
    let model = model.unwrap_or_else(|| "builtin/echo".to_owned());
    let (provider, id) = model.split_once('/').unwrap_or(("", &model));
    let context_tokens = config
        .models
        .providers
        .get(provider)
        .and_then(|provider| provider.models.iter().find(|known| known.id == id))
        .and_then(|model| model.context_window);
    SessionDefaultsStatus { model: Some(id.to_owned()), context_tokens }
}

/// Returns the memory in use, where the system tells.
#[cfg(target_os = "linux")]
pub(crate) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn resident_bytes() -> Option<u64> {
    None
}
