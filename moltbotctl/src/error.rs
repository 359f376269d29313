//! What can go wrong between a client and a gateway, and which command helps.

use std::{fmt, time::Duration};

use serde_json::Value;

use crate::{ssh, tls::Fault, transport::Stranger};

/// A failed connection or call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the address.
    #[error("cannot connect to {url}: {reason}")]
    Connect {
        /// The address.
        url: String,
        /// What the operating system or the other side said.
        reason: String,
        /// Whether nobody listens there at all.
        absent: bool,
        /// What starts the gateway that should, where that is known.
        start: Option<String>,
    },
    /// Something answers, but no gateway.
    #[error("{url} answers, but is no gateway: {reason}")]
    NoGateway {
        /// The address.
        url: String,
        /// What it said instead.
        reason: String,
    },
    /// Something answers on this host that is neither this user's nor root's.
    #[error("{url}: {stranger}, not to you; your gateway's secret was not shown to it")]
    Stranger {
        /// The address.
        url: String,
        /// Whose it is.
        stranger: Stranger,
    },
    /// ssh does not get to the gateway.
    #[error("{0}")]
    Ssh(Box<ssh::Failure>),
    /// The other side's TLS is not what was wanted.
    #[error("cannot connect to {url}: {fault}")]
    Tls {
        /// The address.
        url: String,
        /// What is wrong.
        fault: Fault,
    },
    /// The address is not on this host and not protected by TLS.
    #[error("refusing to send credentials over plain {0}")]
    Plaintext(String),
    /// The gateway answered with an error.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The connection ended.
    #[error("{}", ended(.0))]
    Closed(Closed),
    /// No answer came in time.
    #[error("gateway timeout after {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The gateway sent something that is no answer.
    #[error("the gateway sent an unexpected {0}")]
    Unexpected(&'static str),
    /// A typed answer had another shape.
    #[error("cannot understand the answer to {method}: {source}")]
    Shape {
        /// The method called.
        method: String,
        /// What did not fit.
        source: serde_json::Error,
    },
    /// The device key or token file is not usable.
    #[error("{0:#}")]
    Identity(anyhow::Error),
}

/// An error answer, kept as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// For programs, such as `INVALID_REQUEST`.
    pub code: String,
    /// For people.
    pub message: String,
    /// What belongs to it, by method.
    pub details: Option<Value>,
    /// The part of a result that came with it.
    pub payload: Option<Value>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A gateway says so where it passes on what another part of it said.
        f.write_str(self.message.strip_prefix("Error: ").unwrap_or(&self.message))?;
        match self.details.as_ref().and_then(|details| details.get("nodeError")) {
            Some(error) => {
                let code = error.get("code").and_then(Value::as_str).unwrap_or("unknown");
                write!(f, " (node: {code})")
            }
            None => Ok(()),
        }
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The close code; 1006 without a close frame.
    pub code: u16,
    /// The reason given.
    pub reason: String,
    /// How the ssh that carried it ended, when that was the cause.
    pub ssh: Option<Box<ssh::Failure>>,
}

impl Closed {
    /// With a code and a reason.
    #[must_use]
    pub fn with(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), ssh: None }
    }

    /// Without a close frame.
    #[must_use]
    pub fn abnormal(reason: impl Into<String>) -> Self {
        Self::with(1006, reason)
    }

    /// Returns what the code means.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self.code {
            1000 => "normal closure",
            1002 => "protocol error",
            1006 => "abnormal closure, no close frame",
            1008 => "policy violation",
            1009 => "message too large",
            1012 => "service restart",
            1013 => "try again later",
            4000 => "tick timeout",
            _ => return None,
        })
    }
}

fn ended(closed: &Closed) -> String {
    match &closed.ssh {
        Some(failure) => failure.to_string(),
        None => format!("gateway closed the connection ({closed})"),
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(failure) = &self.ssh {
            return failure.fmt(f);
        }
        write!(f, "{}", self.code)?;
        if let Some(hint) = self.hint() {
            write!(f, " {hint}")?;
        }
        match (&*self.reason, self.hint()) {
            ("", _) => f.write_str(": no close reason"),
            (reason, Some(hint)) if reason == hint => Ok(()),
            (reason, _) => write!(f, ": {reason}"),
        }
    }
}

impl Error {
    /// Returns the id of the pairing request this device has to wait for.
    #[must_use]
    pub fn pairing_request(&self) -> Option<&str> {
        let Self::Refused(refusal) = self else { return None };
        if refusal.code != "NOT_PAIRED" {
            return None;
        }
        refusal.details.as_ref()?.get("requestId")?.as_str()
    }

