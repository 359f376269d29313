//! Which peers may hold a socket before they have authenticated.
//!
//! A peer competes for a place only with peers of the same source: the control
//! socket, this host, each remote address, each visitor that a proxy vouches
//! for. When a source is full, its oldest silent peer is dropped and the
//! newcomer stays. Refusing newcomers instead would let anyone who fills the
//! places keep everyone else out until a deadline passes, again and again; an
//! honest client needs its place for milliseconds only.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{auth::limiter::canonical, config};

/// Places of the control socket. Its peers are our own user and root, who have
/// better ways to harm the daemon; the number only bounds a mistake.
const CONTROL: usize = 64;
/// Lookups of a socket's owner at once. Each reads the system's table of
/// sockets, so a flood of requests must not start hundreds of them.
const OWNER_LOOKUPS: usize = 4;

/// With whom a peer competes for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// The control socket.
    Control,
    /// This host, or a program on it whose request has not been read yet.
    Loopback,
    /// Clients of a program on this host that forwards for others and that
    /// nobody vouches for: their addresses cannot be known.
    Unknown,
    /// A trusted proxy on another host, until the request tells for whom it is.
    Proxy(IpAddr),
    /// A remote address, or the IPv6 network of one subscriber.
    Address(IpAddr),
}

impl Source {
    /// Returns the source of a client whose address is known.
    pub(super) fn of(ip: IpAddr) -> Self {
        let ip = canonical(ip);
        if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_unspecified() {
            Self::Unknown
        } else {
            Self::Address(ip)
        }
    }
}

/// The places of peers that have not authenticated yet.
#[derive(Debug)]
pub struct Admission {
    places: Mutex<Places>,
    all: usize,
    each: usize,
    owner_lookups: Semaphore,
}

#[derive(Debug, Default)]
struct Places {
    next_id: u64,
    /// Peers by source; ids grow, so the first of a source is its oldest.
    sources: HashMap<Source, BTreeMap<u64, Waiting>>,
    /// Peers of all [`Source::Address`] together.
    remote: usize,
}

#[derive(Debug)]
struct Waiting {
    dropped: CancellationToken,
    /// Whether its `connect` is being decided about.
    busy: bool,
}

/// A place in [`Admission`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    id: u64,
    source: Source,
    since: Instant,
    dropped: CancellationToken,
}

