//! Telegram's side: the emulator of npm's `telegram-test-api`, with a front
//! that adds what it lacks.
//!
//! The emulator keeps chats and messages. The front (see
//! [`crate::telegram_front`]) is what the daemon talks to.

use std::{
    process::Stdio,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    PATIENCE, Tree, npm, ports,
    telegram_front::{Front, Message, post},
};

/// Token of the bot of most tests.
pub const BOT: &str = "1000:test-bot";

/// Name that the emulator gives every bot.
pub const BOT_NAME: &str = "TestNameBot";

const PROGRAM: &str = "
    const TelegramServer = require('telegram-test-api');
    const port = Number(process.argv[1]);
    const server = new TelegramServer({ host: '127.0.0.1', port, storeTimeout: 36000 });
    server.start().then(() => console.log('ready'), () => process.exit(69));
";

/// A running emulator with its front; both stop when dropped.
#[derive(Debug)]
pub struct Telegram {
    /// What the daemon talks to.
    pub front: Front,
    emulator: u16,
    _child: Tree,
    _home: TempDir,
    date: AtomicI64,
}

impl Telegram {
    /// Starts both.
    pub async fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let (emulator, child) = loop {
            if let Some(started) = launch(&home).await {
                break started;
            }
        };
        let front = Front::start(emulator).await;
        let date = AtomicI64::new(1_700_000_000);
        Self { front, emulator, _child: child, _home: home, date }
    }

    /// Returns `channels.telegram` of a configuration with the bot [`BOT`],
    /// which user 7 may talk to; other keys may be laid over it.
    #[must_use]
    pub fn section(&self, more: Value) -> Value {
        let mut section = json!({
            "apiRoot": self.front.url(),
            "botToken": BOT,
            "allowFrom": [7],
            "pollTimeoutSeconds": 2,
            "timeoutSeconds": 20,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            section[key] = value.clone();
        }
        section
    }

    /// A person writes to the bot in a direct chat.
    pub async fn says(&self, user: i64, text: &str) {
        let chat = json!({ "id": user, "type": "private", "first_name": format!("User{user}") });
        self.message(user, chat, json!({ "text": text })).await;
    }

    /// A person writes in a group.
    pub async fn says_in_group(&self, user: i64, group: i64, more: Value) {
        let chat = json!({ "id": group, "type": "supergroup", "title": "Group" });
        self.message(user, chat, more).await;
    }

    /// A message of any kind reaches the bot.
    pub async fn message(&self, user: i64, chat: Value, more: Value) {
        let mut message = json!({
            "botToken": BOT,
            "date": self.date.fetch_add(1, Ordering::Relaxed),
            "from": {
                "id": user,
                "is_bot": false,
                "first_name": format!("User{user}"),
                "username": format!("user{user}"),
            },
            "chat": chat,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            message[key] = value.clone();
        }
        post(self.emulator, "/sendMessage", &message).await.expect("the emulator answers");
    }

    /// Returns what the bot showed in a chat so far, edits applied.
    #[must_use]
    pub fn shown(&self, chat: i64) -> Vec<Message> {
        self.front.messages().into_iter().filter(|message| message.chat == chat).collect()
    }

    /// Waits until the bot shows a fitting message in a chat.
    pub async fn shows(&self, chat: i64, fits: impl Fn(&Message) -> bool) -> Message {
        let mut changes = self.front.changes();
        let found = async {
            loop {
                changes.borrow_and_update();
                if let Some(message) = self.shown(chat).into_iter().find(&fits) {
                    return message;
                }
                changes.changed().await.expect("the front runs");
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(message) => message,
            Err(_) => panic!("chat {chat} shows only {:#?}", self.shown(chat)),
        }
    }

    /// Waits until the bot shows a text in a chat.
    pub async fn shows_text(&self, chat: i64, part: &str) -> Message {
        self.shows(chat, |message| message.text.contains(part)).await
    }
}

async fn launch(home: &TempDir) -> Option<(u16, Tree)> {
    let port = ports::free();
    let mut command = npm::program(PROGRAM, home.path());
    let mut child = Tree::spawn(command.arg(port.to_string()).stdout(Stdio::piped()));
    let stdout = child.stdout.take().expect("it is piped");
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    let ready = stdout.read_line(&mut line);
    let read = tokio::time::timeout(Duration::from_secs(60), ready).await;
    (matches!(read, Ok(Ok(_))) && line.trim() == "ready").then_some((port, child))
}
