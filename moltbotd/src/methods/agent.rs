//! `agent`, `agent.wait`

use std::{sync::Arc, time::Duration};

use moltbot_protocol::{
    ErrorCode, ErrorShape,
    methods::agent::{AgentAnswer, AgentResult, AgentRun, AgentWait, AgentWaited},
};
use serde_json::{Value, json};

use super::{Context, chat};
use crate::{
    agent::{Accepted, Ended, RunRequest, Started, attachments},
    asker::Asker,
    channels::{self, OutboundMessage, Route},
    gateway::Gateway,
    rpc::{Error, Final, Result, Router, Twice},
    sessions::{self, key},
    store::RunState,
};

const WAIT_MS: u64 = 30_000;
/// Channels that clients of the reference may name, configured or not.
pub(super) const CHANNELS: [&str; 19] = [
    "telegram",
    "whatsapp",
    "discord",
    "googlechat",
    "slack",
    "signal",
    "imessage",
    "msteams",
    "mattermost",
    "matrix",
    "zalo",
    "zalouser",
    "line",
    "nostr",
    "tlon",
    "bluebubbles",
    "nextcloud-talk",
    "twitch",
    "webchat",
];

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on_twice(run).on(wait);
}

async fn run(cx: Context, params: AgentRun) -> Result<Twice<AgentAnswer>> {
    let asker = chat::asker(&cx);
    run_for(cx, params, asker).await
}

/// Runs the agent for somebody.
pub(super) async fn run_for(
    cx: Context,
    params: AgentRun,
    asker: Asker,
) -> Result<Twice<AgentAnswer>> {
    let images = attachments::pictures(params.attachments.as_deref().unwrap_or_default())
        .map_err(|text| Error::Invalid(format!("Error: {text}")))?;
    let channel = channel(&params)?;
    let (session_key, session_id) = conversation(&cx, &params).await?;
    chat::refuse_if_muted(&cx, &session_key).await?;
    let run_id = params.idempotency_key.to_string();
    if params.timeout == Some(0) {
        let text = "--timeout must be a positive integer (seconds)".to_owned();
        return Ok(failing(run_id, text));
    }
    let way = match params.deliver {
        Some(true) => way(&cx, &params, channel, &session_key).await?,
        _ => Way::None,
    };
    let text = params.message.into_string();
    let request = RunRequest {
        run_id: run_id.clone(),
        session_key,
        session_id,
        own_words: text.clone(),
        text,
        images,
        thinking: chat::level(params.thinking.as_deref()),
        timeout_ms: params.timeout.map(|seconds| seconds.saturating_mul(1000)),
        system: params.extra_system_prompt,
        deliver: way.route().cloned(),
        label: params.label,
        asker,
        spawned_by: params.spawned_by.filter(|parent| !parent.trim().is_empty()),
        ..RunRequest::default()
    };
    match cx.gateway.agent.start(request).await.map_err(chat::refused)? {
        Started::New(accepted) => Ok(follow(&cx, run_id, accepted, way)),
        Started::InFlight { accepted_at_ms } => {
            Ok(Twice { first: accepted_answer(run_id, accepted_at_ms), last: None })
        }
        Started::Ended(ended) => match &ended.error {
            Some(error) => {
                let summary = format!("Error: {error}");
                let payload = failed(&run_id, &summary);
                Err(Error::Failed { message: summary, payload })
            }
            None => Ok(Twice { first: done(run_id, &ended), last: None }),
        },
    }
}

async fn wait(cx: Context, params: AgentWait) -> Result<AgentWaited> {
    let limit = Duration::from_millis(params.timeout_ms.unwrap_or(WAIT_MS));
    let ended = cx.gateway.agent.wait(&params.run_id, limit).await?;
    let run_id = params.run_id.into_string();
    let Some(ended) = ended else {
        let status = "timeout".to_owned();
        return Ok(AgentWaited { run_id, status, started_at: None, ended_at: None, error: None });
    };
    Ok(AgentWaited {
        run_id,
        status: if ended.error.is_some() { "error" } else { "ok" }.to_owned(),
        started_at: ended.started_at_ms,
        ended_at: Some(ended.ended_at_ms),
        error: ended.error.clone(),
    })
}

/// The way of an answer besides the events.
#[derive(Debug)]
enum Way {
    None,
    To(Route),
    /// There is none; the caller learns it after the run.
    Blocked(String),
}

impl Way {
    fn route(&self) -> Option<&Route> {
        match self {
            Self::To(route) => Some(route),
            Self::None | Self::Blocked(_) => None,
        }
    }
}

fn channel(params: &AgentRun) -> Result<Option<String>> {
    let chosen = params.reply_channel.as_deref().or(params.channel.as_deref());
    let Some(name) = chosen.map(str::trim).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let name = name.to_lowercase();
    match name.as_str() {
        "last" => Ok(None),
        known if CHANNELS.contains(&known) => Ok(Some(name)),
        _ => {
            let missing = channels::missing(&name);
            Err(Error::Invalid(format!("invalid agent params: unknown channel: {missing}")))
        }
    }
}

