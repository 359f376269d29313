//! The configured agents.
