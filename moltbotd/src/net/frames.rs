//! Reads WebSocket messages (RFC 6455) out of a peer's bytes.
//!
//! A codec of our own rather than the library's, for three reasons. What is
//! wrong with a frame is seen in its header, before its payload is waited for.
//! The memory that an unfinished message takes is known and bounded, and it is
//! given back: the library reserves what a header announces and keeps the
//! largest buffer for as long as the client stays. And every violation has its
//! close code, a length that is not in its shortest form among them.

use super::{incoming::Hold, metrics::Reason};
use crate::bus::Close;

/// Payload of a control frame, RFC 6455 section 5.5.
const MOST_CONTROL_PAYLOAD: u64 = 125;
/// The longest header: two bytes, eight of length, four of the mask.
pub(super) const LONGEST_HEADER: usize = 14;
/// What a message takes before its memory is counted with that of all clients.
const FREE: usize = 64 * 1024;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Why a peer's connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    /// It did not keep to the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// A message larger than it may be.
    #[error("the message is too big")]
    TooBig,
    /// A message that was begun and does not arrive.
    #[error("a message was begun and not completed")]
    Stalled,
    /// All unfinished messages together take too much memory.
    #[error("too many unfinished messages, try again later")]
    NoMemory,
    /// Answers to pings that it does not read.
    #[error("pongs are not read")]
    UnreadPongs,
}

impl Violation {
    /// Returns how the peer is told.
    pub(super) fn close(self) -> Close {
        let code = match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
            Self::Stalled | Self::UnreadPongs => 1008,
            Self::NoMemory => 1013,
        };
        Close { code, reason: self.to_string().into() }
    }

    /// Returns how the end of the connection is counted.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Protocol(_) => Reason::Protocol,
            Self::NotUtf8 => Reason::NotUtf8,
            Self::TooBig => Reason::TooBig,
            Self::Stalled => Reason::StalledMessage,
            Self::NoMemory => Reason::MessageMemory,
            Self::UnreadPongs => Reason::NotReading,
        }
    }
}

/// What a peer sent.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A text, or a binary message: some clients send the same text as one.
    Message(Message),
    /// A ping with what its answer must carry.
    Ping(Vec<u8>),
    /// An answer to a ping.
    Pong,
    /// A goodbye with its code, if it had one.
    Close(Option<u16>),
}

/// A whole message. Its memory counts until it is dropped.
#[derive(Debug)]
pub(super) struct Message {
    payload: Vec<u8>,
    _hold: Option<Hold>,
}

impl Message {
    /// Returns the text; an empty one for a binary message that is none.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug)]
struct Header {
    last: bool,
    opcode: u8,
    mask: [u8; 4],
    length: u64,
    /// Bytes of the header itself.
    size: usize,
}

/// A frame whose payload is still arriving.
#[derive(Debug)]
struct Frame {
    last: bool,
    opcode: u8,
    mask: [u8; 4],
    left: usize,
}

impl Frame {
    fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }
}

/// A message whose frames are still arriving.
#[derive(Debug, Default)]
struct Partial {
    text: bool,
    payload: Vec<u8>,
    /// Bytes of it that are UTF-8 for sure.
    checked: usize,
    hold: Option<Hold>,
}

/// Turns bytes into messages.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Largest message.
    most: usize,
    frame: Option<Frame>,
    partial: Option<Partial>,
    control: Vec<u8>,
    /// Whether payloads are read and forgotten: we have said goodbye.
    discard: bool,
}

impl Decoder {
    pub(super) fn new(most: usize) -> Self {
        Self { most, frame: None, partial: None, control: Vec::new(), discard: false }
    }

    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Reads on for a goodbye only: nothing else is kept.
    pub(super) fn discard(&mut self) {
        self.discard = true;
        self.partial = None;
    }

    /// Gives back the memory of what is unfinished.
    pub(super) fn forget(&mut self) {
        self.frame = None;
        self.partial = None;
    }

    /// Returns how many bytes of an unfinished message have arrived; `None`
    /// between messages.
    pub(super) fn unfinished(&self) -> Option<usize> {
        let partial = self.partial.as_ref().map(|partial| partial.payload.len());
        partial.or(self.frame.as_ref().map(|_| self.control.len()))
    }

    /// Returns what is told when the unfinished message has to go.
    pub(super) fn hold(&self) -> Option<&Hold> {
        self.partial.as_ref()?.hold.as_ref()
    }

