//! Where the daemon's files are.
//!
//! `moltbotctl` finds the daemon by the same rules, so they are written down
//! here once. *Profile* is the instance's name; its part of a folder's name is
//! `moltbot` for the default profile and `moltbot-NAME` for a named one.
//!
//! | What | First of these that is there |
//! |---|---|
//! | profile | `--profile`, `MOLTBOT_PROFILE`, `CLAWDBOT_PROFILE`; `default` means none |
//! | state folder | `--state-dir`; `MOLTBOT_STATE_DIR`, `CLAWDBOT_STATE_DIR` (with a leading `~/` expanded); `$STATE_DIRECTORY`; `$XDG_STATE_HOME/moltbot[-NAME]` (macOS: `~/Library/Application Support/moltbot[-NAME]`) |
//! | configuration file | `--config`; `MOLTBOT_CONFIG_PATH`, `CLAWDBOT_CONFIG_PATH`; in a state folder named by flag or environment, `moltbot.json` or, when only that exists, `clawdbot.json`; `$CONFIGURATION_DIRECTORY/moltbot.json`; `$XDG_CONFIG_HOME/moltbot[-NAME]/moltbot.json` (macOS: in the state folder's place) |
//! | runtime folder | `$RUNTIME_DIRECTORY`; `run` in a state folder named by flag or environment; `$XDG_RUNTIME_DIR/moltbot[-NAME]`; `run` in the state folder |
//! | log folder | `$LOGS_DIRECTORY`; `logs` in the state folder |
//! | credentials folder | `$CREDENTIALS_DIRECTORY`: `gateway-token`, `gateway-password`, and any other name as a variable (`telegram-bot-token` is `TELEGRAM_BOT_TOKEN`) |
//!
//! Of a colon-separated list of folders the first counts. A folder the service
//! manager names must be absolute and is taken as it is: its unit has the
//! profile in it. Other relative paths start at the working folder.
//!
//! A Unix socket's path holds about a hundred bytes. Where the control socket
//! would not fit, the runtime folder is `/tmp/moltbot-UID/HASH`, with the first
//! 16 hex digits of the SHA-256 of the runtime folder it replaces.
//!
//! The control socket is `control.sock` in the runtime folder. A client that
//! does not find it there looks at `/run/moltbot[-NAME]/control.sock`, where a
//! system unit puts it.

use std::path::{Path, PathBuf};

use directories::BaseDirs;
use nix::unistd::Uid;
use sha2::{Digest as _, Sha256};

use crate::{
    environment::Environment,
    private::{self, Narrowed},
};

/// Longest path of a Unix socket that every supported system takes (macOS).
const LONGEST_SOCKET_PATH: usize = 103;
const LONGEST_PROFILE: usize = 32;

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "moltbot.json";
const OLDER_CONFIG_FILE: &str = "clawdbot.json";
const SOCKET: &str = "control.sock";

/// The files and folders of one profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Name of the profile; `None` for the default one.
    pub profile: Option<String>,
    /// The configuration file, whether it exists or not.
    pub config_file: PathBuf,
    /// Durable state.
    pub state_dir: PathBuf,
    /// Sockets.
    pub runtime_dir: PathBuf,
    /// Log files.
    pub log_dir: PathBuf,
    /// Secrets handed over by the service manager.
    pub credentials_dir: Option<PathBuf>,
}

/// What the command line says about paths.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `--profile`.
    pub profile: Option<String>,
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
}

/// Where this user's programs keep such files.
#[derive(Clone, Debug)]
pub struct UserFolders {
    /// The user's home.
    pub home: PathBuf,
    /// Configuration.
    pub config: PathBuf,
    /// Durable state.
    pub state: PathBuf,
    /// Sockets, where the system has such a place.
    pub runtime: Option<PathBuf>,
}

