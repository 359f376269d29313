//! A WebSocket client that can also do everything wrong.
//!
//! It keeps what it has read until somebody asks for it, so that a test may
//! wait for an event that came before the answer it waited for first.

use std::{collections::VecDeque, path::Path, time::SystemTime};

use futures_util::{SinkExt as _, StreamExt as _};
use moltbot_protocol::{ErrorShape, Request};
use moltbotctl::tls::{self, Pins};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    Connector, WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::{Device, PATIENCE, Version, daemon::TOKEN};

/// What a WebSocket may run over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Stream for T {}

fn request(url: &str, headers: &[(String, String)]) -> Upgrade {
    let mut request = url.into_client_request().expect("a valid address");
    for (name, value) in headers {
        let name: tungstenite::http::HeaderName = name.parse().expect("a valid header name");
        request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a valid header"));
    }
    request
}

async fn over_tls(stream: TcpStream, pins: &Pins) -> Result<Box<dyn Stream>, Refusal> {
    let Ok(Some(Connector::Rustls(config))) = tls::connector(Some(pins)) else {
        panic!("TLS can be set up");
    };
    let name = "localhost".try_into().expect("a valid name");
    let stream = TlsConnector::from(config).connect(name, stream).await;
    Ok(Box::new(stream.map_err(Refusal::unreachable)?))
}

type Upgrade = tungstenite::handshake::client::Request;
type Socket = WebSocketStream<Box<dyn Stream>>;

/// What a client says in its first request.
#[derive(Clone, Debug)]
pub struct Connect {
    /// The parameters, without the device's proof.
    pub params: Value,
    /// The key it proves to hold.
    pub device: Option<(Device, Version)>,
    /// Headers of the upgrade.
    pub headers: Vec<(String, String)>,
    /// When the proof is said to have been made; the time of the client's own clock if absent.
    pub signed_at: Option<u64>,
}

/// The client's own clock, in milliseconds since the epoch. It is never the daemon's: a client
/// that signed with the time of the challenge could not see what a wrong clock does.
#[must_use]
pub fn own_clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(now.as_millis()).expect("it is before the year 500,000,000")
}

impl Connect {
    /// An operator with the shared token, every scope and no device key.
    #[must_use]
    pub fn operator() -> Self {
        Self::with(json!({
            "minProtocol": 3,
            "maxProtocol": 3,
            "client": { "id": "test", "version": "1", "platform": "linux", "mode": "test" },
            "role": "operator",
            "scopes": ["operator.admin", "operator.approvals", "operator.pairing"],
            "auth": { "token": TOKEN },
        }))
    }

    /// A node with the shared token, a device key and some commands.
    #[must_use]
    pub fn node(device: &Device, commands: &[&str]) -> Self {
        let mut connect = Self::with(json!({
            "minProtocol": 3,
            "maxProtocol": 3,
            "client": {
                "id": "node-host",
                "displayName": "Test node",
                "version": "1",
                "platform": "linux",
                "mode": "node",
            },
            "role": "node",
            "scopes": [],
            "caps": ["system"],
            "commands": commands,
            "auth": { "token": TOKEN },
        }));
        connect.device = Some((device.clone(), Version::V2));
        connect
    }

    /// Parameters of one's own.
    #[must_use]
    pub fn with(params: Value) -> Self {
        Self { params, device: None, headers: Vec::new(), signed_at: None }
    }

    /// Asks for other scopes.
    #[must_use]
    pub fn scopes(mut self, scopes: &[&str]) -> Self {
        self.params["scopes"] = json!(scopes);
        self
    }

    /// Sends another token.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.params["auth"] = json!({ "token": token });
        self
    }

    /// Sets one field, named by a JSON pointer whose parent exists.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
        let parent = self.params.pointer_mut(parent).expect("the parent exists");
        parent[name] = value.into();
        self
    }

    /// Leaves out a top-level field.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.params.as_object_mut().expect("parameters are an object").remove(name);
        self
    }

    /// Proves a device key.
    #[must_use]
    pub fn device(mut self, device: &Device, version: Version) -> Self {
        self.device = Some((device.clone(), version));
        self
    }

    /// Signs at another time than the client's clock says.
    #[must_use]
    pub fn signed_at(mut self, ms: u64) -> Self {
        self.signed_at = Some(ms);
        self
    }

    /// Adds a header to the upgrade.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Looks like a client behind a proxy: never local.
    #[must_use]
    pub fn remote(self) -> Self {
        self.header("X-Forwarded-For", "203.0.113.9")
    }

    /// Returns the parameters with the proof over a nonce.
    #[must_use]
    pub fn signed(&self, nonce: &str) -> Value {
        let mut params = self.params.clone();
        if let Some((device, version)) = &self.device {
            let at = self.signed_at.unwrap_or_else(own_clock);
            params["device"] = device.proof(*version, &params, nonce, at);
        }
        params
    }
}

