//! What ssh says when it fails, recognised, and what helps.

use std::{fmt, process::ExitStatus};

use super::Login;

/// Lines of ssh that are repeated to the user.
const MOST_LINES: usize = 12;

/// What kept ssh from doing its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no ssh on this host, or it cannot be started.
    Missing,
    /// Nobody has vouched for the server's key yet.
    HostKeyUnknown,
    /// The server shows another key than before.
    HostKeyChanged,
    /// The server does not accept this user.
    KeyRefused,
    /// The name of the host means nothing here.
    NameUnknown,
    /// The host does not answer.
    Unreachable,
    /// ssh works; no gateway listens behind it.
    NothingListens,
    /// The server forwards nothing.
    Prohibited,
    /// The local port of a tunnel is taken.
    PortTaken,
    /// ssh was through and has ended.
    Lost,
    /// Nothing came back in time.
    Silent,
    /// Anything else.
    Other,
}

impl Kind {
    /// Returns the exit code that tells this failure from others.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Missing | Self::Other => 20,
            Self::HostKeyUnknown => 21,
            Self::HostKeyChanged => 22,
            Self::KeyRefused => 23,
            Self::NameUnknown => 24,
            Self::Unreachable => 25,
            Self::NothingListens => 26,
            Self::Prohibited => 27,
            Self::Lost => 28,
            Self::Silent => 29,
            Self::PortTaken => 69,
        }
    }

    /// Returns whether trying again without a person's help is of no use.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Missing
                | Self::HostKeyUnknown
                | Self::HostKeyChanged
                | Self::KeyRefused
                | Self::Prohibited
                | Self::PortTaken
        )
    }

    /// Reads ssh's words. Those about an earlier step come first: a later one
    /// was not reached.
    fn of(said: &str, heard: bool) -> Self {
        let has = |words: &str| said.contains(words);
        let any = |words: &[&str]| words.iter().any(|words| said.contains(words));
        if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
            Self::HostKeyChanged
        } else if has("Host key verification failed") {
            Self::HostKeyUnknown
        } else if has("Could not resolve hostname") {
            Self::NameUnknown
        } else if any(&["Permission denied (", "Too many authentication failures"]) {
            Self::KeyRefused
        } else if any(&["Address already in use", "Could not request local forwarding"]) {
            Self::PortTaken
        } else if heard {
            Self::Lost
        } else if any(&["administratively prohibited", "is administratively disabled"]) {
            Self::Prohibited
        } else if any(&["open failed: connect failed", "Session open refused by peer"]) {
            Self::NothingListens
        } else if any(&[
            "connect to host",
            "Connection timed out",
            "Connection closed by",
            "Connection reset by",
            "kex_exchange_identification",
            "banner exchange",
        ]) {
            Self::Unreachable
        } else {
            Self::Other
        }
    }
}

/// ssh failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it was.
    pub kind: Kind,
    login: Login,
    /// The port behind the server, or the local one that is taken.
    port: u16,
    /// ssh's own words, else ours.
    said: String,
}

impl std::error::Error for Failure {}

impl Failure {
    /// Reads what an ssh that ended left behind. `heard` is whether anything
    /// had come through it.
    #[must_use]
    pub fn of_end(
        login: &Login,
        port: u16,
        status: Option<ExitStatus>,
        said: &str,
        heard: bool,
    ) -> Self {
        let kind = Kind::of(said, heard);
        let mut said = worth_reading(said);
        if said.is_empty() {
            said = status.map_or_else(|| "nothing".into(), |status| format!("nothing; {status}"));
        }
        Self { kind, login: login.clone(), port, said }
    }

    /// ssh is not there or cannot be started.
    #[must_use]
    pub fn of_start(login: &Login, port: u16, error: &std::io::Error) -> Self {
        Self { kind: Kind::Missing, login: login.clone(), port, said: error.to_string() }
    }

    /// ssh was waited for and did not answer.
    #[must_use]
    pub fn of_silence(login: &Login, port: u16, waited: std::time::Duration) -> Self {
        let said = format!("nothing for {} ms", waited.as_millis());
        Self { kind: Kind::Silent, login: login.clone(), port, said }
    }

    /// Returns the command that helps.
    #[must_use]
    pub fn advice(&self) -> String {
        let destination = &self.login.destination;
        let words = destination.words();
        match self.kind {
            Kind::Missing => "install OpenSSH's client: apt-get install openssh-client".into(),
            Kind::HostKeyUnknown => {
                format!("connect once by hand and compare the fingerprint it shows: ssh {words}")
            }
            Kind::HostKeyChanged => format!(
                "ask the host's owner whether its key is new; only then: {} && ssh {words}",
                self.forgetting()
            ),
            Kind::KeyRefused => format!(
                "let your key in: ssh-copy-id {words}; or name another one with --ssh-identity; see \
                 what is tried: ssh -v {words}"
            ),
            Kind::NameUnknown => format!("check the name: getent hosts {}", destination.host),
            Kind::Unreachable => format!("see whether ssh gets through by itself: ssh {words}"),
            Kind::NothingListens => format!(
                "start the gateway there, or name its port with --port; see what runs: ssh {words} \
                 moltbotctl gateway status"
            ),
            Kind::Prohibited => format!(
                "allow it in the server's sshd_config: AllowTcpForwarding local, PermitOpen \
                 127.0.0.1:{}",
                self.port
            ),
            Kind::PortTaken => {
                let host = &destination.host;
                format!(
                    "see who has it: lsof -i :{}; or use --local-port. Perhaps your ssh \
                     configuration forwards a port as well: ssh -G {host} | grep localforward",
                    self.port
                )
            }
            Kind::Silent => format!("see where it stops: ssh -v {words} true"),
            Kind::Lost | Kind::Other => format!("see what happens: ssh -v {words}"),
        }
    }
}

