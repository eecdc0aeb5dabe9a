//! One connection: what its task does when the socket is ready, and what the shard asks of it.
//!
//! A send is tried at once, in the shard's turn; what the socket does not take is finished by the connection's task.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ::glommio::net::TcpStream;
use futures_io::{AsyncRead, AsyncWrite};

use super::state::State;
use crate::api::{Close, CloseCause, ConnId, Event};
use crate::buffers::{BATCH_BYTES_MAX, Batch};
use crate::sys::reset_on_close;

/// Full buffers read of one connection in a row: its neighbours come first after that.
const READS_MAX: usize = 4;

/// One slot of the table.
#[derive(Debug, Default)]
pub(super) struct Slot {
    generation: u32,
    stream: Option<TcpStream>,
    /// Wakes the connection's task.
    task: Option<Waker>,
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

    fn reads(&self) -> bool {
        !self.is_eof && !self.is_paused && !self.is_starved && self.closing.is_none()
    }
}

/// A connection's task, from the first read to the end.
pub(super) async fn attend(state: Rc<RefCell<State>>, conn: ConnId) {
    poll_fn(|cx| state.borrow_mut().attend(conn, cx)).await;
    state.borrow_mut().tasks -= 1;
}

/// What is left of a batch after `sent` bytes: one piece as it is, several copied together, for a stream of glommio
/// takes one slice at a time.
fn rest_of<'a>(batch: &'a Batch, sent: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if batch.pieces() == 1 {
        return &batch.slice(0)[sent..];
    }
    scratch.clear();
    let mut skip = sent;
    for index in 0..batch.pieces() {
        let piece = batch.slice(index);
        let skipped = skip.min(piece.len());
        skip -= skipped;
        let room = BATCH_BYTES_MAX - scratch.len();
        let piece = &piece[skipped..];
        scratch.extend_from_slice(&piece[..piece.len().min(room)]);
        if scratch.len() == BATCH_BYTES_MAX {
            break;
        }
    }
    scratch
}

impl State {
    fn slot(&mut self, conn: ConnId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(conn.index as usize)?;
        (slot.stream.is_some() && slot.generation == conn.generation).then_some(slot)
    }

