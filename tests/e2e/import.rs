//! The state of a reference gateway, put together by hand: every kind of file,
//! broken ones among them. `tests/outside/import.rs` takes over what the
//! reference itself made.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use moltbot_tests::{Ctl, Daemon, Device, Options, daemon::TOKEN};
use serde_json::{Value, json};

/// A folder as the reference keeps it, beside a daemon that never ran on it.
struct Case {
    daemon: Daemon,
    ctl: Ctl,
    from: PathBuf,
}

impl Case {
    /// A stopped daemon without state and configuration.
    async fn new() -> Self {
        let mut daemon = Daemon::start_with(Options::default()).await;
        daemon.stop().await;
        fs::remove_dir_all(daemon.state_dir()).unwrap();
        fs::remove_file(daemon.home().join("moltbot.json")).unwrap();
        let ctl = Ctl::beside(&daemon);
        let from = daemon.home().join("reference");
        Self { daemon, ctl, from }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.from.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn run(&self) -> (Option<i32>, Value) {
        let output = self.output().await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let report = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), report)
    }

    async fn output(&self) -> Output {
        self.ctl.run(&["import", self.from.to_str().unwrap(), "--json"]).await
    }
}

fn outcome<'a>(report: &'a Value, kind: &str, name: &str) -> &'a str {
    let items = report["items"].as_array().unwrap();
    let found = items
        .iter()
        .find(|item| item["kind"] == kind && item["name"].as_str().unwrap().contains(name));
    found.unwrap_or_else(|| panic!("no {kind} {name} in {report:#}"))["outcome"].as_str().unwrap()
}

fn why(report: &Value, name: &str) -> String {
    let items = report["items"].as_array().unwrap();
    let found = items.iter().find(|item| item["name"].as_str().unwrap().contains(name));
    found.unwrap_or_else(|| panic!("no {name} in {report:#}"))["why"].as_str().unwrap().into()
}

fn line(id: &str, role: &str, text: &str) -> String {
    let message =
        json!({ "role": role, "content": [{ "type": "text", "text": text }], "timestamp": 5 });
    json!({ "type": "message", "id": id, "parentId": null, "message": message }).to_string() + "\n"
}

