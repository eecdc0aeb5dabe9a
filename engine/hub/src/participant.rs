//! Participants: their connections on this shard, and, at their home, how many they have and where, and their inbox.
//!
//! A participant is forgotten at its home with its last connection, unless something of its inbox is kept. Of those
//! who have nothing but an inbox, the ones that were used longest ago are forgotten beyond a bound.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;

use crate::config::Hasher;
use crate::effect::ConnKey;
use crate::format::{FORMATS, Format, PerFormat, Wanted};
use crate::history::{Bounds, History, Kept};
use crate::home::Random;
use crate::inbox::Begin;
use crate::order::Order;
use crate::registry::{Named, Registry};
use crate::remote::Epoch;

/// A participant with connections on this shard.
#[derive(Debug)]
struct LocalParticipant {
    name: Arc<str>,
    conns: Vec<ConnKey>,
}

impl Named for LocalParticipant {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Participants without connections whose inboxes a home remembers; about 200 bytes each, and what is in them.
pub(crate) const IDLE_INBOXES: usize = 65_536;

/// Looks in which all inboxes are looked through.
const SWEEPS: usize = 256;

/// A participant at its home.
#[derive(Debug)]
pub(crate) struct HomeParticipant {
    name: Box<str>,
    hash: u64,
    /// Of the inbox; it ends when nobody is connected and nothing is kept.
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
    /// Sessions, with and without a connection: while there are any, the participant is remembered.
    sessions: u32,
    /// Connections per shard and encoding.
    counts: Vec<(u16, PerFormat<u32>)>,
    /// The latest messages; none where there are none.
    inbox: Option<Box<History>>,
    /// What is kept behind this offset came while nobody was connected, and no connection is known to have got it.
    unseen: Option<u64>,
}

/// An inbox, to be moved elsewhere.
pub(crate) struct Inbox<'a> {
    pub(crate) name: &'a str,
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
    pub(crate) unseen: u64,
    pub(crate) kept: Option<&'a History>,
}

impl Named for HomeParticipant {
    fn name(&self) -> &str {
        &self.name
    }
}

impl HomeParticipant {
    pub(crate) fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for (shard, counts) in &self.counts {
            for format in FORMATS {
                if *counts.of(format) > 0 {
                    wanted.insert(*shard, format);
                }
            }
        }
        wanted
    }

    /// Whether nobody would miss it but for its inbox.
    fn is_idle(&self) -> bool {
        self.counts.is_empty() && self.sessions == 0
    }

    /// Where the next connection begins to read: nothing of what was kept for it may be passed over.
    pub(crate) fn unseen(&self) -> Option<(Epoch, u64)> {
        let first = self.inbox.as_ref().map_or(self.offset + 1, |inbox| inbox.first());
        let after = self.unseen?.max(first - 1);
        (after < self.offset).then_some((self.epoch, after))
    }

    /// What is kept, and where it begins.
    pub(crate) fn inbox(&self) -> Option<&History> {
        self.inbox.as_deref()
    }

    fn total(&self) -> u32 {
        self.counts.iter().map(|(_, counts)| counts.json + counts.msgpack).sum()
    }
}

/// Participants and addresses, local and at home.
#[derive(Debug)]
pub(crate) struct Participants {
    local: Registry<LocalParticipant>,
    home: Registry<HomeParticipant>,
    ips: HashMap<IpAddr, u32, foldhash::fast::FixedState>,
    epochs: Random,
    /// Those at home who have nothing but an inbox, by its last use.
    idle: Order,
    /// Those at home with something in their inbox, by its latest message; and what all of it takes.
    remembering: Order,
    inbox_bytes: usize,
    /// Up to which slot inboxes were looked through.
    swept: u32,
}

impl Participants {
    pub(crate) fn new(hasher: &Hasher, epochs: Random) -> Self {
        Self {
            local: Registry::new(),
            home: Registry::new(),
            ips: HashMap::with_hasher(hasher.0.clone()),
            epochs,
            idle: Order::new(),
            remembering: Order::new(),
            inbox_bytes: 0,
            swept: 0,
        }
    }

