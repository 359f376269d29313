//! A socket after its upgrade: WebSocket messages in, shared frames out.
//!
//! Reading is the library's. Writing is not: its buffer keeps the size of the
//! largest batch it ever held, for every client and for as long as the client
//! stays, and it copies what all clients share. What the library itself wants
//! to say, answers to pings and to a close, is caught and written in between.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf},
    sync::Notify,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message, Utf8Bytes,
        protocol::{
            Role, WebSocketConfig,
            frame::{
                FrameHeader,
                coding::{Control as ControlCode, Data, OpCode},
            },
        },
    },
};

use super::framing::{Framing, TooLong};
use crate::bus::Close;

/// Most bytes an unauthenticated peer may send after the upgrade: one frame of
/// 64 KiB with its header.
const BEFORE_LOGIN: usize = 64 * 1024 + 14;
/// The library allocates its read buffer for every connection at once.
const READ_BUFFER: usize = 4 * 1024;
/// Answers that a peer may leave unread while it sends pings.
const MOST_CONTROL: usize = 64 * 1024;
/// Frames below it are copied into one write; larger ones are shared.
const SMALL: usize = 1024;
/// Pieces handed to the system at once.
const PIECES: usize = 32;

type Bytes = hyper::body::Bytes;

/// A byte stream a client may come through.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static> Socket for S {}

/// Takes a socket apart into its two directions; `read` was read already.
pub(super) async fn wire<S: Socket>(
    socket: S,
    read: Vec<u8>,
    max_payload: usize,
) -> (Reader<S>, Writer<S>) {
    let (input, output) = tokio::io::split(socket);
    let control = Arc::new(Control::default());
    let left = Some(BEFORE_LOGIN.saturating_sub(read.len()));
    let mut framing = Framing::new();
    // Without a limit it refuses nothing.
    let _ = framing.follow(&read);
    let tap = Tap { input, left, framing, control: Arc::clone(&control) };
    let config = WebSocketConfig::default()
        .max_message_size(Some(max_payload))
        .max_frame_size(Some(max_payload))
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0);
    let messages =
        WebSocketStream::from_partially_read(tap, read, Role::Server, Some(config)).await;
    (Reader { messages }, Writer { output, control, pieces: VecDeque::new() })
}

/// The incoming direction.
pub(super) struct Reader<S> {
    messages: WebSocketStream<Tap<S>>,
}

impl<S: Socket> Reader<S> {
    /// Returns the next message; `None` once the peer is gone.
    pub(super) async fn next(&mut self) -> Option<Result<Message, tungstenite::Error>> {
        self.messages.next().await
    }

    /// Lifts the bound on all that the peer may send; each message may have so
    /// many bytes from now on.
    pub(super) fn trust(&mut self, max_payload: usize) {
        let tap = self.messages.get_mut();
        tap.left = None;
        tap.framing.limit(max_payload);
    }
}

/// Returns whether a peer was cut off because it sent too much.
pub(super) fn is_too_much(error: &tungstenite::Error) -> bool {
    match error {
        tungstenite::Error::Capacity(_) => true,
        tungstenite::Error::Io(error) => {
            error.get_ref().is_some_and(|inner| inner.is::<TooMuch>() || inner.is::<TooLong>())
        }
        _ => false,
    }
}

/// The outgoing direction. A call that is dropped half-way loses nothing: the
/// next one goes on where it stopped.
pub(super) struct Writer<S> {
    output: WriteHalf<S>,
    control: Arc<Control>,
    pieces: VecDeque<Bytes>,
}

impl<S: Socket> Writer<S> {
    /// Writes texts, each as a frame of its own.
    pub(super) async fn send(
        &mut self,
        texts: impl IntoIterator<Item = Utf8Bytes>,
    ) -> io::Result<()> {
        self.queue_control();
        self.queue_texts(texts);
        self.flush().await
    }

    /// Waits until the library has something to say.
    pub(super) async fn has_control(&self) {
        self.control.filled.notified().await;
    }

    /// Writes what the library has to say.
    pub(super) async fn send_control(&mut self) -> io::Result<()> {
        self.queue_control();
        self.flush().await
    }

    /// Writes what was begun, then a close frame.
    pub(super) async fn close(&mut self, close: &Close) -> io::Result<()> {
        let reason = close.reason.as_bytes();
        let mut frame = Vec::with_capacity(4 + reason.len());
        let code = OpCode::Control(ControlCode::Close);
        header(code, 2 + reason.len(), &mut frame);
        frame.extend_from_slice(&close.code.to_be_bytes());
        frame.extend_from_slice(reason);
        self.pieces.push_back(frame.into());
        self.flush().await
    }

