//! The rpm's life, on the machine at hand: Debian with rpm's own program. What
//! an rpm system's dependencies are called is not tried here.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use moltbot_tests::{ports, programs::packages};

use super::{
    crowd::Crowd,
    machine::{Machine, Suite},
};

pub(super) fn story(suite: Suite) {
    let machine = Machine::boot(suite, "rpm");
    for package in ["moltbotd", "moltbotctl"] {
        carries_what_the_deb_does(&machine, package);
    }

    machine.sh("rpm -i --nodeps /packages/*-1.*.rpm");
    assert_eq!(machine.fails("systemctl is-active moltbotd").trim(), "inactive");
    assert_eq!(machine.fails("systemctl is-enabled moltbotd").trim(), "disabled");
    machine.for_clients();
    machine.sh("systemctl enable --now moltbotd && moltbotctl health");
    machine.configure("/etc/moltbot-work", ports::free());
    machine.sh("systemctl enable --now moltbotd@work");
    upgrades(&machine);

    let listens = format!("ss -Hltn sport = :{} | grep .", machine.port);
    machine.sh(&listens);
    machine.sh("rpm -e moltbotd moltbotctl");
    machine.fails(&listens);
    machine.sh("test -e /var/lib/moltbot/moltbot.db");
    // Whoever changed the settings finds them again.
    machine.sh("grep -q port /etc/moltbot/moltbot.json.rpmsave");
    assert_eq!(machine.sh("systemctl list-units --all --no-legend 'moltbotd*'"), "");
    assert_eq!(machine.sh("find /etc/systemd /usr -name 'moltbot*'"), "");
}

fn upgrades(machine: &Machine) {
    let pids = || ["moltbotd", "moltbotd@work"].map(|unit| machine.property(unit, "MainPID"));
    let before = pids();
    let crowd = Crowd::start(machine.port, 10);
    machine.sh("rpm -U --nodeps /packages/*-2.*.rpm");
    let sessions = crowd.counts().sessions;
    crowd.until(|counts| counts.sessions >= sessions);
    let counts = crowd.finish();
    println!("upgrade of the rpm: {counts:?}");
    assert_eq!(counts.refused, 0, "{counts:?}");
    machine.sh("systemctl is-active moltbotd moltbotd@work");
    for (before, after) in before.iter().zip(pids()) {
        assert_ne!(*before, after);
    }
    // What people wrote stays.
    machine.sh("grep -q port /etc/moltbot/moltbot.json");
}

fn carries_what_the_deb_does(machine: &Machine, package: &str) {
    let listed = |what: &str| -> BTreeSet<String> {
        let list = machine.sh(&format!("rpm -qp --qf '{what}' /packages/{package}-*-1.*.rpm"));
        list.lines().map(str::to_owned).collect()
    };
    let rpm = listed(r"[%{FILEMODES:perms} %{FILENAMES}\n]");
    let files: BTreeSet<String> =
        rpm.iter().filter(|line| !line.starts_with('d')).cloned().collect();
    let deb = files_of_deb(package);
    assert!(deb.len() > 5, "{deb:?}");
    assert_eq!(files, deb);
    let kept = listed(r"[%{FILEFLAGS:fflags} %{FILENAMES}\n]");
    let kept: Vec<_> = kept.iter().filter(|line| line.starts_with('c')).collect();
    let wanted: &[&str] =
        if package == "moltbotd" { &["cn /etc/moltbot/moltbot.json"] } else { &[] };
    assert_eq!(kept, wanted);
}

/// Returns modes and paths of the deb's files, named as an rpm names them.
fn files_of_deb(package: &str) -> BTreeSet<String> {
    let file = std::fs::read_dir(packages())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .find(|name| name.starts_with(&format!("{package}_")) && name.contains("-1_"))
        .expect("tests/run built it");
    let list = Command::new("dpkg-deb")
        .arg("-c")
        .arg(packages().join(file))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    list.lines()
        .filter(|line| !line.starts_with('d'))
        .map(|line| {
            let mode = line.split(' ').next().unwrap();
            let path = &line[line.find(" ./").expect("a path") + 2..];
            format!("{mode} {}", as_rpm(path, package))
        })
        .collect()
}

/// Debian compresses pages, and keeps licences and zsh's functions elsewhere.
fn as_rpm(path: &str, package: &str) -> String {
    let doc = format!("/usr/share/doc/{package}");
    if path == format!("{doc}/copyright") {
        return format!("/usr/share/licenses/{package}/LICENSE");
    }
    if path == format!("{doc}/changelog.gz") {
        return format!("{doc}/CHANGELOG.md");
    }
    path.trim_end_matches(".gz").replace("/zsh/vendor-completions/", "/zsh/site-functions/")
}
