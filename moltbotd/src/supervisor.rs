//! What the service manager is told, and which one there is. The only file
//! that knows systemd; without a manager that listens (`NOTIFY_SOCKET`)
//! nothing happens.
//!
//! A manager that does not read would block whoever tells it something, so a
//! thread of its own does that, message after message.

use std::{
    fmt,
    future::Future,
    io,
    os::fd::AsFd,
    path::Path,
    process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use nix::unistd;
use sd_notify::NotifyState;
use tokio::{task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::environment::Environment;

/// The exit code that asks to be started again. Every unit and property list
/// of ours restarts on it; no other exit uses it.
pub const RESTART: u8 = 79;

/// Messages that may wait for the manager; more are dropped with a warning,
/// except that clients are served, which a start or a reload does not end
/// without, and that the process is about to end.
const MOST_WAITING: usize = 64;
/// How long the exit waits for a manager that was not told everything yet.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a message is sent that does not arrive, and how long between: a
/// manager that is being replaced is gone for a moment.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// A message under way.
struct Message {
    /// Sends it once.
    send: Box<dyn Fn() -> io::Result<()> + Send>,
    /// Whether it is sent again to a manager that did not listen before either.
    insists: bool,
}

/// Who tells the manager.
struct Teller {
    messages: Sender<Message>,
    /// How many messages wait for the manager.
    waiting: Arc<AtomicUsize>,
}

/// Whether a sign of life waits for the manager: one is enough.
static SIGN_WAITS: AtomicBool = AtomicBool::new(false);

/// Who starts the gateway again when it ends with [`RESTART`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supervisor {
    /// A unit of systemd.
    Systemd,
    /// A job of launchd.
    Launchd,
    /// Whoever set `MOLTBOT_SUPERVISED=1`, such as a container with a restart
    /// policy.
    Other,
}

impl Supervisor {
    /// Finds out who started this process. What a shell inherited from its own
    /// service does not count: systemd names the process it means, and launchd
    /// is the parent of its jobs.
    #[must_use]
    pub fn of_this_process(environment: &Environment) -> Option<Self> {
        let is_ours = |pid: &str| pid.trim().parse() == Ok(process::id());
        if environment.get("SYSTEMD_EXEC_PID").is_some_and(is_ours) {
            return Some(Self::Systemd);
        }
        let job = environment.get("XPC_SERVICE_NAME").filter(|label| *label != "0");
        if job.is_some() && unistd::getppid().as_raw() == 1 {
            return Some(Self::Launchd);
        }
        (environment.get("MOLTBOT_SUPERVISED") == Some("1")).then_some(Self::Other)
    }
}

impl fmt::Display for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Systemd => "systemd",
            Self::Launchd => "launchd",
            Self::Other => "other",
        })
    }
}

/// Returns what gives the gateway somebody who starts it again on this host.
#[must_use]
pub fn how_to_get_one() -> &'static str {
    if cfg!(target_os = "macos") || Path::new("/run/systemd/system").is_dir() {
        "install it with: moltbotctl service install"
    } else {
        "make it the main process of a container that has a restart policy, with \
         MOLTBOT_SUPERVISED=1"
    }
}

/// Says that clients are served.
pub fn ready(status: &str) {
    let status = status.to_owned();
    if let Some(teller) = teller() {
        teller.insist(move || notify(&[NotifyState::Ready, NotifyState::Status(&status)]));
    }
}

/// Says in one line how things are.
pub fn status(text: &str) {
    let text = text.to_owned();
    tell(move || notify(&[NotifyState::Status(&text)]));
}

/// Says that the configuration is being read anew; [`ready`] ends that.
pub fn reloading() {
    // The manager wants the time in the same message.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => {
            tell(move || notify(&[NotifyState::Reloading, now.clone()]));
        }
        Err(error) => debug!(%error, "no monotonic clock"),
    }
}

/// Says that the process is about to end.
pub fn stopping(status: &str) {
    if let Some(teller) = teller() {
        teller.stopping(status);
    }
}

/// Asks for more time to start or stop.
pub fn extend_timeout(more: Duration) {
    let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    tell(move || notify(&[NotifyState::ExtendTimeoutUsec(more)]));
}

/// Reports life for as long as `probe` says so, where the manager wants that.
/// It wants a sign within an interval and gets two; a probe that takes longer
/// than half of one counts as failed.
pub fn watchdog<F, Fut>(mut probe: F, stop: CancellationToken) -> Option<JoinHandle<()>>
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), String>> + Send,
{
    let half = sd_notify::watchdog_enabled()? / 2;
    Some(tokio::spawn(async move {
        let mut tick = time::interval(half);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            match time::timeout(half, probe()).await {
                Ok(Ok(())) => sign_of_life(),
                Ok(Err(part)) => error!(part, "probe failed, watchdog gets no sign"),
                Err(_) => error!("probe takes too long, watchdog gets no sign"),
            }
        }
    }))
}

/// Has the manager keep a copy of a socket for the next process.
pub fn keep_socket(name: &str, socket: &impl AsFd) {
    let copy = match socket.as_fd().try_clone_to_owned() {
        Ok(copy) => copy,
        Err(error) => return debug!(%error, name, "the service manager keeps no socket"),
    };
    let name = name.to_owned();
    tell(move || {
        let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
        sd_notify::notify_with_fds(&states, &[copy.as_fd()])
    });
}

