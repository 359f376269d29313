//! Nodes: what they are asked, what they answer, what becomes of them.

use moltbot_tests::{Client, Connect, Ctl, Daemon, Device, Options, daemon::TOKEN};
use serde_json::{Value, json};

const COMMANDS: &[&str] = &["system.run", "system.which", "camera.snap"];

async fn connect(daemon: &Daemon, device: &Device) -> Client {
    listed(daemon, Connect::node(device, COMMANDS)).await
}

/// Connects a node and waits until it can be called: the wake words come then.
async fn listed(daemon: &Daemon, connect: Connect) -> Client {
    let mut node = daemon.connect(connect).await;
    node.next_event("voicewake.changed").await;
    node
}

fn invoke(device: &Device, command: &str) -> Value {
    json!({ "nodeId": device.id(), "command": command, "idempotencyKey": "k" })
}

/// Waits for what the node is asked.
async fn asked(node: &mut Client) -> Value {
    node.next_event("node.invoke.request").await["payload"].clone()
}

async fn reply(node: &mut Client, asked: &Value, fields: Value) -> Result<Value, Value> {
    let mut params = json!({ "id": asked["id"], "nodeId": asked["nodeId"], "ok": true });
    params.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    node.call("node.invoke.result", params).await
}

#[tokio::test]
async fn a_result_as_json_text_is_a_text_or_nothing() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    let call = operator.send("node.invoke", invoke(&device, "system.which")).await;
    let request = asked(&mut node).await;
    for wrong in [json!(7), json!({ "a": 1 }), json!([1]), json!(true)] {
        let error = reply(&mut node, &request, json!({ "payloadJSON": wrong })).await.unwrap_err();
        assert_eq!(error["code"], "INVALID_REQUEST", "{error}");
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("at /payloadJSON: must be string"), "{said}");
        let event = json!({ "event": "x", "payloadJSON": wrong });
        let error = node.call("node.event", event).await.unwrap_err();
        assert_eq!(error["code"], "INVALID_REQUEST", "{error}");
    }
    // What was refused did not end the call.
    reply(&mut node, &request, json!({ "payloadJSON": "7" })).await.unwrap();
    assert_eq!(operator.answer(&call).await.unwrap()["payload"], 7);
}

#[tokio::test]
async fn a_name_given_to_a_node_has_a_limit() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let _node = connect(&daemon, &device).await;
    for (method, params) in [
        ("node.rename", json!({ "nodeId": device.id(), "displayName": "n".repeat(129) })),
        ("node.pair.request", json!({ "nodeId": "a", "displayName": "n".repeat(129) })),
        ("node.pair.request", json!({ "nodeId": "n".repeat(129) })),
        ("node.pair.request", json!({ "nodeId": "a", "caps": ["n".repeat(129)] })),
    ] {
        let error = operator.call(method, params).await.unwrap_err();
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("must NOT have more than 128 characters"), "{method}: {said}");
    }
    for node in 0..100 {
        operator.call("node.pair.request", json!({ "nodeId": format!("n{node}") })).await.unwrap();
    }
    let pending = operator.call("node.pair.list", json!({})).await.unwrap()["pending"].clone();
    let pending = pending.as_array().unwrap();
    assert_eq!(pending.len(), 64);
    assert!(pending.iter().any(|it| it["nodeId"] == "n99"), "{pending:?}");
}

#[tokio::test]
async fn a_command_goes_to_the_node_and_its_answer_back() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    let mut params = invoke(&device, "system.which");
    params["params"] = json!({ "bins": ["git"] });
    params["timeoutMs"] = json!(20_000);

    let call = operator.send("node.invoke", params).await;
    let request = asked(&mut node).await;
    assert_eq!(request["paramsJSON"], r#"{"bins":["git"]}"#);
    assert_eq!(request["timeoutMs"], 20_000);
    assert_eq!(request["idempotencyKey"], "k");
    let text = r#"{"bins": {"git": "/usr/bin/git"}}"#;
    let noted = reply(&mut node, &request, json!({ "payloadJSON": text })).await.unwrap();
    assert_eq!(noted, json!({ "ok": true }));

    let answer = operator.answer(&call).await.unwrap();
    assert_eq!(answer["payload"]["bins"]["git"], "/usr/bin/git");
    assert_eq!(answer["payloadJSON"], text);
    let late = reply(&mut node, &request, json!({ "payloadJSON": null })).await.unwrap();
    assert_eq!(late, json!({ "ok": true, "ignored": true }));
}

