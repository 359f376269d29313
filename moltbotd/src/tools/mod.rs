//! What a model may do besides writing. One file each, and one line in the
//! list of them.

pub mod gateway;
pub mod nodes;
pub mod policy;

use std::{pin::Pin, sync::Arc};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{asker::Asker, providers::ToolSpec};

/// Something a model may do.
pub trait Tool: Send + Sync + 'static {
    /// Returns its name, description and the schema of its arguments.
    fn spec(&self) -> ToolSpec;

    /// Says what a call with these arguments would do. Asked before every call: whether it may is
    /// decided by [`policy`], and no tool decides it for itself.
    fn intent(&self, arguments: &Value) -> Intent;

    /// Does it, and returns what the model is told. Errors are told to the
    /// model, too, which may try another way.
    fn call(&self, cx: ToolContext, arguments: Value) -> Calling;

    /// Says what a call is about, in one line for people who watch.
    fn hint(&self, arguments: &Value) -> Option<String>;
}

/// What a call would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Whether it changes something.
    pub effect: Effect,
    /// What it does, in a few words for logs and refusals.
    pub action: String,
    /// Another tool of OpenClaw whose power it uses, so that what denies that one denies this.
    pub stands_for: Option<&'static str>,
}

/// Whether something changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only looks.
    Reads,
    /// It changes something, here or on a node, or shows what a camera sees.
    Acts,
    /// It decides about what may be done, which has a method of its own and is in no tool's reach.
    Reserved,
}

/// A tool at work.
pub type Calling = Pin<Box<dyn Future<Output = Result<String, ToolError>> + Send>>;

/// What a tool is told besides its arguments.
#[derive(Clone, Debug)]
pub struct ToolContext {
    /// The agent that calls it.
    pub agent_id: String,
    /// The session it belongs to.
    pub session_key: String,
    /// The run it belongs to.
    pub run_id: String,
    /// Who asked for the run.
    pub asker: Asker,
    /// Cancelled when the run is aborted.
    pub cancel: CancellationToken,
}

/// Why a tool could not do it; told to the model.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ToolError(pub String);

/// The tools a run may use.
#[derive(Clone, Default)]
pub struct Tools(Vec<Arc<dyn Tool>>);

impl std::fmt::Debug for Tools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|tool| tool.spec().name)).finish()
    }
}

impl Tools {
    /// Returns a set of tools.
    #[must_use]
    pub fn new(tools: Vec<Arc<dyn Tool>>) -> Self {
        Self(tools)
    }

    /// Describes every tool to a model.
    #[must_use]
    pub fn specs(&self) -> Vec<ToolSpec> {
        self.0.iter().map(|tool| tool.spec()).collect()
    }

    /// Finds a tool by its name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.0.iter().find(|tool| tool.spec().name == name)
    }
}
