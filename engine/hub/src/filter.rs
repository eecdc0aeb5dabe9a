//! Filters: subscribers who want only some events, or only so many messages per second.
//!
//! They are not among their channel's other subscribers, whose deliveries copy a list and look at nobody, but in a list
//! of their own. What a filter leaves out is counted, and the next message that its subscriber gets says how many there
//! were. The event is read from the message where it was written: nobody else pays for a copy of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corecast_protocol::envelope::command::Subscribe;
use corecast_protocol::envelope::event::{self, Subscribed};
use corecast_protocol::envelope::name::NAME_BYTES_MAX;

use crate::canary::{self, Canary};
use crate::channel::{LocalChannel, LocalChannels};
use crate::deliver::{Change, push, span_of};
use crate::effect::{ConnKey, Delivery, Effects, Span};
use crate::format::{Format, PerFormat};
use crate::hub::Hub;
use crate::member::{Member, Subscription};
use crate::remote::{Reborn, Written};

/// Events that one filter names at most, and the bytes of their names together: each subscription may have its own.
const EVENTS_MAX: usize = 32;
const EVENTS_BYTES_MAX: usize = 1024;

/// Messages per second.
const RATE_MAX: u32 = 1000;

/// What a bucket holds: a second's messages.
const BURST: Duration = Duration::from_secs(1);

/// What a subscriber wants of a channel.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Filter {
    /// Only these; empty for all.
    events: Box<[Box<str>]>,
    /// One message per so much time; `None` for as many as there are.
    interval: Option<Duration>,
}

impl Filter {
    /// The filter that a `subscribe` asks for, if it does.
    pub(crate) fn of(subscribe: &Subscribe<'_>) -> Result<Option<Arc<Self>>, &'static str> {
        Self::new(subscribe.events.iter().map(|it| &**it), subscribe.max_rate)
    }

    /// The filter for these events, none for all, and this rate; none if it would leave out nothing.
    pub(crate) fn new<'e>(
        events: impl Iterator<Item = &'e str>,
        max_rate: Option<u32>,
    ) -> Result<Option<Arc<Self>>, &'static str> {
        let events: Vec<Box<str>> = events.take(EVENTS_MAX + 1).map(Box::from).collect();
        if events.is_empty() && max_rate.is_none() {
            return Ok(None);
        }
        if events.len() > EVENTS_MAX {
            return Err("`events` names at most 32 events");
        }
        if events.iter().any(|it| it.len() > NAME_BYTES_MAX) {
            return Err("an event's name has at most 255 bytes");
        }
        if events.iter().map(|it| it.len()).sum::<usize>() > EVENTS_BYTES_MAX {
            return Err("the names in `events` have at most 1,024 bytes together");
        }
        let interval = max_rate.map(|rate| BURST / rate.clamp(1, RATE_MAX));
        Ok(Some(Arc::new(Self { events: events.into(), interval })))
    }

    /// Its events; none for all.
    pub(crate) fn events(&self) -> impl Iterator<Item = &str> {
        self.events.iter().map(|it| &**it)
    }

    /// Messages per second, if they are bounded.
    pub(crate) fn max_rate(&self) -> Option<u32> {
        self.interval.map(|interval| (BURST.as_nanos() / interval.as_nanos()) as u32)
    }

    /// As few bytes, for a session that waits: see [`Filter::unpacked`].
    pub(crate) fn packed(&self) -> Vec<u8> {
        let mut out = self.max_rate().unwrap_or(0).to_le_bytes().to_vec();
        for event in &self.events {
            // A name has 255 bytes at most.
            out.push(event.len() as u8);
            out.extend_from_slice(event.as_bytes());
        }
        out
    }

    /// What was packed.
    pub(crate) fn unpacked(bytes: &[u8]) -> Option<Arc<Self>> {
        let (rate, mut rest) = bytes.split_first_chunk::<4>()?;
        let max_rate = Some(u32::from_le_bytes(*rate)).filter(|rate| *rate > 0);
        let mut events = Vec::new();
        while let Some((length, after)) = rest.split_first() {
            let (event, after) = after.split_at_checked(usize::from(*length))?;
            events.push(std::str::from_utf8(event).ok()?);
            rest = after;
        }
        Self::new(events.into_iter(), max_rate).ok()?
    }

    /// Whether it is one of its events.
    pub(crate) fn wants(&self, event: Option<&str>) -> bool {
        self.events.is_empty() || self.events.iter().any(|it| event == Some(it))
    }
}

