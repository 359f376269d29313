//! A program and everything it started.
//!
//! A process group is not enough: `setsid`, which every daemon calls, leaves it,
//! and a child whose parent has ended has no parent to be found by. So each
//! program is started with a mark in its environment, which its children
//! inherit, and on Linux whoever has the mark, or descends from the program, is
//! found in `/proc`. A program that escapes on purpose (a cleared environment and
//! a parent that ended) is not; only a control group, which needs a service
//! manager, would hold that. Elsewhere it is the group.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

/// How often a family is looked for again: between the look and the signal a
/// member may have started another.
const ROUNDS: usize = 50;
/// Between two rounds, for what was killed to be gone.
const PAUSE: Duration = Duration::from_millis(20);

/// Who descends from one program.
#[derive(Debug)]
pub(super) struct Family {
    leader: Pid,
    mark: String,
}

impl Family {
    /// Carries the mark.
    pub(super) const VARIABLE: &'static str = "MOLTBOT_RUN_MARK";

    /// Names the family of a program that leads its own process group.
    pub(super) const fn new(leader: Pid, mark: String) -> Self {
        Self { leader, mark }
    }

    /// Sends a signal to every member that is found.
    pub(super) fn signal(&self, signal: Signal) {
        // Whoever is gone already needs none.
        let _ = killpg(self.leader, signal);
        for pid in self.members() {
            let _ = kill(pid, signal);
        }
    }

    /// Kills until nobody is left.
    pub(super) async fn kill_all(&self) {
        for _ in 0..ROUNDS {
            self.signal(Signal::SIGKILL);
            if self.members().is_empty() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    #[cfg(target_os = "linux")]
    fn members(&self) -> Vec<Pid> {
        let processes = processes();
        let mut members: Vec<i32> = Vec::new();
        for process in &processes {
            if process.group == self.leader.as_raw() || carries(process.pid, &self.mark) {
                members.push(process.pid);
            }
        }
        // Children of members, whatever they did to their environment.
        let mut at = 0;
        while let Some(parent) = members.get(at).copied() {
            let children = processes.iter().filter(|process| process.parent == parent);
            let new: Vec<i32> =
                children.map(|it| it.pid).filter(|pid| !members.contains(pid)).collect();
            members.extend(new);
            at += 1;
        }
        members.into_iter().map(Pid::from_raw).collect()
    }

    #[cfg(not(target_os = "linux"))]
    fn members(&self) -> Vec<Pid> {
        let _ = &self.mark;
        Vec::new()
    }
}

#[cfg(target_os = "linux")]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
}

/// Lists the processes that still run; what has ended and was not waited for yet
/// cannot be signalled any more.
#[cfg(target_os = "linux")]
fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

#[cfg(target_os = "linux")]
fn process(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (!matches!(state, "Z" | "X")).then_some(Process { pid, parent, group })
}

/// Returns whether a process of this user has the mark; those of others cannot be
/// read, and are not ours.
#[cfg(target_os = "linux")]
fn carries(pid: i32, mark: &str) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = format!("{}={mark}", Family::VARIABLE);
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}
