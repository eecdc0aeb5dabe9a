//! Frames to messages: fragmentation, limits, UTF-8 and the close handshake (RFC 6455 sections 5 to 7).
//!
//! Sans-IO: bytes come in and are unmasked in place, events go out borrowed from them. Only what is incomplete is
//! copied, into a buffer of the pool. No clock, no sockets, no meaning of messages.

use crate::CloseCode;
use crate::ws::assembly::{AssemblyPool, Exhausted};
use crate::ws::deflate::{Inflater, Negotiated, Unusable};
use crate::ws::frame::{CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Header, HeaderError, Opcode, Reserved};
use crate::ws::unmask;
use crate::ws::utf8::Incremental;

/// Which end of the connection this is: clients mask, servers don't.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Frames from the peer must be masked.
    Server,
    /// Frames from the peer must not be masked.
    Client,
}

impl Role {
    /// The other end.
    pub fn other(self) -> Self {
        match self {
            Self::Server => Self::Client,
            Self::Client => Self::Server,
        }
    }
}

/// Bounds of one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of payload over all fragments; of a compressed message both as it came and as it is.
    pub message_bytes: usize,
    /// Fragments of one message.
    pub fragments: u32,
}

/// What the peer sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A complete text message.
    Text(&'a str),
    /// A complete binary message.
    Binary(&'a [u8]),
    /// A ping: answer with a pong of the same payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// A close frame, with its code and reason if it has any. Nothing follows.
    Close(Option<(CloseCode, &'a str)>),
}

/// The peer broke the protocol or a limit: close with this. Nothing follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// For the close frame.
    pub code: CloseCode,
    /// For the close frame: an error code, then what was wrong.
    pub reason: &'static str,
}

impl Violation {
    const fn new(code: CloseCode, reason: &'static str) -> Self {
        Self { code, reason }
    }

    const NOT_UTF8: Self =
        Self::new(CloseCode::InvalidPayload, "INVALID_MESSAGE: a text message must be valid UTF-8");
    const CORRUPT: Self =
        Self::new(CloseCode::InvalidPayload, "INVALID_MESSAGE: a compressed message must be valid DEFLATE");
    const TOO_LARGE: Self = Self::new(CloseCode::TooLarge, "MESSAGE_TOO_LARGE: above limits.message_bytes");
    const TOO_MANY: Self =
        Self::new(CloseCode::TooLarge, "MESSAGE_TOO_LARGE: above limits.message_fragments");
}

impl From<HeaderError> for Violation {
    #[cold]
    fn from(error: HeaderError) -> Self {
        Self::new(CloseCode::Protocol, error.reason())
    }
}

impl From<Exhausted> for Violation {
    fn from(_: Exhausted) -> Self {
        Self::new(
            CloseCode::TryAgainLater,
            "OVERLOADED: too many unfinished messages on this server; try again",
        )
    }
}

impl From<Unusable> for Violation {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            // RFC 6455 section 7.4.1: "data within a message that was not consistent with the type of the message"
            Unusable::Corrupt => Self::CORRUPT,
            Unusable::TooLarge => Self::TOO_LARGE,
            Unusable::Exhausted => Exhausted.into(),
        }
    }
}

/// A WebSocket connection behind its handshake, seen from one end. Owns no heap while no message is unfinished,
/// unless its peer's compressed messages refer to earlier ones.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    role: Role,
    /// A close frame or a violation was reported: what follows is discarded.
    is_over: bool,
    is_close_sent: bool,
    /// The first bytes of a header that was cut.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// The frame whose payload is not complete.
    frame: Option<Current>,
    /// The fragmented message that is not complete: text or binary.
    message: Option<Opcode>,
    fragments: u32,
    utf8: Incremental,
    data: Option<Vec<u8>>,
    control: Option<Vec<u8>>,
    deflate: Option<Negotiated>,
    /// The message that is not complete is compressed.
    is_compressed: bool,
    /// What the peer's messages refer to, from the first compressed one on.
    inflater: Option<Box<Inflater>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Current {
    header: Header,
    remaining: u64,
    phase: u8,
}

/// Where a complete payload lies.
enum Place {
    Input { start: usize, end: usize },
    Data,
    Control,
    Unpacked,
}

