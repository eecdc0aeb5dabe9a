//! Bytes as a client sends them behind the handshake, read by the product and by tungstenite: the same messages in
//! the same order, and the same kind of end. Where the two differ on purpose, it stands here as code.

use std::io::{self, Cursor, Read, Write};

use corecast_protocol::CloseCode;
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role as OurRole};
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::frame::coding::{Control, OpCode};
use tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

/// Small, so that inputs reach it.
const MESSAGE_BYTES: usize = 1000;

/// How a connection stands when the bytes are used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// More is awaited, or a close frame came.
    Fine,
    /// It is closed with this code.
    Failed(u16),
}

/// What came of some bytes.
#[derive(Clone, PartialEq, Debug)]
struct Outcome {
    messages: Vec<Message>,
    end: End,
}

/// Everything that must hold for these bytes.
pub fn check(bytes: &[u8]) {
    let (ours, after) = ours(bytes, |_| 1);
    let cut = bytes.first().map_or(1, |first| usize::from(*first) % 64 + 1);
    assert_eq!(self::ours(bytes, |_| cut).0, ours, "cut differently");
    assert_eq!(self::ours(bytes, |_| bytes.len()).0, ours, "all at once");
    let theirs = theirs(bytes);
    if ours == theirs {
        return;
    }
    let End::Failed(code) = ours.end else { panic!("ours {ours:?}, theirs {theirs:?}") };
    // A violation is reported as early as the bytes show it. tungstenite waits for the whole frame: it gets one.
    let mut whole = bytes[..after].to_vec();
    whole.resize(after + MESSAGE_BYTES + 16, 0);
    let theirs = self::theirs(&whole);
    assert!(
        ours == theirs || is_intended(code, &Fault::find(&whole, after), &ours, &theirs),
        "ours {ours:?}, theirs {theirs:?} after {after} bytes"
    );
}

/// The differences that are meant.
fn is_intended(code: u16, fault: &Fault, ours: &Outcome, theirs: &Outcome) -> bool {
    let protocol = CloseCode::Protocol.code();
    if code != protocol || !theirs.messages.starts_with(&ours.messages) {
        return false;
    }
    let more = &theirs.messages[ours.messages.len()..];
    match fault {
        // "the minimal number of bytes MUST be used to encode the length": tungstenite takes longer forms, and
        // reports a length with the highest bit set as a message that is too large.
        Fault::Length => true,
        // Of several faults in one header tungstenite names the size first.
        Fault::TooLarge => more.is_empty() && theirs.end == End::Failed(CloseCode::TooLarge.code()),
        // A close frame with a code that is not allowed: tungstenite reports it as closed with 1002, unless its
        // reason is no text, which it looks at first.
        Fault::Close => match more {
            [Message::Close(Some(close))] => u16::from(close.code) == protocol,
            [] => theirs.end == End::Failed(CloseCode::InvalidPayload.code()),
            _ => false,
        },
        Fault::Other => false,
    }
}

/// What is remarkable about the frame in which the violation was seen.
enum Fault {
    Length,
    TooLarge,
    Close,
    Other,
}

impl Fault {
    /// Walks over the frames with tungstenite's reader of headers, up to the frame that holds byte `after - 1`.
    fn find(bytes: &[u8], after: usize) -> Self {
        let mut cursor = Cursor::new(bytes);
        loop {
            let start = cursor.position();
            let Ok(Some((header, length))) = FrameHeader::parse(&mut cursor) else { return Self::Other };
            let end = cursor.position().saturating_add(length);
            if end < after as u64 {
                cursor.set_position(end);
                continue;
            }
            let is_shortest = header.len(length) as u64 == cursor.position() - start;
            return match header.opcode {
                _ if !is_shortest || length >> 63 == 1 => Self::Length,
                _ if length > MESSAGE_BYTES as u64 => Self::TooLarge,
                OpCode::Control(Control::Close) => Self::Close,
                _ => Self::Other,
            };
        }
    }
}

/// What the product makes of the bytes in pieces of these lengths, and how many it had seen when it failed.
fn ours(bytes: &[u8], piece: impl Fn(usize) -> usize) -> (Outcome, usize) {
    let limits = Limits { message_bytes: MESSAGE_BYTES, fragments: u32::MAX };
    let mut connection = Connection::new(OurRole::Server, limits);
    let mut pool = AssemblyPool::new(64, 2, 4 * MESSAGE_BYTES);
    let mut outcome = Outcome { messages: Vec::new(), end: End::Fine };
    let mut at = 0;
    while at < bytes.len() && outcome.end == End::Fine {
        let end = (at + piece(at).max(1)).min(bytes.len());
        let mut input = bytes[at..end].to_vec();
        let mut reader = connection.receive(&mut input, &mut pool);
        while let Some(event) = reader.next() {
            match event {
                Ok(event) => outcome.messages.push(message(event)),
                Err(violation) => outcome.end = End::Failed(violation.code.code()),
            }
        }
        assert_eq!(reader.consumed(), end - at);
        at = end;
    }
    assert!(pool.bytes_in_use() <= 2 * (MESSAGE_BYTES + 64) + 256, "more is kept than a message and a ping");
    connection.release(&mut pool);
    assert_eq!(pool.bytes_in_use(), 0);
    (outcome, at)
}

fn message(event: Event<'_>) -> Message {
    match event {
        Event::Text(text) => Message::text(text),
        Event::Binary(bytes) => Message::binary(bytes.to_vec()),
        Event::Ping(bytes) => Message::Ping(bytes.to_vec().into()),
        Event::Pong(bytes) => Message::Pong(bytes.to_vec().into()),
        // 1014, "bad gateway", was registered after tungstenite's list was made: it takes it for a wrong code.
        Event::Close(Some((CloseCode::Other(1014), _))) => Message::Close(Some(CloseFrame {
            code: CloseCode::Protocol.code().into(),
            reason: "Protocol violation".into(),
        })),
        Event::Close(close) => Message::Close(
            close.map(|(code, reason)| CloseFrame { code: code.code().into(), reason: reason.into() }),
        ),
    }
}

/// Bytes to be read; what is written is forgotten.
struct Stream<'a>(&'a [u8]);

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(bytes: &[u8]) -> Outcome {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES));
    let mut socket = WebSocket::from_raw_socket(Stream(bytes), Role::Server, Some(config));
    let mut messages = Vec::new();
    let end = loop {
        match socket.read() {
            Ok(message) => messages.push(message),
            Err(Error::ConnectionClosed | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                break End::Fine;
            }
            Err(Error::Protocol(_)) => break End::Failed(CloseCode::Protocol.code()),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => {
                break End::Failed(CloseCode::TooLarge.code());
            }
            Err(Error::Utf8(_)) => break End::Failed(CloseCode::InvalidPayload.code()),
            Err(error) => panic!("not of the bytes: {error}"),
        }
    };
    Outcome { messages, end }
}