/// Finds the conversation that is meant: its key, and the id that a new one
/// gets.
async fn conversation(cx: &Context, params: &AgentRun) -> Result<(String, Option<String>)> {
    let config = cx.gateway.config.get();
    let agent_id = params.agent_id.as_deref().map(|id| id.trim().to_lowercase());
    if let Some(id) = &agent_id {
        let mut known = config.agents.list.iter().map(|agent| agent.id.to_lowercase());
        if *id != key::default_agent(&config) && !known.any(|known| known == *id) {
            let text = format!("invalid agent params: unknown agent id \"{id}\"");
            return Err(Error::Invalid(text));
        }
    }
    let given = |text: &Option<String>| {
        text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    if let Some(asked) = given(&params.session_key) {
        let owner = key::owner(&config, &key::canonical(&config, &asked));
        if let Some(id) = agent_id.filter(|id| *id != owner) {
            return Err(Error::Invalid(format!(
                "invalid agent params: agent \"{id}\" does not match session key agent \"{owner}\""
            )));
        }
        return Ok((asked, None));
    }
    let agent = agent_id.unwrap_or_else(|| key::default_agent(&config));
    let Some(id) = given(&params.session_id) else {
        return Ok((key::main(&config, &agent), None));
    };
    if !is_plain(&id) {
        return Err(Error::invalid(
            "invalid agent params: sessionId holds other characters than letters, digits, - and _",
        ));
    }
    let wanted = id.clone();
    let rows = cx.gateway.store.read(move |db| db.sessions_by_id(&wanted)).await?;
    let key = rows.into_iter().next().map(|row| row.key);
    Ok((key.unwrap_or_else(|| format!("agent:{agent}:{}", id.to_lowercase())), Some(id)))
}

fn is_plain(id: &str) -> bool {
    id.len() <= 128 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

async fn way(
    cx: &Context,
    params: &AgentRun,
    channel: Option<String>,
    session_key: &str,
) -> Result<Way> {
    let (sessions, channels) = (&cx.gateway.sessions, &cx.gateway.channels);
    let entry = sessions.entry(&sessions.canonical(session_key)).await?;
    let last = entry.as_ref().and_then(sessions::last_route);
    let last = last.filter(|last| channel.as_ref().is_none_or(|channel| *channel == last.channel));
    let Some(channel) = channel.or_else(|| last.as_ref().map(|last| last.channel.clone())) else {
        return Ok(Way::Blocked("no channel to deliver to; name one with channel and to".into()));
    };
    if channel == "webchat" {
        return Ok(Way::None);
    }
    let Some(account) = channels.default_account(&channel) else {
        return Ok(Way::Blocked(format!("Unknown channel: {}", channels::missing(&channel))));
    };
    let named = |text: &Option<String>| {
        text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let account = named(&params.reply_account_id)
        .or_else(|| named(&params.account_id))
        .or_else(|| last.as_ref().map(|last| last.account.clone()))
        .unwrap_or(account);
    let Some(to) = named(&params.reply_to).or_else(|| named(&params.to)) else {
        return Ok(match last {
            Some(last) => Way::To(Route { account, ..last }),
            None => Way::Blocked(format!("delivering to {channel} needs a recipient in to")),
        });
    };
    Ok(match channels.target(&channel, &to) {
        Ok(target) => Way::To(Route {
            channel,
            account,
            to: target.to,
            thread: named(&params.thread_id).or(target.thread),
            reply_to: None,
        }),
        Err(text) => Way::Blocked(text),
    })
}

fn follow(cx: &Context, run_id: String, accepted: Accepted, way: Way) -> Twice<AgentAnswer> {
    let first = accepted_answer(run_id.clone(), accepted.run.accepted_at_ms);
    let gateway = Arc::clone(&cx.gateway);
    let last = async move {
        let run = Arc::clone(&accepted.run);
        drop(accepted);
        let ended = run.ended().await;
        let answer = match &ended.error {
            Some(error) => Err(error.clone()),
            None => delivered(&gateway, &run_id, &ended, way).await,
        };
        Some(match answer {
            Ok(()) => Final { payload: Some(json!(done(run_id, &ended))), error: None },
            Err(text) => failure(run_id, &text),
        })
    };
    Twice { first, last: Some(Box::pin(last)) }
}

/// Waits until the answer, which is in the outbox by now, was delivered.
async fn delivered(
    gateway: &Gateway,
    run_id: &str,
    ended: &Ended,
    way: Way,
) -> std::result::Result<(), String> {
    let route = match way {
        Way::None => return Ok(()),
        Way::Blocked(text) => return Err(text),
        Way::To(route) => route,
    };
    let payloads = result(ended).map(|result| result.payloads).unwrap_or_default();
    let texts: Vec<_> = payloads.into_iter().filter_map(|payload| payload.text).collect();
    if texts.is_empty() || ended.state == RunState::Aborted {
        return Ok(());
    }
    let message = OutboundMessage { route, text: texts.join("\n\n"), media: Vec::new() };
    let key = format!("reply:run:{run_id}");
    gateway.channels.deliver(key, message).await.map_err(|error| error.to_string())?;
    Ok(())
}

fn failing(run_id: String, text: String) -> Twice<AgentAnswer> {
    let first = accepted_answer(run_id.clone(), crate::clock::now_ms());
    let last = async move { Some(failure(run_id, &text)) };
    Twice { first, last: Some(Box::pin(last)) }
}

fn failure(run_id: String, text: &str) -> Final {
    let summary = format!("Error: {text}");
    Final {
        error: Some(ErrorShape::new(ErrorCode::Unavailable, &summary)),
        payload: Some(failed(&run_id, &summary)),
    }
}

fn failed(run_id: &str, summary: &str) -> Value {
    json!({ "runId": run_id, "status": "error", "summary": summary })
}

fn accepted_answer(run_id: String, accepted_at_ms: i64) -> AgentAnswer {
    AgentAnswer {
        run_id,
        status: "accepted".to_owned(),
        accepted_at: Some(accepted_at_ms),
        summary: None,
        result: None,
    }
}

fn done(run_id: String, ended: &Ended) -> AgentAnswer {
    AgentAnswer {
        run_id,
        status: "ok".to_owned(),
        accepted_at: None,
        summary: Some("completed".to_owned()),
        result: result(ended),
    }
}

fn result(ended: &Ended) -> Option<AgentResult> {
    serde_json::from_str(ended.result.as_deref()?).ok()
}
