//! Where the files of a profile are, by the daemon's rules: they are written
//! down in `moltbotd/src/paths.rs`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use directories::BaseDirs;
use nix::unistd::Uid;
use sha2::{Digest, Sha256};

use crate::{environment::Environment, identity::hex};

/// Longest path of a Unix socket that every supported system takes (macOS).
const LONGEST_SOCKET_PATH: usize = 103;
const LONGEST_PROFILE: usize = 32;
const CONFIG_FILE: &str = "moltbot.json";
const OLDER_CONFIG_FILE: &str = "clawdbot.json";
const SOCKET: &str = "control.sock";

/// The files and folders of one profile.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Name of the profile; `None` for the default one.
    pub profile: Option<String>,
    /// The configuration file, whether it exists or not.
    pub config_file: PathBuf,
    /// Durable state of the daemon.
    pub state_dir: PathBuf,
    /// Durable state of this client: the same folder, or that of the user who
    /// works on another user's gateway.
    pub client_state_dir: PathBuf,
    /// Where the daemon's sockets are.
    pub runtime_dir: PathBuf,
    /// Where a system unit puts its sockets; looked at when the other place is
    /// empty and no state folder was named.
    pub system_runtime_dir: Option<PathBuf>,
}

/// What was asked for on the command line.
#[derive(Clone, Debug, Default)]
pub struct Choices<'a> {
    /// `--profile`.
    pub profile: Option<&'a str>,
    /// `--config`.
    pub config: Option<&'a Path>,
    /// `--state-dir`.
    pub state_dir: Option<&'a Path>,
}

impl Choices<'_> {
    /// Returns whether files are named, here or by the environment, so that
    /// nothing else of this host is meant.
    #[must_use]
    pub fn names_files(&self, environment: &Environment) -> bool {
        let of_ours = ["STATE_DIR", "CONFIG_PATH"];
        let of_systemd = ["STATE_DIRECTORY", "CONFIGURATION_DIRECTORY"];
        self.config.is_some()
            || self.state_dir.is_some()
            || of_ours.iter().any(|suffix| environment.own(suffix).is_some())
            || of_systemd.iter().any(|name| managed_folder(environment, name).is_some())
    }
}

impl Paths {
    /// Finds the places of the chosen profile.
    ///
    /// # Errors
    /// When the profile's name is not one, or the user has no home folder.
    pub fn resolve(choices: &Choices<'_>, environment: &Environment) -> anyhow::Result<Self> {
        let profile = match choices.profile.or_else(|| environment.own("PROFILE")) {
            Some(name) => parse_profile(name)?,
            None => None,
        };
        let folder = profile.as_ref().map_or("moltbot".into(), |name| format!("moltbot-{name}"));
        let user = BaseDirs::new();
        let home = user.as_ref().map(BaseDirs::home_dir);
        let named = |suffix| environment.own(suffix).map(|path| expand(path, home));
        let managed = |name| managed_folder(environment, name);
        let user =
            || user.as_ref().context("no home folder is known: set HOME, or pass --state-dir");

        let named_state =
            choices.state_dir.map(ToOwned::to_owned).or_else(|| named("STATE_DIR")).map(absolute);
        let state_dir = match named_state.clone().or_else(|| managed("STATE_DIRECTORY")) {
            Some(path) => path,
            None => user().map(|user| user_state(user).join(&folder))?,
        };
        let named_config =
            choices.config.map(ToOwned::to_owned).or_else(|| named("CONFIG_PATH")).map(absolute);
        let config_file = match (named_config, &named_state, managed("CONFIGURATION_DIRECTORY")) {
            (Some(path), ..) => path,
            (None, Some(state), _) => config_in(state),
            (None, None, Some(config)) => config.join(CONFIG_FILE),
            (None, None, None) => user()?.config_dir().join(&folder).join(CONFIG_FILE),
        };
        let runtime_dir = managed("RUNTIME_DIRECTORY")
            .or_else(|| named_state.as_deref().map(run_in))
            .or_else(|| Some(user().ok()?.runtime_dir()?.join(&folder)))
            .unwrap_or_else(|| run_in(&state_dir));
        let system_runtime_dir = named_state.is_none().then(|| Path::new("/run").join(&folder));
        Ok(Self {
            profile,
            config_file,
            runtime_dir: short_enough(runtime_dir),
            system_runtime_dir,
            client_state_dir: state_dir.clone(),
            state_dir,
        })
    }

    /// Returns the places of a profile that runs as a unit of the system.
    #[must_use]
    pub fn of_system_unit(profile: Option<&str>) -> Self {
        let folder = profile.map_or("moltbot".into(), |name| format!("moltbot-{name}"));
        let below = |parent: &str| Path::new(parent).join(&folder);
        Self {
            profile: profile.map(Into::into),
            config_file: below("/etc").join(CONFIG_FILE),
            state_dir: below("/var/lib"),
            client_state_dir: below("/var/lib"),
            runtime_dir: below("/run"),
            system_runtime_dir: None,
        }
    }

