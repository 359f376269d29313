//! The gateway as a service: what is done to systemd and launchd, with
//! programs that stand in for theirs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use moltbot_tests::programs::{install_script, source_root};
use moltbotctl::{
    paths::Paths,
    service::{Done, Host, Install, Kind, Pace, Scope, Service, State},
};

/// A host that is a folder.
struct Lab {
    folder: tempfile::TempDir,
    host: Host,
    paths: Paths,
    scope: Scope,
}

impl Lab {
    fn new(kind: Kind, scope: Scope, profile: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["state", "bin", "home/.config", "etc/systemd/system", "Library/LaunchDaemons"]
        {
            fs::create_dir_all(at(path)).unwrap();
        }
        for name in ["moltbotd", "moltbotctl"] {
            fs::write(at("bin").join(name), "").unwrap();
        }
        let units = match scope {
            Scope::System => at("etc/systemd/system"),
            Scope::User => at("home/.config/systemd/user"),
        };
        let program = |name: &str| {
            let original = source_root().join("tests/fixtures/service").join(name);
            let text = format!(
                "#!/bin/sh\nSTATE='{}' UNITS='{}' exec '{}' \"$@\"\n",
                at("state").display(),
                units.display(),
                original.display()
            );
            install_script(&text, &at(name));
            at(name)
        };
        let host = Host {
            kind,
            root: folder.path().into(),
            systemctl: program("systemctl"),
            journalctl: at("journalctl"),
            launchctl: program("launchctl"),
            uid: if scope == Scope::System { 0 } else { 1000 },
            user: "alice".into(),
            home: at("home"),
            config_home: at("home/.config"),
            state_home: at("home/.local/state"),
            runtime: Some(folder.path().into()),
            daemon: at("bin/moltbotd"),
            control: at("bin/moltbotctl"),
            pace: Pace {
                pause: Duration::from_millis(1),
                looks: 200,
                attempts: 6,
                question: Duration::from_secs(20),
                change: Duration::from_secs(20),
            },
            dry_run: false,
            steps: Mutex::default(),
        };
        let paths = Paths {
            profile: profile.map(Into::into),
            config_file: at("home/.config/moltbot/moltbot.json"),
            state_dir: at("home/.local/state/moltbot"),
            client_state_dir: at("home/.local/state/moltbot"),
            runtime_dir: at("run"),
            system_runtime_dir: None,
        };
        Self { folder, host, paths, scope }
    }

