//! What goes out, to a service that answers as it is told.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Attachment, Inbound, InboundMessage, OutboundMessage, Peer, PeerKind, Route,
    draft::Drafts,
    driver::{Arrival, Driver, FetchError, FileRef, Outcome, Part, Pending, SendFailure},
    inbox::{Desk, Intake, Row, message},
    outbox::Sender,
};
use crate::{
    clock::now_ms,
    store::{OutboxState, Store},
};

const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "reply:1";

/// What the service does with a request.
enum Answer {
    Id(&'static str),
    Fail(SendFailure),
    /// It keeps the request until it is let go.
    Hold(Arc<Notify>),
}

/// A service that notes what it is asked.
#[derive(Default)]
struct Service {
    /// Longest text it takes; 0 is without a limit.
    longest: usize,
    answers: Mutex<VecDeque<Answer>>,
    asked: watch::Sender<Vec<String>>,
}

impl Service {
    fn of(answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    async fn was_asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        let waiting = asked.wait_for(|asked| asked.len() >= times);
        tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    }

    async fn answer(&self, request: String) -> Result<String, SendFailure> {
        let answer = self.answers.lock().unwrap().pop_front();
        self.asked.send_modify(|asked| asked.push(request));
        match answer.unwrap_or(Answer::Id("1")) {
            Answer::Id(id) => Ok(id.to_owned()),
            Answer::Fail(failure) => Err(failure),
            Answer::Hold(gate) => {
                gate.notified().await;
                Ok("held".to_owned())
            }
        }
    }
}

impl Driver for Service {
    fn receive<'a>(
        &'a self,
        _desk: &'a Desk,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            stop.cancelled().await;
            Ok(())
        })
    }

    fn fetch<'a>(&'a self, _file: &'a FileRef) -> BoxFuture<'a, Result<Attachment, FetchError>> {
        Box::pin(async { Err(FetchError::Failed("there are no files".into())) })
    }

    fn parts(&self, message: &OutboundMessage, _draft: bool) -> Vec<Part> {
        let text: Vec<char> = message.text.chars().collect();
        let longest = if self.longest == 0 { text.len().max(1) } else { self.longest };
        let part = |chars: &[char]| {
            let text: String = chars.iter().collect();
            Part { rich: text.clone(), plain: text, media: None, reply: false }
        };
        text.chunks(longest).map(part).collect()
    }

    fn send<'a>(
        &'a self,
        _route: &'a Route,
        part: &'a Part,
        repeated: bool,
    ) -> BoxFuture<'a, Result<String, SendFailure>> {
        let mark = if repeated { " again" } else { "" };
        Box::pin(self.answer(format!("send{mark}: {}", part.plain)))
    }

    fn edit<'a>(
        &'a self,
        _route: &'a Route,
        message_id: &'a str,
        part: &'a Part,
    ) -> BoxFuture<'a, Result<(), SendFailure>> {
        let answer = self.answer(format!("edit {message_id}: {}", part.plain));
        Box::pin(async { answer.await.map(drop) })
    }

    fn typing<'a>(&'a self, _route: &'a Route) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn draft_step(&self) -> Option<usize> {
        Some(1)
    }

    fn probe(&self, _timeout: Duration) -> BoxFuture<'_, Value> {
        Box::pin(async { Value::Null })
    }
}

/// A store with what its senders share.
struct World {
    store: Store,
    drafts: Arc<Drafts>,
    settled: watch::Sender<u64>,
    _folder: TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("test.db")).unwrap();
        Self { store, drafts: Arc::default(), settled: watch::Sender::new(0), _folder: folder }
    }

    async fn queue(&self, text: &str) {
        let row = message(KEY.into(), route(), text.into());
        self.store.write(move |db| db.queue_message(&row, now_ms())).await.unwrap();
    }

    async fn draft(&self, id: &'static str) {
        let write = move |db: &crate::store::Db<'_>| {
            db.begin_draft(KEY, "test", "default", "7", now_ms())?;
            db.confirm_draft(KEY, id)
        };
        self.store.write(write).await.unwrap();
    }

    fn start(&self, service: &Arc<Service>) -> JoinHandle<()> {
        let sender = Sender {
            channel: "test",
            account: "default".into(),
            store: self.store.clone(),
            driver: Arc::clone(service) as Arc<dyn Driver>,
            state: Arc::default(),
            drafts: Arc::clone(&self.drafts),
            wake: Arc::default(),
            settled: self.settled.clone(),
            lost: Arc::new(Mutex::new(HashMap::new())),
        };
        tokio::spawn(sender.run(CancellationToken::new()))
    }

    async fn sent(&self) {
        let mut settled = self.settled.subscribe();
        let waiting = settled.wait_for(|settled| *settled > 0);
        tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
        let fate = self.store.read(|db| db.fate(KEY)).await.unwrap().unwrap();
        assert_eq!(fate.state, OutboxState::Sent, "{fate:?}");
    }
}

