//! The glommio driver: a shard inside a glommio `LocalExecutor`, to measure that runtime against the other drivers.
//!
//! Only with the cargo feature `glommio`, off by default. Sockets, accepting, timers and the wait are glommio's own:
//! each connection has a task that reads and finishes its sends, one task accepts, one hears wake-ups, and one runs
//! the shard, which it gives the events that the others have left. It passes every case of the conformance suite;
//! the one thing that it can't do, to close all its descriptors, is stated there and below.
//!
//! Known limits, all of them glommio's own:
//!
//! - **One send(2) for each batch, one recv(2) and a one-shot poll for each read.** There is no multishot receive, no
//!   provided buffers, no `DEFER_TASKRUN`. Its streams can't `writev` either: a batch of several pieces is copied
//!   together before it is sent, up to 64 KiB at a time.
//! - **Sockets are ordinary descriptors**, so `RLIMIT_NOFILE` bounds the connections of the whole process, where
//!   io_uring's table bounds those of each shard.
//! - **Its own listener has a backlog of 1,024.** The driver therefore listens itself and lends the socket. Each accept
//!   costs five system calls, and one client may be taken from the queue ahead of time; it is told of when the shard
//!   accepts again.
//! - **Locked memory**: three rings for each shard, and glommio refuses to start where `RLIMIT_MEMLOCK` is below
//!   512 KiB, even for root; see [`Glommio::locked_bytes`].
//! - **A second thread for each shard**, for blocking calls, which the driver never makes.
//! - **Idle connections cost more**: a task and a poll under way each, instead of a slot.
//! - **An executor that has run leaves one eventfd open** until the process ends
//!   (<https://github.com/DataDog/glommio/issues/448>): one for each shard, so it doesn't add up in the server.
//! - **`IoStats::enters` is a lower bound**: glommio doesn't tell its system calls. Counted are the turns of its
//!   scheduler and the calls of this driver.
//! - **Accepting does not tell the address**; it is asked for afterwards, and a client that reset meanwhile is told of with
//!   the unspecified one. The next client is asked for ahead of time, so one more than a lowered limit of descriptors
//!   allows may be served (`exhaustion.rs` knows).
//! - **No release since March 2024**, and the advisory RUSTSEC-2026-0284 about `lockfree`, which glommio depends on and
//!   never calls. Building it needs a C compiler and `git`; a dependency of it is under MPL-2.0 (`bitmaps`).

mod conn;
mod state;
mod tasks;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ::glommio::io::BufferedFile;
use ::glommio::net::TcpListener as GlommioListener;
use ::glommio::{LocalExecutor, LocalExecutorBuilder, Placement, spawn_local};

use crate::api::{
    Close, ConnId, Driver, DriverConfig, Event, Io, IoStats, Next, Shard, ShardId, WakeHandle, Waker,
};
use crate::buffers::Batch;
use crate::limits;
use state::State;
use tasks::{accept, listen_for_wakes, pass, wait};

pub use crate::leases::Lease;

/// Turns in a row without a look at the sockets, while the shard's own sends are all that happens.
const TURNS_WITHOUT_PASS: u32 = 4;

/// What glommio demands of `RLIMIT_MEMLOCK`, whoever asks.
const MEMLOCK_MIN: u64 = 512 << 10;

/// Memory for files, which glommio registers with each ring; it takes no less.
const FILE_MEMORY: usize = 64 << 10;

/// The least entries of each ring: a chain of its own timers must fit.
const RING_DEPTH_MIN: u32 = 128;

/// The glommio driver of one shard. Built and run on the shard's own thread.
#[derive(Debug)]
pub struct Glommio {
    executor: LocalExecutor,
    io: GlommioIo,
    listener: Option<TcpListener>,
    wakes: OwnedFd,
}

/// What the shard calls; see [`Io`].
#[derive(Debug)]
pub struct GlommioIo {
    state: Rc<RefCell<State>>,
    waker: Waker,
    wake_handle: WakeHandle,
    now: Instant,
    unix_ms: u64,
}

