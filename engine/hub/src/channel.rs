//! A shard's own view of channels and patterns: who of its connections subscribed.
//!
//! What a home believes about this shard's interest follows with a delay, and must never be switched off for
//! somebody new. The race: the last subscriber leaves, and before the home is told, somebody subscribes again.
//! - Before `settle`: the channel is in use again when it is looked at, so nothing is told. "In use" includes
//!   subscriptions that still await the home's answer, whose request is already on its way.
//! - After `settle`: `Leave` is on its way and the channel is forgotten here. A new subscription sends `Subscribe`
//!   behind it on the same ordered path, so the home ends up with the interest on.
//! - An answer to a subscription from before `Leave` finds no subscription with its serial, and activates nothing:
//!   between the two the home's interest may have been off.
//!
//! All of it holds for each encoding by itself: the home is told as soon as nobody of one is left, or messages would
//! be transcoded for nobody.

use crate::effect::ConnKey;
use crate::filter::{Filtered, FilteredLists};
use crate::format::{FORMATS, Format, Formats, PerFormat};
use crate::registry::{Named, Registry};

/// A channel or pattern with subscribers on this shard, or with requests for it on their way.
#[derive(Debug)]
pub(crate) struct LocalChannel {
    /// The channel's name, or the pattern's prefix.
    pub(crate) name: Box<str>,
    pub(crate) hash: u64,
    pub(crate) rule: u16,
    /// In the list of channels whose home may be told that nobody is left.
    pub(crate) is_dirty: bool,
    /// Encodings that the home was asked for, and not yet told that nobody wants them any more.
    asked: Formats,
    /// Subscriptions that await their home's answer.
    pub(crate) pending: PerFormat<u32>,
    /// Apart by encoding, so that a delivery copies a list and looks at nobody.
    pub(crate) subscribers: PerFormat<Vec<ConnKey>>,
    /// Those who want only a part of it, in lists of their own: the others pay nothing for them.
    pub(crate) filtered: Option<Box<FilteredLists>>,
    /// Who is not simply live, in most channels nobody.
    pub(crate) behind: Option<Box<Behind>>,
    /// Who acknowledges, catching up or not.
    #[expect(clippy::box_collection, reason = "most channels have none: a pointer is a third of a vector")]
    pub(crate) acking: Option<Box<Vec<ConnKey>>>,
}

/// Subscribers that are not simply live.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    /// Among the pending ones.
    pub(crate) catching_up: Vec<ConnKey>,
    /// Live until the next message: see `looking_back`.
    looking_back: Vec<ConnKey>,
}

/// What a home is to be told: nobody here wants the channel in these encodings any more.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) name: Box<str>,
    pub(crate) hash: u64,
    pub(crate) is_pattern: bool,
    pub(crate) formats: Formats,
}

impl Named for LocalChannel {
    fn name(&self) -> &str {
        &self.name
    }
}

impl LocalChannel {
    pub(crate) fn new(name: &str, hash: u64, rule: u16) -> Self {
        Self {
            name: name.into(),
            hash,
            rule,
            is_dirty: false,
            asked: Formats::default(),
            pending: PerFormat::default(),
            subscribers: PerFormat::default(),
            filtered: None,
            behind: None,
            acking: None,
        }
    }

    /// Somebody is catching up from here on.
    pub(crate) fn falls_behind(&mut self, conn: ConnKey) {
        self.behind.get_or_insert_default().catching_up.push(conn);
    }

    /// Somebody is not catching up any more.
    pub(crate) fn caught_up(&mut self, conn: ConnKey) {
        if let Some(behind) = &mut self.behind {
            behind.catching_up.retain(|it| *it != conn);
            self.forget_behind_if_empty();
        }
    }

    /// Somebody who is live asked for the past.
    pub(crate) fn looks_back(&mut self, conn: ConnKey) {
        self.behind.get_or_insert_default().looking_back.push(conn);
    }

    /// Somebody does not wait for such an answer any more, if it did.
    pub(crate) fn looked_back(&mut self, conn: ConnKey) {
        if let Some(behind) = &mut self.behind {
            behind.looking_back.retain(|it| *it != conn);
            self.forget_behind_if_empty();
        }
    }

