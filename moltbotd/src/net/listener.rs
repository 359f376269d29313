//! Binds or inherits the sockets and accepts peers: a place in the budget,
//! then a task.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use super::{Shared, http, ingress::Listener};
use crate::{
    config::{self, Bind},
    inherited::{self, Inherited},
};

/// The sockets the daemon listens on.
#[derive(Debug)]
pub struct Listeners {
    /// Loopback first; the first one decides the port.
    pub tcp: Vec<TcpListener>,
    /// The control socket.
    pub control: UnixListener,
    /// The port that was bound.
    pub port: u16,
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("another program is already listening on {0}; `ss -ltnp` shows which")]
    InUse(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Failed {
        /// What was to be bound.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// A mode that this version does not have.
    #[error("gateway.bind: {0}")]
    Mode(String),
}

/// Binds everything, or nothing. Sockets of a `.socket` unit take the place of
/// the configured addresses; those that an earlier process left with the
/// service manager are taken up instead of being bound anew.
pub async fn bind(
    gateway: &config::Gateway,
    port: u16,
    control: &Path,
    mut inherited: Inherited,
) -> Result<Listeners, BindError> {
    let mut tcp = given(&mut inherited)?;
    if let Some(own) = tcp.first().map(address).transpose()? {
        if own.port() != port {
            tracing::warn!(address = %own, port, "the socket unit decides the port, not gateway.port");
        }
    } else {
        let hosts = hosts(gateway)?;
        let first = own(SocketAddr::new(hosts[0], port), &mut inherited)?;
        let port = address(&first)?.port();
        tcp.push(first);
        for host in &hosts[1..] {
            tcp.push(own(SocketAddr::new(*host, port), &mut inherited)?);
        }
    }
    let port = address(&tcp[0])?.port();
    let listens_on = |host: IpAddr| {
        tcp.iter().any(|listener| address(listener).is_ok_and(|address| address.ip() == host))
    };
    let also = IpAddr::V6(Ipv6Addr::LOCALHOST);
    if listens_on(IpAddr::V4(Ipv4Addr::LOCALHOST)) && !listens_on(also) {
        // Some hosts have no IPv6; clients that try ::1 first fall back.
        match own(SocketAddr::new(also, port), &mut inherited) {
            Ok(listener) => tcp.push(listener),
            Err(error) => tracing::debug!(%error, "no listener on ::1"),
        }
    }
    let control = bind_control(control, &mut inherited)?;
    inherited.close_rest();
    Ok(Listeners { tcp, control, port })
}

fn given(inherited: &mut Inherited) -> Result<Vec<TcpListener>, BindError> {
    let failed = |source| BindError::Failed { address: "the socket unit's address".into(), source };
    inherited
        .take_given()
        .into_iter()
        .map(|socket| TcpListener::from_std(socket).map_err(failed))
        .collect()
}

/// Takes up the socket that an earlier process bound to this address, or binds
/// one and leaves a copy for the next process.
fn own(wanted: SocketAddr, inherited: &mut Inherited) -> Result<TcpListener, BindError> {
    let failed = |source| BindError::Failed { address: wanted.to_string(), source };
    if let Some(kept) = inherited.take_kept(wanted) {
        tracing::debug!(address = %wanted, "listening goes on where the last process left it");
        return TcpListener::from_std(kept).map_err(failed);
    }
    let listener = bind_tcp(wanted)?;
    inherited::keep(&address(&listener)?.to_string(), &listener);
    Ok(listener)
}

fn address(listener: &TcpListener) -> Result<SocketAddr, BindError> {
    listener
        .local_addr()
        .map_err(|source| BindError::Failed { address: "an inherited socket".into(), source })
}

/// Accepts peers on every socket until `shared.closing`. Each probe is answered
/// by every accept loop, as a proof of life.
pub(crate) fn serve(
    listeners: Listeners,
    shared: &Shared,
) -> Vec<mpsc::Sender<oneshot::Sender<()>>> {
    let mut probes = Vec::new();
    for listener in listeners.tcp {
        // One probe is under way at a time; a full queue means a stuck loop.
        let (probe, probed) = mpsc::channel(1);
        probes.push(probe);
        shared.tasks.spawn(accept_tcp(listener, shared.clone(), probed));
    }
    let (probe, probed) = mpsc::channel(1);
    probes.push(probe);
    shared.tasks.spawn(accept_control(listeners.control, shared.clone(), probed));
    probes
}

fn hosts(gateway: &config::Gateway) -> Result<Vec<IpAddr>, BindError> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    match gateway.bind {
        Bind::Loopback | Bind::Auto => Ok(vec![loopback]),
        Bind::Lan => Ok(vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)]),
        Bind::Tailnet => Err(BindError::Mode(
            "\"tailnet\" is not available in this version; use \"loopback\" with Tailscale Serve"
                .to_owned(),
        )),
        Bind::Custom => {
            let host = gateway.custom_bind_host.as_deref().unwrap_or_default();
            let ip: IpAddr = host.parse().map_err(|_| {
                let text = "\"custom\" needs an address in gateway.customBindHost";
                BindError::Mode(format!("{text}, not {host:?}"))
            })?;
            let covered = ip.is_loopback() || ip.is_unspecified();
            Ok(if covered { vec![ip] } else { vec![loopback, ip] })
        }
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = (|| {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        // A restarted daemon must not wait for the old connections to fade.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(4096)
    })();
    bound.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            return BindError::InUse(address);
        }
        BindError::Failed { address: address.to_string(), source }
    })
}

