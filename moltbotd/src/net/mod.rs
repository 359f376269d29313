//! Sockets: accept, upgrade, handshake, then one task for each client.
//!
//! `listener` (a permit, a task) → `http` (upgrade or a plain answer) →
//! `handshake` (who) → `connection` (frames) → the router.

mod addresses;
mod connection;
mod framing;
mod greeting;
mod handshake;
mod holder;
mod http;
mod ingress;
mod listener;
mod metrics;
mod page;
mod tailnet;
mod wire;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{handshake::TICK, listener::serve};
pub use self::{
    ingress::origin_allowed,
    listener::{BindError, Listeners, bind},
    metrics::Handshakes,
};
use crate::{auth::limiter::canonical, config, gateway::Gateway, rpc::Router};

/// What every connection is given.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What the methods act on.
    pub gateway: Arc<Gateway>,
    /// The methods.
    pub router: Arc<Router<Gateway>>,
    /// Sockets that have not authenticated yet.
    pub budget: Arc<Budget>,
    /// Every connection and every call that outlives its connection.
    pub tasks: TaskTracker,
    /// Cancelled when no further peer is let in.
    pub closing: CancellationToken,
    /// What became of the peers that came.
    pub handshakes: Arc<Handshakes>,
    /// The port that was bound, which names our own origin.
    pub port: u16,
}

/// Bounds the sockets that have not authenticated yet.
#[derive(Debug)]
pub struct Budget {
    all: Arc<Semaphore>,
    each: usize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// A place in the [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Place {
    budget: Arc<Budget>,
    ip: Option<IpAddr>,
    since: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// Returns a budget for `all` sockets, `each` of one address that is not
    /// this host.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each, by_address: Mutex::default() }
    }

    /// Takes a place, unless there is none.
    pub fn take(self: &Arc<Self>, ip: Option<IpAddr>) -> Option<Place> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut place =
            Place { budget: Arc::clone(self), ip: None, since: Instant::now(), _permit: permit };
        ip.is_none_or(|ip| place.charge(ip)).then_some(place)
    }

    fn count(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Counts the place for another address, that of the peer behind a proxy.
    /// Returns whether that address has room.
    pub fn charge(&mut self, ip: IpAddr) -> bool {
        let ip = Some(canonical(ip)).filter(|ip| !ip.is_loopback());
        if ip == self.ip {
            return true;
        }
        self.give_back();
        let Some(ip) = ip else { return true };
        let mut by_address = self.budget.count();
        let count = by_address.entry(ip).or_default();
        if *count >= self.budget.each {
            return false;
        }
        *count += 1;
        drop(by_address);
        self.ip = Some(ip);
        true
    }

    /// Returns by when the peer must have authenticated.
    fn deadline(&self, gateway: &config::Gateway) -> Instant {
        self.since + Duration::from_millis(gateway.limits.handshake_timeout_ms)
    }

    fn give_back(&mut self) {
        let Some(ip) = self.ip.take() else { return };
        let mut by_address = self.budget.count();
        if let Some(count) = by_address.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&ip);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place() {
        let budget = Arc::new(Budget::new(4, 2));
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let first = budget.take(ip("192.0.2.1"));
        let second = budget.take(ip("192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(budget.take(ip("192.0.2.1")).is_none());
        let local = budget.take(ip("127.0.0.1"));
        let control = budget.take(None);
        assert!(local.is_some() && control.is_some());
        assert!(budget.take(ip("192.0.2.9")).is_none());
        drop(first);
        assert!(budget.take(ip("192.0.2.9")).is_some());
    }

    #[test]
    fn peers_behind_a_proxy_are_counted_one_by_one() {
        let budget = Arc::new(Budget::new(9, 1));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut first = budget.take(Some(ip("127.0.0.1"))).unwrap();
        let mut second = budget.take(Some(ip("127.0.0.1"))).unwrap();
        assert!(first.charge(ip("2001:db8::1")));
        assert!(!second.charge(ip("2001:db8::2")), "the same network");
        assert!(second.charge(ip("192.0.2.1")));
        drop(first);
        assert!(budget.take(Some(ip("2001:db8::3"))).is_some());
        assert!(budget.take(Some(ip("::ffff:192.0.2.1"))).is_none());
    }
}
