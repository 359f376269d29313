//! Talks to a running gateway, and hosts a headless node.

pub mod address;
pub mod client;
pub mod config;
pub mod environment;
pub mod error;
pub mod files;
pub mod identity;
pub mod paths;
pub mod target;
pub mod transport;
