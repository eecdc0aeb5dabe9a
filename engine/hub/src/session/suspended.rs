//! Sessions that wait for their client, on the shard where their connection was lost.
//!
//! All wait for the same time, so who came first goes first: one queue is the order of expiry and of who has to go
//! when there are too many. A session that was resumed leaves its place in the queue behind. They are bounded in number
//! and in bytes, and those of one participant in number, so that nobody can make others lose theirs with many of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::admission::Todo;
use crate::alarm::Alarm;
use crate::canary::{self, Canary};
use crate::config::{Hasher, HubConfig, Now};
use crate::effect::ConnKey;
use crate::hub::Hub;
use crate::session::token::Tokens;
use crate::session::{Happened, Kept, State};

/// Sessions that one alarm ends: the rest follows at once, when others had their turn.
const EXPIRED_AT_ONCE: usize = 256;

/// Bytes of all sessions of a node that wait, and of what is known elsewhere for their sake.
const BYTES_MAX: usize = 256 << 20;

/// What a subscription that is kept takes elsewhere: its channel, and its participant's presence there.
const SUBSCRIPTION_BYTES: usize = 1 << 10;

/// Sessions that one participant may have waiting on a shard, however few connections it may have.
const OWN_MIN: u32 = 10;

/// A session without a connection: 56 bytes in the table, and the bytes of its subscriptions.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) participant: Arc<str>,
    pub(crate) tokens: Tokens,
    /// See [`Kept`].
    pub(crate) kept: Box<[u8]>,
    pub(crate) state: State,
    pub(crate) lost: Lost,
}

/// When a session lost its connection: in milliseconds behind the time that the first one of the shard did, rounded up;
/// unknown of one that came from another node. An [`Instant`] would take twice as much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lost(i64);

impl Lost {
    const UNKNOWN: Self = Self(i64::MIN);
}

impl Waiting {
    /// What it takes, about.
    fn bytes(&self) -> usize {
        self.kept.len() + SUBSCRIPTION_BYTES * Kept::each(&self.kept).count()
    }
}

/// How much may wait on one shard; 0 switches a bound off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Most {
    sessions: usize,
    bytes: usize,
    /// Sessions of one participant.
    own: usize,
}

impl Most {
    /// A shard's part of what the node may keep.
    fn of(config: &HubConfig) -> Self {
        let shards = usize::from(config.shards);
        let own = match config.limits.connections_per_participant {
            0 => 0,
            connections => connections.saturating_mul(2).max(OWN_MIN) as usize,
        };
        Self { sessions: (config.limits.sessions as usize).div_ceil(shards), bytes: BYTES_MAX / shards, own }
    }
}

/// All that wait on this shard, by the connections that they had.
#[derive(Debug)]
pub(crate) struct Suspended {
    waiting: HashMap<ConnKey, Waiting, foldhash::fast::FixedState>,
    /// From when on it is counted when the buckets of rates are full.
    origin: Option<Instant>,
    /// When each is over, the first first; some are gone already.
    queue: VecDeque<(Instant, ConnKey)>,
    /// Whether an alarm is going to ring for the queue.
    is_alarm_set: bool,
    window: Duration,
    most: Most,
    /// What all of them take.
    bytes: usize,
    /// Those of each participant, the first first; of no use where they are not bounded.
    own: HashMap<Arc<str>, Vec<ConnKey>, foldhash::fast::FixedState>,
    expired: u64,
    /// See [`Lost`].
    first: Option<Instant>,
}

impl Suspended {
    pub(crate) fn new(hasher: &Hasher, config: &HubConfig) -> Self {
        Self::bounded(hasher, config.limits.resume_window_ms, Most::of(config))
    }

    fn bounded(hasher: &Hasher, window_ms: u64, most: Most) -> Self {
        Self {
            waiting: HashMap::with_hasher(hasher.0.clone()),
            origin: None,
            queue: VecDeque::new(),
            is_alarm_set: false,
            window: Duration::from_millis(window_ms),
            most,
            bytes: 0,
            own: HashMap::with_hasher(hasher.0.clone()),
            expired: 0,
            first: None,
        }
    }

