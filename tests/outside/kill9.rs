//! `kill -9` under load: nothing is lost, nothing is doubled without a mark,
//! and Telegram never forgets what the inbox does not have.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use moltbot_tests::{
    Daemon, Options, SteeredModel, Telegram,
    daemon::TOKEN,
    steered_model::LAST_DROP,
    telegram::BOT,
    telegram_front::{Fault, Message},
};
use moltbotd::store::Store;
use serde_json::{Value, json};

const MARK: &str = "↻ sent again";
const CHATS: [i64; 5] = [7, 8, 9, 10, 11];

/// Names another number of kills, for a short try or a long soak.
const KILLS_VARIABLE: &str = "MOLTBOT_TESTS_KILLS";

/// After so long a kill waits for nothing more.
const IMPATIENCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_kills_lose_nothing_and_double_nothing_unmarked() {
    let kills = kills(200);
    let telegram = Arc::new(Telegram::start().await);
    let mut daemon = start(&telegram, json!({})).await;
    let load = Load::start(&telegram, "", Duration::from_millis(150));
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for count in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.below(500))).await;
        kill(&mut daemon, &telegram, count).await;
    }
    let said = load.finish().await;
    assert!(said > kills, "{said} messages are too few to mean anything");
    answered(&telegram, said, &daemon, |_| true).await;
    settle(&mut daemon, &telegram, "the-last-one").await;
    judge(&telegram, said);
}

/// Answers are shown while they are written, and every kill meets some that
/// are. A draft whose sending nobody confirmed cannot be found again: it stays
/// as it is, and the answer bears the mark.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_amid_streamed_answers_leave_each_message_a_whole_one() {
    let model = SteeredModel::start().await;
    let telegram = Arc::new(Telegram::start().await);
    let more = json!({
        "models": model.models(),
        "agents": { "defaults": {
            "model": { "primary": "mock/mock-1" }, "maxConcurrent": CHATS.len(),
        } },
        "session": { "dmScope": "per-peer" },
    });
    let mut daemon = start(&telegram, more).await;
    let load = Load::start(&telegram, "DRIP ", Duration::from_millis(700));
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    for count in 0..kills(15) {
        match count % 3 {
            0 => request(&telegram, "sendMessage").await,
            1 => request(&telegram, "editMessageText").await,
            _ => tokio::time::sleep(Duration::from_millis(random.below(1500))).await,
        }
        kill(&mut daemon, &telegram, count).await;
    }
    let said = load.finish().await;
    answered(&telegram, said, &daemon, is_whole).await;
    settle(&mut daemon, &telegram, "DRIP the-last-one").await;
    judge(&telegram, said);
    judge_drafts(&telegram, said);
}

fn kills(usual: usize) -> usize {
    std::env::var(KILLS_VARIABLE).map_or(usual, |kills| kills.parse().unwrap())
}

async fn start(telegram: &Telegram, more: Value) -> Daemon {
    telegram.front.chaos(Some(chaos));
    let section = telegram.section(json!({ "allowFrom": CHATS, "timeoutSeconds": 2 }));
    let mut config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "channels": { "telegram": section },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    Daemon::start_with(Options::with(config)).await
}

async fn kill(daemon: &mut Daemon, telegram: &Telegram, count: usize) {
    daemon.kill().await;
    let seen = last_update(daemon).await;
    let offset = telegram.front.offset(BOT);
    assert!(offset <= seen + 1, "kill {count}: offset {offset} is ahead of update {seen}");
    daemon.start_again().await;
}

/// Waits until the daemon has just asked for something: what came of it will
/// never be known to it.
async fn request(telegram: &Telegram, method: &str) {
    let count = || telegram.front.calls_of(method).len();
    let (before, mut changes) = (count(), telegram.front.changes());
    let asked = async {
        while count() == before {
            changes.changed().await.unwrap();
        }
    };
    // Whatever it was busy with then.
    let _ = tokio::time::timeout(IMPATIENCE, asked).await;
}

/// Whatever would still be sent a second time is sent before this returns.
async fn settle(daemon: &mut Daemon, telegram: &Telegram, last: &str) {
    daemon.stop().await;
    daemon.start_again().await;
    for chat in CHATS {
        telegram.says(chat, last).await;
    }
    for chat in CHATS {
        telegram.shows(chat, |it| it.text.contains(last) && !is_half(it)).await;
    }
    assert_eq!(telegram.front.most_polls(BOT), 1);
}