#[tokio::test]
async fn a_failed_command_is_told_in_the_words_of_the_node() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    let call = operator.send("node.invoke", invoke(&device, "system.run")).await;
    let request = asked(&mut node).await;
    assert_eq!(request["paramsJSON"], Value::Null);
    let error = json!({ "code": "CAMERA_DISABLED", "message": "enable it" });
    reply(&mut node, &request, json!({ "ok": false, "error": error })).await.unwrap();
    let refusal = operator.answer(&call).await.unwrap_err();
    assert_eq!(
        (&refusal["code"], &refusal["message"]),
        (&json!("UNAVAILABLE"), &json!("enable it"))
    );
    assert_eq!(refusal["details"], json!({ "nodeError": error }));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_with_its_reason() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    for (command, reason) in [
        ("camera.snap", "command not allowlisted"),
        ("system.notify", "command not declared by node"),
    ] {
        let refusal = operator.call("node.invoke", invoke(&device, command)).await.unwrap_err();
        assert_eq!(refusal["message"], "node command not allowed");
        assert_eq!(refusal["details"], json!({ "reason": reason, "command": command }));
    }
    let absent = invoke(&Device::new(), "system.run");
    let refusal = operator.call("node.invoke", absent).await.unwrap_err();
    assert_eq!(refusal["message"], "node not connected");
    assert_eq!(refusal["details"], json!({ "code": "NOT_CONNECTED" }));

    let mut impatient = invoke(&device, "system.run");
    impatient["timeoutMs"] = json!(0);
    let refusal = operator.call("node.invoke", impatient).await.unwrap_err();
    assert_eq!(refusal["message"], "node invoke timed out");
    assert_eq!(refusal["details"]["nodeError"]["code"], "TIMEOUT");

    let wrong = json!({ "id": "x", "nodeId": "someone-else", "ok": true });
    let refusal = node.call("node.invoke.result", wrong).await.unwrap_err();
    assert_eq!(refusal["message"], "nodeId mismatch");
    let refusal = node.call("node.list", json!({})).await.unwrap_err();
    assert_eq!(refusal["message"], "unauthorized role: node");
}

#[tokio::test]
async fn approvals_that_a_client_makes_up_do_not_reach_the_node() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    let mut params = invoke(&device, "system.run");
    params["params"] = json!({
        "command": ["id"], "approved": true, "approvalDecision": "allow-once", "agentId": "main",
    });
    operator.send("node.invoke", params).await;
    let request = asked(&mut node).await;
    assert_eq!(request["paramsJSON"], r#"{"command":["id"],"agentId":"main"}"#);
}

#[tokio::test]
async fn a_node_that_leaves_fails_its_calls_at_once() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    let call = operator.send("node.invoke", invoke(&device, "system.run")).await;
    asked(&mut node).await;
    node.close().await;
    let refusal = operator.answer(&call).await.unwrap_err();
    assert_eq!(refusal["message"], "Error: node disconnected (system.run)");
}

#[tokio::test]
async fn a_removed_node_is_cut_off_and_its_calls_fail() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let mut other = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    let call = operator.send("node.invoke", invoke(&device, "system.run")).await;
    asked(&mut node).await;
    other.call("device.pair.remove", json!({ "deviceId": device.id() })).await.unwrap();
    let refusal = operator.answer(&call).await.unwrap_err();
    assert_eq!(refusal["message"], "Error: node disconnected (system.run)");
    assert_eq!(node.closed().await.0, 1008);
    let list = operator.call("node.list", json!({})).await.unwrap();
    assert_eq!(list["nodes"], json!([]));
}

#[tokio::test]
async fn a_node_that_comes_back_before_its_old_socket_ends_stays() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let old = connect(&daemon, &device).await;
    let mut new = connect(&daemon, &device).await;
    old.close().await;
    operator.read_where(|frame| frame["event"] == "presence").await;
    let list = operator.call("node.list", json!({})).await.unwrap();
    assert_eq!(list["nodes"][0]["connected"], true);
    operator.send("node.invoke", invoke(&device, "system.run")).await;
    asked(&mut new).await;
}

