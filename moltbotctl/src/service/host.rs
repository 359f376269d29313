//! Where things are on this host, and the only hands that change them.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use directories::BaseDirs;
use nix::unistd::{Uid, User};

use super::{
    Outcome, RunError, Scope, Step,
    program::{run, shown},
};
use crate::{context::helped, environment::Environment};

/// How long a question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// How long a change may take: above the time a start or a stop is given.
const CHANGE: Duration = Duration::from_secs(150);

/// Which service manager a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Linux that was booted with systemd.
    Systemd,
    /// macOS.
    Launchd,
    /// Anything else.
    None,
}

impl Kind {
    /// Looks at this host.
    #[must_use]
    pub fn here() -> Self {
        match () {
            () if cfg!(target_os = "macos") => Self::Launchd,
            () if Path::new("/run/systemd/system").is_dir() => Self::Systemd,
            () => Self::None,
        }
    }
}

/// How patient waiting is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks.
    pub pause: Duration,
    /// How often to look for something that should happen.
    pub looks: u32,
    /// How often a call that failed is tried.
    pub attempts: u32,
    /// How long a question may take.
    pub question: Duration,
    /// How long a change may take.
    pub change: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pause: Duration::from_millis(250),
            looks: 160,
            attempts: 8,
            question: QUESTION,
            change: CHANGE,
        }
    }
}

/// This host as far as services are concerned. Tests give it another root and
/// other programs.
#[derive(Debug)]
pub struct Host {
    /// Its service manager.
    pub kind: Kind,
    /// What `/` is.
    pub root: PathBuf,
    /// Where `systemctl` is.
    pub systemctl: PathBuf,
    /// Where `journalctl` is.
    pub journalctl: PathBuf,
    /// Where `launchctl` is.
    pub launchctl: PathBuf,
    /// The user.
    pub uid: u32,
    /// The user's name.
    pub user: String,
    /// The user's home.
    pub home: PathBuf,
    /// Where the user's configuration is.
    pub config_home: PathBuf,
    /// Where the user's state is.
    pub state_home: PathBuf,
    /// The user's runtime folder; systemd's bus of the user is there.
    pub runtime: Option<PathBuf>,
    /// The daemon.
    pub daemon: PathBuf,
    /// This program.
    pub control: PathBuf,
    /// How patient waiting is.
    pub pace: Pace,
    /// Whether changes are only written down.
    pub dry_run: bool,
    /// What was changed or would be.
    pub steps: Mutex<Vec<Step>>,
}

