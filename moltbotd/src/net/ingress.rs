//! Where a request comes from, as far as that can be known for sure.
//!
//! Headers only ever take trust away: any trace of a proxy makes a request "not
//! local", and no header makes it local.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, StatusCode, Uri, header};

use crate::{auth::Ingress, config, tailscale::Claim};

/// How the header of a proxy begins: those of its own make.
const PROXY_PREFIXES: &[&str] = &[
    "ali-",
    "cf-",
    "eagleeye-",
    "fastly-",
    "fly-",
    "tailscale-",
    "true-",
    "x-amz-",
    "x-amzn-",
    "x-appengine-",
    "x-arr-",
    "x-azure-",
    "x-envoy-",
    "x-vercel-",
];

/// A part between hyphens that only a proxy's header has.
const PROXY_PARTS: &[&str] = &["via", "cdn", "edge", "hop", "hops"];

/// What the name of a proxy's header contains once hyphens and underscores are gone.
///
/// A list of the known headers is never complete, and a missing one would make everybody behind
/// that proxy a program of this host. So names are judged by shape: no client of ours sends one of
/// this shape, and one that does is asked about instead of being let in silently.
const PROXY_SHAPES: &[&str] = &[
    "forward",
    "proxy",
    "original",
    "upstream",
    "downstream",
    "balancer",
    "clientip",
    "clienthost",
    "clientaddr",
    "realip",
    "connectingip",
    "remoteip",
    "remoteaddr",
    "remotehost",
    "remoteuser",
    "sourceip",
    "originip",
    "peerip",
    "userip",
    "hostip",
    "externaladdress",
    "akamai",
    "cloudflare",
    "cloudfront",
    "incap",
    "sucuri",
];

/// Whoever comes through a program on this host that forwards for others and is
/// no trusted proxy. Nothing tells them apart, and none of them is this host.
pub(super) const SOMEBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Where a connection was accepted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Listener {
    /// The control socket, whose peer is our own user.
    Control,
    /// A TCP socket.
    Tcp {
        /// The peer.
        peer: SocketAddr,
        /// The address of ours that it reached.
        own: SocketAddr,
    },
}

/// Why a request is refused before anything else is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) &'static str);

/// Refuses a request that does not say clearly which page of which host it is for, before
/// anything is decided by it: what one program takes for a page, another takes for a different
/// one. The path is judged as it is after decoding it once, so nothing is left to decode.
pub(super) fn check_target(uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
    let bad = |text| Err(Refused(StatusCode::BAD_REQUEST, text));
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return bad("two Host headers\n");
    }

    let same = |authority: &str| {
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        host.eq_ignore_ascii_case(authority)
    };
    if uri.authority().is_some_and(|authority| !same(authority.as_str())) {
        return bad("the request's target names another host than its Host header\n");
    }

    match decoded(uri.path()) {
        Some(path) if is_plain(&path) => Ok(()),
        _ => bad("bad path\n"),
    }
}

/// Decodes `%41` and the like once.
fn decoded(path: &str) -> Option<Vec<u8>> {
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    Some(decoded)
}

fn is_plain(path: &[u8]) -> bool {
    let dots = |part: &[u8]| matches!(part, b"." | b"..");
    !path.iter().any(|byte| byte.is_ascii_control() || matches!(byte, b'%' | b'\\'))
        && !path.windows(2).any(|two| two == b"//")
        && !path.split(|byte| *byte == b'/').any(dots)
}

