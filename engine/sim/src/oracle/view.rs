//! What one connection is subscribed to, and what it has seen.

use std::ops::Range;
use std::rc::Rc;

use crate::Map;

use super::acks::Acking;
use super::channel::{At, Truth};
use super::filters::{Lacking, Sieves};
use super::times::Moment;
use super::{Check, Checked, Failure, Serial};
use crate::names::{ChannelIndex, Class, Names};

/// One connection's side of the promises.
#[derive(Clone, Debug)]
pub struct View {
    /// Whose it is.
    pub(super) serial: Serial,
    pub(super) name: String,
    pub(super) names: Rc<Names>,
    channels: Vec<Channel>,
    /// Since when each prefix is subscribed to.
    prefixes: Vec<Option<u64>>,
    /// The last message of each publisher, by channel.
    last: Map<(ChannelIndex, Serial), u32>,
    /// The last message of each event, by channel.
    latest: Map<(ChannelIndex, u32), (Serial, u32)>,
    /// Own messages that must not come, since the last settling.
    silent: Vec<(ChannelIndex, u32)>,
    /// What it does not want of them.
    pub(super) sieves: Sieves,
    /// When it read a message last: until then something may have waited for it.
    pub(super) heard_at: Moment,
    /// What it acknowledges of them.
    pub(super) acking: Map<ChannelIndex, Acking>,
    /// What it acknowledged last of those of which it did not promise to.
    pub(super) unasked: Map<ChannelIndex, At>,
}

/// Offsets that were passed over.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed {
    pub(super) epoch: u32,
    pub(super) offsets: Range<u64>,
    /// Of these, a filter has left out so many for certain, and so many perhaps.
    pub(super) left_out: u64,
    pub(super) unclear: u64,
}

#[derive(Clone, Debug, Default)]
struct Channel {
    /// Since when it is subscribed to by its name.
    since: Option<u64>,
    /// The position, from the first message or answer on.
    at: Option<At>,
    /// Own publishes that the server was asked not to echo: their offsets are missed here.
    unechoed: Vec<u32>,
    /// Since when what comes follows from where it last began with something of the past: nothing older is owed.
    renewed: u64,
    /// Whether it may still be catching up; what is not kept does not come until it has.
    is_behind: bool,
    /// At the end it was catching up: nobody knows what it should have got by then.
    is_excused: bool,
}

impl View {
    pub(super) fn new(names: &Rc<Names>, serial: Serial, name: &str) -> Self {
        Self {
            serial,
            name: name.to_owned(),
            names: Rc::clone(names),
            channels: vec![Channel::default(); names.channels.len()],
            prefixes: vec![None; names.prefixes.len()],
            last: Map::default(),
            latest: Map::default(),
            silent: Vec::new(),
            sieves: Sieves::default(),
            heard_at: Moment::default(),
            acking: Map::default(),
            unasked: Map::default(),
        }
    }

    pub(super) fn subscribed(&mut self, channel: ChannelIndex, clock: u64) {
        let since = &mut self.channels[usize::from(channel)].since;
        // Subscribing again changes nothing.
        since.get_or_insert(clock);
    }

    pub(super) fn pattern_subscribed(&mut self, prefix: usize, clock: u64) {
        self.prefixes[prefix].get_or_insert(clock);
    }

    pub(super) fn unsubscribed(&mut self, names: &Names, channel: ChannelIndex, is_unsure: bool, clock: u64) {
        let is_behind = self.is_behind(channel) || is_unsure;
        let own = &mut self.channels[usize::from(channel)];
        own.since = None;
        if is_behind {
            // A pattern goes on with what is published now.
            self.renewed(channel, None, clock);
            self.channels[usize::from(channel)].is_behind = false;
        }
        self.forget_uncovered(names, channel);
    }

    pub(super) fn pattern_unsubscribed(&mut self, names: &Names, prefix: usize) {
        self.prefixes[prefix] = None;
        for channel in 0..names.open as ChannelIndex {
            self.forget_uncovered(names, channel);
        }
    }

    fn forget_uncovered(&mut self, names: &Names, channel: ChannelIndex) {
        if self.channels[usize::from(channel)].since.is_none() && !self.is_covered(names, channel) {
            self.channels[usize::from(channel)].at = None;
            self.last.retain(|(of, _), _| *of != channel);
            self.latest.retain(|(of, _), _| *of != channel);
        }
    }

    /// What comes of a channel begins anew behind a position, which may be an earlier one.
    pub(super) fn renewed(&mut self, channel: ChannelIndex, at: Option<At>, clock: u64) {
        let own = &mut self.channels[usize::from(channel)];
        (own.at, own.renewed) = (at, clock);
        self.last.retain(|(of, _), _| *of != channel);
        self.latest.retain(|(of, _), _| *of != channel);
    }

