//! What a home knows: the epoch and offset of its channels, and which shards have subscribers.
//!
//! Channels without subscribers are remembered, so that their offsets go on rising, in the order of their last use;
//! beyond a bound the least recently used are forgotten and begin with a new epoch.

use crate::channel::Lengths;
use crate::config::Hasher;
use crate::effect::ShardSet;
use crate::registry::{Named, Registry};
use crate::remote::Epoch;

/// No index.
const NONE: u32 = u32::MAX;

/// A channel at its home.
#[derive(Debug)]
pub(crate) struct HomeChannel {
    name: Box<str>,
    hash: u64,
    epoch: Epoch,
    offset: u64,
    /// Shards with subscribers.
    shards: ShardSet,
    /// Neighbours in the order of last use, while nobody is subscribed.
    older: u32,
    newer: u32,
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
    /// Channels without subscribers: how many, how many at most, and both ends of their order of use.
    idle: usize,
    idle_max: usize,
    oldest: u32,
    newest: u32,
    epochs: Random,
}

/// Epochs and client ids: unlike each other and reproducible, not secret. SplitMix64 (Steele, Lea, Flood 2014).
///
/// Its state can be computed from one output, so the node's seed, which keys the hash tables, must not be its state.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

impl Homes {
    pub(crate) fn new(epochs: Random, idle_max: usize) -> Self {
        Self {
            channels: Registry::new(),
            patterns: Registry::new(),
            lengths: Lengths::default(),
            idle: 0,
            idle_max,
            oldest: NONE,
            newest: NONE,
            epochs,
        }
    }

    /// The channel, new and idle if need be.
    fn channel(&mut self, hash: u64, name: &str) -> u32 {
        if let Some(index) = self.channels.find(hash, name) {
            return index;
        }
        let channel = HomeChannel {
            name: name.into(),
            hash,
            epoch: Epoch::new(self.epochs.next()),
            offset: 0,
            shards: ShardSet::EMPTY,
            older: NONE,
            newer: NONE,
        };
        let index = self.channels.insert(hash, channel);
        self.link(index);
        index
    }

    fn at(&mut self, index: u32) -> &mut HomeChannel {
        self.channels.get_mut(index).expect("indices are of channels that exist")
    }

    /// A shard has a subscriber: the channel's position.
    pub(crate) fn join(&mut self, hash: u64, name: &str, shard: u16) -> (Epoch, u64) {
        let index = self.channel(hash, name);
        if self.at(index).shards.is_empty() {
            self.unlink(index);
        }
        let channel = self.at(index);
        channel.shards.insert(shard);
        (channel.epoch, channel.offset)
    }

    /// A shard has no subscriber left.
    pub(crate) fn leave(&mut self, hash: u64, name: &str, shard: u16) {
        let Some(index) = self.channels.find(hash, name) else { return };
        let channel = self.at(index);
        let was_wanted = !channel.shards.is_empty();
        channel.shards.remove(shard);
        if was_wanted && channel.shards.is_empty() {
            self.link(index);
            self.forget_oldest();
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

    /// A message on the channel: its position, and the shards that want it. Only a message that is numbered gets an
    /// offset of its own.
    pub(crate) fn publish(
        &mut self,
        hash: u64,
        name: &str,
        is_numbered: bool,
        hasher: &Hasher,
    ) -> (Epoch, u64, ShardSet) {
        let index = self.channel(hash, name);
        let channel = self.at(index);
        channel.offset += u64::from(is_numbered);
        let (epoch, offset, mut shards) = (channel.epoch, channel.offset, channel.shards);
        if shards.is_empty() {
            self.unlink(index);
            self.link(index);
            self.forget_oldest();
        }
        for prefix in self.lengths.prefixes(name) {
            if let Some(index) = self.patterns.find(hasher.of(prefix), prefix) {
                shards.0 |= self.patterns.get(index).expect("it was found").shards.0;
            }
        }
        (epoch, offset, shards)
    }

    /// Puts an idle channel at the newest end.
    fn link(&mut self, index: u32) {
        let older = std::mem::replace(&mut self.newest, index);
        match older {
            NONE => self.oldest = index,
            older => self.at(older).newer = index,
        }
        let channel = self.at(index);
        (channel.older, channel.newer) = (older, NONE);
        self.idle += 1;
    }

    fn unlink(&mut self, index: u32) {
        let channel = self.at(index);
        let (older, newer) = (channel.older, channel.newer);
        match older {
            NONE => self.oldest = newer,
            older => self.at(older).newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.at(newer).older = older,
        }
        self.idle -= 1;
    }

    fn forget_oldest(&mut self) {
        while self.idle > self.idle_max {
            let index = self.oldest;
            self.unlink(index);
            let hash = self.at(index).hash;
            self.channels.remove(hash, index);
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

    const HASHER: fn() -> Hasher = || Hasher::new(5);

    fn publish(homes: &mut Homes, name: &str) -> (Epoch, u64) {
        let (epoch, offset, shards) = homes.publish(HASHER().of(name), name, true, &HASHER());
        assert!(shards.is_empty());
        (epoch, offset)
    }

    #[test]
    fn idle_channels_are_bounded_and_the_latest_are_kept() {
        let mut homes = Homes::new(Random(1), 10);
        let first = publish(&mut homes, "kept");
        for round in 0..1000 {
            publish(&mut homes, &format!("other{round}"));
            assert_eq!(publish(&mut homes, "kept"), (first.0, round + 2));
        }
        assert_eq!((homes.len(), homes.idle), (10, 10));
    }

    #[test]
    fn channels_with_subscribers_are_never_forgotten() {
        let mut homes = Homes::new(Random(1), 2);
        let hash = HASHER().of("wanted");
        let position = homes.join(hash, "wanted", 3);
        for round in 0..10 {
            publish(&mut homes, &format!("other{round}"));
        }
        assert_eq!((homes.len(), homes.idle), (3, 2));
        assert_eq!(homes.join(hash, "wanted", 4), position);
        homes.leave(hash, "wanted", 3);
        homes.leave(hash, "wanted", 3);
        assert_eq!(homes.idle, 2);
        homes.leave(hash, "wanted", 4);
        assert_eq!((homes.len(), homes.idle), (2, 2));
        assert_eq!(publish(&mut homes, "wanted"), (position.0, 1));
    }

    #[test]
    fn a_forgotten_channel_begins_a_new_epoch() {
        for idle_max in [0, 1] {
            let mut homes = Homes::new(Random(1), idle_max);
            let before = publish(&mut homes, "a");
            publish(&mut homes, "b");
            let after = publish(&mut homes, "a");
            assert_ne!(before.0, after.0);
            assert_eq!((after.1, homes.len()), (1, idle_max));
        }
    }
}
