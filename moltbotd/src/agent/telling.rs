//! Tells clients what a run does: `agent` events for every step, `chat` events
//! for what chat windows show.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use moltbot_protocol::events::{
    agent::{AgentEvent, Stream},
    chat::{ChatDelta, ChatEvent, ChatMessage, ChatState},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::runs::Run;
use crate::{bus::Bus, clock::now_ms, sessions::message};

/// Chat windows get the text so far at most this often.
const DELTA_INTERVAL: Duration = Duration::from_millis(150);
/// Longest reason of a failure in a chat event; the agent event has all of it.
const ERROR_CHARS: usize = 240;
/// Longest part of a tool's answer that clients are shown.
const RESULT_CHARS: usize = 8000;
/// What a model answers when nothing is to be said.
const NO_REPLY: &str = "NO_REPLY";

/// What was told of a run so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    seq: u64,
    /// Text of the current message of the assistant.
    text: String,
    /// How much of it was told, without the space around it.
    told_bytes: usize,
    /// Whether its end was told, or is about to be.
    over: bool,
    last_delta: Option<Instant>,
    stopped: Option<StopCause>,
    started_at_ms: Option<i64>,
}

impl Told {
    fn begin_message(&mut self) {
        self.text.clear();
        self.told_bytes = 0;
    }
}

/// Why a run was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// A call of `chat.abort`.
    Rpc,
    /// A word that stops, or the end of the conversation.
    Word,
    /// It took too long.
    Timeout,
}

impl StopCause {
    const fn name(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Word => "stop",
            Self::Timeout => "timeout",
        }
    }
}

impl Run {
    /// Stops the run and tells so; returns whether it was not stopped before.
    pub(super) fn stop(&self, bus: &Bus, cause: StopCause) -> bool {
        let mut told = self.told();
        if told.stopped.is_some() {
            return false;
        }
        told.stopped = Some(cause);
        let event = ChatEvent {
            stop_reason: Some(cause.name().to_owned()),
            ..self.chat(ChatState::Aborted, told.seq + 1)
        };
        bus.publish_to_session(&event, &self.spelled_key);
        self.cancel.cancel();
        true
    }

    pub(super) fn started_at_ms(&self) -> Option<i64> {
        self.told().started_at_ms
    }

    /// Returns whether the run keeps others waiting for long: not when it was
    /// stopped or when all is told.
    pub(super) fn is_busy(&self) -> bool {
        let told = self.told();
        !told.over && told.stopped.is_none()
    }

    /// Returns what the assistant said of its current message.
    pub(super) fn partial_text(&self) -> String {
        self.told().text.trim().to_owned()
    }

    /// Tells that a model is asked.
    pub(super) fn tell_start(&self, bus: &Bus) {
        let mut told = self.told();
        let now = now_ms();
        told.begin_message();
        told.started_at_ms.get_or_insert(now);
        self.step(&mut told, bus, Stream::Lifecycle, json!({"phase": "start", "startedAt": now}));
    }

    /// Begins another message of the assistant.
    pub(super) fn begin_message(&self) {
        self.told().begin_message();
    }

    /// Tells further text of the assistant's current message. Space at its end
    /// is told together with what follows it.
    pub(super) fn tell_text(&self, bus: &Bus, further: &str) {
        let mut told = self.told();
        told.text.push_str(further);
        let text = told.text.trim();
        let Some(delta) = text.get(told.told_bytes..).filter(|delta| !delta.is_empty()) else {
            return;
        };
        let data = json!({"text": text, "delta": delta});
        let is_silence = may_be_silence(text);
        told.told_bytes = text.len();
        self.step(&mut told, bus, Stream::Assistant, data);
        if told.stopped.is_some() || is_silence {
            return;
        }
        let now = Instant::now();
        if told.last_delta.is_some_and(|last| now < last + DELTA_INTERVAL) {
            return;
        }
        told.last_delta = Some(now);
        let event = ChatEvent {
            message: Some(spoken(told.text.trim())),
            ..self.chat(ChatState::Delta, told.seq)
        };
        bus.publish_to_session(&ChatDelta(event), &self.spelled_key);
    }

