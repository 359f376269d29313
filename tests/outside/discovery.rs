//! Announcements on a network that the test makes itself: a namespace with one
//! interface and no way out. Needs root, as the other tests with hosts of their
//! own do.

use std::{
    fs::{self, File},
    process::Stdio,
    time::Duration,
};

use mdns_sd::{IfKind, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo};
use moltbot_tests::{Client, Ctl, Options, PATIENCE, programs};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

const SERVICE: &str = "_moltbot-gw._tcp.local.";
const ADDRESS: &str = "192.0.2.10";

/// A network of its own; gone when dropped.
struct Network {
    holder: Child,
}

impl Network {
    async fn new() -> Self {
        let script = format!(
            "set -e; ip link set lo up; ip link add lan0 type veth peer name lan1; \
             ip link set lan1 up; ip link set lan0 up; ip addr add {ADDRESS}/24 dev lan0; \
             ip route add default dev lan0; echo made; exec sleep infinity"
        );
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(holder.stdout.take().unwrap()).lines();
        let made = said.next_line().await.unwrap();
        assert_eq!(made.as_deref(), Some("made"), "root, `unshare` and `ip` are needed");
        Self { holder }
    }

    fn command(&self, command: &Command) -> Command {
        let command = command.as_std();
        let mut inside = Command::new("nsenter");
        inside
            .args(["--net", "-t", &self.holder.id().unwrap().to_string(), "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        inside
    }

    /// Returns an mDNS responder of another program on this network.
    fn neighbour(&self) -> ServiceDaemon {
        let namespace = format!("/proc/{}/ns/net", self.holder.id().unwrap());
        let inside = move || {
            setns(File::open(namespace).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            let mdns = ServiceDaemon::new().unwrap();
            mdns.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6]).unwrap();
            mdns
        };
        // Only this thread moves there, and the responder's own with it.
        std::thread::spawn(inside).join().unwrap()
    }
}

/// A gateway on such a network.
struct Gateway {
    home: TempDir,
    ctl: Ctl,
    child: Child,
}

impl Gateway {
    async fn start(network: &Network, config: &Value) -> Self {
        let home = tempfile::Builder::new().prefix("moltbot").tempdir().unwrap();
        let at = |name: &str| home.path().join(name).display().to_string();
        fs::create_dir(at("run")).unwrap();
        fs::write(at("moltbot.json"), config.to_string()).unwrap();
        let variables = [
            ("HOME", home.path().display().to_string()),
            ("XDG_RUNTIME_DIR", at("run")),
            ("MOLTBOT_CONFIG_PATH", at("moltbot.json")),
            ("MOLTBOT_STATE_DIR", at("state")),
            ("MOLTBOT_PROFILE", Options::default().profile),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let mut command = Command::new(programs::moltbotd());
        command.env("PATH", "/usr/bin:/bin").envs(variables.clone());
        let child =
            network.command(&command).stderr(File::create(at("log")).unwrap()).spawn().unwrap();
        let ctl = Ctl::with(home.path(), variables.into());
        let gateway = Self { home, ctl, child };
        gateway.ready().await;
        gateway
    }

    /// The control socket is a file, so it is reached from everywhere.
    async fn ready(&self) {
        let socket = self.home.path().join("state/run/control.sock");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while Client::open_control(&socket).await.is_err() {
            let log = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            assert!(tokio::time::Instant::now() < deadline, "{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The gateway follows its file.
    fn announce(&self, mode: &str) {
        let config = json!({ "discovery": { "mdns": { "mode": mode } } });
        fs::write(self.home.path().join("moltbot.json"), config.to_string()).unwrap();
    }

    async fn discover(&self, network: &Network) -> (Value, String) {
        let arguments = ["gateway", "discover", "--timeout", "10000"];
        let mut outputs = Vec::new();
        for further in [&["--json"][..], &[]] {
            let command = self.ctl.command(&[&arguments[..], further].concat());
            let output = network.command(&command).output().await.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            outputs.push(String::from_utf8(output.stdout).unwrap());
        }
        (serde_json::from_str(&outputs[0]).unwrap(), outputs.remove(1))
    }
}

/// Waits for news of a gateway; returns its text record, `None` once it is gone.
fn news(events: &Receiver<ServiceEvent>, what: &str) -> Option<Vec<String>> {
    loop {
        match events.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nothing heard: {what}")) {
            ServiceEvent::ServiceResolved(service) => {
                assert_eq!(service.port, 18789);
                let keys = service.txt_properties.iter().map(|text| text.key().to_owned());
                return Some(keys.collect());
            }
            ServiceEvent::ServiceRemoved(..) => return None,
            _ => {}
        }
    }
}

/// Waits until the announcement holds a key, or no longer does.
fn until_told(events: &Receiver<ServiceEvent>, key: &str, told: bool) {
    while news(events, key).is_none_or(|keys| keys.iter().any(|it| it == key) != told) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_announced_as_the_configuration_says_and_says_goodbye() {
    let network = Network::new().await;
    let events = network.neighbour().browse(SERVICE).unwrap();
    let config = json!({ "discovery": { "mdns": { "mode": "minimal" } } });
    let mut gateway = Gateway::start(&network, &config).await;
    let keys = news(&events, "the announcement").unwrap();
    for (key, told) in [
        ("role", true),
        ("gatewayPort", true),
        ("transport", true),
        ("sshPort", false),
        ("cliPath", false),
    ] {
        assert_eq!(keys.iter().any(|it| it == key), told, "{key}: {keys:?}");
    }
    let (report, text) = gateway.discover(&network).await;
    assert_eq!(report["count"], 1, "{report}");
    assert_eq!(report["beacons"][0]["wsUrl"], format!("ws://{ADDRESS}:18789"), "{report}");
    assert!(text.contains(ADDRESS), "{text}");

    gateway.announce("full");
    until_told(&events, "sshPort", true);
    gateway.announce("off");
    while news(&events, "the goodbye at a change").is_some() {}
    gateway.announce("minimal");
    until_told(&events, "sshPort", false);
    let pid = i32::try_from(gateway.child.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    while news(&events, "the goodbye at the stop").is_some() {}
    assert!(gateway.child.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_announcement_is_shown_harmlessly_and_changes_nothing() {
    let network = Network::new().await;
    let config = json!({ "gateway": { "mode": "local" } });
    let gateway = Gateway::start(&network, &config).await;
    let neighbour = network.neighbour();
    let text = [
        ("displayName", "\u{1b}[2J\u{202e}gateway\r\nof yours"),
        ("lanHost", "evil.example"),
        ("gatewayPort", "22"),
        ("gatewayTlsSha256", "0000"),
        ("tailnetDns", "\u{7}evil.ts.net"),
        ("sshPort", "-oProxyCommand=touch x"),
    ];
    let service =
        ServiceInfo::new(SERVICE, "\u{1b}[31mred", "evil.local.", ADDRESS, 4444, &text[..]);
    neighbour.register(service.unwrap()).unwrap();
    let before = fs::read_to_string(gateway.home.path().join("moltbot.json")).unwrap();
    let (report, text) = gateway.discover(&network).await;
    assert_eq!(report["count"], 1, "{report}");
    assert_eq!(report["beacons"][0]["wsUrl"], format!("ws://{ADDRESS}:4444"), "{report}");
    assert_eq!(report["beacons"][0]["sshPort"], Value::Null);
    let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!text.contains(steers), "{text:?}");
    let name = report["beacons"][0]["displayName"].as_str().unwrap();
    assert!(!name.contains(|c: char| c.is_control() || c == '\u{202e}'), "{name:?}");

    let after = fs::read_to_string(gateway.home.path().join("moltbot.json")).unwrap();
    assert_eq!(before, after, "nothing heard is kept");
    let found = gateway.ctl.json(&["where"]).await.to_string();
    assert!(!found.contains("4444") && !found.contains("evil"), "{found}");
}
