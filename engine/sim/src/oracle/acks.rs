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

impl AckLimits {
    /// So long after it was sent first, what nobody acknowledges is given up.
    pub(super) fn patience_us(self) -> u64 {
        self.timeout_us * ((1 << self.attempts) - 1)
    }
}

/// What one connection knows of a channel that it acknowledges.
#[derive(Clone, Debug, Default)]
pub(super) struct Acking {
    /// Nobody can tell whether it is acknowledged, or up to where.
    is_unclear: bool,
    epoch: Option<u32>,
    /// Up to here it has acknowledged, and so far the server certainly knows.
    acked: u64,
    settled: u64,
    /// Up to here it was told that what it has not got is lost.
    lost: u64,
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
    /// Everything up to a position is acknowledged.
    fn at(epoch: u32, acked: u64) -> Self {
        Self { epoch: Some(epoch), acked, settled: acked, ..Self::default() }
    }

    /// Nobody can tell up to where it is acknowledged.
    pub(super) fn is_unclear(&self) -> bool {
        self.is_unclear
    }

    /// Whether at rest the server knows that the message at a position was acknowledged, and was not told before that
    /// it can't come again.
    pub(super) fn has_acknowledged(&self, (epoch, offset): (u32, u64)) -> bool {
        self.epoch == Some(epoch) && offset <= self.acked && offset > self.lost
    }

    /// Whether its client may have acknowledged it.
    pub(super) fn may_have_acknowledged(&self, (epoch, offset): (u32, u64)) -> bool {
        self.is_unclear || self.epoch != Some(epoch) || offset <= self.acked
    }

    /// Whether nothing up to a position waits to be acknowledged.
    pub(super) fn is_known_up_to(&self, (epoch, offset): (u32, u64)) -> bool {
        !self.is_unclear && self.epoch == Some(epoch) && offset <= self.acked
    }

