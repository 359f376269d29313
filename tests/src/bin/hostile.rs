//! Attacks a gateway and prints what its other clients had to bear.
//!
//! `cargo run --release -p moltbot-tests --bin hostile`; with `short` behind it, the small
//! attack that the tests run. The exit code is 1 when a count is not what it must be.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use moltbot_tests::hostile::{self, Strength};

#[tokio::main]
async fn main() -> ExitCode {
    let short = std::env::args().nth(1).as_deref() == Some("short");
    let report = hostile::attack(if short { Strength::short() } else { Strength::full() }).await;
    print!("{report}");
    let faults = report.faults();
    for fault in &faults {
        println!("FAULT: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
