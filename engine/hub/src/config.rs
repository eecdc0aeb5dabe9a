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

/// What must be told to nobody, and so is not shown.
#[derive(Clone, Copy)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(..)")
    }
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
    /// Keys the generator of resume tokens; the same on all shards of a node, from the operating system's generator.
    pub secret: Secret,
    /// Counts.
    pub limits: HubLimits,
    /// Who may do what where.
    pub namespaces: Namespaces,
    /// Told to new connections: between heartbeats.
    pub heartbeat_interval_ms: u64,
    /// Told to new connections: bytes of one message at most.
    pub message_bytes: u64,
    /// How much of the past is sent at once.
    pub replay: ReplayLimits,
}

/// How much of the past one connection is sent at once: what an outbox takes besides what is published meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayLimits {
    /// Messages of one page.
    pub messages: usize,
    /// Bytes of one page; a single message may be larger.
    pub bytes: usize,
    /// Bytes of the messages in one answer, likewise.
    pub answer_bytes: usize,
    /// Bytes that are transcoded in one turn of a shard before the rest waits for the next; one answer may go beyond it.
    pub turn_bytes: usize,
}

impl ReplayLimits {
    /// Those that fit an outbox of so many messages and bytes.
    pub fn for_outbox(messages: usize, bytes: usize) -> Self {
        Self {
            messages: (messages / 4).clamp(1, 100),
            bytes: (bytes / 16).min(64 << 10),
            answer_bytes: (bytes / 8).min(256 << 10),
            // Half a millisecond.
            turn_bytes: 64 << 10,
        }
    }
}

/// Seven eighths of a power of two, and so of each shard's part where their number is one: tables are full then, and a key
/// takes 65 bytes. They are remembered for five minutes at up to 3,000 new ones a second.
const IDEMPOTENCY_KEYS: u32 = 917_504;

/// Bounds that the hub enforces; 0 switches one off.
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
    /// Bytes of all that is kept of channels and inboxes on the node; each shard may keep its part of it.
    pub history_bytes: u64,
    /// Messages kept for one participant.
    pub inbox_messages: u32,
    /// For how long one is kept, in milliseconds.
    pub inbox_age_ms: u64,
    /// Idempotency keys that the node remembers for five minutes, a shard its part of them; at least 1.
    pub idempotency_keys: u32,
    /// Sessions of the node that wait for their client.
    pub sessions: u32,
    /// For how long one waits, in milliseconds; with 0 none waits at all.
    pub resume_window_ms: u64,
    /// What is not acknowledged within this time is sent again, in milliseconds; at least 1.
    pub ack_timeout_ms: u64,
    /// How often it is sent in all, before it counts as failed; at least 1.
    pub ack_attempts: u32,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            connections_per_participant: 5,
            connections_per_ip: 100,
            subscriptions_per_connection: 50,
            idle_channels: 65_536,
            history_bytes: 1 << 30,
            inbox_messages: 100,
            inbox_age_ms: 86_400_000,
            idempotency_keys: IDEMPOTENCY_KEYS,
            sessions: 100_000,
            resume_window_ms: 60_000,
            ack_timeout_ms: 5_000,
            ack_attempts: 5,
        }
    }
}
