//! `moltbotctl tunnel install`: the gateway and its sshd are on the host around
//! the machine, the user of the tunnel is in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use moltbot_tests::{Daemon, Sshd, daemon::TOKEN, ports, sshd};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::machine::{Machine, Suite};

pub(super) fn story(suite: Suite) {
    let runtime = Runtime::new().unwrap();
    let (daemon, sshd) = runtime.block_on(async { (Daemon::start().await, Sshd::start().await) });
    let ssh = ssh_to_take_along();
    let bind = Some((ssh.path().to_owned(), "/ssh"));
    let machine = Machine::boot_with(suite, "tunnel", bind);
    machine.sh("dpkg -i /packages/moltbotctl_*-1_*.deb");
    machine.sh(
        "useradd --create-home alice; loginctl enable-linger alice; \
         printf '#!/bin/sh\\nexec /ssh/loader --library-path /ssh /ssh/ssh \"$@\"\\n' > /usr/bin/ssh; \
         chmod 755 /usr/bin/ssh",
    );
    await_manager(&machine);
    let alice = Alice { machine: &machine, local: ports::free() };
    alice.gets(&sshd);
    let install = alice.install(daemon.port());

    // A server that nobody vouched for: the service fails once, and says why.
    alice.runs("mv ~/.ssh/known_hosts ~/.ssh/known");
    let (code, said) = alice.fails(&install);
    assert_eq!(code, 8, "{said}");
    let unit = format!("moltbot-tunnel-{}.service", alice.local);
    assert!(said.contains(&format!("journalctl --user -u {unit}")), "{said}");
    let result = alice.runs(&format!("systemctl --user show --value -p ExecMainStatus {unit}"));
    assert_eq!(result, "21", "the host key is not known, which trying again does not mend");
    let status = alice.runs(&format!("systemctl --user is-failed {unit}"));
    assert_eq!(status, "failed");

    alice.runs("mv ~/.ssh/known ~/.ssh/known_hosts");
    let said = alice.runs(&install);
    assert!(said.contains(&format!("ws://127.0.0.1:{} to ssh://far/", alice.local)), "{said}");
    assert!(said.trim_end().ends_with("is up"), "{said}");
    alice.reaches_the_gateway();
    let file = format!("~/.config/systemd/user/{unit}");
    alice.runs(&format!("systemd-analyze --user --man=no --recursive-errors=no verify {file}"));
    let text = alice.runs(&format!("cat {file}"));
    assert!(!text.contains(TOKEN), "{text}");

    let first = alice.note();
    alice.runs(&format!("kill -9 {}", first["sshPid"]));
    let second = alice.until(|note| note["reconnects"] == 1 && note["state"] == "up");
    assert_eq!(second["pid"], first["pid"], "the same process put it up again");
    alice.runs(&format!("kill -9 {}", second["pid"]));
    let third = alice.until(|note| note["pid"] != first["pid"] && note["state"] == "up");
    alice.reaches_the_gateway();
    // Once more, with other words: the new ones count.
    let said = alice.runs(&format!("{install} --check-every 7"));
    assert!(said.contains("is up"), "{said}");
    let fourth = alice.note();
    assert_ne!(fourth["pid"], third["pid"]);
    let words = alice.runs(&format!("tr '\\0' ' ' < /proc/{}/cmdline", fourth["pid"]));
    assert!(words.contains("--check-every 7") && !words.contains(TOKEN), "{words}");

    machine.reboot();
    await_manager(&machine);
    alice.until(|note| note["state"] == "up");
    alice.reaches_the_gateway();

    alice.runs(&format!("moltbotctl tunnel uninstall --local-port {}", alice.local));
    let (code, said) = alice.fails("moltbotctl tunnel status");
    assert_eq!((code, said.trim()), (3, "No tunnel runs."));
    alice.runs(&format!("! test -e {file}; ! pgrep -x ssh; ! pgrep -x loader"));
    assert!(std::net::TcpListener::bind(("127.0.0.1", alice.local)).is_ok());
    drop((daemon, sshd));
}

fn await_manager(machine: &Machine) {
    machine.sh("until systemctl is-active --quiet user@$(id -u alice).service; do sleep 0.1; done");
}

struct Alice<'a> {
    machine: &'a Machine,
    /// The tunnel's port: the machine shares this host's.
    local: u16,
}

impl Alice<'_> {
    fn gets(&self, sshd: &Sshd) {
        let (config, known) = sshd.client_files();
        let key = fs::read_to_string(sshd.key("id")).unwrap();
        self.runs("umask 077; mkdir -p ~/.ssh");
        for (file, text) in [("config", &*config), ("known_hosts", &*known), ("id", &*key)] {
            self.runs(&format!("umask 077; cat > ~/.ssh/{file} <<'END'\n{text}END"));
        }
        self.runs(&format!("umask 077; echo {TOKEN} > ~/token"));
    }

    fn install(&self, far: u16) -> String {
        format!(
            "moltbotctl tunnel install --ssh {} --port {far} --token-file ~/token --local-port {}",
            sshd::HOST,
            self.local
        )
    }

    fn runs(&self, script: &str) -> String {
        self.machine.sh_as("alice", script)
    }

    /// Returns the exit code and what was said.
    fn fails(&self, command: &str) -> (i32, String) {
        let said = self.runs(&format!("{command} 2>&1 && code=0 || code=$?; echo; echo $code"));
        let (said, code) = said.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), said.to_owned())
    }

    fn note(&self) -> Value {
        let status = format!("moltbotctl tunnel status --json --local-port {} || true", self.local);
        let status: Value = serde_json::from_str(&self.runs(&status)).unwrap();
        status["tunnels"][0].clone()
    }

    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = std::time::Instant::now() + moltbot_tests::PATIENCE;
        loop {
            let note = self.note();
            if wanted(&note) {
                return note;
            }
            assert!(std::time::Instant::now() < deadline, "{note}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    fn reaches_the_gateway(&self) {
        let url = format!("ws://127.0.0.1:{}", self.local);
        let health =
            self.runs(&format!("moltbotctl health --json --url {url} --token-file ~/token"));
        let health: Value = serde_json::from_str(&health).unwrap();
        assert_eq!(health["ok"], true, "{health}");
    }
}

/// Copies this host's ssh with the libraries it needs: the machine has none, and
/// perhaps others.
fn ssh_to_take_along() -> TempDir {
    let folder = tempfile::Builder::new().prefix("ssh").tempdir().unwrap();
    let copy = |from: &Path, name: &str| fs::copy(from, folder.path().join(name)).unwrap();
    copy(Path::new("/usr/bin/ssh"), "ssh");
    let output = Command::new("ldd").arg("/usr/bin/ssh").output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        copy(&path, if name.starts_with("ld-linux") { "loader" } else { name });
    }
    // Temporary folders are for their owner only.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), mode).unwrap();
    folder
}
