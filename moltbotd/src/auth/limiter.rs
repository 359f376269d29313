//! Slows down guessing: failed logins by address and kind of credential.
//!
//! Always on. Peers on this host have a gentler curve, because everything on a
//! host shares one address. A peer that proves a paired device key is never
//! counted and never refused: one misconfigured client cannot lock out others.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const WINDOW: Duration = Duration::from_secs(60);
/// Failures in a window before a peer has to wait.
const FREE_REMOTE: u32 = 10;
const FREE_LOCAL: u32 = 60;
const LONGEST_REMOTE: Duration = Duration::from_secs(300);
const LONGEST_LOCAL: Duration = Duration::from_secs(2);
/// Most counters kept; the oldest make room.
const CAPACITY: usize = 4096;

/// What was guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The token, shared or of a device.
    Token,
    /// The password.
    Password,
}

/// Counts failed logins.
#[derive(Debug, Default)]
pub struct Limiter(Mutex<HashMap<(IpAddr, Kind), Counter>>);

#[derive(Debug)]
struct Counter {
    failures: u32,
    since: Instant,
    until: Option<Instant>,
}

impl Limiter {
    /// Returns how long the peer must wait before it may try again.
    pub fn wait(&self, ip: IpAddr, kind: Kind) -> Option<Duration> {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = counters.get(&(canonical(ip), kind))?.until?;
        until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    /// Counts a failure; returns how many there were in this window.
    pub fn failed(&self, ip: IpAddr, kind: Kind) -> u32 {
        let ip = canonical(ip);
        let now = Instant::now();
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut counters, now);
        let counter =
            counters.entry((ip, kind)).or_insert(Counter { failures: 0, since: now, until: None });
        let waiting = counter.until.is_some_and(|until| until > now);
        if !waiting && now.duration_since(counter.since) > WINDOW {
            *counter = Counter { failures: 0, since: now, until: None };
        }
        counter.failures += 1;
        counter.until = penalty(ip, counter.failures).map(|wait| now + wait);
        counter.failures
    }

    /// Forgets the failures of a peer that logged in.
    pub fn succeeded(&self, ip: IpAddr, kind: Kind) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters.remove(&(canonical(ip), kind));
    }
}

fn penalty(ip: IpAddr, failures: u32) -> Option<Duration> {
    let (free, longest) =
        if ip.is_loopback() { (FREE_LOCAL, LONGEST_LOCAL) } else { (FREE_REMOTE, LONGEST_REMOTE) };
    let over = failures.checked_sub(free)?;
    Some(Duration::from_secs(1 << over.min(10)).min(longest))
}

fn make_room(counters: &mut HashMap<(IpAddr, Kind), Counter>, now: Instant) {
    if counters.len() < CAPACITY {
        return;
    }
    counters.retain(|_, counter| now.duration_since(counter.since) < WINDOW);
    if counters.len() >= CAPACITY
        && let Some(oldest) =
            counters.iter().min_by_key(|(_, counter)| counter.since).map(|(key, _)| *key)
    {
        counters.remove(&oldest);
    }
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

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_stranger_waits_after_ten_failures() {
        let limiter = Limiter::default();
        for _ in 0..9 {
            limiter.failed(ip("192.0.2.1"), Kind::Token);
        }
        assert_eq!(limiter.wait(ip("192.0.2.1"), Kind::Token), None);
        limiter.failed(ip("192.0.2.1"), Kind::Token);
        assert!(limiter.wait(ip("192.0.2.1"), Kind::Token).is_some());
        assert_eq!(limiter.wait(ip("192.0.2.1"), Kind::Password), None);
        assert_eq!(limiter.wait(ip("192.0.2.2"), Kind::Token), None);
    }

    #[test]
    fn one_host_under_two_spellings_has_one_budget() {
        let limiter = Limiter::default();
        for _ in 0..5 {
            limiter.failed(ip("192.0.2.1"), Kind::Token);
            limiter.failed(ip("::ffff:192.0.2.1"), Kind::Token);
        }
        assert!(limiter.wait(ip("192.0.2.1"), Kind::Token).is_some());
        assert_eq!(canonical(ip("2001:db8::1")), canonical(ip("2001:db8::ffff")));
    }

    #[test]
    fn this_host_is_limited_too_but_gently() {
        let limiter = Limiter::default();
        for _ in 0..70 {
            limiter.failed(ip("127.0.0.1"), Kind::Token);
        }
        let wait = limiter.wait(ip("127.0.0.1"), Kind::Token).unwrap();
        assert!(wait <= LONGEST_LOCAL);
    }
}
