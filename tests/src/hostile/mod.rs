//! A hostile client next to clients that do nothing wrong.
//!
//! It answers one question: what do the others notice? Every input is therefore sent while
//! three clean clients (one that stays connected, one that connects for each call, one on the
//! control socket) call `health`, while a stand-in for systemd listens for the watchdog's
//! pings, and while the kernel keeps the peak of the daemon's memory. The figures of a run
//! are times and depend on the machine; what a test may demand are the counts.

mod clean;
mod floods;
mod inputs;
mod report;
mod wire;

use std::{
    collections::BTreeSet,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};

use self::{clean::CleanClients, report::Watchdog};
pub use self::{
    clean::{Waits, Way},
    inputs::{Family, Input, families, violations},
    report::{FamilyCount, Phase, Report},
    wire::{RawSocket, Reaction, bits, frame, frame_head, text_frame},
};
use crate::{Connect, Daemon, Device, Options, Version};

/// A writer that gets no further for this long has been stopped by a full socket.
const STALL: Duration = Duration::from_millis(500);

/// How much is thrown at the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Strength {
    /// Sockets of each flood of sockets.
    pub sockets: usize,
    /// Connections that come and go.
    pub connects: usize,
    /// Pings on each of 16 sockets.
    pub pings: usize,
    /// Clients that do not read, and the answers that each asks for.
    pub unread: (usize, usize),
    /// Clients with an unfinished frame, and its bytes.
    pub unfinished: (usize, usize),
    /// Visitors with a name of 58 kB.
    pub names: usize,
    /// How often each costly frame is sent before login.
    pub costly_copies: usize,
    /// By how much the costly frames after login are larger than the smallest.
    pub costly_scale: usize,
    /// After how long without `WATCHDOG=1` systemd would kill the daemon.
    pub watchdog: Duration,
}

impl Strength {
    /// For every run of the tests: each attack once, small.
    #[must_use]
    pub fn short() -> Self {
        Self {
            sockets: 300,
            connects: 1_000,
            pings: 3_000,
            unread: (2, 24),
            unfinished: (6, 12 << 20),
            names: 40,
            costly_copies: 3,
            costly_scale: 1,
            watchdog: Duration::from_secs(20),
        }
    }

    /// For figures: as much as an attacker with one host would try.
    #[must_use]
    pub fn full() -> Self {
        Self {
            sockets: 500,
            connects: 20_000,
            pings: 100_000,
            unread: (3, 128),
            unfinished: (60, 15 << 20),
            names: 198,
            costly_copies: 10,
            costly_scale: 5,
            // What the packaged units say.
            watchdog: Duration::from_secs(30),
        }
    }
}

/// What the attacker knows: where the gateway is, and its secret for what comes after login.
#[derive(Clone, Copy)]
struct Attacker {
    port: u16,
}

/// Starts a gateway, attacks it and stops it.
///
/// # Panics
///
/// When the gateway does not even start.
pub async fn attack(strength: Strength) -> Report {
    let notify = tempfile::tempdir().expect("a temporary folder");
    let watchdog = Watchdog::listen(&notify.path().join("notify"), strength.watchdog);
    let mut daemon = Daemon::start_with(under_a_service_manager(notify.path(), strength)).await;
    let attacker = Attacker { port: daemon.port() };

    // A paired device: what it has proven, no stranger's guesses can take away.
    let connect = Connect::operator().device(&Device::from_seed([1; 32]), Version::V2);
    let operator = daemon.connect(connect.clone()).await;
    let methods: Vec<String> =
        serde_json::from_value(operator.hello["features"]["methods"].clone()).unwrap_or_default();
    operator.close().await;
    let clean = Arc::new(CleanClients::start(daemon.port(), daemon.control_socket(), &connect));
    clean.each_has_called(3).await;

    let mut observer = Observer { pid: daemon.pid(), clean, report: Report::default() };
    for (family, inputs) in families(&methods) {
        let count = observer.watch(family, send_all(attacker, inputs)).await;
        observer.report.families.push(FamilyCount { family, ..count });
    }
    flood(attacker, &mut observer, strength).await;

    // Whatever the attackers held must be free again once they are gone.
    let Observer { pid, clean, mut report } = observer;
    clean.begin("the time after");
    clean.each_has_called(10).await;
    report.memory_after = memory(pid, "VmRSS");
    report.held_after = held_bytes(&daemon).await;
    report.kept = clean.waits(Way::Kept);
    report.fresh = clean.waits(Way::Fresh);
    report.control = clean.waits(Way::Control);
    clean.stop();
    report.watchdog = watchdog.silences();

    // A stop must be obeyed while work that nobody waits for is still to be done.
    report.death = daemon.death();
    if report.death.is_none() {
        floods::leave_work_behind(attacker).await;
        let asked = Instant::now();
        report.stopped_cleanly = daemon.stop().await.success();
        report.stop_took = asked.elapsed();
    }
    report.panics = daemon.log().matches("panicked").count();
    report
}

