//! What a stop of the daemon leaves, and how it is taken up.

use super::*;
use crate::{agent::StopCause, store::RunState};

/// Ends a world as a crash does: its tasks stop where they are.
async fn crash(world: World) -> Arc<TempDir> {
    let folder = Arc::clone(&world.folder);
    world.stop.cancel();
    world.settled().await;
    folder
}

/// Ends a world while its run waits for a tool.
async fn crash_amid_a_tool(script: Arc<Script>, counter: &Arc<Counter>) -> Arc<TempDir> {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let world = World::at(folder, script, Arc::clone(counter));
    drop(world.send("k1", "hi").await);
    while counter.calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    crash(world).await
}

impl World {
    /// Gives the disk room once a write found none, and lets the runs end.
    async fn thaw_when_it_waits(&self) {
        while self.store.trouble().is_none() {
            tokio::task::yield_now().await;
        }
        self.store.write(|db| db.freeze(false)).await.unwrap();
        self.settled().await;
    }
}

#[tokio::test]
async fn a_run_that_was_under_way_is_answered_after_a_restart() {
    let mut world = World::new(Script::of([vec![Step::Say("Half"), Step::Hang]]));
    drop(world.send("k1", "hi").await);
    drop(world.send("k2", "and this").await);
    world.told_until("chat k1#2 delta Half").await;
    let folder = crash(world).await;

    let script = Script::of([vec![Step::Say("Whole")], vec![Step::Say("That")]]);
    let world = World::at(folder, script, Arc::default());
    assert_eq!(world.resume().await, 2);
    world.settled().await;
    assert_eq!(
        world.transcript("agent:main:main").await,
        ["user: hi", "assistant: Whole", "user: and this", "assistant: That"]
    );
    assert_eq!(world.run("k2").await.unwrap().state, RunState::Done);
}