/// How a connection was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// HTTP status, when it was refused before the upgrade.
    pub status: Option<u16>,
    /// The error of the answer, when there was one.
    pub error: Option<Value>,
    /// Code of the close frame.
    pub code: Option<u16>,
    /// Reason of the close frame.
    pub reason: String,
}

impl Refusal {
    fn unreachable(error: std::io::Error) -> Self {
        Self { status: None, error: None, code: None, reason: error.to_string() }
    }
}

/// One WebSocket connection.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    /// The handshake's answer; null before it.
    pub hello: Value,
    /// The frame of `connect.challenge`.
    pub challenge: Value,
    /// The nonce in it.
    pub nonce: String,
    read: VecDeque<Value>,
    closed: Option<(u16, String)>,
    calls: u64,
}

impl Client {
    /// Opens a socket and reads the challenge; says nothing.
    ///
    /// # Errors
    ///
    /// When the upgrade is refused.
    pub async fn open(url: &str, headers: &[(String, String)]) -> Result<Self, Refusal> {
        let (request, stream) = Self::reach(url, headers).await?;
        Self::upgrade(request, Box::new(stream)).await
    }

    /// The same over TLS, to a gateway whose certificate is pinned.
    ///
    /// # Errors
    ///
    /// When the handshake fails or the upgrade is refused.
    pub async fn open_tls(
        url: &str,
        headers: &[(String, String)],
        pins: &Pins,
    ) -> Result<Self, Refusal> {
        let (request, stream) = Self::reach(url, headers).await?;
        Self::upgrade(request, over_tls(stream, pins).await?).await
    }

    /// The same over a connection that was made elsewhere, with TLS if there is
    /// a certificate to expect.
    ///
    /// # Errors
    ///
    /// When the upgrade is refused.
    pub async fn open_over(
        stream: TcpStream,
        host: &str,
        headers: &[(String, String)],
        pins: Option<&Pins>,
    ) -> Result<Self, Refusal> {
        let stream = match pins {
            Some(pins) => over_tls(stream, pins).await?,
            None => Box::new(stream),
        };
        Self::upgrade(request(&format!("ws://{host}/"), headers), stream).await
    }

    async fn reach(
        url: &str,
        headers: &[(String, String)],
    ) -> Result<(Upgrade, TcpStream), Refusal> {
        let request = request(url, headers);
        let uri = request.uri();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let address = (host, uri.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(address).await.map_err(Refusal::unreachable)?;
        let _ = stream.set_nodelay(true);
        Ok((request, stream))
    }

    /// Opens a socket over the daemon's control socket.
    ///
    /// # Errors
    ///
    /// When nobody listens there or the upgrade is refused.
    pub async fn open_control(path: &Path) -> Result<Self, Refusal> {
        Self::open_control_with(path, &[]).await
    }

    /// The same with further headers.
    ///
    /// # Errors
    ///
    /// When nobody listens there or the upgrade is refused.
    pub async fn open_control_with(
        path: &Path,
        headers: &[(String, String)],
    ) -> Result<Self, Refusal> {
        let stream = UnixStream::connect(path).await.map_err(Refusal::unreachable)?;
        Self::upgrade(request("ws://localhost/", headers), Box::new(stream)).await
    }

    async fn upgrade(request: Upgrade, stream: Box<dyn Stream>) -> Result<Self, Refusal> {
        let opening = client_async(request, stream);
        let opened =
            tokio::time::timeout(PATIENCE, opening).await.expect("the upgrade is answered");
        let (socket, _) = opened.map_err(|error| Refusal {
            status: match &error {
                tungstenite::Error::Http(response) => Some(response.status().as_u16()),
                _ => None,
            },
            error: None,
            code: None,
            reason: error.to_string(),
        })?;
        let mut client = Self {
            socket,
            hello: Value::Null,
            challenge: Value::Null,
            nonce: String::new(),
            read: VecDeque::new(),
            closed: None,
            calls: 0,
        };
        if let Some(challenge) =
            client.read_where(|frame| frame["event"] == "connect.challenge").await
        {
            client.nonce = challenge["payload"]["nonce"].as_str().unwrap_or_default().to_owned();
            client.challenge = challenge;
        }
        Ok(client)
    }

    /// Opens a socket and performs the handshake.
    ///
    /// # Errors
    ///
    /// When the daemon does not let it in.
    pub async fn connect(url: &str, connect: Connect) -> Result<Self, Refusal> {
        Self::open(url, &connect.headers).await?.introduce(connect).await
    }

    /// Performs the handshake.
    ///
    /// # Errors
    ///
    /// When the daemon does not let it in.
    pub async fn introduce(self, connect: Connect) -> Result<Self, Refusal> {
        let mut client = self;
        let params = connect.signed(&client.nonce);
        match client.call("connect", params).await {
            Ok(hello) => {
                client.hello = hello;
                Ok(client)
            }
            Err(error) => {
                let (code, reason) = client.closed().await;
                Err(Refusal {
                    status: None,
                    error: (!error.is_null()).then_some(error),
                    code: Some(code),
                    reason,
                })
            }
        }
    }

    /// Calls a method and returns the first answer's payload, or its error.
    /// The error is null when the daemon closed the connection instead.
    ///
    /// # Errors
    ///
    /// When the answer says so.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.send(method, params).await;
        self.answer(&id).await
    }

