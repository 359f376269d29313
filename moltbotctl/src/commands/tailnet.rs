//! How a gateway is reached through its tailnet, and whether it answers there.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    output::{Output, cell, clean},
    target::{Credentials, Target},
    transport,
};

const LIMIT: Duration = Duration::from_secs(5);

/// Takes what a gateway says of its tailnet from its `status`, and tries its
/// address there. Null when it uses none.
pub async fn look(status: &Value) -> Value {
    let mut report = status.pointer("/gateway/tailscale").cloned().unwrap_or(Value::Null);
    if let Some(name) = report["url"].as_str().and_then(host) {
        report["answers"] = answers(&name).await;
    }
    report
}

/// Returns the name in an address of the tailnet. No other address is tried
/// because a gateway says so.
fn host(url: &str) -> Option<String> {
    let name = url.strip_prefix("https://")?.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    (name.ends_with(".ts.net") && name.chars().all(plain)).then(|| name.to_owned())
}

/// Waits for the first word of a gateway; says nothing itself.
async fn answers(name: &str) -> Value {
    let started = Instant::now();
    let heard = tokio::time::timeout(LIMIT, async {
        let target = Target {
            address: format!("wss://{name}").parse()?,
            credentials: Credentials::default(),
            tls_fingerprint: None,
        };
        let mut socket = transport::open(&target, LIMIT).await?;
        match socket.next().await {
            Some(Ok(Message::Text(text))) if text.contains("connect.challenge") => Ok(()),
            _ => anyhow::bail!("what answers is no gateway"),
        }
    })
    .await;
    let error = match heard {
        Ok(Ok(())) => {
            let latency = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            return json!({ "ok": true, "latencyMs": latency });
        }
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("nothing was heard within {} s", LIMIT.as_secs()),
    };
    json!({ "ok": false, "error": error })
}

/// Returns the lines for people.
#[must_use]
pub fn lines(out: Output, tailnet: &Value) -> Vec<(&'static str, String)> {
    let Some(mode) = tailnet["mode"].as_str() else { return Vec::new() };
    let named = format!("{} in {}", cell(tailnet, "/name"), cell(tailnet, "/tailnet"));
    let state = if let Some(trouble) = tailnet["trouble"].as_str() {
        format!("{}: {}", out.verdict(false, "not served"), clean(trouble))
    } else if tailnet["served"] != true {
        "not served yet".to_owned()
    } else if tailnet["answers"]["ok"] == true {
        let latency = cell(tailnet, "/answers/latencyMs");
        format!("{}, {} in {latency} ms", cell(tailnet, "/url"), out.verdict(true, "answers"))
    } else if let Some(error) = tailnet["answers"]["error"].as_str() {
        let verdict = out.verdict(false, "does not answer from here");
        format!("{}, {verdict}: {}", cell(tailnet, "/url"), clean(error))
    } else {
        cell(tailnet, "/url")
    };
    vec![("Tailnet", named), ("Tailscale", format!("{}: {state}", clean(mode)))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_tailnet_are_tried() {
        assert_eq!(host("https://box.tail1.ts.net"), Some("box.tail1.ts.net".into()));
        for other in [
            "http://box.tail1.ts.net",
            "https://evil.example",
            "https://user@evil.example/.ts.net",
            "https://evil.example:1/x.ts.net",
            "https://192.0.2.1",
        ] {
            assert_eq!(host(other), None, "{other}");
        }
    }
}
