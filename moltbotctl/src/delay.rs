//! How long to wait before trying again.

use std::time::Duration;

/// Grows from try to try, so that what is down is not hammered on.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Delay {
    /// Begins with `first` and doubles up to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Begins again: what was down has come back.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// Never waits longer than this the next time.
    pub fn at_most(&mut self, limit: Duration) {
        self.next = self.next.min(limit);
    }

    /// Waits, jittered.
    pub async fn wait(&mut self) {
        tokio::time::sleep(jittered(self.step())).await;
    }

    fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (self.next * 2).min(self.longest);
        now
    }
}

/// Half to all of the delay, so that clients do not come back all at once.
fn jittered(delay: Duration) -> Duration {
    let mut byte = [0];
    // Without random bytes the delay is the longest.
    let share = getrandom::fill(&mut byte).map_or(1.0, |()| f64::from(byte[0]) / 255.0);
    delay.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_up_to_its_limit_and_begins_again() {
        let mut delay = Delay::new(Duration::from_secs(1), Duration::from_secs(3));
        assert_eq!([1, 2, 3, 3].map(Duration::from_secs), [(); 4].map(|()| delay.step()));
        delay.reset();
        assert_eq!(delay.step(), Duration::from_secs(1));
        delay.at_most(Duration::from_millis(5));
        assert_eq!(delay.step(), Duration::from_millis(5));
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        let whole = Duration::from_secs(2);
        assert!((whole / 2..=whole).contains(&jittered(whole)));
    }
}
