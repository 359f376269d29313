//! Telegram, against the emulator that bots are tested with.

use std::time::Duration;

use moltbot_protocol::methods::{
    channels::{ChannelsPairingApprove, ChannelsPairingList},
    send::Send,
};
use moltbot_tests::{
    Client, Daemon, Options, SteeredModel, Telegram,
    daemon::TOKEN,
    telegram::{BOT, BOT_NAME},
    telegram_front::{Fault, Message},
};
use serde_json::{Value, json};

const MARK: &str = "↻ sent again";

async fn daemon(telegram: &Telegram, more: Value) -> Daemon {
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "channels": { "telegram": telegram.section(more) },
    });
    Daemon::start_with(Options::with(config)).await
}

fn message(to: &str, text: &str, key: &str) -> Send {
    serde_json::from_value(json!({
        "channel": "telegram", "to": to, "message": text, "idempotencyKey": key,
    }))
    .unwrap()
}

async fn account(client: &mut Client) -> Value {
    let status = client.call("channels.status", json!({})).await.unwrap();
    status["channelAccounts"]["telegram"][0].clone()
}

/// Waits until `channels.status` says what is expected.
async fn until_account(client: &mut Client, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + moltbot_tests::PATIENCE * 2;
    loop {
        let account = account(client).await;
        if fits(&account) {
            return account;
        }
        assert!(tokio::time::Instant::now() < deadline, "still {account:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn unmarked(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.text.as_str()).filter(|t| !t.contains(MARK)).collect()
}

#[tokio::test]
async fn a_message_is_answered() {
    let telegram = Telegram::start().await;
    let _daemon = daemon(&telegram, json!({})).await;
    telegram.says(7, "hello there").await;
    let answer = telegram.shows_text(7, "hello there").await;
    assert_eq!(answer.params["parse_mode"], "HTML");
    assert!(answer.params["reply_parameters"]["message_id"].is_number());
    assert_eq!(telegram.front.most_polls(BOT), 1);
}

#[tokio::test]
async fn a_slow_answer_grows_in_one_message() {
    let telegram = Telegram::start().await;
    let model = SteeredModel::start().await;
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "agents": { "defaults": { "model": { "primary": "mock/mock-1" } } },
        "models": model.models(),
        "channels": { "telegram": telegram.section(json!({})) },
    });
    let _daemon = Daemon::start_with(Options::with(config)).await;
    telegram.says(7, "SLOW").await;
    let answer = telegram.shows(7, |message| message.text.contains("part39")).await;
    assert!(answer.edits >= 1);
    assert_eq!(telegram.shown(7).len(), 1);
    assert_eq!(telegram.front.calls_of("sendMessage").len(), 1);
    assert!(!telegram.front.calls_of("sendChatAction").is_empty());
}

#[tokio::test]
async fn a_stranger_is_let_in_with_a_code() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({ "allowFrom": [] })).await;
    let mut operator = daemon.operator().await;
    telegram.says(9, "let me in").await;
    let told = telegram.shows_text(9, "moltbotctl pairing approve telegram").await;
    telegram.says(9, "please").await;
    let waiting = operator.request(ChannelsPairingList::default()).await.unwrap().requests;
    let [request] = waiting.as_slice() else { panic!("{waiting:?}") };
    assert_eq!((request.id.as_str(), request.code.len()), ("9", 8));
    assert!(told.text.contains(&request.code));
    assert_eq!(request.meta["username"], "user9");
    let approve: ChannelsPairingApprove = serde_json::from_value(json!({
        "channel": "telegram", "code": request.code.to_lowercase(), "notify": true,
    }))
    .unwrap();
    assert_eq!(operator.request(approve.clone()).await.unwrap().id, "9");
    telegram.shows_text(9, "let in").await;
    let again = operator.request(approve).await.unwrap_err();
    assert!(again.message.contains("no pairing request"), "{}", again.message);
    telegram.says(9, "now answer").await;
    telegram.shows_text(9, "now answer").await;
    assert_eq!(telegram.shown(9).iter().filter(|m| m.text.contains("Pairing code")).count(), 1);
}

#[tokio::test]
async fn a_fourth_stranger_gets_nothing() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({ "allowFrom": [] })).await;
    for user in [11, 12, 13] {
        telegram.says(user, "hi").await;
        telegram.shows_text(user, "Pairing code").await;
    }
    telegram.says(14, "hi").await;
    let seen = telegram.front.offset(BOT);
    telegram.front.until(|front| front.offset(BOT) > seen).await;
    let mut operator = daemon.operator().await;
    let waiting = operator.request(ChannelsPairingList::default()).await.unwrap().requests;
    assert_eq!(waiting.len(), 3);
    assert!(telegram.shown(14).is_empty());
}