impl Connection {
    /// A connection on which nothing was received yet.
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            limits,
            role,
            is_over: false,
            is_close_sent: false,
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            message: None,
            fragments: 0,
            utf8: Incremental::default(),
            data: None,
            control: None,
            deflate: None,
            is_compressed: false,
            inflater: None,
        }
    }

    /// A connection whose handshake agreed on permessage-deflate.
    pub fn with_deflate(role: Role, limits: Limits, negotiated: Negotiated) -> Self {
        Self { deflate: Some(negotiated), ..Self::new(role, limits) }
    }

    /// Reads `bytes`, which are unmasked in place.
    ///
    /// Dropping the reader early is fine: [`Reader::consumed`] says how many bytes were taken; the rest is to be
    /// presented again.
    pub fn receive<'a>(&'a mut self, bytes: &'a mut [u8], pool: &'a mut AssemblyPool) -> Reader<'a> {
        Reader { connection: self, bytes, pool, at: 0, is_lent: false, unpacked: None }
    }

    /// Gives buffers back: the connection is going away.
    pub fn release(&mut self, pool: &mut AssemblyPool) {
        pool.give_back(&mut self.data);
        pool.give_back(&mut self.control);
        pool.end_context(&mut self.inflater);
    }

    /// A close frame was sent: messages are no longer reported, the peer's close frame still is.
    pub fn close_sent(&mut self) {
        self.is_close_sent = true;
    }

    /// Checks a header against the role, the message in progress and the limits, before a byte of it is kept.
    fn admit(&mut self, header: &Header) -> Result<(), Violation> {
        let protocol = |reason| Err(Violation::new(CloseCode::Protocol, reason));
        match (self.role, header.mask) {
            // "a server MUST close the connection upon receiving a frame that is not masked"
            (Role::Server, None) => return protocol("INVALID_MESSAGE: frames from a client must be masked"),
            (Role::Client, Some(_)) => {
                return protocol("INVALID_MESSAGE: frames from a server must not be masked");
            }
            _ => {}
        }
        match (header.opcode, self.message) {
            (opcode, _) if opcode.is_control() => return Ok(()),
            (Opcode::Continuation, None) => return protocol("INVALID_MESSAGE: nothing to continue"),
            (Opcode::Continuation, Some(_)) => {
                self.fragments += 1;
                if self.fragments > self.limits.fragments {
                    return Err(Violation::TOO_MANY);
                }
            }
            (_, Some(_)) => return protocol("INVALID_MESSAGE: a message began inside another"),
            (_, None) => {
                self.fragments = 1;
                if self.limits.fragments == 0 {
                    return Err(Violation::TOO_MANY);
                }
            }
        }
        if header.opcode != Opcode::Continuation {
            self.is_compressed = header.is_compressed;
        }
        let kept = self.data.as_ref().map_or(0, Vec::len) as u64;
        if header.length > (self.limits.message_bytes as u64).saturating_sub(kept) {
            return Err(Violation::TOO_LARGE);
        }
        Ok(())
    }
}

/// The events in received bytes.
#[derive(Debug)]
pub struct Reader<'a> {
    connection: &'a mut Connection,
    bytes: &'a mut [u8],
    pool: &'a mut AssemblyPool,
    at: usize,
    /// The last event was borrowed from a buffer, which goes back now.
    is_lent: bool,
    /// The last message, if it was compressed.
    unpacked: Option<Vec<u8>>,
}

