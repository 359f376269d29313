//! Runs the `tailscale` program: by an absolute path, with a list of arguments,
//! an empty environment, a deadline and a bound on what it may say.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

use super::Trouble;

/// Where packages put it. `PATH` is not asked: it may begin in a folder that
/// others can write to.
const PLACES: &[&str] = &[
    "/usr/bin/tailscale",
    "/usr/local/bin/tailscale",
    "/usr/sbin/tailscale",
    "/opt/homebrew/bin/tailscale",
    "/snap/bin/tailscale",
    "/run/current-system/sw/bin/tailscale",
    "/Applications/Tailscale.app/Contents/MacOS/Tailscale",
];
/// For questions.
pub(super) const QUICK: Duration = Duration::from_secs(5);
/// For changes: the first one asks the control server.
pub(super) const SLOW: Duration = Duration::from_secs(20);
/// Most that is read of an answer, as with the reference.
const LONGEST_ANSWER: u64 = 200_000;
/// Most that is shown of what it said.
const LONGEST_REMARK: usize = 300;

/// The program.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    socket: Option<PathBuf>,
    home: Option<String>,
}

impl Program {
    /// Finds it where it is configured to be, else where packages put it.
    pub(super) fn find(
        configured: Option<&Path>,
        socket: Option<PathBuf>,
        home: Option<String>,
    ) -> Result<Self, Trouble> {
        let found =
            |path: &Path| Self { path: path.into(), socket: socket.clone(), home: home.clone() };
        if let Some(path) = configured {
            if !path.exists() {
                return Err(Trouble::NotInstalled(path.display().to_string()));
            }
            return check(path).map(|()| found(path));
        }
        let place = PLACES.iter().map(Path::new).find(|path| path.exists());
        let place = place.ok_or_else(|| Trouble::NotInstalled(PLACES.join(", ")))?;
        check(place).map(|()| found(place))
    }

    /// Asks a question whose answer is JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, Trouble> {
        let text = self.run(arguments, QUICK).await?;
        serde_json::from_str(&text).map_err(|error| Trouble::Failed {
            command: arguments.join(" "),
            said: format!("its answer is not understood: {error}"),
        })
    }

    /// Returns what it said on standard output.
    pub(super) async fn run(
        &self,
        arguments: &[&str],
        patience: Duration,
    ) -> Result<String, Trouble> {
        let failed = |error: io::Error| Trouble::Failed {
            command: arguments.join(" "),
            said: error.to_string(),
        };
        let mut command = Command::new(&self.path);
        // The gateway's secrets are no business of its children.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        // The program inside the macOS application is a window without it.
        command.env("TAILSCALE_BE_CLI", "1").envs(self.home.as_ref().map(|home| ("HOME", home)));
        if let Some(socket) = &self.socket {
            command.arg(format!("--socket={}", socket.display()));
        }
        command.args(arguments).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (mut answer, mut remarks) = (Vec::new(), Vec::new());
        let ended = tokio::time::timeout(patience, async {
            let (read, _, ended) =
                tokio::join!(read(stdout, &mut answer), read(stderr, &mut remarks), child.wait());
            read.and(ended)
        })
        .await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let said = format!("{}\n{answer}", String::from_utf8_lossy(&remarks));
        match ended {
            Ok(Ok(status)) if status.success() => Ok(answer),
            Ok(Ok(_)) => Err(explained(arguments, &said)),
            Ok(Err(error)) => Err(failed(error)),
            // It waits for a click, and says where.
            Err(_) if not_enabled(&said).is_some() => Err(explained(arguments, &said)),
            Err(_) => Err(Trouble::Silent {
                command: arguments.join(" "),
                seconds: patience.as_secs(),
                said: remark(&said),
            }),
        }
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    let read = from.take(LONGEST_ANSWER + 1).read_to_end(into).await?;
    if read as u64 > LONGEST_ANSWER {
        return Err(io::Error::other("its answer is too long"));
    }
    Ok(())
}

/// Returns the trouble that a failure's text stands for.
pub(super) fn explained(arguments: &[&str], said: &str) -> Trouble {
    let lower = said.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if let Some(url) = not_enabled(said) {
        let what = if lower.contains("funnel") { "funnel" } else { "serve" };
        return Trouble::NotEnabled { what, url };
    }
    if says(&[
        "failed to connect to local tailscale",
        "is tailscaled running",
        "tailscaled.sock: connect",
    ]) {
        return Trouble::NotRunning;
    }
    if says(&["access denied", "permission denied", "must be root", "--operator"]) {
        return Trouble::NotOperator;
    }
    if says(&["needslogin", "logged out", "not logged in"]) {
        return Trouble::NotLoggedIn("NeedsLogin".into());
    }
    if says(&["https must be enabled", "does not support getting tls certs"]) {
        return Trouble::NoHttps;
    }
    Trouble::Failed { command: arguments.join(" "), said: remark(said) }
}

/// Returns where to click, when that is what it waits for.
pub(super) fn not_enabled(said: &str) -> Option<String> {
    if !said.contains("not enabled on your tailnet") {
        return None;
    }
    let mut words = said.split_whitespace();
    let url = words.find(|word| word.starts_with("https://login.tailscale.com/"));
    Some(url.unwrap_or("https://login.tailscale.com/admin").to_owned())
}

/// Makes what it said fit for one line.
fn remark(said: &str) -> String {
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(LONGEST_REMARK).collect()
}

/// Refuses a program that somebody else could have put there.
fn check(path: &Path) -> Result<(), Trouble> {
    let untrusted = |why| Trouble::Untrusted(path.display().to_string(), why);
    if !path.is_absolute() {
        return Err(untrusted("its path is not absolute"));
    }
    let own = nix::unistd::geteuid().as_raw();
    for place in [Some(path), path.parent()].into_iter().flatten() {
        // Follows links: what counts is what is run.
        let about = place.metadata().map_err(|_| untrusted("it cannot be looked at"))?;
        if about.uid() != 0 && about.uid() != own {
            return Err(untrusted("another user owns it or its folder"));
        }
        if about.mode() & 0o022 != 0 && about.mode() & 0o1000 == 0 {
            return Err(untrusted("other users can change it or its folder"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn what_it_says_is_told_apart() {
        let explained = |said: &str| explained(&["serve"], said);
        let link = "Serve is not enabled on your tailnet.\nTo enable, visit:\n\n \
                    https://login.tailscale.com/f/serve?node=n1\n";
        let Trouble::NotEnabled { what, url } = explained(link) else { panic!("{link}") };
        assert_eq!((what, &*url), ("serve", "https://login.tailscale.com/f/serve?node=n1"));
        let denied = "sending serve config: Access denied: serve config denied";
        assert_eq!(explained(denied), Trouble::NotOperator);
        let gone = "failed to connect to local tailscaled; it doesn't appear to be running";
        assert_eq!(explained(gone), Trouble::NotRunning);
        let other = explained("\u{1b}[31mno\nidea");
        assert_eq!(other.to_string(), "`tailscale serve` failed: [31mno idea");
    }

    #[test]
    fn a_program_that_others_can_change_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tailscale");
        let find = |path: &Path| Program::find(Some(path), None, None).map(drop);
        assert!(matches!(find(&path), Err(Trouble::NotInstalled(_))));
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(find(&path), Err(Trouble::Untrusted(..))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(&path), Ok(()));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(find(&path), Err(Trouble::Untrusted(..))));
        assert!(matches!(find(Path::new("Cargo.toml")), Err(Trouble::Untrusted(..))));
    }
}
