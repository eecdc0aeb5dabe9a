//! One connection's operations, from its first receive to its close: what may be in flight together, and in which
//! order a connection is taken down.
//!
//! Take-down: what is in flight is cancelled by its token and awaited; only then the slot is closed. Closing it
//! earlier would send no FIN, and a later cancel would hit the next connection of the slot.

use io_uring::types::Fixed;
use io_uring::{cqueue, opcode};

use super::UringIo;
use super::buffers::GROUP;
use super::ring::{Done, Op, Token};
use crate::api::{Close, CloseCause, ConnId, Event};
use crate::buffers::{BATCH_PIECES_MAX, Batch};

/// The driver's view of one slot of the table.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) is_live: bool,
    pub(super) is_starved: bool,
    is_recv_armed: bool,
    is_recv_cancelled: bool,
    is_eof: bool,
    wants_pause: bool,
    /// Nothing is left to wait for before `Paused`, which is told with the end of the turn.
    owes_paused: bool,
    wants_finish: bool,
    is_send_cancelled: bool,
    is_disconnected: bool,
    is_close_queued: bool,
    /// Operations in flight, the multishot receive counted once.
    in_flight: u8,
    closing: Option<Close>,
    error: Option<i32>,
    batch: Option<Batch>,
    sent: usize,
    gather: Option<Box<Gather>>,
}

impl Slot {
    /// The slot has a connection from here on.
    pub(super) fn open(&mut self) {
        *self = Self { generation: self.generation, is_live: true, ..Self::default() };
    }
}

/// What `sendmsg` points to while it is in flight.
pub(super) struct Gather {
    pieces: [libc::iovec; BATCH_PIECES_MAX],
    header: libc::msghdr,
}

impl std::fmt::Debug for Gather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gather").field("pieces", &self.header.msg_iovlen).finish_non_exhaustive()
    }
}

/// Unused ones kept, about 1 KiB each: a tick's worth of sends.
const GATHERS_KEPT: usize = 512;

/// `AF_UNSPEC`: connecting to it resets a TCP connection.
static NOWHERE: libc::sockaddr = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };

impl UringIo {
    fn slot(&mut self, conn: ConnId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(conn.index as usize)?;
        (slot.is_live && slot.generation == conn.generation).then_some(slot)
    }

    fn token(&self, op: Op, index: u32) -> Token {
        Token::new(op, self.slots[index as usize].generation, index)
    }

    /// The connection of a completion; `None` if it is of an earlier one.
    fn of(&mut self, token: Token) -> Option<(ConnId, &mut Slot)> {
        let conn = ConnId { index: token.index(), generation: token.generation() };
        let slot = self.slot(conn);
        debug_assert!(slot.is_some(), "a slot is closed only when nothing is in flight");
        slot.map(|slot| (conn, slot))
    }

    /// Whether a cancelled operation of a connection is still in flight.
    pub(super) fn awaits_cancelled(&mut self, token: Token) -> bool {
        let conn = ConnId { index: token.index(), generation: token.generation() };
        self.slot(conn).is_some_and(|slot| match token.op() {
            Op::Recv => slot.is_recv_armed && slot.is_recv_cancelled,
            Op::Send => slot.batch.is_some() && slot.is_send_cancelled,
            _ => false,
        })
    }

    pub(super) fn arm_recv(&mut self, index: u32) {
        let token = self.token(Op::Recv, index);
        let slot = &mut self.slots[index as usize];
        if !slot.is_live || slot.is_recv_armed || slot.is_eof || slot.wants_pause || slot.closing.is_some() {
            return;
        }
        slot.is_recv_armed = true;
        slot.is_recv_cancelled = false;
        slot.in_flight += 1;
        let entry = opcode::RecvMulti::new(Fixed(index), GROUP).build();
        // SAFETY: the entry points to nothing; the buffers belong to the ring.
        unsafe { self.ring.push(entry, token) };
    }

    pub(super) fn received(&mut self, done: Done) {
        let lease =
            cqueue::buffer_select(done.flags).map(|id| self.buffers.lend(id, done.result.max(0) as usize));
        let has_more = cqueue::more(done.flags);
        let Some((conn, slot)) = self.of(done.token) else { return };
        if !has_more {
            slot.is_recv_armed = false;
            slot.in_flight -= 1;
        }
        let (is_closing, wants_pause) = (slot.closing.is_some(), slot.wants_pause);
        match (done.result, lease) {
            (1.., Some(bytes)) if !is_closing => self.events.push_back(Event::Data { conn, bytes }),
            (1.., _) => {}
            (0, _) => {
                slot.is_eof = true;
                if !is_closing {
                    self.events.push_back(Event::Eof { conn });
                }
            }
            (error, _) if error == -libc::ENOBUFS => {
                if !is_closing && !wants_pause && !has_more {
                    slot.is_starved = true;
                    self.starved.push(conn.index);
                }
                self.stats.buffer_shortages += 1;
            }
            (error, _) if error == -libc::ECANCELED || error == -libc::EINTR => {}
            (error, _) => {
                slot.error.get_or_insert(-error);
                slot.closing.get_or_insert(Close::Reset);
            }
        }
        if has_more {
            return;
        }
        let slot = &mut self.slots[conn.index as usize];
        if slot.closing.is_some() {
            self.progress(conn.index);
        } else if slot.wants_pause {
            self.events.push_back(Event::Paused { conn });
        } else if !slot.is_starved {
            self.arm_recv(conn.index);
        }
    }

