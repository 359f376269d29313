//! A tailnet that is not there: a stand-in for the `tailscale` program
//! (`tests/fixtures/tailscale`) and one for tailscaled, in a folder of their own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::unistd::Uid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::programs;

/// This host's name in the tailnet.
pub const NAME: &str = "box.tail1234.ts.net";
/// Where a user of the tailnet comes from.
pub const ADDRESS: &str = "100.64.0.7";
/// That user.
pub const LOGIN: &str = "alice@example.com";
/// Whom the stand-in for tailscaled runs as where the test may choose: nobody.
const OTHER_USER: u32 = 65534;

/// The folder with the stand-ins' answers.
#[derive(Debug)]
pub struct Tailnet {
    folder: TempDir,
}

/// A running stand-in for tailscaled; killed when dropped.
#[derive(Debug)]
pub struct Tailscaled {
    _child: Child,
    /// Where it forwards from.
    pub port: u16,
}

impl Tailnet {
    /// A host that is logged in, with HTTPS, and serves nothing.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("tailnet").tempdir().unwrap();
        let program = folder.path().join("bin/tailscale");
        fs::create_dir(folder.path().join("bin")).unwrap();
        let source = programs::source_root().join("tests/fixtures/tailscale/tailscale");
        programs::install(&source, &program);
        // The socket is made by another user; the program is not to be changed by one.
        for (path, mode) in [("", 0o1777), ("bin", 0o755)] {
            let path = folder.path().join(path);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let tailnet = Self { folder };
        tailnet.status("Running", true);
        let profile = json!({ "ID": 1, "LoginName": LOGIN, "DisplayName": "Alice" });
        tailnet.write(&format!("whois-{ADDRESS}.json"), &json!({
            "Node": { "Name": "phone.tail1234.ts.net.", "Addresses": [format!("{ADDRESS}/32")] },
            "UserProfile": profile,
            "CapMap": null,
        }));
        tailnet
    }

    /// Says how the host is in the tailnet.
    pub fn status(&self, state: &str, https: bool) {
        self.write("status.json", &json!({
            "Version": "1.92.3",
            "BackendState": state,
            "AuthURL": "",
            "TailscaleIPs": ["100.64.0.1", "fd7a:115c:a1e0::1"],
            "Self": { "HostName": "box", "DNSName": format!("{NAME}."), "Online": true },
            "MagicDNSSuffix": "tail1234.ts.net",
            "CurrentTailnet": {
                "Name": "example.com", "MagicDNSSuffix": "tail1234.ts.net", "MagicDNSEnabled": true,
            },
            "CertDomains": if https { json!([NAME]) } else { Value::Null },
            "Peer": null,
        }));
    }

    /// Returns `gateway.tailscale` with these stand-ins.
    #[must_use]
    pub fn settings(&self, mode: &str) -> Value {
        json!({ "mode": mode, "path": self.at("bin/tailscale"), "socket": self.socket() })
    }

    /// Returns where tailscaled listens for its program.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.at("tailscaled.sock")
    }

    /// Returns a file of the folder.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an answer.
    pub fn write(&self, name: &str, answer: &Value) {
        fs::write(self.at(name), answer.to_string()).unwrap();
    }

    /// Returns what is served.
    #[must_use]
    pub fn served(&self) -> Value {
        let text = fs::read_to_string(self.at("serve.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Returns what the program was called with.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Starts a tailscaled that forwards to a gateway: as another user where
    /// the test may (root), else as this one.
    pub async fn tailscaled(&self, program: &Path, gateway: u16, login: &str) -> Tailscaled {
        // The other user may not enter the folder of the build.
        let copy = self.at("bin/tailscaled");
        programs::install(program, &copy);
        let mut command = Command::new(copy);
        command.arg(self.socket()).args([&gateway.to_string(), ADDRESS, login]);
        command.env_clear().current_dir("/").stdout(Stdio::piped()).kill_on_drop(true);
        if Uid::effective().is_root() {
            command.uid(OTHER_USER).gid(OTHER_USER);
        }
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = said.next_line().await.unwrap().expect("tailscaled listens");
        Tailscaled { _child: child, port: port.parse().unwrap() }
    }
}

impl Default for Tailnet {
    fn default() -> Self {
        Self::new()
    }
}