    /// Takes all who do: each is searched for in that list when it leaves, and there may be thousands.
    pub(crate) fn take_who_look_back(&mut self) -> Vec<ConnKey> {
        let taken = self.behind.as_mut().map(|it| std::mem::take(&mut it.looking_back)).unwrap_or_default();
        self.forget_behind_if_empty();
        taken
    }

    fn forget_behind_if_empty(&mut self) {
        self.behind.take_if(|it| it.catching_up.is_empty() && it.looking_back.is_empty());
    }

    /// One more subscription, for which the home is going to be asked.
    pub(crate) fn await_home(&mut self, format: Format) {
        *self.pending.of_mut(format) += 1;
        *self.asked.of_mut(format) = true;
    }

    pub(crate) fn contains(&self, conn: ConnKey) -> bool {
        let is_filtered = |format| self.filtered_of(format).iter().any(|it| it.conn == conn);
        FORMATS.iter().any(|format| self.subscribers.of(*format).contains(&conn) || is_filtered(*format))
    }

    pub(crate) fn filtered_of(&self, format: Format) -> &[Filtered] {
        self.filtered.as_deref().map_or(&[], |lists| lists.of(format))
    }

    fn is_used(&self, format: Format) -> bool {
        *self.pending.of(format) > 0
            || !self.subscribers.of(format).is_empty()
            || !self.filtered_of(format).is_empty()
    }

    /// Encodings that the home believes to be wanted, and that nobody uses.
    fn unused(&self) -> Formats {
        let unused = |format| *self.asked.of(format) && !self.is_used(format);
        Formats { json: unused(Format::Json), msgpack: unused(Format::MessagePack) }
    }
}

/// Lengths of prefixes, longest first: which of them does a name begin with?
#[derive(Debug, Default)]
pub(crate) struct Lengths(Vec<(u16, u32)>);

impl Lengths {
    pub(crate) fn add(&mut self, length: usize) {
        match self.0.iter_mut().find(|entry| usize::from(entry.0) == length) {
            Some(entry) => entry.1 += 1,
            None => {
                self.0.push((length as u16, 1));
                self.0.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.0));
            }
        }
    }

    pub(crate) fn remove(&mut self, length: usize) {
        if let Some(at) = self.0.iter().position(|entry| usize::from(entry.0) == length) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    /// The beginnings of `name` that may be a prefix, at most one per length in use.
    pub(crate) fn prefixes<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(|(length, _)| name.get(..usize::from(*length)))
    }
}

/// Channels and patterns of one shard share one space of indices: patterns have odd ones.
#[derive(Debug)]
pub(crate) struct LocalChannels {
    pub(crate) exact: Registry<LocalChannel>,
    pub(crate) patterns: Registry<LocalChannel>,
    pub(crate) lengths: Lengths,
    /// Channels that may be unused, to be settled.
    pub(crate) dirty: Vec<u32>,
}

impl LocalChannels {
    pub(crate) fn new() -> Self {
        Self {
            exact: Registry::new(),
            patterns: Registry::new(),
            lengths: Lengths::default(),
            dirty: Vec::new(),
        }
    }

    pub(crate) fn find(&self, hash: u64, name: &str, is_pattern: bool) -> Option<u32> {
        let registry = if is_pattern { &self.patterns } else { &self.exact };
        registry.find(hash, name).map(|slot| index(slot, is_pattern))
    }

