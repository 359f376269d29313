//! What a node host lets a gateway do: the owner's ceiling, the allowlist and what could get
//! around it, and the end of what was started.

use std::path::{Path, PathBuf};

use moltbot_tests::{Client, Connect, Ctl, Daemon, Device, NodeHost, PATIENCE, Version};
use serde_json::{Value, json};

/// Writes the exec approvals file of the node that shares the daemon's home.
fn approve(daemon: &Daemon, file: &Value) {
    let folder = daemon.state_dir().join("node");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("exec-approvals.json"), file.to_string()).unwrap();
}

async fn start_node(daemon: &Daemon, arguments: &[&str]) -> NodeHost {
    let mut node = NodeHost::start(&Ctl::beside(daemon), arguments);
    node.says("connected to").await;
    node
}

async fn node_id(operator: &mut Client) -> String {
    let listing = operator.call("node.list", json!({})).await.unwrap();
    listing["nodes"][0]["nodeId"].as_str().unwrap().to_owned()
}

fn invoke(node: &str, params: &Value) -> Value {
    let key = format!("{:?}", std::time::Instant::now());
    json!({ "nodeId": node, "command": "system.run", "params": params, "idempotencyKey": key })
}

/// Runs a command on the only node; the error is what its caller reads.
async fn run(operator: &mut Client, params: Value) -> Result<Value, String> {
    let node = node_id(operator).await;
    match operator.call("node.invoke", invoke(&node, &params)).await {
        Ok(answer) => Ok(answer["payload"].clone()),
        Err(error) => Err(error["message"].as_str().unwrap().to_owned()),
    }
}

#[tokio::test]
async fn the_flags_of_a_node_are_a_ceiling_that_its_file_cannot_raise() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let full = json!({ "version": 1, "defaults": { "security": "full", "ask": "off" },
        "agents": { "main": { "security": "full", "ask": "off" } } });
    approve(&daemon, &full);
    for (flags, refusal) in [
        (&["--exec-security", "deny"][..], "SYSTEM_RUN_DISABLED: security=deny"),
        (&[][..], "SYSTEM_RUN_DENIED: approval required"),
        (
            &["--exec-security", "full", "--exec-ask", "always"],
            "SYSTEM_RUN_DENIED: approval required",
        ),
    ] {
        let mut node = start_node(&daemon, flags).await;
        let ran = run(&mut operator, json!({ "command": ["id"] })).await;
        assert_eq!(ran, Err(refusal.to_owned()), "{flags:?}");
        node.child.kill().await.unwrap();
    }
}