/// Why paths cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// The profile's name is none.
    #[error(
        "profile {0:?} is not a name: use 1 to 32 lower-case letters, digits and \"-\", \
         starting with a letter or digit"
    )]
    Profile(String),
    /// The user has no home.
    #[error("no home folder is known for this user; set HOME, or give --state-dir and --config")]
    NoHome,
}

impl UserFolders {
    /// Asks the system.
    #[must_use]
    pub fn of_this_user() -> Option<Self> {
        let dirs = BaseDirs::new()?;
        Some(Self {
            home: dirs.home_dir().into(),
            config: dirs.config_dir().into(),
            state: dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).into(),
            runtime: dirs.runtime_dir().map(Into::into),
        })
    }
}

impl Paths {
    /// Applies the rules at the top of this file.
    pub fn resolve(
        choice: &Choice,
        environment: &Environment,
        user: Option<&UserFolders>,
    ) -> Result<Self, PathsError> {
        let profile = profile(choice, environment)?;
        let folder = profile.as_ref().map_or("moltbot".into(), |name| format!("moltbot-{name}"));
        let managed = |name| managed_folder(environment, name);
        let named = |names| {
            environment.first(names).map(|(_, path)| expand(path, user.map(|user| &*user.home)))
        };
        let user = || user.ok_or(PathsError::NoHome);

        let named_state = match &choice.state_dir {
            Some(path) => Some(path.clone()),
            None => named(&["MOLTBOT_STATE_DIR", "CLAWDBOT_STATE_DIR"]),
        }
        .map(absolute);
        let state_dir = match named_state.clone().or_else(|| managed("STATE_DIRECTORY")) {
            Some(path) => path,
            None => user()?.state.join(&folder),
        };
        let named_config = match &choice.config_file {
            Some(path) => Some(path.clone()),
            None => named(&["MOLTBOT_CONFIG_PATH", "CLAWDBOT_CONFIG_PATH"]),
        };
        let config_file = match (named_config, &named_state, managed("CONFIGURATION_DIRECTORY")) {
            (Some(path), ..) => absolute(path),
            (None, Some(state), _) => config_in(state),
            (None, None, Some(config)) => config.join(CONFIG_FILE),
            (None, None, None) => user()?.config.join(&folder).join(CONFIG_FILE),
        };
        let runtime_dir = managed("RUNTIME_DIRECTORY")
            .or_else(|| named_state.as_deref().map(run_in))
            .or_else(|| user().ok()?.runtime.as_ref().map(|runtime| runtime.join(&folder)))
            .unwrap_or_else(|| run_in(&state_dir));
        Ok(Self {
            profile,
            config_file,
            runtime_dir: short_enough(runtime_dir),
            log_dir: managed("LOGS_DIRECTORY").unwrap_or_else(|| state_dir.join("logs")),
            credentials_dir: managed("CREDENTIALS_DIRECTORY"),
            state_dir,
        })
    }

    /// Everything below one folder, as `--state-dir` alone gives it.
    #[must_use]
    pub fn below(folder: &Path) -> Self {
        Self {
            profile: None,
            config_file: folder.join(CONFIG_FILE),
            state_dir: folder.into(),
            runtime_dir: short_enough(run_in(folder)),
            log_dir: folder.join("logs"),
            credentials_dir: None,
        }
    }

    /// Creates the folders. Returns those whose mode was too wide.
    pub fn create(&self) -> Result<Narrowed, private::Error> {
        let mut narrowed = Narrowed::new();
        for folder in [&self.state_dir, &self.runtime_dir] {
            if let Some(mode) = private::folder(folder)? {
                narrowed.push((folder.clone(), mode));
            }
        }
        // Nobody stops over a log; the logs say what hinders them.
        if let Ok(Some(mode)) = private::folder(&self.log_dir) {
            narrowed.push((self.log_dir.clone(), mode));
        }
        Ok(narrowed)
    }

