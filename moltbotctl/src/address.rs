//! Where a gateway listens, and the rules that depend on it.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use anyhow::{Context, bail};
use tokio_tungstenite::tungstenite::http::Uri;

use crate::{
    ssh::{Destination, Login},
    target::DEFAULT_PORT,
};

/// The address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A control socket.
    Unix(PathBuf),
    /// A WebSocket over TCP, perhaps with TLS.
    Web(WebAddress),
    /// A loopback port of another host, reached through ssh.
    Ssh(SshAddress),
}

/// A gateway behind an ssh server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshAddress {
    /// How to get there.
    pub login: Login,
    /// What the far host itself would connect to.
    pub gateway: WebAddress,
}

/// The parts of a `ws://` or `wss://` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebAddress {
    /// Whether TLS is used.
    pub tls: bool,
    /// Lower-case name, or an address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query, at least `/`.
    pub path: String,
}

impl Address {
    /// Returns the gateway's identity for stored credentials: scheme, host and
    /// port.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix:{}", path.display()),
            Self::Web(web) => web.key(),
            Self::Ssh(ssh) => ssh.key(),
        }
    }

    /// Returns where the WebSocket goes, seen from the host that it is opened on.
    #[must_use]
    pub const fn web(&self) -> Option<&WebAddress> {
        match self {
            Self::Unix(_) => None,
            Self::Web(web) => Some(web),
            Self::Ssh(ssh) => Some(&ssh.gateway),
        }
    }

    /// Returns whether it is a plain WebSocket to an address of a tailnet, which
    /// encrypts everything itself. A name does not count: a resolver must not
    /// decide what is safe.
    #[must_use]
    pub fn is_plain_tailnet(&self) -> bool {
        let Self::Web(web) = self else { return false };
        !web.tls
            && match web.ip().map(|ip| ip.to_canonical()) {
                Some(IpAddr::V4(ip)) => ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
                Some(IpAddr::V6(ip)) => ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
                None => false,
            }
    }

    /// Returns whether nothing leaves this host. Only literal addresses and the
    /// name `localhost`, which is never looked up, count.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Web(web) => web.is_loopback(),
            Self::Ssh(_) => false,
        }
    }
}

impl SshAddress {
    /// Two ways to log in to one account are one gateway: the key file does not
    /// count.
    fn key(&self) -> String {
        let scheme = if self.gateway.tls { "ssh+wss" } else { "ssh" };
        format!("{scheme}://{}/{}", self.login.destination, self.gateway.port)
    }

    /// Reads what follows `ssh://`: a target, and perhaps the gateway's port.
    fn parse(rest: &str, tls: bool) -> anyhow::Result<Self> {
        let (destination, port) = rest.split_once('/').unwrap_or((rest, ""));
        let destination: Destination = destination.parse()?;
        let port = match port {
            "" => DEFAULT_PORT,
            port => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .with_context(|| format!("{port:?} is not a port of a gateway"))?,
        };
        let login = Login { destination, identity: None };
        Ok(Self { login, gateway: WebAddress::loopback(port, tls) })
    }
}

impl WebAddress {
    /// Returns the address of a gateway on this host.
    #[must_use]
    pub fn loopback(port: u16, tls: bool) -> Self {
        Self { tls, host: "127.0.0.1".into(), port, path: "/".into() }
    }

    /// Returns scheme, host and port.
    #[must_use]
    pub fn key(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}:{}", self.bracketed(), self.port)
    }

    /// Returns whether nothing leaves this host.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Returns the address when the host is not a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    fn bracketed(&self) -> String {
        match self.ip() {
            Some(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => self.host.clone(),
        }
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        for (scheme, tls) in [("ssh://", false), ("ssh+wss://", true)] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return SshAddress::parse(rest, tls).map(Self::Ssh);
            }
        }
        let uri: Uri = text.parse().with_context(|| format!("{text:?} is not a gateway URL"))?;
        let tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => bail!(
                "{text:?} is not a gateway URL: it begins with ws://, wss://, ssh:// or unix:"
            ),
        };
        let authority = uri.authority().with_context(|| format!("{text:?} names no host"))?;
        if authority.as_str().contains('@') {
            bail!("the gateway URL holds a user name: pass --token or --password instead");
        }
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str().ends_with(authority.host()) => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => bail!("{text:?} has no valid port"),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self::Web(WebAddress { tls, host, port, path: path.into() }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Ssh(ssh) => f.write_str(&ssh.key()),
            Self::Web(web) if web.path == "/" => f.write_str(&web.key()),
            Self::Web(web) => write!(f, "{}{}", web.key(), web.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn only_literal_loopback_addresses_and_localhost_are_local() {
        for text in [
            "ws://127.0.0.1:1",
            "ws://127.9.9.9:1",
            "ws://[::1]:1",
            "ws://localhost:1",
            "ws://[::ffff:127.0.0.1]:1",
            "unix:/run/x",
        ] {
            assert!(address(text).is_loopback(), "{text}");
        }
        for text in [
            "ws://127.evil.com:1",
            "ws://localhost.evil.com:1",
            "ws://0.0.0.0:1",
            "ws://10.0.0.1:1",
            "wss://example.com",
            "ws://2130706433:1",
            "ws://127.1:1",
            "ssh://127.0.0.1",
        ] {
            assert!(!address(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn only_literal_addresses_of_a_tailnet_are_in_it() {
        for text in ["ws://100.64.0.1:1", "ws://100.127.255.255:1", "ws://[fd7a:115c:a1e0::1]:1"] {
            assert!(address(text).is_plain_tailnet(), "{text}");
        }
        for text in [
            "wss://100.64.0.1:1",
            "ws://100.128.0.1:1",
            "ws://100.63.0.1:1",
            "ws://[fd7a:115c:a1e1::1]:1",
            "ws://box.tail.ts.net:1",
        ] {
            assert!(!address(text).is_plain_tailnet(), "{text}");
        }
    }

    #[test]
    fn the_key_holds_scheme_host_and_port() {
        assert_eq!(address("wss://Example.com/x?y").key(), "wss://example.com:443");
        assert_eq!(address("ws://[::1]:9/").to_string(), "ws://[::1]:9");
        assert_eq!(address("unix:///run/a.sock"), Address::Unix("/run/a.sock".into()));
    }

    #[test]
    fn a_gateway_behind_ssh_has_the_servers_and_its_own_port() {
        let Address::Ssh(ssh) = address("ssh://me@far.example:2222/19001") else { panic!() };
        assert_eq!(ssh.login.destination.to_string(), "me@far.example:2222");
        assert_eq!(ssh.gateway.key(), "ws://127.0.0.1:19001");
        assert_eq!(address("ssh://far").key(), "ssh://far/18789");
        assert_eq!(address("ssh+wss://far/1").to_string(), "ssh+wss://far/1");
    }

    #[test]
    fn what_is_no_gateway_url_is_refused() {
        for text in [
            "",
            "example.com",
            "ftp://x",
            "ws://",
            "ws://u:p@host:1",
            "ws://host:99999",
            "ws://host:",
            "ssh://-oProxyCommand=id",
            "ssh://host/0",
            "ssh://host/x",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
