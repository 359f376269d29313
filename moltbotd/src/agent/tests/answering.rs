//! What clients are told, and what stays in the transcript.

use super::*;
use crate::store::RunState;

fn busy() -> ProviderError {
    ProviderError::Busy { message: "429 too many requests".into(), retry_after_ms: None }
}

fn no_key() -> ProviderError {
    ProviderError::NoKey("no key for test; set models.providers.test.apiKey".into())
}

fn too_long() -> ProviderError {
    ProviderError::TooLong("the prompt is too long".into())
}

#[tokio::test]
async fn a_run_is_told_step_by_step_and_kept() {
    let script = Script::of([vec![Step::Say("Hello "), Step::Say("there."), Step::Say(" ")]]);
    let mut world = World::new(script);
    world.answered("k1", "hi").await;
    assert_eq!(
        world.told_until("chat k1#4 final Hello there.").await,
        [
            "agent k1#1 lifecycle start",
            "agent k1#2 text Hello",
            "chat k1#2 delta Hello",
            "agent k1#3 text Hello there.",
            "agent k1#4 lifecycle end",
            "chat k1#4 final Hello there.",
        ]
    );
    let messages = world.messages("agent:main:main").await;
    assert_eq!(world.transcript("agent:main:main").await, ["user: hi", "assistant: Hello there. "]);
    assert_eq!(messages[1]["usage"]["totalTokens"], 18);
    assert_eq!(messages[1]["stopReason"], "stop");
    let entry = world.store.read(|db| db.session("agent:main:main")).await.unwrap().unwrap();
    assert_eq!((entry.input_tokens, entry.output_tokens), (Some(11), Some(7)));
    assert_eq!(entry.last_channel.as_deref(), Some("webchat"));
    assert_eq!(entry.context_tokens, Some(128_000));
}

#[tokio::test]
async fn tools_are_shown_only_where_the_session_says_so_but_always_counted() {
    let round =
        || [vec![Step::Say("Let me"), Step::Call("count", json!({}))], vec![Step::Say("Two.")]];
    let mut world = World::new(Script::of(round().into_iter().chain(round())));
    world.answered("k1", "hi").await;
    let hidden = world.told_until("chat k1#6 final Two.").await;
    assert!(hidden.iter().all(|line| !line.contains("tool")), "{hidden:#?}");
    assert!(hidden.contains(&"agent k1#5 text Two.".to_owned()));
    world.configure(|config| config.agents.defaults.verbose_default = Some("full".into()));
    world.answered("k2", "hi").await;
    let shown = world.told_until("chat k2#6 final Two.").await;
    assert!(shown.contains(&"agent k2#3 tool start".to_owned()));
    assert!(shown.contains(&"agent k2#4 tool result".to_owned()));
    let roles: Vec<_> = world.messages("agent:main:main").await;
    let roles: Vec<_> = roles.iter().map(message::role).take(4).collect();
    assert_eq!(roles, ["user", "assistant", "toolResult", "assistant"]);
}