    /// A time, as it is kept.
    pub(crate) fn lost(&mut self, now: Instant, at: Option<Instant>) -> Lost {
        let first = *self.first.get_or_insert(now);
        let milliseconds = |time: Duration| time.as_nanos().div_ceil(1_000_000) as i64;
        at.map_or(Lost::UNKNOWN, |at| match at.checked_duration_since(first) {
            Some(behind) => Lost(milliseconds(behind)),
            None => Lost(-(first.duration_since(at).as_millis() as i64)),
        })
    }

    /// When it was lost, or a moment later.
    pub(crate) fn lost_at(&self, waiting: &Waiting) -> Option<Instant> {
        let (first, lost) = (self.first?, waiting.lost);
        let behind = Duration::from_millis(lost.0.unsigned_abs());
        match lost {
            Lost::UNKNOWN => None,
            Lost(0..) => first.checked_add(behind),
            Lost(_) => first.checked_sub(behind),
        }
    }

    /// All of them, the one that came first at the beginning.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Waiting> {
        self.queue.iter().filter_map(|(_, session)| self.waiting.get(session))
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many nobody resumed in time, since the start.
    pub(crate) fn expired(&self) -> u64 {
        self.expired
    }

    pub(crate) fn find(&self, session: ConnKey) -> Option<&Waiting> {
        self.waiting.get(&session)
    }

    pub(crate) fn remove(&mut self, session: ConnKey) -> Option<Waiting> {
        let removed = self.take(session)?;
        // Places that were left behind must not become many more than those in use.
        if self.queue.len() > 2 * self.waiting.len() + 64 {
            self.queue.retain(|(_, key)| self.waiting.contains_key(key));
        }
        Some(removed)
    }

    fn take(&mut self, session: ConnKey) -> Option<Waiting> {
        let waiting = self.waiting.remove(&session)?;
        self.bytes -= waiting.bytes();
        if let Some(own) = self.own.get_mut(&waiting.participant) {
            own.retain(|it| *it != session);
            if own.is_empty() {
                self.own.remove(&waiting.participant);
            }
        }
        Some(waiting)
    }

    /// One more waits from now on. Whether the alarm is to be set, and for when.
    fn insert(&mut self, now: Instant, session: ConnKey, waiting: Waiting) -> Option<Instant> {
        let window = if canary::strikes(Canary::SessionOverstays) { 3 * self.window } else { self.window };
        let until = now + window;
        self.queue.push_back((until, session));
        self.bytes += waiting.bytes();
        if self.most.own > 0 {
            // Most participants have one session: room for exactly that.
            let own = self.own.entry(waiting.participant.clone()).or_insert_with(|| Vec::with_capacity(1));
            own.push(session);
        }
        self.waiting.insert(session, waiting);
        (!std::mem::replace(&mut self.is_alarm_set, true)).then_some(until)
    }

    /// How long this shard has had sessions that wait.
    pub(super) fn age(&mut self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.origin.get_or_insert(now))
    }

    /// Whether more wait than may.
    fn is_over(&self) -> bool {
        let Most { sessions, bytes, .. } = self.most;
        sessions > 0 && self.waiting.len() > sessions || bytes > 0 && self.bytes > bytes
    }

    /// One that has to go because this participant's latest came: the participant's own oldest, or the oldest of all.
    fn pop_excess(&mut self, now: Instant, participant: &str) -> Option<Waiting> {
        let own = self.own.get(participant).filter(|it| it.len() > self.most.own);
        if let Some(oldest) = own.and_then(|own| own.first().copied()) {
            self.expired += 1;
            return self.remove(oldest);
        }
        if self.is_over() { self.pop_due(now) } else { None }
    }

    /// The next one whose time is over, or that has no place any more.
    fn pop_due(&mut self, now: Instant) -> Option<Waiting> {
        while let Some((until, session)) = self.queue.front().copied() {
            if until > now && !self.is_over() && self.waiting.contains_key(&session) {
                return None;
            }
            self.queue.pop_front();
            if let Some(waiting) = self.take(session) {
                self.expired += 1;
                return Some(waiting);
            }
        }
        None
    }

    /// The alarm rang: when it is to ring again, if it is.
    fn rang(&mut self) -> Option<Instant> {
        let next = self.queue.front().map(|(until, _)| *until);
        self.is_alarm_set = next.is_some();
        next
    }
}

