//! Nodes: what they offer, calling them, pairing them.
