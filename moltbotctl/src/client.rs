//! A connection to a gateway: handshake, calls, events.
//!
//! One task owns the socket. Calls hand it an order and wait for their answer;
//! events go to whoever subscribed. A subscriber that falls behind loses the
//! oldest events and is told so; it never holds up the socket.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use moltbot_protocol::{Request, Role, Scope, Scopes, Text};
use serde_json::Value;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use crate::{
    address::Address,
    connection::{Connection, Order},
    error::{Closed, Error},
    handshake,
    identity::Keyring,
    ssh::Failure,
    target::Target,
};

/// However long connecting took, a call gets this much.
const SHORTEST_CALL: Duration = Duration::from_millis(100);
/// Orders waiting for the socket; a caller waits when it is full.
const ORDERS: usize = 64;
/// Events a subscriber may be behind before it loses the oldest.
const EVENTS: usize = 1024;

/// How to present oneself to a gateway.
#[derive(Clone, Debug)]
pub struct Options {
    /// Client id, such as `cli`.
    pub id: &'static str,
    /// Client mode, such as `cli` or `probe`.
    pub mode: &'static str,
    /// Name for people.
    pub display_name: Option<String>,
    /// Identifies one running instance.
    pub instance_id: String,
    /// Operator or node.
    pub role: Role,
    /// Permissions asked for.
    pub scopes: Scopes,
    /// Capabilities of a node.
    pub caps: Vec<Text>,
    /// Commands of a node.
    pub commands: Vec<Text>,
    /// Search path of a node.
    pub path_env: Option<String>,
    /// Device key and device tokens; `None` connects without a device.
    pub keyring: Option<Keyring>,
    /// Allows credentials over plain TCP to another host.
    pub insecure: bool,
    /// How long connecting and a call together may take.
    pub timeout: Duration,
}

impl Options {
    /// An operator with every permission, as the command line tool is.
    #[must_use]
    pub fn operator() -> Self {
        Self {
            id: "cli",
            mode: "cli",
            display_name: None,
            instance_id: uuid::Uuid::new_v4().to_string(),
            role: Role::Operator,
            scopes: Scopes::of(&[Scope::Admin, Scope::Approvals, Scope::Pairing]),
            caps: Vec::new(),
            commands: Vec::new(),
            path_env: None,
            keyring: None,
            insecure: false,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A pushed event.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Name of the event.
    pub event: String,
    /// What happened.
    pub payload: Value,
    /// Position in the gateway's stream.
    pub seq: Option<u64>,
}

/// A connection. Clones share it; it closes when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    orders: mpsc::Sender<Order>,
    events: broadcast::Sender<Pushed>,
    /// Hears what comes before anybody subscribes.
    early: Arc<Mutex<Option<broadcast::Receiver<Pushed>>>>,
    closed: watch::Receiver<Option<Closed>>,
    hello: Arc<Value>,
    timeout: Duration,
}

impl Client {
    /// Connects and introduces itself.
    ///
    /// # Errors
    /// When nobody answers, or the gateway does not let this client in.
    pub async fn connect(target: &Target, options: &Options) -> Result<Self, Error> {
        let started = Instant::now();
        let deadline = started + options.timeout;
        let connecting = handshake::connect(target, options);
        let (socket, hello) = timeout_at(deadline, connecting)
            .await
            .map_err(|_| no_answer(target, options.timeout))??;
        let (orders, queue) = mpsc::channel(ORDERS);
        let (events, early) = broadcast::channel(EVENTS);
        let (closed_tx, closed) = watch::channel(None);
        let tick = hello.pointer("/policy/tickIntervalMs").and_then(Value::as_u64);
        let silence = Duration::from_millis(tick.unwrap_or(30_000).clamp(100, 3_600_000) * 2);
        let connection = Connection::new(socket, events.clone(), silence);
        tokio::spawn(async move {
            let how = connection.run(queue).await;
            // Nobody may be left to hear it.
            let _ = closed_tx.send(Some(how));
        });
        let early = Arc::new(Mutex::new(Some(early)));
        // What connecting took is not there for the first call.
        let timeout = options.timeout.saturating_sub(started.elapsed()).max(SHORTEST_CALL);
        Ok(Self { orders, events, early, closed, hello: hello.into(), timeout })
    }

    /// Returns the answer to `connect`.
    #[must_use]
    pub fn hello(&self) -> &Value {
        &self.hello
    }

    /// Calls a method of the contract.
    ///
    /// # Errors
    /// When the call fails or its answer has another shape.
    pub async fn call<R: Request>(&self, request: R) -> Result<R::Response, Error> {
        let shape = |source| Error::Shape { method: R::METHOD.into(), source };
        let params = serde_json::to_value(request).map_err(shape)?;
        serde_json::from_value(self.call_raw(R::METHOD, params).await?).map_err(shape)
    }

    /// Calls any method.
    ///
    /// # Errors
    /// When the call fails or takes too long.
    pub async fn call_raw(&self, method: &str, params: Value) -> Result<Value, Error> {
        self.order(method, params, false, self.timeout).await
    }

    /// Calls a method that answers twice, first `accepted`, and returns the second
    /// answer.
    ///
    /// # Errors
    /// When the call fails or takes longer than `timeout`.
    pub async fn call_final(
        &self,
        method: &str,
        params: Value,
        timeout: Duration,
    ) -> Result<Value, Error> {
        self.order(method, params, true, timeout).await
    }

    /// Calls any method and waits as long as told.
    ///
    /// # Errors
    /// When the call fails or takes longer than `timeout`.
    pub async fn call_within(
        &self,
        method: &str,
        params: Value,
        timeout: Duration,
    ) -> Result<Value, Error> {
        self.order(method, params, false, timeout).await
    }

    /// Returns the events: to the first who asks all since connecting, to others
    /// those from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Pushed> {
        let early = self.early.lock().unwrap_or_else(PoisonError::into_inner).take();
        early.unwrap_or_else(|| self.events.subscribe())
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) -> Closed {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_else(|| Closed::abnormal("")),
            Err(_) => Closed::abnormal("the connection's task ended"),
        }
    }

    /// Says good-bye and waits until the other side has heard it.
    pub async fn close(self) {
        let order = Order::Close { code: 1000, reason: "" };
        if self.orders.send(order).await.is_ok() {
            // A gateway that does not answer a close frame is left behind.
            let _ = tokio::time::timeout(Duration::from_millis(500), self.closed()).await;
        }
    }

    async fn order(
        &self,
        method: &str,
        params: Value,
        expect_final: bool,
        timeout: Duration,
    ) -> Result<Value, Error> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Call { method: method.into(), params, expect_final, answer };
        if self.orders.send(order).await.is_err() {
            return Err(Error::Closed(self.closed().await));
        }
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Closed(self.closed().await)),
            Err(_) => Err(Error::Timeout(timeout)),
        }
    }
}

fn no_answer(target: &Target, waited: Duration) -> Error {
    match &target.address {
        Address::Ssh(ssh) => {
            let failure = Failure::of_silence(&ssh.login, ssh.gateway.port, waited);
            Error::Ssh(Box::new(failure))
        }
        _ => Error::Timeout(waited),
    }
}

/// Returns milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
