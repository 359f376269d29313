//! Backups: made while the gateway serves, checked, and put back whole or not
//! at all.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use moltbot_tests::{Client, Ctl, Daemon, programs};
use serde_json::{Value, json};

/// A daemon that was told something, and a backup of that moment.
async fn with_backup() -> (Daemon, Ctl, PathBuf) {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    say(&ctl, "before the backup").await;
    fs::create_dir_all(daemon.state_dir().join("media/inbound")).unwrap();
    fs::write(daemon.state_dir().join("media/inbound/photo.jpg"), [0xff; 3000]).unwrap();
    let file = daemon.home().join("backup.tar.gz");
    let made = ctl.json(&["backup", "create", "--output", file.to_str().unwrap()]).await;
    assert_eq!(made["manifest"]["leftOut"], json!([]), "{made}");
    (daemon, ctl, file)
}

async fn say(ctl: &Ctl, text: &str) {
    ctl.text(&["agent", "-m", text]).await;
}

async fn history(client: &mut Client) -> String {
    client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap().to_string()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn restore(ctl: &Ctl, file: &Path) -> Output {
    ctl.run(&["backup", "restore", file.to_str().unwrap()]).await
}

#[tokio::test]
async fn a_backup_of_a_serving_gateway_brings_everything_back() {
    let (mut daemon, ctl, file) = with_backup().await;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let verified = ctl.json(&["backup", "verify", file.to_str().unwrap()]).await;
    assert_eq!(verified["ok"], true, "{verified}");
    say(&ctl, "after the backup").await;
    let refused = restore(&ctl, &file).await;
    assert_eq!(refused.status.code(), Some(75), "{}", error(&refused));
    assert!(error(&refused).contains(&format!("kill {}", daemon.pid())), "{}", error(&refused));

    daemon.stop().await;
    let config = daemon.home().join("moltbot.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, "{ broken").unwrap();
    fs::remove_file(daemon.state_dir().join("media/inbound/photo.jpg")).unwrap();
    let report = ctl.json(&["backup", "restore", file.to_str().unwrap()]).await;
    assert_eq!(report["warnings"], json!([]), "{report}");
    assert_eq!(fs::read_to_string(&config).unwrap(), text);
    assert_eq!(fs::read(daemon.state_dir().join("media/inbound/photo.jpg")).unwrap(), [0xff; 3000]);
    let kept = PathBuf::from(report["kept"].as_str().unwrap());
    assert!(kept.join("moltbot.db").exists(), "{report}");

    daemon.start_again().await;
    let told = history(&mut daemon.operator().await).await;
    assert!(told.contains("before the backup") && !told.contains("after the backup"), "{told}");
}

#[tokio::test]
async fn a_backup_that_is_not_whole_changes_nothing() {
    let (mut daemon, ctl, file) = with_backup().await;
    daemon.stop().await;
    let whole = fs::read(&file).unwrap();
    let before = tree(&daemon.state_dir());
    let bad = daemon.home().join("bad.tar.gz");
    let flipped = flipped(&whole);
    let longer = [&whole[..], b"more"].concat();
    let cuts = [0, 1, 20, whole.len() / 3, whole.len() - 9, whole.len() - 1];
    let cut = cuts.iter().map(|&length| whole[..length].to_vec());
    for bytes in cut.chain([flipped, longer, b"hello".repeat(1000)]) {
        fs::write(&bad, bytes).unwrap();
        for command in ["verify", "restore"] {
            let output = ctl.run(&["backup", command, bad.to_str().unwrap()]).await;
            assert_eq!(output.status.code(), Some(1), "{}", error(&output));
            let told = error(&output);
            assert!(told.starts_with("error: ") && told.contains("is no whole backup"), "{told}");
            assert!(told.contains("\nhelp: use another one"), "{told}");
        }
    }
    assert_eq!(tree(&daemon.state_dir()), before);
}

#[tokio::test]
async fn a_backup_made_to_harm_changes_nothing() {
    let (mut daemon, ctl, file) = with_backup().await;
    daemon.stop().await;
    let before = tree(&daemon.state_dir());
    let bad = daemon.home().join("bad.tar.gz");
    let outside = daemon.home().join("outside");
    let plain = |name: &str| Entry { name: name.into(), kind: b'0', target: String::new() };
    let entries = [
        plain("../outside"),
        plain("state/../../outside"),
        plain(outside.to_str().unwrap()),
        plain("state/moltbot.db-wal"),
        plain("state/media/inbound/photo.jpg"),
        Entry { name: "state/link".into(), kind: b'2', target: "/etc".into() },
        Entry { name: "state/hard".into(), kind: b'1', target: "/etc/hostname".into() },
        Entry { name: "state/pipe".into(), kind: b'6', target: String::new() },
    ];
    for entry in entries {
        fs::write(&bad, with_entry(&file, &entry)).unwrap();
        let output = restore(&ctl, &bad).await;
        assert_eq!(output.status.code(), Some(1), "{}: {}", entry.name, error(&output));
        assert_eq!(tree(&daemon.state_dir()), before, "{}", entry.name);
        assert!(!outside.exists(), "{}", entry.name);
    }
}

#[tokio::test]
async fn however_much_a_backup_claims_to_hold_little_memory_is_used() {
    const MIB: usize = 1 << 20;
    let mut daemon = Daemon::start().await;
    daemon.stop().await;
    let ctl = Ctl::beside(&daemon);
    let bad = daemon.home().join("bad.tar.gz");
    // Long names, long link names and extended headers, which a reader takes as a whole.
    let (long, odd) = ("a name in it is too long", "is no plain file");
    for (kind, why) in [(b'L', long), (b'K', odd), (b'x', odd), (b'g', odd)] {
        let entry = Entry { name: "././@LongLink".into(), kind, target: String::new() };
        let long = header(&entry, 128 * MIB).into_iter().chain(std::iter::once(b'a'));
        gzip_padded(&long.collect::<Vec<_>>(), 128 * MIB, &bad);
        is_refused_in_little_memory(&ctl, &bad, why).await;
    }
    // More files than the names of which can be kept.
    let files = (0..100_002).flat_map(|number| {
        header(&Entry { name: format!("state/{number}"), kind: b'0', target: String::new() }, 0)
    });
    gzip_padded(&files.collect::<Vec<_>>(), 0, &bad);
    is_refused_in_little_memory(&ctl, &bad, "it holds more than 100000 files").await;
}

async fn is_refused_in_little_memory(ctl: &Ctl, file: &Path, why: &str) {
    let command = ["backup", "verify", file.to_str().unwrap()];
    // In KiB. What needs more fails for another reason.
    let output = shell(ctl, "ulimit -d 60000", &command).await;
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    assert!(error(&output).contains(why), "{}", error(&output));
}

#[tokio::test]
async fn pipes_devices_and_folders_are_refused_without_waiting_for_them() {
    let (mut daemon, ctl, file) = with_backup().await;
    daemon.stop().await;
    let pipe = daemon.home().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for odd in [&pipe, Path::new("/dev/zero"), daemon.home()] {
        for command in ["verify", "restore"] {
            let output = ctl.run(&["backup", command, odd.to_str().unwrap()]).await;
            assert_eq!(output.status.code(), Some(1), "{}", error(&output));
            assert!(error(&output).contains("is not a regular file"), "{}", error(&output));
        }
    }

    // The same as the place where a file of the backup is said to come from.
    for odd in [&pipe, Path::new("/dev/zero"), Path::new("/proc/self/mem")] {
        let forged = daemon.home().join("forged.tar.gz");
        let token = Added::new("elsewhere/1/token", "secret").from(odd.to_str().unwrap());
        fs::write(&forged, with_files(&file, &[token])).unwrap();
        let report = ctl.json(&["backup", "restore", forged.to_str().unwrap()]).await;
        let put_back = &report["elsewhere"][0];
        assert_eq!(put_back["to"], odd.to_str().unwrap(), "{report:#}");
        assert_eq!(fs::read_to_string(put_back["from"].as_str().unwrap()).unwrap(), "secret");
    }
    daemon.start_again().await;
}

#[tokio::test]
async fn a_configuration_that_includes_a_pipe_is_an_error_and_not_a_wait() {
    let (mut daemon, ctl, file) = with_backup().await;
    daemon.stop().await;
    let pipe = daemon.home().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let forged = daemon.home().join("forged.tar.gz");
    let config = json!({ "$include": pipe.to_str().unwrap() }).to_string();
    fs::write(&forged, with_files(&file, &[Added::new("config/moltbot.json", &config)])).unwrap();
    let report = ctl.json(&["backup", "restore", forged.to_str().unwrap()]).await;
    assert!(report["warnings"].to_string().contains("is not a regular file"), "{report:#}");
}

#[tokio::test]
async fn a_forged_backup_writes_nothing_beside_the_configuration_but_configuration() {
    let (mut daemon, ctl, file) = with_backup().await;
    daemon.stop().await;
    let home = daemon.home().to_owned();
    // The configuration is in the home folder, between what other programs read.
    fs::write(home.join("package.json"), "{}").unwrap();
    fs::create_dir(home.join("far")).unwrap();
    std::os::unix::fs::symlink(home.join("far"), home.join("linked")).unwrap();
    let wrong = [
        ".bashrc",
        ".ssh/authorized_keys",
        ".ssh/config.json",
        ".npmrc.json",
        "bin/run",
        "package.json",
        "linked/a.json",
        "not-included.json",
    ];
    let right = ["agents.json", "parts/channels.json5"];
    let included: Vec<_> =
        wrong[..7].iter().chain(&right).map(|name| format!("./{name}")).collect();
    let config = json!({ "$include": included }).to_string();
    let mut added = vec![Added::new("config/moltbot.json", &config)];
    let names = wrong.iter().chain(&right);
    added
        .extend(names.map(|name| Added::new(&format!("config/{name}"), "{ ui: { a: 'forged' } }")));
    let forged = home.join("forged.tar.gz");
    fs::write(&forged, with_files(&file, &added)).unwrap();

    let report = ctl.json(&["backup", "restore", forged.to_str().unwrap()]).await;
    assert_eq!(fs::read_to_string(home.join("moltbot.json")).unwrap(), config);
    for name in right {
        assert!(fs::read_to_string(home.join(name)).unwrap().contains("forged"), "{report:#}");
    }
    for name in wrong {
        let there = fs::read_to_string(home.join(name)).unwrap_or_default();
        assert!(!there.contains("forged"), "{name}: {report:#}");
        let kept = daemon.state_dir().join("restored-elsewhere/config").join(name);
        assert!(fs::read_to_string(kept).unwrap().contains("forged"), "{name}: {report:#}");
    }
    assert_eq!(report["elsewhere"].as_array().unwrap().len(), wrong.len(), "{report:#}");
}

#[tokio::test]
async fn a_command_to_be_run_by_hand_can_be_copied_whoever_chose_the_names_in_it() {
    let (mut daemon, ctl, file) = with_backup().await;
    daemon.stop().await;
    let home = daemon.home().display().to_string();
    let origins = [
        format!("{home}/a b; touch {home}/harm"),
        format!("{home}/$(touch {home}/harm)'`touch {home}/harm`"),
        format!("{home}/c\nput back by hand: touch {home}/harm"),
        format!("{home}/\u{1b}[2Kd"),
        format!("{home}/\u{202e}e"),
    ];
    let added = (0..).zip(&origins).map(|(number, origin): (u32, _)| {
        Added::new(&format!("elsewhere/{number}/it's"), "secret").from(origin)
    });
    let added: Vec<_> = added.collect();
    let forged = daemon.home().join("forged.tar.gz");
    fs::write(&forged, with_files(&file, &added)).unwrap();
    let told = ctl.text(&["backup", "restore", forged.to_str().unwrap()]).await;

    let hidden = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!told.contains(hidden), "{told:?}");
    let commands: Vec<_> =
        told.lines().filter_map(|line| line.strip_prefix("put back by hand: ")).collect();
    assert_eq!(commands.len(), 2, "{told}");
    for (command, origin) in commands.iter().zip(&origins) {
        fs::create_dir_all(Path::new(origin).parent().unwrap()).unwrap();
        let status = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
        assert!(status.success(), "{command}");
        assert_eq!(fs::read_to_string(origin).unwrap(), "secret");
    }
    assert!(!daemon.home().join("harm").exists(), "{told}");
}

#[tokio::test]
async fn a_backup_of_a_later_version_is_refused() {
    let (mut daemon, ctl, file) = with_backup().await;
    daemon.stop().await;
    let changed = daemon.home().join("later.tar.gz");
    let later = r#"{"format":2,"everything":"else"}"#;
    fs::write(&changed, packed(&[("manifest.json", later.as_bytes())])).unwrap();
    let output = restore(&ctl, &changed).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("layout 2"), "{}", error(&output));

    let mut entries = unpacked(&file);
    // `user_version`, a big-endian number in the file's header.
    let database =
        &mut entries.iter_mut().find(|entry| entry.0 == "database/moltbot.db").unwrap().1;
    database[60..64].copy_from_slice(&9999_u32.to_be_bytes());
    let database = database.clone();
    let manifest = &mut entries.last_mut().unwrap().1;
    let mut list: Value = serde_json::from_slice(manifest).unwrap();
    list["schema"] = 9999.into();
    list["files"][0]["sha256"] = sum(&database).into();
    *manifest = list.to_string().into_bytes();
    let entries: Vec<_> = entries.iter().map(|(name, data)| (&**name, &**data)).collect();
    fs::write(&changed, packed(&entries)).unwrap();
    let output = restore(&ctl, &changed).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("9999"), "{}", error(&output));
}

