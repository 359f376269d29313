//! Tests against programs that are not ours: `tests/run` installs them.

// In a test an unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]
// Figures are part of what these tests show.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod broken;
mod certificates;
#[cfg(target_os = "linux")]
mod crashes;
#[cfg(target_os = "linux")]
mod discovery;
mod foreign;
mod host;
mod import;
mod kill9;
#[cfg(target_os = "linux")]
mod proxy;
#[cfg(target_os = "linux")]
mod reach;
mod read_only;
mod reference_clients;
mod reference_gateway;
mod ssh;
#[cfg(target_os = "linux")]
mod systemd;
#[cfg(target_os = "linux")]
mod tailnet;
mod telegram;
mod tunnel;
mod who_asked;
mod whole_way;
