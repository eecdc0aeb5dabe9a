//! One connection of the epoll driver: what is wanted of its socket, and what follows from readiness.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use super::{EpollIo, sys};
use crate::api::{Close, CloseCause, ConnId, Event};
use crate::buffers::Batch;
use crate::sys::reset_on_close;

/// Reads of one connection per readiness: its neighbours come first after that.
const READS_MAX: usize = 4;

/// One slot of the table.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) generation: u32,
    stream: Option<TcpStream>,
    /// What epoll watches for now.
    interest: i32,
    is_eof: bool,
    is_paused: bool,
    /// `Paused` is told with the end of the turn.
    owes_paused: bool,
    pub(super) is_starved: bool,
    wants_finish: bool,
    closing: Option<Close>,
    batch: Option<Batch>,
    sent: usize,
}

impl Slot {
    pub(super) fn open(generation: u32, stream: TcpStream) -> Self {
        Self { generation, stream: Some(stream), ..Self::default() }
    }

    /// What epoll should watch for.
    fn wanted(&self) -> i32 {
        let reads = !self.is_eof && !self.is_paused && !self.is_starved && self.closing.is_none();
        let writes = self.batch.is_some();
        (if reads { libc::EPOLLIN } else { 0 }) | (if writes { libc::EPOLLOUT } else { 0 })
    }
}

impl EpollIo {
    fn slot(&mut self, conn: ConnId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(conn.index as usize)?;
        (slot.stream.is_some() && slot.generation == conn.generation).then_some(slot)
    }

