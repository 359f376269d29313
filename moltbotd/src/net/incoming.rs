//! The memory of messages that clients have begun to send, all of them
//! together.
//!
//! One message is bounded by the frame limit; a number of clients that each
//! begin one and do not go on would hold as much as they like. When the budget
//! is used up, the message that arrives slowest is dropped with its connection:
//! one that stands still goes before one that is being sent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The budget of all clients together.
#[derive(Debug)]
pub struct IncomingBudget {
    limit: usize,
    messages: Mutex<Messages>,
}

#[derive(Debug, Default)]
struct Messages {
    next_id: u64,
    held: usize,
    by_id: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    held: usize,
    received: usize,
    since: Instant,
    /// Whether it is complete: it is being worked on, and cannot be dropped.
    finished: bool,
    dropped: CancellationToken,
}

/// The share of one message, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    budget: Arc<IncomingBudget>,
    id: u64,
    dropped: CancellationToken,
}

impl IncomingBudget {
    /// Returns a budget of so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, messages: Mutex::default() }
    }

    /// Begins to count a message.
    pub(super) fn begin(budget: &Arc<Self>) -> Hold {
        let dropped = CancellationToken::new();
        let mut messages = budget.messages();
        let id = messages.next_id;
        messages.next_id += 1;
        let (since, entry_dropped) = (Instant::now(), dropped.clone());
        let entry = Entry { held: 0, received: 0, since, finished: false, dropped: entry_dropped };
        messages.by_id.insert(id, entry);
        Hold { budget: Arc::clone(budget), id, dropped }
    }

    /// Returns the bytes that messages hold now.
    pub(super) fn held(&self) -> usize {
        self.messages().held
    }

    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Messages {
    fn resize(&mut self, id: u64, held: usize, received: usize) {
        let Some(entry) = self.by_id.get_mut(&id) else { return };
        self.held = self.held - entry.held + held;
        entry.held = held;
        entry.received = received;
    }

    /// Drops the unfinished message that has arrived slowest so far.
    fn drop_slowest(&mut self) -> bool {
        let now = Instant::now();
        let rate = |entry: &Entry| {
            let elapsed_ms = now.duration_since(entry.since).as_millis() + 1;
            entry.received as u128 * 1000 / elapsed_ms
        };
        let unfinished = self.by_id.iter().filter(|(_, entry)| !entry.finished);
        let slowest = unfinished.min_by_key(|(id, entry)| (rate(entry), **id));
        let Some(id) = slowest.map(|(id, _)| *id) else { return false };
        if let Some(entry) = self.by_id.remove(&id) {
            self.held -= entry.held;
            entry.dropped.cancel();
        }
        true
    }
}

impl Hold {
    /// Counts `held` bytes of memory for a message of which `received` bytes
    /// have arrived. Returns whether it may have them.
    pub(super) fn grow(&self, held: usize, received: usize) -> bool {
        let mut messages = self.budget.messages();
        messages.resize(self.id, held, received);
        while messages.held > self.budget.limit && messages.drop_slowest() {}
        messages.by_id.contains_key(&self.id) && messages.held <= self.budget.limit
    }

    /// Notes that the message is complete.
    pub(super) fn finished(&self) {
        if let Some(entry) = self.budget.messages().by_id.get_mut(&self.id) {
            entry.finished = true;
        }
    }

    /// Waits until the message has to go.
    pub(super) async fn dropped(&self) {
        self.dropped.cancelled().await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut messages = self.budget.messages();
        if let Some(entry) = messages.by_id.remove(&self.id) {
            messages.held -= entry.held;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_that_stands_still_goes_before_one_that_arrives() {
        let budget = Arc::new(IncomingBudget::new(100));
        let stalled = IncomingBudget::begin(&budget);
        assert!(stalled.grow(60, 50));
        tokio::time::advance(Duration::from_secs(10)).await;
        let arriving = IncomingBudget::begin(&budget);
        assert!(arriving.grow(30, 20));
        assert!(arriving.grow(60, 40), "the other one makes room");
        stalled.dropped().await;
        assert!(!stalled.grow(70, 60));
        assert_eq!(budget.held(), 60);
        drop((stalled, arriving));
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_worked_on_keeps_its_memory() {
        let budget = Arc::new(IncomingBudget::new(100));
        let whole = IncomingBudget::begin(&budget);
        assert!(whole.grow(90, 90));
        whole.finished();
        let late = IncomingBudget::begin(&budget);
        assert!(!late.grow(20, 20));
        drop(late);
        assert_eq!(budget.held(), 90);
    }
}