    /// It may be catching up from here on, or certainly is not.
    pub(super) fn falls_behind(&mut self, channel: ChannelIndex, is_behind: bool, clock: u64) {
        if self.is_behind(channel) && !is_behind && self.is_sieved(channel) {
            // What a filter left out so far, a pattern may want from here on.
            self.renewed(channel, self.at(channel), clock);
        }
        let own = &mut self.channels[usize::from(channel)];
        own.is_behind = is_behind;
        own.renewed = own.renewed.max(clock);
    }

    /// Whether it may be on its way from a position in the past.
    pub(super) fn catches_up(&self, channel: ChannelIndex) -> bool {
        self.channels[usize::from(channel)].is_behind
    }

    /// Whether messages may come from what is kept.
    pub(super) fn is_behind(&self, channel: ChannelIndex) -> bool {
        // Who acknowledges may fall behind at any time.
        self.channels[usize::from(channel)].is_behind || self.acking.contains_key(&channel)
    }

    /// Nobody knows what else should have come of it before the end.
    pub(super) fn excuse(&mut self, channel: ChannelIndex) {
        self.channels[usize::from(channel)].is_excused = true;
    }

    /// The same for all channels that were catching up.
    pub(super) fn excuse_behind(&mut self) {
        let behind = (0..self.channels.len()).map(|channel| self.is_behind(channel as ChannelIndex));
        let behind: Vec<bool> = behind.collect();
        self.channels.iter_mut().zip(behind).for_each(|(own, is_behind)| own.is_excused |= is_behind);
    }

    pub(super) fn is_excused(&self, channel: ChannelIndex) -> bool {
        self.channels[usize::from(channel)].is_excused
    }

    /// Whether it is subscribed to by its name.
    pub(super) fn is_by_name(&self, channel: ChannelIndex) -> bool {
        self.channels[usize::from(channel)].since.is_some()
    }

    /// Whether a pattern is subscribed to.
    pub(super) fn has_pattern(&self, prefix: usize) -> bool {
        self.prefixes[prefix].is_some()
    }

    /// How many subscriptions there are, less those that everybody has.
    pub(super) fn count(&self) -> usize {
        let channels = 0..self.names.open as ChannelIndex;
        channels.filter(|it| self.is_by_name(*it)).count() + self.patterns()
    }

    /// How many patterns are.
    pub(super) fn patterns(&self) -> usize {
        self.prefixes.iter().flatten().count()
    }

    /// Nothing is known of the position for the time being.
    pub(super) fn forget_position(&mut self, channel: ChannelIndex) {
        self.channels[usize::from(channel)].at = None;
    }

    /// Whether a pattern covers the channel.
    pub(super) fn is_covered(&self, names: &Names, channel: ChannelIndex) -> bool {
        self.covered_since(names, channel).is_some()
    }

    /// Whether the channel's messages come by a pattern alone.
    pub(super) fn is_by_pattern(&self, names: &Names, channel: ChannelIndex) -> bool {
        self.channels[usize::from(channel)].since.is_none() && self.is_covered(names, channel)
    }

    fn covered_since(&self, names: &Names, channel: ChannelIndex) -> Option<u64> {
        let covering = |prefix: &usize| names.covers(*prefix, channel);
        (0..self.prefixes.len()).filter(covering).filter_map(|prefix| self.prefixes[prefix]).min()
    }

    /// The prefixes by which it may come.
    pub(super) fn covering(&self, channel: ChannelIndex) -> impl Iterator<Item = usize> {
        let is_there = |(_, since): &(usize, &Option<u64>)| since.is_some();
        let there = self.prefixes.iter().enumerate().filter(is_there).map(|(prefix, _)| prefix);
        there.filter(move |prefix| self.names.covers(*prefix, channel))
    }

    /// Since when the channel's messages must come, whichever way.
    pub(super) fn active_since(&self, names: &Names, channel: ChannelIndex) -> Option<u64> {
        let own = &self.channels[usize::from(channel)];
        let since = own.since.into_iter().chain(self.covered_since(names, channel)).min();
        since.map(|since| since.max(own.renewed))
    }

    /// Since when a message must have come that arrives by `pattern` or by its channel's name.
    pub(super) fn since(
        &self,
        names: &Names,
        channel: ChannelIndex,
        pattern: Option<usize>,
    ) -> Result<u64, Failure> {
        let is_there = match pattern {
            Some(prefix) => self.prefixes[prefix].is_some() && names.covers(prefix, channel),
            None => self.channels[usize::from(channel)].since.is_some(),
        };
        match self.active_since(names, channel) {
            Some(since) if is_there => Ok(since),
            _ => {
                let how =
                    pattern.map_or("by its name".to_owned(), |it| format!("by {}*", names.prefixes[it]));
                let what = format!("a message came {how} without a subscription");
                Err(Failure::new(Check::Subscription, what))
            }
        }
    }

