//! The state of a gateway of the reference, made by itself, taken over.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};

use moltbot_tests::{Ctl, PATIENCE, SteeredModel, daemon::request, programs};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::foreign::Foreign;

const TOKEN: &str = "testtoken";

#[tokio::test]
async fn a_gateway_of_the_reference_is_taken_over_with_its_paired_cli_and_its_conversation() {
    let model = SteeredModel::start().await;
    let mut config = json!({
        "gateway": { "mode": "local", "auth": { "mode": "token", "token": TOKEN } },
        "agents": { "defaults": { "model": { "primary": "mock/mock-1" }, "skipBootstrap": true } },
        "browser": { "enabled": false },
    });
    config["models"] = model.models();
    let reference = Foreign::clawdbot(&config).await;
    config["agents"]["defaults"]["workspace"] =
        reference.home().join("work").display().to_string().into();
    let (mut gateway, port) = reference.gateway(&mut config).await;
    let talk = ["agent", "--agent", "main", "-m", "hello from before", "--json"];
    assert_eq!(reference.json(&talk).await["status"], "ok", "{}", reference.log());
    let job = [
        "cron",
        "add",
        "--name",
        "morning",
        "--cron",
        "0 7 * * *",
        "--session",
        "main",
        "--system-event",
        "good morning",
        "--json",
    ];
    reference.json(&job).await;
    kill(Pid::from_raw(gateway.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
    gateway.wait().await.unwrap();

    let from = reference.home().join("state");
    let before = tree(reference.home());
    let home = tempfile::tempdir().unwrap();
    let ctl = Ours::new(home.path());
    let config_file = reference.home().join("config.json").display().to_string();
    let import = ["import", from.to_str().unwrap(), "--reference-config", &config_file, "--json"];
    let report = ctl.json(&import).await;
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!((&report["port"], &report["secret"]), (&json!(port), &json!("gateway.auth.token")));
    let taken = kinds(&report, "taken");
    assert_eq!(taken["configuration"], 1, "{report:#}");
    assert_eq!(taken["device"], 1, "{report:#}");
    assert_eq!(taken["conversation"], 1, "{report:#}");
    assert_eq!(taken["cron job"], 1, "{report:#}");
    let again = ctl.json(&import).await;
    assert_eq!((&again["taken"], &again["failed"]), (&json!(0), &json!(0)), "{again:#}");
    assert_eq!(again["present"], report["taken"], "{again:#}");
    assert_eq!(tree(reference.home()), before);

    // From now on a device that is not paired has to wait for approval.
    let file = ctl.home.join("state/moltbot.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["gateway"]["pairing"] = json!({ "loopback": "ask" });
    fs::write(&file, config.to_string()).unwrap();
    let mut daemon = ctl.start(port).await;
    let devices = ctl.json(&["devices", "list", "--json"]).await;
    assert_eq!(reference.json(&["health", "--json"]).await["ok"], true, "{}", ctl.log());
    let list = reference.json(&["gateway", "call", "sessions.list", "--json"]).await;
    assert_eq!(list["sessions"][0]["key"], "agent:main:main", "{list}");
    let params = r#"{"sessionKey":"main"}"#;
    let history = ["gateway", "call", "chat.history", "--params", params, "--json"];
    let history = reference.json(&history).await;
    let said: Vec<_> = history["messages"].as_array().unwrap().iter().map(text).collect();
    assert!(said[0].1.contains("hello from before"), "{said:?}");
    assert!(
        said.iter().any(|(role, text)| role == "assistant" && text.contains("Hello from the mock")),
        "{said:?}"
    );
    let talk = ["agent", "--agent", "main", "-m", "hello from after", "--json"];
    assert_eq!(reference.json(&talk).await["status"], "ok", "{}", ctl.log());
    let after = ctl.json(&["devices", "list", "--json"]).await;
    assert_eq!(after["pending"], json!([]), "{after}");
    let approved = |list: &Value| list["paired"][0]["approvedAtMs"].clone();
    assert_eq!(
        (approved(&after), after["paired"].as_array().unwrap().len()),
        (approved(&devices), 1)
    );
    daemon.kill().await.unwrap();
}

/// `moltbotctl` and `moltbotd` in a home of their own, without a word about
/// port or token.
struct Ours {
    ctl: Ctl,
    home: std::path::PathBuf,
    variables: Vec<(String, String)>,
}

impl Ours {
    fn new(home: &Path) -> Self {
        let path = |name: &str| home.join(name).display().to_string();
        let profile = format!("import-{}", std::process::id());
        let variables = [
            ("HOME", path("")),
            ("XDG_RUNTIME_DIR", path("run")),
            ("MOLTBOT_STATE_DIR", path("state")),
            ("MOLTBOT_PROFILE", profile),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { ctl: Ctl::with(home, variables.clone()), home: home.into(), variables }
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ctl.text(arguments).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    async fn start(&self, port: u16) -> Child {
        let log = fs::File::create(self.home.join("log")).unwrap();
        let mut child = Command::new(programs::moltbotd())
            .env_clear()
            .envs(self.variables.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !matches!(request(port, "GET", "/readyz", &[]).await, Ok((200, _))) {
            assert!(child.try_wait().unwrap().is_none(), "{}", self.log());
            assert!(tokio::time::Instant::now() < deadline, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        child
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }
}

fn kinds(report: &Value, outcome: &str) -> BTreeMap<String, usize> {
    let items = report["items"].as_array().unwrap().iter();
    let mut kinds = BTreeMap::new();
    for item in items.filter(|item| item["outcome"] == outcome) {
        *kinds.entry(item["kind"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    kinds
}

fn text(message: &Value) -> (String, String) {
    let role = message["role"].as_str().unwrap().to_owned();
    (role, message["content"].to_string())
}

/// Returns every file below a folder with its bytes, mode and time of change.
fn tree(folder: &Path) -> BTreeMap<String, String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let facts = format!("{:o} {} {}", metadata.mode(), metadata.mtime_nsec(), metadata.len());
        files.insert(path.display().to_string(), facts);
        if metadata.is_dir() {
            files.extend(tree(&path));
        }
    }
    files
}