#[tokio::test]
async fn a_paired_node_is_listed_described_and_named() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let node = connect(&daemon, &device).await;
    let which = json!({ "nodeId": device.id() });
    let shown = operator.call("node.describe", which.clone()).await.unwrap();
    assert_eq!(shown["commands"], json!(["system.run", "system.which"]));
    assert_eq!((&shown["paired"], &shown["connected"]), (&json!(true), &json!(true)));
    assert_eq!(shown["displayName"], "Test node");
    assert_eq!(shown["allow"], json!(["browser.*", "system.*"]), "it is on the gateway's host");
    assert_eq!(shown.get("withheld"), None);

    let name = json!({ "nodeId": device.id(), "displayName": " Attic " });
    let renamed = operator.call("node.rename", name).await.unwrap();
    assert_eq!(renamed["displayName"], "Attic");
    node.close().await;
    operator.read_where(|frame| frame["event"] == "presence").await;
    let shown = operator.call("node.describe", which).await.unwrap();
    assert_eq!((&shown["displayName"], &shown["connected"]), (&json!("Attic"), &json!(false)));

    let stranger = json!({ "nodeId": "nobody", "displayName": "X" });
    let refusal = operator.call("node.rename", stranger).await.unwrap_err();
    assert_eq!(refusal["message"], "unknown nodeId");
    let refusal = operator.call("node.describe", json!({ "nodeId": "nobody" })).await.unwrap_err();
    assert_eq!(refusal["message"], "unknown nodeId");
}

#[tokio::test]
async fn a_node_is_paired_in_the_older_way() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let asked = operator.call("node.pair.request", json!({ "nodeId": "old" })).await.unwrap();
    assert_eq!((&asked["status"], &asked["created"]), (&json!("pending"), &json!(true)));
    let event = operator.next_event("node.pair.requested").await;
    assert_eq!(event["payload"], asked["request"]);
    let request = json!({ "requestId": asked["request"]["requestId"] });
    let approved = operator.call("node.pair.approve", request.clone()).await.unwrap();
    let token = &approved["node"]["token"];
    let verify = json!({ "nodeId": "old", "token": token });
    assert_eq!(operator.call("node.pair.verify", verify).await.unwrap()["ok"], true);
    let wrong = json!({ "nodeId": "old", "token": "wrong" });
    let refused = operator.call("node.pair.verify", wrong).await.unwrap();
    assert_eq!(refused, json!({ "ok": false }));
    let refusal = operator.call("node.pair.approve", request).await.unwrap_err();
    assert_eq!(refusal["message"], "unknown requestId");
}

#[tokio::test]
async fn wake_words_are_told_to_everybody_and_to_nodes_that_connect() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let mut node = daemon.connect(Connect::node(&Device::new(), COMMANDS)).await;
    let greeting = node.next_event("voicewake.changed").await;
    assert_eq!(greeting["payload"]["triggers"], json!(["clawd", "claude", "computer"]));
    assert_eq!(greeting.get("seq"), None);
    let words = json!({ "triggers": [" hey ", "", 7] });
    let kept = operator.call("voicewake.set", words).await.unwrap();
    assert_eq!(kept, json!({ "triggers": ["hey"] }));
    for client in [&mut operator, &mut node] {
        let event = client.next_event("voicewake.changed").await;
        assert_eq!(event["payload"], kept);
        assert!(event["seq"].is_u64());
    }
    assert_eq!(operator.call("voicewake.get", json!({})).await.unwrap(), kept);
    let refusal = operator.call("voicewake.set", json!({})).await.unwrap_err();
    assert_eq!(refusal["message"], "voicewake.set requires triggers: string[]");
}

#[tokio::test]
async fn wake_words_outlive_the_daemon() {
    let mut daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    operator.call("voicewake.set", json!({ "triggers": ["hey molt"] })).await.unwrap();
    daemon.stop().await;
    daemon.start_again().await;
    let mut node = daemon.connect(Connect::node(&Device::new(), COMMANDS)).await;
    let greeting = node.next_event("voicewake.changed").await;
    assert_eq!(greeting["payload"]["triggers"], json!(["hey molt"]));
}

/// Lets a device connect and returns the request that it leaves behind.
async fn waits(daemon: &Daemon, connect: &Connect) -> String {
    let refusal = Client::connect(&daemon.url(), connect.clone()).await.unwrap_err();
    refusal.error.unwrap()["details"]["requestId"].as_str().unwrap().to_owned()
}

