//! Which times the wall clock has shown: it jumps both ways, and what the server says is one of its times since.

use std::ops::RangeInclusive;

use super::{Oracle, Serial};
use crate::names::ChannelIndex;

/// Times that are further apart are not one stretch.
const STRETCH_MS_MAX: u64 = 100;

/// What is longer at once may count less for a shard.
const STEP_US_MAX: u64 = 1_000;

/// A while in which the wall clock did not jump.
#[derive(Debug)]
pub(super) struct Stretch {
    /// The oracle's clock at its end.
    until: u64,
    first_ms: u64,
    last_ms: u64,
}

/// A moment of virtual time, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Moment {
    pub(super) us: u64,
    /// The same in the time that no shard can have lost.
    pub(super) sure_us: u64,
}

impl Moment {
    /// The later one, each in its own time.
    pub(super) fn latest(self, other: Option<Self>) -> Self {
        let other = other.unwrap_or(self);
        Self { us: self.us.max(other.us), sure_us: self.sure_us.max(other.sure_us) }
    }
}

impl Oracle {
    /// Time has passed; `is_sure` if no shard can have been kept from its work.
    pub fn time_passes(&mut self, now_us: u64, is_sure: bool) {
        let step_us = now_us - self.now_us;
        self.sure_us += if is_sure && step_us <= STEP_US_MAX { step_us } else { 0 };
        self.now_us = now_us;
    }

    /// Time has passed to a shard's deadline, while nobody had anything to do.
    pub fn deadline_passes(&mut self, now_us: u64) {
        self.sure_us += now_us - self.now_us;
        self.now_us = now_us;
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { us: self.now_us, sure_us: self.sure_us }
    }

    /// A shard was shown this time.
    pub fn wall_clock(&mut self, unix_ms: u64) {
        self.ever = (unix_ms.min(self.ever.0), unix_ms.max(self.ever.1));
        if let Some(last) = self.wall.last_mut()
            && (last.last_ms..=last.first_ms + STRETCH_MS_MAX).contains(&unix_ms)
        {
            (last.until, last.last_ms) = (self.clock, unix_ms);
            return;
        }
        self.wall.push(Stretch { until: self.clock, first_ms: unix_ms, last_ms: unix_ms });
    }

    /// The earliest and the latest time that was shown since a message was written, or since the last rest.
    pub fn times_since(&self, written: Option<(ChannelIndex, (Serial, u32))>) -> RangeInclusive<u64> {
        let since = match written {
            None => 0,
            Some((channel, from)) => match self.truths[usize::from(channel)].written(from) {
                Some(written) => written.clock,
                // Only what is kept comes so late.
                None => return self.ever.0..=self.ever.1,
            },
        };
        // The clock stands still while nobody writes or reads: `until` may be the moment of writing itself.
        let stretches = self.wall.iter().filter(|it| it.until >= since);
        let (first, last) =
            stretches.fold((u64::MAX, 0), |(first, last), it| (first.min(it.first_ms), last.max(it.last_ms)));
        first..=last
    }

    /// All that was written so far has been read.
    pub(super) fn forget_times(&mut self) {
        self.wall.drain(..self.wall.len().saturating_sub(1));
    }
}