    fn id(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.slots[index as usize].generation }
    }

    /// Makes epoll watch for exactly what is wanted: a socket without interest is not even told of errors, which
    /// would be reported again and again.
    pub(super) fn update(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(stream) = &slot.stream else { return };
        let wanted = slot.wanted();
        if wanted == slot.interest {
            return;
        }
        let operation = match (slot.interest, wanted) {
            (0, _) => libc::EPOLL_CTL_ADD,
            (_, 0) => libc::EPOLL_CTL_DEL,
            _ => libc::EPOLL_CTL_MOD,
        };
        slot.interest = wanted;
        self.stats.enters += 1;
        let result = sys::epoll_control(&self.epoll, operation, stream.as_raw_fd(), wanted, u64::from(index));
        debug_assert!(result.is_ok(), "an open socket can be watched: {result:?}");
    }

    pub(super) fn is_ready(&mut self, index: u32, events: u32) {
        let events = events as i32;
        if events & libc::EPOLLOUT != 0 && self.slots[index as usize].batch.is_some() {
            self.go_on_sending(index);
        }
        let has_failed = events & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
        if events & libc::EPOLLIN != 0 || has_failed {
            self.read(index);
        }
        if has_failed && self.slots[index as usize].batch.is_some() {
            self.go_on_sending(index);
        }
        self.update(index);
    }

    fn read(&mut self, index: u32) {
        let conn = self.id(index);
        for _ in 0..READS_MAX {
            let slot = &mut self.slots[index as usize];
            if slot.is_eof || slot.is_paused || slot.is_starved || slot.closing.is_some() {
                return;
            }
            let Some(mut stream) = slot.stream.as_ref() else { return };
            let Some(mut lease) = self.buffers.lend() else {
                self.stats.buffer_shortages += 1;
                slot.is_starved = true;
                self.starved.push(index);
                return;
            };
            self.stats.enters += 1;
            let size = lease.len();
            let result = stream.read(&mut lease);
            match result {
                Ok(0) => {
                    slot.is_eof = true;
                    self.events.push_back(Event::Eof { conn });
                    return;
                }
                Ok(length) => {
                    self.events.push_back(Event::Data { conn, bytes: lease.shortened(length) });
                    if length < size {
                        return;
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    return;
                }
                Err(error) => return self.failed(index, error.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
    }

    pub(super) fn start_send(&mut self, conn: ConnId, batch: Batch) {
        let refusal = match self.slot(conn) {
            None => Some(libc::ENOTCONN),
            Some(slot) if slot.closing.is_some() || slot.wants_finish => Some(libc::EPIPE),
            Some(slot) => {
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
        self.stats.sends += 1;
        self.go_on_sending(conn.index);
        self.update(conn.index);
    }

    fn go_on_sending(&mut self, index: u32) {
        loop {
            let slot = &mut self.slots[index as usize];
            let (Some(stream), Some(batch)) = (&slot.stream, &slot.batch) else { return };
            self.stats.enters += 1;
            match sys::send(stream, batch, slot.sent) {
                Ok(sent) => {
                    slot.sent += sent;
                    if slot.sent == batch.len() {
                        return self.sent(index, Ok(()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.sent(index, Err(error.raw_os_error().unwrap_or(libc::EIO))),
            }
        }
    }

    /// Hands the batch back, and does what waited for it.
    fn sent(&mut self, index: u32, result: Result<(), i32>) {
        let conn = self.id(index);
        let slot = &mut self.slots[index as usize];
        let Some(batch) = slot.batch.take() else { return };
        let (closing, wants_finish) = (slot.closing, slot.wants_finish);
        self.events.push_back(Event::Sent { conn, batch, result });
        if let Some(how) = closing {
            self.end(index, how, CloseCause::Local);
        } else if wants_finish {
            self.shut_down(index);
        }
    }

    pub(super) fn pause_reading(&mut self, conn: ConnId) {
        let Some(slot) = self.slot(conn) else { return };
        if slot.is_paused || slot.closing.is_some() {
            return;
        }
        slot.is_paused = true;
        slot.owes_paused = true;
        slot.is_starved = false;
        self.starved.retain(|index| *index != conn.index);
        self.pausing.push(conn);
        self.update(conn.index);
    }

    /// Answers the pauses of this turn that were not taken back in it.
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
        let Some(slot) = self.slot(conn) else { return };
        slot.is_paused = false;
        slot.owes_paused = false;
        self.update(conn.index);
    }

    pub(super) fn start_finish(&mut self, conn: ConnId) {
        let Some(slot) = self.slot(conn) else { return };
        if slot.wants_finish || slot.closing.is_some() {
            return;
        }
        slot.wants_finish = true;
        if slot.batch.is_none() {
            self.shut_down(conn.index);
        }
    }

    fn shut_down(&mut self, index: u32) {
        if let Some(stream) = &self.slots[index as usize].stream {
            self.stats.enters += 1;
            // A peer that is gone already needs no FIN.
            let _result = stream.shutdown(Shutdown::Write);
        }
    }

    pub(super) fn start_close(&mut self, conn: ConnId, how: Close) {
        let Some(slot) = self.slot(conn) else { return };
        if slot.closing == Some(Close::Reset) || (slot.closing.is_some() && how == Close::Graceful) {
            return;
        }
        slot.closing = Some(how);
        if slot.batch.is_none() {
            self.end(conn.index, how, CloseCause::Local);
        } else if how == Close::Reset {
            self.sent(conn.index, Err(libc::ECANCELED));
        } else {
            self.update(conn.index);
        }
    }

    /// The network or the peer ended the connection.
    fn failed(&mut self, index: u32, errno: i32) {
        let slot = &mut self.slots[index as usize];
        let conn = ConnId { index, generation: slot.generation };
        if let Some(batch) = slot.batch.take() {
            self.events.push_back(Event::Sent { conn, batch, result: Err(errno) });
        }
        self.end(index, Close::Graceful, CloseCause::Error(errno));
    }

    /// Closes the socket and frees the slot.
    fn end(&mut self, index: u32, how: Close, why: CloseCause) {
        let conn = self.id(index);
        let slot = &mut self.slots[index as usize];
        let Some(stream) = slot.stream.take() else { return };
        if how == Close::Reset {
            reset_on_close(&stream);
        }
        // Closing takes it out of epoll as well.
        drop(stream);
        self.stats.enters += 1;
        let generation = slot.generation.wrapping_add(1);
        if slot.is_starved {
            self.starved.retain(|it| *it != index);
        }
        self.slots[index as usize] = Slot { generation, ..Slot::default() };
        self.free.push(index);
        self.events.push_back(Event::Closed { conn, why });
    }
}
