use std::collections::VecDeque;

use moltbot_protocol::{Role, Scopes, handshake::ClientInfo};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::config::Config;

struct World {
    nodes: Arc<Nodes>,
    bus: Arc<Bus>,
    store: Store,
    _dir: TempDir,
}

fn world() -> World {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let bus = Arc::new(Bus::default());
    let live = Arc::new(config::Live::new(Config::default()));
    let nodes = Arc::new(Nodes::new(live, store.clone(), Arc::clone(&bus)));
    World { nodes, bus, store, _dir: dir }
}

fn caller(conn_id: &str, device_id: &str) -> Arc<Caller> {
    let client = json!({
        "id": "node-host", "displayName": "Rec Node", "version": "1.0", "platform": "linux",
        "mode": "node", "instanceId": "rec-1",
    });
    Arc::new(Caller {
        conn_id: conn_id.into(),
        role: Role::Node,
        scopes: Scopes::default(),
        client: serde_json::from_value::<ClientInfo>(client).unwrap(),
        device_id: Some(device_id.into()),
        remote_ip: None,
        local: true,
        secret: None,
        capped: false,
    })
}

fn declared() -> Declared {
    Declared {
        caps: vec!["system".into()],
        commands: ["system.run", "system.which", "camera.snap"].map(String::from).to_vec(),
        ..Declared::default()
    }
}

impl World {
    async fn connect(&self, conn_id: &str, device_id: &str) -> (Arc<Caller>, Arc<Outbox>) {
        self.put_device(device_id, &OWN_HOST).await;
        let (caller, outbox) = (caller(conn_id, device_id), Arc::new(Outbox::new(1 << 20)));
        self.nodes.register(&caller, &outbox, declared());
        self.nodes.connected(&caller, &outbox).await.unwrap();
        let greeting = next(&outbox).await;
        assert_eq!(greeting["event"], "voicewake.changed");
        assert_eq!(greeting.get("seq"), None);
        (caller, outbox)
    }

    async fn put_device(&self, id: &str, allow: &[&str]) {
        let device = json!({
            "deviceId": id, "publicKey": "k", "displayName": "A device", "platform": "linux",
            "roles": ["operator", "node"], "createdAtMs": 1, "approvedAtMs": 1, "allow": allow,
        });
        let device = serde_json::from_value(device).unwrap();
        self.store.write(move |db| db.put_device(&device)).await.unwrap();
    }

    fn invoke(
        &self,
        command: &str,
        params: Option<Value>,
        timeout_ms: Option<u64>,
    ) -> tokio::task::JoinHandle<Result<Answer, InvokeError>> {
        let nodes = Arc::clone(&self.nodes);
        let (node_id, command) = ("dev".to_owned(), command.to_owned());
        let invoke = Invoke { node_id, command, params, timeout_ms, ..Invoke::default() };
        tokio::spawn(async move { nodes.invoke(invoke).await })
    }

    fn waiting(&self) -> usize {
        self.nodes.registry().waiting_count()
    }
}

async fn next(outbox: &Outbox) -> Value {
    let mut frames = VecDeque::new();
    assert_eq!(outbox.take(&mut frames).await, None);
    assert_eq!(frames.len(), 1, "{frames:?}");
    outbox.written(frames[0].len(), 0);
    serde_json::from_str(&frames[0]).unwrap()
}

