//! How the daemon answers each way of breaking RFC 6455, and of keeping it: the
//! groups are those of the Autobahn test suite, the client is a raw socket. Every
//! case runs before the login and after it. The close frame has to arrive, not
//! just to be sent: a client that gets only the end of the stream cannot tell
//! its own mistake from a broken network.

use moltbot_tests::{Connect, Daemon, PATIENCE};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
/// The bit of a frame that is its message's last.
const FIN: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What must come of a case.
#[derive(Clone, Debug, PartialEq)]
enum Expected {
    /// The request in it is answered.
    Answered,
    /// A pong with this payload, and the request that follows is answered.
    Pong(Vec<u8>),
    /// A close frame with this code, then the end of the stream.
    Closed(u16),
    /// A close frame without a code, then the end of the stream.
    ClosedWithoutCode,
}

/// Makes what is sent from the request.
type Bytes = dyn Fn(&str) -> Vec<u8>;

/// One case: what is sent may carry a request, which is a `connect` before the
/// login.
struct Case {
    group: &'static str,
    name: String,
    bytes: Box<Bytes>,
    expected: Expected,
}

/// How the length of a frame is written.
#[derive(Clone, Copy)]
enum Length {
    Shortest,
    TwoBytes(u16),
    EightBytes(u64),
}

fn masked(payload: &[u8]) -> impl Iterator<Item = u8> + '_ {
    payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask)
}

fn frame_of(first: u8, length: Length, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match (length, payload.len()) {
        (Length::TwoBytes(length), _) => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
        (Length::EightBytes(length), _) => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
        (Length::Shortest, length @ ..=125) => bytes.push(0x80 | u8::try_from(length).unwrap()),
        (Length::Shortest, length) => match u16::try_from(length) {
            Ok(length) => return frame_of(first, Length::TwoBytes(length), payload),
            Err(_) => return frame_of(first, Length::EightBytes(length as u64), payload),
        },
    }
    bytes.extend(MASK);
    bytes.extend(masked(payload));
    bytes
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_of(first, Length::Shortest, payload)
}

fn text(request: &str) -> Vec<u8> {
    frame(FIN | TEXT, request.as_bytes())
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// Splits a message into fragments, with something between each two of them.
fn fragments(opcode: u8, payload: &[u8], size: usize, between: &[u8]) -> Vec<u8> {
    let pieces: Vec<&[u8]> = payload.chunks(size).collect();
    let mut bytes = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let opcode = if index == 0 { opcode } else { 0 };
        let fin = if index + 1 == pieces.len() { FIN } else { 0 };
        bytes.extend(frame(fin | opcode, piece));
        if fin == 0 {
            bytes.extend(between);
        }
    }
    bytes
}

