//! What service managers are told fits the daemon. What only a service manager
//! can tell is tested on a booted one in `tests/outside/systemd`.

use std::{fs, path::PathBuf};

use clap::Parser as _;
use moltbot_tests::programs::source_root;
use moltbotd::{cli::Cli, supervisor};

const SERVICES: [&str; 4] =
    ["moltbotd.service", "moltbotd@.service", "user/moltbotd.service", "user/moltbotd@.service"];
const SOCKETS: [&str; 4] =
    ["moltbotd.socket", "moltbotd@.socket", "user/moltbotd.socket", "user/moltbotd@.socket"];

#[test]
fn units_start_the_daemon_with_flags_it_takes() {
    for name in SERVICES {
        let unit = Unit::read(name);
        let line = unit.value("ExecStart").replace("%i", "work").replace("%h", "/home/alice");
        let mut words = line.split_whitespace();
        assert_eq!(words.clone().next(), Some("/usr/bin/moltbotd"), "{name}");
        let cli = Cli::try_parse_from(&mut words).unwrap();
        let profile = name.contains('@').then(|| "work".to_owned());
        assert_eq!(cli.profile, profile, "{name}");
        assert_eq!((cli.port, cli.token), (None, None), "{name}: its configuration decides");
    }
}

#[test]
fn a_purge_that_is_to_remove_the_state_leaves_no_token_behind() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // Made by root, as `sudo moltbotctl config set` does; the file itself dpkg has removed by now.
    write("etc/moltbot/moltbot.json.backups/1/moltbot.json", "token");
    write("etc/moltbot-lab/moltbot.json", "token");
    write("var/lib/moltbot/moltbot.db", "token");
    write("etc/moltbot-of-others/notes", "not ours");
    write(
        "usr/share/debconf/confmodule",
        "db_get() { RET=true; }\nfor it in version input go purge; do eval \"db_$it() { :; }\"; done\n",
    );

    let script = fs::read_to_string(source_root().join("packaging/deb/moltbotd/postrm")).unwrap();
    let root_path = root.path().display();
    let script = ["/etc", "/var", "/usr"]
        .iter()
        .fold(script, |script, folder| script.replace(folder, &format!("{root_path}{folder}")));
    // Nobody is called moltbot on the host of the tests: what is kept is found by its name.
    let owner =
        script.replace("stat -c %U \"$folder\"", "case $folder in */var/*) echo moltbot;; esac");
    assert_ne!(owner, script);
    let purge = ["-c", &owner, "postrm", "purge"];
    let output = std::process::Command::new("sh").args(purge).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for folder in ["etc/moltbot", "etc/moltbot-lab", "var/lib/moltbot"] {
        assert!(!root.path().join(folder).exists(), "{folder} is left");
    }
    assert!(root.path().join("etc/moltbot-of-others/notes").exists());
}

#[test]
fn units_rely_on_what_the_daemon_does() {
    for name in SERVICES {
        let unit = Unit::read(name);
        // Other types either miss the readiness or are unknown to older managers.
        assert_eq!(unit.value("Type"), "notify");
        assert!(unit.value("WatchdogSec").parse::<u32>().unwrap() > 0);
        assert_eq!(unit.value("Restart"), "on-failure");
        assert_eq!(unit.value("RestartPreventExitStatus"), "64 77 78");
        for key in ["RestartForceExitStatus", "SuccessExitStatus"] {
            assert_eq!(unit.value(key), supervisor::RESTART.to_string(), "{name}: {key}");
        }
        // Nobody would clear the latch at night.
        assert_eq!(unit.value("StartLimitIntervalSec"), "0");
        // Two parts of the drain, ten seconds each.
        assert!(unit.value("TimeoutStopSec").parse::<u32>().unwrap() > 20);
        // Loopback of both kinds, other addresses, the control socket.
        assert!(unit.value("FileDescriptorStoreMax").parse::<u32>().unwrap() >= 8);
        assert_eq!(unit.value("RuntimeDirectoryPreserve"), "restart");
        assert!(unit.value("LimitNOFILE").parse::<u32>().unwrap() >= 16_384);
        assert!(!unit.0.contains("\nEnvironment"), "{name}: the environment can be seen by all");
        // Only known to later managers: these have a file of their own in options/.
        for late in ["RestartSteps", "RestartMaxDelaySec", "notify-reload"] {
            assert!(!unit.0.contains(late), "{name}: {late}");
        }
    }
}

