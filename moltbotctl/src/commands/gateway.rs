//! `moltbotctl gateway …`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    agent, discover,
    gateway_status::{self, Look},
    health, json_argument, probe, send,
    service::{self, ServiceCommand},
};
use crate::{
    cli::GatewayCommand,
    context::{Context, helped},
    error::Error,
    output::{cell, clean},
    target::Target,
    terminal,
};

/// Runs one of the gateway's commands.
///
/// # Errors
/// When it fails.
pub async fn run(cx: &Context, command: GatewayCommand) -> anyhow::Result<ExitCode> {
    match command {
        GatewayCommand::Status { no_probe, deep } => {
            return gateway_status::run(cx, Look { probe: !no_probe, deep }).await;
        }
        GatewayCommand::Probe { ssh_auto } => return probe::run(cx, ssh_auto).await,
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
        GatewayCommand::Tls => return certificate(cx).await,
        GatewayCommand::Discover => discover::run(cx).await?,
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
    let params = json_argument("--params is", params)?;
    let connected = cx.connect().await?;
    let client = &connected.client;
    let call = async |params: Value| {
        if twice {
            client.call_final(method, params, cx.timeout()).await
        } else {
            client.call_raw(method, params).await
        }
    };
    let mut result = call(params.clone()).await;
    // The secret is shown again only when the gateway asks for it, and was not sent already.
    if let Err(Error::Refused(refusal)) = &result
        && refusal.details.as_ref().is_some_and(|it| it["code"] == "REAUTH_REQUIRED")
        && let Some(secret) =
            secret_to_show(cx, connected.candidate.target.as_ref(), &refusal.message)?
    {
        let mut params = params;
        params["auth"] = json!({ "reauth": secret });
        result = call(params).await;
    }
    connected.client.close().await;
    let result = result?;
    if !cx.output.json {
        cx.output.remark(format!("Gateway call: {method}"));
    }
    cx.output.value(&result);
    Ok(())
}

/// Returns the gateway's secret: what is configured for it, else what is typed at the terminal.
/// Without either the refusal stands.
fn secret_to_show(
    cx: &Context,
    target: Option<&Target>,
    why: &str,
) -> anyhow::Result<Option<String>> {
    let known = target.map(|target| &target.credentials);
    let known = known.and_then(|known| known.token.as_ref().or(known.password.as_ref()));
    if let Some(secret) = known {
        return Ok(Some(secret.reveal().to_owned()));
    }
    cx.output.remark(clean(why));
    Ok(terminal::ask_secret("The gateway's token or password: ")?)
}

/// Prints the certificate that the gateway shows, in the form it is pinned in.
async fn certificate(cx: &Context) -> anyhow::Result<ExitCode> {
    let status = cx.call("status", json!({})).await?;
    let tls = status.pointer("/gateway/tls").cloned().unwrap_or(Value::Null);
    let Some(digits) = tls["sha256"].as_str() else {
        return Err(helped(
            "the gateway's port speaks no TLS",
            "set gateway.tls.enabled; without gateway.tls.certPath a certificate is made",
        ));
    };
    if cx.output.json {
        cx.output.value(&tls);
        return Ok(ExitCode::SUCCESS);
    }
    cx.output.pairs(&[
        ("Certificate", cell(&tls, "/certificate")),
        ("SHA-256", format!("sha256:{}", clean(digits))),
    ]);
    cx.output.remark(
        cx.output
            .quiet("clients pin it: --tls-fingerprint SHA256, or gateway.remote.tlsFingerprint"),
    );
    Ok(ExitCode::SUCCESS)
}