#[tokio::test]
async fn another_model_answers_when_the_first_cannot() {
    let mut world = World::new(Script::of([vec![Step::Fail(busy)], vec![Step::Say("Second.")]]));
    world.answered("k1", "hi").await;
    let told = world.told_until("chat k1#4 final Second.").await;
    assert_eq!(told.iter().filter(|line| line.ends_with("lifecycle start")).count(), 2);
    let messages = world.messages("agent:main:main").await;
    assert_eq!(messages[1]["model"], "second");
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_not_tried_elsewhere() {
    let mut world = World::new(Script::of([vec![Step::Fail(too_long)]]));
    world.answered("k1", "hi").await;
    let text =
        "the prompt is too long. Start anew with /new, or choose a model with a larger context";
    world.told_until(&format!("chat k1#2 error {text}")).await;
    assert_eq!(world.script.prompts().len(), 1);
}

#[tokio::test]
async fn a_failure_is_told_and_kept_and_not_shown_to_the_model() {
    let script = Script::of([vec![Step::Fail(no_key)], vec![Step::Fail(no_key)]]);
    let mut world = World::new(script);
    world.answered("k1", "hi").await;
    let error = "test/first: no key for test; set models.providers.test.apiKey; \
                 test/second: no key for test; set models.providers.test.apiKey";
    world.told_until(&format!("chat k1#3 error {error}")).await;
    assert_eq!(world.run("k1").await.unwrap().state, RunState::Failed);
    let transcript = world.transcript("agent:main:main").await;
    assert_eq!(transcript[1], format!("assistant: ⚠️ No answer: {error}"));
    world.answered("k2", "again").await;
    let turns = world.script.prompts().pop().unwrap().turns;
    assert_eq!(turns.len(), 2);
}

#[tokio::test]
async fn silence_is_neither_told_nor_sent() {
    let mut world = World::new(Script::of([vec![Step::Say("NO_"), Step::Say("REPLY")]]));
    world.answered("k1", "hi").await;
    let told = world.told_until("chat k1#4 final").await;
    assert!(told.iter().all(|line| !line.contains("delta")), "{told:#?}");
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_stopped() {
    let mut world = World::new(Script::of([vec![Step::Say("Well"), Step::Hang]]));
    let request = RunRequest { timeout_ms: Some(50), ..chat("k1", "hi") };
    world.agent.start(request).await.unwrap();
    world.told_until("agent k1#3 lifecycle error").await;
    let run = world.run("k1").await.unwrap();
    assert_eq!(run.state, RunState::Aborted);
    assert_eq!(run.error.as_deref(), Some("the run was stopped after 0 s"));
}

#[tokio::test]
async fn what_was_said_before_a_stop_is_kept_and_nothing_is_told_after_it() {
    let hold = Arc::new(Notify::new());
    let script = Script::of([vec![Step::Say("One"), Step::Hold(hold), Step::Say(" two")]]);
    let mut world = World::new(script);
    drop(world.send("k1", "hi").await);
    world.told_until("chat k1#2 delta One").await;
    assert_eq!(
        world.agent.abort("agent:main:main", Some("k1"), super::super::StopCause::Rpc),
        ["k1"]
    );
    assert!(world.agent.abort("main", Some("k1"), super::super::StopCause::Rpc).is_empty());
    assert_eq!(
        world.told_until("agent k1#3 lifecycle end").await,
        ["chat k1#3 aborted rpc", "agent k1#3 lifecycle end"]
    );
    world.settled().await;
    assert_eq!(world.transcript("agent:main:main").await, ["user: hi", "assistant: One"]);
    let entry = world.store.read(|db| db.session("agent:main:main")).await.unwrap().unwrap();
    assert_eq!(entry.aborted_last_run, Some(true));
}

#[tokio::test]
async fn commands_are_answered_without_a_model() {
    let mut world = World::new(Script::of([]));
    world.answered("k1", "/nodes").await;
    world.told_until("chat k1#1 final • Mac (mac-1) – connected").await;
    world.answered("k2", "/node mac-1 system.run {}").await;
    world.told_until("chat k2#1 final ```\nmac-1 did system.run\n```").await;
    world.answered("k3", "/status").await;
    world.answered("k4", "/help").await;
    assert!(world.script.prompts().is_empty());
    assert_eq!(world.messages("agent:main:main").await.len(), 4);
    assert_eq!(world.messages("agent:main:main").await[0]["stopReason"], "injected");
}

#[tokio::test]
async fn a_new_conversation_has_another_transcript() {
    let world = World::new(Script::of([]));
    world.answered("k1", "remember this").await;
    world.answered("k2", "/new and this").await;
    let turns = world.script.prompts().pop().unwrap().turns;
    assert_eq!(turns.len(), 1);
    world.answered("k3", "/reset").await;
    let transcript = world.transcript("agent:main:main").await;
    assert_eq!(transcript, ["assistant: ✨ A new conversation has begun."]);
}

#[tokio::test]
async fn a_model_that_only_calls_tools_is_stopped() {
    let rounds = (0..40).map(|_| vec![Step::Call("count", json!({}))]);
    let world = World::new(Script::of(rounds));
    world.answered("k1", "hi").await;
    let error = world.run("k1").await.unwrap().error.unwrap();
    assert_eq!(error, "the model called tools 32 times without an answer");
}

#[tokio::test]
async fn a_panic_ends_its_run_and_nothing_else() {
    let mut world = World::new(Script::of([vec![Step::Say("Oh"), Step::Panic]]));
    world.answered("k1", "hi").await;
    world.told_until("chat k1#3 error internal error").await;
    assert_eq!(world.run("k1").await.unwrap().state, RunState::Failed);
    world.answered("k2", "again").await;
    assert_eq!(world.run("k2").await.unwrap().state, RunState::Done);
}

#[tokio::test]
async fn what_a_message_cost_is_kept_with_it() {
    let world = World::new(Script::of([]));
    let prices = json!({"models": [{"id": "first", "cost": {"input": 2.0, "output": 10.0}}]});
    world.configure(|config| {
        config.models.providers.insert("test".into(), serde_json::from_value(prices).unwrap());
    });
    world.answered("k1", "hi").await;
    let cost = world.messages("agent:main:main").await[1]["usage"]["cost"].clone();
    assert_eq!(cost["input"], json!(0.000_022));
    assert_eq!(cost["cacheRead"], json!(0));
    assert!((cost["total"].as_f64().unwrap() - 0.000_092).abs() < 1e-9, "{cost}");
}
