//! The middle of a run: a model is asked, tools are called, until it answers.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{FutureExt as _, StreamExt as _};
use jiff::Zoned;

use super::{
    Agent,
    beginning::Begun,
    ending::{self, Outcome},
    gate::{self, Asked},
    prompt::{self, Current},
    request::RunRequest,
    runs::Run,
    telling::{self, ToolResult},
};
use crate::{
    channels::Progress,
    clock::now_ms,
    config::Config,
    providers::{
        Chunk, Media, ModelRef, Prompt, ProviderError, StopReason, ToolCall, ToolSpec, Usage,
    },
    sessions::{key, message, model},
    store::{Db, StoreError},
    tools::{
        Intent, ToolContext,
        policy::{Refusal, Rules, Whereabouts},
    },
};

/// Rounds of tool calls in one run: enough for long work, an end to circles.
const ROUNDS: usize = 32;
/// Calls in one round.
const CALLS: usize = 32;
/// A model that says nothing for so long is replaced, where another one can.
const SILENCE: Duration = Duration::from_secs(120);
/// Largest file that a model is given, in bytes.
const FILE_BYTES: u64 = 10_000_000;
/// Largest files of one message together, in bytes.
const FILES_BYTES: u64 = 20_000_000;

/// An answer.
#[derive(Debug)]
pub(super) struct Answered {
    /// The last message.
    pub(super) text: String,
    /// What was said before tools were called.
    pub(super) earlier: Vec<String>,
    /// The model that answered.
    pub(super) model: ModelRef,
    /// Tokens used by the run.
    pub(super) usage: Usage,
    /// Tokens used by the last message.
    pub(super) last_usage: Usage,
    /// Why the last message ended.
    pub(super) stop: StopReason,
}

impl Answered {
    pub(super) fn stop_reason(&self) -> &'static str {
        stop_reason(self.stop)
    }
}

/// One message of a model.
#[derive(Debug, Default)]
struct Spoken {
    text: String,
    calls: Vec<ToolCall>,
    usage: Usage,
    stop: Option<StopReason>,
}

/// Why no model answered.
#[derive(Debug)]
struct Failure {
    error: String,
    model: Option<ModelRef>,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a run cannot use the store");
        Self { error: "the store cannot be used".into(), model: None }
    }
}

/// What a run is done with. Its methods take it mutably even where they only
/// read: a display of progress cannot be shared between threads.
struct Conversation<'a> {
    agent: &'a Agent,
    run: &'a Run,
    request: &'a RunRequest,
    begun: &'a Begun,
    agent_id: String,
    config: Arc<Config>,
    /// Models to be tried, the first one next.
    candidates: Vec<ModelRef>,
    media: Vec<Media>,
    notes: Vec<String>,
    verbose: bool,
    progress: Option<Box<dyn Progress>>,
    earlier: Vec<String>,
    usage: Usage,
}

impl Agent {
    /// Asks models and calls tools until there is an answer. May be dropped at
    /// any point: what has an effect is stored before and after.
    pub(super) async fn converse(&self, run: &Run, request: &RunRequest, begun: &Begun) -> Outcome {
        let config = self.config();
        let agent_id = key::owner(&config, &run.session_key);
        let (media, notes) = files(request).await;
        let verbose = begun.entry.verbose_level.clone();
        let verbose = verbose.or_else(|| config.agents.defaults.verbose_default.clone());
        let progress = request
            .deliver
            .as_ref()
            .filter(|_| request.inbox_id.is_some())
            .map(|route| self.parts.outbound.progress(route, &request.reply_key()));
        let mut conversation = Conversation {
            agent: self,
            run,
            request,
            begun,
            candidates: model::candidates(&config, &agent_id, Some(&begun.entry)),
            agent_id,
            config,
            media,
            notes,
            verbose: matches!(verbose.as_deref(), Some("on" | "full")),
            progress,
            earlier: begun.said.clone(),
            usage: Usage::default(),
        };
        // A panicking provider or tool ends its run, told like any failure.
        match AssertUnwindSafe(conversation.rounds()).catch_unwind().await {
            Ok(Ok(answered)) => Outcome::Answered(answered),
            Ok(Err(Failure { error, model })) => Outcome::Failed { error, model },
            Err(_) => {
                tracing::error!(run = run.id, "run panicked");
                Outcome::Failed { error: "internal error".into(), model: None }
            }
        }
    }
}