    /// Takes a piece of the input: a header, or some of a payload. Returns how
    /// many bytes of it were used, none when a header is incomplete, and what
    /// they completed. `new_hold` begins to count a large message.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        new_hold: impl FnOnce() -> Hold,
    ) -> Result<(usize, Option<Incoming>), Violation> {
        let used = match &self.frame {
            None => {
                let Some(header) = Header::parse(input)? else { return Ok((0, None)) };
                self.begin(header)?;
                header.size
            }
            Some(frame) => {
                let size = input.len().min(frame.left);
                self.take(&input[..size], new_hold)?;
                size
            }
        };

        match &self.frame {
            Some(frame) if frame.left == 0 => Ok((used, self.end()?)),
            _ => Ok((used, None)),
        }
    }

    fn begin(&mut self, header: Header) -> Result<(), Violation> {
        let Header { last, opcode, mask, length, .. } = header;
        let left = usize::try_from(length).map_err(|_| Violation::TooBig)?;
        if opcode < CLOSE && !self.discard {
            match (&self.partial, opcode == CONTINUATION) {
                (None, true) => return Err(Violation::Protocol("nothing to continue")),
                (Some(_), false) => {
                    return Err(Violation::Protocol("a message inside another one"));
                }
                _ => {}
            }
            let partial = self
                .partial
                .get_or_insert_with(|| Partial { text: opcode == TEXT, ..Partial::default() });
            // The peer's word is enough to refuse it, and never enough to reserve memory.
            if left > self.most.saturating_sub(partial.payload.len()) {
                return Err(Violation::TooBig);
            }
        }
        self.frame = Some(Frame { last, opcode, mask, left });
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], new_hold: impl FnOnce() -> Hold) -> Result<(), Violation> {
        let Some(frame) = &mut self.frame else { return Ok(()) };
        let payload = match &mut self.partial {
            _ if frame.is_control() => &mut self.control,
            Some(partial) if !self.discard => {
                partial.make_room(bytes.len(), frame.left, new_hold)?;
                &mut partial.payload
            }
            _ => {
                frame.left -= bytes.len();
                return Ok(());
            }
        };

        let start = payload.len();
        payload.extend_from_slice(bytes);
        for (byte, mask) in payload[start..].iter_mut().zip(frame.mask.iter().cycle()) {
            *byte ^= mask;
        }
        frame.left -= bytes.len();
        frame.mask.rotate_left(bytes.len() % 4);

        match &mut self.partial {
            Some(partial) if partial.text && !frame.is_control() => partial.check(false),
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<Option<Incoming>, Violation> {
        let Some(frame) = self.frame.take() else { return Ok(None) };
        if frame.is_control() {
            let payload = std::mem::take(&mut self.control);
            return match frame.opcode {
                PING => Ok(Some(Incoming::Ping(payload))),
                PONG => Ok(Some(Incoming::Pong)),
                _ => close_code(&payload).map(|code| Some(Incoming::Close(code))),
            };
        }

        let Some(mut partial) = self.partial.take_if(|_| frame.last) else { return Ok(None) };
        if partial.text {
            partial.check(true)?;
        }
        if let Some(hold) = &partial.hold {
            hold.finished();
        }
        let message = Message { payload: partial.payload, _hold: partial.hold };
        Ok(Some(Incoming::Message(message)))
    }
}

impl Header {
    /// Reads a header; `None` while it is incomplete. What its first two bytes
    /// say wrong is not waited for.
    fn parse(input: &[u8]) -> Result<Option<Self>, Violation> {
        let &[first, second, ..] = input else { return Ok(None) };
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        let short = u64::from(second & 0x7f);
        if first & 0x70 != 0 {
            return Err(Violation::Protocol("reserved bits are set"));
        }
        if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(Violation::Protocol("unknown opcode"));
        }
        if second & 0x80 == 0 {
            return Err(Violation::Protocol("frames of a client are masked"));
        }
        if opcode >= CLOSE && (!last || short > MOST_CONTROL_PAYLOAD) {
            return Err(Violation::Protocol("control frames are short and whole"));
        }

        let (length, rest) = match (short, &input[2..]) {
            (126, &[a, b, ..]) => (u64::from(u16::from_be_bytes([a, b])), 4),
            (127, &[a, b, c, d, e, f, g, h, ..]) => {
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 10)
            }
            (126 | 127, _) => return Ok(None),
            (length, _) => (length, 2),
        };
        let shortest = match rest {
            4 => length > MOST_CONTROL_PAYLOAD,
            10 => length > u64::from(u16::MAX),
            _ => true,
        };
        if !shortest || length > i64::MAX as u64 {
            return Err(Violation::Protocol("a length is written in its shortest form"));
        }
        let &[a, b, c, d, ..] = &input[rest..] else { return Ok(None) };
        Ok(Some(Self { last, opcode, mask: [a, b, c, d], length, size: rest + 4 }))
    }
}

