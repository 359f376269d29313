//! Builds the services in order, serves, and takes them down again.

use std::{
    mem,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use moltbot_protocol::events::system::{Shutdown, Tick};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    agent::{self, Agent},
    auth::{self, Auth, Secrets},
    bus::{Bus, Close},
    channels::{Channels, Inbound, InboundQueue},
    clock,
    config::{self, AuthSecrets, Bind, GivenToken},
    discovery::Advertiser,
    gateway::Gateway,
    health::{self, Health},
    inherited::Inherited,
    listening::Listening,
    lock::{self, Guards, LockError},
    logging::Logs,
    methods,
    net::{self, Admission, BindError, IncomingBudget, Shared},
    nodes::{AgentCalls, Nodes},
    paths::{self, Paths},
    presence::{self, Presence},
    private,
    providers::Models,
    rekey::Rekey,
    reload::Follower,
    restart::{self, ForAgents, Restart},
    rpc::Dedupe,
    sessions::{self, Sessions, system_events::SystemEvents},
    store::{Store, StoreError},
    supervisor::{self, Supervisor},
    tailscale::Tailscale,
    tls::{self, Tls, TlsError},
    tools::{self, Tools},
    upkeep,
};

/// What `main` found out before anything runs.
#[derive(Debug)]
pub struct Start {
    /// Where the files are.
    pub paths: Paths,
    /// The configuration in force.
    pub config: Arc<config::Live>,
    /// The shared secrets.
    pub secrets: AuthSecrets,
    /// What the command line says about them.
    pub given: GivenToken,
    /// TCP port: flag, environment or configuration.
    pub port: u16,
    /// Which addresses to listen on: flag or configuration.
    pub bind: Bind,
    /// Which addresses others reach it at: those, or the sockets handed over.
    pub reach: Bind,
    /// How the gateway is reached through a tailnet: flags or configuration.
    pub tailscale: config::Tailscale,
    /// The running logs.
    pub logs: Logs,
    /// Cancelled when the daemon is to stop.
    pub stop: CancellationToken,
    /// One item for each request to read the configuration anew.
    pub reload: mpsc::Receiver<()>,
    /// Sockets of the service manager.
    pub inherited: Inherited,
    /// Held for as long as the daemon runs.
    pub locks: Guards,
    /// Who starts the daemon again, if anybody does.
    pub supervisor: Option<Supervisor>,
}

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// It wants to be started again.
    Restart,
}

/// Why the daemon ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The flags or variables make no sense.
    #[error("{0}")]
    Usage(String),
    /// The address is taken.
    #[error("{0}")]
    AddressInUse(String),
    /// Another gateway runs.
    #[error("{0}")]
    Locked(String),
    /// It would not be safe.
    #[error("{0}")]
    Refused(String),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// Anything else.
    #[error("{}", with_causes(.0))]
    Other(#[from] anyhow::Error),
}

impl Failure {
    /// Returns the exit code, which tells the service manager whether another
    /// try makes sense.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::AddressInUse(_) => 69,
            Self::Locked(_) => 75,
            Self::Refused(_) => 77,
            Self::Config(_) => 78,
            Self::Other(_) => 1,
        }
    }
}

/// Returns what went wrong and why. Most errors of ours say the reason
/// themselves; it is not told twice.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

impl From<private::Error> for Failure {
    fn from(error: private::Error) -> Self {
        if error.is_refusal() {
            Self::Refused(error.to_string())
        } else {
            // The disk, the file system or its modes.
            Self::Other(anyhow::anyhow!("{error}; see what is wrong with: moltbotctl doctor"))
        }
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held { .. } | LockError::Shared { .. } => Self::Locked(error.to_string()),
            LockError::File(error) => error.into(),
            LockError::Io { .. } => Self::Other(error.into()),
        }
    }
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::File(file) => file.into(),
            TlsError::Invalid(_) => Self::Config(error.to_string()),
            TlsError::Io { .. } => Self::Other(error.into()),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        match error {
            BindError::InUse { address, .. } => {
                Self::AddressInUse(match lock::listener(address.port()) {
                    Some(note) => format!(
                        "{address} is the address of another gateway: {}; give this one its own \
                     gateway.port",
                        note.identity()
                    ),
                    None => error.to_string(),
                })
            }
            BindError::Plain(_) => Self::Refused(error.to_string()),
            BindError::Mode(_) => Self::Config(error.to_string()),
            BindError::Failed { .. } | BindError::NotHere { .. } => Self::Other(error.into()),
        }
    }
}

