//! What a shard asked for and what it was told, and the rules that the order of both must keep.
//!
//! It judges every case, whatever the case itself looks at. It knows no driver, and collects violations instead of
//! panicking, so that the canaries can read them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;

use corecast_driver::{Batch, CloseCause, ConnId, Event, IoStats};

/// All that happened in one shard.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    connections_max: u32,
    pub(crate) lives: HashMap<ConnId, Life>,
    /// The connections in the order in which they were accepted.
    pub(crate) order: Vec<ConnId>,
    /// The last connection of each slot.
    slots: HashMap<u32, ConnId>,
    /// Batches that were given for connections which had ended, or were about to.
    late: Vec<(ConnId, Carried)>,
    pub(crate) late_results: Vec<Result<(), i32>>,
    pub(crate) violations: Vec<String>,
    pub(crate) ticks: u64,
    pub(crate) stats: IoStats,
}

/// One connection, from `Accepted` to `Closed`.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) peer: SocketAddr,
    pub(crate) data: Vec<u8>,
    pub(crate) is_eof: bool,
    pub(crate) sent: Vec<Result<(), i32>>,
    pub(crate) pauses: usize,
    pub(crate) closed: Option<CloseCause>,
    in_flight: Option<Carried>,
    wants_pause: bool,
    /// `Paused` was taken, and reading was not resumed since.
    pub(crate) is_paused: bool,
    is_close_asked: bool,
}

/// A batch's identity: where its first bytes are and how many it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Carried(usize, usize);

impl Carried {
    fn of(batch: &Batch) -> Self {
        Self(batch.slice(0).as_ptr() as usize, batch.len())
    }
}

impl Recorder {
    pub(crate) fn new(connections_max: u32) -> Self {
        Self { connections_max, ..Self::default() }
    }

    fn violated(&mut self, conn: ConnId, what: &str) {
        self.violations.push(format!("{what} ({conn:?})"));
    }

    fn open(&mut self, conn: ConnId) -> Option<&mut Life> {
        self.lives.get_mut(&conn).filter(|life| life.closed.is_none())
    }

    /// Connections whose `Closed` was not taken yet.
    pub(crate) fn live(&self) -> usize {
        self.lives.values().filter(|life| life.closed.is_none()).count()
    }

    /// The shard is about to send.
    pub(crate) fn sends(&mut self, conn: ConnId, batch: &Batch) {
        let carried = Carried::of(batch);
        match self.open(conn) {
            Some(life) if !life.is_close_asked => {
                assert!(life.in_flight.is_none(), "the script has two batches in flight on {conn:?}");
                life.in_flight = Some(carried);
            }
            _ => self.late.push((conn, carried)),
        }
    }

    pub(crate) fn pauses(&mut self, conn: ConnId) {
        let Some(life) = self.open(conn) else { return };
        if !life.wants_pause && !life.is_close_asked {
            life.wants_pause = true;
        }
    }

    pub(crate) fn resumes(&mut self, conn: ConnId) {
        let Some(life) = self.open(conn) else { return };
        life.wants_pause = false;
        life.is_paused = false;
    }

    pub(crate) fn closes(&mut self, conn: ConnId) {
        if let Some(life) = self.open(conn) {
            life.is_close_asked = true;
        }
    }

    /// The shard took an event.
    pub(crate) fn takes<L: Deref<Target = [u8]>>(&mut self, event: &Event<L>) {
        match event {
            Event::Accepted { conn, peer } => self.accepted(*conn, *peer),
            Event::Data { conn, bytes } => self.data(*conn, bytes),
            Event::Eof { conn } => self.eof(*conn),
            Event::Paused { conn } => self.paused(*conn),
            Event::Sent { conn, batch, result } => self.sent(*conn, Carried::of(batch), *result),
            Event::Closed { conn, why } => self.closed(*conn, *why),
        }
    }

