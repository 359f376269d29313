//! The executable: exit codes, signals, what the service manager hears, and
//! the modes of its files.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn wrong_flags_end_with_64() {
    let host = Host::new();
    for arguments in [&["--bogus"][..], &["run"], &["--port", "0"], &["--profile", "A_b"]] {
        let output = host.command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
    let output = host.command().env("MOLTBOT_PROFILE", "../x").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let output =
        host.command().env_remove("PORT").env("CLAWDBOT_GATEWAY_PORT", "high").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("CLAWDBOT_GATEWAY_PORT is \"high\""), "{}", text(&output));
}

#[test]
fn help_and_version_end_with_0() {
    for argument in ["--help", "--version"] {
        let output = Host::new().command().arg(argument).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("moltbotd"));
    }
}

#[test]
fn an_invalid_configuration_ends_with_78_and_names_the_place() {
    let host = Host::new();
    host.configure("{\n  gateway: { bind: 'wifi' },\n}");
    let output = host.command().output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let place = format!("{}:2:14: gateway.bind: ", host.config().display());
    assert!(text(&output).contains(&place), "{}", text(&output));
    let output = host.command().args(["--config", "missing.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains("missing.json"), "{}", text(&output));
}

#[test]
fn a_check_says_what_a_start_would_and_leaves_nothing_behind() {
    let host = Host::new();
    let check = |host: &Host| host.command().arg("check").output().unwrap();
    assert_eq!(check(&host).status.code(), Some(0));
    assert!(!host.folder.path().join("state").exists());
    host.configure("{\n  gateway: { bind: 'wifi' },\n}");
    let output = check(&host);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains(":2:14: gateway.bind: "), "{}", text(&output));
    host.configure("{ gatway: {} }");
    let output = check(&host);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("gateway"), "{}", text(&output));
}

#[test]
fn what_would_let_strangers_in_ends_with_77() {
    let host = Host::new();
    let output = host.command().args(["--bind", "lan"]).output().unwrap();
    assert_eq!(output.status.code(), Some(77));
    assert!(text(&output).contains("gateway.auth.token"), "{}", text(&output));
    host.configure("{ gateway: { auth: { token: 'same' } }, hooks: { token: 'same' } }");
    let output = host.command().output().unwrap();
    assert_eq!(output.status.code(), Some(77));
    assert!(text(&output).contains("hooks.token"), "{}", text(&output));
    host.configure("{ gateway: { auth: { mode: 'password' } } }");
    assert_eq!(host.command().output().unwrap().status.code(), Some(77));
    if Uid::effective().is_root() {
        host.configure("{}");
        std::os::unix::fs::chown(host.config(), Some(4242), None).unwrap();
        let output = host.command().output().unwrap();
        assert_eq!(output.status.code(), Some(77), "{}", text(&output));
    }
}

#[test]
fn a_taken_port_ends_with_69() {
    let host = Host::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = host.command().args(["--port", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output).contains(&port), "{}", text(&output));
}

#[test]
fn a_second_gateway_ends_with_75_and_names_the_first() {
    let host = Host::new();
    let first = host.start();
    let elsewhere = Host::of_profile(&host.profile);
    let output = elsewhere.command().output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    let holder = format!("pid {}, profile {}, up ", first.child.id(), host.profile);
    assert!(text(&output).contains(&holder), "{}", text(&output));
    assert!(text(&output).contains(&format!("kill {}", first.child.id())));
    // Another profile, but the same state.
    let output =
        host.command().env("MOLTBOT_PROFILE", format!("{}-b", host.profile)).output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    assert!(text(&output).contains(&holder), "{}", text(&output));
}

#[test]
fn the_journal_gets_the_log_instead_of_a_file() {
    let host = Host::new();
    let stderr = fs::File::create(host.folder.path().join("stderr")).unwrap();
    let journal = stderr.metadata().unwrap();
    let mut command = host.command();
    command.env("JOURNAL_STREAM", format!("{}:{}", journal.dev(), journal.ino()));
    let mut gateway = host.start_command(command);
    assert_eq!(gateway.stop(), Some(0));
    assert!(!host.folder.path().join("state/logs/moltbot.log").exists());
    let mut gateway = host.start();
    assert_eq!(gateway.stop(), Some(0));
    assert!(host.folder.path().join("state/logs/moltbot.log").exists());
}

#[test]
fn a_killed_gateway_leaves_no_lock_behind() {
    let host = Host::new();
    let mut first = host.start();
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert_eq!(host.start().stop(), Some(0));
}

