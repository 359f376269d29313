//! Clients that stay, and clients that keep arriving.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use moltbot_tests::{Client, Connect, Refusal};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How often a new client arrives.
const ARRIVAL: Duration = Duration::from_millis(10);
/// How often a client that stays calls.
const CALLS: Duration = Duration::from_millis(200);

/// What the clients saw.
#[derive(Debug, Default)]
struct Seen {
    refused: AtomicUsize,
    arrived: AtomicUsize,
    answered: AtomicUsize,
    cut: AtomicUsize,
    sessions: AtomicUsize,
    calls: AtomicUsize,
}

/// What the clients saw, in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Connections that nobody listened for.
    pub(super) refused: usize,
    /// Clients that arrived and asked for `/healthz`.
    pub(super) arrived: usize,
    /// Those that got an answer.
    pub(super) answered: usize,
    /// Those whose connection ended without one.
    pub(super) cut: usize,
    /// Handshakes of clients that stay.
    pub(super) sessions: usize,
    /// Calls of theirs that were answered.
    pub(super) calls: usize,
}

/// Clients of one gateway.
#[derive(Debug)]
pub(super) struct Crowd {
    runtime: Runtime,
    seen: Arc<Seen>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// Starts `staying` clients that connect and call, again and again, and
    /// lets another one arrive every 10 ms.
    pub(super) fn start(port: u16, staying: usize) -> Self {
        let runtime = runtime();
        let (seen, stop) = (Arc::<Seen>::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for _ in 0..staying {
            tasks.spawn_on(stay(port, Arc::clone(&seen), stop.clone()), runtime.handle());
        }
        tasks.spawn_on(arrive(port, Arc::clone(&seen), stop.clone()), runtime.handle());
        let crowd = Self { runtime, seen, stop, tasks };
        crowd.until(|counts| counts.sessions >= staying && counts.answered > 0);
        crowd
    }

    /// Returns what the clients saw so far.
    pub(super) fn counts(&self) -> Counts {
        let Seen { refused, arrived, answered, cut, sessions, calls } = &*self.seen;
        Counts {
            refused: refused.load(Relaxed),
            arrived: arrived.load(Relaxed),
            answered: answered.load(Relaxed),
            cut: cut.load(Relaxed),
            sessions: sessions.load(Relaxed),
            calls: calls.load(Relaxed),
        }
    }

    /// Waits until the clients saw something.
    pub(super) fn until(&self, is_so: impl Fn(Counts) -> bool) {
        let deadline = std::time::Instant::now() + moltbot_tests::PATIENCE;
        while !is_so(self.counts()) {
            assert!(std::time::Instant::now() < deadline, "{:?}", self.counts());
            std::thread::sleep(ARRIVAL);
        }
    }

    /// Sends everybody home; whoever waits is still served.
    pub(super) fn finish(mut self) -> Counts {
        self.stop.cancel();
        self.runtime.block_on(async { while self.tasks.join_next().await.is_some() {} });
        self.counts()
    }
}

/// A client that must not notice anything.
#[derive(Debug)]
pub(super) struct Bystander {
    runtime: Runtime,
    client: Client,
}

impl Bystander {
    /// Connects to the gateway at a port.
    pub(super) fn at(port: u16) -> Self {
        let runtime = runtime();
        let url = url(port);
        let connecting = Client::connect(&url, Connect::operator());
        let client = runtime.block_on(connecting).unwrap_or_else(|error| panic!("{error:?}"));
        Self { runtime, client }
    }

    /// Returns whether the connection still is the one it was.
    pub(super) fn is_served(&mut self) -> bool {
        self.runtime.block_on(self.client.call("health", json!({}))).is_ok()
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn url(port: u16) -> String {
    format!("ws://127.0.0.1:{port}")
}

async fn stay(port: u16, seen: Arc<Seen>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match Client::connect(&url(port), Connect::operator()).await {
            Ok(client) => {
                seen.sessions.fetch_add(1, Relaxed);
                call(client, &seen, &stop).await;
            }
            Err(refusal) if was_refused(&refusal) => {
                seen.refused.fetch_add(1, Relaxed);
            }
            // The gateway was about to end and said so, or was killed.
            Err(_) => {}
        }
    }
}

async fn call(mut client: Client, seen: &Seen, stop: &CancellationToken) {
    while client.call("health", json!({})).await.is_ok() {
        seen.calls.fetch_add(1, Relaxed);
        if stop.run_until_cancelled(tokio::time::sleep(CALLS)).await.is_none() {
            return;
        }
    }
}

fn was_refused(refusal: &Refusal) -> bool {
    refusal.reason.contains("refused")
}

async fn arrive(port: u16, seen: Arc<Seen>, stop: CancellationToken) {
    let mut visits = JoinSet::new();
    let mut ticks = tokio::time::interval(ARRIVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        visits.spawn(visit(port, Arc::clone(&seen)));
        while visits.try_join_next().is_some() {}
    }
    while visits.join_next().await.is_some() {}
}

async fn visit(port: u16, seen: Arc<Seen>) {
    seen.arrived.fetch_add(1, Relaxed);
    match ask(port).await {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => seen.answered.fetch_add(1, Relaxed),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            seen.refused.fetch_add(1, Relaxed)
        }
        _ => seen.cut.fetch_add(1, Relaxed),
    };
}

async fn ask(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request =
        format!("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
