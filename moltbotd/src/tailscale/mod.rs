//! The tailnet: the gateway behind `tailscale serve` or `funnel`, and who comes
//! in through it.
//!
//! Everything is asked of the `tailscale` program, whose JSON is that of
//! `ipn/ipnstate` and `ipn/serve.go` of tailscale/tailscale. What fails is
//! reported and tried again; the gateway on loopback goes on regardless.

mod identity;
mod owner;
mod program;
mod serve;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moltbot_protocol::methods::health::TailscaleStatus;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub use self::identity::{Claim, Denied, socket_owner};
use self::{
    identity::Identities,
    program::{Program, QUICK, SLOW},
    serve::{HTTPS_PORT, Holder, ServeConfig},
};
use crate::config::{self, AuthMode, Config, TailscaleMode};

/// When to try again what failed; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// How often to look whether the gateway is still served.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The tailnet as this gateway uses it.
#[derive(Debug)]
pub struct Tailscale {
    mode: TailscaleMode,
    reset_on_exit: bool,
    /// `gateway.auth.allowTailscale`.
    lets_users_in: Option<bool>,
    program: Option<PathBuf>,
    socket: Option<PathBuf>,
    home: Option<String>,
    /// Where requests are to be led.
    target: String,
    identities: Identities,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tailnet: Option<String>,
    /// This host's name in the tailnet.
    name: Option<String>,
    /// Whether requests to the name reach this gateway.
    served: bool,
    trouble: Option<String>,
}

/// Why the gateway is not reached through the tailnet, and what helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// There is no program.
    #[error(
        "tailscale is not installed (looked for {0}); install it, or name the program in \
         gateway.tailscale.path"
    )]
    NotInstalled(String),
    /// The program could be somebody else's.
    #[error("{0} is not used: {1}")]
    Untrusted(String, &'static str),
    /// The program finds no daemon.
    #[error("tailscaled is not running; start it: sudo systemctl start tailscaled")]
    NotRunning,
    /// The host is in no tailnet.
    #[error("this host is not logged in to a tailnet ({0}); run: tailscale up")]
    NotLoggedIn(String),
    /// The host's name has no certificate.
    #[error(
        "the tailnet has no HTTPS certificates; enable them: \
         https://login.tailscale.com/admin/dns"
    )]
    NoHttps,
    /// Somebody must click.
    #[error("{what} is not enabled for this tailnet; enable it: {url}")]
    NotEnabled {
        /// `serve` or `funnel`.
        what: &'static str,
        /// Where.
        url: String,
    },
    /// The user may not change what is served.
    #[error(
        "tailscaled lets only root and its operator change what is served; \
         run: sudo tailscale set --operator=$USER, as the user the gateway runs as"
    )]
    NotOperator,
    /// The port is taken.
    #[error(
        "port {HTTPS_PORT} of the tailnet name is taken and left as it is: {0}; to give it up: \
         tailscale serve --https={HTTPS_PORT} off"
    )]
    Taken(String),
    /// The program did what it was told, and nothing came of it.
    #[error("tailscale said it serves the gateway, but `tailscale serve status` shows {0}")]
    Ineffective(String),
    /// The program hangs.
    #[error("`tailscale {command}` did not answer within {seconds} s{}", said_so(.said))]
    Silent {
        /// Its arguments.
        command: String,
        /// How long it was waited for.
        seconds: u64,
        /// What it said meanwhile.
        said: String,
    },
    /// Anything else.
    #[error("`tailscale {command}` failed{}", said_so(.said))]
    Failed {
        /// Its arguments.
        command: String,
        /// What it said.
        said: String,
    },
}