#[tokio::test]
async fn a_long_text_is_cut_and_kept_in_order() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({})).await;
    let mut operator = daemon.operator().await;
    let words: Vec<String> = (0..3000).map(|index| format!("word{index}")).collect();
    let sent = operator.request(message("7", &words.join(" "), "long")).await.unwrap();
    let shown = telegram.shown(7);
    assert!(shown.len() > 5);
    assert_eq!(sent.message_id, shown.last().unwrap().id.to_string());
    let history = operator.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    assert_eq!(history["messages"][0]["model"], "delivery-mirror");
    let back: Vec<&str> = shown.iter().flat_map(|message| message.text.split(' ')).collect();
    assert_eq!(back, words);
}

#[tokio::test]
async fn markup_that_telegram_cannot_read_goes_as_plain_text() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({})).await;
    let mut operator = daemon.operator().await;
    let description = "Bad Request: can't parse entities: unclosed tag".to_owned();
    let fault = Fault::Refuse { code: 400, description, retry_after: None };
    telegram.front.plan("sendMessage", fault);
    operator.request(message("7", "**bold**", "plain")).await.unwrap();
    let shown = telegram.shown(7);
    assert_eq!(unmarked(&shown), ["bold"]);
    assert_eq!(shown[0].params.get("parse_mode"), None);
}

#[tokio::test]
async fn the_same_key_sends_once_even_across_a_restart() {
    let telegram = Telegram::start().await;
    let mut daemon = daemon(&telegram, json!({})).await;
    let first = daemon.operator().await.request(message("7", "once", "key")).await.unwrap();
    daemon.kill().await;
    daemon.start_again().await;
    let second = daemon.operator().await.request(message("7", "once", "key")).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(telegram.shown(7).len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_repeated_with_a_mark() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({})).await;
    telegram.front.plan("sendMessage", Fault::LoseAnswer);
    daemon.operator().await.request(message("7", "important", "lost")).await.unwrap();
    let shown = telegram.shown(7);
    assert_eq!(unmarked(&shown), ["important"]);
    assert_eq!(shown.len(), 2);
    assert!(shown[1].text.contains(MARK) && shown[1].text.contains("important"));
}

#[tokio::test]
async fn a_pause_that_telegram_asks_for_is_kept() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({})).await;
    telegram.front.plan("sendMessage", Fault::too_many(2));
    let start = tokio::time::Instant::now();
    daemon.operator().await.request(message("7", "patience", "429")).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2));
    assert_eq!(telegram.shown(7).len(), 1);
}

#[tokio::test]
async fn a_refused_message_fails_with_its_reason() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({})).await;
    let description = "Forbidden: bot was blocked by the user".to_owned();
    telegram.front.plan("sendMessage", Fault::Refuse { code: 403, description, retry_after: None });
    let error = daemon.operator().await.request(message("7", "x", "403")).await.unwrap_err();
    assert!(error.message.contains("blocked by the user"), "{}", error.message);
    assert_eq!(telegram.front.calls_of("sendMessage").len(), 1);
}

#[tokio::test]
async fn a_second_poller_is_a_state_and_not_a_crash() {
    let telegram = Telegram::start().await;
    telegram.front.plan("getUpdates", Fault::conflict());
    let daemon = daemon(&telegram, json!({})).await;
    let mut operator = daemon.operator().await;
    let conflict = |account: &Value| {
        account["lastError"].as_str().is_some_and(|error| error.starts_with("409"))
    };
    let account = until_account(&mut operator, conflict).await;
    assert_eq!(account["running"], true);
    telegram.says(7, "after the conflict").await;
    telegram.front.until(|front| front.offset(BOT) > 0).await;
    until_account(&mut operator, |account| account["lastError"].is_null()).await;
    assert_eq!(telegram.front.most_polls(BOT), 1);
}

#[tokio::test]
async fn too_many_questions_and_broken_answers_are_outlived() {
    let telegram = Telegram::start().await;
    telegram.front.plan("getMe", Fault::LoseAnswer);
    telegram.front.plan("getUpdates", Fault::too_many(1));
    telegram.front.plan("getUpdates", Fault::Malform);
    let _daemon = daemon(&telegram, json!({})).await;
    telegram.says(7, "still there?").await;
    telegram.shows_text(7, "still there?").await;
}

#[tokio::test]
async fn an_update_of_an_unknown_form_stops_nothing() {
    let telegram = Telegram::start().await;
    let _daemon = daemon(&telegram, json!({})).await;
    telegram.message(7, json!({ "id": "seven", "type": "cloud" }), json!({ "text": 5 })).await;
    telegram.says(7, "next").await;
    telegram.shows_text(7, "next").await;
}