/// Connects a node from elsewhere that was approved with these parameters.
async fn approved_from_afar(daemon: &Daemon, device: &Device, allow: Value) -> (Client, Value) {
    let connect = Connect::node(device, COMMANDS).remote();
    let mut params = json!({ "requestId": waits(daemon, &connect).await });
    if !allow.is_null() {
        params["allow"] = allow;
    }
    let mut operator = daemon.operator().await;
    let approved = operator.call("device.pair.approve", params).await.unwrap();
    (listed(daemon, connect).await, approved)
}

#[tokio::test]
async fn a_node_from_elsewhere_runs_a_shell_only_when_that_was_approved() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let (mut node, approved) = approved_from_afar(&daemon, &device, Value::Null).await;
    assert_eq!(approved["device"].get("allow"), None);
    assert_eq!(approved["withheld"], json!(["system.run"]));
    let which = json!({ "nodeId": device.id() });
    let shown = operator.call("node.describe", which.clone()).await.unwrap();
    assert_eq!(shown["commands"], json!(["system.run", "system.which"]));
    assert_eq!((shown.get("allow"), &shown["withheld"]), (None, &json!(["system.run"])));

    let refusal = operator.call("node.invoke", invoke(&device, "system.run")).await.unwrap_err();
    let advice = format!("moltbotctl devices allow {} system.run", &device.id()[..12]);
    assert!(refusal["message"].as_str().unwrap().ends_with(&advice), "{refusal}");
    assert_eq!(
        refusal["details"],
        json!({ "reason": "command not approved", "command": "system.run" })
    );
    let tool = json!({
        "action": "invoke", "command": "system.run", "params": { "command": ["id"] },
    });
    let question = json!({
        "sessionKey": "main", "message": format!("/tool nodes {tool}"), "idempotencyKey": "r1",
    });
    operator.call("chat.send", question).await.unwrap();
    let chat = operator.event_where("chat", |chat| chat["state"] == "final").await;
    assert!(chat["payload"]["message"].to_string().contains(&advice), "{chat}");

    // All else goes on as before.
    let call = operator.send("node.invoke", invoke(&device, "system.which")).await;
    let request = asked(&mut node).await;
    assert_eq!(request["command"], "system.which", "nothing else came before it");
    reply(&mut node, &request, json!({})).await.unwrap();
    operator.answer(&call).await.unwrap();

    let allow = json!({ "deviceId": device.id(), "allow": ["system.run"] });
    let allowed = operator.call("device.pair.allow", allow).await.unwrap();
    assert_eq!(allowed["allow"], json!(["system.run"]));
    let shown = operator.call("node.describe", which).await.unwrap();
    assert_eq!((&shown["allow"], shown.get("withheld")), (&json!(["system.run"]), None));
    let call = operator.send("node.invoke", invoke(&device, "system.run")).await;
    let request = asked(&mut node).await;
    reply(&mut node, &request, json!({})).await.unwrap();
    operator.answer(&call).await.unwrap();

    let nothing = json!({ "deviceId": device.id(), "allow": [] });
    operator.call("device.pair.allow", nothing).await.unwrap();
    operator.call("node.invoke", invoke(&device, "system.run")).await.unwrap_err();
}

#[tokio::test]
async fn cve_2026_53816_a_node_that_may_run_no_programs_tells_of_none() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let (mut node, _) = approved_from_afar(&daemon, &device, Value::Null).await;
    let told = |run: &str| {
        let payload = json!({ "sessionKey": "main", "runId": run, "exitCode": 0, "output": "hi" });
        json!({ "event": "exec.finished", "payloadJSON": payload.to_string() })
    };
    let allow = |allow: &[&str]| json!({ "deviceId": device.id(), "allow": allow });
    for (run, granted) in [("before", &[][..]), ("granted", &["system.run"]), ("after", &[])] {
        operator.call("device.pair.allow", allow(granted)).await.unwrap();
        node.call("node.event", told(run)).await.unwrap();
        let question = json!({ "sessionKey": "main", "message": run, "idempotencyKey": run });
        operator.call("chat.send", question).await.unwrap();
        let is_final = |chat: &Value| chat["state"] == "final" && chat["runId"] == run;
        let chat = operator.event_where("chat", is_final).await;
        let text = chat["payload"]["message"].to_string();
        assert_eq!(text.contains("Exec finished"), !granted.is_empty(), "{run}: {text}");
    }
}