#[tokio::test]
async fn what_went_wrong_is_told_once_and_in_json_to_programs() {
    let (daemon, ctl, file) = with_backup().await;
    let output = ctl.run(&["backup", "verify", "/nowhere.tar.gz"]).await;
    assert_eq!(error(&output).matches("No such file").count(), 1, "{}", error(&output));
    assert!(error(&output).starts_with("error: cannot read /nowhere"), "{}", error(&output));
    assert_eq!(output.status.code(), Some(1));
    let file = file.to_str().unwrap();
    let none = daemon.home().to_str().unwrap();
    for (arguments, code, word) in [
        (["backup", "verify", "/nowhere.tar.gz"].as_slice(), 1, "/nowhere.tar.gz"),
        (&["backup", "restore", file], 75, "another gateway is running"),
        (&["import", none], 75, "another gateway is running"),
    ] {
        let output = ctl.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let told: Value = serde_json::from_slice(&output.stderr)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", error(&output)));
        assert_eq!(told["ok"], false);
        assert!(told["error"]["message"].as_str().unwrap().contains(word), "{told}");
    }
}

#[tokio::test]
async fn a_restore_that_is_killed_leaves_the_old_state_or_the_new() {
    let (mut daemon, ctl, file) = with_backup().await;
    say(&ctl, "after the backup").await;
    daemon.stop().await;
    let (mut old, mut new) = (0, 0);
    for round in 0..24_u64 {
        let mut running = state(&daemon, &["backup", "restore", file.to_str().unwrap()]);
        // Any moment will do: the point is that none leaves half of each.
        tokio::time::sleep(Duration::from_millis(round * 4)).await;
        // It may have ended by itself.
        let _ = running.start_kill();
        running.wait().await.unwrap();
        daemon.start_again().await;
        let told = history(&mut daemon.operator().await).await;
        assert!(told.contains("before the backup"), "{told}");
        let photo = daemon.state_dir().join("media/inbound/photo.jpg");
        assert_eq!(fs::metadata(photo).unwrap().len(), 3000);
        if told.contains("after the backup") {
            old += 1;
        } else {
            new += 1;
            say(&ctl, "after the backup").await;
        }
        daemon.stop().await;
    }
    assert_eq!(old + new, 24);
    let output = restore(&ctl, &file).await;
    assert!(output.status.success(), "{}", error(&output));
}

