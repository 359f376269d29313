//! Web-chat style conversations.
