//! What a home knows: the epoch and offset of its channels, and which shards have subscribers of which encoding.
//!
//! Channels without subscribers are remembered, so that their offsets go on rising, in the order of their last use;
//! beyond a bound the least recently used are forgotten and begin with a new epoch.

use crate::canary::{self, Canary};
use crate::channel::Lengths;
use crate::config::Hasher;
use crate::format::{Format, Formats, Wanted};
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
    wanted: Wanted,
    /// Whether it is to be remembered without subscribers: otherwise nothing of it is worth that.
    is_numbered: bool,
    /// Subscribers by pattern may know an earlier epoch, and have not been told of this one.
    is_unannounced: bool,
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
    wanted: Wanted,
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
    /// Keys the epochs of channels that are not numbered.
    unnumbered: u64,
    /// Whether a channel was ever forgotten: what seems new since then may have had another epoch before.
    has_forgotten: bool,
}

/// What a home says of a message on one of its channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
    /// Shards that want it.
    pub(crate) wanted: Wanted,
    /// The channel begins an epoch that subscribers by pattern may not know.
    pub(crate) is_reborn: bool,
}

/// What kind of message is to be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Numbering {
    /// It gets an offset of its own.
    Numbered,
    /// It carries the channel's current offset.
    Ephemeral,
    /// The whole namespace is not numbered: there is nothing to be remembered of its channels.
    Never,
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
    pub(crate) fn new(mut epochs: Random, idle_max: usize) -> Self {
        let unnumbered = epochs.next();
        Self {
            channels: Registry::new(),
            patterns: Registry::new(),
            lengths: Lengths::default(),
            idle: 0,
            idle_max,
            oldest: NONE,
            newest: NONE,
            epochs,
            unnumbered,
            has_forgotten: false,
        }
    }

    /// The channel, new and idle if need be.
    fn channel(&mut self, hash: u64, name: &str, is_numbered: bool) -> u32 {
        if let Some(index) = self.channels.find(hash, name) {
            return index;
        }
        let epoch = if is_numbered { Epoch::new(self.epochs.next()) } else { self.unnumbered_epoch(hash) };
        let channel = HomeChannel {
            name: name.into(),
            hash,
            epoch,
            offset: 0,
            wanted: Wanted::default(),
            is_numbered,
            is_unannounced: is_numbered && self.has_forgotten,
            older: NONE,
            newer: NONE,
        };
        let index = self.channels.insert(hash, channel);
        self.link(index);
        index
    }

    /// Offsets of a channel that is not numbered never begin anew, and so its epoch needs no memory.
    fn unnumbered_epoch(&self, hash: u64) -> Epoch {
        Epoch::new(Random(self.unnumbered ^ hash).next())
    }

    fn at(&mut self, index: u32) -> &mut HomeChannel {
        self.channels.get_mut(index).expect("indices are of channels that exist")
    }

    /// A shard has a subscriber of this encoding: the channel's position.
    pub(crate) fn join(
        &mut self,
        hash: u64,
        name: &str,
        is_numbered: bool,
        (shard, format): (u16, Format),
    ) -> (Epoch, u64) {
        let index = self.channel(hash, name, is_numbered);
        if self.at(index).wanted.is_empty() {
            self.unlink(index);
        }
        let channel = self.at(index);
        channel.wanted.insert(shard, format);
        (channel.epoch, channel.offset)
    }

    /// A shard has no subscriber of these encodings left.
    pub(crate) fn leave(&mut self, hash: u64, name: &str, shard: u16, formats: Formats) {
        let Some(index) = self.channels.find(hash, name) else { return };
        let channel = self.at(index);
        let was_wanted = !channel.wanted.is_empty();
        channel.wanted.remove(shard, formats);
        if !was_wanted || !channel.wanted.is_empty() {
            return;
        }
        if !channel.is_numbered {
            self.channels.remove(hash, index);
            return;
        }
        self.link(index);
        self.forget_oldest();
    }

    pub(crate) fn join_pattern(&mut self, hash: u64, prefix: &str, shard: u16, format: Format) {
        let index = match self.patterns.find(hash, prefix) {
            Some(index) => index,
            None => {
                self.lengths.add(prefix.len());
                self.patterns.insert(hash, HomePattern { prefix: prefix.into(), wanted: Wanted::default() })
            }
        };
        self.patterns.get_mut(index).expect("it was found or inserted").wanted.insert(shard, format);
    }

    pub(crate) fn leave_pattern(&mut self, hash: u64, prefix: &str, shard: u16, formats: Formats) {
        let Some(index) = self.patterns.find(hash, prefix) else { return };
        let pattern = self.patterns.get_mut(index).expect("it was found");
        pattern.wanted.remove(shard, formats);
        if pattern.wanted.is_empty() {
            self.patterns.remove(hash, index);
            self.lengths.remove(prefix.len());
        }
    }

    /// A message on the channel gets its place.
    pub(crate) fn publish(&mut self, hash: u64, name: &str, numbering: Numbering, hasher: &Hasher) -> Placed {
        let known = self.channels.find(hash, name);
        let (epoch, offset, mut wanted, is_reborn) = match (known, numbering) {
            (None, Numbering::Never) => (self.unnumbered_epoch(hash), 0, Wanted::default(), false),
            (known, _) => {
                let index = known.unwrap_or_else(|| self.channel(hash, name, true));
                if canary::strikes(Canary::EpochChangedSilently) {
                    self.at(index).epoch = Epoch::new(self.epochs.next());
                }
                let channel = self.at(index);
                channel.offset += u64::from(numbering == Numbering::Numbered);
                if numbering == Numbering::Numbered && canary::strikes(Canary::OffsetSkipped) {
                    channel.offset += 1;
                }
                if numbering == Numbering::Numbered && canary::strikes(Canary::OffsetRepeated) {
                    channel.offset -= 1;
                }
                let is_reborn = std::mem::take(&mut channel.is_unannounced);
                let place = (channel.epoch, channel.offset, channel.wanted, is_reborn);
                if place.2.is_empty() {
                    self.unlink(index);
                    self.link(index);
                    self.forget_oldest();
                }
                place
            }
        };
        self.extend_by_patterns(&mut wanted, name, hasher);
        Placed { epoch, offset, wanted, is_reborn }
    }

    /// Shards that would want a message on the channel, which gets no place yet.
    pub(crate) fn wanted(&self, hash: u64, name: &str, hasher: &Hasher) -> Wanted {
        let known = self.channels.find(hash, name).and_then(|index| self.channels.get(index));
        let mut wanted = known.map_or(Wanted::default(), |channel| channel.wanted);
        self.extend_by_patterns(&mut wanted, name, hasher);
        wanted
    }

    #[inline(always)]
    fn extend_by_patterns(&self, wanted: &mut Wanted, name: &str, hasher: &Hasher) {
        for prefix in self.lengths.prefixes(name) {
            if let Some(index) = self.patterns.find(hasher.of(prefix), prefix) {
                wanted.extend(self.patterns.get(index).expect("it was found").wanted);
            }
        }
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
            self.has_forgotten = true;
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
        let placed = homes.publish(HASHER().of(name), name, Numbering::Numbered, &HASHER());
        assert!(placed.wanted.is_empty());
        (placed.epoch, placed.offset)
    }

    #[test]
    fn a_channel_without_numbers_is_forgotten_with_its_last_subscriber() {
        let mut homes = Homes::new(Random(1), 1);
        let hash = HASHER().of("conversation:1");
        let numbered = homes.join(hash, "conversation:1", true, (0, Format::Json));
        homes.leave(hash, "conversation:1", 0, Formats::only(Format::Json));
        let hash = HASHER().of("room");
        let first = homes.join(hash, "room", false, (0, Format::Json));
        homes.join(hash, "room", false, (1, Format::Json));
        homes.leave(hash, "room", 0, Formats::only(Format::Json));
        assert_eq!((homes.len(), homes.idle), (2, 1), "shard 1 still wants it");
        homes.leave(hash, "room", 1, Formats::only(Format::Json));
        assert_eq!(
            (homes.len(), homes.idle),
            (1, 1),
            "and takes nobody's place among those that are remembered"
        );
        assert_eq!(
            homes.join(hash, "room", false, (0, Format::Json)),
            first,
            "nothing of it was worth remembering"
        );
        let hash = HASHER().of("conversation:1");
        assert_eq!(homes.join(hash, "conversation:1", true, (0, Format::Json)), numbered);
    }

    #[test]
    fn each_encoding_is_wanted_by_the_shards_that_said_so() {
        let (mut homes, both) = (Homes::new(Random(1), 10), Formats { json: true, msgpack: true });
        let hash = |name: &str| HASHER().of(name);
        let wanted = |homes: &mut Homes| {
            let placed = homes.publish(hash("agent:7"), "agent:7", Numbering::Numbered, &HASHER());
            let shards = |format| placed.wanted.of(format).iter().collect::<Vec<_>>();
            (shards(Format::Json), shards(Format::MessagePack))
        };
        homes.join(hash("agent:7"), "agent:7", true, (0, Format::Json));
        homes.join(hash("agent:7"), "agent:7", true, (0, Format::MessagePack));
        homes.join(hash("agent:7"), "agent:7", true, (1, Format::MessagePack));
        homes.join_pattern(hash("agent:"), "agent:", 2, Format::MessagePack);
        homes.join_pattern(hash("a"), "a", 2, Format::Json);
        assert_eq!(wanted(&mut homes), (vec![0, 2], vec![0, 1, 2]));
        homes.leave(hash("agent:7"), "agent:7", 0, Formats::only(Format::MessagePack));
        homes.leave_pattern(hash("agent:"), "agent:", 2, Formats::only(Format::MessagePack));
        assert_eq!(wanted(&mut homes), (vec![0, 2], vec![1]));
        homes.leave(hash("agent:7"), "agent:7", 0, both);
        homes.leave_pattern(hash("a"), "a", 2, both);
        assert_eq!((wanted(&mut homes), homes.idle), ((vec![], vec![1]), 0));
        homes.leave(hash("agent:7"), "agent:7", 1, both);
        assert_eq!((wanted(&mut homes), homes.idle, homes.patterns_len()), ((vec![], vec![]), 1, 0));
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
        let position = homes.join(hash, "wanted", true, (3, Format::Json));
        for round in 0..10 {
            publish(&mut homes, &format!("other{round}"));
        }
        assert_eq!((homes.len(), homes.idle), (3, 2));
        assert_eq!(homes.join(hash, "wanted", true, (4, Format::Json)), position);
        homes.leave(hash, "wanted", 3, Formats::only(Format::Json));
        homes.leave(hash, "wanted", 3, Formats::only(Format::Json));
        assert_eq!(homes.idle, 2);
        homes.leave(hash, "wanted", 4, Formats::only(Format::Json));
        assert_eq!((homes.len(), homes.idle), (2, 2));
        assert_eq!(publish(&mut homes, "wanted"), (position.0, 1));
    }

    #[test]
    fn channels_without_numbers_leave_no_memory_and_keep_their_epoch() {
        let mut homes = Homes::new(Random(1), 10);
        let hash = HASHER().of("metrics:a");
        let placed = homes.publish(hash, "metrics:a", Numbering::Never, &HASHER());
        assert_eq!((placed.offset, homes.len()), (0, 0));
        assert_eq!(homes.join(hash, "metrics:a", false, (0, Format::Json)), (placed.epoch, 0));
    }

    #[test]
    fn only_what_may_have_been_forgotten_is_born_again() {
        let mut homes = Homes::new(Random(1), 1);
        let mut place = |name: &str| homes.publish(HASHER().of(name), name, Numbering::Numbered, &HASHER());
        assert!(!place("a").is_reborn && !place("a").is_reborn, "nothing was forgotten yet");
        // The second channel pushes the first one out, and the first one the second.
        assert!(!place("b").is_reborn);
        assert!(place("a").is_reborn && !place("a").is_reborn);
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