/// Nobody is to start again and again over a database that only a person can
/// mend.
fn unusable(database: &Path, error: StoreError) -> Failure {
    let path = database.display();
    match error {
        StoreError::File(error) => error.into(),
        error if error.is_damage() => Failure::Refused(format!(
            "{path} is damaged ({error}); put back a backup with: moltbotctl backup restore FILE; \
             or keep what is left of it and start empty: mv {path} {path}.damaged"
        )),
        error @ StoreError::Newer { .. } => Failure::Refused(format!("{path}: {error}")),
        error => Failure::Other(anyhow::Error::new(error).context(format!("cannot open {path}"))),
    }
}

/// Messages that wait for the agent.
const INBOUND_QUEUE: usize = 256;

/// How long calls and runs may take to end once the daemon is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// When clients are told to expect a restarted daemon.
const RESTART_EXPECTED_MS: u64 = 1500;

/// How often to look whether the certificate was replaced.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(5);

/// Memory of all messages that clients have begun to send, unless four of the
/// largest ones need more.
const INCOMING_BYTES: usize = 64 * 1024 * 1024;
/// How much longer than a part of the drain the service manager is asked to
/// wait.
const MARGIN: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to stop.
pub async fn run(mut start: Start) -> Result<Ended, Failure> {
    raise_file_limit();
    let database = start.paths.database();
    let store = Store::open(&database).map_err(|error| unusable(&database, error))?;
    let mut gateway_config = start.config.get().gateway.clone();
    gateway_config.bind = start.bind;
    let tls = certificate(&gateway_config.tls, &start.paths)?;
    let inherited = mem::take(&mut start.inherited);
    let control = start.paths.control_socket();
    let listeners = net::bind(&gateway_config, start.port, &control, inherited).await?;
    // A full queue makes channels wait; what they read is in the inbox by then.
    let (inbound, messages) = mpsc::channel::<Inbound>(INBOUND_QUEUE);
    let shared = build(&start, store.clone(), inbound, tls, listeners.port);
    let address = format!("127.0.0.1:{}", listeners.port);
    start.locks.listening(&address);
    let interrupted = shared.gateway.agent.recall().await.inspect_err(|error| {
        tracing::error!(%error, "interrupted runs not taken up");
    });
    // Before anybody is served: whoever was finds it in the log.
    tracing::info!(address, pid = std::process::id(), profile = start.paths.profile, "ready");
    let probes = net::serve(listeners, &shared);
    let mut background = background(&shared);
    let advertiser = Advertiser {
        config: Arc::clone(&start.config),
        bind: start.bind,
        port: shared.port,
        profile: start.paths.profile.clone(),
        tls: shared.gateway.tls.clone(),
    };
    shared.tasks.spawn(advertiser.run(shared.closing.clone()));
    shared.tasks.spawn(tailnet(&shared));
    supervisor::ready(&format!("listening on {address}"));
    let paths = start.paths.clone();
    shared.tasks.spawn_blocking(move || lock::remove_stale(&paths));
    let channels = Arc::clone(&shared.gateway.channels);
    let agent = Arc::clone(&shared.gateway.agent);
    let restart = Arc::clone(&shared.gateway.restart);
    background.spawn(async move {
        if let Ok(interrupted) = interrupted {
            let runs = interrupted.count();
            agent.resume(interrupted).await;
            if runs > 0 {
                tracing::info!(runs, "interrupted runs taken up");
            }
        }
        if let Err(error) = channels.start().await {
            tracing::error!(%error, "channels not started");
        }
        if let Err(error) = restart.report().await {
            tracing::error!(%error, "a restart is not reported");
        }
    });
    background.spawn(Arc::clone(&shared.gateway.agent).consume(messages));
    background.spawn(upkeep::run(store.clone(), start.paths.inbound_media()));
    let probe = watch(&shared, probes);
    let watchdog = supervisor::watchdog(probe, start.stop.clone());
    let asked = Arc::<Notify>::default();
    let rekey = Rekey {
        given: start.given.clone(),
        reach: start.reach,
        gateway: Arc::clone(&shared.gateway),
        logs: start.logs.clone(),
    };
    background.spawn(rekey.run(start.config.changes(), Arc::clone(&asked)));
    let follower = Follower {
        live: Arc::clone(&start.config),
        logs: start.logs.clone(),
        restart: Arc::clone(&shared.gateway.restart),
        asked,
        status: format!("listening on {address}"),
    };
    background.spawn(follower.run(start.reload, start.stop.clone()));
    if let Some(tls) = &shared.gateway.tls {
        background.spawn(follow_certificate(Arc::clone(tls), start.config.changes()));
    }
    background.spawn(follow_changes(&shared, start.config.changes()));
    start.stop.cancelled().await;
    supervisor::stopping("telling clients, finishing what is under way");
    background.abort_all();
    if let Some(watchdog) = watchdog {
        watchdog.abort();
    }
    stop(&shared, &store).await;
    drop(start.locks);
    Ok(if shared.gateway.restart.is_under_way() { Ended::Restart } else { Ended::Stopped })
}

