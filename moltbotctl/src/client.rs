//! A connection to a gateway: handshake, calls, events.
//!
//! One task owns the socket. Calls hand it an order and wait for their answer;
//! events go to whoever subscribed. A subscriber that falls behind loses the
//! oldest events and is told so; it never holds up the socket.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{SinkExt, StreamExt};
use moltbot_protocol::{
    PROTOCOL_VERSION, Request, Role, Scope, Scopes, Text,
    frame::Outgoing,
    handshake::{ClientInfo, ConnectParams, Credentials},
};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::{
    address::{Address, WebAddress},
    error::{Closed, Error, Refusal},
    identity::{Identity, Keyring},
    target::Target,
    transport::{self, Socket},
};

/// How long the gateway may take to send its challenge; older ones send none.
const CHALLENGE_WAIT: Duration = Duration::from_millis(750);
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

#[derive(Debug)]
enum Order {
    Call { method: String, params: Value, expect_final: bool, answer: Answer },
    Close { code: u16, reason: &'static str },
}

type Answer = oneshot::Sender<Result<Value, Error>>;

impl Client {
    /// Connects and introduces itself.
    ///
    /// # Errors
    /// When nobody answers, or the gateway does not let this client in.
    pub async fn connect(target: &Target, options: &Options) -> Result<Self, Error> {
        let started = Instant::now();
        let deadline = started + options.timeout;
        let connecting = connect(target, options);
        let (socket, hello) = timeout_at(deadline, connecting)
            .await
            .map_err(|_| Error::Timeout(options.timeout))??;
        let (orders, queue) = mpsc::channel(ORDERS);
        let (events, early) = broadcast::channel(EVENTS);
        let (closed_tx, closed) = watch::channel(None);
        let tick = hello.pointer("/policy/tickIntervalMs").and_then(Value::as_u64);
        let connection = Connection {
            socket,
            waiting: BTreeMap::new(),
            next_id: 0,
            events: events.clone(),
            silence: Duration::from_millis(tick.unwrap_or(30_000).clamp(100, 3_600_000) * 2),
        };
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

/// The socket and who waits for an answer on it.
struct Connection {
    socket: Socket,
    waiting: BTreeMap<u64, (bool, Answer)>,
    next_id: u64,
    events: broadcast::Sender<Pushed>,
    /// The gateway ticks; this long without any frame it is gone.
    silence: Duration,
}

impl Connection {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Closed {
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Call { method, params, expect_final, answer }) => {
                        if let Err(error) = self.call(&method, params, expect_final, answer).await {
                            return how_it_ended(&error);
                        }
                    }
                    Some(Order::Close { code, reason }) => return self.close(code, reason).await,
                    None => return self.close(1000, "").await,
                },
                message = self.socket.next() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(message)) => {
                            if let Some(how) = self.take(message) {
                                // Answers the close frame; the other side may be gone already.
                                let _ = self.socket.flush().await;
                                return how;
                            }
                        }
                        Some(Err(error)) => return how_it_ended(&error),
                        None => return Closed::abnormal(""),
                    }
                },
                () = tokio::time::sleep_until(heard + self.silence) => {
                    return self.close(4000, "tick timeout").await;
                }
            }
        }
    }

    async fn call(
        &mut self,
        method: &str,
        params: Value,
        expect_final: bool,
        answer: Answer,
    ) -> Result<(), tungstenite::Error> {
        // Callers that gave up leave their entry behind.
        self.waiting.retain(|_, (_, answer)| !answer.is_closed());
        self.next_id += 1;
        self.waiting.insert(self.next_id, (expect_final, answer));
        send(&mut self.socket, &self.next_id.to_string(), method, &params).await
    }

    async fn close(mut self, code: u16, reason: &'static str) -> Closed {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let goodbye = async {
            self.socket.close(Some(frame)).await?;
            while self.socket.next().await.transpose()?.is_some() {}
            Ok::<(), tungstenite::Error>(())
        };
        // The socket is dropped either way.
        let _ = tokio::time::timeout(Duration::from_millis(300), goodbye).await;
        Closed { code, reason: reason.into() }
    }

    /// Handles one message; what is not a frame of the protocol is skipped.
    fn take(&mut self, message: Message) -> Option<Closed> {
        if let Message::Close(frame) = message {
            return Some(closed(frame));
        }
        match parse(message)? {
            Frame::Answer { id, result } => self.answer(&id, result),
            // Nobody may listen.
            Frame::Event(pushed) => drop(self.events.send(pushed)),
        }
        None
    }

    fn answer(&mut self, id: &str, result: Result<Value, Refusal>) {
        let Ok(id) = id.parse() else { return };
        let Some((expect_final, answer)) = self.waiting.remove(&id) else { return };
        let accepted = |value: &Value| value.get("status") == Some(&json!("accepted"));
        if expect_final && result.as_ref().is_ok_and(accepted) {
            self.waiting.insert(id, (expect_final, answer));
            return;
        }
        // The caller may have given up.
        let _ = answer.send(result.map_err(|refusal| Error::Refused(Box::new(refusal))));
    }
}

