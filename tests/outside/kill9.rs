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
    survive(kills(200), None).await;
}

/// Answers are shown while they are written, and most kills meet one that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_kills_amid_streamed_answers_leave_no_half_answer_and_no_second_one() {
    let model = SteeredModel::start().await;
    survive(kills(40), Some(&model)).await;
}

fn kills(usual: usize) -> usize {
    std::env::var(KILLS_VARIABLE).map_or(usual, |kills| kills.parse().unwrap())
}

async fn survive(kills: usize, model: Option<&SteeredModel>) {
    let telegram = Arc::new(Telegram::start().await);
    telegram.front.chaos(Some(chaos));
    let section = telegram.section(json!({ "allowFrom": CHATS, "timeoutSeconds": 2 }));
    let mut config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "channels": { "telegram": section },
    });
    if let Some(model) = model {
        config["models"] = model.models();
        config["agents"] = json!({ "defaults": { "model": { "primary": "mock/mock-1" } } });
    }
    let mut daemon = Daemon::start_with(Options::with(config)).await;
    let load = Load::start(&telegram, model.map(|_| SPEECH));
    let longest_life_ms = if model.is_some() { 3000 } else { 500 };
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.below(longest_life_ms))).await;
        daemon.kill().await;
        let seen = last_update(&daemon).await;
        let offset = telegram.front.offset(BOT);
        assert!(offset <= seen + 1, "kill {kill}: offset {offset} is ahead of update {seen}");
        daemon.start_again().await;
    }
    let said = load.finish().await;
    telegram.front.chaos(None);
    assert!(said * 2 > kills, "{said} messages are too few to mean anything");
    answered(&telegram, said, &daemon).await;
    if model.is_some() {
        whole(&telegram, said, &daemon).await;
    }
    // Whatever would still be sent a second time would be sent now.
    daemon.stop().await;
    daemon.start_again().await;
    let word = model.map_or("", |_| SPEECH.word);
    telegram.says(CHATS[0], &format!("{word}the-last-one")).await;
    telegram.shows_text(CHATS[0], "the-last-one").await;
    judge(&telegram, said);
    assert_eq!(telegram.front.most_polls(BOT), 1);
}

/// What makes the model answer slowly, and how often it is asked.
#[derive(Clone, Copy)]
struct Speech {
    word: &'static str,
    pause: Duration,
}

const SPEECH: Speech = Speech { word: "DRIP ", pause: Duration::from_millis(1500) };

/// Waits until no answer is half, and drafts of earlier lives are gone: each
/// message that repeats a note goes on to its last word.
async fn whole(telegram: &Telegram, said: usize, daemon: &Daemon) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    let half = || -> Vec<Message> {
        let all = (0..said).flat_map(|number| answers(telegram, number));
        all.filter(|answer| !answer.text.contains(" dry")).collect()
    };
    while !half().is_empty() {
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "half answers stayed: {:#?}\n{}", half(), daemon.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let edits = telegram.front.calls_of("editMessageText").len();
    assert!(edits > said, "{edits} edits: drafts were not shown");
}

/// People who keep writing.
struct Load {
    stop: Arc<AtomicBool>,
    said: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(telegram: &Arc<Telegram>, speech: Option<Speech>) -> Self {
        let Speech { word, pause } =
            speech.unwrap_or(Speech { word: "", pause: Duration::from_millis(150) });
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
