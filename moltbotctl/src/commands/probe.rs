//! `moltbotctl gateway probe`: every place a gateway might be, all at once.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use moltbot_protocol::{Scope, Scopes};
use serde_json::{Value, json};

use super::status::is_gateway;
use crate::{
    client::{Client, Options, now_ms},
    context::Context,
    error::Error,
    output::{cell, clean},
    target::{Candidate, Target},
};

/// A probe is a quick look.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// Tries every candidate; the exit code tells whether any answered.
///
/// # Errors
/// When a candidate is named but cannot be used.
pub async fn run(cx: &Context) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let timeout = cx.timeout_given.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
    let mut candidates: Vec<Candidate> = Vec::new();
    for candidate in cx.candidates()? {
        let url = |candidate: &Candidate| candidate.target.as_ref().map(|t| t.address.key());
        let new = candidates.iter().all(|known| url(known) != url(&candidate));
        if candidate.target.is_some() && new {
            candidates.push(candidate);
        }
    }
    let targets = join_all(candidates.iter().map(|it| probe(cx, it, timeout))).await;
    let answered = |target: &&Value| target["connect"]["ok"] == true;
    let primary = targets.iter().find(answered).map(|target| target["id"].clone());
    let reachable: Vec<_> = targets.iter().filter(answered).map(|it| it["id"].clone()).collect();
    let report = json!({
        "ok": primary.is_some(),
        "ts": now_ms(),
        "durationMs": millis(started.elapsed()),
        "timeoutMs": millis(timeout),
        "primaryTargetId": primary,
        "warnings": warnings(&targets, &reachable),
        "targets": targets,
    });
    if cx.output.json {
        cx.output.value(&report);
    } else {
        show(cx, &report);
    }
    Ok(if report["ok"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The control socket and the loopback port usually are one gateway.
fn warnings(targets: &[Value], reachable: &[Value]) -> Vec<Value> {
    let mut hosts: Vec<&Value> = targets
        .iter()
        .filter(|target| target["connect"]["ok"] == true)
        .map(|target| &target["self"])
        .collect();
    hosts.dedup();
    if hosts.len() < 2 {
        return Vec::new();
    }
    vec![json!({
        "code": "multiple_gateways",
        "message": "more than one gateway answers; a command talks to the first",
        "targetIds": reachable,
    })]
}

async fn probe(cx: &Context, candidate: &Candidate, timeout: Duration) -> Value {
    let mut report = json!({
        "id": candidate.source.name(),
        "kind": candidate.source.name(),
        "url": candidate.target.as_ref().map(|target| target.address.to_string()),
        "active": candidate.available,
        "connect": { "ok": false, "latencyMs": null, "error": null, "close": null },
        "self": null, "config": null, "health": null, "summary": null, "presence": null,
    });
    let Some(target) = &candidate.target else { return report };
    let started = Instant::now();
    match tokio::time::timeout(timeout, look(cx, target, timeout, &mut report)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => note(&mut report, &error),
        Err(_) => note(&mut report, &Error::Timeout(timeout)),
    }
    report["durationMs"] = millis(started.elapsed()).into();
    report
}

async fn look(
    cx: &Context,
    target: &Target,
    timeout: Duration,
    report: &mut Value,
) -> Result<(), Error> {
    let options = Options {
        mode: "probe",
        scopes: Scopes::of(&[Scope::Admin]),
        timeout,
        ..cx.options(target)
    };
    let started = Instant::now();
    let client = Client::connect(target, &options).await?;
    report["connect"]["ok"] = true.into();
    report["connect"]["latencyMs"] = millis(started.elapsed()).into();
    let (health, summary, presence, config) = tokio::join!(
        client.call_raw("health", json!({})),
        client.call_raw("status", json!({})),
        client.call_raw("system-presence", json!({})),
        client.call_raw("config.get", json!({})),
    );
    report["methods"] = client.hello().pointer("/features/methods").cloned().unwrap_or_default();
    client.close().await;
    for (key, result) in [("health", health), ("summary", summary), ("presence", presence)] {
        match result {
            Ok(value) => report[key] = value,
            Err(error) => report["connect"]["error"] = error.to_string().into(),
        }
    }
    let own = report["presence"].as_array().into_iter().flatten().find(|it| is_gateway(it));
    report["self"] = own.map_or(Value::Null, identity);
    report["config"] = config.as_ref().map_or(Value::Null, safe_config);
    Ok(())
}

fn note(report: &mut Value, error: &Error) {
    report["connect"]["error"] = error.to_string().into();
    if let Error::Closed(closed) = error {
        report["connect"]["close"] =
            json!({ "code": closed.code, "reason": closed.reason, "hint": closed.hint() });
    }
}

fn identity(entry: &Value) -> Value {
    json!({ "host": entry["host"], "ip": entry["ip"], "version": entry["version"],
        "platform": entry["platform"] })
}

/// The reference sends the whole configuration, secrets included; only what
/// identifies it is passed on.
fn safe_config(config: &Value) -> Value {
    let gateway = &config["config"]["gateway"];
    json!({
        "path": config["path"], "exists": config["exists"], "valid": config["valid"],
        "issues": config["issues"],
        "gateway": { "mode": gateway["mode"], "bind": gateway["bind"], "port": gateway["port"],
            "authMode": gateway["auth"]["mode"] },
    })
}

fn show(cx: &Context, report: &Value) {
    let out = cx.output;
    let rows = report["targets"].as_array().into_iter().flatten().map(|target| {
        let ok = target["connect"]["ok"] == true;
        let result = if ok {
            out.verdict(true, &format!("ok in {} ms", cell(target, "/connect/latencyMs")))
        } else {
            out.verdict(false, &cell(target, "/connect/error"))
        };
        let version = cell(target, "/self/version");
        vec![cell(target, "/id"), cell(target, "/url"), cell(target, "/active"), version, result]
    });
    out.table(&["Target", "URL", "Active", "Version", "Result"], rows.collect(), "Nothing to try.");
    for warning in report["warnings"].as_array().into_iter().flatten() {
        out.remark(clean(warning["message"].as_str().unwrap_or_default()));
    }
    if report["ok"] != true {
        out.remark(out.quiet("no gateway answers; start one with moltbotd"));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