enum Frame {
    Answer { id: String, result: Result<Value, Refusal> },
    Event(Pushed),
}

/// Returns `None` for whatever is not a frame of the protocol.
fn parse(message: Message) -> Option<Frame> {
    let mut frame: HashMap<String, Value> = match message {
        Message::Text(text) => serde_json::from_str(&text).ok()?,
        Message::Binary(bytes) => serde_json::from_slice(&bytes).ok()?,
        _ => return None,
    };
    let payload = frame.remove("payload");
    match frame.get("type")?.as_str()? {
        "event" => Some(Frame::Event(Pushed {
            event: frame.get("event")?.as_str()?.to_owned(),
            payload: payload.unwrap_or(Value::Null),
            seq: frame.get("seq").and_then(Value::as_u64),
        })),
        "res" => {
            let id = frame.get("id")?.as_str()?.to_owned();
            let result = match frame.get("ok") {
                Some(Value::Bool(true)) => Ok(payload.unwrap_or(Value::Null)),
                _ => Err(refusal(frame.get("error"), payload)),
            };
            Some(Frame::Answer { id, result })
        }
        _ => None,
    }
}

fn refusal(error: Option<&Value>, payload: Option<Value>) -> Refusal {
    let text = |key: &str| Some(error?.get(key)?.as_str()?.to_owned());
    Refusal {
        code: text("code").unwrap_or_else(|| "UNKNOWN".into()),
        message: text("message").unwrap_or_else(|| "the gateway refused without a reason".into()),
        details: error.and_then(|error| error.get("details")).cloned(),
        payload,
    }
}

fn closed(frame: Option<CloseFrame>) -> Closed {
    frame.map_or_else(
        || Closed { code: 1005, reason: String::new() },
        |frame| Closed { code: frame.code.into(), reason: frame.reason.to_string() },
    )
}

fn how_it_ended(error: &tungstenite::Error) -> Closed {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            Closed::abnormal("")
        }
        error => Closed::abnormal(error.to_string()),
    }
}

async fn send(
    socket: &mut Socket,
    id: &str,
    method: &str,
    params: &Value,
) -> Result<(), tungstenite::Error> {
    let frame = serde_json::to_string(&Outgoing { id, method, params })
        .expect("strings and JSON values serialize");
    socket.send(Message::text(frame)).await
}

/// Tries the given credentials, or the device token this gateway issued when
/// there are none.
async fn connect(target: &Target, options: &Options) -> Result<(Socket, Value), Error> {
    check_plaintext(target, options)?;
    let identity = match &options.keyring {
        Some(keyring) => Some(keyring.identity().map_err(Error::Identity)?),
        None => None,
    };
    let gateway = target.address.key();
    let role = options.role.name();
    let mut credentials = Credentials {
        token: target.credentials.token.as_ref().map(|token| token.reveal().to_owned()),
        password: target.credentials.password.as_ref().map(|secret| secret.reveal().to_owned()),
    };
    let stored = match (&options.keyring, &identity) {
        (Some(keyring), Some(identity)) if credentials.token.is_none() => {
            keyring.token(&gateway, role, &identity.device_id())
        }
        _ => None,
    };
    credentials.token = credentials.token.or_else(|| stored.clone());
    let result = introduce(target, options, identity.as_ref(), credentials).await;
    if let Some(keyring) = &options.keyring {
        keep_token(keyring, &gateway, role, identity.as_ref(), stored.is_some(), &result);
    }
    result
}