#[tokio::test]
async fn a_backup_that_is_killed_has_no_name() {
    let (daemon, ctl, _) = with_backup().await;
    for round in 0..12_u64 {
        let file = daemon.home().join(format!("{round}.tar.gz"));
        let mut running = state(&daemon, &["backup", "create", "-o", file.to_str().unwrap()]);
        tokio::time::sleep(Duration::from_millis(round * 4)).await;
        // It may have ended by itself.
        let _ = running.start_kill();
        running.wait().await.unwrap();
        if file.exists() {
            ctl.text(&["backup", "verify", file.to_str().unwrap()]).await;
        }
    }
}

#[tokio::test]
async fn without_room_nothing_is_made_and_nothing_changed() {
    let (mut daemon, ctl, file) = with_backup().await;
    daemon.stop().await;
    let before = tree(&daemon.state_dir());
    let other = daemon.home().join("other.tar.gz");
    // A limit on the size of files ends writes as a full disk does.
    for command in [
        vec!["backup", "create", "-o", other.to_str().unwrap()],
        vec!["backup", "restore", file.to_str().unwrap()],
    ] {
        let output = limited(&ctl, 8, &command).await;
        assert_eq!(output.status.code(), Some(1), "{}", error(&output));
        assert!(!error(&output).is_empty());
        assert!(!other.exists());
        assert_eq!(tree(&daemon.state_dir()), before);
    }
    daemon.start_again().await;
}

