//! The epoll driver: what is used where io_uring is refused.
//!
//! Level-triggered; interest is exactly what is wanted at the moment, so that nothing spins. Sends are tried at
//! once and finished when the socket takes more.

mod conn;
mod sys;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::api::{
    Close, ConnId, Driver, DriverConfig, Event, Io, IoStats, Next, Shard, ShardId, WakeHandle, Waker,
};
use crate::buffers::Batch;
use crate::leases::LeasePool;
use crate::pace;
use crate::sys::notify;
use conn::Slot;

pub use crate::leases::Lease;

/// Readiness events taken at once.
const EVENTS_MAX: usize = 1024;

/// How long accepting rests when the kernel refuses.
const ACCEPT_REST: Duration = Duration::from_millis(100);

const WAKER: u64 = u64::MAX;
const PEERS: u64 = u64::MAX - 1;
const LISTENER: u64 = u64::MAX - 2;

/// The epoll driver of one shard.
#[derive(Debug)]
pub struct Epoll {
    io: EpollIo,
}

/// What the shard calls; see [`Io`].
#[derive(Debug)]
pub struct EpollIo {
    shard: ShardId,
    epoll: OwnedFd,
    listener: Option<TcpListener>,
    is_accepting: bool,
    is_listening: bool,
    /// The kernel refused for a reason that lasts: accepting goes on at this time.
    rests_until: Option<Instant>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    buffers: LeasePool,
    starved: Vec<u32>,
    /// Connections that were paused in this turn.
    pausing: Vec<ConnId>,
    ready: Vec<libc::epoll_event>,
    events: VecDeque<Event<Lease>>,
    waker: Waker,
    wake_handle: WakeHandle,
    peers: Vec<WakeHandle>,
    wake_failures: Vec<ShardId>,
    now: Instant,
    /// Connections that may be taken in this turn.
    pace: usize,
    unix_ms: u64,
    stats: IoStats,
}

impl Epoll {
    /// An epoll instance with its buffers and tables.
    ///
    /// # Errors
    /// What the kernel refuses: descriptors, mostly.
    pub fn new(config: DriverConfig) -> io::Result<Self> {
        if let Some(listener) = &config.listener {
            listener.set_nonblocking(true)?;
        }
        let epoll = sys::epoll_create()?;
        let (waker, peers) = (sys::eventfd()?, sys::eventfd()?);
        sys::epoll_control(&epoll, libc::EPOLL_CTL_ADD, waker.as_raw_fd(), libc::EPOLLIN, WAKER)?;
        sys::epoll_control(&epoll, libc::EPOLL_CTL_ADD, peers.as_raw_fd(), libc::EPOLLIN, PEERS)?;
        let io = EpollIo {
            shard: config.shard,
            epoll,
            is_accepting: config.listener.is_some(),
            listener: config.listener,
            is_listening: false,
            rests_until: None,
            slots: (0..config.connections_max).map(|_| Slot::default()).collect(),
            free: (0..config.connections_max).rev().collect(),
            buffers: LeasePool::new(config.recv_buffers, config.recv_buffer_bytes),
            starved: Vec::new(),
            pausing: Vec::new(),
            ready: Vec::with_capacity(EVENTS_MAX),
            events: VecDeque::with_capacity(1024),
            waker: Waker(Arc::new(waker.into())),
            wake_handle: WakeHandle(Arc::new(peers)),
            peers: Vec::new(),
            wake_failures: Vec::new(),
            now: Instant::now(),
            pace: 0,
            unix_ms: 0,
            stats: IoStats::default(),
        };
        Ok(Self { io })
    }
}

impl Driver for Epoll {
    type Io = EpollIo;

    fn wake_handle(&self) -> WakeHandle {
        self.io.wake_handle.clone()
    }

    fn waker(&self) -> Waker {
        self.io.waker.clone()
    }

    fn connect(&mut self, peers: Vec<WakeHandle>) {
        self.io.peers = peers;
    }