    fn queue_control(&mut self) {
        let bytes = std::mem::take(&mut *self.control.bytes());
        if !bytes.is_empty() {
            self.pieces.push_back(bytes.into());
        }
    }

    fn queue_texts(&mut self, texts: impl IntoIterator<Item = Utf8Bytes>) {
        let mut small = Vec::new();
        for text in texts {
            header(OpCode::Data(Data::Text), text.len(), &mut small);
            if text.len() < SMALL {
                small.extend_from_slice(text.as_bytes());
                continue;
            }
            self.pieces.push_back(std::mem::take(&mut small).into());
            self.pieces.push_back(text.into());
        }
        if !small.is_empty() {
            self.pieces.push_back(small.into());
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let count = self.pieces.len().min(PIECES);
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            let written = self.output.write_vectored(&slices[..count]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        // A burst would leave its room behind for as long as the client stays.
        self.pieces.shrink_to(4);
        self.output.flush().await
    }

    fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let Some(piece) = self.pieces.front_mut() else { return };
            if piece.len() > written {
                *piece = piece.slice(written..);
                return;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
    }
}

fn header(opcode: OpCode, length: usize, output: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(length as u64, output).expect("a vector takes every byte");
}

/// What the library wants to write.
#[derive(Debug, Default)]
struct Control {
    bytes: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Control {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket as the library sees it: it reads from the peer, within a bound
/// until the peer has authenticated, and writes into a buffer.
struct Tap<S> {
    input: ReadHalf<S>,
    /// Bytes left to read; `None` once the peer has authenticated.
    left: Option<usize>,
    framing: Framing,
    control: Arc<Control>,
}

/// The peer said too much before it authenticated.
#[derive(Debug, thiserror::Error)]
#[error("too much before login")]
struct TooMuch;

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.input).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if let Err(error) = self.framing.follow(&buffer.filled()[before..]) {
            return Poll::Ready(Err(io::Error::other(error)));
        }
        if let Some(left) = &mut self.left {
            let Some(rest) = left.checked_sub(read) else {
                return Poll::Ready(Err(io::Error::other(TooMuch)));
            };
            *left = rest;
        }
        result
    }
}

impl<S: Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut control = self.control.bytes();
        if control.len() + bytes.len() > MOST_CONTROL {
            return Poll::Ready(Err(io::Error::other("the peer does not read its pongs")));
        }
        control.extend_from_slice(bytes);
        drop(control);
        self.control.filled.notify_one();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::SinkExt as _;
    use tokio::io::DuplexStream;

    use super::*;

    async fn pair(
        room: usize,
    ) -> (Reader<DuplexStream>, Writer<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (ours, theirs) = tokio::io::duplex(room);
        let (reader, writer) = wire(ours, Vec::new(), 1 << 20).await;
        let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        (reader, writer, client)
    }

    async fn texts(client: &mut WebSocketStream<DuplexStream>, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < count {
            if let Some(Ok(Message::Text(text))) = client.next().await {
                found.push(text.to_string());
            }
        }
        found
    }

    #[tokio::test]
    async fn small_and_large_texts_arrive_whole_and_in_order() {
        let (_reader, mut writer, mut client) = pair(700).await;
        let sent: Vec<String> =
            [3, 2000, 125, 126, 70_000, 1].iter().map(|&length| "x".repeat(length)).collect();
        let frames: Vec<Utf8Bytes> = sent.iter().map(|text| text.clone().into()).collect();
        let (written, read) = tokio::join!(writer.send(frames), texts(&mut client, sent.len()));
        written.unwrap();
        assert_eq!(read, sent);
    }

    #[tokio::test]
    async fn a_write_that_was_dropped_half_way_goes_on() {
        let (_reader, mut writer, mut client) = pair(64).await;
        let long: Utf8Bytes = "y".repeat(5000).into();
        tokio::select! {
            biased;
            _ = writer.send([long.clone()]) => panic!("nobody reads"),
            () = tokio::task::yield_now() => {}
        }
        let next: Utf8Bytes = "next".into();
        let (written, read) = tokio::join!(writer.send([next]), texts(&mut client, 2));
        written.unwrap();
        assert_eq!(read, [long.to_string(), "next".to_owned()]);
    }

    #[tokio::test]
    async fn a_ping_is_answered_between_texts() {
        let (mut reader, mut writer, mut client) = pair(1 << 16).await;
        client.send(Message::Ping("abc".into())).await.unwrap();
        client.send(Message::text("hello")).await.unwrap();
        assert!(matches!(reader.next().await, Some(Ok(Message::Ping(_)))));
        assert!(matches!(reader.next().await, Some(Ok(Message::Text(_)))));
        writer.has_control().await;
        writer.send_control().await.unwrap();
        assert!(matches!(client.next().await, Some(Ok(Message::Pong(data))) if data == "abc"));
    }
}
