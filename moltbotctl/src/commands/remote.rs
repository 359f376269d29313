//! `moltbotctl remote …`: the gateway on another host that commands go to.

use std::time::Instant;

use anyhow::Context as _;
use clap::Subcommand;
use moltbot_settings::{Path, book::Book, edit::Change};
use serde_json::{Value, json};

use crate::{
    address::Address,
    client::Client,
    config::LocalConfig,
    context::{Context, helped},
    error::Error,
    output::{cell, clean},
    target::{Candidate, Source},
};

/// What belongs to one remote gateway and to no other.
const CREDENTIALS: [&str; 4] = ["token", "tokenFile", "password", "tlsFingerprint"];

/// The gateway on another host.
#[derive(Debug, Subcommand)]
pub enum RemoteCommand {
    /// Write --ssh or --url, with --port, --token-file, --token, --password or --tls-fingerprint, into
    /// the configuration
    Set,
    /// Show the remote gateway of the configuration
    Show,
    /// Connect to it and say what happened
    Test,
    /// Forget it; commands go to the gateway of this host again
    Clear,
}

/// Runs one of the commands.
///
/// # Errors
/// When the configuration cannot be changed, or the gateway is not reached.
pub async fn run(cx: &Context, command: RemoteCommand) -> anyhow::Result<()> {
    let cx = &cx.at_own_files();
    match command {
        RemoteCommand::Set => set(cx),
        RemoteCommand::Show => show(cx),
        RemoteCommand::Test => test(cx).await,
        RemoteCommand::Clear => clear(cx),
    }
}

fn set(cx: &Context) -> anyhow::Result<()> {
    let mut changes = address(cx)?;
    let moved = !changes.is_empty();
    let mut given = Vec::new();
    if let Some(token) = &cx.flags.token {
        match &cx.flags.token_file {
            Some(file) => {
                let file = std::path::absolute(file).context("--token-file")?;
                given.push(("tokenFile", json!(file)));
            }
            None => given.push(("token", json!(token.reveal()))),
        }
    }
    if let Some(password) = &cx.flags.password {
        given.push(("password", json!(password.reveal())));
    }
    if let Some(pins) = &cx.flags.pins {
        // As the file has several of them.
        given.push(("tlsFingerprint", json!(pins.to_string().replace(" or ", ","))));
    }
    if !moved && given.is_empty() {
        return Err(helped(
            "nothing to set",
            "name the gateway: moltbotctl remote set --ssh user@host --token-file FILE",
        ));
    }
    // One token: the other way to give it would win or lose silently.
    let token_given = cx.flags.token.is_some();
    let replaced = |key: &str| moved || (token_given && key.starts_with("token"));
    let stale = CREDENTIALS.into_iter().filter(|key| replaced(key));
    let stale = stale.filter(|key| given.iter().all(|(name, _)| name != key));
    // The secrets of the gateway before must not be shown to this one.
    changes.extend(stale.map(unset));
    for (key, value) in given {
        changes.push(set_to(key, value));
    }
    changes.push(Change::Set(path("gateway.mode"), json!("remote")));
    write(cx, &changes, "moltbotctl remote set")?;
    show(&again(cx))?;
    if !cx.output.json {
        cx.output.quiet_remark("try it: moltbotctl remote test");
    }
    Ok(())
}

/// Returns the changes that lead to another address; none when none was given.
fn address(cx: &Context) -> anyhow::Result<Vec<Change>> {
    let candidates = cx.candidates()?;
    let named = |source| candidates.iter().find(|it: &&Candidate| it.source == source);
    let target = |source| named(source).and_then(|it| it.target.as_ref());
    let (ssh, url) = (target(Source::Ssh), target(Source::Flag));
    if ssh.is_some() && url.is_some() {
        return Err(helped("--ssh and --url name two gateways", "give one of them"));
    }
    match ssh.or(url).map(|target| &target.address) {
        None => Ok(Vec::new()),
        Some(Address::Unix(_)) => Err(helped(
            "a socket is no remote gateway",
            "moltbotctl on this host finds the gateway by itself: moltbotctl remote clear",
        )),
        Some(address @ Address::Web(web)) => {
            if !web.tls && !web.is_loopback() && !cx.insecure {
                return Err(Error::Plaintext(address.to_string()).into());
            }
            Ok(vec![
                set_to("url", json!(address.to_string())),
                set_to("transport", json!("direct")),
                unset("sshTarget"),
                unset("sshIdentity"),
            ])
        }
        Some(Address::Ssh(ssh)) => {
            let mut changes = vec![
                set_to("transport", json!("ssh")),
                set_to("sshTarget", json!(ssh.login.destination.to_string())),
                // What the far host itself would connect to.
                set_to("url", json!(ssh.gateway.key())),
            ];
            changes.push(match &cx.flags.ssh_identity {
                Some(file) => set_to("sshIdentity", json!(std::path::absolute(file)?)),
                None => unset("sshIdentity"),
            });
            Ok(changes)
        }
    }
}

