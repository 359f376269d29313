//! A socket after its upgrade: messages in, shared frames out.
//!
//! Frames are read by [`Decoder`], which says what is wrong with one. Frames
//! are written from the bytes that all clients share: a buffer for each client
//! would keep the size of the largest batch it ever held. Answers to pings are
//! caught while reading and written in between.

use std::{
    collections::VecDeque,
    future::{pending, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::tungstenite::{
    Utf8Bytes,
    protocol::frame::{
        FrameHeader,
        coding::{Control as ControlCode, Data, OpCode},
    },
};

use super::{
    frames::{Decoder, Incoming, LONGEST_HEADER, Message, Violation},
    incoming::{Hold, IncomingBudget},
    liveness::Activity,
};
use crate::bus::Close;

/// Largest message before the login.
const LARGEST_BEFORE_LOGIN: usize = 64 * 1024;
/// Most bytes an unauthenticated peer may send after the upgrade: one such
/// message with its header.
const BEFORE_LOGIN: usize = LARGEST_BEFORE_LOGIN + LONGEST_HEADER;
/// What every connection reads into for as long as it lasts.
const READ_BUFFER: usize = 4 * 1024;
/// What it reads into while a large message arrives.
const LARGE_READ_BUFFER: usize = 64 * 1024;
/// How long a message that was begun may stand still.
const STANDSTILL: Duration = Duration::from_secs(30);
/// Bytes a second at which a message has to arrive on average, after the first
/// [`STANDSTILL`]: less than any mobile network, and enough that nobody holds
/// memory with a byte now and then.
const SLOWEST: u32 = 4 * 1024;
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
pub(super) fn wire<S: Socket>(
    socket: S,
    read: Vec<u8>,
    budget: &Arc<IncomingBudget>,
) -> (Reader<S>, Writer<S>) {
    let (input, output) = tokio::io::split(socket);
    let control = Arc::new(Control::default());
    let left = Some(BEFORE_LOGIN.saturating_sub(read.len()));
    let reader = Reader {
        input,
        end: read.len(),
        buffer: read,
        start: 0,
        left,
        decoder: Decoder::new(LARGEST_BEFORE_LOGIN),
        begun: None,
        heard: Instant::now(),
        budget: Arc::clone(budget),
        control: Arc::clone(&control),
    };
    (reader, Writer { output, control, pieces: VecDeque::new() })
}

/// What a client said.
#[derive(Debug)]
pub(super) enum Said {
    /// A message.
    Message(Message),
    /// Goodbye, with its code if it had one.
    Goodbye(Option<u16>),
}

/// The incoming direction.
pub(super) struct Reader<S> {
    input: ReadHalf<S>,
    /// What was read and not decoded yet is in `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes left to read; `None` once the peer has authenticated.
    left: Option<usize>,
    decoder: Decoder,
    /// When the unfinished message was begun.
    begun: Option<Instant>,
    heard: Instant,
    budget: Arc<IncomingBudget>,
    control: Arc<Control>,
}

impl<S: Socket> Reader<S> {
    /// Returns what the peer says next; `None` once it is gone. A call that is
    /// dropped loses nothing.
    pub(super) async fn next(&mut self) -> Option<Result<Said, Violation>> {
        loop {
            match self.decode() {
                Ok(Some(said)) => return Some(Ok(said)),
                Ok(None) => {}
                Err(violation) => return Some(Err(self.failed(violation))),
            }
            self.control.activity.listening(true);
            let filled = self.fill().await;
            match filled {
                Ok(0) | Err(Interrupted::Gone) => return None,
                Ok(_) => self.control.activity.heard(),
                Err(Interrupted::Violation(violation)) => {
                    return Some(Err(self.failed(violation)));
                }
            }
        }
    }

    /// Lifts the bound on what the peer may send altogether; each message may
    /// have `most` bytes.
    pub(super) fn trust(&mut self, most: usize) {
        self.left = None;
        self.decoder.set_most(most);
    }

    /// Notes that the peer is not listened to for a while.
    pub(super) fn pause(&self) {
        self.control.activity.listening(false);
    }

    /// Reads on until the peer has said goodbye or is gone, and keeps nothing.
    /// Closing a socket with unread input would destroy what is on its way out.
    pub(super) async fn drain(&mut self) {
        self.left = None;
        self.decoder.discard();
        loop {
            match self.next().await {
                Some(Ok(Said::Message(_))) => {}
                Some(Ok(Said::Goodbye(_))) | None => return,
                Some(Err(_)) => break,
            }
        }
        // After a violation nobody knows where a frame begins.
        self.buffer.resize(READ_BUFFER, 0);
        while self.input.read(&mut self.buffer).await.is_ok_and(|read| read > 0) {}
    }

    /// Gives back the memory of what will never be complete.
    fn failed(&mut self, violation: Violation) -> Violation {
        self.decoder.forget();
        self.begun = None;
        (self.start, self.end) = (0, 0);
        violation
    }

    fn decode(&mut self) -> Result<Option<Said>, Violation> {
        loop {
            let input = &self.buffer[self.start..self.end];
            let budget = &self.budget;
            let (used, incoming) = self.decoder.advance(input, || IncomingBudget::begin(budget))?;
            self.start += used;
            let said = match incoming {
                Some(Incoming::Message(message)) => Some(Said::Message(message)),
                Some(Incoming::Close(code)) => Some(Said::Goodbye(code)),
                Some(Incoming::Ping(payload)) => {
                    if !self.control.queue(ControlCode::Pong, &payload) {
                        return Err(Violation::UnreadPongs);
                    }
                    None
                }
                Some(Incoming::Pong) | None => None,
            };
            if said.is_some() {
                self.begun = None;
                return Ok(said);
            }
            if used == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads more, for as long as an unfinished message may take.
    async fn fill(&mut self) -> Result<usize, Interrupted> {
        // What is left of the input is the beginning of a header.
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let received = self.decoder.unfinished();
        let large = received.is_some_and(|received| received >= READ_BUFFER);
        let size = if large { LARGE_READ_BUFFER } else { READ_BUFFER };
        if self.buffer.len() != size {
            self.buffer.resize(size, 0);
            self.buffer.shrink_to(size);
        }

        let deadline = received.or((self.end > 0).then_some(0)).map(|received| {
            let begun = *self.begun.get_or_insert_with(Instant::now);
            let rest = Duration::from_secs(received as u64) / SLOWEST;
            (self.heard + STANDSTILL).min(begun + STANDSTILL + rest)
        });
        let read = tokio::select! {
            // First: what arrived while the daemon itself stood still counts.
            biased;
            read = self.input.read(&mut self.buffer[self.end..]) => {
                read.map_err(|_| Interrupted::Gone)?
            }
            () = dropped(self.decoder.hold()) => {
                return Err(Interrupted::Violation(Violation::NoMemory));
            }
            () = passed(deadline) => return Err(Interrupted::Violation(Violation::Stalled)),
        };

        self.heard = Instant::now();
        self.end += read;
        if let Some(left) = &mut self.left {
            let rest = left.checked_sub(read);
            *left = rest.ok_or(Interrupted::Violation(Violation::TooBig))?;
        }
        Ok(read)
    }
}

/// Why nothing was read.
enum Interrupted {
    /// The peer is gone.
    Gone,
    Violation(Violation),
}

async fn dropped(hold: Option<&Hold>) {
    match hold {
        Some(hold) => hold.dropped().await,
        None => pending().await,
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
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

    /// Waits until a ping or the answer to one is to be written.
    pub(super) async fn has_control(&self) {
        self.control.filled.notified().await;
    }

    /// Writes pings and answers to pings.
    pub(super) async fn send_control(&mut self) -> io::Result<()> {
        self.queue_control();
        self.flush().await
    }

    /// Writes what was begun, then a close frame.
    pub(super) async fn close(&mut self, close: &Close) -> io::Result<()> {
        let payload = [&close.code.to_be_bytes(), close.reason.as_bytes()].concat();
        let mut frame = Vec::new();
        control_frame(ControlCode::Close, &payload, &mut frame);
        self.pieces.push_back(frame.into());
        self.flush().await
    }

    /// Answers a goodbye with its own code, RFC 6455 section 5.5.1.
    pub(super) async fn answer_close(&mut self, code: Option<u16>) -> io::Result<()> {
        let payload = code.map(u16::to_be_bytes);
        let mut frame = Vec::new();
        control_frame(ControlCode::Close, payload.as_ref().map_or(&[], |code| code), &mut frame);
        self.pieces.push_back(frame.into());
        self.flush().await
    }

    /// Ends the outgoing direction: the peer sees the end of the stream.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.output.shutdown().await
    }

    /// Returns what pings the peer and tells whether it is there.
    pub(super) fn heartbeat(&self) -> Heartbeat {
        Heartbeat(Arc::clone(&self.control))
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
        let control = Arc::clone(&self.control);
        let mut waited = false;
        while !self.pieces.is_empty() {
            control.activity.wrote();
            let mut slices = [IoSlice::new(&[]); PIECES];
            let count = self.pieces.len().min(PIECES);
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            let output = &mut self.output;
            let written = poll_fn(|cx| {
                let polled = Pin::new(&mut *output).poll_write_vectored(cx, &slices[..count]);
                waited |= polled.is_pending();
                polled
            })
            .await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        // A burst would leave its room behind for as long as the client stays.
        self.pieces.shrink_to(4);
        self.output.flush().await?;
        control.activity.written(waited);
        Ok(())
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

fn control_frame(code: ControlCode, payload: &[u8], output: &mut Vec<u8>) {
    header(OpCode::Control(code), payload.len(), output);
    output.extend_from_slice(payload);
}

/// Pings and answers to pings that wait to be written, and what is known about
/// the peer.
#[derive(Debug, Default)]
struct Control {
    bytes: Mutex<Vec<u8>>,
    filled: Notify,
    activity: Activity,
}

impl Control {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether there was room.
    fn queue(&self, code: ControlCode, payload: &[u8]) -> bool {
        let mut bytes = self.bytes();
        if bytes.len() + payload.len() > MOST_CONTROL {
            return false;
        }
        control_frame(code, payload, &mut bytes);
        drop(bytes);
        self.filled.notify_one();
        true
    }
}

/// Watches whether the peer is still there.
#[derive(Debug)]
pub(super) struct Heartbeat(Arc<Control>);

impl Heartbeat {
    /// Waits until the peer has to be given up.
    pub(super) async fn lost(&self) -> super::liveness::Silence {
        let ping = || {
            // Without room, answers to its own pings are unread, which ends it too.
            self.0.queue(ControlCode::Ping, &[]);
        };
        self.0.activity.watch(ping).await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::DuplexStream;
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::{Message, protocol::Role},
    };

    use super::*;

    async fn pair(
        room: usize,
    ) -> (Reader<DuplexStream>, Writer<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (ours, theirs) = tokio::io::duplex(room);
        let (reader, writer) = wire(ours, Vec::new(), &Arc::new(IncomingBudget::new(1 << 20)));
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
        assert!(matches!(reader.next().await, Some(Ok(Said::Message(_)))));
        writer.has_control().await;
        writer.send_control().await.unwrap();
        assert!(matches!(client.next().await, Some(Ok(Message::Pong(data))) if data == "abc"));
    }
}
