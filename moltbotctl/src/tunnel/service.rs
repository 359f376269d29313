//! A tunnel from login on: a user unit of systemd or a launchd agent that runs
//! `moltbotctl tunnel run`. No secret is in it.

use std::{
    ffi::OsString,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::json;

use super::note::{self, Note, State};
use crate::{
    context::{Context, ended, helped},
    output::clean,
    service::{Host, Kind},
};

/// The first line of what we wrote, and of nothing else.
const MARK: &str = "Written by moltbotctl tunnel install";
/// How long the service manager may take beside the tunnel itself.
const START_WAIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(200);

/// Writes, enables and starts the service of a tunnel, and waits until it is up.
///
/// # Errors
/// When this host has no service manager, it refuses, or the tunnel does not
/// come up; its service stays then.
pub async fn install(
    cx: &Context,
    port: u16,
    arguments: &[OsString],
    dry_run: bool,
) -> anyhow::Result<()> {
    let host = Host::this(&cx.environment, dry_run)?;
    let mut words = vec![host.control.display().to_string()];
    words.extend(arguments.iter().map(|word| word.to_string_lossy().into_owned()));
    let (path, name) = place(cx, &host, port)?;
    if fs::read_to_string(&path).is_ok_and(|text| !text.contains(MARK)) {
        return Err(helped(
            format!("{} was written by somebody else", path.display()),
            "move it away and try again",
        ));
    }
    // One that runs keeps its old words until it is gone. Perhaps there is none.
    let _ = host.change(stop(&host, &name)).await;
    if !dry_run && note::find(&cx.paths, port)?.is_some() {
        return Err(helped(
            format!("a tunnel on port {port} runs already, and not as a service"),
            format!("end it first: moltbotctl tunnel down --local-port {port}"),
        ));
    }
    match host.kind {
        Kind::Launchd => {
            host.write(&path, &agent(&name, &words, &host))?;
            let file = path.display().to_string();
            let domain = format!("gui/{}", host.uid);
            host.must(launchctl(&host, &["bootstrap", &domain, &file])).await?;
        }
        _ => {
            host.write(&path, &unit(&words))?;
            host.must(systemctl(&host, &["daemon-reload"])).await?;
            host.must(systemctl(&host, &["enable", "--now", &name])).await?;
        }
    }
    let up = if dry_run { None } else { wait_until_up(cx, &host, &name, port).await? };
    tell(cx, &host, "installed", &path)?;
    match up {
        Some(note) if !cx.output.json => cx.output.line(clean(&note.line())),
        Some(_) => {}
        None if dry_run => {}
        None => return Err(not_up(&host, &name)),
    }
    Ok(())
}

/// Waits for the first word of the tunnel; `None` when it ended or says none.
async fn wait_until_up(
    cx: &Context,
    host: &Host,
    name: &str,
    port: u16,
) -> anyhow::Result<Option<Note>> {
    let deadline = Instant::now() + cx.timeout() + START_WAIT;
    while Instant::now() < deadline {
        let note = note::find(&cx.paths, port)?;
        if let Some(note) = note
            && matches!(note.state, State::Up | State::Degraded)
        {
            return Ok(Some(note));
        }
        let failed = host.kind == Kind::Systemd
            && host.ask(&systemctl(host, &["is-failed", "--quiet", name])).await?.ok();
        if failed {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(None)
}

fn not_up(host: &Host, name: &str) -> anyhow::Error {
    let see = match host.kind {
        Kind::Launchd => format!("cat {}", log(host, name).display()),
        _ => format!("journalctl --user -u {name} -n 5 -o cat"),
    };
    ended(
        8,
        "the tunnel is installed, but not up; the service may lack your ssh agent, which only your \
         session has",
        format!("see why: {see}; then: moltbotctl tunnel status"),
    )
}

/// Stops the service of a tunnel and removes what [`install`] wrote.
///
/// # Errors
/// When there is none, or the service manager refuses.
pub async fn uninstall(cx: &Context, port: u16, dry_run: bool) -> anyhow::Result<()> {
    let host = Host::this(&cx.environment, dry_run)?;
    let (path, name) = place(cx, &host, port)?;
    if !fs::read_to_string(&path).is_ok_and(|text| text.contains(MARK)) {
        return Err(helped(
            format!("no tunnel on port {port} is installed"),
            "see which run: moltbotctl tunnel status",
        ));
    }
    match host.kind {
        Kind::Launchd => {
            // It may not be loaded at all.
            let _ = host.change(stop(&host, &name)).await;
            host.remove(&path)?;
        }
        _ => {
            host.must(systemctl(&host, &["disable", "--now", &name])).await?;
            host.remove(&path)?;
            host.must(systemctl(&host, &["daemon-reload"])).await?;
            // One that failed is remembered otherwise. Most did not.
            let _ = host.change(systemctl(&host, &["reset-failed", &name])).await;
        }
    }
    tell(cx, &host, "uninstalled", &path)
}

fn stop(host: &Host, name: &str) -> Vec<String> {
    match host.kind {
        Kind::Launchd => launchctl(host, &["bootout", &format!("gui/{}/{name}", host.uid)]),
        _ => systemctl(host, &["stop", name]),
    }
}

fn systemctl(host: &Host, words: &[&str]) -> Vec<String> {
    let program = host.systemctl.display().to_string();
    [&*program, "--user"].iter().chain(words).map(ToString::to_string).collect()
}

fn launchctl(host: &Host, words: &[&str]) -> Vec<String> {
    let program = host.launchctl.display().to_string();
    [&*program].iter().chain(words).map(ToString::to_string).collect()
}

/// Returns where launchd writes what a tunnel says.
fn log(host: &Host, name: &str) -> PathBuf {
    host.home.join("Library/Logs").join(format!("{name}.log"))
}

/// Returns the file and the name of a tunnel's service.
fn place(cx: &Context, host: &Host, port: u16) -> anyhow::Result<(PathBuf, String)> {
    let profile = cx.paths.profile.as_ref().map(|name| format!("-{name}")).unwrap_or_default();
    match host.kind {
        Kind::Systemd => {
            let name = format!("moltbot-tunnel{profile}-{port}.service");
            Ok((host.config_home.join("systemd/user").join(&name), name))
        }
        Kind::Launchd => {
            let name = format!("bot.molt.tunnel{profile}.{port}");
            Ok((host.home.join("Library/LaunchAgents").join(format!("{name}.plist")), name))
        }
        Kind::None => Err(helped(
            "there is no service manager on this host: systemd does not run",
            "keep it up in the background: moltbotctl tunnel up",
        )),
    }
}

fn tell(cx: &Context, host: &Host, result: &str, path: &std::path::Path) -> anyhow::Result<()> {
    if cx.output.json {
        let steps: Vec<_> = host.taken().iter().map(|step| step.report()).collect();
        cx.output.value(&json!({ "ok": true, "result": result, "path": path,
            "dryRun": host.dry_run, "steps": steps }));
    } else if host.dry_run {
        for step in host.taken() {
            cx.output.line(serde_json::to_string(&step.report())?);
        }
    } else {
        cx.output.line(format!("{result}: {}", path.display()));
        cx.output.quiet_remark("see how it is: moltbotctl tunnel status");
    }
    Ok(())
}

/// Exit codes that need a person are not tried again: 2 usage, 20 to 23 and 27 of ssh.
fn unit(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!(
        "# {MARK}\n[Unit]\nDescription=Tunnel to a Moltbot gateway\nDocumentation=man:moltbotctl(1)\n\
         StartLimitIntervalSec=0\n\n[Service]\nType=exec\nExecStart={}\nRestart=on-failure\n\
         RestartSec=5\nRestartPreventExitStatus=2 20 21 22 23 27\nUMask=0077\nNoNewPrivileges=yes\n\n\
         [Install]\nWantedBy=default.target\n",
        words.join(" ")
    )
}

/// Returns a word of a unit file's command line.
fn quoted(word: &str) -> String {
    let word = word.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{word}\"")
}

fn agent(label: &str, words: &[String], host: &Host) -> String {
    let xml = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let words: String =
        words.iter().map(|word| format!("    <string>{}</string>\n", xml(word))).collect();
    let log = log(host, label);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- {MARK} -->\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
         \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\">\n<dict>\n  \
         <key>Label</key><string>{}</string>\n  <key>ProgramArguments</key>\n  <array>\n{words}  \
         </array>\n  <key>RunAtLoad</key><true/>\n  <key>KeepAlive</key>\n  <dict>\
         <key>SuccessfulExit</key><false/></dict>\n  <key>ThrottleInterval</key><integer>10</integer>\n  \
         <key>Umask</key><integer>63</integer>\n  <key>StandardErrorPath</key><string>{}</string>\n\
         </dict>\n</plist>\n",
        xml(label),
        xml(&log.display().to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_unit_mean_themselves() {
        let text = unit(&["/opt/a b/moltbotctl".into(), "100%$x\"".into()]);
        assert!(text.contains("ExecStart=\"/opt/a b/moltbotctl\" \"100%%$$x\\\"\"\n"), "{text}");
    }
}
