//! One connection of a client: bytes in both directions, what was asked, and what it did to deserve its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use corecast_protocol::ws::deflate::Offer;

use super::acks::Acking;
use super::connect::Kind;
use super::deeds::Deed;
use super::deflate::Deflate;
use super::lacking::Lacking;
use super::ledger::Ledger;
use super::presence::Watch;
use super::resume::Plan;
use super::{End, Town, packed, wire};
use crate::chaos::Fault;
use crate::names::{ChannelIndex, Who};
use crate::net::LinkId;
use crate::oracle::Serial;

/// Bytes that wait to be written before a client rests.
const OUTBOX_BYTES_MAX: usize = 64 << 10;

/// Unanswered requests before a client rests.
const ASKS_MAX: usize = 128;

/// Invalid messages in a row that end a connection.
const INVALID_MAX: u8 = 10;

/// Where in its life a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Stage {
    /// Nothing but the handshake was sent, and perhaps frames behind it.
    #[default]
    Opening,
    /// Open.
    Open,
    /// A close frame or FIN was sent.
    Closing,
    /// It did what must end it, keeps no books any more and waits for its end.
    Silent,
}

/// How a client reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reading {
    /// All there is.
    #[default]
    All,
    /// A few bytes at a time.
    Slowly,
    /// Nothing until then (virtual microseconds).
    StoppedUntil(u64),
    /// Nothing until the server has ended the connection.
    Deaf,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) link: LinkId,
    pub(super) serial: Serial,
    pub(super) shard: usize,
    /// Connections that there were when it began.
    pub(super) neighbours: usize,
    pub(super) kind: Kind,
    /// Its participant's name, and the number of that one's inbox if others know it.
    pub(super) name: String,
    pub(super) participant: Option<usize>,
    pub(super) stage: Stage,
    /// `101` was read; `connection_established` was.
    pub(super) is_upgraded: bool,
    pub(super) is_established: bool,
    pub(super) inbox: Vec<u8>,
    /// Bytes of `inbox` that were heard.
    pub(super) heard: usize,
    pub(super) outbox: Vec<u8>,
    pub(super) ledger: Ledger,
    pub(super) reading: Reading,
    pub(super) is_byte_by_byte: bool,
    /// What it offered that can be accepted, and what was agreed.
    pub(super) offer: Option<Offer>,
    pub(super) deflate: Option<Box<Deflate>>,
    /// It is sent MessagePack, or has sent some.
    pub(super) is_mixed: bool,
    /// It went deaf: the server's book no longer counts it.
    pub(super) is_deaf: bool,
    /// It keeps no books any more, and something came.
    pub(super) is_unheard: bool,
    /// Pings that were not answered with a pong yet.
    pub(super) pongs_due: VecDeque<Vec<u8>>,
    /// What was sent to `/ws/echo`.
    pub(super) echoes_due: VecDeque<(u8, Vec<u8>)>,
    /// Messages in a row that were invalid.
    pub(super) invalid: u8,
    /// Levels of nesting around the message in the making: a batch counts as one message for the depth too.
    pub(super) nesting: usize,
    pub(super) was_slow: bool,
    /// Frames were sent behind a handshake that may be refused.
    pub(super) is_pipelined: bool,
    /// What it did must be answered with this status or close code.
    pub(super) status_due: Option<u16>,
    pub(super) close_due: Option<u16>,
    pub(super) has_vanished: bool,
    /// A close frame was sent; the code with which it is answered.
    pub(super) said_close: Option<u16>,
    /// FIN follows what is still to be written.
    pub(super) fin_follows: bool,
    /// The server's close frame came, with this code: nothing may follow it.
    pub(super) closed_by: Option<u16>,
    pub(super) close_reason: String,
    /// When it had its last turn, and the last one that came long after the one before.
    pub(super) looked_at_us: u64,
    pub(super) was_away_at_us: Option<u64>,
    /// A drain began while it was open and well: it must be told to go.
    pub(super) farewell_is_due: bool,
    /// `reconnect` was read.
    pub(super) was_told_to_go: bool,
    /// The session that it asks for, until it is answered.
    pub(super) plan: Option<Box<Plan>>,
    /// What is still to be told of the session that just went on in it.
    pub(super) lacking: Option<Box<Lacking>>,
    /// The rest at which it asked last what its session is.
    pub(super) described_at: u64,
    /// Channels of which it wants to know who comes and goes.
    pub(super) watched: BTreeMap<ChannelIndex, Watch>,
    /// Channels that it acknowledges.
    pub(super) acking: BTreeMap<ChannelIndex, Acking>,
    /// Channels that came with a session, of which nobody can tell whether it acknowledges them.
    pub(super) acks_unclear: BTreeSet<ChannelIndex>,
    pub(super) has_acknowledged: bool,
}

