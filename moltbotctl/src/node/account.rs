//! The account a node runs programs as, and the environment they get.
//!
//! A variable can be a program: `BASH_ENV`, `LD_PRELOAD`, `GIT_CONFIG_*` and a
//! hundred others make an allowed program load or run something else, and every
//! list of the dangerous ones has turned out to be incomplete. So nothing passes
//! but what is named here or by the owner of the node: from this process the
//! variables that describe the host and the session, from a call those that
//! change how output looks. Who the account is and where its programs are is
//! never up to a caller.

use std::path::{Path, PathBuf};

use anyhow::bail;
use nix::unistd::{User, geteuid};
use serde_json::{Map, Value};

use crate::environment::Environment;

/// Where programs are looked for when this process has no usable `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What a call may set, each with values of a harmless form (see [`is_plain`]).
const SETTABLE: &[&str] = &[
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLORTERM",
    "COLUMNS",
    "FORCE_COLOR",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LINES",
    "NO_COLOR",
    "TERM",
    "TZ",
];

/// What programs get from this process besides: the session they may talk to,
/// and the way out of this network.
const INHERITED: &[&str] = &[
    "ALL_PROXY",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSH_AUTH_SOCK",
    "TMPDIR",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// What says who the account is.
const ACCOUNT: &[&str] = &["HOME", "LOGNAME", "PATH", "SHELL", "USER"];

/// What makes programs load or run something else. Listed for a clear answer,
/// and so that the owner's own additions cannot contain it by mistake.
const NEVER: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "BASH_FUNC_*",
    "BASH_LOADABLES_PATH",
    "BROWSER",
    "CDPATH",
    "CLASSPATH",
    "DYLD_*",
    "EDITOR",
    "ENV",
    "FCEDIT",
    "FPATH",
    "GCONV_PATH",
    "GIT_*",
    "GLIBC_TUNABLES",
    "GLOBIGNORE",
    "IFS",
    "JAVA_OPTS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LD_*",
    "LESSCLOSE",
    "LESSOPEN",
    "LOCPATH",
    "LUA_*",
    "MAKEFLAGS",
    "MANPAGER",
    "NLSPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NPM_CONFIG_*",
    "OPENSSL_*",
    "PAGER",
    "PERL*",
    "PROMPT_COMMAND",
    "PS0",
    "PS1",
    "PS2",
    "PS3",
    "PS4",
    "PYTHON*",
    "RUBY*",
    "RUSTC_WRAPPER",
    "SHELLOPTS",
    "SSLKEYLOGFILE",
    "SSH_ASKPASS",
    "SUDO_ASKPASS",
    "VISUAL",
    "ZDOTDIR",
    "_JAVA_OPTIONS",
];

/// Variables that the owner of the node added to the built-in lists; a name may
/// end with `*`.
#[derive(Clone, Debug, Default)]
pub(super) struct Additions {
    /// From this process to programs.
    pub(super) inherited: Vec<String>,
    /// From a call to its program.
    pub(super) settable: Vec<String>,
}

/// The account, and what its programs find in their environment.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) home: PathBuf,
    pub(super) path: String,
    base: Vec<(String, String)>,
    settable: Vec<String>,
}

