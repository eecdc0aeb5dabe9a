//! What a home knows: the epoch and offset of its channels, and which shards have subscribers.

use std::collections::VecDeque;

use crate::channel::Lengths;
use crate::effect::ShardSet;
use crate::registry::{Named, Registry};
use crate::remote::Epoch;

/// A channel at its home.
#[derive(Debug)]
pub(crate) struct HomeChannel {
    name: Box<str>,
    hash: u64,
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
    /// Shards with subscribers.
    pub(crate) shards: ShardSet,
    /// Rises with each use while nobody is subscribed, so that old entries of the queue are told from new ones.
    uses: u32,
}

impl Named for HomeChannel {
    fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Debug)]
struct HomePattern {
    prefix: Box<str>,
    shards: ShardSet,
}

impl Named for HomePattern {
    fn name(&self) -> &str {
        &self.prefix
    }
}

/// All channels whose home is here.
#[derive(Debug)]
pub(crate) struct Homes {
    channels: Registry<HomeChannel>,
    patterns: Registry<HomePattern>,
    lengths: Lengths,
    /// Channels without subscribers, least recently used first; entries may be outdated.
    idle: VecDeque<(u32, u32)>,
    idle_count: usize,
    idle_max: usize,
    epochs: Epochs,
}

/// Epochs: unlike each other, not secret. SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(crate) struct Epochs(pub(crate) u64);

impl Epochs {
    pub(crate) fn next(&mut self) -> Epoch {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Epoch(mixed ^ mixed >> 31)
    }
}

impl Homes {
    pub(crate) fn new(seed: u64, idle_max: usize) -> Self {
        Self {
            channels: Registry::new(),
            patterns: Registry::new(),
            lengths: Lengths::default(),
            idle: VecDeque::new(),
            idle_count: 0,
            idle_max,
            epochs: Epochs(seed),
        }
    }

    /// The channel, new if need be.
    fn channel(&mut self, hash: u64, name: &str) -> u32 {
        if let Some(index) = self.channels.find(hash, name) {
            return index;
        }
        let epoch = self.epochs.next();
        let channel =
            HomeChannel { name: name.into(), hash, epoch, offset: 0, shards: ShardSet::EMPTY, uses: 0 };
        self.idle_count += 1;
        self.channels.insert(hash, channel)
    }

    /// A shard has a subscriber: the channel's position.
    pub(crate) fn join(&mut self, hash: u64, name: &str, shard: u16) -> (Epoch, u64) {
        let index = self.channel(hash, name);
        let channel = self.channels.get_mut(index).expect("it was found or inserted");
        if channel.shards.is_empty() {
            self.idle_count -= 1;
            channel.uses = channel.uses.wrapping_add(1);
        }
        channel.shards.insert(shard);
        (channel.epoch, channel.offset)
    }

    /// A shard has no subscriber left.
    pub(crate) fn leave(&mut self, hash: u64, name: &str, shard: u16) {
        let Some(index) = self.channels.find(hash, name) else { return };
        let channel = self.channels.get_mut(index).expect("it was found");
        if !channel.shards.contains(shard) {
            return;
        }
        channel.shards.remove(shard);
        if channel.shards.is_empty() {
            self.idle_count += 1;
            self.used_idle(index);
        }
    }

    pub(crate) fn join_pattern(&mut self, hash: u64, prefix: &str, shard: u16) {
        let index = match self.patterns.find(hash, prefix) {
            Some(index) => index,
            None => {
                self.lengths.add(prefix.len());
                self.patterns.insert(hash, HomePattern { prefix: prefix.into(), shards: ShardSet::EMPTY })
            }
        };
        self.patterns.get_mut(index).expect("it was found or inserted").shards.insert(shard);
    }

    pub(crate) fn leave_pattern(&mut self, hash: u64, prefix: &str, shard: u16) {
        let Some(index) = self.patterns.find(hash, prefix) else { return };
        let pattern = self.patterns.get_mut(index).expect("it was found");
        pattern.shards.remove(shard);
        if pattern.shards.is_empty() {
            self.patterns.remove(hash, index);
            self.lengths.remove(prefix.len());
        }
    }

    /// A message on the channel: its position, and the shards that want it. Only a message that `numbers` gets an
    /// offset of its own.
    pub(crate) fn publish(
        &mut self,
        hash: u64,
        name: &str,
        numbers: bool,
        hash_of: impl Fn(&str) -> u64,
    ) -> (Epoch, u64, ShardSet) {
        let index = self.channel(hash, name);
        let channel = self.channels.get_mut(index).expect("it was found or inserted");
        channel.offset += u64::from(numbers);
        let (epoch, offset, mut shards) = (channel.epoch, channel.offset, channel.shards);
        if shards.is_empty() {
            self.used_idle(index);
        }
        if !self.lengths.is_empty() {
            for prefix in self.lengths.prefixes(name) {
                if let Some(index) = self.patterns.find(hash_of(prefix), prefix) {
                    shards.0 |= self.patterns.get(index).expect("it was found").shards.0;
                }
            }
        }
        (epoch, offset, shards)
    }

    /// Puts a channel without subscribers at the end of the queue, and forgets the first ones beyond the bound.
    fn used_idle(&mut self, index: u32) {
        let channel = self.channels.get_mut(index).expect("the caller has just used it");
        channel.uses = channel.uses.wrapping_add(1);
        self.idle.push_back((index, channel.uses));
        // Outdated entries go first; without this, publishing to one channel would grow the queue for ever.
        let is_too_long = self.idle.len() > 2 * self.idle_max + 64;
        if is_too_long {
            let channels = &self.channels;
            self.idle.retain(|(index, uses)| {
                channels.get(*index).is_some_and(|it| it.uses == *uses && it.shards.is_empty())
            });
        }
        while self.idle_count > self.idle_max {
            let Some((index, uses)) = self.idle.pop_front() else { break };
            let is_current =
                self.channels.get(index).is_some_and(|it| it.uses == uses && it.shards.is_empty());
            if is_current {
                let hash = self.channels.get(index).map_or(0, |it| it.hash);
                self.channels.remove(hash, index);
                self.idle_count -= 1;
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    pub(crate) fn patterns_len(&self) -> usize {
        self.patterns.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_channels_are_bounded_and_the_latest_are_kept() {
        let mut homes = Homes::new(1, 10);
        let hash_of = |name: &str| name.len() as u64;
        let mut publish = |name: &str| homes.publish(1, name, true, hash_of);
        let first = publish("kept");
        for round in 0..1000 {
            publish(&format!("other{round}"));
            let again = publish("kept");
            assert_eq!((again.0, again.1), (first.0, round + 2));
        }
        assert_eq!(homes.len(), 10);
        assert!(homes.idle.len() <= 100);
    }

    #[test]
    fn a_forgotten_channel_begins_a_new_epoch() {
        let mut homes = Homes::new(1, 1);
        let hash_of = |name: &str| name.len() as u64;
        let before = homes.publish(1, "a", true, hash_of);
        homes.publish(1, "b", true, hash_of);
        let after = homes.publish(1, "a", true, hash_of);
        assert_ne!(before.0, after.0);
        assert_eq!(after.1, 1);
    }
}
