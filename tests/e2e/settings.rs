//! Changes of the configuration: by `moltbotctl config`, over RPC, with an
//! editor; in force without a restart, refused, taken back.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use moltbot_tests::{
    Client, Ctl, Daemon, Options, PATIENCE,
    daemon::TOKEN,
    model_server::{ModelServer, Reply},
    programs,
};
use serde_json::{Value, json};

/// A file as a person writes it.
fn text(level: &str) -> String {
    format!(
        "// The kitchen's gateway.\n{{\n  gateway: {{ auth: {{ token: '{TOKEN}' }} }}, // keep\n  \
         logging: {{ level: '{level}' }},\n}}\n"
    )
}

fn file(daemon: &Daemon) -> PathBuf {
    daemon.home().join("moltbot.json")
}

/// Waits for what `status` says to be so.
async fn until(client: &mut Client, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let search = async {
        loop {
            let status = client.call("status", json!({})).await.unwrap();
            if holds(&status) {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.unwrap_or_else(|_| panic!("never so: {what}"))
}

/// Waits until the configuration in force holds a value.
async fn until_in_force(client: &mut Client, pointer: &str, value: Value) {
    let search = async {
        loop {
            let shown = client.call("config.get", json!({})).await.unwrap();
            let planned = client.call("config.plan", json!({})).await.unwrap();
            let pending = planned["changes"].as_array().is_none_or(|it| !it.is_empty());
            if shown["config"].pointer(pointer) == Some(&value) && !pending {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.unwrap_or_else(|_| panic!("never in force: {pointer} {value}"));
}

fn degraded(status: &Value) -> String {
    status["degraded"].to_string()
}

#[tokio::test]
async fn a_set_value_is_in_force_and_the_rest_of_the_file_stays() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let ctl = Ctl::beside(&daemon);
    fs::write(file(&daemon), text("info")).unwrap();
    let said = ctl.text(&["config", "set", "logging.level", "debug"]).await;
    assert!(said.contains("change 1") && said.contains("in force at once"), "{said}");
    assert_eq!(
        fs::read_to_string(file(&daemon)).unwrap(),
        text("debug").replace("'debug'", "\"debug\"")
    );
    until_in_force(&mut operator, "/logging/level", json!("debug")).await;

    let said = ctl.json(&["config", "set", "gateway.port", "20999"]).await;
    assert_eq!(said["changes"], json!([{ "path": "gateway.port", "effect": "restart" }]));
    let status = until(&mut operator, "waits for a restart", |it| !it["degraded"].is_null()).await;
    assert!(degraded(&status).contains("waits for a restart: gateway.port"), "{status}");

    for _ in 0..2 {
        ctl.text(&["config", "undo"]).await;
    }
    assert_eq!(fs::read_to_string(file(&daemon)).unwrap(), text("info"), "byte for byte");
    until(&mut operator, "as it was", |it| it["degraded"].is_null()).await;
    let history = ctl.json(&["config", "history"]).await;
    assert_eq!(history.as_array().unwrap().len(), 4);
    assert_eq!(history[0]["by"], "moltbotctl config set logging.level");
}

#[tokio::test]
async fn what_the_daemon_could_not_use_is_not_written() {
    let mut daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    fs::write(file(&daemon), text("info")).unwrap();
    // The same rules, whether the daemon runs or not.
    for runs in [true, false] {
        for (arguments, told) in [
            (&["config", "set", "logging.level", "loud"][..], "logging.level"),
            (&["config", "set", "gateway.port", "0"], "allowed is 1 to 65535"),
            (&["config", "set", "gateway.auth.token.x", "1"], "gateway.auth.token is a text"),
            (&["config", "set", "gateway.bind", "custom"], "gateway.customBindHost"),
            (&["config", "set", "ui.seamColor", "${NO_SUCH_VARIABLE}"], "NO_SUCH_VARIABLE"),
            (&["config", "unset", "gateway.nothing"], "gateway.nothing is not set"),
            (&["config", "undo"], "no change to take back"),
        ] {
            let output = ctl.run(arguments).await;
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            assert!(error.contains(told), "{arguments:?}: {error}");
        }
        assert_eq!(fs::read_to_string(file(&daemon)).unwrap(), text("info"));
        if runs {
            daemon.stop().await;
        }
    }
    let output = ctl.run(&["config", "set", "gatway.port", "1"]).await;
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && warned.contains("did you mean \"gateway\"?"), "{warned}");
    ctl.text(&["config", "unset", "gatway"]).await;
    let good = ctl.text(&["config", "check"]).await;
    assert!(good.contains("good"), "{good}");
}

#[tokio::test]
async fn an_editor_s_mistake_is_kept_and_can_be_gone_on_with() {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    fs::write(file(&daemon), text("info")).unwrap();
    let editor = |script: &str| {
        let path = daemon.home().join("editor");
        programs::install_script(&format!("#!/bin/sh\n{script}\n"), &path);
        path.display().to_string()
    };
    let run = |script: &str, arguments: &[&str]| {
        let mut command = ctl.command(arguments);
        command.env("EDITOR", editor(script));
        async move { command.output().await.unwrap() }
    };
    let output = run("sed -i s/info/loud/ \"$1\"", &["config", "edit"]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("moltbot.json:4:14"), "line and column: {error}");
    assert_eq!(fs::read_to_string(file(&daemon)).unwrap(), text("info"));
    let copy = error.split("--resume ").nth(1).unwrap().trim().to_owned();
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let output = run("sed -i s/loud/warn/ \"$1\"", &["config", "edit", "--resume", &copy]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(file(&daemon)).unwrap(), text("warn"));
    assert!(!PathBuf::from(copy).exists());
    let kept = || {
        let folder = file(&daemon).with_file_name("moltbot.json.backups");
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("edit-")).count()
    };
    let output = run("exit 3", &["config", "edit"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(kept(), 0, "nobody needs it, and it holds secrets");
    let output = run("sed -i s/warn/info/ \"$1\"; exit 3", &["config", "edit"]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("config edit --resume"), "{error}");
    assert_eq!(kept(), 1, "what was typed is kept");
}

#[tokio::test]
async fn what_is_said_to_be_in_force_is_in_force_for_the_next_command() {
    let server = ModelServer::start((0..3).map(|_| Reply::openai(&["from the new model"]))).await;
    let config = json!({
        "gateway": { "auth": { "token": TOKEN }, "reload": { "debounceMs": 1500 } },
        "models": server.models("openai-completions"),
    });
    let daemon = Daemon::start_with(Options::with(config)).await;
    let ctl = Ctl::beside(&daemon);
    for (model, word) in [("scripted/m", "from the new model"), ("builtin/echo", "echo: hi")] {
        let said = ctl.text(&["config", "set", "agents.defaults.model", model]).await;
        assert!(said.contains("in force at once"), "{said}");
        let answer = ctl.text(&["agent", "-m", "hi"]).await;
        assert!(answer.contains(word), "{answer}");
    }
}

#[tokio::test]
async fn what_is_not_in_force_yet_is_not_said_to_be() {
    let config = json!({ "gateway": { "auth": { "token": TOKEN }, "reload": { "mode": "off" } } });
    let mut daemon = Daemon::start_with(Options::with(config)).await;
    let ctl = Ctl::beside(&daemon);
    let said = ctl.json(&["config", "set", "logging.level", "debug"]).await;
    assert_eq!(said["inForce"], false, "{said}");
    let said = ctl.text(&["config", "set", "logging.level", "warn"]).await;
    assert!(said.contains("written, not in force yet"), "{said}");

    daemon.stop().await;
    let said = ctl.text(&["config", "set", "logging.level", "error"]).await;
    assert!(said.contains("in force when the gateway starts"), "{said}");
}

#[tokio::test]
async fn misspelt_keys_and_those_of_features_that_do_not_exist_are_warned_about() {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    for (key, value, word) in [
        ("agents.defaults.model.primry", "builtin/echo", "did you mean \"primary\"?"),
        ("messages.groupChat.mentionPattern", "['x']", "did you mean \"mentionPatterns\"?"),
        ("messages.groupChat.historyLimt", "5", "did you mean \"historyLimit\"?"),
        ("cron.enabled", "true", "has no effect in this version"),
        ("hooks.enabled", "true", "has no effect in this version"),
    ] {
        let written = ctl.run(&["config", "set", key, value]).await;
        let checked = ctl.run(&["config", "check"]).await;
        for output in [written, checked] {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{told}");
            assert!(told.contains("warning") && told.contains(word), "{key}: {told}");
        }
    }
    let said = ctl.run(&["config", "set", "cron", "{ enabled: false }"]).await;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.contains("cron"), "what is switched off is off: {said}");
}

#[tokio::test]
async fn a_plan_says_what_each_key_takes_and_changes_nothing() {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    let other = daemon.home().join("other.json");
    let wanted = format!(
        "{{ gateway: {{ auth: {{ token: '{TOKEN}' }}, port: 2 }}, logging: {{ level: 'debug' }},
           channels: {{ telegram: {{ enabled: false }} }} }}"
    );
    fs::write(&other, wanted).unwrap();
    let before = fs::read_to_string(file(&daemon)).unwrap();
    let plan = ctl.text(&["config", "plan", other.to_str().unwrap()]).await;
    for (key, effect) in [
        ("gateway.port", "needs a restart of the gateway"),
        ("logging.level", "in force at once"),
        ("channels.telegram.enabled", "the channel starts anew"),
    ] {
        let line = plan.lines().find(|line| line.contains(key)).unwrap_or_default();
        assert!(line.contains(effect), "{plan}");
    }
    assert_eq!(fs::read_to_string(file(&daemon)).unwrap(), before);
    fs::write(&other, "{ gateway: { port: 'x' } }").unwrap();
    let output = ctl.run(&["config", "plan", other.to_str().unwrap()]).await;
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("/other.json:1:14"), "the file that was given: {error}");
    assert!(!error.contains("moltbot.json"), "{error}");
}

#[tokio::test]
async fn every_way_to_write_the_file_is_noticed() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let path = file(&daemon);
    fs::write(&path, text("debug")).unwrap();
    until_in_force(&mut operator, "/logging/level", json!("debug")).await;
    // As many editors do: a new file, renamed.
    fs::write(daemon.home().join("new"), text("warn")).unwrap();
    fs::rename(daemon.home().join("new"), &path).unwrap();
    until_in_force(&mut operator, "/logging/level", json!("warn")).await;
    // As others do: the old one goes first.
    fs::rename(&path, daemon.home().join("moltbot.json~")).unwrap();
    fs::write(&path, text("error")).unwrap();
    until_in_force(&mut operator, "/logging/level", json!("error")).await;
    // An included file.
    let include = text("trace").replace("logging: { level: 'trace' }", "$include: 'more.json'");
    fs::write(daemon.home().join("more.json"), "{ logging: { level: 'info' } }").unwrap();
    fs::write(&path, include).unwrap();
    until_in_force(&mut operator, "/logging/level", json!("info")).await;
    fs::write(daemon.home().join("more.json"), "{ logging: { level: 'debug' } }").unwrap();
    until_in_force(&mut operator, "/logging/level", json!("debug")).await;
    // A link to a file elsewhere, which then changes.
    fs::create_dir(daemon.home().join("elsewhere")).unwrap();
    fs::write(daemon.home().join("elsewhere/real.json"), text("warn")).unwrap();
    std::os::unix::fs::symlink("elsewhere/real.json", daemon.home().join("link")).unwrap();
    fs::rename(daemon.home().join("link"), &path).unwrap();
    until_in_force(&mut operator, "/logging/level", json!("warn")).await;
    fs::write(daemon.home().join("elsewhere/real.json"), text("info")).unwrap();
    until_in_force(&mut operator, "/logging/level", json!("info")).await;
}