#[tokio::test]
async fn a_group_is_answered_when_the_bot_is_meant() {
    let telegram = Telegram::start().await;
    let _daemon = daemon(&telegram, json!({ "groupAllowFrom": [7] })).await;
    telegram.says_in_group(7, -100, json!({ "text": "talking among us" })).await;
    telegram.says_in_group(8, -100, json!({ "text": "a stranger" })).await;
    let text = format!("@{BOT_NAME} what was said?");
    let entities = json!([{ "type": "mention", "offset": 0, "length": BOT_NAME.len() + 1 }]);
    telegram.says_in_group(7, -100, json!({ "text": text, "entities": entities })).await;
    let answer = telegram.shows_text(-100, "what was said?").await;
    assert!(answer.text.contains("talking among us"), "{}", answer.text);
    assert!(!answer.text.contains("a stranger"), "{}", answer.text);
    assert_eq!(telegram.shown(-100).len(), 1);
}

#[tokio::test]
async fn a_picture_is_stored_privately_and_a_large_one_is_declined() {
    use std::os::unix::fs::PermissionsExt as _;
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({ "mediaMaxMb": 1 })).await;
    telegram.front.put_file("pic", b"not really a picture");
    let photo = |id: &str, size: u64| json!([{ "file_id": id, "file_unique_id": id, "width": 9, "height": 9, "file_size": size }]);
    let chat = json!({ "id": 7, "type": "private", "first_name": "x" });
    let picture = json!({ "photo": photo("pic", 20), "caption": "look at this" });
    telegram.message(7, chat.clone(), picture).await;
    telegram.shows_text(7, "look at this").await;
    let folder = daemon.state_dir().join("media/inbound");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), b"not really a picture");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    telegram.message(7, chat, json!({ "photo": photo("huge", 2_000_000) })).await;
    telegram.shows_text(7, "too large").await;
}

#[tokio::test]
async fn an_album_is_one_message() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({})).await;
    let chat = json!({ "id": 7, "type": "private", "first_name": "x" });
    for (id, caption) in [("a", "my album"), ("b", ""), ("c", "")] {
        telegram.front.put_file(id, id.as_bytes());
        let photo = json!([{ "file_id": id, "file_unique_id": id, "width": 9, "height": 9 }]);
        let mut message = json!({ "photo": photo, "media_group_id": "g" });
        if !caption.is_empty() {
            message["caption"] = caption.into();
        }
        telegram.message(7, chat.clone(), message).await;
    }
    telegram.shows_text(7, "my album").await;
    assert_eq!(std::fs::read_dir(daemon.state_dir().join("media/inbound")).unwrap().count(), 3);
    assert_eq!(telegram.shown(7).len(), 1);
}

#[tokio::test]
async fn an_album_in_a_group_is_whole_though_its_caption_comes_last_and_after_a_crash() {
    let telegram = Telegram::start().await;
    let mut daemon = daemon(&telegram, json!({ "groupAllowFrom": [7] })).await;
    let picture = |id: &str| {
        telegram.front.put_file(id, id.as_bytes());
        let photo = json!([{ "file_id": id, "file_unique_id": id, "width": 9, "height": 9 }]);
        json!({ "photo": photo, "media_group_id": "g" })
    };
    let seen = telegram.front.offset(BOT);
    telegram.says_in_group(7, -100, picture("a")).await;
    telegram.front.until(|front| front.offset(BOT) > seen).await;
    daemon.kill().await;
    daemon.start_again().await;
    let mut last = picture("b");
    last["caption"] = format!("@{BOT_NAME} which one?").into();
    last["caption_entities"] =
        json!([{ "type": "mention", "offset": 0, "length": BOT_NAME.len() + 1 }]);
    telegram.says_in_group(7, -100, last).await;
    telegram.shows_text(-100, "which one?").await;
    assert_eq!(std::fs::read_dir(daemon.state_dir().join("media/inbound")).unwrap().count(), 2);
    assert_eq!(telegram.shown(-100).len(), 1);
}

#[tokio::test]
async fn a_group_is_answered_when_the_agent_is_called_by_its_name() {
    let telegram = Telegram::start().await;
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "agents": { "list": [{ "id": "main", "identity": { "name": "Ada" } }] },
        "channels": { "telegram": telegram.section(json!({ "groupAllowFrom": [7] })) },
    });
    let _daemon = Daemon::start_with(Options::with(config)).await;
    telegram.says_in_group(7, -100, json!({ "text": "Canada is large" })).await;
    telegram.says_in_group(7, -100, json!({ "text": "what do you think, ada?" })).await;
    telegram.shows_text(-100, "what do you think, ada?").await;
    assert_eq!(telegram.shown(-100).len(), 1);
}

