//! The last step of a run: everything that came of it, in one transaction.

use std::time::Duration;

use moltbot_protocol::methods::{
    agent::{AgentMeta, AgentPayload, AgentResult, ModelMeta, RunUsage},
    sessions::SessionEntry,
};
use serde_json::Value;

use super::{
    Agent,
    beginning::Begun,
    conversing::Answered,
    request::RunRequest,
    runs::{Ended, Run},
    telling,
};
use crate::{
    channels::OutboundMessage,
    clock::now_ms,
    config::Config,
    providers::{ModelRef, Usage},
    sessions::{
        key,
        message::{self, Cost, Written},
        model,
    },
    store::{Db, NewMessage, NewTranscriptMessage, RunEnd, RunState},
};

/// How a run came out.
#[derive(Debug)]
pub(super) enum Outcome {
    /// With an answer.
    Answered(Answered),
    /// Without one; the text says why.
    Failed {
        /// For people.
        error: String,
        /// The model that failed last.
        model: Option<ModelRef>,
    },
    /// It was stopped.
    Stopped,
    /// It was stopped because it took so long.
    TimedOut(Duration),
}

/// What the last transaction of a run writes.
struct Last {
    run_id: String,
    key: String,
    agent_id: String,
    session_id: Option<String>,
    written: Option<Value>,
    /// Answer for those calls that were cut off.
    cut_off: Option<&'static str>,
    spent: Option<Spent>,
    aborted: bool,
    end: RunEnd,
    reply: Option<NewMessage>,
    inbox_id: Option<i64>,
}

/// What a run leaves in the figures of its conversation.
struct Spent {
    model: ModelRef,
    context_tokens: u64,
    usage: Usage,
    filled: u64,
}

impl Agent {
    /// Stores what came of a run, then tells it.
    pub(super) async fn finish(
        &self,
        run: &Run,
        request: &RunRequest,
        begun: Option<&Begun>,
        outcome: Outcome,
    ) {
        let last = self.last(run, request, begun, &outcome);
        let end = last.end.clone();
        let replies = last.reply.is_some();
        if let Err(error) = self.parts.store.insist(move |db| last.write(db)).await {
            return self.lost(run, &error);
        }
        match &end.error {
            Some(error) => run.tell_error(&self.parts.bus, error, end.at_ms),
            None => run.tell_end(&self.parts.bus, end.at_ms),
        }
        if replies {
            self.parts.outbound.wake();
        }
        self.runs.end(run, ended(run, end));
    }

    fn last(
        &self,
        run: &Run,
        request: &RunRequest,
        begun: Option<&Begun>,
        outcome: &Outcome,
    ) -> Last {
        let now = now_ms();
        let config = self.config();
        let session_id = begun.map(|begun| begun.session_id.clone());
        let mut last = Last {
            run_id: run.id.clone(),
            key: run.session_key.clone(),
            agent_id: key::owner(&config, &run.session_key),
            session_id,
            written: None,
            cut_off: None,
            spent: None,
            aborted: false,
            end: RunEnd { state: RunState::Done, result: None, error: None, at_ms: now },
            reply: None,
            inbox_id: request.inbox_id,
        };
        let mut meta = AgentMeta { duration_ms: now - run.accepted_at_ms, ..AgentMeta::default() };
        let mut payloads = Vec::new();
        match outcome {
            Outcome::Answered(answered) => {
                last.answered(self, &config, answered, now);
                meta.agent_meta = Some(answered.meta(last.session_id.clone()));
                payloads = answered.payloads();
                last.reply = reply(&config, request, &answered.reply(), Some(&answered.model));
            }
            Outcome::Failed { error, model } => {
                last.failed(&config, error, model.as_ref(), now);
                last.reply = reply(&config, request, &warning(error), None);
            }
            Outcome::TimedOut(limit) => {
                let error = format!("the run was stopped after {} s", limit.as_secs());
                last.stopped(&config, &run.partial_text(), begun, now);
                last.reply = reply(&config, request, &warning(&error), None);
                last.end.error = Some(error);
            }
            Outcome::Stopped => {
                last.stopped(&config, &run.partial_text(), begun, now);
                meta.aborted = true;
            }
        }
        let result = AgentResult { payloads, meta };
        last.end.result = serde_json::to_string(&result).ok();
        last
    }
}

