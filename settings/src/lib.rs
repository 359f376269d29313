//! The configuration file as a text that belongs to people.
//!
//! Programs change what they must and keep the rest, byte for byte: [`edit`]
//! changes a text, [`mod@include`] tells which of several files holds a key,
//! [`book`] writes files so that nothing is ever half there or lost, [`account`] whose they are. What the
//! keys mean is the daemon's business.

pub mod account;
pub mod book;
pub mod edit;
pub mod include;
pub mod locate;

pub use locate::{Path, Step};
