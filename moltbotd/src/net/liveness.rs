//! Whether a client is still there.
//!
//! A host that lost its power or its network sends nothing, not even a goodbye,
//! and TCP alone takes hours to notice. So a client that has been silent for a
//! while is sent a ping, which every WebSocket library answers by itself, and
//! whoever does not answer is gone. A client that is merely slow must stay: while
//! something is on its way to it the ping waits in the same queue, and progress
//! of what is written counts as an answer.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::metrics::Reason;
use crate::bus::Close;

/// Silence after which a client is asked whether it is there. Together with
/// [`ANSWER`] less than a minute, and long enough not to wake a phone more often
/// than the daemon's own tick does.
const SILENCE: Duration = Duration::from_secs(25);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(25);
/// How long a write may make no progress at all: nobody reads.
const STUCK: Duration = Duration::from_secs(45);

/// What is known about a connection's two directions.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// When the peer last sent something, or nobody listened.
    heard: Instant,
    /// Whether the peer is being listened to. It is not while it has too many
    /// calls under way, and its silence means nothing then.
    listening: bool,
    /// When a write that is under way last made progress.
    writing: Option<Instant>,
    /// When a write that had to wait for the peer was complete.
    caught_up: Instant,
}

/// Why a client is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// It does not answer a ping.
    NoPong,
    /// It does not read what is written.
    NotReading,
}

impl Silence {
    pub(super) fn close(self) -> Close {
        match self {
            Self::NoPong => Close { code: 1001, reason: "no answer to a ping".into() },
            Self::NotReading => Close::SLOW_CONSUMER,
        }
    }

    pub(super) fn reason(self) -> Reason {
        match self {
            Self::NoPong => Reason::NoPong,
            Self::NotReading => Reason::NotReading,
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        let now = Instant::now();
        let state = State { heard: now, listening: false, writing: None, caught_up: now };
        Self(Mutex::new(state))
    }
}

impl Activity {
    /// Notes that the peer is listened to from now on, or not any more.
    pub(super) fn listening(&self, listening: bool) {
        let mut state = self.state();
        if listening && !state.listening {
            state.heard = Instant::now();
        }
        state.listening = listening;
    }

    /// Notes that the peer sent something.
    pub(super) fn heard(&self) {
        self.state().heard = Instant::now();
    }

    /// Notes that a write is under way and made progress.
    pub(super) fn wrote(&self) {
        self.state().writing = Some(Instant::now());
    }

    /// Notes that nothing is left to write; `waited` says whether the peer had
    /// to make room for it first, which proves that it reads.
    pub(super) fn written(&self, waited: bool) {
        let mut state = self.state();
        state.writing = None;
        if waited {
            state.caught_up = Instant::now();
        }
    }

    /// Watches the connection until the peer has to be given up. Calls `ping`
    /// when a ping is to be sent.
    pub(super) async fn watch(&self, ping: impl Fn()) -> Silence {
        let mut asked: Option<Instant> = None;
        loop {
            let state = *self.state();
            let now = Instant::now();
            let due = if let Some(progress) = state.writing {
                if now >= progress + STUCK {
                    return Silence::NotReading;
                }
                progress + STUCK
            } else if !state.listening {
                asked = None;
                now + SILENCE
            } else {
                let known = state.heard.max(state.caught_up);
                match asked.filter(|asked| state.heard <= *asked) {
                    None if now < known + SILENCE => {
                        asked = None;
                        known + SILENCE
                    }
                    None => {
                        ping();
                        asked = Some(now);
                        now + ANSWER
                    }
                    Some(at) => {
                        let due = at.max(state.caught_up) + ANSWER;
                        if now >= due {
                            return Silence::NoPong;
                        }
                        due
                    }
                }
            };
            sleep_until(due).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{advance, timeout};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn listened_to() -> Activity {
        let activity = Activity::default();
        activity.listening(true);
        activity
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_answer_is_given_up_within_a_minute() {
        let (activity, start) = (listened_to(), Instant::now());
        let pings = Cell::new(0);
        let end = activity.watch(|| pings.set(pings.get() + 1)).await;
        assert_eq!((end, pings.get()), (Silence::NoPong, 1));
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_is_asked_again_and_again() {
        let activity = listened_to();
        let (asked, pings) = (tokio::sync::Notify::new(), Cell::new(0));
        let answers = async {
            loop {
                asked.notified().await;
                advance(Duration::from_secs(5)).await;
                activity.heard();
            }
        };
        let watching = async {
            tokio::select! {
                end = activity.watch(|| { pings.set(pings.get() + 1); asked.notify_one(); }) => {
                    panic!("{end:?}")
                }
                () = answers => {}
            }
        };
        assert!(timeout(HOUR, watching).await.is_err());
        assert!(pings.get() > 100, "{}", pings.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_slowly_is_kept_and_one_that_stops_is_not() {
        let activity = listened_to();
        activity.wrote();
        let reads = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(40)).await;
                activity.wrote();
            }
        };
        let (end, ()) = tokio::join!(activity.watch(|| panic!("nothing is asked")), async {
            let start = Instant::now();
            reads.await;
            assert_eq!(start.elapsed(), Duration::from_secs(800));
        });
        assert_eq!(end, Silence::NotReading);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_a_peer_that_nobody_listens_to_means_nothing() {
        let activity = Activity::default();
        assert!(timeout(HOUR, activity.watch(|| panic!("nothing is asked"))).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_written_slowly_gives_the_answer_its_time() {
        let activity = listened_to();
        let watching = activity.watch(|| {});
        tokio::pin!(watching);
        assert!(timeout(SILENCE + Duration::from_secs(1), watching.as_mut()).await.is_err());
        // The ping waits behind a large answer, which takes a while to leave.
        for _ in 0..3 {
            activity.wrote();
            assert!(timeout(Duration::from_secs(20), watching.as_mut()).await.is_err());
        }
        activity.written(true);
        assert!(timeout(Duration::from_secs(20), watching.as_mut()).await.is_err());
        assert_eq!(watching.await, Silence::NoPong);
    }
}
