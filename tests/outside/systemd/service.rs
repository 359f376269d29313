//! `moltbotctl service` on the system's and on a user's systemd, with and
//! without what the package brought.

use super::{
    doctor,
    machine::{Machine, Suite},
};

pub(super) fn story(suite: Suite) {
    let machine = Machine::with_package(suite, "service");
    of_the_system(&machine);
    of_a_user(&machine);
    without_units_of_a_package(&machine);
}

fn of_the_system(machine: &Machine) {
    // The package's unit is used, not written over.
    let steps = machine.sh("moltbotctl service install --dry-run");
    assert!(!steps.contains("write "), "{steps}");
    let said = machine.sh("moltbotctl service install");
    assert!(said.contains("moltbotd.service: "), "{said}");
    machine.sh("systemctl is-enabled moltbotd; moltbotctl health");
    let first = machine.property("moltbotd", "MainPID");
    machine.sh("moltbotctl gateway restart");
    let second = machine.property("moltbotd", "MainPID");
    assert!(second != "0" && second != first);
    let status = machine.sh("moltbotctl gateway status --json");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["owner"]["unit"], "moltbotd.service");
    assert_eq!(status["service"]["runtime"]["pid"].to_string(), second);
    assert_eq!(status["rpc"]["ok"], true);

    // From inside the unit: handed over, and not the end of who asks.
    let group = machine.property("moltbotd", "ControlGroup");
    let said = machine.sh(&format!(
        "bash -c 'echo $$ > /sys/fs/cgroup{group}/cgroup.procs; moltbotctl gateway restart'"
    ));
    assert!(said.contains("restart-scheduled"), "{said}");
    machine.sh(&format!(
        "until [ $(systemctl show --value -p MainPID moltbotd) != {second} ] && moltbotctl health; \
         do sleep 0.2; done"
    ));
    assert_eq!(machine.property("moltbotd", "NRestarts"), "1");
    doctor::of_the_system(machine);

    // What keeps a unit from starting is told, and forgotten when it is gone.
    machine
        .sh("moltbotctl service stop; echo '{ gateway: { bind: 7 } }' > /etc/moltbot/moltbot.json");
    machine.sh("rm -f /var/lib/moltbot/*last-good* /var/lib/moltbot/*.json");
    let said = machine.fails("moltbotctl service start");
    assert!(said.contains("the configuration is invalid"), "{said}");
    machine.configure("/etc/moltbot", machine.port);
    machine.sh("moltbotctl service start; moltbotctl health; moltbotctl service uninstall");
    machine.fails("systemctl is-enabled moltbotd");
    machine.sh("test -e /usr/lib/systemd/system/moltbotd.service -o -e /lib/systemd/system/moltbotd.service");
}

fn of_a_user(machine: &Machine) {
    machine.sh("useradd --create-home alice; loginctl enable-linger alice; \
                until systemctl is-active --quiet user@$(id -u alice).service; do sleep 0.1; done");
    let port = moltbot_tests::ports::free();
    let create = format!("moltbotctl profile create work --port {port} --start");
    machine.sh_as("alice", &create);
    machine.sh_as(
        "alice",
        "moltbotctl --profile work health; systemctl --user is-enabled moltbotd@work",
    );
    // Without what leads to the bus.
    let status = machine.sh_as(
        "alice",
        "env -u XDG_RUNTIME_DIR -u DBUS_SESSION_BUS_ADDRESS moltbotctl --profile work service status",
    );
    assert!(status.contains("moltbotd@work.service of systemd (user): active"), "{status}");
    machine.sh_as(
        "alice",
        "moltbotctl --profile work service restart; moltbotctl --profile work health",
    );
    machine.sh_as(
        "alice",
        "moltbotctl --profile work service stop; \
                            moltbotctl profile delete work --purge --yes; \
                            test ! -e ~/.local/state/moltbot-work",
    );
}

fn without_units_of_a_package(machine: &Machine) {
    machine.sh("cp /usr/bin/moltbotd /usr/bin/moltbotctl /usr/local/bin/; dpkg --purge moltbotd moltbotctl");
    machine.sh_as("alice", "/usr/local/bin/moltbotctl service install --dry-run > ~/plan; \
                            grep -q 'write /home/alice/.config/systemd/user/moltbotd.service' ~/plan; \
                            test ! -e ~/.config/systemd/user/moltbotd.service");
    // Nothing is configured yet: the unit names a file that is not there.
    let config = format!("{{ gateway: {{ port: {} }} }}", machine.port);
    machine.sh_as("alice", &format!(
        "umask 077; mkdir -p ~/.config/moltbot; echo '{config}' > ~/.config/moltbot/moltbot.json; \
         /usr/local/bin/moltbotctl service install; /usr/local/bin/moltbotctl health; \
         systemctl --user cat moltbotd | grep -q ExecStart=/usr/local/bin/moltbotd"
    ));
    doctor::of_a_user(machine, "alice");
    machine.sh_as(
        "alice",
        "/usr/local/bin/moltbotctl service uninstall; \
         test ! -e ~/.config/systemd/user/moltbotd.service",
    );
}
