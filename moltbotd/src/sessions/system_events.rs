//! Things that happened beside a conversation and belong into its next turn,
//! for example that a program on a node ended.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::clock;

/// Most events kept for one session; the oldest goes first.
const PER_SESSION: usize = 20;

/// Most sessions with events; the one that was quiet longest goes first.
const SESSIONS: usize = 64;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemEvent {
    /// What, in one or a few lines.
    pub text: String,
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The node that reported it: its words are not those of the person who writes next.
    pub node: Option<String>,
}

/// What the next turn of each session is to be told.
#[derive(Debug, Default)]
pub struct SystemEvents(Mutex<HashMap<String, VecDeque<SystemEvent>>>);

impl SystemEvents {
    /// Keeps an event for the next turn of a session. One that says the same as
    /// the one before it is dropped.
    pub fn queue(&self, session_key: &str, text: impl Into<String>) {
        self.add(session_key, text.into(), None);
    }

    /// Keeps what a node reported.
    pub fn queue_report(&self, session_key: &str, node_id: &str, text: impl Into<String>) {
        self.add(session_key, text.into(), Some(node_id.to_owned()));
    }

    fn add(&self, session_key: &str, text: String, node: Option<String>) {
        let event = SystemEvent { text, at_ms: clock::now_ms(), node };
        let mut sessions = self.sessions();
        if !sessions.contains_key(session_key) && sessions.len() >= SESSIONS {
            drop_quietest(&mut sessions);
        }
        let events = sessions.entry(session_key.to_owned()).or_default();
        if events.back().is_some_and(|last| last.text == event.text) {
            return;
        }
        if events.len() >= PER_SESSION {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// Takes what happened since the last turn of a session, oldest first.
    pub fn take(&self, session_key: &str) -> Vec<SystemEvent> {
        self.sessions().remove(session_key).map(Vec::from).unwrap_or_default()
    }

    /// Keeps events that were taken for a turn which did not come about.
    pub fn give_back(&self, session_key: &str, events: Vec<SystemEvent>) {
        if events.is_empty() {
            return;
        }
        let mut sessions = self.sessions();
        let kept = sessions.entry(session_key.to_owned()).or_default();
        for event in events.into_iter().rev() {
            kept.push_front(event);
        }
        let excess = kept.len().saturating_sub(PER_SESSION);
        kept.drain(..excess);
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, VecDeque<SystemEvent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drop_quietest(sessions: &mut HashMap<String, VecDeque<SystemEvent>>) {
    let last = |events: &VecDeque<SystemEvent>| events.back().map(|event| event.at_ms);
    let quietest = sessions.iter().min_by_key(|(_, events)| last(events));
    if let Some(key) = quietest.map(|(key, _)| key.clone()) {
        sessions.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(events: &SystemEvents, key: &str) -> Vec<String> {
        events.take(key).into_iter().map(|event| event.text).collect()
    }

    #[test]
    fn events_are_taken_once_and_repetitions_dropped() {
        let events = SystemEvents::default();
        for text in ["a", "a", "b", "a"] {
            events.queue("s", text);
        }
        assert_eq!(texts(&events, "s"), ["a", "b", "a"]);
        assert!(events.take("s").is_empty());
    }

    #[test]
    fn what_is_given_back_comes_before_what_happened_since() {
        let events = SystemEvents::default();
        events.queue("s", "a");
        let taken = events.take("s");
        events.queue("s", "b");
        events.give_back("s", taken);
        assert_eq!(texts(&events, "s"), ["a", "b"]);
    }

    #[test]
    fn the_oldest_events_give_way() {
        let events = SystemEvents::default();
        for number in 0..30 {
            events.queue("s", number.to_string());
        }
        let kept = texts(&events, "s");
        assert_eq!((kept.len(), kept[0].as_str()), (20, "10"));
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let events = SystemEvents::default();
        for number in 0..100 {
            events.queue(&number.to_string(), "x");
        }
        assert_eq!(events.sessions().len(), SESSIONS);
        assert_eq!(texts(&events, "99"), ["x"]);
    }
}
