//! Free TCP ports.

use std::net::{Ipv4Addr, TcpListener};

/// Returns a loopback port that nobody listened on a moment ago. The caller
/// must be ready to try another one.
#[must_use]
pub fn free() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}
