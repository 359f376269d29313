//! The first hour on a host that has the packages: what people type who have
//! just installed them, and what must not happen then. One machine for all of
//! it, in the order in which it is typed.

use serde_json::Value;

use super::machine::{Machine, Suite};

const FILE: &str = "/etc/moltbot/moltbot.json";
const COPIES: &str = "/etc/moltbot/moltbot.json.backups";

pub(super) fn story(suite: Suite) {
    let machine = Machine::boot_alone(suite, "first-hour");
    machine.sh(
        "dpkg -i /packages/*-1_*.deb; useradd --create-home alice; loginctl enable-linger alice",
    );

    root_configures_before_the_first_start(&machine);
    the_first_status_starts_a_gateway_that_only_has_its_socket(&machine);
    a_change_by_root_leaves_the_file_to_the_gateway(&machine);
    every_command_of_root_means_the_same_gateway(&machine);
    a_file_that_cannot_be_read_stops_nothing_and_is_mended(&machine);
    an_admin_without_root_is_told_what_helps(&machine);
    a_mistyped_profile_makes_nothing(&machine);
    a_profile_without_a_port_ends_with_what_helps(&machine);
    a_second_user_has_a_gateway_of_their_own(&machine);
    let log = machine.sh("journalctl -b --no-pager");
    assert!(!log.contains("inherited credential"), "{log}");
}

fn root_configures_before_the_first_start(machine: &Machine) {
    let said = machine.sh(&format!("moltbotctl config set gateway.port {} 2>&1", machine.port));
    assert!(said.starts_with(&format!("gateway: the system service moltbotd ({FILE})")), "{said}");
    assert!(said.contains(&format!("Wrote {FILE} (change 1).")), "{said}");
    belongs(machine, FILE, "root:root 644");
    belongs(machine, COPIES, "moltbot:moltbot 700");
    machine.sh("test ! -e /root/.config/moltbot; test ! -e /root/.local/state/moltbot");
}

fn the_first_status_starts_a_gateway_that_only_has_its_socket(machine: &Machine) {
    machine.sh(&format!(
        "mkdir -p /etc/systemd/system/moltbotd.socket.d; \
         printf '[Socket]\\nListenStream=\\nListenStream=127.0.0.1:{}\\n' \
             > /etc/systemd/system/moltbotd.socket.d/listen.conf; \
         systemctl daemon-reload; systemctl enable --now moltbotd.socket; \
         test $(systemctl is-active moltbotd) = inactive; moltbotctl status; \
         systemctl is-active moltbotd",
        machine.port
    ));
    machine.sh("systemctl disable --now moltbotd.socket; systemctl stop moltbotd; \
                systemctl enable --now moltbotd; moltbotctl health");
}

fn a_change_by_root_leaves_the_file_to_the_gateway(machine: &Machine) {
    let set = |days: u8| machine.sh(&format!("moltbotctl config set logging.maxAgeDays {days}"));
    set(7);
    belongs(machine, FILE, "root:root 644");
    machine.sh("systemctl restart moltbotd; moltbotctl health");
    assert_eq!(state(machine), "healthy");

    // A client changes it over the wire: from then on it is the gateway's own.
    let snapshot = machine.sh("moltbotctl gateway call config.get 2>&-");
    let snapshot: Value = serde_json::from_str(&snapshot).unwrap();
    machine.sh(&format!(
        "moltbotctl gateway call config.patch --params \
         '{{\"raw\":\"{{logging:{{maxAgeDays:8}}}}\",\"baseHash\":{}}}'",
        snapshot["hash"]
    ));
    belongs(machine, FILE, "moltbot:moltbot 600");
    let said = machine.sh(&format!("moltbotctl config check {FILE}"));
    assert_eq!(said, format!("{FILE}: good."));
    set(9);
    belongs(machine, FILE, "moltbot:moltbot 600");
    machine.sh(&format!("! find {COPIES} ! -user moltbot | grep ."));

    // Taking changes back leads to who had it before, too.
    machine.sh("moltbotctl config undo");
    belongs(machine, FILE, "moltbot:moltbot 600");
    machine.sh("moltbotctl config undo");
    belongs(machine, FILE, "root:root 644");
    machine.sh(&format!(
        "grep -q 'maxAgeDays\": 7\\|maxAgeDays: 7' {FILE}; EDITOR='sed -i /maxAge/s/7/6/' moltbotctl config edit"
    ));
    belongs(machine, FILE, "root:root 644");
    machine.sh("systemctl restart moltbotd; moltbotctl health");
}

fn every_command_of_root_means_the_same_gateway(machine: &Machine) {
    assert_eq!(machine.sh("moltbotctl config path 2>&-"), FILE);
    let place: Value = serde_json::from_str(&machine.sh("moltbotctl where --json")).unwrap();
    assert_eq!((&place["config"]["path"], &place["gateway"]), (&FILE.into(), &"system".into()));
    let list: Value = serde_json::from_str(&machine.sh("moltbotctl profile list --json")).unwrap();
    let first = &list["profiles"][0];
    assert_eq!((&first["profile"], &first["running"]), (&"default".into(), &true.into()), "{list}");
    assert_eq!(first["port"], machine.port);
    machine.sh("moltbotctl status; moltbotctl logs --limit 1; moltbotctl doctor");
    // A file of root's own changes nothing but that it is said.
    machine.sh("mkdir -p /root/.config/moltbot; echo '{}' > /root/.config/moltbot/moltbot.json");
    let said = machine.sh("moltbotctl status 2>&1 >&-");
    assert_eq!(said, format!("gateway: the system service moltbotd ({FILE})"));
    let own = machine.sh("moltbotctl --user config path");
    assert_eq!(own, "/root/.config/moltbot/moltbot.json");
    machine.sh("rm -r /root/.config/moltbot");
}

