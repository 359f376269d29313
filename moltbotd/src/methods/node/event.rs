//! `node.event`
//!
//! The answer is the same whatever became of an event: nodes ignore it.

use moltbot_protocol::methods::{node::NodeEvent, system::Done};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    agent::RunRequest,
    methods::{Context, agent, chat},
    rpc::Result,
    sessions::key,
};

/// Longest session key a node may name, in bytes.
const MAX_KEY: usize = 512;

/// Longest message a node may send, in characters.
const MAX_MESSAGE_CHARS: usize = 20_000;

/// Longest report of a program's end, in characters.
const MAX_OUTPUT_CHARS: usize = 20_000;

pub(super) async fn event(cx: Context, event: NodeEvent) -> Result<Done> {
    match &*event.event {
        "chat.subscribe" => listen(&cx, &event, true),
        "chat.unsubscribe" => listen(&cx, &event, false),
        "voice.transcript" => hear(&cx, &event).await,
        "agent.request" => ask(&cx, &event).await,
        "exec.started" | "exec.finished" | "exec.denied" => report(&cx, &event).await,
        kind => tracing::debug!(kind, node = cx.caller.node_id(), "node event ignored"),
    }
    Ok(Done::OK)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    session_key: String,
}

fn listen(cx: &Context, event: &NodeEvent, listen: bool) {
    let Some(Subscription { session_key }) = payload(event) else { return };
    let session_key = session_key.trim();
    if !session_key.is_empty() && session_key.len() <= MAX_KEY {
        cx.gateway.bus.subscribe(&cx.caller.conn_id, session_key, listen);
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Transcript {
    text: String,
    session_key: Option<String>,
}

/// Returns the conversation that a node may speak in: one whose name starts with `node-`, unless it
/// is another node's own, or the main one of the agent that answers, which is what the apps use. All
/// others belong to people and groups, in whose name a node would speak.
fn conversation(cx: &Context, wanted: Option<&str>, default: &str) -> String {
    let config = cx.gateway.config.get();
    let node_id = cx.caller.node_id();
    let own = format!("node-{node_id}");
    let Some(wanted) = trimmed(wanted) else { return default.to_owned() };

    let key = key::canonical(&config, wanted);
    let main = key::main(&config, &key::default_agent(&config));
    let name = key::without_agent(&key).strip_prefix("node-");
    let is_of_nodes = name.is_some_and(|name| name == node_id.to_lowercase() || !is_device(name));
    let is_default = key::owner(&config, &key) == key::default_agent(&config);
    if wanted.len() <= MAX_KEY && (key == main || (is_of_nodes && is_default)) {
        return wanted.to_owned();
    }
    let session: String = wanted.chars().take(MAX_KEY).collect();
    tracing::warn!(node = node_id, session, "a node may not speak there; its own session is used");
    own
}

/// Returns whether a name is the id of a device key.
fn is_device(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Lets the agent answer what somebody said to the node. The answer is told by
/// events, and the conversation stays where it was.
async fn hear(cx: &Context, event: &NodeEvent) {
    let Some(heard) = payload::<Transcript>(event) else { return };
    let Some(text) = message(&heard.text) else { return };
    let request = RunRequest {
        run_id: uuid::Uuid::new_v4().to_string(),
        event_id: Some(format!("voice-{}", uuid::Uuid::new_v4())),
        session_key: conversation(cx, heard.session_key.as_deref(), "main"),
        text: text.to_owned(),
        own_words: text.to_owned(),
        asker: chat::asker(cx),
        thinking: Some("low".into()),
        ..RunRequest::default()
    };
    if let Err(error) = cx.gateway.agent.start(request).await {
        tracing::warn!(%error, node = cx.caller.node_id(), "what a node heard is lost");
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    message: String,
    session_key: Option<String>,
    thinking: Option<String>,
    deliver: Option<bool>,
    to: Option<String>,
    channel: Option<String>,
    timeout_seconds: Option<u64>,
}

/// Calls the agent as the method `agent` does. The answer goes to the place where the conversation
/// is answered anyway, if anywhere: a node chooses no recipient.
async fn ask(cx: &Context, event: &NodeEvent) {
    let Some(question) = payload::<Question>(event) else { return };
    let Some(text) = message(&question.message) else { return };
    let own = format!("node-{}", cx.caller.node_id());
    let channel = trimmed(question.channel.as_deref()).map(str::to_lowercase);
    let channel = channel.filter(|channel| agent::CHANNELS.contains(&channel.as_str()));
    let names_recipient = trimmed(question.to.as_deref()).is_some();
    if names_recipient {
        tracing::warn!(node = cx.caller.node_id(), "a node may not choose a recipient");
    }
    let mut params = json!({
        "message": text,
        "sessionKey": conversation(cx, question.session_key.as_deref(), &own),
        "deliver": question.deliver == Some(true) && channel.is_some() && !names_recipient,
        "idempotencyKey": uuid::Uuid::new_v4().to_string(),
    });
    for (name, value) in [
        ("thinking", question.thinking.map(Value::from)),
        ("channel", channel.map(Value::from)),
        ("timeout", question.timeout_seconds.map(Value::from)),
    ] {
        if let Some(value) = value {
            params[name] = value;
        }
    }
    let Ok(params) = serde_json::from_value(params) else { return };
    match agent::run_for(cx.clone(), params, chat::asker(cx)).await {
        Ok(answers) => {
            if let Some(last) = answers.last {
                tokio::spawn(last);
            }
        }
        Err(error) => tracing::warn!(%error, node = cx.caller.node_id(), "node request refused"),
    }
}

/// Returns what can be sent to the agent.
fn message(text: &str) -> Option<&str> {
    let text = text.trim();
    (!text.is_empty() && text.chars().count() <= MAX_MESSAGE_CHARS).then_some(text)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Execution {
    session_key: Option<String>,
    run_id: Option<String>,
    command: Option<String>,
    reason: Option<String>,
    exit_code: Option<i64>,
    timed_out: Option<bool>,
    output: Option<String>,
}

/// Keeps what happened to a program for the next turn of its session. A node
/// that may run no programs has nothing to say about them, whatever it offers.
async fn report(cx: &Context, event: &NodeEvent) {
    let node_id = cx.caller.node_id();
    let Some(execution) = payload::<Execution>(event) else { return };
    match cx.gateway.nodes.may_run(&cx.caller, "system.run").await {
        Ok(true) => {}
        Ok(false) => {
            let kind = &event.event;
            return tracing::debug!(%kind, node = node_id, "ignored: no approval for system.run");
        }
        Err(error) => {
            return tracing::warn!(%error, node = node_id, "what a node ran is not noted");
        }
    }
    let own = format!("node-{node_id}");
    let session_key = trimmed(execution.session_key.as_deref()).unwrap_or(&own);
    if session_key.len() <= MAX_KEY {
        let session_key = key::canonical(&cx.gateway.config.get(), session_key);
        let text = sentence(&event.event, node_id, &execution);
        cx.gateway.system_events.queue_report(&session_key, node_id, text);
    }
}

fn sentence(kind: &str, node_id: &str, execution: &Execution) -> String {
    let run = trimmed(execution.run_id.as_deref());
    let run = run.map_or_else(String::new, |run| format!(" id={run}"));
    let command = trimmed(execution.command.as_deref());
    let command = command.map_or_else(String::new, |command| format!(": {command}"));
    match kind {
        "exec.started" => format!("Exec started (node={node_id}{run}){command}"),
        "exec.denied" => {
            let reason = trimmed(execution.reason.as_deref());
            let reason = reason.map_or_else(String::new, |reason| format!(", {reason}"));
            format!("Exec denied (node={node_id}{run}{reason}){command}")
        }
        _ => {
            let end = match (execution.timed_out, execution.exit_code) {
                (Some(true), _) => "timeout".to_owned(),
                (_, Some(code)) => format!("code {code}"),
                (_, None) => "code ?".to_owned(),
            };
            let output = trimmed(execution.output.as_deref()).unwrap_or_default();
            let output: String = output.chars().take(MAX_OUTPUT_CHARS).collect();
            let gap = if output.is_empty() { "" } else { "\n" };
            format!("Exec finished (node={node_id}{run}, {end}){gap}{output}")
        }
    }
}

/// Returns what an event carries, as an object or as text; `None` when it is
/// not what the kind of event needs.
fn payload<T: DeserializeOwned>(event: &NodeEvent) -> Option<T> {
    if let Some(text) = &event.payload_json {
        return serde_json::from_str(text).ok();
    }
    T::deserialize(event.payload.as_ref().unwrap_or(&Value::Null)).ok()
}

fn trimmed(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution(json: &str) -> Execution {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn programs_are_told_of_in_the_words_of_the_reference() {
        let finished = execution(r#"{"runId":"r","exitCode":0,"timedOut":false,"output":"hi\n"}"#);
        let text = sentence("exec.finished", "n", &finished);
        assert_eq!(text, "Exec finished (node=n id=r, code 0)\nhi");
        let late = execution(r#"{"runId":"r","timedOut":true}"#);
        assert_eq!(sentence("exec.finished", "n", &late), "Exec finished (node=n id=r, timeout)");
        let started = execution(r#"{"runId":"r","command":"ls"}"#);
        assert_eq!(sentence("exec.started", "n", &started), "Exec started (node=n id=r): ls");
        let denied = execution(r#"{"runId":"r","reason":"security=deny","command":"ls"}"#);
        let text = sentence("exec.denied", "n", &denied);
        assert_eq!(text, "Exec denied (node=n id=r, security=deny): ls");
    }

    #[test]
    fn a_payload_may_be_an_object_or_text() {
        let event = |json: &str| serde_json::from_str::<NodeEvent>(json).unwrap();
        let key = |event: &NodeEvent| payload::<Subscription>(event).map(|it| it.session_key);
        let text = event(r#"{"event":"chat.subscribe","payloadJSON":"{\"sessionKey\":\"a\"}"}"#);
        assert_eq!(key(&text).as_deref(), Some("a"));
        let object =
            event(r#"{"event":"chat.subscribe","payload":{"sessionKey":"b"},"payloadJSON":null}"#);
        assert_eq!(key(&object).as_deref(), Some("b"));
        assert_eq!(key(&event(r#"{"event":"chat.subscribe","payloadJSON":"{"}"#)), None);
        assert_eq!(key(&event(r#"{"event":"chat.subscribe"}"#)), None);
    }
}
