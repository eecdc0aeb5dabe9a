//! The tick: take what happened, act, tell other shards, flush, sleep.
//!
//! What goes to other shards and their wake-ups are queued before the sends: behind a thousand of them a wake-up
//! would arrive milliseconds late.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use corecast_driver::{ConnId, Event, Io, Next, Shard, ShardId, pace};
use corecast_hub::canary::{self, Canary};
use corecast_hub::state::State;
use corecast_hub::{Class, Fate, Hub, Idle, ShardSet};
use corecast_protocol::CloseCode;
use corecast_protocol::envelope::event;
use corecast_protocol::ws::AssemblyPool;
use corecast_protocol::ws::handshake::Refusal;

use crate::clock::Clock;
use crate::config::{Node, Order, ShardConfig};
use crate::conn::{Conn, Phase};
use crate::core::{Core, opcode};
use crate::counters::Counters;
use crate::drain::{MARKER, Stage};
use crate::input::INFLATED_PER_TICK;
use crate::rings::{Inbox, Links};

/// Records of one class acted on per tick: sockets must not wait for ever for other shards.
const RECORDS_PER_TICK: usize = 4096;

/// Things told to homes per tick, and of what waits one in so many, whatever came: it must not grow faster than it is
/// done.
const SETTLE_PER_TICK: usize = 32;
const SETTLE_SHARE: usize = 32;

/// Buffers of unfinished messages: 64 KiB each, this many kept.
const ASSEMBLY_BUFFER_BYTES: usize = 64 << 10;
const ASSEMBLY_BUFFERS_KEPT: usize = 64;

/// One shard: its connections, its part of the hub, its ends of the rings. `L` is what the driver lends bytes as.
#[derive(Debug)]
pub struct ShardLoop<L> {
    core: Core,
    clock: Clock,
    assembly: AssemblyPool,
    events: VecDeque<Event<L>>,
    delivers: Inbox,
    requests: Inbox,
    expired: Vec<u32>,
    /// Connections whose peers will say no more, to be looked at.
    ended: VecDeque<ConnId>,
    /// When the last tick began, in the driver's time.
    last_tick: Instant,
    heir: Option<Sender<State>>,
}

impl<L> ShardLoop<L> {
    /// A shard without connections.
    pub fn new(
        config: ShardConfig,
        hub: Hub,
        links: Links,
        node: Arc<Node>,
        counters: Arc<Counters>,
        now: Instant,
    ) -> Self {
        let assembly_bytes = config.limits.assembly_bytes;
        Self {
            core: Core::new(config, hub, links, node, counters, now),
            clock: Clock::new(now),
            assembly: AssemblyPool::new(ASSEMBLY_BUFFER_BYTES, ASSEMBLY_BUFFERS_KEPT, assembly_bytes),
            events: VecDeque::with_capacity(1024),
            delivers: Inbox::default(),
            requests: Inbox::default(),
            expired: Vec::new(),
            ended: VecDeque::new(),
            last_tick: now,
            heir: None,
        }
    }

    /// What the hub remembers goes there when the shard ends.
    pub fn leaves_memory_to(&mut self, heir: Sender<State>) {
        self.heir = Some(heir);
    }

    fn end(&mut self) -> Next {
        if let Some(heir) = self.heir.take() {
            // Whoever does not wait for it does not want it.
            let _ = heir.send(self.core.hub.export(self.core.hub_now()));
        }
        Next::Stop
    }

    /// Shards to which records wait for room in a ring: for tests that fill them.
    pub fn spills_to(&self) -> ShardSet {
        self.core.links.spills_to()
    }

    /// Whether nothing is left of any connection: for tests that close everything.
    pub fn is_empty(&self) -> bool {
        self.core.conns.is_empty()
            && self.core.hub.is_empty()
            && self.core.out.frames.in_use() == 0
            && self.core.held_bytes == 0
            && self.assembly.bytes_in_use() == 0
            && self.assembly.contexts() + self.core.compression.compressors() == 0
    }
}

