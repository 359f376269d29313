//! What every command shares: the profile, the target, the output.

use std::{
    ffi::OsString,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::unistd::Uid;
use serde_json::Value;

use crate::{
    address::Address,
    cli::Globals,
    client::{Client, Options},
    config::LocalConfig,
    delay::Delay,
    environment::Environment,
    error::Error,
    identity::Keyring,
    output::Output,
    paths::{Choices, Paths},
    resolver::Surroundings,
    target::{self, Candidate, Flags, Secret, Source, Target},
};

const DEFAULT_TIMEOUT_MS: u64 = 10_000;
/// A person waits: sooner than a node, which nobody watches.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(8);

/// An error that already knows what helps.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Helped {
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub advice: String,
    /// The exit code.
    pub exit: u8,
}

/// Returns an error with the command that helps.
pub fn helped(message: impl Into<String>, advice: impl Into<String>) -> anyhow::Error {
    ended(1, message, advice)
}

/// Returns an error with the command that helps and an exit code of its own.
pub fn ended(exit: u8, message: impl Into<String>, advice: impl Into<String>) -> anyhow::Error {
    Helped { message: message.into(), advice: advice.into(), exit }.into()
}

/// What every command shares.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where results go.
    pub output: Output,
    /// The profile's places.
    pub paths: Paths,
    /// The configuration file.
    pub config: LocalConfig,
    /// The environment.
    pub environment: Environment,
    /// What the command line says about the target.
    pub flags: Flags,
    /// `--timeout` as it was given.
    pub timeout_given: Option<u64>,
    /// `--insecure`.
    pub insecure: bool,
    /// The flags that say whose gateway is meant, as the daemon takes them.
    pub daemon_flags: Vec<OsString>,
    /// The variables that say the same for a gateway that is a unit of the
    /// system.
    pub daemon_variables: Vec<(&'static str, PathBuf)>,
}

/// A connection and how it was found.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub client: Client,
    /// What won.
    pub candidate: Candidate,
    /// How long connecting took.
    pub latency: Duration,
}

impl Context {
    /// Reads environment and configuration.
    ///
    /// # Errors
    /// When a flag names something that cannot be used.
    pub fn new(globals: &Globals, environment: Environment) -> anyhow::Result<Self> {
        let output = Output::new(globals.json, &environment);
        let choices = Choices {
            profile: globals.profile.as_deref(),
            config: globals.config.as_deref(),
            state_dir: globals.state_dir.as_deref(),
        };
        let paths = Paths::resolve(&choices, &environment)?;
        let config = LocalConfig::read(&paths.config_file, &environment);
        if let Some(file) = globals.config.as_ref().filter(|_| !config.exists) {
            anyhow::bail!("there is no configuration file {}", file.display());
        }
        Ok(Self {
            output,
            paths,
            config,
            flags: flags(globals)?,
            environment,
            timeout_given: globals.timeout,
            insecure: globals.insecure,
            daemon_flags: daemon_flags(globals),
            daemon_variables: Vec::new(),
        })
    }

    /// Returns this for the gateway that is meant where files are concerned:
    /// root without a gateway of its own means the system's, where there is one.
    #[must_use]
    pub fn at_its_files(&self) -> Self {
        let system = Paths::of_system_unit(self.paths.profile.as_deref());
        let is_named = self.paths.system_runtime_dir.is_none()
            || self.daemon_flags.contains(&"--config".into());
        if is_named
            || !Uid::effective().is_root()
            || self.paths.database().exists()
            || !system.state_dir.exists()
        {
            return self.clone();
        }
        self.output.remark(format!("the gateway of the system, in {}", system.state_dir.display()));
        Self {
            config: LocalConfig::read(&system.config_file, &self.environment),
            daemon_variables: system.as_told_by_systemd(),
            paths: system,
            ..self.clone()
        }
    }