    pub(super) fn pause_reading(&mut self, conn: ConnId) {
        let Some(slot) = self.slot(conn) else { return };
        if slot.wants_pause || slot.closing.is_some() {
            return;
        }
        slot.wants_pause = true;
        if !slot.is_recv_armed {
            slot.owes_paused = true;
            slot.is_starved = false;
            self.starved.retain(|index| *index != conn.index);
            self.pausing.push(conn);
        } else if !slot.is_recv_cancelled {
            slot.is_recv_cancelled = true;
            let token = self.token(Op::Recv, conn.index);
            self.ring.cancel(token);
        }
    }

    /// Answers the pauses of this turn that were not taken back in it: an answer to an earlier one would be taken for
    /// the answer to the last.
    pub(super) fn answer_pauses(&mut self) {
        let mut pausing = std::mem::take(&mut self.pausing);
        for conn in pausing.drain(..) {
            let Some(slot) = self.slot(conn) else { continue };
            if std::mem::take(&mut slot.owes_paused) && slot.closing.is_none() {
                self.events.push_back(Event::Paused { conn });
            }
        }
        self.pausing = pausing;
    }

    pub(super) fn resume_reading(&mut self, conn: ConnId) {
        let Some(slot) = self.slot(conn).filter(|slot| slot.wants_pause) else { return };
        slot.wants_pause = false;
        slot.owes_paused = false;
        // Where the cancelled receive is still awaited, its end arms the next one.
        self.arm_recv(conn.index);
    }

    pub(super) fn start_send(&mut self, conn: ConnId, batch: Batch) {
        let refusal = match self.slot(conn) {
            None => Some(libc::ENOTCONN),
            Some(slot) if slot.closing.is_some() || slot.wants_finish => Some(libc::EPIPE),
            Some(slot) => {
                // The kernel reads from the one that is in flight.
                assert!(slot.batch.is_none(), "one batch in flight per connection");
                None
            }
        };
        if let Some(errno) = refusal {
            self.events.push_back(Event::Sent { conn, batch, result: Err(errno) });
            return;
        }
        let slot = &mut self.slots[conn.index as usize];
        slot.batch = Some(batch);
        slot.sent = 0;
        slot.is_send_cancelled = false;
        self.stats.sends += 1;
        self.push_send(conn.index);
    }

    /// Queues a send of what is left of the batch.
    fn push_send(&mut self, index: u32) {
        let token = self.token(Op::Send, index);
        let slot = &mut self.slots[index as usize];
        let Some(batch) = &slot.batch else { return };
        slot.in_flight += 1;
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let entry = if batch.pieces() == 1 {
            let rest = &batch.slice(0)[slot.sent..];
            opcode::Send::new(Fixed(index), rest.as_ptr(), rest.len() as u32).flags(flags).build()
        } else {
            let gather = slot.gather.get_or_insert_with(|| self.gathers.pop().unwrap_or_else(Gather::new));
            gather.fill(batch, slot.sent);
            opcode::SendMsg::new(Fixed(index), &raw const gather.header).flags(flags as u32).build()
        };
        // SAFETY: a batch's slices stay where they are until it is dropped, and it stays in the slot until this
        // completes; the vector of pieces is boxed and stays in the slot as well.
        unsafe { self.ring.push(entry, token) };
    }

    pub(super) fn send_done(&mut self, done: Done) {
        let Some((conn, slot)) = self.of(done.token) else { return };
        slot.in_flight -= 1;
        let Some(batch) = slot.batch.take() else { return };
        let mut result = Ok(());
        if done.result >= 0 {
            slot.sent += done.result as usize;
            if slot.sent < batch.len() && !slot.is_send_cancelled {
                slot.batch = Some(batch);
                self.push_send(conn.index);
                return;
            }
            if slot.sent < batch.len() {
                result = Err(libc::ECANCELED);
            }
        } else {
            result = Err(-done.result);
        }
        let (is_closing, wants_finish) = (slot.closing.is_some(), slot.wants_finish);
        if let Some(gather) = slot.gather.take()
            && self.gathers.len() < GATHERS_KEPT
        {
            self.gathers.push(gather);
        }
        self.events.push_back(Event::Sent { conn, batch, result });
        if is_closing {
            self.progress(conn.index);
        } else if wants_finish {
            self.push_shutdown(conn.index);
        }
    }

