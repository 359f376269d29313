//! Messaging channels and who may write to them.
