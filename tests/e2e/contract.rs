//! What others rely on, as committed snapshots: a change of it shows in review.

use std::fmt::Write as _;

use moltbot_tests::Daemon;
use moltbotd::methods;
use serde_json::json;

#[test]
fn the_methods_and_who_may_call_them() {
    let router = methods::router();
    let advertised: Vec<_> = router.advertised().collect();
    let mut text = String::new();
    for (name, access) in router.table() {
        let hidden = if advertised.contains(&name) { "" } else { ", not advertised" };
        writeln!(text, "{name}: {access:?}{hidden}").unwrap();
    }
    insta::assert_snapshot!("methods", text);
}

#[test]
fn the_schema_of_the_methods() {
    insta::assert_json_snapshot!("schema", methods::router().schema());
}

#[tokio::test]
async fn the_events_that_are_announced_and_the_settings_there_are() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    insta::assert_json_snapshot!("events", operator.hello["features"]["events"]);
    let mut schema = operator.call("config.schema", json!({})).await.unwrap();
    // These change with every release and every moment.
    for name in ["version", "generatedAt"] {
        schema.as_object_mut().unwrap().remove(name);
    }
    insta::assert_json_snapshot!("settings", schema);
}