    /// An own publish must not come back.
    pub(super) fn unechoed(&mut self, channel: ChannelIndex, number: u32) {
        self.channels[usize::from(channel)].unechoed.push(number);
        self.silent.push((channel, number));
    }

    /// An own publish was refused: it has no offset that could be missed.
    pub(super) fn refused(&mut self, channel: ChannelIndex, number: u32) {
        self.channels[usize::from(channel)].unechoed.retain(|it| *it != number);
    }

    /// How many own publishes may have offsets here that nobody is told of.
    pub(super) fn unechoed_here(&self, channel: ChannelIndex) -> u64 {
        self.channels[usize::from(channel)].unechoed.len() as u64
    }

    /// Whether this own message must not come back.
    pub(super) fn wants_no_echo(&self, channel: ChannelIndex, number: u32) -> bool {
        self.silent.contains(&(channel, number))
    }

    /// An answer names a position.
    pub(super) fn positioned(
        &mut self,
        serial: Serial,
        channel: ChannelIndex,
        at: At,
        truth: &Truth,
    ) -> Checked {
        self.advance((serial, channel), at, at.1, truth).map(|_| ())
    }

    /// A new epoch begins.
    pub(super) fn moved(&mut self, channel: ChannelIndex, at: At) {
        self.channels[usize::from(channel)].at = Some(at);
    }

    /// A message at a position, or an ephemeral one at the channel's.
    pub(super) fn message_at(
        &mut self,
        serial: Serial,
        channel: ChannelIndex,
        at: At,
        is_ephemeral: bool,
        truth: &Truth,
    ) -> Result<Option<Passed>, Failure> {
        let expected = if is_ephemeral { at.1 } else { at.1.saturating_sub(1) };
        self.advance((serial, channel), at, expected, truth)
    }

    /// Moves on to `to`, which is right if the position so far is `expected`: what was passed over, where it was.
    fn advance(
        &mut self,
        (serial, channel): (Serial, ChannelIndex),
        to: At,
        expected: u64,
        truth: &Truth,
    ) -> Result<Option<Passed>, Failure> {
        let lacking = self.lacking(channel);
        let channel = &mut self.channels[usize::from(channel)];
        let Some((epoch, offset)) = channel.at.replace(to) else { return Ok(None) };
        if epoch != to.0 {
            return Err(Failure::new(Check::Offsets, "the epoch changed without an announcement"));
        }
        let unechoed = channel.unechoed.len();
        if expected >= offset
            && let Some(passed) = channel.passes(serial, (epoch, offset..expected), truth, lacking.as_ref())
        {
            return Ok(Some(passed));
        }
        let what = format!(
            "position {expected} was expected, and it was {offset} ({unechoed} own messages without echo)"
        );
        Err(Failure::new(Check::Offsets, what))
    }

    /// The next message of a publisher; how many before it should have come and did not.
    pub(super) fn message_from(
        &mut self,
        serial: Serial,
        channel: ChannelIndex,
        from: (Serial, u32),
        truth: &mut Truth,
        since: u64,
    ) -> Result<u32, Failure> {
        if !truth.saw(from) {
            let what = format!("message {} of connection {} was never published", from.1, from.0);
            return Err(Failure::new(Check::Content, what));
        }
        let last = self.last.get(&(channel, from.0)).copied();
        self.last.insert((channel, from.0), from.1.max(last.unwrap_or_default()));
        match last {
            // It came when it was sent once more, and those before it may never have arrived.
            _ if truth.is_repeated(from) => Ok(0),
            Some(last) if last >= from.1 => {
                let what = format!("message {} of connection {} comes behind {last}", from.1, from.0);
                Err(Failure::new(Check::Order, what))
            }
            // It waited in an inbox until somebody came, and those behind it may have been refused.
            Some(last) if truth.class == Class::Inbox => {
                let later = (last + 1..from.1).filter(|n| truth.is_written_after((from.0, *n), since));
                Ok(self.owed(serial, channel, from.0, later, truth))
            }
            Some(last) => Ok(self.owed(serial, channel, from.0, last + 1..from.1, truth)),
            // The first one: those before it that were written behind the subscription were lost.
            None => {
                let before = (1..from.1).rev().take_while(|n| truth.is_written_after((from.0, *n), since));
                Ok(self.owed(serial, channel, from.0, before, truth))
            }
        }
    }