#[tokio::test]
async fn a_damaged_database_is_not_copied_as_if_it_were_whole() {
    let (mut daemon, ctl, file) = with_backup().await;
    daemon.stop().await;
    // What is restored is one file, without the log of later changes.
    let output = restore(&ctl, &file).await;
    assert!(output.status.success(), "{}", error(&output));
    let database = daemon.state_dir().join("moltbot.db");
    let mut bytes = fs::read(&database).unwrap();
    let end = bytes.len();
    bytes[end / 2..].fill(0x5a);
    fs::write(&database, bytes).unwrap();
    let file = daemon.home().join("other.tar.gz");
    let output = ctl.run(&["backup", "create", "-o", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("moltbotctl doctor"), "{}", error(&output));
    assert!(!file.exists());
}

/// Runs a command with files limited to so many blocks of 512 bytes.
async fn limited(ctl: &Ctl, blocks: u32, arguments: &[&str]) -> Output {
    shell(ctl, &format!("trap '' XFSZ; ulimit -f {blocks}"), arguments).await
}

/// Runs a command after some lines of shell.
async fn shell(ctl: &Ctl, before: &str, arguments: &[&str]) -> Output {
    let real = ctl.command(arguments);
    let real = real.as_std();
    let script = format!("{before}; exec \"$0\" \"$@\"");
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", &script]).arg(real.get_program()).args(real.get_args()).env_clear();
    command.envs(real.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.output().await.unwrap()
}

/// Returns a backup with one bit flipped in its middle. There are bits of the
/// compressed form that say nothing, such as which of many zeros are repeated:
/// what is in the backup stays the same, and so it stays whole.
fn flipped(whole: &[u8]) -> Vec<u8> {
    let unpacked = |bytes: &[u8]| {
        let mut plain = Vec::new();
        let read = flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain);
        read.ok().map(|_| plain)
    };
    let content = unpacked(whole);
    let middle = whole.len() / 2;
    let mut damaged = (middle..whole.len()).map(|at| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x10;
        bytes
    });
    damaged.find(|bytes| unpacked(bytes) != content).unwrap()
}