    /// Tells that a tool is called. A step that is not shown counts.
    pub(super) fn tell_call(&self, bus: &Bus, shown: bool, name: &str, id: &str, args: &Value) {
        let data = json!({"phase": "start", "name": name, "toolCallId": id, "args": args});
        self.tell_tool(bus, shown, data);
    }

    /// Tells what a tool answered.
    pub(super) fn tell_result(&self, bus: &Bus, shown: bool, result: &ToolResult<'_>) {
        let ToolResult { name, id, meta, is_error, text } = result;
        let mut data = json!({"phase": "result", "name": name, "toolCallId": id});
        if let Some(meta) = meta {
            data["meta"] = (*meta).into();
        }
        data["isError"] = (*is_error).into();
        data["result"] = json!({"content": [{"type": "text", "text": cut_result(text)}]});
        self.tell_tool(bus, shown, data);
    }

    /// Tells that the run ended well, or was stopped.
    pub(super) fn tell_end(&self, bus: &Bus, ended_at_ms: i64) {
        let mut told = self.told();
        told.over = true;
        let mut data = json!({"phase": "end", "endedAt": ended_at_ms});
        if told.stopped.is_some() {
            data["aborted"] = true.into();
        }
        self.step(&mut told, bus, Stream::Lifecycle, data);
        if told.stopped.is_some() {
            return;
        }
        let text = told.text.trim();
        let message = (!text.is_empty() && !is_silent(text)).then(|| spoken(text));
        let event = ChatEvent { message, ..self.chat(ChatState::Final, told.seq) };
        bus.publish_to_session(&event, &self.spelled_key);
    }

    /// Tells that the run failed.
    pub(super) fn tell_error(&self, bus: &Bus, error: &str, ended_at_ms: i64) {
        let mut told = self.told();
        told.over = true;
        let mut data = json!({"phase": "error"});
        if let Some(started_at) = told.started_at_ms {
            data["startedAt"] = started_at.into();
        }
        data["endedAt"] = ended_at_ms.into();
        data["error"] = error.into();
        self.step(&mut told, bus, Stream::Lifecycle, data);
        if told.stopped.is_some() {
            return;
        }
        let event = ChatEvent {
            error_message: Some(shorten(error)),
            ..self.chat(ChatState::Error, told.seq)
        };
        bus.publish_to_session(&event, &self.spelled_key);
    }

    /// Tells the answer to a command, which no model wrote.
    pub(super) fn tell_reply(&self, bus: &Bus, text: &str) {
        let told = self.told();
        let event = ChatEvent {
            message: Some(unwritten(text, now_ms())),
            ..self.chat(ChatState::Final, told.seq + 1)
        };
        bus.publish_to_session(&event, &self.spelled_key);
    }

    /// Tells the caller of a message that waits for its turn that nothing more
    /// will come under the name it chose.
    pub(super) fn tell_queued(&self, bus: &Bus) {
        let event = ChatEvent { run_id: self.id.clone(), ..self.chat(ChatState::Final, 1) };
        bus.publish_to_session(&event, &self.spelled_key);
    }

    fn tell_tool(&self, bus: &Bus, shown: bool, data: Value) {
        let mut told = self.told();
        if shown {
            self.step(&mut told, bus, Stream::Tool, data);
        } else {
            told.seq += 1;
        }
    }

    fn step(&self, told: &mut Told, bus: &Bus, stream: Stream, data: Value) {
        told.seq += 1;
        let event = AgentEvent {
            run_id: self.event_id.clone(),
            stream,
            data,
            session_key: Some(self.spelled_key.clone()),
            seq: told.seq,
            ts: now_ms(),
        };
        bus.publish_to_session(&event, &self.spelled_key);
    }

    fn chat(&self, state: ChatState, seq: u64) -> ChatEvent {
        ChatEvent {
            run_id: self.event_id.clone(),
            session_key: self.spelled_key.clone(),
            seq,
            state,
            message: None,
            error_message: None,
            stop_reason: None,
        }
    }

    /// Held while an event is published: a stop and the text before it cannot
    /// change places. Publishing never waits.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a tool answered, for those who watch.
#[derive(Debug)]
pub(super) struct ToolResult<'a> {
    pub(super) name: &'a str,
    pub(super) id: &'a str,
    pub(super) meta: Option<&'a str>,
    pub(super) is_error: bool,
    pub(super) text: &'a str,
}

