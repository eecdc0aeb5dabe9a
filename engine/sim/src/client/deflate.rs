//! permessage-deflate on a client's side (RFC 7692): what it offers, its messages in both directions, and what no
//! client should send.
//!
//! All that is random here comes from the streams of its two faults: where nobody compresses, nothing else changes.

use corecast_protocol::ws::deflate::{ClientWindow, Compressor, Negotiated, Offer};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};

use super::deeds::Deed;
use super::inflate::Unpacker;
use super::session::Session;
use super::{Client, Town, wire};
use crate::chaos::{Chaos, Fault};
use crate::oracle::{Check, Failure};

/// Offers that must be declined.
const DECLINED: [&str; 6] = [
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; client_max_window_bits=016",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; level=1",
    "x-webkit-deflate-frame",
];

const FIELD: &str = "Sec-WebSocket-Extensions";

/// Bytes of a stored block at most.
const STORED_BYTES_MAX: usize = 0xffff;

/// Larger messages than any server sends.
const LIMITS: Limits = Limits { message_bytes: 64 << 20, fragments: 1 };

/// What a client keeps for a connection on which it was agreed.
#[derive(Debug)]
pub(super) struct Deflate {
    negotiated: Negotiated,
    /// From the first message on that is packed.
    compressor: Option<Compressor>,
    unpacker: Unpacker,
    /// The product's own client reads the same: it unpacks with a window that may be too large, but strictly
    /// otherwise.
    codec: Connection,
    pool: AssemblyPool,
}

impl Deflate {
    pub(super) fn new(negotiated: Negotiated) -> Self {
        let window_bits = negotiated.window_bits_received(Role::Client);
        Self {
            negotiated,
            compressor: None,
            unpacker: Unpacker::new(window_bits, negotiated.takes_over_received(Role::Client)),
            codec: Connection::with_deflate(Role::Client, LIMITS, negotiated),
            pool: AssemblyPool::new(0, 0, usize::MAX),
        }
    }

    /// Bytes that its messages may look back.
    fn window_bytes(&self) -> usize {
        1 << self.negotiated.window_bits_received(Role::Client)
    }

    fn takes_over_sent(&self) -> bool {
        self.negotiated.takes_over_sent(Role::Client)
    }

    fn pack(&mut self, message: &[u8], chaos: &mut Chaos) -> Vec<u8> {
        // What no compressor knows of, later messages of one that remembers could not refer to.
        if !self.takes_over_sent() && chaos.below(Fault::Deflate, 8) == 0 {
            return stored(message, chaos.below(Fault::Deflate, 2) == 0);
        }
        let compressor = self.compressor.get_or_insert_with(|| {
            let level = 1 + chaos.below(Fault::Deflate, 9) as u32;
            Compressor::for_connection(level, &self.negotiated, Role::Client)
        });
        let mut packed = Vec::new();
        compressor.pack(message, &mut packed);
        packed
    }

    /// The message in a whole frame of the server.
    fn unpack(&mut self, opcode: u8, payload: &[u8], frame: &[u8]) -> Result<Vec<u8>, String> {
        let message = self.unpacker.unpack(payload)?;
        let mut frame = frame.to_vec();
        let mut reader = self.codec.receive(&mut frame, &mut self.pool);
        let is_same = match reader.next() {
            Some(Ok(Event::Text(text))) => opcode == wire::TEXT && text.as_bytes() == message,
            Some(Ok(Event::Binary(bytes))) => opcode == wire::BINARY && bytes == message,
            _ => false,
        };
        if is_same { Ok(message) } else { Err("clients read it in two ways".to_owned()) }
    }
}

/// Blocks of DEFLATE that pack nothing, behind which a sender may say that they were the last.
fn stored(message: &[u8], has_last: bool) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut chunks = message.chunks(STORED_BYTES_MAX).peekable();
    while let Some(chunk) = chunks.next() {
        let is_last = has_last && chunks.peek().is_none();
        packed.push(u8::from(is_last));
        packed.extend_from_slice(&(chunk.len() as u16).to_le_bytes());
        packed.extend_from_slice(&(!chunk.len() as u16).to_le_bytes());
        packed.extend_from_slice(chunk);
    }
    // The empty block whose rest is left out.
    packed.push(0);
    packed
}

impl Session {
    /// What it offers, as header fields; some offer nothing.
    pub(super) fn offer_deflate(&mut self, town: &mut Town) -> Vec<String> {
        let chaos = &mut town.chaos;
        if !chaos.strikes(Fault::Deflate) {
            return Vec::new();
        }
        let mut below = |bound| chaos.below(Fault::Deflate, bound);
        let small_windows = [8, 8, 9, 9, 10, 11, 12, 15];
        let offer = Offer {
            server_no_context_takeover: below(4) == 0,
            client_no_context_takeover: below(4) == 0,
            server_max_window_bits: (below(2) == 0).then(|| small_windows[below(8)]),
            client_max_window_bits: match below(4) {
                0 => ClientWindow::Fixed,
                1 => ClientWindow::AtMost(small_windows[below(8)]),
                _ => ClientWindow::Any,
            },
        };
        let line = offer.line().trim_end().to_owned();
        let declined = format!("{FIELD}: {}", DECLINED[below(DECLINED.len())]);
        let form = below(12);
        if form == 0 {
            town.deeds.did(Deed::DeflateDeclined);
            return vec![declined];
        }
        self.offer = Some(offer);
        match form {
            1 => vec![line.replacen(&format!("{FIELD}:"), &format!("{declined},"), 1)],
            2 => vec![declined, line],
            _ => vec![line],
        }
    }

