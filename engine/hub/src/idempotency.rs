//! Publishes that were made before: what a home remembers of idempotency keys, so that a repetition is answered with the
//! first one's position and delivered to nobody.
//!
//! It knows keys only by their hashes, and nothing of who is told.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::canary::{self, Canary};
use crate::config::Now;
use crate::effect::Effects;
use crate::hub::Hub;
use crate::remote::{Epoch, FromHome, Published, Receipt};
use crate::state::{PositionState, PublishState, PublishesState, text_of};

/// A key is known for so long.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// What makes two publishes the same.
#[derive(Clone, Copy, Hash, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) publisher: &'a str,
    /// The channel, or the participant of a direct message.
    pub(crate) target: &'a str,
    pub(crate) is_direct: bool,
    pub(crate) key: &'a str,
}

/// A [`Key`], hashed: with 128 bits under a secret seed, two of a million are alike once in 10^26 nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct KeyHash(u128);

/// The publishes of one home that had a key.
#[derive(Debug)]
pub(crate) struct Repetitions {
    seed: u64,
    hashers: [FixedState; 2],
    positions: HashMap<KeyHash, (Epoch, u64), foldhash::fast::FixedState>,
    /// In the order in which they came, which is the order in which they are forgotten.
    order: VecDeque<(Instant, KeyHash)>,
    /// How many are remembered at most, the latest: up to 100 bytes each, a power of two's 7/8 only 65.
    keys_max: usize,
    /// Since the start.
    suppressed: u64,
    /// Before their time was over, for lack of room, since the start.
    forgotten: u64,
}

impl Repetitions {
    /// Nothing is known yet. The seed is the node's.
    pub(crate) fn new(seed: u64, keys_max: usize) -> Self {
        Self {
            seed,
            // Independent of each other and of the tables: what one of them collides on tells nothing of the other.
            hashers: [0x5851_f42d_4c95_7f2d, 0x1405_7b7e_f767_814f]
                .map(|purpose: u64| FixedState::with_seed(seed.rotate_left(32) ^ purpose)),
            positions: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            order: VecDeque::new(),
            keys_max,
            suppressed: 0,
            forgotten: 0,
        }
    }

    pub(crate) fn hash(&self, key: Key<'_>) -> KeyHash {
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(key)));
        KeyHash(high << 64 | low)
    }

    /// The position of the first publish of this key, if there was one within the last five minutes.
    pub(crate) fn find(&mut self, now: Instant, key: KeyHash) -> Option<(Epoch, u64)> {
        self.forget(now);
        let found = self.positions.get(&key).copied();
        if canary::strikes(Canary::RepetitionDelivered) {
            return None;
        }
        self.suppressed += u64::from(found.is_some());
        found
    }

    /// Remembers an accepted publish, which was not found.
    pub(crate) fn insert(&mut self, now: Instant, key: KeyHash, position: (Epoch, u64)) {
        if self.positions.contains_key(&key) {
            return;
        }
        // First, so that no table grows for one more.
        if self.order.len() >= self.keys_max
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.positions.remove(&oldest);
            self.forgotten += 1;
        }
        self.positions.insert(key, position);
        self.order.push_back((now, key));
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, key)) = self.order.front()
            && now.saturating_duration_since(*since) >= REMEMBERED
        {
            self.positions.remove(key);
            self.order.pop_front();
        }
    }

    /// What is remembered, for another node.
    pub(crate) fn exported(&self, now: Instant) -> PublishesState {
        let made = self.order.iter().filter_map(|(since, key)| {
            let (epoch, offset) = self.positions.get(key)?;
            Some(PublishState {
                key_hash: key.0.to_be_bytes().to_vec(),
                position: PositionState { epoch: text_of(*epoch), offset: *offset },
                age_ms: now.saturating_duration_since(*since).as_millis() as u64,
            })
        });
        PublishesState { seed: self.seed, made: made.collect() }
    }

    /// Goes on from what another node remembered; hashes are made as they were there.
    pub(crate) fn import(&mut self, now: Instant, state: &PublishesState) {
        if state.made.is_empty() {
            return;
        }
        *self = Self::new(state.seed, self.keys_max);
        let mut made: Vec<_> = state.made.iter().collect();
        made.sort_by_key(|it| std::cmp::Reverse(it.age_ms));
        for it in made {
            let Some(epoch) = Epoch::read(&it.position.epoch) else { continue };
            let Ok(hash) = <[u8; 16]>::try_from(&*it.key_hash) else { continue };
            let since = now.checked_sub(Duration::from_millis(it.age_ms)).unwrap_or(now);
            self.insert(since, KeyHash(u128::from_be_bytes(hash)), (epoch, it.position.offset));
        }
    }

    /// How many keys are known, and how many were forgotten early since the start.
    pub(crate) fn keys(&self) -> (usize, u64) {
        (self.order.len(), self.forgotten)
    }

    /// Repetitions that were not delivered, since the start.
    pub(crate) fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

