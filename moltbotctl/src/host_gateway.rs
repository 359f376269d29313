//! Which gateway of this host a command means where nobody said.
//!
//! One rule for every command: the gateway that this host runs as a service of
//! the system, unless `--user`, `--config`, `--state-dir` or their variables
//! say otherwise. Two things come before it: a user's own gateway for that
//! user, who has no say in the system's, and a remote gateway that root's own
//! configuration leads to.
//!
//! | Who | The system service is enabled or runs | It is installed only | There is none |
//! |---|---|---|---|
//! | root | the system's | root's own, if there is one; else the system's | root's own |
//! | another user with a gateway | the user's | the user's | the user's |
//! | another user without one | the system's, which this user may not touch | the user's | the user's |
//!
//! Only names of files are looked at: every command asks this, and other users
//! may not look into the folders of the service.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
    },
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use directories::BaseDirs;
use nix::{
    libc,
    unistd::{Uid, User},
};
use serde_json::Value;

use crate::{
    config::LocalConfig,
    context::ended,
    environment::Environment,
    paths::{Choices, Paths},
};

/// Where units are, the ones of packages last.
const UNIT_FOLDERS: [&str; 4] = [
    "etc/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// The user of the units that are shipped.
const SERVICE_USER: &str = "moltbot";
const FOLDER: &str = "moltbot";
/// Exit code for a profile that is not there, as for other wrong usage.
const USAGE: u8 = 2;

/// Whose gateway a command means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Meant {
    /// That of the user who runs the command.
    #[default]
    Own,
    /// The system's, and the command is root's.
    System(SystemGateway),
    /// The system's, which belongs to another user.
    Foreign(SystemGateway),
}

impl Meant {
    /// Returns its name in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::System(_) => "system",
            Self::Foreign(_) => "anotherUsers",
        }
    }
}

/// The gateway of one profile that is a unit of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemGateway {
    /// Its unit, without `.service`.
    pub unit: String,
    /// Its configuration file.
    pub config_file: PathBuf,
    /// The user whose its files are.
    pub user: String,
    /// Whether it is enabled or runs.
    pub in_use: bool,
}

impl SystemGateway {
    /// Looks for the gateway of a profile below `root`, which is `/`.
    #[must_use]
    pub fn find(root: &Path, profile: Option<&str>) -> Option<Self> {
        let (unit, template) = match profile {
            None => ("moltbotd".to_owned(), "moltbotd.service"),
            Some(name) => (format!("moltbotd@{name}"), "moltbotd@.service"),
        };
        if !has_unit(root, template) {
            return None;
        }
        let folder = profile.map_or(FOLDER.into(), |name| format!("{FOLDER}-{name}"));
        let at = |parent: &str| root.join(parent).join(&folder);
        let in_use = at("run").is_dir() || is_enabled(root, &unit);
        let state = at("var/lib");
        // A template alone is no gateway.
        if profile.is_some() && !in_use && !state.exists() && !at("etc").exists() {
            return None;
        }
        let owner = fs::metadata(state).ok().map(|found| Uid::from_raw(found.uid()));
        let user = owner.filter(|uid| !uid.is_root()).map_or_else(|| SERVICE_USER.into(), name_of);
        Some(Self { unit, config_file: at("etc").join("moltbot.json"), user, in_use })
    }

