//! Follows the frame headers in a peer's byte stream, so that a message is
//! refused when its header says that it is too long: not after its bytes were
//! kept.
//!
//! The WebSocket library has a limit too, but fixes it when the connection is
//! made. What a client may send is known only once it has logged in.

/// A peer's message is longer than it may be.
#[derive(Debug, thiserror::Error)]
#[error("the message is longer than this client may send")]
pub(super) struct TooLong;

/// Where in the stream of frames the peer is.
#[derive(Debug)]
pub(super) struct Framing {
    limit: u64,
    /// Announced bytes of the message under way, over all its frames so far.
    message: u64,
    /// What there is of the next header.
    header: Vec<u8>,
    /// Bytes left of the frame whose header was read last.
    left: u64,
    /// Whether that frame is the last of its message.
    is_last: bool,
}

/// A header's content, as far as it matters here.
struct Header {
    length: u64,
    is_last: bool,
    is_control: bool,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self { limit: u64::MAX, message: 0, header: Vec::new(), left: 0, is_last: false }
    }

    /// Sets the longest message, the one under way included.
    pub(super) fn limit(&mut self, bytes: usize) {
        self.limit = bytes as u64;
    }

    /// Takes in bytes that the peer sent.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        loop {
            if self.message > self.limit {
                return Err(TooLong);
            }
            if self.left > 0 {
                let part = self.left.min(bytes.len() as u64);
                self.left -= part;
                bytes = bytes.get(usize::try_from(part).unwrap_or(usize::MAX)..).unwrap_or(&[]);
            }
            if self.left == 0 && self.is_last {
                (self.message, self.is_last) = (0, false);
            }
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            self.header.push(byte);
            if let Some(header) = parse(&self.header) {
                self.header.clear();
                self.left = header.length;
                // A control frame may stand between the frames of a message.
                if !header.is_control {
                    self.message = self.message.saturating_add(header.length);
                    self.is_last = header.is_last;
                }
            }
        }
    }
}

/// Reads a header (RFC 6455, 5.2); `None` while it is not complete.
fn parse(bytes: &[u8]) -> Option<Header> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if bytes.len() < 2 + extended + mask {
        return None;
    }
    let length = match extended {
        0 => u64::from(second & 0x7f),
        _ => bytes[2..2 + extended].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
    };
    Some(Header { length, is_last: first & 0x80 != 0, is_control: first & 0x08 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(0x80 | length as u8),
            126..65536 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes.resize(bytes.len() + length, 0xff);
        bytes
    }

    fn limited(limit: usize) -> Framing {
        let mut framing = Framing::new();
        framing.limit(limit);
        framing
    }

    #[test]
    fn each_message_may_be_as_long_as_the_limit_whatever_pieces_it_comes_in() {
        let stream: Vec<u8> = [
            frame(0x81, 0),
            frame(0x81, 70_000),
            frame(0x01, 40_000),
            frame(0x89, 100),
            frame(0x80, 30_000),
            frame(0x82, 200),
        ]
        .concat();
        for pieces in [1, 2, 3, 4096, stream.len()] {
            let mut framing = limited(70_000);
            for piece in stream.chunks(pieces) {
                framing.follow(piece).unwrap();
            }
        }
    }

    #[test]
    fn a_message_is_refused_at_the_header_that_makes_it_too_long() {
        let header = 14;
        let long = frame(0x81, 70_001);
        limited(70_000).follow(&long[..header - 1]).unwrap();
        limited(70_000).follow(&long[..header]).unwrap_err();

        let mut framing = limited(70_000);
        framing.follow(&frame(0x01, 40_000)).unwrap();
        framing.follow(&frame(0x00, 30_001)).unwrap_err();
        let endless = [0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        limited(70_000).follow(&endless).unwrap_err();
    }

    #[test]
    fn the_message_under_way_counts_when_the_limit_is_set() {
        let mut framing = Framing::new();
        framing.follow(&frame(0x81, 70_001)[..100]).unwrap();
        framing.limit(70_000);
        framing.follow(&[]).unwrap_err();
    }
}
