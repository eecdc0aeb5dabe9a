//! What waits for one connection, and what becomes of it when there is too much.
//!
//! Entries here are not in flight yet: policies may still drop or replace them. The outbox knows frames and
//! priorities; it knows no sockets and no channels' meaning.

use std::collections::VecDeque;

use corecast_driver::{Batch, BatchPool, Frame};
use corecast_hub::canary::{self, Canary};
use corecast_hub::{Delivery, Place, SlowPolicy, Tracking};
use corecast_protocol::envelope::command::Priority;

/// Bounds of one outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutboxLimits {
    /// Messages that wait at most; replies are counted but never refused.
    pub messages: usize,
    /// Bytes that wait at most, likewise.
    pub bytes: usize,
}

/// What happened to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pushed {
    /// It waits behind the others.
    Queued,
    /// It waits, and an older one of the same kind is gone.
    Replaced,
    /// There was no room and messages were dropped.
    Dropped {
        /// How many.
        count: usize,
        /// Whether the new one was queued; otherwise it is among them, for nothing else could go.
        is_queued: bool,
    },
    /// There was no room and nothing may be dropped: the consumer is to be disconnected.
    Overflow,
}

/// What became of an older message of the same kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replaced {
    /// There was none.
    Nothing,
    /// The new one has its place, or the next one that its channel's order allows.
    InPlace,
    /// It is gone, and the new one still needs a place.
    Removed,
}

/// One waiting message. `delivery` is `None` for what no policy touches: replies and control frames.
#[derive(Debug)]
struct Entry {
    frame: Frame,
    delivery: Option<Delivery>,
    priority: Priority,
    /// Nothing passes it, in neither direction.
    is_fixed: bool,
    /// What becomes of it is told.
    tracking: Option<Tracking>,
}

impl Entry {
    fn is_droppable(&self) -> bool {
        self.delivery.is_some_and(|delivery| delivery.policy != SlowPolicy::Disconnect)
    }
}

/// The memory of a queue; pooled, so that an idle connection owns none.
#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// Queues without an owner, kept for the next connection that gets messages.
#[derive(Debug)]
#[expect(clippy::vec_box, reason = "the boxes themselves are reused; they move between connections")]
pub(crate) struct QueuePool {
    free: Vec<Box<Queue>>,
    free_max: usize,
    /// Counted copies that were dropped, replaced or forgotten, to be told.
    pub(crate) lost: Vec<Tracking>,
    /// Counted copies that the batch in the making carries.
    pub(crate) carried: Vec<Tracking>,
}

/// A queue with room for more entries than this is freed after use instead of kept.
const KEPT_ENTRIES_MAX: usize = 256;

impl QueuePool {
    /// A pool that keeps up to `free_max` empty queues of at most 256 entries (8 KiB) each.
    pub(crate) fn new(free_max: usize) -> Self {
        Self { free: Vec::with_capacity(free_max), free_max, lost: Vec::new(), carried: Vec::new() }
    }

    fn take(&mut self) -> Box<Queue> {
        self.free.pop().unwrap_or_default()
    }

    fn put(&mut self, queue: Box<Queue>) {
        debug_assert!(queue.entries.is_empty() && queue.bytes == 0, "only empty queues are pooled");
        if self.free.len() < self.free_max && queue.entries.capacity() <= KEPT_ENTRIES_MAX {
            self.free.push(queue);
        }
    }
}

/// What waits for one connection: 16 bytes when nothing does.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Option<Box<Queue>>,
    in_flight: bool,
}

impl Outbox {
    /// Queues what no policy may drop: a reply, a control frame, a handshake answer. It comes behind everything that
    /// was queued before it, unless higher messages lift it; one that is fixed is passed by nothing.
    pub(crate) fn push_reply(&mut self, pool: &mut QueuePool, frame: Frame, place: Place) {
        let queue = self.queue.get_or_insert_with(|| pool.take());
        let priority = queue.entries.back().map_or(Priority::Normal, |last| last.priority);
        let is_fixed = place == Place::Fixed;
        if !queue.entries.is_empty() && canary::strikes(Canary::ReplyOvertaken) {
            queue.bytes += frame.len();
            let priority = Priority::Critical;
            return queue.entries.push_front(Entry {
                frame,
                delivery: None,
                priority,
                is_fixed,
                tracking: None,
            });
        }
        queue.push_back(Entry { frame, delivery: None, priority, is_fixed, tracking: None });
    }

