//! One deadline per connection: a wheel of short slots, cheap to move a deadline away from now.
//!
//! Moving a deadline to later only notes it; the entry is looked at when its old slot comes, and queued again.

use std::time::{Duration, Instant};

/// Slots of the wheel, a power of two; with 10 ms each about 41 s ahead, later deadlines go round.
const SLOTS: usize = 4096;

const NONE: u64 = u64::MAX;

/// Deadlines by connection slot. Fires never early, and at most one tick of the wheel late.
#[derive(Debug)]
pub(crate) struct Timers {
    start: Instant,
    tick: Duration,
    /// The first tick that was not looked at yet.
    current: u64,
    slots: Vec<Vec<u32>>,
    /// A bit for each slot with entries.
    occupied: [u64; SLOTS / 64],
    entries: Vec<Entry>,
    due: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: u64,
    /// The tick in whose slot the valid entry lies; others are leftovers.
    queued: u64,
}

impl Timers {
    /// A wheel whose slots are `tick` long.
    pub(crate) fn new(now: Instant, tick: Duration) -> Self {
        Self {
            start: now,
            tick,
            current: 0,
            slots: vec![Vec::new(); SLOTS],
            occupied: [0; SLOTS / 64],
            entries: Vec::new(),
            due: Vec::new(),
        }
    }

    /// Sets the deadline of a connection slot, in place of an earlier one.
    pub(crate) fn set(&mut self, index: u32, deadline: Instant) {
        let at = index as usize;
        if at >= self.entries.len() {
            self.entries.resize(at + 1, Entry { deadline: NONE, queued: NONE });
        }
        let deadline = self.ticks_up(deadline).max(self.current);
        self.entries[at].deadline = deadline;
        if self.entries[at].queued > deadline {
            self.queue(index, deadline);
        }
    }

    /// Forgets the deadline of a connection slot.
    pub(crate) fn clear(&mut self, index: u32) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.deadline = NONE;
        }
    }

    /// Calls `expired` for each slot whose deadline has passed; it has none afterwards.
    pub(crate) fn expire(&mut self, now: Instant, expired: &mut Vec<u32>) {
        let until = (now.saturating_duration_since(self.start).as_nanos() / self.tick.as_nanos()) as u64;
        // After a long sleep one round of the wheel shows every entry.
        let last = until.min(self.current + SLOTS as u64 - 1);
        while self.current <= last {
            let slot = (self.current as usize) % SLOTS;
            if self.slots[slot].is_empty() {
                self.current += 1;
                continue;
            }
            std::mem::swap(&mut self.slots[slot], &mut self.due);
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            let tick = self.current;
            self.current += 1;
            while let Some(index) = self.due.pop() {
                self.look_at(index, tick, until, expired);
            }
        }
        self.current = self.current.max(until + 1);
    }

    fn look_at(&mut self, index: u32, tick: u64, until: u64, expired: &mut Vec<u32>) {
        let entry = &mut self.entries[index as usize];
        // Only the entry that was queued for a tick of this slot is valid; going round keeps it for later.
        if entry.queued == NONE || entry.queued % SLOTS as u64 != tick % SLOTS as u64 {
            return;
        }
        entry.queued = NONE;
        if entry.deadline == NONE {
            return;
        }
        if entry.deadline <= until {
            entry.deadline = NONE;
            expired.push(index);
        } else {
            let deadline = entry.deadline;
            self.queue(index, deadline);
        }
    }

    /// When [`Timers::expire`] is to be called next; it may then find nothing due.
    pub(crate) fn next(&self) -> Option<Instant> {
        let first = (self.current as usize) % SLOTS;
        for step in 0..=SLOTS / 64 {
            let word = (first / 64 + step) % (SLOTS / 64);
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (first % 64);
            } else if step == SLOTS / 64 {
                bits &= !(u64::MAX << (first % 64));
            }
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - first) % SLOTS;
                // In 64 bits: 32 bits of ticks are over after 497 days.
                let nanos = (self.tick.as_nanos() as u64) * (self.current + ahead as u64);
                return Some(self.start + Duration::from_nanos(nanos));
            }
        }
        None
    }

    fn queue(&mut self, index: u32, tick: u64) {
        // `expire` may be in the middle of a slot that has just been passed.
        let tick = tick.max(self.current);
        let slot = (tick as usize) % SLOTS;
        self.slots[slot].push(index);
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.entries[index as usize].queued = tick;
    }

    /// The first tick that begins at or after `time`.
    fn ticks_up(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.start).as_nanos().div_ceil(self.tick.as_nanos()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TICK: Duration = Duration::from_millis(10);

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u64),
        Clear(u32),
        Sleep(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u32..20, prop_oneof![0u64..200, 0u64..100_000]).prop_map(|(index, ms)| Step::Set(index, ms)),
            1 => (0u32..20).prop_map(Step::Clear),
            4 => prop_oneof![0u64..50, 0u64..120_000].prop_map(Step::Sleep),
        ];
        prop::collection::vec(step, 0..60)
    }

    #[test]
    fn two_years_of_ticks_are_counted() {
        let start = Instant::now();
        let mut timers = Timers::new(start, TICK);
        let now = start + Duration::from_secs(2 * 365 * 86_400);
        let mut expired = Vec::new();
        timers.expire(now, &mut expired);
        timers.set(0, now + Duration::from_secs(1));
        assert!(timers.next().expect("something is due") > now);
    }

    proptest! {
        #[test]
        fn never_early_and_at_most_a_tick_late(steps in steps()) {
            let start = Instant::now();
            let mut now = start;
            let mut timers = Timers::new(start, TICK);
            let mut twin: BTreeMap<u32, Instant> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(index, ms) => {
                        timers.set(index, now + Duration::from_millis(ms));
                        twin.insert(index, now + Duration::from_millis(ms));
                    }
                    Step::Clear(index) => {
                        timers.clear(index);
                        twin.remove(&index);
                    }
                    Step::Sleep(ms) => now += Duration::from_millis(ms),
                }
                if let Some(first) = twin.values().min() {
                    let next = timers.next().expect("something is due some time");
                    prop_assert!(next <= *first + TICK, "the next look is in time");
                }
                let mut expired = Vec::new();
                timers.expire(now, &mut expired);
                for index in expired {
                    let deadline = twin.remove(&index).expect("only what was set expires, and once");
                    prop_assert!(deadline <= now, "never early");
                }
                prop_assert!(twin.values().all(|deadline| *deadline + TICK > now), "at most a tick late");
            }
        }
    }
}
