//! A real sshd on a loopback port with keys of its own, and an `ssh` that knows
//! it. `tests/run` unpacks the server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::{Ctl, PATIENCE, ports, programs};

/// Names the folder that `tests/run` filled.
pub const FOLDER_VARIABLE: &str = "MOLTBOT_TESTS_SSHD";

/// The name that the client's configuration has for the server.
pub const HOST: &str = "far";

/// A running server, and the client's side of it; killed when dropped.
#[derive(Debug)]
pub struct Sshd {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Sshd {
    /// Starts a server that lets this user in.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts a server with further lines of `sshd_config`.
    pub async fn start_with(lines: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("sshd").tempdir().unwrap();
        for key in ["host", "id", "stranger"] {
            let file = folder.path().join(key);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&file)
                .status();
            assert!(made.await.unwrap().success(), "ssh-keygen makes {}", file.display());
        }
        let path = folder.path();
        fs::copy(path.join("id.pub"), path.join("authorized")).unwrap();
        let (port, child) = launch(path, lines).await;
        let sshd = Self { folder, port, child };
        sshd.write_client("");
        sshd.know("host");
        sshd
    }

    /// Returns the server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns `user@address:port` of the server.
    #[must_use]
    pub fn target(&self) -> String {
        format!("{}@127.0.0.1:{}", user(), self.port)
    }

    /// Returns what a client elsewhere has in `~/.ssh/config` for this server,
    /// under the name [`HOST`], and in `~/.ssh/known_hosts`. Its key is the file
    /// of [`Sshd::key`] `id`, as `~/.ssh/id`.
    #[must_use]
    pub fn client_files(&self) -> (String, String) {
        let public = fs::read_to_string(self.key("host.pub")).unwrap();
        let config = format!(
            "Host {HOST}\nHostName 127.0.0.1\nPort {}\nUser {}\nIdentityFile ~/.ssh/id\n\
             IdentitiesOnly yes\n",
            self.port,
            user()
        );
        let mut words = public.split(' ');
        let (kind, key) = (words.next().unwrap(), words.next().unwrap());
        (config, format!("[127.0.0.1]:{} {kind} {key}\n", self.port))
    }

