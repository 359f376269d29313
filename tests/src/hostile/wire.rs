//! A WebSocket client that writes its frames by hand, because an attacker's are not those of a library.

use std::{io, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use crate::Connect;

/// How long one answer may take before it counts as missing.
///
/// Far longer than any answer needs: the wait itself is a figure of the report, and a
/// deadline that a busy machine can reach would turn that figure into a verdict.
pub(super) const DEADLINE: Duration = Duration::from_secs(240);

/// The bits of a frame's first byte.
pub mod bits {
    /// The frame ends its message.
    pub const FIN: u8 = 0x80;
    /// Opcode of text.
    pub const TEXT: u8 = 0x1;
    /// Opcode of a close frame.
    pub const CLOSE: u8 = 0x8;
    /// Opcode of a ping.
    pub const PING: u8 = 0x9;
}

/// What a connection may run over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection on which anything can be written.
pub struct RawSocket {
    stream: Box<dyn Stream>,
    calls: u64,
}

/// How the gateway dealt with what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It answered a request.
    Answered,
    /// It closed the connection.
    Closed,
    /// Neither happened before the deadline.
    Silence,
}

impl RawSocket {
    /// Opens a TCP connection and writes nothing.
    ///
    /// # Errors
    ///
    /// When the connection is refused.
    pub async fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let _ = stream.set_nodelay(true);
        Ok(Self { stream: Box::new(stream), calls: 0 })
    }

    /// Opens the control socket and writes nothing.
    ///
    /// # Errors
    ///
    /// When the connection is refused.
    pub async fn open_control(path: &Path) -> io::Result<Self> {
        Ok(Self { stream: Box::new(UnixStream::connect(path).await?), calls: 0 })
    }

    /// Performs the upgrade to a WebSocket.
    ///
    /// # Errors
    ///
    /// When the gateway refuses it or hangs up.
    pub async fn upgrade(&mut self) -> io::Result<()> {
        self.write(UPGRADE.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await?);
        }
        if head.starts_with(b"HTTP/1.1 101") { Ok(()) } else { Err(refused(&head)) }
    }

    /// Reads the challenge and returns the parameters that answer it.
    ///
    /// # Errors
    ///
    /// When the gateway hangs up.
    pub async fn answer_challenge(&mut self, connect: &Connect) -> io::Result<Value> {
        let challenge = loop {
            let frame = self.read_json().await?;
            if frame["event"] == "connect.challenge" {
                break frame;
            }
        };
        let nonce = challenge["payload"]["nonce"].as_str().unwrap_or_default();
        Ok(connect.signed(nonce))
    }

    /// Logs in after [`Self::upgrade`].
    ///
    /// # Errors
    ///
    /// When the gateway does not let it in.
    pub async fn log_in(&mut self, connect: &Connect) -> io::Result<()> {
        let params = self.answer_challenge(connect).await?;
        let answer = self.call("connect", &params).await?;
        if answer["ok"] == true { Ok(()) } else { Err(refused(answer.to_string().as_bytes())) }
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    ///
    /// When the gateway hangs up first.
    pub async fn call(&mut self, method: &str, params: &Value) -> io::Result<Value> {
        let id = self.send_call(method, params).await?;
        loop {
            let frame = self.read_json().await?;
            if frame["type"] == "res" && frame["id"] == id {
                return Ok(frame);
            }
        }
    }

    /// Sends a request without waiting for its answer; returns its id.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn send_call(&mut self, method: &str, params: &Value) -> io::Result<String> {
        self.calls += 1;
        let id = self.calls.to_string();
        let request = json!({ "type": "req", "id": id, "method": method, "params": params });
        self.write(&text_frame(&request.to_string())).await?;
        Ok(id)
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Ends the own side and reads until the gateway has ended its side.
    pub async fn finish(mut self) -> Reaction {
        // A connection that the gateway has closed already cannot be shut down once more.
        let _ = self.stream.shutdown().await;
        let mut buffer = vec![0; 64 * 1024];
        let draining = async { while matches!(self.stream.read(&mut buffer).await, Ok(1..)) {} };
        match tokio::time::timeout(DEADLINE, draining).await {
            Ok(()) => Reaction::Closed,
            Err(_) => Reaction::Silence,
        }
    }

    /// Reads until the gateway has answered a request or hung up.
    pub async fn wait_for_reaction(&mut self) -> Reaction {
        let reaction = async {
            loop {
                match self.read_json().await {
                    Ok(frame) if frame["type"] == "res" => return Reaction::Answered,
                    Ok(_) => {}
                    Err(_) => return Reaction::Closed,
                }
            }
        };
        tokio::time::timeout(DEADLINE, reaction).await.unwrap_or(Reaction::Silence)
    }

    /// Reads at least so many bytes, whatever they are.
    ///
    /// # Errors
    ///
    /// When the gateway hangs up before.
    pub async fn discard(&mut self, bytes: usize) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        let mut left = bytes;
        while left > 0 {
            match self.stream.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    }

    /// Reads the next text frame; answers pings in between.
    async fn read_json(&mut self) -> io::Result<Value> {
        loop {
            let first = self.stream.read_u8().await?;
            let length = match self.stream.read_u8().await? {
                126 => u64::from(self.stream.read_u16().await?),
                127 => self.stream.read_u64().await?,
                length => u64::from(length),
            };
            let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            self.stream.read_exact(&mut payload).await?;
            match first & 0x0f {
                bits::TEXT => return serde_json::from_slice(&payload).map_err(io::Error::other),
                bits::CLOSE => return Err(io::ErrorKind::ConnectionAborted.into()),
                bits::PING => self.write(&frame(bits::FIN | 0xa, &payload)).await?,
                _ => {}
            }
        }
    }
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Returns a masked frame with the shortest length that fits.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = frame_head(first, payload.len() as u64);
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Returns the head of a masked frame up to its mask.
#[must_use]
pub fn frame_head(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    if length < 126 {
        bytes.push(0x80 | u8::try_from(length).unwrap_or_default());
    } else if let Ok(length) = u16::try_from(length) {
        bytes.push(0x80 | 126);
        bytes.extend(length.to_be_bytes());
    } else {
        bytes.push(0x80 | 127);
        bytes.extend(length.to_be_bytes());
    }
    bytes
}

/// Returns a whole message of text in one frame.
#[must_use]
pub fn text_frame(text: &str) -> Vec<u8> {
    frame(bits::FIN | bits::TEXT, text.as_bytes())
}

fn refused(answer: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(answer);
    let text: String = text.chars().take(300).collect();
    io::Error::new(io::ErrorKind::ConnectionRefused, text)
}
