//! Device pairing.