/// As an older version, or a person, may leave it.
fn a_file_that_cannot_be_read_stops_nothing_and_is_mended(machine: &Machine) {
    machine.sh(&format!("chown root: {FILE}; chmod 640 {FILE}; chown -R root: {COPIES}"));
    machine.sh("systemctl restart moltbotd; moltbotctl health");
    let said = state(machine);
    assert!(said.starts_with("degraded") && said.contains("moltbotctl doctor --fix"), "{said}");
    let said = machine.fails("moltbotctl config set logging.maxAgeDays 5 2>&1");
    assert!(said.contains("moltbotctl doctor --fix"), "{said}");
    let report = machine.sh("moltbotctl doctor --json || true");
    let report: Value = serde_json::from_str(&report).unwrap();
    let found = report["findings"].as_array().unwrap();
    for place in [FILE, COPIES] {
        let is_it = |it: &&Value| it["check"] == "permissions" && it["place"] == place;
        assert!(found.iter().any(|it| is_it(&it)), "{report:#}");
    }
    machine.sh("moltbotctl doctor --fix");
    machine.sh(&format!("! find {FILE} {COPIES} ! -user moltbot | grep ."));
    assert_eq!(state(machine), "healthy");
    machine.sh("moltbotctl doctor; moltbotctl config set logging.maxAgeDays 5");
}

fn an_admin_without_root_is_told_what_helps(machine: &Machine) {
    for command in ["status", "logs", "config get", "config set gateway.port 1", "backup create"] {
        let said = machine.sh_as("alice", &format!("! moltbotctl {command} 2>&1"));
        assert!(said.contains("this gateway belongs to the user moltbot"), "{command}: {said}");
        assert!(said.contains("use sudo moltbotctl"), "{command}: {said}");
    }
    let said = machine.sh_as("alice", "moltbotctl gateway status 2>&1");
    assert!(said.contains("use sudo moltbotctl gateway status"), "{said}");
    let said = machine.sh_as("alice", "moltbotctl doctor 2>&1");
    assert!(said.contains("you have none") && !said.contains("warning"), "{said}");
    let said = machine.sh_as("alice", "! moltbotctl service install 2>&1");
    assert!(said.contains("moltbotctl service install --user"), "{said}");
    machine.sh_as("alice", "test ! -e ~/.config/moltbot");
}

fn a_mistyped_profile_makes_nothing(machine: &Machine) {
    for command in ["status", "config set gateway.port 1", "health", "doctor"] {
        let said = machine.sh_as("alice", &format!("! moltbotctl --profile typo {command} 2>&1"));
        assert!(said.contains("there is no profile typo"), "{command}: {said}");
    }
    machine.sh_as(
        "alice",
        "test -z \"$(find ~ -name '*typo*')\"; ! moltbotctl profile list | grep typo",
    );
}

fn a_profile_without_a_port_ends_with_what_helps(machine: &Machine) {
    // Another program has the default port.
    machine.sh("systemd-run --quiet --unit=taken perl -MIO::Socket::INET -e \
             'my $socket = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:18789\", Listen => 1) \
              or die; sleep' ; \
         until grep -q ':4965 .* 0A ' /proc/net/tcp; do sleep 0.05; done");
    machine.fails("systemctl start moltbotd@lab");
    assert_eq!(machine.property("moltbotd@lab", "ExecMainStatus"), "78");
    assert_eq!(machine.property("moltbotd@lab", "NRestarts"), "0");
    assert_eq!(machine.property("moltbotd@lab", "ActiveState"), "failed");
    let log = machine.sh("journalctl -u moltbotd@lab --no-pager");
    assert!(log.contains("moltbotctl profile create lab"), "{log}");
    machine.sh("systemctl stop taken");

    let port = moltbot_tests::ports::free();
    machine.sh(&format!("moltbotctl profile create lab --port {port} --start"));
    belongs(machine, "/etc/moltbot-lab/moltbot.json", "moltbot:moltbot 600");
    machine.sh("moltbotctl --profile lab health; moltbotctl --profile lab config set logging.maxAgeDays 3; \
                moltbotctl profile list | grep -q '^lab'; systemctl is-enabled moltbotd@lab");
    let said = machine.fails("moltbotctl --profile lba status 2>&1");
    assert!(said.contains("did you mean --profile lab?"), "{said}");
    machine.fails("moltbotctl profile delete lab --purge --yes");
    machine.sh(
        "moltbotctl --profile lab service stop; moltbotctl profile delete lab --purge --yes; \
                test ! -e /etc/moltbot-lab; test ! -e /var/lib/moltbot-lab; \
                ! systemctl is-enabled moltbotd@lab",
    );
}

fn a_second_user_has_a_gateway_of_their_own(machine: &Machine) {
    machine.sh("until systemctl is-active --quiet user@$(id -u alice).service; do sleep 0.1; done");
    let port = moltbot_tests::ports::free();
    machine.sh_as(
        "alice",
        &format!(
            "moltbotctl --user config set gateway.port {port}; \
             moltbotctl service install --user; moltbotctl health; moltbotctl doctor; \
             moltbotctl config path | grep -q ^/home/alice/"
        ),
    );
    machine.sh("moltbotctl health; moltbotctl doctor");
}

/// Returns what `status` says about the gateway's state.
fn state(machine: &Machine) -> String {
    let said = machine.sh("moltbotctl status");
    let line = said.lines().find_map(|line| line.strip_prefix("State"));
    line.unwrap_or_else(|| panic!("{said}")).trim().to_owned()
}

fn belongs(machine: &Machine, path: &str, wanted: &str) {
    assert_eq!(machine.sh(&format!("stat -c '%U:%G %a' {path}")), wanted, "{path}");
}
