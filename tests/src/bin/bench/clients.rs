//! Cheap clients: thousands of them must cost less than the server.

use futures_util::{SinkExt as _, StreamExt as _, stream};
use moltbot_tests::Connect;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig},
};

/// Connections opened at the same time.
const AT_ONCE: usize = 32;

/// Small buffers, as the daemon has them.
pub(crate) fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4 * 1024).write_buffer_size(8 * 1024)
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: WebSocketStream<TcpStream>,
    /// What to say to make the other side tell everybody.
    pub(crate) to_all: String,
    /// What the broadcast contains.
    pub(crate) mark: &'static str,
}

impl Peer {
    /// Opens a socket to the echo server.
    pub(crate) async fn open(url: &str) -> Self {
        let address = url.trim_start_matches("ws://");
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let opened = client_async_with_config(url, stream, Some(socket_config())).await;
        // As long as the daemon's event of the same kind.
        let payload = "x".repeat(80);
        let to_all = format!("{}\"{payload}\"}}", crate::echo::TO_ALL);
        Self { socket: opened.unwrap().0, to_all, mark: crate::echo::TO_ALL }
    }

    /// Opens a socket to a gateway and logs in.
    pub(crate) async fn connect(url: &str, connect: &Connect) -> Self {
        let mut peer = Self::open(url).await;
        peer.to_all = request("talk.mode", &json!({ "enabled": true, "phase": "listening" }));
        peer.mark = "\"event\":\"talk.mode\"";
        let challenge: Value = serde_json::from_str(&peer.read().await).unwrap();
        let nonce = challenge["payload"]["nonce"].as_str().unwrap();
        let params = connect.signed(nonce);
        peer.send(&request("connect", &params)).await;
        let hello = peer.read_until(|text| text.contains("\"type\":\"res\"")).await;
        assert!(hello.contains("\"ok\":true"), "{hello}");
        peer
    }

    /// Calls a method and waits for the answer.
    pub(crate) async fn call(&mut self, method: &str) {
        self.send(&request(method, &json!({}))).await;
        self.read_until(|text| text.contains("\"id\":\"1\"")).await;
    }

    /// Sends a text.
    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Reads texts until one fits.
    pub(crate) async fn read_until(&mut self, fits: impl Fn(&str) -> bool) -> Utf8Bytes {
        loop {
            let text = self.read().await;
            if fits(&text) {
                return text;
            }
        }
    }

    /// Reads and forgets, until stopped.
    pub(crate) async fn listen(mut self) {
        loop {
            self.read().await;
        }
    }

    async fn read(&mut self) -> Utf8Bytes {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return text,
                Some(Ok(Message::Close(frame))) => panic!("closed: {frame:?}"),
                Some(Ok(_)) => {}
                other => panic!("ended: {other:?}"),
            }
        }
    }

    /// Reads to the end; returns whether it was announced and said properly.
    pub(crate) async fn goodbye(mut self) -> bool {
        let mut announced = false;
        while let Some(Ok(message)) = self.socket.next().await {
            match message {
                Message::Text(text) => announced |= text.contains("\"event\":\"shutdown\""),
                Message::Close(Some(frame)) => return announced && u16::from(frame.code) == 1012,
                _ => {}
            }
        }
        false
    }
}

/// Returns the text of a request with the id 1.
pub(crate) fn request(method: &str, params: &Value) -> String {
    json!({ "type": "req", "id": "1", "method": method, "params": params }).to_string()
}

/// Opens many connections.
pub(crate) async fn crowd<F: Future<Output = Peer>>(
    size: usize,
    open: impl Fn() -> F,
) -> Vec<Peer> {
    stream::iter(0..size).map(|_| open()).buffer_unordered(AT_ONCE).collect().await
}
