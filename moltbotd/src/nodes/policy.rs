//! Which commands a node may be asked to run.

use crate::config;

const CANVAS: &[&str] = &[
    "canvas.present",
    "canvas.hide",
    "canvas.navigate",
    "canvas.eval",
    "canvas.snapshot",
    "canvas.a2ui.push",
    "canvas.a2ui.pushJSONL",
    "canvas.a2ui.reset",
];
const CAMERA: &[&str] = &["camera.list", "camera.snap", "camera.clip"];
const SCREEN: &[&str] = &["screen.record"];
const LOCATION: &[&str] = &["location.get"];
const SMS: &[&str] = &["sms.send"];
const SYSTEM: &[&str] = &[
    "system.run",
    "system.which",
    "system.notify",
    "system.execApprovals.get",
    "system.execApprovals.set",
    "browser.proxy",
];

/// The kind of system a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Platform {
    Ios,
    Android,
    Macos,
    Windows,
    Linux,
    Unknown,
}

impl Platform {
    /// Tells the platform from what a node says of itself.
    pub(super) fn of(platform: &str, device_family: Option<&str>) -> Self {
        const PREFIXES: [(&str, Platform); 6] = [
            ("ios", Platform::Ios),
            ("android", Platform::Android),
            ("mac", Platform::Macos),
            ("darwin", Platform::Macos),
            ("win", Platform::Windows),
            ("linux", Platform::Linux),
        ];
        const FAMILIES: [(&str, Platform); 7] = [
            ("iphone", Platform::Ios),
            ("ipad", Platform::Ios),
            ("ios", Platform::Ios),
            ("android", Platform::Android),
            ("mac", Platform::Macos),
            ("windows", Platform::Windows),
            ("linux", Platform::Linux),
        ];
        let platform = platform.trim().to_lowercase();
        let family = device_family.unwrap_or_default().trim().to_lowercase();
        let by_platform = PREFIXES.iter().find(|(prefix, _)| platform.starts_with(prefix));
        let by_family = || FAMILIES.iter().find(|(part, _)| family.contains(part));
        by_platform.or_else(by_family).map_or(Self::Unknown, |&(_, found)| found)
    }

    fn groups(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Ios => &[CANVAS, CAMERA, SCREEN, LOCATION],
            Self::Android => &[CANVAS, CAMERA, SCREEN, LOCATION, SMS],
            Self::Macos => &[CANVAS, CAMERA, SCREEN, LOCATION, SYSTEM],
            Self::Windows | Self::Linux => &[SYSTEM],
            Self::Unknown => &[CANVAS, CAMERA, SCREEN, LOCATION, SMS, SYSTEM],
        }
    }
}

/// Why a command is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No command was named.
    #[error("command required")]
    Blank,
    /// Neither the platform nor the configuration allows it.
    #[error("command not allowlisted")]
    NotAllowed,
    /// The node offers others only.
    #[error("command not declared by node")]
    NotDeclared,
    /// The node offers nothing.
    #[error("node did not declare commands")]
    NothingDeclared,
}

/// Families of commands that nobody gets by being paired: they hand over a
/// shell, or a browser with all its logins.
const GRANTED: [&str; 2] = ["browser.", "system.run"];

/// Returns whether a node must have been approved for a command by name.
pub(super) fn needs_grant(command: &str) -> bool {
    GRANTED.iter().any(|start| command.starts_with(start))
}

/// Returns whether what a node was approved for covers a command.
pub(super) fn is_granted(allow: &[String], command: &str) -> bool {
    !needs_grant(command)
        || allow.iter().any(|granted| match granted.strip_suffix(".*") {
            Some(family) => command.strip_prefix(family).is_some_and(|rest| rest.starts_with('.')),
            None => granted == command,
        })
}

