//! Acknowledgements: what was not acknowledged comes again, in order, each time as a later attempt and never before its
//! time; what was acknowledged does not; who acknowledges gets on.

use std::collections::BTreeMap;

use super::times::Moment;
use super::{Check, Checked, Failure, Oracle, Seen, Serial, View};
use crate::names::ChannelIndex;

/// Messages that one subscription may have unacknowledged.
const UNACKED_MAX: u64 = 100;

/// What may pass beyond the time until something is sent again.
const SLACK_US: u64 = 100_000;

/// When and how often something is sent again.
#[derive(Clone, Copy, Debug)]
pub struct AckLimits {
    /// Virtual microseconds until the second attempt; from then on twice as long each time.
    pub timeout_us: u64,
    /// Attempts at most.
    pub attempts: u32,
}

/// What one connection knows of a channel that it acknowledges.
#[derive(Clone, Debug, Default)]
pub(super) struct Acking {
    epoch: Option<u32>,
    /// Up to here it has acknowledged, and so far the server certainly knows.
    acked: u64,
    settled: u64,
    /// What came and was not acknowledged.
    open: BTreeMap<u64, Copy>,
    /// The last message that came.
    last: u64,
    /// The first message that was sent again last, as which attempt, and not before which time.
    run: Option<(u64, u32, u64)>,
    /// When something came, or was acknowledged.
    moved_at: Moment,
}

/// A message that came, perhaps several times.
#[derive(Clone, Copy, Debug)]
struct Copy {
    attempt: u32,
    /// It was not sent before this.
    sent_us: u64,
}

impl Acking {
    /// What must come again if something behind an offset and before another one does: the first such.
    fn passed_over(&self, behind: u64, before: u64, limits: AckLimits) -> Option<u64> {
        let behind = behind.max(self.acked);
        let mut all = self.open.range(behind + 1..before.max(behind + 1));
        all.find(|(_, copy)| copy.attempt < limits.attempts).map(|(offset, _)| *offset)
    }

    /// The same first message begins all attempts in a row: each is as long behind the one before as there were ones
    /// before it, doubled.
    fn check_time(&mut self, (offset, attempt): (u64, u32), now: Moment, limits: AckLimits) -> Checked {
        if offset > self.last {
            return Ok(());
        }
        let delay_us = limits.timeout_us << (attempt - 2);
        let earliest_us = match self.run {
            Some((first, last, began_us)) if first == offset && last + 1 == attempt => began_us + delay_us,
            // It may have been sent any time before what it waited with was acknowledged.
            _ => self.open.get(&offset).map_or(0, |copy| copy.sent_us),
        };
        self.run = Some((offset, attempt, earliest_us));
        if now.us < earliest_us {
            let what = format!("attempt {attempt} of {offset} within less than {delay_us} us");
            return Err(Failure::new(Check::Acks, what));
        }
        Ok(())
    }

    /// A message came for the first time, or again.
    fn came(&mut self, offset: u64, copy: Copy, now: Moment) {
        if offset > self.acked {
            self.open.insert(offset, copy);
        }
        (self.last, self.moved_at) = (offset, now);
    }
}

impl View {
    /// Whether so much is unacknowledged that nothing new comes.
    pub(super) fn is_full(&self, channel: ChannelIndex) -> bool {
        let Some(acking) = self.acking.get(&channel) else { return false };
        let at = self.at(channel).map_or(0, |(_, offset)| offset);
        at + self.unechoed_here(channel) >= acking.acked + UNACKED_MAX
    }

    /// A message came for the first time.
    pub(super) fn came(&mut self, seen: &Seen<'_>, written: Option<Moment>, now: Moment) {
        let at = self.at(seen.channel);
        let (Some(acking), Some((epoch, offset))) = (self.acking.get_mut(&seen.channel), at) else { return };
        if seen.is_ephemeral || seen.pattern.is_some() {
            return;
        }
        if acking.epoch.replace(epoch) != Some(epoch) {
            *acking = Acking { epoch: Some(epoch), ..Acking::default() };
        }
        let sent_us = written.map_or(0, |it| it.us);
        acking.came(offset, Copy { attempt: 1, sent_us }, now);
    }

