//! From what a channel received to the queue of the agent.
//!
//! A batch of updates is committed before the channel may confirm it. What was
//! committed is then completed (files, albums) and queued, in order for each
//! chat, without holding up other chats.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Inbound, InboundQueue, OutboundMessage, Route,
    driver::{Arrival, Driver, FetchError, Outcome, Pending},
    state::AccountState,
};
use crate::{
    clock::now_ms,
    store::{Db, NewMessage, PairingRow, Store, StoreError},
};

/// Messages being completed at once. When all places are taken the channel
/// waits before it asks for more.
const PLACES: usize = 64;

/// How long an album may still grow after its last picture.
const ALBUM_PAUSE: Duration = Duration::from_millis(500);

/// Pictures of an album that wait; a service sends ten at most.
const ALBUM_QUEUE: usize = 32;

/// Letters of a pairing code: none that is easily taken for another.
const CODE_LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const CODE_LENGTH: usize = 8;

/// What a receiving account is given.
pub(super) struct Desk {
    pub(super) channel: &'static str,
    pub(super) account: String,
    pub(super) label: &'static str,
    pub(super) store: Store,
    pub(super) state: Arc<AccountState>,
    pub(super) intake: Arc<Intake>,
    pub(super) driver: Arc<dyn Driver>,
    /// Tells the senders that something was queued.
    pub(super) wake: Arc<dyn Fn() + Send + Sync>,
}

/// A committed message.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) inbox_id: i64,
    pub(super) pending: Pending,
}

impl Desk {
    /// Commits a batch and passes on what is new in it. When it returns, the
    /// channel may confirm the batch.
    pub(super) async fn accept(&self, batch: Vec<Arrival>) -> Result<(), StoreError> {
        let (channel, account, label) = (self.channel, self.account.clone(), self.label);
        let rows = self
            .store
            .write(move |db| {
                let mut rows = Vec::new();
                for arrival in batch {
                    rows.extend(commit(db, channel, &account, label, arrival)?);
                }
                Ok(rows)
            })
            .await?;
        self.state.received();
        (self.wake)();
        for row in rows {
            self.intake.feed(Some(Arc::clone(&self.driver)), row).await;
        }
        Ok(())
    }
}

fn commit(
    db: &Db<'_>,
    channel: &str,
    account: &str,
    label: &str,
    arrival: Arrival,
) -> rusqlite::Result<Option<Row>> {
    let Arrival { update_id, outcome } = arrival;
    let now = now_ms();
    let body = match &outcome {
        Outcome::Message(pending) => {
            Some(serde_json::to_string(pending).expect("messages serialize"))
        }
        _ => None,
    };
    let Some(inbox_id) = db.put_inbox(channel, account, update_id, body.as_deref(), now)? else {
        return Ok(None);
    };
    match outcome {
        Outcome::Ignored => {}
        Outcome::Message(pending) => return Ok(Some(Row { inbox_id, pending: *pending })),
        Outcome::Notice { route, text } => {
            let key = format!("notice:{channel}:{account}:{update_id}");
            db.queue_message(&message(key, route, text), now)?;
        }
        Outcome::Stranger { id, meta, route } => {
            let code = pairing_code();
            let request = PairingRow {
                channel: channel.to_owned(),
                account: account.to_owned(),
                sender_id: id.clone(),
                code: code.clone(),
                meta: Value::Object(meta).to_string(),
                created_at_ms: now,
                last_seen_at_ms: now,
            };
            if db.request_pairing(&request)? {
                let key = format!("pairing:{channel}:{account}:{update_id}");
                let text = pairing_text(channel, label, &id, &code);
                db.queue_message(&message(key, route, text), now)?;
            }
        }
    }
    Ok(None)
}

/// Makes an outbox row of a text.
pub(super) fn message(key: String, route: Route, text: String) -> NewMessage {
    let (channel, account) = (route.channel.clone(), route.account.clone());
    let body = OutboundMessage { route, text, media: Vec::new() };
    NewMessage { key, channel, account, body: json!(body) }
}

fn pairing_text(channel: &str, label: &str, id: &str, code: &str) -> String {
    format!(
        "This assistant does not know you yet.\n\nYour {label} id: `{id}`\nPairing code: \
         `{code}`\n\nIts owner lets you in with:\n`moltbotctl pairing approve {channel} {code}`"
    )
}

fn pairing_code() -> String {
    let mut bytes = [0_u8; CODE_LENGTH];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    // 32 letters divide 256, so that each is equally likely.
    bytes.iter().map(|byte| char::from(CODE_LETTERS[usize::from(byte % 32)])).collect()
}