impl Reader<'_> {
    /// The next event, `None` when the bytes are used up. After a violation or a close frame all bytes are
    /// discarded.
    #[expect(
        clippy::should_implement_trait,
        reason = "events borrow from the reader, which `Iterator` can't say"
    )]
    pub fn next(&mut self) -> Option<Result<Event<'_>, Violation>> {
        self.give_back();
        let (opcode, place) = match self.advance() {
            Ok(found) => found?,
            Err(violation) => return Some(Err(self.fail(violation))),
        };
        let payload: &[u8] = match place {
            Place::Input { start, end } => &self.bytes[start..end],
            Place::Data => self.connection.data.as_deref().unwrap_or_default(),
            Place::Control => self.connection.control.as_deref().unwrap_or_default(),
            Place::Unpacked => self.unpacked.as_deref().unwrap_or_default(),
        };
        let event = match opcode {
            Opcode::Text => match simdutf8::basic::from_utf8(payload) {
                Ok(text) => Ok(Event::Text(text)),
                Err(_) => Err(Violation::NOT_UTF8),
            },
            Opcode::Ping => Ok(Event::Ping(payload)),
            Opcode::Pong => Ok(Event::Pong(payload)),
            Opcode::Close => close_event(payload),
            Opcode::Binary | Opcode::Continuation => Ok(Event::Binary(payload)),
        };
        if event.is_err() || opcode == Opcode::Close {
            self.connection.is_over = true;
        }
        Some(event)
    }

    /// Bytes that compressed messages of this pool's connections became, so far.
    pub fn inflated_bytes(&self) -> u64 {
        self.pool.inflated_bytes()
    }

    /// How many bytes were taken so far.
    pub fn consumed(&self) -> usize {
        self.at
    }

    #[inline]
    fn give_back(&mut self) {
        if self.is_lent || self.connection.is_over {
            self.give_back_lent();
        }
    }

    fn give_back_lent(&mut self) {
        let is_lent = std::mem::take(&mut self.is_lent);
        self.pool.give_back(&mut self.unpacked);
        if self.connection.is_over {
            // Nothing follows a close or a violation: a message that was in progress never ends.
            self.connection.release(self.pool);
        } else if is_lent {
            if self.connection.message.is_none() {
                self.pool.give_back(&mut self.connection.data);
            }
            self.pool.give_back(&mut self.connection.control);
        }
    }

    fn fail(&mut self, violation: Violation) -> Violation {
        self.connection.is_over = true;
        self.connection.release(self.pool);
        self.at = self.bytes.len();
        violation
    }

    /// Goes on to the end of the next complete message or control frame.
    fn advance(&mut self) -> Result<Option<(Opcode, Place)>, Violation> {
        loop {
            if self.connection.is_over {
                self.at = self.bytes.len();
                return Ok(None);
            }
            if self.at == self.bytes.len() {
                return Ok(None);
            }
            if self.connection.frame.is_none() {
                let Some(header) = self.header()? else { return Ok(None) };
                self.connection.admit(&header)?;
                if let Some(place) = self.whole(&header) {
                    if self.is_ignored(header.opcode) {
                        continue;
                    }
                    let place = if header.is_compressed { self.unpack(place)? } else { place };
                    return Ok(Some((header.opcode, place)));
                }
                self.begin(header);
            }
            if !self.payload()? {
                return Ok(None);
            }
            if let Some(done) = self.frame_done()? {
                return Ok(Some(done));
            }
        }
    }

    /// The next header; `None` if it is incomplete, in which case its bytes are kept.
    #[inline(always)]
    fn header(&mut self) -> Result<Option<Header>, Violation> {
        if self.connection.header_len == 0 {
            match Header::parse_with(&self.bytes[self.at..], self.reserved()) {
                Ok(Some((header, length))) => {
                    self.at += length;
                    return Ok(Some(header));
                }
                Ok(None) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.header_in_pieces()
    }

    #[inline(always)]
    fn reserved(&self) -> Reserved {
        if self.connection.deflate.is_some() { Reserved::Deflate } else { Reserved::Unused }
    }

    /// A header that was cut, or is.
    #[cold]
    fn header_in_pieces(&mut self) -> Result<Option<Header>, Violation> {
        let rest = &self.bytes[self.at..];
        let kept = usize::from(self.connection.header_len);
        let taken = rest.len().min(HEADER_BYTES_MAX - kept);
        self.connection.header[kept..kept + taken].copy_from_slice(&rest[..taken]);
        match Header::parse_with(&self.connection.header[..kept + taken], self.reserved())? {
            Some((header, length)) => {
                self.at += length - kept;
                self.connection.header_len = 0;
                Ok(Some(header))
            }
            None => {
                self.at += taken;
                self.connection.header_len = (kept + taken) as u8;
                Ok(None)
            }
        }
    }

    /// The usual case: an unfragmented frame that is here as a whole is used where it lies.
    #[inline(always)]
    fn whole(&mut self, header: &Header) -> Option<Place> {
        if !header.is_final || header.opcode == Opcode::Continuation {
            return None;
        }
        let length = usize::try_from(header.length).ok()?;
        let (start, end) = (self.at, self.at.checked_add(length)?);
        let payload = self.bytes.get_mut(start..end)?;
        if let Some(mask) = header.mask {
            unmask(payload, mask, 0);
        }
        self.at = end;
        Some(Place::Input { start, end })
    }

    fn begin(&mut self, header: Header) {
        if !header.opcode.is_control() && header.opcode != Opcode::Continuation {
            self.connection.message = Some(header.opcode);
            self.connection.utf8 = Incremental::default();
        }
        self.connection.frame = Some(Current { header, remaining: header.length, phase: 0 });
    }

    /// Takes what is here of the current frame's payload; whether it is complete now.
    fn payload(&mut self) -> Result<bool, Violation> {
        let Some(mut frame) = self.connection.frame else { return Ok(true) };
        let here = (self.bytes.len() - self.at).min(usize::try_from(frame.remaining).unwrap_or(usize::MAX));
        let piece = &mut self.bytes[self.at..self.at + here];
        self.at += here;
        frame.remaining -= here as u64;
        if let Some(mask) = frame.header.mask {
            frame.phase = unmask(piece, mask, usize::from(frame.phase)) as u8;
        }
        self.connection.frame = Some(frame);
        if frame.header.opcode.is_control() {
            debug_assert!(frame.header.length <= CONTROL_BYTES_MAX as u64, "the header was checked");
            self.pool.append(&mut self.connection.control, piece)?;
        } else if !self.connection.is_close_sent {
            // What a compressed message says is seen at its end.
            if self.connection.message == Some(Opcode::Text) && !self.connection.is_compressed {
                self.connection.utf8.push(piece).map_err(|_| Violation::NOT_UTF8)?;
            }
            self.pool.append(&mut self.connection.data, piece)?;
        }
        Ok(frame.remaining == 0)
    }

    /// The current frame is complete: is a message?
    fn frame_done(&mut self) -> Result<Option<(Opcode, Place)>, Violation> {
        let Some(frame) = self.connection.frame.take() else { return Ok(None) };
        if frame.header.opcode.is_control() {
            self.is_lent = true;
            if self.is_ignored(frame.header.opcode) {
                self.give_back();
                return Ok(None);
            }
            return Ok(Some((frame.header.opcode, Place::Control)));
        }
        if !frame.header.is_final {
            return Ok(None);
        }
        let opcode = self.connection.message.take().unwrap_or(Opcode::Binary);
        self.is_lent = true;
        if self.is_ignored(opcode) {
            self.give_back();
            return Ok(None);
        }
        if self.connection.is_compressed {
            return Ok(Some((opcode, self.unpack(Place::Data)?)));
        }
        if opcode == Opcode::Text {
            self.connection.utf8.finish().map_err(|_| Violation::NOT_UTF8)?;
        }
        Ok(Some((opcode, Place::Data)))
    }

    /// Unpacks a complete message; it is lent until the next event.
    fn unpack(&mut self, place: Place) -> Result<Place, Violation> {
        let connection = &mut *self.connection;
        if let Some(negotiated) = connection.deflate
            && negotiated.takes_over_received(connection.role)
            && connection.inflater.is_none()
        {
            let window_bits = negotiated.window_bits_received(connection.role);
            connection.inflater = Some(self.pool.begin_context(window_bits));
        }
        let payload = match place {
            Place::Input { start, end } => &self.bytes[start..end],
            _ => connection.data.as_deref().unwrap_or_default(),
        };
        self.unpacked =
            self.pool.unpack(&mut connection.inflater, payload, connection.limits.message_bytes)?;
        self.is_lent = true;
        Ok(Place::Unpacked)
    }

    fn is_ignored(&self, opcode: Opcode) -> bool {
        self.connection.is_close_sent && opcode != Opcode::Close
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn close_event(payload: &[u8]) -> Result<Event<'_>, Violation> {
    match payload {
        [] => Ok(Event::Close(None)),
        [first, second, reason @ ..] => {
            let code = CloseCode::from_wire(u16::from_be_bytes([*first, *second]))
                .ok_or(Violation::new(CloseCode::Protocol, "INVALID_MESSAGE: not a valid close code"))?;
            let reason = std::str::from_utf8(reason).map_err(|_| Violation::NOT_UTF8)?;
            Ok(Event::Close(Some((code, reason))))
        }
        // "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer"
        [_] => Err(Violation::new(
            CloseCode::Protocol,
            "INVALID_MESSAGE: a close frame's body has two bytes or more",
        )),
    }
}