#[tokio::test]
async fn an_approval_names_what_it_grants() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let connect = Connect::node(&device, COMMANDS).remote();
    let request = waits(&daemon, &connect).await;
    let list = operator.call("device.pair.list", json!({})).await.unwrap();
    assert_eq!(list["pending"][0]["commands"], json!(COMMANDS));
    for wrong in ["camera.snap", "*", "system.run; reboot"] {
        let params = json!({ "requestId": request, "allow": [wrong] });
        let refusal = operator.call("device.pair.approve", params).await.unwrap_err();
        assert!(refusal["message"].as_str().unwrap().contains(wrong), "{refusal}");
    }
    let (mut node, approved) =
        approved_from_afar(&daemon, &device, json!(["system.run", "browser.*"])).await;
    assert_eq!(approved["device"]["allow"], json!(["browser.*", "system.run"]));
    assert_eq!(approved.get("withheld"), None);
    let call = operator.send("node.invoke", invoke(&device, "system.run")).await;
    let request = asked(&mut node).await;
    reply(&mut node, &request, json!({})).await.unwrap();
    operator.answer(&call).await.unwrap();

    let person = Device::new();
    let connect = Connect::operator().device(&person, moltbot_tests::Version::V3).remote();
    let request = waits(&daemon, &connect).await;
    let params = json!({ "requestId": request, "allow": ["system.run"] });
    let refusal = operator.call("device.pair.approve", params).await.unwrap_err();
    assert!(refusal["message"].as_str().unwrap().starts_with("allow is for nodes"), "{refusal}");
    let stranger = json!({ "deviceId": person.id(), "allow": ["system.run"] });
    operator.call("device.pair.allow", stranger).await.unwrap_err();
}

#[tokio::test]
async fn an_approved_node_on_the_gateways_host_runs_everything() {
    let gateway = json!({ "auth": { "token": TOKEN }, "pairing": { "loopback": "ask" } });
    let daemon = Daemon::start_with(Options::with(json!({ "gateway": gateway }))).await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let connect = Connect::node(&device, COMMANDS);
    let request = waits(&daemon, &connect).await;
    operator.call("device.pair.approve", json!({ "requestId": request })).await.unwrap();
    let mut node = listed(&daemon, connect).await;
    operator.send("node.invoke", invoke(&device, "system.run")).await;
    assert_eq!(asked(&mut node).await["command"], "system.run");
}

#[tokio::test]
async fn the_client_says_what_an_approval_grants_and_grants_more() {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    let device = Device::new();
    let connect = Connect::node(&device, &["system.run", "browser.proxy"]).remote();
    let request = waits(&daemon, &connect).await;
    let short = device.id()[..12].to_owned();
    let shown = ctl.text(&["devices", "list"]).await;
    assert!(shown.contains(&format!("{short} offers: system.run, browser.proxy")), "{shown}");
    let said = ctl.text(&["devices", "approve", &request, "--allow", "browser.*"]).await;
    assert!(said.contains("may be asked to run: browser.*."), "{said}");
    let more = format!("moltbotctl devices allow {short} system.run");
    assert!(said.trim_end().ends_with(&more), "{said}");
    let _node = listed(&daemon, connect).await;
    let described = ctl.text(&["nodes", "describe", &short]).await;
    assert!(described.contains(&more), "{described}");

    let said = ctl.text(&["devices", "allow", &short, "system.run"]).await;
    assert!(said.contains("may be asked to run: browser.*, system.run."), "{said}");
    let said = ctl.text(&["devices", "allow", &short, "--only"]).await;
    assert!(said.contains("no command that needs an approval"), "{said}");
    let shown = ctl.json(&["nodes", "list"]).await;
    assert_eq!(shown["nodes"][0]["withheld"], json!(["browser.proxy", "system.run"]));
}

#[tokio::test]
async fn talk_mode_needs_a_phone_when_a_web_chat_asks() {
    let daemon = Daemon::start().await;
    let mut page = daemon.connect(Connect::operator().set("/client/mode", "webchat")).await;
    let on = json!({ "enabled": true, "phase": "listening" });
    let refusal = page.call("talk.mode", on.clone()).await.unwrap_err();
    assert_eq!(refusal["message"], "talk disabled: no connected iOS/Android nodes");
    let phone = Connect::node(&Device::new(), &[]).set("/client/platform", "android");
    let mut phone = daemon.connect(phone).await;
    let answer = page.call("talk.mode", on).await.unwrap();
    assert_eq!((&answer["enabled"], &answer["phase"]), (&json!(true), &json!("listening")));
    assert_eq!(phone.next_event("talk.mode").await["payload"], answer);
}