fn route() -> Route {
    Route {
        channel: "test".into(),
        account: "default".into(),
        to: "7".into(),
        thread: None,
        reply_to: None,
    }
}

fn lost() -> Answer {
    Answer::Fail(SendFailure::Unknown("no answer".into()))
}

fn gone() -> Answer {
    Answer::Fail(SendFailure::Gone)
}

#[tokio::test]
async fn a_draft_is_replaced_and_never_marked() {
    let world = World::new();
    world.draft("5").await;
    world.queue("Whole").await;
    let service = Service::of([lost()]);
    let sender = world.start(&service);
    world.sent().await;
    assert_eq!(service.asked(), ["edit 5: Whole", "edit 5: Whole"]);
    sender.abort();
}

#[tokio::test]
async fn what_stands_for_a_draft_that_is_gone_is_marked_when_it_is_sent_again() {
    let world = World::new();
    world.draft("5").await;
    world.queue("Whole").await;
    let service = Service::of([gone(), lost(), gone()]);
    let sender = world.start(&service);
    world.sent().await;
    assert_eq!(
        service.asked(),
        ["edit 5: Whole", "send: Whole", "edit 5: Whole", "send again: Whole"]
    );
    sender.abort();
}

#[tokio::test]
async fn what_was_on_its_way_when_its_sender_ended_is_sent_again_with_a_mark() {
    let world = World::new();
    world.queue("Whole").await;
    let service = Service::of([Answer::Hold(Arc::default())]);
    let first = world.start(&service);
    service.was_asked(1).await;
    first.abort();
    first.await.unwrap_err();
    let second = world.start(&service);
    world.sent().await;
    assert_eq!(service.asked(), ["send: Whole", "send again: Whole"]);
    second.abort();
}

#[tokio::test]
async fn a_message_is_cut_once_whatever_the_settings_become() {
    let world = World::new();
    world.queue("aabbcc").await;
    let answers = [Answer::Id("1"), Answer::Hold(Arc::default())];
    let answers = Mutex::new(VecDeque::from(answers));
    let service = Arc::new(Service { longest: 2, answers, ..Service::default() });
    let first = world.start(&service);
    service.was_asked(2).await;
    first.abort();
    first.await.unwrap_err();

    let service = Arc::new(Service { longest: 5, ..Service::default() });
    let second = world.start(&service);
    world.sent().await;
    assert_eq!(service.asked(), ["send again: bb", "send: cc"]);
    second.abort();
}

#[tokio::test]
async fn a_stop_waits_for_the_draft_that_is_on_its_way() {
    let world = World::new();
    let gate = Arc::<Notify>::default();
    let service = Service::of([Answer::Hold(Arc::clone(&gate))]);
    let driver = Arc::clone(&service) as Arc<dyn Driver>;
    let mut display = world.drafts.open(world.store.clone(), driver, &route(), KEY);
    display.update("Half");
    service.was_asked(1).await;
    let drafts = Arc::clone(&world.drafts);
    let stop = tokio::spawn(async move { drafts.stop().await });
    gate.notify_one();
    tokio::time::timeout(PATIENCE, stop).await.unwrap().unwrap();
    let draft = world.store.read(|db| db.draft(KEY)).await.unwrap().unwrap();
    assert_eq!(draft.message_id.as_deref(), Some("held"));
    drop(display);

    world.queue("Whole").await;
    let sender = world.start(&service);
    world.sent().await;
    assert_eq!(service.asked(), ["send: Half", "edit held: Whole"]);
    sender.abort();
}

