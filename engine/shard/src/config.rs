//! What a shard is told at start. Validated by the server; nothing here is read from a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use corecast_protocol::ws::handshake::Policy;

use crate::outbox::OutboxLimits;

/// Everything that one shard needs to know.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// This shard's number, from 0.
    pub shard: u16,
    /// How many shards the node has.
    pub shards: u16,
    /// Which handshakes are accepted.
    pub policy: Policy,
    /// Sizes, counts and times.
    pub limits: ShardLimits,
    /// What is sent compressed to those who offer it.
    pub compression: CompressionConfig,
}

/// Whether permessage-deflate is negotiated at all, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CompressionMode {
    /// Nowhere, for nothing.
    #[default]
    Off,
    /// Every message from the threshold on, up to 256 KiB and to what a client's smaller window covers.
    Standard,
    /// Of these, those of namespaces whose messages become smaller by a quarter.
    Adaptive,
}

/// What is sent compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompressionConfig {
    /// To whom it is offered.
    pub mode: CompressionMode,
    /// 1 (fast) to 9 (small). Of a chat message of 1 KB, level 1 leaves 56% in 5 us, level 2 43% in 14 us, level 6 42% in
    /// 22 us: 1 is the default, and beyond 2 little is gained.
    pub level: u32,
    /// Smaller messages are sent as they are. Of 250 bytes level 1 saves 12%, less than the headers of a packet; of 300
    /// bytes of metrics 28%, of 540 of chat 30%: hence 256.
    pub threshold_bytes: usize,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self { mode: CompressionMode::Off, level: 1, threshold_bytes: 256 }
    }
}

/// Bounds of one shard's connections.
#[derive(Clone, Debug)]
pub struct ShardLimits {
    /// Connections of the whole node; more are answered 503.
    pub connections: usize,
    /// Connections of this shard, whatever their state; more are answered 503.
    pub connections_here: usize,
    /// Bytes of one message.
    pub message_bytes: usize,
    /// Fragments of one message.
    pub message_fragments: u32,
    /// Depth of nested arrays and objects in a message.
    pub json_depth: usize,
    /// What may wait for one connection.
    pub outbox: OutboxLimits,
    /// For a complete request, from the accept on.
    pub handshake_timeout: Duration,
    /// Between a ping and the one before; zero switches heartbeats off.
    pub heartbeat_interval: Duration,
    /// Silence after a ping that counts as a miss.
    pub pong_timeout: Duration,
    /// Misses in a row that end the connection.
    pub missed_pongs: u32,
    /// Without a message from the client; zero for ever.
    pub idle_timeout: Duration,
    /// For the peer's answer to a close frame.
    pub close_timeout: Duration,
    /// From the start of a drain to its end, whatever is left.
    pub drain_timeout: Duration,
    /// Bytes of all unfinished messages of this shard.
    pub assembly_bytes: usize,
}

impl Default for ShardLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_here: 10_000,
            message_bytes: 1 << 20,
            message_fragments: 1024,
            json_depth: 64,
            outbox: OutboxLimits { messages: 1000, bytes: 4 << 20 },
            handshake_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(30),
            pong_timeout: Duration::from_secs(5),
            missed_pongs: 3,
            idle_timeout: Duration::ZERO,
            close_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            assembly_bytes: 256 << 20,
        }
    }
}

/// What the shards of one node share beside their rings: two words that hardly ever change cache lines.
#[derive(Debug, Default)]
pub struct Node {
    clients: AtomicUsize,
    order: AtomicU8,
}

/// What the control plane last asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Order {
    /// Serve.
    Serve,
    /// Take no more, deliver what was accepted, close all, stop.
    Drain,
    /// Stop at once.
    Stop,
}

impl Node {
    /// A node that serves.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Asks all shards for something; wake them afterwards. An earlier, stronger order stays.
    pub fn order(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::Release);
    }

    /// What was asked for.
    pub fn ordered(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Stop,
        }
    }

    /// Connections past their handshake, on all shards.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Counts one more, unless `limit` is reached.
    pub(crate) fn admit(&self, limit: usize) -> bool {
        let before = self.clients.fetch_add(1, Ordering::Relaxed);
        if before >= limit {
            self.leave();
        }
        before < limit
    }

    /// Counts one less.
    pub(crate) fn leave(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
