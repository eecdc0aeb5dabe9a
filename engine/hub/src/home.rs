//! What a home knows: the epoch, offset and history of its channels, and which shards have subscribers of which
//! encoding.
//!
//! Channels without subscribers are remembered, so that their offsets go on rising, in the order of their last use;
//! beyond a bound the least recently used are forgotten and begin with a new epoch. Histories have a bound together:
//! beyond it the channels that were published to longest ago lose theirs first, and get a new epoch as well.

use std::time::Instant;

use crate::canary::{self, Canary};
use crate::channel::Lengths;
use crate::config::Hasher;
use crate::format::{Format, Formats, Wanted};
use crate::history::{Bounds, History, Kept};
use crate::order::Order;
use crate::registry::{Named, Registry};
use crate::remote::Epoch;

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
    /// Who may know an earlier epoch, and has not been told of this one.
    unannounced: Unannounced,
    /// The latest messages; none where there are none.
    history: Option<Box<History>>,
}

/// Who is to be told of an epoch before the next message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Unannounced {
    /// Everybody knows it.
    #[default]
    Nobody,
    /// Whoever subscribed by a pattern: who did by name knows it from the answer.
    Patterns,
    /// Everybody: it began while they were subscribed.
    Everybody,
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

/// Looks in which all histories are looked through.
const SWEEPS: usize = 256;

/// All channels whose home is here.
#[derive(Debug)]
pub(crate) struct Homes {
    channels: Registry<HomeChannel>,
    patterns: Registry<HomePattern>,
    lengths: Lengths,
    /// Numbered channels without subscribers, and how many of them at most.
    idle: Order,
    idle_max: usize,
    /// Channels with a history, by their latest message; what all of it takes, and at most.
    remembering: Order,
    history_bytes: usize,
    history_bytes_max: usize,
    /// Up to which slot histories were looked through.
    swept: u32,
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
    /// Who may not know the epoch.
    pub(crate) unannounced: Unannounced,
    /// Where the channel is, if anything of it is worth remembering.
    pub(crate) slot: Option<u32>,
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
    /// With these bounds for idle channels and for the bytes of all histories.
    pub(crate) fn new(mut epochs: Random, idle_max: usize, history_bytes_max: usize) -> Self {
        let unnumbered = epochs.next();
        Self {
            channels: Registry::new(),
            patterns: Registry::new(),
            lengths: Lengths::default(),
            idle: Order::new(),
            idle_max,
            remembering: Order::new(),
            history_bytes: 0,
            history_bytes_max,
            swept: 0,
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
            unannounced: match is_numbered && self.has_forgotten {
                true => Unannounced::Patterns,
                false => Unannounced::Nobody,
            },
            history: None,
        };
        let index = self.channels.insert(hash, channel);
        self.idle.touch(index);
        index
    }

    /// Offsets of a channel that is not numbered never begin anew, and so its epoch needs no memory.
    fn unnumbered_epoch(&self, hash: u64) -> Epoch {
        Epoch::new(Random(self.unnumbered ^ hash).next())
    }

    fn at(&mut self, index: u32) -> &mut HomeChannel {
        self.channels.get_mut(index).expect("indices are of channels that exist")
    }

    /// A shard has a subscriber of this encoding: the channel's slot.
    pub(crate) fn join(
        &mut self,
        hash: u64,
        name: &str,
        is_numbered: bool,
        (shard, format): (u16, Format),
    ) -> u32 {
        let index = self.channel(hash, name, is_numbered);
        self.idle.remove(index);
        self.at(index).wanted.insert(shard, format);
        index
    }

    /// The slot of a channel that is remembered.
    pub(crate) fn find(&self, hash: u64, name: &str) -> Option<u32> {
        self.channels.find(hash, name)
    }

    /// Where a channel is now.
    pub(crate) fn position(&self, slot: u32) -> (Epoch, u64) {
        self.channels.get(slot).map(|it| (it.epoch, it.offset)).expect("slots are of channels that exist")
    }

    /// Whether its epoch began under its subscribers, and no message has told them so.
    pub(crate) fn is_reborn(&self, slot: u32) -> bool {
        self.channels.get(slot).is_some_and(|it| it.unannounced == Unannounced::Everybody)
    }