impl<I: Io> Shard<I> for ShardLoop<I::Lease> {
    fn tick(&mut self, io: &mut I) -> Next {
        self.core.now = self.clock.turn(io.now(), self.core.conns.len());
        self.core.unix_ms = io.unix_ms();
        self.core.links.unpark();
        while let Some(shard) = io.wake_failure() {
            self.core.links.wake_failed(shard.0);
        }
        let order = self.core.node.ordered();
        if order == Order::Stop {
            return self.end();
        }
        self.core.hub.begin_turn();
        self.core.inflated_until = self.assembly.inflated_bytes() + INFLATED_PER_TICK;
        self.take_events(io);
        let has_more_records = self.take_records();
        self.core.lets_go_on = false;
        let got_on = self.core.retry_stalled(io, &mut self.assembly);
        if self.clock.may_judge() {
            self.expire(io);
        }
        let has_more_to_settle = self.settle();
        let is_drained = order == Order::Drain && self.drain(io);
        let was_pressed = self.core.out.is_pressed;
        let (had_room, had_deliver_room) = (self.core.has_room(), self.core.links.deliver_room());
        for shard in self.core.links.publish().iter() {
            io.wake(ShardId(shard));
        }
        // What was held back for lack of room can go on at once.
        let has_room_again =
            !had_room && self.core.has_room() || !had_deliver_room && self.core.links.deliver_room();
        let has_more_to_send = {
            let core = &mut self.core;
            core.out.flush(&mut core.conns, io, &core.counters)
        };
        self.count(io);
        // The last marker of this shard may have to wait for room in a ring: others wait for it.
        if is_drained && self.core.links.deliveries_are_out() || self.core.drain.is_overdue(self.clock.real())
        {
            return self.end();
        }
        if has_more_records
            || got_on
            || self.core.lets_go_on
            || has_room_again
            || was_pressed
            || has_more_to_settle
            || has_more_to_send
            || self.core.drain.looks_again(self.core.conns.len())
            || !self.ended.is_empty()
            || !self.clock.may_judge()
            || !self.core.links.park()
        {
            return Next::Again;
        }
        // Without room nothing is done for the hub's sake; whoever makes some wakes this shard.
        let hub = self.core.hub.deadline().filter(|_| self.core.has_room());
        let own = self.core.timers.next().into_iter().chain(hub).min();
        let real = self.core.drain.deadline();
        self.clock.sleep(own, real).map_or(Next::Park, Next::Until)
    }
}

