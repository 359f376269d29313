//! The address of a client behind a proxy on this host.
//!
//! The limits on silence and on wrong guesses hold for each address, so the
//! address has to be the client's own, or one client locks out all others that
//! come through the same proxy. A header tells it, and any program on this host
//! can send the same header; so it counts only when the system says that the
//! socket belongs to tailscaled, or to a trusted proxy that runs as a service.
//! Everyone else shares the address 0.0.0.0, which is nobody's.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::{
    Shared,
    ingress::{Listener, SOMEBODY, is_forwarded},
};
use crate::{auth::Ingress, tailscale::socket_owner};

/// User ids that login.defs(5) and systemd give to people: what lies outside of
/// them belongs to the system's services.
const PEOPLE: std::ops::RangeInclusive<u32> = 1000..=60_000;
/// `nobody`, as which programs run that nobody vouches for; also what an owner
/// outside of our user namespace looks like.
const NOBODY: u32 = 65_534;

/// Puts the client's own address in place of the proxy's, where it can be
/// trusted.
pub(super) async fn identify(
    mut ingress: Ingress,
    listener: Listener,
    headers: &HeaderMap,
    shared: &Shared,
) -> Ingress {
    let Listener::Tcp { peer, own } = listener else { return ingress };
    if !peer.ip().to_canonical().is_loopback() || !is_forwarded(headers) {
        return ingress;
    }

    let address = if shared.gateway.config.get().gateway.trusts_proxy(peer.ip()) {
        let told = Some(ingress.ip).filter(|ip| !ip.is_loopback());
        match told {
            Some(told) if is_service(peer, own, shared).await => Some(told),
            Some(_) => {
                tracing::warn!(
                    %peer,
                    "forwarding headers do not count: gateway.trustedProxies lists this host, \
                     but a program of an ordinary user sent them"
                );
                None
            }
            None => None,
        }
    } else {
        through_tailscale(headers, peer, own, shared).await
    };

    ingress.ip = address.unwrap_or(SOMEBODY);
    ingress.reported_ip = address.map(|ip| ip.to_string());
    ingress
}

/// Returns the address that tailscaled saw: a visitor's in the tailnet or,
/// through Funnel, on the internet.
async fn through_tailscale(
    headers: &HeaderMap,
    peer: SocketAddr,
    own: SocketAddr,
    shared: &Shared,
) -> Option<IpAddr> {
    // It sets exactly one; with more, another program had a hand in it.
    let mut lists = headers.get_all("x-forwarded-for").iter();
    let address: IpAddr = lists.next()?.to_str().ok()?.trim().parse().ok()?;
    if lists.next().is_some() {
        return None;
    }

    let _turn = shared.admission.owner_lookup().await;
    let proven = shared.gateway.tailscale.owns(peer, own).await;
    proven.is_ok().then(|| address.to_canonical()).filter(|ip| !ip.is_loopback())
}

/// Returns whether a socket on this host belongs to root, to our own user or to
/// a service. Where the system does not tell, the configuration's word counts.
async fn is_service(peer: SocketAddr, own: SocketAddr, shared: &Shared) -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let _turn = shared.admission.owner_lookup().await;
    match socket_owner(peer, own).await {
        Some(user) => is_service_user(user, nix::unistd::geteuid().as_raw()),
        None => false,
    }
}

fn is_service_user(user: u32, own: u32) -> bool {
    user == own || (!PEOPLE.contains(&user) && user != NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_told_from_people() {
        // root, www-data, a package's user, a unit with DynamicUser.
        for service in [0, 33, 998, 61_184] {
            assert!(is_service_user(service, 1000), "{service}");
        }
        for person in [1001, 60_000, NOBODY] {
            assert!(!is_service_user(person, 1000), "{person}");
        }
        assert!(is_service_user(1000, 1000), "the gateway's own user");
    }
}
