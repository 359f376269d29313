//! What systemd itself says about the units.

use super::machine::{Machine, Suite};

/// Ten times the highest exposure that is allowed. A user's gateway may work
/// in its owner's home, and a user's manager cannot keep devices away.
const MOST_EXPOSED: [(&str, u32); 2] = [("system", 15), ("user", 20)];

pub(super) fn story(suite: Suite) {
    let machine = Machine::with_package(suite, "units");
    let units = "moltbotd.service moltbotd@p1.service moltbotd.socket moltbotd@p1.socket";
    // A profile's socket has no address of its own.
    machine.sh("for folder in system user; do \
         mkdir -p /etc/systemd/$folder/moltbotd@p1.socket.d; \
         printf '[Socket]\\nListenStream=127.0.0.1:18809\\n' \
             > /etc/systemd/$folder/moltbotd@p1.socket.d/listen.conf; \
         done; systemctl daemon-reload");
    for manager in ["--system", "--user"] {
        let said = machine.sh(&format!(
            "mkdir -p /run/user/0; export XDG_RUNTIME_DIR=/run/user/0; \
             systemd-analyze {manager} verify --man=no --recursive-errors=no {units} 2>&1"
        ));
        assert_eq!(said, "", "{manager}");
    }
    for (folder, most_exposed) in MOST_EXPOSED {
        for file in ["moltbotd.service", "moltbotd@p1.service"] {
            let said = machine.sh(&format!(
                "cp /usr/lib/systemd/{folder}/{} /tmp/{file}; systemd-analyze security --no-pager \
                 --offline=true --threshold={most_exposed} /tmp/{file} 2>&1 | tail -n 1",
                file.replace("p1", "")
            ));
            println!("{suite:?}, {folder}: {said}");
            assert!(said.contains("Overall exposure level"), "{said}");
        }
    }
}
