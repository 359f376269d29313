//! Order, repetition and numbers.

use super::*;
use crate::{agent::StopCause, store::RunState};

#[tokio::test]
async fn a_message_for_a_busy_conversation_waits_and_runs_under_another_name() {
    let hold = Arc::new(Notify::new());
    let first = vec![Step::Say("One"), Step::Hold(Arc::clone(&hold))];
    let mut world = World::new(Script::of([first, vec![Step::Say("Two")]]));
    drop(world.send("k1", "first").await);
    world.told_until("chat k1#2 delta One").await;
    let second = world.send("k2", "second").await;
    assert!(second.queued);
    world.agent.tell_queued(&second.run);
    world.told_until("chat k2#1 final").await;
    let name = second.run.event_id.clone();
    assert_ne!(name, "k2");
    drop(second);
    hold.notify_one();
    world.told_until("chat k1#3 final One").await;
    world.told_until(&format!("chat {name}#3 final Two")).await;
    world.settled().await;
    assert_eq!(
        world.transcript("agent:main:main").await,
        ["user: first", "assistant: One", "user: second", "assistant: Two"]
    );
}

#[tokio::test]
async fn a_message_right_after_a_stop_keeps_its_name() {
    let mut world = World::new(Script::of([vec![Step::Say("One"), Step::Hang]]));
    drop(world.send("k1", "first").await);
    world.told_until("chat k1#2 delta One").await;
    world.agent.abort("main", None, StopCause::Rpc);
    let second = world.send("k2", "second").await;
    assert!(!second.queued);
    drop(second);
    world.told_until("chat k2#3 final ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_right_after_an_answer_keeps_its_name() {
    let mut world = World::new(Script::of([]));
    for index in 0..100 {
        let id = format!("k{index}");
        let accepted = world.send(&id, "hi").await;
        assert!(!accepted.queued);
        drop(accepted);
        world.told_until(&format!("chat {id}#3 final ok")).await;
    }
}

#[tokio::test]
async fn other_conversations_do_not_wait() {
    let script = Script::of([vec![Step::Say("One"), Step::Hang]]);
    let mut world = World::new(script);
    drop(world.send("k1", "first").await);
    world.told_until("chat k1#2 delta One").await;
    let request = RunRequest { session_key: "other".into(), ..chat("k2", "hi") };
    world.agent.start(request).await.unwrap();
    world.told_until("chat k2#3 final ok").await;
}

#[tokio::test]
async fn only_so_many_runs_are_under_way_at_once() {
    let hold = Arc::new(Notify::new());
    let script = Script::of([vec![Step::Say("One"), Step::Hold(Arc::clone(&hold))]]);
    let mut world = World::new(script);
    world.configure(|config| config.agents.defaults.max_concurrent = 1);
    drop(world.send("k1", "first").await);
    world.told_until("chat k1#2 delta One").await;
    let request = RunRequest { session_key: "other".into(), ..chat("k2", "hi") };
    let Started::New(other) = world.agent.start(request).await.unwrap() else { panic!() };
    assert!(!other.queued);
    drop(other);
    tokio::task::yield_now().await;
    assert_eq!(world.script.prompts().len(), 1);
    hold.notify_one();
    world.told_until("chat k2#3 final ok").await;
}

#[tokio::test]
async fn a_key_used_twice_is_one_run() {
    let hold = Arc::new(Notify::new());
    let script = Script::of([vec![Step::Say("One"), Step::Hold(Arc::clone(&hold))]]);
    let mut world = World::new(script);
    drop(world.send("k1", "first").await);
    world.told_until("chat k1#2 delta One").await;
    let again = world.agent.start(chat("k1", "first")).await.unwrap();
    assert!(matches!(again, Started::InFlight { .. }));
    hold.notify_one();
    world.told_until("chat k1#3 final One").await;
    world.agent.wait("k1", PATIENCE).await.unwrap().unwrap();
    let again = world.agent.start(chat("k1", "first")).await.unwrap();
    let Started::Ended(ended) = again else { panic!("{again:?}") };
    assert_eq!(ended.state, RunState::Done);
    assert!(ended.result.unwrap().contains("One"));
}

#[tokio::test]
async fn a_repeated_key_takes_nothing_from_the_next_run() {
    let world = World::new(Script::of([]));
    world.answered("k1", "first").await;
    world.agent.parts.system_events.queue("agent:main:main", "It rains.");
    let again = world.agent.start(chat("k1", "first")).await.unwrap();
    assert!(matches!(again, Started::Ended(_)), "{again:?}");
    world.answered("k2", "second").await;
    let transcript = world.transcript("agent:main:main").await;
    assert!(transcript[2].contains("It rains."), "{transcript:?}");
}

#[tokio::test]
async fn those_that_wait_are_stopped_with_the_one_that_runs() {
    let mut world = World::new(Script::of([vec![Step::Say("One"), Step::Hang]]));
    drop(world.send("k1", "first").await);
    world.told_until("chat k1#2 delta One").await;
    drop(world.send("k2", "second").await);
    let mut stopped = world.agent.abort("main", None, StopCause::Word);
    stopped.sort();
    assert_eq!(stopped, ["k1", "k2"]);
    world.settled().await;
    assert_eq!(world.run("k2").await.unwrap().state, RunState::Aborted);
    assert_eq!(world.agent.open_runs(), 0);
}

#[tokio::test]
async fn a_run_that_is_yet_to_come_can_be_waited_for() {
    let world = World::new(Script::of([]));
    let agent = Arc::clone(&world.agent);
    let waiting = tokio::spawn(async move { agent.wait("k1", PATIENCE).await });
    tokio::task::yield_now().await;
    world.answered("k1", "hi").await;
    let ended = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(ended.state, RunState::Done);
    assert!(ended.started_at_ms.is_some());
    let nothing = world.agent.wait("unknown", Duration::from_millis(1)).await.unwrap();
    assert!(nothing.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_runs_leave_nothing_behind() {
    let mut world = World::new(Script::of([]));
    let mut runs = Vec::new();
    for index in 0..1000 {
        let request = RunRequest {
            session_key: format!("s{}", index % 50),
            ..chat(&format!("k{index}"), "hi")
        };
        let Started::New(accepted) = world.agent.start(request).await.unwrap() else { panic!() };
        runs.push(Arc::clone(&accepted.run));
    }
    for run in &runs {
        tokio::time::timeout(PATIENCE, run.ended()).await.unwrap();
    }
    world.settled().await;
    assert_eq!(world.agent.open_runs(), 0);
    assert_eq!(world.agent.lanes.waiting("agent:main:s0"), 0);
    assert!(runs.iter().all(|run| Arc::strong_count(run) == 1));
    assert_eq!(world.transcript("agent:main:s0").await.len(), 40);
    world.heard.clear();
}
