//! Who listens on a port, by the kernel's word.

use std::fs;

/// Returns whether a process listens on a loopback port; `None` where the
/// kernel does not say, such as on macOS.
pub(super) fn listens(pid: u32, port: u16) -> Option<bool> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inodes: Vec<String> = listeners(&table, port).collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = descriptors.flatten().filter_map(|it| fs::read_link(it.path()).ok());
    let mut sockets = links.filter_map(|link| Some(link.to_str()?.to_owned()));
    Some(sockets.any(|link| inodes.iter().any(|inode| link == format!("socket:[{inode}]"))))
}

/// Reads the lines of `/proc/net/tcp`: number, local address, remote address,
/// state (0A is listening), four more, uid, timeout, inode.
fn listeners(table: &str, port: u16) -> impl Iterator<Item = String> {
    let address = format!("0100007F:{port:04X}");
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter_map(move |fields| {
        let listens = *fields.get(1)? == address && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9).map(ToString::to_string)).flatten()
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_its_own_and_nobody_elses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listens(std::process::id(), port), Some(true));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(listens(other.id(), port), Some(false));
        other.kill().unwrap();
        other.wait().unwrap();
        drop(listener);
        assert_eq!(listens(std::process::id(), port), Some(false));
    }
}