/// Has the manager close the sockets it kept under this name.
pub fn forget_socket(name: &str) {
    let name = name.to_owned();
    tell(move || notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]));
}

/// Waits a moment until the manager was told everything: the last thing before
/// the exit.
pub fn finish() {
    if teller().is_some_and(|teller| !teller.finish(LAST_WORDS)) {
        warn!("the service manager does not read what it is told");
    }
}

fn sign_of_life() {
    if SIGN_WAITS.swap(true, Ordering::AcqRel) {
        return;
    }
    let queued = tell(|| {
        SIGN_WAITS.store(false, Ordering::Release);
        notify(&[NotifyState::Watchdog])
    });
    if !queued {
        SIGN_WAITS.store(false, Ordering::Release);
    }
}

fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    sd_notify::notify(states)
}

/// Has a message sent after those before it; never waits. Returns whether it is
/// under way.
fn tell(send: impl Fn() -> io::Result<()> + Send + 'static) -> bool {
    teller().is_some_and(|teller| teller.tell(send))
}

/// Returns who tells the manager, where there is one.
fn teller() -> Option<&'static Teller> {
    static TELLER: OnceLock<Option<Teller>> = OnceLock::new();
    let start = || {
        Environment::current().get("NOTIFY_SOCKET")?;
        Teller::start()
    };
    TELLER.get_or_init(start).as_ref()
}

impl Teller {
    fn start() -> Option<Self> {
        let (messages, queue) = mpsc::channel::<Message>();
        let waiting = Arc::<AtomicUsize>::default();
        let left = Arc::clone(&waiting);
        let run = move || {
            // One that never listens is tried once for each message.
            let mut listens = true;
            for message in queue {
                let attempts = if listens || message.insists { ATTEMPTS } else { 1 };
                listens = send(&message, attempts);
                left.fetch_sub(1, Ordering::AcqRel);
            }
        };
        match thread::Builder::new().name("service-manager".into()).spawn(run) {
            Ok(_) => Some(Self { messages, waiting }),
            Err(error) => {
                error!(%error, "the service manager is told nothing");
                None
            }
        }
    }

    /// Has a message sent unless too many wait.
    fn tell(&self, send: impl Fn() -> io::Result<()> + Send + 'static) -> bool {
        if self.waiting.load(Ordering::Acquire) >= MOST_WAITING {
            warn!("the service manager does not read; it is not told everything");
            return false;
        }
        self.queue(Message { send: Box::new(send), insists: false })
    }

    /// Has a message sent however many wait.
    fn insist(&self, send: impl Fn() -> io::Result<()> + Send + 'static) -> bool {
        self.queue(Message { send: Box::new(send), insists: true })
    }

    fn queue(&self, message: Message) -> bool {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.messages.send(message).is_ok()
    }

    fn stopping(&self, status: &str) -> bool {
        let status = status.to_owned();
        self.insist(move || notify(&[NotifyState::Stopping, NotifyState::Status(&status)]))
    }

    /// Returns whether everything was told in time.
    fn finish(&self, time: Duration) -> bool {
        let (told, all_told) = mpsc::channel();
        self.insist(move || {
            // The exit may have stopped waiting.
            let _ = told.send(());
            Ok(())
        });
        all_told.recv_timeout(time).is_ok()
    }
}

/// Blocks for as long as the manager does not read; returns whether it listens.
fn send(message: &Message, attempts: usize) -> bool {
    for left in (0..attempts).rev() {
        match (message.send)() {
            Ok(()) => return true,
            Err(error) if left > 0 => {
                debug!(%error, "the service manager does not listen now");
                thread::sleep(PAUSE);
            }
            Err(error) if attempts > 1 => warn!(%error, "the service manager does not listen"),
            Err(error) => debug!(%error, "the service manager does not listen"),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_reads_again_hears_the_last_words_however_many_wait() {
        let teller = Teller::start().unwrap();
        let (read, reading) = mpsc::channel::<()>();
        let reading = std::sync::Mutex::new(reading);
        teller.tell(move || {
            let _ = reading.lock().unwrap().recv();
            Ok(())
        });
        while teller.tell(|| Ok(())) {}
        assert!(teller.stopping("ending"));
        assert!(!teller.tell(|| Ok(())));
        assert!(!teller.finish(Duration::ZERO));
        thread::scope(|scope| {
            scope.spawn(|| {
                // Until the exit waits, behind what the one above left.
                while teller.waiting.load(Ordering::Acquire) < MOST_WAITING + 3 {
                    thread::yield_now();
                }
                read.send(()).unwrap();
            });
            assert!(teller.finish(Duration::from_secs(60)));
        });
        // The last of them is counted a moment after it was told.
        while teller.waiting.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn what_another_service_left_in_the_environment_does_not_count() {
        let find = |pairs: [(&str, &str); 1]| Supervisor::of_this_process(&pairs.into());
        let own = process::id().to_string();
        assert_eq!(find([("SYSTEMD_EXEC_PID", &own)]), Some(Supervisor::Systemd));
        assert_eq!(find([("SYSTEMD_EXEC_PID", "1")]), None);
        assert_eq!(find([("INVOCATION_ID", "5f0f0f")]), None);
        assert_eq!(find([("XPC_SERVICE_NAME", "0")]), None);
        assert_eq!(find([("MOLTBOT_SUPERVISED", "1")]), Some(Supervisor::Other));
    }
}
