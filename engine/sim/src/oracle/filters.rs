//! Who asks for less than all of a channel: nothing comes that was not asked for, and what comes says how much was left
//! out since the last message.
//!
//! A rate leaves out what finds a bucket empty. When the server looked at a message is not known, but it was behind the
//! message's writing and before the next one was read: between the two the bucket is known closely enough. A bucket
//! fills in the time of a shard, which stands still while the shard is kept from its work.

use crate::Map;

use super::channel::Truth;
use super::times::Moment;
use super::view::Passed;
use super::{Check, Checked, Failure, Oracle, Seen, Serial, View, latest};
use crate::names::{ChannelIndex, Class};

/// What a bucket holds, in nanoseconds of its rate.
const BURST_NS: u64 = 1_000_000_000;

/// What is subscribed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A channel by its name.
    Channel(ChannelIndex),
    /// All with a prefix.
    Prefix(usize),
}

/// What a subscription asked for, and what it has been told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sieve {
    /// Only these events; all if there are none.
    events: Vec<u32>,
    /// One message per so much time.
    interval_ns: Option<u64>,
    /// Another request for the subscription is under way: which filter holds can't be told.
    is_unclear: bool,
    /// Left out for certain, and not told yet.
    untold: u64,
    /// How many more may be told than are certain; `None` if nobody knows.
    slack: Option<u64>,
    /// Messages without an offset that were published by then.
    ephemerals: u64,
    bucket: Bucket,
}

/// When a bucket is full again, at the earliest and at the latest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Bucket {
    full_at_least_ns: u64,
    /// In the time that no shard can have lost.
    full_at_most_ns: u64,
    /// The next message is looked at behind this, in both times.
    looked_at: Moment,
}

impl Sieve {
    /// Only these events (all if there are none), and so many messages per second.
    pub fn new(events: &[&str], max_rate: Option<u64>) -> Self {
        Self {
            events: events.iter().map(|it| latest::event_of(it)).collect(),
            interval_ns: max_rate.map(|rate| BURST_NS / rate),
            ..Self::default()
        }
    }

    /// The same for a subscription that goes on with its session: nobody knows how much was drawn from its bucket for
    /// messages that never came, but that it is full again after a second.
    fn anew(&self, now: Moment) -> Self {
        let (events, interval_ns) = (self.events.clone(), self.interval_ns);
        let bucket = Bucket { full_at_most_ns: now.sure_us * 1_000 + BURST_NS, ..self.bucket };
        Self { events, interval_ns, is_unclear: self.is_unclear, bucket, ..Self::default() }
    }

    fn wants(&self, event: Option<u32>) -> bool {
        self.events.is_empty() || event.is_some_and(|it| self.events.contains(&it))
    }

    fn may_leave_out(&self, event: Option<u32>) -> bool {
        self.is_unclear || self.interval_ns.is_some() || !self.wants(event)
    }

    /// What finds less than one message's worth in the bucket is left out: whether that may be.
    fn may_be_empty(&self, written: Option<Moment>) -> bool {
        let Some(interval) = self.interval_ns else { return true };
        let looked_at = self.bucket.looked_at.latest(written).sure_us * 1_000;
        self.bucket.full_at_most_ns.saturating_sub(looked_at) > BURST_NS - interval
    }

    /// A message has passed; whether it may have.
    fn draws(&mut self, written: Option<Moment>, now: Moment) -> bool {
        let Some(interval) = self.interval_ns else { return true };
        let bucket = &mut self.bucket;
        bucket.looked_at = bucket.looked_at.latest(written);
        let has_room = bucket.full_at_least_ns.saturating_sub(now.us * 1_000) <= BURST_NS - interval;
        bucket.full_at_least_ns = bucket.full_at_least_ns.max(bucket.looked_at.us * 1_000) + interval;
        bucket.full_at_most_ns = bucket.full_at_most_ns.max(now.sure_us * 1_000) + interval;
        has_room
    }
}

/// The filters of one connection's subscriptions.
#[derive(Clone, Debug, Default)]
pub(super) struct Sieves {
    names: Map<ChannelIndex, Sieve>,
    prefixes: Map<usize, Sieve>,
}

impl Sieves {
    fn of_mut(&mut self, channel: ChannelIndex, pattern: Option<usize>) -> Option<&mut Sieve> {
        match pattern {
            None => self.names.get_mut(&channel),
            Some(prefix) => self.prefixes.get_mut(&prefix),
        }
    }
}

