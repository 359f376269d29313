//! The system's OpenSSH client as a way to a gateway: what people have in
//! `~/.ssh/config`, agents, known hosts, jump hosts and hardware keys work.
//!
//! Nothing here asks questions, accepts host keys or stores anything.

mod destination;
mod failure;
mod sharing;
mod stream;

use std::{ffi::OsString, path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

pub use destination::Destination;
pub use failure::{Failure, Kind};
pub(crate) use stream::Said;
pub use stream::Stream;

/// The program, found through `PATH`.
const PROGRAM: &str = "ssh";
/// How often ssh asks a silent server whether it is there, in seconds; after
/// three questions without an answer it gives up.
const ALIVE_INTERVAL_S: u32 = 15;
/// Least time for ssh to connect, in seconds: it knows no fractions.
const SHORTEST_CONNECT_S: u64 = 1;

/// Which server, and with which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Who and where.
    pub destination: Destination,
    /// Private key file; ssh's own choice when absent.
    pub identity: Option<std::path::PathBuf>,
}

/// Returns an ssh that asks no questions. What it is to do comes next, then
/// [`to`] ends the command line.
///
/// ssh gives up connecting a little before the caller does, because its own
/// words say more than ours.
pub(crate) fn command(login: &Login, patience: Duration) -> Command {
    let connect = (patience * 3 / 4).as_secs().max(SHORTEST_CONNECT_S);
    let mut command = bare(login);
    // No terminal, no X11, no agent, no command: the far side gets a stream.
    command.args(["-T", "-x", "-a"]);
    for option in [
        "BatchMode=yes",
        "ExitOnForwardFailure=yes",
        "RemoteCommand=none",
        "PermitLocalCommand=no",
        // Why a forwarding failed is said at this level.
        "LogLevel=INFO",
        "ServerAliveCountMax=3",
        &format!("ServerAliveInterval={ALIVE_INTERVAL_S}"),
        &format!("ConnectTimeout={connect}"),
    ] {
        command.args(["-o", option]);
    }
    if let Some(identity) = &login.identity {
        command.arg("-i").arg(path_argument(identity));
    }
    command.stderr(Stdio::piped());
    command
}

/// Returns an ssh that knows the account and the server's port only.
fn bare(login: &Login) -> Command {
    let mut command = Command::new(PROGRAM);
    if let Some(port) = login.destination.port {
        command.args(["-p", &port.to_string()]);
    }
    if let Some(user) = &login.destination.user {
        command.args(["-l", user]);
    }
    // Ctrl-C is for us: it may mean an answer and not the connection.
    command.process_group(0).kill_on_drop(true);
    command
}

/// Ends the command line with the host, which is never taken for an option.
pub(crate) fn to(command: &mut Command, login: &Login) {
    command.arg("--").arg(&login.destination.host);
}

/// A path that begins with a hyphen or holds ssh's `%` is still a path.
fn path_argument(path: &Path) -> OsString {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    path.to_string_lossy().replace('%', "%%").into()
}