#[tokio::test]
async fn a_bad_file_is_survived_by_the_next_process_too() {
    let mut daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    fs::write(file(&daemon), text("debug")).unwrap();
    until_in_force(&mut operator, "/logging/level", json!("debug")).await;
    fs::write(file(&daemon), "{ half a fi").unwrap();
    let is_degraded = |it: &Value| degraded(it).contains("moltbot.json");
    until(&mut operator, "degraded", is_degraded).await;
    let health = operator.call("health", json!({})).await.unwrap();
    assert!(degraded(&health).contains("not JSON5") || health["degraded"].is_null(), "{health}");

    daemon.kill().await;
    daemon.start_again().await;
    let mut operator = daemon.operator().await;
    let status = operator.call("status", json!({})).await.unwrap();
    assert!(degraded(&status).contains("configuration kept"), "{status}");
    let shown = operator.call("config.get", json!({})).await.unwrap();
    // Where its secrets are cannot be told, so the text is not shown.
    assert_eq!((&shown["valid"], &shown["raw"]), (&json!(false), &Value::Null));
    assert_eq!(shown["exists"], true);
    assert_eq!(shown["config"]["logging"]["level"], "debug");
    let said = Ctl::beside(&daemon).text(&["status"]).await;
    assert!(said.contains("degraded"), "{said}");

    // A client can repair it.
    let set = json!({ "raw": text("warn"), "baseHash": shown["hash"] });
    operator.call("config.set", set).await.unwrap();
    until(&mut operator, "repaired", |it| it["degraded"].is_null()).await;

    fs::remove_file(file(&daemon)).unwrap();
    until(&mut operator, "gone", |it| degraded(it).contains("the file is gone")).await;
    fs::write(file(&daemon), text("info")).unwrap();
    until(&mut operator, "good again", |it| it["degraded"].is_null()).await;
}