fn build(
    start: &Start,
    store: Store,
    inbound: InboundQueue,
    tls: Option<Arc<Tls>>,
    port: u16,
) -> Shared {
    let started = Instant::now();
    let bus = Arc::new(Bus::default());
    let limits = start.config.get().gateway.limits.clone();
    let tailscale = Tailscale::new(&start.config.get(), &start.tailscale, port);
    let nodes = Arc::new(Nodes::new(Arc::clone(&start.config), store.clone(), Arc::clone(&bus)));
    let models = Arc::new(Models::new(Arc::clone(&start.config)));
    let channels =
        Channels::new(Arc::clone(&start.config), store.clone(), start.paths.clone(), inbound);
    let tasks = TaskTracker::new();
    let system_events = Arc::<SystemEvents>::default();
    let sessions = Sessions::new(sessions::Parts {
        config: Arc::clone(&start.config),
        store: store.clone(),
        models: Arc::clone(&models),
        database: start.paths.database(),
        archives: start.paths.state_dir.clone(),
    });
    let listening = Arc::<Listening>::default();
    let calls = Arc::new(AgentCalls::new(Arc::clone(&nodes)));
    let for_agents = Arc::<ForAgents>::default();
    let agent = Agent::new(agent::Parts {
        config: Arc::clone(&start.config),
        store: store.clone(),
        bus: Arc::clone(&bus),
        models: Arc::clone(&models),
        tools: Tools::new(vec![
            Arc::new(tools::nodes::Nodes::new(Arc::clone(&calls) as _)),
            Arc::new(tools::gateway::Gateway::new(Arc::clone(&for_agents) as _)),
        ]),
        nodes: calls,
        outbound: Arc::new(Arc::clone(&channels)),
        system_events: Arc::clone(&system_events),
        tracker: tasks.clone(),
        stop: start.stop.clone(),
        grace: DRAIN / 2,
    });
    let sessions = Arc::new(sessions);
    let restart = Restart::new(restart::Parts {
        supervisor: start.supervisor,
        config: Arc::clone(&start.config),
        store: store.clone(),
        sessions: Arc::clone(&sessions),
        agent: Arc::clone(&agent),
        system_events: Arc::clone(&system_events),
        tracker: tasks.clone(),
        stop: start.stop.clone(),
    });
    for_agents.serve(&restart);
    let gateway = Gateway {
        started,
        sessions,
        restart,
        agent,
        channels: Arc::clone(&channels),
        auth: Auth::new(auth::Parts {
            config: Arc::clone(&start.config),
            store: store.clone(),
            bus: Arc::clone(&bus),
            tailscale: Arc::clone(&tailscale),
            secrets: Secrets::from(&start.secrets),
        }),
        presence: Presence::new(Arc::clone(&bus)),
        health: Health::new(health::Parts {
            config: Arc::clone(&start.config),
            store: store.clone(),
            bus: Arc::clone(&bus),
            database: start.paths.database(),
            profile: start.paths.profile.clone(),
            logs: start.logs.clone(),
            channels: Arc::clone(&channels) as Arc<dyn health::ChannelHealth>,
            models: Arc::clone(&models),
            listening: Arc::clone(&listening),
            tls: tls.clone(),
            tailscale: Arc::clone(&tailscale),
            started,
        }),
        paths: start.paths.clone(),
        logs: start.logs.clone(),
        config: Arc::clone(&start.config),
        listening,
        tls,
        tailscale,
        store,
        bus,
        dedupe: Dedupe::default(),
        nodes,
        models,
        system_events,
    };
    Shared {
        gateway: Arc::new(gateway),
        router: Arc::new(methods::router()),
        admission: Arc::new(Admission::new(
            limits.unauthenticated,
            limits.unauthenticated_per_address,
        )),
        incoming: Arc::new(IncomingBudget::new(INCOMING_BYTES.max(4 * limits.max_payload))),
        tasks,
        closing: CancellationToken::new(),
        handshakes: Arc::default(),
        dropped: Arc::default(),
        port,
    }
}

/// Starts what runs beside the connections for as long as the daemon does.
fn background(shared: &Shared) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let gateway = Arc::clone(&shared.gateway);
    tasks.spawn(async move {
        let mut ticks =
            tokio::time::interval_at(tokio::time::Instant::now() + net::TICK, net::TICK);
        loop {
            ticks.tick().await;
            gateway.bus.publish_with_copies(&Tick { ts: clock::now_u64() });
            gateway.dedupe.sweep();
        }
    });
    let gateway = Arc::clone(&shared.gateway);
    tasks.spawn(async move { gateway.presence.announce().await });
    let gateway = Arc::clone(&shared.gateway);
    tasks.spawn(async move { gateway.health.keep_fresh().await });
    let logs = shared.gateway.logs.clone();
    tasks.spawn(async move { logs.keep_count().await });
    tasks
}