#[tokio::test]
async fn files_go_out_from_allowed_folders_only() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({})).await;
    let mut operator = daemon.operator().await;
    let folder = daemon.state_dir().join("media");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("note.txt"), "content").unwrap();
    let mut good = message("7", "the note", "good");
    good.media_url = Some(folder.join("note.txt").display().to_string());
    operator.request(good).await.unwrap();
    let shown = telegram.shown(7);
    assert_eq!(shown[0].method, "sendDocument");
    assert_eq!(shown[0].text, "the note");
    assert_eq!(shown[0].params["document"], json!({ "name": "note.txt", "size": 7 }));
    let mut bad = message("7", "the database", "bad");
    bad.media_url = Some(daemon.state_dir().join("moltbot.db").display().to_string());
    let error = operator.request(bad).await.unwrap_err();
    assert!(error.message.contains("not in a folder"), "{}", error.message);
    let mut link = message("7", "a link", "link");
    link.media_url = Some("https://example.invalid/a.png".into());
    operator.request(link).await.unwrap();
    let photo = telegram.shows(7, |message| message.method == "sendPhoto").await;
    assert_eq!(photo.params["photo"], "https://example.invalid/a.png");
}

#[tokio::test]
async fn two_accounts_on_one_token_are_refused_by_name() {
    let telegram = Telegram::start().await;
    let accounts = json!({ "accounts": { "second": { "botToken": BOT } } });
    let daemon = daemon(&telegram, accounts).await;
    let mut operator = daemon.operator().await;
    until_account(&mut operator, |account| account["running"] == true).await;
    let status = operator.call("channels.status", json!({})).await.unwrap();
    let rows = status["channelAccounts"]["telegram"].as_array().unwrap();
    assert_eq!(rows[1]["running"], false);
    let error = rows[1]["lastError"].as_str().unwrap();
    assert!(error.contains("same bot token as account \"default\""), "{error}");
}

#[tokio::test]
async fn a_probe_asks_who_the_bot_is() {
    let telegram = Telegram::start().await;
    let daemon = daemon(&telegram, json!({})).await;
    let mut operator = daemon.operator().await;
    let params = json!({ "probe": true, "timeoutMs": 3000 });
    let status = operator.call("channels.status", params).await.unwrap();
    let probe = &status["channels"]["telegram"]["probe"];
    assert_eq!(probe["ok"], true, "{probe}");
    assert_eq!(probe["bot"]["username"], BOT_NAME);
    assert_eq!(status["channelDefaultAccountId"]["telegram"], "default");
    let health = operator.call("health", json!({ "probe": true })).await.unwrap();
    assert_eq!(health["channels"]["telegram"]["configured"], true, "{health}");
    assert_eq!(health["channelLabels"]["telegram"], "Telegram");
}

#[tokio::test]
async fn a_changed_section_takes_effect_without_a_second_poller() {
    let telegram = Telegram::start().await;
    let mut daemon = daemon(&telegram, json!({ "dmPolicy": "allowlist" })).await;
    telegram.says(7, "before").await;
    telegram.shows_text(7, "before").await;
    let mut operator = daemon.operator().await;
    let first = account(&mut operator).await["lastStartAt"].clone();
    daemon.configure(json!({
        "gateway": { "auth": { "token": TOKEN } },
        "channels": { "telegram": telegram.section(json!({ "allowFrom": [8] })) },
    }));
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    until_account(&mut operator, |account| account["lastStartAt"] != first).await;
    telegram.says(8, "after").await;
    telegram.shows_text(8, "after").await;
    assert_eq!(telegram.front.most_polls(BOT), 1);
}

#[tokio::test]
async fn another_bot_is_heard_from_its_first_message_on() {
    const OTHER: &str = "10:other-bot";
    let telegram = Telegram::start().await;
    let mut daemon = daemon(&telegram, json!({})).await;
    telegram.says(7, "to the first").await;
    telegram.shows_text(7, "to the first").await;
    daemon.stop().await;
    let chat = json!({ "id": 7, "type": "private", "first_name": "User7" });
    let more = json!({ "botToken": OTHER, "text": "to the second" });
    telegram.message(7, chat, more).await;
    daemon.configure(json!({
        "gateway": { "auth": { "token": TOKEN } },
        "channels": { "telegram": telegram.section(json!({ "botToken": OTHER })) },
    }));
    daemon.start_again().await;
    telegram.shows_text(7, "to the second").await;
    assert!(telegram.front.offset(OTHER) < telegram.front.offset(BOT));
}