impl Host {
    /// Looks at this host.
    ///
    /// # Errors
    /// When the user has no home.
    pub fn this(environment: &Environment, dry_run: bool) -> anyhow::Result<Self> {
        let dirs = BaseDirs::new().context("no home folder is known for this user; set HOME")?;
        let uid = Uid::effective();
        let own = User::from_uid(uid).ok().flatten().map(|user| user.name);
        let kind = Kind::here();
        // A LaunchDaemon runs as whoever installs it, with sudo or without.
        let by_sudo =
            environment.var("SUDO_USER").filter(|_| kind == Kind::Launchd && uid.is_root());
        let name = by_sudo.map(str::to_owned).or(own);
        let control = env::current_exe().context("this program does not know its own path")?;
        Ok(Self {
            kind,
            root: "/".into(),
            systemctl: first(&["/usr/bin/systemctl", "/bin/systemctl"]),
            journalctl: first(&["/usr/bin/journalctl", "/bin/journalctl"]),
            launchctl: "/bin/launchctl".into(),
            uid: uid.as_raw(),
            user: name.unwrap_or_else(|| uid.to_string()),
            home: dirs.home_dir().into(),
            config_home: dirs.config_dir().into(),
            state_home: dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).into(),
            runtime: runtime(environment, uid),
            daemon: beside(&control, "moltbotd"),
            control,
            pace: Pace::default(),
            dry_run,
            steps: Mutex::default(),
        })
    }

    /// Returns a path of the host.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Asks a program; nothing changes by that.
    ///
    /// # Errors
    /// When it cannot be run or does not end in time.
    pub async fn ask(&self, command: &[String]) -> Result<Outcome, RunError> {
        run(command, &self.variables(), self.pace.question).await
    }

    /// Runs a program that changes something.
    ///
    /// # Errors
    /// When it cannot be run or does not end in time.
    pub async fn change(&self, command: Vec<String>) -> Result<Outcome, RunError> {
        self.note(Step::Run { command: command.clone() });
        if self.dry_run {
            return Ok(Outcome { code: Some(0), ..Outcome::default() });
        }
        run(&command, &self.variables(), self.pace.change).await
    }

    /// Runs a program that must be content.
    ///
    /// # Errors
    /// When it is not; the error repeats what it said.
    pub async fn must(&self, command: Vec<String>) -> anyhow::Result<()> {
        let text = shown(&command);
        let outcome = self.change(command).await?;
        anyhow::ensure!(outcome.ok(), "{text}: {}", outcome.complaint());
        Ok(())
    }

    /// Replaces a file that anybody may read.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        self.note(Step::Write { path: path.to_owned(), text: text.to_owned() });
        if self.dry_run {
            return Ok(());
        }
        replace(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self, path: &Path) -> anyhow::Result<()> {
        if !path.exists() {
            return Ok(());
        }
        self.note(Step::Remove { path: path.to_owned() });
        if self.dry_run {
            return Ok(());
        }
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Waits until `seen` is true; returns whether it ever was. With
    /// `--dry-run` everything happens at once.
    pub async fn until<F: Future<Output = bool>>(&self, mut seen: impl FnMut() -> F) -> bool {
        if self.dry_run {
            return true;
        }
        for _ in 0..self.pace.looks {
            if seen().await {
                return true;
            }
            tokio::time::sleep(self.pace.pause).await;
        }
        false
    }

    /// Returns the steps so far.
    #[must_use]
    pub fn taken(&self) -> Vec<Step> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses what only root may do.
    ///
    /// # Errors
    /// With the command to type instead.
    pub fn may_change(&self, scope: Scope, what: &str) -> anyhow::Result<()> {
        match scope {
            Scope::System if self.uid != 0 && !self.dry_run => Err(helped(
                format!("only root may {what} a service of the system"),
                format!("sudo {} service {what} --system", self.control.display()),
            )),
            Scope::User
                if self.uid == 0 && self.kind == Kind::Systemd && self.runtime.is_none() =>
            {
                Err(helped(
                    "root has no service manager of its own in this session",
                    "use --system, or run this as the user whose service it is",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that there is a daemon to be started.
    ///
    /// # Errors
    /// When there is none.
    pub fn need_daemon(&self) -> anyhow::Result<()> {
        if self.daemon.is_file() {
            return Ok(());
        }
        Err(helped(
            format!("there is no {}", self.daemon.display()),
            "install moltbotd beside moltbotctl, or name it with --daemon",
        ))
    }

    fn note(&self, step: Step) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// A login over ssh or `su` may lack what leads to the user's bus.
    fn variables(&self) -> Vec<(String, String)> {
        let runtime = self.runtime.iter().map(|path| path.display().to_string());
        runtime.map(|path| ("XDG_RUNTIME_DIR".to_owned(), path)).collect()
    }
}

fn runtime(environment: &Environment, uid: Uid) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let own = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == uid.as_raw())
    };
    let named = environment.var("XDG_RUNTIME_DIR").map(PathBuf::from);
    named.into_iter().chain([Path::new("/run/user").join(uid.to_string())]).find(own)
}

fn first(paths: &[&str]) -> PathBuf {
    let there = paths.iter().find(|path| Path::new(path).exists());
    there.or_else(|| paths.first()).map(PathBuf::from).unwrap_or_default()
}

/// Returns the program of that name that belongs to this one.
fn beside(control: &Path, name: &str) -> PathBuf {
    let own = control.with_file_name(name);
    let others = ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"];
    let others = others.iter().map(|folder| Path::new(folder).join(name));
    [own.clone()].into_iter().chain(others).find(|path| path.is_file()).unwrap_or(own)
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let draft = folder.join(format!(".{}.tmp", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft)?;
        file.write_all(text.as_bytes())?;
        // A narrow umask would keep the service manager from reading it.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        // The reason is told; the draft is only rubbish.
        let _ = fs::remove_file(&draft);
    }
    written
}
