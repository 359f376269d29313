//! What an attack came to.

use std::{
    fmt,
    path::Path,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{bind, clean::Waits};

/// What became of the inputs of a family.
#[derive(Clone, Debug, Default)]
pub struct FamilyCount {
    /// Its name.
    pub family: &'static str,
    /// Inputs that differ from each other.
    pub distinct: usize,
    /// Inputs after which the gateway answered or closed the connection.
    pub handled: usize,
    /// Inputs after which it did neither.
    pub silent: usize,
    /// Inputs that could not be sent because nobody let the attacker connect.
    pub unsent: usize,
}

/// What the clean clients noticed of one part of the attack.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// The longest wait on the connection that stays.
    pub kept: Duration,
    /// The longest wait of a client that connects for its call.
    pub fresh: Duration,
    /// The longest wait on the control socket.
    pub control: Duration,
    /// The daemon's largest resident memory, in bytes.
    pub peak: u64,
}

/// The watchdog's pings, as a service manager hears them.
#[derive(Clone, Debug, Default)]
pub struct Silences {
    /// Pings heard.
    pub pings: usize,
    /// Pings that should have come and did not; one is due in each half of the limit.
    pub missed: u64,
    /// The longest time without one.
    pub longest: Duration,
}

/// What an attack came to.
#[derive(Debug, Default)]
pub struct Report {
    /// The inputs by family.
    pub families: Vec<FamilyCount>,
    /// The parts of the attack in order.
    pub phases: Vec<Phase>,
    /// Costly frames that were neither answered nor led to a close.
    pub silent: usize,
    /// The client that stays connected.
    pub kept: Waits,
    /// The client that connects for each call.
    pub fresh: Waits,
    /// The client on the control socket.
    pub control: Waits,
    /// The daemon's largest resident memory, in bytes.
    pub peak_memory: u64,
    /// Its resident memory once the attackers were gone.
    pub memory_after: u64,
    /// Bytes that it still held for clients then.
    pub held_after: u64,
    /// The watchdog's pings.
    pub watchdog: Silences,
    /// How the daemon ended, if it did not survive.
    pub death: Option<ExitStatus>,
    /// Panics in its log.
    pub panics: usize,
    /// Whether it obeyed SIGTERM amid work.
    pub stopped_cleanly: bool,
    /// How long that took.
    pub stop_took: Duration,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl Report {
    /// Returns the number of inputs that differ from each other.
    #[must_use]
    pub fn distinct_inputs(&self) -> usize {
        self.families.iter().map(|count| count.distinct).sum()
    }

    /// Returns what must not happen and did. No time is among it but the one that a service
    /// manager sets: the watchdog's.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut expect = |held: bool, fault: String| {
            if !held {
                faults.push(fault);
            }
        };
        for (name, waits) in
            [("kept", &self.kept), ("fresh", &self.fresh), ("control", &self.control)]
        {
            let Waits { unanswered, first_failure, .. } = waits;
            expect(*unanswered == 0, format!("{name}: {unanswered} unanswered, {first_failure:?}"));
        }
        let refused = self.control.refused;
        expect(refused == 0, format!("the control socket refused {refused} connections"));
        for FamilyCount { family, silent, unsent, .. } in &self.families {
            expect(*silent == 0, format!("{family}: {silent} inputs without a reaction"));
            expect(*unsent == 0, format!("{family}: {unsent} inputs could not be sent"));
        }
        expect(self.silent == 0, format!("{} costly frames without a reaction", self.silent));
        expect(self.held_after == 0, format!("{} bytes are still held", self.held_after));
        expect(self.watchdog.missed == 0, format!("the watchdog missed {}", self.watchdog.missed));
        expect(self.death.is_none(), format!("the daemon ended with {:?}", self.death));
        expect(self.panics == 0, format!("{} panics", self.panics));
        expect(self.stopped_cleanly, "SIGTERM was not obeyed".to_owned());
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| Inputs | distinct | handled | silent | not sent |\n|---|---|---|---|---|")?;
        for count in &self.families {
            let FamilyCount { family, distinct, handled, silent, unsent } = count;
            writeln!(f, "| {family} | {distinct} | {handled} | {silent} | {unsent} |")?;
        }
        writeln!(f, "\n| While | kept waited | fresh waited | control waited | peak memory |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for phase in &self.phases {
            let [kept, fresh, control] = [phase.kept, phase.fresh, phase.control].map(seconds);
            let peak = mebibytes(phase.peak);
            writeln!(f, "| {} | {kept} | {fresh} | {control} | {peak} |", phase.name)?;
        }
        writeln!(f, "\n| Figure | Value |\n|---|---|")?;
        writeln!(f, "| distinct inputs | {} |", self.distinct_inputs())?;
        for (name, waits) in
            [("kept", &self.kept), ("fresh", &self.fresh), ("control", &self.control)]
        {
            let Waits { answered, unanswered, refused, worst_during, .. } = waits;
            let worst = seconds(waits.worst);
            let failure = waits.first_failure.as_deref().unwrap_or("none");
            writeln!(
                f,
                "| clean client, {name} | {answered} answered, {unanswered} not ({failure}), \
                 {refused} refused, worst wait {worst} (during {worst_during}) |"
            )?;
        }
        writeln!(f, "| costly frames without reaction | {} |", self.silent)?;
        writeln!(f, "| peak memory | {} |", mebibytes(self.peak_memory))?;
        writeln!(f, "| memory afterwards | {} |", mebibytes(self.memory_after))?;
        writeln!(f, "| still held for clients | {} bytes |", self.held_after)?;
        let Silences { pings, missed, longest } = &self.watchdog;
        let longest = seconds(*longest);
        writeln!(f, "| watchdog | {pings} pings, {missed} missed, longest pause {longest} |")?;
        writeln!(f, "| process deaths | {} |", usize::from(self.death.is_some()))?;
        writeln!(f, "| panics | {} |", self.panics)?;
        let stopped = if self.stopped_cleanly { "obeyed" } else { "not obeyed" };
        writeln!(f, "| SIGTERM amid work | {stopped} after {} |", seconds(self.stop_took))?;
        for note in &self.notes {
            writeln!(f, "| note | {note} |")?;
        }
        Ok(())
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Listens as a service manager does.
pub(super) struct Watchdog {
    heard: Arc<Mutex<Vec<Instant>>>,
    limit: Duration,
}

impl Watchdog {
    pub(super) fn listen(path: &Path, limit: Duration) -> Self {
        let socket = bind(path);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with the process: nothing is written to a socket whose file is gone.
            while let Ok(length) = socket.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..length]);
                if message.contains("WATCHDOG=1") || message.contains("READY=1") {
                    record.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
            }
        });
        Self { heard, limit }
    }

    /// Returns the pings since `READY=1`, up to now.
    pub(super) fn silences(&self) -> Silences {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pings = heard.len().saturating_sub(1);
        heard.push(Instant::now());
        let half = self.limit.as_millis() / 2;
        let mut silences = Silences { pings, ..Silences::default() };
        for pair in heard.windows(2) {
            let pause = pair[1] - pair[0];
            silences.longest = silences.longest.max(pause);
            // At twice the interval one ping is missing, and systemd kills.
            let missed = (pause.as_millis() / half.max(1)).saturating_sub(1);
            silences.missed += u64::try_from(missed).unwrap_or(u64::MAX);
        }
        silences
    }
}
