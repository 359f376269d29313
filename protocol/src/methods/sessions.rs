//! Conversations and their settings.