/// What a subscription's filter has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Gate {
    /// Left out since the last message that was sent.
    skipped: u64,
    /// When the bucket will be full again; `None` while it was never drawn from.
    full_at: Option<Instant>,
}

impl Gate {
    /// Whether a message passes; what does is taken from the bucket.
    ///
    /// A bucket that drips is known by the time at which it will be full: each message puts that off by what it takes
    /// to drip in again, and one that would put it off by more than a whole bucket does not pass.
    pub(crate) fn passes(&mut self, filter: &Filter, event: Option<&str>, now: Instant) -> bool {
        if !filter.wants(event) {
            return canary::strikes(Canary::FilterIgnored);
        }
        let Some(interval) = filter.interval else { return true };
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        if full_at - now > BURST - interval {
            return false;
        }
        self.full_at = Some(full_at + interval);
        true
    }

    /// One more was left out.
    pub(crate) fn skip(&mut self) {
        if !canary::strikes(Canary::SkippedForgotten) {
            self.skipped += 1;
        }
    }

    /// How many were left out before the message that is sent now.
    pub(crate) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// How long it takes from now on until the bucket is full, less than a second.
    fn full_in(&self, now: Instant) -> Duration {
        self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Nothing is left out yet; the bucket is as full as the one of `self`, or as it is said to be.
    fn anew(self, bucket: Bucket) -> Self {
        let full_at = match bucket {
            Bucket::Full => None,
            Bucket::GoesOn => self.full_at,
            Bucket::FullAt(at) => Some(at),
        };
        Self { skipped: 0, full_at }
    }
}

/// How full the bucket of a subscription is that is asked for again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Bucket {
    /// Its client asks for it.
    #[default]
    Full,
    /// A session that is resumed has it, and the connection had it before: as full as it is.
    GoesOn,
    /// It comes with a session, or else who resumes again and again would have no bound.
    FullAt(Instant),
}

/// The filter that a subscription will have, or none.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    pub(crate) filter: Option<Arc<Filter>>,
    bucket: Bucket,
}

/// A live subscriber with a filter.
#[derive(Debug)]
pub(crate) struct Filtered {
    pub(crate) conn: ConnKey,
    pub(crate) filter: Arc<Filter>,
    pub(crate) gate: Gate,
}

/// Where one of a channel's lists is: the channel's index and the encoding.
type List = (u32, Format);

/// Reused, so that delivering allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Who gets the message in hand, and how many were left out before it.
    passed: Vec<(u64, ConnKey)>,
    /// Who does not by this subscription, but may by another: the list and the place there.
    held: Vec<(List, u32, ConnKey)>,
}

impl Hub {
    /// The channel's filtered subscribers of one encoding, taken out to be looked at while the hub changes.
    fn take_filtered(&mut self, (index, format): List) -> Option<Vec<Filtered>> {
        let filtered = self.channels.get_mut(index)?.filtered.as_deref_mut()?;
        Some(std::mem::take(filtered.of_mut(format)))
    }

    fn put_filtered(&mut self, (index, format): List, list: Vec<Filtered>) {
        if let Some(filtered) = self.channels.get_mut(index).and_then(|it| it.filtered.as_deref_mut()) {
            *filtered.of_mut(format) = list;
        }
    }

    /// A message for those of a channel's filtered subscribers of one encoding who want it, where nobody has another
    /// subscription that matches.
    pub(crate) fn deliver_filtered(
        &mut self,
        list: List,
        message: &mut Option<Span>,
        written: &Written<'_>,
        delivery: Delivery,
        fx: &mut Effects,
    ) {
        let Some(mut filtered) = self.take_filtered(list) else { return };
        let now = self.instant();
        let form = written.forms.of(list.1);
        let event = event::name_of(list.1, form.bytes, form.seams);
        let mut scratch = std::mem::take(&mut self.filter_scratch);
        for it in filtered.iter_mut().filter(|it| Some(it.conn) != written.exclude) {
            if it.gate.passes(&it.filter, event.as_deref(), now) {
                scratch.passed.push((it.gate.take_skipped(), it.conn));
            } else {
                it.gate.skip();
            }
        }
        self.put_filtered(list, filtered);
        self.push_passed(&mut scratch.passed, (list.1, message), written, None, delivery, fx);
        self.filter_scratch = scratch;
    }

