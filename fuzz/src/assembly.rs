//! Messages in fragments, with control frames between them, read in pieces of any length: what comes out follows
//! from what went in, whatever the cuts, and the pool gets everything back.

use arbitrary::Arbitrary;
use corecast_protocol::CloseCode;
use corecast_protocol::ws::frame::{CONTROL_BYTES_MAX, Opcode, encode_masked};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};

const LIMITS: Limits = Limits { message_bytes: 600, fragments: 8 };

/// A buffer of the pool.
const BUFFER_BYTES: usize = 32;

/// What a client sends, and how it is read.
#[derive(Debug, Arbitrary)]
pub struct Plan {
    messages: Vec<Sent>,
    /// Lengths of the pieces that are read, again and again.
    pieces: Vec<u8>,
    /// Bytes that the pool lends at most.
    pool_bytes: u16,
    /// After so many events of a piece the reader is dropped, and the rest of the piece presented again.
    events_at_once: u8,
    mask: [u8; 4],
}

/// A message in fragments.
#[derive(Debug, Arbitrary)]
struct Sent {
    body: Body,
    /// Where to cut, as lengths of the fragments before the last.
    fragments: Vec<u8>,
    /// Control frames in front of the fragments, in turn.
    controls: Vec<Option<(bool, Vec<u8>)>>,
}

#[derive(Debug, Arbitrary)]
enum Body {
    Text(String),
    Binary(Vec<u8>),
    /// Text of which nobody knows whether it is any.
    Perhaps(Vec<u8>),
    /// Long enough for every limit.
    Long(u16),
}

/// An event that owns its bytes; what was refused ends with its code.
#[derive(Clone, PartialEq, Debug)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Refused(u16),
}

/// Everything that must hold for this plan.
pub fn check(plan: Plan) {
    let mut wire = Vec::new();
    let mut expected = Vec::new();
    for sent in &plan.messages {
        if expected.last().is_some_and(|it| matches!(it, Seen::Refused(_))) {
            break;
        }
        sent.send(plan.mask, &mut wire, &mut expected);
    }
    let ample = 1 << 16;
    assert_eq!(plan.receive(&wire, &[255], ample, 255), expected, "in large pieces");
    assert_eq!(plan.receive(&wire, &[1], ample, 255), expected, "byte by byte");
    assert_eq!(plan.receive(&wire, &plan.pieces, ample, plan.events_at_once), expected, "in any pieces");
    // With little memory it may end sooner, for that reason alone.
    let mut scarce =
        plan.receive(&wire, &plan.pieces, usize::from(plan.pool_bytes) % 2048, plan.events_at_once);
    if scarce.last() == Some(&Seen::Refused(CloseCode::TryAgainLater.code())) {
        scarce.pop();
        assert!(expected.starts_with(&scarce), "{scarce:?} of {expected:?}");
    } else {
        assert_eq!(scarce, expected, "with little memory");
    }
}

impl Sent {
    /// Appends its frames, and what must come of them.
    fn send(&self, mask: [u8; 4], wire: &mut Vec<u8>, expected: &mut Vec<Seen>) {
        let (opcode, body) = match &self.body {
            Body::Text(text) => (Opcode::Text, text.as_bytes().to_vec()),
            Body::Perhaps(bytes) => (Opcode::Text, bytes.clone()),
            Body::Binary(bytes) => (Opcode::Binary, bytes.clone()),
            Body::Long(length) => (Opcode::Binary, vec![7; usize::from(length % 1024)]),
        };
        let mut controls = self.controls.iter();
        let (mut rest, mut taken, mut fragments) = (&body[..], 0, 0);
        let mut lengths = self.fragments.iter();
        loop {
            if let Some(Some((is_ping, payload))) = controls.next() {
                let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
                let opcode = if *is_ping { Opcode::Ping } else { Opcode::Pong };
                encode_masked(opcode, payload, mask, wire);
                let payload = payload.to_vec();
                expected.push(if *is_ping { Seen::Ping(payload) } else { Seen::Pong(payload) });
            }
            let length = lengths.next().map(|length| usize::from(*length).min(rest.len()));
            let (fragment, after) = rest.split_at(length.unwrap_or(rest.len()));
            rest = after;
            let start = wire.len();
            encode_masked(if fragments == 0 { opcode } else { Opcode::Continuation }, fragment, mask, wire);
            if length.is_some() {
                wire[start] &= 0x7f;
            }
            fragments += 1;
            taken += fragment.len();
            if fragments > LIMITS.fragments || taken > LIMITS.message_bytes {
                return expected.push(Seen::Refused(CloseCode::TooLarge.code()));
            }
            // A text that can't become valid any more is refused at once, one that is cut only at its end.
            let is_hopeless = |error: std::str::Utf8Error| error.error_len().is_some() || length.is_none();
            if opcode == Opcode::Text && std::str::from_utf8(&body[..taken]).is_err_and(is_hopeless) {
                return expected.push(Seen::Refused(CloseCode::InvalidPayload.code()));
            }
            if length.is_none() {
                break;
            }
        }
        expected.push(if opcode == Opcode::Text { Seen::Text(body) } else { Seen::Binary(body) });
    }
}

impl Plan {
    fn receive(&self, wire: &[u8], pieces: &[u8], pool_bytes: usize, events_at_once: u8) -> Vec<Seen> {
        let mut connection = Connection::new(Role::Server, LIMITS);
        let mut pool = AssemblyPool::new(BUFFER_BYTES, 1, pool_bytes);
        let mut seen = Vec::new();
        let mut pieces = pieces.iter().cycle();
        let mut at = 0;
        while at < wire.len() {
            let length = usize::from(pieces.next().copied().unwrap_or(1)).max(1);
            let end = (at + length).min(wire.len());
            let mut piece = wire[at..end].to_vec();
            let mut from = 0;
            while from < piece.len() {
                let mut reader = connection.receive(&mut piece[from..], &mut pool);
                for _ in 0..events_at_once.max(1) {
                    match reader.next() {
                        Some(event) => {
                            seen.push(event.map_or_else(|it| Seen::Refused(it.code.code()), Seen::of))
                        }
                        None => break,
                    }
                }
                from += reader.consumed();
            }
            at = end;
            assert!(pool.bytes_in_use() <= pool_bytes, "the bound of the pool");
        }
        let is_over = seen.last().is_some_and(|it| matches!(it, Seen::Refused(_)));
        if is_over || pool_bytes > wire.len() {
            assert_eq!(pool.bytes_in_use(), 0, "nothing is unfinished");
        }
        connection.release(&mut pool);
        assert_eq!(pool.bytes_in_use(), 0, "nothing is kept");
        seen
    }
}

impl Seen {
    fn of(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.as_bytes().to_vec()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close(close) => panic!("nobody sent a close: {close:?}"),
        }
    }
}
