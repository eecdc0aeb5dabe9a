//! Who is present in the channels whose home is here: members with the number of shards they are on, what changed
//! since watchers were told last, and who types.
//!
//! Everything costs O(log n) for n members, but answers and events, whose size is bounded. Nothing here knows how
//! events are written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::effect::ShardSet;
use crate::presence::changes::Changes;
use crate::presence::log::Log;
use crate::presence::members::Members;
use crate::presence::names::Names;
use crate::presence::typing::Typing;
use crate::registry::{Named, Registry};

/// Changes of a channel are told at most so often.
pub(crate) const WINDOW: Duration = Duration::from_millis(250);
/// More changes at once are told as counts.
pub(crate) const NAMED_MAX: usize = 100;
/// And such whose names have more bytes together.
const NAMED_BYTES_MAX: usize = 8 * 1024;

/// How much names take in an event.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    names: usize,
    bytes: usize,
}

impl Size {
    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        names.fold(Self::default(), |size, name| size.with(Self { names: 1, bytes: name.len() }))
    }

    fn with(self, other: Self) -> Self {
        Self { names: self.names + other.names, bytes: self.bytes + other.bytes }
    }

    /// Whether one event may list them.
    fn is_short(self) -> bool {
        self.names <= NAMED_MAX && self.bytes <= NAMED_BYTES_MAX
    }
}

/// A channel that somebody is present in or wants to hear of.
#[derive(Debug)]
struct Channel {
    name: Box<str>,
    hash: u64,
    members: Members,
    /// All subscriptions of all members.
    connections: u32,
    extras: Option<Box<Extras>>,
}

/// What few channels have.
#[derive(Debug, Default)]
struct Extras {
    /// Members beyond the limit, by hash: they are only counted until somebody listed leaves.
    unlisted: BTreeMap<u64, (u8, Box<str>)>,
    /// The limit, as it was told with the last of them.
    listed_max: usize,
    /// Shards with watchers.
    watchers: ShardSet,
    /// Empty while there are no watchers.
    changes: Changes,
    /// When `changes` is to be told.
    flush_at: Option<Instant>,
    typing: Typing,
    /// When the alarm for `typing` comes.
    typing_at: Option<Instant>,
    /// What changed lately, while somebody watches or may come back to that.
    log: Option<Box<Log>>,
}

impl Extras {
    fn is_empty(&self) -> bool {
        self.is_quiet() && self.log.is_none()
    }

    /// Whether nothing is left but what changed lately.
    fn is_quiet(&self) -> bool {
        self.unlisted.is_empty() && self.watchers.is_empty() && self.typing.is_empty()
    }
}

impl Named for Channel {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Channel {
    fn count(&self) -> u64 {
        let unlisted = self.extras.as_ref().map_or(0, |extras| extras.unlisted.len());
        (self.members.len() + unlisted) as u64
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    fn is_only_log(&self) -> bool {
        self.members.is_empty() && self.extras.as_ref().is_some_and(|extras| extras.is_quiet())
    }
}

/// What changed for a participant on one shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) channel: &'a str,
    pub(crate) participant: &'a str,
    /// Of `participant`.
    pub(crate) who: u64,
    /// Its subscriptions on that shard.
    pub(crate) before: u32,
    pub(crate) connections: u32,
}

/// Something is to be done for the channel of this slot at this time.
pub(crate) type Due = (u32, Instant);

/// What watchers are to be told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) channel: Box<str>,
    pub(crate) shards: ShardSet,
    pub(crate) count: u64,
    /// Lists for [`Names`]; empty where there are too many or one that has no name here.
    pub(crate) joined: Vec<u8>,
    pub(crate) left: Vec<u8>,
    /// How many, where they are not listed.
    pub(crate) counts: Option<(u32, u32)>,
}

/// One page of members.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) count: u64,
    /// Lists for [`Names`].
    pub(crate) members: Vec<u8>,
    pub(crate) typing: Vec<u8>,
    pub(crate) has_more: bool,
}

/// All channels whose home is here.
#[derive(Debug)]
pub(crate) struct Home {
    channels: Registry<Channel>,
    /// Channels in which somebody types: while there are none, publishes have nothing to clear.
    typing: usize,
    logs: Logs,
}

impl Home {
    /// What changed is known for so long to those who come back; not at all if that is nothing.
    pub(crate) fn new(reach: Duration) -> Self {
        Self { channels: Registry::new(), typing: 0, logs: Logs::new(reach) }
    }