impl Last {
    fn answered(&mut self, agent: &Agent, config: &Config, answered: &Answered, now: i64) {
        let written = written(config, &answered.model, answered.last_usage, answered.stop_reason());
        self.written = Some(message::assistant(&answered.text, &[], &written, now));
        self.spent = Some(Spent {
            context_tokens: model::context_tokens(&agent.parts.models, &answered.model),
            model: answered.model.clone(),
            usage: answered.usage,
            filled: answered.last_usage.input
                + answered.last_usage.cache_read
                + answered.last_usage.cache_write,
        });
    }

    fn failed(&mut self, config: &Config, error: &str, model: Option<&ModelRef>, now: i64) {
        self.end.state = RunState::Failed;
        self.end.error = Some(error.to_owned());
        self.cut_off = Some("The run failed before this call was answered.");
        let model = model.cloned().unwrap_or_else(|| model::default_model(config, &self.agent_id));
        let written =
            Written { error: Some(error), ..written(config, &model, Usage::default(), "error") };
        self.written = Some(message::assistant(&warning(error), &[], &written, now));
    }

    fn stopped(&mut self, config: &Config, partial: &str, begun: Option<&Begun>, now: i64) {
        self.end.state = RunState::Aborted;
        self.aborted = true;
        self.cut_off =
            Some("The run was stopped while this call was under way. Its outcome is unknown.");
        if partial.is_empty() {
            return;
        }
        let entry = begun.map(|begun| &begun.entry);
        if let Some(model) = model::candidates(config, &self.agent_id, entry).first() {
            let written = written(config, model, Usage::default(), "aborted");
            self.written = Some(message::assistant(partial, &[], &written, now));
        }
    }

    fn write(&self, db: &Db<'_>) -> rusqlite::Result<()> {
        let now = self.end.at_ms;
        if let Some(session_id) = &self.session_id {
            if let Some(text) = self.cut_off {
                for (call_id, name) in db.open_tool_calls(&self.run_id)? {
                    let result = message::tool_result(&call_id, &name, text, true, now);
                    let result = transcript_message(Some(&self.run_id), result, now);
                    db.append_message(session_id, &result)?;
                }
            }
            if let Some(written) = &self.written {
                let written = transcript_message(Some(&self.run_id), written.clone(), now);
                db.append_message(session_id, &written)?;
            }
            self.update_session(db, session_id)?;
        }
        db.end_run(&self.run_id, &self.end)?;
        if let Some(reply) = &self.reply {
            db.queue_message(reply, now)?;
        }
        if let Some(inbox_id) = self.inbox_id {
            db.finish_inbox(inbox_id)?;
        }
        Ok(())
    }

    /// A conversation that was reset or deleted meanwhile is left alone.
    fn update_session(&self, db: &Db<'_>, session_id: &str) -> rusqlite::Result<()> {
        let Some(mut entry) = db.session(&self.key)? else { return Ok(()) };
        if entry.session_id != session_id {
            return Ok(());
        }
        entry.updated_at = Some(self.end.at_ms);
        entry.system_sent = Some(true);
        entry.aborted_last_run = Some(self.aborted);
        if let Some(spent) = &self.spent {
            spent.enter(&mut entry);
        }
        db.put_session(&self.key, &self.agent_id, &entry)
    }
}

impl Spent {
    fn enter(&self, entry: &mut SessionEntry) {
        entry.input_tokens = Some(self.usage.input);
        entry.output_tokens = Some(self.usage.output);
        entry.total_tokens = Some(self.filled);
        entry.model_provider = Some(self.model.provider.clone());
        entry.model = Some(self.model.model.clone());
        entry.context_tokens = Some(self.context_tokens);
    }
}

impl Answered {
    fn meta(&self, session_id: Option<String>) -> ModelMeta {
        let Usage { input, output, cache_read, cache_write } = self.usage;
        let total = input + output + cache_read + cache_write;
        ModelMeta {
            session_id: session_id.unwrap_or_default(),
            provider: self.model.provider.clone(),
            model: self.model.model.clone(),
            usage: Some(RunUsage { input, output, cache_read, cache_write, total }),
        }
    }

