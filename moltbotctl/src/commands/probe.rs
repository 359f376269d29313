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
    address::Address,
    client::{Client, Options, now_ms},
    context::{Context, helped},
    error::Error,
    output::{cell, clean},
    target::{Candidate, Secret, Source, Target},
};

/// A probe is a quick look.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// Logging in to a far host takes several trips to it and back.
const SSH_TIMEOUT: Duration = Duration::from_secs(8);

/// Tries every candidate; the exit code tells whether any answered. With
/// `ssh_auto` the host of the remote gateway is tried by ssh too, whatever way
/// the configuration prefers; a host that nobody named never is.
///
/// # Errors
/// When a candidate is named but cannot be used.
pub async fn run(cx: &Context, ssh_auto: bool) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut candidates: Vec<Candidate> = Vec::new();
    for candidate in places(cx, ssh_auto)? {
        let url = |candidate: &Candidate| candidate.target.as_ref().map(|t| t.address.key());
        let new = candidates.iter().all(|known| url(known) != url(&candidate));
        if candidate.target.is_some() && new {
            candidates.push(candidate);
        }
    }
    let targets = join_all(candidates.iter().map(|it| probe(cx, it))).await;
    let answered = |target: &&Value| target["connect"]["ok"] == true;
    let primary = targets.iter().find(answered).map(|target| target["id"].clone());
    let reachable: Vec<_> = targets.iter().filter(answered).map(|it| it["id"].clone()).collect();
    let report = json!({
        "ok": primary.is_some(),
        "ts": now_ms(),
        "durationMs": millis(started.elapsed()),
        "timeoutMs": cx.timeout_given.unwrap_or(millis(DEFAULT_TIMEOUT)),
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

fn places(cx: &Context, ssh_auto: bool) -> anyhow::Result<Vec<Candidate>> {
    let mut places = cx.candidates()?;
    if ssh_auto && cx.flags.ssh.is_none() {
        let Some(target) = cx.surroundings().remote_by_ssh()? else {
            return Err(helped(
                "--ssh-auto tries the host of the remote gateway, and none is set",
                "name a host: --ssh user@host, or: moltbotctl remote set --ssh user@host",
            ));
        };
        places.retain(|place| place.source != Source::Ssh);
        let reason = "--ssh-auto is given".into();
        let (source, available) = (Source::Ssh, false);
        places.push(Candidate { source, target: Some(target), available, reason, withheld: None });
    }
    Ok(places)
}

/// The control socket and the loopback port usually are one gateway, and so may
/// be what ssh and a tunnel lead to: a host's state folder has one gateway.
fn warnings(targets: &[Value], reachable: &[Value]) -> Vec<Value> {
    let mut warnings = Vec::new();
    let by_ssh = |target: &&Value| target["url"].as_str().is_some_and(|it| it.starts_with("ssh"));
    for target in targets.iter().filter(by_ssh) {
        if target["connect"]["ok"] != true {
            warnings.push(json!({
                "code": "ssh_tunnel_failed",
                "message": target["connect"]["error"],
                "targetIds": [target["id"]],
            }));
        }
    }
    let mut gateways: Vec<(&Value, &Value)> = Vec::new();
    for target in targets.iter().filter(|target| target["connect"]["ok"] == true) {
        let gateway = (&target["host"], &target["stateDir"]);
        if !gateways.contains(&gateway) {
            gateways.push(gateway);
        }
    }
    if gateways.len() > 1 {
        warnings.push(json!({
            "code": "multiple_gateways",
            "message": format!(
                "{} gateways answer; commands go to the one that moltbotctl where shows",
                gateways.len()
            ),
            "targetIds": reachable,
        }));
    }
    warnings
}

fn timeout(cx: &Context, candidate: &Candidate) -> Duration {
    let by_ssh = candidate.target.as_ref().is_some_and(|it| matches!(it.address, Address::Ssh(_)));
    let usual = if by_ssh { SSH_TIMEOUT } else { DEFAULT_TIMEOUT };
    cx.timeout_given.map_or(usual, Duration::from_millis)
}

async fn probe(cx: &Context, candidate: &Candidate) -> Value {
    let timeout = timeout(cx, candidate);
    let mut report = json!({
        "id": candidate.source.name(),
        "kind": candidate.source.name(),
        "url": candidate.target.as_ref().map(|target| target.address.to_string()),
        "active": candidate.available,
        "connect": { "ok": false, "latencyMs": null, "error": null, "close": null },
        "host": null, "profile": null, "version": null, "stateDir": null, "auth": null,
        "self": null, "config": null, "health": null, "summary": null, "presence": null,
    });
    let Some(target) = &candidate.target else { return report };
    let started = Instant::now();
    // Connecting has its own words about a time-out; what follows it has not.
    match tokio::time::timeout(timeout * 2, look(cx, target, timeout, &mut report)).await {
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
    introduce(target, client.hello(), report);
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

/// Copies who answered, and to which of our credentials.
fn introduce(target: &Target, hello: &Value, report: &mut Value) {
    report["host"] = hello["server"]["host"].clone();
    report["version"] = hello["server"]["version"].clone();
    let state_dir = hello["snapshot"]["stateDir"].clone();
    report["profile"] = state_dir.as_str().and_then(profile).into();
    report["stateDir"] = state_dir;
    let (token, password) = (&target.credentials.token, &target.credentials.password);
    let with = match (&target.address, token, password) {
        (Address::Unix(_), ..) => "socket",
        (_, Some(_), _) => "token",
        (_, None, Some(_)) => "password",
        _ => "device",
    };
    let sha256 = token.as_ref().or(password.as_ref()).map(Secret::fingerprint);
    report["auth"] = json!({ "ok": true, "with": with, "sha256": sha256 });
}

/// A profile is part of the name of its state folder, unless somebody chose
/// another folder.
fn profile(state_dir: &str) -> Option<String> {
    let name = state_dir.rsplit('/').find(|name| !name.is_empty())?.trim_start_matches('.');
    let rest = ["moltbot", "clawdbot"].iter().find_map(|it| name.strip_prefix(it))?;
    match rest {
        "" => Some("default".into()),
        rest => rest.strip_prefix('-').map(ToOwned::to_owned),
    }
}

fn note(report: &mut Value, error: &Error) {
    report["connect"]["error"] = error.to_string().into();
    report["connect"]["advice"] = error.advice().into();
    if error.is_unauthorized() || error.pairing_request().is_some() {
        report["auth"] = json!({ "ok": false, "requestId": error.pairing_request() });
    }
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
            out.verdict(true, &accepted(target))
        } else {
            let error = cell(target, "/connect/error");
            out.verdict(false, error.lines().next().unwrap_or_default())
        };
        let latency = target["connect"]["latencyMs"].as_u64();
        vec![
            cell(target, "/id"),
            cell(target, "/url"),
            cell(target, "/active"),
            cell(target, "/host"),
            cell(target, "/profile"),
            cell(target, "/version"),
            latency.map_or_else(|| "-".into(), |ms| format!("{ms} ms")),
            result,
        ]
    });
    let headers = ["Target", "URL", "Active", "Host", "Profile", "Version", "Latency", "Result"];
    out.table(&headers, rows.collect(), "Nothing to try.");
    for warning in report["warnings"].as_array().into_iter().flatten() {
        out.remark(clean(warning["message"].as_str().unwrap_or_default()));
    }
    if report["ok"] != true {
        out.quiet_remark("no gateway answers; start one with moltbotd");
    }
}

fn accepted(target: &Value) -> String {
    let with = cell(target, "/auth/with");
    match target["auth"]["sha256"].as_str() {
        Some(digits) => format!("ok with {with} {digits}"),
        None => format!("ok with {with}"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_from_the_usual_names_of_folders() {
        for (folder, name) in [
            ("/home/me/.local/state/moltbot", Some("default")),
            ("/var/lib/moltbot-work/", Some("work")),
            ("/home/me/.clawdbot-lab", Some("lab")),
            ("/srv/elsewhere", None),
            ("/srv/moltbots", None),
        ] {
            assert_eq!(profile(folder).as_deref(), name, "{folder}");
        }
    }

    #[test]
    fn one_gateway_by_two_ways_is_one_and_two_are_flagged() {
        let target = |id: &str, host: &str, folder: &str| json!({ "id": id, "host": host, "stateDir": folder, "connect": { "ok": true } });
        let one = [target("a", "h", "/s"), target("b", "h", "/s")];
        assert_eq!(warnings(&one, &[]), Vec::<Value>::new());
        let two = [target("a", "h", "/s"), target("b", "h", "/t"), target("c", "h", "/s")];
        assert_eq!(warnings(&two, &[])[0]["code"], "multiple_gateways");
    }
}
