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
    Daemon, Options, Telegram,
    daemon::TOKEN,
    telegram::BOT,
    telegram_front::{Fault, Message},
};
use moltbotd::store::Store;
use serde_json::json;

const MARK: &str = "↻ sent again";
const CHATS: [i64; 5] = [7, 8, 9, 10, 11];

/// Names another number of kills, for a short try or a long soak.
const KILLS_VARIABLE: &str = "MOLTBOT_TESTS_KILLS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_kills_lose_nothing_and_double_nothing_unmarked() {
    let kills = std::env::var(KILLS_VARIABLE).map_or(200, |kills| kills.parse().unwrap());
    let telegram = Arc::new(Telegram::start().await);
    telegram.front.chaos(Some(chaos));
    let section = telegram.section(json!({ "allowFrom": CHATS, "timeoutSeconds": 2 }));
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "channels": { "telegram": section },
    });
    let mut daemon = Daemon::start_with(Options::with(config)).await;
    let load = Load::start(&telegram);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.below(500))).await;
        daemon.kill().await;
        let seen = last_update(&daemon).await;
        let offset = telegram.front.offset(BOT);
        assert!(offset <= seen + 1, "kill {kill}: offset {offset} is ahead of update {seen}");
        daemon.start_again().await;
    }
    let said = load.finish().await;
    telegram.front.chaos(None);
    assert!(said > kills, "{said} messages are too few to mean anything");
    answered(&telegram, said, &daemon).await;
    // Whatever would still be sent a second time would be sent now.
    daemon.stop().await;
    daemon.start_again().await;
    telegram.says(CHATS[0], "the-last-one").await;
    telegram.shows_text(CHATS[0], "the-last-one").await;
    judge(&telegram, said);
    assert_eq!(telegram.front.most_polls(BOT), 1);
}

/// People who keep writing.
struct Load {
    stop: Arc<AtomicBool>,
    said: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(telegram: &Arc<Telegram>) -> Self {
        let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let telegram = Arc::clone(telegram);
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&said));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let number = counter.load(Ordering::Relaxed);
                telegram.says(CHATS[number % CHATS.len()], &text(number)).await;
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(150)).await;
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

async fn answered(telegram: &Telegram, said: usize, daemon: &Daemon) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    let missing = || -> Vec<usize> {
        (0..said).filter(|&number| answers(telegram, number).is_empty()).collect()
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
        let plain = answers.iter().filter(|answer| !answer.text.contains(MARK)).count();
        assert!(plain <= 1, "note {number} was answered twice without a mark: {answers:#?}");
    }
    let calls = telegram.front.calls_of("sendMessage");
    let faults = calls.iter().filter(|call| call.fault.is_some()).count();
    assert!(faults > 0, "the load met no fault");
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
