//! The gateway of a user who is not there.

use super::{
    crowd::Crowd,
    machine::{Machine, Suite},
};

pub(super) fn story(suite: Suite) {
    let machine = Machine::with_package(suite, "user");
    machine.sh("useradd --create-home alice; loginctl enable-linger alice; \
                until systemctl is-active --quiet user@$(id -u alice).service; do sleep 0.1; done");
    let config = format!(
        "{{ gateway: {{ port: {}, auth: {{ token: \"{}\" }} }} }}",
        machine.port,
        moltbot_tests::daemon::TOKEN
    );
    machine.sh_as(
        "alice",
        &format!("umask 077; mkdir -p ~/.config/moltbot; echo '{config}' > ~/.config/moltbot/moltbot.json"),
    );
    anothers_program_on_the_port_is_shown_nothing(&machine);
    machine.sh_as("alice", "systemctl --user enable --now moltbotd && moltbotctl health");
    // The same place on every version, and the one that a shell's moltbotd uses.
    machine.sh_as("alice", "test -e ~/.local/state/moltbot/moltbot.db");
    confined(&machine);

    let crowd = Crowd::start(machine.port, 5);
    machine.sh_as("alice", "for i in 1 2 3 4 5; do systemctl --user restart moltbotd; done");
    let counts = crowd.finish();
    println!("{suite:?}, user manager: {counts:?}");
    assert_eq!(counts.refused, 0, "{counts:?}");

    machine.reboot();
    let crowd_after = "until moltbotctl health; do sleep 0.2; done; \
                       systemctl --user is-active moltbotd; journalctl --user -u moltbotd -n 1";
    machine.sh("until systemctl is-active --quiet user@$(id -u alice).service; do sleep 0.1; done");
    machine.sh_as("alice", crowd_after);
}

/// While a gateway does not run, its port is anybody's.
fn anothers_program_on_the_port_is_shown_nothing(machine: &Machine) {
    let port = machine.port;
    machine.sh(&format!(
        "useradd --create-home mallory; \
         systemd-run --unit=mallory --uid=mallory --setenv=HOME=/home/mallory \
         moltbotd --profile mallory --port {port} --token guess-which-this-is-0123456789; \
         until moltbotctl --url ws://127.0.0.1:{port} --token guess-which-this-is-0123456789 \
         health; do sleep 0.1; done"
    ));
    machine.sh_as(
        "alice",
        "moltbotctl health > ~/said 2>&1 || test $? = 4; cat ~/said; \
         grep -q 'belongs to mallory' ~/said",
    );
    // What is given with the command is meant for whoever is there.
    let given =
        format!("moltbotctl --url ws://127.0.0.1:{port} --token guess-which-this-is-0123456789");
    machine.sh_as("alice", &format!("{given} health"));
    machine.sh("systemctl stop mallory");
}

/// The settings that older systemd ignores without `PrivateUsers=`.
fn confined(machine: &Machine) {
    let pid = machine.sh_as("alice", "systemctl --user show --value -p MainPID moltbotd");
    machine.sh(&format!(
        "grep -q '^NoNewPrivs:\\s1' /proc/{pid}/status; grep -q '^Seccomp:\\s2' /proc/{pid}/status; \
         grep ' /usr ' /proc/{pid}/mountinfo || grep ' / ' /proc/{pid}/mountinfo | grep -q ' ro,'"
    ));
}
