//! The io_uring driver: one ring per shard, sockets as direct descriptors, one system call per tick.
//!
//! Needs Linux 6.1; [`probe`] says what is missing. Sockets live in the ring's own table, so they cost no process
//! descriptors. All operations are queued during a tick and submitted together with the wait.

mod accept;
mod buffers;
mod conn;
mod probe;
mod ring;

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use io_uring::{opcode, types};

use crate::api::{
    Close, ConnId, Driver, DriverConfig, Event, Io, IoStats, Next, Shard, ShardId, WakeHandle, Waker,
};
use crate::buffers::Batch;
use crate::pace;
use accept::Accepts;
use buffers::RecvBuffers;
use conn::{Gather, Slot};
use ring::{Op, Ring, Token};

pub use buffers::Lease;
pub use probe::{Probe, probe};

/// How long a stopping driver waits for the kernel to let go of its memory.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The io_uring driver of one shard. Built and run on the shard's own thread.
#[derive(Debug)]
pub struct Uring {
    io: UringIo,
}

/// What the shard calls; see [`Io`].
#[derive(Debug)]
pub struct UringIo {
    shard: ShardId,
    ring: Ring,
    buffers: Rc<RecvBuffers>,
    slots: Vec<Slot>,
    live: usize,
    /// Slots without a connection and without an accept that may fill them; the last is used next.
    free: Vec<u32>,
    accepts: Accepts,
    events: VecDeque<Event<Lease>>,
    /// Connections that stopped reading because no buffer was left.
    starved: Vec<u32>,
    /// Connections that were paused in this turn and had nothing in flight.
    pausing: Vec<ConnId>,
    /// Slots that are to be closed, and how many may be in this turn.
    ending: VecDeque<u32>,
    closes_left: usize,
    /// Connections that may be taken, and closed, in this turn.
    pace: usize,
    #[expect(clippy::vec_box, reason = "the kernel has their addresses while they are in use")]
    gathers: Vec<Box<Gather>>,
    peers: Vec<WakeHandle>,
    wake_failures: Vec<ShardId>,
    waker: Waker,
    /// Where the eventfd's value is read to; boxed, for the kernel writes there.
    waker_value: Box<u64>,
    is_waker_armed: bool,
    is_stopping: bool,
    now: Instant,
    unix_ms: u64,
    stats: IoStats,
}

impl Uring {
    /// A ring with its buffers and tables; on the thread that will run it.
    ///
    /// # Errors
    /// `EPERM` or `ENOSYS` where io_uring is refused, `EMFILE` where `connections_max` is above `RLIMIT_NOFILE`,
    /// `ENOMEM` where locked memory is too short.
    pub fn new(config: DriverConfig) -> io::Result<Self> {
        if config.connections_max > Token::INDEX_MAX {
            let what = format!("at most {} connections per ring", Token::INDEX_MAX);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let ring = Ring::new(config.queue_entries, config.connections_max)?;
        let buffers = RecvBuffers::register(&ring, config.recv_buffers, config.recv_buffer_bytes)?;
        let waker = Waker(Arc::new(eventfd()?.into()));
        let slots = (0..config.connections_max).map(|_| Slot::default()).collect();
        let io = UringIo {
            shard: config.shard,
            ring,
            buffers,
            slots,
            live: 0,
            free: (0..config.connections_max).rev().collect(),
            accepts: Accepts::new(config.listener),
            events: VecDeque::with_capacity(1024),
            starved: Vec::new(),
            pausing: Vec::new(),
            ending: VecDeque::new(),
            closes_left: 0,
            pace: 0,
            gathers: Vec::new(),
            peers: Vec::new(),
            wake_failures: Vec::new(),
            waker,
            waker_value: Box::new(0),
            is_waker_armed: false,
            is_stopping: false,
            now: Instant::now(),
            unix_ms: 0,
            stats: IoStats::default(),
        };
        Ok(Self { io })
    }

    /// Bytes of one driver's rings that may count against the limit of locked memory (Linux 6.14 and later).
    pub fn locked_bytes(queue_entries: u32, recv_buffers: u16) -> u64 {
        let entries = u64::from(queue_entries.next_power_of_two());
        // 64 bytes per submission and 4 for its index, 16 per completion, 16 per receive buffer.
        entries * (64 + 4)
            + entries * u64::from(ring::COMPLETIONS_PER_SUBMISSION) * 16
            + u64::from(recv_buffers) * 16
    }
}

/// A blocking one: io_uring polls it, and never blocks on it.
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers; a non-negative result is a descriptor that nobody else owns.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

impl Driver for Uring {
    type Io = UringIo;

    fn wake_handle(&self) -> WakeHandle {
        self.io.ring.wake_handle()
    }

    fn waker(&self) -> Waker {
        self.io.waker.clone()
    }

    fn connect(&mut self, peers: Vec<WakeHandle>) {
        self.io.peers = peers;
    }

    fn run<S: Shard<UringIo>>(self, mut shard: S) -> io::Result<S> {
        // The kernel may use the buffers until every operation has completed. Where that can't be awaited, after an
        // error or a panic, leaking them is the only sound thing to do.
        let mut this = ManuallyDrop::new(self);
        let served = this.io.serve(&mut shard);
        let stopped = this.io.stop();
        if matches!(stopped, Ok(true)) {
            drop(ManuallyDrop::into_inner(this));
        }
        served.and(stopped)?;
        Ok(shard)
    }
}

impl UringIo {
    fn serve(&mut self, shard: &mut impl Shard<Self>) -> io::Result<()> {
        self.arm_waker();
        self.arm_accepts();
        loop {
            self.read_clocks();
            match shard.tick(self) {
                Next::Stop => return Ok(()),
                Next::Again => self.enter(Some(Duration::ZERO))?,
                Next::Park => self.enter(None)?,
                Next::Until(time) => {
                    let left = time.saturating_duration_since(Instant::now());
                    self.enter(Some(left))?;
                }
            }
        }
    }

