//! The harness of the end-to-end tests: starts daemons, talks to them, plays the other side.
