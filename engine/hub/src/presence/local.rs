//! A shard's own view of presence: which participants have subscriptions to which channels here, and which
//! connections want to hear of changes.
//!
//! A table of its own, apart from the channels', because a participant stays present while its session is suspended.
//! What homes believe follows with a delay: a change is a mark, settled later, and what is back as it was by then is
//! told to nobody.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::config::Hasher;
use crate::effect::ConnKey;
use crate::format::Format;
use crate::registry::{Named, Registry};

/// So long a participant stays whose session goes on elsewhere: until it is known to be there, nobody sees it leave.
const LINGER: Duration = Duration::from_secs(2);

/// More than these leave at once: if they come back within a moment their home tells nobody.
const LINGERING_MAX: usize = 65_536;

/// Participants that one look takes out: the rest follows at once, when others had their turn.
const LET_GO_AT_ONCE: usize = 256;

/// A participant with subscriptions to a channel.
#[derive(Debug)]
struct Present {
    /// Channel and participant with a space between them: neither holds any.
    key: Box<str>,
    hash: u64,
    /// Subscriptions, and how many the home knows of.
    count: u32,
    told: u32,
    is_dirty: bool,
}

impl Named for Present {
    fn name(&self) -> &str {
        &self.key
    }
}

/// A channel with connections that want to hear who comes and goes.
#[derive(Debug)]
struct Watched {
    name: Box<str>,
    hash: u64,
    watchers: HashMap<ConnKey, Watcher, foldhash::fast::FixedState>,
    is_dirty: bool,
}

impl Named for Watched {
    fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Clone, Copy, Debug)]
struct Watcher {
    format: Format,
    /// From `subscribed` on.
    is_active: bool,
}

#[derive(Clone, Copy, Debug)]
enum Dirty {
    Present(u32),
    Watched(u32),
}

/// What a home is to be told.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// A participant has so many subscriptions here, and had so many when it was told last.
    Present { key: Box<str>, before: u32, connections: u32 },
    /// Nobody here wants to hear of the channel's members any more.
    Unwatched { channel: Box<str>, hash: u64 },
}

/// Channel and participant of a key.
pub(crate) fn parts(key: &str) -> (&str, &str) {
    key.split_once(' ').expect("a key has two parts")
}

/// What one shard knows.
#[derive(Debug)]
pub(crate) struct Local {
    present: Registry<Present>,
    watched: Registry<Watched>,
    dirty: VecDeque<Dirty>,
    /// Keys of those who stay for a moment, and until when: all stay equally long.
    lingering: VecDeque<(Instant, Box<str>)>,
    /// Reused.
    key: String,
    hasher: Hasher,
}

impl Local {
    pub(crate) fn new(hasher: Hasher) -> Self {
        Self {
            present: Registry::new(),
            watched: Registry::new(),
            dirty: VecDeque::new(),
            lingering: VecDeque::new(),
            key: String::new(),
            hasher,
        }
    }

    fn find(&mut self, channel: &str, participant: &str) -> (u64, Option<u32>) {
        self.key.clear();
        self.key.push_str(channel);
        self.key.push(' ');
        self.key.push_str(participant);
        let hash = self.hasher.of(&*self.key);
        (hash, self.present.find(hash, &self.key))
    }

    /// One more subscription.
    pub(crate) fn enter(&mut self, channel: &str, participant: &str) {
        let slot = match self.find(channel, participant) {
            (_, Some(slot)) => slot,
            (hash, None) => {
                let key = self.key.as_str().into();
                self.present.insert(hash, Present { key, hash, count: 0, told: 0, is_dirty: false })
            }
        };
        self.change(slot, |count| count + 1);
    }

    /// One subscription less.
    pub(crate) fn exit(&mut self, channel: &str, participant: &str) {
        let (_, slot) = self.find(channel, participant);
        debug_assert!(slot.is_some(), "who leaves has come");
        if let Some(slot) = slot {
            self.change(slot, |count| count.saturating_sub(1));
        }
    }

    /// One subscription less in a moment, because it goes on elsewhere. When that is, if nobody knows that yet.
    pub(crate) fn exit_later(&mut self, channel: &str, participant: &str, now: Instant) -> Option<Instant> {
        if self.lingering.len() >= LINGERING_MAX {
            self.exit(channel, participant);
            return None;
        }
        let until = now + LINGER;
        self.lingering.push_back((until, format!("{channel} {participant}").into()));
        (self.lingering.len() == 1).then_some(until)
    }

