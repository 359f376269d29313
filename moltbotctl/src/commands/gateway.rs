//! `moltbotctl gateway …`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    agent, health, json_argument, probe, send,
    service::{self, ServiceCommand},
};
use crate::{
    cli::GatewayCommand,
    context::Context,
    output::{cell, clean, duration},
    running::Running,
};

/// Runs one of the gateway's commands.
///
/// # Errors
/// When it fails.
pub async fn run(cx: &Context, command: GatewayCommand) -> anyhow::Result<ExitCode> {
    match command {
        GatewayCommand::Status => return status(cx).await,
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

async fn status(cx: &Context) -> anyhow::Result<ExitCode> {
    let process = Running::find(&cx.paths);
    let mut rpc = json!({ "ok": false });
    let mut own = Value::Null;
    match cx.connect().await {
        Ok(connected) => {
            let target = connected.candidate.target.as_ref();
            rpc = json!({
                "ok": true,
                "url": target.map(|target| target.address.to_string()),
                "source": connected.candidate.source.name(),
                "latencyMs": u64::try_from(connected.latency.as_millis()).unwrap_or(u64::MAX),
            });
            own = connected.client.hello().get("server").cloned().unwrap_or(Value::Null);
            connected.client.close().await;
        }
        Err(error) => rpc["error"] = format!("{error:#}").into(),
    }
    let reachable = rpc["ok"] == true;
    let report = json!({
        "profile": cx.paths.profile_name(),
        "config": {
            "path": cx.config.path, "exists": cx.config.exists,
            "valid": cx.config.problem.is_none(), "problem": cx.config.problem,
        },
        "process": process,
        "rpc": rpc,
        "server": own,
    });
    if cx.output.json {
        cx.output.value(&report);
    } else {
        show(cx, &report);
    }
    Ok(if reachable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(cx: &Context, report: &Value) {
    let out = cx.output;
    let reachable = report["rpc"]["ok"] == true;
    let rpc = if reachable {
        format!("{} in {} ms", out.verdict(true, "answers"), cell(report, "/rpc/latencyMs"))
    } else {
        format!("{}: {}", out.verdict(false, "does not answer"), cell(report, "/rpc/error"))
    };
    let process = match report["process"]["pid"].as_u64() {
        Some(pid) => {
            let since = report["process"]["startedAtMs"].as_u64().unwrap_or_default();
            let up = duration(crate::client::now_ms().saturating_sub(since));
            format!("pid {pid}, version {}, up {up}", cell(report, "/process/version"))
        }
        None => "none known on this host".into(),
    };
    let problem = report["config"]["problem"]
        .as_str()
        .map_or_else(String::new, |problem| format!(" ({})", out.verdict(false, &clean(problem))));
    let missing = if cx.config.exists { "" } else { " (not there, defaults apply)" };
    out.pairs(&[
        ("Profile", cell(report, "/profile")),
        ("Config", format!("{}{missing}{problem}", cx.config.path.display())),
        ("Process", process),
        ("Address", cell(report, "/rpc/url")),
        ("Gateway", rpc),
        ("Version", cell(report, "/server/version")),
    ]);
    if !reachable {
        out.remark(out.quiet("see what was tried: moltbotctl where; start the gateway: moltbotd"));
    }
}