    /// The same where subscriptions overlap: for those who have not got it yet. Who does not want it by this
    /// subscription may by a later one; [`Hub::leave_out_unserved`] counts those who never did.
    pub(crate) fn deliver_to_chosen_filtered(
        &mut self,
        list: List,
        message: &mut Option<Span>,
        written: &Written<'_>,
        untold: &mut Option<ConnKey>,
        fx: &mut Effects,
    ) {
        let (index, format) = list;
        let form = written.forms.of(format);
        if form.is_empty() {
            return;
        }
        let Some(mut filtered) = self.take_filtered(list) else { return };
        let now = self.instant();
        let event = event::name_of(format, form.bytes, form.seams);
        let mut scratch = std::mem::take(&mut self.filter_scratch);
        for (place, it) in (0u32..).zip(&mut filtered) {
            let Some(member) = self.members.find_mut(it.conn) else { continue };
            if member.chosen_for == self.choices {
                continue;
            }
            if it.gate.passes(&it.filter, event.as_deref(), now) {
                member.chosen_for = self.choices;
                scratch.passed.push((it.gate.take_skipped(), it.conn));
            } else {
                scratch.held.push((list, place, it.conn));
            }
        }
        let untold = untold.take_if(|conn| filtered.iter().any(|it| it.conn == *conn));
        self.put_filtered(list, filtered);
        if let Some(channel) = self.channels.get(index) {
            let delivery = self.delivery(channel.rule, written);
            let told = scratch.passed.iter().map(|it| it.1).chain(untold);
            tell_of_epoch(LocalChannels::is_pattern(index), told, format, written, delivery, fx);
            let has_pattern = LocalChannels::is_pattern(index) && !scratch.passed.is_empty();
            let pattern = has_pattern.then(|| pattern_of(channel, fx));
            self.push_passed(&mut scratch.passed, (format, message), written, pattern, delivery, fx);
        }
        self.filter_scratch = scratch;
    }

    /// Those whose subscriptions all left the message out: it is counted, and they are told of a new epoch.
    pub(crate) fn leave_out_unserved(&mut self, written: &Written<'_>, fx: &mut Effects) {
        if self.filter_scratch.held.is_empty() {
            return;
        }
        let mut scratch = std::mem::take(&mut self.filter_scratch);
        let is_unserved =
            |hub: &Self, conn| hub.members.find(conn).is_some_and(|it| it.chosen_for != hub.choices);
        scratch.held.retain(|(_, _, conn)| is_unserved(self, *conn));
        for ((index, format), place, conn) in &scratch.held {
            let filtered = self.channels.get_mut(*index).and_then(|it| it.filtered.as_deref_mut());
            if let Some(it) = filtered.and_then(|it| it.of_mut(*format).get_mut(*place as usize)) {
                debug_assert_eq!(it.conn, *conn, "nobody comes or goes during a delivery");
                it.gate.skip();
            }
        }
        for ((index, format), _, conn) in scratch.held.drain(..) {
            let is_pattern = LocalChannels::is_pattern(index);
            let is_told = written.reborn.is_some_and(|it| is_pattern || it.is_for_all);
            let (true, Some(channel)) = (is_told && is_unserved(self, conn), self.channels.get(index)) else {
                continue;
            };
            let delivery = self.delivery(channel.rule, written);
            tell_of_epoch(is_pattern, std::iter::once(conn), format, written, delivery, fx);
            // Once, by however many patterns.
            if let Some(member) = self.members.find_mut(conn) {
                member.chosen_for = self.choices;
            }
        }
        self.filter_scratch = scratch;
    }

