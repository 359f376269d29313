//! Talk mode.
