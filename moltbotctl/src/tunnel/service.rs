//! A tunnel from login on: a user unit of systemd or a launchd agent that runs
//! `moltbotctl tunnel run`. No secret is in it.

use std::{ffi::OsString, fs, path::PathBuf};

use serde_json::json;

use crate::{
    context::{Context, helped},
    service::{Host, Kind},
};

/// The first line of what we wrote, and of nothing else.
const MARK: &str = "Written by moltbotctl tunnel install";

/// Writes, enables and starts the service of a tunnel.
///
/// # Errors
/// When this host has no service manager, or it refuses.
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
    match host.kind {
        Kind::Launchd => {
            host.write(&path, &agent(&name, &words, &host))?;
            let domain = format!("gui/{}", host.uid);
            let file = path.display().to_string();
            let launchctl = host.launchctl.display().to_string();
            // One that is loaded keeps its old words until it is gone.
            let _ =
                host.change(command(&launchctl, &["bootout", &format!("{domain}/{name}")])).await;
            host.must(command(&launchctl, &["bootstrap", &domain, &file])).await?;
        }
        _ => {
            host.write(&path, &unit(&words))?;
            let systemctl = host.systemctl.display().to_string();
            host.must(command(&systemctl, &["--user", "daemon-reload"])).await?;
            host.must(command(&systemctl, &["--user", "enable", "--now", &name])).await?;
        }
    }
    tell(cx, &host, "installed", &path)
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
            let job = format!("gui/{}/{name}", host.uid);
            let launchctl = host.launchctl.display().to_string();
            // It may not be loaded at all.
            let _ = host.change(command(&launchctl, &["bootout", &job])).await;
            host.remove(&path)?;
        }
        _ => {
            let systemctl = host.systemctl.display().to_string();
            host.must(command(&systemctl, &["--user", "disable", "--now", &name])).await?;
            host.remove(&path)?;
            host.must(command(&systemctl, &["--user", "daemon-reload"])).await?;
        }
    }
    tell(cx, &host, "uninstalled", &path)
}

fn command(program: &str, words: &[&str]) -> Vec<String> {
    [program].iter().chain(words).map(ToString::to_string).collect()
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
        cx.output.remark(cx.output.quiet("see how it is: moltbotctl tunnel status"));
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
    let log = host.home.join("Library/Logs").join(format!("{label}.log"));
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