    /// Calls a method by its declaration.
    ///
    /// # Errors
    ///
    /// When the daemon refuses.
    pub async fn request<R: Request>(&mut self, request: R) -> Result<R::Response, ErrorShape> {
        let params = serde_json::to_value(request).expect("wire types serialize");
        match self.call(R::METHOD, params).await {
            Ok(payload) => Ok(serde_json::from_value(payload).expect("the answer has its type")),
            Err(error) => Err(serde_json::from_value(error).expect("an error has its shape")),
        }
    }

    /// Sends a request and returns its id.
    pub async fn send(&mut self, method: &str, params: Value) -> String {
        self.calls += 1;
        let id = self.calls.to_string();
        let frame = json!({ "type": "req", "id": id, "method": method, "params": params });
        self.send_text(&frame.to_string()).await;
        id
    }

    /// Waits for the next answer to a request.
    ///
    /// # Errors
    ///
    /// When the answer is an error; null when there will be none.
    pub async fn answer(&mut self, id: &str) -> Result<Value, Value> {
        let frame = self.read_where(|frame| frame["type"] == "res" && frame["id"] == id).await;
        match frame {
            Some(frame) if frame["ok"] == true => Ok(frame["payload"].clone()),
            Some(frame) => Err(frame["error"].clone()),
            None => Err(Value::Null),
        }
    }

    /// Sends a text frame as it is. A connection that is already closed is
    /// found out by whoever reads next.
    pub async fn send_text(&mut self, text: &str) {
        let _ = self.socket.send(Message::text(text)).await;
    }

    /// Sends a binary frame as it is.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        let _ = self.socket.send(Message::binary(bytes.to_vec())).await;
    }

    /// Waits for an event and returns its whole frame.
    pub async fn next_event(&mut self, name: &str) -> Value {
        self.event_where(name, |_| true).await
    }

    /// Waits for an event whose payload fits and returns its whole frame.
    pub async fn event_where(&mut self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.read_where(|frame| frame["event"] == name && fits(&frame["payload"]))
            .await
            .unwrap_or_else(|| panic!("closed ({:?}) before the event {name}", self.closed))
    }

    /// Waits for a frame that fits; `None` when the connection closes first.
    pub async fn read_where(&mut self, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        if let Some(index) = self.read.iter().position(&fits) {
            return self.read.remove(index);
        }
        loop {
            let frame = self.read_frame().await?;
            if fits(&frame) {
                return Some(frame);
            }
            self.read.push_back(frame);
        }
    }

    /// Keeps a frame for whoever asks for it next.
    pub fn put_back(&mut self, frame: Value) {
        self.read.push_front(frame);
    }

    /// Returns what was read and not asked for.
    pub fn take_read(&mut self) -> Vec<Value> {
        self.read.drain(..).collect()
    }

    /// Waits until the daemon has closed the connection; returns code and
    /// reason. 1006 stands for a connection that broke without a close frame.
    pub async fn closed(&mut self) -> (u16, String) {
        while let Some(frame) = self.read_frame().await {
            self.read.push_back(frame);
        }
        self.closed.clone().expect("reading ended because the connection closed")
    }

    /// Says goodbye and waits for the daemon's.
    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
        self.closed().await;
    }

    /// Reads the next JSON frame; `None` when the connection is closed.
    pub async fn read_frame(&mut self) -> Option<Value> {
        if self.closed.is_some() {
            return None;
        }
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match next.expect("the daemon says something or closes") {
                Some(Ok(Message::Text(text))) => {
                    return Some(serde_json::from_str(&text).expect("every frame is JSON"));
                }
                Some(Ok(Message::Close(frame))) => {
                    let closed = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                    self.closed = Some(closed.unwrap_or((1005, String::new())));
                }
                Some(Ok(Message::Binary(_))) => panic!("the daemon sent a binary frame"),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.closed.get_or_insert((1006, String::new()));
                    return None;
                }
            }
        }
    }
}