/// With nothing but `true` on the list, each of these once ran another program.
#[tokio::test]
async fn a_node_runs_what_is_on_its_list_and_nothing_around_it() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let allowed = json!({ "pattern": "/usr/bin/true" });
    approve(&daemon, &json!({ "version": 1, "agents": { "*": { "allowlist": [allowed] } } }));
    let _node = start_node(&daemon, &[]).await;

    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let touch = format!("/usr/bin/touch {}", mark.display());
    for name in [".profile", ".bash_profile", ".bashrc", ".zshenv"] {
        std::fs::write(folder.path().join(name), format!("{touch}\n")).unwrap();
    }
    for name in ["sh", "bash", "true", "true\u{a0}x", "true\u{2028}x"] {
        script(&folder.path().join(name), &touch);
    }
    let home = folder.path().to_str().unwrap();
    let path = format!("{home}:/usr/local/bin:/usr/bin:/bin");

    for (params, named) in [
        (
            json!({ "command": ["bash", "-c", "true"], "env": { "BASH_ENV": format!("$({touch})") } }),
            "BASH_ENV",
        ),
        (
            json!({ "command": ["sh", "-c", "true"], "env": { "ENV": format!("$({touch})") } }),
            "ENV",
        ),
        (
            json!({ "command": ["bash", "-c", "true"], "env": { "BASH_FUNC_true%%": format!("() {{ {touch}; }}") } }),
            "BASH_FUNC_true%%",
        ),
        (
            json!({ "command": ["bash", "-xc", "true"], "env": { "PS4": format!("$({touch})"), "SHELLOPTS": "xtrace" } }),
            "PS4",
        ),
        (json!({ "command": ["bash", "-lc", "true"], "env": { "HOME": home } }), "HOME"),
        (json!({ "command": ["sh", "-lc", "true"], "env": { "HOME": home } }), "HOME"),
        (json!({ "command": ["true"], "env": { "LD_PRELOAD": "/x.so" } }), "LD_PRELOAD"),
        (json!({ "command": ["true"], "env": { "PATH": path } }), "PATH"),
        (json!({ "command": ["sh", "-c", "true\u{a0}x"], "env": { "PATH": path } }), "PATH"),
    ] {
        let refusal = run(&mut operator, params.clone()).await.unwrap_err();
        assert!(refusal.contains("environment") && refusal.contains(named), "{params}: {refusal}");
    }
    for (command, cwd) in [
        (json!(["sh", "-c", "true\u{a0}x"]), home),
        (json!(["sh", "-c", "true\u{2028}x"]), home),
        (json!(["bash", "--rcfile", ".bashrc", "-ic", "true"]), home),
        (json!(["bash", "--init-file", ".bashrc", "-i", "-c", "true"]), home),
        (json!(["bash", "-l"]), home),
        (json!(["zsh", "-c", "true"]), home),
        // A shell is the system's, not a file that has its name.
        (json!(["./bash", "-c", "true"]), home),
        (json!([format!("{home}/sh"), "-c", "true"]), home),
        (json!(["./true"]), home),
        (json!(["sh", "-c", "./true"]), home),
        (json!(["sh", "-c", format!("true; {touch}")]), home),
        (json!(["sh", "-c", format!("true `{touch}`")]), home),
    ] {
        let params = json!({ "command": command, "cwd": cwd });
        let refusal = run(&mut operator, params).await.unwrap_err();
        assert_eq!(refusal, "SYSTEM_RUN_DENIED: approval required", "{command}");
    }
    // The account's own start-up files are not read either.
    for command in [
        json!(["true"]),
        json!(["sh", "-c", "true && true;"]),
        json!(["bash", "-lc", "true | true"]),
    ] {
        let params = json!({ "command": command, "env": { "LANG": "C.UTF-8", "TERM": "xterm" } });
        assert_eq!(run(&mut operator, params).await.unwrap()["success"], true, "{command}");
    }
    assert!(!mark.exists(), "nothing but `true` ran");
}

#[tokio::test]
async fn a_program_on_a_node_sees_an_environment_of_its_account() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let ctl = Ctl::beside(&daemon)
        .set("BASH_ENV", "/x")
        .set("LD_LIBRARY_PATH", "/x")
        .set("SOME_API_KEY", "secret")
        .set("TZ", "Europe/Berlin");
    let mut node = NodeHost::start(&ctl, &["--exec-security", "full", "--exec-ask", "off"]);
    node.says("connected to").await;
    let params = json!({ "command": ["env"], "env": { "LC_ALL": "C", "TERM": "dumb" } });
    let ran = run(&mut operator, params).await.unwrap();
    let seen: Vec<(&str, &str)> =
        ran["stdout"].as_str().unwrap().lines().filter_map(|line| line.split_once('=')).collect();
    let value = |name: &str| seen.iter().find(|(known, _)| *known == name).map(|(_, it)| *it);
    let account = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    assert_eq!(value("HOME"), account.dir.to_str());
    assert_eq!(value("USER"), Some(&*account.name));
    assert_eq!(value("SHELL"), account.shell.to_str());
    assert_eq!(value("PATH"), Some("/usr/local/bin:/usr/bin:/bin"));
    assert_eq!((value("LC_ALL"), value("TERM")), (Some("C"), Some("dumb")));
    assert_eq!(value("TZ"), Some("Europe/Berlin"));
    for name in ["BASH_ENV", "LD_LIBRARY_PATH", "SOME_API_KEY", "MOLTBOT_GATEWAY_TOKEN"] {
        assert_eq!(value(name), None, "{name}");
    }
}

