//! Where a request comes from, as far as that can be known for sure.
//!
//! Headers only ever take trust away: any trace of a proxy makes a request "not
//! local", and no header makes it local.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, StatusCode, header};

use crate::{auth::Ingress, config};

/// Headers that a proxy adds.
const FORWARDED: &[&str] = &[
    "forwarded",
    "via",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
];
const FORWARDED_PREFIXES: &[&str] = &["cf-", "tailscale-", "x-forwarded-"];

/// Where a connection was accepted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Listener {
    /// The control socket, whose peer is our own user.
    Control,
    /// A TCP socket.
    Tcp {
        /// The peer.
        peer: SocketAddr,
        /// Our side.
        own: SocketAddr,
    },
}

/// Why a request is refused before anything else is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) &'static str);

/// Establishes where a request comes from, and refuses one whose `Host` or
/// `Origin` has no business here.
pub(super) fn judge(
    listener: Listener,
    headers: &HeaderMap,
    gateway: &config::Gateway,
    port: u16,
) -> Result<Ingress, Refused> {
    let Listener::Tcp { peer, own } = listener else { return Ok(control()) };
    let host = text(headers, header::HOST.as_str());
    let (name, _) = split_host(host);
    if !host_known(name, own.ip(), gateway) {
        return Err(Refused(StatusCode::MISDIRECTED_REQUEST, "unknown host\n"));
    }
    let origins = headers.get_all(header::ORIGIN);
    let browser = origins.iter().next().is_some();
    if browser
        && !origins.iter().all(|o| o.to_str().is_ok_and(|o| origin_allowed(o, host, port, gateway)))
    {
        return Err(Refused(StatusCode::FORBIDDEN, "origin not allowed\n"));
    }
    let peer_ip = peer.ip().to_canonical();
    let trusted = gateway.trusted_proxies.iter().any(|proxy| proxy.parse() == Ok(peer_ip));
    let forwarded = is_forwarded(headers);
    let ip = if trusted { client_ip(headers).unwrap_or(peer_ip) } else { peer_ip };
    let unsure = forwarded && !trusted;
    if unsure {
        tracing::debug!(%peer, "forwarding headers from an address that is no trusted proxy");
    }
    Ok(Ingress {
        control: false,
        ip,
        local: peer_ip.is_loopback() && !forwarded && is_loopback_name(name),
        browser,
        reported_ip: (!unsure && !ip.is_loopback()).then(|| ip.to_string()),
    })
}

/// Returns whether a browser page of this origin may connect: our own, as the
/// `Host` header names it, and those of `gateway.controlUi.allowedOrigins`.
#[must_use]
pub fn origin_allowed(origin: &str, host: &str, port: u16, gateway: &config::Gateway) -> bool {
    if gateway.control_ui.allowed_origins.iter().any(|allowed| allowed == origin) {
        return true;
    }
    let (name, host_port) = split_host(host);
    // A page of another program on this host has another port.
    is_loopback_name(name)
        && host_port == Some(port)
        && (origin == format!("http://{host}") || origin == format!("https://{host}"))
}

fn control() -> Ingress {
    Ingress {
        control: true,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        local: true,
        browser: false,
        reported_ip: None,
    }
}

/// A name that a page can make resolve to us by DNS is not known; an address
/// cannot be made to.
fn host_known(name: &str, own: IpAddr, gateway: &config::Gateway) -> bool {
    let name = name.to_ascii_lowercase();
    let configured =
        gateway.control_ui.allowed_origins.iter().any(|origin| {
            origin.split_once("://").is_some_and(|(_, rest)| split_host(rest).0 == name)
        });
    let literal = name.trim_matches(['[', ']']).parse::<IpAddr>();
    let own_name = crate::presence::host_name().to_ascii_lowercase();
    is_loopback_name(&name)
        || literal.is_ok_and(|ip| ip == own.to_canonical() || !ip.is_unspecified())
        || configured
        || (!own_name.is_empty() && (name == own_name || name == format!("{own_name}.local")))
        || name.ends_with(".ts.net")
}

