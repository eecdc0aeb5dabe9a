//! Participants: their connections on this shard, and, at their home, how many they have and where.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::effect::{ConnKey, ShardSet};
use crate::home::Epochs;
use crate::registry::{Named, Registry};
use crate::remote::Epoch;

type Hasher = foldhash::fast::FixedState;

/// A participant with connections on this shard.
#[derive(Debug)]
pub(crate) struct LocalParticipant {
    name: Box<str>,
    pub(crate) conns: Vec<ConnKey>,
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
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
    /// Connections per shard.
    counts: Vec<(u16, u32)>,
}

impl Named for HomeParticipant {
    fn name(&self) -> &str {
        &self.name
    }
}

impl HomeParticipant {
    pub(crate) fn shards(&self) -> ShardSet {
        let mut shards = ShardSet::EMPTY;
        for (shard, _) in &self.counts {
            shards.insert(*shard);
        }
        shards
    }

    fn total(&self) -> u32 {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

/// Participants and addresses, local and at home.
#[derive(Debug)]
pub(crate) struct Participants {
    local: Registry<LocalParticipant>,
    home: Registry<HomeParticipant>,
    ips: HashMap<IpAddr, u32, Hasher>,
    epochs: Epochs,
}

impl Participants {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            local: Registry::new(),
            home: Registry::new(),
            ips: HashMap::with_hasher(Hasher::with_seed(seed)),
            epochs: Epochs(!seed),
        }
    }

    pub(crate) fn arrive(&mut self, hash: u64, name: &str, conn: ConnKey) {
        let index = match self.local.find(hash, name) {
            Some(index) => index,
            None => self.local.insert(hash, LocalParticipant { name: name.into(), conns: Vec::new() }),
        };
        self.local.get_mut(index).expect("it was found or inserted").conns.push(conn);
    }

    pub(crate) fn depart(&mut self, hash: u64, name: &str, conn: ConnKey) {
        let Some(index) = self.local.find(hash, name) else { return };
        let participant = self.local.get_mut(index).expect("it was found");
        participant.conns.retain(|it| *it != conn);
        if participant.conns.is_empty() {
            self.local.remove(hash, index);
        }
    }

    /// The participant's connections on this shard.
    pub(crate) fn conns(&self, hash: u64, name: &str) -> &[ConnKey] {
        self.local.find(hash, name).and_then(|index| self.local.get(index)).map_or(&[], |it| &it.conns)
    }

    /// At its home: one more connection, unless that is over `limit` (0 for none).
    pub(crate) fn admit(&mut self, hash: u64, name: &str, shard: u16, limit: u32) -> bool {
        let index = match self.home.find(hash, name) {
            Some(index) => index,
            None => {
                let epoch = self.epochs.next();
                let participant = HomeParticipant { name: name.into(), epoch, offset: 0, counts: Vec::new() };
                self.home.insert(hash, participant)
            }
        };
        let participant = self.home.get_mut(index).expect("it was found or inserted");
        if limit > 0 && participant.total() >= limit {
            return false;
        }
        match participant.counts.iter_mut().find(|(it, _)| *it == shard) {
            Some((_, count)) => *count += 1,
            None => participant.counts.push((shard, 1)),
        }
        true
    }

    pub(crate) fn release(&mut self, hash: u64, name: &str, shard: u16) {
        let Some(index) = self.home.find(hash, name) else { return };
        let participant = self.home.get_mut(index).expect("it was found");
        if let Some(entry) = participant.counts.iter_mut().find(|(it, _)| *it == shard) {
            entry.1 -= 1;
        }
        participant.counts.retain(|(_, count)| *count > 0);
        if participant.counts.is_empty() {
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
        if let Some(count) = self.ips.get_mut(&ip) {
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
