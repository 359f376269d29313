//! Where a gateway listens, and the rules that depend on it.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use anyhow::{Context, bail};
use tokio_tungstenite::tungstenite::http::Uri;

/// The address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A control socket.
    Unix(PathBuf),
    /// A WebSocket over TCP, perhaps with TLS.
    Web(WebAddress),
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
        }
    }

    /// Returns whether nothing leaves this host. Only literal addresses and the
    /// name `localhost`, which is never looked up, count.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Web(web) => web.is_loopback(),
        }
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

    fn is_loopback(&self) -> bool {
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
        let uri: Uri = text.parse().with_context(|| format!("{text:?} is not a gateway URL"))?;
        let tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => bail!("{text:?} is not a gateway URL: it begins with ws://, wss:// or unix:"),
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
        ] {
            assert!(!address(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn the_key_holds_scheme_host_and_port() {
        assert_eq!(address("wss://Example.com/x?y").key(), "wss://example.com:443");
        assert_eq!(address("ws://[::1]:9/").to_string(), "ws://[::1]:9");
        assert_eq!(address("unix:///run/a.sock"), Address::Unix("/run/a.sock".into()));
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
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
