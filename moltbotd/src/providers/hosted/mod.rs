//! Hosted and local model servers, through genai.

mod endpoint;
mod failure;
mod request;
mod thoughts;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use genai::{
    Client,
    chat::{
        ChatMessage, ChatOptions, ChatRequest, ChatStream, ChatStreamEvent, ContentPart,
        MessageContent, StopReason as GenaiStop, StreamEnd, Usage as GenaiUsage,
    },
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use self::{
    endpoint::Target,
    failure::{Failure, explain},
    thoughts::Thoughts,
};
use super::{
    Answer, Chunk, ModelRef, Prompt, Provider, ProviderError, StopReason, ToolCall, Turn, Usage,
};
use crate::config::{self, Config};

const ATTEMPTS: u32 = 3;

/// Longest wait before another attempt. A server that asks for more is left
/// alone, and the caller told.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How long servers may take. There is no limit to a whole answer.
#[derive(Clone, Copy, Debug)]
struct Timing {
    connect: Duration,
    /// Until an answer begins; a local server may load its model first.
    headers: Duration,
    /// Between two pieces of an answer.
    idle: Duration,
    /// Before the second attempt; doubled for each further one.
    wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            headers: Duration::from_secs(180),
            idle: Duration::from_secs(120),
            wait: Duration::from_millis(500),
        }
    }
}

/// The servers. Connecting is prepared when the first one is asked, so that
/// certificates are not read while the daemon starts.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosted {
    client: Arc<OnceCell<Client>>,
    thoughts: Arc<Thoughts>,
    timing: Timing,
}

/// A model at a server.
struct Model {
    hosted: Hosted,
    target: Target,
}

impl Hosted {
    /// Finds a model's server and key.
    pub(super) fn find(
        &self,
        config: &Config,
        model: &ModelRef,
    ) -> Result<Arc<dyn Provider>, ProviderError> {
        let target = endpoint::find(config, model)?;
        Ok(Arc::new(Model { hosted: self.clone(), target }))
    }

    /// Returns a number that changes with how a model is asked; `None` for one that cannot be.
    pub(super) fn fingerprint(config: &Config, model: &ModelRef) -> Option<u64> {
        endpoint::find(config, model).ok().map(|target| target.fingerprint())
    }

    async fn client(&self) -> Result<&Client, String> {
        let timing = self.timing;
        self.client
            .get_or_try_init(|| async move {
                // Reading the system's certificates takes a while.
                let built = tokio::task::spawn_blocking(move || client(timing)).await;
                built.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            })
            .await
    }
}

/// Tells why a model cannot be asked, as far as the configuration alone shows it.
pub(super) fn check(config: &Config, model: &ModelRef) -> Result<(), ProviderError> {
    endpoint::find(config, model).map(drop)
}

/// Returns what is wrong with a provider's entry by itself: the key below it, and why.
pub(super) fn oddities(name: &str, provider: &config::Provider) -> Vec<(&'static str, String)> {
    endpoint::oddities(name, provider)
}

