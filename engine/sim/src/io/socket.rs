//! One socket as the kernel sees it: what is being sent, what is being read, and what the shard has not heard yet.

use std::collections::VecDeque;
use std::rc::Rc;

use corecast_driver::{Batch, Close, CloseCause, ConnId, Event};

use super::{IoConfig, Pool, SimLease};
use crate::chaos::{Chaos, Fault};
use crate::net::{LinkId, Net};

/// `ECONNRESET` and `ECANCELED`.
const ECONNRESET: i32 = 104;
const ECANCELED: i32 = 125;

/// Buffers that one socket fills before the shard looks.
const READS_PER_ADVANCE: usize = 4;

/// Ticks that a completion is late at most.
const DELAY_MAX: usize = 40;

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) conn: ConnId,
    link: LinkId,
    events: VecDeque<Event<SimLease>>,
    /// The first tick in which the shard sees `events`.
    visible_at: u64,
    sending: Option<Sending>,
    is_reading: bool,
    /// The tick in which reading was asked to stop, until that is answered.
    pausing_since: Option<u64>,
    has_told_eof: bool,
    is_finished: bool,
    closing: Option<Close>,
    /// `Closed` was queued as the last event.
    is_closed: bool,
}

#[derive(Debug)]
struct Sending {
    batch: Batch,
    /// Pieces of the batch that were taken, and bytes of the next one.
    piece: usize,
    at: usize,
}

impl Socket {
    pub(super) fn new(conn: ConnId, link: LinkId) -> Self {
        Self {
            conn,
            link,
            events: VecDeque::new(),
            visible_at: 0,
            sending: None,
            is_reading: true,
            pausing_since: None,
            has_told_eof: false,
            is_finished: false,
            closing: None,
            is_closed: false,
        }
    }

