//! A client's bounded queue of outgoing frames.

use std::{
    borrow::Cow,
    collections::VecDeque,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moltbot_protocol::Delivery;
use tokio::{sync::Notify, time::Instant};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::answers::{AnswerBudget, Charge};

/// Bytes after which a batch of frames is written.
const BATCH: usize = 256 * 1024;
/// Bytes of unread and expected answers above which no further call of the
/// client is started: two or three of the largest answers there are.
const ENOUGH_ANSWERS: usize = 16 * 1024 * 1024;
/// Bytes of unread answers with which a client is sent away. Calls that were
/// started together may each have a larger answer than was expected.
const MOST_ANSWERS: usize = 2 * ENOUGH_ANSWERS;

/// How long nothing may have been written before a client over its limit counts as one that does
/// not read. A burst can fill a queue before its writer has a turn: without this, whoever may
/// start a run could have every other client closed, the control socket and the nodes included.
const STALLED: Duration = Duration::from_secs(2);
/// How many times the limit a client that does read may be behind. Events are shared by all
/// clients, so what many of them are behind is held once.
const BURST: usize = 16;

/// Frames waiting for, or on their way to, one socket.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    limit: usize,
    budget: Arc<AnswerBudget>,
    filled: Notify,
    drained: Notify,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Outgoing>,
    /// Bytes queued and bytes handed to the socket but not yet written.
    bytes: usize,
    /// Those of them that are answers.
    answers: usize,
    /// Bytes that the answers of started calls are expected to have.
    expected: usize,
    /// When bytes were last written, or the first of those that wait were queued.
    moved_at: Option<Instant>,
    end: Option<End>,
}

impl Queue {
    /// Returns the bytes of events, which alone count against the limit: a client that is being
    /// sent a long answer it asked for is not slow.
    fn events(&self) -> usize {
        self.bytes.saturating_sub(self.answers)
    }

    fn is_stalled(&self) -> bool {
        self.moved_at.is_some_and(|at| at.elapsed() >= STALLED)
    }
}

/// A frame with the memory that it takes. Events are shared by all clients;
/// an answer is its client's own, and counts until it is written or dropped.
#[derive(Debug)]
pub struct Outgoing {
    text: Utf8Bytes,
    charge: Option<Charge>,
}

impl Outgoing {
    /// Returns the text, and what counts its memory.
    #[must_use]
    pub fn into_parts(self) -> (Utf8Bytes, Option<Charge>) {
        (self.text, self.charge)
    }
}

impl Deref for Outgoing {
    type Target = Utf8Bytes;

    fn deref(&self) -> &Utf8Bytes {
        &self.text
    }
}

/// Room for the answer of a call that was started, given back when dropped.
#[derive(Debug)]
pub struct Expected {
    outbox: Arc<Outbox>,
    bytes: usize,
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.outbox.queue().expected -= self.bytes;
        self.outbox.drained.notify_waiters();
    }
}

#[derive(Clone, Debug)]
struct End {
    close: Close,
    /// Whether what is queued is still written before the goodbye.
    drain: bool,
}

/// The close frame a client gets: code and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Close code of RFC 6455; 0 means that the peer is gone and gets none.
    pub code: u16,
    /// At most 120 bytes.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// The peer left.
    pub const GONE: Self = Self { code: 0, reason: Cow::Borrowed("") };
    /// The peer reads too slowly.
    pub const SLOW_CONSUMER: Self = Self { code: 1008, reason: Cow::Borrowed("slow consumer") };
    /// The peer does not read its answers.
    pub const UNREAD_ANSWERS: Self =
        Self { code: 1008, reason: Cow::Borrowed("too many answers are not read") };
    /// The peers' unread answers take too much memory, and this peer's the most.
    pub const OVERLOADED: Self = Self {
        code: 1013,
        reason: Cow::Borrowed("unread answers take too much memory, try again later"),
    };
    /// The daemon stops or restarts.
    pub const RESTART: Self = Self { code: 1012, reason: Cow::Borrowed("service restart") };

    /// Returns a policy violation with its reason.
    #[must_use]
    pub fn policy(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code: 1008, reason: reason.into() }
    }
}

/// What became of a pushed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It will be sent.
    Queued,
    /// The queue was full and the frame skippable.
    Skipped,
    /// The queue was full and the frame required: the client is being closed.
    Overflowed,
    /// The client had been closed before.
    Closed,
}

