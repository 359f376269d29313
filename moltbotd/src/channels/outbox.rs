//! Sends what is queued.
//!
//! A row is marked as being sent before the network is asked, and each part is
//! confirmed in the database before the next one goes out. A part whose fate
//! is unknown, after a crash or a lost answer, is sent again with a visible
//! mark, except where the channel can replace a message instead.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    OutboundMessage,
    draft::Drafts,
    driver::{Driver, Outgoing, Part, SendFailure},
    state::AccountState,
};
use crate::{
    clock::now_ms,
    store::{Db, Draft, OutboxRow, OutboxState, Store},
};

/// Chats that are written to at once.
const AT_ONCE: u32 = 16;

/// How often a part may vanish without an answer before it is given up: every
/// time costs the reader a repeated message.
const MAX_LOST: u32 = 4;

const SHORTEST_PAUSE: Duration = Duration::from_millis(400);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long messages on their way may take to arrive when an account stops.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Sends one account's messages.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) channel: &'static str,
    pub(super) account: String,
    pub(super) store: Store,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) state: Arc<AccountState>,
    pub(super) drafts: Arc<Drafts>,
    /// Something may have been queued.
    pub(super) wake: Arc<Notify>,
    /// Counts what was settled, for those who wait.
    pub(super) settled: watch::Sender<u64>,
    /// How often rows vanished without an answer.
    pub(super) lost: Arc<std::sync::Mutex<HashMap<i64, u32>>>,
}

impl Sender {
    /// Sends until told to stop, then lets what is on its way arrive.
    pub(super) async fn run(self, stop: CancellationToken) {
        self.recover().await;
        let mut tasks = JoinSet::new();
        while !stop.is_cancelled() {
            let woken = self.wake.notified();
            let pause = self.start_ready(&mut tasks).await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = woken => {}
                Some(_) = tasks.join_next() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        let arrive = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, arrive).await.is_err() {
            // The account's next sender takes them for what nobody knows of.
            tasks.shutdown().await;
        }
    }

    /// Nobody knows what became of what an earlier sender did not see arrive,
    /// be it that of another life of the daemon or of other settings.
    async fn recover(&self) {
        let (channel, account) = (self.channel, self.account.clone());
        self.persist(move |db| {
            let unknown = db.recover_outbox(channel, &account)?;
            if unknown > 0 {
                tracing::warn!(channel, account, unknown, "messages were being sent before");
            }
            Ok(())
        })
        .await;
    }