#[test]
fn both_stop_signals_end_with_0_and_the_manager_is_told() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let host = Host::new();
        let mut gateway = host.start();
        gateway.signal(signal);
        host.hear(|message| message.contains("STOPPING=1"));
        assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_reload_is_told_with_its_time_and_ends() {
    let host = Host::new();
    let mut gateway = host.start();
    gateway.signal(Signal::SIGHUP);
    let message = host.hear(|message| message.contains("RELOADING=1"));
    assert!(message.contains("MONOTONIC_USEC="), "{message}");
    host.hear(|message| message.contains("READY=1"));
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn the_watchdog_hears_of_a_gateway_that_lives() {
    let host = Host::new();
    let mut command = host.command();
    command.env("WATCHDOG_USEC", "100000");
    let mut gateway = host.start_command(command);
    for _ in 0..3 {
        host.hear(|message| message == "WATCHDOG=1");
    }
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn a_socket_unit_decides_the_address_and_early_clients_are_served() {
    let host = Host::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut early = TcpStream::connect(address).unwrap();
    let mut gateway = host.start_command(host.command_with_socket(&socket, "gateway"));
    assert!(ask(&mut early, address).starts_with("HTTP/1.1 200"));
    assert_eq!(gateway.stop(), Some(0));
    // The unit's own process closed its copy; the socket is the manager's.
    TcpStream::connect(address).unwrap();
}

#[test]
fn a_socket_unit_that_lets_strangers_in_needs_a_secret() {
    let host = Host::new();
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let output = host.command_with_socket(&socket, "gateway").output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", text(&output));
}

#[test]
fn what_is_handed_over_and_does_not_listen_is_named_and_left() {
    let host = Host::new();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut gateway = host.start_command(host.command_with_socket(&socket, "odd"));
    let log = fs::read_to_string(host.folder.path().join("stderr")).unwrap();
    assert!(log.contains("socket 0 (odd) handed over is not used"), "{log}");
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn the_manager_keeps_the_sockets_and_gives_them_to_the_next_process() {
    let host = Host::new();
    let port = free_port();
    let mut first = host.command();
    first.args(["--port", &port.to_string()]);
    let mut gateway = host.spawn(first);
    let kept = host.hear(|message| message.contains("FDSTORE=1"));
    let name = format!("kept-127.0.0.1.{port}");
    assert!(kept.contains(&format!("FDNAME={name}")), "{kept}");
    host.hear(|message| message.contains("READY=1"));
    assert_eq!(gateway.stop(), Some(0));

    let socket = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let address = socket.local_addr().unwrap();
    let mut waiting = TcpStream::connect(address).unwrap();
    let mut next = host.command_with_socket(&socket, &name);
    next.args(["--port", &port.to_string()]);
    let mut gateway = host.spawn(next);
    assert!(ask(&mut waiting, address).starts_with("HTTP/1.1 200"));
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn a_kept_socket_of_another_port_is_given_up() {
    let host = Host::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = host.command_with_socket(&socket, "kept-old");
    command.args(["--port", &free_port().to_string()]);
    let mut gateway = host.spawn(command);
    let message = host.hear(|message| message.contains("FDSTOREREMOVE=1"));
    assert!(message.contains("FDNAME=kept-old"), "{message}");
    host.hear(|message| message.contains("READY=1"));
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn the_managers_credentials_are_the_gateways_secrets() {
    let host = Host::new();
    let folder = host.folder.path().join("credentials");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("gateway-token"), "short").unwrap();
    let mut command = host.command();
    command.env("CREDENTIALS_DIRECTORY", &folder).args(["--bind", "lan"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(77));
    assert!(text(&output).contains("easy to guess"), "{}", text(&output));
}

/// Reads what a service manager is told all the time, as a real one does: whoever
/// tells it something waits while ten messages lie there unread.
fn listen(manager: UnixDatagram) -> Receiver<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length) = manager.recv(&mut bytes) {
            let message = String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned();
            if tell.send(message).is_err() {
                return;
            }
        }
    });
    told
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn ask(stream: &mut TcpStream, address: SocketAddr) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn what_it_writes_is_for_its_user_alone() {
    let host = Host::new();
    let folder = host.folder.path().join("state");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut gateway = host.start();
    let mut found = Vec::new();
    collect(&folder, &mut found);
    assert!(found.iter().any(|(path, _)| path.ends_with("gateway-token")), "{found:?}");
    for (path, mode) in &found {
        assert_eq!(mode & 0o077, 0, "{path} has mode {mode:o}");
    }
    assert_eq!(gateway.stop(), Some(0));
}

fn collect(path: &Path, found: &mut Vec<(String, u32)>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    found.push((path.display().to_string(), metadata.mode()));
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_service_manager_that_does_not_read_stalls_nothing_and_is_told_later() {
    let host = Host::new();
    let path = host.folder.path().join("notify");
    fs::remove_file(&path).unwrap();
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    fill(&path);
    let mut command = host.command();
    let port = free_port();
    command.args(["--port", &port.to_string()]);
    let mut gateway = host.spawn(command);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let serves = || TcpStream::connect(address).is_ok_and(|mut it| is_ok(&ask(&mut it, address)));
    until(serves, || host.log());
    // It has gone on after it told that it serves, and goes on after it told
    // that it reloads.
    for (text, changed) in [("{}", "\"\""), ("{ logging: { level: 'debug' } }", "\"logging")] {
        host.configure(text);
        gateway.signal(Signal::SIGHUP);
        let line = format!("configuration reloaded changed={changed}");
        until(|| host.log().contains(&line), || host.log());
    }
    until(serves, || host.log());
    let mut buffer = [0; 4096];
    loop {
        let length = manager.recv(&mut buffer).unwrap();
        if String::from_utf8_lossy(&buffer[..length]).contains("READY=1") {
            break;
        }
    }
    fill(&path);
    gateway.signal(Signal::SIGTERM);
    let mut ended = None;
    until(
        || {
            ended = gateway.child.try_wait().unwrap();
            ended.is_some()
        },
        || host.log(),
    );
    assert_eq!(ended.unwrap().code(), Some(0), "{}", host.log());
}

/// Sends to a socket until it takes no more from anybody.
fn fill(path: &Path) {
    loop {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(path).unwrap();
        sender.set_nonblocking(true).unwrap();
        if sender.send(b"X=1").is_err() {
            return;
        }
        while sender.send(b"X=1").is_ok() {}
    }
}

fn is_ok(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
}

fn until(mut fits: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !fits() {
        assert!(std::time::Instant::now() < deadline, "{}", otherwise());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A folder, a profile and a service manager of its own.
struct Host {
    folder: TempDir,
    profile: String,
    told: Receiver<String>,
}

struct Gateway {
    child: Child,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let unique = folder.path().file_name().unwrap().to_str().unwrap();
        let profile = format!("t{}", unique.trim_start_matches('.').to_ascii_lowercase());
        Self::at(folder, &profile)
    }

    fn of_profile(profile: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), profile)
    }

    fn at(folder: TempDir, profile: &str) -> Self {
        let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let host = Self { folder, profile: profile.into(), told: listen(manager) };
        host.configure("{}");
        host
    }

    fn config(&self) -> std::path::PathBuf {
        self.folder.path().join("moltbot.json")
    }

    fn configure(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
        fs::set_permissions(self.config(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moltbotd"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("MOLTBOT_PROFILE", &self.profile)
            .env("MOLTBOT_CONFIG_PATH", self.config())
            .env("MOLTBOT_STATE_DIR", self.folder.path().join("state"))
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// A command that gets a socket as a service manager hands it over.
    fn command_with_socket(&self, socket: &impl AsFd, name: &str) -> Command {
        let plain = self.command();
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(plain.get_program()).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
        command.current_dir(self.folder.path());
        command.stdin(socket.as_fd().try_clone_to_owned().unwrap());
        command
    }

    fn start(&self) -> Gateway {
        self.start_command(self.command())
    }

    /// Starts on a free port; somebody else may take it in between.
    fn start_command(&self, mut command: Command) -> Gateway {
        command.args(["--port", &free_port().to_string()]);
        let gateway = self.spawn(command);
        self.hear(|message| message.contains("READY=1"));
        gateway
    }

    fn spawn(&self, mut command: Command) -> Gateway {
        let stderr = fs::File::create(self.folder.path().join("stderr")).unwrap();
        Gateway { child: command.stderr(stderr).spawn().unwrap() }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// Waits for a message to the service manager.
    fn hear(&self, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let message = self.told.recv_timeout(PATIENCE).unwrap_or_else(|error| {
                let log = fs::read_to_string(self.folder.path().join("stderr"));
                panic!("{error}\n{}", log.unwrap_or_default())
            });
            if fits(&message) {
                return message;
            }
        }
    }
}

impl Gateway {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
