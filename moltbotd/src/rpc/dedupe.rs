//! Idempotency keys: a repeated call gets the stored answer.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use moltbot_protocol::ErrorShape;
use serde_json::Value;

const LIFETIME: Duration = Duration::from_secs(300);
const CAPACITY: usize = 1000;

/// Answers by `<method>:<idempotencyKey>`; kept five minutes, at most 1000.
#[derive(Debug, Default)]
pub struct Dedupe(Mutex<HashMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    at: Instant,
    answer: Option<Answer>,
}

type Answer = Result<Value, (ErrorShape, Option<Value>)>;

/// Who answers a call with an idempotency key.
#[derive(Debug, PartialEq)]
pub enum Claim {
    /// Nobody did before: the caller of [`Dedupe::claim`] must.
    First,
    /// An earlier call is at it.
    InFlight,
    /// An earlier call was answered with this.
    Done(Answer),
}

impl Dedupe {
    /// Claims a key. After [`Claim::First`], call [`Dedupe::store`] or
    /// [`Dedupe::release`].
    pub fn claim(&self, key: &str) -> Claim {
        let mut entries = self.entries();
        match entries.get(key) {
            Some(Entry { answer: Some(answer), .. }) => Claim::Done(answer.clone()),
            Some(_) => Claim::InFlight,
            None => {
                make_room(&mut entries);
                entries.insert(key.to_owned(), Entry { at: Instant::now(), answer: None });
                Claim::First
            }
        }
    }

    /// Stores the answer that repeated calls get.
    pub fn store(&self, key: &str, answer: Answer) {
        self.entries().insert(key.to_owned(), Entry { at: Instant::now(), answer: Some(answer) });
    }

    /// Gives a claimed key back without an answer.
    pub fn release(&self, key: &str) {
        self.entries().remove(key);
    }

    /// Forgets what is older than five minutes. Calls in flight stay.
    pub fn sweep(&self) {
        self.entries().retain(|_, entry| entry.answer.is_none() || entry.at.elapsed() < LIFETIME);
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(entries: &mut HashMap<String, Entry>) {
    if entries.len() < CAPACITY {
        return;
    }
    let oldest = entries
        .iter()
        .filter(|(_, entry)| entry.answer.is_some())
        .min_by_key(|(_, entry)| entry.at)
        .map(|(key, _)| key.clone());
    if let Some(key) = oldest {
        entries.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_claimed_once_and_then_answered_from_the_store() {
        let dedupe = Dedupe::default();
        assert_eq!(dedupe.claim("send:a"), Claim::First);
        assert_eq!(dedupe.claim("send:a"), Claim::InFlight);
        dedupe.store("send:a", Ok(Value::Bool(true)));
        assert_eq!(dedupe.claim("send:a"), Claim::Done(Ok(Value::Bool(true))));
    }

    #[test]
    fn the_oldest_answer_makes_room() {
        let dedupe = Dedupe::default();
        for index in 0..=CAPACITY {
            let key = index.to_string();
            assert_eq!(dedupe.claim(&key), Claim::First);
            dedupe.store(&key, Ok(Value::Null));
        }
        assert_eq!(dedupe.claim("0"), Claim::First);
    }
}