    fn service(&self) -> Service<'_> {
        Service::of(&self.host, &self.paths, self.scope).unwrap()
    }

    async fn state(&self) -> State {
        self.service().state().await
    }

    async fn install(&self) -> anyhow::Result<Done> {
        self.service().install(Install::default()).await
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn set(&self, name: &str, value: impl ToString) {
        fs::write(self.at("state").join(name), value.to_string()).unwrap();
    }

    fn agent(&self) -> PathBuf {
        self.at("home/Library/LaunchAgents/bot.molt.moltbotd.plist")
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("state/log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn forget_log(&self) {
        self.set("log", "");
    }

    /// Returns the calls that change something.
    fn changes(&self) -> Vec<String> {
        let asks = |line: &String| line.contains("show ") || line.starts_with("print");
        self.log().into_iter().filter(|line| !asks(line)).collect()
    }
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|it| it.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_user_unit_is_written_enabled_and_started_and_goes_away_again() {
    let lab = Lab::new(Kind::Systemd, Scope::User, None);
    let done = lab.install().await.unwrap();
    assert_eq!(done.result, "installed");
    // Without lingering the one command that helps is told.
    assert!(done.hints.iter().any(|it| it.ends_with("loginctl enable-linger alice")), "{done:?}");
    let changes = [
        "daemon-reload",
        "enable moltbotd.service",
        "reset-failed moltbotd.service",
        "start moltbotd.service",
    ];
    assert_eq!(lab.changes(), changes.map(|it| format!("--user --no-ask-password {it}")));
    let unit = fs::read_to_string(lab.at("home/.config/systemd/user/moltbotd.service")).unwrap();
    let daemon = lab.at("bin/moltbotd");
    assert!(unit.contains(&format!("ExecStart={} ", daemon.display())), "{unit}");
    assert!(!unit.contains("/usr/bin/moltbot"), "{unit}");
    let state = lab.state().await;
    assert!(state.installed && state.enabled && state.running);
    assert_eq!((state.pid, state.restarts, state.lingers), (Some(4242), Some(2), Some(false)));

    fs::create_dir_all(lab.at("var/lib/systemd/linger")).unwrap();
    fs::write(lab.at("var/lib/systemd/linger/alice"), "").unwrap();
    let again = lab.install().await.unwrap();
    assert_eq!((again.result, again.hints.len()), ("already-installed", 0));

    assert_eq!(lab.service().stop().await.unwrap().result, "stopped");
    assert!(!lab.state().await.running);
    assert_eq!(lab.service().uninstall().await.unwrap().result, "uninstalled");
    assert!(files(&lab.at("home/.config/systemd/user")).is_empty());
    assert_eq!(lab.service().uninstall().await.unwrap().result, "not-loaded");
    assert_eq!(lab.service().stop().await.unwrap().result, "not-loaded");
}

#[tokio::test]
async fn a_unit_of_somebody_else_is_not_overwritten() {
    let lab = Lab::new(Kind::Systemd, Scope::User, None);
    let path = lab.at("home/.config/systemd/user/moltbotd.service");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "[Service]\nExecStart=/mine\n").unwrap();
    let error = lab.install().await.unwrap_err().to_string();
    assert!(error.contains("was not written by this program"), "{error}");
    assert!(fs::read_to_string(&path).unwrap().contains("/mine"));
    lab.service().uninstall().await.unwrap();
    assert!(path.exists());
    let how = Install { force: true, ..Install::default() };
    lab.service().install(how).await.unwrap();
    assert!(!fs::read_to_string(&path).unwrap().contains("/mine"));
}

#[tokio::test]
async fn a_start_limit_that_was_hit_does_not_keep_a_person_from_starting() {
    let lab = Lab::new(Kind::Systemd, Scope::User, None);
    lab.install().await.unwrap();
    lab.service().stop().await.unwrap();
    lab.set("latched", "");
    assert!(lab.state().await.start_limit_hit);
    assert_eq!(lab.service().start().await.unwrap().result, "started");
    lab.set("latched", "");
    assert_eq!(lab.service().restart().await.unwrap().result, "restarted");
    assert!(lab.state().await.running);
}

#[tokio::test]
async fn a_start_that_fails_names_the_exit_code_and_the_command_that_helps() {
    let lab = Lab::new(Kind::Systemd, Scope::User, Some("work"));
    lab.set("fails", 78);
    let error = lab.install().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("moltbotd@work.service did not start"), "{text}");
    assert!(text.contains("the configuration is invalid"), "{text}");
    let helped = error.downcast_ref::<moltbotctl::context::Helped>().unwrap();
    assert!(helped.advice.ends_with("service logs --user --profile work"), "{}", helped.advice);
}

#[tokio::test]
async fn a_bus_that_is_not_there_is_told_and_is_no_missing_service() {
    let lab = Lab::new(Kind::Systemd, Scope::User, None);
    lab.set("nobus", "");
    let state = lab.state().await;
    assert!(state.unreachable.unwrap().contains("No medium found"));
    let error = lab.service().start().await.unwrap_err();
    let helped = error.downcast_ref::<moltbotctl::context::Helped>().unwrap();
    assert!(helped.message.contains("does not answer"), "{helped:?}");
    assert!(helped.advice.contains("enable-linger alice"), "{helped:?}");
}

#[tokio::test]
async fn a_template_stays_as_long_as_another_profile_needs_it() {
    let lab = Lab::new(Kind::Systemd, Scope::User, Some("one"));
    lab.install().await.unwrap();
    lab.set("moltbotd@two.service.enabled", "");
    lab.service().uninstall().await.unwrap();
    let folder = lab.at("home/.config/systemd/user");
    assert!(files(&folder).contains(&"moltbotd@.service".to_owned()));
    fs::remove_file(lab.at("state/moltbotd@two.service.enabled")).unwrap();
    lab.install().await.unwrap();
    lab.service().uninstall().await.unwrap();
    assert!(files(&folder).is_empty(), "{:?}", files(&folder));
}

