//! Talks to a running gateway, and hosts a headless node.