#[tokio::test]
async fn without_a_good_configuration_the_start_is_refused() {
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    fs::write(file(&daemon), "{ gateway: { port: 'x' } }").unwrap();
    fs::remove_file(daemon.state_dir().join("config.last-good.json")).unwrap();
    let (code, said) = daemon.fail_to_start().await;
    assert_eq!(code, Some(78));
    assert!(said.contains("moltbot.json:1:14: gateway.port"), "{said}");
}

#[tokio::test]
async fn under_a_service_manager_a_needed_restart_happens() {
    let mut options = Options::default();
    options.variables.push(("MOLTBOT_SUPERVISED".into(), "1".into()));
    let mut daemon = Daemon::start_with(options).await;
    let mut operator = daemon.operator().await;
    let hash = operator.call("config.get", json!({})).await.unwrap()["hash"].clone();
    let patch = json!({ "raw": "{ gateway: { limits: { unauthenticated: 99 } } }", "baseHash": hash,
        "note": "new rules", "sessionKey": "main", "restartDelayMs": 0 });
    let applied = operator.call("config.patch", patch).await.unwrap();
    assert_eq!(
        (&applied["restart"]["ok"], &applied["restart"]["reason"]),
        (&json!(true), &json!("config.patch"))
    );
    assert_eq!(applied["sentinel"]["payload"]["stats"]["mode"], "config.patch");
    assert_eq!(daemon.ended().await.code(), Some(79));
    daemon.start_again().await;
    let mut operator = daemon.operator().await;
    let shown = operator.call("config.get", json!({})).await.unwrap();
    assert_eq!(shown["config"]["gateway"]["limits"]["unauthenticated"], 99);

    // And without being asked, when the file changes.
    fs::write(file(&daemon), text("info")).unwrap();
    assert_eq!(daemon.ended().await.code(), Some(79));
}