#[tokio::test]
async fn a_socket_is_started_before_and_stopped_with_its_service() {
    let lab = Lab::new(Kind::Systemd, Scope::User, Some("work"));
    fs::create_dir_all(lab.at("home/.config/moltbot")).unwrap();
    fs::write(&lab.paths.config_file, "{ gateway: { port: 19009 } }").unwrap();
    let how = Install { socket: true, ..Install::default() };
    lab.service().install(how).await.unwrap();
    let port = lab.at("home/.config/systemd/user/moltbotd@work.socket.d/listen.conf");
    assert!(fs::read_to_string(&port).unwrap().contains("\nListenStream=127.0.0.1:19009\n"));
    lab.forget_log();
    lab.service().stop().await.unwrap();
    lab.service().start().await.unwrap();
    let changes = lab.changes();
    assert!(changes[0].ends_with("stop moltbotd@work.socket moltbotd@work.service"), "{changes:?}");
    assert!(
        changes[2].ends_with("start moltbotd@work.socket moltbotd@work.service"),
        "{changes:?}"
    );
    lab.service().uninstall().await.unwrap();
    assert!(!port.exists());
}

#[tokio::test]
async fn a_packaged_unit_is_used_as_it_is() {
    let lab = Lab::new(Kind::Systemd, Scope::System, None);
    let packaged = lab.at("usr/lib/systemd/system");
    fs::create_dir_all(&packaged).unwrap();
    for name in ["moltbotd.service", "moltbotd.socket"] {
        fs::write(packaged.join(name), "").unwrap();
    }
    // Where the stand-in looks for units.
    fs::write(lab.at("etc/systemd/system/moltbotd.service"), "").unwrap();
    lab.install().await.unwrap();
    assert!(lab.host.taken().iter().all(|step| !step.to_string().starts_with("write")));
    assert!(lab.changes().contains(&"--no-ask-password start moltbotd.service".to_owned()));
}

#[tokio::test]
async fn a_dry_run_shows_everything_and_changes_nothing() {
    for kind in [Kind::Systemd, Kind::Launchd] {
        let mut lab = Lab::new(kind, Scope::User, None);
        lab.host.dry_run = true;
        lab.install().await.unwrap();
        let steps: String = lab.host.taken().iter().map(ToString::to_string).collect();
        assert!(steps.starts_with("write "), "{steps}");
        assert!(steps.contains("\nrun "), "{steps}");
        assert!(lab.changes().is_empty(), "{:?}", lab.changes());
        assert!(files(&lab.at("home/.config")).is_empty());
        assert!(files(&lab.at("home/Library")).is_empty());
    }
}

#[tokio::test]
async fn a_host_without_a_manager_says_so() {
    let lab = Lab::new(Kind::None, Scope::User, None);
    let error = Service::of(&lab.host, &lab.paths, Scope::User).unwrap_err().to_string();
    assert!(error.contains("no service manager"), "{error}");
}

#[tokio::test]
async fn a_job_is_loaded_however_often_launchd_refuses() {
    for failures in 0..5 {
        for looks in [0, 1, 7] {
            let lab = Lab::new(Kind::Launchd, Scope::User, None);
            lab.set("eio", failures);
            assert_eq!(lab.install().await.unwrap().result, "installed");
            assert_eq!(lab.install().await.unwrap().result, "already-installed");

            // Another list: out, gone, in again.
            fs::write(lab.agent(), "former").unwrap();
            lab.set("eio", failures);
            lab.set("looks", looks);
            lab.forget_log();
            assert_eq!(lab.install().await.unwrap().result, "installed");
            assert!(fs::read_to_string(lab.agent()).unwrap().contains("bot.molt.moltbotd"));
            let state = lab.state().await;
            assert!(state.installed && state.running, "{state:?}");
            let log = lab.log();
            let first = log.iter().position(|it| it.starts_with("bootstrap")).unwrap();
            let before = log[..first].iter().rev().take_while(|it| it.starts_with("print "));
            assert!(before.count() > looks, "{log:?}");
        }
    }
}