impl<L: std::ops::DerefMut<Target = [u8]>> ShardLoop<L> {
    fn take_events<I: Io<Lease = L>>(&mut self, io: &mut I) {
        let mut events = std::mem::take(&mut self.events);
        io.take(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Accepted { conn, peer } => self.accepted(conn, peer.ip()),
                Event::Data { conn, mut bytes } => {
                    self.core.received(io, &mut self.assembly, conn, &mut bytes);
                    if canary::strikes(Canary::LeaseLeaked) {
                        std::mem::forget(bytes);
                    }
                }
                Event::Sent { conn, batch, result } => self.sent(io, conn, batch, result),
                Event::Eof { conn } => self.ended.push_back(conn),
                Event::Paused { .. } => {}
                Event::Closed { conn, .. } => self.core.closed(conn, &mut self.assembly),
            }
        }
        self.events = events;
        let now = io.now();
        let pace = pace::connections(now.saturating_duration_since(self.last_tick));
        self.last_tick = now;
        for conn in self.ended.drain(..self.ended.len().min(pace)) {
            self.core.half_closed(conn, io);
        }
    }

    fn accepted(&mut self, id: ConnId, ip: std::net::IpAddr) {
        self.core.counters.accepted.add(1);
        let until = self.core.now + self.core.config.limits.handshake_timeout;
        self.core.conns.insert(id, Conn::new(id, ip, until));
        self.core.set_timer(id);
    }

    fn sent(&mut self, io: &mut impl Io, id: ConnId, batch: corecast_driver::Batch, result: Result<(), i32>) {
        self.core.out.recycle(batch);
        self.core.tell_sent(id, if result.is_ok() { Fate::Written } else { Fate::Lost });
        let Some(conn) = self.core.conns.find(id) else { return };
        conn.outbox.sent();
        if let Phase::Closing(closing) = &mut conn.phase {
            // A slow reader is given time for as long as it reads.
            closing.until = self.core.now + self.core.config.limits.close_timeout;
            self.core.set_timer(id);
        }
        let Some(conn) = self.core.conns.find(id) else { return };
        if result.is_ok()
            && conn.is_paused
            && let Some(heartbeat) = conn.client().and_then(|client| client.heartbeat.as_mut())
        {
            // It is not read from, so this is the sign of life that it can give.
            heartbeat.heard(self.core.now);
        }
        if result.is_err() {
            if !matches!(conn.phase, Phase::Gone) {
                self.core.abandon(id, io);
            }
        } else if conn.outbox.is_waiting() {
            self.core.out.mark(conn);
        } else {
            if let Some(serial) = conn.awaits_idle.take() {
                self.core.hub.idle(conn.key(), serial, Idle::Now);
            }
            self.core.try_finish(id, io);
        }
        self.core.tell_of_room(id);
    }

    /// Acts on records of other shards; whether more are there that could be acted on.
    fn take_records(&mut self) -> bool {
        let waits_for_room = canary::strikes(Canary::BothRingsFull) && !self.core.links.request_room();
        let mut left = RECORDS_PER_TICK;
        while left > 0 && !self.core.out.is_pressed && !waits_for_room {
            let Some((from, record)) = self.delivers.next() else {
                if self.core.links.refill(Class::Deliver, &mut self.delivers) {
                    continue;
                }
                break;
            };
            self.core.record(from, Class::Deliver, record);
            left -= 1;
        }
        let delivers_left = left == 0;
        left = RECORDS_PER_TICK;
        // A request may cause deliveries to every shard: it is taken only when all of them have room.
        while left > 0
            && !self.core.out.is_pressed
            && (self.core.links.deliver_room() || canary::strikes(Canary::RequestsWithoutRoom))
        {
            let Some((from, record)) = self.requests.next() else {
                if self.core.links.refill(Class::Request, &mut self.requests) {
                    continue;
                }
                break;
            };
            self.core.record(from, Class::Request, record);
            left -= 1;
        }
        delivers_left || left == 0
    }

    fn expire(&mut self, io: &mut impl Io) {
        let mut expired = std::mem::take(&mut self.expired);
        self.core.timers.expire(self.core.now, &mut expired);
        for index in expired.drain(..) {
            self.core.expired(index, io);
        }
        self.expired = expired;
    }

    /// Tells homes what changed; whether more is to be told at once.
    fn settle(&mut self) -> bool {
        self.core.tell_lost();
        if !self.core.has_room() {
            return false;
        }
        let now = self.core.hub_now();
        let mut left = SETTLE_PER_TICK + self.core.hub.to_do() / SETTLE_SHARE;
        loop {
            self.core.hub.settle(now, SETTLE_PER_TICK, &mut self.core.fx);
            self.core.carry_out();
            left = left.saturating_sub(SETTLE_PER_TICK);
            // What was carried out may have made room for more, or taken it.
            if left == 0 || !self.core.has_room() || !self.core.hub.has_to_settle(now) {
                return self.core.hub.has_to_settle(now);
            }
        }
    }

    /// Goes on with the end of this shard; whether it is reached. Its deadlines are in the driver's time: whoever
    /// asked for it waits no longer because the shard was kept from its work.
    fn drain(&mut self, io: &mut impl Io) -> bool {
        let now = self.clock.real();
        let core = &mut self.core;
        let others = core.links.others();
        loop {
            let stage = core.drain.stage;
            match stage {
                Stage::Serving => {
                    core.drain.begin(now, core.config.limits.drain_timeout);
                    core.quiet(io);
                }
                Stage::Quieting if core.is_quiet() => {
                    core.links.push_others(Class::Request, MARKER);
                    core.drain.stage = Stage::AwaitingRequests;
                }
                Stage::AwaitingRequests if core.drain.requests_are_over(others) => {
                    core.links.push_others(Class::Deliver, MARKER);
                    core.drain.stage = Stage::AwaitingDeliveries;
                }
                Stage::AwaitingDeliveries if core.drain.deliveries_are_over(others) => {
                    core.close_all(now);
                }
                Stage::Closing => {
                    if core.drain.stops_accepting(now) {
                        io.stop_listening();
                    }
                    return core.drain.is_deserted(core.conns.len());
                }
                _ if core.drain.must_close(now) => core.close_all(now),
                _ => return false,
            }
        }
    }

    fn count(&mut self, io: &impl Io) {
        let (core, counters) = (&self.core, &self.core.counters);
        let (stats, rings) = (io.stats(), self.core.links.counters());
        counters.ticks.add(1);
        counters.transcoded.set(core.hub.transcoded());
        counters.replayed.set(core.hub.replayed());
        counters.history_bytes.set(core.hub.history_bytes() as u64);
        counters.redelivered.set(core.hub.redelivered());
        counters.unacked_given_up.set(core.hub.unacked_given_up());
        counters.duplicates_suppressed.set(core.hub.duplicates_suppressed());
        let (keys, forgotten) = core.hub.idempotency_keys();
        counters.idempotency_keys.set(keys as u64);
        counters.idempotency_keys_forgotten.set(forgotten);
        let sessions = core.hub.sessions();
        counters.sessions_suspended.set(sessions.suspended);
        counters.sessions_resumed.set(sessions.resumed);
        counters.sessions_expired.set(sessions.expired);
        counters.sessions_taken_over.set(sessions.taken_over);
        counters.connections.set(self.core.conns.len() as u64);
        counters.frames_in_use.set(self.core.out.frames.in_use() as u64);
        counters.assembly_bytes.set(self.assembly.bytes_in_use() as u64);
        counters.inflated_bytes.set(self.assembly.inflated_bytes());
        counters
            .deflate_contexts
            .set((self.assembly.contexts() + self.core.compression.compressors()) as u64);
        counters.held_bytes.set(self.core.held_bytes as u64);
        counters.kernel_entries.set(stats.enters);
        counters.buffer_shortages.set(stats.buffer_shortages);
        counters.accept_refusals.set(stats.accept_refusals);
        counters.accept_errno.set(stats.accept_errno.unsigned_abs().into());
        counters.parks.set(rings.parks);
        counters.sleeps.set(rings.sleeps);
        counters.wakes.set(rings.wakes);
        counters.spills.set(rings.spills);
        counters.spilled_bytes.set(self.core.links.spilled_bytes() as u64);
    }
}

