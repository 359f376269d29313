//! A real nginx in front of the daemon. `tests/run` unpacks it.

use std::{path::PathBuf, process::Stdio};

use moltbot_tests::{
    Client, Connect, Daemon, Device, FarHost, Options, PATIENCE, Version, daemon::TOKEN, ports,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

/// Names the folder that `tests/run` filled.
const FOLDER_VARIABLE: &str = "MOLTBOT_TESTS_NGINX";

struct Nginx {
    port: u16,
    _child: Child,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one that passes everything on to a port, with these headers.
    async fn before(gateway: u16, headers: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("nginx").tempdir().unwrap();
        let path = folder.path().display();
        let port = ports::free();
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log stderr;
             events {{}}
             http {{
               access_log off;
               client_body_temp_path {path}/a; proxy_temp_path {path}/b;
               fastcgi_temp_path {path}/c; uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;
               server {{
                 listen 0.0.0.0:{port};
                 location / {{
                   proxy_pass http://127.0.0.1:{gateway};
                   proxy_http_version 1.1;
                   proxy_set_header Upgrade $http_upgrade;
                   proxy_set_header Connection upgrade;
                   {headers}
                 }}
               }}
             }}"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new(program())
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is unpacked by tests/run");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(child.try_wait().unwrap().is_none(), "nginx ended");
            assert!(tokio::time::Instant::now() < deadline, "nginx does not listen");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Self { port, _child: child, _folder: folder }
    }
}

fn program() -> PathBuf {
    let given = std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap());
    given.unwrap_or_else(|| home().join(".cache/moltbot-tests/nginx")).join("usr/sbin/nginx")
}

async fn daemon(trusted: &[&str]) -> Daemon {
    let gateway = json!({ "auth": { "token": TOKEN }, "trustedProxies": trusted });
    Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await
}

const APPENDED: &str = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                        proxy_set_header Host $host;";

async fn come_in(far: &FarHost, nginx: &Nginx, connect: Connect) -> Result<Client, Value> {
    let stream = far.dial(far.own_local(), nginx.port).await.unwrap();
    let host = format!("{}:{}", far.own_local(), nginx.port);
    let opened = Client::open_over(stream, &host, &connect.headers, None).await;
    let came = opened.unwrap().introduce(connect).await;
    came.map_err(|refusal| refusal.error.unwrap_or_default())
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_clients_own_address_counts_and_nothing_it_claims() {
    let far = FarHost::plug_in();
    let daemon = daemon(&["127.0.0.1"]).await;
    let nginx = Nginx::before(daemon.port(), APPENDED).await;
    let device = || Connect::operator().device(&Device::new(), Version::V2);
    let forged = device().header("X-Forwarded-For", "127.0.0.1");
    let refusal = come_in(&far, &nginx, forged).await.unwrap_err();
    assert_eq!(refusal["message"], "pairing required");
    let mut operator = daemon.operator().await;
    let asked = operator.call("device.pair.list", json!({})).await.unwrap();
    assert_eq!(asked["pending"][0]["remoteIp"], far.far_local().to_string(), "{asked}");

    let mut last = Value::Null;
    for _ in 0..12 {
        let wrong = Connect::operator().token("guess");
        last = come_in(&far, &nginx, wrong).await.unwrap_err();
    }
    assert!(last["message"].as_str().unwrap().contains("too many"), "{last}");
    // Another client of the same proxy is not held responsible.
    let near = format!("ws://127.0.0.1:{}", nginx.port);
    Client::connect(&near, Connect::operator()).await.unwrap();
}

#[tokio::test]
async fn behind_a_proxy_that_is_not_trusted_nobody_is_local() {
    let far = FarHost::plug_in();
    let daemon = daemon(&[]).await;
    let nginx = Nginx::before(daemon.port(), APPENDED).await;
    let device = Connect::operator().device(&Device::new(), Version::V2);
    let refusal = come_in(&far, &nginx, device).await.unwrap_err();
    assert_eq!(refusal["message"], "pairing required");
    let mut operator = daemon.operator().await;
    let asked = operator.call("device.pair.list", json!({})).await.unwrap();
    assert_eq!(asked["pending"][0].get("remoteIp"), None, "{asked}");
}

#[tokio::test]
async fn a_proxy_that_passes_on_a_strange_host_is_refused() {
    let far = FarHost::plug_in();
    let daemon = daemon(&["127.0.0.1"]).await;
    let nginx = Nginx::before(daemon.port(), "proxy_set_header Host gateway.example;").await;
    let stream = far.dial(far.own_local(), nginx.port).await.unwrap();
    let refusal = Client::open_over(stream, "gateway.example", &[], None).await.unwrap_err();
    assert_eq!(refusal.status, Some(421));
}