    fn payloads(&self) -> Vec<AgentPayload> {
        self.said()
            .map(|text| AgentPayload { text: Some(text.to_owned()), media_url: None })
            .collect()
    }

    fn reply(&self) -> String {
        self.said().collect::<Vec<_>>().join("\n\n")
    }

    fn said(&self) -> impl Iterator<Item = &str> {
        self.earlier
            .iter()
            .map(String::as_str)
            .chain([self.text.as_str()])
            .map(str::trim)
            .filter(|text| !text.is_empty() && !telling::is_silent(text))
    }
}

/// Returns how a run ended that was never done.
pub(super) fn given_up(at_ms: i64) -> RunEnd {
    let error = Some("the run could not be taken up again".to_owned());
    RunEnd { state: RunState::Failed, result: None, error, at_ms }
}

/// Returns the end of a run that failed.
pub(super) fn failed(run: &Run, error: String, at_ms: i64) -> Ended {
    let end = RunEnd { state: RunState::Failed, result: None, error: Some(error), at_ms };
    ended(run, end)
}

pub(super) fn ended(run: &Run, end: RunEnd) -> Ended {
    Ended {
        state: end.state,
        started_at_ms: run.started_at_ms(),
        ended_at_ms: end.at_ms,
        error: end.error,
        result: end.result,
    }
}

/// Returns a message as the store takes it.
pub(super) fn transcript_message(
    run_id: Option<&str>,
    message: Value,
    at_ms: i64,
) -> NewTranscriptMessage {
    NewTranscriptMessage {
        id: message::new_id(),
        run_id: run_id.map(str::to_owned),
        at_ms,
        message,
    }
}

/// Returns what is known of a model's answer besides its content.
pub(super) fn written<'a>(
    config: &'a Config,
    model: &'a ModelRef,
    usage: Usage,
    stop_reason: &'a str,
) -> Written<'a> {
    let provider = config.models.providers.get(&model.provider);
    Written {
        api: provider.and_then(|provider| provider.api.as_deref()).unwrap_or(&model.provider),
        provider: &model.provider,
        model: &model.model,
        usage,
        cost: cost(config, model, usage),
        stop_reason,
        error: None,
    }
}

fn cost(config: &Config, model: &ModelRef, usage: Usage) -> Cost {
    let provider = config.models.providers.get(&model.provider);
    let mut listed = provider.into_iter().flat_map(|provider| &provider.models);
    let price = listed.find(|listed| listed.id == model.model).and_then(|listed| listed.cost);
    let price = price.unwrap_or_default();
    let amount = |tokens: u64, price: f64| tokens as f64 * price / 1_000_000.0;
    Cost {
        input: amount(usage.input, price.input),
        output: amount(usage.output, price.output),
        cache_read: amount(usage.cache_read, price.cache_read),
        cache_write: amount(usage.cache_write, price.cache_write),
    }
}

/// Returns a failure as people see it.
pub(super) fn warning(error: &str) -> String {
    format!("⚠️ No answer: {error}")
}

/// Returns the message that answers in the channel, if there is one to answer
/// in and something to say.
pub(super) fn reply(
    config: &Config,
    request: &RunRequest,
    text: &str,
    model: Option<&ModelRef>,
) -> Option<NewMessage> {
    let route = request.deliver.clone()?;
    if text.is_empty() {
        return None;
    }
    let text = match (model, &config.messages.response_prefix) {
        (Some(model), Some(prefix)) => format!("{} {text}", prefixed(prefix, model)),
        _ => text.to_owned(),
    };
    let (channel, account) = (route.channel.clone(), route.account.clone());
    let body = OutboundMessage { route, text, media: Vec::new() };
    let body = serde_json::to_value(body).expect("messages serialize");
    Some(NewMessage { key: request.reply_key(), channel, account, body })
}

fn prefixed(prefix: &str, model: &ModelRef) -> String {
    prefix
        .replace("{modelFull}", &model.to_string())
        .replace("{model}", &model.model)
        .replace("{provider}", &model.provider)
}
