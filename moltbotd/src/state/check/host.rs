//! What the host has to do with it: locks, the port, the disk, the clock.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use nix::sys::statvfs::{FsFlags, statvfs};
use serde::Deserialize;

use super::{Findings, Severity, files::shown};
use crate::{lock, paths::Paths};

/// Below this the database soon cannot grow.
const LOW_BYTES: u64 = 512 << 20;
/// Below this it cannot.
const NO_BYTES: u64 = 32 << 20;
const LOW_FILES: u64 = 1000;
/// How far ahead the last change may be of the clock.
const AHEAD: Duration = Duration::from_secs(300);

/// The process that holds the locks of the state.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) pid: u32,
    port: Option<u16>,
}

/// What a lock's file says.
#[derive(Debug, Deserialize)]
struct Note {
    pid: u32,
    #[serde(default)]
    address: Option<String>,
}

/// Finds out who holds the lock of the state. The file alone proves nothing:
/// the kernel's list of locks does.
pub(super) fn holder(paths: &Paths, findings: &mut Findings) -> Option<Holder> {
    let file = paths.state_dir.join("lock");
    let pid = lock::holder(&file)?;
    if process_state(pid).is_some_and(|state| state == 'T') {
        let what = format!("process {pid} holds it and is stopped, so nobody is served");
        let command = Some(format!("kill -CONT {pid}"));
        findings.add("lock", Severity::Error, file.display(), what, command);
    }
    let note: Option<Note> =
        fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str(&text).ok());
    let Some(note) = note.filter(|note| note.pid == pid) else {
        let what = format!("process {pid} holds it, and the file does not say so");
        let command = Some(format!("ps -fp {pid}"));
        findings.add("lock", Severity::Warning, file.display(), what, command);
        return Some(Holder { pid, port: None });
    };
    let port = note.address.and_then(|address| address.rsplit(':').next()?.parse().ok());
    Some(Holder { pid, port })
}

fn process_state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Names a stranger at the port that the gateway is to listen on.
pub(super) fn port(port: u16, holder: Option<&Holder>, findings: &mut Findings) {
    if holder.is_some_and(|holder| holder.port.is_some()) {
        // It listens where it should or was told another port.
        return;
    }
    let Some(inode) = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listener(&fs::read_to_string(table).ok()?, port))
    else {
        return;
    };
    let owner = owner_of(inode);
    // The service manager may hold it for the gateway.
    if owner.as_ref().is_some_and(|(_, name)| name == "systemd") {
        return;
    }
    let (what, command) = match owner {
        Some((pid, name)) => {
            (format!("{name} (process {pid}) listens there"), format!("kill {pid}"))
        }
        None => {
            ("another program listens there".to_owned(), format!("sudo ss -ltnp 'sport = :{port}'"))
        }
    };
    let what = format!("{what}, so a gateway cannot; stop it or set another gateway.port");
    findings.add("port", Severity::Error, port, what, Some(command));
}

/// Returns the inode of the socket that listens on a port.
fn listener(table: &str, port: u16) -> Option<u64> {
    const LISTENING: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let at = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (at == port && *state == LISTENING).then(|| inode.parse().ok()).flatten()
    })
}

/// Returns the process that has a socket, as far as this user may see it.
fn owner_of(inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let has = descriptors
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*wanted));
        let name = || fs::read_to_string(entry.path().join("comm")).ok();
        has.then(|| Some((pid, name()?.trim().to_owned()))).flatten()
    })
}

/// Looks at the room for the state.
#[allow(clippy::useless_conversion, reason = "macOS counts blocks and files in 32 bits")]
pub(super) fn disk(folder: &Path, findings: &mut Findings) {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let Ok(disk) = statvfs(there) else { return };
    let place = folder.display();
    let room = Some(format!("df -h {}", shown(there)));
    if disk.flags().contains(FsFlags::ST_RDONLY) {
        let command = Some(format!("findmnt -T {}", shown(there)));
        let what = "the file system is read-only, so nothing can be remembered";
        return findings.add("disk", Severity::Error, place, what, command);
    }
    let free = u64::from(disk.blocks_available()) * disk.fragment_size();
    match free {
        0..NO_BYTES => findings.add("disk", Severity::Error, place, "the disk is full", room),
        NO_BYTES..LOW_BYTES => {
            let what = format!("only {} are free", super::super::report::size(free));
            findings.add("disk", Severity::Warning, place, what, room);
        }
        _ if disk.files() > 0 && u64::from(disk.files_available()) < LOW_FILES => {
            let what = "hardly any file can be made";
            let command = Some(format!("df -i {}", shown(there)));
            findings.add("disk", Severity::Warning, place, what, command);
        }
        _ => {}
    }
}

/// Looks whether the clock can be trusted.
pub(super) fn clock(database: &Path, findings: &mut Findings) {
    let changed = fs::metadata(database).and_then(|file| file.modified()).ok();
    if let Some(ahead) = changed.and_then(|at| at.duration_since(SystemTime::now()).ok())
        && ahead > AHEAD
    {
        let what = format!(
            "the state was last changed {} min from now: the clock was set back",
            ahead.as_secs() / 60
        );
        let command = Some("timedatectl status".to_owned());
        findings.add("clock", Severity::Warning, database.display(), what, command);
    }
    let service = Path::new("/run/systemd/timesync");
    if service.is_dir() && !service.join("synchronized").exists() {
        let what = "the clock has not been set by a time server since boot";
        let command = Some("sudo timedatectl set-ntp true".to_owned());
        findings.add("clock", Severity::Warning, "clock", what, command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "  sl  local_address rem_address   st tx rx tr tm retrnsmt   uid  timeout inode\n\
             0: 0100007F:4965 00000000:0000 0A 0:0 00:0 0 1000 0 99 1 0 100 0 0 10 0\n\
             1: 0100007F:4966 00000000:0000 01 0:0 00:0 0 1000 0 98 1 0 100 0 0 10 0\n";
        assert_eq!(listener(table, 18789), Some(99));
        assert_eq!(listener(table, 18790), None);
    }
}
