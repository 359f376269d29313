//! Runs: one at a time in a session, a bounded number at once.
