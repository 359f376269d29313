//! TCP ports: free ones, and the default one, which no test may use.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::OnceLock,
};

use moltbotctl::target::DEFAULT_PORT;

/// Occupies the default port for as long as this process runs.
///
/// A developer's own gateway listens there, and the tests must pass beside it. With this they pass
/// on a host without one only if they would pass on such a host, too. A client that strays to this
/// port is never answered.
pub(crate) fn occupy_default() {
    static DEFAULT: OnceLock<Option<TcpListener>> = OnceLock::new();

    // Failing to bind is as good: something else listens there then.
    DEFAULT.get_or_init(|| TcpListener::bind((Ipv4Addr::LOCALHOST, DEFAULT_PORT)).ok());
}

/// Returns as many different ones.
#[must_use]
pub fn several(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| listener()).collect();
    listeners.iter().map(port).collect()
}

/// Returns a loopback port that nobody listened on a moment ago. The caller
/// must be ready to try another one.
#[must_use]
pub fn free() -> u16 {
    port(&listener())
}

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports")
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("a bound socket has an address").port()
}
