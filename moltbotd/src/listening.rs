//! Where the daemon listens now, for those who ask. An address of a tailnet may
//! come and go while it runs.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The TCP addresses the daemon listens on.
#[derive(Debug, Default)]
pub struct Listening(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: BTreeSet<SocketAddr>,
    trouble: Option<String>,
}

impl Listening {
    /// Notes an address that is listened on from now on.
    pub fn opened(&self, address: SocketAddr) {
        self.state().open.insert(address);
    }

    /// Notes an address that is not listened on any more.
    pub fn closed(&self, address: SocketAddr) {
        self.state().open.remove(&address);
    }

    /// Notes why an address that was asked for is not listened on, if so.
    /// Returns whether that is news.
    pub fn set_trouble(&self, why: Option<String>) -> bool {
        let mut state = self.state();
        let news = state.trouble != why;
        state.trouble = why;
        news
    }

    /// Returns the addresses, each with its port.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.state().open.iter().map(ToString::to_string).collect()
    }

    /// Returns why an address that was asked for is not listened on.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