    /// What the server answered is what it must.
    pub(super) fn agree_on_deflate(
        &mut self,
        agreed: Option<Negotiated>,
        town: &mut Town,
    ) -> Result<(), String> {
        let is_due = town.habits.takes_deflate && self.offer.is_some();
        if agreed.is_some() != is_due {
            return Err(format!("{:?} was offered and {agreed:?} answered", self.offer));
        }
        if self.offer.is_some() && !is_due {
            town.deeds.did(Deed::DeflateOff);
        }
        let Some(negotiated) = agreed else { return Ok(()) };
        let takes_over = negotiated.takes_over_received(Role::Client);
        if !self.kind.is_echo && (takes_over || negotiated.takes_over_sent(Role::Client)) {
            return Err(format!("a context where nobody may have one: {negotiated:?}"));
        }
        town.deeds.did(Deed::Deflate);
        if takes_over {
            town.deeds.did(Deed::DeflateContext);
        }
        self.deflate = Some(Box::new(Deflate::new(negotiated)));
        Ok(())
    }

    /// A message packed, if it is to be.
    pub(super) fn packed(&mut self, message: &[u8], town: &mut Town) -> Option<Vec<u8>> {
        let deflate = self.deflate.as_mut()?;
        if town.chaos.below(Fault::Deflate, 3) == 0 {
            return None;
        }
        let packed = deflate.pack(message, &mut town.chaos);
        // Both count: what comes and what it becomes.
        let is_allowed = self.kind.is_echo || packed.len() <= town.habits.message_bytes;
        if is_allowed {
            town.deeds.did(Deed::SentCompressed);
        }
        is_allowed.then_some(packed)
    }

    /// The message in a compressed frame of the server.
    pub(super) fn unpacked(
        &mut self,
        frame: &wire::Frame,
        inbox: &[u8],
        from: usize,
        town: &mut Town,
    ) -> Result<Vec<u8>, Failure> {
        let serial = self.serial;
        let Some(deflate) = &mut self.deflate else {
            let what = format!("connection {serial}: a compressed frame that was not agreed on");
            return Err(Failure::new(Check::Steps, what));
        };
        let (payload, whole) = (&inbox[frame.payload.clone()], &inbox[from..frame.payload.end]);
        let message = deflate.unpack(frame.opcode, payload, whole).map_err(|what| {
            let what = format!("connection {serial}: a compressed message that can't be unpacked: {what}");
            Failure::new(Check::Content, what)
        })?;
        town.deeds.did(Deed::ReadCompressed);
        if deflate.window_bytes() <= 1 << 12 {
            town.deeds.did(Deed::ReadInSmallWindow);
        }
        Ok(message)
    }

    /// Notes a message that came as it is to a client that takes compressed ones.
    pub(super) fn note_plain(&self, message: &[u8], town: &mut Town) {
        if self.deflate.as_ref().is_some_and(|it| message.len() > it.window_bytes()) {
            town.deeds.did(Deed::TooLargeForWindow);
        }
    }
}

impl Client {
    /// A compressed message for which the server must close the connection.
    pub(super) fn bad_deflate(&mut self, session: &mut Session, town: &mut Town) {
        let Some(deflate) = &session.deflate else { return };
        let kinds = match (deflate.takes_over_sent(), session.kind.is_echo) {
            // What is in vain may refer to earlier messages there.
            (true, _) => 5,
            // It takes more than a run has time for.
            (false, true) => 7,
            (false, false) => 10,
        };
        let text = wire::TEXT | wire::PACKED;
        let payload = match town.chaos.below(Fault::BadDeflate, kinds) {
            0 => {
                wire::write(&mut session.outbox, true, wire::PING | wire::PACKED, b"", self.rng.u32(..));
                return session.must_end(1002);
            }
            1 => {
                wire::write(&mut session.outbox, false, text, &stored(b"{", false), self.rng.u32(..));
                let opcode = wire::CONTINUATION | wire::PACKED;
                wire::write(&mut session.outbox, true, opcode, b"", self.rng.u32(..));
                return session.must_end(1002);
            }
            // A type of blocks that there is not.
            2 => vec![0x07],
            // A length without its complement.
            3 => vec![0x00, 0x05, 0x00, 0x00, 0x00, b'h'],
            // Not UTF-8.
            4 => stored(&[0xff, 0xfe], false),
            // A byte before the first.
            5 => vec![0x02, 0x02, 0x00, 0x00],
            // A hundred bytes are announced, and their end is missing.
            6 => [&[0x00, 100, 0, !100, 0xff][..], &[b'{'; 20]].concat(),
            _ => return self.bomb(session, town),
        };
        town.deeds.did(Deed::Corrupt);
        let pieces = 1 + town.chaos.below(Fault::BadDeflate, 3);
        session.pieces(town, text, &payload, pieces, &mut self.rng);
        session.must_end(1007);
    }

    /// Few bytes that become too many: one, or a multiple of what is allowed.
    fn bomb(&mut self, session: &mut Session, town: &mut Town) {
        town.deeds.did(Deed::Bomb);
        let limit = town.habits.message_bytes;
        let bytes = match town.chaos.below(Fault::BadDeflate, 2) {
            0 => limit + 1,
            _ => limit * (2 + town.chaos.below(Fault::BadDeflate, 8)),
        };
        let mut packed = Vec::new();
        Compressor::shared(1).pack(&vec![b'x'; bytes], &mut packed);
        let pieces = 1 + town.chaos.below(Fault::BadDeflate, 3);
        session.pieces(town, wire::TEXT | wire::PACKED, &packed, pieces, &mut self.rng);
        session.must_end(1009);
    }
}