impl Partial {
    /// Reserves memory in steps that double, up to what the frame announces;
    /// beyond [`FREE`] it counts with that of all clients.
    fn make_room(
        &mut self,
        more: usize,
        left: usize,
        new_hold: impl FnOnce() -> Hold,
    ) -> Result<(), Violation> {
        let needed = self.payload.len() + more;
        if needed <= self.payload.capacity() {
            return Ok(());
        }
        let capacity = needed.max(self.payload.capacity() * 2).min(self.payload.len() + left);
        if capacity > FREE {
            let hold = self.hold.get_or_insert_with(new_hold);
            if !hold.grow(capacity, needed) {
                return Err(Violation::NoMemory);
            }
        }
        self.payload.reserve_exact(capacity - self.payload.len());
        Ok(())
    }

    /// Checks what has arrived since the last check, up to a character that may
    /// still be completed.
    fn check(&mut self, whole: bool) -> Result<(), Violation> {
        match std::str::from_utf8(&self.payload[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_none() && !whole => {
                self.checked += error.valid_up_to();
            }
            Err(_) => return Err(Violation::NotUtf8),
        }
        Ok(())
    }
}

/// Reads the payload of a goodbye, RFC 6455 sections 5.5.1 and 7.4.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::Protocol("a close code has two bytes")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::Protocol("no such close code"));
            }
            std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok(Some(code))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::net::incoming::IncomingBudget;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 1, 250, 3];
        let mut bytes = vec![first];
        match payload.len() {
            length @ ..=125 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            length => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Feeds bytes in pieces of one size; returns what came of them.
    fn decode(bytes: &[u8], piece: usize) -> Result<Vec<String>, Violation> {
        let budget = Arc::new(IncomingBudget::new(1 << 20));
        let (mut decoder, mut found) = (Decoder::new(1 << 20), Vec::new());
        let (mut start, mut end) = (0, 0);
        while start < bytes.len() {
            let (used, incoming) =
                decoder.advance(&bytes[start..end], || IncomingBudget::begin(&budget))?;
            start += used;
            found.extend(incoming.map(|incoming| match incoming {
                Incoming::Message(message) => format!("text {}", message.text()),
                Incoming::Ping(payload) => format!("ping {}", payload.len()),
                Incoming::Pong => "pong".to_owned(),
                Incoming::Close(code) => format!("close {code:?}"),
            }));
            if used == 0 {
                assert!(end < bytes.len() || start == end, "an incomplete frame");
                end = (end + piece).min(bytes.len());
            }
        }
        Ok(found)
    }

    #[test]
    fn what_arrives_does_not_depend_on_the_pieces_it_arrives_in() {
        let long = "é".repeat(40_000);
        let mut bytes = frame(0x81, b"hello");
        bytes.extend(frame(0x01, &long.as_bytes()[..1]));
        bytes.extend(frame(0x89, b"abc"));
        bytes.extend(frame(0x00, &long.as_bytes()[1..60_000]));
        bytes.extend(frame(0x80, &long.as_bytes()[60_000..]));
        bytes.extend(frame(0x82, &[0xff, 0xfe]));
        bytes.extend(frame(0x81, b""));
        bytes.extend(frame(0x8a, b""));
        bytes.extend(frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e']));
        let long = format!("text {long}");
        let expected =
            ["text hello", "ping 3", &long, "text ", "text ", "pong", "close Some(1000)"];
        for piece in [1, 2, 3, 7, 4096, bytes.len()] {
            assert_eq!(decode(&bytes, piece).unwrap(), expected, "{piece}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_found_before_its_frame_is_complete() {
        let mut bytes = frame(0x01, b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80 and more");
        bytes.truncate(bytes.len() - 5);
        assert_eq!(decode(&bytes, 1).unwrap_err(), Violation::NotUtf8);
    }

    #[test]
    fn memory_is_taken_as_bytes_arrive_and_counted_until_the_message_is_dropped() {
        let budget = Arc::new(IncomingBudget::new(1 << 20));
        let mut decoder = Decoder::new(1 << 20);
        let mut header = vec![0x81, 0x80 | 127];
        header.extend(500_000_u64.to_be_bytes());
        header.extend([0; 4]);
        let mut feed =
            |bytes: &[u8]| decoder.advance(bytes, || IncomingBudget::begin(&budget)).unwrap().1;
        assert!(feed(&header).is_none());
        assert_eq!(budget.held(), 0, "an announcement takes nothing");
        assert!(feed(&[b'x'; 100_000]).is_none());
        assert!((100_000..=200_000).contains(&budget.held()), "{}", budget.held());
        let whole = feed(&[b'x'; 400_000]);
        assert_eq!(budget.held(), 500_000);
        drop(whole);
        assert_eq!(budget.held(), 0);
    }
}