#[tokio::test]
async fn calls_that_hang_are_ended_and_tried_again() {
    let mut lab = Lab::new(Kind::Launchd, Scope::User, None);
    lab.host.pace.change = Duration::from_secs(5);
    lab.set("hang_bootstrap", 2);
    lab.install().await.unwrap();
    fs::write(lab.agent(), "former").unwrap();
    lab.set("hang_bootout", 1);
    lab.set("hang_bootstrap", 1);
    lab.set("eio", 2);
    lab.install().await.unwrap();
    assert!(lab.state().await.running);
}

#[tokio::test]
async fn a_list_that_launchd_never_takes_gives_way_to_the_former_one() {
    let lab = Lab::new(Kind::Launchd, Scope::User, None);
    lab.install().await.unwrap();
    fs::write(lab.agent(), "former").unwrap();
    // What only the new list holds.
    lab.set("refuse", "KeepAlive");
    let error = lab.install().await.unwrap_err().to_string();
    assert!(error.contains("Input/output error"), "{error}");
    assert!(error.contains("the former property list is back and loaded"), "{error}");
    assert_eq!(fs::read_to_string(lab.agent()).unwrap(), "former");
    assert!(lab.state().await.running);

    let lab = Lab::new(Kind::Launchd, Scope::User, None);
    lab.set("refuse", "KeepAlive");
    let error = lab.install().await.unwrap_err().to_string();
    assert!(error.contains("nothing was installed"), "{error}");
    assert!(!lab.agent().exists());
}

#[tokio::test]
async fn a_job_is_restarted_and_stopped_without_being_unloaded() {
    let lab = Lab::new(Kind::Launchd, Scope::User, None);
    lab.install().await.unwrap();
    let first = lab.state().await.pid;
    assert_eq!(lab.service().restart().await.unwrap().result, "restarted");
    let second = lab.state().await.pid;
    assert!(second.is_some() && second != first);
    assert_eq!(lab.service().stop().await.unwrap().result, "stopped");
    let state = lab.state().await;
    assert!(state.installed && !state.running);
    assert_eq!(lab.service().start().await.unwrap().result, "started");
    assert_eq!(lab.service().enable(false).await.unwrap().result, "disabled");
    assert!(!lab.state().await.enabled);
    assert_eq!(lab.service().enable(true).await.unwrap().result, "enabled");
    assert!(lab.log().iter().all(|line| !line.starts_with("bootout")), "{:?}", lab.log());
    assert!(lab.log().contains(&"kickstart -k gui/1000/bot.molt.moltbotd".to_owned()));
    assert_eq!(lab.service().uninstall().await.unwrap().result, "uninstalled");
    assert!(!lab.agent().exists() && !lab.state().await.installed);
}

#[tokio::test]
async fn property_lists_are_what_the_daemon_needs() {
    for (scope, profile) in [(Scope::User, None), (Scope::System, None), (Scope::User, Some("a"))] {
        let lab = Lab::new(Kind::Launchd, scope, profile);
        lab.install().await.unwrap();
        let label =
            profile.map_or("bot.molt.moltbotd".into(), |it| format!("bot.molt.moltbotd.{it}"));
        let path = match scope {
            Scope::User => lab.at("home/Library/LaunchAgents").join(format!("{label}.plist")),
            Scope::System => lab.at("Library/LaunchDaemons").join(format!("{label}.plist")),
        };
        let list = plist::Value::from_file(&path).unwrap();
        let list = list.as_dictionary().unwrap();
        let text = |key: &str| list[key].as_string().unwrap();
        assert_eq!(text("Label"), label);
        let arguments = list["ProgramArguments"].as_array().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|it| it.as_string().unwrap()).collect();
        let cli = <moltbotd::cli::Cli as clap::Parser>::try_parse_from(&arguments).unwrap();
        assert_eq!(cli.state_dir.as_deref(), Some(&*lab.paths.state_dir));
        assert_eq!(cli.profile.as_deref(), Some(profile.unwrap_or("default")));
        let alive = list["KeepAlive"].as_dictionary().unwrap();
        assert_eq!(alive["SuccessfulExit"].as_boolean(), Some(false));
        // Above the two drains of 10 seconds.
        assert!(list["ExitTimeOut"].as_signed_integer().unwrap() > 20);
        assert!(list["ThrottleInterval"].as_signed_integer().unwrap() > 0);
        assert_eq!(list.contains_key("UserName"), scope == Scope::System);
        assert!(!fs::read_to_string(&path).unwrap().contains('@'), "a place holder is left");
    }
}

