//! How many runs are under way at once, over all conversations.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits; their number follows the configuration.
#[derive(Debug)]
pub(super) struct Permits {
    semaphore: Arc<Semaphore>,
    size: Mutex<usize>,
}

impl Default for Permits {
    fn default() -> Self {
        Self { semaphore: Arc::new(Semaphore::new(0)), size: Mutex::new(0) }
    }
}

impl Permits {
    /// Waits for one of `size` permits, in the order of asking.
    pub(super) async fn acquire(&self, size: usize) -> OwnedSemaphorePermit {
        self.resize(size.max(1));
        let permit = Arc::clone(&self.semaphore).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    fn resize(&self, wanted: usize) {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted > *size {
            self.semaphore.add_permits(wanted - *size);
            *size = wanted;
        } else {
            // Those in use go when a later run asks again.
            *size -= self.semaphore.forget_permits(*size - wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_number_follows_the_configuration() {
        let permits = Permits::default();
        let first = permits.acquire(1).await;
        assert!(permits.acquire(1).now_or_never().is_none());
        let second = permits.acquire(2).await;
        drop((first, second));
        let _only = permits.acquire(1).await;
        assert!(permits.acquire(1).now_or_never().is_none());
    }
}