impl Core {
    fn record(&mut self, from: u16, class: Class, record: &[u8]) {
        if record == MARKER {
            return self.drain.marker(from, class);
        }
        let now = self.hub_now();
        self.hub.remote(now, from, class, record, &mut self.fx);
        self.carry_out();
    }

    /// Stops reading from all clients: what they sent before is still acted on.
    fn quiet(&mut self, io: &mut impl Io) {
        for index in self.conns.indices().collect::<Vec<_>>() {
            let Some(conn) = self.conns.at(index) else { continue };
            if matches!(conn.phase, Phase::Open(_)) && !conn.is_paused {
                conn.is_paused = true;
                io.pause(conn.id);
            }
        }
    }

    /// Whether no client can cause another request. Who is held back although there is room and the next flush brings
    /// none does not read its own replies: nobody waits for that, and what it sent was never accepted.
    fn is_quiet(&mut self) -> bool {
        // Whoever waits for its turn gets it.
        if !self.inflating.is_empty() {
            return false;
        }
        if self.stalled.is_empty() {
            return true;
        }
        let limits = self.config.limits.outbox;
        let (stalled, conns) = (&self.stalled, &mut self.conns);
        let is_pressed = |id: &ConnId| conns.find(*id).is_some_and(|conn| conn.outbox.is_pressed(limits));
        self.links.request_room()
            && self.links.deliver_room()
            && !self.out.is_pressed
            && !stalled.iter().any(is_pressed)
    }

    /// Tells every client to go. Who has not become one yet is refused.
    fn close_all(&mut self, real: Instant) {
        self.drain.closing(real);
        for index in self.conns.indices().collect::<Vec<_>>() {
            let Some(conn) = self.conns.at(index) else { continue };
            let id = conn.id;
            if let Phase::Admission(_) = conn.phase {
                self.give_up_admission(id, &Refusal::Draining);
                continue;
            }
            let Some(client) = conn.client() else { continue };
            if !client.is_echo {
                let mut message = Vec::new();
                event::reconnect(&mut message, client.format, "this node is going away", 1000);
                let frame = self.out.encode(opcode(client.format), &message);
                self.out.reply(conn, frame);
            }
            self.begin_close(id, CloseCode::GoingAway, "DRAINING: this node is going away");
        }
        self.carry_out();
    }
}
