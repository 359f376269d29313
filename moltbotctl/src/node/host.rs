//! Takes invocations from the gateway, runs them side by side, sends results.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, broadcast::error::RecvError};
use tokio_util::task::TaskTracker;

use super::{
    account::Account,
    approvals::Approvals,
    execute::Cancellation,
    link::Link,
    notify,
    programs::Programs,
    system_run::{self, Outcome},
};
use crate::{
    client::{Client, Pushed},
    error::Closed,
};

/// Commands running at once; more are refused.
const AT_ONCE: usize = 32;
/// How long stopping waits for programs to be gone: as long as they may take to
/// end by themselves, and for the results of those that were killed.
const STOP_WAIT: Duration = Duration::from_secs(4);

const STOPPING: &str = "the node is stopping";
const CANCELLED: &str = "the call was cancelled";
const UNPAIRED: &str = "this node was sent away by its gateway";

/// The running node.
#[derive(Clone, Debug)]
pub(super) struct Host {
    approvals: Arc<Approvals>,
    account: Arc<Account>,
    programs: Programs,
    link: Link,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    /// The calls under way by their id, to end one or all of them.
    running: Arc<Mutex<HashMap<String, Cancellation>>>,
}

/// A call from the gateway.
#[derive(Debug)]
struct Invocation {
    id: String,
    node_id: String,
    command: String,
    params: Result<Map<String, Value>, String>,
}

