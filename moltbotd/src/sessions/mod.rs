//! Conversations: their keys, their settings, their transcripts.

pub mod system_events;