/// People who keep writing.
struct Load {
    stop: Arc<AtomicBool>,
    said: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(telegram: &Arc<Telegram>, word: &'static str, pause: Duration) -> Self {
        let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let telegram = Arc::clone(telegram);
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&said));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let number = counter.load(Ordering::Relaxed);
                let words = format!("{word}{}", text(number));
                telegram.says(CHATS[number % CHATS.len()], &words).await;
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(pause).await;
            }
        });
        Self { stop, said, task }
    }

    /// Returns how many messages there were.
    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.said.load(Ordering::Relaxed)
    }
}

/// The number stands between signs, so that no text is a part of another.
fn text(number: usize) -> String {
    format!("note-{number}-end")
}

fn answers(telegram: &Telegram, number: usize) -> Vec<Message> {
    let chat = CHATS[number % CHATS.len()];
    let messages = telegram.shown(chat);
    messages.into_iter().filter(|message| message.text.contains(&text(number))).collect()
}

/// Returns whether a message shows an answer of the model up to its end.
fn is_whole(message: &Message) -> bool {
    message.text.contains(LAST_DROP)
}

/// Returns whether a message shows the beginning of an answer of the model.
fn is_half(message: &Message) -> bool {
    message.text.contains("drop") && !is_whole(message)
}

/// Waits, with nothing in the way any more, until every message has an answer.
async fn answered(
    telegram: &Telegram,
    said: usize,
    daemon: &Daemon,
    fits: impl Fn(&Message) -> bool,
) {
    telegram.front.chaos(None);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    let missing = || -> Vec<usize> {
        (0..said).filter(|&number| !answers(telegram, number).iter().any(&fits)).collect()
    };
    while !missing().is_empty() {
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "lost of {said}: {:?}\n{}", missing(), daemon.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn judge(telegram: &Telegram, said: usize) {
    for number in 0..said {
        let answers = answers(telegram, number);
        let whole = answers.iter().filter(|answer| !is_half(answer));
        let plain = whole.filter(|answer| !answer.text.contains(MARK)).count();
        assert!(plain <= 1, "note {number} was answered twice without a mark: {answers:#?}");
    }
    let calls = telegram.front.calls_of("sendMessage");
    let faults = calls.iter().filter(|call| call.fault.is_some()).count();
    assert!(faults > 0, "the load met no fault");
}

/// At most one draft of a message stays, never one that the daemon knew the id
/// of, and where one stays the answer says that something may have been seen.
fn judge_drafts(telegram: &Telegram, said: usize) {
    let mut left = 0;
    for number in 0..said {
        let answers = answers(telegram, number);
        let half: Vec<_> = answers.iter().filter(|answer| is_half(answer)).collect();
        let plain = answers.iter().any(|it| is_whole(it) && !it.text.contains(MARK));
        assert!(half.len() <= 1, "note {number} has two drafts: {answers:#?}");
        assert!(half.is_empty() || !plain, "note {number} hides its draft: {answers:#?}");
        assert!(half.iter().all(|it| it.edits == 0), "note {number} was left: {answers:#?}");
        left += half.len();
    }
    let edits = telegram.front.calls_of("editMessageText").len();
    assert!(edits > 0, "no draft grew");
    println!("{said} streamed answers, {edits} edits, {left} drafts left behind");
}

async fn last_update(daemon: &Daemon) -> i64 {
    let store = Store::open(&daemon.state_dir().join("moltbot.db")).unwrap();
    let last = store.read(|db| db.last_update("telegram", "default")).await.unwrap();
    last.map_or(0, |(update_id, _)| update_id)
}

/// What goes wrong besides: about one request in ten.
fn chaos(method: &str, count: u64) -> Option<Fault> {
    match (method, count % 40) {
        ("sendMessage" | "editMessageText" | "getUpdates", 3) => Some(Fault::LoseAnswer),
        ("sendMessage" | "getUpdates", 13) => Some(Fault::LoseRequest),
        ("sendMessage" | "getUpdates", 23) => Some(Fault::Malform),
        ("sendMessage" | "getUpdates", 33) => Some(Fault::too_many(1)),
        ("getUpdates", 38) => Some(Fault::conflict()),
        ("sendMessage", 37) => Some(Fault::Delay(Duration::from_millis(200))),
        _ => None,
    }
}

/// A sequence that looks random and is the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