/// The table.
#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(
        &mut self,
        group: &'static str,
        name: impl Into<String>,
        expected: Expected,
        bytes: impl Fn(&str) -> Vec<u8> + 'static,
    ) {
        self.0.push(Case { group, name: name.into(), bytes: Box::new(bytes), expected });
    }

    fn answered(
        &mut self,
        group: &'static str,
        name: impl Into<String>,
        bytes: impl Fn(&str) -> Vec<u8> + 'static,
    ) {
        self.add(group, name, Expected::Answered, bytes);
    }

    fn closed(
        &mut self,
        group: &'static str,
        name: impl Into<String>,
        code: u16,
        bytes: impl Into<Vec<u8>>,
    ) {
        let bytes = bytes.into();
        self.add(group, name, Expected::Closed(code), move |_| bytes.clone());
    }

    fn all() -> Vec<Case> {
        let mut cases = Self::default();
        cases.framing();
        cases.pings();
        cases.reserved_bits();
        cases.opcodes();
        cases.fragmentation();
        cases.utf8();
        cases.closes();
        cases.limits();
        cases.0
    }

    fn framing(&mut self) {
        const GROUP: &str = "1 framing";
        self.answered(GROUP, "a text", text);
        self.answered(GROUP, "a binary message", |it| frame(FIN | BINARY, it.as_bytes()));
        for size in [2000, 65_535] {
            self.answered(GROUP, format!("a text of {size} bytes"), move |it| {
                text(&format!("{it:<size$}"))
            });
        }
        self.closed(GROUP, "a frame that is not masked", 1002, *b"\x81\x05hello");
        let padded = [b' '; 125];
        let two = frame_of(FIN | TEXT, Length::TwoBytes(125), &padded);
        self.closed(GROUP, "125 written in two bytes", 1002, two);
        let none = frame_of(FIN | TEXT, Length::TwoBytes(0), b"");
        self.closed(GROUP, "0 written in two bytes", 1002, none);
        let eight = frame_of(FIN | TEXT, Length::EightBytes(125), &padded);
        self.closed(GROUP, "125 written in eight bytes", 1002, eight);
        let eight = frame_of(FIN | TEXT, Length::EightBytes(65_535), &[]);
        self.closed(GROUP, "65535 written in eight bytes", 1002, eight);
        let top = frame_of(FIN | TEXT, Length::EightBytes(1 << 63), &[]);
        self.closed(GROUP, "a length with its highest bit set", 1002, top);
    }

    fn pings(&mut self) {
        const GROUP: &str = "2 pings and pongs";
        for payload in [&b""[..], b"Hello, world!", &[0, 255, 254, 253], &[0xfe; 125]] {
            let name = format!("a ping of {} bytes", payload.len());
            let expected = Expected::Pong(payload.into());
            self.add(GROUP, name, expected, move |it| {
                [frame(FIN | PING, payload), text(it)].concat()
            });
        }
        self.add(GROUP, "ten pings at once", Expected::Pong(b"9".into()), |it| {
            let pings = (0..10).flat_map(|it| frame(FIN | PING, it.to_string().as_bytes()));
            pings.chain(text(it)).collect()
        });
        self.closed(GROUP, "a ping of 126 bytes", 1002, frame(FIN | PING, &[0xfe; 126]));
        self.answered(GROUP, "a pong that nobody asked for", |it| {
            [frame(FIN | PONG, b"unsolicited"), text(it)].concat()
        });
    }

    fn reserved_bits(&mut self) {
        const GROUP: &str = "3 reserved bits";
        for bits in 1..=7_u8 {
            for opcode in [TEXT, PING, CLOSE] {
                let name = format!("bits {bits:03b} on opcode {opcode}");
                self.closed(GROUP, name, 1002, frame(FIN | bits << 4 | opcode, b""));
            }
        }
    }

    fn opcodes(&mut self) {
        const GROUP: &str = "4 opcodes";
        for opcode in (3..=7).chain(11..=15) {
            self.closed(GROUP, format!("opcode {opcode}"), 1002, frame(FIN | opcode, b""));
            let with_payload = frame(FIN | opcode, b"payload");
            self.closed(GROUP, format!("opcode {opcode} with payload"), 1002, with_payload);
        }
    }

    fn fragmentation(&mut self) {
        const GROUP: &str = "5 fragmentation";
        for size in [1, 7, 100] {
            self.answered(GROUP, format!("fragments of {size} bytes"), move |it| {
                fragments(TEXT, it.as_bytes(), size, b"")
            });
        }
        self.answered(GROUP, "a fragment without payload", |it| {
            [frame(TEXT, b""), frame(FIN, it.as_bytes())].concat()
        });
        let ping = frame(FIN | PING, b"between");
        let expected = Expected::Pong(b"between".into());
        self.add(GROUP, "pings between fragments", expected, move |it| {
            fragments(TEXT, it.as_bytes(), 20, &ping)
        });
        self.closed(GROUP, "a fragmented ping", 1002, frame(PING, b"fragment"));
        self.closed(GROUP, "a fragmented pong", 1002, frame(PONG, b"fragment"));
        self.closed(GROUP, "a fragmented close", 1002, frame(CLOSE, b""));
        self.closed(GROUP, "nothing to continue", 1002, frame(FIN, b"continued"));
        self.closed(GROUP, "nothing to continue, and not the last", 1002, frame(0, b"continued"));
        let inside = [frame(TEXT, b"one"), frame(FIN | TEXT, b"two")].concat();
        self.closed(GROUP, "a text inside a text", 1002, inside);
        let inside = [frame(BINARY, b"one"), frame(TEXT, b"two")].concat();
        self.closed(GROUP, "a text begun inside a binary message", 1002, inside);
    }

    fn utf8(&mut self) {
        const GROUP: &str = "6 UTF-8";
        self.answered(GROUP, "characters of one to four bytes", |it| {
            text(&it.replace("filler", "κόσμε 𝄞 \u{10ffff} \u{feff}"))
        });
        for size in [1, 2, 3] {
            self.answered(GROUP, format!("characters split every {size} bytes"), move |it| {
                fragments(TEXT, it.replace("filler", "κόσμε 𝄞").as_bytes(), size, b"")
            });
        }
        for (name, bytes) in [
            ("a surrogate", &b"\xed\xa0\x80"[..]),
            ("a pair of surrogates", b"\xed\xa0\x80\xed\xbf\xbf"),
            ("beyond the last character", b"\xf4\x90\x80\x80"),
            ("an overlong slash", b"\xc0\xaf"),
            ("an overlong null of four bytes", b"\xf0\x80\x80\x80"),
            ("a lone continuation byte", b"\x80"),
            ("bytes that no character has", b"\xfe\xff"),
            ("a character cut off", b"\xce\xba\xe1\xbd"),
        ] {
            self.closed(GROUP, name, 1007, frame(FIN | TEXT, bytes));
            let split = [frame(TEXT, &bytes[..1]), frame(FIN, &bytes[1..])].concat();
            self.closed(GROUP, format!("{name}, in two fragments"), 1007, split);
        }
        let unfinished = frame(TEXT, b"\xce\xba\xf4\x90\x80\x80");
        self.closed(GROUP, "before the message is complete", 1007, unfinished);
        let mut unfinished = frame(FIN | TEXT, b"\xce\xba\xf4\x90\x80\x80 and more");
        unfinished.truncate(unfinished.len() - 4);
        self.closed(GROUP, "before the frame is complete", 1007, unfinished);
    }

    fn closes(&mut self) {
        const GROUP: &str = "7 closing";
        self.add(GROUP, "without a code", Expected::ClosedWithoutCode, |_| frame(FIN | CLOSE, b""));
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
            self.closed(GROUP, format!("with code {code}"), code, close(code, b""));
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            self.closed(GROUP, format!("with code {code}"), 1002, close(code, b""));
        }
        self.closed(GROUP, "with a reason", 1000, close(1000, "Überhitzt".as_bytes()));
        self.closed(GROUP, "with the longest reason", 1000, close(1000, &[b'x'; 123]));
        self.closed(GROUP, "with a reason too long", 1002, close(1000, &[b'x'; 124]));
        self.closed(GROUP, "with half a code", 1002, frame(FIN | CLOSE, b"\x03"));
        self.closed(GROUP, "with a reason that is not UTF-8", 1007, close(1000, b"\xce\xba\xe1"));
        let twice = [close(1000, b""), close(1001, b"")].concat();
        self.closed(GROUP, "twice", 1000, twice);
        let after = [close(1000, b""), frame(FIN | PING, b"after")].concat();
        self.closed(GROUP, "and a ping after it", 1000, after);
        let inside = [frame(TEXT, b"unfinished"), close(1000, b"")].concat();
        self.closed(GROUP, "inside a message", 1000, inside);
    }

    fn limits(&mut self) {
        const GROUP: &str = "9 limits";
        let announced = frame_of(FIN | TEXT, Length::EightBytes(1 << 40), b"");
        self.closed(GROUP, "a frame that is announced too big", 1009, announced);
        let announced = frame_of(FIN | TEXT, Length::EightBytes(1 << 40), &[b' '; 30_000]);
        self.closed(GROUP, "and begun", 1009, announced);
        let sum = [frame(TEXT, b"x"), frame_of(FIN, Length::EightBytes((1 << 40) - 1), b"")];
        self.closed(GROUP, "fragments that are too big together", 1009, sum.concat());
        // Unread input would take the close frame with it.
        let much = [frame(FIN | 0x3, b""), vec![0; 4 << 20]].concat();
        self.closed(GROUP, "a violation with much behind it", 1002, much);
    }
}