    fn find_or_insert(&mut self, hash: u64, name: &str) -> u32 {
        if let Some(slot) = self.channels.find(hash, name) {
            return slot;
        }
        let (name, members) = (name.into(), Members::new());
        self.channels.insert(hash, Channel { name, hash, members, connections: 0, extras: None })
    }

    fn at(&mut self, slot: u32) -> &mut Channel {
        self.channels.get_mut(slot).expect("slots are of channels that exist")
    }

    fn forget_if_empty(&mut self, slot: u32) {
        let channel = self.at(slot);
        if channel.extras.as_ref().is_some_and(|extras| extras.is_empty()) {
            channel.extras = None;
        }
        if channel.members.is_empty() && channel.extras.is_none() {
            let hash = channel.hash;
            self.channels.remove(hash, slot);
        }
    }

    /// A shard tells of a participant. Beyond `listed_max` members are counted, not listed. When watchers are to be
    /// told, if nobody knows that yet.
    pub(crate) fn change(
        &mut self,
        hash: u64,
        it: &Change<'_>,
        listed_max: usize,
        now: Instant,
    ) -> Option<Due> {
        let slot = self.find_or_insert(hash, it.channel);
        let channel = self.at(slot);
        channel.connections = (channel.connections + it.connections).saturating_sub(it.before);
        let crossed = match (it.before, it.connections) {
            (0, 1..) => channel.arrive(it, listed_max),
            (1.., 0) => channel.depart(it),
            _ => None,
        };
        let due = crossed.and_then(|kept| channel.changed(it, kept, now));
        if let Some(kept) = crossed {
            self.log_crossing(slot, (it.participant, kept), now);
        }
        if crossed.is_some() && it.connections == 0 {
            self.clear_typing(slot, it.participant);
            self.promote_unless_watched(slot, now);
        }
        self.forget_if_empty(slot);
        due.map(|at| (slot, at))
    }

    /// A shard has somebody who wants to hear of changes.
    pub(crate) fn watch(&mut self, hash: u64, name: &str, shard: u16, now: Instant) {
        let slot = self.find_or_insert(hash, name);
        self.at(slot).extras().watchers.insert(shard);
        self.begin_log(slot, now);
    }

    /// It has nobody left. When to look after what is kept for who may come back, if nobody knows that yet.
    pub(crate) fn unwatch(&mut self, hash: u64, name: &str, shard: u16, now: Instant) -> Option<Instant> {
        let slot = self.channels.find(hash, name)?;
        let mut is_last = false;
        if let Some(extras) = &mut self.at(slot).extras {
            extras.watchers.remove(shard);
            is_last = extras.watchers.is_empty();
            // The flush comes anyway: it may have somebody left to list.
            if is_last {
                extras.changes.clear();
            }
        }
        let due = if is_last { self.keep_log(slot, now) } else { None };
        self.promote_unless_watched(slot, now);
        self.forget_if_empty(slot);
        due
    }

    /// What the watchers of this slot's channel are to be told now, if anything is due. And when more is.
    pub(crate) fn flush(&mut self, slot: u32, now: Instant) -> (Option<Told>, Option<Due>) {
        let Some(channel) = self.channels.get_mut(slot) else { return (None, None) };
        let Some(extras) = &mut channel.extras else { return (None, None) };
        // Another channel's slot by now, or told already.
        if extras.flush_at.take_if(|at| *at <= now).is_none() {
            return (None, None);
        }
        let (told, promoted) = channel.tell();
        self.log_named(slot, &promoted, now);
        let channel = self.at(slot);
        let due = channel.goes_on_promoting(now).map(|at| (slot, at));
        self.forget_if_empty(slot);
        (told, due)
    }

    /// Who is only counted is listed where there is room now. Watchers hear of it with what made the room.
    fn promote_unless_watched(&mut self, slot: u32, now: Instant) {
        let channel = self.at(slot);
        if channel.extras.as_ref().is_some_and(|extras| extras.watchers.is_empty()) {
            let promoted = channel.promote();
            self.log_named(slot, &promoted, now);
        }
    }