#[tokio::test]
async fn an_event_nobody_knows_or_can_read_is_answered_all_the_same() {
    let daemon = Daemon::start().await;
    let mut node = connect(&daemon, &Device::new()).await;
    for params in [
        json!({ "event": "canvas.a2ui.action", "payloadJSON": "{}" }),
        json!({ "event": "chat.subscribe", "payloadJSON": null }),
        json!({ "event": "chat.subscribe", "payloadJSON": "{" }),
        json!({ "event": "exec.finished", "payload": { "exitCode": "x" } }),
        json!({ "event": "agent.request", "payload": [] }),
    ] {
        assert_eq!(node.call("node.event", params).await.unwrap(), json!({ "ok": true }));
    }
}

#[tokio::test]
async fn the_built_in_model_is_listed() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let listing = operator.call("models.list", json!({})).await.unwrap();
    assert_eq!(listing["models"][0]["provider"], "builtin");
    assert_eq!(listing["models"][0]["id"], "echo");
}

#[tokio::test]
async fn a_node_listens_to_a_conversation_and_hears_it_twice() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let mut node = connect(&daemon, &Device::new()).await;
    let key = json!({ "sessionKey": "attic" });
    let listen = json!({ "event": "chat.subscribe", "payloadJSON": key.to_string() });
    node.call("node.event", listen).await.unwrap();
    let question = json!({ "sessionKey": "attic", "message": "hi", "idempotencyKey": "r1" });
    operator.call("chat.send", question).await.unwrap();
    let is_final = |frame: &Value| frame["event"] == "chat" && frame["payload"]["state"] == "final";
    let first = node.read_where(is_final).await.unwrap();
    let second = node.read_where(is_final).await.unwrap();
    assert_eq!(first["payload"], second["payload"]);
    assert_ne!(first["seq"].is_u64(), second["seq"].is_u64(), "the copy has no number");
}

#[tokio::test]
async fn what_is_said_to_a_node_reaches_the_agent() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    let heard = json!({ "text": " good morning ", "sessionKey": "main" });
    let event = json!({ "event": "voice.transcript", "payload": heard });
    node.call("node.event", event).await.unwrap();
    let chat = operator.event_where("chat", |chat| chat["state"] == "final").await;
    assert!(chat["payload"]["runId"].as_str().unwrap().starts_with("voice-"));
    assert_eq!(chat["payload"]["sessionKey"], "main");
    assert!(chat["payload"]["message"].to_string().contains("echo: good morning"));

    let asked = json!({ "message": "and again", "deliver": true, "channel": "nowhere" });
    let event = json!({ "event": "agent.request", "payloadJSON": asked.to_string() });
    node.call("node.event", event).await.unwrap();
    let chat = operator.event_where("chat", |chat| chat["state"] == "final").await;
    assert_eq!(chat["payload"]["sessionKey"], format!("node-{}", device.id()));
    assert!(chat["payload"]["message"].to_string().contains("and again"));
}

#[tokio::test]
async fn a_tool_call_of_the_model_comes_back_with_the_output_of_the_node() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    let call = json!({
        "action": "invoke", "command": "system.run",
        "params": { "command": ["uname"], "approved": true },
    });
    let question = json!({
        "sessionKey": "main", "message": format!("/tool nodes {call}"), "idempotencyKey": "r1",
    });
    operator.call("chat.send", question).await.unwrap();
    let request = asked(&mut node).await;
    let params: Value = serde_json::from_str(request["paramsJSON"].as_str().unwrap()).unwrap();
    assert_eq!(params.get("approved"), None);
    assert_eq!(params["agentId"], "main");
    let ran = json!({
        "exitCode": 0, "timedOut": false, "success": true, "stdout": "Linux attic\n",
        "stderr": "", "error": null,
    });
    reply(&mut node, &request, json!({ "payloadJSON": ran.to_string() })).await.unwrap();
    let chat = operator.event_where("chat", |chat| chat["state"] == "final").await;
    let text = chat["payload"]["message"]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text, "Linux attic\nexit code 0");
}

/// Says something as an operator and returns what is answered.
async fn said(operator: &mut Client, key: &str, text: &str) -> String {
    let params = json!({ "sessionKey": "main", "message": text, "idempotencyKey": key });
    operator.call("chat.send", params).await.unwrap();
    let is_end = |chat: &Value| chat["state"] == "final" && chat["runId"] == key;
    operator.event_where("chat", is_end).await["payload"]["message"].to_string()
}

