//! Listening sockets that outlive the daemon.
//!
//! They come from two places. A `.socket` unit opens them before the first
//! start; they decide where the daemon listens. Without such a unit the daemon
//! binds, and gives the service manager a copy of each socket to keep
//! ([`keep`]): the next process gets it back, and whoever connects in between
//! waits in its queue instead of being refused.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::{fd::AsFd, unix::net::UnixListener},
    path::Path,
};

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use tracing::warn;

use crate::{environment::Environment, supervisor};

/// What the names of the sockets begin with that the manager keeps for us.
const KEPT: &str = "kept-";

/// Listening sockets that the service manager handed over.
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<Handed<TcpListener>>,
    unix: Vec<Handed<UnixListener>>,
}

/// A socket with the name the manager knows it by.
#[derive(Debug)]
struct Handed<S> {
    name: String,
    socket: S,
}

impl<S> Handed<S> {
    fn was_kept(&self) -> bool {
        self.name.starts_with(KEPT)
    }
}

impl Inherited {
    /// Takes the sockets that were handed to this process. Must run before
    /// other threads do, because it clears the variables that announce them.
    #[must_use]
    pub fn take(environment: &Environment) -> Self {
        let names = environment.get("LISTEN_FDNAMES").unwrap_or_default().to_owned();
        let mut names = names.split(':');
        let mut handed = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..handed.len() {
            let name = names.next().unwrap_or_default();
            if let Err(error) = inherited.add(&mut handed, index, name) {
                // Too early for the log.
                let_know(&format!("socket {index} ({name}) handed over is not used: {error}"));
            }
        }
        inherited
    }

    fn add(&mut self, handed: &mut ListenFd, index: usize, name: &str) -> io::Result<()> {
        // A wrong kind leaves the descriptor in place for the next question.
        if let Ok(Some(socket)) = handed.take_tcp_listener(index) {
            socket.set_nonblocking(true)?;
            accepts(&socket)?;
            self.tcp.push(Handed { name: name.to_owned(), socket });
        } else if let Some(socket) = handed.take_unix_listener(index)? {
            socket.set_nonblocking(true)?;
            accepts(&socket)?;
            self.unix.push(Handed { name: name.to_owned(), socket });
        }
        Ok(())
    }

    /// Returns whether a `.socket` unit listens on an address that others than
    /// this host can reach.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
        self.tcp
            .iter()
            .filter(|handed| !handed.was_kept())
            .any(|handed| !handed.socket.local_addr().is_ok_and(|address| loopback(address.ip())))
    }

    /// Takes the TCP sockets of a `.socket` unit.
    pub fn take_given(&mut self) -> Vec<TcpListener> {
        self.tcp.extract_if(.., |handed| !handed.was_kept()).map(|handed| handed.socket).collect()
    }

    /// Takes the TCP socket that an earlier process bound to this address.
    pub fn take_kept(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let found = self.tcp.iter().position(|handed| {
            handed.was_kept() && handed.socket.local_addr().is_ok_and(|bound| bound == address)
        })?;
        Some(self.tcp.swap_remove(found).socket)
    }

    /// Takes the Unix socket that listens at this path, if the path still is
    /// there.
    pub fn take_unix(&mut self, path: &Path) -> Option<UnixListener> {
        let found = self.unix.iter().position(|handed| {
            handed.socket.local_addr().is_ok_and(|bound| bound.as_pathname() == Some(path))
        })?;
        path.exists().then(|| self.unix.swap_remove(found).socket)
    }

    /// Gives up what is left: the manager is told to forget what it kept, or
    /// peers would connect there and wait for ever.
    pub fn close_rest(self) {
        let tcp = self.tcp.into_iter().map(|handed| handed.name);
        let unix = self.unix.into_iter().map(|handed| handed.name);
        for name in tcp.chain(unix) {
            if name.starts_with(KEPT) {
                supervisor::forget_socket(&name);
            } else {
                warn!(name, "a socket handed over is not used: it is not the control socket");
            }
        }
    }
}

/// What listens must be a listening socket: one accepted for us would make
/// the accept loop fail for ever.
fn accepts(socket: &impl AsFd) -> io::Result<()> {
    if getsockopt(socket, AcceptConn)? {
        return Ok(());
    }
    Err(io::Error::other("it does not listen; a socket unit needs Accept=no"))
}

/// Has the manager keep a copy of a listening socket for the next process.
/// `place` tells it apart from others: an address or a name.
pub fn keep(place: &str, socket: &impl AsFd) {
    supervisor::keep_socket(&kept_name(place), socket);
}

/// Has the manager close what [`keep`] gave it.
pub fn forget(place: &str) {
    supervisor::forget_socket(&kept_name(place));
}

fn kept_name(place: &str) -> String {
    // A colon would end the name.
    format!("{KEPT}{}", place.replace(':', "."))
}

fn let_know(text: &str) {
    use io::Write as _;
    // Nothing can be done about a closed standard error.
    let _ = writeln!(io::stderr(), "moltbotd: {text}");
}