    pub(super) fn id(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.slots[index as usize].generation }
    }

    pub(super) fn wake_task(&mut self, conn: ConnId) {
        if let Some(task) = self.slot(conn).and_then(|slot| slot.task.as_ref()) {
            task.wake_by_ref();
        }
    }

    /// Does what the socket allows; ready when the connection is gone.
    fn attend(&mut self, conn: ConnId, cx: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = self.slot(conn) else { return Poll::Ready(()) };
        if !slot.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            slot.task = Some(cx.waker().clone());
        }
        self.stats.completions += 1;
        let before = self.events.len();
        self.go_on_sending(conn);
        self.read(conn, cx);
        if self.events.len() > before {
            self.notify();
        }
        if self.slot(conn).is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn read(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        // After a short read glommio polls the socket by itself: reading again only makes it remember whom to wake.
        let mut is_ready = true;
        let mut reads = 0;
        while reads < READS_MAX {
            if !self.slot(conn).is_some_and(|slot| slot.reads()) {
                return;
            }
            let Some(mut lease) = self.buffers.lend() else {
                self.slots[conn.index as usize].is_starved = true;
                self.starved.push(conn.index);
                if is_ready {
                    self.stats.buffer_shortages += 1;
                    self.notify();
                }
                return;
            };
            let size = lease.len();
            let Some(stream) = self.slot(conn).and_then(|slot| slot.stream.as_mut()) else { return };
            match Pin::new(stream).poll_read(cx, &mut lease) {
                Poll::Pending => {
                    // It may have been the last buffer, and others wait for one.
                    if !self.starved.is_empty() {
                        self.notify();
                    }
                    return;
                }
                Poll::Ready(Ok(0)) => {
                    self.stats.enters += 1;
                    self.slots[conn.index as usize].is_eof = true;
                    return self.events.push_back(Event::Eof { conn });
                }
                Poll::Ready(Ok(length)) => {
                    self.stats.enters += 1;
                    is_ready = length == size;
                    reads += usize::from(is_ready);
                    self.events.push_back(Event::Data { conn, bytes: lease.shortened(length) });
                }
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => {
                    return self.failed(conn, error.raw_os_error().unwrap_or(libc::EIO));
                }
            }
        }
        self.unfinished.push(conn);
        self.notify();
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
        self.go_on_sending(conn);
    }

    /// Sends as much as the socket takes; it wakes the connection's task when it takes more.
    fn go_on_sending(&mut self, conn: ConnId) {
        let Self { slots, scratch, stats, .. } = self;
        let slot = &mut slots[conn.index as usize];
        let result = loop {
            let (Some(stream), Some(batch)) = (&mut slot.stream, &slot.batch) else { return };
            // Without a task yet, its first turn tries again.
            let mut cx = Context::from_waker(slot.task.as_ref().unwrap_or(Waker::noop()));
            stats.enters += 1;
            let rest = rest_of(batch, slot.sent, scratch);
            match Pin::new(stream).poll_write(&mut cx, rest) {
                Poll::Pending => return,
                Poll::Ready(Ok(sent)) => {
                    slot.sent += sent;
                    if slot.sent == batch.len() {
                        break Ok(());
                    }
                }
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => break Err(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        };
        self.sent(conn, result);
    }

    /// Hands the batch back, and does what waited for it.
    fn sent(&mut self, conn: ConnId, result: Result<(), i32>) {
        let Some(slot) = self.slot(conn) else { return };
        let Some(batch) = slot.batch.take() else { return };
        let (closing, wants_finish) = (slot.closing, slot.wants_finish);
        self.events.push_back(Event::Sent { conn, batch, result });
        if let Some(how) = closing {
            self.end(conn, how, CloseCause::Local);
        } else if wants_finish {
            self.shut_down(conn);
        }
    }

    pub(super) fn pause_reading(&mut self, conn: ConnId) {
        let Some(slot) = self.slot(conn) else { return };
        if slot.is_paused || slot.closing.is_some() {
            return;
        }
        slot.is_paused = true;
        slot.owes_paused = true;
        if std::mem::take(&mut slot.is_starved) {
            self.starved.retain(|index| *index != conn.index);
        }
        self.pausing.push(conn);
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
        slot.owes_paused = false;
        if std::mem::take(&mut slot.is_paused) {
            self.wake_task(conn);
        }
    }

    pub(super) fn start_finish(&mut self, conn: ConnId) {
        let Some(slot) = self.slot(conn) else { return };
        if slot.wants_finish || slot.closing.is_some() {
            return;
        }
        slot.wants_finish = true;
        if slot.batch.is_none() {
            self.shut_down(conn);
        }
    }

    fn shut_down(&mut self, conn: ConnId) {
        self.stats.enters += 1;
        let Some(stream) = self.slot(conn).and_then(|slot| slot.stream.as_mut()) else { return };
        // A peer that is gone already needs no FIN. glommio shuts down at once, without waiting.
        let _result = Pin::new(stream).poll_close(&mut Context::from_waker(Waker::noop()));
    }

    pub(super) fn start_close(&mut self, conn: ConnId, how: Close) {
        let Some(slot) = self.slot(conn) else { return };
        if slot.closing == Some(Close::Reset) || (slot.closing.is_some() && how == Close::Graceful) {
            return;
        }
        slot.closing = Some(how);
        if slot.batch.is_none() {
            self.end(conn, how, CloseCause::Local);
        } else if how == Close::Reset {
            self.sent(conn, Err(libc::ECANCELED));
        }
    }

    /// The network or the peer ended the connection.
    fn failed(&mut self, conn: ConnId, errno: i32) {
        if let Some(batch) = self.slots[conn.index as usize].batch.take() {
            self.events.push_back(Event::Sent { conn, batch, result: Err(errno) });
        }
        self.end(conn, Close::Graceful, CloseCause::Error(errno));
    }

    /// Closes the socket, frees the slot and ends the task.
    fn end(&mut self, conn: ConnId, how: Close, why: CloseCause) {
        let Some(slot) = self.slot(conn) else { return };
        let Slot { stream, task, is_starved, .. } = std::mem::take(slot);
        slot.generation = conn.generation.wrapping_add(1);
        if how == Close::Reset
            && let Some(stream) = &stream
        {
            reset_on_close(stream);
        }
        // The poll that is under way keeps the socket until it is cancelled, with the next look at the rings.
        drop(stream);
        self.stats.enters += 1;
        if is_starved {
            self.starved.retain(|it| *it != conn.index);
        }
        self.free.push(conn.index);
        self.events.push_back(Event::Closed { conn, why });
        if let Some(task) = task {
            task.wake();
        }
    }
}