/// Establishes where a request comes from, and refuses one whose `Host` or
/// `Origin` has no business here.
pub(super) fn judge(
    listener: Listener,
    headers: &HeaderMap,
    gateway: &config::Gateway,
    (port, tailnet_origin): (u16, Option<&str>),
) -> Result<Ingress, Refused> {
    let Listener::Tcp { peer, own } = listener else { return control(headers) };
    let host = text(headers, header::HOST.as_str());
    let (name, _) = split_host(host);
    if !host_known(name, own.ip(), gateway) {
        return Err(Refused(StatusCode::MISDIRECTED_REQUEST, "unknown host\n"));
    }
    let origins = headers.get_all(header::ORIGIN);
    let browser = origins.iter().next().is_some();
    if browser
        && !origins.iter().all(|origin| {
            origin.to_str().is_ok_and(|origin| {
                origin_allowed(origin, host, port, gateway)
                    || is_tailnet_page(origin, host, tailnet_origin)
                    || is_own_address(origin, host, SocketAddr::new(own.ip(), port))
            })
        })
    {
        return Err(Refused(StatusCode::FORBIDDEN, "origin not allowed\n"));
    }
    let peer_ip = peer.ip().to_canonical();
    let trusted = gateway.trusts_proxy(peer_ip);
    let forwarded = is_forwarded(headers);
    let unsure = forwarded && !trusted;
    if unsure {
        tracing::debug!(%peer, "forwarding headers from an address that is no trusted proxy");
    }
    let ip = match () {
        () if trusted => client_ip(headers, gateway).unwrap_or(peer_ip),
        () if unsure && peer_ip.is_loopback() => SOMEBODY,
        () => peer_ip,
    };
    Ok(Ingress {
        control: false,
        ip,
        local: peer_ip.is_loopback() && !forwarded && is_loopback_name(name),
        browser,
        reported_ip: (!unsure && !ip.is_loopback()).then(|| ip.to_string()),
        tailscale: claim(headers, peer, own),
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

/// A page that was loaded from the very address it now connects to. A name
/// would prove nothing, because its owner decides where it leads.
fn is_own_address(origin: &str, host: &str, own: SocketAddr) -> bool {
    let ip = own.ip().to_canonical();
    host == SocketAddr::new(ip, own.port()).to_string()
        && (origin == format!("http://{host}") || origin == format!("https://{host}"))
}

/// A proxy that forwards to the control socket would make everybody its owner.
fn control(headers: &HeaderMap) -> Result<Ingress, Refused> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Refused(StatusCode::FORBIDDEN, "origin not allowed\n"));
    }
    if is_forwarded(headers) {
        let text = "nothing forwarded comes through the control socket\n";
        return Err(Refused(StatusCode::MISDIRECTED_REQUEST, text));
    }
    Ok(Ingress {
        control: true,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        local: true,
        browser: false,
        reported_ip: None,
        tailscale: None,
    })
}

/// A page that this host's name in the tailnet led to: Tailscale says that the
/// name is ours, and its certificate that nobody else can have it.
fn is_tailnet_page(origin: &str, host: &str, tailnet_origin: Option<&str>) -> bool {
    tailnet_origin.is_some_and(|own| origin == own && own.strip_prefix("https://") == Some(host))
}

/// Reads what Tailscale Serve says about a request. Whether it was Serve is for
/// others to find out.
fn claim(headers: &HeaderMap, peer: SocketAddr, own: SocketAddr) -> Option<Claim> {
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok().map(str::trim).filter(|it| !it.is_empty());
        value.filter(|_| values.next().is_none())
    };
    let login = one("tailscale-user-login")?;
    // Serve writes one of each; with more somebody else had a hand in it.
    one("x-forwarded-proto")?;
    one("x-forwarded-host")?;
    let forwarded = one("x-forwarded-for")?.parse::<IpAddr>().ok()?;
    let internet = headers.contains_key("tailscale-funnel-request");
    let here = peer.ip().to_canonical().is_loopback();
    (here && !internet).then(|| Claim { login: login.to_owned(), forwarded, peer, own })
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

pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| looks_like_a_proxys(name.as_str()))
}

/// Judges the name of a header, which is in lower case.
fn looks_like_a_proxys(name: &str) -> bool {
    let joined = name.replace(['-', '_'], "");
    PROXY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.split(['-', '_']).any(|part| PROXY_PARTS.contains(&part))
        || PROXY_SHAPES.iter().any(|shape| joined.contains(shape))
}

/// Returns the address that the nearest trusted proxy saw. What stands further
/// left was written by whoever it is about.
fn client_ip(headers: &HeaderMap, gateway: &config::Gateway) -> Option<IpAddr> {
    let lists = headers.get_all("x-forwarded-for").iter().filter_map(|list| list.to_str().ok());
    let hops: Vec<&str> = lists.flat_map(|list| list.split(',')).collect();
    let mut nearest = None;
    for hop in hops.iter().rev() {
        let ip = address_of(hop)?;
        nearest = Some(ip);
        if !gateway.trusts_proxy(ip) {
            break;
        }
    }
    nearest.or_else(|| address_of(text(headers, "x-real-ip")))
}

