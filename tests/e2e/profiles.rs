//! Several gateways side by side, each a profile.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use moltbot_tests::{Client, Connect, Daemon, PATIENCE, daemon::request, programs};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// A user with a home of their own, whose profiles have names that nobody else
/// on this host uses.
struct User {
    home: tempfile::TempDir,
    tag: String,
}

impl User {
    fn new() -> Self {
        let home = tempfile::Builder::new().prefix("moltbot").tempdir().unwrap();
        let tag = uuid::Uuid::new_v4().simple().to_string()[..10].to_owned();
        Self { home, tag }
    }

    fn name(&self, number: usize) -> String {
        format!("t{}-{number}", self.tag)
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let at = |name: &str| self.home.path().join(name);
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("XDG_CONFIG_HOME", at("config"))
            .env("XDG_STATE_HOME", at("state"))
            .env("XDG_RUNTIME_DIR", at("run"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn ctl(&self, arguments: &[&str]) -> Output {
        let running = self.command(&programs::moltbotctl(), arguments).output();
        tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap()
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ctl(&[arguments, &["--json"]].concat()).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn state_dir(&self, number: usize) -> PathBuf {
        self.home.path().join("state").join(format!("moltbot-{}", self.name(number)))
    }

    fn token(&self, number: usize) -> String {
        let file = self.state_dir(number).join("gateway-token");
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    async fn start(&self, number: usize, port: u16) -> Child {
        let name = self.name(number);
        let arguments = ["--profile", &*name, "--log-format", "text"];
        let log = File::create(self.home.path().join(format!("log-{number}"))).unwrap();
        let mut command = self.command(&programs::moltbotd(), &arguments);
        let mut child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let ready = async {
            while !matches!(request(port, "GET", "/readyz", &[]).await, Ok((200, _))) {
                assert!(child.try_wait().unwrap().is_none(), "profile {number} did not start");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.unwrap();
        child
    }

    async fn connect(&self, number: usize, port: u16) -> Client {
        let connect = Connect::operator().token(&self.token(number));
        Client::connect(&format!("ws://127.0.0.1:{port}"), connect).await.unwrap()
    }
}

/// The ports are real ones of this host: one user at a time looks for free
/// ones and uses them.
fn alone() -> Flock<File> {
    let path = std::env::temp_dir().join("moltbot-tests-profiles.lock");
    Flock::lock(File::create(path).unwrap(), FlockArg::LockExclusive).unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn sixteen_profiles_run_side_by_side_and_know_nothing_of_each_other() {
    const ALL: usize = 16;
    let _alone = tokio::task::spawn_blocking(alone).await.unwrap();
    let user = User::new();
    let names: Vec<_> = (0..ALL).map(|number| user.name(number)).collect();

    // All at once: ports and tokens are nevertheless their own.
    let create = names.iter().map(|name| async {
        user.json(&["profile", "create", name]).await["port"].as_u64().unwrap()
    });
    let ports = futures_util::future::join_all(create).await;
    let sorted: Vec<_> = ports.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    assert_eq!(sorted.len(), ALL);
    assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 20), "{sorted:?}");
    let ports: Vec<u16> = ports.into_iter().map(|port| u16::try_from(port).unwrap()).collect();
    let tokens: BTreeSet<_> = (0..ALL).map(|number| user.token(number)).collect();
    assert_eq!(tokens.len(), ALL);

    let mut daemons = Vec::new();
    let mut clients = Vec::new();
    for (number, port) in ports.iter().enumerate() {
        daemons.push(user.start(number, *port).await);
        clients.push(user.connect(number, *port).await);
    }
    let list = user.json(&["profile", "list"]).await;
    let running = list["profiles"].as_array().unwrap().iter().filter(|it| it["running"] == true);
    assert_eq!(running.count(), ALL);

    // What is said to one is not known to another, nor is its token.
    for (number, client) in clients.iter_mut().enumerate() {
        let params = json!({ "sessionKey": "main", "message": format!("word-{number}."),
            "idempotencyKey": format!("key-{number}") });
        client.call("chat.send", params).await.unwrap();
        client.event_where("chat", |it| it["state"] == "final").await;
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
        let text = history.to_string();
        for other in 0..ALL {
            let word = format!("word-{other}.");
            assert_eq!(text.contains(&word), other == number, "{number}: {word}");
        }
        let next = (number + 1) % ALL;
        let url = format!("ws://127.0.0.1:{}", ports[next]);
        let foreign = Connect::operator().token(&user.token(number));
        assert!(Client::connect(&url, foreign).await.is_err());
        let found = user.json(&["where", "--profile", &names[number]]).await;
        let socket = found["chosen"].to_string();
        assert!(socket.contains(&names[number]), "{socket}");
    }

    // One is killed, one is stopped: the others' clients notice nothing.
    let raw = |child: &Child| Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    kill(raw(&daemons[3]), Signal::SIGKILL).unwrap();
    daemons[3].wait().await.unwrap();
    let stopped = user.ctl(&["service", "stop", "--profile", &names[4]]).await;
    if !stopped.status.success() {
        // The tests run inside somebody's service.
        kill(raw(&daemons[4]), Signal::SIGTERM).unwrap();
    }
    assert!(daemons[4].wait().await.unwrap().success());
    for (number, client) in clients.iter_mut().enumerate() {
        let alive = client.call("health", json!({}));
        if number != 3 && number != 4 {
            assert_eq!(alive.await.unwrap()["ok"], true, "profile {number}");
        }
    }
    let list = user.json(&["profile", "list"]).await;
    let stopped = list["profiles"].as_array().unwrap().iter().filter(|it| it["running"] == false);
    let stopped: Vec<_> = stopped.map(|it| it["profile"].as_str().unwrap()).collect();
    assert_eq!(stopped, ["default", &*names[3], &*names[4]]);
    daemons[3] = user.start(3, ports[3]).await;

    // One that runs is not deleted; the state of one that does not stays.
    let refused = user.ctl(&["profile", "delete", &names[5], "--purge", "--yes"]).await;
    assert!(!refused.status.success());
    let stops = if Path::new("/run/systemd/system").is_dir() {
        format!("moltbotctl service stop --profile {}", names[5])
    } else {
        format!("kill {}", daemons[5].id().unwrap())
    };
    assert!(text(&refused).contains(&format!("stop it first: {stops}")), "{}", text(&refused));
    user.json(&["profile", "delete", &names[4]]).await;
    assert!(user.state_dir(4).join("moltbot.db").exists());
    assert_eq!(clients[5].call("health", json!({})).await.unwrap()["ok"], true);
}

#[tokio::test]
async fn a_profile_is_purged_only_on_two_words_and_without_its_neighbours() {
    let _alone = tokio::task::spawn_blocking(alone).await.unwrap();
    let user = User::new();
    let (first, second) = (user.name(1), user.name(2));
    for name in [&first, &second] {
        user.json(&["profile", "create", name]).await;
    }
    let again = user.ctl(&["profile", "create", &first]).await;
    assert!(!again.status.success() && text(&again).contains("profile show"), "{again:?}");
    let asked = user.ctl(&["profile", "delete", &first, "--purge"]).await;
    assert!(!asked.status.success());
    assert!(text(&asked).contains("--purge --yes"), "{asked:?}");
    assert!(user.state_dir(1).exists());
    assert!(!user.ctl(&["profile", "delete", &first, "--yes"]).await.status.success());
    let purged = user.json(&["profile", "delete", &first, "--purge", "--yes"]).await;
    assert_eq!(purged["deleted"].as_array().unwrap().len(), 2);
    assert!(!user.state_dir(1).exists() && user.state_dir(2).exists());
    assert!(!user.ctl(&["profile", "show", &first]).await.status.success());
    for wrong in ["default", "Upper", "../x", "a/b"] {
        assert!(!user.ctl(&["profile", "delete", wrong]).await.status.success(), "{wrong}");
        assert!(!user.ctl(&["profile", "create", wrong]).await.status.success(), "{wrong}");
    }
    // A link leads elsewhere; what is there is not the profile's to delete.
    let elsewhere = user.home.path().join("elsewhere");
    std::fs::rename(user.state_dir(2), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, user.state_dir(2)).unwrap();
    let refused = user.ctl(&["profile", "delete", &second, "--purge", "--yes"]).await;
    assert!(!refused.status.success() && elsewhere.join("gateway-token").exists(), "{refused:?}");
    let port = user.json(&["profile", "show", &second]).await["port"].to_string();
    let near = user.ctl(&["profile", "create", &first, "--port", &port]).await;
    assert!(text(&near).contains(&format!("ports of profile {second}")), "{near:?}");
}

#[tokio::test]
async fn what_two_profiles_cannot_share_is_refused_with_the_holders_name() {
    let daemon = Daemon::start().await;
    let holder = daemon.variables().into_iter().find(|(name, _)| name == "MOLTBOT_PROFILE");
    let holder = format!("profile {}", holder.unwrap().1);
    let user = User::new();
    let other = user.name(1);
    let path = |name: &str| daemon.home().join(name).display().to_string();
    let (config, state) = (path("moltbot.json"), path("state"));
    let own = user.home.path().join("own").display().to_string();
    let port = daemon.port().to_string();
    let free = moltbot_tests::ports::free().to_string();
    let attempts: [(&[&str], i32, &str); 3] = [
        (
            &["--state-dir", &own, "--config", &config, "--port", &free],
            75,
            "is the configuration of",
        ),
        (&["--state-dir", &state, "--port", &free], 75, "another gateway is running"),
        (&["--state-dir", &own, "--port", &port], 69, "is the address of another gateway"),
    ];
    for (arguments, code, says) in attempts {
        let arguments = [&["--profile", &*other, "--log-format", "text"], arguments].concat();
        let running = user.command(&programs::moltbotd(), &arguments).output();
        let output = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(says) && text.contains(&holder), "{arguments:?}: {text}");
    }
    let mut client = daemon.operator().await;
    assert_eq!(client.call("health", json!({})).await.unwrap()["ok"], true);
}

#[tokio::test]
async fn a_unit_may_name_a_configuration_that_is_not_there_yet_and_a_person_may_not() {
    let user = User::new();
    let name = user.name(1);
    let at = |path: &str| user.home.path().join(path).display().to_string();
    let port = moltbot_tests::ports::free();
    let usual = at(&format!("config/moltbot-{name}/moltbot.json"));
    let start = |config: &str| {
        let port = port.to_string();
        let state = at("state/own");
        let arguments = [
            "--profile",
            &name,
            "--state-dir",
            &state,
            "--config",
            config,
            "--port",
            &port,
            "--log-format",
            "text",
        ];
        let mut command = user.command(&programs::moltbotd(), &arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    assert_eq!(start(&at("config/typo.json")).wait().await.unwrap().code(), Some(78));
    let mut daemon = start(&usual);
    while !matches!(request(port, "GET", "/readyz", &[]).await, Ok((200, _))) {
        assert_eq!(daemon.try_wait().unwrap(), None);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_mistyped_profile_is_named_and_makes_nothing() {
    let user = User::new();
    let (known, typed) = (user.name(1), user.name(2));
    user.json(&["profile", "create", &known]).await;
    // What a client once kept under that name is no profile either.
    std::fs::create_dir_all(user.state_dir(2).join("client")).unwrap();
    let before = tree(user.home.path());
    for command in
        [&["status"][..], &["config", "set", "gateway.port", "1"], &["doctor"], &["where"]]
    {
        let output = user.ctl(&[&["--profile", &typed], command].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        let said = text(&output);
        assert!(said.contains(&format!("there is no profile {typed}")), "{command:?}: {said}");
        assert!(said.contains(&format!("did you mean --profile {known}?")), "{command:?}: {said}");
    }
    assert_eq!(tree(user.home.path()), before);
    let list = user.json(&["profile", "list"]).await;
    let names: Vec<_> =
        list["profiles"].as_array().unwrap().iter().map(|it| it["profile"].clone()).collect();
    assert_eq!(names, [json!("default"), json!(known)]);
}

/// Returns everything below a folder.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push(path);
    }
    found.sort();
    found
}