    fn accepted(&mut self, conn: ConnId, peer: SocketAddr) {
        if conn.index >= self.connections_max {
            self.violated(conn, "a slot beyond the table");
        }
        if self.lives.contains_key(&conn) {
            return self.violated(conn, "Accepted twice");
        }
        if let Some(earlier) = self.slots.insert(conn.index, conn) {
            if earlier.generation >= conn.generation {
                self.violated(conn, "a generation that does not rise");
            }
            if self.lives[&earlier].closed.is_none() {
                self.violated(conn, "a slot reused before Closed");
            }
        }
        self.order.push(conn);
        let life = Life {
            peer,
            data: Vec::new(),
            is_eof: false,
            sent: Vec::new(),
            pauses: 0,
            closed: None,
            in_flight: None,
            wants_pause: false,
            is_paused: false,
            is_close_asked: false,
        };
        self.lives.insert(conn, life);
    }

    /// The connection of an event that only an open one may have.
    fn subject(&mut self, conn: ConnId, what: &str) -> Option<&mut Life> {
        match self.lives.get(&conn).map(|life| life.closed.is_some()) {
            None => self.violated(conn, &format!("{what} before Accepted")),
            Some(true) => self.violated(conn, &format!("{what} after Closed")),
            Some(false) => {}
        }
        self.open(conn)
    }

    fn data(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(life) = self.subject(conn, "Data") else { return };
        life.data.extend_from_slice(bytes);
        let rules = [
            (bytes.is_empty(), "Data without bytes"),
            (life.is_eof, "Data after Eof"),
            (life.is_paused, "Data after Paused"),
            (life.is_close_asked, "Data after close"),
        ];
        for (_, what) in rules.into_iter().filter(|(is_broken, _)| *is_broken) {
            self.violated(conn, what);
        }
    }

    fn eof(&mut self, conn: ConnId) {
        let Some(life) = self.subject(conn, "Eof") else { return };
        let is_second = std::mem::replace(&mut life.is_eof, true);
        let (is_late, is_paused) = (life.is_close_asked, life.is_paused);
        if is_second {
            self.violated(conn, "Eof twice");
        }
        if is_paused {
            self.violated(conn, "Eof after Paused");
        }
        if is_late {
            self.violated(conn, "Eof after close");
        }
    }

    fn paused(&mut self, conn: ConnId) {
        let Some(life) = self.subject(conn, "Paused") else { return };
        life.pauses += 1;
        let is_second = std::mem::replace(&mut life.is_paused, true);
        let is_wanted = life.wants_pause;
        if is_second {
            self.violated(conn, "Paused twice");
        }
        if !is_wanted {
            self.violated(conn, "Paused without pause");
        }
    }

    fn sent(&mut self, conn: ConnId, carried: Carried, result: Result<(), i32>) {
        if let Some(place) = self.late.iter().position(|late| *late == (conn, carried)) {
            self.late.swap_remove(place);
            self.late_results.push(result);
            if result.is_ok() {
                self.violated(conn, "sent to a connection that had ended");
            }
            return;
        }
        let Some(life) = self.subject(conn, "Sent") else { return };
        let expected = life.in_flight.take();
        life.sent.push(result);
        match expected {
            None => self.violated(conn, "Sent without send"),
            Some(it) if it != carried => self.violated(conn, "Sent hands back another batch"),
            Some(_) => {}
        }
    }

    fn closed(&mut self, conn: ConnId, why: CloseCause) {
        let Some(life) = self.subject(conn, "Closed") else { return };
        life.closed = Some(why);
        let (is_kept, is_asked) = (life.in_flight.is_some(), life.is_close_asked);
        if is_kept {
            self.violated(conn, "Closed before the batch was handed back");
        }
        if why == CloseCause::Local && !is_asked {
            self.violated(conn, "closed as if the shard had asked for it");
        }
    }

    /// What must hold once everything that was asked for has happened.
    pub(crate) fn settled(&mut self) {
        if !self.late.is_empty() {
            self.violations.push(format!("batches never handed back: {:?}", self.late));
        }
        let mut unanswered: Vec<ConnId> = Vec::new();
        for (conn, life) in &self.lives {
            if life.closed.is_none() && life.wants_pause && !life.is_paused && !life.is_close_asked {
                unanswered.push(*conn);
            }
        }
        for conn in unanswered {
            self.violated(conn, "pause without Paused");
        }
    }
}