/// Starts the program that does the work, without `moltbotctl` before it.
fn state(daemon: &Daemon, arguments: &[&str]) -> tokio::process::Child {
    tokio::process::Command::new(programs::moltbotd())
        .arg("state")
        .args(arguments)
        .env_clear()
        .envs(daemon.variables())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// Returns every file below a folder with the sum of its bytes. What readers
/// of the database share is no state, and neither is a log with nothing in it,
/// which stays behind where there is no room to share.
fn tree(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else if path.is_file() && !path.ends_with("moltbot.db-shm") {
            let bytes = fs::read(&path).unwrap();
            if !(path.ends_with("moltbot.db-wal") && bytes.is_empty()) {
                files.push((path, sum(&bytes)));
            }
        }
    }
    files.sort();
    files
}

struct Entry {
    name: String,
    kind: u8,
    target: String,
}

/// Returns a backup with one more entry before its manifest. The header is
/// written by hand: libraries refuse such names.
fn with_entry(file: &Path, entry: &Entry) -> Vec<u8> {
    let mut entries: Vec<u8> = Vec::new();
    for (name, data) in unpacked(file) {
        if name == "manifest.json" {
            entries.extend(header(entry, 0));
        }
        entries.extend(header(&Entry { name, kind: b'0', target: String::new() }, data.len()));
        entries.extend(&data);
        entries.resize(entries.len().next_multiple_of(512), 0);
    }
    entries.extend([0; 1024]);
    gzip(&entries)
}

