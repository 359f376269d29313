//! Hundreds of broken and odd configuration files, one after the other, under a
//! running daemon: it stays, and loses no setting.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path};

use moltbot_tests::{Client, Connect, Daemon, daemon::TOKEN};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What the file says while all is well, with a setting to recognize it by.
fn good(mark: usize) -> String {
    format!(
        "// mine\n{{\n  gateway: {{ auth: {{ token: '{TOKEN}' }}, reload: {{ mode: 'off' }} }},\n  \
         agents: {{ list: [{{ id: 'main', name: 'n' }}] }},\n  \
         ui: {{ assistant: {{ name: 'm{mark}' }} }}, /* end */\n}}\n"
    )
}

/// A file, by what is odd about it.
type Case = (String, Vec<u8>);

/// Kinds of values that a key may get instead of its own.
const VALUES: &[&str] = &[
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "NaN",
    "99999999999999999999",
    "''",
    "'x'",
    "'${NO_SUCH}'",
    "[]",
    "[[]]",
    "{}",
    "{ a: { b: 1 } }",
];

/// Keys that get each of them.
const KEYS: &[&str] = &[
    "gateway",
    "gateway.port",
    "gateway.bind",
    "gateway.auth",
    "gateway.auth.mode",
    "gateway.trustedProxies",
    "gateway.limits.maxPayload",
    "gateway.reload.debounceMs",
    "agents",
    "agents.list",
    "agents.defaults.maxConcurrent",
    "models.providers",
    "models.providers.x",
    "session.scope",
    "logging.level",
    "channels",
    "channels.telegram",
    "env",
    "bindings",
    "$include",
];

fn cases() -> Vec<Case> {
    let mut cases = wrong_values();
    cases.extend(cut_short());
    cases.extend(one_byte_off());
    cases.extend(odd_files());
    cases
}

fn wrong_values() -> Vec<Case> {
    let case = |key: &str, value: &str| {
        let inner =
            key.rsplit('.').fold(value.to_owned(), |inner, key| format!("{{ {key}: {inner} }}"));
        (format!("{key} is {value}"), inner.into_bytes())
    };
    KEYS.iter().flat_map(|key| VALUES.iter().map(move |value| case(key, value))).collect()
}

/// A writer that was killed, at every ninth byte.
fn cut_short() -> Vec<Case> {
    let text = good(0).into_bytes();
    let cut = |at: usize| (format!("cut after {at} bytes"), text[..at].to_vec());
    (0..text.len()).step_by(9).map(cut).collect()
}

/// One byte lost, doubled or replaced, all over the file.
fn one_byte_off() -> Vec<Case> {
    let text = good(0).into_bytes();
    let mut cases = Vec::new();
    for at in (0..text.len()).step_by(13) {
        let with = |bytes: &[u8]| [&text[..at], bytes, &text[at + 1..]].concat();
        cases.push((format!("byte {at} lost"), with(&[])));
        cases.push((format!("byte {at} is a brace"), with(b"}")));
        cases.push((format!("byte {at} is no UTF-8"), with(b"\xff")));
    }
    cases
}

