//! Counters that cost next to nothing where work is done. Each service keeps
//! its own; `net` reads them when somebody asks for `/metrics`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds for work of this process, in microseconds.
const QUICK: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000,
];
/// Upper bounds for what others take their time for, in microseconds.
const SLOW: &[u64] = &[
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
];

/// How often something happened.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Counts one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Counts several.
    pub fn add(&self, more: u64) {
        // Figures need no order among each other.
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Returns how many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, each time.
#[derive(Debug)]
pub struct Durations {
    bounds: &'static [u64],
    /// One for each bound, and one for what took longer.
    counts: Box<[Count]>,
    sum_us: Count,
}

/// A copy of [`Durations`].
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Upper bound in seconds and how many stayed within it but not within
    /// the one before; the last bound is `f64::MAX`.
    pub buckets: Vec<(f64, u64)>,
    /// Seconds altogether.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
}

impl Durations {
    /// For work of this process: from 100 µs to 5 s.
    #[must_use]
    pub fn quick() -> Self {
        Self::within(QUICK)
    }

    /// For what others take their time for: from 100 ms to 5 min.
    #[must_use]
    pub fn slow() -> Self {
        Self::within(SLOW)
    }

    fn within(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Count::default()).collect();
        Self { bounds, counts, sum_us: Count::default() }
    }

    /// Adds one.
    pub fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|&bound| bound < us);
        self.counts[bucket].one();
        self.sum_us.add(us);
    }

    /// Returns a copy. The count is that of the buckets, so that the two agree
    /// also while others add.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a float is what the text format has")]
    pub fn spread(&self) -> Spread {
        let bounds = self.bounds.iter().map(|&us| us as f64 / 1e6).chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(self.counts.iter().map(Count::get)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Spread { buckets, sum: self.sum_us.get() as f64 / 1e6, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let durations = Durations::quick();
        for us in [0, 100, 101, 7_000_000] {
            durations.add(Duration::from_micros(us));
        }
        let spread = durations.spread();
        assert_eq!(spread.count, 4);
        assert_eq!(spread.buckets[0], (0.0001, 2));
        assert_eq!(spread.buckets[1], (0.00025, 1));
        assert_eq!(*spread.buckets.last().unwrap(), (f64::MAX, 1));
        assert!((spread.sum - 7.000_201).abs() < 1e-9);
    }
}