/// Returns every file below a folder with its bytes and mode.
fn tree(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::symlink_metadata(&path).unwrap().mode();
        if path.is_dir() {
            files.extend(tree(&path));
            files.push((path, mode, Vec::new()));
        } else {
            files.push((path.clone(), mode, fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn everything_is_taken_once_and_what_is_broken_is_named() {
    let mut case = Case::new().await;
    let device = Device::new();
    case.write(
        "moltbot.json",
        format!(
            "{{ // mine\n  $include: './extra.json5',\n  gateway: {{ auth: {{ token: '{TOKEN}' }} }},\n  \
             channels: {{ telegram: {{ enabled: false, tokenFile: '{}' }} }},\n  futureKey: 1,\n}}\n",
            case.from.join("telegram.token").display()
        ),
    );
    case.write("extra.json5", "{ session: { dmScope: 'per-peer' } }");
    case.write("telegram.token", "1:secret");
    let tokens = json!({ "operator": {
        "token": "0123456789abcdef0123456789abcdef", "role": "operator",
        "scopes": ["operator.admin"], "createdAtMs": 1 } });
    let paired = json!({
        &device.id(): {
            "deviceId": device.id(), "publicKey": device.public_key(), "displayName": "laptop",
            "role": "operator", "roles": ["operator"], "scopes": ["operator.admin"],
            "tokens": tokens, "createdAtMs": 1, "approvedAtMs": 2 },
        "forged": { "deviceId": "forged", "publicKey": device.public_key(),
            "createdAtMs": 1, "approvedAtMs": 2 },
        "odd": 7,
    });
    case.write("devices/paired.json", paired.to_string());
    case.write("devices/pending.json", "{}");
    case.write("nodes/paired.json", "{ broken");
    let sessions = "agents/main/sessions";
    let store = json!({
        "agent:main:main": { "sessionId": "s-1", "updatedAt": 7, "sessionFile": "/gone/s-1.jsonl",
            "skillsSnapshot": { "kept": true } },
        "bare": { "sessionId": "s-2", "updatedAt": 6 },
        "bad": { "sessionId": "../../etc/passwd", "updatedAt": 6 },
    });
    case.write(&format!("{sessions}/sessions.json"), store.to_string());
    let text = [
        r#"{"type":"session","version":3,"id":"s-1"}"#.to_owned() + "\n",
        line("aaaaaaaa", "user", "hello"),
        line("bbbbbbbb", "assistant", "hi there"),
        r#"{"type":"message","id":"cccccccc","message":{"role":"us"#.to_owned(),
    ];
    case.write(&format!("{sessions}/s-1.jsonl"), text.concat());
    case.write(&format!("{sessions}/s-0.jsonl.deleted.2026"), "{}");
    case.write("agents/main/agent/auth-profiles.json", r#"{"version":1,"profiles":{}}"#);
    case.write(
        "cron/jobs.json",
        r#"{"version":1,"jobs":[{"id":"j1","name":"daily"},{"name":"?"}]}"#,
    );
    case.write("exec-approvals.json", r#"{"version":1}"#);
    case.write(
        "credentials/telegram-allowFrom.json",
        r#"{"version":1,"allowFrom":["42","tg:43"]}"#,
    );
    case.write("telegram/update-offset-default.json", r#"{"version":1,"lastUpdateId":1000}"#);
    case.write("settings/voicewake.json", r#"{"triggers":["hey molt"]}"#);
    case.write("surprise/file", "?");
    case.write(".env", "KEY=1");
    let before = tree(&case.from);

    let (code, report) = case.run().await;
    assert_eq!(code, Some(1), "{report:#}");
    for (kind, name) in [
        ("configuration", "moltbot.json"),
        ("included file", "extra.json5"),
        ("credential", "telegram.token"),
        ("device", "laptop"),
        ("conversation", "agent:main:main"),
        ("conversation", "agent:main:bare"),
        ("cron job", "daily"),
        ("exec-approvals", "exec-approvals.json"),
        ("auth-profiles", "agents/main"),
        ("senders", "telegram-allowFrom"),
        ("update offset", "update-offset-default"),
        ("wake words", "voicewake"),
    ] {
        assert_eq!(outcome(&report, kind, name), "taken", "{kind} {name}");
    }
    for (kind, name) in [
        ("device", "forged"),
        ("device", "odd"),
        ("node pairing", "nodes/paired.json"),
        ("conversation", "bad"),
        ("cron job", "number 2"),
    ] {
        assert_eq!(outcome(&report, kind, name), "failed", "{kind} {name}");
    }
    assert_eq!(outcome(&report, "key", "futureKey"), "skipped");
    assert!(why(&report, ".env").contains("env.vars"));
    assert!(why(&report, "surprise").contains("stays where it is"));
    assert!(why(&report, "agent:main:main").contains("1 lines are broken"));
    assert_eq!(tree(&case.from), before);
    let config = fs::read_to_string(case.daemon.home().join("moltbot.json")).unwrap();
    assert!(
        config.contains("// mine") && config.contains("state/imported/telegram.token"),
        "{config}"
    );

    let (_, again) = case.run().await;
    assert_eq!((&again["taken"], &again["kept"]), (&json!(0), &json!(0)), "{again:#}");
    assert_eq!(again["present"], report["taken"], "{again:#}");
    assert_eq!(again["failed"], report["failed"], "{again:#}");
    assert_eq!(tree(&case.from), before);

    case.daemon.start_again().await;
    let mut client = case.daemon.operator().await;
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    let messages = history["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2, "{history}");
    assert_eq!(messages[1]["content"][0]["text"], "hi there");
    let words = client.call("voicewake.get", json!({})).await.unwrap();
    assert_eq!(words["triggers"], json!(["hey molt"]));
    let devices = client.call("device.pair.list", json!({})).await.unwrap();
    assert_eq!(devices["paired"][0]["displayName"], "laptop", "{devices}");
}

#[tokio::test]
async fn what_is_here_stays_and_what_the_other_gateway_added_is_added() {
    let mut case = Case::new().await;
    case.write("moltbot.json", json!({ "gateway": { "auth": { "token": TOKEN } } }).to_string());
    let sessions = "agents/main/sessions";
    let store = json!({
        "agent:main:main": { "sessionId": "s-1", "updatedAt": 7 },
        "agent:main:other": { "sessionId": "s-2", "updatedAt": 7 },
    });
    case.write(&format!("{sessions}/sessions.json"), store.to_string());
    case.write(&format!("{sessions}/s-1.jsonl"), line("aaaaaaaa", "user", "one"));
    case.write(&format!("{sessions}/s-2.jsonl"), line("bbbbbbbb", "user", "one"));
    assert_eq!(case.run().await.0, Some(0));

    case.daemon.start_again().await;
    case.ctl.text(&["agent", "-m", "said here"]).await;
    case.daemon.stop().await;
    for file in ["s-1", "s-2"] {
        let path = case.from.join(sessions).join(format!("{file}.jsonl"));
        let text =
            fs::read_to_string(&path).unwrap() + &line("dddddddd", "assistant", "said there");
        fs::write(path, text).unwrap();
    }
    let (code, report) = case.run().await;
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(outcome(&report, "conversation", "agent:main:main"), "kept");
    assert_eq!(outcome(&report, "conversation", "agent:main:other"), "taken");

    case.daemon.start_again().await;
    let mut client = case.daemon.operator().await;
    let main = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    assert!(main.to_string().contains("said here") && !main.to_string().contains("said there"));
    let other = json!({ "sessionKey": "agent:main:other" });
    let other = client.call("chat.history", other).await.unwrap();
    assert!(other.to_string().contains("said there"), "{other}");
}

#[tokio::test]
async fn a_transcript_that_no_list_names_is_taken_and_its_session_id_finds_it() {
    let mut case = Case::new().await;
    case.write("moltbot.json", json!({ "gateway": { "auth": { "token": TOKEN } } }).to_string());
    let sessions = "agents/main/sessions";
    case.write(&format!("{sessions}/s1.jsonl"), line("aaaaaaaa", "user", "nobody listed me"));
    case.write(&format!("{sessions}/empty.jsonl"), "");
    case.write(&format!("{sessions}/s0.jsonl.deleted.2026"), line("bbbbbbbb", "user", "gone"));

    let (code, report) = case.run().await;
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(outcome(&report, "conversation", "agent:main:s1"), "taken");
    assert_eq!(outcome(&report, "conversation", "agent:main:empty"), "skipped");
    assert_eq!(outcome(&report, "older transcripts", "agents/main"), "skipped");
    let (_, again) = case.run().await;
    assert_eq!(outcome(&again, "conversation", "agent:main:s1"), "present");

    case.daemon.start_again().await;
    let mut client = case.daemon.operator().await;
    let run = json!({ "message": "go on", "sessionId": "s1", "idempotencyKey": "run-1" });
    client.call("agent", run).await.unwrap();
    client.call("agent.wait", json!({ "runId": "run-1" })).await.unwrap();
    let key = json!({ "sessionKey": "agent:main:s1" });
    let history = client.call("chat.history", key).await.unwrap().to_string();
    assert!(history.contains("nobody listed me") && history.contains("go on"), "{history}");
}

#[tokio::test]
async fn a_configuration_that_would_keep_the_gateway_from_starting_is_put_beside() {
    let mut case = Case::new().await;
    case.write("moltbot.json", "{ gateway: { bind: 'wifi' } }");
    let (code, report) = case.run().await;
    assert_eq!(code, Some(1));
    assert!(why(&report, "moltbot.json").contains("gateway.bind"), "{report:#}");
    assert!(case.daemon.home().join("moltbot.json.imported").exists());
    assert!(!case.daemon.home().join("moltbot.json").exists());
    case.daemon.start_again().await;
}

#[tokio::test]
async fn a_running_gateway_and_a_folder_of_something_else_are_refused() {
    let mut case = Case::new().await;
    fs::create_dir(&case.from).unwrap();
    let refused = case.output().await;
    assert_eq!(refused.status.code(), Some(64));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("no state folder of a reference gateway"), "{text}");
    case.write("devices/paired.json", "{}");
    case.daemon.configure(json!({ "gateway": { "auth": { "token": TOKEN } } }));
    case.daemon.start_again().await;
    let refused = case.output().await;
    assert_eq!(refused.status.code(), Some(75));
}

#[tokio::test]
async fn a_gateway_that_was_locked_down_is_locked_down_here_and_each_restriction_is_named() {
    let mut case = Case::new().await;
    let locked = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "tools": { "deny": ["nodes", "gateway"] },
        "commands": { "restart": false, "ownerAllowFrom": ["telegram:7"] },
        "agents": { "list": [{ "id": "main", "tools": { "profile": "minimal" } }] },
        "channels": { "telegram": {
            "enabled": false, "groups": { "-5": { "tools": { "deny": ["exec"] } } },
        } },
    });
    case.write("moltbot.json", locked.to_string());
    let (code, report) = case.run().await;
    assert_eq!(code, Some(0), "{report:#}");
    for (key, comes_to) in [
        ("tools.deny", "takes away the tools gateway, nodes"),
        ("commands.restart", "keeps the tool gateway from restarting the gateway"),
        ("commands.ownerAllowFrom", "tools act for telegram:7"),
        ("agents.list[0].tools.profile", "takes away the tools gateway, nodes"),
        ("channels.telegram.groups.-5.tools.deny", "keeps the tool nodes from programs"),
    ] {
        assert_eq!(outcome(&report, "restriction", key), "taken", "{key}");
        let items = report["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["name"] == key).unwrap();
        assert!(item["why"].as_str().unwrap().starts_with(comes_to), "{item}");
    }

    let checked = case.ctl.run(&["config", "check"]).await;
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(text.contains("tools.deny: takes away the tools gateway, nodes"), "{text}");

    case.daemon.start_again().await;
    let mut owner = case.daemon.operator().await;
    for tool in ["nodes", "gateway"] {
        let message = format!("/tool {tool} {{}}");
        let params = json!({ "sessionKey": "main", "message": message, "idempotencyKey": tool });
        owner.call("chat.send", params).await.unwrap();
        let is_end = |chat: &Value| chat["state"] == "final" && chat["runId"] == tool;
        let answer = owner.event_where("chat", is_end).await.to_string();
        assert!(answer.contains(&format!("{tool} is not available here: ")), "{answer}");
    }
}