impl Outbox {
    /// Returns an empty queue that holds up to `limit` bytes, and counts its
    /// answers with those of nobody else.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self::with_budget(limit, Arc::default())
    }

    /// Returns an empty queue whose answers count with those of all clients.
    #[must_use]
    pub fn within(budget: &Arc<AnswerBudget>, limit: usize) -> Arc<Self> {
        let outbox = Arc::new(Self::with_budget(limit, Arc::clone(budget)));
        budget.watch(&outbox);
        outbox
    }

    fn with_budget(limit: usize, budget: Arc<AnswerBudget>) -> Self {
        Self {
            queue: Mutex::default(),
            limit,
            budget,
            filled: Notify::new(),
            drained: Notify::new(),
            ended: Notify::new(),
        }
    }

    /// Queues a frame; never waits.
    pub fn push(&self, text: Utf8Bytes, delivery: Delivery) -> Push {
        let mut queue = self.queue();
        if queue.end.is_some() {
            return Push::Closed;
        }
        // A single frame larger than the limit is let through when nothing else waits.
        let events = queue.events();
        let full = events > 0 && events + text.len() > self.limit;
        let too_far = full && events + text.len() > self.limit.saturating_mul(BURST);
        match delivery {
            Delivery::Skippable if full => return Push::Skipped,
            Delivery::Required if too_far || (full && queue.is_stalled()) => {
                drop(queue);
                self.close(Close::SLOW_CONSUMER);
                return Push::Overflowed;
            }
            Delivery::Answer if queue.answers > 0 && queue.answers + text.len() > MOST_ANSWERS => {
                drop(queue);
                self.close(Close::UNREAD_ANSWERS);
                return Push::Overflowed;
            }
            _ => {}
        }

        if queue.bytes == 0 {
            queue.moved_at = Some(Instant::now());
        }
        let is_answer = matches!(delivery, Delivery::Answer);
        let charge = is_answer.then(|| self.budget.charge(text.len()));
        queue.bytes += text.len();
        queue.answers += if is_answer { text.len() } else { 0 };
        queue.frames.push_back(Outgoing { text, charge });
        drop(queue);
        self.filled.notify_one();

        // Not under the lock above: the queue that has to go may be this one.
        if is_answer {
            self.budget.relieve();
        }
        Push::Queued
    }

    /// Expects an answer of about so many bytes: until it is there, [`room`]
    /// waits sooner.
    ///
    /// [`room`]: Outbox::room
    pub fn expect(self: &Arc<Self>, bytes: usize) -> Expected {
        self.queue().expected += bytes;
        Expected { outbox: Arc::clone(self), bytes }
    }

    /// Returns the bytes of answers that are not written yet.
    pub(super) fn unread_answers(&self) -> usize {
        let queue = self.queue();
        if queue.end.is_some() { 0 } else { queue.answers }
    }

    /// Waits until less than half of the limit is in use and few answers are
    /// unread or expected. The reader calls this before it accepts another
    /// request: answers that were made have to be kept.
    pub async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            {
                let queue = self.queue();
                let is_free =
                    queue.bytes * 2 < self.limit && queue.answers + queue.expected < ENOUGH_ANSWERS;
                if is_free || queue.end.is_some() {
                    return;
                }
            }
            drained.await;
        }
    }

    /// Waits for frames and takes some of them, about `BATCH` bytes: the rest
    /// can still be dropped. Returns the goodbye once a finished queue is empty.
    pub async fn take(&self, frames: &mut VecDeque<Outgoing>) -> Option<Close> {
        loop {
            let filled = self.filled.notified();
            {
                let mut queue = self.queue();
                let mut bytes = 0;
                while bytes < BATCH
                    && let Some(frame) = queue.frames.pop_front()
                {
                    bytes += frame.len();
                    frames.push_back(frame);
                }
                if bytes > 0 {
                    // A burst would leave its room behind for as long as the client stays.
                    if queue.frames.is_empty() {
                        queue.frames.shrink_to(4);
                    }
                    return None;
                }
                if let Some(end) = &queue.end {
                    return Some(end.close.clone());
                }
            }
            filled.await;
        }
    }

    /// Waits until the queue is closed without draining, and says why. A
    /// writer blocked on a full socket does not look at the queue, so its
    /// connection waits for this beside it.
    pub async fn closed(&self) -> Close {
        loop {
            let ended = self.ended.notified();
            if let Some(end) = self.queue().end.clone().filter(|end| !end.drain) {
                return end.close;
            }
            ended.await;
        }
    }

    /// Waits until the queue is closed or finished, and says why.
    pub async fn ending(&self) -> Close {
        loop {
            let ended = self.ended.notified();
            if let Some(end) = self.queue().end.clone() {
                return end.close;
            }
            ended.await;
        }
    }

    /// Gives back the room of frames that were written, `answers` of it those
    /// of answers.
    pub fn written(&self, bytes: usize, answers: usize) {
        let mut queue = self.queue();
        queue.bytes = queue.bytes.saturating_sub(bytes);
        queue.answers = queue.answers.saturating_sub(answers);
        queue.moved_at = Some(Instant::now());
        drop(queue);
        self.drained.notify_waiters();
    }

    /// Stops the queue; what is still in it is dropped.
    pub fn close(&self, close: Close) {
        self.end(End { close, drain: false });
    }

    /// Stops the queue once what is in it has been written.
    pub fn finish(&self, close: Close) {
        self.end(End { close, drain: true });
    }

    /// Returns whether the queue was closed or finished.
    pub fn is_closed(&self) -> bool {
        self.queue().end.is_some()
    }

    fn end(&self, end: End) {
        let mut queue = self.queue();
        if !end.drain {
            queue.frames.clear();
        }
        match &mut queue.end {
            // A hard close overrides a graceful one; the first reason stands.
            Some(first) => first.drain &= end.drain,
            none => *none = Some(end),
        }
        drop(queue);
        self.filled.notify_one();
        self.ended.notify_waiters();
        self.ended.notify_one();
        self.drained.notify_waiters();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_skips_what_may_be_skipped() {
        let outbox = Outbox::new(10);
        assert_eq!(outbox.push("12345678".into(), Delivery::Required), Push::Queued);
        assert_eq!(outbox.push("12345678".into(), Delivery::Skippable), Push::Skipped);
        assert!(!outbox.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_closes_a_client_that_would_miss_state_and_does_not_read() {
        let outbox = Outbox::new(10);
        outbox.push("12345678".into(), Delivery::Required);
        tokio::time::advance(STALLED).await;
        assert_eq!(outbox.push("12345678".into(), Delivery::Required), Push::Overflowed);
        assert_eq!(outbox.push("1".into(), Delivery::Required), Push::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_closes_no_client_that_reads_but_does_not_grow_without_end() {
        let outbox = Outbox::new(10);
        for _ in 0..BURST {
            assert_eq!(outbox.push("1234567890".into(), Delivery::Required), Push::Queued);
        }
        tokio::time::advance(STALLED).await;
        outbox.written(10, 0);
        assert_eq!(outbox.push("1234567890".into(), Delivery::Required), Push::Queued);
        assert_eq!(outbox.push("1".into(), Delivery::Required), Push::Overflowed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_on_its_way_makes_nobody_a_slow_consumer() {
        let outbox = Outbox::new(10);
        outbox.push("a long answer that was asked for".into(), Delivery::Answer);
        tokio::time::advance(STALLED).await;
        assert_eq!(outbox.push("12345678".into(), Delivery::Required), Push::Queued);
    }

    #[test]
    fn an_answer_is_queued_whatever_the_queue_holds() {
        let outbox = Outbox::new(10);
        outbox.push("12345678".into(), Delivery::Required);
        assert_eq!(outbox.push("12345678".into(), Delivery::Answer), Push::Queued);
    }

    fn answer(size: usize) -> Utf8Bytes {
        "x".repeat(size).into()
    }

    #[test]
    fn a_client_that_leaves_too_many_answers_unread_is_sent_away_and_its_memory_is_back() {
        let budget = Arc::<AnswerBudget>::default();
        let outbox = Outbox::within(&budget, 10);
        assert_eq!(outbox.push(answer(MOST_ANSWERS - 1), Delivery::Answer), Push::Queued);
        assert_eq!(budget.held(), MOST_ANSWERS - 1);
        assert_eq!(outbox.push(answer(2), Delivery::Answer), Push::Overflowed);
        assert_eq!(budget.held(), 0);
        assert_eq!(outbox.queue().end.as_ref().unwrap().close, Close::UNREAD_ANSWERS);
    }

    #[test]
    fn when_all_answers_are_too_many_the_client_with_the_most_goes() {
        let budget = Arc::new(AnswerBudget::new(100));
        let (greedy, modest) = (Outbox::within(&budget, 10), Outbox::within(&budget, 10));
        greedy.push(answer(90), Delivery::Answer);
        assert_eq!(modest.push(answer(20), Delivery::Answer), Push::Queued);
        assert!(greedy.is_closed() && !modest.is_closed());
        assert_eq!(greedy.queue().end.as_ref().unwrap().close, Close::OVERLOADED);
        assert_eq!((budget.held(), budget.overloads()), (20, 1));
        drop(modest);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn no_call_is_started_while_many_answers_are_expected() {
        let outbox = Arc::new(Outbox::new(1 << 20));
        let first = outbox.expect(ENOUGH_ANSWERS - 5);
        outbox.room().await;
        let second = outbox.expect(5);
        let mut room = Box::pin(outbox.room());
        let waits = tokio::time::timeout(Duration::from_millis(1), &mut room).await;
        assert!(waits.is_err(), "two answers are expected");
        drop((first, second));
        room.await;
    }

    #[tokio::test]
    async fn room_returns_once_frames_are_written() {
        let outbox = Outbox::new(10);
        outbox.push("12345678".into(), Delivery::Required);
        let mut frames = VecDeque::new();
        outbox.take(&mut frames).await;
        tokio::join!(outbox.room(), async {
            tokio::task::yield_now().await;
            outbox.written(8, 0);
        });
    }

    #[tokio::test]
    async fn a_finished_queue_is_written_before_the_goodbye() {
        let outbox = Outbox::new(100);
        outbox.push("last words".into(), Delivery::Required);
        outbox.finish(Close::RESTART);
        let mut frames = VecDeque::new();
        assert_eq!(outbox.take(&mut frames).await, None);
        assert_eq!(frames.len(), 1);
        assert_eq!(outbox.take(&mut frames).await, Some(Close::RESTART));
    }
}
