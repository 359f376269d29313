//! Another host: a network namespace with a cable to this one. Needs root.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr, TcpStream as StdStream},
    process::Command as StdCommand,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sched::{CloneFlags, setns};
use tokio::{net::TcpStream, process::Command};

static HOSTS: AtomicU32 = AtomicU32::new(0);

/// A host that reaches this one by a local address and by one of the internet;
/// unplugged when dropped.
#[derive(Debug)]
pub struct FarHost {
    name: String,
    number: u32,
}

impl FarHost {
    /// Plugs a host in. The addresses exist between it and this one only.
    #[must_use]
    pub fn plug_in() -> Self {
        let number = (std::process::id() * 7 + HOSTS.fetch_add(1, Ordering::Relaxed)) % 16_000;
        let host = Self { name: format!("moltbot{number}"), number };
        let (name, cable, plug) = (&host.name, format!("mb{number}a"), format!("mb{number}b"));
        ip(&["netns", "add", name]);
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", &plug, "netns", name]);
        for (device, end) in [(&cable, 1), (&plug, 2)] {
            let inside: &[&str] = if end == 2 { &["-n", name] } else { &[] };
            for address in [host.local(end), host.public(end)] {
                ip(&[inside, &["addr", "add", &format!("{address}/30"), "dev", device]].concat());
            }
            ip(&[inside, &["link", "set", device, "up"]].concat());
        }
        host
    }

    /// Returns this host's address of a local network.
    #[must_use]
    pub fn own_local(&self) -> IpAddr {
        self.local(1)
    }

    /// Returns this host's address of the internet: one set aside for
    /// documentation.
    #[must_use]
    pub fn own_public(&self) -> IpAddr {
        self.public(1)
    }

    /// Returns the other host's address of the local network.
    #[must_use]
    pub fn far_local(&self) -> IpAddr {
        self.local(2)
    }

    /// Connects from there to here.
    pub async fn dial(&self, ip: IpAddr, port: u16) -> std::io::Result<TcpStream> {
        let path = format!("/run/netns/{}", self.name);
        let dialled = tokio::task::spawn_blocking(move || {
            // A thread of its own: it stays in the other host.
            std::thread::spawn(move || {
                setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
                let stream = StdStream::connect(SocketAddr::new(ip, port))?;
                stream.set_nonblocking(true)?;
                Ok::<_, std::io::Error>(stream)
            })
            .join()
            .expect("the thread does not panic")
        });
        TcpStream::from_std(dialled.await.expect("the thread is not cancelled")?)
    }

    /// Returns a command that runs there.
    #[must_use]
    pub fn command(&self, command: &Command) -> Command {
        let command = command.as_std();
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.name]).arg(command.get_program());
        there.args(command.get_args()).env_clear().kill_on_drop(true);
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                there.env(name, value);
            }
        }
        there
    }

    fn local(&self, end: u8) -> IpAddr {
        let [_, _, high, low] = (self.number * 4).to_be_bytes();
        IpAddr::from([10, 213, high, low + end])
    }

    fn public(&self, end: u8) -> IpAddr {
        let [.., low] = (self.number % 64 * 4).to_be_bytes();
        IpAddr::from([203, 0, 113, low + end])
    }
}

impl Drop for FarHost {
    fn drop(&mut self) {
        // The cable goes with it.
        let _ = StdCommand::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = StdCommand::new("ip").args(arguments).output();
    let output = output.expect("iproute2 is installed; see tests/run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?} (as root?): {said}");
}