impl Hub {
    #[inline(always)]
    pub(crate) fn key_of(&self, it: &Published<'_>, is_direct: bool) -> Option<KeyHash> {
        let key = it.idempotency_key?;
        Some(self.repetitions.hash(Key { publisher: it.publisher, target: it.target, is_direct, key }))
    }

    /// Whether this publish was accepted before; then its publisher is told so.
    #[inline(always)]
    pub(crate) fn is_repeated(
        &mut self,
        now: Now,
        from: u16,
        it: &Published<'_>,
        key: Option<KeyHash>,
        fx: &mut Effects,
    ) -> bool {
        let Some(key) = key else { return false };
        let Some((epoch, offset)) = self.repetitions.find(now.instant, key) else { return false };
        if let Some(id) = it.id {
            let receipt = Receipt { conn: it.conn, id, epoch, offset };
            self.answer_to(now, from, &FromHome::Repeated(receipt), fx);
        }
        true
    }

    /// The publish of this key was accepted: it has its place.
    #[inline(always)]
    pub(crate) fn remember(&mut self, now: Now, key: Option<KeyHash>, position: (Epoch, u64)) {
        if let Some(key) = key {
            self.repetitions.insert(now.instant, key, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS_MAX: usize = 1_000;
    const KEY: Key<'_> = Key { publisher: "ann", target: "room", is_direct: false, key: "k" };

    fn position(offset: u64) -> (Epoch, u64) {
        (Epoch::new(7), offset)
    }

    #[test]
    fn whatever_differs_makes_another_key() {
        let known = Repetitions::new(1, KEYS_MAX);
        let others = [
            Key { publisher: "annr", target: "oom", ..KEY },
            Key { is_direct: true, ..KEY },
            Key { key: "l", ..KEY },
            Key { key: "", target: "roomk", ..KEY },
        ];
        for other in others {
            assert_ne!(known.hash(other), known.hash(KEY), "{other:?}");
        }
        assert_eq!(known.hash(KEY), Repetitions::new(1, KEYS_MAX).hash(KEY));
        let KeyHash(hash) = known.hash(KEY);
        assert_ne!((hash >> 64) as u64, hash as u64, "two hashes, not one twice");
        assert_ne!(
            Repetitions::new(2, KEYS_MAX).hash(KEY),
            known.hash(KEY),
            "nobody can compute it in advance"
        );
    }

    #[test]
    fn a_key_is_known_for_five_minutes_and_not_longer() {
        let (mut known, start) = (Repetitions::new(1, KEYS_MAX), Instant::now());
        let key = known.hash(KEY);
        assert_eq!(known.find(start, key), None);
        known.insert(start, key, position(3));
        let later = start + REMEMBERED;
        assert_eq!(known.find(later - Duration::from_millis(1), key), Some(position(3)));
        assert_eq!(known.find(later, key), None);
        assert!(known.positions.is_empty() && known.order.is_empty());
        known.insert(later, key, position(4));
        assert_eq!(known.find(later, key), Some(position(4)));
        assert_eq!(known.suppressed(), 2);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let (mut known, now) = (Repetitions::new(1, KEYS_MAX), Instant::now());
        let keys: Vec<String> = (0..=KEYS_MAX).map(|number| number.to_string()).collect();
        for (offset, key) in (0..).zip(&keys) {
            let hash = known.hash(Key { key, ..KEY });
            known.insert(now, hash, position(offset));
        }
        assert_eq!((known.positions.len(), known.order.len()), (KEYS_MAX, KEYS_MAX));
        assert_eq!(known.keys(), (KEYS_MAX, 1));
        let mut found = |number: usize| {
            let hash = known.hash(Key { key: &keys[number], ..KEY });
            known.find(now, hash)
        };
        assert_eq!(
            (found(0), found(1), found(KEYS_MAX)),
            (None, Some(position(1)), Some(position(KEYS_MAX as u64)))
        );
    }
}
