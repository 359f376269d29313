//! A package's life.

use moltbot_tests::daemon::TOKEN;

use super::{
    crowd::Crowd,
    machine::{Machine, Suite},
};

pub(super) fn story(suite: Suite) {
    let machine = Machine::with_package(suite, "package");
    assert_eq!(machine.fails("systemctl is-active moltbotd").trim(), "inactive");
    assert_eq!(machine.fails("systemctl is-enabled moltbotd").trim(), "disabled");

    // Started means that it serves: no waiting between the two.
    machine.sh("systemctl enable --now moltbotd && moltbotctl health");
    assert_eq!(
        machine.property("moltbotd", "StatusText"),
        format!("listening on 127.0.0.1:{}", machine.port)
    );
    keeps_secrets(&machine);
    fills_the_journal(&machine);
    reloads(&machine, suite);
    upgrades(&machine);

    machine.sh("systemctl enable moltbotd@work.service; dpkg -r moltbotd 2>&1");
    machine.fails(&format!("ss -Hltn sport = :{} | grep .", machine.port));
    machine.sh("test -e /var/lib/moltbot/moltbot.db");
    let said = machine.sh("dpkg -P moltbotd 2>&1");
    assert!(said.contains("are kept; remove them with: rm -r /var/lib/moltbot"), "{said}");
    machine.sh("test -e /var/lib/moltbot/moltbot.db");
    machine.sh("dpkg -i /packages/moltbotd_*-1_*.deb; \
         moltbotctl --config /etc/moltbot/moltbot.json config set logging.maxAgeDays 7; \
         test -e /etc/moltbot/moltbot.json.backups; \
         echo moltbotd moltbotd/purge-state boolean true | debconf-set-selections; \
         dpkg -P moltbotd; ! ls -d /var/lib/moltbot /var/log/moltbot /etc/moltbot");
    let left = machine.sh("find /etc/systemd /usr/lib/systemd -name 'moltbotd*'");
    assert_eq!(left, "");
}

/// Neither unit, arguments nor environment show the token that counts.
fn keeps_secrets(machine: &Machine) {
    let said = machine
        .sh("pid=$(systemctl show --value -p MainPID moltbotd); systemctl show moltbotd; \
         systemctl cat moltbotd; tr '\\0' '\\n' < /proc/$pid/environ; cat /proc/$pid/cmdline");
    assert!(said.contains("CREDENTIALS_DIRECTORY=") && !said.contains(TOKEN), "{said}");
    machine.sh(&format!(
        "echo {TOKEN} > /tmp/token; \
         moltbotctl health --url ws://127.0.0.1:{0} --token-file /tmp/token; \
         echo wrong > /tmp/token; \
         ! moltbotctl health --url ws://127.0.0.1:{0} --token-file /tmp/token",
        machine.port
    ));
}

fn fills_the_journal(machine: &Machine) {
    let line = machine.sh("journalctl -u moltbotd -o json MOLTBOT_PROFILE=default MESSAGE=ready");
    let entry: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    let address = format!("127.0.0.1:{}", machine.port);
    for (field, value) in [
        ("MESSAGE", "ready"),
        ("PRIORITY", "5"),
        ("SYSLOG_IDENTIFIER", "moltbotd"),
        ("MOLTBOT_PROFILE", "default"),
        ("MOLTBOT_ADDRESS", &address),
        ("_SYSTEMD_UNIT", "moltbotd.service"),
    ] {
        assert_eq!(entry[field], value, "{line}");
    }
    assert!(entry["CODE_FILE"].as_str().unwrap().ends_with("boot.rs"), "{line}");
}

fn reloads(machine: &Machine, suite: Suite) {
    let pid = machine.property("moltbotd", "MainPID");
    let config = |level: &str| {
        let gateway = format!("gateway: {{ port: {} }}", machine.port);
        let text = format!("{{ {gateway}, logging: {{ level: \"{level}\" }} }}");
        machine.sh(&format!("echo '{text}' > /etc/moltbot/moltbot.json"));
    };
    config("debug");
    machine.sh("systemctl reload moltbotd; until journalctl -u moltbotd | grep -q 'configuration reloaded'; do sleep 0.1; done");
    config("shouting");
    if let Suite::Trixie = suite {
        machine.fails("systemctl reload moltbotd");
        machine.sh("until journalctl -u moltbotd | grep -q 'moltbot.json:1:.*logging.level'; do sleep 0.1; done");
    } else {
        // There a reload is a signal, and only the daemon knows how it went.
        machine.sh("systemctl reload moltbotd; \
             until journalctl -u moltbotd | grep -q 'configuration kept'; do sleep 0.1; done");
    }
    config("info");
    machine.sh("systemctl reload moltbotd; systemctl is-active moltbotd; moltbotctl health");
    assert_eq!(machine.property("moltbotd", "MainPID"), pid);
}

fn upgrades(machine: &Machine) {
    let pid = machine.property("moltbotd", "MainPID");
    let crowd = Crowd::start(machine.port, 10);
    machine.sh("dpkg -i /packages/*-2_*.deb");
    let before = crowd.counts().sessions;
    crowd.until(|counts| counts.sessions >= before);
    let counts = crowd.finish();
    println!("upgrade: {counts:?}");
    assert_eq!(counts.refused, 0, "{counts:?}");
    assert_ne!(machine.property("moltbotd", "MainPID"), pid);
    machine.sh("systemctl is-active moltbotd");
}
