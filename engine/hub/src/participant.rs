//! Participants: their connections on this shard, and, at their home, how many they have and where.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::config::Hasher;
use crate::effect::ConnKey;
use crate::format::{FORMATS, Format, PerFormat, Wanted};
use crate::home::Random;
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

/// A participant at its home.
#[derive(Debug)]
pub(crate) struct HomeParticipant {
    name: Box<str>,
    /// Of the inbox; it ends with the last connection.
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
    /// Sessions, with and without a connection: while there are any, the participant is remembered.
    sessions: u32,
    /// Connections per shard and encoding.
    counts: Vec<(u16, PerFormat<u32>)>,
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
}

impl Participants {
    pub(crate) fn new(hasher: &Hasher, epochs: Random) -> Self {
        Self {
            local: Registry::new(),
            home: Registry::new(),
            ips: HashMap::with_hasher(hasher.0.clone()),
            epochs,
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

    /// At its home: one more connection, unless that is over `limit` (0 for none).
    pub(crate) fn admit(
        &mut self,
        hash: u64,
        name: &str,
        (shard, format): (u16, Format),
        limit: u32,
    ) -> bool {
        let Some(index) = self.home.find(hash, name) else {
            let epoch = Epoch::new(self.epochs.next());
            let counts = vec![(shard, one(format))];
            self.home
                .insert(hash, HomeParticipant { name: name.into(), epoch, offset: 0, sessions: 0, counts });
            return true;
        };
        let participant = self.home.get_mut(index).expect("it was found");
        if limit > 0 && participant.total() >= limit {
            return false;
        }
        match participant.counts.iter_mut().find(|(it, _)| *it == shard) {
            Some((_, counts)) => *counts.of_mut(format) += 1,
            None => participant.counts.push((shard, one(format))),
        }
        true
    }

    pub(crate) fn release(&mut self, hash: u64, name: &str, (shard, format): (u16, Format)) {
        let found = self.home.find(hash, name);
        debug_assert!(found.is_some(), "only what was counted is released");
        let Some(index) = found else { return };
        let participant = self.home.get_mut(index).expect("it was found");
        if let Some(at) = participant.counts.iter().position(|(it, _)| *it == shard) {
            let counts = &mut participant.counts[at].1;
            *counts.of_mut(format) -= 1;
            if *counts == PerFormat::default() {
                participant.counts.swap_remove(at);
            }
        }
        self.forget_if_gone(hash, index);
    }

    /// One more session of a participant that was admitted.
    pub(crate) fn session_began(&mut self, hash: u64, name: &str) {
        if let Some(participant) = self.at_home(hash, name) {
            participant.sessions += 1;
        }
    }

    /// One session less.
    pub(crate) fn session_ended(&mut self, hash: u64, name: &str) {
        let found = self.home.find(hash, name);
        debug_assert!(found.is_some(), "who has sessions is remembered");
        let Some(index) = found else { return };
        self.home.get_mut(index).expect("it was found").sessions -= 1;
        self.forget_if_gone(hash, index);
    }

    fn forget_if_gone(&mut self, hash: u64, index: u32) {
        let participant = self.home.get_mut(index);
        if participant.is_some_and(|it| it.counts.is_empty() && it.sessions == 0) {
            self.home.remove(hash, index);
        }
    }

    pub(crate) fn at_home(&mut self, hash: u64, name: &str) -> Option<&mut HomeParticipant> {
        let index = self.home.find(hash, name)?;
        self.home.get_mut(index)
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

    /// Whether nobody is counted here any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.local.is_empty() && self.home.is_empty() && self.ips.is_empty()
    }
}

/// One connection of this encoding.
fn one(format: Format) -> PerFormat<u32> {
    let mut counts = PerFormat::default();
    *counts.of_mut(format) = 1;
    counts
}