/// What all subscriptions that match a channel may leave out of it.
pub(super) struct Lacking(Vec<Sieve>);

impl Lacking {
    pub(super) fn allows(&self, event: Option<u32>) -> bool {
        self.0.iter().all(|sieve| sieve.may_leave_out(event))
    }
}

impl View {
    /// What may be left out of a channel; `None` if nothing may.
    pub(super) fn lacking(&self, channel: ChannelIndex) -> Option<Lacking> {
        if self.sieves.names.is_empty() && self.sieves.prefixes.is_empty() {
            return None;
        }
        let mut all = Vec::new();
        if self.is_by_name(channel) {
            all.push(self.sieves.names.get(&channel)?.clone());
        }
        // Who is catching up by the channel's name gets it by that alone.
        if !self.is_by_name(channel) || !self.is_behind(channel) {
            for prefix in self.covering(channel) {
                all.push(self.sieves.prefixes.get(&prefix)?.clone());
            }
        }
        Some(Lacking(all))
    }

    /// What a session that goes on asked for.
    pub(super) fn sieve_of(&self, subject: Subject, now: Moment) -> Option<Sieve> {
        let sieve = match subject {
            Subject::Channel(channel) => self.sieves.names.get(&channel),
            Subject::Prefix(prefix) => self.sieves.prefixes.get(&prefix),
        };
        sieve.map(|sieve| sieve.anew(now))
    }

    /// Whether any subscription that matches a channel has a filter, or a prefix of it has.
    pub(super) fn is_sieved(&self, channel: ChannelIndex) -> bool {
        let covers = |prefix: &usize| self.names.covers(*prefix, channel);
        self.sieves.names.contains_key(&channel) || self.sieves.prefixes.keys().any(covers)
    }

    /// Whether how much was missed of channels that may drop can't be told exactly.
    pub(super) fn is_rated(&self) -> bool {
        let mut all = self.sieves.names.values().chain(self.sieves.prefixes.values());
        all.any(|sieve| sieve.interval_ns.is_some() || sieve.is_unclear)
    }

    /// A message came: whether it was asked for, and says rightly how many were left out before it.
    pub(super) fn check_sieve(
        &mut self,
        seen: &Seen<'_>,
        passed: Option<&Passed>,
        truth: &Truth,
        now: Moment,
    ) -> Checked {
        let wrong = |what: String| Err(Failure::new(Check::Filters, what));
        let is_alone = seen.pattern.is_none() && self.covering(seen.channel).next().is_none();
        let Some(sieve) = self.sieves.of_mut(seen.channel, seen.pattern) else {
            return match seen.skipped {
                0 => Ok(()),
                skipped => wrong(format!("{skipped} are said to be left out, and all are wanted")),
            };
        };
        if sieve.is_unclear {
            return Ok(());
        }
        if !sieve.wants(Some(latest::event_of(seen.event))) {
            return wrong(format!("{} came, and was not asked for", seen.event));
        }
        let passed = passed.filter(|_| is_alone && matches!(truth.class, Class::Numbered));
        match passed {
            Some(passed) => {
                sieve.check_skipped(seen, passed, truth.ephemerals())?;
                let had_room = |offset: &u64| sieve.had_room((passed, seen.is_carried), *offset, truth);
                if let Some(offset) = passed.offsets.clone().find(had_room) {
                    return wrong(format!("offset {offset} was left out, and there was room for it"));
                }
            }
            None => (sieve.untold, sieve.slack) = (0, None),
        }
        if seen.pattern.is_none()
            && !seen.is_carried
            && !sieve.draws(truth.written(seen.from).map(|it| it.at), now)
        {
            return wrong("more came than the rate allows".to_owned());
        }
        Ok(())
    }

    /// Everything so far was delivered or left out: what is left out behind the last message is told with the next.
    pub(super) fn settle_sieve(&mut self, channel: ChannelIndex, passed: &Passed) {
        if let Some(sieve) = self.sieves.names.get_mut(&channel) {
            sieve.untold += passed.left_out;
            sieve.slack = sieve.slack.map(|slack| slack + passed.unclear);
        }
    }

