//! The processes being measured.

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use moltbot_tests::{Connect, Daemon, Options, SteeredModel, daemon::TOKEN, ports, programs};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::clients::{Peer, request};

/// Raises the limit of open files as far as allowed and returns it.
pub(crate) fn raise_file_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    hard
}

/// A running daemon.
pub(crate) struct Gateway(Daemon);

impl Gateway {
    /// Starts one that uses a model server for its runs.
    pub(crate) async fn start(model: &SteeredModel) -> Self {
        let mut config = config();
        config["models"] = model.models();
        config["agents"] = json!({ "defaults": { "model": { "primary": "mock/mock-1" } } });
        Self(Daemon::start_with(Options::with(config)).await)
    }

    /// Returns the WebSocket address.
    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    /// Connects an operator without a device key.
    pub(crate) async fn operator(&self) -> Peer {
        Peer::connect(&self.url(), &Connect::operator()).await
    }

    /// Returns the resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Starts agent runs that stream for two seconds each.
    pub(crate) async fn start_busy_runs(&self, count: usize) {
        let mut operator = self.operator().await;
        for number in 0..count {
            let params = json!({
                "sessionKey": format!("agent:main:busy-{number}"),
                "message": "SLOW",
                "idempotencyKey": format!("busy-{number}"),
            });
            operator.send(&request("chat.send", &params)).await;
        }
        operator.read_until(|text| text.contains("\"stream\":\"assistant\"")).await;
    }

    /// Returns how long a whole `moltbotctl` took.
    pub(crate) fn time_command(&self, arguments: &[&str]) -> Duration {
        let began = Instant::now();
        let status = Command::new(programs::moltbotctl())
            .args(arguments)
            .env_clear()
            .envs(self.0.variables())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        let took = began.elapsed();
        assert!(status.success());
        took
    }

    /// Stops it and waits for its end.
    pub(crate) async fn terminate(&mut self) {
        self.0.signal(Signal::SIGTERM);
        self.0.ended().await;
    }
}

/// The echo server, a process of its own like the daemon.
pub(crate) struct Echo {
    child: Child,
    port: u16,
}

impl Echo {
    /// Starts this program once more, as the server.
    pub(crate) async fn start() -> Self {
        let port = ports::free();
        let own = std::env::current_exe().unwrap();
        let child = Command::new(own).arg(port.to_string()).spawn().unwrap();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { child, port }
    }

    /// Returns the WebSocket address.
    pub(crate) fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long a start took.
pub(crate) struct Started {
    /// From the start of the process to `READY=1`.
    pub(crate) ready: Duration,
    /// CPU time of all threads until then.
    pub(crate) cpu: Duration,
}

/// Starts a daemon, waits for `READY=1` and stops it.
pub(crate) async fn measure_start(home: Option<&Path>) -> Started {
    let own = tempfile::tempdir().unwrap();
    let home = home.unwrap_or(own.path());
    let socket = own.path().join("notify");
    let notify = UnixDatagram::bind(&socket).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let began = Instant::now();
    let mut child = Command::new(programs::moltbotd())
        .args(["--port", &ports::free().to_string(), "--log-format", "text"])
        .env_clear()
        .env("HOME", home)
        .env("MOLTBOT_STATE_DIR", home.join("state"))
        .env("MOLTBOT_PROFILE", "bench")
        .env("NOTIFY_SOCKET", &socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut buffer = [0; 1024];
    loop {
        let length = notify.recv(&mut buffer).expect("the daemon becomes ready");
        if String::from_utf8_lossy(&buffer[..length]).contains("READY=1") {
            break;
        }
    }
    let started = Started { ready: began.elapsed(), cpu: cpu_time(child.id()) };
    child.kill().unwrap();
    child.wait().unwrap();
    started
}

/// The first number of each thread's `schedstat` is its time on a CPU, in
/// nanoseconds.
fn cpu_time(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanoseconds)
}

/// Returns a home whose state holds many sessions.
pub(crate) async fn home_with_sessions(count: usize) -> TempDir {
    let mut daemon = Daemon::start_with(Options::with(config())).await;
    let mut operator = Peer::connect(&daemon.url(), &Connect::operator()).await;
    let home = tempfile::tempdir().unwrap();
    for batch in (0..count).collect::<Vec<_>>().chunks(200) {
        for number in batch {
            let params =
                json!({ "key": format!("agent:main:bench-{number}"), "thinkingLevel": "low" });
            operator.send(&request("sessions.patch", &params)).await;
        }
        for _ in batch {
            let answer = operator.read_until(|text| text.contains("\"id\":\"1\"")).await;
            assert!(answer.contains("\"ok\":true"), "{answer}");
        }
    }
    daemon.stop().await;
    let status = Command::new("cp")
        .args(["-a", daemon.state_dir().to_str().unwrap(), home.path().to_str().unwrap()])
        .status()
        .unwrap();
    assert!(status.success());
    home
}

fn config() -> Value {
    json!({ "gateway": { "auth": { "token": TOKEN } } })
}
