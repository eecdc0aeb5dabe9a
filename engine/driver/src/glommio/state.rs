//! What the tasks of one executor share: the table of connections, the events that the shard has not taken, and who
//! is to be woken.
//!
//! Nothing here awaits, and no borrow of it outlives a poll.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::task::Waker;
use std::time::Instant;

use ::glommio::net::TcpStream;

use super::conn::Slot;
use crate::api::{Close, ConnId, DriverConfig, Event, IoStats, ShardId, WakeHandle};
use crate::leases::{Lease, LeasePool};
use crate::sys::notify;

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    shard: ShardId,
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<u32>,
    pub(super) buffers: LeasePool,
    pub(super) events: VecDeque<Event<Lease>>,
    /// Connections that stopped reading because no buffer was left.
    pub(super) starved: Vec<u32>,
    /// Connections that had their share of reads and may have more to read.
    pub(super) unfinished: Vec<ConnId>,
    /// Connections that were paused in this turn.
    pub(super) pausing: Vec<ConnId>,
    /// Where a batch of several pieces is copied together.
    pub(super) scratch: Vec<u8>,
    /// Ends what the accepting task waits for.
    listener: Option<TcpListener>,
    pub(super) is_accepting: bool,
    /// The kernel refused for a reason that lasts: accepting goes on at this time.
    pub(super) rests_until: Option<Instant>,
    /// The accepting task, where it waits for its turn.
    pub(super) accepts: Option<Waker>,
    /// The shard's task, where it waits for something to happen.
    pub(super) turns: Option<Waker>,
    /// Something has happened since the last turn began.
    pub(super) is_notified: bool,
    pub(super) is_stopping: bool,
    /// Tasks beside the shard's own.
    pub(super) tasks: usize,
    /// What ends the driver.
    pub(super) failure: Option<io::Error>,
    pub(super) peers: Vec<WakeHandle>,
    pub(super) wake_failures: Vec<ShardId>,
    pub(super) stats: IoStats,
}

/// What a turn has left over.
pub(super) struct Rest {
    /// Events that the shard has caused itself.
    pub(super) has_events: bool,
    /// Connections that go on reading, once the others had a chance.
    pub(super) has_readers: bool,
}

impl State {
    pub(super) fn new(config: DriverConfig) -> Self {
        Self {
            shard: config.shard,
            slots: (0..config.connections_max).map(|_| Slot::default()).collect(),
            free: (0..config.connections_max).rev().collect(),
            buffers: LeasePool::new(config.recv_buffers, config.recv_buffer_bytes),
            events: VecDeque::with_capacity(1024),
            starved: Vec::new(),
            unfinished: Vec::new(),
            pausing: Vec::new(),
            scratch: Vec::new(),
            is_accepting: config.listener.is_some(),
            listener: config.listener,
            rests_until: None,
            accepts: None,
            turns: None,
            is_notified: false,
            is_stopping: false,
            tasks: 0,
            failure: None,
            peers: Vec::new(),
            wake_failures: Vec::new(),
            stats: IoStats::default(),
        }
    }

    /// The shard has something to do.
    pub(super) fn notify(&mut self) {
        self.is_notified = true;
        if let Some(turns) = self.turns.take() {
            turns.wake();
        }
    }

    /// What the shard has asked for during its turn and only now can be done.
    pub(super) fn end_turn(&mut self) -> Rest {
        self.answer_pauses();
        self.feed_starved();
        if self.may_accept() {
            self.wake_accepting();
        }
        let mut unfinished = std::mem::take(&mut self.unfinished);
        let has_readers = !unfinished.is_empty();
        for conn in unfinished.drain(..) {
            self.wake_task(conn);
        }
        self.unfinished = unfinished;
        Rest { has_events: !self.events.is_empty(), has_readers }
    }

    fn feed_starved(&mut self) {
        let fed = self.starved.len().min(self.buffers.available());
        for place in 0..fed {
            let index = self.starved[place];
            self.slots[index as usize].is_starved = false;
            self.wake_task(self.id(index));
        }
        self.starved.drain(..fed);
    }

    /// Whether the shard wants another connection and has a place for it.
    pub(super) fn may_accept(&self) -> bool {
        self.is_accepting && !self.free.is_empty()
    }

    /// Whether there will be no further connection.
    pub(super) fn has_ended_listening(&self) -> bool {
        self.is_stopping || self.listener.is_none()
    }

    fn wake_accepting(&mut self) {
        if let Some(accepts) = self.accepts.take() {
            accepts.wake();
        }
    }

    /// Gives a client its slot; `None` if it has gone again.
    pub(super) fn open(&mut self, stream: TcpStream) -> Option<ConnId> {
        // glommio's accept does not tell the address. Who reset meanwhile has none any more, and nothing to be read
        // either: what becomes of it is told like any other end.
        let peer = stream.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let index = self.free.pop()?;
        self.stats.accepted += 1;
        self.tasks += 1;
        // A client of IPv4 on a listener of both is one of IPv4.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let conn = self.id(index);
        self.slots[index as usize] = Slot::open(conn.generation, stream);
        self.events.push_back(Event::Accepted { conn, peer });
        self.notify();
        Some(conn)
    }

    pub(super) fn stop_listening(&mut self) {
        if let Some(listener) = self.listener.take() {
            // Ends what the accepting task waits for, too.
            crate::listener::stop(&listener);
        }
        self.is_accepting = false;
        self.wake_accepting();
    }

    /// Closes everything; the tasks end by themselves then.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
        self.stop_listening();
        for index in 0..self.slots.len() as u32 {
            self.start_close(self.id(index), Close::Reset);
        }
        self.events.clear();
    }

    pub(super) fn wake(&mut self, shard: ShardId) {
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
}
