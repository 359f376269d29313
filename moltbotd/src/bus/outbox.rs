//! A client's bounded queue of outgoing frames.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use moltbot_protocol::Delivery;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Frames waiting for, or on their way to, one socket.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    limit: usize,
    filled: Notify,
    drained: Notify,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Utf8Bytes>,
    /// Bytes queued and bytes handed to the socket but not yet written.
    bytes: usize,
    end: Option<End>,
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
    /// Returns an empty queue that holds up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            queue: Mutex::default(),
            limit,
            filled: Notify::new(),
            drained: Notify::new(),
            ended: Notify::new(),
        }
    }

    /// Queues a frame; never waits.
    pub fn push(&self, frame: Utf8Bytes, delivery: Delivery) -> Push {
        let mut queue = self.queue();
        if queue.end.is_some() {
            return Push::Closed;
        }
        // A single frame larger than the limit is let through when nothing else waits.
        let full = queue.bytes > 0 && queue.bytes + frame.len() > self.limit;
        match delivery {
            Delivery::Skippable if full => return Push::Skipped,
            Delivery::Required if full => {
                drop(queue);
                self.close(Close::SLOW_CONSUMER);
                return Push::Overflowed;
            }
            _ => {}
        }
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        drop(queue);
        self.filled.notify_one();
        Push::Queued
    }

    /// Waits until less than half of the limit is in use: the reader calls
    /// this before it accepts another request.
    pub async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            {
                let queue = self.queue();
                if queue.bytes * 2 < self.limit || queue.end.is_some() {
                    return;
                }
            }
            drained.await;
        }
    }

    /// Waits for frames and takes them all. Returns the goodbye once a
    /// finished queue is empty.
    pub async fn take(&self, frames: &mut VecDeque<Utf8Bytes>) -> Option<Close> {
        loop {
            let filled = self.filled.notified();
            {
                let mut queue = self.queue();
                if !queue.frames.is_empty() {
                    std::mem::swap(frames, &mut queue.frames);
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

    /// Gives back the room of frames that were written.
    pub fn written(&self, bytes: usize) {
        let mut queue = self.queue();
        queue.bytes = queue.bytes.saturating_sub(bytes);
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

    #[test]
    fn a_full_queue_closes_a_client_that_would_miss_state() {
        let outbox = Outbox::new(10);
        outbox.push("12345678".into(), Delivery::Required);
        assert_eq!(outbox.push("12345678".into(), Delivery::Required), Push::Overflowed);
        assert_eq!(outbox.push("1".into(), Delivery::Required), Push::Closed);
    }

    #[test]
    fn an_answer_is_queued_whatever_the_queue_holds() {
        let outbox = Outbox::new(10);
        outbox.push("12345678".into(), Delivery::Required);
        assert_eq!(outbox.push("12345678".into(), Delivery::Answer), Push::Queued);
    }

    #[tokio::test]
    async fn room_returns_once_frames_are_written() {
        let outbox = Outbox::new(10);
        outbox.push("12345678".into(), Delivery::Required);
        let mut frames = VecDeque::new();
        outbox.take(&mut frames).await;
        tokio::join!(outbox.room(), async {
            tokio::task::yield_now().await;
            outbox.written(8);
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