    /// Returns the named gateway that would be there with files of its own.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let config_file = Path::new("/etc").join(format!("{FOLDER}-{name}")).join("moltbot.json");
        let unit = format!("moltbotd@{name}");
        Self { unit, config_file, user: SERVICE_USER.into(), in_use: false }
    }

    /// Makes the folder of the configuration the service's own, as its unit
    /// does at each start: what is in it can then be made with the rights of
    /// that user.
    ///
    /// # Errors
    /// When there is something else in its place.
    pub fn make_config_folder(&self) -> anyhow::Result<()> {
        let folder = self.config_file.parent().context("a file needs a folder")?;
        let failed = || format!("cannot make {}", folder.display());
        // Without that user the unit has never been installed as a whole.
        let Ok(Some(user)) = User::from_name(&self.user) else { return Ok(()) };
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(failed);
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY);
        let opened = options.open(folder).with_context(failed)?;
        let found = opened.metadata().with_context(failed)?;
        if found.uid() == 0 && !user.uid.is_root() {
            fchown(&opened, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .with_context(failed)?;
            opened.set_permissions(Permissions::from_mode(0o700)).with_context(failed)?;
        }
        Ok(())
    }

    /// Says which one it is, for people.
    #[must_use]
    pub fn text(&self) -> String {
        format!("the system service {} ({})", self.unit, self.config_file.display())
    }

    /// Returns why another user cannot do something with it.
    #[must_use]
    pub fn refusal(&self) -> anyhow::Error {
        ended(
            crate::context::NOT_YOURS,
            format!("this gateway belongs to the user {}: {}", self.user, self.text()),
            "use sudo moltbotctl …; or, for a gateway of your own, moltbotctl --user …",
        )
    }
}

/// Returns whether the host has named system gateways at all: whether the
/// template of their units is there.
#[must_use]
pub fn has_template() -> bool {
    has_unit(Path::new("/"), "moltbotd@.service")
}

fn has_unit(root: &Path, name: &str) -> bool {
    UNIT_FOLDERS.iter().any(|folder| root.join(folder).join(name).is_file())
}

/// Socket units start the service at the first connection.
fn is_enabled(root: &Path, unit: &str) -> bool {
    let folder = root.join("etc/systemd/system");
    let names = [format!("{unit}.service"), format!("{unit}.socket")];
    let targets = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut targets = targets
        .filter(|it| it.file_name().to_str().is_some_and(|name| name.ends_with(".target.wants")));
    targets.any(|target| names.iter().any(|name| target.path().join(name).is_symlink()))
}

/// Decides whose gateway of a profile is meant.
#[must_use]
pub fn choose(root: &Path, uid: Uid, own: &Paths, own_config: &LocalConfig) -> Meant {
    let Some(system) = SystemGateway::find(root, own.profile.as_deref()) else { return Meant::Own };
    let has_own = own.has_gateway();
    let leads_away = own_config.at("gateway.mode").and_then(Value::as_str) == Some("remote");
    match (uid.is_root(), system.in_use) {
        (true, true) if !leads_away => Meant::System(system),
        (true, false) if !has_own => Meant::System(system),
        (false, true) if !has_own => Meant::Foreign(system),
        _ => Meant::Own,
    }
}

/// Returns the names of the profiles of this user and of the system, but for
/// the default one.
#[must_use]
pub fn existing(environment: &Environment) -> Vec<String> {
    let own = BaseDirs::new();
    let own = own.iter().flat_map(|dirs| {
        [dirs.config_dir(), dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir())]
    });
    let own: BTreeSet<_> = own.flat_map(names_in).collect();
    // What a client keeps under a name that was mistyped is no gateway.
    let own = own.into_iter().filter(|name| {
        let choices = Choices { profile: Some(name), ..Choices::default() };
        Paths::resolve(&choices, environment).is_ok_and(|paths| paths.has_gateway())
    });
    let system = [Path::new("/etc"), Path::new("/var/lib")].into_iter().flat_map(names_in);
    let system = system.filter(|name| SystemGateway::find(Path::new("/"), Some(name)).is_some());
    own.chain(system).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Returns the names of the profiles that have folders in a place.
#[must_use]
pub fn names_in(parent: &Path) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_prefix("moltbot-")?.to_owned())
    });
    names.filter(|name| name != "default").collect()
}

/// Returns why a profile cannot be used: it is not there.
#[must_use]
pub fn no_such_profile(name: &str, known: &[String]) -> anyhow::Error {
    let mut advice = Vec::new();
    let likely = known.iter().map(|known| (strsim::damerau_levenshtein(name, known), known));
    // Two slips of the hand; more would be a guess.
    if let Some((_, known)) = likely.filter(|(distance, _)| *distance <= 2).min() {
        advice.push(format!("did you mean --profile {known}?"));
    }
    advice.push(match known {
        [] => "there is only the default one".into(),
        known => format!("there are default, {}", known.join(", ")),
    });
    advice.push(format!("to make it: moltbotctl profile create {name}"));
    ended(USAGE, format!("there is no profile {name}"), advice.join("; "))
}

