//! Limits how often a secret can be guessed.
//!
//! Failures are counted by address and, where the peer proved a device key, by that key as well:
//! a stolen phone that was paired once must not guess faster than a stranger. Only a key that
//! signed this connection's parameters counts as one, since anybody can name somebody else's.
//!
//! A paired device is counted by its key alone. Its address is often shared (a reverse proxy, a
//! household), and one misconfigured client must not lock out the others behind it. What a paired
//! device can always do is show its own token: that is not a guess, and the caller does not ask
//! here about it.
//!
//! Always on. Peers on this host are slowed down rather than locked out, because everything on a
//! host shares one address.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const WINDOW: Duration = Duration::from_secs(60);
/// Failures in a window before a peer has to wait.
const FREE_REMOTE: u32 = 10;
const FREE_LOCAL: u32 = 60;
/// Shortest and longest wait of a peer elsewhere. A key cannot be shared, so its first wait is
/// not a short one.
const SHORTEST: Duration = Duration::from_secs(1);
const SHORTEST_DEVICE: Duration = Duration::from_secs(30);
const LONGEST_REMOTE: Duration = Duration::from_secs(300);
/// Longest wait of a peer on this host.
const LONGEST_LOCAL: Duration = Duration::from_secs(2);
/// Most counters kept in each table; the oldest make room. Tables are separate so that strangers,
/// who can make up keys and addresses, cannot push out the counter of a paired device.
const CAPACITY: usize = 4096;

/// What was guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The token, shared or of a device.
    Token,
    /// The password.
    Password,
    /// A setup code.
    Bootstrap,
}

/// Who guesses.
#[derive(Clone, Copy, Debug)]
pub struct Guesser<'a> {
    /// Where from.
    pub ip: IpAddr,
    /// The id of the key it proved.
    pub device: Option<&'a str>,
    /// Whether that key is the key of a paired device or of one that was revoked.
    pub known: bool,
    /// Whether it is paired now.
    pub paired: bool,
}

/// Which counter said that a peer has to wait, and why.
#[derive(Clone, Copy, Debug)]
pub struct Limited {
    /// `address` or `device`.
    pub counter: &'static str,
    /// How many failures it counted.
    pub failures: u32,
    /// How long the peer has to wait.
    pub wait: Duration,
}

/// Counts failed logins.
#[derive(Debug, Default)]
pub struct Limiter(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    addresses: Table<IpAddr>,
    known_devices: Table<Box<str>>,
    unknown_devices: Table<Box<str>>,
}

#[derive(Debug)]
struct Table<K>(HashMap<(K, Kind), Counter>);

#[derive(Clone, Copy, Debug)]
struct Counter {
    failures: u32,
    since: Instant,
    until: Option<Instant>,
}

impl<'a> Guesser<'a> {
    /// A peer that proved no key.
    #[must_use]
    pub fn address(ip: IpAddr) -> Self {
        Self { ip, device: None, known: false, paired: false }
    }

    fn counted_address(self) -> Option<IpAddr> {
        (!self.paired).then(|| canonical(self.ip))
    }

    fn is_local(self) -> bool {
        self.ip.is_loopback()
    }
}

impl Limiter {
    /// Returns why the peer must wait before it may guess again, if it must.
    pub fn check(&self, who: Guesser<'_>, kind: Kind) -> Result<(), Limited> {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = who.counted_address().and_then(|ip| tables.addresses.waiting(ip, kind));
        let device = who.device.and_then(|id| tables.devices(who).waiting(id.into(), kind));
        let limited = |counter, found: Option<(u32, Duration)>| {
            found.map(|(failures, wait)| Limited { counter, failures, wait })
        };
        let found = limited("device", device).or_else(|| limited("address", address));
        found.map_or(Ok(()), Err)
    }

    /// Counts a failure; returns how many there were in this window by the highest counter.
    pub fn failed(&self, who: Guesser<'_>, kind: Kind) -> u32 {
        let now = Instant::now();
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = who.counted_address().map(|ip| {
            tables.addresses.count(ip, kind, now, |failures| penalty(who, failures, SHORTEST))
        });
        let device = who.device.map(|id| {
            let table = tables.devices_mut(who);
            table.count(id.into(), kind, now, |failures| penalty(who, failures, SHORTEST_DEVICE))
        });
        address.max(device).unwrap_or_default()
    }

    /// Forgets the failures of a peer that logged in.
    pub fn succeeded(&self, who: Guesser<'_>, kind: Kind) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ip) = who.counted_address() {
            tables.addresses.0.remove(&(ip, kind));
        }
        if let Some(id) = who.device {
            tables.devices_mut(who).0.remove(&(id.into(), kind));
        }
    }
}

impl Tables {
    fn devices(&self, who: Guesser<'_>) -> &Table<Box<str>> {
        if who.known { &self.known_devices } else { &self.unknown_devices }
    }

    fn devices_mut(&mut self, who: Guesser<'_>) -> &mut Table<Box<str>> {
        if who.known { &mut self.known_devices } else { &mut self.unknown_devices }
    }
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    /// Returns how many failures there were and how long they are to be waited for.
    fn waiting(&self, key: K, kind: Kind) -> Option<(u32, Duration)> {
        let counter = self.0.get(&(key, kind))?;
        let wait = counter.until?.checked_duration_since(Instant::now())?;
        (!wait.is_zero()).then_some((counter.failures, wait))
    }

