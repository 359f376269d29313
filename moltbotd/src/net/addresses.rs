//! Which addresses a bind mode means on this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::socket::{SockaddrIn, SockaddrIn6},
};

use super::BindError;
use crate::config::{self, Bind};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const EVERY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const EVERY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The networks Tailscale gives addresses from.
const TAILNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
const TAILNET_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48);

/// Addresses to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Without one of these the daemon does not start. Loopback is always
    /// covered, and comes first.
    pub(super) needed: Vec<IpAddr>,
    /// Left out where the host has no IPv6; clients fall back.
    pub(super) welcome: Vec<IpAddr>,
    /// This host's tailnet addresses so far, where the tailnet is listened on.
    pub(super) tailnet: Option<Vec<IpAddr>>,
}

impl Addresses {
    /// Finds them for the configured mode.
    pub(super) fn of(gateway: &config::Gateway) -> Result<Self, BindError> {
        let found = |needed: &[IpAddr], welcome: &[IpAddr]| Self {
            needed: needed.into(),
            welcome: welcome.into(),
            tailnet: None,
        };
        Ok(match gateway.bind {
            Bind::Loopback | Bind::Auto => found(&[LOOPBACK], &[LOOPBACK_V6]),
            Bind::Lan => found(&[EVERY], &[EVERY_V6]),
            Bind::Tailnet => {
                let tailnet = Some(tailnet(&interfaces()));
                Self { tailnet, ..found(&[LOOPBACK], &[LOOPBACK_V6]) }
            }
            Bind::Custom => match custom_host(gateway)? {
                // People who write it mean both families.
                EVERY_V6 => found(&[EVERY, EVERY_V6], &[]),
                EVERY => found(&[EVERY], &[]),
                LOOPBACK => found(&[LOOPBACK], &[LOOPBACK_V6]),
                LOOPBACK_V6 => found(&[LOOPBACK, LOOPBACK_V6], &[]),
                ip => found(&[LOOPBACK, ip], &[LOOPBACK_V6]),
            },
        })
    }

    /// Keeps loopback open beside the addresses of a `.socket` unit.
    pub(super) fn beside_a_socket_unit() -> Self {
        Self { needed: Vec::new(), welcome: vec![LOOPBACK, LOOPBACK_V6], tailnet: None }
    }
}

/// Returns whether an address belongs to the internet rather than to this host,
/// a local network or a tailnet.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let local = ip.is_loopback() || ip.is_private() || ip.is_link_local();
            !(local || ip.is_unspecified() || TAILNET.contains(&ip))
        }
        IpAddr::V6(ip) => {
            let local = ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local();
            !(local || ip.is_unspecified())
        }
    }
}

fn custom_host(gateway: &config::Gateway) -> Result<IpAddr, BindError> {
    let host = gateway.custom_bind_host.as_deref().unwrap_or_default().trim();
    let text = "\"custom\" needs an address in gateway.customBindHost";
    host.parse::<IpAddr>()
        .map(|ip| ip.to_canonical())
        .map_err(|_| BindError::Mode(format!("{text}, not {host:?}")))
}

/// Returns this host's tailnet addresses: the first of each family.
pub(super) fn tailnet(own: &[IpAddr]) -> Vec<IpAddr> {
    let first = |fits: fn(&IpAddr) -> bool| own.iter().copied().find(fits);
    let v4 = first(|ip| matches!(ip, IpAddr::V4(ip) if TAILNET.contains(ip)));
    let v6 = first(|ip| matches!(ip, IpAddr::V6(ip) if TAILNET_V6.contains(ip)));
    v4.into_iter().chain(v6).collect()
}

/// Returns the addresses of this host's interfaces, loopback left out.
pub(super) fn interfaces() -> Vec<IpAddr> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    all.filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(SockaddrIn::ip).map(IpAddr::V4);
            v4.or_else(|| address.as_sockaddr_in6().map(SockaddrIn6::ip).map(IpAddr::V6))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn custom(host: &str) -> Addresses {
        Addresses::of(&config::Gateway {
            bind: Bind::Custom,
            custom_bind_host: Some(host.into()),
            ..config::Gateway::default()
        })
        .unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn loopback_is_open_whatever_the_mode_says() {
        for bind in [Bind::Loopback, Bind::Auto, Bind::Lan, Bind::Tailnet] {
            let gateway = config::Gateway { bind, ..config::Gateway::default() };
            let first = Addresses::of(&gateway).unwrap().needed[0];
            assert!(first == LOOPBACK || first == EVERY, "{bind:?}");
        }
        for (host, needed) in [
            ("192.0.2.7", &["127.0.0.1", "192.0.2.7"][..]),
            ("2001:db8::7", &["127.0.0.1", "2001:db8::7"]),
            ("127.0.0.2", &["127.0.0.1", "127.0.0.2"]),
            ("::1", &["127.0.0.1", "::1"]),
            ("::", &["0.0.0.0", "::"]),
            ("::ffff:192.0.2.7", &["127.0.0.1", "192.0.2.7"]),
        ] {
            assert_eq!(custom(host).needed, ips(needed), "{host}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_told_from_local_ones() {
        for ip in ips(&["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.1.1", "100.64.0.1"]) {
            assert!(!is_public(ip), "{ip}");
        }
        for ip in ips(&["::1", "fd7a:115c:a1e0::1", "fe80::1", "::ffff:10.0.0.1", "0.0.0.0"]) {
            assert!(!is_public(ip), "{ip}");
        }
        for ip in ips(&["203.0.113.7", "100.128.0.1", "172.32.0.1", "2001:db8::1"]) {
            assert!(is_public(ip), "{ip}");
        }
    }

    #[test]
    fn the_tailnets_addresses_are_the_first_of_each_family() {
        assert!(tailnet(&ips(&["192.0.2.7", "100.128.0.1", "fd7a:115c:a1e1::1"])).is_empty());
        let own = ips(&["fd7a:115c:a1e0::1", "192.0.2.7", "100.64.3.4", "100.127.255.255"]);
        assert_eq!(tailnet(&own), ips(&["100.64.3.4", "fd7a:115c:a1e0::1"]));
    }
}