async fn flood(to: Attacker, observer: &mut Observer, strength: Strength) {
    let clean = Arc::clone(&observer.clean);
    let clean = &*clean;
    let Strength { sockets, unfinished, unread, .. } = strength;

    let flood = floods::silent_sockets(to, clean, b"", sockets);
    observer.watch("silent sockets", flood).await;
    let flood = floods::silent_sockets(to, clean, b"GET / HTTP/1.1\r\nX: ", sockets);
    observer.watch("slow headers", flood).await;
    observer.watch("silent upgrades", floods::silent_upgrades(to, clean, sockets)).await;
    observer.watch("connects", floods::connects(to, strength.connects)).await;
    observer.watch("pings", floods::pings(to, 16, strength.pings)).await;
    observer.watch("long names", floods::long_names(to, clean, strength.names)).await;
    let flood = floods::unfinished_frames(to, clean, unfinished.0, unfinished.1);
    observer.watch("unfinished frames", flood).await;

    let flood = floods::unread_answers(to, clean, unread.0, unread.1);
    if let Err(error) = observer.watch("unread answers", flood).await {
        observer.report.notes.push(format!("unread answers: {error}"));
    }

    let flood = floods::costly_before_login(to, strength.costly_copies);
    observer.report.silent += observer.watch("costly frames before login", flood).await;
    let flood = floods::costly_after_login(to, strength.costly_scale);
    observer.report.silent += observer.watch("costly frames after login", flood).await;
}

/// Notes what the others bear while something is done to the gateway.
struct Observer {
    pid: u32,
    clean: Arc<CleanClients>,
    report: Report,
}

impl Observer {
    async fn watch<T>(&mut self, name: &'static str, attack: impl Future<Output = T>) -> T {
        self.clean.begin(name);
        // Lets the kernel count the peak of this part alone; without the right to, it keeps
        // the peak of everything so far, which is no less than this one.
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5");

        let outcome = attack.await;
        // A call that began during the attack belongs to it.
        self.clean.each_has_called(1).await;

        let peak = memory(self.pid, "VmHWM");
        self.report.peak_memory = self.report.peak_memory.max(peak);
        let worst = |way| self.clean.waits(way).worst_of_phase;
        self.report.phases.push(Phase {
            name,
            kept: worst(Way::Kept),
            fresh: worst(Way::Fresh),
            control: worst(Way::Control),
            peak,
        });
        outcome
    }
}

/// The daemon under a service manager that wants to hear of it.
fn under_a_service_manager(folder: &Path, strength: Strength) -> Options {
    let mut options = Options::default();
    options.variables.extend([
        ("NOTIFY_SOCKET".to_owned(), folder.join("notify").display().to_string()),
        ("WATCHDOG_USEC".to_owned(), strength.watchdog.as_micros().to_string()),
    ]);
    options
}