    /// Returns the file of a key: `id`, which is let in, or `stranger`.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets a `moltbotctl` use this ssh.
    #[must_use]
    pub fn client(&self, ctl: Ctl) -> Ctl {
        let bin = self.folder.path().join("bin");
        ctl.set("PATH", &format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()))
    }

    /// Returns an ssh of this client, to be used by itself.
    #[must_use]
    pub fn ssh(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("bin/ssh"));
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Makes the client know a key as the server's: `host`, which is right, or
    /// another; nothing when it is `None`.
    pub fn know<'a>(&self, key: impl Into<Option<&'a str>>) {
        let known = key.into().map_or_else(String::new, |key| {
            let public = fs::read_to_string(self.key(&format!("{key}.pub"))).unwrap();
            let mut words = public.split(' ');
            let (kind, key) = (words.next().unwrap(), words.next().unwrap());
            format!("[127.0.0.1]:{} {kind} {key}\n", self.port)
        });
        fs::write(self.folder.path().join("known_hosts"), known).unwrap();
    }

    /// Lets the client share one connection that stays, as people have it in
    /// `~/.ssh/config`.
    pub fn multiplex(&self) {
        self.share("ControlPersist 60");
    }

    /// Lets the client share the connection of whoever comes first.
    pub fn multiplex_while_used(&self) {
        self.share("ControlPersist no");
    }

    /// Gives the client further lines of `~/.ssh/config`, for every host.
    pub fn configure_client(&self, lines: &str) {
        self.write_client(lines);
    }

    fn share(&self, lines: &str) {
        let socket = self.folder.path().join("master");
        let path = socket.display();
        self.write_client(&format!("ControlMaster auto\nControlPath {path}\n{lines}\n"));
    }

    /// Returns the ssh processes that were started and still run.
    #[must_use]
    pub fn clients(&self) -> Vec<i32> {
        let started = fs::read_to_string(self.folder.path().join("started")).unwrap_or_default();
        let started = started.lines().filter_map(|line| line.parse().ok());
        started.filter(|pid| lives(*pid)).collect()
    }

    /// Kills the ssh processes that run; returns how many there were.
    pub fn kill_clients(&self) -> usize {
        let clients = self.clients();
        for pid in &clients {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        clients.len()
    }

    /// Stops the ssh processes in their tracks, as a network that is gone does.
    pub fn freeze_clients(&self) {
        for pid in self.clients() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
        }
    }

    /// Kills the server with everybody who is logged in.
    pub async fn kill(&mut self) {
        let parent = i32::try_from(self.child.id().unwrap()).unwrap();
        let all = descendants(parent);
        self.child.kill().await.unwrap();
        for pid in all {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Starts the server again on its port, after [`Sshd::kill`].
    pub async fn start_again(&mut self) {
        self.child = spawn(self.folder.path());
        assert!(listens(&mut self.child, self.port).await, "sshd starts again: {}", self.log());
    }

    /// Lets the key in with limits only, as `authorized_keys` has them.
    pub fn limit_key(&self, limits: &str) {
        let public = fs::read_to_string(self.key("id.pub")).unwrap();
        fs::write(self.folder.path().join("authorized"), format!("{limits} {public}")).unwrap();
    }

    /// Returns what the server wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The wrapper replaces itself by the system's ssh, which looks for its
    /// configuration in the home of the user and nowhere else.
    fn write_client(&self, lines: &str) {
        let path = self.folder.path();
        let show = |name: &str| path.join(name).display().to_string();
        let config = format!(
            "Host {HOST}\nHostName 127.0.0.1\nPort {}\nUser {}\nHost *\nIdentityFile {}\n\
             IdentitiesOnly yes\nUserKnownHostsFile {}\nGlobalKnownHostsFile /dev/null\n{lines}",
            self.port,
            user(),
            show("id"),
            show("known_hosts"),
        );
        fs::write(path.join("client"), config).unwrap();
        let wrapper = path.join("bin/ssh");
        fs::create_dir_all(path.join("bin")).unwrap();
        let text = format!(
            "#!/bin/sh\necho $$ >> {}\nexec /usr/bin/ssh -F {} \"$@\"\n",
            show("started"),
            show("client")
        );
        programs::install_script(&text, &wrapper);
    }
}

fn user() -> String {
    let user = nix::unistd::User::from_uid(Uid::effective()).unwrap();
    user.expect("this user has a name").name
}

async fn launch(folder: &Path, lines: &str) -> (u16, Child) {
    for _ in 0..20 {
        let port = ports::free();
        let show = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n\
             KbdInteractiveAuthentication no\n{lines}\n",
            show("host"),
            show("authorized"),
        );
        fs::write(folder.join("server"), config).unwrap();
        // Root's sshd wants an account of its own, which this host may not have.
        let root = nix::unistd::User::from_uid(Uid::from_raw(0)).unwrap().unwrap();
        let root = format!("root:x:0:0::{}:{}\n", root.dir.display(), root.shell.display());
        let accounts = format!("{root}sshd:x:65534:65534::/run/sshd:/usr/sbin/nologin\n");
        fs::write(folder.join("passwd"), accounts).unwrap();
        let mut child = spawn(folder);
        if listens(&mut child, port).await {
            return (port, child);
        }
    }
    panic!("sshd does not start: {}", fs::read_to_string(folder.join("log")).unwrap_or_default())
}

fn spawn(folder: &Path) -> Child {
    let (program, libraries) = server();
    let mut command = if Uid::effective().is_root() {
        // In a mount namespace of its own, so that nothing of it is seen outside.
        let script = "mount --bind $0/passwd /etc/passwd && mount -t tmpfs tmpfs /run \
                      && mkdir -m 755 /run/sshd && exec env LD_LIBRARY_PATH=$2 $1 -D -e -f $0/server";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", script]);
        command.arg(folder).arg(program).arg(libraries);
        command
    } else {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", libraries).args(["-D", "-e", "-f"]);
        command.arg(folder.join("server"));
        command
    };
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    command.spawn().unwrap()
}

/// Returns the server and where its libraries are.
fn server() -> (PathBuf, String) {
    let cache = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let folder = std::env::var_os(FOLDER_VARIABLE)
        .map_or_else(|| cache.join(".cache/moltbot-tests/sshd"), PathBuf::from);
    let program = folder.join("usr/sbin/sshd");
    assert!(program.is_file(), "{} is missing; tests/run unpacks it", program.display());
    let architecture = std::env::consts::ARCH;
    let libraries = ["usr/lib", "lib"].map(|place| {
        folder.join(place).join(format!("{architecture}-linux-gnu")).display().to_string()
    });
    (program, libraries.join(":"))
}

async fn listens(child: &mut Child, port: u16) -> bool {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    false
}

fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = stat.rsplit(") ").next()?.split(' ');
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

fn lives(pid: i32) -> bool {
    let ours = || fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(b"ssh"));
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X')) && ours()
}

fn descendants(parent: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let children: Vec<i32> =
        pids.filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent)).collect();
    let deeper = children.iter().flat_map(|pid| descendants(*pid)).collect::<Vec<_>>();
    [children, deeper].concat()
}