    pub(super) fn start_finish(&mut self, conn: ConnId) {
        let Some(slot) = self.slot(conn) else { return };
        if slot.wants_finish || slot.closing.is_some() {
            return;
        }
        slot.wants_finish = true;
        if slot.batch.is_none() {
            self.push_shutdown(conn.index);
        }
    }

    fn push_shutdown(&mut self, index: u32) {
        let token = self.token(Op::Shutdown, index);
        self.slots[index as usize].in_flight += 1;
        let entry = opcode::Shutdown::new(Fixed(index), libc::SHUT_WR).build();
        // SAFETY: the entry holds no pointers.
        unsafe { self.ring.push(entry, token) };
    }

    pub(super) fn start_close(&mut self, conn: ConnId, how: Close) {
        let Some(slot) = self.slot(conn) else { return };
        // A reset may overtake a graceful close that waits for a slow peer.
        if slot.closing == Some(Close::Reset) || (slot.closing.is_some() && how == Close::Graceful) {
            return;
        }
        slot.closing = Some(how);
        self.progress(conn.index);
    }

    /// A shutdown or a disconnect is done; whether it worked does not matter any more.
    pub(super) fn step_done(&mut self, token: Token) {
        let Some((conn, slot)) = self.of(token) else { return };
        slot.in_flight -= 1;
        if slot.closing.is_some() {
            self.progress(conn.index);
        }
    }

    /// The next step of taking a connection down.
    fn progress(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(how) = slot.closing else { return };
        if how == Close::Graceful && slot.batch.is_some() {
            return;
        }
        let cancels_recv = slot.is_recv_armed && !slot.is_recv_cancelled;
        let cancels_send = slot.batch.is_some() && !slot.is_send_cancelled;
        slot.is_recv_cancelled |= cancels_recv;
        slot.is_send_cancelled |= cancels_send;
        let is_done = slot.in_flight == 0 && !slot.is_close_queued;
        if cancels_recv {
            let token = self.token(Op::Recv, index);
            self.ring.cancel(token);
        }
        if cancels_send {
            let token = self.token(Op::Send, index);
            self.ring.cancel(token);
        }
        if is_done {
            self.push_last(index, how);
        }
    }

    /// Nothing is in flight: disconnect if it is to be a reset, then close.
    fn push_last(&mut self, index: u32, how: Close) {
        let slot = &mut self.slots[index as usize];
        slot.in_flight += 1;
        if how == Close::Reset && !slot.is_disconnected && slot.error.is_none() {
            slot.is_disconnected = true;
            let length = size_of::<libc::sockaddr>() as libc::socklen_t;
            let entry = opcode::Connect::new(Fixed(index), &raw const NOWHERE, length).build();
            let token = self.token(Op::Disconnect, index);
            // SAFETY: the address is static.
            unsafe { self.ring.push(entry, token) };
            return;
        }
        slot.is_close_queued = true;
        self.ending.push_back(index);
        self.end_some(self.closes_left);
    }

    /// Closes slots that have nothing in flight, so many in this turn from here on.
    pub(super) fn end_some(&mut self, closes_left: usize) {
        self.closes_left = closes_left;
        while self.closes_left > 0
            && let Some(index) = self.ending.pop_front()
        {
            self.closes_left -= 1;
            let entry = opcode::Close::new(Fixed(index)).build();
            let token = self.token(Op::Close, index);
            // SAFETY: the entry holds no pointers.
            unsafe { self.ring.push(entry, token) };
        }
    }

    pub(super) fn close_done(&mut self, token: Token) {
        let Some((conn, slot)) = self.of(token) else { return };
        let why = slot.error.map_or(CloseCause::Local, CloseCause::Error);
        let generation = slot.generation.wrapping_add(1);
        if std::mem::take(&mut slot.is_starved) {
            self.starved.retain(|index| *index != conn.index);
        }
        self.slots[conn.index as usize] = Slot { generation, ..Slot::default() };
        self.live -= 1;
        self.free.push(conn.index);
        self.events.push_back(Event::Closed { conn, why });
    }
}

impl Gather {
    fn new() -> Box<Self> {
        // SAFETY: vectors without pieces and a header of zeros point to nothing.
        Box::new(unsafe { std::mem::zeroed() })
    }

    /// Points to what is left of a batch after `sent` bytes.
    fn fill(&mut self, batch: &Batch, sent: usize) {
        let mut skip = sent;
        let mut count = 0;
        for index in 0..batch.pieces().min(BATCH_PIECES_MAX) {
            let piece = batch.slice(index);
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let rest = &piece[skip..];
            skip = 0;
            self.pieces[count] =
                libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
            count += 1;
        }
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = count;
    }
}
