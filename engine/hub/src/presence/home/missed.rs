//! What changed lately in watched channels, at their home, and who of those who come back is told what.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Home, Kept, NAMED_BYTES_MAX, NAMED_MAX};
use crate::presence::log::{Log, Missed, UNSEEN};

/// What all logs of one home take, in bytes: what has no place is forgotten.
const BYTES_MAX: usize = 16 << 20;

/// Channels of one home of which it is kept although nobody watches them: those that were left first go first.
const KEPT_MAX: usize = 16_384;

/// Of those, one look takes so many out: the rest follows at once, when others had their turn.
const FORGOTTEN_AT_ONCE: usize = 256;

/// All logs of one home.
#[derive(Debug)]
pub(super) struct Logs {
    /// So far back they go.
    reach: Duration,
    bytes: usize,
    /// Slots of channels that nobody watched, each once, and when to look again: some are watched by now.
    kept: VecDeque<(Instant, u32)>,
}

impl Logs {
    pub(super) fn new(reach: Duration) -> Self {
        Self { reach, bytes: 0, kept: VecDeque::new() }
    }
}

impl Home {
    /// Somebody watches the channel of this slot.
    pub(super) fn begin_log(&mut self, slot: u32, now: Instant) {
        if self.logs.reach.is_zero() {
            return;
        }
        let log = self.at(slot).extras().log.get_or_insert_with(|| Box::new(Log::new(now)));
        log.kept_until = None;
    }

    /// Nobody watches it any more: but somebody may come back.
    pub(super) fn keep_log(&mut self, slot: u32, now: Instant) -> Option<Instant> {
        let until = now + self.logs.reach;
        let log = self.log_of(slot)?;
        log.kept_until = Some(until);
        if log.queued_until.is_some() {
            return None;
        }
        log.queued_until = Some(until);
        self.logs.kept.push_back((until, slot));
        if self.logs.kept.len() > KEPT_MAX
            && let Some((due, oldest)) = self.logs.kept.pop_front()
        {
            self.look_at_log(oldest, due, None);
        }
        (self.logs.kept.len() == 1).then_some(until)
    }

    fn log_of(&mut self, slot: u32) -> Option<&mut Log> {
        self.channels.get_mut(slot)?.extras.as_mut()?.log.as_deref_mut()
    }

    /// Forgets what was kept for long enough. When the next of it has been.
    pub(crate) fn forget_logs(&mut self, now: Instant) -> Option<Instant> {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some((due, slot)) = self.logs.kept.front().copied().filter(|(due, _)| *due <= now) else {
                break;
            };
            self.logs.kept.pop_front();
            self.look_at_log(slot, due, Some(now));
        }
        self.logs.kept.front().map(|(until, _)| *until)
    }

    /// What was to be looked at by then ends if nobody watches, at once or, with a time, when it was kept for long enough.
    fn look_at_log(&mut self, slot: u32, due: Instant, now: Option<Instant>) {
        let Some(log) = self.log_of(slot).filter(|log| log.queued_until == Some(due)) else { return };
        log.queued_until = None;
        let Some(until) = log.kept_until else { return };
        if now.is_some_and(|now| until > now) {
            log.queued_until = Some(until);
            return self.logs.kept.push_back((until, slot));
        }
        self.logs.bytes -= log.bytes();
        self.at(slot).extras().log = None;
        self.forget_if_empty(slot);
    }

    /// Somebody came or went.
    pub(super) fn log_crossing(&mut self, slot: u32, (name, kept): (&str, Kept), now: Instant) {
        let reach = self.logs.reach;
        self.change_log(slot, now, |log| match kept {
            Kept::Name => log.note(now, name, reach),
            Kept::Hash => log.forget(now),
        });
    }

    /// These are listed from now on.
    pub(super) fn log_named(&mut self, slot: u32, names: &[Box<str>], now: Instant) {
        if !names.is_empty() {
            let reach = self.logs.reach;
            self.change_log(slot, now, |log| names.iter().for_each(|name| log.note(now, name, reach)));
        }
    }

    fn change_log(&mut self, slot: u32, now: Instant, change: impl FnOnce(&mut Log)) {
        let channel = self.channels.get_mut(slot).expect("slots are of channels that exist");
        let Some(log) = channel.extras.as_mut().and_then(|extras| extras.log.as_mut()) else { return };
        self.logs.bytes -= log.bytes();
        change(log);
        if self.logs.bytes + log.bytes() > BYTES_MAX {
            log.forget(now);
        }
        self.logs.bytes += log.bytes();
    }

    /// How many members there are, and of whom somebody is told who comes back; nothing of that if it can't be said.
    /// When it was lost is unknown if that was on another node.
    pub(crate) fn missed(
        &mut self,
        hash: u64,
        name: &str,
        lost_at: Option<Instant>,
    ) -> (u64, Option<Missed>) {
        let count = self.count(hash, name);
        let channel = self.channels.find(hash, name).and_then(|slot| self.channels.get(slot));
        let missed = channel.and_then(|channel| {
            let log = channel.extras.as_ref()?.log.as_ref()?;
            let lost_at = lost_at?;
            log.since((lost_at.checked_sub(UNSEEN)?, lost_at), |name| channel.members.contains(name))
        });
        let is_short =
            |it: &Missed| it.names <= NAMED_MAX && it.joined.len() + it.left.len() <= NAMED_BYTES_MAX;
        (count, missed.filter(is_short))
    }
}