    /// Returns whether the configuration is where the user's is when nobody
    /// says where.
    #[must_use]
    pub fn is_usual_config(&self, user: Option<&UserFolders>) -> bool {
        let folder =
            self.profile.as_ref().map_or("moltbot".into(), |name| format!("moltbot-{name}"));
        user.is_some_and(|user| self.config_file == user.config.join(folder).join(CONFIG_FILE))
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("moltbot.db")
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.runtime_dir.join(SOCKET)
    }

    /// Files that arrived with messages.
    #[must_use]
    pub fn inbound_media(&self) -> PathBuf {
        self.state_dir.join("media").join("inbound")
    }

    /// The shared token made on the first start.
    #[must_use]
    pub fn generated_token(&self) -> PathBuf {
        self.state_dir.join("gateway-token")
    }

    /// The copy of the last good configuration.
    #[must_use]
    pub fn last_good_config(&self) -> PathBuf {
        self.state_dir.join("config.last-good.json")
    }

    /// The certificate that the daemon makes for itself, where a reference
    /// gateway keeps its own.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.state_dir.join("gateway/tls/gateway-cert.pem")
    }

    /// The private key of that certificate.
    #[must_use]
    pub fn certificate_key(&self) -> PathBuf {
        self.state_dir.join("gateway/tls/gateway-key.pem")
    }

    /// The log that `logs.tail` reads.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.log_dir.join("moltbot.log")
    }

    /// Name of the profile for people.
    #[must_use]
    pub fn profile_name(&self) -> &str {
        self.profile.as_deref().unwrap_or("default")
    }
}

/// Checks a profile's name; `None` for the default profile.
pub fn parse_profile(name: &str) -> Result<Option<String>, PathsError> {
    let name = name.trim();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=LONGEST_PROFILE).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain);
    match name {
        "default" => Ok(None),
        name if fits => Ok(Some(name.into())),
        name => Err(PathsError::Profile(name.into())),
    }
}

fn profile(choice: &Choice, environment: &Environment) -> Result<Option<String>, PathsError> {
    let inherited = environment.first(&["MOLTBOT_PROFILE", "CLAWDBOT_PROFILE"]);
    match choice.profile.as_deref().or(inherited.map(|(_, name)| name)) {
        Some(name) => parse_profile(name),
        None => Ok(None),
    }
}

fn managed_folder(environment: &Environment, name: &str) -> Option<PathBuf> {
    let first = environment.get(name)?.split(':').next()?;
    Path::new(first).is_absolute().then(|| first.into())
}

fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    let path = path.trim();
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
    let hash: String =
        Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    per_user_temporary().join(hash)
}

/// A folder of this user's below `/tmp`: the same for every process of the
/// user, whatever `TMPDIR` says.
pub(crate) fn per_user_temporary() -> PathBuf {
    Path::new("/tmp").join(format!("moltbot-{}", Uid::effective()))
}