impl Conversation<'_> {
    async fn rounds(&mut self) -> Result<Answered, Failure> {
        for _ in 0..ROUNDS {
            let prompt = self.prompt().await?;
            let (model, spoken) = self.ask(prompt).await?;
            add(&mut self.usage, spoken.usage);
            if spoken.calls.is_empty() {
                return Ok(Answered {
                    text: spoken.text,
                    earlier: std::mem::take(&mut self.earlier),
                    model,
                    usage: self.usage,
                    last_usage: spoken.usage,
                    stop: spoken.stop.unwrap_or(StopReason::Stop),
                });
            }
            self.call_tools(&model, spoken).await?;
        }
        let error = format!("the model called tools {ROUNDS} times without an answer");
        Err(Failure { error, model: self.candidates.first().cloned() })
    }

    async fn prompt(&mut self) -> Result<Prompt, StoreError> {
        let session_id = self.begun.session_id.clone();
        let store = &self.agent.parts.store;
        let read =
            move |db: &Db<'_>| db.last_messages(&session_id, prompt::MESSAGES, prompt::BYTES);
        let rows = store.read(read).await?;
        let tools = self.offered_tools();
        let name = self.name();
        let mut system = prompt::system(&name, self.request, &tools, &Zoned::now());
        for note in &self.notes {
            system.push('\n');
            system.push_str(note);
        }
        let models = &self.agent.parts.models;
        let context =
            self.candidates.first().map_or(0, |model| model::context_tokens(models, model));
        let current = Current {
            run_id: &self.run.id,
            media: &self.media,
            own_words: &self.request.own_words,
        };
        let turns = prompt::turns(&rows, current, context);
        Ok(Prompt { system, turns, tools, thinking: self.thinking() })
    }

    /// Asks the models in turn until one answers; that one is asked first
    /// from then on.
    async fn ask(&mut self, prompt: Prompt) -> Result<(ModelRef, Spoken), Failure> {
        let mut last: Option<(ModelRef, ProviderError)> = None;
        while let Some(model) = self.candidates.first().cloned() {
            let is_last = self.candidates.len() == 1;
            let result = match self.agent.parts.models.find(&model) {
                Ok(provider) => {
                    self.tell_start(last.is_some());
                    let since = Instant::now();
                    let answer = provider.stream(prompt.clone());
                    let result = self.listen(answer, is_last).await;
                    let usage = result.as_ref().ok().map(|spoken| spoken.usage);
                    self.agent.parts.models.note(&model.provider, usage, since.elapsed());
                    self.agent.parts.models.note_outcome(&model, result.as_ref().err());
                    result
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(spoken) => return Ok((model, spoken)),
                Err(error) if is_last || !is_replaceable(&error) => {
                    tracing::warn!(%model, %error, run = self.run.id, "model failed");
                    let error = explained(last.as_ref(), &model, &error);
                    return Err(Failure { error, model: Some(model) });
                }
                Err(error) => {
                    tracing::warn!(%model, %error, run = self.run.id, "model failed; trying the next");
                    last = Some((model, error));
                    self.candidates.remove(0);
                }
            }
        }
        Err(Failure { error: "no model is configured".into(), model: None })
    }

    /// A run starts once for clients, and again with each model that replaces
    /// another one.
    fn tell_start(&self, replaces: bool) {
        if replaces || self.run.started_at_ms().is_none() {
            self.run.tell_start(&self.agent.parts.bus);
        } else {
            self.run.begin_message();
        }
    }

    async fn listen(
        &mut self,
        mut answer: crate::providers::Answer,
        is_last: bool,
    ) -> Result<Spoken, ProviderError> {
        let mut spoken = Spoken::default();
        loop {
            let next = answer.next();
            let chunk = if is_last {
                next.await
            } else {
                let silent =
                    |_| ProviderError::Failed(format!("silent for {} s", SILENCE.as_secs()));
                tokio::time::timeout(SILENCE, next).await.map_err(silent)?
            };
            let Some(chunk) = chunk else { break };
            match chunk? {
                Chunk::Text(text) => self.hear(&mut spoken, &text),
                Chunk::Thinking(_) => {}
                Chunk::Call(call) => spoken.calls.push(call),
                Chunk::End { stop, usage } => {
                    spoken.stop = Some(stop);
                    spoken.usage = usage;
                    break;
                }
            }
        }
        if spoken.stop.is_none() && spoken.text.is_empty() && spoken.calls.is_empty() {
            return Err(ProviderError::Failed("the model answered nothing".into()));
        }
        spoken.calls.truncate(CALLS);
        Ok(spoken)
    }

    fn hear(&mut self, spoken: &mut Spoken, text: &str) {
        if text.is_empty() {
            return;
        }
        spoken.text.push_str(text);
        self.run.tell_text(&self.agent.parts.bus, text);
        // A word that means silence is not shown while it is written either.
        if let Some(progress) = &mut self.progress
            && !telling::may_be_silence(&spoken.text)
        {
            let mut so_far = self.earlier.clone();
            so_far.push(spoken.text.clone());
            progress.update(&so_far.join("\n\n"));
        }
    }

    async fn call_tools(&mut self, model: &ModelRef, spoken: Spoken) -> Result<(), StoreError> {
        let Spoken { text, calls, usage, .. } = spoken;
        self.store_calls(model, &text, &calls, usage).await?;
        if !text.trim().is_empty() {
            self.earlier.push(text);
        }
        let mut before = None;
        for call in &calls {
            self.store_step(before.take(), Some(call)).await?;
            before = Some((call, self.call(model, call).await));
        }
        self.store_step(before, None).await
    }

    async fn store_calls(
        &mut self,
        model: &ModelRef,
        text: &str,
        calls: &[ToolCall],
        usage: Usage,
    ) -> Result<(), StoreError> {
        let now = now_ms();
        let written = ending::written(&self.config, model, usage, stop_reason(StopReason::ToolUse));
        let message = message::assistant(text, calls, &written, now);
        let message = ending::transcript_message(Some(&self.run.id), message, now);
        let session_id = self.begun.session_id.clone();
        self.agent.parts.store.insist(move |db| db.append_message(&session_id, &message)).await
    }

    /// Stores what a tool answered and that the next one is about to be
    /// called, so that no call is ever made that the store does not know of.
    async fn store_step(
        &mut self,
        done: Option<(&ToolCall, Called)>,
        next: Option<&ToolCall>,
    ) -> Result<(), StoreError> {
        let now = now_ms();
        let run_id = self.run.id.clone();
        let session_id = self.begun.session_id.clone();
        let done = done.map(|(call, called)| {
            let result =
                message::tool_result(&call.id, &call.name, &called.text, called.is_error, now);
            (call.id.clone(), ending::transcript_message(Some(&run_id), result, now), called.text)
        });
        let next = next.cloned();
        let write = move |db: &Db<'_>| {
            if let Some((call_id, message, text)) = &done {
                db.append_message(&session_id, message)?;
                db.end_tool_call(&run_id, call_id, text)?;
            }
            if let Some(ToolCall { id, name, arguments }) = &next {
                db.start_tool_call(&run_id, id, name, &arguments.to_string())?;
            }
            Ok(())
        };
        self.agent.parts.store.insist(write).await
    }

    /// Returns the tools that the model is told of: those that could do something for the asker.
    fn offered_tools(&self) -> Vec<ToolSpec> {
        let place = self.whereabouts(self.candidates.first());
        let rules = Rules::of(&self.config, &place);
        let mut tools = self.agent.parts.tools.specs();
        tools.retain(|tool| rules.offers(&tool.name, &self.begun.asker));
        tools
    }

    fn whereabouts(&self, model: Option<&ModelRef>) -> Whereabouts {
        let model = model.map(ToString::to_string);
        Whereabouts {
            model,
            ..gate::whereabouts(&self.config, &self.run.session_key, self.request)
        }
    }

    async fn call(&mut self, model: &ModelRef, call: &ToolCall) -> Called {
        let ToolCall { id, name, arguments } = call;
        let bus = &self.agent.parts.bus;
        self.run.tell_call(bus, self.verbose, name, id, arguments);
        let tool = self.agent.parts.tools.find(name);
        let answer = match tool {
            Some(tool) => match self.check_call(model, name, &tool.intent(arguments)) {
                Ok(()) => tool.call(self.context(), arguments.clone()).await.map_err(|e| e.0),
                Err(refusal) => Err(refusal.to_string()),
            },
            None => Err(format!("there is no tool named {name}")),
        };
        let hint = tool.and_then(|tool| tool.hint(arguments));
        let (text, is_error) = match answer {
            Ok(text) => (text, false),
            Err(text) => (text, true),
        };
        let meta = hint.as_deref();
        let result = ToolResult { name, id, meta, is_error, text: &text };
        self.run.tell_result(bus, self.verbose, &result);
        Called { text, is_error }
    }

    /// Decides about a call by the configuration of this moment.
    fn check_call(&self, model: &ModelRef, tool: &str, intent: &Intent) -> Result<(), Refusal> {
        let config = self.agent.config();
        let place = self.whereabouts(Some(model));
        let asked = Asked { asker: &self.begun.asker, run: self.run, place: &place };
        gate::check(&config, &asked, tool, intent)
    }

    fn context(&self) -> ToolContext {
        ToolContext {
            agent_id: self.agent_id.clone(),
            session_key: self.run.session_key.clone(),
            run_id: self.run.id.clone(),
            asker: self.begun.asker.clone(),
            cancel: self.run.cancel.child_token(),
        }
    }

    fn name(&self) -> String {
        let listed = self.config.agents.list.iter();
        let own = listed.filter(|agent| agent.id.eq_ignore_ascii_case(&self.agent_id));
        let name = own.filter_map(|agent| agent.called()).next();
        name.unwrap_or("Moltbot").to_owned()
    }

    fn thinking(&self) -> Option<String> {
        let level = self.request.thinking.clone().or_else(|| {
            let model = self.candidates.first()?;
            let models = &self.agent.parts.models;
            Some(model::thinking(&self.config, models, Some(&self.begun.entry), model))
        });
        level.filter(|level| level != "off")
    }
}