    /// Starts what may go out now; returns when to look again.
    async fn start_ready(&self, tasks: &mut JoinSet<()>) -> Duration {
        let (channel, account) = (self.channel, self.account.clone());
        let rows = self.store.read(move |db| db.next_messages(channel, &account, 256)).await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(%error, "cannot read the outbox");
                return Duration::from_secs(1);
            }
        };
        let now = now_ms();
        for row in rows {
            if row.next_attempt_ms > now {
                let wait = u64::try_from(row.next_attempt_ms - now).unwrap_or_default();
                return Duration::from_millis(wait).min(LONGEST_PAUSE);
            }
            if tasks.len() >= AT_ONCE as usize {
                break;
            }
            // Committed before the task exists, so that no other look at the
            // table takes the row a second time.
            let id = row.id;
            if let Err(error) = self.store.write(move |db| db.begin_sending(id, now)).await {
                tracing::error!(%error, "cannot write to the outbox");
                return Duration::from_secs(1);
            }
            let sender = self.clone();
            tasks.spawn(async move { sender.deliver_safely(row).await });
        }
        LONGEST_PAUSE
    }

    async fn deliver_safely(self, row: OutboxRow) {
        let id = row.id;
        if AssertUnwindSafe(self.deliver(row)).catch_unwind().await.is_err() {
            tracing::error!(id, "sending panicked");
            self.fail(id, "internal error".into()).await;
        }
    }

    async fn deliver(&self, row: OutboxRow) {
        let Ok(mut outgoing) = serde_json::from_str::<Outgoing>(&row.body) else {
            return self.fail(row.id, "the message cannot be read".into()).await;
        };
        self.drafts.finish(&row.key).await;
        let Ok(draft) = self.draft(&row).await else {
            let unknown = row.state == OutboxState::Unknown;
            return self.again(row.id, unknown, "the store cannot be read", None, 1).await;
        };
        if outgoing.parts.is_empty() {
            self.cut(&row, &mut outgoing, draft.is_some()).await;
        }
        let Outgoing { message, parts } = outgoing;
        if parts.is_empty() {
            return self.fail(row.id, "there is nothing to send".into()).await;
        }
        let start = row.parts_sent as usize;
        for (index, part) in parts.iter().enumerate().skip(start) {
            let first = index == 0;
            let draft = draft.as_ref().filter(|_| first);
            // Only the part that was on its way may have arrived already.
            let repeated = (row.state == OutboxState::Unknown && index == start)
                || draft.is_some_and(|draft| draft.message_id.is_none());
            match self.transfer(&message, part, draft, repeated).await {
                Ok(message_id) => {
                    let last = index + 1 == parts.len();
                    self.confirm(row.id, index + 1, last, message_id, &message.route.to).await;
                }
                Err(failure) => return self.settle_failure(&row, failure, repeated).await,
            }
        }
        if start >= parts.len() {
            // An older version cut it anew after the settings had changed; all
            // of it is out.
            self.confirm(row.id, start, true, String::new(), &message.route.to).await;
        }
    }

    async fn cut(&self, row: &OutboxRow, outgoing: &mut Outgoing, draft: bool) {
        outgoing.parts = self.driver.parts(&outgoing.message, draft);
        if outgoing.parts.len() < 2 || row.parts_sent > 0 {
            return;
        }
        let id = row.id;
        let body = serde_json::to_string(outgoing).expect("messages serialize");
        self.persist(move |db| db.replace_message(id, &body)).await;
    }

    async fn draft(&self, row: &OutboxRow) -> Result<Option<Draft>, ()> {
        let key = row.key.clone();
        self.store.read(move |db| db.draft(&key)).await.map_err(|error| {
            tracing::error!(%error, "cannot read a draft");
        })
    }

    /// Sends a part, or puts it in the place of the draft. A draft that is gone
    /// tells nothing of a part that was sent in its stead.
    async fn transfer(
        &self,
        message: &OutboundMessage,
        part: &Part,
        draft: Option<&Draft>,
        repeated: bool,
    ) -> Result<String, SendFailure> {
        let Some(id) = draft.and_then(|draft| draft.message_id.as_deref()) else {
            return self.driver.send(&message.route, part, repeated).await;
        };
        match self.driver.edit(&message.route, id, part).await {
            Ok(()) => Ok(id.to_owned()),
            Err(SendFailure::Gone) => self.driver.send(&message.route, part, repeated).await,
            // An edit may be repeated: it shows the same once more.
            Err(SendFailure::Unknown(reason)) => Err(SendFailure::Later { reason, after: None }),
            Err(failure) => Err(failure),
        }
    }

    async fn confirm(&self, id: i64, parts: usize, last: bool, message_id: String, chat: &str) {
        let chat = chat.to_owned();
        let parts = u32::try_from(parts).unwrap_or(u32::MAX);
        self.persist(move |db| {
            db.confirm_parts(id, parts, now_ms())?;
            if last { db.confirm_sent(id, &message_id, &chat, now_ms()) } else { Ok(()) }
        })
        .await;
        self.state.sent();
        if last {
            self.settled(id);
        }
    }

    async fn settle_failure(&self, row: &OutboxRow, failure: SendFailure, repeated: bool) {
        match failure {
            SendFailure::Refused(reason) => self.fail(row.id, reason).await,
            SendFailure::Gone => self.fail(row.id, "the chat is gone".into()).await,
            SendFailure::Later { reason, after } => {
                // The earlier attempt is as unknown as before.
                let unknown = repeated && row.state == OutboxState::Unknown;
                self.again(row.id, unknown, &reason, after, row.attempts + 1).await;
            }
            SendFailure::Unknown(reason) if self.count_lost(row.id) > MAX_LOST => {
                self.fail(row.id, format!("given up, it may have arrived: {reason}")).await;
            }
            SendFailure::Unknown(reason) => {
                self.again(row.id, true, &reason, None, row.attempts + 1).await;
            }
        }
    }

    async fn again(
        &self,
        id: i64,
        unknown: bool,
        reason: &str,
        after: Option<Duration>,
        attempts: u32,
    ) {
        let pause = pause(attempts).max(after.unwrap_or_default());
        tracing::warn!(id, reason, unknown, ?pause, "message delayed");
        let reason = reason.to_owned();
        self.persist(move |db| {
            let now = now_ms();
            let wait = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
            db.retry_later(id, unknown, now.saturating_add(wait), &reason, now)
        })
        .await;
        self.wake.notify_one();
    }

    async fn fail(&self, id: i64, reason: String) {
        tracing::warn!(id, reason, "message not sent");
        self.persist(move |db| db.fail_message(id, &reason, now_ms())).await;
        self.settled(id);
    }

    fn settled(&self, id: i64) {
        self.lost.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&id);
        self.settled.send_modify(|count| *count = count.wrapping_add(1));
        self.wake.notify_one();
    }

    fn count_lost(&self, id: i64) -> u32 {
        let mut lost = self.lost.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = lost.entry(id).or_default();
        *count += 1;
        *count
    }

    async fn persist(
        &self,
        work: impl Fn(&Db<'_>) -> rusqlite::Result<()> + Send + Sync + 'static,
    ) {
        super::persist(&self.store, work).await;
    }
}

/// Doubles with every attempt; up to a tenth is added so that chats do not
/// come back all at once.
fn pause(attempts: u32) -> Duration {
    let doubled = SHORTEST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    let mut byte = [0_u8; 1];
    // Without random bytes there is no jitter, which is no harm.
    let _ = getrandom::fill(&mut byte);
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 + f64::from(byte[0]) / 2560.0)
}