fn client(timing: Timing) -> reqwest::Result<Client> {
    // A provider that somebody else installed first is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder()
        .user_agent(concat!("moltbotd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timing.connect)
        .tcp_nodelay(true)
        // A redirect would carry the key to another server.
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    Ok(Client::builder().with_reqwest(http).build().expect("a given HTTP client needs no building"))
}

impl Provider for Model {
    fn stream(&self, prompt: Prompt) -> Answer {
        let asking = Asking {
            request: request::request(&prompt, &self.target, &self.hosted.thoughts),
            options: request::options(
                &prompt,
                &self.target,
                &self.hosted.thoughts,
                &self.hosted.timing,
            ),
            used_ids: used_ids(&prompt.turns),
            hosted: self.hosted.clone(),
            target: self.target.clone(),
        };
        Box::pin(stream::once(asking.ask()).try_flatten())
    }
}

/// A prompt on its way to a server.
struct Asking {
    hosted: Hosted,
    target: Target,
    request: ChatRequest,
    options: ChatOptions,
    used_ids: Vec<String>,
}

impl Asking {
    /// Asks until an answer begins or trying again does not help. Once it has
    /// begun, it is never asked for again: what was shown cannot be taken back.
    async fn ask(
        self,
    ) -> Result<impl Stream<Item = Result<Chunk, ProviderError>> + Send, ProviderError> {
        let mut attempt = 1;
        loop {
            let failure = match self.attempt().await {
                Ok((first, reading)) => {
                    let rest = stream::unfold(reading, |mut reading| async move {
                        let next = reading.next().await?;
                        Some((next.map_err(|failure| failure.error), reading))
                    });
                    return Ok(stream::iter([Ok(first)]).chain(rest));
                }
                Err(failure) => failure,
            };
            let wait = wait(&failure, attempt, self.hosted.timing.wait);
            if !failure.transient || attempt == ATTEMPTS || wait > MAX_WAIT {
                return Err(failure.error);
            }
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(attempt, wait_ms, error = %failure.error, "model asked again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn attempt(&self) -> Result<(Chunk, Reading), Failure> {
        let names = &self.target.names;
        let client = self.hosted.client().await.map_err(|error| Failure::own(names, &error))?;
        let answer = client
            .exec_chat_stream(
                self.target.service.clone(),
                self.request.clone(),
                Some(&self.options),
            )
            .await
            .map_err(|error| explain(error, names))?;
        let mut reading = Reading {
            events: answer.stream,
            chunks: VecDeque::new(),
            ended: false,
            target: self.target.clone(),
            thoughts: Arc::clone(&self.hosted.thoughts),
            used_ids: self.used_ids.clone(),
        };
        match reading.next().await {
            Some(first) => Ok((first?, reading)),
            None => Err(Failure::cut(names)),
        }
    }
}

/// An answer that is coming in.
struct Reading {
    events: ChatStream,
    chunks: VecDeque<Chunk>,
    ended: bool,
    target: Target,
    thoughts: Arc<Thoughts>,
    used_ids: Vec<String>,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<Chunk, Failure>> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Some(Ok(chunk));
            }
            if self.ended {
                return None;
            }
            let failure = match self.events.next().await {
                Some(Ok(event)) => match self.read(event) {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Some(Err(error)) => explain(error, &self.target.names),
                None => Failure::cut(&self.target.names),
            };
            self.ended = true;
            return Some(Err(failure));
        }
    }

    fn read(&mut self, event: ChatStreamEvent) -> Result<(), Failure> {
        match event {
            ChatStreamEvent::Chunk(chunk) if !chunk.content.is_empty() => {
                self.chunks.push_back(Chunk::Text(chunk.content));
            }
            ChatStreamEvent::ReasoningChunk(chunk) if !chunk.content.is_empty() => {
                self.chunks.push_back(Chunk::Thinking(chunk.content));
            }
            ChatStreamEvent::End(end) => return self.end(end),
            // Calls are taken whole, at the end.
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, end: StreamEnd) -> Result<(), Failure> {
        self.ended = true;
        let StreamEnd { captured_usage: usage, captured_stop_reason: reason, .. } = &end;
        // Some dialects have no mark for the end but these.
        if reason.is_none() && usage.is_none() {
            return Err(Failure::cut(&self.target.names));
        }
        let (usage, reason) = (usage.as_ref().map(read_usage).unwrap_or_default(), reason.clone());
        let message = end.into_assistant_message_for_tool_use();
        let calls = message.map(|message| self.take_calls(message)).unwrap_or_default();
        let stop = match reason {
            Some(GenaiStop::MaxTokens(_)) => StopReason::Length,
            _ if !calls.is_empty() => StopReason::ToolUse,
            Some(GenaiStop::ContentFilter(why)) => {
                let text = format!("the provider withheld the answer ({why})");
                return Err(Failure::own(&self.target.names, &text));
            }
            _ => StopReason::Stop,
        };
        self.chunks.extend(calls.into_iter().map(Chunk::Call));
        self.chunks.push_back(Chunk::End { stop, usage });
        Ok(())
    }

    /// Returns the calls of a message, and keeps the message when it must be
    /// shown to the provider again.
    fn take_calls(&mut self, message: ChatMessage) -> Vec<ToolCall> {
        let mut calls = Vec::new();
        let mut parts = message.content.into_parts();
        for part in &mut parts {
            if let ContentPart::ToolCall(call) = part {
                call.call_id = self.unused(&call.call_id);
                call.fn_arguments = arguments(std::mem::take(&mut call.fn_arguments));
                calls.push(ToolCall {
                    id: call.call_id.clone(),
                    name: call.fn_name.clone(),
                    arguments: call.fn_arguments.clone(),
                });
            }
        }
        let content = MessageContent::from_parts(parts);
        self.thoughts.keep(ChatMessage { content, ..message });
        calls
    }

    /// Some servers count from zero in every answer; a run needs distinct ids.
    fn unused(&mut self, id: &str) -> String {
        let taken = id.is_empty() || self.used_ids.iter().any(|used| used == id);
        let id =
            if taken { format!("call_{}", uuid::Uuid::new_v4().simple()) } else { id.to_owned() };
        self.used_ids.push(id.clone());
        id
    }
}

fn used_ids(turns: &[Turn]) -> Vec<String> {
    let calls = turns.iter().filter_map(|turn| match turn {
        Turn::Assistant { calls, .. } => Some(calls),
        _ => None,
    });
    calls.flatten().map(|call| call.id.clone()).collect()
}

/// Arguments that were not read as JSON are kept as text for the tool to
/// complain about; none at all are an empty object.
fn arguments(arguments: Value) -> Value {
    match arguments {
        Value::Null => json!({}),
        Value::String(text) if text.trim().is_empty() => json!({}),
        other => other,
    }
}

/// Tokens from the cache count by themselves: they are cheaper.
fn read_usage(usage: &GenaiUsage) -> Usage {
    let count = |tokens: Option<i32>| u64::try_from(tokens.unwrap_or_default()).unwrap_or_default();
    let details = usage.prompt_tokens_details.as_ref();
    let cache_read = count(details.and_then(|details| details.cached_tokens));
    let cache_write = count(details.and_then(|details| details.cache_creation_tokens));
    Usage {
        input: count(usage.prompt_tokens).saturating_sub(cache_read + cache_write),
        output: count(usage.completion_tokens),
        cache_read,
        cache_write,
    }
}

/// Returns how long to wait after an attempt: what the server asked for, else
/// twice as long each time, spread so that not everybody comes back at once.
fn wait(failure: &Failure, attempt: u32, first: Duration) -> Duration {
    if let Some(asked) = failure.retry_after {
        return asked;
    }
    let doubled = first * 2_u32.pow(attempt - 1);
    let spread = getrandom::u32().unwrap_or_default() % 500;
    doubled * (750 + spread) / 1000
}

#[cfg(test)]
mod tests;