    /// Returns whether the gateway did not accept the credentials.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.message.starts_with("unauthorized"),
            Self::Closed(closed) => closed.reason.starts_with("unauthorized"),
            _ => false,
        }
    }

    /// Returns whether the gateway speaks another version of the protocol.
    #[must_use]
    pub fn is_other_protocol(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.message.starts_with("protocol mismatch"),
            Self::Closed(closed) => closed.reason.starts_with("protocol mismatch"),
            _ => false,
        }
    }

    /// Returns whether trying again is of no use before a person did something.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Ssh(failure) => failure.kind.is_final(),
            Self::Plaintext(_) | Self::Identity(_) | Self::Tls { .. } => true,
            error => {
                error.is_unauthorized()
                    || error.is_other_protocol()
                    || error.pairing_request().is_some()
            }
        }
    }

    /// Returns the exit code that tells this failure from others; those of ssh
    /// are in [`ssh::Kind::exit_code`].
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            _ if self.is_other_protocol() => 5,
            _ if self.is_unauthorized() => 6,
            _ if self.pairing_request().is_some() => 7,
            Self::Connect { .. } => 3,
            Self::NoGateway { .. } | Self::Stranger { .. } => 4,
            Self::Timeout(_) => 8,
            Self::Ssh(failure) => failure.kind.exit_code(),
            Self::Closed(Closed { ssh: Some(failure), .. }) => failure.kind.exit_code(),
            Self::Closed(_) => 9,
            Self::Plaintext(_) => 10,
            Self::Tls { fault, .. } => fault.exit_code(),
            _ => 1,
        }
    }

    /// Returns the advice that goes with the error.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        if let Some(id) = self.pairing_request() {
            return Some(format!(
                "approve this device on the gateway's host: moltbotctl devices approve {id}"
            ));
        }
        if self.is_other_protocol() {
            return Some(format!(
                "this moltbotctl ({}) speaks version {}: bring it or the gateway up to date",
                env!("CARGO_PKG_VERSION"),
                moltbot_protocol::PROTOCOL_VERSION
            ));
        }
        if self.is_unauthorized() {
            return Some(
                "see which credential was sent: moltbotctl where; pass the right one with \
                 --token-file or --token"
                    .into(),
            );
        }
        Some(match self {
            Self::Connect { start: Some(start), .. } => {
                format!("start the gateway: {start}; or see what was tried: moltbotctl where")
            }
            Self::Connect { absent: true, .. } => {
                "check the address, and whether a gateway runs there; see what was tried: \
                 moltbotctl where"
                    .into()
            }
            Self::Connect { .. } => "see what was tried: moltbotctl where".into(),
            Self::NoGateway { .. } => {
                "check host and port: moltbotctl where; the gateway's own port is 18789 unless \
                 gateway.port says otherwise"
                    .into()
            }
            Self::Stranger { .. } => {
                "start your own gateway: moltbotctl gateway start; if that program is the gateway \
                 you mean, give its secret with --token-file"
                    .into()
            }
            Self::Ssh(failure) => failure.advice(),
            Self::Closed(Closed { ssh: Some(failure), .. }) => failure.advice(),
            Self::Tls { url, fault: Fault::TlsOnly } if url.starts_with("ssh://") => {
                "run `moltbotctl gateway tls` on the gateway's host and add what it prints: \
                 --tls-fingerprint SHA256"
                    .into()
            }
            Self::Tls { fault, .. } => fault.advice(),
            Self::Plaintext(_) => {
                "use a wss:// address or --ssh user@host; --insecure sends in the clear anyway"
                    .into()
            }
            Self::Timeout(_) => {
                "see whether the gateway lives: moltbotctl gateway probe; --timeout waits longer"
                    .into()
            }
            Self::Closed(_) => "see whether the gateway lives: moltbotctl gateway probe".into(),
            Self::Refused(refusal) => return refusal_advice(refusal),
            _ => return None,
        })
    }
}

fn refusal_advice(refusal: &Refusal) -> Option<String> {
    let message = &refusal.message;
    if message.starts_with("missing scope") {
        return Some(
            "ask for more: approve this device's request on the gateway's host: \
             moltbotctl devices list"
                .into(),
        );
    }
    if message.starts_with("SYSTEM_RUN_D") && !message.contains("environment refused") {
        return Some(
            "allow the program in exec-approvals.json of the node, or start the node with another \
             --exec-security or --exec-ask"
                .into(),
        );
    }
    if message.starts_with("unknown method") {
        return Some("see what this gateway offers: moltbotctl gateway probe --json".into());
    }
    if message.starts_with("node not connected") || message.starts_with("unknown nodeId") {
        return Some("see which nodes are connected: moltbotctl nodes list".into());
    }
    None
}