fn clear(cx: &Context) -> anyhow::Result<()> {
    let mut changes = vec![Change::Unset(path("gateway.remote"))];
    if cx.config.text("gateway.mode")?.as_deref() == Some("remote") {
        changes.push(Change::Unset(path("gateway.mode")));
    }
    let changed = write(cx, &changes, "moltbotctl remote clear")?;
    if cx.output.json {
        cx.output.value(&json!({ "ok": true, "changed": changed }));
    } else if changed {
        cx.output.line("Commands go to the gateway of this host again.");
    } else {
        cx.output.line("There was no remote gateway.");
    }
    Ok(())
}

fn show(cx: &Context) -> anyhow::Result<()> {
    let report = report(cx)?;
    if cx.output.json {
        cx.output.value(&report);
        return Ok(());
    }
    if report["remote"]["url"].is_null() {
        cx.output.line("No remote gateway is set; commands go to the gateway of this host.");
        return Ok(());
    }
    let secret = |key: &str| match report["remote"][key]["sha256"].as_str() {
        Some(digits) => {
            format!("{digits} from {}", cell(&report, &format!("/remote/{key}/source")))
        }
        None => "none".into(),
    };
    cx.output.pairs(&[
        ("Gateway", cell(&report, "/remote/url")),
        ("Used", cell(&report, "/active")),
        ("Key file", cell(&report, "/remote/sshIdentity")),
        ("Token", secret("token")),
        ("Password", secret("password")),
        ("Pin", cell(&report, "/remote/tlsFingerprint")),
        ("File", clean(&cx.config.path.display().to_string())),
    ]);
    if let Some(note) = report["note"].as_str() {
        cx.output.line(format!("Note: {note}."));
    }
    Ok(())
}

fn report(cx: &Context) -> anyhow::Result<Value> {
    let candidates = cx.candidates()?;
    let remote = candidate(&candidates)?;
    let winner = candidates.iter().find(|it| it.available).map(|it| it.source);
    let active = winner == Some(Source::ConfigRemote);
    let note = match winner {
        Some(other) if remote.available && !active => {
            Some(format!("{} comes first: see moltbotctl where", other.name()))
        }
        _ if remote.target.is_some() && !remote.available => Some(remote.reason.clone()),
        _ => None,
    };
    Ok(json!({ "ok": true, "active": active, "remote": remote.report(active), "note": note,
        "config": cx.config.path }))
}

fn candidate(candidates: &[Candidate]) -> anyhow::Result<&Candidate> {
    let found = candidates.iter().find(|it| it.source == Source::ConfigRemote);
    found.context("the resolver knows the remote gateway")
}

async fn test(cx: &Context) -> anyhow::Result<()> {
    let candidates = cx.candidates()?;
    let remote = candidate(&candidates)?;
    let Some(target) = &remote.target else {
        return Err(helped(
            format!("no remote gateway can be tested: {}", remote.reason),
            "set one: moltbotctl remote set --ssh user@host --token-file FILE",
        ));
    };
    let started = Instant::now();
    let client = Client::connect(target, &cx.options(target)).await?;
    let connected = started.elapsed();
    let health = client.call_raw("health", json!({})).await;
    let hello = client.hello().clone();
    client.close().await;
    let health = health?;
    let millis = u64::try_from(connected.as_millis()).unwrap_or(u64::MAX);
    let report = json!({
        "ok": true,
        "url": target.address.to_string(),
        "active": remote.available,
        "connectLatencyMs": millis,
        "version": hello["server"]["version"],
        "host": hello["server"]["host"],
        "healthy": health["ok"],
    });
    if cx.output.json {
        cx.output.value(&report);
    } else {
        cx.output.line(format!(
            "{} in {millis} ms: {}, version {}.",
            cx.output.verdict(true, "connected"),
            cell(&report, "/url"),
            cell(&report, "/version"),
        ));
    }
    Ok(())
}

fn set_to(key: &str, value: Value) -> Change {
    Change::Set(path(&format!("gateway.remote.{key}")), value)
}

fn unset(key: &str) -> Change {
    Change::Unset(path(&format!("gateway.remote.{key}")))
}

fn path(text: &str) -> Path {
    let Ok(path) = text.parse();
    path
}

/// Returns whether anything changed.
fn write(cx: &Context, changes: &[Change], by: &str) -> anyhow::Result<bool> {
    if let Some(problem) = &cx.config.problem {
        return Err(helped(
            format!("the configuration file cannot be changed: {problem}"),
            "fix it and run: moltbotctl config check",
        ));
    }
    let mut draft = Book::of(&cx.paths.config_file).change()?;
    draft.apply(changes)?;
    Ok(draft.install(by)?.is_some())
}

/// Looks at the file as the next command will, without the flags of this one.
fn again(cx: &Context) -> Context {
    let config = LocalConfig::read(&cx.paths.config_file, &cx.environment);
    Context { config, flags: crate::target::Flags::default(), ..cx.clone() }
}
