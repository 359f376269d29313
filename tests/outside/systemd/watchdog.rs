//! A gateway that hangs is as good as dead, so it is killed.

use moltbot_tests::Client;
use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::machine::{Machine, Suite};

pub(super) fn story(suite: Suite) {
    let machine = Machine::with_package(suite, "watchdog");
    machine.sh("mkdir -p /etc/systemd/system/moltbotd.service.d; \
         printf '[Service]\\nWatchdogSec=10\\n' > /etc/systemd/system/moltbotd.service.d/soon.conf; \
         systemctl daemon-reload; systemctl start moltbotd");
    let first = machine.property("moltbotd", "MainPID");

    // Everything else goes on: the accept loops, the timer of the signs of life.
    let writer = stop_thread(machine.outer_pid("moltbotd"), "store-writer");
    until_killed(writer);
    came_back(&machine, &first, 1);
    let journal = machine.sh("journalctl -u moltbotd");
    assert!(journal.contains("Watchdog timeout (limit 10s)"), "{journal}");
    assert!(journal.contains("probe takes too long, watchdog gets no sign"), "{journal}");

    let second = machine.property("moltbotd", "MainPID");
    machine.sh(&format!("kill -STOP {second}"));
    came_back(&machine, &second, 2);

    let third = machine.property("moltbotd", "MainPID");
    machine.sh(&format!("kill -9 {third}"));
    came_back(&machine, &third, 3);
    let timeouts = machine.sh("journalctl -u moltbotd | grep -c 'Watchdog timeout'");
    assert_eq!(timeouts, "2", "a gateway that lives is left alone");
}

fn came_back(machine: &Machine, before: &str, restarts: u32) {
    machine.sh(&format!(
        "until [ $(systemctl show --value -p MainPID moltbotd) != {before} ] \
             && systemctl is-active --quiet moltbotd; do sleep 0.1; done; moltbotctl health"
    ));
    assert_eq!(machine.property("moltbotd", "NRestarts"), restarts.to_string());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = format!("ws://127.0.0.1:{}", machine.port);
    let connecting = Client::connect(&url, moltbot_tests::Connect::operator());
    runtime.block_on(connecting).unwrap_or_else(|refusal| panic!("{refusal:?}"));
}

/// Stops one thread of a process, as if it hung.
fn stop_thread(process: i32, name: &str) -> Pid {
    let folder = format!("/proc/{process}/task");
    let named = |thread: &String| {
        std::fs::read_to_string(format!("{folder}/{thread}/comm")).unwrap().trim() == name
    };
    let thread = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(named)
        .unwrap_or_else(|| panic!("no thread {name}"));
    let thread = Pid::from_raw(thread.parse().unwrap());
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    thread
}

/// Waits until a stopped thread was killed with its process, and lets go of it.
fn until_killed(thread: Pid) {
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return,
            _ => {}
        }
    }
}