#[tokio::test]
async fn a_gateway_that_no_service_of_ours_runs_is_known_and_stopped_by_hand() {
    let mut daemon = moltbot_tests::Daemon::start().await;
    let ctl = moltbot_tests::Ctl::beside(&daemon);
    let status = ctl.json(&["service", "status"]).await;
    assert_eq!(status["pid"], daemon.pid());
    // Not even a container would start it again: its parent is this test.
    assert_ne!(status["owner"]["manager"], "container", "{status}");
    let output = ctl.run(&["service", "stop"]).await;
    match status["owner"]["unit"].as_str() {
        None => {
            assert!(output.status.success(), "{output:?}");
            assert!(daemon.ended().await.success());
        }
        // The tests run inside somebody's service, which is not ours to stop.
        Some(unit) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains(&format!("stop {unit}")), "{text}");
        }
    }
}

#[tokio::test]
async fn a_restart_without_a_manager_is_asked_of_the_gateway_itself() {
    let daemon = moltbot_tests::Daemon::start().await;
    let ctl = moltbot_tests::Ctl::beside(&daemon);
    let output = ctl.run(&["gateway", "restart"]).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(text.contains("without a service manager"), "{text}");
    let helps = if Path::new("/run/systemd/system").is_dir() {
        "moltbotctl service install"
    } else {
        "MOLTBOT_SUPERVISED=1"
    };
    assert!(text.contains(helps), "{text}");
    assert_eq!(ctl.json(&["health"]).await["ok"], true);
}

#[tokio::test]
async fn the_status_of_a_gateway_has_what_clients_of_the_reference_read() {
    let daemon = moltbot_tests::Daemon::start().await;
    let ctl = moltbot_tests::Ctl::beside(&daemon);
    let token = daemon.state_dir().join("moltbot.db");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let status = ctl.json(&["gateway", "status", "--deep"]).await;
    assert_eq!(status["rpc"]["ok"], true);
    assert_eq!(status["pid"], daemon.pid());
    for member in ["label", "loaded", "loadedText", "notLoadedText", "runtime", "command"] {
        assert!(status["service"].get(member).is_some(), "{member}");
    }
    assert_eq!(status["config"]["cli"]["valid"], true);
    assert_eq!(status["gateway"]["port"], daemon.port());
    assert_eq!(status["port"]["status"], "busy");
    let listener = &status["port"]["listeners"][0];
    assert_eq!(
        (&listener["pid"], &listener["command"]),
        (&daemon.pid().into(), &"moltbotd".into())
    );
    assert!(status["legacyServices"].is_array() && status["extraServices"].is_array());
    assert_eq!(status["deep"]["locks"][0]["pid"], daemon.pid());
    assert_eq!(status["deep"]["versions"]["running"], status["deep"]["versions"]["moltbotctl"]);
    let permissions = status["deep"]["permissions"].as_array().unwrap();
    let wide: Vec<_> = permissions.iter().filter(|it| it["ok"] == false).collect();
    assert_eq!(wide.len(), 1, "{permissions:?}");
    assert!(wide[0]["problem"].as_str().unwrap().contains("chmod go= "), "{wide:?}");
    let text = ctl.text(&["gateway", "status", "--no-probe"]).await;
    assert!(!text.contains("answers"), "{text}");
}

#[tokio::test]
async fn the_status_tells_who_has_the_port_and_that_nobody_answers() {
    let home = tempfile::tempdir().unwrap();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let config = home.path().join("moltbot.json");
    fs::write(&config, format!("{{ gateway: {{ port: {port} }} }}")).unwrap();
    let ctl = moltbot_tests::Ctl::alone(home.path());
    let arguments = ["gateway", "status", "--timeout", "300", "--state-dir"];
    let state = home.path().display().to_string();
    let status = ctl.json(&[&arguments[..], &[&state]].concat()).await;
    assert_eq!(status["rpc"]["ok"], false);
    let hint = status["port"]["hints"][0].as_str().unwrap();
    assert!(hint.contains(&format!("pid {}", std::process::id())), "{hint}");
}
