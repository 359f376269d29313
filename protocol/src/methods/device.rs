//! Paired devices and their tokens.
