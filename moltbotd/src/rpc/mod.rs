//! From a method's name to its handler and back to a frame.
//!
//! Knows nothing of what the methods do: `G` is whatever they act on.

mod dedupe;
mod error;
mod router;
mod scan;
mod validate;

use std::sync::Arc;

pub use self::{
    dedupe::{Claim, Dedupe},
    error::{Error, Result},
    router::{Answer, Final, Last, Router, Twice},
    scan::{TooComplex, measure},
    validate::Rules,
};
use crate::{auth::Caller, bus::Outbox};

/// What a handler is given besides its parameters.
#[derive(Debug)]
pub struct Context<G> {
    /// What the methods act on.
    pub gateway: Arc<G>,
    /// Who is calling.
    pub caller: Arc<Caller>,
    /// Where the caller's frames go.
    pub outbox: Arc<Outbox>,
}

impl<G> Clone for Context<G> {
    fn clone(&self) -> Self {
        Self {
            gateway: Arc::clone(&self.gateway),
            caller: Arc::clone(&self.caller),
            outbox: Arc::clone(&self.outbox),
        }
    }
}
