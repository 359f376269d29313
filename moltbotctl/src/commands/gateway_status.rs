//! `moltbotctl gateway status`: the service, the process, the answer.
//!
//! The members of the JSON that the reference's command has keep their names
//! and meaning; like there, the exit code does not depend on the answer.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::ExitCode, time::Duration};

use serde_json::{Value, json};

use super::{
    profile::Profile,
    service::{self, Found},
    tailnet,
};
use crate::{
    context::Context,
    host_gateway::Meant,
    output::{cell, clean, duration},
    paths::Paths,
    running::{self, Running},
    service::{Host, Kind, Scope, State, program},
    sockets::{self, Listener},
};

/// How far back an error is looked for in the log.
const LOG_TAIL_BYTES: usize = 64 * 1024;
const VERSION_LIMIT: Duration = Duration::from_secs(5);
/// Units and jobs of the reference, by the beginning of their names.
const REFERENCE: [&str; 5] = [
    "moltbot-gateway",
    "clawdbot-gateway",
    "bot.molt.gateway",
    "com.clawdbot.gateway",
    "com.steipete.clawdbot.gateway",
];

/// What to look at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Connect to the gateway.
    pub probe: bool,
    /// Look at other gateways, ports, locks, versions and permissions too.
    pub deep: bool,
}

/// Prints how the gateway is.
///
/// # Errors
/// When this host cannot be looked at.
pub async fn run(cx: &Context, look: Look) -> anyhow::Result<ExitCode> {
    let host = Host::this(&cx.environment, true)?;
    let found = Found::look(cx, &host).await;
    let state = found.meant(&host);
    let Answer { rpc, server, tailnet, listening } =
        if look.probe { probe(cx).await } else { Answer::default() };
    let port = port(cx, state);
    let mut report = json!({
        "profile": cx.paths.profile_name(),
        "service": state.map_or_else(no_service, State::report),
        "owner": found.owner.as_ref().map(|owner| owner.report()),
        "config": config(cx, state),
        "gateway": {
            "bindMode": cx.config.at("gateway.bind").and_then(Value::as_str).unwrap_or("loopback"),
            "bindHost": "127.0.0.1",
            "customBindHost": cx.config.at("gateway.customBindHost"),
            "port": port.0,
            "portSource": port.1,
            "listening": listening,
            "probeUrl": rpc["url"].as_str().map_or_else(
                || format!("ws://127.0.0.1:{}", port.0), str::to_owned),
        },
        "port": port_report(port.0, found.pid),
        "process": Running::find(&cx.paths).filter(|it| Some(it.pid) == found.pid),
        "pid": found.pid,
        "rpc": rpc,
        "server": server,
        "tailscale": tailnet,
        "legacyServices": of_reference(&host),
        "extraServices": extra(&found, state),
    });
    if report["rpc"]["ok"] == false
        && let Some(error) = last_error(&cx.paths)
    {
        report["lastError"] = error.into();
    }
    if look.deep {
        let scope = state.filter(|it| it.installed).and_then(|it| it.scope);
        let paths = service::places(cx, &host, scope.unwrap_or(Scope::User));
        report["deep"] = deep(cx, &paths, found.pid, state, &report["server"]).await?;
    }
    if cx.output.json {
        cx.output.value(&report);
    } else {
        show(cx, &found, state, &report);
    }
    Ok(ExitCode::SUCCESS)
}

/// What clients of the reference look for is there on every host.
fn no_service() -> Value {
    let unreachable = Some("this host has no service manager".to_owned());
    State { manager: "none", unreachable, ..State::default() }.report()
}

/// What a gateway said.
#[derive(Default)]
struct Answer {
    rpc: Value,
    server: Value,
    tailnet: Value,
    listening: Value,
}