    /// The message for those who are to get it: as many variants as there are counts.
    fn push_passed(
        &mut self,
        passed: &mut Vec<(u64, ConnKey)>,
        (format, message): (Format, &mut Option<Span>),
        written: &Written<'_>,
        pattern: Option<Span>,
        delivery: Delivery,
        fx: &mut Effects,
    ) {
        passed.sort_unstable();
        for group in passed.chunk_by(|one, other| one.0 == other.0) {
            let start = fx.recipients.len();
            fx.recipients.extend(group.iter().map(|it| it.1));
            let change = Change { pattern, skipped: group[0].0 };
            self.push_variants(fx, start, (format, message), written, change, delivery);
        }
        passed.clear();
    }

    /// A subscription is being asked for again: its filter will be the one in hand, none if there is none.
    pub(crate) fn will_filter(&mut self, conn: ConnKey, index: u32) {
        let (filter, mut bucket) = (self.filter_in_hand.clone(), self.bucket_in_hand);
        let Some(own) = self.subscription_mut(conn, index) else { return };
        if filter.is_some() || own.extra.is_some() {
            let extra = own.extra();
            if let Some(earlier) = extra.renewal.as_ref().filter(|_| bucket == Bucket::GoesOn) {
                bucket = earlier.bucket;
            }
            extra.renewal = Some(Renewal { filter, bucket });
        }
    }

    /// How long it takes from now on until the bucket of what a subscription wants is full.
    pub(crate) fn bucket_full_in(&self, now: Instant, member: &Member, own: &Subscription) -> Duration {
        let Some(extra) = own.extra.as_deref() else { return Duration::ZERO };
        let bucket = extra.renewal.as_ref().map_or(Bucket::GoesOn, |it| it.bucket);
        let live = own.place.and_then(|place| {
            let filtered = self.channels.get(own.channel)?.filtered.as_deref()?;
            extra.filter.as_ref()?;
            Some(filtered.of(member.format).get(place as usize)?.gate)
        });
        live.unwrap_or(extra.gate).anew(bucket).full_in(now)
    }

    /// A subscription begins or goes on where its client is told just now: what was asked for last holds from here on,
    /// and what was left out before is told of by that position. Until then the old filter held, so that every
    /// message can say how many are missing before it.
    pub(crate) fn renew_filter(&mut self, conn: ConnKey, index: u32) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let format = member.format;
        let Some(own) = member.subscriptions.iter_mut().find(|it| it.channel == index) else { return };
        let is_filtered = own.filter().is_some();
        let Some(extra) = own.extra.as_deref_mut() else { return };
        let renewal = extra.renewal.take();
        if !is_filtered && renewal.is_none() {
            return;
        }
        let place = own.place.map(|place| (index, place, is_filtered));
        let former = extra.gate;
        let gate = place.map_or(former, |place| self.leave_place(conn, format, place));
        let extra = self.subscription_mut(conn, index).expect("it was there before").extra();
        extra.gate = gate.anew(renewal.as_ref().map_or(Bucket::Full, |it| it.bucket));
        if let Some(Renewal { filter, .. }) = renewal {
            extra.filter = filter;
        }
        if place.is_some() {
            self.enter_place(conn, format, index);
        }
    }

    /// Takes a subscription among its channel's subscribers, where it belongs.
    pub(crate) fn enter_place(&mut self, conn: ConnKey, format: Format, index: u32) {
        let Some(own) = self.subscription_mut(conn, index) else { return };
        let filter = own.extra.as_ref().and_then(|it| Some((it.filter.clone()?, it.gate)));
        self.special += usize::from(filter.is_some());
        let channel = self.channels.get_mut(index).expect("a subscription's channel exists");
        let place = match filter {
            None => {
                let subscribers = channel.subscribers.of_mut(format);
                subscribers.push(conn);
                subscribers.len() - 1
            }
            Some((filter, gate)) => {
                let filtered = channel.filtered.get_or_insert_default().of_mut(format);
                filtered.push(Filtered { conn, filter, gate });
                filtered.len() - 1
            }
        };
        let own = self.subscription_mut(conn, index).expect("it was there before");
        own.place = Some(place as u32);
    }

    /// Takes a filtered subscriber out of its channel's list: what its filter has done, and who moved into its place.
    pub(crate) fn leave_filtered(&mut self, list: List, place: u32) -> Option<(Gate, Option<ConnKey>)> {
        let filtered = &mut self.channels.get_mut(list.0)?.filtered;
        let all = filtered.as_deref_mut()?;
        let left = all.of_mut(list.1).swap_remove(place as usize);
        let moved = all.of(list.1).get(place as usize).map(|it| it.conn);
        if all.json.is_empty() && all.msgpack.is_empty() {
            *filtered = None;
        }
        self.special -= 1;
        Some((left.gate, moved))
    }
}