impl Hub {
    /// A session is without a connection from now on.
    pub(crate) fn suspend(&mut self, now: Now, session: ConnKey, mut waiting: Waiting) {
        let age = self.suspended.age(now.instant);
        waiting.kept = Kept::with_buckets(waiting.kept, |full_in| full_in + age);
        let participant = waiting.participant.clone();
        if let Some(until) = self.suspended.insert(now.instant, session, waiting) {
            self.alarms.set(until, Alarm::SessionsExpire);
        }
        // The bounds hold at once, whatever the clock says.
        while let Some(oldest) = self.suspended.pop_excess(now.instant, &participant) {
            self.end_waiting(oldest);
        }
    }

    /// Ends sessions that nobody resumed in time.
    pub(crate) fn expire_sessions(&mut self, now: Now) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some(waiting) = self.suspended.pop_due(now.instant) else { break };
            self.end_waiting(waiting);
        }
        if let Some(next) = self.suspended.rang() {
            self.alarms.set(next, Alarm::SessionsExpire);
        }
    }

    /// A session that waited is over: nothing of it is left here, and its participant's home is going to be told.
    pub(crate) fn end_waiting(&mut self, mut waiting: Waiting) {
        waiting.state.go(Happened::Expired);
        if !canary::strikes(Canary::SessionRemembered) {
            self.end_session_of(&waiting.participant, &waiting.kept, Some(waiting.tokens));
        }
    }

    /// A session is over, with all of its subscriptions.
    pub(crate) fn end_session_of(&mut self, participant: &Arc<str>, kept: &[u8], tokens: Option<Tokens>) {
        for kept in Kept::each(kept).filter(|it| !it.is_pattern) {
            self.subscription_ended(participant, kept.name);
        }
        if let Some(tokens) = tokens {
            self.end_session(participant, tokens);
        }
    }

    /// The participant's home is to forget these tokens: at once where it is here, which waits for no room.
    pub(crate) fn end_session(&mut self, participant: &Arc<str>, tokens: Tokens) {
        if self.home(self.hasher.of(&**participant)) == self.config.shard {
            return self.session_ended_at_home(participant, tokens);
        }
        self.todo.push_back(Todo::EndSession(Box::new((participant.clone(), tokens))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::token::Mint;

    const UNBOUNDED: Most = Most { sessions: 0, bytes: 0, own: 0 };

    fn of(participant: &str, channels: usize) -> Waiting {
        let tokens = Tokens { current: Mint::new(&[1; 32], 0).next(), former: None };
        let mut kept = Vec::new();
        for _ in 0..channels {
            Kept { wants_presence: true, ..Kept::of("conversation:42", false) }.write(&mut kept);
        }
        let lost = Lost::UNKNOWN;
        Waiting { participant: participant.into(), tokens, kept: kept.into(), state: State::Suspended, lost }
    }

    fn waiting() -> Waiting {
        of("ann", 0)
    }

    fn key(index: u32) -> ConnKey {
        ConnKey { index, generation: 1 }
    }

    #[test]
    fn sessions_expire_in_the_order_in_which_they_came() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut suspended = Suspended::bounded(&Hasher::new(1), 100, UNBOUNDED);
        assert_eq!(suspended.insert(at(0), key(0), waiting()), Some(at(100)));
        assert_eq!(suspended.insert(at(50), key(1), waiting()), None);
        assert!(suspended.pop_due(at(99)).is_none());
        assert!(suspended.pop_due(at(100)).is_some() && suspended.pop_due(at(100)).is_none());
        assert_eq!((suspended.len(), suspended.rang(), suspended.expired()), (1, Some(at(150)), 1));
        assert!(suspended.remove(key(1)).is_some());
        assert!(suspended.pop_due(at(500)).is_none());
        assert_eq!((suspended.len(), suspended.rang(), suspended.expired()), (0, None, 1));
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let start = Instant::now();
        let mut suspended = Suspended::bounded(&Hasher::new(1), 100, Most { sessions: 2, ..UNBOUNDED });
        (0..3).for_each(|index| {
            suspended.insert(start, key(index), waiting());
        });
        suspended.remove(key(0));
        assert!(suspended.pop_due(start).is_none(), "two may wait");
        suspended.insert(start, key(3), waiting());
        assert!(suspended.pop_due(start).is_some());
        assert!(suspended.find(key(1)).is_none() && suspended.find(key(2)).is_some());
    }

    #[test]
    fn the_oldest_go_when_they_take_too_much() {
        let start = Instant::now();
        let most = Most { bytes: 100 * SUBSCRIPTION_BYTES, ..UNBOUNDED };
        let mut suspended = Suspended::bounded(&Hasher::new(1), 100, most);
        for index in 0..1_000 {
            suspended.insert(start, key(index), of("ann", index as usize % 50));
            while suspended.pop_excess(start, "ann").is_some() {}
            let bytes: usize = suspended.waiting.values().map(Waiting::bytes).sum();
            assert!(bytes == suspended.bytes && bytes <= most.bytes, "{bytes}");
            assert!(suspended.find(key(index)).is_some(), "the latest stays");
        }
        suspended.insert(start, key(1_000), of("bob", 90));
        while suspended.pop_excess(start, "bob").is_some() {}
        assert_eq!((suspended.len(), suspended.expired()), (1, 1_000), "as many as it takes");
        suspended.remove(key(1_000));
        assert_eq!(suspended.bytes, 0);
    }

    #[test]
    fn a_participant_s_own_oldest_goes_first() {
        let start = Instant::now();
        let mut suspended = Suspended::bounded(&Hasher::new(1), 100, Most { own: 2, ..UNBOUNDED });
        suspended.insert(start, key(9), of("bob", 1));
        for index in 0..5 {
            suspended.insert(start, key(index), of("ann", 1));
            let gone = suspended.pop_excess(start, "ann");
            assert_eq!(gone.is_some(), index >= 2);
            assert!(suspended.pop_excess(start, "ann").is_none());
        }
        let left: Vec<u32> = (0..10).filter(|index| suspended.find(key(*index)).is_some()).collect();
        assert_eq!((left, suspended.expired()), (vec![3, 4, 9], 3));
        assert!([3, 4, 9].into_iter().all(|index| suspended.remove(key(index)).is_some()));
        assert!(suspended.own.is_empty());
    }

    #[test]
    fn places_left_behind_are_given_back() {
        let mut suspended = Suspended::bounded(&Hasher::new(1), 100, UNBOUNDED);
        let start = Instant::now();
        for index in 0..100_000 {
            suspended.insert(start, key(index), waiting());
            suspended.remove(key(index));
        }
        assert!(suspended.queue.len() <= 64, "{}", suspended.queue.len());
    }

    #[test]
    fn when_a_session_was_lost_comes_back() {
        let mut suspended = Suspended::bounded(&Hasher::new(1), 100, UNBOUNDED);
        let start = Instant::now() + Duration::from_secs(1_000);
        for (micros, is_earlier) in [(0, false), (1_500, false), (2_000_000, false), (1_500, true)] {
            let offset = Duration::from_micros(micros);
            let at = if is_earlier { start - offset } else { start + offset };
            let lost = suspended.lost(start, Some(at));
            let back = suspended.lost_at(&Waiting { lost, ..waiting() }).expect("it is known");
            assert!(back >= at && back < at + Duration::from_millis(1), "{micros} {is_earlier}");
        }
        assert_eq!(suspended.lost(start, None), Lost::UNKNOWN);
        assert_eq!(suspended.lost_at(&waiting()), None);
    }

    #[test]
    fn a_waiting_session_is_small() {
        let entry = size_of::<(ConnKey, Waiting)>();
        assert!(entry <= 88, "{entry}");
    }
}