#[test]
fn system_units_use_the_folders_that_clients_look_in() {
    for (name, folder) in [("moltbotd.service", "moltbot"), ("moltbotd@.service", "moltbot-%i")] {
        let unit = Unit::read(name);
        for key in ["ConfigurationDirectory", "StateDirectory", "RuntimeDirectory", "LogsDirectory"]
        {
            assert_eq!(unit.value(key), folder, "{name}: {key}");
        }
        assert_eq!(unit.value("User"), "moltbot");
        for key in ["StateDirectoryMode", "RuntimeDirectoryMode", "LogsDirectoryMode"] {
            assert_eq!(unit.value(key), "0700", "{name}: {key}");
        }
        for secret in ["gateway-token", "gateway-password", "telegram-bot-token"] {
            assert!(unit.0.contains(&format!("\nLoadCredential={secret}:moltbotd.")), "{name}");
        }
    }
}

#[test]
fn user_units_name_the_places_that_systemd_versions_disagree_about() {
    for (name, folder) in
        [("user/moltbotd.service", "moltbot"), ("user/moltbotd@.service", "moltbot-%i")]
    {
        let unit = Unit::read(name);
        let start = unit.value("ExecStart");
        assert!(start.contains(&format!("--state-dir %h/.local/state/{folder} ")), "{start}");
        assert!(start.contains(&format!("--config %h/.config/{folder}/moltbot.json ")), "{start}");
        assert!(!unit.0.contains("\nStateDirectory="), "{name}");
        // Without it the manager of Debian 12 ignores most of the rest.
        assert_eq!(unit.value("PrivateUsers"), "yes");
        assert_eq!(unit.value("RuntimeDirectory"), folder);
    }
}

#[test]
fn socket_units_listen_where_the_daemon_would() {
    for name in SOCKETS {
        let unit = Unit::read(name);
        assert_eq!(unit.value("FileDescriptorName"), "gateway");
        assert!(!unit.0.contains("\nAccept="), "{name}: the daemon wants the listening socket");
        // A profile's port is in a drop-in.
        let port = moltbotd::config::Config::default().gateway.port;
        let listens = unit.0.contains(&format!("\nListenStream=127.0.0.1:{port}\n"));
        assert_eq!(listens, !name.contains('@'), "{name}");
    }
}

#[test]
fn the_container_starts_the_daemon_with_flags_it_takes() {
    let file = fs::read_to_string(source_root().join("packaging/Containerfile")).unwrap();
    let list = |word: &str| -> Vec<String> {
        let find = |line: &str| line.trim().strip_prefix(word).map(str::to_owned);
        serde_json::from_str(&file.lines().find_map(find).unwrap()).unwrap()
    };
    let line = [list("ENTRYPOINT "), list("CMD ")].concat();
    let cli = Cli::try_parse_from(line).unwrap();
    assert_eq!(cli.bind, Some(moltbotd::config::Bind::Lan), "others than itself reach the port");
    let health = list("HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ");
    moltbotctl::cli::Cli::try_parse_from(health).unwrap();
    assert!(file.contains("\nUSER 65532:65532\n"));
    // What an invalid name here would only tell at the build.
    assert!(source_root().join("packaging/container/moltbot.json").exists());
}

struct Unit(String);

impl Unit {
    fn read(name: &str) -> Self {
        Self(fs::read_to_string(folder().join(name)).unwrap())
    }

    fn value(&self, key: &str) -> &str {
        let find = |line| str::strip_prefix(line, key)?.strip_prefix('=');
        self.0.lines().find_map(find).unwrap_or_else(|| panic!("the unit has no {key}"))
    }
}

fn folder() -> PathBuf {
    source_root().join("systemd")
}