/// Returns the commands that a node offers and was not approved for. People
/// copy them into a shell, so what is no name is left out.
#[must_use]
pub fn withheld(allow: &[String], offered: &[String]) -> Option<Vec<String>> {
    let missing = offered.iter().filter(|command| is_name(command) && !is_granted(allow, command));
    let mut missing: Vec<String> = missing.cloned().collect();
    missing.sort_unstable();
    missing.dedup();
    (!missing.is_empty()).then_some(missing)
}

fn is_name(command: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    command.chars().all(plain) && !command.ends_with('.')
}

/// Puts what an operator grants in order.
///
/// # Errors
/// With a text for people, when something names no command that needs it.
pub fn grants(named: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Vec<String>, String> {
    let mut allow = Vec::new();
    for name in named {
        let name = name.as_ref().trim();
        let useful = match name.strip_suffix(".*") {
            Some(family) => {
                ["browser", "system"].contains(&family) || (needs_grant(family) && is_name(family))
            }
            None => needs_grant(name) && is_name(name),
        };
        if !useful {
            return Err(format!(
                "cannot allow {name:?}: system.run, browser.proxy and families such as browser.* \
                 can be allowed; all other commands need no approval of their own"
            ));
        }
        allow.push(name.to_owned());
    }
    allow.sort_unstable();
    allow.dedup();
    Ok(allow)
}

/// Returns whether the configuration takes a command from every node.
pub(super) fn is_denied(config: &config::Config, command: &str) -> bool {
    config.gateway.nodes.deny_commands.iter().any(|name| name.trim() == command)
}

/// Returns whether a node of this platform may be asked to run a command.
pub(super) fn allows(config: &config::Config, platform: Platform, command: &str) -> bool {
    let lists = &config.gateway.nodes;
    let named = |list: &[String]| list.iter().any(|name| name.trim() == command);
    if named(&lists.deny_commands) {
        return false;
    }
    platform.groups().iter().any(|group| group.contains(&command)) || named(&lists.allow_commands)
}

/// Keeps what policy allows of the commands a node offers.
pub(super) fn filter(
    config: &config::Config,
    platform: Platform,
    commands: impl IntoIterator<Item = String>,
) -> Vec<String> {
    let mut kept: Vec<String> = commands
        .into_iter()
        .map(|command| command.trim().to_owned())
        .filter(|command| !command.is_empty() && allows(config, platform, command))
        .collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

/// Decides whether a command may be sent to a node. The configuration of this
/// moment counts, not that of the moment the node connected.
pub(super) fn check(
    config: &config::Config,
    platform: Platform,
    declared: &[String],
    command: &str,
) -> Result<(), Denial> {
    if command.is_empty() {
        return Err(Denial::Blank);
    }
    if !allows(config, platform, command) {
        return Err(Denial::NotAllowed);
    }
    if declared.is_empty() {
        return Err(Denial::NothingDeclared);
    }
    if !declared.iter().any(|name| name == command) {
        return Err(Denial::NotDeclared);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(allow: &[&str], deny: &[&str]) -> config::Config {
        let mut config = config::Config::default();
        config.gateway.nodes.allow_commands = allow.iter().map(|&name| name.into()).collect();
        config.gateway.nodes.deny_commands = deny.iter().map(|&name| name.into()).collect();
        config
    }

    #[test]
    fn the_platform_comes_first_and_the_family_second() {
        for (platform, family, expected) in [
            ("iOS 18.1", None, Platform::Ios),
            ("iPadOS 18", Some("iPad"), Platform::Ios),
            ("iPadOS 18", None, Platform::Unknown),
            ("android", Some("Mac"), Platform::Android),
            ("macOS 15", None, Platform::Macos),
            ("darwin", None, Platform::Macos),
            ("win32", None, Platform::Windows),
            ("linux", None, Platform::Linux),
            ("plan9", Some("Linux box"), Platform::Linux),
            ("plan9", None, Platform::Unknown),
        ] {
            assert_eq!(Platform::of(platform, family), expected, "{platform} {family:?}");
        }
    }

    #[test]
    fn each_platform_has_its_default_commands() {
        let config = config(&[], &[]);
        for (command, platforms) in [
            ("canvas.eval", "iam?"),
            ("camera.snap", "iam?"),
            ("screen.record", "iam?"),
            ("location.get", "iam?"),
            ("sms.send", "a?"),
            ("system.run", "mwl?"),
            ("browser.proxy", "mwl?"),
            ("rm.all", ""),
        ] {
            for (letter, platform) in [
                ('i', Platform::Ios),
                ('a', Platform::Android),
                ('m', Platform::Macos),
                ('w', Platform::Windows),
                ('l', Platform::Linux),
                ('?', Platform::Unknown),
            ] {
                let expected = platforms.contains(letter);
                assert_eq!(allows(&config, platform, command), expected, "{command} {platform:?}");
            }
        }
    }

    #[test]
    fn the_configuration_adds_and_removes_and_removing_wins() {
        let config = config(&["my.command", "other.command"], &["other.command", "system.run"]);
        assert!(allows(&config, Platform::Ios, "my.command"));
        assert!(!allows(&config, Platform::Linux, "other.command"));
        assert!(!allows(&config, Platform::Linux, "system.run"));
        assert!(allows(&config, Platform::Linux, "system.which"));
    }

    #[test]
    fn the_first_reason_in_order_is_given() {
        let config = config(&[], &[]);
        let declared = ["system.which".to_owned()];
        let check =
            |declared: &[String], command| check(&config, Platform::Linux, declared, command);
        assert_eq!(check(&declared, ""), Err(Denial::Blank));
        assert_eq!(check(&[], "camera.snap"), Err(Denial::NotAllowed));
        assert_eq!(check(&declared, "system.run"), Err(Denial::NotDeclared));
        assert_eq!(check(&[], "system.run"), Err(Denial::NothingDeclared));
        assert_eq!(check(&declared, "system.which"), Ok(()));
    }

    #[test]
    fn a_shell_and_a_browser_are_granted_by_name_or_by_family() {
        let granted = |allow: &[&str], command| {
            is_granted(&allow.iter().copied().map(String::from).collect::<Vec<_>>(), command)
        };
        assert!(granted(&[], "system.which") && granted(&[], "camera.snap"));
        assert!(!granted(&[], "system.run") && !granted(&[], "browser.proxy"));
        assert!(!granted(&[], "system.runAs"), "what the configuration adds, too");
        assert!(granted(&["system.run"], "system.run"));
        assert!(!granted(&["system.run"], "system.run.all"));
        assert!(!granted(&["browser.*"], "system.run"));
        assert!(granted(&["browser.*"], "browser.proxy"));
        assert!(granted(&["system.*"], "system.run"));
        assert!(!granted(&["sys.*"], "system.run"));
        let offered = ["system.which", "system.run", "browser.proxy", "system.run; reboot"];
        let offered = offered.map(String::from);
        let left = withheld(&["browser.*".into()], &offered);
        assert_eq!(left, Some(vec!["system.run".into()]));
        assert_eq!(withheld(&["browser.*".into(), "system.*".into()], &offered), None);
    }

    #[test]
    fn only_what_means_something_can_be_granted() {
        let kept = grants([" system.run ", "browser.*", "system.run"]).unwrap();
        assert_eq!(kept, ["browser.*", "system.run"]);
        for wrong in ["", "*", ".*", "camera.snap", "system.w*", "browser.", "browser.*.*", "a b"] {
            let error = grants([wrong]).unwrap_err();
            assert!(error.contains("system.run, browser.proxy"), "{wrong}: {error}");
        }
    }

    #[test]
    fn declarations_are_trimmed_and_filtered() {
        let offered = [" system.which ", "", "camera.snap", "system.run", "bogus"];
        let kept = filter(&config(&[], &[]), Platform::Linux, offered.map(String::from));
        assert_eq!(kept, ["system.run", "system.which"]);
    }
}
