//! A running `moltbotd` with its own home, state and port.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use moltbotctl::tls::Pins;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    process::{Child, Command},
};

use crate::{Client, Connect, PATIENCE, ports, programs};

/// The shared token of every test daemon.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The control socket, below the home.
const CONTROL_SOCKET: &str = "state/run/control.sock";

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file's content.
    pub config: Value,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Further environment variables.
    pub variables: Vec<(String, String)>,
    /// Name of the profile: one of its own by default, because a host runs one
    /// daemon of a profile.
    pub profile: String,
}

impl Default for Options {
    /// A daemon that wants [`TOKEN`].
    fn default() -> Self {
        Self::with(json!({ "gateway": { "auth": { "token": TOKEN } } }))
    }
}

impl Options {
    /// A daemon that wants [`TOKEN`] and whose configuration names a port that nobody listens on:
    /// for tests that ask about the port of one that is stopped. The default port may be taken.
    #[must_use]
    pub fn with_own_port() -> Self {
        Self::with(json!({ "gateway": { "port": ports::free(), "auth": { "token": TOKEN } } }))
    }

    /// A daemon with a configuration of one's own.
    #[must_use]
    pub fn with(config: Value) -> Self {
        let profile = format!("test-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        Self { config, arguments: Vec::new(), variables: Vec::new(), profile }
    }
}

/// A running daemon, killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    home: TempDir,
    options: Options,
    port: u16,
    child: Child,
}

impl Daemon {
    /// Starts a daemon that wants [`TOKEN`] and waits until it serves.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts a daemon and waits until it serves.
    pub async fn start_with(options: Options) -> Self {
        let home =
            tempfile::Builder::new().prefix("moltbot").tempdir().expect("a temporary folder");
        for folder in ["run", "state"] {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(home.path().join(folder)).expect("the temporary folder is writable");
        }
        write_config(home.path(), &options.config);
        let (port, child) = launch(home.path(), &options).await;
        Self { home, options, port, child }
    }

    /// Returns the WebSocket address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Returns the TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns what pins the certificate that this daemon made.
    #[must_use]
    pub fn pins(&self) -> Pins {
        Pins::of_file(&self.state_dir().join("gateway/tls/gateway-cert.pem"))
            .expect("the daemon made a certificate")
    }

    /// Returns the folder that holds everything of this daemon.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns the state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.home().join("state")
    }

    /// Returns the path of the control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.home.path().join(CONTROL_SOCKET)
    }

    /// Returns what the daemon wrote to standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.home().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the daemon is running")
    }

    /// Returns the variables that lead a client on the same host here.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        variables(self.home(), &self.options)
    }

    /// Connects an operator with the shared token and every right.
    pub async fn operator(&self) -> Client {
        self.connect(Connect::operator()).await
    }

    /// Connects a client that must be let in.
    pub async fn connect(&self, connect: Connect) -> Client {
        Client::connect(&self.url(), connect).await.unwrap_or_else(|refusal| {
            panic!("refused: {refusal:?}\n{}", self.log());
        })
    }

    /// Asks for a path over plain HTTP; returns the status and the body.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        request(self.port, "GET", path, headers).await.expect("the daemon answers")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("process ids fit"));
        kill(pid, signal).expect("the daemon is running");
    }

    /// Returns how the process ended, if it did without being asked.
    pub fn death(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the daemon can be waited for")
    }

    /// Waits until the process has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("the daemon ends in time")
            .expect("the daemon can be waited for")
    }

    /// Asks the daemon to stop and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Kills the daemon without a warning.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Starts again with the same state, after [`Daemon::stop`] or
    /// [`Daemon::kill`].
    pub async fn start_again(&mut self) {
        (self.port, self.child) = launch(self.home.path(), &self.options).await;
    }

    /// Starts again with the same state on the same port, as a service does.
    pub async fn start_again_in_place(&mut self) {
        let program = programs::moltbotd();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.child = spawn(&program, self.home.path(), &self.options, self.port);
            match ready(&mut self.child, self.home.path(), self.port, deadline).await {
                Ok(()) => return,
                Err(Some(69)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(code) => panic!("exit code {code:?}:\n{}", self.log()),
            }
        }
    }

    /// Tries to start again where that must fail; returns the exit code and
    /// what was written to standard error.
    pub async fn fail_to_start(&mut self) -> (Option<i32>, String) {
        let before = self.log().len();
        let program = programs::moltbotd();
        self.child = spawn(&program, self.home.path(), &self.options, ports::free());
        let status = self.ended().await;
        (status.code(), self.log()[before..].to_owned())
    }

    /// Replaces the configuration file. The daemon reads it at its next start
    /// or reload.
    pub fn configure(&mut self, config: Value) {
        write_config(self.home(), &config);
        self.options.config = config;
    }
}

