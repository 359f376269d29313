//! What every command shares: the profile, the target, the output.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::unistd::Uid;
use serde_json::Value;

use crate::{
    address::Address,
    cli::{Globals, ProfileUse},
    client::{Client, Options},
    config::LocalConfig,
    delay::Delay,
    environment::Environment,
    error::Error,
    host_gateway::{self, Meant},
    identity::Keyring,
    output::Output,
    paths::{Choices, Paths},
    resolver::Surroundings,
    service::{Kind, advice},
    target::{self, Candidate, Flags, Secret, Source, Target},
};

const DEFAULT_TIMEOUT_MS: u64 = 10_000;
/// A person waits: sooner than a node, which nobody watches.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(8);
/// Exit code for a gateway of this host that belongs to another user, as for
/// credentials that a gateway does not accept.
pub const NOT_YOURS: u8 = 6;

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
    /// Whose gateway of this host is meant.
    pub meant: Meant,
    /// Whether root may mean a gateway of the system: no file is named and no
    /// gateway of its own is asked for.
    pub may_mean_system: bool,
    /// The places of that gateway.
    pub paths: Paths,
    /// The places of this user's own gateway of that profile.
    pub own: Paths,
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
    pub fn new(
        globals: &Globals,
        environment: Environment,
        profile_use: ProfileUse,
    ) -> anyhow::Result<Self> {
        let output = Output::new(globals.json, &environment);
        let choices = Choices {
            profile: globals.profile.as_deref(),
            config: globals.config.as_deref(),
            state_dir: globals.state_dir.as_deref(),
        };
        let mut own = Paths::resolve(&choices, &environment)?;
        if globals.user {
            own.system_runtime_dir = None;
        }
        let config = LocalConfig::read(&own.config_file, &environment);
        if let Some(file) = globals.config.as_ref().filter(|_| !config.exists) {
            anyhow::bail!("there is no configuration file {}", file.display());
        }

        // Who names files means these, whatever else this host has.
        let is_named = choices.names_files(&environment);
        let meant = if is_named || globals.user {
            Meant::Own
        } else {
            host_gateway::choose(Path::new("/"), Uid::effective(), &own, &config)
        };
        if let Some(name) = &own.profile
            && profile_use == ProfileUse::MustExist
            && meant == Meant::Own
            && !is_named
            && !own.has_gateway()
        {
            return Err(host_gateway::no_such_profile(name, &host_gateway::existing(&environment)));
        }

        let mut context = Self {
            output,
            meant: Meant::Own,
            may_mean_system: !is_named && !globals.user && Uid::effective().is_root(),
            paths: own.clone(),
            own,
            config,
            flags: flags(globals)?,
            environment,
            timeout_given: globals.timeout,
            insecure: globals.insecure,
            daemon_flags: daemon_flags(globals),
            daemon_variables: Vec::new(),
        };
        if let Meant::System(_) = meant {
            context = context.at_the_system(meant);
            if context.own.has_gateway() {
                context.announce();
            }
        } else {
            context.meant = meant;
        }
        Ok(context)
    }

    /// Returns this for the gateway of the system.
    #[must_use]
    pub fn at_the_system(self, meant: Meant) -> Self {
        let paths = Paths {
            // The client's own key and notes are not the service's.
            client_state_dir: self.own.client_state_dir.clone(),
            ..Paths::of_system_unit(self.own.profile.as_deref())
        };
        Self {
            config: LocalConfig::read(&paths.config_file, &self.environment),
            daemon_variables: paths.as_told_by_systemd(),
            meant,
            paths,
            ..self
        }
    }

    /// Returns this for the user's own files: what a client keeps, such as
    /// where its remote gateway is, is never the service's.
    #[must_use]
    pub fn at_own_files(&self) -> Self {
        if self.meant == Meant::Own {
            return self.clone();
        }
        Self {
            config: LocalConfig::read(&self.own.config_file, &self.environment),
            daemon_variables: Vec::new(),
            meant: Meant::Own,
            paths: self.own.clone(),
            ..self.clone()
        }
    }

    /// Returns this for work on the gateway's files, and says whose they are
    /// where that is not obvious.
    ///
    /// # Errors
    /// When they belong to another user.
    pub fn at_its_files(&self) -> anyhow::Result<&Self> {
        match &self.meant {
            Meant::Foreign(system) => return Err(system.refusal()),
            // It was said already where there are two.
            Meant::System(_) => self.announce_anew(),
            Meant::Own => {}
        }
        Ok(self)
    }

    /// Says whose gateway is meant where that was not obvious and not said yet.
    pub fn announce_anew(&self) {
        if !self.own.has_gateway() {
            self.announce();
        }
    }

    fn announce(&self) {
        if let Meant::System(system) | Meant::Foreign(system) = &self.meant
            && !self.output.json
        {
            self.output.remark(format!("gateway: {}", system.text()));
        }
    }

    /// Returns the command that starts the gateway that is meant.
    #[must_use]
    pub fn how_to_start(&self) -> String {
        match &self.meant {
            Meant::System(system) => format!("systemctl start {}", system.unit),
            Meant::Foreign(system) => format!("sudo systemctl start {}", system.unit),
            Meant::Own => advice::start_own(Kind::here(), &self.own),
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
        let is_there = || self.flags.port.is_none() && self.paths.control_socket().exists();
        let was_there = is_there();
        match self.connect_to_first(&options).await {
            // The connection had systemd start the gateway, which has made its socket by now.
            Err((Source::Loopback, _)) if !was_there && is_there() => {
                self.connect_to_first(&options).await.map_err(|(_, error)| error)
            }
            result => result.map_err(|(_, error)| error),
        }
    }

    async fn connect_to_first(
        &self,
        options: &impl Fn(&Target) -> Options,
    ) -> Result<Connected, (Source, anyhow::Error)> {
        let candidates = self.candidates().map_err(|error| (Source::Flag, error))?;
        let available = candidates.into_iter().filter(|candidate| candidate.available);
        let mut dead = None;
        for candidate in available {
            match self.connect_to(candidate, options).await {
                // A gateway that was killed leaves its socket behind.
                Err((Source::ControlSocket, error)) if is_absent(&error) => dead = Some(error),
                Err((source, error)) if is_absent(&error) && dead.is_some() => {
                    return Err((source, dead.take().unwrap_or(error)));
                }
                result => return result,
            }
        }
        let none = || anyhow::anyhow!("no gateway is configured");
        Err((Source::ControlSocket, dead.unwrap_or_else(none)))
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
                Err((source, self.explained(error, source, target, candidate.withheld.as_deref())))
            }
        }
    }

    /// Adds what helps: it depends on whose gateway was meant.
    fn explained(
        &self,
        error: Error,
        source: Source,
        target: &Target,
        withheld: Option<&str>,
    ) -> anyhow::Error {
        let is_local = matches!(source, Source::ControlSocket | Source::Loopback);
        let is_absent = matches!(error, Error::Connect { absent: true, .. });
        // Where it listens is as closed to this user as what opens it.
        if let Meant::Foreign(system) = &self.meant
            && is_local
            && target.credentials.is_empty()
            && (error.is_unauthorized() || is_absent)
        {
            return system.refusal();
        }

        match error {
            error if error.is_unauthorized() => {
                let advice = withheld.map(Into::into).or_else(|| where_the_token_is(target));
                match advice {
                    Some(advice) => ended(error.exit_code(), error.to_string(), advice),
                    None => error.into(),
                }
            }
            Error::Connect { url, reason, absent: true, .. } if is_local => {
                let start = Some(self.how_to_start());
                Error::Connect { url, reason, absent: true, start }.into()
            }
            error => error.into(),
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
