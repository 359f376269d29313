//! Who listens on a port, as far as the system tells its users.

/// Returns the program that listens on a TCP port of this host.
#[cfg(target_os = "linux")]
pub(super) fn of(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    let holds = |process: &std::fs::DirEntry| {
        // `self` is there too, and names nobody.
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            return false;
        }
        // Other users' processes do not show theirs.
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { return false };
        files.flatten().any(|file| {
            std::fs::read_link(file.path())
                .is_ok_and(|target| inodes.iter().any(|inode| target.as_os_str() == &**inode))
        })
    };
    // Those it started may have the socket from it; the first is the one to stop.
    let processes = std::fs::read_dir("/proc").ok()?.flatten().filter(holds);
    let process = processes.min_by_key(|process| started(&process.path()).unwrap_or(u64::MAX))?;
    let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
    Some(format!("{:?}, pid {},", name.trim(), process.file_name().display()))
}

/// Returns when a process started, in clock ticks since the system did.
#[cfg(target_os = "linux")]
fn started(process: &std::path::Path) -> Option<u64> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(19)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn of(_port: u16) -> Option<String> {
    None
}

/// Returns the sockets of a table that listen on a port, as links to them read.
#[cfg(target_os = "linux")]
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let (local, state) = (columns.nth(1)?, columns.nth(1)?);
            let inode = columns.nth(5)?;
            (local.ends_with(&port) && state == LISTEN).then(|| format!("socket:[{inode}]"))
        })
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_listener_of_ours_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = super::of(port).unwrap();
        assert!(holder.ends_with(&format!(", pid {},", std::process::id())), "{holder}");
    }
}