    /// The same subscription in another epoch.
    fn anew(&self, epoch: u32) -> Self {
        Self { epoch: Some(epoch), is_unclear: self.is_unclear, ..Self::default() }
    }

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
        acking.is_unclear || at + self.unechoed_here(channel) >= acking.acked + UNACKED_MAX
    }

    /// A message came for the first time.
    pub(super) fn came(&mut self, seen: &Seen<'_>, written: Option<Moment>, now: Moment) {
        let at = self.at(seen.channel);
        let (Some(acking), Some((epoch, offset))) = (self.acking.get_mut(&seen.channel), at) else { return };
        if seen.is_ephemeral || seen.pattern.is_some() {
            return;
        }
        if acking.epoch != Some(epoch) {
            *acking = acking.anew(epoch);
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
        if acking.epoch != Some(epoch) || acking.is_unclear {
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
            *acking = acking.anew(epoch);
        }
        acking.open.retain(|it, _| *it > offset);
        acking.lost = acking.lost.max(offset);
    }

    /// At rest: all that was acknowledged is known, and nothing is overdue. While anything waits for a client, nothing
    /// is sent again to it.
    fn settle_acks(&mut self, now: Moment, limits: AckLimits) -> Result<(), (ChannelIndex, Failure)> {
        let heard_at = self.heard_at;
        for (channel, acking) in &mut self.acking {
            acking.settled = acking.acked;
            let patience_us = (limits.timeout_us << limits.attempts) + SLACK_US;
            let first = acking.open.iter().find(|(_, copy)| copy.attempt < limits.attempts);
            if let Some((offset, copy)) = first
                && !acking.is_unclear
                && limits.attempts > 1
                && now.sure_us > acking.moved_at.latest(Some(heard_at)).sure_us + patience_us
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

    /// Whether a connection acknowledges a channel, or is about to.
    pub fn is_acking(&self, serial: Serial, channel: ChannelIndex) -> bool {
        self.views.get(&serial).is_some_and(|view| view.acking.contains_key(&channel))
    }

    /// The subscription was answered: what came before is not waited for, and everything up to a position is as good
    /// as acknowledged, if that is certain.
    pub fn acks_begin(&mut self, serial: Serial, channel: ChannelIndex, position: Option<(&str, u64)>) {
        let at = position.map(|position| self.truths[usize::from(channel)].at(position));
        let Some(view) = self.views.get_mut(&serial) else { return };
        // Who is catching up began where it was when it was asked for.
        let at = at.filter(|at| !view.catches_up(channel) && view.at(channel) == Some(*at));
        let Some(acking) = view.acking.get_mut(&channel) else { return };
        match at {
            Some((epoch, offset)) => *acking = Acking::at(epoch, offset),
            None => acking.open.clear(),
        }
    }

    /// A client acknowledges what it did not promise to.
    pub fn acknowledges_unasked(&mut self, serial: Serial, channel: ChannelIndex, position: (&str, u64)) {
        let at = self.truths[usize::from(channel)].at(position);
        if let Some(view) = self.views.get_mut(&serial) {
            view.unasked.insert(channel, at);
        }
    }

    /// Whether the session that was just resumed acknowledges a channel; `None` if nobody can tell.
    pub fn acks_handed(&self, channel: ChannelIndex) -> Option<bool> {
        let (view, doubts) = self.sessions.handed.as_ref()?;
        let acking = view.acking.get(&channel);
        let is_doubtful = doubts.channels.contains(&channel) || acking.is_some_and(|it| it.is_unclear);
        (!is_doubtful).then_some(acking.is_some())
    }

    /// A session goes on with a channel that it acknowledges, behind a position; or nobody can tell.
    pub fn acks_go_on(&mut self, serial: Serial, channel: ChannelIndex, position: Option<(&str, u64)>) {
        let at = position.map(|position| self.truths[usize::from(channel)].at(position));
        let unclear = Acking { is_unclear: true, ..Acking::default() };
        let acking = at.map_or(unclear, |(epoch, offset)| Acking::at(epoch, offset));
        if let Some(view) = self.views.get_mut(&serial) {
            view.acking.insert(channel, acking);
        }
    }

    /// Behind which position the session that was just resumed goes on at least, if its client names none.
    pub fn acknowledged_at_least(&self, channel: ChannelIndex) -> Option<(String, u64)> {
        self.acks_handed(channel).filter(|acks| *acks)?;
        let acking = self.sessions.handed.as_ref()?.0.acking.get(&channel)?;
        Some(self.truths[usize::from(channel)].text_of((acking.epoch?, acking.settled)))
    }

    /// A session goes on behind this position, which its client did not name: it is what it has acknowledged.
    ///
    /// # Errors
    /// If it can't be.
    pub fn check_goes_on_behind(&mut self, channel: ChannelIndex, position: (&str, u64)) -> Checked {
        let wrong = |what: String| Err(Failure::new(Check::Sessions, what));
        let (epoch, offset) = self.truths[usize::from(channel)].at(position);
        let Some((view, doubts)) = &self.sessions.handed else { return Ok(()) };
        if doubts.channels.contains(&channel) || self.is_forgetful {
            return Ok(());
        }
        let Some(acking) = view.acking.get(&channel) else {
            return match view.unasked.get(&channel) {
                // It may have been lost on the way.
                Some(acked) if acked.0 == epoch && offset <= acked.1 => Ok(()),
                acked => wrong(format!("it goes on behind {offset}, and {acked:?} was acknowledged")),
            };
        };
        if acking.is_unclear || acking.epoch.is_some_and(|it| it != epoch) {
            return Ok(());
        }
        if offset < acking.settled {
            return wrong(format!("it goes on behind {offset}, and all up to {} was known", acking.settled));
        }
        // Its own messages may be done without it.
        let truth = &self.truths[usize::from(channel)];
        let is_own = |offset: u64| truth.noted((epoch, offset)).is_some_and(|it| it.from.0 == view.serial);
        let mut highest = acking.acked;
        while is_own(highest + 1) {
            highest += 1;
        }
        // What is not acknowledged is given up in the end, not before its time: that ends with the last attempt.
        let written = truth.noted((epoch, highest + 1)).and_then(|it| it.written);
        let patience_us = self.ack_limits.patience_us();
        let is_early = written.is_some_and(|at| self.now_us < at.us + patience_us);
        if offset > highest && is_early && view.unechoed_here(channel) == 0 {
            return wrong(format!("it goes on behind {offset}, and only {highest} was acknowledged"));
        }
        Ok(())
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