    /// Who has stayed for long enough goes. When the next one has.
    pub(crate) fn let_go(&mut self, now: Instant) -> Option<Instant> {
        for _ in 0..LET_GO_AT_ONCE {
            if self.lingering.front().is_none_or(|(until, _)| *until > now) {
                break;
            }
            let (_, key) = self.lingering.pop_front()?;
            let (channel, participant) = parts(&key);
            self.exit(channel, participant);
        }
        self.lingering.front().map(|(until, _)| *until)
    }

    fn change(&mut self, slot: u32, to: impl FnOnce(u32) -> u32) {
        let Some(present) = self.present.get_mut(slot) else { return };
        present.count = to(present.count);
        if !present.is_dirty {
            present.is_dirty = true;
            self.dirty.push_back(Dirty::Present(slot));
        }
    }

    /// A connection wants to hear of the channel's members, from the home's answer on.
    pub(crate) fn watch(&mut self, hash: u64, channel: &str, conn: ConnKey, format: Format) {
        let slot = match self.watched.find(hash, channel) {
            Some(slot) => slot,
            None => {
                let watchers = HashMap::with_hasher(self.hasher.0.clone());
                let watched = Watched { name: channel.into(), hash, watchers, is_dirty: false };
                self.watched.insert(hash, watched)
            }
        };
        let watched = self.watched.get_mut(slot).expect("it was found or inserted");
        watched.watchers.entry(conn).or_insert(Watcher { format, is_active: false });
    }

    /// Whether anybody wants to hear of anything.
    pub(crate) fn has_watchers(&self) -> bool {
        !self.watched.is_empty()
    }

    /// The home has answered.
    pub(crate) fn activate(&mut self, hash: u64, channel: &str, conn: ConnKey) {
        let slot = self.watched.find(hash, channel);
        let watched = slot.and_then(|slot| self.watched.get_mut(slot));
        if let Some(watcher) = watched.and_then(|watched| watched.watchers.get_mut(&conn)) {
            watcher.is_active = true;
        }
    }

    /// A connection does not want to hear any more, if it did.
    pub(crate) fn unwatch(&mut self, hash: u64, channel: &str, conn: ConnKey) {
        let Some(slot) = self.watched.find(hash, channel) else { return };
        let Some(watched) = self.watched.get_mut(slot) else { return };
        watched.watchers.remove(&conn);
        if watched.watchers.is_empty() && !watched.is_dirty {
            watched.is_dirty = true;
            self.dirty.push_back(Dirty::Watched(slot));
        }
    }

    /// Whether a connection hears of the channel's members, or is going to.
    pub(crate) fn watches(&self, hash: u64, channel: &str, conn: ConnKey) -> bool {
        let slot = self.watched.find(hash, channel);
        slot.and_then(|slot| self.watched.get(slot)).is_some_and(|it| it.watchers.contains_key(&conn))
    }