impl Failure {
    /// Returns the command that removes the known key. ssh's own is better: it
    /// knows the file, and the name behind an alias.
    fn forgetting(&self) -> String {
        let command = self.said.lines().map(str::trim).find(|line| line.starts_with("ssh-keygen "));
        let known_as = self.login.destination.known_as();
        command.map_or_else(|| format!("ssh-keygen -R '{known_as}'"), ToOwned::to_owned)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (to, port) = (&self.login.destination, self.port);
        let host = &to.host;
        match self.kind {
            Kind::Missing => write!(f, "ssh cannot be started")?,
            Kind::HostKeyUnknown => write!(f, "the host key of {host} is not known here")?,
            Kind::HostKeyChanged => write!(f, "the host key of {host} is not the one known here")?,
            Kind::KeyRefused => write!(f, "{to} does not accept this user's ssh key")?,
            Kind::NameUnknown => write!(f, "the name {host} is not known")?,
            Kind::Unreachable => write!(f, "ssh does not reach {to}")?,
            Kind::NothingListens => {
                write!(f, "ssh reaches {to}, but no gateway listens on port {port} there")?;
            }
            Kind::Prohibited => write!(f, "{to} lets ssh in but forwards no connections")?,
            Kind::PortTaken => write!(f, "ssh cannot listen on port {port} of this host")?,
            Kind::Lost => write!(f, "the ssh connection to {to} was lost")?,
            Kind::Silent => write!(f, "nothing came back through ssh from {to}")?,
            Kind::Other => write!(f, "ssh to {to} failed")?,
        }
        write!(f, "; ssh said: {}", self.said.replace('\n', "\n  "))
    }
}

/// Drops the frame of ssh's big warning and keeps the last lines.
fn worth_reading(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with("@@@")).collect();
    lines[lines.len().saturating_sub(MOST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(said: &str, heard: bool) -> Failure {
        let destination = "me@far.example:2222".parse().unwrap();
        let login = Login { destination, identity: None };
        Failure::of_end(&login, 18789, None, said, heard)
    }

    #[test]
    fn every_message_of_ssh_has_its_kind() {
        for (said, kind) in [
            ("Host key verification failed.", Kind::HostKeyUnknown),
            (
                "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification \
                 failed.",
                Kind::HostKeyChanged,
            ),
            ("me@far.example: Permission denied (publickey).", Kind::KeyRefused),
            (
                "Received disconnect from ::1 port 22:2: Too many authentication failures",
                Kind::KeyRefused,
            ),
            (
                "ssh: Could not resolve hostname far.example: Name or service not known",
                Kind::NameUnknown,
            ),
            ("ssh: connect to host far.example port 22: Connection refused", Kind::Unreachable),
            ("Connection timed out during banner exchange", Kind::Unreachable),
            (
                "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed",
                Kind::NothingListens,
            ),
            (
                "channel 0: open failed: administratively prohibited: open failed\nstdio forwarding \
                 failed",
                Kind::Prohibited,
            ),
            ("Stdio forwarding request failed: Session open refused by peer", Kind::NothingListens),
            ("bind [127.0.0.1]:18789: Address already in use", Kind::PortTaken),
            ("", Kind::Other),
        ] {
            assert_eq!(failure(said, false).kind, kind, "{said}");
        }
        assert_eq!(failure("Timeout, server far not responding.", true).kind, Kind::Lost);
        assert_eq!(failure("", true).kind, Kind::Lost);
    }

    #[test]
    fn a_failure_shows_the_words_of_ssh_and_what_helps() {
        let failure = failure("@@@@@\n\nHost key verification failed.\n", false);
        let text = failure.to_string();
        let words = "the host key of far.example is not known here; ssh said: Host key";
        assert!(text.starts_with(words), "{text}");
        assert!(!text.contains("@@@"), "{text}");
        assert!(failure.advice().ends_with("ssh -p 2222 me@far.example"), "{}", failure.advice());
    }

    #[test]
    fn exit_codes_tell_failures_apart() {
        let kinds = [
            Kind::Missing,
            Kind::HostKeyUnknown,
            Kind::HostKeyChanged,
            Kind::KeyRefused,
            Kind::NameUnknown,
            Kind::Unreachable,
            Kind::NothingListens,
            Kind::Prohibited,
            Kind::PortTaken,
            Kind::Lost,
            Kind::Silent,
        ];
        let codes: std::collections::BTreeSet<_> = kinds.map(Kind::exit_code).into();
        assert_eq!(codes.len(), kinds.len());
    }
}