fn name_of(uid: Uid) -> String {
    let user = User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Lab(tempfile::TempDir);

    impl Lab {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn put(&self, file: &str, text: &str) {
            let file = self.0.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }

        fn enable(&self, unit: &str) {
            let wants = self.0.path().join("etc/systemd/system/multi-user.target.wants");
            fs::create_dir_all(&wants).unwrap();
            symlink("/nowhere", wants.join(unit)).unwrap();
        }

        fn meant(&self, uid: u32, profile: Option<&str>) -> &'static str {
            let home = self.0.path().join("home");
            let own = Paths {
                profile: profile.map(Into::into),
                config_file: home.join("moltbot.json"),
                state_dir: home.join("state"),
                client_state_dir: home.join("state"),
                runtime_dir: home.join("run"),
                system_runtime_dir: None,
            };
            let config = LocalConfig::read(&own.config_file, &Environment::default());
            match choose(self.0.path(), Uid::from_raw(uid), &own, &config) {
                Meant::Own => "own",
                Meant::System(_) => "system",
                Meant::Foreign(_) => "foreign",
            }
        }
    }

    #[test]
    fn root_means_the_service_of_the_system_and_others_their_own_gateway() {
        let lab = Lab::new();
        assert_eq!((lab.meant(0, None), lab.meant(1000, None)), ("own", "own"));
        lab.put("usr/lib/systemd/system/moltbotd.service", "");
        assert_eq!((lab.meant(0, None), lab.meant(1000, None)), ("system", "own"));
        lab.enable("moltbotd.service");
        assert_eq!((lab.meant(0, None), lab.meant(1000, None)), ("system", "foreign"));
        lab.put("home/moltbot.json", "{}");
        assert_eq!((lab.meant(0, None), lab.meant(1000, None)), ("system", "own"));
        lab.put("home/moltbot.json", "{ gateway: { mode: 'remote' } }");
        assert_eq!((lab.meant(0, None), lab.meant(1000, None)), ("own", "own"));
    }

    #[test]
    fn a_gateway_of_roots_own_wins_over_a_service_that_is_only_installed() {
        let lab = Lab::new();
        lab.put("usr/lib/systemd/system/moltbotd.service", "");
        lab.put("home/state/moltbot.db", "");
        assert_eq!(lab.meant(0, None), "own");
        fs::create_dir_all(lab.0.path().join("run/moltbot")).unwrap();
        assert_eq!(lab.meant(0, None), "system");
    }

    #[test]
    fn a_named_profile_is_the_systems_when_its_folders_or_links_are() {
        let lab = Lab::new();
        lab.put("usr/lib/systemd/system/moltbotd@.service", "");
        assert_eq!(lab.meant(0, Some("lab")), "own", "a template is no gateway");
        lab.enable("moltbotd@lab.socket");
        assert_eq!((lab.meant(0, Some("lab")), lab.meant(0, Some("other"))), ("system", "own"));
        lab.put("etc/moltbot-other/moltbot.json", "{}");
        assert_eq!((lab.meant(0, Some("other")), lab.meant(7, Some("other"))), ("system", "own"));
    }

    #[test]
    fn a_profile_that_is_not_there_is_compared_with_those_that_are() {
        let known = ["lab".to_owned(), "work".to_owned()];
        let advice = |name| {
            let error = no_such_profile(name, &known);
            assert_eq!(error.to_string(), format!("there is no profile {name}"));
            error.downcast::<crate::context::Helped>().unwrap().advice
        };
        assert!(advice("wrok").starts_with("did you mean --profile work?"), "{}", advice("wrok"));
        assert!(advice("holiday").starts_with("there are default, lab, work;"));
    }
}
