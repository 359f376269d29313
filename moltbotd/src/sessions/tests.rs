//! The service with a store.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::config::Config;

fn service() -> (TempDir, Sessions) {
    let folder = tempfile::tempdir().unwrap();
    let config = Arc::new(config::Live::new(Config::default()));
    let database = folder.path().join("test.db");
    let sessions = Sessions::new(Parts {
        models: Arc::new(Models::new(Arc::clone(&config))),
        store: Store::open(&database).unwrap(),
        archives: folder.path().to_owned(),
        database,
        config,
    });
    (folder, sessions)
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

async fn written(sessions: &Sessions, key: &str, text: &str) {
    sessions.patch(of(json!({"key": key}))).await.unwrap();
    sessions.inject(key, message::injected(text, 0)).await.unwrap();
}

#[tokio::test]
async fn a_label_belongs_to_one_session() {
    let (_folder, sessions) = service();
    let patched = sessions.patch(of(json!({"key": "A", "label": "L"}))).await.unwrap();
    assert_eq!(patched.key, "agent:main:a");
    let taken = sessions.patch(of(json!({"key": "b", "label": "L"}))).await;
    assert_eq!(refusal(taken), "label already in use: L");
    let found = sessions.resolve(of(json!({"label": "L"}))).await.unwrap();
    assert_eq!(found.key, "agent:main:a");
    let unknown = sessions.resolve(of(json!({"label": "x"}))).await;
    assert_eq!(refusal(unknown), "No session found with label: x");
    let unknown = sessions.resolve(of(json!({"sessionId": "x"}))).await;
    assert_eq!(refusal(unknown), "No session found: x");
    let both = sessions.resolve(of(json!({"key": "a", "label": "L"}))).await;
    assert_eq!(refusal(both), "Provide either key, sessionId, or label (not multiple)");
}

#[tokio::test]
async fn a_reset_keeps_the_settings_and_changes_the_transcript() {
    let (_folder, sessions) = service();
    let patch = json!({"key": "a", "label": "L", "verboseLevel": "on", "elevatedLevel": "on"});
    let before = sessions.patch(of(patch)).await.unwrap().entry;
    let after = sessions.reset("a").await.unwrap().entry;
    assert_ne!(after.session_id, before.session_id);
    assert_eq!(after.label.as_deref(), Some("L"));
    assert_eq!(after.verbose_level.as_deref(), Some("on"));
    assert_eq!((after.elevated_level, after.total_tokens), (None, Some(0)));
}

#[tokio::test]
async fn a_deleted_session_leaves_its_messages_in_a_file() {
    let (_folder, sessions) = service();
    written(&sessions, "a", "kept").await;
    let deleted = sessions.delete("a", false).await.unwrap();
    assert!(deleted.deleted);
    assert!(std::fs::read_to_string(&deleted.archived[0]).unwrap().contains("kept"));
    assert!(!sessions.delete("a", false).await.unwrap().deleted);
    let main = sessions.delete("main", false).await;
    assert_eq!(refusal(main), "Cannot delete the main session (agent:main:main).");
}

#[tokio::test]
async fn previews_tell_empty_from_missing() {
    let (_folder, sessions) = service();
    written(&sessions, "a", "hello").await;
    sessions.patch(of(json!({"key": "b"}))).await.unwrap();
    let preview = sessions.preview(of(json!({"keys": ["a", "b", "c"]}))).await.unwrap();
    let status: Vec<_> = preview.previews.iter().map(|shown| shown.status.as_str()).collect();
    assert_eq!(status, ["ok", "empty", "missing"]);
    assert_eq!(preview.previews[0].items[0].text, "hello");
    let injected = sessions.inject("c", message::injected("x", 0)).await;
    assert_eq!(refusal(injected), "session not found");
}

#[tokio::test]
async fn a_list_is_cut_after_the_filters() {
    let (_folder, sessions) = service();
    for key in ["apple", "pear", "agent:ops:apple", "global"] {
        written(&sessions, key, "hello").await;
    }
    let list = async |params: Value| {
        let page = sessions.list(of(params)).await.unwrap();
        page.sessions.into_iter().map(|row| row.key).collect::<Vec<_>>()
    };
    assert_eq!(list(json!({})).await.len(), 3);
    assert_eq!(list(json!({"includeGlobal": true})).await.len(), 4);
    assert_eq!(list(json!({"search": "APPLE", "limit": 1})).await.len(), 1);
    assert_eq!(list(json!({"agentId": "ops"})).await, ["agent:ops:apple"]);
    let params =
        json!({"agentId": "ops", "includeDerivedTitles": true, "includeLastMessage": true});
    let row = sessions.list(of(params)).await.unwrap().sessions.remove(0);
    assert_eq!(row.last_message_preview.as_deref(), Some("hello"));
    assert!(row.derived_title.is_some());
}
