//! Messages of channels.

use moltbot_protocol::methods::sessions::SessionEntry;

use super::*;
use crate::{
    channels::{Inbound, InboundMessage, Peer, PeerKind, Sender},
    store::RunState,
};

const HOUR_MS: i64 = 60 * 60 * 1000;

pub(super) fn message(text: &str) -> InboundMessage {
    InboundMessage {
        route: Route {
            channel: "telegram".into(),
            account: "default".into(),
            to: "7".into(),
            thread: None,
            reply_to: Some("55".into()),
        },
        peer: Peer { kind: PeerKind::Direct, id: "7".into(), title: None },
        sender: Sender { id: "7".into(), name: "Ada".into(), username: None },
        message_id: "55".into(),
        text: text.into(),
        after_name: None,
        quoted: None,
        forwarded: false,
        others: Some(Vec::new()),
        context: Vec::new(),
        attachments: Vec::new(),
        authorized: true,
        sent_at_ms: 0,
    }
}

impl World {
    /// Puts a message into the inbox.
    pub(super) async fn receive(&self, update: i64, message: InboundMessage) -> Inbound {
        let body = serde_json::to_string(&message).unwrap();
        let put = move |db: &crate::store::Db<'_>| {
            db.put_inbox("telegram", "default", update, Some(&body), 0)
        };
        let inbox_id = self.store.write(put).await.unwrap().unwrap();
        Inbound { inbox_id, message }
    }

    pub(super) async fn handled(&self, inbound: &Inbound) {
        self.agent.handle(inbound).await.unwrap();
        self.settled().await;
        self.tracker.reopen();
    }

    /// Returns key and text of what is queued for the channel.
    pub(super) async fn queued(&self) -> Vec<(String, String)> {
        let rows =
            self.store.read(|db| db.next_messages("telegram", "default", 100)).await.unwrap();
        rows.into_iter()
            .map(|row| {
                let body: OutboundMessage = serde_json::from_str(&row.body).unwrap();
                (row.key, body.text)
            })
            .collect()
    }
}

fn reply(id: i64, text: &str) -> (String, String) {
    (format!("reply:{id}"), text.to_owned())
}

#[tokio::test]
async fn a_message_is_answered_in_one_transaction() {
    let world = World::new(Script::of([vec![Step::Say("Hel"), Step::Say("lo")]]));
    let inbound = world.receive(1, message("hi")).await;
    world.handled(&inbound).await;
    assert_eq!(world.queued().await, [reply(inbound.inbox_id, "Hello")]);
    assert!(world.store.read(|db| db.open_inbox()).await.unwrap().is_empty());
    assert_eq!(*world.channel.shown.lock().unwrap(), ["Hel", "Hello"]);
    assert_eq!(world.channel.woken.load(Ordering::SeqCst), 1);
    let entry = world.store.read(|db| db.session("agent:main:main")).await.unwrap().unwrap();
    assert_eq!(entry.last_to.as_deref(), Some("7"));
    assert_eq!(entry.origin.unwrap().label.as_deref(), Some("Ada"));
}

#[tokio::test]
async fn a_message_handed_over_twice_is_answered_once() {
    let world = World::new(Script::of([]));
    let inbound = world.receive(1, message("hi")).await;
    world.agent.handle(&inbound).await.unwrap();
    world.handled(&inbound).await;
    assert_eq!(world.queued().await.len(), 1);
    assert_eq!(world.script.prompts().len(), 1);
}

#[tokio::test]
async fn a_failure_is_said_in_the_chat() {
    let fail = || vec![Step::Fail(|| ProviderError::Unauthorized("401".into()))];
    let world = World::new(Script::of([fail(), fail()]));
    let inbound = world.receive(1, message("hi")).await;
    world.handled(&inbound).await;
    let text = "⚠️ No answer: test/first: 401; test/second: 401";
    assert_eq!(world.queued().await, [reply(inbound.inbox_id, text)]);
}

#[tokio::test]
async fn a_word_that_stops_does_not_wait_for_the_lane() {
    let mut world = World::new(Script::of([vec![Step::Say("One"), Step::Hang]]));
    let first = world.receive(1, message("hi")).await;
    world.agent.handle(&first).await.unwrap();
    while world.channel.shown.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let stop = world.receive(2, message("/stop@bot")).await;
    world.handled(&stop).await;
    assert_eq!(world.queued().await, [reply(stop.inbox_id, "⚙️ Stopped.")]);
    assert!(world.store.read(|db| db.open_inbox()).await.unwrap().is_empty());
    world.heard.clear();
}