impl Account {
    /// Reads the account of this process.
    ///
    /// # Errors
    /// When an addition could make programs run something else, or is no name.
    pub(super) fn of_process(
        environment: &Environment,
        additions: &Additions,
    ) -> anyhow::Result<Self> {
        for name in additions.inherited.iter().chain(&additions.settable) {
            check_addition(name)?;
        }
        // A container may run as a number without an account.
        let user = User::from_uid(geteuid()).ok().flatten();
        let home = user.as_ref().map(|user| user.dir.clone());
        let home =
            home.or_else(|| environment.var("HOME").map(Into::into)).unwrap_or_else(|| "/".into());
        let name = user.as_ref().map_or_else(|| geteuid().to_string(), |user| user.name.clone());
        let shell = user.as_ref().map(|user| user.shell.clone());
        let shell = shell.filter(|shell| shell.is_absolute()).unwrap_or_else(|| "/bin/sh".into());
        let path = absolute_folders(environment.var("PATH").unwrap_or_default());

        let is_inherited = |name: &str| {
            matches_any(name, SETTABLE)
                || matches_any(name, INHERITED)
                || matches_any(name, &additions.inherited)
        };
        let mut base: Vec<(String, String)> = environment
            .all()
            .filter(|(name, _)| is_inherited(name) && !is_fixed(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        base.extend([
            ("HOME".to_owned(), home.to_string_lossy().into_owned()),
            ("LOGNAME".to_owned(), name.clone()),
            ("PATH".to_owned(), path.clone()),
            ("SHELL".to_owned(), shell.to_string_lossy().into_owned()),
            ("USER".to_owned(), name),
        ]);
        Ok(Self { home, path, base, settable: additions.settable.clone() })
    }

    /// Returns the environment of the node's own programs.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        self.base.clone()
    }

    /// Returns the environment of a program that a call starts.
    ///
    /// # Errors
    /// With a text for the caller, when the call sets a variable it may not set.
    /// Leaving it out in silence would run something else than was asked for.
    pub(super) fn environment_for(
        &self,
        given: Option<&Map<String, Value>>,
    ) -> Result<Vec<(String, String)>, String> {
        let mut environment = self.base.clone();
        for (name, value) in given.into_iter().flatten() {
            // As OpenClaw's node host does: `null` sets nothing.
            let Some(value) = value.as_str() else { continue };
            let name = name.trim();
            self.check(name, value)?;
            environment.retain(|(known, _)| known != name);
            environment.push((name.to_owned(), value.to_owned()));
        }
        Ok(environment)
    }

    fn check(&self, name: &str, value: &str) -> Result<(), String> {
        let shown = super::shown::command_line(&[name.to_owned()]);
        if ACCOUNT.iter().any(|fixed| fixed.eq_ignore_ascii_case(name)) {
            return Err(format!("{shown} comes from the account of this node"));
        }
        if !is_name(name) || is_fixed(name) {
            return Err(format!("{shown} can change what a program runs and is never passed"));
        }
        if matches_any(name, &self.settable) {
            return if value.contains('\0') {
                Err(format!("the value of {shown} has a NUL"))
            } else {
                Ok(())
            };
        }
        if !matches_any(name, SETTABLE) {
            return Err(format!(
                "{shown} is not among the variables a call may set on this node; its owner can \
                 add it: moltbotctl node run --allow-env {shown}"
            ));
        }
        if !is_plain(value) {
            return Err(format!("the value of {shown} is not plain"));
        }
        Ok(())
    }
}

/// Relative folders would be other ones in each working directory.
fn absolute_folders(path: &str) -> String {
    let folders = path.split(':').filter(|folder| Path::new(folder).is_absolute());
    let path = folders.collect::<Vec<_>>().join(":");
    if path.is_empty() { DEFAULT_PATH.to_owned() } else { path }
}

fn check_addition(name: &str) -> anyhow::Result<()> {
    let stem = name.strip_suffix('*').unwrap_or(name);
    if !is_name(stem) {
        bail!("{name:?} is not the name of a variable");
    }
    let covers_fixed = NEVER.iter().chain(ACCOUNT).any(|fixed| {
        let fixed_stem = fixed.trim_end_matches('*');
        let (stem, fixed_stem) = (stem.to_ascii_uppercase(), fixed_stem.to_ascii_uppercase());
        name.ends_with('*') && fixed_stem.starts_with(&stem)
    });
    if is_fixed(stem) || covers_fixed {
        bail!("{name} cannot be passed to programs: it can change what they run");
    }
    Ok(())
}

fn is_fixed(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    matches_any(&upper, NEVER) || matches_any(&upper, ACCOUNT)
}

fn matches_any(name: &str, patterns: &[impl AsRef<str>]) -> bool {
    patterns.iter().any(|pattern| match pattern.as_ref().strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern.as_ref(),
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Names of languages, terminals, time zones and colours have this form. A path
/// to a file of the caller's, which the C library takes in some of these
/// variables, has not.
fn is_plain(value: &str) -> bool {
    value.chars().all(|c| c.is_ascii_alphanumeric() || "_.@:+,-/".contains(c))
        && !value.starts_with(['/', ':', '.'])
        && !value.contains("..")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn account(additions: &Additions) -> Account {
        let environment = Environment::from([
            ("PATH", "relative:/opt/bin::/usr/bin:."),
            ("HOME", "/tmp/not-the-accounts"),
            ("TZ", "Europe/Berlin"),
            ("BASH_ENV", "/x"),
            ("LD_PRELOAD", "/x"),
            ("API_KEY", "secret"),
            ("MOLTBOT_GATEWAY_TOKEN", "secret"),
        ]);
        Account::of_process(&environment, additions).unwrap()
    }

    fn value<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let mut values = environment.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} is set once");
        value
    }

    #[test]
    fn programs_get_the_account_and_what_is_listed_only() {
        let environment = account(&Additions::default()).environment();
        let user = User::from_uid(geteuid()).unwrap().unwrap();
        assert_eq!(value(&environment, "HOME"), user.dir.to_str());
        assert_eq!(value(&environment, "USER"), Some(&*user.name));
        assert_eq!(value(&environment, "LOGNAME"), Some(&*user.name));
        assert_eq!(value(&environment, "PATH"), Some("/opt/bin:/usr/bin"));
        assert_eq!(value(&environment, "TZ"), Some("Europe/Berlin"));
        for name in ["BASH_ENV", "LD_PRELOAD", "API_KEY", "MOLTBOT_GATEWAY_TOKEN"] {
            assert_eq!(value(&environment, name), None, "{name}");
        }
        assert_eq!(absolute_folders(".:bin:"), DEFAULT_PATH);
    }

    #[test]
    fn a_call_sets_how_output_looks_and_nothing_that_a_program_would_run() {
        let account = account(&Additions::default());
        let good = json!({ "LANG": "de_DE.UTF-8", "LC_ALL": "C", "TERM": "xterm-256color",
            "TZ": "America/New_York", "NO_COLOR": "1", "NOTHING": null });
        let environment = account.environment_for(good.as_object()).unwrap();
        assert_eq!(value(&environment, "TZ"), Some("America/New_York"), "the call's own counts");
        for name in [
            "BASH_ENV",
            "bash_env",
            " BASH_ENV ",
            "BASH_FUNC_true%%",
            "ENV",
            "PS4",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "DYLD_INSERT_LIBRARIES",
            "GIT_CONFIG_COUNT",
            "GIT_CONFIG_KEY_0",
            "GIT_SSH_COMMAND",
            "NODE_OPTIONS",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "PERL5OPT",
            "PERLLIB",
            "RUBYOPT",
            "IFS",
            "SHELLOPTS",
            "PAGER",
            "HOME",
            "PATH",
            "USER",
            "LOGNAME",
            "SHELL",
            "A=B",
            "",
            "1A",
            "A\0",
            "A B",
            "LC_ALL=x",
            "FOO",
        ] {
            let given = json!({ name: "x" });
            let refusal = account.environment_for(given.as_object()).unwrap_err();
            let named = super::super::shown::command_line(&[name.trim().to_owned()]);
            assert!(refusal.contains(&named), "{name:?}: {refusal}");
        }
        for (name, value) in [
            ("TZ", ":/etc/shadow"),
            ("TZ", "/etc/shadow"),
            ("LANG", "../../tmp/x"),
            ("LC_ALL", "./x"),
            ("TERM", "x y"),
            ("LANGUAGE", "a\nb"),
            ("LC_ALL", "x\0y"),
        ] {
            let given = json!({ name: value });
            assert!(account.environment_for(given.as_object()).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn the_owner_adds_variables_but_none_that_a_program_would_run() {
        let additions = Additions {
            inherited: vec!["API_KEY".into()],
            settable: vec!["BUILD_*".into(), "DEBUG".into()],
        };
        let account = account(&additions);
        assert_eq!(value(&account.environment(), "API_KEY"), Some("secret"));
        let given = json!({ "BUILD_ID": "any text; of theirs", "DEBUG": "*" });
        assert!(account.environment_for(given.as_object()).is_ok());
        let own = json!({ "API_KEY": "x" });
        assert!(account.environment_for(own.as_object()).is_err(), "inherited is not settable");
        for name in ["BASH_ENV", "*", "L*", "LD_*", "GIT*", "PATH", "P*", "a b", "", "PYTHONPATH"] {
            let additions = Additions { settable: vec![name.into()], ..Additions::default() };
            let environment = Environment::default();
            assert!(Account::of_process(&environment, &additions).is_err(), "{name}");
        }
    }
}