    /// Queues an event; it may be late.
    pub(super) fn tell(&mut self, event: Event<SimLease>, chaos: &mut Chaos, tick: u64) {
        if self.events.is_empty() {
            self.visible_at = tick;
        }
        if chaos.strikes(Fault::DelayedCompletion) {
            self.visible_at = tick + chaos.below(Fault::DelayedCompletion, DELAY_MAX) as u64;
        }
        self.events.push_back(event);
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn is_visible(&self, tick: u64) -> bool {
        !self.events.is_empty() && self.visible_at <= tick
    }

    pub(super) fn take(&mut self, out: &mut VecDeque<Event<SimLease>>, tick: u64) -> usize {
        if !self.is_visible(tick) {
            return 0;
        }
        let count = self.events.len();
        out.append(&mut self.events);
        count
    }

    /// Whether the shard has heard the last of it.
    pub(super) fn is_over(&self) -> bool {
        self.is_closed && self.events.is_empty()
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    pub(super) fn can_send(&self) -> bool {
        !self.is_finished && self.closing.is_none() && !self.is_closed
    }

    pub(super) fn send(&mut self, batch: Batch) {
        self.sending = Some(Sending { batch, piece: 0, at: 0 });
    }

    pub(super) fn pause(&mut self, tick: u64) {
        if self.is_reading && self.pausing_since.is_none() {
            self.pausing_since = Some(tick);
        }
    }

    pub(super) fn resume(&mut self) {
        self.is_reading = true;
        self.pausing_since = None;
    }

    pub(super) fn finish(&mut self) {
        self.is_finished = true;
    }

    pub(super) fn close(&mut self, how: Close) {
        if self.closing != Some(Close::Reset) {
            self.closing = Some(how);
        }
        // What was read before is not told any more.
        self.events.retain(|event| !matches!(event, Event::Data { .. } | Event::Eof { .. }));
    }

    /// What it waits for, for reports.
    pub(super) fn describe(&self, net: &mut Net) -> String {
        let link = net.at(self.link);
        let (reading, sending) = (self.is_reading, self.sending.is_some());
        format!(
            "slot {}: reading {reading}, sending {sending}, closing {:?}, finished {}, {} events; client gone {}, \
             vanished {}, {} bytes up, {} down",
            self.conn.index,
            self.closing,
            self.is_finished,
            self.events.len(),
            link.client_gone,
            link.has_vanished,
            link.up.len(),
            link.down.len()
        )
    }

    /// What the kernel does with it by itself.
    pub(super) fn advance(
        &mut self,
        net: &mut Net,
        chaos: &mut Chaos,
        pool: &Rc<Pool>,
        config: &IoConfig,
        tick: u64,
    ) {
        if self.is_closed {
            return;
        }
        let link = net.at(self.link);
        // A reset is seen at once by who reads or sends, otherwise at the next try.
        let looks = self.is_reading || self.sending.is_some() || config.notices_resets_while_paused;
        let is_reset = link.up.reset || (link.client_gone && self.sending.is_some());
        if is_reset && looks && self.closing.is_none() && !self.reads_on(net) {
            if !self.is_reading && self.sending.is_some() && !config.notices_resets_while_paused {
                // Only the send fails: who is not read from is closed by the shard.
                return self.sent(Err(ECONNRESET), chaos, tick);
            }
            return self.fail(net, chaos, tick);
        }
        self.push_out(net, chaos, tick);
        if let Some(how) = self.closing {
            return self.end(how, net, chaos, tick);
        }
        if self.is_finished && self.sending.is_none() {
            net.at(self.link).down.fin = true;
        }
        self.pull_in(net, chaos, pool, config, tick);
        if let Some(since) = self.pausing_since
            && tick > since
        {
            self.pausing_since = None;
            self.is_reading = false;
            let conn = self.conn;
            self.tell(Event::Paused { conn }, chaos, tick);
        }
    }

    /// Whether bytes that came before a reset are still read: the kernel keeps them.
    fn reads_on(&self, net: &mut Net) -> bool {
        self.is_reading && !net.at(self.link).up.is_empty()
    }

    fn push_out(&mut self, net: &mut Net, chaos: &mut Chaos, tick: u64) {
        let Some(sending) = &mut self.sending else { return };
        let down = &mut net.at(self.link).down;
        let mut limit = usize::MAX;
        if chaos.would_strike(Fault::ShortWrite) && sending.batch.len() > 1 {
            limit = 1 + chaos.below(Fault::ShortWrite, sending.batch.len());
        }
        while sending.piece < sending.batch.pieces() && limit > 0 {
            let bytes = &sending.batch.slice(sending.piece)[sending.at..];
            let taken = down.write(&bytes[..bytes.len().min(limit)]);
            limit -= taken;
            sending.at += taken;
            if taken < bytes.len() {
                break;
            }
            (sending.piece, sending.at) = (sending.piece + 1, 0);
        }
        if sending.piece < sending.batch.pieces() {
            if limit == 0 {
                chaos.note(Fault::ShortWrite);
            }
            return;
        }
        self.sent(Ok(()), chaos, tick);
    }

    fn sent(&mut self, result: Result<(), i32>, chaos: &mut Chaos, tick: u64) {
        if let Some(Sending { batch, .. }) = self.sending.take() {
            let conn = self.conn;
            self.tell(Event::Sent { conn, batch, result }, chaos, tick);
        }
    }

    fn pull_in(&mut self, net: &mut Net, chaos: &mut Chaos, pool: &Rc<Pool>, config: &IoConfig, tick: u64) {
        let conn = self.conn;
        for _ in 0..READS_PER_ADVANCE {
            let up = &mut net.at(self.link).up;
            if !self.is_reading || self.has_told_eof {
                return;
            }
            if up.is_empty() {
                if up.fin && !up.reset {
                    self.has_told_eof = true;
                    self.tell(Event::Eof { conn }, chaos, tick);
                }
                return;
            }
            let Some(mut lease) = pool.lend() else { return };
            let mut count = config.buffer_bytes.min(up.len());
            if chaos.would_strike(Fault::ShortRead) && count > 1 {
                count = 1 + chaos.below(Fault::ShortRead, count - 1);
                chaos.note(Fault::ShortRead);
            }
            up.read(lease.bytes(), count);
            self.tell(Event::Data { conn, bytes: lease }, chaos, tick);
        }
    }

    /// The peer reset the connection.
    fn fail(&mut self, net: &mut Net, chaos: &mut Chaos, tick: u64) {
        self.sent(Err(ECONNRESET), chaos, tick);
        self.closed(CloseCause::Error(ECONNRESET), net, chaos, tick);
    }

    /// The shard closes it: at once, or after what is in flight.
    fn end(&mut self, how: Close, net: &mut Net, chaos: &mut Chaos, tick: u64) {
        let link = net.at(self.link);
        let is_broken = link.up.reset || link.client_gone;
        if how == Close::Graceful && self.sending.is_some() && !is_broken {
            return;
        }
        // Unread bytes of the peer make the kernel reset it, and what is under way to it may be lost.
        if how == Close::Reset || !link.up.is_empty() {
            let kept = chaos.below(Fault::PeerReset, link.down.len() + 1);
            link.down.truncate(kept);
            link.down.reset = true;
        } else {
            link.down.fin = true;
        }
        self.sent(Err(ECANCELED), chaos, tick);
        self.closed(CloseCause::Local, net, chaos, tick);
    }

    fn closed(&mut self, why: CloseCause, net: &mut Net, chaos: &mut Chaos, tick: u64) {
        let conn = self.conn;
        self.tell(Event::Closed { conn, why }, chaos, tick);
        self.is_closed = true;
        net.at(self.link).server_gone = true;
        net.sweep(self.link);
    }
}
