//! `[user@]host[:port]`, checked before ssh or a shell of the user's ssh
//! configuration sees it.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use anyhow::{Context, bail};

/// Longest name of a host (RFC 1035) and, generously, of a user.
const LONGEST_NAME: usize = 255;

/// Who and where. Every part is free of what ssh, or a shell in somebody's
/// `ProxyCommand`, could take for more than a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The account; ssh's own choice when absent.
    pub user: Option<String>,
    /// A name, an alias of `~/.ssh/config` or an address without brackets.
    pub host: String,
    /// The server's port; ssh's own choice when absent.
    pub port: Option<u16>,
}

impl FromStr for Destination {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let wrong = || format!("{text:?} is not an ssh target: write [user@]host[:port]");
        let (user, place) = match text.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, text),
        };
        let (host, port) = split_port(place).with_context(wrong)?;
        if !is_host(host) || !user.is_none_or(is_user) {
            bail!(wrong());
        }
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => bail!(wrong()),
        };
        Ok(Self { user: user.map(ToOwned::to_owned), host: host.to_owned(), port })
    }
}

impl Destination {
    /// Returns the words of an ssh command line that lead there.
    #[must_use]
    pub fn words(&self) -> String {
        let port = self.port.map(|port| format!("-p {port} ")).unwrap_or_default();
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        format!("{port}{user}{}", self.host)
    }

    /// Returns the name under which ssh keeps the host's key.
    #[must_use]
    pub fn known_as(&self) -> String {
        match self.port {
            None | Some(22) => self.host.clone(),
            Some(port) => format!("[{}]:{port}", self.host),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// An address of several colons has a port only behind brackets.
fn split_port(place: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((host, None)),
            rest => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    match place.split_once(':') {
        Some((host, port)) if !port.contains(':') => Some((host, Some(port))),
        _ => Some((place, None)),
    }
}

fn is_host(host: &str) -> bool {
    if host.contains(':') {
        let (address, zone) = host.split_once('%').map_or((host, None), |(a, z)| (a, Some(z)));
        return address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(|zone| is_name(zone, b""));
    }
    is_name(host, b"_-.")
}

fn is_user(user: &str) -> bool {
    is_name(user, b"_-.+=~@")
}

fn is_name(name: &str, others: &[u8]) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_host_and_port_are_told_apart() {
        for (text, user, host, port) in [
            ("host", None, "host", None),
            ("me@host.example:2222", Some("me"), "host.example", Some(2222)),
            ("me@corp.example@jump", Some("me@corp.example"), "jump", None),
            ("[::1]:22", None, "::1", Some(22)),
            ("me@fe80::1%eth0", Some("me"), "fe80::1%eth0", None),
            (" alias_1 ", None, "alias_1", None),
        ] {
            let found: Destination = text.parse().unwrap();
            let expected = Destination { user: user.map(Into::into), host: host.into(), port };
            assert_eq!(found, expected, "{text}");
            assert_eq!(found.to_string().parse::<Destination>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_could_be_more_than_a_name_is_refused() {
        for text in [
            "",
            "-oProxyCommand=id",
            "me@-oProxyCommand=id",
            "-lroot@host",
            "host;id",
            "host$(id)",
            "`id`@host",
            "a b",
            "host\n",
            "host\u{0}x",
            "host|id",
            "me@",
            "@host",
            "host:",
            "host:0",
            "host:99999",
            "host:-1",
            "[::1",
            "[::1]x",
            "::zz",
            "%h",
            "host%n",
            "ssh://host",
            "host/path",
            "me'@host",
            "hóst",
        ] {
            let padded = text.trim() != text;
            assert!(padded || text.parse::<Destination>().is_err(), "{text:?}");
        }
    }
}