/// A token file that cannot be written costs a later approval, not this command.
fn keep_token(
    keyring: &Keyring,
    gateway: &str,
    role: &str,
    identity: Option<&Identity>,
    stored_was_sent: bool,
    result: &Result<(Socket, Value), Error>,
) {
    match (result, identity) {
        (Ok((_, hello)), Some(identity)) => {
            if let Some(token) = hello.pointer("/auth/deviceToken").and_then(Value::as_str) {
                let _ = keyring.remember(gateway, role, &identity.device_id(), token);
            }
        }
        (Err(error), _) if stored_was_sent && error.is_unauthorized() => {
            let _ = keyring.forget(gateway, role);
        }
        _ => {}
    }
}

fn check_plaintext(target: &Target, options: &Options) -> Result<(), Error> {
    match &target.address {
        Address::Web(WebAddress { tls: false, .. })
            if !options.insecure && !target.address.is_loopback() =>
        {
            Err(Error::Plaintext(target.address.to_string()))
        }
        _ => Ok(()),
    }
}

async fn introduce(
    target: &Target,
    options: &Options,
    identity: Option<&Identity>,
    credentials: Credentials,
) -> Result<(Socket, Value), Error> {
    let url = target.address.to_string();
    let mut socket = transport::open(target).await.map_err(|error| no_connection(&url, &error))?;
    let nonce = challenge(&mut socket).await?;
    let mut params = params(options, credentials);
    if let Some(identity) = identity {
        identity.sign(&mut params, nonce.as_deref(), now_ms());
    }
    let params = serde_json::to_value(params).expect("connect parameters serialize");
    send(&mut socket, "connect", "connect", &params)
        .await
        .map_err(|error| Error::Closed(how_it_ended(&error)))?;
    let hello = loop {
        let Frame::Answer { id, result } = next_frame(&mut socket).await? else { continue };
        if id == "connect" {
            break result.map_err(|refusal| Error::Refused(Box::new(refusal)))?;
        }
    };
    Ok((socket, hello))
}

fn no_connection(url: &str, error: &tungstenite::Error) -> Error {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let absent = matches!(error, tungstenite::Error::Io(error)
        if matches!(error.kind(), ConnectionRefused | NotFound));
    let reason = match error {
        tungstenite::Error::Io(error) => error.to_string(),
        tungstenite::Error::Http(response) => format!("HTTP status {}", response.status()),
        error => error.to_string(),
    };
    Error::Connect { url: url.into(), reason, absent }
}

/// Returns the nonce, or `None` from a gateway that sends no challenge.
async fn challenge(socket: &mut Socket) -> Result<Option<String>, Error> {
    let deadline = Instant::now() + CHALLENGE_WAIT;
    loop {
        match timeout_at(deadline, next_frame(socket)).await {
            Err(_) => return Ok(None),
            Ok(Ok(Frame::Event(pushed))) if pushed.event == "connect.challenge" => {
                let nonce = pushed.payload.get("nonce").and_then(Value::as_str).map(str::trim);
                return Ok(nonce.filter(|nonce| !nonce.is_empty()).map(ToOwned::to_owned));
            }
            Ok(frame) => drop(frame?),
        }
    }
}

async fn next_frame(socket: &mut Socket) -> Result<Frame, Error> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => return Err(Error::Closed(closed(frame))),
            Some(Ok(message)) => {
                if let Some(frame) = parse(message) {
                    return Ok(frame);
                }
            }
            Some(Err(error)) => return Err(Error::Closed(how_it_ended(&error))),
            None => return Err(Error::Closed(Closed::abnormal(""))),
        }
    }
}

fn params(options: &Options, credentials: Credentials) -> ConnectParams {
    let text = |text: &str| Text::new(text).expect("constants and checked names are not empty");
    let node = options.role == Role::Node;
    let known = credentials.token.is_some() || credentials.password.is_some();
    ConnectParams {
        min_protocol: PROTOCOL_VERSION,
        max_protocol: PROTOCOL_VERSION,
        client: ClientInfo {
            id: text(options.id),
            display_name: options.display_name.as_deref().and_then(Text::new),
            version: text(env!("CARGO_PKG_VERSION")),
            platform: text(platform()),
            device_family: None,
            model_identifier: None,
            mode: text(options.mode),
            instance_id: Text::new(&options.instance_id),
        },
        caps: Some(options.caps.clone()),
        commands: node.then(|| options.commands.clone()),
        permissions: None,
        path_env: options.path_env.clone(),
        role: Some(text(options.role.name())),
        scopes: Some(options.scopes.0.iter().filter_map(Text::new).collect()),
        device: None,
        auth: known.then_some(credentials),
        locale: None,
        user_agent: None,
    }
}

/// The reference's names for operating systems.
fn platform() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// Returns milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