impl Default for LinkId {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Session {
    pub(super) fn who(&self) -> Who<'_> {
        Who { name: &self.name, is_demo: self.kind.is_demo }
    }

    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() < OUTBOX_BYTES_MAX && self.ledger.len() + self.echoes_due.len() < ASKS_MAX
    }

    /// Moves bytes to the network; whether any moved.
    pub(super) fn write(&mut self, town: &mut Town, rng: &mut fastrand::Rng) -> bool {
        let limit = if self.is_byte_by_byte && !town.is_settling { rng.usize(1..4) } else { usize::MAX };
        let bytes = &self.outbox[..self.outbox.len().min(limit)];
        let up = &mut town.net.at(self.link).up;
        let written = if bytes.is_empty() { 0 } else { up.write(bytes) };
        self.outbox.drain(..written);
        up.fin |= self.fin_follows && self.outbox.is_empty();
        written > 0
    }

    /// Takes bytes off the network; whether any came.
    pub(super) fn read(&mut self, town: &mut Town, rng: &mut fastrand::Rng) -> bool {
        if town.now_us - self.looked_at_us >= town.habits.close_timeout_us / 4 {
            self.was_away_at_us = Some(town.now_us);
        }
        self.looked_at_us = town.now_us;
        let is_over = match self.reading {
            Reading::StoppedUntil(until) => town.is_settling || town.now_us >= until,
            Reading::Slowly => town.is_settling,
            Reading::Deaf => {
                let down = &town.net.at(self.link).down;
                down.fin || down.reset
            }
            Reading::All => false,
        };
        if is_over {
            if self.reading == Reading::Deaf {
                town.deeds.did(Deed::DeafEnded);
            }
            self.reading = Reading::All;
        }
        let limit = match self.reading {
            Reading::All => usize::MAX,
            Reading::Slowly => rng.usize(1..200),
            Reading::StoppedUntil(_) | Reading::Deaf => return false,
        };
        if self.heard > 0 {
            self.inbox.drain(..self.heard);
            self.heard = 0;
        }
        let down = &mut town.net.at(self.link).down;
        let count = down.read(&mut self.inbox, limit);
        if count > 0 {
            if count == limit {
                town.chaos.note(Fault::SlowReading);
            }
            town.trace.bytes("read", u64::from(self.serial), &self.inbox[self.inbox.len() - count..]);
        }
        count > 0
    }

    /// Whether the stream has ended behind all that was read.
    pub(super) fn end_of_stream(&mut self, town: &mut Town) -> Option<End> {
        let link = town.net.at(self.link);
        if !link.down.is_empty() || matches!(self.reading, Reading::StoppedUntil(_) | Reading::Deaf) {
            return None;
        }
        if !link.down.reset && !link.down.fin {
            return None;
        }
        let how = if link.down.reset { End::Reset } else { End::Fin };
        Some(self.closed_by.map_or(how, End::Closed))
    }

    /// A message that can be understood.
    pub(super) fn message(&mut self, town: &mut Town, text: &str, rng: &mut fastrand::Rng) {
        self.invalid = 0;
        town.largest_bytes = town.largest_bytes.max(text.len() as u64);
        self.text(town, text, rng);
    }

    /// A message that counts as one of many in a row, or as several.
    pub(super) fn invalid_message(
        &mut self,
        town: &mut Town,
        count: u8,
        text: &str,
        rng: &mut fastrand::Rng,
    ) {
        self.data(town, wire::TEXT, text.as_bytes(), rng);
        self.counts_as_invalid(town, count);
    }

    /// So many messages that can't be understood were sent in a row; the tenth must end the connection.
    pub(super) fn counts_as_invalid(&mut self, town: &mut Town, count: u8) {
        self.invalid += count;
        town.deeds.did(if self.invalid < INVALID_MAX { Deed::NineInvalid } else { Deed::TenInvalid });
        if self.invalid >= INVALID_MAX {
            self.must_end(1008);
        }
    }

    /// From here on it only waits for the server to close it with this code.
    pub(super) fn must_end(&mut self, code: u16) {
        self.close_due = Some(code);
        self.stage = Stage::Silent;
        self.ledger.clear();
        self.echoes_due.clear();
    }

    /// A message in either encoding, mostly the one that it is sent.
    pub(super) fn text(&mut self, town: &mut Town, text: &str, rng: &mut fastrand::Rng) {
        let is_other = rng.u32(..12) == 0;
        self.is_mixed |= self.kind.is_binary;
        if self.kind.is_binary != is_other
            && let Some(bytes) = packed::of_text(text)
        {
            town.deeds.did(if is_other { Deed::OtherEncoding } else { Deed::Packed });
            self.is_mixed = true;
            return self.data(town, wire::BINARY, &bytes, rng);
        }
        self.data(town, wire::TEXT, text.as_bytes(), rng);
    }

    /// A message, now and then in pieces with pings between them.
    pub(super) fn data(&mut self, town: &mut Town, opcode: u8, bytes: &[u8], rng: &mut fastrand::Rng) {
        town.oracle.session_speaks(self.serial);
        let packed = self.packed(bytes, town);
        let (opcode, bytes) = match &packed {
            Some(packed) => (opcode | wire::PACKED, packed.as_slice()),
            None => (opcode, bytes),
        };
        if rng.u32(..16) > 0 {
            return wire::write(&mut self.outbox, true, opcode, bytes, rng.u32(..));
        }
        let pieces_max = town.habits.fragments_max as usize;
        let pieces = if rng.u32(..4) == 0 { pieces_max } else { rng.usize(2..5).min(pieces_max) };
        if packed.is_some() {
            town.deeds.did(Deed::CompressedInPieces);
        }
        if pieces == pieces_max {
            town.deeds.did(Deed::AtFragmentLimit);
        }
        self.pieces(town, opcode, bytes, pieces, rng);
    }

    /// A message in so many pieces, some of them perhaps empty.
    pub(super) fn pieces(
        &mut self,
        town: &mut Town,
        opcode: u8,
        bytes: &[u8],
        pieces: usize,
        rng: &mut fastrand::Rng,
    ) {
        let mut cuts: Vec<usize> = (1..pieces).map(|_| rng.usize(..=bytes.len())).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut from = 0;
        for (index, cut) in cuts.iter().enumerate() {
            let opcode = if index == 0 { opcode } else { wire::CONTINUATION };
            wire::write(&mut self.outbox, index + 1 == cuts.len(), opcode, &bytes[from..*cut], rng.u32(..));
            from = *cut;
            if rng.u32(..3) == 0 && index + 1 < cuts.len() {
                town.deeds.did(Deed::PingBetweenFragments);
                self.ping(rng);
            }
        }
    }

    pub(super) fn ping(&mut self, rng: &mut fastrand::Rng) {
        let mut payload = rng.u32(..).to_be_bytes().to_vec();
        payload.resize([0, 4, 125][rng.usize(..3)], b'p');
        wire::write(&mut self.outbox, true, wire::PING, &payload, rng.u32(..));
        self.pongs_due.push_back(payload);
    }

    /// Says goodbye with a code, or without one.
    pub(super) fn say_close(&mut self, code: Option<u16>, reason: &str, rng: &mut fastrand::Rng) {
        let mut body = code.map(u16::to_be_bytes).map_or(Vec::new(), Vec::from);
        body.extend_from_slice(reason.as_bytes());
        wire::write(&mut self.outbox, true, wire::CLOSE, &body, rng.u32(..));
        self.said_close = Some(code.unwrap_or(1000));
        self.stage = Stage::Closing;
    }
}