/// Sends one HTTP/1.1 request to a loopback port.
///
/// # Errors
///
/// When the connection breaks before the answer is complete.
pub async fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str(&format!("Host: 127.0.0.1:{port}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .map_err(|_| std::io::ErrorKind::TimedOut)??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let status = status.ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

async fn launch(home: &Path, options: &Options) -> (u16, Child) {
    let program = programs::moltbotd();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let port = ports::free();
        let mut child = spawn(&program, home, options, port);
        match ready(&mut child, home, port, deadline).await {
            Ok(()) => return (port, child),
            // Somebody else took the port between the choice and the bind.
            Err(Some(69)) => {}
            Err(code) => panic!(
                "moltbotd did not start (exit code {code:?}):\n{}",
                std::fs::read_to_string(home.join("log")).unwrap_or_default()
            ),
        }
    }
}

fn spawn(program: &Path, home: &Path, options: &Options, port: u16) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(home.join("log"))
        .expect("the temporary folder is writable");
    Command::new(program)
        .args(["--port", &port.to_string(), "--log-format", "text"])
        .args(&options.arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .envs(variables(home, options))
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("moltbotd is built")
}

/// Waits until the daemon serves. On a port that was taken between the choice
/// and the bind a daemon of another test may answer: only this one's own has the
/// control socket of its home.
async fn ready(
    child: &mut Child,
    home: &Path,
    port: u16,
    deadline: tokio::time::Instant,
) -> Result<(), Option<i32>> {
    loop {
        if let Some(status) = child.try_wait().expect("the daemon can be waited for") {
            return Err(status.code());
        }
        let serves = match request(port, "GET", "/readyz", &[]).await {
            Ok((200, _)) => true,
            Ok((400, text)) => text.contains("TLS only"),
            _ => false,
        };
        if serves && UnixStream::connect(home.join(CONTROL_SOCKET)).await.is_ok() {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(None);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn variables(home: &Path, options: &Options) -> Vec<(String, String)> {
    let path = |name: &str| home.join(name).display().to_string();
    let mut variables = vec![
        ("HOME".to_owned(), home.display().to_string()),
        ("XDG_RUNTIME_DIR".to_owned(), path("run")),
        ("XDG_CONFIG_HOME".to_owned(), path("config")),
        ("XDG_STATE_HOME".to_owned(), path("xdg-state")),
        ("XDG_DATA_HOME".to_owned(), path("data")),
        ("MOLTBOT_CONFIG_PATH".to_owned(), path("moltbot.json")),
        ("MOLTBOT_STATE_DIR".to_owned(), path("state")),
        ("MOLTBOT_PROFILE".to_owned(), options.profile.clone()),
        ("MOLTBOT_DISABLE_BONJOUR".to_owned(), "1".to_owned()),
    ];
    variables.extend(options.variables.iter().cloned());
    variables
}

fn write_config(home: &Path, config: &Value) {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(home.join("moltbot.json"))
        .expect("the temporary folder is writable");
    let text = serde_json::to_string_pretty(config).expect("JSON values serialize");
    file.write_all(text.as_bytes()).expect("the temporary folder is writable");
}