impl Glommio {
    /// An executor with its rings, fixed to the core of a thread that is pinned to one.
    ///
    /// # Errors
    /// `EPERM` or `ENOSYS` where io_uring is refused, `ENOMEM` where locked memory is too short.
    pub fn new(config: DriverConfig) -> io::Result<Self> {
        // glommio panics, or ends the process, where there is no io_uring.
        drop(io_uring::IoUring::new(2)?);
        let depth = config.queue_entries.max(RING_DEPTH_MIN) as usize;
        let executor = LocalExecutorBuilder::new(placement())
            .name(&format!("shard-{}", config.shard.0))
            .io_memory(FILE_MEMORY)
            .ring_depth(depth)
            .make()
            .map_err(io::Error::from)?;
        let wakes = eventfd()?;
        let waker = Waker(Arc::new(wakes.try_clone()?.into()));
        let wake_handle = WakeHandle(Arc::new(wakes.try_clone()?));
        let listener = config.listener.as_ref().map(TcpListener::try_clone).transpose()?;
        if let Some(listener) = &listener {
            // Otherwise io_uring refuses at once instead of waiting for a client.
            listener.set_nonblocking(false)?;
        }
        let state = Rc::new(RefCell::new(State::new(config)));
        let io = GlommioIo { state, waker, wake_handle, now: Instant::now(), unix_ms: 0 };
        Ok(Self { executor, io, listener, wakes })
    }

    /// Bytes of one driver's rings that may count against the limit of locked memory.
    pub fn locked_bytes(queue_entries: u32) -> u64 {
        let entries = u64::from(queue_entries.max(RING_DEPTH_MIN).next_power_of_two());
        // 64 bytes per submission and 4 for its index, two completions of 16 bytes each.
        3 * (entries * (64 + 4 + 2 * 16) + FILE_MEMORY as u64)
    }

    /// Why so many shards can't run here, in words an operator can use.
    pub fn refusal(queue_entries: u32, shards: usize) -> Option<String> {
        if let Err(error) = io_uring::IoUring::new(2) {
            return Some(format!("io_uring is refused: {error}"));
        }
        let remedy = "raise it with ulimit -l, or LimitMEMLOCK= in a systemd unit";
        let hard_limit = limits::memlock();
        if hard_limit.is_some_and(|limit| limit < MEMLOCK_MIN) {
            return Some(format!(
                "glommio needs a limit of locked memory of {MEMLOCK_MIN} bytes and it is {}: {remedy}",
                hard_limit.unwrap_or_default()
            ));
        }
        let needed = Self::locked_bytes(queue_entries) * shards as u64;
        let allowed = limits::locked_memory()?;
        (needed > allowed).then(|| {
            format!(
                "{shards} executors need {needed} bytes of locked memory and the limit is {allowed}: {remedy}, or \
                 lower shard.queue_entries"
            )
        })
    }
}

/// The core of a thread that may use only one; anywhere otherwise.
fn placement() -> Placement {
    let cores = limits::cores_of_this_thread();
    if let [core] = cores[..] { Placement::Fixed(core) } else { Placement::Unbound }
}

/// A blocking one: io_uring polls it, and never blocks on it.
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers; a non-negative result is a descriptor that nobody else owns.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

impl Driver for Glommio {
    type Io = GlommioIo;

    fn wake_handle(&self) -> WakeHandle {
        self.io.wake_handle.clone()
    }

    fn waker(&self) -> Waker {
        self.io.waker.clone()
    }

    fn connect(&mut self, peers: Vec<WakeHandle>) {
        self.io.state.borrow_mut().peers = peers;
    }

    fn run<S: Shard<GlommioIo>>(self, mut shard: S) -> io::Result<S> {
        let Self { executor, mut io, listener, wakes } = self;
        let served = executor.run(async {
            io.start_tasks(listener, wakes);
            let served = io.serve(&mut shard).await;
            io.stop().await;
            served
        });
        served.map(|()| shard)
    }
}