    /// Where a channel is that nothing is known of: nobody can have been told of it since it was forgotten.
    pub(crate) fn position_of_unknown(&self, hash: u64) -> (Epoch, u64) {
        (self.unnumbered_epoch(hash), 0)
    }

    /// What is kept of a channel.
    pub(crate) fn history(&mut self, slot: u32, now: Instant) -> Option<&History> {
        self.change_history(slot, |history| history.expire(now));
        self.channels.get(slot)?.history.as_deref()
    }

    /// Keeps a message that was just given its place.
    pub(crate) fn keep(&mut self, slot: u32, it: &Kept<'_>, now: Instant, bounds: Bounds) {
        let Some(channel) = self.channels.get_mut(slot) else { return };
        let offset = channel.offset;
        channel.history.get_or_insert_with(|| Box::new(History::new(offset - 1)));
        self.change_history(slot, |history| history.push(it, now, bounds));
        self.remembering.touch(slot);
        while self.history_bytes > self.history_bytes_max && self.forget_oldest_history() {}
    }

    /// All numbered channels, with their positions and what is kept of them.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (&str, Epoch, u64, Option<&History>)> {
        let channels = self.channels.iter().filter(|it| it.is_numbered);
        channels.map(|it| (&*it.name, it.epoch, it.offset, it.history.as_deref()))
    }

    /// A channel as another node remembered it, up to this offset; into a home that knows nothing of it yet.
    pub(crate) fn restore<'a>(
        &mut self,
        (hash, name): (u64, &str),
        (epoch, offset): (Epoch, u64),
        messages: impl ExactSizeIterator<Item = (Kept<'a>, Instant)>,
        bounds: Bounds,
    ) {
        let slot = self.channel(hash, name, true);
        let channel = self.at(slot);
        (channel.epoch, channel.unannounced) = (epoch, Unannounced::Nobody);
        channel.offset = offset.saturating_sub(messages.len() as u64);
        for (kept, since) in messages {
            self.at(slot).offset += 1;
            self.keep(slot, &kept, since, bounds);
        }
        // What came before may have had another epoch here.
        self.has_forgotten = true;
        self.forget_oldest();
    }

    fn change_history(&mut self, slot: u32, change: impl FnOnce(&mut History)) {
        let Some(channel) = self.channels.get_mut(slot) else { return };
        let Some(history) = &mut channel.history else { return };
        let before = history.bytes();
        change(history);
        self.history_bytes = self.history_bytes + history.bytes() - before;
        if history.is_empty() {
            channel.history = None;
            self.remembering.remove(slot);
        }
    }

    /// What a channel knows of its past is lost: whoever comes with an earlier position must be told so.
    fn forget_history(&mut self, slot: u32) {
        let epoch = Epoch::new(self.epochs.next());
        self.drop_history(slot);
        let channel = self.at(slot);
        channel.epoch = epoch;
        channel.unannounced = Unannounced::Everybody;
    }

    fn drop_history(&mut self, slot: u32) {
        self.remembering.remove(slot);
        if let Some(history) = self.at(slot).history.take() {
            self.history_bytes -= history.bytes();
        }
    }

    /// Drops what is too old in some histories, a part of all at least this large; whether any are left.
    pub(crate) fn sweep(&mut self, now: Instant, at_least: usize) -> bool {
        let slots = self.channels.slots_len();
        for _ in 0..at_least.max(slots / SWEEPS).min(slots) {
            self.swept = if self.swept as usize + 1 < slots { self.swept + 1 } else { 0 };
            self.change_history(self.swept, |history| history.expire(now));
        }
        self.remembering.len() > 0
    }

    /// When the history that was used longest ago got its latest message.
    pub(crate) fn oldest_use(&self) -> Option<Instant> {
        self.channels.get(self.remembering.oldest()?)?.history.as_ref()?.latest()
    }

    /// That channel, if there is one, loses its history.
    pub(crate) fn forget_oldest_history(&mut self) -> bool {
        self.remembering.oldest().map(|oldest| self.forget_history(oldest)).is_some()
    }

    /// What they may take at most.
    pub(crate) fn history_bytes_max(&self) -> usize {
        self.history_bytes_max
    }

    /// What all histories take, in bytes.
    pub(crate) fn history_bytes(&self) -> usize {
        self.history_bytes
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
        self.idle.touch(index);
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
        let (epoch, offset, mut wanted, unannounced, slot) = match (known, numbering) {
            (None, Numbering::Never) => {
                (self.unnumbered_epoch(hash), 0, Wanted::default(), Unannounced::Nobody, None)
            }
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
                let unannounced = std::mem::take(&mut channel.unannounced);
                let place = (channel.epoch, channel.offset, channel.wanted, unannounced, Some(index));
                if place.2.is_empty() {
                    self.idle.touch(index);
                    self.forget_oldest();
                }
                place
            }
        };
        self.extend_by_patterns(&mut wanted, name, hasher);
        Placed { epoch, offset, wanted, unannounced, slot }
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

    fn forget_oldest(&mut self) {
        while self.idle.len() > self.idle_max
            && let Some(index) = self.idle.oldest()
        {
            self.has_forgotten = true;
            self.idle.remove(index);
            self.drop_history(index);
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

    fn join(homes: &mut Homes, name: &str, is_numbered: bool, shard: u16) -> (Epoch, u64) {
        let slot = homes.join(HASHER().of(name), name, is_numbered, (shard, Format::Json));
        homes.position(slot)
    }

    /// Publishes and keeps it, with a payload of so many bytes.
    fn keep(homes: &mut Homes, name: &str, bytes: usize, now: Instant) -> Placed {
        let placed = homes.publish(HASHER().of(name), name, Numbering::Numbered, &HASHER());
        let payload = vec![b'1'; bytes];
        let kept = Kept {
            event: None,
            publisher: "ann",
            format: Format::Json,
            payload: &payload,
            priority: None,
            timestamp: 0,
        };
        let bounds = Bounds { messages: 100, bytes: usize::MAX, age: std::time::Duration::from_secs(10) };
        homes.keep(placed.slot.expect("it is numbered"), &kept, now, bounds);
        placed
    }

    #[test]
    fn who_was_published_to_longest_ago_loses_its_history_first_and_says_so() {
        let (mut homes, now) = (Homes::new(Random(1), 10, 10_000), Instant::now());
        let first = keep(&mut homes, "a", 4_000, now);
        keep(&mut homes, "b", 4_000, now);
        let slot = |homes: &Homes, name: &str| homes.find(HASHER().of(name), name).expect("it is remembered");
        keep(&mut homes, "a", 100, now);
        keep(&mut homes, "c", 4_000, now);
        let (a, b) = (slot(&homes, "a"), slot(&homes, "b"));
        assert_eq!(homes.history(a, now).map(History::first), Some(1), "it was used later");
        assert!(homes.history(b, now).is_none() && homes.history_bytes() <= 10_000);
        assert_eq!(homes.position(a).0, first.epoch);
        let reborn = keep(&mut homes, "b", 1, now);
        assert_eq!((reborn.offset, reborn.unannounced), (2, Unannounced::Everybody), "offsets go on rising");
        assert_eq!(keep(&mut homes, "b", 1, now).unannounced, Unannounced::Nobody);
        keep(&mut homes, "d", 20_000, now);
        assert_eq!(homes.history_bytes(), 0, "what is larger than all that may be kept is not kept");
    }

    #[test]
    fn what_is_too_old_is_swept_away() {
        let (mut homes, now) = (Homes::new(Random(1), 1_000, 1 << 20), Instant::now());
        for number in 0..600 {
            keep(&mut homes, &format!("c{number}"), 10, now);
        }
        assert!(homes.sweep(now, 512) && homes.history_bytes() > 0);
        let later = now + std::time::Duration::from_secs(11);
        assert!(homes.sweep(later, 512) && !homes.sweep(later, 512));
        assert_eq!(homes.history_bytes(), 0);
    }

    fn publish(homes: &mut Homes, name: &str) -> (Epoch, u64) {
        let placed = homes.publish(HASHER().of(name), name, Numbering::Numbered, &HASHER());
        assert!(placed.wanted.is_empty());
        (placed.epoch, placed.offset)
    }

    #[test]
    fn a_channel_without_numbers_is_forgotten_with_its_last_subscriber() {
        let mut homes = Homes::new(Random(1), 1, 1 << 20);
        let hash = HASHER().of("conversation:1");
        let numbered = join(&mut homes, "conversation:1", true, 0);
        homes.leave(hash, "conversation:1", 0, Formats::only(Format::Json));
        let hash = HASHER().of("room");
        let first = join(&mut homes, "room", false, 0);
        homes.join(hash, "room", false, (1, Format::Json));
        homes.leave(hash, "room", 0, Formats::only(Format::Json));
        assert_eq!((homes.len(), homes.idle.len()), (2, 1), "shard 1 still wants it");
        homes.leave(hash, "room", 1, Formats::only(Format::Json));
        assert_eq!(
            (homes.len(), homes.idle.len()),
            (1, 1),
            "and takes nobody's place among those that are remembered"
        );
        assert_eq!(join(&mut homes, "room", false, 0), first, "nothing of it was worth remembering");
        assert_eq!(join(&mut homes, "conversation:1", true, 0), numbered);
    }

    #[test]
    fn each_encoding_is_wanted_by_the_shards_that_said_so() {
        let (mut homes, both) = (Homes::new(Random(1), 10, 1 << 20), Formats { json: true, msgpack: true });
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
        assert_eq!((wanted(&mut homes), homes.idle.len()), ((vec![], vec![1]), 0));
        homes.leave(hash("agent:7"), "agent:7", 1, both);
        assert_eq!((wanted(&mut homes), homes.idle.len(), homes.patterns_len()), ((vec![], vec![]), 1, 0));
    }

    #[test]
    fn idle_channels_are_bounded_and_the_latest_are_kept() {
        let mut homes = Homes::new(Random(1), 10, 1 << 20);
        let first = publish(&mut homes, "kept");
        for round in 0..1000 {
            publish(&mut homes, &format!("other{round}"));
            assert_eq!(publish(&mut homes, "kept"), (first.0, round + 2));
        }
        assert_eq!((homes.len(), homes.idle.len()), (10, 10));
    }

    #[test]
    fn channels_with_subscribers_are_never_forgotten() {
        let mut homes = Homes::new(Random(1), 2, 1 << 20);
        let hash = HASHER().of("wanted");
        let position = join(&mut homes, "wanted", true, 3);
        for round in 0..10 {
            publish(&mut homes, &format!("other{round}"));
        }
        assert_eq!((homes.len(), homes.idle.len()), (3, 2));
        assert_eq!(join(&mut homes, "wanted", true, 4), position);
        homes.leave(hash, "wanted", 3, Formats::only(Format::Json));
        homes.leave(hash, "wanted", 3, Formats::only(Format::Json));
        assert_eq!(homes.idle.len(), 2);
        homes.leave(hash, "wanted", 4, Formats::only(Format::Json));
        assert_eq!((homes.len(), homes.idle.len()), (2, 2));
        assert_eq!(publish(&mut homes, "wanted"), (position.0, 1));
    }

    #[test]
    fn channels_without_numbers_leave_no_memory_and_keep_their_epoch() {
        let mut homes = Homes::new(Random(1), 10, 1 << 20);
        let hash = HASHER().of("metrics:a");
        let placed = homes.publish(hash, "metrics:a", Numbering::Never, &HASHER());
        assert_eq!((placed.offset, homes.len()), (0, 0));
        assert_eq!(join(&mut homes, "metrics:a", false, 0), (placed.epoch, 0));
    }

    #[test]
    fn only_what_may_have_been_forgotten_is_born_again() {
        let mut homes = Homes::new(Random(1), 1, 1 << 20);
        let mut place =
            |name: &str| homes.publish(HASHER().of(name), name, Numbering::Numbered, &HASHER()).unannounced;
        use Unannounced::{Nobody, Patterns};
        assert_eq!([place("a"), place("a")], [Nobody, Nobody], "nothing was forgotten yet");
        // The second channel pushes the first one out, and the first one the second.
        assert_eq!(place("b"), Nobody);
        assert_eq!([place("a"), place("a")], [Patterns, Nobody]);
    }

    #[test]
    fn a_forgotten_channel_begins_a_new_epoch() {
        for idle_max in [0, 1] {
            let mut homes = Homes::new(Random(1), idle_max, 1 << 20);
            let before = publish(&mut homes, "a");
            publish(&mut homes, "b");
            let after = publish(&mut homes, "a");
            assert_ne!(before.0, after.0);
            assert_eq!((after.1, homes.len()), (1, idle_max));
        }
    }
}
