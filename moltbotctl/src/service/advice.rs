//! The commands that start and end a gateway here: a service manager's words
//! where there is one, else those of a shell.

use super::Kind;
use crate::paths::Paths;

/// Returns what starts the gateway of a profile as it is installed.
#[must_use]
pub fn start(kind: Kind, profile: Option<&str>) -> String {
    match kind {
        Kind::Systemd | Kind::Launchd => with("moltbotctl service start", profile),
        Kind::None => with("moltbotd", profile),
    }
}

/// Returns what starts a user's own gateway: its service, if there is one.
#[must_use]
pub fn start_own(kind: Kind, paths: &Paths) -> String {
    let profile = paths.profile.as_deref();
    let unit = profile.map_or("moltbotd.service".into(), |name| format!("moltbotd@{name}.service"));
    let is_service = match kind {
        Kind::Systemd => directories::BaseDirs::new().is_some_and(|dirs| {
            dirs.config_dir().join("systemd/user/default.target.wants").join(unit).is_symlink()
        }),
        Kind::Launchd => true,
        Kind::None => false,
    };
    match is_service {
        true => start(kind, profile),
        false => with("moltbotd", profile),
    }
}

/// Returns what has the gateway of a profile started now and later.
#[must_use]
pub fn install(kind: Kind, profile: Option<&str>) -> String {
    match kind {
        Kind::Systemd | Kind::Launchd => with("moltbotctl service install", profile),
        Kind::None => with("moltbotd", profile),
    }
}

/// Returns what ends a process and starts another one.
#[must_use]
pub fn restart(kind: Kind, profile: Option<&str>, pid: u32) -> String {
    match kind {
        Kind::Systemd | Kind::Launchd => with("moltbotctl service restart", profile),
        // A container that ends with its gateway is started by whoever runs it.
        Kind::None => {
            format!(
                "kill {pid}, and start it anew: its container, or {}",
                with("moltbotd", profile)
            )
        }
    }
}

/// Returns what ends the gateway of a profile.
#[must_use]
pub fn stop(kind: Kind, profile: Option<&str>, pid: Option<u32>) -> String {
    match (kind, pid) {
        (Kind::None, Some(pid)) => format!("kill {pid}"),
        (Kind::None, None) => "end the process that holds its lock".into(),
        (Kind::Systemd | Kind::Launchd, _) => with("moltbotctl service stop", profile),
    }
}

fn with(command: &str, profile: Option<&str>) -> String {
    profile.map_or_else(|| command.to_owned(), |name| format!("{command} --profile {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_manager_nobody_is_sent_to_one() {
        let of = |kind| {
            [
                start(kind, Some("a")),
                install(kind, None),
                restart(kind, None, 7),
                stop(kind, None, Some(7)),
            ]
        };
        assert!(of(Kind::Systemd).iter().all(|it| it.contains("moltbotctl service")));
        assert!(of(Kind::None).iter().all(|it| !it.contains("service")));
        assert_eq!(start(Kind::None, Some("a")), "moltbotd --profile a");
    }
}