#[tokio::test]
async fn words_that_act_do_so_after_the_assistants_name() {
    let world = World::new(Script::of([]));
    world.configure(|config| config.session.reset_triggers = vec!["fresh start".into()]);
    let named = |rest: &str| InboundMessage {
        after_name: Some(rest.into()),
        ..message(&format!("Ada, {rest}"))
    };
    let stranger = InboundMessage { authorized: false, ..named("stop") };
    let all = [
        named("stop"),
        named("Fresh start"),
        named("fresh start: a"),
        named("fresh start b"),
        stranger,
    ];
    for (update, mut message) in (1..).zip(all) {
        message.route.to = update.to_string();
        let inbound = world.receive(update, message).await;
        world.handled(&inbound).await;
    }
    let texts: Vec<_> = world.queued().await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(
        texts,
        ["Nothing is under way.", "✨ A new conversation has begun.", "ok", "ok", "ok"]
    );
    let asked = world.transcript("agent:main:main").await;
    assert_eq!(asked, ["user: b", "assistant: ok", "user: Ada, stop", "assistant: ok"]);
}

#[tokio::test]
async fn silence_is_not_shown_while_it_is_written() {
    let world = World::new(Script::of([vec![Step::Say("NO_"), Step::Say("REPLY")]]));
    let inbound = world.receive(1, message("hi")).await;
    world.handled(&inbound).await;
    assert!(world.queued().await.is_empty());
    assert!(world.channel.shown.lock().unwrap().is_empty());
}

#[tokio::test]
async fn strangers_give_no_commands() {
    let world = World::new(Script::of([]));
    let stranger = InboundMessage { authorized: false, ..message("/nodes") };
    let inbound = world.receive(1, stranger).await;
    world.handled(&inbound).await;
    assert_eq!(world.queued().await, [reply(inbound.inbox_id, "ok")]);
    assert_eq!(world.transcript("agent:main:main").await[0], "user: /nodes");
}

