//! A client: connects, does as its temper says, and tells the oracle all that it hears.
//!
//! It knows the wire contract and nothing of the server. What it may be told depends on what it did: whoever behaves
//! is never closed.

mod acks;
mod act;
mod answer;
mod connect;
mod content;
pub mod deeds;
mod deflate;
mod filters;
mod hear;
mod inbox;
mod inflate;
mod lacking;
mod leave;
mod ledger;
mod packed;
mod past;
mod payload;
mod presence;
mod publish;
mod receipts;
mod repeat;
mod requests;
mod resume;
mod rude;
mod session;
mod target;
mod town;
mod verdict;
mod wire;

use crate::chaos::Fault;
use crate::names::Names;
use crate::net::LinkId;
use crate::oracle::{Check, Checked, Failure, Serial};

use deeds::Deed;
use past::Places;
use repeat::Repeat;
pub use session::Reading;
use session::{Session, Stage};
pub use town::{Habits, Town};

/// Messages of one batch at most.
pub const BATCH_MESSAGES_MAX: usize = 7;

/// Messages of a batch that is long, and has no large ones.
pub const LONG_BATCH_MESSAGES: usize = 40;

/// What a client tends to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Temper {
    /// Reads, writes and answers as it should.
    Good,
    /// Good, but reads a few bytes at a time, or stops for a while.
    SlowReader,
    /// Good, but writes a few bytes at a time.
    SlowWriter,
    /// Ends its connections in every way there is, and comes back.
    Flighty,
    /// Sends what it should not.
    Rude,
    /// Vanishes.
    Vanishing,
}

impl Temper {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Good, Self::SlowReader, Self::SlowWriter, Self::Flighty, Self::Rude, Self::Vanishing];
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its number; also its address.
    pub index: u32,
    rng: fastrand::Rng,
    temper: Temper,
    participant: usize,
    state: State,
    was_lost: bool,
    /// Where it was in channels when its connections ended.
    places: Places,
    /// What it published with a key.
    repeats: Vec<Repeat>,
}

#[derive(Debug)]
enum State {
    /// Not connected until then.
    Down {
        until_us: u64,
    },
    Up(Box<Session>),
}

