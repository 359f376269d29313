//! `chat.*`

use moltbot_protocol::{
    Role, Scope,
    methods::chat::{
        ChatAbort, ChatAborted, ChatHistory, ChatInject, ChatInjected, ChatRun, ChatSend, ChatSent,
        History,
    },
};

use super::Context;
use crate::{
    agent::{Accepted, RunRequest, Source, StartError, Started, StopCause, attachments},
    asker::{Asker, AskerKind},
    clock::now_ms,
    gateway::Gateway,
    rpc::{Error, Result, Router, Twice},
    sessions::{
        self, message,
        policy::{self, Place},
    },
    store::RunState,
};

const SHORTEST_MS: u64 = 2 * 60 * 1000;
const GRACE_MS: u64 = 60 * 1000;
const LONGEST_MS: u64 = 24 * 60 * 60 * 1000;

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(history).on(abort).on_twice(send).on(inject);
}

async fn history(cx: Context, request: ChatHistory) -> Result<History> {
    cx.gateway.sessions.history(&request.session_key, request.limit).await
}

async fn send(cx: Context, params: ChatSend) -> Result<Twice<ChatSent>> {
    let images = attachments::pictures(params.attachments.as_deref().unwrap_or_default())
        .map_err(|text| Error::Invalid(format!("Error: {text}")))?;
    if params.message.trim().is_empty() && images.is_empty() {
        return Err(Error::invalid("message or attachment required"));
    }
    refuse_if_muted(&cx, &params.session_key).await?;
    if RunRequest::is_stop(&params.message) {
        let run_ids = cx.gateway.agent.stop(&params.session_key, None, StopCause::Word).await?;
        return Ok(answered(ChatSent::Stopped(stopped(run_ids))));
    }
    let run_id = params.idempotency_key.to_string();
    let text = params.message.into_string();
    let mut request = RunRequest {
        run_id: run_id.clone(),
        session_key: params.session_key.into_string(),
        own_words: text.clone(),
        text,
        images,
        thinking: level(params.thinking.as_deref()),
        timeout_ms: expiry(&cx, params.timeout_ms),
        source: Source::webchat(),
        asker: asker(&cx),
        ..RunRequest::default()
    };
    request.allow_commands(&cx.gateway.config.get().session);
    match cx.gateway.agent.start(request).await.map_err(refused)? {
        Started::New(accepted) => Ok(follow(&cx, run_id, accepted)),
        Started::InFlight { .. } => Ok(answered(run(run_id, "in_flight"))),
        Started::Ended(ended) => match (ended.state, ended.error) {
            (RunState::Failed, Some(error)) => Err(Error::Unavailable(format!("Error: {error}"))),
            _ => Ok(answered(run(run_id, "ok"))),
        },
    }
}

async fn abort(cx: Context, params: ChatAbort) -> Result<ChatAborted> {
    let agent = &cx.gateway.agent;
    let run_id = params.run_id.as_deref();
    if let Some(active) = run_id.and_then(|id| agent.active(id))
        && active.session_key != cx.gateway.sessions.canonical(&params.session_key)
    {
        return Err(Error::invalid("runId does not match sessionKey"));
    }
    Ok(stopped(agent.stop(&params.session_key, run_id, StopCause::Rpc).await?))
}

async fn inject(cx: Context, params: ChatInject) -> Result<ChatInjected> {
    let label = params.label.as_deref().map(str::trim).filter(|label| !label.is_empty());
    let text = match label {
        Some(label) => format!("[{label}]\n\n{}", params.message),
        None => params.message.to_string(),
    };
    let injected = message::injected(&text, now_ms());
    let message_id = cx.gateway.sessions.inject(&params.session_key, injected).await?;
    cx.gateway.agent.tell_injected(&params.session_key, &message_id, &text);
    Ok(ChatInjected { ok: true, message_id })
}

/// Refuses a call that addresses a conversation which is not to be answered.
pub(super) async fn refuse_if_muted(cx: &Context, session_key: &str) -> Result<()> {
    let sessions = &cx.gateway.sessions;
    let key = sessions.canonical(session_key);
    let entry = sessions.entry(&key).await?;
    let config = cx.gateway.config.get();
    if policy::is_muted(&config, &key, entry.as_ref(), Place::default()) {
        return Err(Error::invalid("send blocked by session policy"));
    }
    Ok(())
}

/// Returns who asks when a client calls: with `operator.admin` an owner, which the control socket
/// grants, and otherwise somebody who was let in. A node is never more than a node.
pub(super) fn asker(cx: &Context) -> Asker {
    let caller = &cx.caller;
    let name = caller.client.id.as_str();
    if caller.role == Role::Node {
        return Asker::new(AskerKind::Node, format!("node:{}", caller.node_id()));
    }
    let id = match (&caller.device_id, &caller.remote_ip) {
        (Some(device), _) => format!("device:{device} ({name})"),
        (None, Some(address)) => format!("client:{name} at {address}"),
        (None, None) => format!("client:{name} on this host"),
    };
    let is_owner = caller.scopes.holds(Scope::Admin);
    Asker::new(if is_owner { AskerKind::Owner } else { AskerKind::Admitted }, id)
}

/// Reads how hard the model is to think; a word nobody knows changes nothing.
pub(super) fn level(text: Option<&str>) -> Option<String> {
    text.and_then(sessions::thinking_level).map(str::to_owned)
}

pub(super) fn refused(error: StartError) -> Error {
    match error {
        StartError::Busy => Error::Unavailable(error.to_string()),
        StartError::Store(error) => error.into(),
    }
}

fn follow(cx: &Context, run_id: String, accepted: Accepted) -> Twice<ChatSent> {
    let agent = std::sync::Arc::clone(&cx.gateway.agent);
    let last = async move {
        // Told before the run may begin: dropping what was accepted lets it.
        if accepted.queued {
            agent.tell_queued(&accepted.run);
        }
        drop(accepted);
        None
    };
    Twice { first: run(run_id, "started"), last: Some(Box::pin(last)) }
}

fn answered(first: ChatSent) -> Twice<ChatSent> {
    Twice { first, last: None }
}

fn run(run_id: String, status: &str) -> ChatSent {
    ChatSent::Run(ChatRun { run_id, status: status.to_owned(), summary: None })
}

fn stopped(run_ids: Vec<String>) -> ChatAborted {
    ChatAborted { ok: true, aborted: !run_ids.is_empty(), run_ids }
}

/// The wish of a client lengthens nothing: the configured time holds too.
fn expiry(cx: &Context, timeout_ms: Option<u64>) -> Option<u64> {
    let wished = timeout_ms.filter(|&ms| ms > 0)?;
    let expiry = wished.saturating_add(GRACE_MS).clamp(SHORTEST_MS, LONGEST_MS);
    let configured = cx.gateway.config.get().agents.defaults.timeout_seconds.saturating_mul(1000);
    Some(expiry.min(configured))
}
