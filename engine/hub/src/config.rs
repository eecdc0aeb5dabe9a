//! What a hub is told at start, and the time it is told with each call.

use std::hash::BuildHasher;
use std::time::Instant;

use crate::rules::Namespaces;

/// The one keyed hash of names: equal on all shards of a node, so that they agree on homes.
#[derive(Clone, Debug)]
pub(crate) struct Hasher(pub(crate) foldhash::fast::FixedState);

impl Hasher {
    pub(crate) fn new(seed: u64) -> Self {
        Self(foldhash::fast::FixedState::with_seed(seed))
    }

    pub(crate) fn of(&self, value: impl std::hash::Hash) -> u64 {
        self.0.hash_one(value)
    }
}

/// The time, as the shard read it at the start of its tick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// For durations.
    pub instant: Instant,
    /// For timestamps: milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// Everything that one hub needs to know.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// This shard's number, from 0.
    pub shard: u16,
    /// Shards of the node, 1 to 128.
    pub shards: u16,
    /// The node's name, as clients see it.
    pub node: String,
    /// The server's version, as clients see it.
    pub version: String,
    /// For hashes and epochs; the same on all shards of a node, unguessable from outside.
    pub seed: u64,
    /// Counts.
    pub limits: HubLimits,
    /// Who may do what where.
    pub namespaces: Namespaces,
    /// Told to new connections: between heartbeats.
    pub heartbeat_interval_ms: u64,
    /// Told to new connections: bytes of one message at most.
    pub message_bytes: u64,
}

/// Counts that the hub enforces; 0 switches one off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HubLimits {
    /// Connections of one participant on this node.
    pub connections_per_participant: u32,
    /// Connections from one address to this node.
    pub connections_per_ip: u32,
    /// Channels and patterns of one connection.
    pub subscriptions_per_connection: u32,
    /// Channels without subscribers whose offsets each home remembers; about 150 bytes each.
    pub idle_channels: u32,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            connections_per_participant: 5,
            connections_per_ip: 100,
            subscriptions_per_connection: 50,
            idle_channels: 65_536,
        }
    }
}