/// Returns the user's home in place of a leading `~`.
#[must_use]
pub fn expand_home(path: &str) -> PathBuf {
    let home = BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
    expand(path, home.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserFolders {
        UserFolders {
            home: "/home/alice".into(),
            config: "/home/alice/.config".into(),
            state: "/home/alice/.local/state".into(),
            runtime: Some("/run/user/1000".into()),
        }
    }

    fn resolve(choice: &Choice, environment: Environment) -> Paths {
        Paths::resolve(choice, &environment, Some(&user())).unwrap()
    }

    #[test]
    fn without_anything_the_users_folders_are_used() {
        let paths = resolve(&Choice::default(), Environment::default());
        assert_eq!(paths.config_file, Path::new("/home/alice/.config/moltbot/moltbot.json"));
        assert_eq!(paths.database(), Path::new("/home/alice/.local/state/moltbot/moltbot.db"));
        assert_eq!(paths.control_socket(), Path::new("/run/user/1000/moltbot/control.sock"));
        assert_eq!(paths.log_dir, Path::new("/home/alice/.local/state/moltbot/logs"));
        assert_eq!(paths.profile_name(), "default");
    }

    #[test]
    fn the_profile_is_part_of_every_path() {
        let choice = Choice { profile: Some("work".into()), ..Choice::default() };
        let paths = resolve(&choice, Environment::default());
        for path in [&paths.config_file, &paths.state_dir, &paths.runtime_dir, &paths.log_dir] {
            assert!(path.to_str().unwrap().contains("/moltbot-work"), "{path:?}");
        }
    }

    #[test]
    fn flags_beat_the_environment_and_newer_names_beat_older() {
        let environment = Environment::from([
            ("MOLTBOT_STATE_DIR", "~/new"),
            ("CLAWDBOT_STATE_DIR", "/old"),
            ("CLAWDBOT_PROFILE", "older"),
            ("STATE_DIRECTORY", "/var/lib/moltbot"),
        ]);
        let paths = resolve(&Choice::default(), environment.clone());
        assert_eq!(paths.state_dir, Path::new("/home/alice/new"));
        assert_eq!(paths.config_file, Path::new("/home/alice/new/moltbot.json"));
        assert_eq!(paths.runtime_dir, Path::new("/home/alice/new/run"));
        assert_eq!(paths.profile.as_deref(), Some("older"));
        let choice = Choice {
            profile: Some("default".into()),
            state_dir: Some("/flag".into()),
            config_file: Some("/etc/m.json".into()),
        };
        let paths = resolve(&choice, environment);
        assert_eq!((&*paths.state_dir, paths.profile), (Path::new("/flag"), None));
        assert_eq!(paths.config_file, Path::new("/etc/m.json"));
    }

    #[test]
    fn the_service_managers_folders_are_taken_as_they_are() {
        let environment = Environment::from([
            ("STATE_DIRECTORY", "/var/lib/moltbot:/var/lib/other"),
            ("CONFIGURATION_DIRECTORY", "/etc/moltbot"),
            ("RUNTIME_DIRECTORY", "/run/moltbot"),
            ("LOGS_DIRECTORY", "relative/is/ignored"),
            ("CREDENTIALS_DIRECTORY", "/run/credentials/moltbotd.service"),
        ]);
        let paths = Paths::resolve(&Choice::default(), &environment, None).unwrap();
        assert_eq!(paths.state_dir, Path::new("/var/lib/moltbot"));
        assert_eq!(paths.config_file, Path::new("/etc/moltbot/moltbot.json"));
        assert_eq!(paths.runtime_dir, Path::new("/run/moltbot"));
        assert_eq!(paths.log_dir, Path::new("/var/lib/moltbot/logs"));
        assert!(paths.credentials_dir.is_some());
    }

    #[test]
    fn an_older_configuration_is_found_in_a_named_state_folder() {
        let dir = tempfile::tempdir().unwrap();
        let choice = Choice { state_dir: Some(dir.path().into()), ..Choice::default() };
        std::fs::write(dir.path().join("clawdbot.json"), "{}").unwrap();
        let paths = resolve(&choice, Environment::default());
        assert_eq!(paths.config_file, dir.path().join("clawdbot.json"));
        std::fs::write(dir.path().join("moltbot.json"), "{}").unwrap();
        let paths = resolve(&choice, Environment::default());
        assert_eq!(paths.config_file, dir.path().join("moltbot.json"));
        assert_eq!(paths.state_dir, Paths::below(dir.path()).state_dir);
    }

    #[test]
    fn a_socket_path_always_fits() {
        let long = Path::new("/srv").join("x".repeat(120));
        let choice = Choice { state_dir: Some(long), ..Choice::default() };
        let socket = resolve(&choice, Environment::default()).control_socket();
        assert!(socket.as_os_str().len() <= LONGEST_SOCKET_PATH, "{socket:?}");
        assert!(socket.starts_with("/tmp"));
    }

    #[test]
    fn only_plain_names_are_profiles() {
        for name in ["a", "0", "work-2", &"x".repeat(32)] {
            assert!(parse_profile(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "A", "a_b", "../x", "a b", &"x".repeat(33)] {
            assert!(parse_profile(name).is_err(), "{name}");
        }
    }
}
