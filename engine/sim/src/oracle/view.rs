//! What one connection is subscribed to, and what it has seen.

use crate::Map;

use super::channel::{At, Truth};
use super::{Check, Checked, Failure, Serial};
use crate::names::{ChannelIndex, Names};

/// One connection's side of the promises.
#[derive(Debug)]
pub struct View {
    channels: Vec<Channel>,
    /// Since when each prefix is subscribed to.
    prefixes: Vec<Option<u64>>,
    /// The last message of each publisher, by channel.
    last: Map<(ChannelIndex, Serial), u32>,
    /// Own messages that must not come, since the last settling.
    silent: Vec<(ChannelIndex, u32)>,
}

#[derive(Clone, Debug, Default)]
struct Channel {
    /// Since when it is subscribed to by its name.
    since: Option<u64>,
    /// The position, from the first message or answer on.
    at: Option<At>,
    /// Own publishes that the server was asked not to echo: their offsets are missed here.
    unechoed: u32,
}

impl View {
    pub(super) fn new(channels: usize, prefixes: usize, _clock: u64) -> Self {
        Self {
            channels: vec![Channel::default(); channels],
            prefixes: vec![None; prefixes],
            last: Map::default(),
            silent: Vec::new(),
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

    pub(super) fn unsubscribed(&mut self, names: &Names, channel: ChannelIndex) {
        self.channels[usize::from(channel)].since = None;
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
        }
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

    /// Since when the channel's messages must come, whichever way.
    pub(super) fn active_since(&self, names: &Names, channel: ChannelIndex) -> Option<u64> {
        let own = self.channels[usize::from(channel)].since;
        own.into_iter().chain(self.covered_since(names, channel)).min()
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
        self.channels[usize::from(channel)].unechoed += 1;
        self.silent.push((channel, number));
    }

    /// Whether this own message must not come back.
    pub(super) fn wants_no_echo(&self, channel: ChannelIndex, number: u32) -> bool {
        self.silent.contains(&(channel, number))
    }

    /// An answer names a position.
    pub(super) fn positioned(&mut self, channel: ChannelIndex, at: At) -> Checked {
        self.advance(channel, at, at.1)
    }

    /// A new epoch begins.
    pub(super) fn moved(&mut self, channel: ChannelIndex, at: At) {
        self.channels[usize::from(channel)].at = Some(at);
    }

    /// A message at a position, or an ephemeral one at the channel's.
    pub(super) fn message_at(&mut self, channel: ChannelIndex, at: At, is_ephemeral: bool) -> Checked {
        let expected = if is_ephemeral { at.1 } else { at.1 - 1 };
        self.advance(channel, at, expected)
    }

    /// Moves on to `to`, which is right if the position so far is `expected`.
    fn advance(&mut self, channel: ChannelIndex, to: At, expected: u64) -> Checked {
        let channel = &mut self.channels[usize::from(channel)];
        let Some((epoch, offset)) = channel.at.replace(to) else { return Ok(()) };
        if epoch != to.0 {
            return Err(Failure::new(Check::Offsets, "the epoch changed without an announcement"));
        }
        if offset == expected {
            return Ok(());
        }
        let missed = expected.checked_sub(offset);
        match missed {
            // Own messages that were not to be echoed.
            Some(missed) if missed <= u64::from(channel.unechoed) => {
                channel.unechoed -= missed as u32;
                Ok(())
            }
            _ => {
                let what = format!("position {expected} was expected, and it was {offset}");
                Err(Failure::new(Check::Offsets, what))
            }
        }
    }

    /// The next message of a publisher; how many before it should have come and did not.
    pub(super) fn message_from(
        &mut self,
        channel: ChannelIndex,
        from: (Serial, u32),
        truth: &mut Truth,
        since: u64,
    ) -> Result<u32, Failure> {
        if !truth.saw(from) {
            let what = format!("message {} of connection {} was never published", from.1, from.0);
            return Err(Failure::new(Check::Content, what));
        }
        let last = self.last.insert((channel, from.0), from.1);
        match last {
            Some(last) if last >= from.1 => {
                let what = format!("message {} of connection {} comes behind {last}", from.1, from.0);
                Err(Failure::new(Check::Order, what))
            }
            Some(last) => Ok(from.1 - last - 1),
            // The first one: those before it that were written behind the subscription were lost.
            None => {
                Ok((1..from.1).rev().take_while(|n| truth.is_written_after((from.0, *n), since)).count()
                    as u32)
            }
        }
    }

    /// The last message of a publisher that was seen, and the position.
    pub(super) fn last(&self, channel: ChannelIndex, publisher: Serial) -> Option<u32> {
        self.last.get(&(channel, publisher)).copied()
    }

    pub(super) fn at(&self, channel: ChannelIndex) -> Option<At> {
        self.channels[usize::from(channel)].at
    }

    /// How far the own position may lie behind for lack of echoes.
    pub(super) fn unechoed_left(&self, channel: ChannelIndex) -> u64 {
        u64::from(self.channels[usize::from(channel)].unechoed)
    }

    /// Everything so far was delivered or accounted for, up to `clock`.
    pub(super) fn settle(&mut self, clock: u64, highest: impl Fn(ChannelIndex, u32) -> u64) {
        self.last.clear();
        self.silent.clear();
        for (index, channel) in (0..).zip(&mut self.channels) {
            if let Some((epoch, offset)) = &mut channel.at {
                *offset = highest(index, *epoch);
            }
            if let Some(since) = &mut channel.since {
                *since = clock;
            }
        }
        for since in self.prefixes.iter_mut().flatten() {
            *since = clock;
        }
    }
}