    fn run<S: Shard<EpollIo>>(mut self, mut shard: S) -> io::Result<S> {
        let io = &mut self.io;
        loop {
            let now = Instant::now();
            io.pace = pace::connections(now.saturating_duration_since(io.now));
            io.now = now;
            io.unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64);
            match shard.tick(io) {
                Next::Stop => return Ok(shard),
                Next::Again => io.wait(Some(Duration::ZERO))?,
                Next::Park => io.wait(None)?,
                Next::Until(time) => io.wait(Some(time.saturating_duration_since(Instant::now())))?,
            }
        }
    }
}

impl EpollIo {
    fn wait(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.answer_pauses();
        self.feed_starved();
        self.listen()?;
        let mut time = if self.events.is_empty() { time } else { Some(Duration::ZERO) };
        if self.rests_until.is_some() {
            time = Some(time.unwrap_or(ACCEPT_REST).min(ACCEPT_REST));
        }
        self.stats.enters += 1;
        let mut ready = std::mem::take(&mut self.ready);
        sys::epoll_wait(&self.epoll, &mut ready, EVENTS_MAX, time)?;
        self.stats.completions += ready.len() as u64;
        for event in &ready {
            match event.u64 {
                WAKER => self.drain(self.waker.0.as_raw_fd()),
                PEERS => self.drain(self.wake_handle.fd()),
                LISTENER => self.accept(),
                index => self.is_ready(index as u32, event.events),
            }
        }
        self.ready = ready;
        Ok(())
    }

    fn drain(&mut self, fd: RawFd) {
        self.stats.enters += 1;
        sys::drain(fd);
    }

    /// Watches the listener exactly while connections can be taken.
    fn listen(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        if self.rests_until.is_some_and(|until| Instant::now() >= until) {
            self.rests_until = None;
        }
        let wants = self.is_accepting && !self.free.is_empty() && self.rests_until.is_none();
        if wants != self.is_listening {
            let operation = if wants { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_DEL };
            sys::epoll_control(&self.epoll, operation, listener.as_raw_fd(), libc::EPOLLIN, LISTENER)?;
            self.is_listening = wants;
        }
        Ok(())
    }

    fn accept(&mut self) {
        for _ in 0..self.pace {
            let (Some(listener), Some(index)) = (&self.listener, self.free.last().copied()) else { return };
            self.stats.enters += 1;
            match listener.accept() {
                Ok((stream, peer)) => {
                    if stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    self.free.pop();
                    self.stats.accepted += 1;
                    // A client of IPv4 on a listener of both is one of IPv4.
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    let generation = self.slots[index as usize].generation;
                    self.slots[index as usize] = Slot::open(generation, stream);
                    self.events.push_back(Event::Accepted { conn: ConnId { index, generation }, peer });
                    self.update(index);
                }
                Err(error) => match error.raw_os_error() {
                    // This client gave up; the next may be there.
                    Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => {}
                    Some(libc::EAGAIN) => return,
                    // Out of descriptors or memory, or worse: asking again at once would spin.
                    errno => {
                        self.stats.accept_refusals += 1;
                        self.stats.accept_errno = errno.unwrap_or(0);
                        self.rests_until = Some(Instant::now() + ACCEPT_REST);
                        return;
                    }
                },
            }
        }
    }

    fn feed_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        let fed = self.starved.len().min(self.buffers.available());
        for index in self.starved.drain(..fed).collect::<Vec<_>>() {
            self.slots[index as usize].is_starved = false;
            self.update(index);
        }
    }
}

impl Io for EpollIo {
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
        if shard == self.shard {
            return;
        }
        let Some(peer) = self.peers.get(usize::from(shard.0)) else { return };
        self.stats.wakes += 1;
        self.stats.enters += 1;
        if notify(peer.fd()).is_err() {
            self.stats.wake_failures += 1;
            self.wake_failures.push(shard);
        }
    }

    fn accepting(&mut self, on: bool) {
        self.is_accepting = on && self.listener.is_some();
    }

    fn stop_listening(&mut self) {
        // Its end takes it out of the epoll instance as well.
        if let Some(listener) = self.listener.take() {
            crate::listener::stop(&listener);
        }
        (self.is_accepting, self.is_listening, self.rests_until) = (false, false, None);
    }

    fn wake_failure(&mut self) -> Option<ShardId> {
        self.wake_failures.pop()
    }

    fn stats(&self) -> IoStats {
        self.stats
    }
}
