//! The clients that do nothing wrong, and what they had to bear.
//!
//! Each runs on a thread of its own, so that a busy attacker in the same process does not
//! count as a slow gateway.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::json;

use super::wire::{DEADLINE, RawSocket};
use crate::Connect;

/// How a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One connection for the whole time, opened before the attack.
    Kept,
    /// A new connection for each call.
    Fresh,
    /// A new connection to the control socket for each call.
    Control,
}

/// What happened to the calls of one client.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that were not, with the reason of the first.
    pub unanswered: u64,
    /// Why the first was not answered.
    pub first_failure: Option<String>,
    /// Connections that were refused before one was let in.
    pub refused: u64,
    /// The longest wait, from the first attempt to the answer, and what went on meanwhile.
    pub worst: Duration,
    /// The part of the attack during which that was.
    pub worst_during: String,
    /// The longest wait since `CleanClients::begin` was last called.
    pub worst_of_phase: Duration,
}

/// The three clients.
pub(super) struct CleanClients {
    threads: Mutex<Vec<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

struct Shared {
    stop: AtomicBool,
    phase: Mutex<String>,
    waits: [Mutex<Waits>; 3],
}

impl CleanClients {
    /// Starts them. `connect` is how they log in over TCP.
    #[must_use]
    pub(super) fn start(port: u16, control: PathBuf, connect: &Connect) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            phase: Mutex::default(),
            waits: Default::default(),
        });
        let threads = [Way::Kept, Way::Fresh, Way::Control].map(|way| {
            let caller = Caller {
                way,
                port,
                control: control.clone(),
                connect: connect.clone(),
                shared: Arc::clone(&shared),
            };
            std::thread::spawn(move || caller.call_until_stopped())
        });
        Self { threads: Mutex::new(threads.into()), shared }
    }

    /// Names the part of the attack that begins now.
    pub(super) fn begin(&self, phase: &str) {
        phase.clone_into(&mut *lock(&self.shared.phase));
        for waits in &self.shared.waits {
            lock(waits).worst_of_phase = Duration::ZERO;
        }
    }

    /// Returns once each client has finished `calls` more calls, whatever came of them.
    pub(super) async fn each_has_called(&self, calls: u64) {
        let done = |way: usize| {
            let waits = lock(&self.shared.waits[way]);
            waits.answered + waits.unanswered
        };
        let aim: Vec<u64> = (0..3).map(|way| done(way) + calls).collect();
        while (0..3).any(|way| done(way) < aim[way]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns what one of them has met so far.
    #[must_use]
    pub(super) fn waits(&self, way: Way) -> Waits {
        lock(&self.shared.waits[way as usize]).clone()
    }

    /// Ends them after the call that each is making.
    ///
    /// # Panics
    ///
    /// When one of them panicked.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in lock(&self.threads).drain(..) {
            thread.join().expect("a clean client does not panic");
        }
    }
}

struct Caller {
    way: Way,
    port: u16,
    control: PathBuf,
    connect: Connect,
    shared: Arc<Shared>,
}

impl Caller {
    fn call_until_stopped(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(async {
            let mut kept = None;
            while !self.shared.stop.load(Ordering::Relaxed) {
                let phase = lock(&self.shared.phase).clone();
                let began = Instant::now();
                let outcome = self.call(&mut kept, began).await;
                self.record(outcome, began.elapsed(), phase);
                // Often enough to see every delay, seldom enough to be no load.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    /// Makes one call, and however many attempts to connect it takes.
    async fn call(&self, kept: &mut Option<RawSocket>, began: Instant) -> io::Result<()> {
        let mut socket = match kept.take() {
            Some(socket) => socket,
            None => self.connect_with_patience(began).await?,
        };
        let remaining = DEADLINE.saturating_sub(began.elapsed());
        let answer = tokio::time::timeout(remaining, socket.call("health", &json!({}))).await??;
        if answer["ok"] != true {
            return Err(io::Error::other(answer.to_string()));
        }
        if self.way == Way::Kept {
            *kept = Some(socket);
        }
        Ok(())
    }

    async fn connect_with_patience(&self, began: Instant) -> io::Result<RawSocket> {
        loop {
            let remaining = DEADLINE.saturating_sub(began.elapsed());
            let error = match tokio::time::timeout(remaining, self.connect()).await? {
                Ok(socket) => return Ok(socket),
                Err(error) => error,
            };
            lock(&self.shared.waits[self.way as usize]).refused += 1;
            if began.elapsed() > DEADLINE {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connect(&self) -> io::Result<RawSocket> {
        let mut socket = match self.way {
            Way::Control => RawSocket::open_control(&self.control).await?,
            Way::Kept | Way::Fresh => RawSocket::open(self.port).await?,
        };
        socket.upgrade().await?;
        socket.log_in(&self.connect).await?;
        Ok(socket)
    }

    fn record(&self, outcome: io::Result<()>, wait: Duration, phase: String) {
        let mut waits = lock(&self.shared.waits[self.way as usize]);
        match outcome {
            Ok(()) => waits.answered += 1,
            Err(error) => {
                waits.unanswered += 1;
                let reason = format!("{error} (during {phase})");
                waits.first_failure.get_or_insert(reason);
            }
        }
        waits.worst_of_phase = waits.worst_of_phase.max(wait);
        if wait > waits.worst {
            waits.worst = wait;
            waits.worst_during = phase;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
