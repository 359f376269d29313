//! What the user's configuration says about sharing connections.
//!
//! With `ControlMaster` and without `ControlPersist` the first ssh carries those
//! that come later, and takes them down when it ends. A command of ours, which
//! may run for a second or for days, must not be that one; it still uses a
//! connection that is there.

use std::{process::Stdio, time::Duration};

use super::{Login, bare, to};

/// How long ssh may take to read its configuration: it may run programs for
/// that.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns whether an ssh to this server would carry others as long as it runs
/// itself.
pub(super) async fn would_lead(login: &Login) -> bool {
    let mut command = bare(login);
    command.arg("-G").stderr(Stdio::null()).stdin(Stdio::null());
    to(&mut command, login);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => leads(&String::from_utf8_lossy(&output.stdout)),
        // Whatever is wrong, the real one will say so.
        _ => false,
    }
}

/// Reads what `ssh -G` prints: a keyword and its value on each line.
fn leads(settings: &str) -> bool {
    let value =
        |key: &str| settings.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    let off = |value: Option<&str>| matches!(value, None | Some("no" | "false"));
    !off(value("controlmaster")) && off(value("controlpersist"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stays_in_the_background_or_shares_nothing_leads_nobody() {
        for (settings, expected) in [
            ("controlmaster false\ncontrolpersist no\n", false),
            ("user me\ncontrolmaster auto\ncontrolpath /x\ncontrolpersist no\n", true),
            ("controlmaster true\ncontrolpersist no\n", true),
            ("controlmaster auto\ncontrolpersist 60\n", false),
            ("controlmaster auto\ncontrolpersist yes\n", false),
            ("", false),
        ] {
            assert_eq!(leads(settings), expected, "{settings}");
        }
    }
}
