//! `moltbotctl` as a program: exit codes, help, output that needs no gateway.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn moltbotctl(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moltbotctl"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A port of this host on which nobody listens.
fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("ws://{}", listener.local_addr().unwrap())
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    let home = home();
    for arguments in [&["bogus"][..], &[], &["agent"], &["sessions", "--active", "0"]] {
        assert_eq!(moltbotctl(home.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["node", "run", "--help"]] {
        let output = moltbotctl(home.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn chat_ids_and_messages_may_begin_with_a_hyphen() {
    let home = home();
    let url = dead_url();
    for arguments in [
        &["send", "--channel", "telegram", "--to", "-1001234", "-m", "- item"][..],
        &["agent", "-m", "-v", "--to", "-1001234"],
    ] {
        let output = moltbotctl(home.path(), &[arguments, &["--url", &url]].concat());
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    }
}

#[test]
fn help_documents_the_exit_codes_and_every_command() {
    let help = text(&moltbotctl(home().path(), &["--help"]).stdout);
    assert!(help.contains("Exit codes: 0 done, 1 failed, 2 wrong usage"), "{help}");
    for command in [
        "health",
        "status",
        "gateway",
        "agent",
        "send",
        "chat",
        "sessions",
        "nodes",
        "devices",
        "pairing",
        "channels",
        "logs",
        "config",
        "where",
        "node",
        "completions",
    ] {
        assert!(help.contains(&format!("  {command} ")), "{command}: {help}");
    }
}

#[test]
fn every_command_has_help() {
    let home = home();
    for arguments in [
        &["gateway", "call"][..],
        &["devices", "rotate"],
        &["devices", "approve"],
        &["nodes", "invoke"],
        &["pairing", "approve"],
        &["config", "check"],
        &["chat"],
        &["logs"],
        &["node", "run"],
    ] {
        let output = moltbotctl(home.path(), &[arguments, &["--help"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("--token-file"), "{arguments:?}");
    }
}

#[test]
fn an_absent_gateway_is_a_failure_that_names_the_command_that_helps() {
    let home = home();
    let url = dead_url();
    let output = moltbotctl(home.path(), &["health", "--url", &url]);
    assert_eq!(output.status.code(), Some(3));
    let stderr = text(&output.stderr);
    assert!(stderr.contains(&format!("error: cannot connect to {url}")), "{stderr}");
    assert!(stderr.contains("help: ") && stderr.contains("moltbotctl where"), "{stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn an_error_is_json_when_json_is_asked_for() {
    let home = home();
    let output = moltbotctl(home.path(), &["--json", "health", "--url", &dead_url()]);
    assert_eq!(output.status.code(), Some(3));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["ok"], false);
    assert!(error["error"]["message"].as_str().unwrap().starts_with("cannot connect"));
    assert!(error["error"]["advice"].is_string());
}

#[test]
fn flags_may_stand_before_or_after_the_command() {
    let home = home();
    let url = dead_url();
    let before = moltbotctl(home.path(), &["--url", &url, "--json", "where"]);
    let after = moltbotctl(home.path(), &["where", "--json", "--url", &url]);
    assert_eq!(json(&before), json(&after));
}

#[test]
fn where_prints_every_candidate_and_no_secret() {
    let home = home();
    let output =
        moltbotctl(home.path(), &["where", "--json", "--url", &dead_url(), "--token", "hunter2"]);
    let report = json(&output);
    assert_eq!(report["chosen"]["kind"], "explicit");
    assert_eq!(report["chosen"]["token"]["sha256"], "f52fbd32");
    let kinds: Vec<&str> = report["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|candidate| candidate["kind"].as_str().unwrap())
        .collect();
    let all =
        ["sshTunnel", "explicit", "environment", "configRemote", "controlSocket", "localLoopback"];
    assert_eq!(kinds, all);
    assert!(!text(&output.stdout).contains("hunter2"));
}

#[test]
fn credentials_are_not_sent_in_the_clear_to_another_host() {
    let home = home();
    let output = moltbotctl(home.path(), &["health", "--url", "ws://192.0.2.1:9"]);
    assert_eq!(output.status.code(), Some(10));
    assert!(text(&output.stderr).contains("refusing to send credentials"));
    assert!(text(&output.stderr).contains("--insecure"));
}

#[test]
fn a_probe_that_reaches_nobody_fails_and_still_reports() {
    let home = home();
    let url = dead_url();
    let config = home.path().join("moltbot.json");
    let port = url.rsplit(':').next().unwrap();
    std::fs::write(&config, format!("{{ gateway: {{ port: {port} }} }}")).unwrap();
    let config = config.display().to_string();
    let output = moltbotctl(home.path(), &["gateway", "probe", "--json", "--config", &config]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["primaryTargetId"], Value::Null);
    let targets = report["targets"].as_array().unwrap();
    assert!(targets.iter().any(|target| target["url"] == url.as_str()));
    assert!(targets.iter().all(|target| target["connect"]["ok"] == false));
}

#[test]
fn a_broken_configuration_is_named_with_line_and_column() {
    let home = home();
    let file = home.path().join("bad.json");
    std::fs::write(&file, "{\n  gateway: { port: }\n}").unwrap();
    let output = moltbotctl(home.path(), &["config", "check", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("bad.json:2:20"), "{}", text(&output.stderr));
    std::fs::write(&file, "{ gateway: { port: 1 } } // fine").unwrap();
    let output = moltbotctl(home.path(), &["config", "check", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_path_of_the_configuration_follows_the_profile() {
    let home = home();
    let output = moltbotctl(home.path(), &["config", "path", "--profile", "lab", "--json"]);
    assert!(text(&output.stderr).contains("there is no profile lab"), "{}", text(&output.stderr));

    let output = moltbotctl(home.path(), &["profile", "create", "lab"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = moltbotctl(home.path(), &["config", "path", "--profile", "lab", "--json"]);
    let path = json(&output)["path"].as_str().unwrap().to_owned();
    assert!(path.ends_with("/moltbot-lab/moltbot.json"), "{path}");
    let output = moltbotctl(home.path(), &["config", "path", "--profile", "../x"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn completions_are_printed_for_each_shell() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        let output = moltbotctl(home.path(), &["completions", shell]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("moltbotctl"), "{shell}");
    }
}

#[test]
fn output_to_a_reader_that_left_is_no_failure() {
    let home = home();
    let script = format!("{} completions bash | head -1", env!("CARGO_BIN_EXE_moltbotctl"));
    let output =
        Command::new("sh").args(["-c", &script]).env("HOME", home.path()).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}