/// Tells recipients of a new epoch, where it is news for them. Under the message's own policy, or it might be overtaken.
fn tell_of_epoch(
    is_pattern: bool,
    told: impl Iterator<Item = ConnKey>,
    format: Format,
    written: &Written<'_>,
    delivery: Delivery,
    fx: &mut Effects,
) {
    let Some(Reborn { epoch, offset, is_for_all }) = written.reborn else { return };
    if !is_pattern && !is_for_all {
        return;
    }
    let start = fx.recipients.len();
    fx.recipients.extend(told);
    push(fx, start, format, (delivery, None), |out| {
        let news = Subscribed { position: Some((epoch.text(), offset)), ..Subscribed::default() };
        event::subscribed(out, format, None, written.target, &news);
    });
    debug_assert!(span_of(start, fx.recipients.len()).1 as usize == fx.recipients.len());
}

/// The pattern as its subscriber named it.
pub(crate) fn pattern_of(channel: &LocalChannel, fx: &mut Effects) -> Span {
    fx.write(|out| {
        out.extend_from_slice(channel.name.as_bytes());
        out.push(b'*');
    })
}

/// A channel's filtered subscribers, apart by encoding.
pub(crate) type FilteredLists = PerFormat<Vec<Filtered>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(events: &[&str], rate: Option<u32>) -> Filter {
        Filter {
            events: events.iter().map(|it| (*it).into()).collect(),
            interval: rate.map(|rate| BURST / rate),
        }
    }

    #[test]
    fn what_is_packed_comes_back() {
        for rate in (0..=1000).map(|rate| Some(rate).filter(|rate| *rate > 0)) {
            for events in [&[][..], &[""], &["a", "b\u{e4}", "a"]] {
                let Ok(Some(filter)) = Filter::new(events.iter().copied(), rate) else {
                    assert!(events.is_empty() && rate.is_none(), "only that leaves out nothing");
                    continue;
                };
                assert_eq!(filter.max_rate(), rate);
                assert!(filter.events().eq(events.iter().copied()));
                assert_eq!(Filter::unpacked(&filter.packed()), Some(filter));
            }
        }
        for bytes in [&[][..], &[1, 0, 0], &[1, 0, 0, 0, 2, b'a'], &[1, 0, 0, 0, 1, 0xff], &[0; 4]] {
            assert_eq!(Filter::unpacked(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_bucket_lets_pass_a_second_of_messages_at_once_and_then_one_per_interval() {
        let start = Instant::now();
        for rate in 1..=1000 {
            let (filter, mut gate) = (filter(&[], Some(rate)), Gate::default());
            let at = |millis: u64| start + Duration::from_millis(millis);
            let passed =
                |gate: &mut Gate, now| (0..2 * rate).filter(|_| gate.passes(&filter, None, now)).count();
            assert_eq!(passed(&mut gate, at(0)), rate as usize, "a full bucket of {rate}");
            // Rounding an interval down lets one more pass at most.
            let half = passed(&mut gate, at(500)) as u32;
            assert!((rate / 2..=rate / 2 + 1).contains(&half), "half of {rate}: {half}");
            assert_eq!(passed(&mut gate, at(10_000)), rate as usize, "{rate}: never more than a full one");
        }
    }

    #[test]
    fn events_that_are_not_wanted_take_nothing_from_the_bucket() {
        let (filter, mut gate) = (filter(&["a", "b"], Some(1)), Gate::default());
        let now = Instant::now();
        for (event, passes) in [(None, false), (Some("c"), false), (Some("b"), true), (Some("a"), false)] {
            assert_eq!(gate.passes(&filter, event, now), passes, "{event:?}");
        }
    }
}