    /// Members behind `after`: at most so many, and no more when their names have so many bytes. And who types.
    pub(crate) fn page(
        &mut self,
        hash: u64,
        name: &str,
        after: Option<&str>,
        (names_max, bytes_max): (usize, usize),
    ) -> Page {
        let mut page = Page { count: self.count(hash, name), ..Page::default() };
        let found = self.channels.find(hash, name).and_then(|slot| self.channels.get(slot));
        let Some(channel) = found else { return page };
        if let Some(extras) = &channel.extras {
            for name in extras.typing.names().take(NAMED_MAX) {
                Names::push(&mut page.typing, name);
            }
        }
        let mut members = channel.members.behind(after);
        for name in members.by_ref().take(names_max) {
            Names::push(&mut page.members, name);
            if page.members.len() >= bytes_max {
                break;
            }
        }
        page.has_more = members.next().is_some();
        page
    }

    /// How many members there are.
    pub(crate) fn count(&mut self, hash: u64, name: &str) -> u64 {
        let found = self.channels.find(hash, name).and_then(|slot| self.channels.get_mut(slot));
        found.map_or(0, |channel| {
            if let Some(extras) = &mut channel.extras {
                extras.changes.seen();
            }
            channel.count()
        })
    }

    /// How many members there are, and how many subscriptions they have.
    pub(crate) fn stats(&mut self, hash: u64, name: &str) -> (u64, u64) {
        let count = self.count(hash, name);
        let found = self.channels.find(hash, name).and_then(|slot| self.channels.get(slot));
        (count, found.map_or(0, |channel| u64::from(channel.connections)))
    }

    /// Whether anybody types anywhere here.
    pub(crate) fn is_typing(&self) -> bool {
        self.typing > 0
    }

    /// A member types. When that is over, if nobody knows that yet.
    pub(crate) fn typed(&mut self, hash: u64, name: &str, participant: &str, now: Instant) -> Option<Due> {
        let slot = self.channels.find(hash, name)?;
        let channel = self.at(slot);
        if !channel.members.contains(participant) {
            return None;
        }
        let extras = channel.extras();
        let was_typing = !extras.typing.is_empty();
        extras.typing.mark(participant, now);
        let due = extras.alarm_typing();
        self.typing += usize::from(!was_typing);
        due.map(|at| (slot, at))
    }

    /// A participant published something else.
    pub(crate) fn wrote(&mut self, hash: u64, name: &str, participant: &str) {
        if let Some(slot) = self.channels.find(hash, name) {
            self.clear_typing(slot, participant);
            self.forget_if_empty(slot);
        }
    }

    fn clear_typing(&mut self, slot: u32, participant: &str) {
        let Some(extras) = &mut self.at(slot).extras else { return };
        if extras.typing.clear(participant) && extras.typing.is_empty() {
            self.typing -= 1;
        }
    }

    /// Who has typed for too long in this slot's channel: what its watchers are to be told, in `left`. And when the
    /// next one has.
    pub(crate) fn expire_typing(&mut self, slot: u32, now: Instant) -> (Option<Told>, Option<Due>) {
        let Some(channel) = self.channels.get_mut(slot) else { return (None, None) };
        let count = channel.count();
        let Some(extras) = &mut channel.extras else { return (None, None) };
        if extras.typing_at.take_if(|at| *at <= now).is_none() {
            return (None, None);
        }
        let was_typing = !extras.typing.is_empty();
        let mut told =
            Told { shards: extras.watchers, count, channel: (&*channel.name).into(), ..Told::default() };
        let mut named = 0;
        while named < NAMED_MAX
            && told.left.len() < NAMED_BYTES_MAX
            && let Some(name) = extras.typing.expire(now)
        {
            Names::push(&mut told.left, &name);
            named += 1;
        }
        let due = extras.alarm_typing().map(|at| (slot, at));
        if was_typing && extras.typing.is_empty() {
            self.typing -= 1;
        }
        self.forget_if_empty(slot);
        ((named > 0).then_some(told), due)
    }

    /// Whether nothing is left but what is kept for a while for those who may come back.
    pub(crate) fn is_empty(&self) -> bool {
        self.channels.iter().all(Channel::is_only_log)
    }
}

/// What is kept of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    Name,
    Hash,
}

impl Channel {
    /// Somebody is on one more shard; what is kept of who was on none.
    fn arrive(&mut self, it: &Change<'_>, listed_max: usize) -> Option<Kept> {
        if let Some(shards) = self.members.find_mut(it.participant) {
            *shards += 1;
            return None;
        }
        if let Some((shards, _)) = self.extras.as_mut().and_then(|extras| extras.unlisted.get_mut(&it.who)) {
            *shards += 1;
            return None;
        }
        if self.members.len() < listed_max {
            self.members.insert(it.participant);
            return Some(Kept::Name);
        }
        let extras = self.extras();
        extras.unlisted.insert(it.who, (1, it.participant.into()));
        extras.listed_max = listed_max;
        Some(Kept::Hash)
    }