    pub(crate) fn find_or_insert(&mut self, hash: u64, name: &str, rule: u16, is_pattern: bool) -> u32 {
        if let Some(found) = self.find(hash, name, is_pattern) {
            return found;
        }
        let channel = LocalChannel::new(name, hash, rule);
        if is_pattern {
            self.lengths.add(name.len());
            return index(self.patterns.insert(hash, channel), true);
        }
        index(self.exact.insert(hash, channel), false)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&LocalChannel> {
        if Self::is_pattern(index) { self.patterns.get(index >> 1) } else { self.exact.get(index >> 1) }
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut LocalChannel> {
        if Self::is_pattern(index) {
            self.patterns.get_mut(index >> 1)
        } else {
            self.exact.get_mut(index >> 1)
        }
    }

    pub(crate) fn is_pattern(index: u32) -> bool {
        index & 1 == 1
    }

    /// Notes that a channel may be unused now, in one encoding or altogether.
    pub(crate) fn mark(&mut self, index: u32) {
        let Some(channel) = self.get_mut(index) else { return };
        if !channel.is_dirty && !channel.unused().is_empty() {
            channel.is_dirty = true;
            self.dirty.push(index);
        }
    }

    /// What is to be told of the next channel that is to be settled, if it is still unused; out of the tables it goes
    /// when it is unused altogether.
    pub(crate) fn settle_one(&mut self) -> Option<Option<Left>> {
        let index = self.dirty.pop()?;
        let Some(channel) = self.get_mut(index) else { return Some(None) };
        channel.is_dirty = false;
        // Somebody may have come back meanwhile: then the home's interest stays right as it is.
        let formats = channel.unused();
        if formats.is_empty() {
            return Some(None);
        }
        let (hash, is_pattern) = (channel.hash, Self::is_pattern(index));
        if FORMATS.iter().any(|format| channel.is_used(*format)) {
            let asked = |format| *channel.asked.of(format) && !*formats.of(format);
            channel.asked = Formats { json: asked(Format::Json), msgpack: asked(Format::MessagePack) };
            return Some(Some(Left { name: channel.name.clone(), hash, is_pattern, formats }));
        }
        let length = channel.name.len();
        let removed = if is_pattern {
            self.lengths.remove(length);
            self.patterns.remove(hash, index >> 1)
        } else {
            self.exact.remove(hash, index >> 1)
        };
        Some(removed.map(|channel| Left { name: channel.name, hash, is_pattern, formats }))
    }
}

pub(crate) fn index(slot: u32, is_pattern: bool) -> u32 {
    slot << 1 | u32::from(is_pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who subscribes and is answered at once.
    fn arrive(channels: &mut LocalChannels, index: u32, format: Format, number: u32) {
        let channel = channels.get_mut(index).expect("it was inserted");
        channel.await_home(format);
        *channel.pending.of_mut(format) -= 1;
        channel.subscribers.of_mut(format).push(ConnKey { index: number, generation: 1 });
    }

    fn go(channels: &mut LocalChannels, index: u32, format: Format) {
        channels.get_mut(index).expect("it was inserted").subscribers.of_mut(format).pop();
        channels.mark(index);
    }

    fn settled(channels: &mut LocalChannels) -> Vec<(Formats, bool)> {
        let mut told = Vec::new();
        while let Some(left) = channels.settle_one() {
            told.extend(left.map(|left| (left.formats, left.is_pattern)));
        }
        told
    }

    #[test]
    fn each_encoding_is_given_up_when_nobody_uses_it_and_only_once() {
        for is_pattern in [false, true] {
            let mut channels = LocalChannels::new();
            let index = channels.find_or_insert(7, "room", 0, is_pattern);
            arrive(&mut channels, index, Format::Json, 1);
            arrive(&mut channels, index, Format::MessagePack, 2);
            arrive(&mut channels, index, Format::MessagePack, 3);
            go(&mut channels, index, Format::MessagePack);
            assert_eq!(settled(&mut channels), [], "another one is left");
            go(&mut channels, index, Format::MessagePack);
            assert_eq!(settled(&mut channels), [(Formats::only(Format::MessagePack), is_pattern)]);
            channels.mark(index);
            assert_eq!(settled(&mut channels), [], "the home knows");
            arrive(&mut channels, index, Format::MessagePack, 4);
            go(&mut channels, index, Format::MessagePack);
            arrive(&mut channels, index, Format::MessagePack, 5);
            assert_eq!(settled(&mut channels), [], "somebody came back before it was told");
            go(&mut channels, index, Format::Json);
            go(&mut channels, index, Format::MessagePack);
            assert_eq!(settled(&mut channels), [(Formats { json: true, msgpack: true }, is_pattern)]);
            assert!(channels.exact.is_empty() && channels.patterns.is_empty());
        }
    }

    #[test]
    fn who_awaits_the_home_uses_its_encoding() {
        let mut channels = LocalChannels::new();
        let index = channels.find_or_insert(7, "room", 0, false);
        arrive(&mut channels, index, Format::Json, 1);
        channels.get_mut(index).expect("it was inserted").await_home(Format::MessagePack);
        channels.mark(index);
        assert_eq!(settled(&mut channels), []);
        *channels.get_mut(index).expect("it was inserted").pending.of_mut(Format::MessagePack) -= 1;
        channels.mark(index);
        assert_eq!(settled(&mut channels), [(Formats::only(Format::MessagePack), false)]);
    }
}