fn said_so(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// `tailscale status --json`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Status {
    backend_state: String,
    #[serde(rename = "Self")]
    own: Option<Own>,
    current_tailnet: Option<CurrentTailnet>,
    cert_domains: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Own {
    #[serde(rename = "DNSName")]
    dns_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CurrentTailnet {
    name: String,
}

impl Tailscale {
    /// Takes from the configuration what does not change while running.
    #[must_use]
    pub fn new(config: &Config, settings: &config::Tailscale, port: u16) -> Arc<Self> {
        let scheme = if config.gateway.tls.enabled { "https+insecure" } else { "http" };
        Arc::new(Self {
            mode: settings.mode,
            reset_on_exit: settings.reset_on_exit,
            lets_users_in: config.gateway.auth.allow_tailscale,
            program: settings.path.as_deref().map(PathBuf::from),
            socket: settings.socket.as_deref().map(PathBuf::from),
            home: config.variable("HOME").map(str::to_owned),
            target: format!("{scheme}://127.0.0.1:{port}"),
            identities: Identities::default(),
            state: Mutex::default(),
        })
    }

    /// Returns how it is; nothing when the tailnet is not used.
    #[must_use]
    pub fn status(&self) -> Option<TailscaleStatus> {
        if self.mode == TailscaleMode::Off {
            return None;
        }
        let state = self.state();
        Some(TailscaleStatus {
            mode: self.mode.name().to_owned(),
            tailnet: state.tailnet.clone(),
            name: state.name.clone(),
            url: state.name.as_ref().filter(|_| state.served).map(|name| format!("https://{name}")),
            served: state.served,
            trouble: state.trouble.clone(),
        })
    }

    /// Returns whether and how the gateway is reached through the tailnet.
    #[must_use]
    pub fn mode(&self) -> TailscaleMode {
        self.mode
    }

    /// Returns why the gateway is not reached through the tailnet although it
    /// is to be.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// Returns the origin of pages that the tailnet's name leads to.
    #[must_use]
    pub fn origin(&self) -> Option<String> {
        let state = self.state();
        state.name.as_ref().filter(|_| state.served).map(|name| format!("https://{name}"))
    }

    /// Establishes whether a claim to be a user of the tailnet is true, where
    /// `auth` is the secret that counts. Returns the user's login.
    pub async fn verify(&self, claim: &Claim, auth: AuthMode) -> Result<String, Denied> {
        let default = self.mode == TailscaleMode::Serve && auth != AuthMode::Password;
        if !self.lets_users_in.unwrap_or(default) {
            return Err(Denied::NotAllowed);
        }
        identity::verify(self, claim).await
    }

    /// Establishes whether a connection on this host was opened by tailscaled,
    /// whose word about a client's address counts then.
    pub async fn owns(&self, peer: SocketAddr, own: SocketAddr) -> Result<(), Denied> {
        identity::is_daemons(self, peer, own).await
    }

    /// Has the gateway served, and keeps it so until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if self.mode == TailscaleMode::Off {
            return;
        }
        let mut retry = FIRST_RETRY;
        loop {
            let exposed = tokio::select! {
                () = stop.cancelled() => return,
                exposed = self.expose() => exposed,
            };
            let wait = match exposed {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    CHECK_INTERVAL
                }
                Err(_) => {
                    let wait = retry;
                    retry = (retry * 2).min(LONGEST_RETRY);
                    wait
                }
            };
            self.note(exposed, wait);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes back what was served, when the configuration says so. What somebody
    /// else has put there meanwhile stays.
    pub async fn withdraw(&self) {
        let name = self.state().name.clone();
        let Some(name) = name.filter(|_| self.reset_on_exit && self.state().served) else { return };
        let taken_back = async {
            let program = self.program()?;
            if !matches!(
                self.serve_config(&program).await?.holder(&name, &self.target),
                Holder::Us { .. }
            ) {
                return Ok(());
            }
            let port = format!("--https={HTTPS_PORT}");
            program.run(&[self.mode.name(), &port, "off"], QUICK).await.map(drop)
        };
        match taken_back.await {
            Ok(()) => tracing::info!(name, "no longer served in the tailnet"),
            Err::<(), Trouble>(error) => tracing::warn!(%error, "still served in the tailnet"),
        }
    }

    async fn expose(&self) -> Result<(), Trouble> {
        let program = self.program()?;
        let name = self.look_around(&program).await?;
        let funnel = self.mode == TailscaleMode::Funnel;
        match self.serve_config(&program).await?.holder(&name, &self.target) {
            Holder::Us { funnel: public } if public == funnel => return Ok(()),
            Holder::Other(what) => return Err(Trouble::Taken(what)),
            Holder::Us { .. } | Holder::Nobody => {}
        }
        let https = format!("--https={HTTPS_PORT}");
        let arguments = [self.mode.name(), "--bg", "--yes", &https, &self.target];
        let said = program.run(&arguments, SLOW).await?;
        match self.serve_config(&program).await?.holder(&name, &self.target) {
            Holder::Us { funnel: public } if public == funnel => Ok(()),
            // It may say so and end well.
            _ if program::not_enabled(&said).is_some() => {
                Err(program::explained(&arguments, &said))
            }
            Holder::Us { .. } => Err(Trouble::Ineffective("another reach".into())),
            Holder::Nobody => Err(Trouble::Ineffective("nothing".into())),
            Holder::Other(what) => Err(Trouble::Ineffective(what)),
        }
    }

    /// Returns this host's name in the tailnet once it can be served there.
    async fn look_around(&self, program: &Program) -> Result<String, Trouble> {
        let status: Status = program.json(&["status", "--json", "--peers=false"]).await?;
        let tailnet = status.current_tailnet.map(|tailnet| tailnet.name);
        let name = status.own.map(|own| own.dns_name.trim_end_matches('.').to_ascii_lowercase());
        let name = name.filter(|name| !name.is_empty());
        {
            let mut state = self.state();
            state.tailnet = tailnet.filter(|name| !name.is_empty());
            state.name.clone_from(&name);
        }
        if status.backend_state != "Running" {
            return Err(Trouble::NotLoggedIn(status.backend_state));
        }
        let name = name.ok_or_else(|| Trouble::NotLoggedIn("it has no name there".into()))?;
        let certificates = status.cert_domains.unwrap_or_default();
        if certificates.iter().any(|domain| domain.eq_ignore_ascii_case(&name)) {
            Ok(name)
        } else {
            Err(Trouble::NoHttps)
        }
    }

    async fn serve_config(&self, program: &Program) -> Result<ServeConfig, Trouble> {
        let config: Option<ServeConfig> = program.json(&["serve", "status", "--json"]).await?;
        Ok(config.unwrap_or_default())
    }

    fn program(&self) -> Result<Program, Trouble> {
        Program::find(self.program.as_deref(), self.socket.clone(), self.home.clone())
    }

    fn daemon_socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(identity::DAEMON_SOCKET))
    }

    fn note(&self, exposed: Result<(), Trouble>, retry: Duration) {
        let mut state = self.state();
        let trouble = exposed.err().map(|trouble| trouble.to_string());
        let name = state.name.clone();
        match &trouble {
            None if !state.served => {
                tracing::info!(name, mode = self.mode.name(), "served in the tailnet");
            }
            Some(trouble) if state.trouble.as_ref() != Some(trouble) => {
                let retry_s = retry.as_secs();
                tracing::warn!(trouble, retry_s, "not served in the tailnet");
            }
            _ => {}
        }
        state.served = trouble.is_none();
        state.trouble = trouble;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