#[tokio::test]
async fn the_rules_of_a_node_are_reached_by_their_own_method_and_by_no_other() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let offered = ["system.run", "system.execApprovals.get", "system.execApprovals.set"];
    let mut node = listed(&daemon, Connect::node(&device, &offered)).await;

    for command in
        [offered[1], offered[2], " system.execApprovals.set ", "SYSTEM.execapprovals.set"]
    {
        let error = operator.call("node.invoke", invoke(&device, command)).await.unwrap_err();
        assert_eq!(error["code"], "INVALID_REQUEST", "{command}");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with("node.invoke does not allow system.execApprovals.*"),
            "{message}"
        );
    }
    let by_command = format!("/node {} system.execApprovals.get", device.id());
    let answer = said(&mut operator, "r1", &by_command).await;
    assert!(answer.contains("use exec.approvals.node.get"), "{answer}");
    let by_tool = json!({ "action": "invoke", "command": "system.execApprovals.get" });
    let answer = said(&mut operator, "r2", &format!("/tool nodes {by_tool}")).await;
    assert!(answer.contains("use exec.approvals.node.get"), "{answer}");

    let file = json!({ "version": 1, "defaults": { "security": "deny" } });
    let change = json!({ "nodeId": device.id(), "file": file, "baseHash": "before" });
    let mut guest = daemon.connect(Connect::operator().scopes(&["operator.write"])).await;
    let error = guest.call("exec.approvals.node.set", change.clone()).await.unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("operator.admin"), "{error}");

    let call = operator.send("exec.approvals.node.set", change).await;
    let request = asked(&mut node).await;
    assert_eq!(request["command"], "system.execApprovals.set", "it is the first that gets there");
    let params: Value = serde_json::from_str(request["paramsJSON"].as_str().unwrap()).unwrap();
    assert_eq!(params, json!({ "file": file, "baseHash": "before" }));
    let rules = json!({ "path": "/x", "exists": true, "hash": "after", "file": file });
    reply(&mut node, &request, json!({ "payloadJSON": rules.to_string() })).await.unwrap();
    assert_eq!(operator.answer(&call).await.unwrap(), rules);
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("exec approvals of a node changed")).unwrap();
    assert!(line.contains("before") && line.contains("after"), "{line}");

    let call = operator.send("exec.approvals.node.get", json!({ "nodeId": device.id() })).await;
    let request = asked(&mut node).await;
    assert_eq!(request["command"], "system.execApprovals.get");
    reply(&mut node, &request, json!({ "payloadJSON": rules.to_string() })).await.unwrap();
    assert_eq!(operator.answer(&call).await.unwrap(), rules);
}

#[tokio::test]
async fn a_node_speaks_in_its_own_conversation_or_the_main_one_and_has_no_tools() {
    let daemon = Daemon::start().await;
    let mut operator = daemon.operator().await;
    let device = Device::new();
    let mut node = connect(&daemon, &device).await;
    let own = format!("node-{}", device.id());
    for (wanted, used) in [
        ("agent:main:telegram:group:-5", own.as_str()),
        ("attic", own.as_str()),
        ("agent:other:main", own.as_str()),
        (&format!("node-{}", "a".repeat(64)), own.as_str()),
        ("node-porch", "node-porch"),
        ("agent:main:main", "agent:main:main"),
        ("main", "main"),
    ] {
        for event in ["agent.request", "voice.transcript"] {
            let text = format!("/tool nodes {{\"action\":\"list\"}} for {wanted}");
            let payload = json!({ "message": text, "text": text, "sessionKey": wanted });
            let event = json!({ "event": event, "payloadJSON": payload.to_string() });
            node.call("node.event", event).await.unwrap();
            let chat = operator.event_where("chat", |chat| chat["state"] == "final").await;
            assert_eq!(chat["payload"]["sessionKey"], used, "{wanted}");
            let answer = chat["payload"]["message"].to_string();
            assert!(answer.contains("what a node says cannot use tools"), "{answer}");
        }
    }
    let log = daemon.log();
    let refused = log.lines().find(|line| line.contains("tool call refused")).unwrap();
    assert!(refused.contains(&format!("node:{}", device.id())), "{refused}");
}