/// Tells a message that was added to a conversation from outside.
pub(super) fn tell_injected(bus: &Bus, session_key: &str, id: &str, text: &str) {
    let event = ChatEvent {
        run_id: format!("inject-{id}"),
        session_key: session_key.to_owned(),
        seq: 0,
        state: ChatState::Final,
        message: Some(unwritten(text, now_ms())),
        error_message: None,
        stop_reason: None,
    };
    bus.publish_to_session(&event, session_key);
}

/// Returns whether a text asks for nothing to be said.
pub(super) fn is_silent(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(NO_REPLY) || text.ends_with(NO_REPLY)
}

/// Returns whether a text may become the word for silence, or is it.
pub(super) fn may_be_silence(text: &str) -> bool {
    NO_REPLY.starts_with(text.trim())
}

fn spoken(text: &str) -> ChatMessage {
    ChatMessage {
        role: "assistant".into(),
        content: vec![json!({"type": "text", "text": text})],
        timestamp: now_ms(),
        stop_reason: None,
        usage: None,
    }
}

fn unwritten(text: &str, at_ms: i64) -> ChatMessage {
    ChatMessage {
        stop_reason: Some("injected".into()),
        usage: Some(message::no_usage()),
        timestamp: at_ms,
        ..spoken(text)
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= ERROR_CHARS {
        return text.to_owned();
    }
    text.chars().take(ERROR_CHARS).chain("...".chars()).collect()
}

fn cut_result(text: &str) -> String {
    if text.chars().count() <= RESULT_CHARS {
        return text.to_owned();
    }
    text.chars().take(RESULT_CHARS).chain("\n…(truncated)…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Arc};

    use moltbot_protocol::{Role, Scope, Scopes};

    use super::*;
    use crate::{auth::Caller, bus::Outbox};

    fn listener(bus: &Bus) -> Arc<Outbox> {
        let client = json!({"id": "cli", "version": "1", "platform": "linux", "mode": "cli"});
        let caller = Caller {
            conn_id: "op".into(),
            role: Role::Operator,
            scopes: Scopes::of(&[Scope::Admin]),
            client: serde_json::from_value(client).unwrap(),
            device_id: None,
            remote_ip: None,
            local: true,
            secret: None,
            capped: false,
        };
        let outbox = Arc::new(Outbox::new(1 << 20));
        bus.attach(Arc::new(caller), Arc::clone(&outbox));
        outbox
    }

    fn run() -> Run {
        Run::new("k".into(), "k".into(), "agent:main:main".into(), "main".into(), 0)
    }

    async fn chats(outbox: &Outbox) -> Vec<Value> {
        let mut frames = VecDeque::new();
        outbox.take(&mut frames).await;
        let frames = frames.iter().map(|frame| serde_json::from_str(frame).unwrap());
        frames.filter(|frame: &Value| frame["event"] == "chat").collect()
    }

    #[tokio::test(start_paused = true)]
    async fn chat_windows_get_the_text_at_most_every_150_ms() {
        let bus = Bus::default();
        let outbox = listener(&bus);
        let run = run();
        for _ in 0..10 {
            run.tell_text(&bus, "ab");
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        run.tell_end(&bus, 0);
        let chats = chats(&outbox).await;
        let lengths: Vec<_> =
            chats.iter().map(|chat| message::text(&chat["payload"]["message"]).len()).collect();
        assert_eq!(lengths, [2, 8, 14, 20, 20]);
        assert_eq!(chats[4]["payload"]["state"], "final");
        assert_eq!(chats[4]["payload"]["seq"], 11);
    }

    #[tokio::test]
    async fn a_long_reason_is_cut_for_chat_windows() {
        let bus = Bus::default();
        let outbox = listener(&bus);
        run().tell_error(&bus, &"x".repeat(300), 0);
        let chats = chats(&outbox).await;
        let text = chats[0]["payload"]["errorMessage"].as_str().unwrap();
        assert_eq!(text.len(), ERROR_CHARS + 3);
    }

    #[test]
    fn a_text_that_starts_or_ends_with_the_word_is_silent() {
        assert!(is_silent(" NO_REPLY ") && is_silent("Done. NO_REPLY") && !is_silent("Done."));
    }
}
