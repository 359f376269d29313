//! Gateways side by side.

use moltbot_tests::ports;

use super::{
    crowd::Bystander,
    machine::{Machine, Suite},
};

const PROFILES: usize = 16;

pub(super) fn story(suite: Suite) {
    let machine = Machine::with_package(suite, "profiles");
    let names: Vec<String> = (1..=PROFILES).map(|number| format!("p{number}")).collect();
    let ports: Vec<u16> = ports::several(PROFILES);
    for (name, port) in names.iter().zip(&ports) {
        machine.credential(&format!("moltbotd.{name}.gateway-token"));
        machine.configure(&format!("/etc/moltbot-{name}"), *port);
    }
    machine.sh("systemctl start moltbotd@p{1..16}.service");
    let mut clients: Vec<Bystander> = ports.iter().map(|port| Bystander::at(*port)).collect();
    let pids = main_pids(&machine);

    machine.sh("kill -9 $(systemctl show --value -p MainPID moltbotd@p3)");
    machine.sh("systemctl stop moltbotd@p7");
    // A new program for one of them, as an upgrade gives it.
    machine.sh("mkdir -p /etc/systemd/system/moltbotd@p11.service.d; cp /usr/bin/moltbotd /opt/; \
         printf '[Service]\\nExecStart=\\nExecStart=/opt/moltbotd --profile %%i \
             --log-format journald\\n' \
             > /etc/systemd/system/moltbotd@p11.service.d/newer.conf; \
         systemctl daemon-reload; systemctl restart moltbotd@p11; \
         until [ $(systemctl show --value -p NRestarts moltbotd@p3) = 1 ] \
             && systemctl is-active --quiet moltbotd@p3; do sleep 0.1; done");

    let disturbed = ["p3", "p7", "p11"];
    for ((name, client), before) in names.iter().zip(&mut clients).zip(&pids) {
        if !disturbed.contains(&&**name) {
            assert!(client.is_served(), "{name} lost its client");
            assert_eq!(machine.property(&format!("moltbotd@{name}"), "MainPID"), *before);
        }
    }
    assert_eq!(machine.property("moltbotd@p7", "ActiveState"), "inactive");
    for name in ["p3", "p11"] {
        machine.sh(&format!("moltbotctl health --profile {name}"));
    }
    keep_to_themselves(&machine);
    println!("{suite:?}: {} of {PROFILES} noticed nothing", PROFILES - disturbed.len());
}

fn main_pids(machine: &Machine) -> Vec<String> {
    let said = machine.sh("systemctl show --value -p MainPID moltbotd@p{1..16}.service");
    let pids: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    assert_eq!(pids.len(), PROFILES);
    pids
}

/// Folders, log lines and secrets are a profile's own.
fn keep_to_themselves(machine: &Machine) {
    let said = machine.sh("for i in {1..16}; do test -e /var/lib/moltbot-p$i/moltbot.db; \
             journalctl -u moltbotd@p$i -o json --output-fields=MOLTBOT_PROFILE \
                 | grep -o '\"MOLTBOT_PROFILE\":\"[^\"]*\"' | sort -u; done");
    let wanted: Vec<String> =
        (1..=PROFILES).map(|number| format!("\"MOLTBOT_PROFILE\":\"p{number}\"")).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
}