    /// Somebody is on one shard less; what was kept of who is on none.
    fn depart(&mut self, it: &Change<'_>) -> Option<Kept> {
        if let Some(shards) = self.members.find_mut(it.participant) {
            *shards -= 1;
            if *shards > 0 {
                return None;
            }
            self.members.remove(it.participant);
            return Some(Kept::Name);
        }
        let extras = self.extras.as_mut()?;
        let (shards, _) = extras.unlisted.get_mut(&it.who)?;
        *shards -= 1;
        if *shards > 0 {
            return None;
        }
        extras.unlisted.remove(&it.who);
        Some(Kept::Hash)
    }

    /// What changed since watchers were told last, and who is listed only now.
    fn tell(&mut self) -> (Option<Told>, Vec<Box<str>>) {
        let Some(extras) = &mut self.extras else { return (None, Vec::new()) };
        let mut told = Told { shards: extras.watchers, ..Told::default() };
        let changes = std::mem::take(&mut extras.changes);
        let (mut joined, mut left) = (0, 0);
        let size = Size::of(changes.listed());
        let has_names = changes.unlisted().len() == 0 && size.is_short();
        for name in changes.listed() {
            let is_member = self.members.contains(name);
            let (count, names) =
                if is_member { (&mut joined, &mut told.joined) } else { (&mut left, &mut told.left) };
            *count += 1;
            if has_names {
                Names::push(names, name);
            }
        }
        for who in changes.unlisted() {
            let is_member = extras.unlisted.contains_key(&who);
            *(if is_member { &mut joined } else { &mut left }) += 1;
        }
        // They were members before: they are named, and not counted again.
        let promoted = self.promote();
        if told.shards.is_empty() || changes.is_empty() && promoted.is_empty() {
            return (None, promoted);
        }
        if has_names && size.with(Size::of(promoted.iter().map(|name| &**name))).is_short() {
            promoted.iter().for_each(|name| Names::push(&mut told.joined, name));
        } else {
            (told.joined, told.left) = (Vec::new(), Vec::new());
            told.counts = Some((joined, left));
        }
        told.count = self.count();
        told.channel = (&*self.name).into();
        (Some(told), promoted)
    }

    /// Lists members that were only counted where there is room, as many as one event may name: their names. Whoever
    /// made room for thousands at once does not stop the shard for all of them.
    fn promote(&mut self) -> Vec<Box<str>> {
        let (mut promoted, mut size) = (Vec::new(), Size::default());
        let Some(extras) = &mut self.extras else { return promoted };
        while self.members.len() < extras.listed_max
            && let Some(next) = extras.unlisted.first_entry()
        {
            size = size.with(Size { names: 1, bytes: next.get().1.len() });
            if !size.is_short() {
                break;
            }
            let (shards, name) = next.remove();
            self.members.insert(&name);
            *self.members.find_mut(&name).expect("it was inserted") = shards;
            promoted.push(name);
        }
        promoted
    }

    /// When the next of those who are only counted are listed, if there is room and nobody knows that yet.
    fn goes_on_promoting(&mut self, now: Instant) -> Option<Instant> {
        let extras = self.extras.as_mut()?;
        let has_room = self.members.len() < extras.listed_max && !extras.unlisted.is_empty();
        if !has_room || extras.flush_at.is_some() {
            return None;
        }
        extras.flush_at = Some(now + WINDOW);
        extras.flush_at
    }

    /// Notes a change for the watchers. When they are to be told, if nobody knows that yet.
    fn changed(&mut self, it: &Change<'_>, kept: Kept, now: Instant) -> Option<Instant> {
        let extras = self.extras.as_mut().filter(|extras| !extras.watchers.is_empty())?;
        match kept {
            Kept::Name => extras.changes.note(it.participant),
            Kept::Hash => extras.changes.note_unlisted(it.who),
        }
        if extras.flush_at.is_some() {
            return None;
        }
        extras.flush_at = Some(now + WINDOW);
        extras.flush_at
    }
}

impl Extras {
    /// When the next one has typed for too long, if nobody knows that yet.
    fn alarm_typing(&mut self) -> Option<Instant> {
        if self.typing_at.is_some() {
            return None;
        }
        self.typing_at = self.typing.deadline();
        self.typing_at
    }
}

mod missed;

use missed::Logs;

#[cfg(test)]
mod tests;
