//! What the gateway of a profile wrote down about its process. The note sits in
//! the file it holds locked; a gateway that was killed leaves it behind.

use std::{fs, path::Path};

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;

/// A running gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Process id.
    pub pid: u32,
    /// When it started, in milliseconds since the epoch.
    pub started_at_ms: u64,
    /// Its version.
    pub version: String,
    /// Where it listens, such as `127.0.0.1:18789`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Running {
    /// Returns the gateway that runs on these paths, if its process lives.
    #[must_use]
    pub fn find(paths: &Paths) -> Option<Self> {
        let text = fs::read_to_string(paths.state_dir.join("lock")).ok()?;
        let running: Self = serde_json::from_str(&text).ok()?;
        lives(running.pid).then_some(running)
    }

    /// Returns the process that serves the control socket, as the kernel knows
    /// it: unlike a number in a file it cannot be somebody else's by now.
    pub async fn serving(socket: &Path) -> Option<u32> {
        let stream = tokio::net::UnixStream::connect(socket).await.ok()?;
        u32::try_from(stream.peer_cred().ok()?.pid()?).ok().filter(|pid| *pid > 1)
    }

    /// Returns the port it listens on.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.address.as_ref()?.rsplit(':').next()?.parse().ok()
    }
}

/// A process nobody has waited for yet is dead all the same.
fn lives(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']));
    !ended && matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(folder: &Path) -> Paths {
        Paths {
            profile: None,
            config_file: folder.join("moltbot.json"),
            state_dir: folder.into(),
            runtime_dir: folder.into(),
            system_runtime_dir: None,
        }
    }

    fn note(pid: u32) -> String {
        format!(
            r#"{{"pid":{pid},"startedAtMs":1,"profile":"default","version":"1","stateDir":"/","address":"[::1]:7"}}"#
        )
    }

    #[test]
    fn a_living_process_is_found_with_its_port() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lock"), note(std::process::id())).unwrap();
        assert_eq!(Running::find(&paths(folder.path())).unwrap().port(), Some(7));
    }

    #[test]
    fn a_process_that_ended_but_was_not_waited_for_does_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        fs::write(folder.path().join("lock"), note(child.id())).unwrap();
        while lives(child.id()) {
            std::thread::yield_now();
        }
        assert_eq!(Running::find(&paths(folder.path())), None);
        child.wait().unwrap();
        assert_eq!(Running::find(&paths(folder.path())), None);
    }
}
