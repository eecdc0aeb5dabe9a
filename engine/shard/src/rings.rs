//! What crosses shards: two classes of byte rings per ordered pair of shards, their spills, and the wake rule.
//!
//! Producer: publish the tails once per tick, fence, take `parked`, wake only if it was set. Consumer: set
//! `parked`, fence, look at every ring again, then wait. A producer with a spill sets `blocked`, fences and looks
//! again; the consumer fences behind publishing its head and wakes it. Records are opaque bytes here.

mod inbox;
mod path;
mod sync;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
#[cfg(all(test, loom))]
mod tests_loom;

use std::sync::Arc;

use corecast_hub::canary::{self, Canary};
use corecast_hub::{Class, ShardSet};
use crossbeam_utils::CachePadded;

pub use inbox::Inbox;
use path::{Receiver, Sender};
use sync::{AtomicBool, Ordering, fence};

/// Sizes of the rings of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingConfig {
    /// Bytes of each ring for requests to a home.
    pub request_bytes: usize,
    /// Bytes of each ring for deliveries from a home.
    pub deliver_bytes: usize,
    /// Bytes of spill, per ring, from which on no more messages are taken from sockets or request rings.
    ///
    /// One message adds at most 511 records (a batch of 255 publishes and one message that names 256 channels), each
    /// at most `inline_bytes`: the hard bound of a spill.
    pub spill_bytes: usize,
    /// Larger records travel as one shared allocation; at most a quarter of a ring.
    pub inline_bytes: usize,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { request_bytes: 256 << 10, deliver_bytes: 1 << 20, spill_bytes: 1 << 20, inline_bytes: 4096 }
    }
}

/// What one shard's rings did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingCounters {
    /// Wake-ups that were asked for.
    pub wakes: u64,
    /// Times this shard announced that it goes to sleep; the announcements taken back at once are among them.
    pub parks: u64,
    /// Times nothing came in between, and it slept.
    pub sleeps: u64,
    /// Publishes of a ring after which something was left over.
    pub spills: u64,
}

/// One shard's ends of all its rings.
#[derive(Debug)]
pub struct Links {
    shard: u16,
    parked: Arc<[CachePadded<AtomicBool>]>,
    requests: Lanes,
    delivers: Lanes,
    /// Producers whose blocked rings were drained: to be woken with the next publish.
    unblocked: ShardSet,
    counters: RingCounters,
}

/// The rings of one class, to and from each other shard; none to itself.
#[derive(Debug)]
struct Lanes {
    senders: Vec<Option<Sender>>,
    receivers: Vec<Option<Receiver>>,
    /// Where the next look for records begins: nobody starves.
    turn: usize,
    /// Senders whose spill is at its bound.
    full: usize,
    /// Senders with something to publish.
    staged: ShardSet,
}

/// Builds the rings of a node; one `Links` for each shard.
///
/// # Panics
/// If a ring can't hold four of the largest inline records.
pub fn mesh(shards: usize, config: RingConfig) -> Vec<Links> {
    assert!(
        config.inline_bytes + 4 <= config.request_bytes.min(config.deliver_bytes) / 4,
        "a ring holds several records"
    );
    let parked: Arc<[_]> = (0..shards).map(|_| CachePadded::new(AtomicBool::new(false))).collect();
    let mut requests = lanes(shards, config.request_bytes, config);
    let mut delivers = lanes(shards, config.deliver_bytes, config);
    (0..shards)
        .map(|shard| Links {
            shard: shard as u16,
            parked: Arc::clone(&parked),
            requests: std::mem::take(&mut requests[shard]),
            delivers: std::mem::take(&mut delivers[shard]),
            unblocked: ShardSet::EMPTY,
            counters: RingCounters::default(),
        })
        .collect()
}