/// The state directory's lock is held by now, so a socket file that is there
/// belongs to nobody, unless the manager kept the socket itself.
fn bind_control(path: &Path, inherited: &mut Inherited) -> Result<UnixListener, BindError> {
    let bound = (|| {
        if let Some(kept) = inherited.take_unix(path) {
            return UnixListener::from_std(kept);
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        inherited::keep("control", &listener);
        Ok(listener)
    })();
    bound.map_err(|source| BindError::Failed { address: path.display().to_string(), source })
}

async fn accept_tcp(
    listener: TcpListener,
    shared: Shared,
    mut probes: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let Ok(own) = listener.local_addr() else { return };
    let mut back_off = BackOff::default();
    loop {
        tokio::select! {
            // First: whoever still waits in the queue is the next process's.
            biased;
            () = shared.closing.cancelled() => return,
            Some(answer) = probes.recv() => drop(answer.send(())),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    back_off = BackOff::default();
                    admit_tcp(stream, peer, own, &shared);
                }
                Err(error) => back_off.wait(&error).await,
            },
        }
    }
}

fn admit_tcp(stream: TcpStream, peer: SocketAddr, own: SocketAddr, shared: &Shared) {
    let Some(place) = shared.budget.take(Some(peer.ip())) else {
        shared.handshakes.crowded.one();
        tracing::warn!(%peer, "refused: too many peers have not authenticated yet");
        return;
    };
    // Frames are small and answers are waited for.
    let _ = stream.set_nodelay(true);
    let listener = Listener::Tcp { peer, own };
    shared.tasks.spawn(http::serve(stream, listener, shared.clone(), place));
}

async fn accept_control(
    listener: UnixListener,
    shared: Shared,
    mut probes: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut back_off = BackOff::default();
    loop {
        tokio::select! {
            // First: whoever still waits in the queue is the next process's.
            biased;
            () = shared.closing.cancelled() => return,
            Some(answer) = probes.recv() => drop(answer.send(())),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    back_off = BackOff::default();
                    admit_control(stream, &shared);
                }
                Err(error) => back_off.wait(&error).await,
            },
        }
    }
}

fn admit_control(stream: UnixStream, shared: &Shared) {
    let own = nix::unistd::getuid().as_raw();
    let peer = stream.peer_cred().map(|credentials| credentials.uid());
    if !matches!(peer, Ok(uid) if uid == own || uid == 0) {
        tracing::warn!(?peer, "control socket: refused another user");
        return;
    }
    let Some(place) = shared.budget.take(None) else {
        return shared.handshakes.crowded.one();
    };
    shared.tasks.spawn(http::serve(stream, Listener::Control, shared.clone(), place));
}

/// How long to leave accepting alone after it failed, most often because there
/// are no file descriptors left.
#[derive(Debug, Default)]
struct BackOff(u32);

impl BackOff {
    async fn wait(&mut self, error: &io::Error) {
        tracing::warn!(%error, "accept failed");
        let wait = Duration::from_millis(10 << self.0.min(7));
        self.0 += 1;
        tokio::time::sleep(wait).await;
    }
}
