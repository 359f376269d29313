//! The agent with a store, a bus, a client that listens and models that play a
//! script.

mod answering;
mod asking;
mod channels;
mod lanes;
mod recovery;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::stream;
use moltbot_protocol::{Role, Scope, Scopes, handshake::ClientInfo};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Accepted, Agent, Parts, RunRequest, Source, Started};
use crate::{
    asker::{Asker, AskerKind},
    auth::Caller,
    bus::{Bus, Outbox, Outgoing},
    channels::{Outbound, OutboundMessage, Progress, Route, SendError, Sending},
    config::{self, Config, ModelChoice},
    providers::{
        Answer, Chunk, ModelInfo, ModelRef, Models, Prompt, Provider, ProviderError, StopReason,
        ToolCall, ToolSpec, Usage,
    },
    sessions::message,
    store::{RunRow, Store},
    tools::{
        Calling, Effect, Intent, Tool, ToolContext, ToolError, Tools,
        nodes::{Answering, NodeCalls},
    },
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A step of a scripted answer.
#[derive(Clone, Debug)]
enum Step {
    Say(&'static str),
    Call(&'static str, Value),
    Fail(fn() -> ProviderError),
    Panic,
    /// Waits until it is let go.
    Hold(Arc<Notify>),
    /// Never goes on.
    Hang,
}

/// Models that play a script: each question takes the next answer.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Vec<Step>>>,
    asked: Mutex<Vec<Prompt>>,
}

impl Script {
    fn of(answers: impl IntoIterator<Item = Vec<Step>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
    }

    fn prompts(&self) -> Vec<Prompt> {
        self.asked.lock().unwrap().clone()
    }
}

impl Provider for Script {
    fn stream(&self, prompt: Prompt) -> Answer {
        self.asked.lock().unwrap().push(prompt);
        let steps = self.answers.lock().unwrap().pop_front();
        let steps = VecDeque::from(steps.unwrap_or_else(|| vec![Step::Say("ok")]));
        Box::pin(stream::unfold((steps, 0, false), |(mut steps, calls, ended)| async move {
            loop {
                match steps.pop_front() {
                    Some(Step::Say(text)) => {
                        return Some((Ok(Chunk::Text(text.into())), (steps, calls, ended)));
                    }
                    Some(Step::Call(name, arguments)) => {
                        let id = format!("call-{calls}");
                        let call = ToolCall { id, name: name.into(), arguments };
                        return Some((Ok(Chunk::Call(call)), (steps, calls + 1, ended)));
                    }
                    Some(Step::Fail(error)) => return Some((Err(error()), (steps, calls, true))),
                    Some(Step::Panic) => panic!("scripted"),
                    Some(Step::Hold(gate)) => gate.notified().await,
                    Some(Step::Hang) => std::future::pending().await,
                    None if ended => return None,
                    None => {
                        let stop = if calls > 0 { StopReason::ToolUse } else { StopReason::Stop };
                        let usage = Usage { input: 11, output: 7, ..Usage::default() };
                        return Some((Ok(Chunk::End { stop, usage }), (steps, calls, true)));
                    }
                }
            }
        }))
    }
}

/// A tool that counts how often it is called.
#[derive(Default)]
struct Counter {
    calls: AtomicUsize,
    hold: Option<Arc<Notify>>,
}

struct CounterTool(Arc<Counter>);

impl Tool for CounterTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec { name: "count".into(), description: "Counts.".into(), schema: json!({}) }
    }

    fn call(&self, _cx: ToolContext, _arguments: Value) -> Calling {
        let counter = Arc::clone(&self.0);
        Box::pin(async move {
            let count = counter.calls.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(hold) = &counter.hold {
                hold.notified().await;
            }
            Ok(format!("counted {count}"))
        })
    }

    fn intent(&self, _arguments: &Value) -> Intent {
        Intent { effect: Effect::Acts, action: "count".into(), stands_for: None }
    }

    fn hint(&self, _arguments: &Value) -> Option<String> {
        Some("count".into())
    }
}

struct OneNode;

