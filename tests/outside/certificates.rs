//! Certificates made by OpenSSL, and what `moltbotctl` says of them.

use std::{path::Path, process::Output};

use moltbot_tests::{Ctl, Daemon, Options, daemon::TOKEN};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

struct Authority(TempDir);

impl Authority {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("/CN={}", folder.path().file_name().unwrap().display());
        let arguments = ["req", "-x509", "-subj", &name, "-days", "2"];
        let files = ["-keyout", "ca.key", "-out", "ca.pem"];
        openssl(folder.path(), &[&arguments[..], &KEY, &files].concat()).await;
        Self(folder)
    }

    /// Signs a certificate for an address; returns a daemon that shows it.
    async fn daemon(&self, address: &str, days: &str) -> Daemon {
        let folder = self.0.path();
        let files = ["-keyout", "key.pem", "-out", "request"];
        openssl(folder, &[&["req", "-subj", "/CN=gateway"][..], &KEY, &files].concat()).await;
        std::fs::write(folder.join("names"), format!("subjectAltName=IP:{address}\n")).unwrap();
        let sign = ["x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key"];
        let more = ["-CAcreateserial", "-days", days, "-extfile", "names", "-out", "cert.pem"];
        openssl(folder, &[&sign[..], &more].concat()).await;
        let file = |name: &str| folder.join(name);
        let tls =
            json!({ "enabled": true, "certPath": file("cert.pem"), "keyPath": file("key.pem") });
        let gateway = json!({ "auth": { "token": TOKEN }, "tls": tls });
        Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await
    }

    /// Calls a daemon from a host that trusts this authority alone.
    async fn call(&self, daemon: &Daemon) -> Output {
        let home = tempfile::tempdir().unwrap();
        let url = format!("wss://127.0.0.1:{}", daemon.port());
        let arguments = ["gateway", "call", "health", "--url", &url, "--token", TOKEN];
        let mut command = Ctl::alone(home.path()).command(&arguments);
        command.env("SSL_CERT_FILE", self.0.path().join("ca.pem")).output().await.unwrap()
    }
}

async fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().await;
    let output = output.expect("openssl is installed; see tests/run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
}

#[tokio::test]
async fn a_certificate_of_a_trusted_authority_is_accepted_and_every_other_has_its_sentence() {
    let (own, other) = (Authority::new().await, Authority::new().await);
    let good = own.daemon("127.0.0.1", "2").await;
    let output = own.call(&good).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    expect(&other.call(&good).await, 12, "signed by nobody this host trusts");
    drop(good);
    let expired = own.daemon("127.0.0.1", "-1").await;
    expect(&own.call(&expired).await, 13, "has expired");
    drop(expired);
    let elsewhere = own.daemon("192.0.2.9", "2").await;
    expect(&own.call(&elsewhere).await, 12, "for other names");
}

fn expect(output: &Output, code: i32, sentence: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(sentence) && said.contains("nothing was sent"), "{said}");
}