    /// Returns how long connecting and a call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_given.unwrap_or(DEFAULT_TIMEOUT_MS).max(1))
    }

    /// Returns every place a gateway might be.
    ///
    /// # Errors
    /// When one is named but cannot be used.
    pub fn candidates(&self) -> anyhow::Result<Vec<Candidate>> {
        self.surroundings().candidates()
    }

    /// Returns what the resolver looks at.
    #[must_use]
    pub const fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            flags: &self.flags,
            environment: &self.environment,
            config: &self.config,
            paths: &self.paths,
        }
    }

    /// Returns how this program presents itself at a target. The control socket
    /// needs no device: whoever can open it owns the gateway.
    #[must_use]
    pub fn options(&self, target: &Target) -> Options {
        let far = !matches!(target.address, Address::Unix(_));
        Options {
            keyring: far.then(|| Keyring::new(self.paths.client_dir())),
            insecure: self.insecure,
            timeout: self.timeout(),
            ..Options::operator()
        }
    }

    /// Connects to the gateway that wins.
    ///
    /// # Errors
    /// When it cannot be reached or does not let this client in.
    pub async fn connect(&self) -> anyhow::Result<Connected> {
        self.connect_as(|target| self.options(target)).await
    }

    /// Connects to the gateway that wins, presenting oneself as told. When that
    /// one does not answer no other is tried: what is meant for it is nobody
    /// else's.
    ///
    /// # Errors
    /// When it cannot be reached or does not let this client in.
    pub async fn connect_as(
        &self,
        options: impl Fn(&Target) -> Options,
    ) -> anyhow::Result<Connected> {
        if self.flags.ssh.is_some() && self.flags.url.is_some() {
            return Err(helped("--ssh and --url name two gateways", "give one of them"));
        }
        if let Some(problem) = &self.config.problem {
            self.output.remark(format!("the configuration file is not used: {problem}"));
        }
        let candidates = self.candidates()?;
        let available = candidates.into_iter().filter(|candidate| candidate.available);
        let mut dead = None;
        for candidate in available {
            match self.connect_to(candidate, &options).await {
                // A gateway that was killed leaves its socket behind.
                Err((Source::ControlSocket, error)) if is_absent(&error) => dead = Some(error),
                Err((_, error)) if is_absent(&error) && dead.is_some() => {
                    return Err(dead.take().unwrap_or(error));
                }
                result => return result.map_err(|(_, error)| error),
            }
        }
        Err(dead.context("no gateway is configured")?)
    }

    async fn connect_to(
        &self,
        candidate: Candidate,
        options: &impl Fn(&Target) -> Options,
    ) -> Result<Connected, (Source, anyhow::Error)> {
        let source = candidate.source;
        let Some(target) = &candidate.target else {
            return Err((source, anyhow::anyhow!("{} names no address", source.name())));
        };
        if target.address.is_plain_tailnet() {
            self.output.remark(
                "note: ws:// to a tailnet address is encrypted by the tailnet, and only there",
            );
        }
        let started = Instant::now();
        match Client::connect(target, &options(target)).await {
            Ok(client) => Ok(Connected { client, candidate, latency: started.elapsed() }),
            Err(error) => {
                let advice = candidate.withheld.or_else(|| where_the_token_is(target));
                Err((
                    source,
                    match advice.filter(|_| error.is_unauthorized()) {
                        Some(advice) => ended(error.exit_code(), error.to_string(), advice),
                        None => error.into(),
                    },
                ))
            }
        }
    }

    /// Connects again after a connection ended: an hour of a broken tunnel or a
    /// restarted gateway is nothing, a gateway that says no is.
    ///
    /// # Errors
    /// When trying again is of no use, or `patience` is over.
    pub async fn connect_again(&self, patience: Option<Duration>) -> anyhow::Result<Connected> {
        let started = Instant::now();
        let mut delay = Delay::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            delay.wait().await;
            match self.connect().await {
                Ok(connected) => return Ok(connected),
                Err(error) if error.downcast_ref().is_some_and(Error::is_lasting) => {
                    return Err(error);
                }
                Err(error) if patience.is_some_and(|it| started.elapsed() >= it) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }

    /// Connects, makes one call, and says good-bye.
    ///
    /// # Errors
    /// When connecting or the call fails.
    pub async fn call(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let connected = self.connect().await?;
        let result = connected.client.call_raw(method, params).await;
        connected.client.close().await;
        Ok(result?)
    }
}

/// Returns what helps at a gateway behind ssh that was shown nothing.
fn where_the_token_is(target: &Target) -> Option<String> {
    let Address::Ssh(ssh) = &target.address else { return None };
    target.credentials.is_empty().then(|| {
        format!(
            "show it its token once, then this device is remembered: (umask 077; ssh {} cat \
             .local/state/moltbot/gateway-token > token), then add --token-file token. A service \
             of the system keeps it in /var/lib/moltbot",
            ssh.login.destination.words()
        )
    })
}

fn is_absent(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Connect { absent: true, .. }))
}

fn daemon_flags(globals: &Globals) -> Vec<OsString> {
    let flags = [
        ("--profile", globals.profile.as_ref().map(OsString::from)),
        ("--config", globals.config.as_ref().map(OsString::from)),
        ("--state-dir", globals.state_dir.as_ref().map(OsString::from)),
    ];
    let given = flags.into_iter().filter_map(|(name, value)| Some([name.into(), value?]));
    given.flatten().collect()
}

fn flags(globals: &Globals) -> anyhow::Result<Flags> {
    let token = match (&globals.token, &globals.token_file) {
        (Some(token), _) => Some(Secret::new(token, "--token")),
        (None, Some(file)) => Some(target::token_from_file(&PathBuf::from(file))?),
        (None, None) => None,
    };
    let password = globals.password.as_ref().map(|text| Secret::new(text, "--password"));
    if globals.ssh_identity.as_ref().is_some_and(|file| !file.is_file()) {
        let file = globals.ssh_identity.clone().unwrap_or_default();
        anyhow::bail!("--ssh-identity: there is no file {}", file.display());
    }
    Ok(Flags {
        url: globals.url.clone(),
        token,
        token_file: globals.token_file.clone(),
        password,
        ssh: globals.ssh.clone(),
        ssh_identity: globals.ssh_identity.clone(),
        port: globals.port,
        pins: globals.tls_fingerprint.clone(),
    })
}
