//! One connection of a client: bytes in both directions, what was asked, and what it did to deserve its end.

use std::collections::BTreeMap;

use super::{End, Town, wire};
use crate::chaos::Fault;
use crate::names::ChannelIndex;
use crate::net::LinkId;
use crate::oracle::Serial;

/// Bytes that wait to be written before a client rests.
const OUTBOX_BYTES_MAX: usize = 64 << 10;

/// Unanswered requests before a client rests.
const ASKS_MAX: usize = 128;

/// Where in its life a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Stage {
    /// The handshake's response has not come.
    #[default]
    Handshake,
    /// `connection_established` has not come.
    Greeting,
    /// Open.
    Open,
    /// A close frame or FIN was sent.
    Closing,
    /// It sent FIN or half a frame and waits for its end.
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
}

/// What a client waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    Publish {
        channel: ChannelIndex,
        number: u32,
        is_ephemeral: bool,
    },
    Subscribe {
        channel: ChannelIndex,
    },
    SubscribePattern {
        prefix: usize,
    },
    Unsubscribe {
        channel: ChannelIndex,
    },
    UnsubscribePattern {
        prefix: usize,
    },
    Ping,
    /// Must be refused.
    Wrong,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) link: LinkId,
    pub(super) serial: Serial,
    pub(super) shard: usize,
    pub(super) participant: usize,
    pub(super) stage: Stage,
    pub(super) inbox: Vec<u8>,
    /// Bytes of `inbox` that were heard.
    pub(super) heard: usize,
    pub(super) outbox: Vec<u8>,
    pub(super) asks: BTreeMap<u64, Ask>,
    pub(super) next_id: u64,
    pub(super) reading: Reading,
    pub(super) is_byte_by_byte: bool,
    /// Names with a request under way: no second one until it is answered.
    pub(super) busy: Vec<bool>,
    pub(super) busy_prefixes: Vec<bool>,
    pub(super) subscribed: Vec<ChannelIndex>,
    pub(super) patterns: Vec<usize>,
    /// Requests without an id that must be refused.
    pub(super) errors_due: usize,
    /// Pings that were not answered with a pong yet.
    pub(super) pongs_due: Vec<Vec<u8>>,
    pub(super) was_slow: bool,
    pub(super) did_wrong: bool,
    pub(super) has_vanished: bool,
    pub(super) has_said_close: bool,
    /// It keeps no books any more, and something came.
    pub(super) is_deaf: bool,
    /// `connection_established` came.
    pub(super) is_established: bool,
    /// The server's close frame came, with this code: nothing may follow it.
    pub(super) closed_by: Option<u16>,
    pub(super) close_reason: String,
}

impl Default for LinkId {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Session {
    pub(super) fn new(link: LinkId, serial: Serial, participant: usize, channels: usize) -> Self {
        Self {
            link,
            serial,
            participant,
            busy: vec![false; channels],
            busy_prefixes: vec![false; 16],
            ..Self::default()
        }
    }

    pub(super) fn ask_handshake(&mut self, name: &str, is_bad: bool, rng: &mut fastrand::Rng) {
        let path = format!("/ws/dev?as={name}");
        if is_bad {
            self.did_wrong = true;
            let request = match rng.u32(..5) {
                0 => "GET /nowhere HTTP/1.1\r\nHost: sim\r\n\r\n".to_owned(),
                1 => format!("GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n\r\n"),
                2 => "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\r\n\r\n".to_owned(),
                3 => "x".repeat(40_000),
                _ => format!("GET {path} HTTP/1.1\r\nHost: si"),
            };
            self.outbox.extend_from_slice(request.as_bytes());
            return;
        }
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.outbox.extend_from_slice(request.as_bytes());
    }

    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() < OUTBOX_BYTES_MAX && self.asks.len() < ASKS_MAX
    }

    /// Moves bytes to the network; whether any moved.
    pub(super) fn write(&mut self, town: &mut Town, rng: &mut fastrand::Rng) -> bool {
        let limit = if self.is_byte_by_byte && !town.is_settling { rng.usize(1..4) } else { usize::MAX };
        let bytes = &self.outbox[..self.outbox.len().min(limit)];
        if bytes.is_empty() {
            return false;
        }
        let written = town.net.at(self.link).up.write(bytes);
        self.outbox.drain(..written);
        written > 0
    }

