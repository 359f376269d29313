//! What a conversation shows.
