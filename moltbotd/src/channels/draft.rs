//! Shows that an answer is being written: a typing sign, then a message that
//! grows. The finished answer replaces that message.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    OutboundMessage, Progress, Route,
    driver::{Driver, Part, SendFailure},
};
use crate::{clock::now_ms, store::Store};

/// Services show the sign for five to six seconds.
const TYPING_INTERVAL: Duration = Duration::from_secs(5);

/// Answers that are finished within it are shown at once and whole.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// More edits than this are refused by services.
const EDIT_INTERVAL: Duration = Duration::from_secs(1);

/// Displays that are open, by the key of the answer.
#[derive(Default)]
pub(super) struct Drafts {
    open: Mutex<HashMap<String, Open>>,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct Open {
    stop: CancellationToken,
    done: CancellationToken,
}

struct Display {
    text: watch::Sender<String>,
    stop: CancellationToken,
}

impl Progress for Display {
    fn update(&mut self, text: &str) {
        self.text.send_replace(text.to_owned());
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Drafts {
    /// Opens a display.
    pub(super) fn open(
        self: &Arc<Self>,
        store: Store,
        driver: Arc<dyn Driver>,
        route: &Route,
        key: &str,
    ) -> Box<dyn Progress> {
        let (text, texts) = watch::channel(String::new());
        let open = Open { stop: CancellationToken::new(), done: CancellationToken::new() };
        let earlier = self.lock().insert(key.to_owned(), open.clone());
        let (key, route) = (key.to_owned(), route.clone());
        let display = Display { text, stop: open.stop.clone() };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Some(earlier) = earlier {
                earlier.stop.cancel();
                earlier.done.cancelled().await;
            }
            let writer = Writer { store, driver, route, key, stop: open.stop.clone() };
            tokio::join!(
                open.stop.run_until_cancelled(typing(&*writer.driver, &writer.route)),
                writer.show(texts)
            );
            open.done.cancel();
            this.lock().retain(|_, other| !other.done.is_cancelled());
        });
        Box::new(display)
    }

    /// Ends the display of an answer and waits for what it was sending.
    pub(super) async fn finish(&self, key: &str) {
        let open = self.lock().get(key).cloned();
        if let Some(Open { stop, done }) = open {
            stop.cancel();
            done.cancelled().await;
        }
    }

    /// Ends all displays and waits for what they were sending: a draft that is
    /// not known to have arrived would stay in the chat, half as it is.
    pub(super) async fn stop(&self) {
        self.lock().values().for_each(|open| open.stop.cancel());
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn typing(driver: &dyn Driver, route: &Route) {
    loop {
        driver.typing(route).await;
        tokio::time::sleep(TYPING_INTERVAL).await;
    }
}

struct Writer {
    store: Store,
    driver: Arc<dyn Driver>,
    route: Route,
    key: String,
    stop: CancellationToken,
}

impl Writer {
    /// Returns when told to stop, and never in the middle of a request: whoever
    /// waits for it must know what was sent.
    async fn show(&self, mut texts: watch::Receiver<String>) {
        let Some(step) = self.driver.draft_step() else { return };
        if !self.changed(&mut texts).await || !self.pause(FIRST_PAUSE).await {
            return;
        }
        let mut shown = String::new();
        let mut id = None;
        loop {
            let text = texts.borrow_and_update().clone();
            let grown = text.chars().count() >= shown.chars().count() + step.max(1);
            if let Some(part) = self.part(&text).filter(|_| grown || id.is_none()) {
                let after = match &id {
                    None => match self.begin(&part).await {
                        Some(new) => {
                            id = Some(new);
                            Some(EDIT_INTERVAL)
                        }
                        None => None,
                    },
                    Some(id) => self.edit(id, &part).await,
                };
                let Some(after) = after else { return };
                shown = text;
                if !self.pause(after).await {
                    return;
                }
            }
            if !self.changed(&mut texts).await {
                return;
            }
        }
    }

    /// Sends the draft or finds the one of an earlier life of the daemon.
    async fn begin(&self, part: &Part) -> Option<String> {
        let Route { channel, account, to, .. } = self.route.clone();
        let key = self.key.clone();
        let new = self
            .store
            .write(move |db| {
                if db.begin_draft(&key, &channel, &account, &to, now_ms())? {
                    return Ok(None);
                }
                db.draft(&key)
            })
            .await
            .ok()?;
        if let Some(earlier) = new {
            return earlier.message_id;
        }
        let key = self.key.clone();
        match self.driver.send(&self.route, part, false).await {
            Ok(id) => {
                let confirmed = id.clone();
                self.store.write(move |db| db.confirm_draft(&key, &confirmed)).await.ok()?;
                Some(id)
            }
            // The answer will be marked, since this may be visible.
            Err(SendFailure::Unknown(_)) => None,
            Err(_) => {
                self.store.write(move |db| db.forget_draft(&key)).await.ok()?;
                None
            }
        }
    }

    async fn edit(&self, id: &str, part: &Part) -> Option<Duration> {
        match self.driver.edit(&self.route, id, part).await {
            Ok(()) | Err(SendFailure::Unknown(_)) => Some(EDIT_INTERVAL),
            Err(SendFailure::Later { after, .. }) => {
                Some(after.unwrap_or_default().max(EDIT_INTERVAL))
            }
            Err(SendFailure::Refused(_) | SendFailure::Gone) => None,
        }
    }

    fn part(&self, text: &str) -> Option<Part> {
        let message =
            OutboundMessage { route: self.route.clone(), text: text.to_owned(), media: Vec::new() };
        self.driver.parts(&message, true).into_iter().next()
    }

    async fn changed(&self, texts: &mut watch::Receiver<String>) -> bool {
        matches!(self.stop.run_until_cancelled(texts.changed()).await, Some(Ok(())))
    }

    async fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        self.stop.run_until_cancelled(tokio::time::sleep_until(until)).await.is_some()
    }
}