fn lanes(shards: usize, ring_bytes: usize, config: RingConfig) -> Vec<Lanes> {
    let mut all: Vec<Lanes> = (0..shards)
        .map(|_| Lanes {
            senders: (0..shards).map(|_| None).collect(),
            receivers: (0..shards).map(|_| None).collect(),
            turn: 0,
            full: 0,
            staged: ShardSet::EMPTY,
        })
        .collect();
    for from in 0..shards {
        for to in (0..shards).filter(|to| *to != from) {
            let (sender, receiver) = path::path(ring_bytes, config);
            all[from].senders[to] = Some(sender);
            all[to].receivers[from] = Some(receiver);
        }
    }
    all
}

impl Default for Lanes {
    fn default() -> Self {
        Self { senders: Vec::new(), receivers: Vec::new(), turn: 0, full: 0, staged: ShardSet::EMPTY }
    }
}

impl Lanes {
    fn push(&mut self, to: u16, record: &[u8], shared: Option<&Arc<[u8]>>) {
        let sender = self.senders[usize::from(to)].as_mut().expect("a shard sends no records to itself");
        let was_full = sender.is_full();
        match shared {
            Some(shared) => sender.push_shared(shared),
            None => sender.push(record),
        }
        self.full += usize::from(!was_full && sender.is_full());
        self.staged.insert(to);
    }

    /// Moves what is staged into the rings; the shards that got something.
    fn publish(&mut self, counters: &mut RingCounters) -> ShardSet {
        let mut told = ShardSet::EMPTY;
        for to in self.staged.iter() {
            let sender = self.senders[usize::from(to)].as_mut().expect("it was pushed to");
            let was_full = sender.is_full();
            if sender.publish() {
                told.insert(to);
            }
            self.full -= usize::from(was_full && !sender.is_full());
            if sender.is_empty() {
                self.staged.remove(to);
            } else {
                counters.spills += 1;
            }
        }
        told
    }

    /// Fills an empty inbox from the next shard that sent something; whether there is anything in it now.
    fn refill(&mut self, inbox: &mut Inbox, unblocked: &mut ShardSet) -> bool {
        let shards = self.receivers.len();
        for step in 0..shards {
            let from = (self.turn + step) % shards;
            let Some(receiver) = &mut self.receivers[from] else { continue };
            if receiver.take(inbox) {
                inbox.from = from as u16;
                self.turn = from + 1;
                if receiver.take_blocked() && !canary::strikes(Canary::BlockedForgotten) {
                    unblocked.insert(from as u16);
                }
                return true;
            }
        }
        false
    }

    fn has_arrivals(&self) -> bool {
        self.receivers.iter().flatten().any(|receiver| !receiver.is_empty())
    }

    fn waiting_bytes(&self) -> usize {
        let waiting = self.staged.iter().filter_map(|to| self.senders[usize::from(to)].as_ref());
        waiting.map(Sender::waiting_bytes).sum()
    }

    fn can_move(&self) -> bool {
        self.staged.iter().any(|to| self.senders[usize::from(to)].as_ref().is_some_and(Sender::can_move))
    }
}

impl Links {
    /// Stages a record for each of `shards`, which this one is not among. A large record is one allocation for all;
    /// the last shard that lets go of it frees it.
    pub fn push_all(&mut self, shards: ShardSet, class: Class, record: &[u8]) {
        let lanes = self.lanes(class);
        let is_large =
            lanes.senders.iter().flatten().next().is_some_and(|sender| record.len() > sender.inline_bytes);
        let shared: Option<Arc<[u8]>> = is_large.then(|| record.into());
        for to in shards.iter() {
            lanes.push(to, record, shared.as_ref());
        }
    }

    /// Stages a record for every other shard.
    pub fn push_others(&mut self, class: Class, record: &[u8]) {
        self.push_all(self.others(), class, record);
    }

    /// All shards but this one.
    pub fn others(&self) -> ShardSet {
        let mut others = ShardSet::first(self.parked.len());
        others.remove(self.shard);
        others
    }

    /// Whether requests may be added: the spill to no home is at its bound.
    pub fn request_room(&self) -> bool {
        self.requests.full == 0 || canary::strikes(Canary::SpillUnbounded)
    }

