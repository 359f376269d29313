//! A local port that leads to a gateway behind ssh, kept up: for apps that need
//! a port. Every local user can reach that port; `--ssh` has none.
//!
//! One process per port supervises one ssh. The lock of [`note`] says that it
//! lives, its note how it is.

pub mod note;
mod owner;
pub mod service;

use std::{
    fs::File,
    net::Ipv4Addr,
    pin::{Pin, pin},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::fcntl::Flock;
use tokio::process::Child;

use crate::{
    address::{Address, SshAddress, WebAddress},
    client::{Client, Options, now_ms},
    context::{Context, ended, helped},
    delay::Delay,
    error::Error,
    ssh::{self, Failure, Kind},
    target::{Credentials, Target},
};
use note::{Note, State};

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// How often the port of a starting ssh is looked at.
const LOOK: Duration = Duration::from_millis(50);
const LOCK_TRIES: u32 = 5;
/// Checks without any answer before ssh is started anew. One that fails
/// otherwise went through: the gateway is down then, not the tunnel.
const SILENT_CHECKS: u32 = 2;
/// Exit code for a local port that another program has.
pub const PORT_TAKEN: u8 = 69;

/// What to keep up.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The gateway behind ssh, and what it is shown.
    pub target: Target,
    /// The port on this host.
    pub local_port: u16,
    /// How often the gateway is asked whether it answers.
    pub every: Duration,
    /// Whether a name that means nothing ends it. A person who has just typed
    /// that name waits for the answer; a service may start before its network.
    pub name_must_be_known: bool,
}