/// A raw WebSocket client.
struct Raw {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    async fn open(daemon: &Daemon) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", daemon.port())).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut raw = Self { socket, read: Vec::new() };
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            daemon.port()
        );
        raw.socket.write_all(upgrade.as_bytes()).await.unwrap();
        while !raw.read.ends_with(b"\r\n\r\n") {
            raw.read.push(raw.socket.read_u8().await.unwrap());
        }
        assert!(raw.read.starts_with(b"HTTP/1.1 101 "));
        raw.read.clear();
        let (_, challenge) = raw.frame().await.unwrap();
        let challenge: Value = serde_json::from_slice(&challenge).unwrap();
        assert_eq!(challenge["event"], "connect.challenge");
        raw
    }

    /// Returns the next frame; `None` at the end of the stream.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((used, first, payload)) = parse(&self.read) {
                self.read.drain(..used);
                return Some((first, payload));
            }
            let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.read));
            match read.await.expect("the daemon says something or closes") {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    async fn answer(&mut self, id: &str) -> bool {
        while let Some((first, payload)) = self.frame().await {
            let value: Value = serde_json::from_slice(&payload).unwrap_or_default();
            if first == FIN | TEXT && value["id"] == id {
                return value["ok"] == true;
            }
        }
        false
    }

    /// Sends while reading nothing; a peer that closes may stop listening.
    async fn send(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece) {
            if self.socket.write_all(piece).await.is_err() {
                return;
            }
        }
    }

    /// Reads until the end of the stream or the answer to the request, and
    /// returns what of the expected came.
    async fn outcome(&mut self, expected: &Expected) -> Option<Expected> {
        let mut pong = None;
        loop {
            let (first, payload) = self.frame().await?;
            match first & 0x0f {
                PONG => pong = Some(payload),
                // The daemon asks whether we are still there: nothing came of the case.
                PING => return None,
                CLOSE => {
                    assert!(self.frame().await.is_none(), "nothing follows a close frame");
                    return Some(match payload[..] {
                        [] => Expected::ClosedWithoutCode,
                        [high, low, ..] => Expected::Closed(u16::from_be_bytes([high, low])),
                        _ => panic!("half a code"),
                    });
                }
                _ => {
                    let value: Value = serde_json::from_slice(&payload).unwrap();
                    if value["id"] != "request" {
                        continue;
                    }
                    assert_eq!(value["ok"], true, "{value}");
                    match expected {
                        Expected::Pong(_) if pong.is_none() => {}
                        Expected::Pong(_) => return pong.map(Expected::Pong),
                        _ => return Some(Expected::Answered),
                    }
                }
            }
            if let (Expected::Pong(wanted), Some(had)) = (expected, &pong)
                && wanted == had
            {
                return pong.map(Expected::Pong);
            }
        }
    }
}

