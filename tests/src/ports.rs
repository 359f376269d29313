//! Free TCP ports.

use std::net::{Ipv4Addr, TcpListener};

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