    /// What came with `subscribed` was read: counting begins behind it.
    pub(super) fn counts_anew(&mut self, channel: ChannelIndex, ephemerals: u64) {
        if let Some(sieve) = self.sieves.names.get_mut(&channel) {
            (sieve.untold, sieve.slack, sieve.ephemerals) = (0, Some(0), ephemerals);
        }
    }

    /// The channel goes on from another position.
    pub(super) fn loses_count(&mut self, channel: ChannelIndex) {
        if let Some(sieve) = self.sieves.names.get_mut(&channel) {
            (sieve.untold, sieve.slack) = (0, None);
        }
    }
}

impl Sieve {
    /// As many are said to be left out before a message as lie between its offset and the last one, and of those that
    /// have none at most as many as there were.
    fn check_skipped(&mut self, seen: &Seen<'_>, passed: &Passed, ephemerals: u64) -> Checked {
        let left_out = std::mem::take(&mut self.untold) + passed.left_out;
        let Some(more) = seen.skipped.checked_sub(left_out) else {
            let what = format!("{} are said to be left out, and {left_out} were", seen.skipped);
            return Err(Failure::new(Check::Filters, what));
        };
        let news = ephemerals - std::mem::replace(&mut self.ephemerals, ephemerals);
        let Some(slack) = self.slack.map(|slack| slack + news + passed.unclear) else { return Ok(()) };
        let Some(slack) = slack.checked_sub(more) else {
            let what =
                format!("{} are said to be left out, and at most {} were", seen.skipped, left_out + slack);
            return Err(Failure::new(Check::Filters, what));
        };
        self.slack = Some(slack.saturating_sub(u64::from(seen.is_ephemeral)));
        Ok(())
    }

    /// Whether an offset was left out although it was wanted and the bucket had room.
    fn had_room(&self, (passed, is_carried): (&Passed, bool), offset: u64, truth: &Truth) -> bool {
        let noted = truth.noted((passed.epoch, offset));
        let event = noted.and_then(|it| it.event);
        // Those that nobody knows may be own ones that are not to be echoed.
        let is_certain = passed.unclear == 0 && self.interval_ns.is_some();
        let is_empty = !is_carried && self.may_be_empty(noted.and_then(|it| it.written));
        is_certain && self.wants(event) && !is_empty
    }
}

impl Oracle {
    /// `subscribed` was read: from here on this filter holds, or none. If another request for the subscription is under
    /// way (`is_unclear`), it may as well be that one's.
    pub fn sieved(&mut self, serial: Serial, subject: Subject, sieve: Option<&Sieve>, is_unclear: bool) {
        let Some(view) = self.views.get_mut(&serial) else { return };
        let sieve = match (sieve, is_unclear) {
            (sieve, true) => Some(Sieve { is_unclear, ..sieve.cloned().unwrap_or_default() }),
            (sieve, false) => sieve.cloned(),
        };
        match subject {
            Subject::Channel(channel) => {
                let is_new = sieve.is_some() || view.is_sieved(channel);
                view.sieves.names.remove(&channel);
                if is_new {
                    view.renewed(channel, view.at(channel), self.clock);
                }
                if let Some(sieve) = sieve {
                    let ephemerals = self.truths[usize::from(channel)].settled_ephemerals();
                    view.sieves.names.insert(channel, Sieve { slack: Some(0), ephemerals, ..sieve });
                }
            }
            Subject::Prefix(prefix) => {
                for channel in
                    (0..self.names.open as ChannelIndex).filter(|it| self.names.covers(prefix, *it))
                {
                    let is_whole = view.is_by_name(channel) && !view.sieves.names.contains_key(&channel);
                    if (sieve.is_some() || view.is_sieved(channel)) && !is_whole {
                        view.renewed(channel, None, self.clock);
                        view.loses_count(channel);
                    }
                }
                view.sieves.prefixes.remove(&prefix);
                if let Some(sieve) = sieve {
                    view.sieves.prefixes.insert(prefix, sieve);
                }
            }
        }
    }

    /// `unsubscribed` was read: where a pattern goes on with the channel, nobody was told.
    pub(super) fn unsieved(&mut self, serial: Serial, subject: Subject) {
        if let (Subject::Channel(channel), Some(view)) = (subject, self.views.get_mut(&serial))
            && view.is_sieved(channel)
        {
            view.forget_position(channel);
        }
        self.sieved(serial, subject, None, false);
    }
}
