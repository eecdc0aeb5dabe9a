//! The contract between a shard and whatever drives it: a kernel interface or a simulator.
//!
//! It says who may call what and which events must follow; it knows no kernel interface.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::DerefMut;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use crate::buffers::Batch;

/// One connection of one shard: a slot in the driver's table and the slot's generation.
///
/// The index is below [`DriverConfig::connections_max`]; the generation rises each time the slot is reused, so a
/// late event for an earlier connection can be told apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId {
    /// Slot in the table of connections.
    pub index: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

/// A shard's number, from 0; also the index of its [`WakeHandle`] in [`Driver::connect`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

/// What a driver needs to know before it starts.
#[derive(Debug)]
pub struct DriverConfig {
    /// The shard that this driver serves.
    pub shard: ShardId,
    /// The shard's own listener (`SO_REUSEPORT`, options set); `None` accepts nobody.
    pub listener: Option<TcpListener>,
    /// Slots in the table of connections; with io_uring at most `RLIMIT_NOFILE`.
    pub connections_max: u32,
    /// Receive buffers per shard, a power of two up to 32,768.
    pub recv_buffers: u16,
    /// Bytes of one receive buffer.
    pub recv_buffer_bytes: u32,
    /// Entries of the submission queue (io_uring); the completion queue is four times that or more.
    pub queue_entries: u32,
}

/// Where another shard's wake-up goes: for io_uring the ring's descriptor, for epoll an eventfd.
#[derive(Clone, Debug)]
pub struct WakeHandle(pub Arc<OwnedFd>);

impl WakeHandle {
    /// The descriptor inside.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Wakes a shard from a thread that is no shard (the control plane): an eventfd that the driver watches.
#[derive(Clone, Debug)]
pub struct Waker(pub Arc<File>);

/// A kernel interface, or a simulator, that runs one shard.
pub trait Driver: Sized {
    /// What the shard calls during a tick.
    type Io: Io;

    /// Where the other shards' wake-ups for this shard go.
    fn wake_handle(&self) -> WakeHandle;

    /// Wakes this shard from outside.
    fn waker(&self) -> Waker;

    /// Names the wake-up targets of all shards, by [`ShardId`]; before [`Driver::run`].
    fn connect(&mut self, peers: Vec<WakeHandle>);

    /// Runs `shard` until it answers [`Next::Stop`]; then frees all sockets and hands the shard back.
    ///
    /// # Errors
    /// What the kernel refuses that no later try can mend.
    fn run<S: Shard<Self::Io>>(self, shard: S) -> io::Result<S>;
}

/// What a driver runs.
pub trait Shard<I: Io> {
    /// One turn: take events, act, send. Never blocks.
    fn tick(&mut self, io: &mut I) -> Next;
}

/// When the next tick is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// At once: work is left over. The driver still submits and takes what is ready.
    Again,
    /// On the next event or wake-up, at the latest at this time.
    Until(Instant),
    /// On the next event or wake-up.
    Park,
    /// Never: the shard is done.
    Stop,
}

/// How a connection is closed from this side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// After the batch in flight: FIN, then freed.
    Graceful,
    /// At once, whatever is in flight: RST.
    Reset,
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseCause {
    /// The shard asked for it.
    Local,
    /// The peer reset it, or the network gave up: the `errno`.
    Error(i32),
}

/// What the kernel reported, in order per connection.
///
/// The first event of a connection is `Accepted`, the last `Closed`; only then is its slot reused.
#[derive(Debug)]
pub enum Event<L> {
    /// A client connected.
    Accepted {
        /// The new connection.
        conn: ConnId,
        /// Its address.
        peer: SocketAddr,
    },
    /// Bytes arrived.
    Data {
        /// From whom.
        conn: ConnId,
        /// The bytes, never empty; dropping them gives the buffer back.
        bytes: L,
    },
    /// The peer will send no more (FIN). Sending still works.
    Eof {
        /// Who.
        conn: ConnId,
    },
    /// Reading stopped, after [`Io::pause`]; no `Data` and no `Eof` follows until [`Io::resume`]. Told once for each
    /// pause; a pause that is taken back or followed by a close before it was answered stays without an answer.
    Paused {
        /// Who.
        conn: ConnId,
    },
    /// A batch left, or failed; it is handed back either way.
    Sent {
        /// To whom.
        conn: ConnId,
        /// What [`Io::send`] took.
        batch: Batch,
        /// All of it is in the kernel's hands, or the `errno`.
        result: Result<(), i32>,
    },
    /// The connection is gone and its slot free. A batch in flight was handed back before.
    Closed {
        /// Who.
        conn: ConnId,
        /// Why.
        why: CloseCause,
    },
}

/// What a driver counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoStats {
    /// System calls of the loop: `io_uring_enter`, or `epoll_wait` and all that follow.
    pub enters: u64,
    /// Completions or readiness events.
    pub completions: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Batches given to the kernel.
    pub sends: u64,
    /// Wake-ups sent to other shards.
    pub wakes: u64,
    /// Wake-ups that failed.
    pub wake_failures: u64,
    /// Times no receive buffer was left.
    pub buffer_shortages: u64,
    /// Times the kernel refused to accept for a reason that lasts; accepting rests then.
    pub accept_refusals: u64,
    /// Why it did last, as errno; 0 if it never did.
    pub accept_errno: i32,
}

/// What a shard may ask for during a tick. Nothing here blocks; the answers are [`Event`]s of later ticks.
///
/// Calls about a connection whose `Closed` was taken are ignored.
pub trait Io {
    /// Received bytes: unmasked and decrypted in place; `Drop` returns the buffer.
    type Lease: DerefMut<Target = [u8]>;

    /// The time at the start of this tick.
    fn now(&self) -> Instant;

    /// The wall clock at the start of this tick, in milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;

    /// Moves the events that are ready to the end of `out`.
    fn take(&mut self, out: &mut VecDeque<Event<Self::Lease>>);

    /// Sends a batch: all of it or an error. One batch may be in flight per connection. One for a connection that is
    /// finished, closing or gone comes back with an error, even after its `Closed`.
    fn send(&mut self, conn: ConnId, batch: Batch);

    /// Stops reading: TCP carries the pressure back to the peer.
    fn pause(&mut self, conn: ConnId);

    /// Reads again.
    fn resume(&mut self, conn: ConnId);

    /// FIN after what was sent; reading goes on.
    fn finish(&mut self, conn: ConnId);

    /// Ends the connection; `Closed` follows once nothing is in flight, and no `Data` or `Eof` before it.
    ///
    /// Bytes of the peer that were never read make the kernel answer with a reset even where it is graceful: who must
    /// be heard to the end calls [`Io::finish`] first, and closes after the peer's `Eof`.
    fn close(&mut self, conn: ConnId, how: Close);

    /// Wakes another shard; reaches the kernel before every `send` that is called after it.
    fn wake(&mut self, shard: ShardId);

    /// Takes new connections, or leaves them in the accept queue.
    fn accepting(&mut self, on: bool);

    /// Accepts no more, for good: the kernel refuses who connects from now on, and resets who waits to be accepted.
    /// A driver without a listener has nothing to do.
    fn stop_listening(&mut self) {}

    /// A shard whose wake-up failed since the last call.
    fn wake_failure(&mut self) -> Option<ShardId>;

    /// What happened so far.
    fn stats(&self) -> IoStats;
}

impl Waker {
    /// Wakes the shard; it may be awake already.
    pub fn wake(&self) {
        // An eventfd refuses only when its count is full, and then the shard is about to wake anyway.
        let _written = io::Write::write(&mut &*self.0, &1u64.to_ne_bytes());
    }
}