    /// Returns the variables by which systemd tells the daemon these places.
    #[must_use]
    pub fn as_told_by_systemd(&self) -> Vec<(&'static str, PathBuf)> {
        let folder =
            self.profile.as_ref().map_or("moltbot".into(), |name| format!("moltbot-{name}"));
        let config = self.config_file.parent().unwrap_or(Path::new("/")).to_owned();
        vec![
            ("STATE_DIRECTORY", self.state_dir.clone()),
            ("CONFIGURATION_DIRECTORY", config),
            ("RUNTIME_DIRECTORY", self.runtime_dir.clone()),
            ("LOGS_DIRECTORY", Path::new("/var/log").join(folder)),
        ]
    }

    /// The daemon's database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("moltbot.db")
    }

    /// The daemon's control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        let own = self.runtime_dir.join(SOCKET);
        let system = self.system_runtime_dir.as_ref().map(|folder| folder.join(SOCKET));
        match system {
            Some(system) if !own.exists() && system.exists() => system,
            _ => own,
        }
    }

    /// The token the daemon makes for itself when none is configured.
    #[must_use]
    pub fn generated_token(&self) -> PathBuf {
        self.state_dir.join("gateway-token")
    }

    /// This client's device key and device tokens.
    #[must_use]
    pub fn client_dir(&self) -> PathBuf {
        self.client_state_dir.join("client")
    }

    /// The node host's device key, name and exec approvals.
    #[must_use]
    pub fn node_dir(&self) -> PathBuf {
        self.client_state_dir.join("node")
    }

    /// Returns whether there is a gateway, as far as its files tell: one was
    /// configured, ran, or runs. What a client keeps in the same folder is none.
    #[must_use]
    pub fn has_gateway(&self) -> bool {
        let traces = [
            self.config_file.clone(),
            self.database(),
            self.generated_token(),
            self.runtime_dir.join(SOCKET),
        ];
        traces.iter().any(|path| path.exists())
    }

    /// Name of the profile for people.
    #[must_use]
    pub fn profile_name(&self) -> &str {
        self.profile.as_deref().unwrap_or("default")
    }
}

fn parse_profile(name: &str) -> anyhow::Result<Option<String>> {
    let name = name.trim();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=LONGEST_PROFILE).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain);
    match name {
        "default" => Ok(None),
        name if fits => Ok(Some(name.into())),
        name => bail!(
            "profile {name:?} is not a name: use 1 to 32 lower-case letters, digits and \"-\", \
             starting with a letter or digit"
        ),
    }
}

fn user_state(user: &BaseDirs) -> &Path {
    user.state_dir().unwrap_or_else(|| user.data_local_dir())
}

fn managed_folder(environment: &Environment, name: &str) -> Option<PathBuf> {
    let first = environment.var(name)?.split(':').next()?;
    Path::new(first).is_absolute().then(|| first.into())
}

/// Returns a path with a leading `~` replaced.
#[must_use]
pub fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        (None, Some(home)) if path == "~" => home.into(),
        _ => path.into(),
    }
}

/// Fails only for an empty path, which is then used as it is.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn config_in(state: &Path) -> PathBuf {
    let (ours, older) = (state.join(CONFIG_FILE), state.join(OLDER_CONFIG_FILE));
    if !ours.exists() && older.exists() { older } else { ours }
}

fn run_in(state: &Path) -> PathBuf {
    state.join("run")
}

fn short_enough(runtime: PathBuf) -> PathBuf {
    let bytes = runtime.as_os_str().as_encoded_bytes();
    if bytes.len() + 1 + SOCKET.len() <= LONGEST_SOCKET_PATH {
        return runtime;
    }
    let hash = hex(&Sha256::digest(bytes)[..8]);
    Path::new("/tmp").join(format!("moltbot-{}", Uid::effective())).join(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_part_of_every_path() {
        let choices = Choices { profile: Some("work"), ..Choices::default() };
        let paths = Paths::resolve(&choices, &Environment::default()).unwrap();
        assert!(paths.config_file.ends_with("moltbot-work/moltbot.json"), "{paths:?}");
        assert!(paths.state_dir.ends_with("moltbot-work"), "{paths:?}");
        assert!(paths.system_runtime_dir.unwrap().ends_with("moltbot-work"));
    }

    #[test]
    fn flags_beat_the_environment() {
        let environment = Environment::from([
            ("CLAWDBOT_STATE_DIR", "/from/env"),
            ("MOLTBOT_CONFIG_PATH", "/from/env.json"),
        ]);
        let paths = Paths::resolve(&Choices::default(), &environment).unwrap();
        assert_eq!(paths.state_dir, Path::new("/from/env"));
        assert_eq!(paths.config_file, Path::new("/from/env.json"));
        let choices = Choices { state_dir: Some(Path::new("/flag")), ..Choices::default() };
        let paths = Paths::resolve(&choices, &environment).unwrap();
        assert_eq!(paths.control_socket(), Path::new("/flag/run/control.sock"));
    }

    #[test]
    fn a_socket_path_always_fits() {
        let long = Path::new("/srv").join("x".repeat(120));
        let choices = Choices { state_dir: Some(&long), ..Choices::default() };
        let paths = Paths::resolve(&choices, &Environment::default()).unwrap();
        assert!(paths.control_socket().as_os_str().len() <= LONGEST_SOCKET_PATH);
    }

    #[test]
    fn only_plain_names_are_profiles() {
        for name in ["../x", "", "-a", "A", "a/b", &"a".repeat(33)] {
            let choices = Choices { profile: Some(name), ..Choices::default() };
            assert!(Paths::resolve(&choices, &Environment::default()).is_err(), "{name}");
        }
    }
}