/// Completes committed messages and queues them.
pub(super) struct Intake {
    store: Store,
    queue: InboundQueue,
    places: Arc<Semaphore>,
    /// The last task of each chat: the next one waits for it.
    tails: Mutex<HashMap<String, JoinHandle<()>>>,
    /// Albums that may still grow.
    albums: Mutex<HashMap<String, mpsc::Sender<Row>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Intake {
    pub(super) fn new(
        store: Store,
        queue: InboundQueue,
        tasks: TaskTracker,
        stop: CancellationToken,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            queue,
            places: Arc::new(Semaphore::new(PLACES)),
            tails: Mutex::default(),
            albums: Mutex::default(),
            tasks,
            stop,
            wake,
        })
    }

    /// Passes a committed message on; waits only while all places are taken.
    pub(super) async fn feed(self: &Arc<Self>, driver: Option<Arc<dyn Driver>>, row: Row) {
        let Some(row) = self.join_album(row) else { return };
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        let Route { channel, account, to, .. } = &row.pending.message.route;
        let chat = format!("{channel}:{account}:{to}");
        let album = row.pending.album.is_some().then(|| self.open_album(&row));
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        tails.retain(|_, tail| !tail.is_finished());
        let before = tails.remove(&chat);
        let this = Arc::clone(self);
        let task = self.tasks.spawn(async move {
            let work = async {
                let row = match album {
                    Some(parts) => this.collect(row, parts).await,
                    None => row,
                };
                if let Some(before) = before {
                    // However it ended, it is this one's turn.
                    let _ = before.await;
                }
                this.complete(driver, row).await;
            };
            // What is left undone is in the inbox.
            this.stop.run_until_cancelled(work).await;
            drop(place);
        });
        tails.insert(chat, task);
    }

    /// Adds a picture to an album that is being collected; returns it when
    /// there is none.
    fn join_album(&self, row: Row) -> Option<Row> {
        let albums = self.albums.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(parts) = album_key(&row).and_then(|key| albums.get(&key)) else {
            return Some(row);
        };
        parts.try_send(row).err().map(|error| error.into_inner())
    }

    fn open_album(&self, row: &Row) -> mpsc::Receiver<Row> {
        let (parts, queue) = mpsc::channel(ALBUM_QUEUE);
        let mut albums = self.albums.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = album_key(row) {
            albums.insert(key, parts);
        }
        queue
    }

    /// Waits for the rest of an album and makes one message of it.
    async fn collect(&self, mut first: Row, mut parts: mpsc::Receiver<Row>) -> Row {
        let mut rest = Vec::new();
        while let Ok(Some(row)) = tokio::time::timeout(ALBUM_PAUSE, parts.recv()).await {
            rest.push(row);
        }
        if let Some(key) = album_key(&first) {
            self.albums.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
        while let Ok(row) = parts.try_recv() {
            rest.push(row);
        }
        if rest.is_empty() {
            return first;
        }
        for row in &mut rest {
            let message = &mut row.pending.message;
            first.pending.files.append(&mut row.pending.files);
            if first.pending.message.text.is_empty() {
                first.pending.message.text = std::mem::take(&mut message.text);
            }
        }
        let body = serde_json::to_string(&first.pending).expect("messages serialize");
        let (id, merged) = (first.inbox_id, rest);
        self.persist(move |db| {
            db.replace_inbox(id, &body)?;
            merged.iter().try_for_each(|row| db.ignore_inbox(row.inbox_id))
        })
        .await;
        first
    }

    async fn complete(&self, driver: Option<Arc<dyn Driver>>, row: Row) {
        let Row { inbox_id, mut pending } = row;
        let files = std::mem::take(&mut pending.files);
        let fetched = !files.is_empty();
        for file in files {
            let result = match &driver {
                Some(driver) => driver.fetch(&file).await,
                None => Err(FetchError::Failed("the account is gone".into())),
            };
            match result {
                Ok(attachment) => pending.message.attachments.push(attachment),
                Err(FetchError::TooLarge(text)) => {
                    return self.refuse(inbox_id, pending.message.route, text).await;
                }
                Err(FetchError::Failed(reason)) => {
                    tracing::warn!(reason, "a file of a message could not be fetched");
                    let text = &mut pending.message.text;
                    text.push_str(if text.is_empty() { "" } else { "\n" });
                    text.push_str("[a file came with this message and could not be fetched]");
                }
            }
        }
        if fetched {
            let body = serde_json::to_string(&pending).expect("messages serialize");
            self.persist(move |db| db.replace_inbox(inbox_id, &body)).await;
        }
        // The agent ends before the channels do; what it did not take is in
        // the inbox.
        let _ = self.queue.send(Inbound { inbox_id, message: pending.message }).await;
    }

    async fn refuse(&self, inbox_id: i64, route: Route, text: String) {
        let key = format!("notice:inbox:{inbox_id}");
        let notice = message(key, route, text);
        self.persist(move |db| {
            db.ignore_inbox(inbox_id)?;
            db.queue_message(&notice, now_ms()).map(drop)
        })
        .await;
        (self.wake)();
    }

    async fn persist(
        &self,
        work: impl Fn(&Db<'_>) -> rusqlite::Result<()> + Send + Sync + 'static,
    ) {
        super::persist(&self.store, work).await;
    }
}

fn album_key(row: &Row) -> Option<String> {
    let Route { channel, account, to, .. } = &row.pending.message.route;
    row.pending.album.as_ref().map(|album| format!("{channel}:{account}:{to}:{album}"))
}