    /// One more connection here: its place among the participant's.
    pub(crate) fn arrive(&mut self, hash: u64, name: &Arc<str>, conn: ConnKey) -> u32 {
        let Some(index) = self.local.find(hash, name) else {
            // Most participants have one connection: room for exactly that.
            self.local.insert(hash, LocalParticipant { name: name.clone(), conns: vec![conn] });
            return 0;
        };
        let conns = &mut self.local.get_mut(index).expect("it was found").conns;
        conns.push(conn);
        (conns.len() - 1) as u32
    }

    /// The connection at `place` is gone; which other connection is there now, if any.
    pub(crate) fn depart(&mut self, hash: u64, name: &str, place: u32) -> Option<ConnKey> {
        let index = self.local.find(hash, name)?;
        let conns = &mut self.local.get_mut(index)?.conns;
        conns.swap_remove(place as usize);
        if conns.is_empty() {
            self.local.remove(hash, index);
            return None;
        }
        conns.get(place as usize).copied()
    }

    /// The participant's connections on this shard.
    pub(crate) fn conns(&self, hash: u64, name: &str) -> &[ConnKey] {
        self.local.find(hash, name).and_then(|index| self.local.get(index)).map_or(&[], |it| &it.conns)
    }

    /// At its home: one more connection, unless that is over `limit` (0 for none); if it is admitted, how its inbox
    /// begins.
    pub(crate) fn admit(
        &mut self,
        hash: u64,
        name: &str,
        (shard, format): (u16, Format),
        (limit, resumes): (u32, bool),
        now: Instant,
    ) -> Option<Begin> {
        let index = self.home.find(hash, name).unwrap_or_else(|| self.begin(hash, name));
        self.expire(index, now);
        let participant = self.at(index);
        if limit > 0 && participant.total() >= limit {
            return None;
        }
        // Whoever has a session that waits is likely to resume it, from a position that is not known yet.
        let is_held = resumes || participant.sessions > participant.total();
        let is_alone = participant.counts.is_empty();
        match participant.counts.iter_mut().find(|(it, _)| *it == shard) {
            Some((_, counts)) => *counts.of_mut(format) += 1,
            None => participant.counts.push((shard, one(format))),
        }
        let mut unseen = participant.unseen();
        if is_held {
            unseen = unseen.or(Some((participant.epoch, participant.offset)));
        }
        if !is_held {
            participant.unseen = participant.unseen.filter(|_| unseen.is_some());
        } else if is_alone {
            participant.unseen.get_or_insert(participant.offset);
        }
        self.idle.remove(index);
        Some(Begin { unseen, is_held })
    }

    /// A participant of whom nothing was known, with an empty inbox.
    fn begin(&mut self, hash: u64, name: &str) -> u32 {
        let participant = HomeParticipant {
            name: name.into(),
            hash,
            epoch: Epoch::new(self.epochs.next()),
            offset: 0,
            counts: Vec::new(),
            inbox: None,
            unseen: None,
            sessions: 0,
        };
        self.home.insert(hash, participant)
    }

    fn at(&mut self, index: u32) -> &mut HomeParticipant {
        self.home.get_mut(index).expect("indices are of participants that exist")
    }

    pub(crate) fn release(&mut self, hash: u64, name: &str, (shard, format): (u16, Format)) {
        let found = self.home.find(hash, name);
        debug_assert!(found.is_some(), "only what was counted is released");
        let Some(index) = found else { return };
        let participant = self.at(index);
        if let Some(at) = participant.counts.iter().position(|(it, _)| *it == shard) {
            let counts = &mut participant.counts[at].1;
            *counts.of_mut(format) -= 1;
            if *counts == PerFormat::default() {
                participant.counts.swap_remove(at);
            }
        }
        if participant.counts.is_empty() {
            // What comes from here on nobody gets.
            participant.unseen.get_or_insert(participant.offset);
        }
        self.settle(index);
    }

    /// One more session of a participant that was admitted.
    pub(crate) fn session_began(&mut self, hash: u64, name: &str) {
        if let Some(index) = self.home.find(hash, name) {
            self.at(index).sessions += 1;
        }
    }