/// Returns the certificate to show, made at the first start unless there is one.
fn certificate(settings: &config::GatewayTls, paths: &Paths) -> Result<Option<Arc<Tls>>, Failure> {
    if !settings.enabled {
        return Ok(None);
    }
    let path = |given: &Option<String>| given.as_deref().map(paths::expand_home);
    let own = settings.cert_path.is_none();
    let files = tls::Files {
        certificate: path(&settings.cert_path).unwrap_or_else(|| paths.certificate()),
        key: path(&settings.key_path).unwrap_or_else(|| paths.certificate_key()),
        make: own && settings.auto_generate,
    };
    let host = presence::host_name();
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
    // What is no name for a certificate is not needed in it: it is pinned.
    if !host.is_empty() && host.is_ascii() {
        names.extend([format!("{host}.local"), host]);
    }
    let tls = Tls::open(files, names)?;
    tracing::info!(sha256 = tls.fingerprint(), "TLS on; this is the certificate's fingerprint");
    Ok(Some(Arc::new(tls)))
}

/// Takes up a replaced certificate: when its file changes, and at a reload.
async fn follow_certificate(tls: Arc<Tls>, mut changes: watch::Receiver<u64>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(CERTIFICATE_INTERVAL) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
        let reading = Arc::clone(&tls);
        // A read that panicked would be tried again a moment later.
        let _ = tokio::task::spawn_blocking(move || reading.refresh()).await;
    }
}

/// Has Tailscale lead here until the stop, and beyond it unless the configuration
/// says otherwise. A restart is no stop.
fn tailnet(shared: &Shared) -> impl Future<Output = ()> + use<> {
    let gateway = Arc::clone(&shared.gateway);
    let closing = shared.closing.clone();
    async move {
        Arc::clone(&gateway.tailscale).run(closing).await;
        if !gateway.restart.is_under_way() {
            gateway.tailscale.withdraw().await;
        }
    }
}

/// Returns the daemon's proof of life: every accept loop, the store's writer
/// and the bus answered.
fn watch(
    shared: &Shared,
    probes: Vec<mpsc::Sender<oneshot::Sender<()>>>,
) -> impl FnMut() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + use<> {
    let gateway = Arc::clone(&shared.gateway);
    move || {
        let (gateway, probes) = (Arc::clone(&gateway), probes.clone());
        Box::pin(async move {
            for probe in probes {
                let (answer, answered) = oneshot::channel();
                if probe.send(answer).await.is_err() || answered.await.is_err() {
                    return Err("an accept loop does not answer".to_owned());
                }
            }
            let _ = gateway.bus.stats();
            // A full disk is reported elsewhere; a restart would not empty it.
            match gateway.store.write(|_| Ok(())).await {
                Err(StoreError::Closed) => Err("the store's writer is gone".to_owned()),
                _ => Ok(()),
            }
        })
    }
}

/// Starts anew what a changed configuration concerns.
fn follow_changes(
    shared: &Shared,
    mut changes: watch::Receiver<u64>,
) -> impl Future<Output = ()> + use<> {
    let channels = Arc::clone(&shared.gateway.channels);
    async move {
        while changes.changed().await.is_ok() {
            channels.reload().await;
        }
    }
}

/// Tells every client, then waits for what is under way.
async fn stop(shared: &Shared, store: &Store) {
    let gateway = &shared.gateway;
    let restarts = gateway.restart.is_under_way();
    let reason = if restarts { "gateway restarting" } else { "gateway stopping" }.to_owned();
    let restart_expected_ms = restarts.then_some(RESTART_EXPECTED_MS);
    gateway.bus.publish(&Shutdown { reason, restart_expected_ms });
    shared.closing.cancel();
    gateway.bus.finish_all(&Close::RESTART);
    shared.tasks.close();
    supervisor::extend_timeout(DRAIN + MARGIN);
    if tokio::time::timeout(DRAIN, shared.tasks.wait()).await.is_err() {
        tracing::warn!(left = shared.tasks.len(), "stopped before everything was finished");
    }
    // Last, so that answers of the calls and runs above still go out.
    supervisor::extend_timeout(DRAIN + MARGIN);
    if tokio::time::timeout(DRAIN, gateway.channels.stop()).await.is_err() {
        tracing::warn!("channels did not stop in time");
    }
    // Before the locks go: whoever holds them next may replace the file.
    supervisor::extend_timeout(DRAIN + MARGIN);
    if tokio::time::timeout(DRAIN, store.close()).await.is_err() {
        tracing::warn!("the database was not closed in time");
    }
    gateway.logs.finish();
    tracing::info!("stopped");
}

/// Every client is a file descriptor; the usual limit of 1024 is too low, and
/// the hard one is there to be used.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, "file limit not raised");
    }
}