/// How a connection ended, as its client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The server closed with this code.
    Closed(u16),
    /// The handshake was refused with this status.
    Refused(u16),
    /// FIN without a close frame.
    Fin,
    /// RST.
    Reset,
    /// The client did it itself.
    Own,
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(seed: u64, index: u32, temper: Temper, names: &Names) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ u64::from(index).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let participant = index as usize % names.developers;
        let until_us = rng.u64(..2_000);
        Self {
            index,
            rng,
            temper,
            participant,
            state: State::Down { until_us },
            was_lost: false,
            places: Places::default(),
            repeats: Vec::new(),
        }
    }

    /// The connection's number, while there is one that can be told something.
    pub fn serial(&self) -> Option<Serial> {
        match &self.state {
            State::Up(session) => Some(session.serial).filter(|_| session.reading != Reading::Deaf),
            State::Down { .. } => None,
        }
    }

    /// When it would connect again by itself.
    pub fn connects_at(&self) -> Option<u64> {
        match self.state {
            State::Down { until_us } => Some(until_us),
            State::Up(_) => None,
        }
    }

    /// One turn: read, write, and perhaps do something; whether anything moved.
    ///
    /// # Errors
    /// What the server did that it should not have done.
    pub fn step(&mut self, town: &mut Town) -> Result<bool, Failure> {
        let mut session = match &mut self.state {
            State::Down { until_us } => {
                let is_closed = town.is_settling || town.is_draining || town.is_steady;
                if is_closed || town.now_us < *until_us {
                    return Ok(false);
                }
                self.connect(town);
                return Ok(true);
            }
            State::Up(_) => match std::mem::replace(&mut self.state, State::Down { until_us: 0 }) {
                State::Up(session) => session,
                State::Down { .. } => return Ok(false),
            },
        };
        self.ask_session(&mut session, town);
        self.resume(&mut session, town);
        let mut has_moved = session.write(town, &mut self.rng);
        has_moved |= session.read(town, &mut self.rng);
        let mut end = self.hear(&mut session, town)?;
        let may_act = session.stage == Stage::Open && !town.is_settling && !town.is_draining;
        let may_act = may_act && session.plan.is_none();
        if end.is_none() && may_act && session.has_room() && self.rng.u32(..town.habits.idle) == 0 {
            end = self.act(&mut session, town);
            if end.is_none() && session.stage == Stage::Open {
                self.acknowledge_late(&mut session, town);
            }
            has_moved = true;
        }
        // An end by RST or FIN counts once everything before it was read.
        if end.is_none() {
            end = session.end_of_stream(town);
        }
        match end {
            None => {
                // Who does not read may be closed long before it knows, and its session be over; whom the server may give
                // up may have been given up, and not have read so yet.
                let may_be_over = session.reading != Reading::All || !session.may_not_be_ended(town);
                if session.stage != Stage::Open || may_be_over {
                    town.oracle.session_wavers(session.serial);
                }
                self.state = State::Up(session);
            }
            Some(end) => {
                has_moved = true;
                self.ended(&session, &end, town)?;
            }
        }
        Ok(has_moved)
    }

    /// Leaves without a word, or politely: the run is over.
    pub fn quit(&mut self, town: &mut Town) {
        if let State::Up(session) = &mut self.state
            && session.stage != Stage::Closing
        {
            if session.reading == Reading::Deaf {
                return;
            }
            if session.stage == Stage::Open && self.rng.bool() {
                session.say_close(Some(1000), "", &mut self.rng);
            } else {
                town.net.at(session.link).up.fin = true;
                session.stage = Stage::Closing;
                session.outbox.clear();
            }
        }
    }

    fn connect(&mut self, town: &mut Town) {
        let shard = self.rng.usize(..town.net.doors.len());
        let ip = 0x0a00_0000 + self.index / town.habits.clients_per_ip;
        let Some(link) = town.net.connect(shard, ip) else {
            self.state = State::Down { until_us: town.now_us + 50_000 };
            return;
        };
        if std::mem::take(&mut self.was_lost) {
            town.chaos.note(Fault::Reconnect);
        }
        town.serials += 1;
        town.trace.note("connect", &[u64::from(self.index), u64::from(town.serials), shard as u64]);
        let neighbours = town.net.len();
        let mut session = Session {
            link,
            serial: town.serials,
            shard,
            neighbours,
            looked_at_us: town.now_us,
            ..Session::default()
        };
        town.books[shard].sessions += 1;
        session.is_byte_by_byte = match self.temper {
            Temper::Good => false,
            Temper::SlowWriter => town.chaos.strikes(Fault::ByteByByte),
            _ => self.rng.u32(..4) == 0 && town.chaos.strikes(Fault::ByteByByte),
        };
        self.ask_handshake(&mut session, town);
        if self.temper == Temper::Flighty && session.said_close.is_none() && self.rng.u32(..12) == 0 {
            self.leave_early(&mut session, town);
        }
        self.state = State::Up(Box::new(session));
    }

    /// Notes the end for the shard's book, as far as that was the server's doing.
    fn close_book(&self, session: &Session, end: &End, town: &mut Town) {
        let book = &mut town.books[session.shard];
        book.loose_ends += u64::from(session.ledger.lost_count || session.is_deaf);
        if session.is_deaf {
            return;
        }
        let is_own_doing = match *end {
            End::Closed(code) => session.said_close == Some(code),
            End::Refused(_) => session.kind.probe.is_some(),
            _ => false,
        };
        book.ended(if is_own_doing { &End::Fin } else { end }, session.is_established);
    }

    /// The connection is over: was that right?
    fn ended(&mut self, session: &Session, end: &End, town: &mut Town) -> Checked {
        let code = match end {
            End::Closed(code) | End::Refused(code) => u64::from(*code),
            End::Fin => 1,
            End::Reset => 2,
            End::Own => 3,
        };
        town.trace.note("end", &[u64::from(session.serial), code]);
        let is_sent_away = session.is_sent_away(end) && !session.is_unheard;
        self.remember_places(session, town);
        resume::lost(session, end, town)?;
        town.oracle.ended(session.serial, is_sent_away, session.ledger.awaited_pasts());
        self.close_book(session, end, town);
        let link: LinkId = session.link;
        if !town.net.at(link).has_vanished {
            town.net.at(link).client_gone = true;
            town.net.at(link).up.fin = true;
        }
        town.net.sweep(link);
        self.was_lost = *end != End::Own || session.has_vanished;
        match end {
            End::Refused(status) if session.status_due == Some(*status) => {
                town.deeds.did(Deed::RefusedForCause);
            }
            End::Closed(4502) => town.deeds.did(Deed::TakenOver),
            End::Refused(200) => town.deeds.did(Deed::Probe),
            End::Refused(429) => town.deeds.did(Deed::ConnectionLimit),
            _ => {}
        }
        // Some are back before others have heard that they were gone.
        let away_us = if self.rng.bool() { self.rng.u64(..500) } else { self.rng.u64(100..20_000) };
        self.state = State::Down { until_us: town.now_us + away_us };
        if session.may_end(end, town) && session.is_farewell(end, town) {
            return Ok(());
        }
        let what = format!(
            "client {} (connection {}, {:?}, {}) was ended by {end:?}{}{}",
            self.index,
            session.serial,
            self.temper,
            session.deeds(),
            if session.close_reason.is_empty() { "" } else { ": " },
            session.close_reason
        );
        Err(Failure::new(Check::Steps, what))
    }
}