    fn read_clocks(&mut self) {
        let now = Instant::now();
        self.pace = pace::connections(now.saturating_duration_since(self.now));
        self.now = now;
        self.unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64);
    }

    /// Submits what is queued, waits as told (`None`: for any completion), and acts on completions.
    fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.answer_pauses();
        self.feed_starved();
        self.arm_accepts();
        self.end_some(self.pace);
        let has_more = !self.events.is_empty() || !self.ending.is_empty();
        let wait = if has_more { Some(Duration::ZERO) } else { wait };
        let wait = [wait, self.accepts.rest(self.now)].into_iter().flatten().min();
        self.stats.enters += 1;
        self.ring.enter(wait)?;
        self.complete();
        Ok(())
    }

    fn complete(&mut self) {
        while let Some(done) = self.ring.next() {
            self.stats.completions += 1;
            match done.token.op() {
                Op::Recv => self.received(done),
                Op::Send => self.send_done(done),
                Op::Accept => self.accepted(done),
                Op::Shutdown | Op::Disconnect => self.step_done(done.token),
                Op::Close => self.close_done(done.token),
                Op::Wake => {
                    if done.result < 0 {
                        let shard = ShardId(done.token.index() as u16);
                        self.stats.wake_failures += 1;
                        self.wake_failures.push(shard);
                    }
                }
                Op::Waker => {
                    self.is_waker_armed = false;
                    if done.result != -libc::ECANCELED && !self.is_stopping {
                        self.arm_waker();
                    }
                }
                // A cancelled operation completes by itself.
                Op::Cancel if done.has_missed() => self.cancel_again(done.token.target()),
                // That a wake-up came is all there is to it.
                Op::Cancel | Op::Woken => {}
            }
        }
    }

    /// A cancellation missed: asks again where the operation is still in flight and unwanted.
    fn cancel_again(&mut self, target: Token) {
        let is_in_flight = match target.op() {
            Op::Recv | Op::Send => self.awaits_cancelled(target),
            Op::Accept => self.accepts.awaits_cancelled(target.index()),
            Op::Waker => self.is_waker_armed,
            _ => false,
        };
        if is_in_flight {
            self.ring.cancel(target);
        }
    }

    fn arm_waker(&mut self) {
        let fd = types::Fd(self.waker.0.as_raw_fd());
        let entry = opcode::Read::new(fd, std::ptr::from_mut(&mut *self.waker_value).cast(), 8).build();
        // SAFETY: the value is boxed and outlives the ring's operations (see `stop`).
        unsafe { self.ring.push(entry, Token::new(Op::Waker, 0, 0)) };
        self.is_waker_armed = true;
    }

    fn feed_starved(&mut self) {
        if self.starved.is_empty() || self.buffers.available() == 0 {
            return;
        }
        let fed = self.starved.len().min(self.buffers.available());
        for index in self.starved.drain(..fed).collect::<Vec<_>>() {
            self.slots[index as usize].is_starved = false;
            self.arm_recv(index);
        }
    }

    /// Ends all operations; whether the kernel has let go of all memory.
    fn stop(&mut self) -> io::Result<bool> {
        let until = Instant::now() + STOP_TIMEOUT;
        self.is_stopping = true;
        self.set_accepting(false);
        self.ring.cancel(Token::new(Op::Waker, 0, 0));
        for index in 0..self.slots.len() as u32 {
            if self.slots[index as usize].is_live {
                let id = ConnId { index, generation: self.slots[index as usize].generation };
                self.close(id, Close::Reset);
            }
        }
        while self.live > 0 || self.accepts.armed() > 0 || self.is_waker_armed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.events.clear();
            self.end_some(usize::MAX);
            self.ring.enter(Some(left))?;
            self.complete();
        }
        self.events.clear();
        Ok(true)
    }
}

impl Io for UringIo {
    type Lease = Lease;

    fn now(&self) -> Instant {
        self.now
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    fn take(&mut self, out: &mut VecDeque<Event<Lease>>) {
        out.append(&mut self.events);
    }

    fn send(&mut self, conn: ConnId, batch: Batch) {
        self.start_send(conn, batch);
    }

    fn pause(&mut self, conn: ConnId) {
        self.pause_reading(conn);
    }

    fn resume(&mut self, conn: ConnId) {
        self.resume_reading(conn);
    }

    fn finish(&mut self, conn: ConnId) {
        self.start_finish(conn);
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        self.start_close(conn, how);
    }

    fn wake(&mut self, shard: ShardId) {
        let Some(peer) = self.peers.get(usize::from(shard.0)) else { return };
        if shard == self.shard {
            return;
        }
        self.stats.wakes += 1;
        let target = Token::new(Op::Woken, 0, 0).0;
        let entry = opcode::MsgRingData::new(types::Fd(peer.fd()), 0, target, None).build();
        // SAFETY: the entry holds no pointers; the handle keeps the descriptor open.
        unsafe { self.ring.push(entry, Token::new(Op::Wake, 0, u32::from(shard.0))) };
    }

    fn accepting(&mut self, on: bool) {
        self.set_accepting(on);
    }

    fn stop_listening(&mut self) {
        self.set_accepting(false);
        self.accepts.stop_listening();
    }

    fn wake_failure(&mut self) -> Option<ShardId> {
        self.wake_failures.pop()
    }

    fn stats(&self) -> IoStats {
        self.stats
    }
}
