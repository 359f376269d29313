//! The memory of answers that clients have not read, all of them together.
//!
//! Each client's queue has a limit, but a number of clients that ask and do not
//! read would hold as much as they like. When the budget is used up, the client
//! that holds the most is sent away: it is the one that reads least.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicUsize, Ordering},
};

use super::{Close, Outbox};
use crate::metrics::Count;

/// Bytes of unread answers of all clients together: less than a tenth of what
/// the service's unit allows the process.
const LIMIT: usize = 128 * 1024 * 1024;

/// The budget of all clients together.
#[derive(Debug)]
pub struct AnswerBudget {
    limit: usize,
    held: Arc<AtomicUsize>,
    outboxes: Mutex<Vec<Weak<Outbox>>>,
    overloads: Count,
}

/// What one answer takes, given back when it is dropped.
#[derive(Debug)]
pub struct Charge {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Default for AnswerBudget {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

impl AnswerBudget {
    /// Returns a budget of so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            held: Arc::default(),
            outboxes: Mutex::default(),
            overloads: Count::default(),
        }
    }

    /// Returns the bytes of answers that are held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Returns how many clients were sent away because all answers together
    /// were too many.
    #[must_use]
    pub fn overloads(&self) -> u64 {
        self.overloads.get()
    }

    pub(super) fn charge(&self, bytes: usize) -> Charge {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Charge { held: Arc::clone(&self.held), bytes }
    }

    /// Takes an outbox for one that may have to be closed.
    pub(super) fn watch(&self, outbox: &Arc<Outbox>) {
        let mut outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of clients that left go when the list would have to grow.
        if outboxes.len() == outboxes.capacity() {
            outboxes.retain(|outbox| outbox.strong_count() > 0);
        }
        outboxes.push(Arc::downgrade(outbox));
    }

    /// Closes the outbox that holds the most while all of them hold too much.
    pub(super) fn relieve(&self) {
        if self.held() <= self.limit {
            return;
        }
        let outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = outboxes
            .iter()
            .filter_map(Weak::upgrade)
            .map(|outbox| (outbox.unread_answers(), outbox))
            .filter(|(unread, _)| *unread > 0)
            .collect();
        drop(outboxes);
        found.sort_unstable_by_key(|(unread, _)| *unread);

        // What a closed client's socket still holds comes back a moment later.
        let mut excess = self.held().saturating_sub(self.limit);
        while excess > 0
            && let Some((unread, outbox)) = found.pop()
        {
            self.overloads.one();
            outbox.close(Close::OVERLOADED);
            excess = excess.saturating_sub(unread);
        }
    }
}