#[tokio::test]
async fn what_is_shown_of_a_command_on_a_node_is_what_runs() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let allowed = json!({ "pattern": "/usr/bin/true" });
    approve(&daemon, &json!({ "version": 1, "agents": { "*": { "allowlist": [allowed] } } }));
    let _node = start_node(&daemon, &[]).await;

    let words = ["true", "-rf", "my files"];
    let lie = json!({ "command": words, "rawCommand": "true -rf my files" });
    assert_eq!(run(&mut operator, lie).await, Err("rawCommand does not match command".into()));
    let padded = ["true", " padded ", "\u{202e}txt.exe", "two\nlines", "\u{200b}"];
    run(&mut operator, json!({ "command": padded })).await.unwrap();
    let file = daemon.state_dir().join("node/exec-approvals.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(
        file["agents"]["*"]["allowlist"][0]["lastUsedCommand"],
        r"true ' padded ' $'\u202etxt.exe' $'two\nlines' $'\u200b'"
    );
}

/// A shell that writes its own process id and that of a child that left its group.
fn long_command(pids: &Path) -> Value {
    let script = format!(
        "setsid sleep 600 & echo $! >{0}.new; echo $$ >>{0}.new; mv {0}.new {0}; sleep 600; true",
        pids.display()
    );
    json!({ "command": ["sh", "-c", script] })
}

async fn started(file: &Path) -> Vec<u32> {
    eventually("the program runs", || {
        let text = std::fs::read_to_string(file).ok()?;
        Some(text.lines().map(|line| line.parse().unwrap()).collect())
    })
    .await
}

async fn all_ended(pids: &[u32]) {
    eventually("the program and its children have ended", || {
        pids.iter().all(|pid| !is_alive(*pid)).then_some(())
    })
    .await;
}

fn is_alive(pid: u32) -> bool {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.contains(") Z "));
    nix::sys::signal::kill(pid, None).is_ok() && !zombie
}

async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = check() {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test]
async fn a_program_on_a_node_ends_when_the_device_that_started_it_is_revoked() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let _node = start_node(&daemon, &["--exec-security", "full", "--exec-ask", "off"]).await;
    let node = node_id(&mut operator).await;
    let folder = tempfile::tempdir().unwrap();
    for (number, method) in ["device.token.revoke", "device.pair.remove"].into_iter().enumerate() {
        let device = Device::new();
        let connect = Connect::operator().device(&device, Version::V2);
        let mut client = daemon.connect(connect).await;
        let pids = folder.path().join(number.to_string());
        client.send("node.invoke", invoke(&node, &long_command(&pids))).await;
        let pids = started(&pids).await;

        let mut params = json!({ "deviceId": device.id() });
        if method == "device.token.revoke" {
            params["role"] = "operator".into();
        }
        operator.call(method, params).await.unwrap();
        assert_eq!(client.closed().await.0, 1008);
        all_ended(&pids).await;
    }
    // The node itself goes on.
    assert!(run(&mut operator, json!({ "command": ["true"] })).await.is_ok());
}

#[tokio::test]
async fn a_program_on_a_node_ends_when_the_node_is_revoked() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let mut other = daemon.operator().await;
    let mut host = start_node(&daemon, &["--exec-security", "full", "--exec-ask", "off"]).await;
    let node = node_id(&mut operator).await;
    let folder = tempfile::tempdir().unwrap();
    let pids: PathBuf = folder.path().join("pids");
    let call = operator.send("node.invoke", invoke(&node, &long_command(&pids))).await;
    let pids = started(&pids).await;
    other.call("device.pair.remove", json!({ "deviceId": node })).await.unwrap();
    let refusal = operator.answer(&call).await.unwrap_err();
    assert_eq!(refusal["message"], "Error: node disconnected (system.run)");
    all_ended(&pids).await;
    assert!(host.child.try_wait().unwrap().is_none(), "the node host itself goes on");
}

fn script(path: &Path, line: &str) {
    moltbot_tests::programs::install_script(&format!("#!/bin/sh\n{line}\n"), path);
}