    /// A session waits here that came from another node, where its participant may have no connection yet.
    pub(crate) fn session_restored(&mut self, hash: u64, name: &str) {
        if self.home.find(hash, name).is_none() {
            let index = self.begin(hash, name);
            self.at(index).unseen = Some(0);
        }
        self.session_began(hash, name);
    }

    /// All that are known here: name, position of the inbox, what is kept in it, and what of that nobody has got.
    pub(crate) fn at_their_home(&self) -> impl Iterator<Item = Inbox<'_>> {
        self.home.iter().map(|it| Inbox {
            name: &it.name,
            epoch: it.epoch,
            offset: it.offset,
            // Who is connected now is not when this is read.
            unseen: it.unseen.unwrap_or(it.offset),
            kept: it.inbox.as_deref(),
        })
    }

    /// An inbox as another node remembered it, of a participant of whom nothing is known here yet.
    pub(crate) fn restore_inbox<'a>(
        &mut self,
        (hash, name): (u64, &str),
        (epoch, offset, unseen): (Epoch, u64, u64),
        messages: impl ExactSizeIterator<Item = (Kept<'a>, Instant)>,
        bounds: Bounds,
    ) {
        let index = self.begin(hash, name);
        let participant = self.at(index);
        (participant.epoch, participant.unseen) = (epoch, Some(unseen.min(offset)));
        participant.offset = offset.saturating_sub(messages.len() as u64);
        for (kept, since) in messages {
            self.at(index).offset += 1;
            self.keep(index, &kept, since, bounds);
        }
    }

    /// One session less.
    pub(crate) fn session_ended(&mut self, hash: u64, name: &str) {
        let found = self.home.find(hash, name);
        debug_assert!(found.is_some(), "who has sessions is remembered");
        let Some(index) = found else { return };
        self.at(index).sessions -= 1;
        self.settle(index);
    }

    /// Forgets a participant of whom nothing is left, and the inbox that was used longest ago if there are too many.
    fn settle(&mut self, index: u32) {
        let participant = self.at(index);
        if !participant.is_idle() {
            return;
        }
        if participant.inbox.is_none() {
            return self.forget(index);
        }
        self.idle.touch(index);
        while self.idle.len() > IDLE_INBOXES
            && let Some(oldest) = self.idle.oldest()
        {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, index: u32) {
        self.drop_inbox(index);
        self.idle.remove(index);
        let hash = self.at(index).hash;
        self.home.remove(hash, index);
    }

    fn drop_inbox(&mut self, index: u32) {
        self.remembering.remove(index);
        if let Some(inbox) = self.at(index).inbox.take() {
            self.inbox_bytes -= inbox.bytes();
        }
    }

    /// Somebody who can be sent messages: connected, or with a session that waits, or else if it may be kept for them.
    pub(crate) fn reach(&mut self, hash: u64, name: &str, is_stored: bool) -> Option<u32> {
        match self.home.find(hash, name) {
            Some(index) if is_stored || !self.at(index).is_idle() => Some(index),
            None if is_stored => {
                let index = self.begin(hash, name);
                self.at(index).unseen = Some(0);
                Some(index)
            }
            _ => None,
        }
    }

    /// The next message gets its place in the inbox.
    pub(crate) fn place(&mut self, index: u32, is_ephemeral: bool) -> &HomeParticipant {
        let participant = self.at(index);
        participant.offset += u64::from(!is_ephemeral);
        participant
    }

    /// Keeps a message that was just given its place.
    pub(crate) fn keep(&mut self, index: u32, it: &Kept<'_>, now: Instant, bounds: Bounds) {
        let participant = self.at(index);
        let offset = participant.offset;
        participant.inbox.get_or_insert_with(|| Box::new(History::new(offset - 1)));
        self.change(index, |inbox| inbox.push(it, now, bounds));
        self.remembering.touch(index);
        self.settle(index);
    }

    fn change(&mut self, index: u32, change: impl FnOnce(&mut History)) {
        let Some(inbox) = self.home.get_mut(index).and_then(|it| it.inbox.as_mut()) else { return };
        let before = inbox.bytes();
        change(inbox);
        self.inbox_bytes = self.inbox_bytes + inbox.bytes() - before;
        if inbox.is_empty() {
            self.drop_inbox(index);
        }
    }

    /// Drops what is too old in an inbox.
    fn expire(&mut self, index: u32, now: Instant) {
        self.change(index, |inbox| inbox.expire(now));
    }

    /// Drops what is too old in some inboxes, a part of all at least this large; whether any are left.
    pub(crate) fn sweep(&mut self, now: Instant, at_least: usize) -> bool {
        let slots = self.home.slots_len();
        for _ in 0..at_least.max(slots / SWEEPS).min(slots) {
            self.swept = if self.swept as usize + 1 < slots { self.swept + 1 } else { 0 };
            if self.home.get(self.swept).is_some() {
                self.expire(self.swept, now);
                self.settle_swept(self.swept);
            }
        }
        self.remembering.len() > 0
    }

    /// Being looked at is no use: it does not make an inbox a recent one.
    fn settle_swept(&mut self, index: u32) {
        let participant = self.at(index);
        if participant.is_idle() && participant.inbox.is_none() {
            self.forget(index);
        }
    }

    /// What all inboxes take, in bytes.
    pub(crate) fn inbox_bytes(&self) -> usize {
        self.inbox_bytes
    }

    /// When the inbox that was used longest ago got its latest message.
    pub(crate) fn oldest_use(&self) -> Option<Instant> {
        self.home.get(self.remembering.oldest()?)?.inbox.as_ref()?.latest()
    }

    /// Empties that inbox, if there is one. Its offsets go on rising while anybody may know them: its epoch stays.
    pub(crate) fn forget_oldest_inbox(&mut self) -> bool {
        let Some(oldest) = self.remembering.oldest() else { return false };
        self.drop_inbox(oldest);
        self.settle_swept(oldest);
        true
    }

    /// A connection is known to have got what is kept up to an offset, or `all` of it.
    pub(crate) fn seen(&mut self, hash: u64, name: &str, (epoch, offset): (Epoch, u64), is_all: bool) {
        let Some(index) = self.home.find(hash, name) else { return };
        let participant = self.at(index);
        if participant.epoch != epoch {
            return;
        }
        participant.unseen = match participant.unseen {
            Some(_) if is_all && !participant.counts.is_empty() => None,
            Some(unseen) => Some(unseen.max(offset.min(participant.offset))),
            None => None,
        };
    }

    /// The slot of a participant, with nothing in its inbox that is too old.
    pub(crate) fn find_at_home(&mut self, hash: u64, name: &str, now: Instant) -> Option<u32> {
        let index = self.home.find(hash, name)?;
        self.expire(index, now);
        Some(index)
    }

    /// A participant at its home.
    pub(crate) fn get_at_home(&self, index: u32) -> &HomeParticipant {
        self.home.get(index).expect("indices are of participants that exist")
    }

    pub(crate) fn at_home(&self, hash: u64, name: &str) -> Option<&HomeParticipant> {
        self.home.get(self.home.find(hash, name)?)
    }

    pub(crate) fn admit_ip(&mut self, ip: IpAddr, limit: u32) -> bool {
        let count = self.ips.entry(ip).or_insert(0);
        if limit > 0 && *count >= limit {
            return false;
        }
        *count += 1;
        true
    }

    pub(crate) fn release_ip(&mut self, ip: IpAddr) {
        let count = self.ips.get_mut(&ip);
        debug_assert!(count.is_some(), "only what was counted is released");
        if let Some(count) = count {
            *count -= 1;
            if *count == 0 {
                self.ips.remove(&ip);
            }
        }
    }

    /// Whether nobody is counted here any more; inboxes of who is away are no count.
    pub(crate) fn is_empty(&self) -> bool {
        self.local.is_empty() && self.home.len() == self.idle.len() && self.ips.is_empty()
    }
}

/// One connection of this encoding.
fn one(format: Format) -> PerFormat<u32> {
    let mut counts = PerFormat::default();
    *counts.of_mut(format) = 1;
    counts
}
