//! `moltbotctl channels`.

use serde_json::{Value, json};

use crate::{
    cli::ChannelsCommand,
    context::Context,
    output::{Output, ago, cell},
};

/// Shows the channels.
///
/// # Errors
/// When the gateway does not answer.
pub async fn run(cx: &Context, command: ChannelsCommand) -> anyhow::Result<()> {
    let ChannelsCommand::Status { probe } = command;
    let timeout = u64::try_from(cx.timeout().as_millis()).unwrap_or(u64::MAX);
    let params = json!({ "probe": probe, "timeoutMs": timeout });
    let status = cx.call("channels.status", params).await?;
    if cx.output.json {
        cx.output.value(&status);
    } else {
        show(cx.output, &status);
    }
    Ok(())
}

/// Prints the state of the channels for people.
pub fn show(out: Output, status: &Value) {
    let empty = serde_json::Map::new();
    let accounts = status.get("channelAccounts").and_then(Value::as_object).unwrap_or(&empty);
    let mut rows = Vec::new();
    for (channel, accounts) in accounts {
        for account in accounts.as_array().into_iter().flatten() {
            rows.push(row(out, channel, account));
        }
    }
    let headers = ["Channel", "Account", "State", "Probe", "Last in", "Last out", "Error"];
    out.table(&headers, rows, "No channels are configured.");
}

fn row(out: Output, channel: &str, account: &Value) -> Vec<String> {
    let flag = |name: &str| account.get(name).and_then(Value::as_bool);
    let state = match (flag("enabled"), flag("configured"), flag("running")) {
        (Some(false), ..) => "disabled".into(),
        (_, Some(false), _) => "not configured".into(),
        (_, _, Some(true)) => out.verdict(true, "running"),
        (_, _, Some(false)) => out.verdict(false, "stopped"),
        _ => "unknown".into(),
    };
    let probe = match account.pointer("/probe/ok").and_then(Value::as_bool) {
        Some(true) => out.verdict(true, &format!("ok in {} ms", cell(account, "/probe/elapsedMs"))),
        Some(false) => out.verdict(false, &cell(account, "/probe/error")),
        None => "-".into(),
    };
    vec![
        crate::output::clean(channel),
        cell(account, "/accountId"),
        state,
        probe,
        ago(account, "/lastInboundAt"),
        ago(account, "/lastOutboundAt"),
        cell(account, "/lastError"),
    ]
}