async fn probe(cx: &Context) -> Answer {
    let connected = match cx.connect().await {
        Ok(connected) => connected,
        Err(error) => {
            let rpc = json!({ "ok": false, "error": format!("{error:#}") });
            return Answer { rpc, ..Answer::default() };
        }
    };
    let target = connected.candidate.target.as_ref();
    let mut rpc = json!({
        "ok": true,
        "url": target.map(|target| target.address.to_string()),
        "source": connected.candidate.source.name(),
        "latencyMs": u64::try_from(connected.latency.as_millis()).unwrap_or(u64::MAX),
    });
    // That it lets one in is not all: it must answer too.
    let (mut tailnet, mut listening) = (Value::Null, Value::Null);
    match connected.client.call_raw("status", json!({})).await {
        Ok(status) => {
            tailnet = tailnet::look(&status).await;
            listening = status.pointer("/gateway/listening").cloned().unwrap_or_default();
        }
        Err(error) => {
            rpc["ok"] = false.into();
            rpc["error"] = error.to_string().into();
        }
    }
    let server = connected.client.hello().get("server").cloned().unwrap_or(Value::Null);
    connected.client.close().await;
    Answer { rpc, server, tailnet, listening }
}

/// Returns the configurations of this program and of the service, which a
/// shell's variables can lead apart.
fn config(cx: &Context, state: Option<&State>) -> Value {
    let own = &cx.config;
    let issues: Vec<Value> =
        own.problem.iter().map(|text| json!({ "path": "", "message": text })).collect();
    let mut report = json!({
        "path": own.path, "exists": own.exists,
        "valid": own.problem.is_none(), "problem": own.problem,
        "cli": { "path": own.path, "exists": own.exists, "valid": own.problem.is_none(),
            "issues": issues },
    });
    let service = state.filter(|it| it.installed).and_then(|state| {
        let system = state.manager == "systemd" && state.scope == Some(Scope::System);
        let usual = system.then(|| Paths::of_system_unit(cx.paths.profile.as_deref()).config_file);
        argument(&state.command, "--config").map(Into::into).or(usual)
    });
    if let Some(path) = service {
        report["mismatch"] = (path != own.path).into();
        report["daemon"] = json!({ "path": path, "exists": path.exists() });
    }
    report
}

/// Returns the argument after a flag of a command.
fn argument<'a>(command: &'a [String], flag: &str) -> Option<&'a str> {
    let at = command.iter().position(|word| word == flag)?;
    command.get(at + 1).map(String::as_str)
}

fn port(cx: &Context, state: Option<&State>) -> (u16, &'static str) {
    let given = state.and_then(|state| argument(&state.command, "--port")?.parse().ok());
    if let Some(port) = given {
        return (port, "service args");
    }
    let running = Running::find(&cx.paths).and_then(|running| running.port());
    let named = cx.environment.own("GATEWAY_PORT").and_then(|port| port.parse().ok());
    let configured = cx.config.at("gateway.port").and_then(Value::as_u64);
    let configured = configured.and_then(|port| u16::try_from(port).ok());
    (running.or(named).or(configured).unwrap_or(18789), "env/config")
}

fn port_report(port: u16, own: Option<u32>) -> Value {
    let listeners = sockets::listeners(port);
    let mut hints = Vec::new();
    let strangers = listeners.iter().filter(|it| it.pid.is_some() && it.pid != own);
    for Listener { pid, command, .. } in strangers {
        let pid = pid.unwrap_or_default();
        // systemd holds the port of a socket unit.
        if pid != 1 {
            hints
                .push(format!("port {port} is held by pid {pid} ({command}), not by this gateway"));
        }
    }
    json!({
        "port": port,
        "status": if listeners.is_empty() { "free" } else { "busy" },
        "listeners": listeners.iter().map(Listener::report).collect::<Vec<_>>(),
        "hints": hints,
    })
}

/// Returns units and jobs of the reference, which want the same port.
fn of_reference(host: &Host) -> Vec<Value> {
    let folders = match host.kind {
        Kind::Launchd => {
            vec![host.home.join("Library/LaunchAgents"), host.at("Library/LaunchDaemons")]
        }
        _ => vec![host.config_home.join("systemd/user"), host.at("etc/systemd/system")],
    };
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let known = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let file = name.ends_with(".service") || name.ends_with(".plist");
        file && REFERENCE.iter().any(|start| name.starts_with(start))
    });
    known
        .map(
            |entry| json!({ "label": entry.file_name().to_string_lossy(), "detail": entry.path() }),
        )
        .collect()
}

fn extra(found: &Found, meant: Option<&State>) -> Vec<Value> {
    let meant = meant.and_then(|state| state.scope);
    let others = found.states.iter().filter(|it| it.installed && it.scope != meant);
    others
        .filter(|it| it.running || it.enabled)
        .map(|it| json!({ "label": it.unit, "scope": it.scope.map(Scope::name), "detail": it.active }))
        .collect()
}