    fn count(
        &mut self,
        key: K,
        kind: Kind,
        now: Instant,
        penalty: impl Fn(u32) -> Option<Duration>,
    ) -> u32 {
        self.make_room(now);
        let fresh = Counter { failures: 0, since: now, until: None };
        let counter = self.0.entry((key, kind)).or_insert(fresh);

        let waiting = counter.until.is_some_and(|until| until > now);
        if !waiting && now.duration_since(counter.since) > WINDOW {
            *counter = fresh;
        }

        counter.failures += 1;
        counter.until = penalty(counter.failures).map(|wait| now + wait);
        counter.failures
    }

    fn make_room(&mut self, now: Instant) {
        if self.0.len() < CAPACITY {
            return;
        }
        self.0.retain(|_, counter| {
            let waiting = counter.until.is_some_and(|until| until > now);
            waiting || now.duration_since(counter.since) < WINDOW
        });
        if self.0.len() >= CAPACITY
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, counter)| counter.since).map(|(key, _)| key.clone())
        {
            self.0.remove(&oldest);
        }
    }
}

fn penalty(who: Guesser<'_>, failures: u32, shortest: Duration) -> Option<Duration> {
    let (free, shortest, longest) = if who.is_local() {
        (FREE_LOCAL, SHORTEST, LONGEST_LOCAL)
    } else {
        (FREE_REMOTE, shortest, LONGEST_REMOTE)
    };
    let over = failures.checked_sub(free)?;
    Some((shortest * (1 << over.min(10))).min(longest))
}

/// Folds IPv4-mapped addresses, and an IPv6 network of one subscriber into one.
#[must_use]
pub fn canonical(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            let mut segments = ip.segments();
            segments[4..].fill(0);
            IpAddr::V6(segments.into())
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Guesser<'_> {
        Guesser::address(text.parse().unwrap())
    }

    fn device<'a>(ip: &str, id: &'a str, paired: bool) -> Guesser<'a> {
        Guesser { ip: ip.parse().unwrap(), device: Some(id), known: paired, paired }
    }

    fn counter(limiter: &Limiter, who: Guesser<'_>) -> Option<&'static str> {
        limiter.check(who, Kind::Token).err().map(|limited| limited.counter)
    }

    #[test]
    fn a_stranger_waits_after_ten_failures() {
        let limiter = Limiter::default();
        for _ in 0..9 {
            limiter.failed(at("192.0.2.1"), Kind::Token);
        }
        assert_eq!(counter(&limiter, at("192.0.2.1")), None);
        assert_eq!(limiter.failed(at("192.0.2.1"), Kind::Token), 10);
        let limited = limiter.check(at("192.0.2.1"), Kind::Token).unwrap_err();
        assert_eq!((limited.counter, limited.failures), ("address", 10));
        assert!(limiter.check(at("192.0.2.1"), Kind::Password).is_ok());
        assert!(limiter.check(at("192.0.2.2"), Kind::Token).is_ok());
    }

    #[test]
    fn one_host_under_two_spellings_has_one_budget() {
        let limiter = Limiter::default();
        for _ in 0..5 {
            limiter.failed(at("192.0.2.1"), Kind::Token);
            limiter.failed(at("::ffff:192.0.2.1"), Kind::Token);
        }
        assert!(limiter.check(at("192.0.2.1"), Kind::Token).is_err());
        let ip = |text: &str| text.parse().unwrap();
        assert_eq!(canonical(ip("2001:db8::1")), canonical(ip("2001:db8::ffff")));
    }

    #[test]
    fn this_host_is_limited_too_but_gently() {
        let limiter = Limiter::default();
        for who in [at("127.0.0.1"), device("127.0.0.1", "own", true)] {
            for _ in 0..70 {
                limiter.failed(who, Kind::Token);
            }
            assert!(limiter.check(who, Kind::Token).unwrap_err().wait <= LONGEST_LOCAL);
        }
    }

    #[test]
    fn a_paired_device_is_counted_by_its_key_and_locks_out_nobody_else() {
        let limiter = Limiter::default();
        for host in 0..10 {
            limiter.failed(device(&format!("192.0.2.{host}"), "phone", true), Kind::Token);
        }
        assert_eq!(counter(&limiter, device("192.0.2.99", "phone", true)), Some("device"));
        assert_eq!(counter(&limiter, device("192.0.2.1", "laptop", true)), None);
        assert_eq!(counter(&limiter, at("192.0.2.1")), None);
    }

    #[test]
    fn a_locked_out_address_does_not_lock_out_a_paired_device() {
        let limiter = Limiter::default();
        for _ in 0..20 {
            limiter.failed(at("192.0.2.1"), Kind::Token);
        }
        assert_eq!(counter(&limiter, device("192.0.2.1", "phone", true)), None);
        assert_eq!(counter(&limiter, device("192.0.2.1", "stranger", false)), Some("address"));
    }

    #[test]
    fn made_up_keys_cost_bounded_memory_and_push_out_no_paired_device() {
        let limiter = Limiter::default();
        for _ in 0..10 {
            limiter.failed(device("192.0.2.1", "phone", true), Kind::Token);
        }
        for key in 0..2 * CAPACITY {
            limiter.failed(device("198.51.100.1", &key.to_string(), false), Kind::Token);
        }
        assert_eq!(counter(&limiter, device("192.0.2.1", "phone", true)), Some("device"));
        let tables = limiter.0.lock().unwrap();
        assert!(tables.unknown_devices.0.len() <= CAPACITY);
        assert!(tables.addresses.0.len() <= CAPACITY);
    }
}
