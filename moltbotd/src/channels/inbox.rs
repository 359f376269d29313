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

/// The same for one that an earlier life of the daemon left: the service is yet
/// to be asked for the rest of it.
const LEFT_ALBUM_PAUSE: Duration = Duration::from_secs(3);

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
    /// Whether an earlier life of the daemon committed it.
    pub(super) is_left: bool,
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
                for Arrival { update_id, outcome } in batch {
                    let (account, now_ms) = (account.as_str(), now_ms());
                    let origin = Origin { channel, account, label, update_id, now_ms };
                    rows.extend(commit(db, &origin, outcome)?);
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

/// Where an update is from.
struct Origin<'a> {
    channel: &'a str,
    account: &'a str,
    label: &'a str,
    update_id: i64,
    now_ms: i64,
}

impl Origin<'_> {
    fn put(&self, db: &Db<'_>, body: Option<&str>) -> rusqlite::Result<Option<i64>> {
        db.put_inbox(self.channel, self.account, self.update_id, body, self.now_ms)
    }
}

/// Commits an update; returns what is to be passed on.
fn commit(db: &Db<'_>, origin: &Origin<'_>, outcome: Outcome) -> rusqlite::Result<Vec<Row>> {
    match outcome {
        Outcome::Message(pending) => receive(db, origin, *pending),
        Outcome::Held(pending) => hold(db, origin, *pending),
        // Kept to be known again.
        outcome => {
            if origin.put(db, None)?.is_some() {
                tell(db, origin, outcome)?;
            }
            Ok(Vec::new())
        }
    }
}

fn receive(db: &Db<'_>, origin: &Origin<'_>, pending: Pending) -> rusqlite::Result<Vec<Row>> {
    let Some(inbox_id) = origin.put(db, Some(&body(&pending)))? else { return Ok(Vec::new()) };
    let held = parts(db, &pending)?.into_iter().filter(|part| part.held).map(|part| part.row);
    let mut rows: Vec<_> = held.collect();
    rows.iter().try_for_each(|row| db.take_up(row.inbox_id))?;
    rows.push(Row { inbox_id, pending, is_left: false });
    Ok(rows)
}

/// Keeps a part of an album until another one is for the assistant; one that is
/// may have come before it.
fn hold(db: &Db<'_>, origin: &Origin<'_>, pending: Pending) -> rusqlite::Result<Vec<Row>> {
    if parts(db, &pending)?.iter().any(|part| !part.held) {
        return receive(db, origin, pending);
    }
    let Origin { channel, account, update_id, now_ms, .. } = *origin;
    db.hold_inbox(channel, account, update_id, &body(&pending), now_ms)?;
    Ok(Vec::new())
}

/// Queues what a sender is told at once.
fn tell(db: &Db<'_>, origin: &Origin<'_>, outcome: Outcome) -> rusqlite::Result<()> {
    let Origin { channel, account, label, update_id, now_ms } = *origin;
    match outcome {
        Outcome::Ignored | Outcome::Message(_) | Outcome::Held(_) => {}
        Outcome::Notice { route, text } => {
            let key = format!("notice:{channel}:{account}:{update_id}");
            db.queue_message(&message(key, route, text), now_ms)?;
        }
        Outcome::Stranger { id, meta, route } => {
            let code = pairing_code();
            let request = PairingRow {
                channel: channel.to_owned(),
                account: account.to_owned(),
                sender_id: id.clone(),
                code: code.clone(),
                meta: Value::Object(meta).to_string(),
                created_at_ms: now_ms,
                last_seen_at_ms: now_ms,
            };
            if db.request_pairing(&request)? {
                let key = format!("pairing:{channel}:{account}:{update_id}");
                let text = pairing_text(channel, label, &id, &code);
                db.queue_message(&message(key, route, text), now_ms)?;
            }
        }
    }
    Ok(())
}

/// A part of an album in the inbox.
struct AlbumPart {
    row: Row,
    /// Whether it waits for another part that is for the assistant.
    held: bool,
}

/// Returns the parts of a message's album that came before it.
fn parts(db: &Db<'_>, pending: &Pending) -> rusqlite::Result<Vec<AlbumPart>> {
    let Some(album) = &pending.album else { return Ok(Vec::new()) };
    let Route { channel, account, to, .. } = &pending.message.route;
    // As it stands in the body; what else may look like it is read below.
    let text = format!("\"album\":{}", Value::from(album.as_str()));
    let found = db.latest_with(channel, account, &text)?.into_iter();
    Ok(found
        .filter_map(|(row, held)| {
            let pending: Pending = serde_json::from_str(&row.body).ok()?;
            let is_part = pending.album.as_ref() == Some(album) && pending.message.route.to == *to;
            let row = Row { inbox_id: row.id, pending, is_left: false };
            is_part.then_some(AlbumPart { row, held })
        })
        .collect())
}

fn body(pending: &Pending) -> String {
    serde_json::to_string(pending).expect("messages serialize")
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
        let pause = if first.is_left { LEFT_ALBUM_PAUSE } else { ALBUM_PAUSE };
        while let Ok(Some(row)) = tokio::time::timeout(pause, parts.recv()).await {
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
            merge(&mut first.pending, &mut row.pending);
        }
        let body = body(&first.pending);
        let (id, merged) = (first.inbox_id, rest);
        self.persist(move |db| {
            db.replace_inbox(id, &body)?;
            merged.iter().try_for_each(|row| db.ignore_inbox(row.inbox_id))
        })
        .await;
        first
    }

    async fn complete(&self, driver: Option<Arc<dyn Driver>>, row: Row) {
        let Row { inbox_id, mut pending, .. } = row;
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
            let body = body(&pending);
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

/// Adds a part of an album to the ones before it.
fn merge(album: &mut Pending, part: &mut Pending) {
    album.files.append(&mut part.files);
    album.message.context.append(&mut part.message.context);
    album.message.forwarded |= part.message.forwarded;
    album.message.others = match (album.message.others.take(), part.message.others.take()) {
        (Some(mut others), Some(more)) => {
            others.extend(more);
            Some(others)
        }
        _ => None,
    };
    let (said, more) = (&album.message, &mut part.message);
    album.message.after_name = match (said.text.is_empty(), more.text.is_empty()) {
        (true, _) => more.after_name.take(),
        (_, true) => said.after_name.clone(),
        _ => None,
    };
    let text = &mut album.message.text;
    if !text.is_empty() && !part.message.text.is_empty() {
        text.push('\n');
    }
    text.push_str(&part.message.text);
    if album.message.quoted.is_none() {
        album.message.quoted = part.message.quoted.take();
    }
}

fn album_key(row: &Row) -> Option<String> {
    let Route { channel, account, to, .. } = &row.pending.message.route;
    row.pending.album.as_ref().map(|album| format!("{channel}:{account}:{to}:{album}"))
}
