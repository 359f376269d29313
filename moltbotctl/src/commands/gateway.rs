//! `moltbotctl gateway …`.

use std::process::ExitCode;

use super::{
    agent,
    gateway_status::{self, Look},
    health, json_argument, probe, send,
    service::{self, ServiceCommand},
};
use crate::{cli::GatewayCommand, context::Context};

/// Runs one of the gateway's commands.
///
/// # Errors
/// When it fails.
pub async fn run(cx: &Context, command: GatewayCommand) -> anyhow::Result<ExitCode> {
    match command {
        GatewayCommand::Status { no_probe, deep } => {
            return gateway_status::run(cx, Look { probe: !no_probe, deep }).await;
        }
        GatewayCommand::Probe => return probe::run(cx).await,
        GatewayCommand::Install(args) => {
            return service::run(cx, ServiceCommand::Install(args)).await;
        }
        GatewayCommand::Uninstall(which) => {
            return service::run(cx, ServiceCommand::Uninstall(which)).await;
        }
        GatewayCommand::Start(which) => {
            return service::run(cx, ServiceCommand::Start(which)).await;
        }
        GatewayCommand::Stop(which) => return service::run(cx, ServiceCommand::Stop(which)).await,
        GatewayCommand::Restart(args) => {
            return service::run(cx, ServiceCommand::Restart(args)).await;
        }
        GatewayCommand::Health { probe } => health::run(cx, probe).await?,
        GatewayCommand::Send(args) => send::run(cx, args).await?,
        GatewayCommand::Agent(args) => agent::run(cx, args).await?,
        GatewayCommand::Call { method, params, expect_final } => {
            call(cx, &method, &params, expect_final).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn call(cx: &Context, method: &str, params: &str, twice: bool) -> anyhow::Result<()> {
    let params = json_argument("--params", params)?;
    let connected = cx.connect().await?;
    let client = &connected.client;
    let result = if twice {
        client.call_final(method, params, cx.timeout()).await
    } else {
        client.call_raw(method, params).await
    };
    connected.client.close().await;
    let result = result?;
    if !cx.output.json {
        cx.output.remark(format!("Gateway call: {method}"));
    }
    cx.output.value(&result);
    Ok(())
}