fn address_of(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = bare.parse().ok();
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
        judge(listener, &map, &config::Gateway::default(), (PORT, Some("https://own.tail1.ts.net")))
    }

    const HOST: (&str, &str) = ("host", "127.0.0.1:18789");

    #[test]
    fn a_direct_loopback_peer_is_local() {
        let ingress = judge_from("127.0.0.1:5000", &[HOST]).unwrap();
        assert!(ingress.local && !ingress.browser);
        assert_eq!(ingress.reported_ip, None);
    }

    #[test]
    fn the_control_socket_serves_neither_pages_nor_proxies() {
        let judge = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            judge(Listener::Control, &headers, &config::Gateway::default(), (PORT, None))
        };
        assert!(judge("host", "localhost").unwrap().control);
        let page = judge("origin", "http://localhost").unwrap_err();
        assert_eq!(page.0, StatusCode::FORBIDDEN);
        for name in ["x-forwarded-for", "forwarded", "via", "x-real-ip"] {
            assert_eq!(judge(name, "x").unwrap_err().0, StatusCode::MISDIRECTED_REQUEST, "{name}");
        }
    }

    #[test]
    fn any_trace_of_a_proxy_makes_it_not_local() {
        for name in [
            "forwarded",
            "via",
            "x-forwarded-for",
            "x-real-ip",
            "cf-ray",
            "tailscale-user-login",
            "x-client-ip",
            "true-client-ip",
            "x-cluster-client-ip",
            "x-original-forwarded-for",
            "fastly-client-ip",
            "x-envoy-external-address",
            "x_forwarded_for",
            "xforwardedfor",
            "x-original-host",
            "x-remote-addr",
            "cdn-loop",
            "x-proxy-id",
            "fly-client-ip",
            "x-amzn-trace-id",
            "x-appengine-user-ip",
            "x-azure-clientip",
            "wl-proxy-client-ip",
        ] {
            let ingress = judge_from("127.0.0.1:5000", &[HOST, (name, "203.0.113.9")]).unwrap();
            assert!(!ingress.local && !ingress.ip.is_loopback(), "{name}");
            assert_eq!(ingress.reported_ip, None, "{name}");
        }
    }

    #[test]
    fn what_clients_send_is_no_trace_of_a_proxy() {
        for name in [
            "accept",
            "accept-encoding",
            "accept-language",
            "authorization",
            "cache-control",
            "connection",
            "content-length",
            "content-type",
            "cookie",
            "dnt",
            "host",
            "origin",
            "pragma",
            "priority",
            "sec-ch-ua-platform",
            "sec-fetch-dest",
            "sec-fetch-mode",
            "sec-fetch-site",
            "sec-fetch-user",
            "sec-gpc",
            "sec-websocket-extensions",
            "sec-websocket-key",
            "sec-websocket-protocol",
            "sec-websocket-version",
            "upgrade",
            "upgrade-insecure-requests",
            "user-agent",
            "x-request-id",
            "x-requested-with",
            "traceparent",
            "referer",
        ] {
            assert!(!looks_like_a_proxys(name), "{name}");
        }
    }

    #[test]
    fn a_target_that_can_be_read_in_two_ways_is_refused() {
        let check = |target: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append("host", host.parse().unwrap());
            }
            check_target(&target.parse().unwrap(), &headers)
        };
        for target in ["/", "/some/path?x=//../%2e%2e", "/with%20space", "http://Localhost:1/x"] {
            assert_eq!(check(target, &["localhost:1"]), Ok(()), "{target}");
        }
        for target in [
            "//healthz",
            "/a//b",
            "/x/../healthz",
            "/./healthz",
            "/..",
            "/%2e%2e/healthz",
            "/x%2f..%2fhealthz",
            "/%252fhealthz",
            "/healthz%00",
            "/healthz%0a",
            "/a%5cb",
            "/%",
            "/%4",
            "/%zz",
            "http://other/healthz",
            "http://localhost:2/healthz",
        ] {
            let refused = check(target, &["localhost:1"]).unwrap_err();
            assert_eq!(refused.0, StatusCode::BAD_REQUEST, "{target}");
        }
        assert!(check("/", &["localhost:1", "localhost:1"]).is_err());
        assert_eq!(check("/", &[]), Ok(()));
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
    fn only_the_own_name_in_the_tailnet_is_an_own_origin() {
        for (host, origin, fits) in [
            ("own.tail1.ts.net", "https://own.tail1.ts.net", true),
            ("own.tail1.ts.net", "http://own.tail1.ts.net", false),
            ("own.tail1.ts.net", "https://other.tail1.ts.net", false),
            ("other.tail1.ts.net", "https://own.tail1.ts.net", false),
            ("other.tail1.ts.net", "https://other.tail1.ts.net", false),
        ] {
            let judged = judge_from("127.0.0.1:5000", &[("host", host), ("origin", origin)]);
            assert_eq!(judged.is_ok(), fits, "{host} {origin}");
        }
    }

    #[test]
    fn a_claim_to_come_from_the_tailnet_is_complete_or_none() {
        let all = [
            HOST,
            ("tailscale-user-login", "alice@example.com"),
            ("x-forwarded-for", "100.64.0.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "own.tail1.ts.net"),
        ];
        let claim = |headers: &[(&str, &str)], peer| judge_from(peer, headers).unwrap().tailscale;
        let whole = claim(&all, "127.0.0.1:5000").unwrap();
        assert_eq!(
            (&*whole.login, whole.forwarded),
            ("alice@example.com", "100.64.0.7".parse().unwrap())
        );
        assert_eq!(claim(&all, "192.0.2.1:5000"), None, "not from this host");
        for missing in 1..all.len() {
            let mut some = all.to_vec();
            some.remove(missing);
            assert_eq!(claim(&some, "127.0.0.1:5000"), None, "{}", all[missing].0);
        }
        for further in [
            ("x-forwarded-for", "100.64.0.8"),
            ("tailscale-user-login", "bob@example.com"),
            ("tailscale-funnel-request", "?1"),
        ] {
            let more = [&all[..], &[further]].concat();
            assert_eq!(claim(&more, "127.0.0.1:5000"), None, "{further:?}");
        }
    }

    #[test]
    fn an_address_is_an_origin_of_its_own_where_the_page_reached_it() {
        let mut headers = HeaderMap::new();
        let listener = Listener::Tcp {
            peer: "192.0.2.1:5".parse().unwrap(),
            own: "192.0.2.7:18789".parse().unwrap(),
        };
        for (host, origin, fits) in [
            ("192.0.2.7:18789", "http://192.0.2.7:18789", true),
            ("192.0.2.7:18789", "http://192.0.2.8:18789", false),
            ("192.0.2.8:18789", "http://192.0.2.8:18789", false),
            ("192.0.2.7:80", "http://192.0.2.7:80", false),
        ] {
            headers.insert("host", host.parse().unwrap());
            headers.insert("origin", origin.parse().unwrap());
            let judged = judge(listener, &headers, &config::Gateway::default(), (PORT, None));
            assert_eq!(judged.is_ok(), fits, "{host} {origin}");
        }
    }

    #[test]
    fn a_trusted_proxy_names_its_client_and_what_the_client_wrote_does_not_count() {
        let gateway = config::Gateway {
            trusted_proxies: vec!["127.0.0.1".into(), "10.0.0.0/8".into()],
            ..config::Gateway::default()
        };
        let listener = Listener::Tcp {
            peer: "127.0.0.1:1".parse().unwrap(),
            own: "127.0.0.1:18789".parse().unwrap(),
        };
        for (name, value, client) in [
            ("x-forwarded-for", "203.0.113.9, 10.0.0.1", Some("203.0.113.9")),
            ("x-forwarded-for", "127.0.0.1, 203.0.113.9", Some("203.0.113.9")),
            ("x-forwarded-for", "198.51.100.1, 203.0.113.9, 10.2.0.1", Some("203.0.113.9")),
            ("x-forwarded-for", "[2001:db8::1]:4711", Some("2001:db8::1")),
            ("x-forwarded-for", "::ffff:203.0.113.9", Some("203.0.113.9")),
            ("x-forwarded-for", "203.0.113.9, unknown", None),
            ("x-forwarded-for", "10.0.0.3", Some("10.0.0.3")),
            ("x-real-ip", "203.0.113.9", Some("203.0.113.9")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("host", "127.0.0.1".parse().unwrap());
            headers.insert(name, value.parse().unwrap());
            let ingress = judge(listener, &headers, &gateway, (PORT, None)).unwrap();
            assert_eq!(ingress.reported_ip.as_deref(), client, "{value}");
            assert!(!ingress.local, "{value}");
        }
    }
}