    /// How many of these messages of a publisher are to come: not the own ones that are not to be echoed, and none
    /// that are not kept from a time when it may have been catching up.
    pub(super) fn owed(
        &self,
        serial: Serial,
        channel: ChannelIndex,
        publisher: Serial,
        numbers: impl Iterator<Item = u32>,
        truth: &Truth,
    ) -> u32 {
        let lacking = self.lacking(channel);
        let own = &self.channels[usize::from(channel)];
        let is_silent = |number: u32| publisher == serial && self.wants_no_echo(channel, number);
        let may_lack = |number: u32| match truth.written((publisher, number)) {
            _ if truth.is_refused((publisher, number)) => true,
            Some(it) if lacking.as_ref().is_some_and(|lacking| lacking.allows(Some(it.event))) => true,
            Some(it) => it.is_ephemeral && (self.is_behind(channel) || it.clock <= own.renewed),
            None => true,
        };
        numbers.filter(|number| !is_silent(*number) && !may_lack(*number)).count() as u32
    }

    /// An own message came that was not to be echoed, from what is kept.
    pub(super) fn echoed(&mut self, channel: ChannelIndex, number: u32) {
        self.channels[usize::from(channel)].unechoed.retain(|it| *it != number);
    }

    /// The last message of a publisher that was seen.
    pub(super) fn last(&self, channel: ChannelIndex, publisher: Serial) -> Option<u32> {
        self.last.get(&(channel, publisher)).copied()
    }

    /// A message of this event was seen.
    pub(super) fn saw_event(&mut self, channel: ChannelIndex, event: u32, from: (Serial, u32)) {
        self.latest.insert((channel, event), from);
    }

    /// The last message of an event that was seen.
    pub(super) fn latest(&self, channel: ChannelIndex, event: u32) -> Option<(Serial, u32)> {
        self.latest.get(&(channel, event)).copied()
    }

    pub(super) fn at(&self, channel: ChannelIndex) -> Option<At> {
        self.channels[usize::from(channel)].at
    }

    /// Whether everything from its position up to `highest` is own messages that were not to be echoed.
    pub(super) fn is_up_to(
        &self,
        serial: Serial,
        channel: ChannelIndex,
        (epoch, highest): At,
        truth: &Truth,
    ) -> bool {
        let lacking = self.lacking(channel);
        let mut channel = self.channels[usize::from(channel)].clone();
        let Some((_, offset)) = channel.at else { return true };
        offset >= highest
            || channel.passes(serial, (epoch, offset..highest), truth, lacking.as_ref()).is_some()
    }

    /// Everything so far was delivered or accounted for, up to `clock`.
    pub(super) fn settle(&mut self, serial: Serial, clock: u64, truths: &[Truth]) {
        self.last.clear();
        self.latest.clear();
        self.silent.clear();
        for (index, truth) in (0..).zip(truths) {
            let lacking = self.lacking(index);
            // With too much unacknowledged nothing new comes.
            let is_full = self.is_full(index);
            let channel = &mut self.channels[usize::from(index)];
            // All that it waited for has come.
            channel.is_behind = false;
            if let Some(since) = &mut channel.since {
                *since = clock;
            }
            match channel.at {
                Some(_) if is_full => {}
                // What is left of those without an echo has offsets that nobody was told of yet.
                Some((epoch, offset)) => {
                    let highest = truth.highest(epoch);
                    let passed = channel.passes(serial, (epoch, offset..highest), truth, lacking.as_ref());
                    channel.at = Some((epoch, highest));
                    if let Some(passed) = passed.filter(|_| lacking.is_some()) {
                        self.settle_sieve(index, &passed);
                    }
                }
                None => channel.unechoed.clear(),
            }
        }
        for since in self.prefixes.iter_mut().flatten() {
            *since = clock;
        }
    }
}

impl Channel {
    /// Passes over the offsets behind each of `missed`, if they can all be own messages that were not to be echoed, or
    /// such as a filter leaves out. Where somebody knows which message it is, it must be one of them; the others are as
    /// many at most.
    fn passes(
        &mut self,
        serial: Serial,
        (epoch, missed): (u32, Range<u64>),
        truth: &Truth,
        lacking: Option<&Lacking>,
    ) -> Option<Passed> {
        let offsets = missed.start + 1..missed.end + 1;
        let mut passed = Passed { epoch, offsets: offsets.clone(), ..Passed::default() };
        for offset in offsets {
            let known = truth.noted((epoch, offset));
            let at = match known.map(|it| it.from) {
                Some((by, number)) if by == serial => self.unechoed.iter().position(|it| *it == number),
                Some(_) => None,
                None => Some(0).filter(|_| !self.unechoed.is_empty()),
            };
            match (at, lacking) {
                // In order: those before it were passed already, or have no offset here.
                (Some(at), None) => drop(self.unechoed.drain(..=at)),
                (Some(at), Some(_)) => {
                    passed.unclear += 1;
                    if known.is_some() {
                        self.unechoed.drain(..=at);
                    }
                }
                (None, Some(lacking)) if lacking.allows(known.and_then(|it| it.event)) => {
                    passed.left_out += 1
                }
                (None, _) => return None,
            }
        }
        Some(passed)
    }
}