    /// Queues a message, by its priority and under its policy.
    pub(crate) fn push(
        &mut self,
        pool: &mut QueuePool,
        frame: &Frame,
        (delivery, tracking): (Delivery, Option<Tracking>),
        limits: OutboxLimits,
    ) -> Pushed {
        let queue = self.queue.get_or_insert_with(|| pool.take());
        let lost = &mut pool.lost;
        // Behind an empty queue a consumer that keeps up never reaches the policies, unless one tick fills it: then a
        // message replaces its own kind before it takes the place of another.
        let conflates = delivery.policy == SlowPolicy::Conflate
            && (self.in_flight || !queue.has_room(frame.len(), limits));
        let replaced = if conflates {
            queue.replace(frame, (delivery, tracking), limits.bytes, lost)
        } else {
            Replaced::Nothing
        };
        if replaced == Replaced::InPlace {
            return Pushed::Replaced;
        }
        let gone = usize::from(replaced == Replaced::Removed);
        let mut dropped = 0;
        while !queue.has_room(frame.len(), limits) {
            if delivery.policy == SlowPolicy::Disconnect {
                lost.extend(tracking);
                return Pushed::Overflow;
            }
            dropped += 1;
            if !queue.drop_oldest(lost) {
                lost.extend(tracking);
                return Pushed::Dropped { count: gone + dropped, is_queued: false };
            }
        }
        let (priority, is_fixed) = (delivery.priority, false);
        queue.insert(Entry { frame: frame.clone(), delivery: Some(delivery), priority, is_fixed, tracking });
        match (gone, dropped) {
            (0, 0) => Pushed::Queued,
            (_, 0) => Pushed::Replaced,
            _ => Pushed::Dropped { count: gone + dropped, is_queued: true },
        }
    }

    /// The next batch, unless one is in flight or nothing waits. What is returned counts as in flight until
    /// [`Outbox::sent`].
    pub(crate) fn next_batch(&mut self, pool: &mut QueuePool, batches: &mut BatchPool) -> Option<Batch> {
        if self.in_flight && !canary::strikes(Canary::DoubleSend) {
            return None;
        }
        let queue = self.queue.as_mut()?;
        let carried = &mut pool.carried;
        let batch = batches.fill(|room| {
            let (frame, tracking) = queue.pop_within(room)?;
            if tracking.is_some() {
                carried.extend(tracking);
            }
            Some(frame)
        });
        if queue.entries.is_empty()
            && let Some(queue) = self.queue.take()
        {
            pool.put(queue);
        }
        self.in_flight = batch.is_some();
        batch
    }

    /// The batch in flight was handed back.
    pub(crate) fn sent(&mut self) {
        self.in_flight = canary::strikes(Canary::OutboxStuck);
    }

    /// Forgets all that waits; returns how many messages.
    pub(crate) fn clear(&mut self, pool: &mut QueuePool) -> usize {
        let Some(mut queue) = self.queue.take() else { return 0 };
        let count = queue.entries.len();
        pool.lost.extend(queue.entries.drain(..).filter_map(|entry| entry.tracking));
        queue.bytes = 0;
        pool.put(queue);
        count
    }

    /// Whether nothing waits and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        !self.in_flight && self.queue.is_none()
    }

    /// Whether much waits that the next flush takes away: more would look as if the consumer were slow.
    pub(crate) fn is_pressed(&self, limits: OutboxLimits) -> bool {
        !self.in_flight && self.is_half_full(limits)
    }

    /// Whether half of what may wait does.
    pub(crate) fn is_half_full(&self, limits: OutboxLimits) -> bool {
        self.queue.as_ref().is_some_and(|queue| {
            queue.bytes > limits.bytes / 2 || queue.entries.len() > limits.messages.div_ceil(2)
        })
    }

    /// Whether something waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.queue.is_some()
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Messages that wait.
    #[cfg(test)]
    pub(crate) fn messages(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.entries.len())
    }
}