fn result(id: &Value, fields: Value) -> NodeInvokeResult {
    let mut result = json!({ "id": id, "nodeId": "dev", "ok": true });
    result.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(result).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_invoke_goes_to_the_node_and_its_answer_comes_back() {
    let world = world();
    let (caller, outbox) = world.connect("c1", "dev").await;
    let call = world.invoke("system.which", Some(json!({ "bins": ["git"] })), Some(5000));
    let frame = next(&outbox).await;
    assert_eq!(frame["event"], "node.invoke.request");
    assert_eq!(frame["payload"]["paramsJSON"], r#"{"bins":["git"]}"#);
    assert_eq!(frame["payload"]["timeoutMs"], 5000);
    let text = r#"{"bins": {}}"#;
    let answer = result(&frame["payload"]["id"], json!({ "payloadJSON": text }));
    let noted = world.nodes.answered(&caller, answer.clone()).unwrap();
    assert_eq!(noted.ignored, None);
    let answered = call.await.unwrap().unwrap();
    assert_eq!(answered.payload, Some(json!({ "bins": {} })));
    assert_eq!(answered.payload_json.as_deref(), Some(text));
    let again = world.nodes.answered(&caller, answer).unwrap();
    assert_eq!(again.ignored, Some(true), "nobody waits a second time");
    assert_eq!(world.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn payloads_come_in_three_forms() {
    let world = world();
    let (caller, outbox) = world.connect("c1", "dev").await;
    for (fields, payload, text) in [
        (json!({ "payload": { "a": 1 } }), Some(json!({ "a": 1 })), None),
        (json!({ "payload": [1], "error": null, "payloadJSON": "" }), Some(json!([1])), None),
        (json!({ "payloadJSON": null }), None, None),
        (json!({ "payloadJSON": "{" }), Some(json!({ "payloadJSON": "{" })), Some("{")),
    ] {
        let call = world.invoke("system.which", None, None);
        let frame = next(&outbox).await;
        assert_eq!(frame["payload"]["paramsJSON"], Value::Null);
        assert_eq!(frame["payload"].get("timeoutMs"), None);
        let answer = result(&frame["payload"]["id"], fields);
        world.nodes.answered(&caller, answer).unwrap();
        let answered = call.await.unwrap().unwrap();
        assert_eq!((answered.payload, answered.payload_json.as_deref()), (payload, text));
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_given_up_at_the_deadline_and_its_late_answer_ignored() {
    let world = world();
    let (caller, outbox) = world.connect("c1", "dev").await;
    for (timeout_ms, expected) in [(None, 30_000), (Some(500), 500), (Some(0), 0)] {
        let started = Instant::now();
        let error = world.invoke("system.run", None, timeout_ms).await.unwrap().unwrap_err();
        assert!(matches!(error, InvokeError::TimedOut), "{error}");
        let waited = started.elapsed().as_millis();
        assert!((expected..expected + 10).contains(&waited), "{waited} ms, not {expected}");
        assert_eq!(world.waiting(), 0);
        let frame = next(&outbox).await;
        let late = result(&frame["payload"]["id"], json!({}));
        assert_eq!(world.nodes.answered(&caller, late).unwrap().ignored, Some(true));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_fails_its_calls_at_once() {
    let world = world();
    let (_, outbox) = world.connect("c1", "dev").await;
    let call = world.invoke("system.run", None, None);
    next(&outbox).await;
    let started = Instant::now();
    world.nodes.disconnected("c1");
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "node disconnected (system.run)");
    assert_eq!(started.elapsed(), Duration::ZERO);
    let error = world.invoke("system.run", None, None).await.unwrap().unwrap_err();
    assert!(matches!(error, InvokeError::NotConnected));
}

#[tokio::test(start_paused = true)]
async fn the_late_end_of_an_old_socket_does_not_take_the_new_one_off_the_list() {
    let world = world();
    let (_, _old) = world.connect("c1", "dev").await;
    let (caller, new) = world.connect("c2", "dev").await;
    world.nodes.disconnected("c1");
    let call = world.invoke("system.run", None, None);
    let frame = next(&new).await;
    world.nodes.answered(&caller, result(&frame["payload"]["id"], json!({}))).unwrap();
    assert!(call.await.unwrap().is_ok());
    world.nodes.disconnected("c2");
    assert!(!world.nodes.list().await.unwrap()[0].connected);
}

#[tokio::test(start_paused = true)]
async fn an_older_socket_that_still_lives_serves_when_the_newer_one_ends() {
    let world = world();
    let (_, old) = world.connect("c1", "dev").await;
    let (_, _new) = world.connect("c2", "dev").await;
    world.nodes.disconnected("c2");
    let _call = world.invoke("system.run", None, None);
    assert_eq!(next(&old).await["event"], "node.invoke.request");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_device_loses_its_calls() {
    let world = world();
    let (_, outbox) = world.connect("c1", "dev").await;
    let call = world.invoke("system.run", None, None);
    next(&outbox).await;
    world.nodes.drop_device("dev");
    assert!(matches!(call.await.unwrap(), Err(InvokeError::Disconnected(_))));
    assert!(!world.nodes.list().await.unwrap()[0].connected);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_another_node_is_refused_or_ignored() {
    let world = world();
    let (_, outbox) = world.connect("c1", "dev").await;
    let (other, _) = world.connect("c2", "other").await;
    let call = world.invoke("system.run", None, Some(1000));
    let frame = next(&outbox).await;
    let answer = result(&frame["payload"]["id"], json!({}));
    let error = world.nodes.answered(&other, answer.clone()).unwrap_err();
    assert_eq!(error.to_string(), "nodeId mismatch");
    let forged = NodeInvokeResult { node_id: Text::new("other").unwrap(), ..answer };
    assert_eq!(world.nodes.answered(&other, forged).unwrap().ignored, Some(true));
    assert!(matches!(call.await.unwrap(), Err(InvokeError::TimedOut)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_is_taken_off_the_list() {
    let world = world();
    let (_, outbox) = world.connect("c1", "dev").await;
    let call = world.invoke("system.run", None, None);
    next(&outbox).await;
    assert_eq!(world.waiting(), 1);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(world.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_calls_wait_for_a_node() {
    let world = world();
    let (_, _outbox) = world.connect("c1", "dev").await;
    let calls: Vec<_> =
        (0..=registry::MAX_WAITING).map(|_| world.invoke("system.run", None, Some(100))).collect();
    let mut busy = 0;
    for call in calls {
        busy += usize::from(matches!(call.await.unwrap(), Err(InvokeError::Busy)));
    }
    assert_eq!(busy, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_takes_no_frames_is_said_to_be_out_of_reach() {
    let world = world();
    let (_, outbox) = world.connect("c1", "dev").await;
    outbox.close(bus::Close::GONE);
    let error = world.invoke("system.run", None, None).await.unwrap().unwrap_err();
    assert!(matches!(error, InvokeError::NotSent));
    assert_eq!(world.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn fields_of_an_approval_are_dropped_from_what_clients_send() {
    let world = world();
    let (_, outbox) = world.connect("c1", "dev").await;
    let params = json!({
        "command": ["id"], "approved": true, "approvalDecision": "allow-always", "runId": "r",
        "agentId": "main",
    });
    let _call = world.invoke("system.run", Some(params), None);
    let frame = next(&outbox).await;
    let sent = &frame["payload"]["paramsJSON"];
    assert_eq!(sent, r#"{"command":["id"],"agentId":"main"}"#);
}

#[tokio::test(start_paused = true)]
async fn only_an_administrator_chooses_the_session_that_a_node_reports_to() {
    let world = world();
    let (_, outbox) = world.connect("c1", "dev").await;
    for (scope, sent) in [
        (Scope::Write, r#"{"command":["id"]}"#),
        (Scope::Admin, r#"{"command":["id"],"sessionKey":"agent:main:main"}"#),
    ] {
        let caller = Caller {
            role: Role::Operator,
            scopes: Scopes::of(&[scope]),
            ..(*caller("c2", "operator")).clone()
        };
        let invoke = Invoke {
            node_id: "dev".into(),
            command: "system.run".into(),
            params: Some(json!({ "command": ["id"], "sessionKey": "agent:main:main" })),
            asked_by: Some(Arc::new(caller)),
            ..Invoke::default()
        };
        let nodes = Arc::clone(&world.nodes);
        let _call = tokio::spawn(async move { nodes.invoke(invoke).await });
        assert_eq!(next(&outbox).await["payload"]["paramsJSON"], sent);
    }
}

#[tokio::test(start_paused = true)]
async fn policy_is_asked_before_anything_is_sent() {
    let world = world();
    let (_, _outbox) = world.connect("c1", "dev").await;
    for (command, expected) in
        [("camera.snap", Denial::NotAllowed), ("system.notify", Denial::NotDeclared)]
    {
        match world.invoke(command, None, None).await.unwrap() {
            Err(InvokeError::Denied { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{command}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shell_is_asked_for_only_where_it_was_approved() {
    let world = world();
    let (_, outbox) = world.connect("c1", "dev").await;
    for allow in [&[] as &[&str], &["browser.*"]] {
        world.put_device("dev", allow).await;
        let refused = world.invoke("system.run", None, None).await.unwrap().unwrap_err();
        let text = refused.to_string();
        assert!(text.ends_with("moltbotctl devices allow dev system.run"), "{text}");
        assert_eq!(world.nodes.list().await.unwrap()[0].withheld, Some(vec!["system.run".into()]));
    }
    world.put_device("dev", &["system.run"]).await;
    assert_eq!(world.nodes.list().await.unwrap()[0].withheld, None);
    let _call = world.invoke("system.run", None, None);
    assert_eq!(next(&outbox).await["payload"]["command"], "system.run");
    world.put_device("dev", &[]).await;
    let _call = world.invoke("system.which", None, None);
    assert_eq!(next(&outbox).await["payload"]["command"], "system.which");
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_key_runs_a_shell_on_this_host_only() {
    let world = world();
    for (conn_id, local) in [("c1", true), ("c2", false)] {
        let node = Caller { device_id: None, local, ..(*caller(conn_id, "")).clone() };
        let (node, outbox) = (Arc::new(node), Arc::new(Outbox::new(1 << 20)));
        world.nodes.register(&node, &outbox, declared());
        world.nodes.connected(&node, &outbox).await.unwrap();
        let node_id = "node-host".to_owned();
        let invoke = Invoke { node_id, command: "system.run".into(), ..Invoke::default() };
        let invoke = Invoke { timeout_ms: Some(0), ..invoke };
        match world.nodes.invoke(invoke).await {
            Err(InvokeError::TimedOut) => assert!(local),
            Err(InvokeError::NotGranted { has_key: false, .. }) => assert!(!local),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_list_joins_what_is_connected_and_what_is_paired() {
    let world = world();
    world
        .store
        .write(|db| {
            for (id, name, roles) in
                [("paired", "B paired", &["node"] as &[&str]), ("person", "C", &["operator"])]
            {
                let device = json!({
                    "deviceId": id, "publicKey": "k", "displayName": name, "platform": "linux",
                    "roles": roles, "scopes": [], "createdAtMs": 1, "approvedAtMs": 1,
                });
                db.put_device(&serde_json::from_value(device).unwrap())?;
            }
            Ok(())
        })
        .await
        .unwrap();
    world.connect("c1", "dev").await;
    let nodes = world.nodes.list().await.unwrap();
    let shown: Vec<_> =
        nodes.iter().map(|node| (node.node_id.as_str(), node.connected, node.paired)).collect();
    assert_eq!(shown, [("dev", true, true), ("paired", false, true)]);
    assert_eq!(nodes[0].display_name.as_deref(), Some("Rec Node"));
    assert_eq!(nodes[0].commands, ["system.run", "system.which"]);

    assert!(world.nodes.rename("paired".into(), "Attic".into()).await.unwrap());
    assert!(!world.nodes.rename("person".into(), "X".into()).await.unwrap());
    let attic = world.nodes.describe("paired").await.unwrap().unwrap();
    assert_eq!(attic.display_name.as_deref(), Some("Attic"));
    assert_eq!(world.nodes.describe("nobody").await.unwrap(), None);
}

#[tokio::test]
async fn a_node_asks_is_approved_and_verified_in_the_older_way() {
    let world = world();
    let operator = Arc::new(Outbox::new(1 << 20));
    let person = Caller {
        role: Role::Operator,
        scopes: Scopes::of(&[Scope::Pairing]),
        ..(*caller("op", "person")).clone()
    };
    world.bus.attach(Arc::new(person), Arc::clone(&operator));
    let request = |text: &str| serde_json::from_str(text).unwrap();
    let asked = request(r#"{"nodeId":"old","displayName":"Old","caps":["canvas"]}"#);
    let first = world.nodes.ask_to_pair(asked).await.unwrap();
    assert!(first.created && !first.request.is_repair);
    let event = next(&operator).await;
    assert_eq!(event["event"], "node.pair.requested");
    assert_eq!(event["payload"]["nodeId"], "old");
    let again = world.nodes.ask_to_pair(request(r#"{"nodeId":"old"}"#)).await.unwrap();
    assert!(!again.created);
    assert_eq!(again.request, first.request);

    let id = first.request.request_id;
    let node = world.nodes.approve(id.clone()).await.unwrap().unwrap();
    assert_eq!(next(&operator).await["payload"]["decision"], "approved");
    assert_eq!(node.token.len(), 32);
    assert_eq!(world.nodes.approve(id).await.unwrap(), None);
    assert!(world.nodes.verify("old".into(), &node.token).await.unwrap().is_some());
    assert!(world.nodes.verify("old".into(), "wrong").await.unwrap().is_none());

    assert!(world.nodes.rename("old".into(), "New".into()).await.unwrap());
    let listing = world.nodes.pairings().await.unwrap();
    assert_eq!(listing.paired[0].facts.display_name.as_deref(), Some("New"));
    assert!(listing.pending.is_empty());

    let repair = world.nodes.ask_to_pair(request(r#"{"nodeId":"old"}"#)).await.unwrap();
    assert!(repair.request.is_repair);
    next(&operator).await;
    let rejected = world.nodes.reject(repair.request.request_id).await.unwrap();
    assert_eq!(rejected.as_deref(), Some("old"));
    assert_eq!(next(&operator).await["payload"]["decision"], "rejected");
}

#[tokio::test]
async fn a_node_paired_in_the_older_way_is_seen_connecting() {
    let world = world();
    let request = serde_json::from_str(r#"{"nodeId":"rec-1"}"#).unwrap();
    let asked = world.nodes.ask_to_pair(request).await.unwrap();
    world.nodes.approve(asked.request.request_id).await.unwrap().unwrap();
    world.connect("c1", "dev").await;
    let listing = world.nodes.pairings().await.unwrap();
    assert!(listing.paired[0].last_connected_at_ms.is_some());
}

#[tokio::test]
async fn requests_to_pair_expire_after_five_minutes() {
    let world = world();
    let stale = serde_json::from_value(json!({
        "requestId": "stale", "nodeId": "old", "isRepair": false, "ts": 1,
    }));
    let stale = stale.unwrap();
    world.store.write(move |db| db.put_node_request(&stale)).await.unwrap();
    assert!(world.nodes.pairings().await.unwrap().pending.is_empty());
    assert_eq!(world.nodes.approve("stale".into()).await.unwrap(), None);
}

#[tokio::test]
async fn wake_words_are_kept_and_told_to_nodes() {
    let world = world();
    assert_eq!(world.nodes.wake_words().await.unwrap(), ["clawd", "claude", "computer"]);
    let (caller, outbox) = world.connect("c1", "dev").await;
    world.bus.attach(caller, Arc::clone(&outbox));
    let kept = world.nodes.set_wake_words(&[json!(" hey ")]).await.unwrap();
    assert_eq!(kept, ["hey"]);
    assert_eq!(next(&outbox).await["payload"]["triggers"], json!(["hey"]));
    assert_eq!(world.nodes.wake_words().await.unwrap(), ["hey"]);
}

#[tokio::test]
async fn the_agent_finds_nodes_by_id_prefix_and_name() {
    use crate::tools::nodes::NodeCalls as _;
    let world = world();
    let calls = AgentCalls::new(Arc::clone(&world.nodes));
    let error = calls.describe("x".into()).await.unwrap_err().to_string();
    assert!(error.starts_with("there are no nodes"), "{error}");
    world.connect("c1", "deadbeef01").await;
    for name in ["deadbeef01", "deadbe", "rec-node", "Rec Node", ""] {
        assert_eq!(calls.describe(name.into()).await.unwrap()["nodeId"], "deadbeef01", "{name}");
    }
    let error = calls.describe("dead".into()).await.unwrap_err().to_string();
    assert_eq!(error, "unknown node: dead; known ones: Rec Node (deadbeef01)");
    world.connect("c2", "deadbeef02").await;
    let error = calls.describe("deadbeef".into()).await.unwrap_err().to_string();
    assert!(error.starts_with("more than one node matches"), "{error}");
    let denied = calls.invoke("deadbeef01".into(), "camera.snap".into(), Value::Null, 10).await;
    let denied = denied.unwrap_err().to_string();
    assert!(denied.contains("camera.snap: command not allowlisted"), "{denied}");
}