#[tokio::test]
async fn a_tool_that_was_at_work_is_reported_and_not_called_again() {
    let counter = Arc::new(Counter { hold: Some(Arc::default()), ..Counter::default() });
    let script = Script::of([vec![Step::Call("count", json!({})), Step::Call("count", json!({}))]]);
    let folder = crash_amid_a_tool(script, &counter).await;

    let script = Script::of([vec![Step::Say("I see")]]);
    let world = World::at(folder, script, Arc::clone(&counter));
    world.resume().await;
    world.settled().await;
    assert_eq!(counter.calls.load(Ordering::SeqCst), 1);
    let turns = world.script.prompts().pop().unwrap().turns;
    let answers: Vec<_> = turns
        .iter()
        .filter_map(|turn| match turn {
            crate::providers::Turn::Tool { text, is_error: true, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(answers.len(), 2, "{turns:#?}");
    assert!(answers.iter().any(|text| text.contains("outcome is unknown")));
    assert!(answers.iter().any(|text| text.contains("before this call was made")));
}

#[tokio::test]
async fn what_was_said_before_a_tool_was_called_belongs_to_the_answer() {
    let counter = Arc::new(Counter { hold: Some(Arc::default()), ..Counter::default() });
    let script = Script::of([vec![Step::Say("Let me see."), Step::Call("count", json!({}))]]);
    let folder = crash_amid_a_tool(script, &counter).await;

    let script = Script::of([vec![Step::Say("It is two.")]]);
    let world = World::at(folder, script, counter);
    world.resume().await;
    world.settled().await;
    let result = world.run("k1").await.unwrap().result.unwrap();
    assert!(result.contains("Let me see.") && result.contains("It is two."), "{result}");
}

#[tokio::test]
async fn a_run_that_was_stopped_stays_stopped() {
    let mut world = World::new(Script::of([vec![Step::Say("Half"), Step::Hang]]));
    drop(world.send("k1", "hi").await);
    world.told_until("chat k1#2 delta Half").await;
    // What the store holds when the daemon dies between the stop and the end.
    world.store.write(|db| db.stop_runs(&["k1".to_owned()])).await.unwrap();
    let folder = crash(world).await;

    let mut world = World::at(folder, Script::of([]), Arc::default());
    world.resume().await;
    world.told_until("agent k1#1 lifecycle end").await;
    world.settled().await;
    assert!(world.script.prompts().is_empty());
    assert_eq!(world.run("k1").await.unwrap().state, RunState::Aborted);
}

#[tokio::test]
async fn nobody_gets_ahead_of_a_run_that_is_taken_up() {
    let mut world = World::new(Script::of([vec![Step::Say("Half"), Step::Hang]]));
    drop(world.send("k1", "hi").await);
    world.told_until("chat k1#2 delta Half").await;
    let folder = crash(world).await;

    let script = Script::of([vec![Step::Say("Whole")], vec![Step::Say("That")]]);
    let world = World::at(folder, script, Arc::default());
    let recalled = world.agent.recall().await.unwrap();
    let again = world.agent.start(chat("k1", "hi")).await.unwrap();
    assert!(matches!(again, Started::InFlight { .. }), "{again:?}");
    drop(world.send("k2", "and this").await);
    world.agent.resume(recalled).await;
    world.settled().await;
    assert_eq!(
        world.transcript("agent:main:main").await,
        ["user: hi", "assistant: Whole", "user: and this", "assistant: That"]
    );
}

#[tokio::test]
async fn a_key_is_known_after_a_restart() {
    let world = World::new(Script::of([vec![Step::Say("Once")]]));
    world.answered("k1", "hi").await;
    let folder = crash(world).await;

    let world = World::at(folder, Script::of([]), Arc::default());
    let again = world.agent.start(chat("k1", "hi")).await.unwrap();
    let Started::Ended(ended) = again else { panic!("{again:?}") };
    assert!(ended.result.unwrap().contains("Once"));
    assert!(world.script.prompts().is_empty());
}

#[tokio::test]
async fn a_stop_leaves_nothing_open_that_has_ended() {
    let world = World::new(Script::of([]));
    world.answered("k1", "hi").await;
    assert!(world.store.read(|db| db.open_runs()).await.unwrap().is_empty());
    assert_eq!(world.run("k1").await.unwrap().request, None);
    assert_eq!(world.counter.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_waits_for_the_disk_and_is_given_without_a_restart() {
    let gate = Arc::<Notify>::default();
    let script = Script::of([vec![Step::Hold(Arc::clone(&gate)), Step::Say("At last")]]);
    let mut world = World::new(script);
    drop(world.send("k1", "hi").await);
    world.told_until("agent k1#1 lifecycle start").await;
    world.store.write(|db| db.freeze(true)).await.unwrap();
    gate.notify_one();
    world.thaw_when_it_waits().await;
    assert_eq!(world.run("k1").await.unwrap().state, RunState::Done);
    let told = world.transcript("agent:main:main").await;
    assert_eq!(told, ["user: hi", "assistant: At last"]);
    let heard = world.told_until("chat k1#3 final At last").await;
    assert!(!heard.iter().any(|line| line.contains("error")), "{heard:#?}");
}

#[tokio::test]
async fn a_tool_is_called_once_the_disk_has_room_and_only_once() {
    let gate = Arc::<Notify>::default();
    let call = vec![Step::Hold(Arc::clone(&gate)), Step::Call("count", json!({}))];
    let mut world = World::new(Script::of([call, vec![Step::Say("It is one.")]]));
    drop(world.send("k1", "hi").await);
    world.told_until("agent k1#1 lifecycle start").await;
    world.store.write(|db| db.freeze(true)).await.unwrap();
    gate.notify_one();
    while world.store.trouble().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.counter.calls.load(Ordering::SeqCst), 0, "nobody would know of it");
    world.thaw_when_it_waits().await;
    assert_eq!(world.counter.calls.load(Ordering::SeqCst), 1);
    assert_eq!(world.transcript("agent:main:main").await.pop().unwrap(), "assistant: It is one.");
}

#[tokio::test]
async fn a_run_is_taken_up_once_the_disk_has_room() {
    let counter = Arc::new(Counter { hold: Some(Arc::default()), ..Counter::default() });
    let call = Script::of([vec![Step::Call("count", json!({}))]]);
    let folder = crash_amid_a_tool(call, &counter).await;
    let world = World::at(folder, Script::of([vec![Step::Say("I see")]]), counter);
    world.store.write(|db| db.freeze(true)).await.unwrap();
    world.resume().await;
    world.thaw_when_it_waits().await;
    assert_eq!(world.run("k1").await.unwrap().state, RunState::Done);
}

#[tokio::test]
async fn a_stop_is_told_once_it_is_stored() {
    let mut world = World::new(Script::of([vec![Step::Say("Half"), Step::Hang]]));
    drop(world.send("k1", "hi").await);
    world.told_until("chat k1#2 delta Half").await;
    world.store.write(|db| db.freeze(true)).await.unwrap();
    let stopping = world.agent.stop("main", None, StopCause::Rpc);
    let (stopped, ()) = tokio::join!(stopping, world.thaw_when_it_waits());
    assert_eq!(stopped.unwrap(), ["k1"]);
    assert_eq!(world.run("k1").await.unwrap().state, RunState::Aborted);
}
