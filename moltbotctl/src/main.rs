//! The control client's entry point.

use std::process::ExitCode;

fn main() -> ExitCode {
    moltbotctl::run(std::env::args_os())
}