    /// Whether deliveries may be added: the spill to no shard is at its bound.
    pub fn deliver_room(&self) -> bool {
        self.delivers.full == 0 || canary::strikes(Canary::SpillUnbounded)
    }

    /// Whether all deliveries are in the rings: none is staged or waits for room.
    pub fn deliveries_are_out(&self) -> bool {
        self.delivers.staged.is_empty()
    }

    /// Shards to which records are staged, or wait for room; behind [`Links::publish`] the latter alone.
    pub fn spills_to(&self) -> ShardSet {
        ShardSet(self.requests.staged.0 | self.delivers.staged.0)
    }

    /// Moves what was staged into the rings, tails published once per ring, and says whom to wake.
    pub fn publish(&mut self) -> ShardSet {
        let mut told = std::mem::take(&mut self.unblocked);
        if !self.requests.staged.is_empty() || !self.delivers.staged.is_empty() {
            told.0 |= self.requests.publish(&mut self.counters).0;
            told.0 |= self.delivers.publish(&mut self.counters).0;
        }
        let mut wakes = ShardSet::EMPTY;
        if told.is_empty() {
            return wakes;
        }
        // Pairs with the fence in `park`: either the sleeper sees the new tails, or we see that it sleeps.
        fence(Ordering::SeqCst);
        for shard in told.iter() {
            let flag = &self.parked[usize::from(shard)];
            if flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::AcqRel) {
                if canary::strikes(Canary::LostWakeUp) {
                    continue;
                }
                wakes.insert(shard);
                self.counters.wakes += 1;
            }
        }
        wakes
    }

    /// A wake-up failed: the next publish to this shard tries again.
    pub fn wake_failed(&mut self, shard: u16) {
        self.parked[usize::from(shard)].store(true, Ordering::Release);
        self.unblocked.insert(shard);
    }

    /// Fills an empty inbox with records of one shard; whether there is anything in it now.
    pub fn refill(&mut self, class: Class, inbox: &mut Inbox) -> bool {
        debug_assert!(inbox.is_empty(), "an inbox is emptied before it is filled again");
        let lanes = match class {
            Class::Request => &mut self.requests,
            Class::Deliver => &mut self.delivers,
        };
        lanes.refill(inbox, &mut self.unblocked)
    }

    /// Announces sleep; `false` if there is work after all, and the announcement was taken back.
    pub fn park(&mut self) -> bool {
        let own = &self.parked[usize::from(self.shard)];
        // An exchange, not a store: it orders this announcement behind whoever took the last one.
        own.swap(true, Ordering::AcqRel);
        self.counters.parks += 1;
        fence(Ordering::SeqCst);
        if self.has_work() {
            own.store(false, Ordering::Relaxed);
            return false;
        }
        self.counters.sleeps += 1;
        true
    }

    /// Whether a tick would get on with something. Requests that may not be taken for lack of room are no work: the
    /// consumer that makes the room wakes us.
    fn has_work(&self) -> bool {
        self.delivers.has_arrivals()
            || (self.deliver_room() && self.requests.has_arrivals())
            || self.delivers.can_move()
            || self.requests.can_move()
            || !self.unblocked.is_empty()
    }

    /// Awake again: no wake-ups are needed.
    pub fn unpark(&mut self) {
        let own = &self.parked[usize::from(self.shard)];
        if own.load(Ordering::Relaxed) {
            own.store(false, Ordering::Relaxed);
        }
    }

    /// Whether something waits to get into a ring.
    #[cfg(test)]
    fn has_staged(&self) -> bool {
        !self.requests.staged.is_empty() || !self.delivers.staged.is_empty()
    }

    /// Bytes that were staged and are in no ring: behind [`Links::publish`], what waits for room.
    pub fn spilled_bytes(&self) -> usize {
        self.requests.waiting_bytes() + self.delivers.waiting_bytes()
    }

    /// What happened so far.
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    fn lanes(&mut self, class: Class) -> &mut Lanes {
        match class {
            Class::Request => &mut self.requests,
            Class::Deliver => &mut self.delivers,
        }
    }
}