impl Tunnel {
    /// Keeps the tunnel up until `stop`. Its ssh has ended then.
    ///
    /// # Errors
    /// When another program has the port, another tunnel serves it, or ssh says
    /// that a person must do something first.
    pub async fn keep(&self, cx: &Context, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut stop = pin!(stop);
        let ssh = self.ssh()?;
        let Some(_lock) = self.lock(cx).await? else {
            return Err(helped(
                format!("a tunnel on port {} runs already", self.local_port),
                "see it: moltbotctl tunnel status; end it: moltbotctl tunnel down",
            ));
        };
        let mut note = Note::new(ssh, self.local_port);
        let mut delay = Delay::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            let once = self.once(cx, ssh, &mut note, &mut delay, stop.as_mut());
            let failure = match once.await {
                Ok(Some(failure)) => failure,
                ended => {
                    note::remove(&cx.paths, self.local_port);
                    return ended.map(drop);
                }
            };
            let text = failure.to_string();
            // What worked once may work again; what never did needs a person.
            let is_final = failure.kind.is_final()
                || (self.name_must_be_known && failure.kind == Kind::NameUnknown);
            if is_final && note.up_since_ms.is_none() {
                note::remove(&cx.paths, self.local_port);
                return Err(Error::Ssh(Box::new(failure)).into());
            }
            cx.output.remark(format!("{text}; connecting again"));
            note.reconnects += 1;
            note.set(&cx.paths, State::Waiting, Some(text));
            tokio::select! {
                () = delay.wait() => {}
                () = &mut stop => {
                    note::remove(&cx.paths, self.local_port);
                    return Ok(());
                }
            }
        }
    }

    /// Who only looks whether a tunnel runs holds the lock for a moment.
    async fn lock(&self, cx: &Context) -> anyhow::Result<Option<Flock<File>>> {
        for _ in 0..LOCK_TRIES {
            if let Some(lock) = note::lock(&cx.paths, self.local_port)? {
                return Ok(Some(lock));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }

    fn ssh(&self) -> anyhow::Result<&SshAddress> {
        match &self.target.address {
            Address::Ssh(ssh) => Ok(ssh),
            _ => Err(anyhow::anyhow!("a tunnel leads to an ssh server")),
        }
    }

    /// Runs one ssh to its end; `None` when it was to stop.
    async fn once(
        &self,
        cx: &Context,
        ssh: &SshAddress,
        note: &mut Note,
        delay: &mut Delay,
        stop: Pin<&mut impl Future<Output = ()>>,
    ) -> anyhow::Result<Option<Failure>> {
        if let Err(error) = self.need_free_port() {
            // Whoever has taken it meanwhile may give it back.
            note.up_since_ms.ok_or(error)?;
            let said = "Address already in use";
            return Ok(Some(Failure::of_end(&ssh.login, self.local_port, None, said, false)));
        }
        note.set(&cx.paths, State::Connecting, None);
        let mut child = match self.spawn(ssh, cx.timeout()) {
            Ok(child) => child,
            Err(error) => {
                return Ok(Some(Failure::of_start(&ssh.login, self.local_port, &error)));
            }
        };
        note.ssh_pid = child.id();
        let said = ssh::Said::of(child.stderr.take());
        let (mut up, pid) = (false, child.id());
        let status = tokio::select! {
            status = child.wait() => status.ok(),
            silent = self.watch(cx, note, &said, &mut up, delay, pid) => {
                end(&mut child).await;
                return Ok(Some(Failure::of_silence(&ssh.login, ssh.gateway.port, silent)));
            }
            () = stop => {
                end(&mut child).await;
                return Ok(None);
            }
        };
        Ok(Some(self.failure(ssh, status, &said.words().await, up)))
    }

    fn failure(
        &self,
        ssh: &SshAddress,
        status: Option<ExitStatus>,
        said: &str,
        up: bool,
    ) -> Failure {
        let failure = Failure::of_end(&ssh.login, ssh.gateway.port, status, said, up);
        match failure.kind {
            Kind::PortTaken => Failure::of_end(&ssh.login, self.local_port, status, said, up),
            _ => failure,
        }
    }

    /// Never takes the place of somebody else, nor joins them.
    fn need_free_port(&self) -> anyhow::Result<()> {
        let port = self.local_port;
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|error| {
            ended(
                PORT_TAKEN,
                format!("port {port} of this host cannot be used: {error}"),
                format!("see who has it: lsof -i :{port}; or choose another one: --local-port"),
            )
        })
    }

    /// A connection of its own: what is forwarded by a shared one outlives us.
    fn spawn(&self, ssh: &SshAddress, patience: Duration) -> std::io::Result<Child> {
        let mut command = ssh::command(&ssh.login, patience);
        for option in ["ControlMaster=no", "ControlPath=none", "GatewayPorts=no"] {
            command.args(["-o", option]);
        }
        // Without an address, which means loopback here, it may be the very line that
        // people have in their configuration; ssh then takes it once.
        let forward = format!("{}:127.0.0.1:{}", self.local_port, ssh.gateway.port);
        command.args(["-N", "-L", &forward]);
        ssh::to(&mut command, &ssh.login);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn()
    }

    /// Waits until ssh listens, then asks the gateway again and again. Returns
    /// how long nothing came back.
    async fn watch(
        &self,
        cx: &Context,
        note: &mut Note,
        said: &ssh::Said,
        up: &mut bool,
        delay: &mut Delay,
        pid: Option<u32>,
    ) -> Duration {
        let patience = cx.timeout();
        let listening = tokio::time::timeout(patience, self.listening(pid)).await;
        if listening.is_err() {
            return patience;
        }
        *up = true;
        let mut silent = 0;
        let mut credentials = self.target.credentials.clone();
        loop {
            // An ssh that is about to end may have left the port to somebody else.
            self.listening(pid).await;
            let checked = self.check(cx, &credentials).await;
            if checked.as_ref().is_err_and(Error::is_unauthorized) {
                // Shown again and again they would look like somebody guessing.
                credentials = Credentials::default();
            }
            if matches!(checked, Err(Error::Timeout(_))) {
                silent += 1;
            } else {
                (silent, _) = (0, delay.reset());
            }
            if checked.is_err() {
                // ssh says why a moment after the connection broke.
                tokio::time::sleep(LOOK).await;
            }
            self.tell(cx, note, checked, &said.so_far());
            if silent == SILENT_CHECKS {
                return patience;
            }
            tokio::time::sleep(self.every).await;
        }
    }

    /// Only a listener of our own ssh is talked to.
    async fn listening(&self, pid: Option<u32>) {
        loop {
            tokio::time::sleep(LOOK).await;
            match pid.and_then(|pid| owner::listens(pid, self.local_port)) {
                Some(true) => return,
                Some(false) => {}
                // Without a way to know, ssh ends when it could not listen.
                None if self.need_free_port().is_err() => return,
                None => {}
            }
        }
    }

    /// Makes a real handshake.
    async fn check(&self, cx: &Context, credentials: &Credentials) -> Result<String, Error> {
        let tls = self.target.address.web().is_some_and(|web| web.tls);
        let address = Address::Web(WebAddress::loopback(self.local_port, tls));
        let credentials = credentials.clone();
        let target = Target { address, credentials, ..self.target.clone() };
        let options = Options { mode: "probe", keyring: None, ..cx.options(&target) };
        let client = Client::connect(&target, &options).await?;
        let version = client.hello().pointer("/server/version").cloned().unwrap_or_default();
        client.close().await;
        Ok(version.as_str().unwrap_or("unknown").to_owned())
    }

    fn tell(&self, cx: &Context, note: &mut Note, checked: Result<String, Error>, said: &str) {
        let before = (note.state, note.detail.clone());
        note.checked_at_ms = Some(now_ms());
        match checked {
            Ok(version) => {
                note.version = Some(version);
                note.set(&cx.paths, State::Up, None);
            }
            // A gateway that says no is a gateway.
            Err(error @ (Error::Refused(_) | Error::Closed(_))) if error_of_gateway(&error) => {
                let known = note.detail.take().filter(|_| note.state == State::Up);
                note.set(&cx.paths, State::Up, Some(known.unwrap_or_else(|| error.to_string())));
            }
            Err(error) => {
                let mut lines = said.lines().filter(|line| line.contains("open failed"));
                let reason = lines.next_back().map_or_else(|| error.to_string(), ToOwned::to_owned);
                note.set(&cx.paths, State::Degraded, Some(reason));
            }
        }
        if before != (note.state, note.detail.clone()) {
            cx.output.remark(note.line());
        }
    }
}

/// Returns whether a gateway itself spoke.
fn error_of_gateway(error: &Error) -> bool {
    match error {
        Error::Refused(_) => true,
        Error::Closed(closed) => closed.code != 1006,
        _ => false,
    }
}

/// ssh cleans up after itself when it is asked to end.
async fn end(child: &mut Child) {
    // A process that is gone has no id.
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        let pid = nix::unistd::Pid::from_raw(pid);
        // It may have ended meanwhile.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    if tokio::time::timeout(Duration::from_secs(1), child.wait()).await.is_err() {
        // It hangs for good, or is stopped.
        let _ = child.kill().await;
    }
}