/// Sends the inputs of a family, several at a time, and counts what became of them.
async fn send_all(to: Attacker, inputs: Vec<Input>) -> FamilyCount {
    let distinct: BTreeSet<String> = inputs.iter().map(|input| format!("{input:?}")).collect();
    let mut operator = None;
    let mut node = None;
    let mut count = FamilyCount { distinct: distinct.len(), ..FamilyCount::default() };
    let (calls, others): (Vec<_>, Vec<_>) = inputs
        .into_iter()
        .partition(|input| matches!(input, Input::OperatorCall(..) | Input::NodeCall(..)));

    // Calls share a connection as long as the gateway leaves it open.
    for input in calls {
        let (socket, method, params) = match &input {
            Input::OperatorCall(method, params) => (&mut operator, method.as_str(), params),
            Input::NodeCall(method, params) => (&mut node, *method, params),
            _ => continue,
        };
        let opened = match socket.take() {
            Some(opened) => Ok(opened),
            None if matches!(input, Input::NodeCall(..)) => to.node(0).await,
            None => to.operator(&["operator.admin", "operator.pairing"]).await,
        };
        let Ok(mut opened) = opened else {
            count.unsent += 1;
            continue;
        };
        if opened.send_call(method, params).await.is_err() {
            count.handled += 1;
            continue;
        }
        match opened.wait_for_reaction().await {
            Reaction::Answered => {
                count.handled += 1;
                *socket = Some(opened);
            }
            Reaction::Closed => count.handled += 1,
            Reaction::Silence => count.silent += 1,
        }
    }

    let mut outcomes = stream::iter(others).map(|input| to.send(input)).buffer_unordered(8);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(Reaction::Answered | Reaction::Closed) => count.handled += 1,
            Ok(Reaction::Silence) => count.silent += 1,
            Err(_) => count.unsent += 1,
        }
    }
    count
}

impl Attacker {
    /// Sends one input on a connection of its own.
    async fn send(self, input: Input) -> std::io::Result<Reaction> {
        let mut socket = match &input {
            Input::AfterLogin(_) => self.operator(&["operator.read"]).await?,
            _ => RawSocket::open(self.port).await?,
        };
        let bytes = match input {
            Input::Bytes(bytes) | Input::AfterLogin(bytes) => bytes,
            Input::BeforeLogin(bytes) => {
                socket.upgrade().await?;
                bytes
            }
            Input::Connect { params, proof } => {
                socket.upgrade().await?;
                let mut connect = Connect::with(*params);
                if proof.is_some() {
                    connect = connect.device(&Device::from_seed([3; 32]), Version::V2);
                }
                let mut params = socket.answer_challenge(&connect).await?;
                for (pointer, value) in proof.unwrap_or_default() {
                    inputs::set(&mut params["device"], pointer, value);
                }
                let _ = socket.send_call("connect", &params).await;
                // An answer or a close, then the end; both count.
                return Ok(socket.wait_for_reaction().await);
            }
            Input::OperatorCall(..) | Input::NodeCall(..) => Vec::new(),
        };
        // A gateway that has hung up already does not take the rest.
        let _ = socket.write(&bytes).await;
        Ok(socket.finish().await)
    }
}

/// Returns the bytes that the gateway says it holds for clients, once they are none or have
/// stopped becoming fewer.
async fn held_bytes(daemon: &Daemon) -> u64 {
    let mut least = u64::MAX;
    loop {
        let (_, page) = daemon.get("/metrics", &[]).await;
        let lines = page.lines().filter(|line| line.starts_with("moltbot_connections_held_bytes{"));
        let held =
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        let held = held as u64;
        if held == 0 || held >= least {
            return held;
        }
        least = held;
        tokio::time::sleep(STALL).await;
    }
}

/// Returns a figure of `/proc/PID/status` in bytes; 0 when the process is gone.
fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

/// Binds the socket that stands for the service manager's.
fn bind(path: &Path) -> UnixDatagram {
    UnixDatagram::bind(path).expect("the temporary folder is writable")
}
