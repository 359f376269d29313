//! Model servers: a prompt goes in, a stream of text and tool calls comes out.

pub mod echo;
pub mod hosted;
mod troubles;

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::Stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::troubles::LastFailures;
pub use self::troubles::{Named, check, configured, named};
use crate::{
    config,
    metrics::{Count, Durations},
};

/// A model that can be asked.
pub trait Provider: Send + Sync + 'static {
    /// Asks it. Dropping the answer ends the request.
    fn stream(&self, prompt: Prompt) -> Answer;
}

/// The models that the configuration names, and those that are built in.
pub struct Models {
    config: Arc<config::Live>,
    built_in: Vec<(ModelInfo, Arc<dyn Provider>)>,
    hosted: hosted::Hosted,
    /// By provider; only those that the configuration names get here.
    calls: Mutex<BTreeMap<String, Arc<Calls>>>,
    failures: LastFailures,
}

/// Figures about the calls of one provider's models.
#[derive(Debug)]
pub struct Calls {
    /// Calls that were answered.
    pub ok: Count,
    /// Calls that failed.
    pub failed: Count,
    /// Tokens read, without those of the provider's cache.
    pub input_tokens: Count,
    /// Tokens written.
    pub output_tokens: Count,
    /// How long it took until the answer was complete or the call had failed.
    pub took: Durations,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            ok: Count::default(),
            failed: Count::default(),
            input_tokens: Count::default(),
            output_tokens: Count::default(),
            took: Durations::slow(),
        }
    }
}

impl Models {
    /// Returns the models of a configuration; what a reload changes is seen.
    #[must_use]
    pub fn new(config: Arc<config::Live>) -> Self {
        let echo: Arc<dyn Provider> = Arc::new(echo::Echo);
        let hosted = hosted::Hosted::default();
        Self {
            config,
            built_in: vec![(echo::info(), echo)],
            hosted,
            calls: Mutex::default(),
            failures: LastFailures::default(),
        }
    }

    /// Adds a model that needs no configuration.
    #[must_use]
    pub fn with(mut self, info: ModelInfo, provider: Arc<dyn Provider>) -> Self {
        self.built_in.push((info, provider));
        self
    }

    /// Finds a model.
    pub fn find(&self, model: &ModelRef) -> Result<Arc<dyn Provider>, ProviderError> {
        let built_in = self.built_in.iter().find(|(info, _)| info.model == *model);
        if let Some((_, provider)) = built_in {
            return Ok(Arc::clone(provider));
        }
        if model.provider == echo::model().provider {
            return Err(ProviderError::Unknown(format!("unknown model: {model}")));
        }
        self.hosted.find(&self.config.get(), model)
    }

    /// Counts a call: with what it used, or as a failure.
    pub fn note(&self, provider: &str, usage: Option<Usage>, took: Duration) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = calls.entry(provider.to_owned()).or_default();
        calls.took.add(took);
        match usage {
            Some(usage) => {
                calls.ok.one();
                calls.input_tokens.add(usage.input);
                calls.output_tokens.add(usage.output);
            }
            None => calls.failed.one(),
        }
    }

    /// Notes how a call of a model ended. It counts until the next one.
    pub fn note_outcome(&self, model: &ModelRef, error: Option<&ProviderError>) {
        self.failures.note(&self.config.get(), model, error);
    }

    /// Returns what keeps models that the configuration names from answering, one line each, with
    /// the command that helps.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let config = self.config.get();
        let mut troubles = Vec::new();
        for it in named(&config) {
            let why = match self.find(&it.model) {
                Err(error) => Some(troubles::explain(&it, &error)),
                Ok(_) => self.failures.of(&config, &it.model),
            };
            // Several agents may name the same one.
            troubles.extend(why.filter(|why| !troubles.contains(why)));
        }
        troubles
    }

    /// Returns figures about the calls, by provider.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, Arc<Calls>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Describes every model, by provider and then by name.
    #[must_use]
    pub fn list(&self) -> Vec<ModelInfo> {
        let mut models: Vec<ModelInfo> =
            self.built_in.iter().map(|(info, _)| info.clone()).collect();
        for (provider, settings) in &self.config.get().models.providers {
            models.extend(settings.models.iter().map(|model| ModelInfo {
                model: ModelRef { provider: provider.clone(), model: model.id.clone() },
                name: model.name.clone().unwrap_or_else(|| model.id.clone()),
                context_window: model.context_window,
                reasoning: model.reasoning,
                input: model.input.clone().unwrap_or_else(|| vec!["text".into()]),
            }));
        }
        models.sort_by(|a, b| (&a.model.provider, &a.name).cmp(&(&b.model.provider, &b.name)));
        models
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Models").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A model, written `provider/model`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    /// Key in `models.providers`, or the name of a known provider.
    pub provider: String,
    /// Id of the model at the provider; may hold further slashes.
    pub model: String,
}

