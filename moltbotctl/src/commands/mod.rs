//! One file per command.

pub mod agent;
pub mod backup;
pub mod channels;
pub mod chat;
pub mod completions;
pub mod config;
pub mod daemon;
pub mod devices;
pub mod discover;
pub mod doctor;
pub mod gateway;
pub mod gateway_status;
pub mod health;
pub mod import;
pub mod logs;
pub mod nodes;
pub mod pairing;
mod pick;
pub mod probe;
pub mod profile;
pub mod remote;
pub mod send;
pub mod service;
pub mod sessions;
pub mod status;
pub mod tailnet;
pub mod tunnel;
#[path = "where.rs"]
pub mod where_;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::{PossibleValue, PossibleValuesParser};
use serde_json::Value;

use crate::{
    cli::{Command, NodeCommand},
    context::Context,
    node,
};

/// Runs a command.
///
/// # Errors
/// When it fails.
pub async fn run(cx: &Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Health { probe } => health::run(cx, probe).await?,
        Command::Status { deep, all } => status::run(cx, deep || all, all).await?,
        Command::Gateway(command) => return gateway::run(cx, command).await,
        Command::Profile(command) => return profile::run(cx, command).await,
        Command::Service(command) => return service::run(cx, command).await,
        Command::Agent(args) => agent::run(cx, args).await?,
        Command::Send(args) => send::run(cx, args).await?,
        Command::Chat(args) => chat::run(cx, args).await?,
        Command::Sessions { active } => sessions::run(cx, active).await?,
        Command::Nodes(command) => nodes::run(cx, command).await?,
        Command::Devices(command) => devices::run(cx, command).await?,
        Command::Pairing(command) => pairing::run(cx, command).await?,
        Command::Channels(command) => channels::run(cx, command).await?,
        Command::Logs(args) => logs::run(cx, args).await?,
        Command::Config(command) => config::run(cx, command).await?,
        Command::Backup(command) => return backup::run(cx, &command),
        Command::Doctor { fix } => return doctor::run(cx, fix).await,
        Command::Import(args) => return import::run(cx, &args),
        Command::Remote(command) => remote::run(cx, command).await?,
        Command::Tunnel(command) => return tunnel::run(cx, command).await,
        Command::Where => where_::run(cx)?,
        Command::Node(NodeCommand::Run(args)) => node::run(cx, args).await?,
        Command::Completions { shell } => completions::run(cx, shell),
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses JSON given on the command line; what it is called comes with its verb.
fn json_argument(name_and_verb: &str, text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("{name_and_verb} not JSON"))
}

/// The levels of `--thinking`, with the other words that the gateway takes.
fn thinking_levels() -> PossibleValuesParser {
    PossibleValuesParser::new([
        PossibleValue::new("off").alias("none"),
        PossibleValue::new("minimal").aliases(["min", "think"]),
        PossibleValue::new("low").aliases(["on", "enable", "enabled"]),
        PossibleValue::new("medium").aliases(["mid", "med"]),
        PossibleValue::new("high").aliases(["highest", "max", "ultra"]),
        PossibleValue::new("xhigh").aliases(["x-high", "x_high"]),
    ])
}
