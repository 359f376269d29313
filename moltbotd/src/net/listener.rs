//! Binds or inherits the sockets and accepts peers: a permit, then a task.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    addresses::{self, Addresses, interfaces},
    admission::{Admission, Source},
    greeting, holder, http,
    ingress::Listener,
    metrics::Reason,
    tailnet::Tailnet,
};
use crate::{
    config,
    inherited::{self, Inherited},
};

/// Silence after which the system asks a peer's host whether it is there, how
/// often, and how many questions may stay without answer: a minute in all.
#[cfg(target_os = "linux")]
const KEEP_ALIVE_IDLE_SECONDS: u32 = 30;
#[cfg(target_os = "linux")]
const KEEP_ALIVE_INTERVAL_SECONDS: u32 = 10;
#[cfg(target_os = "linux")]
const KEEP_ALIVE_PROBES: u32 = 3;
/// How long bytes may stay unacknowledged, in milliseconds.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS: u32 = 60_000;

/// The sockets the daemon listens on.
#[derive(Debug)]
pub struct Listeners {
    /// The first one decides the port.
    pub tcp: Vec<TcpListener>,
    /// Those of the tailnet's addresses that this host has by now; `None` where
    /// the tailnet is not listened on.
    pub tailnet: Option<Vec<TcpListener>>,
    /// The control socket.
    pub control: UnixListener,
    /// The port that was bound.
    pub port: u16,
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("{address} is taken: {}", taken_by(*.address, .holder.as_deref()))]
    InUse {
        /// The address.
        address: SocketAddr,
        /// Who listens, as far as the system tells.
        holder: Option<String>,
    },
    /// No interface of this host has the address.
    #[error(
        "cannot listen on {address}: this host has no such address, only {own}; set \
         gateway.customBindHost to one of these, or gateway.bind to \"loopback\""
    )]
    NotHere {
        /// What was to be bound.
        address: SocketAddr,
        /// What the host has beside loopback.
        own: String,
    },
    /// It would carry secrets in the clear over the internet.
    #[error(
        "refusing to listen on the public address {0} without TLS; set gateway.tls.enabled, or \
         stay on loopback and use an SSH tunnel or Tailscale Serve"
    )]
    Plain(IpAddr),
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

fn taken_by(address: SocketAddr, holder: Option<&str>) -> String {
    let port = address.port();
    match holder {
        Some(holder) => format!("{holder} listens there; stop it, or choose another --port"),
        None => format!(
            "another program listens there; find it with: ss -ltnp 'sport = :{port}' (as root it \
             names programs of other users), or choose another --port"
        ),
    }
}

/// Binds everything, or nothing. Sockets of a `.socket` unit take the place of
/// the configured addresses; those that an earlier process left with the
/// service manager are taken up instead of being bound anew. Loopback is open
/// in either case.
pub async fn bind(
    gateway: &config::Gateway,
    port: u16,
    control: &Path,
    mut inherited: Inherited,
) -> Result<Listeners, BindError> {
    let mut tcp = given(&mut inherited)?;
    let addresses = match tcp.first().map(address).transpose()? {
        Some(first) => {
            if first.port() != port {
                tracing::warn!(address = %first, port, "the socket unit decides the port, not gateway.port");
            }
            Addresses::beside_a_socket_unit()
        }
        None => Addresses::of(gateway)?,
    };
    if !gateway.tls.enabled
        && let Some(ip) = addresses.needed.iter().find(|ip| addresses::is_public(**ip))
    {
        return Err(BindError::Plain(*ip));
    }
    let mut port = tcp.first().map(address).transpose()?.map_or(port, |first| first.port());
    for host in addresses.needed {
        let listener = own(SocketAddr::new(host, port), &mut inherited)?;
        port = address(&listener)?.port();
        tcp.push(listener);
    }
    for host in addresses.welcome {
        if tcp.iter().any(|listener| address(listener).is_ok_and(|own| covers(own.ip(), host))) {
            continue;
        }
        match own(SocketAddr::new(host, port), &mut inherited) {
            Ok(listener) => tcp.push(listener),
            Err(error @ BindError::InUse { .. }) => tracing::warn!(%error, "one address less"),
            // Some hosts have no IPv6; clients that try ::1 first fall back.
            Err(error) => tracing::debug!(%error, "one address less"),
        }
    }
    let tailnet = match addresses.tailnet {
        Some(found) => Some(bind_tailnet(&found, port, &mut inherited)?),
        None => None,
    };
    let control = bind_control(control, &mut inherited)?;
    inherited.close_rest();
    Ok(Listeners { tcp, tailnet, control, port })
}

/// An address that cannot be bound yet is tried again; one that another program
/// has is not.
fn bind_tailnet(
    found: &[IpAddr],
    port: u16,
    inherited: &mut Inherited,
) -> Result<Vec<TcpListener>, BindError> {
    let mut bound = Vec::new();
    for ip in found {
        match own(SocketAddr::new(*ip, port), inherited) {
            Ok(listener) => bound.push(listener),
            Err(error @ BindError::InUse { .. }) => return Err(error),
            Err(error) => tracing::debug!(%error, "tried again later"),
        }
    }
    Ok(bound)
}