type Failure = (&'static str, String);

impl Host {
    pub(super) fn new(approvals: Arc<Approvals>, account: Account) -> Self {
        Self {
            approvals,
            programs: Programs::new(&account),
            account: Arc::new(account),
            link: Link::new(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: TaskTracker::new(),
            running: Arc::default(),
        }
    }

    /// Returns the commands this node offers.
    pub(super) fn commands(&self) -> Vec<&'static str> {
        let mut commands = vec!["system.run", "system.which", "system.execApprovals.get"];
        if self.approvals.takes_remote_changes() {
            commands.push("system.execApprovals.set");
        }
        if notify::is_possible(&self.programs) {
            commands.push("system.notify");
        }
        commands
    }

    /// Returns the search path of this node.
    pub(super) fn path(&self) -> Option<String> {
        Some(self.programs.path().to_owned())
    }

    /// Serves one connection to its end. Programs outlive a connection that was
    /// lost, but not one that the gateway ended because this device may not come
    /// in any more.
    pub(super) async fn serve(&self, client: Client) -> Closed {
        let mut events = client.events();
        self.link.set(Some(client.clone()));
        let how = loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(pushed) => self.take(&pushed),
                    // The gateway reports lost invocations as timed out.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break client.closed().await,
                },
                how = client.closed() => break how,
            }
        };
        self.link.set(None);
        if is_revocation(&how) {
            self.cancel_all(UNPAIRED);
        }
        how
    }

    /// Ends every program: the gateway does not let this device in any more.
    pub(super) fn refused(&self) {
        self.cancel_all(UNPAIRED);
    }

    /// Ends what runs and says good-bye.
    pub(super) async fn stop(&self) {
        self.cancel_all(STOPPING);
        self.tasks.close();
        let client = self.link.current();
        // Results of killed programs are worth a moment, not more.
        let _ = tokio::time::timeout(STOP_WAIT, self.tasks.wait()).await;
        if let Some(client) = client {
            client.close().await;
        }
    }

    fn take(&self, pushed: &Pushed) {
        match pushed.event.as_str() {
            "node.invoke.request" => self.start(&pushed.payload),
            "node.invoke.cancel" => self.cancel(&pushed.payload),
            _ => {}
        }
    }

    fn start(&self, payload: &Value) {
        let Some(invocation) = Invocation::parse(payload) else { return };
        let cancellation = Cancellation::default();
        // Before anything else is read from the connection: the next event may cancel it. A
        // gateway never uses an id twice; who does would keep the first call from being ended.
        match self.running().entry(invocation.id.clone()) {
            Entry::Occupied(_) => return,
            Entry::Vacant(entry) => entry.insert(cancellation.clone()),
        };
        let host = self.clone();
        self.tasks.spawn(async move {
            let id = invocation.id.clone();
            host.invoke(invocation, cancellation).await;
            host.running().remove(&id);
        });
    }

    fn cancel(&self, payload: &Value) {
        let id = payload.get("invokeId").and_then(Value::as_str).unwrap_or_default();
        if let Some(cancellation) = self.running().get(id) {
            cancellation.cancel(CANCELLED);
        }
    }

    fn cancel_all(&self, reason: &'static str) {
        for cancellation in self.running().values() {
            cancellation.cancel(reason);
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Cancellation>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn invoke(&self, invocation: Invocation, cancellation: Cancellation) {
        let outcome = match self.permits.try_acquire() {
            Ok(_permit) => self.run(&invocation, cancellation).await,
            Err(_) => failed("UNAVAILABLE", "node busy: too many commands at once"),
        };
        let mut result = json!({ "id": invocation.id, "nodeId": invocation.node_id });
        match outcome.result {
            Ok(payload) => {
                result["ok"] = true.into();
                if !payload.is_null() {
                    result["payloadJSON"] = payload.to_string().into();
                }
            }
            Err((code, message)) => {
                result["ok"] = false.into();
                result["error"] = json!({ "code": code, "message": message });
            }
        }
        self.link.report(outcome.event, result).await;
    }

    async fn run(&self, invocation: &Invocation, cancellation: Cancellation) -> Outcome {
        let params = match &invocation.params {
            Ok(params) => params,
            Err(message) => return failed("INVALID_REQUEST", message),
        };
        let result = match invocation.command.as_str() {
            "system.run" => {
                return system_run::run(&self.approvals, &self.account, params, cancellation).await;
            }
            "system.which" => self.which(params),
            "system.notify" => {
                notify::notify(&self.account, params, cancellation).await.map(|()| Value::Null)
            }
            "system.execApprovals.get" => self.approvals.get().map_err(invalid),
            "system.execApprovals.set" => self.approvals.set(params).map_err(invalid),
            _ => Err(("UNAVAILABLE", "command not supported".into())),
        };
        Outcome { event: None, result }
    }

    fn which(&self, params: &Map<String, Value>) -> Result<Value, Failure> {
        let Some(names) = params.get("bins").and_then(Value::as_array) else {
            return Err(invalid(anyhow::anyhow!("INVALID_REQUEST: bins required")));
        };
        let mut bins = Map::new();
        for name in names.iter().filter_map(Value::as_str).map(str::trim) {
            if name.contains(['/', '\\']) {
                continue;
            }
            if let Some(path) = self.programs.find(name, Path::new("/")) {
                bins.insert(name.into(), path.to_string_lossy().into());
            }
        }
        Ok(json!({ "bins": bins }))
    }
}

/// Tells a device that may not come in any more from a connection that was lost.
/// The reasons are those of our gateway and of OpenClaw's; where another one is
/// given, the refusal of the next connection tells.
fn is_revocation(closed: &Closed) -> bool {
    let told = |words: &[&str]| words.iter().any(|word| closed.reason.contains(word));
    closed.code == 1008 && told(&["revoked", "removed", "rotated", "unpaired"])
}

impl Invocation {
    fn parse(payload: &Value) -> Option<Self> {
        let text = |key: &str| payload.get(key)?.as_str().filter(|text| !text.is_empty());
        Some(Self {
            id: text("id")?.into(),
            node_id: text("nodeId")?.into(),
            command: text("command")?.into(),
            params: params(text("paramsJSON")),
        })
    }
}

fn params(text: Option<&str>) -> Result<Map<String, Value>, String> {
    let text = text.ok_or("Error: INVALID_REQUEST: paramsJSON required")?;
    match serde_json::from_str(text) {
        Ok(Value::Object(params)) => Ok(params),
        Ok(_) => Err("Error: INVALID_REQUEST: paramsJSON must be an object".into()),
        Err(error) => Err(format!("Error: INVALID_REQUEST: paramsJSON is not JSON: {error}")),
    }
}

/// Failures of the small commands carry the prefix that clients know.
fn invalid(error: impl std::fmt::Display) -> Failure {
    ("INVALID_REQUEST", format!("Error: {error}"))
}

fn failed(code: &'static str, message: &str) -> Outcome {
    Outcome { event: None, result: Err((code, message.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        environment::Environment,
        node::{
            account::Additions,
            approvals::Ceiling,
            rules::{Ask, Security},
        },
    };

    async fn result(command: &str, params: Option<&str>) -> Result<Value, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let ceiling = Ceiling { security: Security::Full, ask: Ask::Off };
        let approvals = Arc::new(Approvals::new(folder.path().join("a.json"), ceiling, true));
        let environment = Environment::of_process();
        let account = Account::of_process(&environment, &Additions::default()).unwrap();
        let host = Host::new(approvals, account);
        let payload = json!({ "id": "i", "nodeId": "n", "command": command, "paramsJSON": params });
        host.run(&Invocation::parse(&payload).unwrap(), Cancellation::default()).await.result
    }

    #[tokio::test]
    async fn only_programs_that_are_there_are_found() {
        let found = result("system.which", Some(r#"{"bins":["sh","nope","/bin/sh"]}"#)).await;
        let bins = found.unwrap()["bins"].as_object().unwrap().clone();
        assert_eq!(bins.keys().collect::<Vec<_>>(), ["sh"]);
    }

    #[tokio::test]
    async fn refusals_have_the_documented_codes_and_texts() {
        let refused = |code, message: &str| Err((code, message.to_owned()));
        let invalid = "INVALID_REQUEST";
        assert_eq!(
            result("system.which", Some("{}")).await,
            refused(invalid, "Error: INVALID_REQUEST: bins required")
        );
        assert_eq!(
            result("system.which", None).await,
            refused(invalid, "Error: INVALID_REQUEST: paramsJSON required")
        );
        assert_eq!(
            result("system.execApprovals.set", Some("{}")).await,
            refused(invalid, "Error: INVALID_REQUEST: exec approvals file required")
        );
        assert_eq!(
            result("camera.snap", Some("{}")).await,
            refused("UNAVAILABLE", "command not supported")
        );
        assert!(result("system.run", Some("[")).await.is_err());
    }

    #[test]
    fn a_malformed_invocation_is_skipped() {
        for payload in [json!(null), json!({}), json!({ "id": "", "nodeId": "n", "command": "c" })]
        {
            assert!(Invocation::parse(&payload).is_none(), "{payload}");
        }
    }
}
