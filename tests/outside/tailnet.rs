//! The addresses of a tailnet, which may come after the daemon and go before
//! it. They are real ones, on a cable to another host.

use std::{net::SocketAddr, time::Duration};

use moltbot_tests::{
    Client, Connect, Ctl, Daemon, FarHost, Options, PATIENCE, daemon::TOKEN, on_an_island,
};
use serde_json::{Value, json};

#[test]
fn a_tailnet_that_comes_late_is_listened_on_and_may_leave_and_return() {
    on_an_island(|| async {
        let far = FarHost::plug_in();
        let gateway = json!({ "bind": "tailnet", "auth": { "token": TOKEN } });
        let daemon = Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await;
        let port = daemon.port();
        let here = [format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
        let there = far.own_tailnet().map(|ip| SocketAddr::new(ip, port).to_string());
        let mut operator = daemon.operator().await;

        let status = operator.call("status", json!({})).await.unwrap();
        assert_eq!(status["gateway"]["listening"], json!(here));
        let degraded = status["degraded"][0].as_str().unwrap();
        assert!(degraded.contains("no tailnet address now"), "{degraded}");
        let shown = Ctl::beside(&daemon).text(&["status"]).await;
        assert!(shown.contains("no tailnet address now") && shown.contains(&here[0]), "{shown}");
        let shown = Ctl::beside(&daemon).json(&["gateway", "status"]).await;
        assert_eq!(shown["gateway"]["listening"], json!(here));

        far.join_tailnet();
        let both = [&there[..1], &here[..], &there[1..]].concat();
        for _ in 0..2 {
            let status = until(&mut operator, |listening| listening.len() == 4).await;
            assert_eq!(sorted(&status["gateway"]["listening"]), sorted(&json!(both)));
            assert_eq!(status["degraded"], Value::Null);
            for ip in far.own_tailnet() {
                let stream = far.dial(ip, port).await.unwrap();
                let host = SocketAddr::new(ip, port).to_string();
                let client = Client::open_over(stream, &host, &[], None).await.unwrap();
                client.introduce(Connect::operator()).await.unwrap();
            }
            far.leave_tailnet();
            let status = until(&mut operator, |listening| listening.len() == 2).await;
            assert!(status["degraded"][0].as_str().unwrap().contains("no tailnet address now"));
            far.join_tailnet();
        }
    });
}

async fn until(operator: &mut Client, wanted: impl Fn(&[Value]) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = operator.call("status", json!({})).await.unwrap();
        if wanted(status["gateway"]["listening"].as_array().unwrap()) {
            return status;
        }
        assert!(tokio::time::Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn sorted(list: &Value) -> Vec<String> {
    let mut texts: Vec<String> = serde_json::from_value(list.clone()).unwrap();
    texts.sort();
    texts
}
