//! Restarts that nobody is refused by.

use super::{
    crowd::{Counts, Crowd},
    machine::{Machine, Suite},
};

const CLIENTS: usize = 50;
const RESTARTS_WITH_SOCKET_UNIT: usize = 200;
/// With nothing but the descriptor store.
const RESTARTS_WITH_STORE: usize = 25;
const KILLS: usize = 5;

pub(super) fn story(suite: Suite) {
    let machine = Machine::with_package(suite, "restarts");
    machine.sh(&format!(
        "mkdir -p /etc/systemd/system/moltbotd.socket.d; \
         printf '[Socket]\\nListenStream=\\nListenStream=127.0.0.1:{}\\n' \
             > /etc/systemd/system/moltbotd.socket.d/listen.conf; \
         systemctl daemon-reload; systemctl start moltbotd.socket",
        machine.port
    ));
    // The first client starts the service.
    println!("{suite:?}, socket unit: {}", restarted(&machine, RESTARTS_WITH_SOCKET_UNIT));
    machine.sh("systemctl stop moltbotd.socket moltbotd.service; systemctl start moltbotd");
    println!("{suite:?}, descriptor store: {}", restarted(&machine, RESTARTS_WITH_STORE));
}

/// Says what is wrong after a restart: another main process than the one that
/// holds the lock, others beside it.
const CHECK: &str = r#"
    check() {
        pid=$(systemctl show --value -p MainPID moltbotd)
        grep -q "\"pid\":$pid," /run/moltbot/moltbotd.pid || echo "$1: not the main process: $pid"
        procs=$(cat /sys/fs/cgroup/system.slice/moltbotd.service/cgroup.procs)
        [ "$procs" = "$pid" ] || echo "$1: others than $pid run: $procs"
    }
"#;

fn restarted(machine: &Machine, restarts: usize) -> String {
    let asked = disturbed(
        machine,
        &format!(
            "for i in $(seq {restarts}); do \
                 systemctl restart moltbotd || echo restart $i failed; check \"restart $i\"; \
             done"
        ),
    );
    let killed = disturbed(
        machine,
        &format!(
            "for i in $(seq {KILLS}); do \
                 old=$(systemctl show --value -p MainPID moltbotd); kill -9 $old; \
                 until [ $(systemctl show --value -p MainPID moltbotd) != $old ] \
                     && systemctl is-active --quiet moltbotd; do sleep 0.05; done; \
                 check \"kill $i\"; \
             done"
        ),
    );
    // A port that was taken; a client that came during the stop and kept it waiting.
    let odd = "journalctl -b -u moltbotd | grep -e status=69 -e 'already listening' \
               -e 'stopped before everything was finished' || true";
    assert_eq!(machine.sh(odd), "");
    format!("{restarts} restarts: {asked:?}; {KILLS} kills: {killed:?}")
}

fn disturbed(machine: &Machine, script: &str) -> Counts {
    let crowd = Crowd::start(machine.port, CLIENTS);
    assert_eq!(machine.sh(&format!("{CHECK}\n{script}")), "");
    let now = crowd.counts().answered;
    crowd.until(|counts| counts.answered > now);
    let counts = crowd.finish();
    assert_eq!(counts.refused, 0, "{counts:?}");
    assert!(counts.sessions > CLIENTS, "nobody was interrupted: {counts:?}");
    counts
}