impl GlommioIo {
    fn start_tasks(&self, listener: Option<TcpListener>, wakes: OwnedFd) {
        // SAFETY: the descriptor is an eventfd that the file owns from here on.
        let wakes = unsafe { BufferedFile::from_raw_fd(wakes.into_raw_fd()) };
        self.state.borrow_mut().tasks += 1;
        spawn_local(listen_for_wakes(Rc::clone(&self.state), wakes)).detach();
        if let Some(listener) = listener {
            // SAFETY: the descriptor is a listening socket that the listener owns from here on.
            let listener = unsafe { GlommioListener::from_raw_fd(listener.into_raw_fd()) };
            self.state.borrow_mut().tasks += 1;
            spawn_local(accept(Rc::clone(&self.state), listener)).detach();
        }
    }

    async fn serve<S: Shard<Self>>(&mut self, shard: &mut S) -> io::Result<()> {
        let mut turns_without_pass = 0;
        loop {
            self.begin_turn()?;
            let next = shard.tick(self);
            let rest = self.state.borrow_mut().end_turn();
            let deadline = match next {
                Next::Stop => return Ok(()),
                Next::Again => Some(self.now),
                Next::Until(time) => Some(time),
                Next::Park => None,
            };
            let is_due = deadline.is_some_and(|time| time <= Instant::now());
            if rest.has_readers || is_due || (rest.has_events && turns_without_pass >= TURNS_WITHOUT_PASS) {
                turns_without_pass = 0;
                pass().await;
            } else if rest.has_events {
                turns_without_pass += 1;
            } else {
                turns_without_pass = 0;
                wait(&self.state, deadline).await;
            }
        }
    }

    fn begin_turn(&mut self) -> io::Result<()> {
        self.now = Instant::now();
        self.unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64);
        let mut state = self.state.borrow_mut();
        state.is_notified = false;
        state.stats.enters += ::glommio::executor().executor_stats().scheduler_runs();
        state.failure.take().map_or(Ok(()), Err)
    }

    /// Ends all connections and tasks: what the kernel was asked for refers to their memory.
    async fn stop(&mut self) {
        self.state.borrow_mut().stop();
        // The task that hears wake-ups ends with the next one.
        self.waker.wake();
        while self.state.borrow().tasks > 0 {
            pass().await;
        }
        // What was cancelled reaches the kernel.
        pass().await;
        self.state.borrow_mut().events.clear();
    }
}

impl Io for GlommioIo {
    type Lease = Lease;

    fn now(&self) -> Instant {
        self.now
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    fn take(&mut self, out: &mut VecDeque<Event<Lease>>) {
        out.append(&mut self.state.borrow_mut().events);
    }

    fn send(&mut self, conn: ConnId, batch: Batch) {
        self.state.borrow_mut().start_send(conn, batch);
    }

    fn pause(&mut self, conn: ConnId) {
        self.state.borrow_mut().pause_reading(conn);
    }

    fn resume(&mut self, conn: ConnId) {
        self.state.borrow_mut().resume_reading(conn);
    }

    fn finish(&mut self, conn: ConnId) {
        self.state.borrow_mut().start_finish(conn);
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        self.state.borrow_mut().start_close(conn, how);
    }

    fn wake(&mut self, shard: ShardId) {
        self.state.borrow_mut().wake(shard);
    }

    fn accepting(&mut self, on: bool) {
        self.state.borrow_mut().is_accepting = on;
    }

    fn stop_listening(&mut self) {
        self.state.borrow_mut().stop_listening();
    }

    fn wake_failure(&mut self) -> Option<ShardId> {
        self.state.borrow_mut().wake_failures.pop()
    }

    fn stats(&self) -> IoStats {
        self.state.borrow().stats
    }
}