#[tokio::test]
async fn a_command_for_a_node_is_answered_with_what_the_node_said() {
    let world = World::new(Script::of([]));
    world.own("telegram:7");
    let inbound = world.receive(1, message("/node mac-1 system.run {\"a\":1}")).await;
    world.handled(&inbound).await;
    let text = "```\nmac-1 did system.run\n```";
    assert_eq!(world.queued().await, [reply(inbound.inbox_id, text)]);
    assert!(world.store.read(|db| db.open_inbox()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_group_is_read_with_names_and_what_was_said_before() {
    let world = World::new(Script::of([]));
    let group = InboundMessage {
        peer: Peer { kind: PeerKind::Group, id: "-100".into(), title: Some("Team".into()) },
        context: vec!["Bob: lunch?".into()],
        quoted: Some("pizza".into()),
        ..message("which one?")
    };
    let inbound = world.receive(1, group).await;
    world.handled(&inbound).await;
    let prompt = world.script.prompts().pop().unwrap();
    assert!(prompt.system.contains("the group \"Team\""), "{}", prompt.system);
    let transcript = world.transcript("agent:main:telegram:group:-100").await;
    assert_eq!(
        transcript[0],
        "user: [Said in the group since your last answer]\n> Bob: lunch?\n[The message to you]\n\
         [In answer to]\n> pizza\nAda: which one?"
    );
}

#[tokio::test]
async fn a_muted_conversation_is_left_alone() {
    let world = World::new(Script::of([]));
    let mute = |db: &crate::store::Db<'_>| {
        let mut entry = crate::sessions::new_entry();
        entry.send_policy = Some("deny".into());
        db.put_session("agent:main:main", "main", &entry)
    };
    world.store.write(mute).await.unwrap();
    let inbound = world.receive(1, message("hi")).await;
    world.handled(&inbound).await;
    assert!(world.queued().await.is_empty());
    assert!(world.store.read(|db| db.open_inbox()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_policy_mutes_groups_for_all_but_commands() {
    let world = World::new(Script::of([vec![Step::Say("yes")]]));
    let policy = json!({ "rules": [{ "action": "deny", "match": { "chatType": "group" } }] });
    world.configure(|config| {
        config.session.send_policy = Some(serde_json::from_value(policy).unwrap());
    });
    let group = |text: &str| InboundMessage {
        peer: Peer { kind: PeerKind::Group, id: "-100".into(), title: None },
        ..message(text)
    };
    let mut direct = message("hi");
    direct.route.to = "8".into();
    let all = [group("hi"), group("/new hi"), group("/help"), direct];
    for (update, message) in (1..).zip(all) {
        let inbound = world.receive(update, message).await;
        world.handled(&inbound).await;
    }
    let keys: Vec<_> = world.queued().await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["reply:3", "reply:4"]);
    assert!(world.store.read(|db| db.open_inbox()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_muted_conversation_that_starts_anew_is_not_muted_any_more() {
    let world = World::new(Script::of([vec![Step::Say("yes")]]));
    let mute = |db: &crate::store::Db<'_>| {
        let mut entry = crate::sessions::new_entry();
        entry.send_policy = Some("deny".into());
        db.put_session("agent:main:main", "main", &entry)
    };
    world.store.write(mute).await.unwrap();
    let inbound = world.receive(1, message("/new hi")).await;
    world.handled(&inbound).await;
    assert_eq!(world.queued().await, [reply(1, "yes")]);
}

#[tokio::test]
async fn what_a_conversation_was_told_about_answers_ends_with_it() {
    let tell = |word: &'static str, age_ms: i64| {
        move |db: &crate::store::Db<'_>| {
            let mut entry = crate::sessions::new_entry();
            entry.send_policy = Some(word.into());
            entry.updated_at = Some(crate::clock::now_ms() - age_ms);
            db.put_session("agent:main:main", "main", &entry)
        }
    };
    let told =
        [("allow", "deny", 0), ("allow", "deny", 2 * HOUR_MS), ("deny", "allow", 2 * HOUR_MS)];
    let mut answered = Vec::new();
    for (word, default, age_ms) in told {
        let world = World::new(Script::of([]));
        let rules = json!({
            "reset": { "mode": "idle", "idleMinutes": 60 }, "sendPolicy": { "default": default },
        });
        world.configure(|config| config.session = serde_json::from_value(rules).unwrap());
        world.store.write(tell(word, age_ms)).await.unwrap();
        for update in 1..=2 {
            let inbound = world.receive(update, message("hi")).await;
            world.handled(&inbound).await;
        }
        answered.push(world.script.prompts().len());
    }
    assert_eq!(answered, [2, 0, 2]);
}

#[tokio::test]
async fn groups_start_anew_by_their_own_rule() {
    let world = World::new(Script::of([vec![Step::Say("a")], vec![Step::Say("b")]]));
    let rules = json!({
        "reset": { "mode": "idle", "idleMinutes": 1000 },
        "resetByType": { "group": { "idleMinutes": 30 } },
    });
    world.configure(|config| config.session = serde_json::from_value(rules).unwrap());
    let keys = ["agent:main:main", "agent:main:telegram:group:-100"];
    let fill = move |db: &crate::store::Db<'_>| {
        let old = || SessionEntry {
            session_id: "old".into(),
            updated_at: Some(crate::clock::now_ms() - HOUR_MS),
            ..SessionEntry::default()
        };
        keys.iter().try_for_each(|key| db.put_session(key, "main", &old()))
    };
    world.store.write(fill).await.unwrap();
    let group = InboundMessage {
        peer: Peer { kind: PeerKind::Group, id: "-100".into(), title: None },
        ..message("hi")
    };
    for (update, message) in [(1, message("hi")), (2, group)] {
        let inbound = world.receive(update, message).await;
        world.handled(&inbound).await;
    }
    let mut kept = Vec::new();
    for key in keys {
        let entry = world.store.read(move |db| db.session(key)).await.unwrap().unwrap();
        kept.push(entry.session_id == "old");
    }
    assert_eq!(kept, [true, false]);
}

#[tokio::test]
async fn pictures_and_files_reach_the_model() {
    let world = World::new(Script::of([]));
    let path = |name: &str| world.folder.path().join(name);
    std::fs::write(path("a.png"), b"picture").unwrap();
    std::fs::write(path("b.pdf"), b"paper").unwrap();
    let file = |name: &str, mime: &str| crate::channels::Attachment {
        path: path(name),
        mime: mime.into(),
        file_name: Some(name.into()),
    };
    let attachments = vec![file("a.png", "image/png"), file("b.pdf", "application/pdf")];
    let inbound = world.receive(1, InboundMessage { attachments, ..message("look") }).await;
    world.handled(&inbound).await;
    let prompt = world.script.prompts().pop().unwrap();
    let crate::providers::Turn::User { attachments, .. } = &prompt.turns[0] else { panic!() };
    let data: Vec<_> = attachments.iter().map(|media| media.data.as_slice()).collect();
    assert_eq!(data, [b"picture".as_slice(), b"paper".as_slice()]);
}

#[tokio::test]
async fn a_message_taken_up_after_a_crash_is_answered_once() {
    let world = World::new(Script::of([vec![Step::Hang]]));
    let inbound = world.receive(1, message("hi")).await;
    world.agent.handle(&inbound).await.unwrap();
    let folder = Arc::clone(&world.folder);
    world.stop.cancel();
    world.settled().await;

    let world = World::at(folder, Script::of([]), Arc::default());
    world.resume().await;
    world.handled(&inbound).await;
    assert_eq!(world.queued().await, [reply(inbound.inbox_id, "ok")]);
    assert_eq!(world.script.prompts().len(), 1);
    let open = world.store.read(|db| db.open_runs()).await.unwrap();
    assert!(open.iter().all(|run| run.state != RunState::Running), "{open:#?}");
}