/// Returns the last error of the gateway's own log.
fn last_error(paths: &Paths) -> Option<String> {
    let bytes = fs::read(paths.state_dir.join("logs/moltbot.log")).ok()?;
    let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]);
    let entries = tail.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = entries.filter(|entry| entry["_meta"]["logLevelName"] == "ERROR");
    errors.find_map(|entry| Some(clean(entry["1"].as_str()?)))
}

async fn deep(
    cx: &Context,
    paths: &Paths,
    own: Option<u32>,
    state: Option<&State>,
    server: &Value,
) -> anyhow::Result<Value> {
    Ok(json!({
        "gateways": others(cx, own)?,
        "locks": locks(paths),
        "versions": versions(state, server).await,
        "permissions": permissions(paths),
    }))
}

/// Returns the other gateways of this host that wrote down where they are.
fn others(cx: &Context, own: Option<u32>) -> anyhow::Result<Vec<Value>> {
    let mut notes = running::all();
    for profile in Profile::all(cx)? {
        notes.extend(running::note(&profile.paths.state_dir.join("lock")));
    }
    notes.retain(|note| {
        note["pid"].as_u64().is_some() && note["pid"].as_u64() != own.map(u64::from)
    });
    notes.sort_by_key(|note| note["pid"].as_u64());
    notes.dedup_by_key(|note| note["pid"].as_u64());
    Ok(notes)
}

fn locks(paths: &Paths) -> Value {
    let path = paths.state_dir.join("lock");
    let holder = Running::holder(paths);
    json!([{ "path": path, "exists": path.exists(), "held": holder.is_some(), "pid": holder }])
}

async fn versions(state: Option<&State>, server: &Value) -> Value {
    let program = state.and_then(|state| state.command.first()).cloned();
    let installed = match &program {
        Some(program) => {
            let command = [program.clone(), "--version".to_owned()];
            program::run(&command, &[], VERSION_LIMIT)
                .await
                .ok()
                .filter(|outcome| outcome.ok())
                .and_then(|it| it.stdout.split_whitespace().last().map(str::to_owned))
        }
        None => None,
    };
    let running = server["version"].as_str();
    let mut hints = Vec::new();
    if let (Some(installed), Some(running)) = (&installed, running)
        && installed != running
    {
        hints.push(format!(
            "version {running} runs, {installed} is installed: moltbotctl service restart"
        ));
    }
    json!({ "moltbotctl": env!("CARGO_PKG_VERSION"), "running": running, "installed": installed,
        "program": program, "hints": hints })
}

/// Compares owners and modes with what they should be. A unit of the system
/// has a user of its own, whose the state folder is.
fn permissions(paths: &Paths) -> Vec<Value> {
    let user = nix::unistd::geteuid().as_raw();
    let of_state = fs::metadata(&paths.state_dir).map(|found| found.uid());
    let own = if user == 0 { of_state.unwrap_or(user) } else { user };
    let look = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        let (mode, owner) = (found.mode() & 0o7777, found.uid());
        let problem = if owner != own && owner != 0 {
            Some(format!("belongs to user {owner}: chown -R {own} {}", path.display()))
        } else if mode & 0o077 != 0 && owner == own {
            Some(format!("others can get at it: chmod go= {}", path.display()))
        } else {
            None
        };
        Some(json!({ "path": path, "mode": format!("{mode:04o}"), "owner": owner,
            "ok": problem.is_none(), "problem": problem }))
    };
    let all = [
        paths.state_dir.clone(),
        paths.state_dir.join("moltbot.db"),
        paths.generated_token(),
        paths.config_file.clone(),
        paths.control_socket(),
    ];
    all.iter().filter_map(|path| look(path)).collect()
}

