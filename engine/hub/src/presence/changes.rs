//! Who came and went in a channel since its watchers were told last, net of what cancelled out.
//!
//! Somebody who came and went, or went and came back, changed nothing. But whoever asked in between has seen it: then
//! it is told how it ended, or that view would be wrong for ever. So watchers may be told what they know; `join` and
//! `leave` are to be taken as what holds now.

use std::collections::BTreeMap;

use hashbrown::HashMap;

/// Changes of one channel that its watchers were not told of yet.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Of those with names, with the number of answers that had been given at the first change.
    listed: BTreeMap<Box<str>, u32>,
    /// Of those beyond the member limit, by hash.
    unlisted: HashMap<u64, u32, foldhash::fast::FixedState>,
    /// Counts answers, so that what somebody has seen is known.
    answers: u32,
}

impl Changes {
    /// A participant whose name is kept came or went.
    pub(crate) fn note(&mut self, participant: &str) {
        match self.listed.get(participant) {
            Some(since) if *since == self.answers => {
                self.listed.remove(participant);
            }
            Some(_) => {}
            None => {
                self.listed.insert(participant.into(), self.answers);
            }
        }
    }

    /// A participant beyond the member limit came or went.
    pub(crate) fn note_unlisted(&mut self, hash: u64) {
        match self.unlisted.get(&hash) {
            Some(since) if *since == self.answers => {
                self.unlisted.remove(&hash);
            }
            Some(_) => {}
            None => {
                self.unlisted.insert(hash, self.answers);
            }
        }
    }

    /// Somebody is told how things are now: what has changed until here does not cancel out any more.
    pub(crate) fn seen(&mut self) {
        self.answers = self.answers.wrapping_add(1);
    }

    pub(crate) fn listed(&self) -> impl ExactSizeIterator<Item = &str> {
        self.listed.keys().map(|name| &**name)
    }

    pub(crate) fn unlisted(&self) -> impl ExactSizeIterator<Item = u64> {
        self.unlisted.keys().copied()
    }

    pub(crate) fn clear(&mut self) {
        self.listed.clear();
        self.unlisted.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.unlisted.is_empty()
    }
}
