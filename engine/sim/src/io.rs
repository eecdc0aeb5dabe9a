//! The simulated driver of one shard: a table of sockets on the simulated network, with the contract of the real
//! drivers and every freedom that it leaves them.
//!
//! What the shard may not do by that contract is noted as a breach. It knows bytes and connections; nothing of
//! WebSocket.

mod lease;
mod socket;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use corecast_driver::{Batch, Close, ConnId, Event, Io, IoStats, ShardId};

use crate::chaos::{Chaos, Fault};
use crate::net::Net;

pub use lease::{Pool, SimLease};
use socket::Socket;

/// `EPIPE`: sent to a connection that takes no more.
const EPIPE: i32 = 32;

/// How one shard's driver is built.
#[derive(Clone, Copy, Debug)]
pub struct IoConfig {
    /// The shard.
    pub shard: u16,
    /// Slots in the table of connections.
    pub table: usize,
    /// Receive buffers.
    pub buffers: usize,
    /// Bytes of a receive buffer.
    pub buffer_bytes: usize,
    /// Whether the slot that became free last is taken first, as io_uring does.
    pub takes_newest_slot: bool,
    /// Whether a reset is noticed while a connection is paused, as epoll does.
    pub notices_resets_while_paused: bool,
}

/// One shard's view of the kernel.
#[derive(Debug)]
pub struct SimIo {
    config: IoConfig,
    pub(crate) now: Instant,
    pub(crate) unix_ms: u64,
    slots: Vec<Slot>,
    free: VecDeque<u32>,
    /// Slots in use, in no order.
    live: Vec<u32>,
    pool: Rc<Pool>,
    /// Answers to sends on connections that are gone.
    orphans: VecDeque<Event<SimLease>>,
    /// The tick until which each socket's completions are visible at the next `take`.
    tick: u64,
    /// Where the next look at the sockets begins.
    turn: usize,
    is_accepting: bool,
    pub(crate) stops_listening: bool,
    /// Wake-ups asked for in this tick.
    pub(crate) wakes: Vec<ShardId>,
    pub(crate) failed_wakes: VecDeque<ShardId>,
    stats: IoStats,
    /// What the shard did against the contract.
    pub(crate) breaches: Vec<String>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    socket: Option<Socket>,
}

impl SimIo {
    /// A driver without connections.
    pub fn new(config: IoConfig, now: Instant) -> Self {
        Self {
            config,
            now,
            unix_ms: 0,
            slots: (0..config.table).map(|_| Slot::default()).collect(),
            free: (0..config.table as u32).collect(),
            live: Vec::new(),
            pool: Pool::new(config.buffers),
            orphans: VecDeque::new(),
            tick: 0,
            turn: 0,
            is_accepting: true,
            stops_listening: false,
            wakes: Vec::new(),
            failed_wakes: VecDeque::new(),
            stats: IoStats::default(),
            breaches: Vec::new(),
        }
    }

    /// What the kernel does by itself before a tick: accepts, moves bytes, notices ends.
    pub(crate) fn advance(&mut self, net: &mut Net, chaos: &mut Chaos, tick: u64) {
        self.tick = tick;
        self.accept(net, chaos);
        let shard = usize::from(self.config.shard);
        if std::mem::take(&mut self.stops_listening) {
            net.stop_listening(shard);
        }
        for index in &self.live {
            let Some(socket) = &mut self.slots[*index as usize].socket else { continue };
            let shortages = self.pool.shortages();
            socket.advance(net, chaos, &self.pool, &self.config, tick);
            if self.pool.shortages() > shortages {
                chaos.note(Fault::BufferShortage);
                self.stats.buffer_shortages += 1;
            }
        }
    }

    fn accept(&mut self, net: &mut Net, chaos: &mut Chaos) {
        let shard = usize::from(self.config.shard);
        while self.is_accepting && !self.free.is_empty() {
            let Some(link) = net.doors[shard].as_mut().and_then(VecDeque::pop_front) else { break };
            let newest = self.config.takes_newest_slot;
            let index = if newest { self.free.pop_back() } else { self.free.pop_front() };
            let index = index.expect("it is not empty");
            let slot = &mut self.slots[index as usize];
            slot.generation += 1;
            let conn = ConnId { index, generation: slot.generation };
            let ip = IpAddr::V4(Ipv4Addr::from_bits(net.at(link).ip));
            let mut socket = Socket::new(conn, link);
            socket.tell(Event::Accepted { conn, peer: SocketAddr::new(ip, 40_000) }, chaos, self.tick);
            slot.socket = Some(socket);
            self.live.push(index);
            self.stats.accepted += 1;
        }
    }