/// What a tool answered.
struct Called {
    text: String,
    is_error: bool,
}

/// Another model may do what this one could not; only a prompt that is too
/// long stays too long.
fn is_replaceable(error: &ProviderError) -> bool {
    !matches!(error, ProviderError::TooLong(_))
}

fn explained(
    first: Option<&(ModelRef, ProviderError)>,
    model: &ModelRef,
    error: &ProviderError,
) -> String {
    match (first, error) {
        (None, ProviderError::TooLong(text)) => {
            format!("{text}. Start anew with /new, or choose a model with a larger context")
        }
        (None, error) => error.to_string(),
        (Some((before, cause)), error) => format!("{before}: {cause}; {model}: {error}"),
    }
}

fn add(sum: &mut Usage, usage: Usage) {
    sum.input += usage.input;
    sum.output += usage.output;
    sum.cache_read += usage.cache_read;
    sum.cache_write += usage.cache_write;
}

const fn stop_reason(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Stop => "stop",
        StopReason::Length => "length",
        StopReason::ToolUse => "toolUse",
    }
}

/// Reads the files that came with a message. What cannot be given to a model
/// is said in a note.
async fn files(request: &RunRequest) -> (Vec<Media>, Vec<String>) {
    let (mut media, mut notes, mut total) = (Vec::new(), Vec::new(), 0);
    for file in &request.files {
        let name = file.file_name.clone().unwrap_or_else(|| "unnamed".into());
        let size = tokio::fs::metadata(&file.path).await.map(|found| found.len());
        match size {
            Ok(size) if size <= FILE_BYTES && total + size <= FILES_BYTES => {
                total += size;
                match tokio::fs::read(&file.path).await {
                    Ok(data) => media.push(Media {
                        mime: file.mime.clone(),
                        file_name: file.file_name.clone(),
                        data,
                    }),
                    Err(error) => {
                        tracing::warn!(%error, "attachment cannot be read");
                        notes.push(format!("The file {name} that was sent cannot be read."));
                    }
                }
            }
            Ok(size) => notes.push(format!(
                "The file {name} that was sent is too large to be read ({size} bytes)."
            )),
            Err(error) => {
                tracing::warn!(%error, "attachment is gone");
                notes.push(format!("The file {name} that was sent cannot be read."));
            }
        }
    }
    (media, notes)
}

/// Returns a picture in base64, as transcripts keep it.
pub(super) fn encoded(data: &[u8]) -> String {
    STANDARD.encode(data)
}
