//! Messages sent outside a conversation.
