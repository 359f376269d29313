//! Whose a socket on this host is.

use std::net::SocketAddr;

/// Returns the user that opened the socket at the other end of a loopback
/// connection.
#[cfg(target_os = "linux")]
pub(super) fn of_peer(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = std::fs::read_to_string(table).ok()?;
        imp::find(&text, peer, own)
    })
}

/// Other systems do not tell.
#[cfg(not(target_os = "linux"))]
pub(super) fn of_peer(_peer: SocketAddr, _own: SocketAddr) -> Option<u32> {
    None
}

#[cfg(target_os = "linux")]
mod imp {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    const ESTABLISHED: &str = "01";

    /// Reads the table as proc(5) describes it: local and remote address,
    /// state, four more columns, then the user.
    pub(super) fn find(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
        let (local, remote) = (canonical(local), canonical(remote));
        table.lines().skip(1).find_map(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let ends = (address(columns.next()?)?, address(columns.next()?)?);
            let connected = columns.next()? == ESTABLISHED;
            let user = columns.nth(3)?;
            (connected && ends == (local, remote)).then(|| user.parse().ok())?
        })
    }

    fn canonical(address: SocketAddr) -> SocketAddr {
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Reads `0100007F:4965`: words of the host's byte order, in hex.
    fn address(text: &str) -> Option<SocketAddr> {
        let (ip, port) = text.split_once(':')?;
        let words = ip.as_bytes().chunks_exact(8).map(|word| {
            let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
            Some(word.to_ne_bytes())
        });
        let bytes = words.collect::<Option<Vec<_>>>()?.concat();
        let ip = match bytes.len() {
            4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
            16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_own_socket_is_ones_own() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            // Some hosts the tests run on have no IPv6.
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let own = listener.local_addr().unwrap();
            let stream = TcpStream::connect(own).unwrap();
            let peer = stream.local_addr().unwrap();
            assert_eq!(of_peer(peer, own), Some(nix::unistd::geteuid().as_raw()));
            let other = SocketAddr::new(peer.ip(), peer.port() ^ 1);
            assert_eq!(of_peer(other, own), None);
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_table_is_read_by_connection_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:4965 00000000:0000 0A 00000000:00000000 00:00000000 00000000     7        0 1\n\
             1: 0100007F:A1B2 0100007F:4965 06 00000000:00000000 00:00000000 00000000     8        0 2\n\
             2: 0100007F:A1B2 0100007F:4965 01 00000000:00000000 02:00000000 00000000   995        0 3\n\
             3: 0100007F:4965 0100007F:A1B2 01 00000000:00000000 02:00000000 00000000     9        0 4\n";
        let (peer, own) = ("127.0.0.1:41394".parse().unwrap(), "127.0.0.1:18789".parse().unwrap());
        assert_eq!(imp::find(table, peer, own), Some(995));
        let mapped = "[::ffff:127.0.0.1]:41394".parse().unwrap();
        assert_eq!(imp::find(table, mapped, own), Some(995));
    }
}