/// Takes a frame off the front, none of which is masked.
fn parse(bytes: &[u8]) -> Option<(usize, u8, Vec<u8>)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, start) = match second {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into(), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        length => (u64::from(length), 2),
    };
    let end = start + usize::try_from(length).ok()?;
    Some((end, first, bytes.get(start..end)?.to_vec()))
}

fn request(method: &str, params: &Value) -> String {
    // A place for characters of all kinds, which no method looks at.
    let params = params.to_string();
    format!(r#"{{"type":"req","id":"request","method":"{method}","params":{params}}}"#)
}

/// A `connect` that is let in; "filler" is part of a text in it.
fn connect() -> String {
    let connect = Connect::operator().set("/client/displayName", "filler");
    request("connect", &connect.params)
}

#[tokio::test]
async fn every_violation_gets_its_close_code_and_every_good_case_its_answer() {
    let daemon = Daemon::start().await;
    let mut wrong = Vec::new();
    for case in Cases::all() {
        for after_login in [false, true] {
            for piece in [1, usize::MAX] {
                let mut raw = Raw::open(&daemon).await;
                let mut message = connect();
                if after_login {
                    raw.send(&text(&message.replace("request", "login")), piece).await;
                    assert!(raw.answer("login").await, "{}", daemon.log());
                    message = request("system-event", &json!({ "text": "filler" }));
                }
                let bytes = (case.bytes)(&message);
                // A piece of one byte each is for what is short.
                let piece = if bytes.len() < 2000 { piece } else { usize::MAX };
                raw.send(&bytes, piece).await;
                let outcome = raw.outcome(&case.expected).await;
                if outcome.as_ref() != Some(&case.expected) {
                    let when = if after_login { "after" } else { "before" };
                    let Case { group, name, expected, .. } = &case;
                    wrong.push(format!(
                        "{group}: {name}, {when} login: {outcome:?}, not {expected:?}"
                    ));
                }
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.operator().await.call("health", json!({})).await.unwrap();
}
