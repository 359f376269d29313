//! `/metrics`: who gets it, whether a scraper can read it, and whether it
//! counts what happened.

use std::collections::{BTreeMap, BTreeSet};

use moltbot_tests::{Client, Connect, Daemon, daemon::TOKEN, programs::source_root};
use serde_json::json;

/// Samples by name and labels, as they are written.
struct Page {
    samples: BTreeMap<String, f64>,
    /// Names of families, and their types.
    families: BTreeMap<String, String>,
}

impl Page {
    /// Reads a page as strictly as the format is written.
    fn parse(text: &str) -> Self {
        let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
        let mut help = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, words) = rest.split_once(' ').unwrap();
                assert!(words.ends_with('.') || words.contains(';'), "{line}");
                help = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, help, "help and type belong together");
                assert!(
                    families.insert(name.to_owned(), kind.to_owned()).is_none(),
                    "{name} twice"
                );
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                let family = name.split('{').next().unwrap();
                let of_histogram = ["_bucket", "_sum", "_count"]
                    .iter()
                    .filter_map(|suffix| family.strip_suffix(suffix))
                    .any(|base| families.get(base).is_some_and(|kind| kind == "histogram"));
                assert!(of_histogram || families.contains_key(family), "{line}: no type");
                assert!(samples.insert(name.to_owned(), value).is_none(), "{name} twice");
            }
        }
        Self { samples, families }
    }

    async fn of(daemon: &Daemon) -> Self {
        let (status, text) = daemon.get("/metrics", &[]).await;
        assert_eq!(status, 200, "{text}");
        Self::parse(&text)
    }

    fn get(&self, name: &str) -> f64 {
        let lookalikes: Vec<_> = self
            .samples
            .keys()
            .filter(|key| key.starts_with(&name[..name.len().min(16)]))
            .collect();
        *self.samples.get(name).unwrap_or_else(|| panic!("{name} is not among {lookalikes:?}"))
    }
}