    /// Who hears of the channel's members, in this encoding.
    pub(crate) fn watchers(
        &self,
        hash: u64,
        channel: &str,
        format: Format,
    ) -> impl Iterator<Item = ConnKey> + '_ {
        let slot = self.watched.find(hash, channel);
        let watched = slot.and_then(|slot| self.watched.get(slot));
        let all = watched.into_iter().flat_map(|watched| &watched.watchers);
        all.filter(move |(_, it)| it.is_active && it.format == format).map(|(conn, _)| *conn)
    }

    /// Looks at the next mark: what is to be told, if anything is.
    pub(crate) fn settle_one(&mut self) -> Option<Option<News>> {
        match self.dirty.pop_front()? {
            Dirty::Present(slot) => Some(self.settle_present(slot)),
            Dirty::Watched(slot) => Some(self.settle_watched(slot)),
        }
    }

    fn settle_present(&mut self, slot: u32) -> Option<News> {
        let present = self.present.get_mut(slot)?;
        present.is_dirty = false;
        let (before, connections) = (present.told, present.count);
        present.told = connections;
        let hash = present.hash;
        let key = if connections == 0 {
            self.present.remove(hash, slot)?.key
        } else if before == connections {
            return None;
        } else {
            present.key.clone()
        };
        (before != connections).then_some(News::Present { key, before, connections })
    }

    fn settle_watched(&mut self, slot: u32) -> Option<News> {
        let watched = self.watched.get_mut(slot)?;
        watched.is_dirty = false;
        // Somebody may have come back meanwhile: then the home's interest stays right as it is.
        if !watched.watchers.is_empty() {
            return None;
        }
        let hash = watched.hash;
        self.watched.remove(hash, slot).map(|watched| News::Unwatched { channel: watched.name, hash })
    }

    /// Whether marks are left.
    pub(crate) fn has_news(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.present.is_empty()
            && self.watched.is_empty()
            && self.dirty.is_empty()
            && self.lingering.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(local: &mut Local) -> Vec<(String, u32, u32)> {
        let mut all = Vec::new();
        while let Some(settled) = local.settle_one() {
            all.extend(settled.map(|news| match news {
                News::Present { key, before, connections } => (key.into(), before, connections),
                News::Unwatched { channel, .. } => (format!("-{channel}"), 0, 0),
            }));
        }
        all
    }

    fn told(key: &str, before: u32, connections: u32) -> (String, u32, u32) {
        (key.to_owned(), before, connections)
    }

    #[test]
    fn what_cancels_out_is_told_to_nobody() {
        let mut local = Local::new(Hasher::new(1));
        local.enter("room:1", "ann");
        local.enter("room:1", "ann");
        local.enter("room:2", "ann");
        assert_eq!(news(&mut local), [told("room:1 ann", 0, 2), told("room:2 ann", 0, 1)]);
        local.exit("room:1", "ann");
        local.exit("room:2", "ann");
        local.enter("room:2", "ann");
        assert_eq!(news(&mut local), [told("room:1 ann", 2, 1)]);
        local.enter("room:3", "bob");
        local.exit("room:3", "bob");
        local.exit("room:1", "ann");
        local.exit("room:2", "ann");
        assert_eq!(news(&mut local), [told("room:1 ann", 1, 0), told("room:2 ann", 1, 0)]);
        assert!(local.is_empty());
    }

    #[test]
    fn who_goes_on_elsewhere_stays_for_a_moment() {
        let (mut local, now) = (Local::new(Hasher::new(1)), Instant::now());
        ["ann", "bob"].into_iter().for_each(|name| local.enter("room:1", name));
        assert_eq!(news(&mut local), [told("room:1 ann", 0, 1), told("room:1 bob", 0, 1)]);
        let until = local.exit_later("room:1", "ann", now);
        let later = now + Duration::from_secs(1);
        assert_eq!((until, local.exit_later("room:1", "bob", later)), (Some(now + LINGER), None));
        assert_eq!((local.let_go(now), news(&mut local)), (until, vec![]));
        local.enter("room:1", "ann");
        assert_eq!(local.let_go(now + LINGER), Some(later + LINGER));
        assert_eq!(news(&mut local), [], "ann is back here");
        assert_eq!((local.let_go(later + LINGER), news(&mut local)), (None, vec![told("room:1 bob", 1, 0)]));
        local.exit("room:1", "ann");
        assert_eq!(news(&mut local), [told("room:1 ann", 1, 0)]);
        assert!(local.is_empty());
    }

    #[test]
    fn watchers_hear_from_the_answer_on_and_the_last_one_is_told_of() {
        let mut local = Local::new(Hasher::new(1));
        let conn = |index| ConnKey { index, generation: 1 };
        let heard = |local: &Local, format| local.watchers(7, "room:1", format).collect::<Vec<_>>();
        local.watch(7, "room:1", conn(1), Format::Json);
        local.watch(7, "room:1", conn(2), Format::MessagePack);
        assert_eq!(heard(&local, Format::Json), []);
        local.activate(7, "room:1", conn(1));
        local.activate(7, "room:1", conn(2));
        local.watch(7, "room:1", conn(1), Format::Json);
        assert_eq!(heard(&local, Format::Json), [conn(1)], "asking twice takes nothing back");
        assert_eq!(heard(&local, Format::MessagePack), [conn(2)]);
        local.unwatch(7, "room:1", conn(1));
        local.unwatch(7, "room:1", conn(3));
        assert_eq!(news(&mut local), []);
        local.unwatch(7, "room:1", conn(2));
        local.watch(7, "room:1", conn(3), Format::Json);
        assert_eq!(news(&mut local), [], "somebody came back");
        local.unwatch(7, "room:1", conn(3));
        assert_eq!(news(&mut local), [told("-room:1", 0, 0)]);
        assert!(local.is_empty());
    }
}