fn is_loopback_name(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        FORWARDED.contains(&name) || FORWARDED_PREFIXES.iter().any(|p| name.starts_with(p))
    })
}

fn client_ip(headers: &HeaderMap) -> Option<IpAddr> {
    let first = text(headers, "x-forwarded-for").split(',').next().unwrap_or_default().trim();
    let text = if first.is_empty() { text(headers, "x-real-ip") } else { first };
    let ip: Option<IpAddr> = text.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    ip.or_else(with_port).map(|ip| ip.to_canonical())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Splits `host:port`, `[v6]:port` and either without port.
fn split_host(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && !port.is_empty() => (name, port.parse().ok()),
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 18789;

    fn judge_from(peer: &str, headers: &[(&str, &str)]) -> Result<Ingress, Refused> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: header::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        let listener = Listener::Tcp {
            peer: peer.parse().unwrap(),
            own: format!("127.0.0.1:{PORT}").parse().unwrap(),
        };
        judge(listener, &map, &config::Gateway::default(), PORT)
    }

    const HOST: (&str, &str) = ("host", "127.0.0.1:18789");

    #[test]
    fn a_direct_loopback_peer_is_local() {
        let ingress = judge_from("127.0.0.1:5000", &[HOST]).unwrap();
        assert!(ingress.local && !ingress.browser);
        assert_eq!(ingress.reported_ip, None);
    }

    #[test]
    fn any_trace_of_a_proxy_makes_it_not_local() {
        for name in
            ["forwarded", "via", "x-forwarded-for", "x-real-ip", "cf-ray", "tailscale-user-login"]
        {
            let ingress = judge_from("127.0.0.1:5000", &[HOST, (name, "203.0.113.9")]).unwrap();
            assert!(!ingress.local, "{name}");
            assert_eq!(ingress.reported_ip, None, "{name}");
        }
    }

    #[test]
    fn foreign_names_of_this_host_are_refused() {
        for host in ["evil.example", "127.0.0.1.evil.example:18789", "", "localhost.:18789"] {
            let refused = judge_from("127.0.0.1:5000", &[("host", host)]).unwrap_err();
            assert_eq!(refused.0, StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
    }

    #[test]
    fn cve_2026_25253_cve_2026_32025_only_the_own_origin_may_connect() {
        let own = judge_from("127.0.0.1:5000", &[HOST, ("origin", "http://127.0.0.1:18789")]);
        assert!(own.unwrap().browser);
        for origin in [
            "null",
            "http://127.0.0.1:8080",
            "http://localhost:18789",
            "http://127.0.0.1.evil:18789",
            "http://127.0.0.1:18789.",
            "HTTP://127.0.0.1:18789",
            "http://evil.example",
            "file://",
        ] {
            let refused = judge_from("127.0.0.1:5000", &[HOST, ("origin", origin)]).unwrap_err();
            assert_eq!(refused.0, StatusCode::FORBIDDEN, "{origin}");
        }
    }

    #[test]
    fn a_rebound_name_is_no_own_origin() {
        let headers = [("host", "box.ts.net:18789"), ("origin", "http://box.ts.net:18789")];
        assert!(judge_from("127.0.0.1:5000", &headers).is_err());
    }

    #[test]
    fn a_trusted_proxy_names_its_client() {
        let mut gateway = config::Gateway::default();
        gateway.trusted_proxies.push("127.0.0.1".into());
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1".parse().unwrap());
        headers.insert("x-forwarded-for", "203.0.113.9, 10.0.0.1".parse().unwrap());
        let listener = Listener::Tcp {
            peer: "127.0.0.1:1".parse().unwrap(),
            own: "127.0.0.1:18789".parse().unwrap(),
        };
        let ingress = judge(listener, &headers, &gateway, PORT).unwrap();
        assert_eq!(ingress.reported_ip.as_deref(), Some("203.0.113.9"));
        assert!(!ingress.local);
    }
}
