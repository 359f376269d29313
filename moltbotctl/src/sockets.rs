//! Whose the sockets of this host are, as far as this user may know.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use serde_json::{Value, json};

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its address.
    pub address: SocketAddr,
    /// The process, where this user may see that.
    pub pid: Option<u32>,
    /// Its name.
    pub command: String,
}

impl Listener {
    /// Returns it for programs.
    #[must_use]
    pub fn report(&self) -> Value {
        json!({ "address": self.address.to_string(), "pid": self.pid, "command": self.command })
    }
}

/// Returns who listens on a TCP port. Only Linux tells; elsewhere nobody is
/// found.
#[must_use]
pub fn listeners(port: u16) -> Vec<Listener> {
    let found = entries().into_iter().filter(|entry| entry.listens && entry.local.port() == port);
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Vec::new();
    }
    let holders = holders();
    let of = |entry: Entry| {
        let pid = holders.get(&entry.inode).copied();
        let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        let command = name.unwrap_or_default().trim().to_owned();
        Listener { address: entry.local, pid, command }
    };
    found.into_iter().map(of).collect()
}

/// Returns the user whose program accepted a connection from this host, `near`
/// being this end of it. Only Linux tells, and only of its own network: nothing
/// is known of what a firewall leads elsewhere.
#[must_use]
pub fn answering_user(near: SocketAddr, far: SocketAddr) -> Option<u32> {
    let there = |entry: &Entry| (entry.local, entry.remote) == (far, near) && entry.inode != 0;
    entries().into_iter().find(there).map(|entry| entry.uid)
}

/// A line of the kernel's tables.
#[derive(Debug)]
struct Entry {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
    uid: u32,
    /// The socket's number; 0 while no program has it.
    inode: u64,
}

fn entries() -> Vec<Entry> {
    let texts = TABLES.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.flat_map(|text| text.lines().filter_map(entry).collect::<Vec<_>>()).collect()
}

fn entry(line: &str) -> Option<Entry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(Entry {
        local: socket_address(words.get(1)?)?,
        remote: socket_address(words.get(2)?)?,
        listens: *words.get(3)? == "0A",
        uid: words.get(7)?.parse().ok()?,
        inode: words.get(9)?.parse().ok()?,
    })
}

/// An IPv4 peer of a socket that serves both versions is one of IPv4.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    Some(SocketAddr::new(address(ip)?.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// Words of 32 bits, each in the order of this machine.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Returns the processes of sockets, of those whose files may be seen. Where
/// several have one, it is the first of them: the others have it from there.
fn holders() -> HashMap<u64, u32> {
    let mut holders = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut processes: Vec<_> =
        processes.filter_map(|entry| Some((started(&entry.path())?, entry))).collect();
    processes.sort_by_key(|(started, _)| *started);
    for (_, entry) in processes {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        for file in files.filter_map(|file| fs::read_link(file.path()).ok()) {
            let inode = file.to_str().and_then(|it| it.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
                holders.entry(inode).or_insert(pid);
            }
        }
    }
    holders
}

/// Returns when a process started, in clock ticks since the system did.
fn started(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found_with_its_name() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let found = listeners(address.port());
        if !cfg!(target_os = "linux") {
            return;
        }
        let own = found.iter().find(|it| it.address == address).unwrap();
        assert_eq!(own.pid, Some(std::process::id()));
        assert!(!own.command.is_empty());
    }

    #[test]
    fn the_user_at_the_other_end_is_known_once_a_program_has_it() {
        for at in ["127.0.0.1:0", "[::]:0"] {
            // A kernel may be without IPv6.
            let Ok(listener) = std::net::TcpListener::bind(at) else { continue };
            let port = listener.local_addr().unwrap().port();
            let near = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (local, peer) = (near.local_addr().unwrap(), near.peer_addr().unwrap());
            assert_eq!(answering_user(local, peer), None);
            let _accepted = listener.accept().unwrap();
            let own = cfg!(target_os = "linux").then(|| nix::unistd::Uid::effective().as_raw());
            assert_eq!(answering_user(local, peer), own);
        }
    }

    #[test]
    fn both_kinds_of_addresses_are_read() {
        assert_eq!(address("0100007F"), Some(Ipv4Addr::from(0x7f00_0001_u32.to_be_bytes()).into()));
        let one = address("00000000000000000000000001000000");
        assert_eq!(one, Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(address("1"), None);
    }
}
