//! One run at a time in a conversation, in the order of acceptance.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The lanes of all conversations that have runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes(Arc<Mutex<Table>>);

/// A lane is there while somebody is in it; those that wait are in their order.
type Table = HashMap<String, VecDeque<oneshot::Sender<()>>>;

/// A place in a lane; dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Place {
    lanes: Lanes,
    key: String,
    turn: Option<oneshot::Receiver<()>>,
}

impl Lanes {
    /// Takes the next place in a lane.
    pub(super) fn enter(&self, key: &str) -> Place {
        let mut table = self.table();
        let turn = match table.get_mut(key) {
            None => {
                table.insert(key.to_owned(), VecDeque::new());
                None
            }
            Some(waiting) => {
                let (sender, turn) = oneshot::channel();
                waiting.push_back(sender);
                Some(turn)
            }
        };
        Place { lanes: self.clone(), key: key.to_owned(), turn }
    }

    /// Returns how many wait in a lane.
    pub(super) fn waiting(&self, key: &str) -> usize {
        self.table().get(key).map_or(0, VecDeque::len)
    }

    fn leave(&self, key: &str) {
        let mut table = self.table();
        let Some(waiting) = table.get_mut(key) else { return };
        while let Some(next) = waiting.pop_front() {
            if next.send(()).is_ok() {
                return;
            }
        }
        table.remove(key);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Returns whether others are before it.
    pub(super) fn waits(&self) -> bool {
        self.turn.is_some()
    }

    /// Waits until it is first.
    pub(super) async fn turn(&mut self) {
        if let Some(turn) = &mut self.turn {
            // The sender goes only when it was used: whoever leaves a lane
            // hands it on.
            let _ = turn.await;
            self.turn = None;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.turn.take() {
            None => self.lanes.leave(&self.key),
            // The turn may have come in the moment of giving up.
            Some(mut turn) => {
                turn.close();
                if turn.try_recv().is_ok() {
                    self.lanes.leave(&self.key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn places_are_served_in_the_order_they_were_taken() {
        let lanes = Lanes::default();
        let first = lanes.enter("a");
        let mut second = lanes.enter("a");
        let mut third = lanes.enter("a");
        let other = lanes.enter("b");
        assert!(!first.waits() && second.waits() && third.waits() && !other.waits());
        assert_eq!(lanes.waiting("a"), 2);
        drop(first);
        assert!(third.turn().now_or_never().is_none());
        second.turn().await;
        drop(second);
        third.turn().await;
    }

    #[tokio::test]
    async fn a_place_given_up_is_skipped_and_an_empty_lane_forgotten() {
        let lanes = Lanes::default();
        let first = lanes.enter("a");
        let second = lanes.enter("a");
        let mut third = lanes.enter("a");
        drop(second);
        drop(first);
        third.turn().await;
        drop(third);
        assert!(lanes.table().is_empty());
    }

    #[tokio::test]
    async fn a_turn_that_comes_while_giving_up_is_handed_on() {
        let lanes = Lanes::default();
        let first = lanes.enter("a");
        let second = lanes.enter("a");
        let mut third = lanes.enter("a");
        drop(first);
        drop(second);
        third.turn().await;
    }
}