/// A file that is put into a backup by somebody who can write it.
struct Added {
    name: String,
    data: String,
    origin: String,
}

impl Added {
    fn new(name: &str, data: &str) -> Self {
        Self { name: name.into(), data: data.into(), origin: "/there".into() }
    }

    fn from(self, origin: &str) -> Self {
        Self { origin: origin.into(), ..self }
    }
}

/// Returns a backup with files added or replaced, and a manifest that agrees.
fn with_files(file: &Path, added: &[Added]) -> Vec<u8> {
    let mut entries = unpacked(file);
    let (name, manifest) = entries.pop().unwrap();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["files"].as_array_mut().unwrap();
    for Added { name, data, origin } in added {
        entries.retain(|entry| entry.0 != *name);
        files.retain(|item| item["path"] != **name);
        entries.push((name.clone(), data.clone().into_bytes()));
        files.push(json!({ "path": name, "origin": origin, "size": data.len(),
            "sha256": sum(data.as_bytes()) }));
    }
    entries.push((name, manifest.to_string().into_bytes()));
    let entries: Vec<_> = entries.iter().map(|(name, data)| (&**name, &**data)).collect();
    packed(&entries)
}

fn packed(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, data) in entries {
        let entry = Entry { name: (*name).into(), kind: b'0', target: String::new() };
        bytes.extend(header(&entry, data.len()));
        bytes.extend(*data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    gzip(&bytes)
}

fn header(entry: &Entry, size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &entry.name);
    put(100, "0000600\0");
    put(124, &format!("{size:011o}\0"));
    put(148, "        ");
    put(157, &entry.target);
    put(257, "ustar\u{0}00");
    header[156] = entry.kind;
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Returns the entries of a backup, read by hand: short names only.
fn unpacked(file: &Path) -> Vec<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut gunzip = flate2::read::GzDecoder::new(fs::File::open(file).unwrap());
    gunzip.read_to_end(&mut bytes).unwrap();
    let (mut entries, mut at) = (Vec::new(), 0);
    while bytes[at] != 0 {
        let text = |range: std::ops::Range<usize>| {
            let field = &bytes[at + range.start..at + range.end];
            let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
            String::from_utf8(field[..end].to_vec()).unwrap()
        };
        let size = usize::from_str_radix(text(124..136).trim(), 8).unwrap();
        entries.push((text(0..100), bytes[at + 512..at + 512 + size].to_vec()));
        at += 512 + size.next_multiple_of(512);
    }
    entries
}

/// Compresses bytes and as many zeros after them into a file. The library takes long for so many
/// in a test build.
fn gzip_padded(bytes: &[u8], zeros: usize, file: &Path) {
    let mut gzip = std::process::Command::new("gzip")
        .arg("-1")
        .stdin(std::process::Stdio::piped())
        .stdout(fs::File::create(file).unwrap())
        .spawn()
        .unwrap();
    let mut input = gzip.stdin.take().unwrap();
    input.write_all(bytes).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(zeros as u64), &mut input).unwrap();
    drop(input);
    assert!(gzip.wait().unwrap().success());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn sum(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