#[tokio::test]
async fn a_client_writes_what_it_was_shown_and_no_secret_is_lost() {
    let mut options = Options::default();
    options.variables.push(("SOME_NAME".into(), "Molty".into()));
    let daemon = Daemon::start_with(options).await;
    let mut operator = daemon.operator().await;
    let written =
        text("info").replace("}\n", "  ui: { assistant: { name: '${SOME_NAME}' } },\n}\n");
    fs::write(file(&daemon), &written).unwrap();
    let shown = operator.call("config.get", json!({})).await.unwrap();
    assert_eq!(shown["config"]["ui"]["assistant"]["name"], "Molty");

    // The text, changed in one place.
    let raw = shown["raw"].as_str().unwrap().replace("'info'", "'debug'");
    assert!(!raw.contains(TOKEN));
    let set = json!({ "raw": raw, "baseHash": shown["hash"] });
    let answer = operator.call("config.set", set.clone()).await.unwrap();
    assert_eq!(answer["config"]["logging"]["level"], "debug");
    assert_eq!(fs::read_to_string(file(&daemon)).unwrap(), written.replace("'info'", "'debug'"));
    let refused = operator.call("config.set", set).await.unwrap_err();
    assert_eq!(refused["message"], "config changed since last load; re-run config.get and retry");

    // The form, changed in one place.
    let shown = operator.call("config.get", json!({})).await.unwrap();
    let mut form = shown["config"].clone();
    form["logging"]["level"] = "warn".into();
    let apply = json!({ "raw": form.to_string(), "baseHash": shown["hash"] });
    let answer = operator.call("config.apply", apply).await.unwrap();
    assert_eq!(answer["restart"]["ok"], false, "nothing needs one: {answer}");
    assert_eq!(fs::read_to_string(file(&daemon)).unwrap(), written.replace("'info'", "\"warn\""));

    let hash = operator.call("config.get", json!({})).await.unwrap()["hash"].clone();
    let bad = json!({ "raw": "{ gateway: { bind: 'wifi' } }", "baseHash": hash });
    let refused = operator.call("config.patch", bad).await.unwrap_err();
    assert_eq!(refused["message"], "invalid config");
    assert_eq!(refused["details"]["issues"][0]["path"], "gateway.bind");
    let mut reader =
        daemon.connect(moltbot_tests::Connect::operator().scopes(&["operator.write"])).await;
    for method in ["config.set", "config.apply", "config.patch", "config.plan"] {
        let refused = reader.call(method, json!({ "raw": "{}" })).await.unwrap_err();
        assert_eq!(refused["message"], "missing scope: operator.admin", "{method}");
    }
    let shown = Ctl::beside(&daemon).json(&["config", "history"]).await;
    assert!(shown[1]["by"].as_str().unwrap().starts_with("config.apply ("), "{shown}");
}
