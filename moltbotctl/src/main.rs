//! The control client's entry point.

fn main() {}