    /// A message came again: whether it may, now, and as this attempt.
    fn comes_again(&mut self, seen: &Seen<'_>, epoch: u32, now: Moment, limits: AckLimits) -> Checked {
        let wrong = |what: String| Err(Failure::new(Check::Acks, what));
        let (offset, attempt) = (seen.position.1, seen.attempt);
        let at = self.at(seen.channel);
        let Some(acking) = self.acking.get_mut(&seen.channel) else {
            return wrong(format!("attempt {attempt} for who does not acknowledge"));
        };
        if seen.pattern.is_some() || seen.is_ephemeral || attempt > limits.attempts {
            return wrong(format!("attempt {attempt} of {}, by pattern or ephemeral", limits.attempts));
        }
        if at.is_some_and(|at| at.0 == epoch && at.1 < offset) {
            return wrong(format!("attempt {attempt} of {offset}, which had not come before"));
        }
        if acking.epoch != Some(epoch) {
            return Ok(());
        }
        if offset <= acking.settled {
            return wrong(format!("{offset} comes again, and all up to {} was acknowledged", acking.settled));
        }
        let first = if offset > acking.last { acking.last } else { 0 };
        if let Some(missing) = acking.passed_over(first, offset, limits) {
            return wrong(format!("{offset} comes again, and {missing} before it does not"));
        }
        let before = acking.open.get(&offset).copied().unwrap_or(Copy { attempt: 1, sent_us: 0 });
        if attempt <= before.attempt {
            return wrong(format!("attempt {attempt} of {offset} behind attempt {}", before.attempt));
        }
        acking.check_time((offset, attempt), now, limits)?;
        acking.came(offset, Copy { attempt, sent_us: before.sent_us }, now);
        Ok(())
    }

    /// What is not acknowledged can't be had any more up to this offset, or begins anew in this epoch.
    pub(super) fn loses_open(&mut self, channel: ChannelIndex, (epoch, offset): (u32, u64)) {
        let Some(acking) = self.acking.get_mut(&channel) else { return };
        if acking.epoch != Some(epoch) {
            *acking = Acking { epoch: Some(epoch), ..Acking::default() };
        }
        acking.open.retain(|it, _| *it > offset);
    }

    /// At rest: all that was acknowledged is known, and nothing is overdue.
    fn settle_acks(&mut self, now: Moment, limits: AckLimits) -> Result<(), (ChannelIndex, Failure)> {
        for (channel, acking) in &mut self.acking {
            acking.settled = acking.acked;
            let patience_us = (limits.timeout_us << limits.attempts) + SLACK_US;
            let first = acking.open.iter().find(|(_, copy)| copy.attempt < limits.attempts);
            if let Some((offset, copy)) = first
                && limits.attempts > 1
                && now.sure_us > acking.moved_at.sure_us + patience_us
            {
                let what =
                    format!("{offset} was not acknowledged, and did not come after attempt {}", copy.attempt);
                return Err((*channel, Failure::new(Check::Acks, what)));
            }
        }
        Ok(())
    }
}

impl Oracle {
    /// Subscriptions that acknowledge do so within these limits.
    pub fn with_acks(self, limits: AckLimits) -> Self {
        Self { ack_limits: limits, ..self }
    }

    /// A subscription is asked for that is to be acknowledged, or was answered.
    pub fn acking(&mut self, serial: Serial, channel: ChannelIndex) {
        if let Some(view) = self.views.get_mut(&serial) {
            view.acking.entry(channel).or_default();
        }
    }

    /// The subscription was answered: what came before is not waited for.
    pub fn acks_begin(&mut self, serial: Serial, channel: ChannelIndex) {
        let acking = self.views.get_mut(&serial).and_then(|view| view.acking.get_mut(&channel));
        acking.into_iter().for_each(|acking| acking.open.clear());
    }

    /// A client is about to acknowledge all up to a position.
    pub fn acknowledges(&mut self, serial: Serial, channel: ChannelIndex, position: (&str, u64)) {
        let (now, epoch) = (self.moment(), self.truths[usize::from(channel)].known_epoch(position.0));
        let acking = self.views.get_mut(&serial).and_then(|view| view.acking.get_mut(&channel));
        let Some(acking) = acking.filter(|it| epoch.is_some() && it.epoch == epoch) else { return };
        acking.acked = acking.acked.max(position.1);
        acking.moved_at = now;
        acking.open = acking.open.split_off(&(acking.acked + 1));
    }

    /// A message came again.
    pub(super) fn redelivered(&mut self, serial: Serial, seen: &Seen<'_>) -> Checked {
        let now = self.moment();
        let Some(view) = self.views.get_mut(&serial) else { return Ok(()) };
        view.since(&self.names, seen.channel, seen.pattern)?;
        let truth = &mut self.truths[usize::from(seen.channel)];
        truth.note(seen.position, seen.from, true)?;
        let (epoch, _) = truth.at(seen.position);
        view.comes_again(seen, epoch, now, self.ack_limits)
    }

    /// All rests.
    pub(super) fn settle_acks(&mut self) -> Checked {
        let (now, limits) = (self.moment(), self.ack_limits);
        let mut failed = self.views.values_mut().filter_map(|view| view.settle_acks(now, limits).err());
        let first = failed.next();
        drop(failed);
        first.map_or(Ok(()), |(channel, failure)| Err(self.on(channel, failure)))
    }

    /// Whether epochs may change.
    pub fn is_forgetful(&self) -> bool {
        self.is_forgetful
    }
}