/// What has been found in the folders of people.
fn odd_files() -> Vec<Case> {
    let deep = 200_000;
    [
        ("a page of zeros", vec![0; 4096]),
        ("only a byte order mark", b"\xef\xbb\xbf".to_vec()),
        ("UTF-16", "{}".encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("nested very deeply", "[".repeat(deep).into_bytes()),
        ("objects nested very deeply", "{a:".repeat(deep).into_bytes()),
        ("larger than is read", vec![b' '; 5 * 1024 * 1024]),
        ("a list", b"[]".to_vec()),
        ("a text", b"'gateway'".to_vec()),
        ("two objects", b"{} {}".to_vec()),
        ("YAML", b"gateway:\n  port: 1\n".to_vec()),
        ("TOML", b"[gateway]\nport = 1\n".to_vec()),
        ("an HTML error page", b"<!DOCTYPE html><html><body>502</body></html>".to_vec()),
        ("conflict markers", b"<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n".to_vec()),
        ("a comment that does not end", b"{ /* gateway: {} }".to_vec()),
        ("a string that does not end", b"{ a: 'b }".to_vec()),
        ("a shell's quotes", "{ “gateway”: {} }".as_bytes().to_vec()),
        ("no colon", b"{ gateway }".to_vec()),
        ("two commas", b"{ a: 1,, b: 2 }".to_vec()),
        ("a lone surrogate", br#"{ a: "\ud800" }"#.to_vec()),
        ("includes itself", b"{ $include: 'moltbot.json' }".to_vec()),
        ("includes what is not there", b"{ $include: './gone.json' }".to_vec()),
        ("includes a folder", b"{ $include: '.' }".to_vec()),
        ("includes a device", b"{ $include: '/dev/zero' }".to_vec()),
        ("includes a broken file", b"{ $include: 'broken.json' }".to_vec()),
        ("includes through numbers", b"{ $include: [1, 2] }".to_vec()),
        ("agents of the same name", b"{ agents: { list: [{ id: 'a' }, { id: 'A' }] } }".to_vec()),
        ("a key given twice, the last one wrong", b"{ gateway: {}, gateway: 5 }".to_vec()),
        ("__proto__", b"{ __proto__: { gateway: { port: 'x' } }, logging: 5 }".to_vec()),
        ("bound to everything without a secret", b"{ gateway: { bind: 'lan' } }".to_vec()),
        ("a password that is not there", b"{ gateway: { auth: { mode: 'password' } } }".to_vec()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .to_vec()
}

/// Has the daemon read the file now; what it finds then is in `config.plan`.
async fn read(daemon: &Daemon, operator: &mut Client, bytes: &[u8]) -> Value {
    fs::write(daemon.home().join("moltbot.json"), bytes).unwrap();
    daemon.signal(Signal::SIGHUP);
    operator.call("config.plan", json!({})).await.unwrap()
}

/// Waits until a good file is in force.
async fn until_good(daemon: &Daemon, operator: &mut Client, mark: usize) {
    let planned = read(daemon, operator, good(mark).as_bytes()).await;
    assert_eq!(planned["valid"], true, "{planned}");
    let search = async {
        loop {
            let planned = operator.call("config.plan", json!({})).await.unwrap();
            let status = operator.call("status", json!({})).await.unwrap();
            if planned["changes"] == json!([]) && status["degraded"].is_null() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(moltbot_tests::PATIENCE, search).await.expect("the good file counts");
}

#[tokio::test]
async fn no_file_ends_the_daemon_or_takes_a_setting_away() {
    let daemon = Daemon::start().await;
    fs::write(daemon.home().join("broken.json"), "{ half").unwrap();
    fs::set_permissions(daemon.home().join("broken.json"), fs::Permissions::from_mode(0o600))
        .unwrap();
    // Some of the files have no token, and then the one of before counts no more.
    let control = Client::open_control(&daemon.control_socket()).await.unwrap();
    let mut operator = control.introduce(Connect::operator()).await.unwrap();
    let pid = daemon.pid();
    let cases = cases();
    let different: BTreeSet<&[u8]> = cases.iter().map(|(_, bytes)| &**bytes).collect();
    assert!(different.len() >= 300, "{} different files", different.len());

    let (mut refused, mut taken) = (0, 0);
    until_good(&daemon, &mut operator, 0).await;
    for (index, (name, bytes)) in cases.iter().enumerate() {
        let planned = read(&daemon, &mut operator, bytes).await;
        if planned["valid"] == true {
            // Odd, but good: it may count, and the next good one counts again.
            taken += 1;
            until_good(&daemon, &mut operator, index + 1).await;
            continue;
        }
        refused += 1;
        let issue = &planned["issues"][0];
        assert!(issue["message"].as_str().is_some_and(|it| !it.is_empty()), "{name}: {planned}");
        // Whether the daemon has looked yet or not: the last good one is in force.
        let shown = operator.call("config.get", json!({})).await.unwrap();
        assert_eq!(shown["valid"], false, "{name}");
        let assistant = &shown["config"]["ui"]["assistant"]["name"];
        assert!(assistant.as_str().is_some_and(|it| it.starts_with('m')), "{name}: {shown}");
        assert!(shown["config"]["agents"]["list"][0]["id"] == "main", "{name}: {shown}");
        let kept = fs::read(daemon.home().join("moltbot.json")).unwrap();
        assert!(kept == *bytes, "{name}: the daemon does not write the file");
        if index % 10 == 0 {
            until_good(&daemon, &mut operator, index + 1).await;
        }
    }
    println!("{} files: {refused} refused, {taken} taken", cases.len());
    until_good(&daemon, &mut operator, cases.len()).await;
    assert_eq!(daemon.pid(), pid, "the same process");
    assert!(alive(pid), "and it lives");
    let shown = operator.call("config.get", json!({})).await.unwrap();
    assert_eq!(shown["config"]["ui"]["assistant"]["name"], format!("m{}", cases.len()));
    assert!(refused >= 300, "{refused} files were refused");
}

fn alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists() || !Path::new("/proc/self").exists()
}