/// Returns whether who connects to `host` reaches a socket bound to `bound`.
fn covers(bound: IpAddr, host: IpAddr) -> bool {
    // A socket unit's [::] takes IPv4 too.
    bound == host || (bound.is_unspecified() && (bound.is_ipv6() || host.is_ipv4()))
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
    // One probe is under way at a time; a full queue means a stuck loop.
    let mut probed = || {
        let (probe, probed) = mpsc::channel(1);
        probes.push(probe);
        probed
    };
    for listener in listeners.tcp {
        if let Ok(address) = listener.local_addr() {
            shared.gateway.listening.opened(address);
        }
        let stop = shared.closing.clone();
        shared.tasks.spawn(accept_tcp(listener, shared.clone(), stop, probed()));
    }
    if let Some(bound) = listeners.tailnet {
        let tailnet = Tailnet::of(bound, listeners.port, shared.clone());
        shared.tasks.spawn(tailnet.run(probed()));
    }
    shared.tasks.spawn(accept_control(listeners.control, shared.clone(), probed()));
    probes
}

pub(super) fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = (|| {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        // A restarted daemon must not wait for the old connections to fade.
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            // IPv4 has a socket of its own.
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        socket.bind(address)?;
        socket.listen(4096)
    })();
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => {
            BindError::InUse { address, holder: holder::of(address.port()) }
        }
        io::ErrorKind::AddrNotAvailable => {
            let own: Vec<_> = interfaces().iter().map(ToString::to_string).collect();
            BindError::NotHere { address, own: own.join(", ") }
        }
        _ => BindError::Failed { address: address.to_string(), source },
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

/// Accepts peers until `stop`.
pub(super) async fn accept_tcp(
    listener: TcpListener,
    shared: Shared,
    stop: CancellationToken,
    mut probes: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut back_off = BackOff::default();
    loop {
        tokio::select! {
            // First: whoever still waits in the queue is the next process's.
            biased;
            () = stop.cancelled() => return,
            Some(answer) = probes.recv() => drop(answer.send(())),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    back_off = BackOff::default();
                    admit_tcp(stream, peer, &shared);
                }
                Err(error) => back_off.wait(&error, &shared.admission).await,
            },
        }
    }
}

fn admit_tcp(stream: TcpStream, peer: SocketAddr, shared: &Shared) {
    // A wildcard socket is reached through a concrete address.
    let Ok(own) = stream.local_addr() else { return };

    // A proxy's clients are counted by their own addresses, which only their requests tell.
    let source = match Source::of(peer.ip()) {
        Source::Address(ip) if shared.gateway.config.get().gateway.trusts_proxy(peer.ip()) => {
            Source::Proxy(ip)
        }
        source => source,
    };
    let Some(permit) = shared.admission.admit(source) else {
        shared.handshakes.crowded.one();
        tracing::warn!(%peer, "refused: too many peers are logging in");
        return;
    };

    // Frames are small and answers are waited for.
    let _ = stream.set_nodelay(true);
    notice_dead_peers(&stream);
    let dropped = permit.dropped();
    let shared = shared.clone();
    shared.tasks.clone().spawn(async move {
        tokio::select! {
            // After the upgrade the handshake looks after it: the peer is told why.
            () = dropped.cancelled() => shared.dropped.count(Reason::Displaced),
            () = greeting::serve(stream, peer, own, shared.clone(), permit) => {}
        }
    });
}

/// Has the system notice a host that is gone, also where nothing is written to
/// it: pings do the same for clients, and this for peers that are none yet and
/// for bytes that nobody acknowledges. Where an option is missing, pings remain.
fn notice_dead_peers(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    #[cfg(target_os = "linux")]
    {
        let _ = setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_IDLE_SECONDS);
        let _ = setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_INTERVAL_SECONDS);
        let _ = setsockopt(stream, sockopt::TcpKeepCount, &KEEP_ALIVE_PROBES);
        let _ = setsockopt(stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS);
    }
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
                Err(error) => back_off.wait(&error, &shared.admission).await,
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
    let Some(permit) = shared.admission.admit(Source::Control) else {
        return shared.handshakes.crowded.one();
    };
    let dropped = permit.dropped();
    let shared = shared.clone();
    shared.tasks.clone().spawn(async move {
        tokio::select! {
            () = dropped.cancelled() => shared.dropped.count(Reason::Displaced),
            () = http::serve(stream, Listener::Control, shared.clone(), permit) => {}
        }
    });
}

/// How long to leave accepting alone after it failed, most often because there
/// are no file descriptors left.
#[derive(Debug, Default)]
struct BackOff(u32);

impl BackOff {
    async fn wait(&mut self, error: &io::Error, admission: &Admission) {
        tracing::warn!(%error, "accept failed");
        // Sockets that say nothing must not keep the control socket from answering.
        admission.drop_oldest();
        let wait = Duration::from_millis(10 << self.0.min(7));
        self.0 += 1;
        tokio::time::sleep(wait).await;
    }
}