impl Admission {
    /// Returns places for `all` peers of remote addresses, `each` of one of
    /// them; this host has as many again.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Self {
        let owner_lookups = Semaphore::new(OWNER_LOOKUPS);
        Self { places: Mutex::default(), all, each, owner_lookups }
    }

    /// Takes a place, which may cost an older peer of the same source its own.
    /// Returns `None` when all of them are logging in at this moment.
    pub(super) fn admit(self: &Arc<Self>, source: Source) -> Option<Permit> {
        let mut places = self.places();
        if !places.make_room(source, self.limit(source), self.all) {
            return None;
        }

        let (id, dropped) = (places.next_id, CancellationToken::new());
        places.next_id += 1;
        places.insert(source, id, Waiting { dropped: dropped.clone(), busy: false });
        Some(Permit { admission: Arc::clone(self), id, source, since: Instant::now(), dropped })
    }

    /// Drops the oldest silent peer of the fullest source: there are no file
    /// descriptors left, and one of them must go to the next peer.
    pub(super) fn drop_oldest(&self) {
        let mut places = self.places();
        let fullest = places.sources.iter().max_by_key(|(_, peers)| peers.len());
        if let Some(source) = fullest.map(|(source, _)| *source) {
            places.drop_oldest(source);
        }
    }

    /// Waits for a turn to look up whose socket a peer is.
    pub(super) async fn owner_lookup(&self) -> impl Drop + '_ {
        self.owner_lookups.acquire().await.expect("never closed")
    }

    fn limit(&self, source: Source) -> usize {
        match source {
            Source::Control => CONTROL,
            Source::Loopback | Source::Unknown | Source::Proxy(_) => self.all,
            Source::Address(_) => self.each,
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Drops silent peers until the source has a free place.
    fn make_room(&mut self, source: Source, limit: usize, all: usize) -> bool {
        let count = self.sources.get(&source).map_or(0, BTreeMap::len);
        if count >= limit && !self.drop_oldest(source) {
            return false;
        }
        if !matches!(source, Source::Address(_)) || self.remote < all {
            return true;
        }

        // Of all addresses the one that holds most places gives one up.
        let addresses = self.sources.iter().filter(|(it, _)| matches!(it, Source::Address(_)));
        let mut fullest: Vec<_> =
            addresses.map(|(it, peers)| (peers.len(), *it, peers.keys().next().copied())).collect();
        fullest.sort_unstable_by_key(|(count, _, oldest)| (std::cmp::Reverse(*count), *oldest));
        fullest.into_iter().any(|(_, source, _)| self.drop_oldest(source))
    }

    /// Drops the oldest silent peer of a source, if it has one.
    fn drop_oldest(&mut self, source: Source) -> bool {
        let peers = self.sources.get(&source).into_iter().flatten();
        let Some(oldest) = peers.filter(|(_, peer)| !peer.busy).map(|(id, _)| *id).next() else {
            return false;
        };
        if let Some(peer) = self.remove(source, oldest) {
            peer.dropped.cancel();
        }
        true
    }

    fn insert(&mut self, source: Source, id: u64, peer: Waiting) {
        self.sources.entry(source).or_default().insert(id, peer);
        self.remote += usize::from(matches!(source, Source::Address(_)));
    }

    fn remove(&mut self, source: Source, id: u64) -> Option<Waiting> {
        let peers = self.sources.get_mut(&source)?;
        let peer = peers.remove(&id)?;
        if peers.is_empty() {
            self.sources.remove(&source);
        }
        self.remote -= usize::from(matches!(source, Source::Address(_)));
        Some(peer)
    }
}

impl Permit {
    /// Counts the peer for another source, once its request has told more
    /// about it. Returns whether it keeps a place.
    pub(super) fn move_to(&mut self, source: Source) -> bool {
        if source == self.source {
            return true;
        }
        let admission = Arc::clone(&self.admission);
        let mut places = admission.places();
        let Some(peer) = places.remove(self.source, self.id) else { return false };
        let limit = admission.limit(source);
        if !places.make_room(source, limit, admission.all) {
            return false;
        }
        places.insert(source, self.id, peer);
        self.source = source;
        true
    }

    /// Keeps the place while the peer's `connect` is decided about.
    pub(super) fn set_busy(&self, busy: bool) {
        let mut places = self.admission.places();
        let peers = places.sources.get_mut(&self.source);
        if let Some(peer) = peers.and_then(|peers| peers.get_mut(&self.id)) {
            peer.busy = busy;
        }
    }

    /// Returns what is cancelled when the peer has to go.
    pub(super) fn dropped(&self) -> CancellationToken {
        self.dropped.clone()
    }

    /// Returns by when the peer must have authenticated.
    pub(super) fn deadline(&self, gateway: &config::Gateway) -> Instant {
        self.since + Duration::from_millis(gateway.limits.handshake_timeout_ms)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.places().remove(self.source, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ip: &str) -> Source {
        Source::of(ip.parse().unwrap())
    }

    fn places(all: usize, each: usize) -> Arc<Admission> {
        Arc::new(Admission::new(all, each))
    }

    #[test]
    fn the_oldest_silent_peer_makes_room_and_the_newcomer_stays() {
        let admission = places(2, 2);
        for source in [Source::Loopback, Source::Unknown, of("192.0.2.1"), of("2001:db8::1")] {
            let first = admission.admit(source).unwrap();
            let second = admission.admit(source).unwrap();
            let third = admission.admit(source).unwrap();
            assert!(first.dropped().is_cancelled(), "{source:?}");
            assert!(!second.dropped().is_cancelled() && !third.dropped().is_cancelled());
        }
    }

    #[test]
    fn no_source_costs_another_its_places() {
        let admission = places(4, 2);
        let control = admission.admit(Source::Control).unwrap();
        let local = admission.admit(Source::Loopback).unwrap();
        let unknown = admission.admit(Source::Unknown).unwrap();
        let proxied = admission.admit(of("198.51.100.7")).unwrap();
        let mut flood = Vec::new();
        for _ in 0..100 {
            flood.push(admission.admit(of("192.0.2.1")).unwrap());
            flood.push(admission.admit(Source::Proxy("192.0.2.2".parse().unwrap())).unwrap());
        }
        for permit in [control, local, unknown, proxied] {
            assert!(!permit.dropped().is_cancelled(), "{permit:?}");
        }
        assert_eq!(flood.iter().filter(|it| !it.dropped().is_cancelled()).count(), 2 + 4);
    }

    #[test]
    fn of_many_addresses_the_one_with_most_places_gives_one_up() {
        let admission = places(4, 3);
        let greedy: Vec<_> = (0..3).map(|_| admission.admit(of("192.0.2.1")).unwrap()).collect();
        let modest = admission.admit(of("192.0.2.2")).unwrap();
        let newcomer = admission.admit(of("192.0.2.3")).unwrap();
        assert!(greedy[0].dropped().is_cancelled() && !greedy[1].dropped().is_cancelled());
        assert!(!modest.dropped().is_cancelled() && !newcomer.dropped().is_cancelled());
    }

    #[test]
    fn a_peer_whose_login_is_decided_about_is_not_dropped() {
        let admission = places(2, 2);
        let busy = admission.admit(Source::Loopback).unwrap();
        busy.set_busy(true);
        let silent = admission.admit(Source::Loopback).unwrap();
        let newcomer = admission.admit(Source::Loopback).unwrap();
        assert!(silent.dropped().is_cancelled() && !busy.dropped().is_cancelled());
        newcomer.set_busy(true);
        assert!(admission.admit(Source::Loopback).is_none(), "nobody is silent");
        busy.set_busy(false);
        assert!(admission.admit(Source::Loopback).is_some());
    }

    #[test]
    fn a_peer_behind_a_proxy_moves_to_its_own_address() {
        let admission = places(4, 1);
        let mut first = admission.admit(Source::Loopback).unwrap();
        let mut second = admission.admit(Source::Loopback).unwrap();
        let mut third = admission.admit(Source::Loopback).unwrap();
        assert!(first.move_to(of("2001:db8::1")));
        assert!(second.move_to(of("2001:db8::2")), "the same network");
        assert!(first.dropped().is_cancelled());
        assert!(!first.move_to(Source::Loopback), "it has no place any more");
        assert!(third.move_to(of("192.0.2.1")) && !second.dropped().is_cancelled());
        drop((first, second, third));
        let places = admission.places();
        assert_eq!((places.remote, places.sources.len()), (0, 0), "all of it is given back");
    }

    #[test]
    fn without_file_descriptors_the_fullest_source_gives_one_up() {
        let admission = places(9, 9);
        let control = admission.admit(Source::Control).unwrap();
        let silent: Vec<_> = (0..3).map(|_| admission.admit(Source::Loopback).unwrap()).collect();
        admission.drop_oldest();
        assert!(silent[0].dropped().is_cancelled() && !control.dropped().is_cancelled());
    }
}
