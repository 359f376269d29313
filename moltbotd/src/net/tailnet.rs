//! Listens on this host's tailnet addresses for as long as it has them. A
//! tailnet often comes up after the daemon, and may go down and come back, with
//! the same address or with another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use self::hints::Hints;
use super::{
    Shared,
    addresses::{self, interfaces},
    listener::{BindError, accept_tcp, bind_tcp},
};
use crate::inherited;

/// How often to look at this host's addresses where the system gives no hints,
/// or one was missed.
const INTERVAL: Duration = Duration::from_secs(10);
/// How soon to try again where an address could not be bound, doubled up to
/// [`INTERVAL`]: a new one of IPv6 is checked by the system first, which takes a
/// second or two.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps one listener for each tailnet address of this host.
pub(super) struct Tailnet {
    port: u16,
    shared: Shared,
    open: BTreeMap<IpAddr, Open>,
    /// When to look again; [`INTERVAL`] while all is well.
    again: Duration,
    hints: Hints,
}

/// A running accept loop.
struct Open {
    stop: CancellationToken,
    probe: mpsc::Sender<oneshot::Sender<()>>,
}

impl Tailnet {
    /// Begins with what is bound already.
    pub(super) fn of(bound: Vec<TcpListener>, port: u16, shared: Shared) -> Self {
        let mut tailnet =
            Self { port, shared, open: BTreeMap::new(), again: INTERVAL, hints: Hints::new() };
        for listener in bound {
            if let Ok(address) = listener.local_addr() {
                tailnet.accept(address, listener);
            }
        }
        // What is missing is known before anybody can ask.
        tailnet.follow();
        tailnet
    }

    /// Follows this host's addresses until the daemon stops. A probe is
    /// answered once every accept loop has answered it.
    pub(super) async fn run(mut self, mut probes: mpsc::Receiver<oneshot::Sender<()>>) {
        let closing = self.shared.closing.clone();
        loop {
            let look = tokio::time::sleep(self.again);
            tokio::pin!(look);
            loop {
                tokio::select! {
                    biased;
                    () = closing.cancelled() => return,
                    Some(answer) = probes.recv() => self.pass(answer).await,
                    () = self.hints.next() => break,
                    () = &mut look => break,
                }
            }
            self.follow();
        }
    }

    /// Closes what is gone and opens what is new.
    fn follow(&mut self) {
        let own: BTreeSet<IpAddr> = addresses::tailnet(&interfaces()).into_iter().collect();
        let gone: Vec<IpAddr> = self.open.keys().filter(|ip| !own.contains(ip)).copied().collect();
        for ip in gone {
            self.close(ip);
        }
        let mut failed = None;
        for ip in &own {
            if self.open.contains_key(ip) {
                continue;
            }
            let address = SocketAddr::new(*ip, self.port);
            match bind_tcp(address) {
                Ok(listener) => {
                    tracing::info!(%address, "listening on the tailnet");
                    inherited::keep(&address.to_string(), &listener);
                    self.accept(address, listener);
                }
                Err(error) => failed = Some(error),
            }
        }
        self.tell(own.is_empty(), failed.as_ref());
        self.again = match failed {
            None => INTERVAL,
            Some(_) if self.again == INTERVAL => RETRY,
            Some(_) => (self.again * 2).min(INTERVAL - RETRY),
        };
    }

    /// Says in the log and in the status what is missing, once.
    fn tell(&self, absent: bool, failed: Option<&BindError>) {
        let why = match failed {
            Some(error) => Some(format!("not listening on the tailnet: {error}")),
            None if absent => Some(
                "gateway.bind is \"tailnet\", but this host has no tailnet address now: listening \
                 on loopback only until `tailscale up` has given it one"
                    .to_owned(),
            ),
            None => None,
        };
        if self.shared.gateway.listening.set_trouble(why.clone())
            && let Some(why) = why
        {
            tracing::warn!("{why}");
        }
    }

    fn accept(&mut self, address: SocketAddr, listener: TcpListener) {
        let stop = self.shared.closing.child_token();
        // One probe is under way at a time.
        let (probe, probed) = mpsc::channel(1);
        self.shared.gateway.listening.opened(address);
        self.shared.tasks.spawn(accept_tcp(listener, self.shared.clone(), stop.clone(), probed));
        self.open.insert(address.ip(), Open { stop, probe });
    }

    fn close(&mut self, ip: IpAddr) {
        let Some(open) = self.open.remove(&ip) else { return };
        let address = SocketAddr::new(ip, self.port);
        open.stop.cancel();
        inherited::forget(&address.to_string());
        self.shared.gateway.listening.closed(address);
        tracing::warn!(%address, "the tailnet address is gone");
    }

    async fn pass(&self, answer: oneshot::Sender<()>) {
        for open in self.open.values() {
            let (own, answered) = oneshot::channel();
            if open.probe.send(own).await.is_err() || answered.await.is_err() {
                return;
            }
        }
        // Who asked may have given up.
        let _ = answer.send(());
    }
}

/// The system's word that addresses have changed.
#[cfg(target_os = "linux")]
mod hints {
    use std::{io, os::fd::AsRawFd as _, os::unix::net::UnixDatagram as StdDatagram};

    use nix::sys::socket::{
        AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
    };
    use tokio::net::UnixDatagram;

    /// Groups of rtnetlink(7), as bits: links, IPv4 addresses, IPv6 addresses.
    const GROUPS: u32 = 0x1 | 0x10 | 0x100;

    pub(super) struct Hints(Option<UnixDatagram>);

    impl Hints {
        pub(super) fn new() -> Self {
            let opened = open();
            if let Err(error) = &opened {
                tracing::debug!(%error, "changes of addresses are noticed with a delay");
            }
            Self(opened.ok())
        }

        /// Waits for the next change; for ever where the system tells none.
        pub(super) async fn next(&self) {
            let Some(socket) = &self.0 else { return std::future::pending().await };
            // What has changed is looked up. A queue that ran over is a change as well.
            let mut ignored = [0; 4096];
            if socket.recv(&mut ignored).await.is_err() {
                tokio::time::sleep(super::RETRY).await;
            }
            while socket.try_recv(&mut ignored).is_ok() {}
        }
    }

    /// Of a netlink socket only whether something came is of interest, and that
    /// every type of datagram socket can tell.
    fn open() -> io::Result<UnixDatagram> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let route = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, route)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        UnixDatagram::from_std(StdDatagram::from(socket))
    }
}

#[cfg(not(target_os = "linux"))]
mod hints {
    pub(super) struct Hints;

    impl Hints {
        pub(super) fn new() -> Self {
            Self
        }

        pub(super) async fn next(&self) {
            std::future::pending().await
        }
    }
}
