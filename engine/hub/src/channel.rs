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

use crate::effect::ConnKey;
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
    /// Subscriptions that await their home's answer.
    pub(crate) pending: u32,
    pub(crate) subscribers: Vec<ConnKey>,
}

impl Named for LocalChannel {
    fn name(&self) -> &str {
        &self.name
    }
}

impl LocalChannel {
    pub(crate) fn new(name: &str, hash: u64, rule: u16) -> Self {
        Self { name: name.into(), hash, rule, is_dirty: false, pending: 0, subscribers: Vec::new() }
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.pending == 0 && self.subscribers.is_empty()
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

    /// Notes that a channel may be unused now.
    pub(crate) fn mark(&mut self, index: u32) {
        let Some(channel) = self.get_mut(index) else { return };
        if channel.is_unused() && !channel.is_dirty {
            channel.is_dirty = true;
            self.dirty.push(index);
        }
    }

    /// Takes the next channel that is to be settled out of the tables, if it is still unused.
    pub(crate) fn settle_one(&mut self) -> Option<Option<(LocalChannel, bool)>> {
        let index = self.dirty.pop()?;
        let Some(channel) = self.get_mut(index) else { return Some(None) };
        channel.is_dirty = false;
        // Somebody may have come back meanwhile: then the home's interest stays right as it is.
        if !channel.is_unused() {
            return Some(None);
        }
        let (hash, length) = (channel.hash, channel.name.len());
        if Self::is_pattern(index) {
            self.lengths.remove(length);
            return Some(self.patterns.remove(hash, index >> 1).map(|channel| (channel, true)));
        }
        Some(self.exact.remove(hash, index >> 1).map(|channel| (channel, false)))
    }
}

fn index(slot: u32, is_pattern: bool) -> u32 {
    slot << 1 | u32::from(is_pattern)
}
