//! `moltbotctl status`: one connection, everything worth knowing.

use serde_json::{Map, Value, json};

use super::{channels, devices, health, nodes, sessions, tailnet, where_};
use crate::{
    client::Client,
    context::{Connected, Context},
    output::{Output, ago, cell, clean, duration},
};

/// Shows the gateway and what it does.
///
/// # Errors
/// When the gateway does not answer.
pub async fn run(cx: &Context, deep: bool, all: bool) -> anyhow::Result<()> {
    let connected = cx.connect().await?;
    let client = &connected.client;
    let (status, presence) = tokio::join!(
        client.call_raw("status", json!({})),
        client.call_raw("system-presence", json!({}))
    );
    let (status, presence) = (status?, presence?);
    let mut report = status.as_object().cloned().unwrap_or_default();
    report.insert("gateway".into(), gateway(&connected, &status, &presence));
    if deep {
        report.insert("tailscale".into(), tailnet::look(&status).await);
        report.insert("presence".into(), presence);
        look_deeper(client, &mut report).await?;
    }
    if all {
        report.insert("devices".into(), optional(client, "device.pair.list", json!({})).await);
        report.insert("sessionList".into(), optional(client, "sessions.list", json!({})).await);
        report.insert("where".into(), where_::report(cx)?);
    }
    connected.client.close().await;
    let report = Value::Object(report);
    if cx.output.json {
        cx.output.value(&report);
    } else {
        show(cx.output, &report);
    }
    Ok(())
}

/// Health must answer; what an older gateway lacks is left out.
async fn look_deeper(client: &Client, report: &mut Map<String, Value>) -> anyhow::Result<()> {
    let (health, channels, nodes) = tokio::join!(
        client.call_raw("health", json!({ "probe": true })),
        optional(client, "channels.status", json!({ "probe": false, "timeoutMs": 8000 })),
        optional(client, "node.list", json!({})),
    );
    report.insert("health".into(), health?);
    report.insert("channelStatus".into(), channels);
    report.insert("nodes".into(), nodes);
    Ok(())
}

async fn optional(client: &Client, method: &str, params: Value) -> Value {
    match client.call_raw(method, params).await {
        Ok(value) => value,
        Err(error) => json!({ "error": error.to_string() }),
    }
}

fn gateway(connected: &Connected, status: &Value, presence: &Value) -> Value {
    let hello = connected.client.hello();
    let own = presence.as_array().into_iter().flatten().find(|entry| is_gateway(entry));
    let target = connected.candidate.target.as_ref();
    json!({
        "url": target.map(|target| target.address.to_string()),
        "urlSource": connected.candidate.source.name(),
        "reachable": true,
        "connectLatencyMs": u64::try_from(connected.latency.as_millis()).unwrap_or(u64::MAX),
        "version": hello.pointer("/server/version"),
        "host": hello.pointer("/server/host"),
        "uptimeMs": hello.pointer("/snapshot/uptimeMs"),
        "listening": status.pointer("/gateway/listening"),
        "self": own,
    })
}

/// Returns whether a presence entry is the gateway's own.
#[must_use]
pub fn is_gateway(entry: &Value) -> bool {
    let is = |key: &str, value: &str| entry.get(key).and_then(Value::as_str) == Some(value);
    is("mode", "gateway") && is("reason", "self")
}

fn show(out: Output, report: &Value) {
    let uptime = report.pointer("/gateway/uptimeMs").and_then(Value::as_u64);
    let sessions = report.pointer("/sessions").unwrap_or(&Value::Null);
    let latest = match sessions.pointer("/recent/0") {
        Some(recent) => {
            format!(", latest {} {}", cell(recent, "/key"), ago(recent, "/updatedAt"))
        }
        None => String::new(),
    };
    out.pairs(&[
        (
            "Gateway",
            format!(
                "{} ({}), {} in {} ms",
                cell(report, "/gateway/url"),
                cell(report, "/gateway/urlSource"),
                out.verdict(true, "reachable"),
                cell(report, "/gateway/connectLatencyMs")
            ),
        ),
        (
            "Version",
            format!(
                "{} on {}, up {}",
                cell(report, "/gateway/version"),
                cell(report, "/gateway/host"),
                uptime.map_or("-".into(), duration)
            ),
        ),
        ("State", health::verdict(out, report)),
        ("Listens", cell(report, "/gateway/listening")),
        ("Model", cell(sessions, "/defaults/model")),
        ("Sessions", format!("{}{latest}", cell(sessions, "/count"))),
        ("Heartbeat", cell(report, "/heartbeat/agents/0/every")),
    ]);
    for line in report.get("channelSummary").and_then(Value::as_array).into_iter().flatten() {
        out.line(strip_colours(line.as_str().unwrap_or_default()));
    }
    sections(out, report);
}

fn sections(out: Output, report: &Value) {
    let section = |key: &str, title: &str, show: &dyn Fn(&Value)| {
        let Some(value) = report.get(key).filter(|value| !value.is_null()) else { return };
        out.line("");
        out.heading(title);
        match value.get("error").and_then(Value::as_str) {
            Some(error) => out.line(out.verdict(false, &clean(error))),
            None => show(value),
        }
    };
    section("tailscale", "Tailnet", &|value| out.pairs(&tailnet::lines(out, value)));
    section("health", "Health", &|value| health::show(out, value));
    section("channelStatus", "Channels", &|value| channels::show(out, value));
    section("nodes", "Nodes", &|value| nodes::show(out, value));
    section("presence", "Connected", &|value| presence(out, value));
    section("devices", "Devices", &|value| devices::show(out, value));
    section("sessionList", "Sessions", &|value| sessions::show(out, value));
    section("where", "How it was found", &|value| where_::show(out, value));
}

fn presence(out: Output, entries: &Value) {
    let rows = entries.as_array().into_iter().flatten().map(|entry| {
        vec![
            cell(entry, "/host"),
            cell(entry, "/mode"),
            cell(entry, "/platform"),
            cell(entry, "/version"),
            cell(entry, "/reason"),
            ago(entry, "/ts"),
        ]
    });
    let headers = ["Host", "Mode", "Platform", "Version", "Reason", "Seen"];
    out.table(&headers, rows.collect(), "Nobody.");
}

/// The reference puts colours into its summary lines.
fn strip_colours(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    clean(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_of_the_gateway_are_removed() {
        assert_eq!(strip_colours("\u{1b}[31mred\u{1b}[0m text"), "red text");
        assert_eq!(strip_colours("cut \u{1b}[3"), "cut ");
    }
}
