//! Node pairing and invokes.
