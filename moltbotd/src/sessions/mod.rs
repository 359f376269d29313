//! Conversations: their keys, their settings, their transcripts.
