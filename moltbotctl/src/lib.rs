//! Talks to a running gateway, and hosts a headless node.

pub mod address;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
mod connection;
pub mod context;
pub mod delay;
pub mod environment;
pub mod error;
pub mod files;
mod frames;
mod handshake;
pub mod host_gateway;
pub mod identity;
pub mod node;
pub mod output;
pub mod paths;
pub mod resolver;
pub mod running;
pub mod service;
pub mod sockets;
pub mod ssh;
mod table;
pub mod target;
pub mod terminal;
pub mod tls;
pub mod transport;
pub mod tunnel;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::Parser;

use crate::{
    cli::Cli,
    context::{Context, Helped},
    environment::Environment,
    error::Error,
    output::Output,
};

/// Runs one command line and returns the exit code: 0 done, 2 wrong usage, else
/// what [`Error::exit_code`] says.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do when even this cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let environment = Environment::of_process();
    let output = Output::new(cli.globals.json, &environment);
    match execute(cli, environment) {
        Ok(code) => code,
        Err(error) => {
            report(output, &error);
            ExitCode::from(exit_code(&error))
        }
    }
}

fn execute(cli: Cli, environment: Environment) -> anyhow::Result<ExitCode> {
    let context = Context::new(&cli.globals, environment, cli.command.profile_use())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(commands::run(&context, cli.command));
    // A thread may still wait for a line of standard input; it ends with us.
    runtime.shutdown_timeout(Duration::ZERO);
    result
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let known = |cause: &(dyn std::error::Error + 'static)| {
        let helped = cause.downcast_ref::<Helped>().map(|helped| helped.exit);
        helped.or_else(|| cause.downcast_ref().map(Error::exit_code))
    };
    error.chain().find_map(known).unwrap_or(1)
}

fn report(output: Output, error: &anyhow::Error) {
    let (mut code, mut advice) = (None, None);
    for cause in error.chain() {
        if let Some(helped) = cause.downcast_ref::<Helped>() {
            advice = Some(helped.advice.clone());
        }
        if let Some(error) = cause.downcast_ref::<Error>() {
            advice = advice.or_else(|| error.advice());
            if let Error::Refused(refusal) = error {
                code = Some(refusal.code.clone());
            }
        }
    }
    output.error(&format!("{error:#}"), code.as_deref(), advice.as_deref());
}