impl ModelRef {
    /// Parses `provider/model`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (provider, model) = text.trim().split_once('/')?;
        let full = !provider.is_empty() && !model.is_empty();
        full.then(|| Self { provider: provider.to_owned(), model: model.to_owned() })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// What a model is asked.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// Who the assistant is and what it may do.
    pub system: String,
    /// The conversation, oldest first.
    pub turns: Vec<Turn>,
    /// The tools it may call.
    pub tools: Vec<ToolSpec>,
    /// How hard it should think: `off`, `minimal`, `low`, `medium`, `high`.
    pub thinking: Option<String>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// What a person wrote.
    User {
        /// The text.
        text: String,
        /// What of it the asker of this run wrote, and nobody else; empty for older messages.
        own_words: String,
        /// Pictures and files.
        attachments: Vec<Media>,
    },
    /// What the model wrote.
    Assistant {
        /// The text, perhaps empty.
        text: String,
        /// Tools it called.
        calls: Vec<ToolCall>,
    },
    /// What a tool answered.
    Tool {
        /// Id of the call.
        call_id: String,
        /// Name of the tool.
        name: String,
        /// The answer.
        text: String,
        /// Whether it failed.
        is_error: bool,
    },
}

/// A picture or file for the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Media {
    /// What it is.
    pub mime: String,
    /// Its name for people.
    pub file_name: Option<String>,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// A tool as the model sees it.
#[derive(Clone, Debug)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of its arguments.
    pub schema: Value,
}

/// A call the model makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Identifies the call within the run.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunk {
    /// Further text.
    Text(String),
    /// Further reasoning, not part of the answer.
    Thinking(String),
    /// A complete tool call.
    Call(ToolCall),
    /// The end, with what it cost.
    End {
        /// Why it ended.
        stop: StopReason,
        /// Tokens used.
        usage: Usage,
    },
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was complete.
    Stop,
    /// It reached the length limit.
    Length,
    /// Tools are to be called.
    ToolUse,
}

/// Tokens used by one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens read.
    pub input: u64,
    /// Tokens written.
    pub output: u64,
    /// Tokens read from the provider's cache.
    pub cache_read: u64,
    /// Tokens written to the provider's cache.
    pub cache_write: u64,
}

/// Why a model did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The configuration does not name such a model.
    #[error("{0}")]
    Unknown(String),
    /// There is no key; the text says where to put one.
    #[error("{0}")]
    NoKey(String),
    /// The provider refused the key.
    #[error("{0}")]
    Unauthorized(String),
    /// Too many requests, or the provider is overloaded: trying later helps.
    #[error("{message}")]
    Busy {
        /// What the provider said.
        message: String,
        /// How long it asked to wait, in milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// The prompt does not fit.
    #[error("{0}")]
    TooLong(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// An answer in pieces.
pub type Answer = Pin<Box<dyn Stream<Item = Result<Chunk, ProviderError>> + Send>>;

/// A model that can be described to clients.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The model.
    pub model: ModelRef,
    /// Name for people.
    pub name: String,
    /// Size of its context in tokens.
    pub context_window: Option<u64>,
    /// Whether it reasons.
    pub reasoning: bool,
    /// What it reads: `text`, `image`.
    pub input: Vec<String>,
}