#[tokio::test]
async fn what_happened_is_counted() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    for _ in 0..3 {
        client.call("health", json!({})).await.unwrap();
    }
    client.call("no.such.method", json!({})).await.unwrap_err();
    client.call("no.such.method.either", json!({})).await.unwrap_err();
    client.call("sessions.patch", json!({ "nonsense": 1 })).await.unwrap_err();
    Client::connect(&daemon.url(), Connect::operator().token("wrong")).await.unwrap_err();
    let run = json!({ "message": "hello", "idempotencyKey": "metrics-1", "sessionKey": "main" });
    client.call("agent", run).await.unwrap();
    client.call("agent.wait", json!({ "runId": "metrics-1", "timeoutMs": 60_000 })).await.unwrap();

    let page = Page::of(&daemon).await;
    for (name, value) in [
        (r#"moltbot_rpc_calls_total{method="health",result="ok"}"#, 3.0),
        (r#"moltbot_rpc_calls_total{method="sessions.patch",result="error"}"#, 1.0),
        (r#"moltbot_rpc_calls_total{method="unknown",result="error"}"#, 2.0),
        (r#"moltbot_rpc_duration_seconds_count{method="health"}"#, 3.0),
        (r#"moltbot_rpc_duration_seconds_bucket{le="+Inf",method="health"}"#, 3.0),
        (r#"moltbot_handshakes_total{result="accepted"}"#, 1.0),
        (r#"moltbot_handshakes_total{result="refused"}"#, 1.0),
        (r#"moltbot_connections{role="operator"}"#, 1.0),
        (r#"moltbot_connections{role="node"}"#, 0.0),
        (r#"moltbot_runs_total{outcome="done"}"#, 1.0),
        (r#"moltbot_runs_total{outcome="failed"}"#, 0.0),
        (r#"moltbot_model_calls_total{provider="builtin",result="ok"}"#, 1.0),
        (r#"moltbot_degraded{part="disk"}"#, 0.0),
        ("moltbot_runs_active", 0.0),
        ("moltbot_store_queue", 0.0),
    ] {
        assert_eq!(page.get(name), value, "{name}");
    }
    assert!(!page.samples.keys().any(|name| name.contains("no.such")), "a peer named a label");
    for name in [
        r#"moltbot_store_writes_total{result="committed"}"#,
        "moltbot_store_commit_duration_seconds_count",
        "moltbot_bus_events_total",
        "moltbot_bus_deliveries_total",
        "moltbot_uptime_seconds",
        "process_start_time_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_cpu_seconds_total",
    ] {
        assert!(page.get(name) > 0.0, "{name}");
    }
}

#[tokio::test]
async fn buckets_grow_up_to_the_count() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    client.call("status", json!({})).await.unwrap();
    let page = Page::of(&daemon).await;
    let buckets: Vec<(f64, f64)> = page
        .samples
        .iter()
        .filter_map(|(name, value)| {
            let rest = name.strip_prefix(r#"moltbot_rpc_duration_seconds_bucket{le=""#)?;
            let bound = match rest.strip_suffix(r#"",method="status"}"#)? {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().unwrap(),
            };
            Some((bound, *value))
        })
        .collect();
    assert_eq!(buckets.len(), 14);
    let mut sorted = buckets;
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(sorted.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{sorted:?}");
    assert_eq!(sorted[13].1, page.get(r#"moltbot_rpc_duration_seconds_count{method="status"}"#));
}

#[tokio::test]
async fn only_this_host_and_holders_of_the_secret_get_them() {
    let daemon = Daemon::start().await;
    let proxied = ("X-Forwarded-For", "192.0.2.7");
    let bearer = format!("Bearer {TOKEN}");
    let (status, body) = daemon.get("/metrics", &[proxied]).await;
    assert_eq!((status, body.contains("moltbot_")), (401, false));
    let (status, _) = daemon.get("/metrics", &[proxied, ("Authorization", "Bearer x")]).await;
    assert_eq!(status, 401);
    let (status, body) = daemon.get("/metrics", &[proxied, ("Authorization", &bearer)]).await;
    assert_eq!((status, body.contains("moltbot_build_info{")), (200, true));
    let own = format!("http://127.0.0.1:{}", daemon.port());
    let (status, _) = daemon.get("/metrics", &[("Origin", &own)]).await;
    assert_eq!(status, 403);
    let (status, _) = daemon.get("/metrics", &[("Origin", &own), ("Authorization", &bearer)]).await;
    assert_eq!(status, 403);
    let page = daemon.get("/metrics", &[]).await.1;
    assert!(!page.contains(TOKEN) && !page.contains(daemon.home().to_str().unwrap()));
}

#[tokio::test]
async fn guesses_at_the_secret_are_limited() {
    let daemon = Daemon::start().await;
    let from = [("X-Forwarded-For", "192.0.2.7"), ("Authorization", "Bearer guess")];
    for _ in 0..70 {
        assert_eq!(daemon.get("/metrics", &from).await.0, 401);
    }
    assert!(daemon.log().contains("too many failures"), "{}", daemon.log());
}

#[tokio::test]
async fn both_formats_are_offered_and_say_the_same() {
    let daemon = Daemon::start().await;
    let accept = ("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    let (_, open) = daemon.get("/metrics", &[accept]).await;
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert!(open.contains("# TYPE moltbot_handshakes counter\n"));
    let (_, text) = daemon.get("/metrics", &[]).await;
    assert!(!text.contains("# EOF") && text.contains("# TYPE moltbot_handshakes_total counter\n"));
}

#[tokio::test]
async fn the_readme_lists_every_family() {
    let daemon = Daemon::start().await;
    let mut client = daemon.operator().await;
    client.call("health", json!({})).await.unwrap();
    let readme = std::fs::read_to_string(source_root().join("README.md")).unwrap();
    let listed: BTreeSet<&str> = readme
        .split('`')
        .filter(|word| word.starts_with("moltbot_") || word.starts_with("process_"))
        .collect();
    let page = Page::of(&daemon).await;
    let there: BTreeSet<&str> = page.families.keys().map(String::as_str).collect();
    assert_eq!(listed, there);
}