impl NodeCalls for OneNode {
    fn list(&self) -> Answering {
        let node = json!({"nodeId": "mac-1", "displayName": "Mac", "connected": true});
        Box::pin(async move { Ok(json!({"nodes": [node]})) })
    }

    fn describe(&self, _node: String) -> Answering {
        Box::pin(async { Err(ToolError("unknown node".into())) })
    }

    fn invoke(&self, node: String, command: String, _params: Value, _timeout: u64) -> Answering {
        Box::pin(async move {
            let stdout = format!("{node} did {command}\n");
            Ok(json!({"stdout": stdout, "stderr": "", "exitCode": 0}))
        })
    }
}

#[derive(Default)]
struct Channel {
    woken: AtomicUsize,
    shown: Arc<Mutex<Vec<String>>>,
}

struct Display(Arc<Mutex<Vec<String>>>);

impl Progress for Display {
    fn update(&mut self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Outbound for Channel {
    fn wake(&self) {
        self.woken.fetch_add(1, Ordering::SeqCst);
    }

    fn progress(&self, _route: &Route, _key: &str) -> Box<dyn Progress> {
        Box::new(Display(Arc::clone(&self.shown)))
    }

    fn send(&self, _key: String, message: OutboundMessage) -> Sending {
        Box::pin(async move { Err(SendError::UnknownChannel(message.route.channel)) })
    }

    fn has(&self, channel: &str) -> bool {
        channel == "telegram"
    }
}

/// An agent and everything around it.
struct World {
    agent: Arc<Agent>,
    config: Arc<config::Live>,
    store: Store,
    script: Arc<Script>,
    channel: Arc<Channel>,
    listener: Arc<Outbox>,
    heard: VecDeque<Outgoing>,
    tracker: TaskTracker,
    stop: CancellationToken,
    counter: Arc<Counter>,
    folder: Arc<TempDir>,
}

impl World {
    fn new(script: Arc<Script>) -> Self {
        Self::at(Arc::new(tempfile::tempdir().unwrap()), script, Arc::default())
    }

    fn at(folder: Arc<TempDir>, script: Arc<Script>, counter: Arc<Counter>) -> Self {
        let mut config = Config::default();
        config.agents.defaults.model = Some(ModelChoice::Several {
            primary: Some("test/first".into()),
            fallbacks: vec!["test/second".into()],
        });
        let config = Arc::new(config::Live::new(config));
        let store = open(folder.path());
        let bus = Arc::new(Bus::default());
        let listener = Arc::new(Outbox::new(64 << 20));
        bus.attach(Arc::new(operator()), Arc::clone(&listener));
        let provider: Arc<dyn Provider> = Arc::clone(&script) as _;
        let models = Models::new(Arc::clone(&config))
            .with(model("first"), Arc::clone(&provider))
            .with(model("second"), provider);
        let (channel, tracker) = (Arc::<Channel>::default(), TaskTracker::new());
        let stop = CancellationToken::new();
        let agent = Agent::new(Parts {
            config: Arc::clone(&config),
            store: store.clone(),
            bus,
            models: Arc::new(models),
            tools: Tools::new(vec![Arc::new(CounterTool(Arc::clone(&counter)))]),
            nodes: Arc::new(OneNode),
            outbound: Arc::clone(&channel) as _,
            system_events: Arc::default(),
            tracker: tracker.clone(),
            stop: stop.clone(),
            grace: Duration::ZERO,
        });
        let heard = VecDeque::new();
        Self {
            agent,
            config,
            store,
            script,
            channel,
            listener,
            heard,
            tracker,
            stop,
            counter,
            folder,
        }
    }

    fn configure(&self, change: impl FnOnce(&mut Config)) {
        let mut config = (*self.config.get()).clone();
        change(&mut config);
        self.config.set(config);
    }

    /// Starts a run as `chat.send` does.
    async fn send(&self, id: &str, text: &str) -> Accepted {
        match self.agent.start(chat(id, text)).await.unwrap() {
            Started::New(accepted) => accepted,
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Takes up what an earlier world left; returns how many runs there are.
    async fn resume(&self) -> usize {
        let recalled = self.agent.recall().await.unwrap();
        let count = recalled.count();
        self.agent.resume(recalled).await;
        count
    }

    async fn answered(&self, id: &str, text: &str) {
        let accepted = self.send(id, text).await;
        let run = Arc::clone(&accepted.run);
        drop(accepted);
        tokio::time::timeout(PATIENCE, run.ended()).await.expect("the run ends");
    }

    /// Returns what clients are told up to and including `last`, one line for
    /// each event.
    async fn told_until(&mut self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let listen = async {
            loop {
                while let Some(frame) = self.heard.pop_front() {
                    self.listener.written(frame.len(), 0);
                    lines.push(line(&serde_json::from_str(&frame).unwrap()));
                    if lines.last().is_some_and(|line| line == last) {
                        return;
                    }
                }
                self.listener.take(&mut self.heard).await;
            }
        };
        if tokio::time::timeout(PATIENCE, listen).await.is_err() {
            panic!("no {last:?} after {lines:#?}");
        }
        lines
    }

    async fn messages(&self, key: &str) -> Vec<Value> {
        let key = key.to_owned();
        self.store
            .read(move |db| {
                let Some(entry) = db.session(&key)? else { return Ok(Vec::new()) };
                let rows = db.last_messages(&entry.session_id, 1000, usize::MAX)?;
                Ok(rows.into_iter().map(|row| row.message).collect())
            })
            .await
            .unwrap()
    }

    /// Returns the conversation as `role: text` lines.
    async fn transcript(&self, key: &str) -> Vec<String> {
        let messages = self.messages(key).await;
        messages
            .iter()
            .map(|told| format!("{}: {}", message::role(told), message::text(told)))
            .collect()
    }

    async fn run(&self, id: &str) -> Option<RunRow> {
        let id = id.to_owned();
        self.store.read(move |db| db.run(&id)).await.unwrap()
    }

    async fn settled(&self) {
        self.tracker.close();
        tokio::time::timeout(PATIENCE, self.tracker.wait()).await.expect("every task ends");
    }
}

fn open(folder: &Path) -> Store {
    Store::open(&folder.join("test.db")).unwrap()
}

fn operator() -> Caller {
    let client = json!({"id": "cli", "version": "1", "platform": "linux", "mode": "cli"});
    Caller {
        conn_id: "op".into(),
        role: Role::Operator,
        scopes: Scopes::of(&[Scope::Admin]),
        client: serde_json::from_value::<ClientInfo>(client).unwrap(),
        device_id: None,
        remote_ip: None,
        local: true,
        secret: None,
        capped: false,
    }
}

fn model(name: &str) -> ModelInfo {
    ModelInfo {
        model: ModelRef { provider: "test".into(), model: name.into() },
        name: name.into(),
        context_window: Some(128_000),
        reasoning: false,
        input: vec!["text".into()],
    }
}

fn chat(id: &str, text: &str) -> RunRequest {
    let mut request = RunRequest {
        run_id: id.into(),
        session_key: "main".into(),
        text: text.into(),
        own_words: text.into(),
        source: Source::webchat(),
        asker: Asker::new(AskerKind::Owner, "client:test"),
        ..RunRequest::default()
    };
    request.allow_commands(&config::Session::default());
    request
}

/// Writes an event as `event run#seq what`.
fn line(frame: &Value) -> String {
    let payload = &frame["payload"];
    let head = format!(
        "{} {}#{}",
        frame["event"].as_str().unwrap(),
        payload["runId"].as_str().unwrap(),
        payload["seq"]
    );
    let data = &payload["data"];
    let what = match frame["event"].as_str().unwrap() {
        "agent" => match payload["stream"].as_str().unwrap() {
            "assistant" => format!("text {}", data["text"].as_str().unwrap()),
            stream => [stream, data["phase"].as_str().unwrap()].join(" "),
        },
        _ => {
            let text = message::text(&payload["message"]);
            let rest = payload["stopReason"].as_str().or(payload["errorMessage"].as_str());
            let state = payload["state"].as_str().unwrap();
            let parts = [state, &text, rest.unwrap_or_default()];
            parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
        }
    };
    format!("{head} {what}")
}
