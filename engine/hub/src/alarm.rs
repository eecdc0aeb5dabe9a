//! What the hub does when a time has come, instead of for a message.
//!
//! Alarms can't be taken back: whoever set one looks, when it rings, whether it still means anything.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::config::Now;
use crate::effect::{ConnKey, Effects, Tracking};
use crate::hub::Hub;

/// Between two looks at what has grown too old.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Channels that one look takes in: all of 100,000 within a few minutes.
const SWEPT_AT_ONCE: usize = 512;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Alarm {
    /// Histories are looked through for messages that are too old.
    Sweep,
    /// Something may have been unacknowledged for too long.
    Unacked { conn: ConnKey, serial: u32 },
    /// Counted copies of a message were waited for long enough.
    Receipt { tracking: Tracking, home: u16, serial: u64 },
    /// Who came and went in the channel of this slot is told.
    Presence(u32),
    /// Somebody in the channel of this slot may have typed for too long.
    Typing(u32),
    /// Whose sessions went on elsewhere are known to be there.
    Linger,
    /// What changed in channels that nobody watches any more is of no use to those who were away.
    ForgetMissed,
    /// The first of the sessions that wait is over.
    SessionsExpire,
    /// A connection that got what was kept for its participant counts as having seen it, if it is still there.
    InboxSeen(ConnKey, u32),
    /// An inbox waited for long enough for its connection to resume a session.
    InboxHeld(ConnKey, u32),
}

/// All that is to be done, by its time and then in the order in which it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    heap: BinaryHeap<Reverse<(Instant, u64, Alarm)>>,
    count: u64,
}

impl Alarms {
    /// Rings at this time, or as soon afterwards as the shard has room.
    pub(crate) fn set(&mut self, at: Instant, alarm: Alarm) {
        self.count += 1;
        self.heap.push(Reverse((at, self.count, alarm)));
    }

    /// When the next one rings.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    fn due(&mut self, now: Instant) -> Option<Alarm> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, _, alarm))| alarm)
    }
}

impl Hub {
    /// When [`settle`](Hub::settle) is to be called without anything having happened.
    pub fn deadline(&self) -> Option<Instant> {
        self.alarms.next()
    }

    /// Does the next thing whose time has come; whether there was one.
    pub(crate) fn ring(&mut self, now: Now, fx: &mut Effects) -> bool {
        let Some(alarm) = self.alarms.due(now.instant) else { return false };
        match alarm {
            Alarm::Sweep => self.sweep(now),
            Alarm::Unacked { conn, serial } => self.unacked(now, conn, serial, fx),
            Alarm::Receipt { tracking, home, serial } => self.lose_patience(tracking, (home, serial)),
            Alarm::Presence(slot) => self.flush_presence(now, slot, fx),
            Alarm::Typing(slot) => self.expire_typing(now, slot, fx),
            Alarm::Linger => self.stop_lingering(now),
            Alarm::ForgetMissed => self.forget_missed(now),
            Alarm::SessionsExpire => self.expire_sessions(now),
            Alarm::InboxSeen(conn, serial) => self.inbox_seen(now, conn, serial, fx),
            Alarm::InboxHeld(conn, serial) => self.inbox_held(conn, serial, fx),
        }
        true
    }

    /// Looks after histories from now on, unless that is done already.
    pub(crate) fn sweep_later(&mut self, now: Now) {
        if !std::mem::replace(&mut self.is_sweeping, true) {
            self.alarms.set(now.instant + SWEEP_INTERVAL, Alarm::Sweep);
        }
    }

    fn sweep(&mut self, now: Now) {
        self.is_sweeping = false;
        let (are_channels_left, are_inboxes_left) = (
            self.homes.sweep(now.instant, SWEPT_AT_ONCE),
            self.participants.sweep(now.instant, SWEPT_AT_ONCE),
        );
        if are_channels_left || are_inboxes_left {
            self.sweep_later(now);
        } else {
            self.transcoder.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_ring_in_the_order_of_their_times() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut alarms = Alarms::default();
        assert_eq!((alarms.next(), alarms.due(start)), (None, None));
        alarms.set(at(5), Alarm::Sweep);
        alarms.set(at(3), Alarm::Sweep);
        assert_eq!(alarms.next(), Some(at(3)));
        assert_eq!(alarms.due(at(2)), None);
        assert_eq!((alarms.due(at(4)), alarms.due(at(4))), (Some(Alarm::Sweep), None));
        assert_eq!(
            (alarms.next(), alarms.due(at(5)), alarms.next()),
            (Some(at(5)), Some(Alarm::Sweep), None)
        );
    }
}