    /// Takes bytes off the network; whether any came.
    pub(super) fn read(&mut self, town: &mut Town, rng: &mut fastrand::Rng) -> bool {
        if town.is_settling || matches!(self.reading, Reading::StoppedUntil(until) if town.now_us >= until) {
            self.reading = Reading::All;
        }
        let limit = match self.reading {
            Reading::All => usize::MAX,
            Reading::Slowly => rng.usize(1..200),
            Reading::StoppedUntil(_) => return false,
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
        if !link.down.is_empty() || matches!(self.reading, Reading::StoppedUntil(_)) {
            return None;
        }
        if !link.down.reset && !link.down.fin {
            return None;
        }
        let how = if link.down.reset { End::Reset } else { End::Fin };
        Some(self.closed_by.map_or(how, End::Closed))
    }

    pub(super) fn message(&mut self, text: &str, rng: &mut fastrand::Rng) {
        // Now and then in pieces, with a ping between them.
        if text.len() > 4 && rng.u32(..16) == 0 {
            let mut at = rng.usize(1..text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            wire::write(&mut self.outbox, false, wire::TEXT, &text.as_bytes()[..at], rng.u32(..));
            if rng.bool() {
                self.ping(rng);
            }
            wire::write(&mut self.outbox, true, wire::CONTINUATION, &text.as_bytes()[at..], rng.u32(..));
            return;
        }
        wire::write(&mut self.outbox, true, wire::TEXT, text.as_bytes(), rng.u32(..));
    }

    pub(super) fn ping(&mut self, rng: &mut fastrand::Rng) {
        let payload = rng.u32(..).to_be_bytes().to_vec();
        wire::write(&mut self.outbox, true, wire::PING, &payload, rng.u32(..));
        self.pongs_due.push(payload);
    }

    pub(super) fn say_close(&mut self, code: u16, rng: &mut fastrand::Rng) {
        wire::write(&mut self.outbox, true, wire::CLOSE, &code.to_be_bytes(), rng.u32(..));
        self.has_said_close = true;
        self.stage = Stage::Closing;
    }

    pub(super) fn ask(&mut self, ask: Ask) -> u64 {
        self.next_id += 1;
        self.asks.insert(self.next_id, ask);
        self.next_id
    }

    /// Whether the server may end this connection like that.
    pub(super) fn may_end(&self, end: &End, town: &Town) -> bool {
        let is_patient_enough = !self.was_slow && !self.is_byte_by_byte && !town.habits.jumps;
        let is_last_word = self.has_said_close || self.stage == Stage::Silent || self.stage == Stage::Closing;
        match end {
            End::Own => true,
            End::Closed(1000) => self.has_said_close,
            End::Closed(1001) | End::Refused(503) if town.is_draining => true,
            End::Closed(1002 | 1003 | 1007 | 1008 | 1009) => self.did_wrong,
            End::Closed(4000) => self.was_slow || town.habits.is_tight,
            End::Closed(4001) => !is_patient_enough,
            End::Closed(_) => false,
            // The homes' answer may come too late when clocks jump.
            End::Refused(503) => town.habits.is_crowded || town.habits.jumps,
            End::Refused(408) => self.did_wrong || !is_patient_enough,
            End::Refused(400 | 404 | 405 | 426 | 431) => self.did_wrong,
            End::Refused(_) => false,
            // Without a close frame only those who would not have read or answered one.
            End::Fin | End::Reset => {
                is_last_word
                    || self.did_wrong
                    || !is_patient_enough
                    || town.is_draining
                    || town.habits.is_tight
            }
        }
    }

    /// What it did, for reports.
    pub(super) fn deeds(&self) -> String {
        let mut deeds = format!("{:?}", self.stage);
        for (is, what) in [
            (self.was_slow, "slow to read"),
            (self.is_byte_by_byte, "slow to write"),
            (self.did_wrong, "rude"),
            (self.has_said_close, "said goodbye"),
        ] {
            if is {
                deeds.push_str(", ");
                deeds.push_str(what);
            }
        }
        deeds
    }
}