impl Queue {
    fn push_back(&mut self, entry: Entry) {
        self.bytes += entry.frame.len();
        self.entries.push_back(entry);
    }

    /// Behind everything of the same or a higher priority, as far back as the last fixed entry. What the same channel
    /// has queued is lifted along, so that its order holds.
    fn insert(&mut self, entry: Entry) {
        let is_highest_last = self.entries.back().is_none_or(|last| last.priority >= entry.priority);
        if is_highest_last {
            self.push_back(entry);
            return;
        }
        let channel = entry.delivery.map(|delivery| delivery.channel);
        let first = self.entries.iter().rposition(|queued| queued.is_fixed).map_or(0, |fixed| fixed + 1);
        for queued in self.entries.range_mut(first..) {
            let is_same = queued.delivery.map(|delivery| delivery.channel) == channel
                && !canary::strikes(Canary::PriorityBreaksOrder);
            // Answers are lifted too: nobody waits longer for them than for messages.
            if is_same || queued.delivery.is_none() {
                queued.priority = queued.priority.max(entry.priority);
            }
        }
        self.push_back(entry);
        self.entries.make_contiguous()[first..].sort_by_key(|entry| std::cmp::Reverse(entry.priority));
    }

    /// Puts a message in the place of an older one of its kind. What it would overtake there (messages of its
    /// channel, something fixed) it comes directly behind: a channel keeps its turn, however often its values
    /// change.
    /// Where that can't be (too many bytes, a higher priority than the place has), the older one goes all the
    /// same, and the new one is to be queued as others are.
    fn replace(
        &mut self,
        frame: &Frame,
        (delivery, tracking): (Delivery, Option<Tracking>),
        bytes_max: usize,
        lost: &mut Vec<Tracking>,
    ) -> Replaced {
        let Some((index, last)) = self.find_same(delivery) else { return Replaced::Nothing };
        let (older, ahead) = (&self.entries[index], &self.entries[last]);
        let priority = if ahead.is_fixed { older.priority } else { ahead.priority };
        self.bytes -= older.frame.len();
        lost.extend(older.tracking);
        if self.bytes + frame.len() > bytes_max || delivery.priority > priority {
            self.entries.remove(index);
            return Replaced::Removed;
        }
        self.bytes += frame.len();
        // Behind something fixed, what has a higher priority stays in front.
        let higher = self.entries.range(last + 1..).take_while(|entry| entry.priority > priority).count();
        let place = last + higher;
        if place > index {
            self.entries.make_contiguous()[index..=place].rotate_left(1);
        }
        let entry = &mut self.entries[place];
        entry.frame = frame.clone();
        entry.tracking = tracking;
        entry.priority = priority;
        Replaced::InPlace
    }

    /// The last message of a kind, and the last entry from there on that nothing of its channel may overtake.
    fn find_same(&self, delivery: Delivery) -> Option<(usize, usize)> {
        let mut last = None;
        for (index, entry) in self.entries.iter().enumerate().rev() {
            if entry.is_fixed || entry.delivery.is_some_and(|it| it.channel == delivery.channel) {
                last.get_or_insert(index);
            }
            if entry.delivery.is_some_and(|it| it.conflate == delivery.conflate) {
                return Some((index, last.unwrap_or(index)));
            }
        }
        None
    }

    fn has_room(&self, bytes: usize, limits: OutboxLimits) -> bool {
        self.entries.len() < limits.messages && self.bytes + bytes <= limits.bytes
    }

    fn drop_oldest(&mut self, lost: &mut Vec<Tracking>) -> bool {
        let Some(index) = self.entries.iter().position(Entry::is_droppable) else { return false };
        if let Some(entry) = self.entries.remove(index) {
            self.bytes -= entry.frame.len();
            lost.extend(entry.tracking);
        }
        true
    }

    fn pop_within(&mut self, room: usize) -> Option<(Frame, Option<Tracking>)> {
        if self.entries.front()?.frame.len() > room {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.frame.len();
        Some((entry.frame, entry.tracking))
    }
}

#[cfg(test)]
mod tests;
