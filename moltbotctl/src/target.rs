//! A gateway to talk to and what it is shown. A secret belongs to an address and
//! goes nowhere else.

use std::{fmt, fs, path::PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{address::Address, identity::fingerprint, ssh::Destination, tls::Pins};

/// The port a gateway listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 18789;

/// What the command line says about the target.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--url`.
    pub url: Option<String>,
    /// `--token`, or the content of `--token-file`.
    pub token: Option<Secret>,
    /// `--token-file`, whose content is the token then.
    pub token_file: Option<PathBuf>,
    /// `--password`.
    pub password: Option<Secret>,
    /// `--ssh`.
    pub ssh: Option<Destination>,
    /// `--ssh-identity`.
    pub ssh_identity: Option<PathBuf>,
    /// `--port`.
    pub port: Option<u16>,
    /// `--tls-fingerprint`.
    pub pins: Option<Pins>,
}

/// Where a candidate comes from, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--ssh`.
    Ssh,
    /// `--url`.
    Flag,
    /// `MOLTBOT_GATEWAY_URL`.
    Environment,
    /// `gateway.remote`.
    ConfigRemote,
    /// The profile's control socket.
    ControlSocket,
    /// The configured port on this host.
    Loopback,
}

impl Source {
    /// Returns the name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ssh => "sshTunnel",
            Self::Flag => "explicit",
            Self::Environment => "environment",
            Self::ConfigRemote => "configRemote",
            Self::ControlSocket => "controlSocket",
            Self::Loopback => "localLoopback",
        }
    }
}

/// A secret and where it was found.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: String,
    /// Where it was found, for people.
    pub origin: String,
}

impl Secret {
    /// Keeps a secret.
    pub fn new(value: impl Into<String>, origin: impl Into<String>) -> Self {
        Self { value: value.into(), origin: origin.into() }
    }

    /// Returns the secret itself, to be sent.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.value
    }

    /// Returns what may be shown of it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.value)
    }

    fn report(secret: Option<&Self>) -> Value {
        secret.map_or(
            Value::Null,
            |secret| json!({ "sha256": secret.fingerprint(), "source": secret.origin }),
        )
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} from {})", self.fingerprint(), self.origin)
    }
}

/// What a gateway is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The shared token.
    pub token: Option<Secret>,
    /// The shared password.
    pub password: Option<Secret>,
    /// Whose program besides this user's and root's may see them, by uid, when
    /// one was found rather than given: the owners of the gateway's files. The
    /// port may be anybody's while the gateway does not run. `None` for what was
    /// given, which whoever answers is shown.
    ///
    /// A device token goes to a loopback address without this: it opens nothing
    /// without the device's key, which is never sent.
    pub only_to_own: Option<Vec<u32>>,
}

impl Credentials {
    /// Returns what was given for an address.
    #[must_use]
    pub const fn given(token: Option<Secret>, password: Option<Secret>) -> Self {
        Self { token, password, only_to_own: None }
    }

    /// Returns whether nothing would be shown.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.token.is_none() && self.password.is_none()
    }
}

/// A gateway to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its address.
    pub address: Address,
    /// What it is shown.
    pub credentials: Credentials,
    /// The certificates it may present; any that this host trusts when absent.
    pub tls_fingerprint: Option<Pins>,
}

impl Target {
    fn ssh_identity(&self) -> Option<&PathBuf> {
        match &self.address {
            Address::Ssh(ssh) => ssh.login.identity.as_ref(),
            _ => None,
        }
    }
}

/// One place a gateway might be.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where it comes from.
    pub source: Source,
    /// The target, when the source names one.
    pub target: Option<Target>,
    /// Whether the source applies now.
    pub available: bool,
    /// Why it applies or not.
    pub reason: String,
    /// What was deliberately not sent.
    pub withheld: Option<String>,
}

impl Candidate {
    /// Describes the candidate without its secrets.
    #[must_use]
    pub fn report(&self, chosen: bool) -> Value {
        let target = self.target.as_ref();
        json!({
            "kind": self.source.name(),
            "url": target.map(|target| target.address.to_string()),
            "available": self.available,
            "chosen": chosen,
            "reason": self.reason,
            "token": Secret::report(target.and_then(|target| target.credentials.token.as_ref())),
            "password":
                Secret::report(target.and_then(|target| target.credentials.password.as_ref())),
            "sshIdentity": target.and_then(Target::ssh_identity),
            "tlsFingerprint":
                target.and_then(|target| Some(target.tls_fingerprint.as_ref()?.to_string())),
            "withheld": self.withheld,
        })
    }
}

/// Reads the file of `--token-file`.
///
/// # Errors
/// When it cannot be read or is empty.
pub fn token_from_file(path: &PathBuf) -> anyhow::Result<Secret> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the token file {}", path.display()))?;
    let token = text.trim();
    if token.is_empty() {
        bail!("the token file {} is empty", path.display());
    }
    Ok(Secret::new(token, format!("--token-file {}", path.display())))
}