/// One life of the daemon on the way in.
struct Entrance {
    desk: Desk,
    queue: mpsc::Receiver<Inbound>,
    stop: CancellationToken,
}

impl Entrance {
    /// Begins with what an earlier life left.
    async fn open(store: &Store) -> Self {
        let (sender, queue) = mpsc::channel(8);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(|| {});
        let intake =
            Intake::new(store.clone(), sender, tasks.clone(), stop.clone(), Arc::clone(&wake));
        let desk = Desk {
            channel: "test",
            account: "default".into(),
            label: "Test",
            store: store.clone(),
            state: Arc::default(),
            intake,
            driver: Service::of([]),
            wake,
        };
        for row in store.read(|db| db.open_inbox()).await.unwrap() {
            let pending = serde_json::from_str(&row.body).unwrap();
            desk.intake.feed(None, Row { inbox_id: row.id, pending, is_left: true }).await;
        }
        Self { desk, queue, stop }
    }

    async fn accept(&self, batch: Vec<Arrival>) {
        self.desk.accept(batch).await.unwrap();
    }

    /// Returns text and number of files of the next message.
    async fn next(&mut self) -> (String, usize) {
        let inbound = tokio::time::timeout(PATIENCE, self.queue.recv()).await.unwrap().unwrap();
        let id = inbound.inbox_id;
        self.desk.store.write(move |db| db.finish_inbox(id)).await.unwrap();
        let lost = inbound.message.text.matches("could not be fetched").count();
        (inbound.message.text.lines().next().unwrap_or_default().to_owned(), lost)
    }

    /// Ends this life at once.
    fn kill(self) {
        self.stop.cancel();
    }
}

fn part(text: &str, album: &str) -> Box<Pending> {
    let message = InboundMessage {
        route: route(),
        peer: Peer { kind: PeerKind::Group, id: "7".into(), title: None },
        sender: super::Sender { id: "1".into(), name: "Ann".into(), username: None },
        message_id: "1".into(),
        text: text.into(),
        after_name: None,
        quoted: None,
        forwarded: false,
        others: None,
        context: Vec::new(),
        attachments: Vec::new(),
        authorized: false,
        sent_at_ms: 0,
    };
    let file = FileRef { id: "f".into(), mime: "image/jpeg".into(), file_name: None };
    Box::new(Pending { message, files: vec![file], album: Some(album.into()) })
}

fn held(update_id: i64, album: &str) -> Arrival {
    Arrival { update_id, outcome: Outcome::Held(part("", album)) }
}

fn meant(update_id: i64, text: &str, album: &str) -> Arrival {
    Arrival { update_id, outcome: Outcome::Message(part(text, album)) }
}

#[tokio::test]
async fn an_album_is_whole_whichever_part_is_meant_and_whenever_it_comes() {
    let world = World::new();
    let mut entrance = Entrance::open(&world.store).await;
    entrance.accept(vec![held(1, "a"), held(2, "b")]).await;
    entrance.accept(vec![held(3, "a"), held(4, "a\"")]).await;
    entrance.accept(vec![meant(5, "look", "a"), held(6, "a")]).await;
    assert_eq!(entrance.next().await, ("look".to_owned(), 4));
    assert!(world.store.read(|db| db.open_inbox()).await.unwrap().is_empty());
    entrance.accept(vec![held(7, "a")]).await;
    assert_eq!(entrance.next().await.1, 1);
}

#[tokio::test]
async fn a_part_of_an_album_that_waits_outlives_the_daemon_and_comes_once() {
    let world = World::new();
    let first = Entrance::open(&world.store).await;
    first.accept(vec![held(1, "a")]).await;
    first.kill();

    let second = Entrance::open(&world.store).await;
    second.accept(vec![held(1, "a"), meant(2, "look", "a")]).await;
    second.kill();

    // The service gives what it does not know to be committed once more.
    let mut third = Entrance::open(&world.store).await;
    third.accept(vec![held(1, "a"), meant(2, "look", "a"), held(3, "a")]).await;
    assert_eq!(third.next().await, ("look".to_owned(), 3));
    third.accept(vec![meant(2, "look", "a"), meant(4, "end", "b")]).await;
    assert_eq!(third.next().await, ("end".to_owned(), 1));
    assert!(world.store.read(|db| db.open_inbox()).await.unwrap().is_empty());
}