fn show(cx: &Context, found: &Found, state: Option<&State>, report: &Value) {
    let out = cx.output;
    let mut pairs = vec![("Profile", cell(report, "/profile"))];
    pairs.extend(service::lines(cx, state));
    pairs.push(("Process", service::gateway_line(found)));
    if let Some(since) = report["process"]["startedAtMs"].as_u64() {
        let up = duration(crate::client::now_ms().saturating_sub(since));
        let version = cell(report, "/process/version");
        pairs.push(("Running", format!("version {version}, up {up}")));
    }
    let problem = report["config"]["problem"]
        .as_str()
        .map_or_else(String::new, |problem| format!(" ({})", out.verdict(false, &clean(problem))));
    let missing = if cx.config.exists { "" } else { " (not there, defaults apply)" };
    let mismatch = report["config"]["mismatch"] == true;
    let path = cell(report, "/config/daemon/path");
    if mismatch && state.is_some_and(|state| state.scope == Some(Scope::System)) {
        // A shell's own configuration is of no concern there.
        pairs.push(("Config", path));
    } else {
        pairs.push(("Config", format!("{}{missing}{problem}", cx.config.path.display())));
        if mismatch {
            let text = format!("the service reads another one: {path}");
            pairs.push(("", out.verdict(false, &text)));
        }
    }
    let source = cell(report, "/gateway/portSource");
    pairs.push((
        "Port",
        format!("{} ({source}), {}", cell(report, "/port/port"), cell(report, "/port/status")),
    ));
    let rpc = &report["rpc"];
    if rpc["ok"] == true {
        let latency = cell(report, "/rpc/latencyMs");
        pairs.push((
            "Gateway",
            format!(
                "{} in {latency} ms at {}",
                out.verdict(true, "answers"),
                cell(report, "/rpc/url")
            ),
        ));
        pairs.push(("Version", cell(report, "/server/version")));
        if report["gateway"]["listening"].is_array() {
            pairs.push(("Listens", cell(report, "/gateway/listening")));
        }
    } else if rpc["ok"] == false {
        let error = cell(report, "/rpc/error");
        pairs.push(("Gateway", format!("{}: {error}", out.verdict(false, "does not answer"))));
    }
    pairs.extend(tailnet::lines(out, &report["tailscale"]));
    if let Some(error) = report["lastError"].as_str() {
        pairs.push(("Last error", error.to_owned()));
    }
    out.pairs(&pairs);
    if report["deep"].is_object() {
        show_deep(cx, &report["deep"]);
    }
    for hint in report["port"]["hints"].as_array().into_iter().flatten() {
        out.remark(clean(hint.as_str().unwrap_or_default()));
    }
    for service in report["legacyServices"].as_array().into_iter().flatten() {
        out.remark(format!("the reference's service is here too: {}", cell(service, "/detail")));
    }
    if rpc["ok"] == false {
        let whose = match &cx.meant {
            Meant::Foreign(system) => format!(
                "this gateway belongs to the user {}: use sudo moltbotctl gateway status",
                system.user
            ),
            _ => format!("start the gateway: {}", cx.how_to_start()),
        };
        let text = &*format!("{whose}; see what was tried: moltbotctl where");
        out.quiet_remark(text);
    }
}

fn show_deep(cx: &Context, deep: &Value) {
    let out = cx.output;
    let list = |key: &str| deep[key].as_array().cloned().unwrap_or_default();
    out.line("");
    out.heading("Other gateways");
    let rows = list("gateways")
        .iter()
        .map(|it| {
            ["/pid", "/profile", "/version", "/address", "/stateDir"]
                .map(|at| cell(it, at))
                .to_vec()
        })
        .collect();
    out.table(&["Pid", "Profile", "Version", "Address", "State folder"], rows, "None known.");
    out.line("");
    out.heading("Locks");
    let rows = list("locks")
        .iter()
        .map(|it| ["/path", "/held", "/pid"].map(|at| cell(it, at)).to_vec())
        .collect();
    out.table(&["Path", "Held", "Pid"], rows, "None.");
    out.line("");
    out.heading("Versions");
    out.pairs(&[
        ("moltbotctl", cell(deep, "/versions/moltbotctl")),
        ("running", cell(deep, "/versions/running")),
        ("installed", cell(deep, "/versions/installed")),
    ]);
    out.line("");
    out.heading("Permissions");
    let rows = list("permissions")
        .iter()
        .map(|it| {
            let verdict = match it["problem"].as_str() {
                Some(problem) => out.verdict(false, &clean(problem)),
                None => out.verdict(true, "ok"),
            };
            vec![cell(it, "/path"), cell(it, "/mode"), verdict]
        })
        .collect();
    out.table(&["Path", "Mode", ""], rows, "Nothing is there yet.");
    for hint in deep["versions"]["hints"].as_array().into_iter().flatten() {
        out.remark(clean(hint.as_str().unwrap_or_default()));
    }
}
