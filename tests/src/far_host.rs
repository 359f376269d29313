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

/// A host that reaches this one by local addresses and by some of the internet,
/// of either family; unplugged when dropped.
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
        for end in [1, 2] {
            let v6 = [host.local_v6(end), host.public_v6(end)];
            for address in [host.local(end), host.public(end)].into_iter().chain(v6) {
                // Nobody else has them, so the system need not look for duplicates.
                host.at(end, &["addr", "add", &network(address), "dev", "END", "nodad"]);
            }
            host.at(end, &["link", "set", "END", "up"]);
        }
        host
    }

    /// Gives both hosts addresses of a tailnet. That of IPv6 is usable once the
    /// system has looked for duplicates.
    pub fn join_tailnet(&self) {
        self.add_tailnet(&[]);
    }

    /// The same with addresses that are usable at once.
    pub fn join_tailnet_at_once(&self) {
        self.add_tailnet(&["nodad"]);
    }

    /// Takes this host's addresses of the tailnet away again.
    pub fn leave_tailnet(&self) {
        for address in self.tailnet(1) {
            self.at(1, &["addr", "del", &network(address), "dev", "END"]);
        }
    }

    fn add_tailnet(&self, flags: &[&str]) {
        for end in [1, 2] {
            for address in self.tailnet(end) {
                let network = network(address);
                let add = ["addr", "replace", &network, "dev", "END"];
                self.at(end, &[&add[..], flags].concat());
            }
        }
    }

    /// Returns this host's addresses of a tailnet.
    #[must_use]
    pub fn own_tailnet(&self) -> [IpAddr; 2] {
        self.tailnet(1)
    }

    /// Returns this host's IPv6 address of a local network.
    #[must_use]
    pub fn own_local_v6(&self) -> IpAddr {
        self.local_v6(1)
    }

    /// Returns this host's IPv6 address of the internet: one set aside for
    /// documentation.
    #[must_use]
    pub fn own_public_v6(&self) -> IpAddr {
        self.public_v6(1)
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

    fn local_v6(&self, end: u8) -> IpAddr {
        IpAddr::from([0xfd00, 0x213, 0, self.low(), 0, 0, 0, end.into()])
    }

    fn public_v6(&self, end: u8) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, 0, self.low(), 0, 0, 0, end.into()])
    }

    fn tailnet(&self, end: u8) -> [IpAddr; 2] {
        let [_, _, high, low] = (self.number * 4).to_be_bytes();
        let v6 = [0xfd7a, 0x115c, 0xa1e0, self.low(), 0, 0, 0, end.into()];
        [IpAddr::from([100, 100, high, low + end]), IpAddr::from(v6)]
    }

    fn low(&self) -> u16 {
        u16::try_from(self.number).expect("there are few hosts")
    }

    /// Runs `ip` on this host (end 1) or on the other one, with the name of the
    /// cable's end for `END`.
    fn at(&self, end: u8, arguments: &[&str]) {
        let (name, number) = (&self.name, self.number);
        let device = format!("mb{number}{}", if end == 2 { 'b' } else { 'a' });
        let inside: &[&str] = if end == 2 { &["-n", name] } else { &[] };
        let named = arguments.iter().map(|word| if *word == "END" { &device } else { *word });
        ip(&inside.iter().copied().chain(named).collect::<Vec<_>>());
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

/// Returns an address with the bits of its network, as `ip` takes it.
fn network(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv6() { 64 } else { 30 })
}

fn ip(arguments: &[&str]) {
    let output = StdCommand::new("ip").args(arguments).output();
    let output = output.expect("iproute2 is installed; see tests/run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?} (as root?): {said}");
}
