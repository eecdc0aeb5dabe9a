//! When nothing moves any more: what was published has arrived or was counted as dropped.

use super::channel::Truth;
use super::{Check, Checked, Failure, Oracle, Serial, View, inbox};
use crate::names::{ChannelIndex, Class};

impl Oracle {
    /// Checks that nobody waits for anything. `dropped` is what the server has counted as dropped since the last
    /// time, and `replaced` what it has replaced; `is_exact` says that nobody but these clients can have been dropped
    /// for.
    ///
    /// # Errors
    /// Names a message that should have arrived, or a drop that was not counted.
    pub fn settle(&mut self, dropped: u64, replaced: u64, is_exact: bool) -> Checked {
        self.check_latest(dropped)?;
        self.check_epochs()?;
        self.settle_receipts(is_exact)?;
        self.settle_acks()?;
        let dropped = dropped + replaced;
        let mut missed = self.missed;
        for (channel, truth) in (0..).zip(&self.truths) {
            for (serial, view) in &self.views {
                let result = self.settle_one(channel, truth, *serial, view);
                missed += result.map_err(|failure| self.on(channel, failure))?;
            }
        }
        let is_exact = is_exact && !self.views.values().any(View::is_rated);
        let is_right = if self.changes == 0 && is_exact { missed == dropped } else { missed <= dropped };
        if !is_right {
            let what = format!(
                "{missed} messages were missed where dropping is allowed, and the server counted {dropped} ({} \
                 subscriptions and connections changed)",
                self.changes
            );
            return Err(Failure::new(Check::Accounting, what));
        }
        self.forget();
        Ok(())
    }

    /// A drain is over: who was told to go had got all that anybody was told of before. Publishers were cut off: only
    /// what somebody has seen, or what was answered, is owed.
    ///
    /// # Errors
    /// Names a message that was accepted and did not come.
    pub fn settle_parted(&mut self) -> Checked {
        for truth in &mut self.truths {
            truth.publishers.values_mut().for_each(|published| published.has_ended = true);
        }
        for (serial, view) in &self.parted {
            for (channel, truth) in (0..).zip(&self.truths) {
                let result = self.settle_one(channel, truth, *serial, view);
                result.map_err(|failure| self.on(channel, failure))?;
            }
        }
        Ok(())
    }

    /// What one connection has missed of one channel at its end.
    fn settle_one(
        &self,
        channel: ChannelIndex,
        truth: &Truth,
        serial: Serial,
        view: &View,
    ) -> Result<u64, Failure> {
        let Some(since) = view.active_since(&self.names, channel) else { return Ok(0) };
        let may_lack = inbox::may_lack(truth, view.is_behind(channel), self.is_forgetful, 0);
        if view.is_excused(channel) || view.is_full(channel) || may_lack {
            return Ok(0);
        }
        if matches!(truth.class, Class::Numbered | Class::Inbox)
            && let Some((epoch, offset)) = view.at(channel)
        {
            let highest = truth.highest(epoch);
            if !view.is_up_to(serial, channel, (epoch, highest), truth) {
                let what = format!("connection {serial} stays at {offset}, and {highest} was reached");
                return Err(Failure::new(Check::Delivery, what));
            }
            if inbox::may_lack(truth, view.is_behind(channel), self.is_forgetful, highest) {
                // It has come to the end of what was kept, and the beginning is not kept any more.
                return Ok(0);
            }
        }
        let mut missed = 0;
        for (publisher, published) in &truth.publishers {
            let last = published.last();
            let seen = view.last(channel, *publisher);
            let owed = match seen {
                // It may have come when it was sent once more, long after those behind it; or it waited in an inbox
                // until somebody came, and those behind it were refused.
                Some(seen) if truth.class == Class::Inbox || truth.is_repeated((*publisher, seen)) => {
                    let later = (seen + 1..=last).filter(|n| truth.is_written_after((*publisher, *n), since));
                    view.owed(serial, channel, *publisher, later, truth)
                }
                Some(seen) => view.owed(serial, channel, *publisher, seen + 1..=last, truth),
                None => {
                    let written = (published.settled() + 1..=last)
                        .rev()
                        .take_while(|n| published.written_at(*n).is_some_and(|at| at > since));
                    view.owed(serial, channel, *publisher, written, truth)
                }
            };
            if owed > 0 && matches!(truth.class, Class::Numbered | Class::Inbox) {
                let what = format!(
                    "connection {serial} never got the last {owed} messages of connection {publisher} (of {last})"
                );
                return Err(Failure::new(Check::Delivery, what));
            }
            missed += u64::from(owed);
        }
        Ok(missed)
    }

    fn forget(&mut self) {
        self.clock += 1;
        self.missed = 0;
        self.forget_times();
        (self.rested, self.changes, self.strangers) = (self.clock, 0, 0);
        for (serial, view) in &mut self.views {
            view.settle(*serial, self.clock, &self.truths);
        }
        self.truths.iter_mut().for_each(Truth::settle);
    }
}
