//! `moltbotctl doctor` and work on the files of a service, on a machine whose
//! gateways are units: what is wrong is named, and the command that is named
//! puts it right.

use serde_json::Value;

use super::machine::Machine;

/// The gateway of the system runs, and root looks after it.
pub(super) fn of_the_system(machine: &Machine) {
    let root = Doctor { machine, user: None };
    root.finds_nothing();
    // Older versions notice changed files, not new ones.
    machine.sh("cd /etc/systemd/system; mkdir -p moltbotd.service.d; \
                printf '[Service]\\nNice=1\\n' > moltbotd.service.d/nice.conf; systemctl daemon-reload; \
                printf '[Service]\\nNice=2\\n' > moltbotd.service.d/nice.conf");
    root.is_right_about("unit", "files changed since systemd read them");
    machine.sh("chown root: /var/lib/moltbot/moltbot.db; chmod 644 /var/lib/moltbot/moltbot.db");
    root.is_right_about("owner", "it belongs to root");
    root.is_right_about("permissions", "others can get at it");
    machine.sh("systemctl disable moltbotd");
    root.is_right_about("service", "it does not start by itself");
    machine.sh("echo '{ gateway: { bind: 7 } }' > /etc/moltbot/moltbot.json");
    root.finds("configuration", "gateway.bind");
    machine.configure("/etc/moltbot", machine.port);
    backups_belong_to_whom_they_should(machine);
    root.finds_nothing();
}

/// Root saves and puts back; the gateway, which is another user, goes on with
/// what it finds.
fn backups_belong_to_whom_they_should(machine: &Machine) {
    machine.sh("cd /root; moltbotctl backup create -o saved.tar.gz; \
                test $(stat -c %U:%a saved.tar.gz) = root:600; \
                moltbotctl backup verify saved.tar.gz");
    let said = machine.fails("moltbotctl backup restore /root/saved.tar.gz 2>&1");
    assert!(said.contains("/var/lib/moltbot"), "{said}");
    machine.sh("systemctl stop moltbotd; moltbotctl backup restore /root/saved.tar.gz; \
         ! find /var/lib/moltbot /etc/moltbot /var/log/moltbot ! -user moltbot \
             ! -name 'moltbot.json.before-restore*' | grep .; \
         systemctl start moltbotd; moltbotctl health");
    // Nothing was made of root's own.
    machine.sh("test ! -e /root/.local/state/moltbot/moltbot.db");
    machine.sh("mkdir -m 700 /root/reference; echo '{}' > /root/reference/clawdbot.json");
    let said = machine.fails("moltbotctl import /root/reference 2>&1");
    assert!(said.contains("cannot be read by moltbot"), "{said}");
    let command = said.split_once("import that: ").unwrap().1.lines().next().unwrap();
    machine.sh(&format!(
        "systemctl stop moltbotd; {command}; \
         ! find /var/lib/moltbot ! -user moltbot | grep .; systemctl start moltbotd"
    ));
}

/// A unit that `moltbotctl` wrote runs for a user.
pub(super) fn of_a_user(machine: &Machine, user: &str) {
    let alice = Doctor { machine, user: Some(user) };
    alice.finds_nothing();
    let unit = format!("/home/{user}/.config/systemd/user/moltbotd.service");
    machine.sh(&format!("sed -i s/^WatchdogSec=.*/WatchdogSec=77/ {unit}"));
    alice.is_right_about("unit", "it is not the unit file of this version");
    machine.sh(&format!("loginctl disable-linger {user}"));
    machine
        .sh(&format!("while systemctl is-active --quiet user@$(id -u {user}); do sleep 0.1; done"));
    // Nobody is logged in and nothing runs: there is no manager to ask.
    let finding = alice.finds("linger", &format!("it runs only while {user} is logged in"));
    machine.sh(finding["command"].as_str().unwrap());
    let up = "until systemctl --user is-active --quiet moltbotd; do sleep 0.1; done";
    machine
        .sh(&format!("until systemctl is-active --quiet user@$(id -u {user}); do sleep 0.1; done"));
    alice.sh(up);
    machine.sh("mv /usr/local/bin/moltbotd /usr/local/bin/other");
    alice.finds("unit", "which is not there");
    machine.sh("mv /usr/local/bin/other /usr/local/bin/moltbotd");
    alice.finds_nothing();
}

struct Doctor<'a> {
    machine: &'a Machine,
    user: Option<&'a str>,
}

impl Doctor<'_> {
    fn finds_nothing(&self) {
        let report = self.report();
        assert_eq!(report["ok"], true, "{report:#}");
    }

    /// Checks that something is found, that the command beside it succeeds, and
    /// that it is not found then.
    fn is_right_about(&self, check: &str, what: &str) {
        let finding = self.finds(check, what);
        let command = finding["command"].as_str().unwrap_or_else(|| panic!("{finding}"));
        self.sh(command.trim_start_matches("sudo "));
        let report = self.report();
        assert!(found(&report, check, what).is_none(), "{command}\n{report:#}");
    }

    fn finds(&self, check: &str, what: &str) -> Value {
        let report = self.report();
        found(&report, check, what).unwrap_or_else(|| panic!("{check}: {what}: {report:#}"))
    }

    fn report(&self) -> Value {
        serde_json::from_str(&self.sh("moltbotctl doctor --json || true")).unwrap()
    }

    fn sh(&self, script: &str) -> String {
        match self.user {
            Some(user) => {
                let path = "export PATH=/usr/local/bin:/usr/bin:/bin";
                self.machine.sh_as(user, &format!("{path}; {script}"))
            }
            None => self.machine.sh(script),
        }
    }
}

fn found(report: &Value, check: &str, what: &str) -> Option<Value> {
    let list = report["findings"].as_array().unwrap();
    let fits = |it: &&Value| {
        it["check"] == check && it["what"].as_str().is_some_and(|it| it.contains(what))
    };
    list.iter().find(fits).cloned()
}
