//! `moltbotctl health`.

use serde_json::{Value, json};

use crate::{
    context::Context,
    output::{Output, ago, cell, clean},
};

/// Asks for the health report.
///
/// # Errors
/// When the gateway does not answer.
pub async fn run(cx: &Context, probe: bool) -> anyhow::Result<()> {
    let params = if probe { json!({ "probe": true }) } else { json!({}) };
    let health = cx.call("health", params).await?;
    if cx.output.json {
        cx.output.value(&health);
    } else {
        show(cx.output, &health);
    }
    Ok(())
}

/// Prints a health report for people.
pub fn show(out: Output, health: &Value) {
    out.line(format!("Gateway: {}", verdict(out, health)));
    let empty = serde_json::Map::new();
    let channels = health.get("channels").and_then(Value::as_object).unwrap_or(&empty);
    for (id, channel) in channels {
        let label = health.pointer(&format!("/channelLabels/{id}")).and_then(Value::as_str);
        out.line(format!("{}: {}", label.unwrap_or(id), channel_line(out, channel)));
    }
    if channels.is_empty() {
        out.line(out.quiet("No channels."));
    }
    for agent in health.get("agents").and_then(Value::as_array).into_iter().flatten() {
        out.line(format!(
            "Agent {}: {} sessions, heartbeat {}",
            cell(agent, "/agentId"),
            cell(agent, "/sessions/count"),
            cell(agent, "/heartbeat/every"),
        ));
    }
    for recent in health.pointer("/sessions/recent").and_then(Value::as_array).into_iter().flatten()
    {
        out.line(format!("- {} ({})", cell(recent, "/key"), ago(recent, "/updatedAt")));
    }
}

/// Returns what is wrong with the gateway, or that nothing is.
pub fn verdict(out: Output, report: &Value) -> String {
    match report.get("degraded").and_then(Value::as_array).map(Vec::as_slice) {
        None | Some([]) => out.verdict(true, "healthy"),
        Some(_) => out.verdict(false, &format!("degraded: {}", cell(report, "/degraded"))),
    }
}

fn channel_line(out: Output, channel: &Value) -> String {
    let flag = |name: &str| channel.get(name).and_then(Value::as_bool);
    if let Some(ok) = channel.pointer("/probe/ok").and_then(Value::as_bool) {
        return if ok {
            let bot = channel.pointer("/probe/bot/username").and_then(Value::as_str);
            let bot = bot.map(|name| format!(" (@{name})")).unwrap_or_default();
            format!("{}{bot} ({} ms)", out.verdict(true, "ok"), cell(channel, "/probe/elapsedMs"))
        } else {
            format!("{} - {}", out.verdict(false, "failed"), cell(channel, "/probe/error"))
        };
    }
    let trouble = channel.get("lastError").and_then(Value::as_str);
    if let Some(why) = trouble.filter(|_| flag("running").is_some()) {
        return out.verdict(false, &clean(why));
    }
    match (flag("configured"), flag("linked"), flag("running")) {
        (Some(false), ..) => "not configured".into(),
        (_, Some(false), _) => out.verdict(false, "not linked"),
        (_, Some(true), _) => out.verdict(true, "linked"),
        (_, _, Some(true)) => out.verdict(true, "running"),
        (Some(true), ..) => "configured".into(),
        _ => "unknown".into(),
    }
}