    /// Whether a tick would have something to take.
    pub(crate) fn has_events(&self) -> bool {
        !self.orphans.is_empty()
            || !self.failed_wakes.is_empty()
            || self.sockets().any(|socket| socket.has_events())
    }

    /// Whether a tick would have something to take now.
    pub(crate) fn has_visible_events(&self, tick: u64) -> bool {
        !self.orphans.is_empty()
            || !self.failed_wakes.is_empty()
            || self.sockets().any(|socket| socket.is_visible(tick))
    }

    fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.live.iter().filter_map(|index| self.slots[*index as usize].socket.as_ref())
    }

    /// The first connections that the kernel holds, for reports.
    pub(crate) fn describe(&self, net: &mut Net) -> Vec<String> {
        self.sockets().take(3).map(|socket| socket.describe(net)).collect()
    }

    /// Connections that the kernel holds.
    pub(crate) fn len(&self) -> usize {
        self.sockets().count()
    }

    /// Receive buffers that the shard holds.
    pub(crate) fn buffers_out(&self) -> usize {
        self.pool.out()
    }

    fn find(&mut self, conn: ConnId) -> Option<&mut Socket> {
        let slot = self.slots.get_mut(conn.index as usize)?;
        slot.socket.as_mut().filter(|socket| socket.conn == conn)
    }

    /// Whether this connection has existed: nobody else can be named by the shard.
    fn knows(&mut self, conn: ConnId, call: &str) {
        let has_been =
            self.slots.get(conn.index as usize).is_some_and(|slot| slot.generation >= conn.generation);
        if !has_been {
            self.breaches.push(format!("{call} names {conn:?}, which has never been accepted"));
        }
    }
}

impl Io for SimIo {
    type Lease = SimLease;

    fn now(&self) -> Instant {
        self.now
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    fn take(&mut self, out: &mut VecDeque<Event<SimLease>>) {
        out.append(&mut self.orphans);
        self.turn = (self.turn + 7) % self.live.len().max(1);
        for step in 0..self.live.len() {
            let index = self.live[(self.turn + step) % self.live.len()];
            let Some(socket) = &mut self.slots[index as usize].socket else { continue };
            self.stats.completions += socket.take(out, self.tick) as u64;
        }
        let (slots, free) = (&mut self.slots, &mut self.free);
        self.live.retain(|index| {
            let slot = &mut slots[*index as usize];
            let is_over = slot.socket.take_if(|socket| socket.is_over()).is_some();
            if is_over {
                free.push_back(*index);
            }
            !is_over
        });
    }

    fn send(&mut self, conn: ConnId, batch: Batch) {
        self.knows(conn, "send");
        if batch.is_empty() {
            self.breaches.push(format!("an empty batch for {conn:?}"));
        }
        self.stats.sends += 1;
        match self.find(conn) {
            Some(socket) if socket.is_sending() => {
                let breach = format!("a second batch for {conn:?} while one is in flight");
                self.breaches.push(breach);
                self.orphans.push_back(Event::Sent { conn, batch, result: Err(EPIPE) });
            }
            Some(socket) if socket.can_send() => socket.send(batch),
            _ => self.orphans.push_back(Event::Sent { conn, batch, result: Err(EPIPE) }),
        }
    }

    fn pause(&mut self, conn: ConnId) {
        self.knows(conn, "pause");
        let tick = self.tick;
        if let Some(socket) = self.find(conn) {
            socket.pause(tick);
        }
    }

    fn resume(&mut self, conn: ConnId) {
        self.knows(conn, "resume");
        if let Some(socket) = self.find(conn) {
            socket.resume();
        }
    }

    fn finish(&mut self, conn: ConnId) {
        self.knows(conn, "finish");
        if let Some(socket) = self.find(conn) {
            socket.finish();
        }
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        self.knows(conn, "close");
        if let Some(socket) = self.find(conn) {
            socket.close(how);
        }
    }

    fn wake(&mut self, shard: ShardId) {
        if shard.0 == self.config.shard {
            self.breaches.push("a shard wakes itself".to_owned());
        }
        self.stats.wakes += 1;
        self.wakes.push(shard);
    }

    fn accepting(&mut self, on: bool) {
        self.is_accepting = on;
    }

    fn stop_listening(&mut self) {
        self.stops_listening = true;
        self.is_accepting = false;
    }

    fn wake_failure(&mut self) -> Option<ShardId> {
        let failed = self.failed_wakes.pop_front()?;
        self.stats.wake_failures += 1;
        Some(failed)
    }

    fn stats(&self) -> IoStats {
        self.stats
    }
}
