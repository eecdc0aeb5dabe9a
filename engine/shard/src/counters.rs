//! What one shard counts, for whoever watches: written by the shard alone, read from anywhere.
//!
//! Plain relaxed stores: a reader may see one counter a moment before another.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; only the owning shard calls this, so no atomic addition is needed.
    pub fn add(&self, n: u64) {
        self.set(self.value().wrapping_add(n));
    }

    /// Sets a level.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident: $kind:literal,)*) => {
        /// All counters of one shard.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])* pub $name: Counter,)* }

        impl Counters {
            /// Every counter: its name, `counter` or `gauge`, what it means, and its value.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, u64)> + '_ {
                [$((stringify!($name), $kind, concat!($($doc),*), self.$name.value()),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections open now, in whatever state.
    connections: "gauge",
    /// Connections past their handshake.
    clients: "gauge",
    /// Connections accepted.
    accepted: "counter",
    /// Handshakes refused, by status 4xx or 5xx, or by an immediate close.
    refused: "counter",
    /// Handshakes refused because limits.connections was reached.
    full: "counter",
    /// Handshakes refused because the shard's own table was full: more than its share of connections came to it.
    full_here: "counter",
    /// Times the kernel refused to accept, for lack of descriptors or memory mostly; clients wait meanwhile.
    accept_refusals: "counter",
    /// Why it refused last, as errno.
    accept_errno: "gauge",
    /// Connections that ended without a close frame.
    ended_abnormally: "counter",
    /// Consumers disconnected because their outbox was full.
    slow_disconnects: "counter",
    /// Connections closed for a broken protocol.
    violations: "counter",
    /// Connections closed by a time-out: handshake, pong, idle or close.
    timeouts: "counter",
    /// Messages received from clients.
    messages_in: "counter",
    /// Bytes received from clients.
    bytes_in: "counter",
    /// Messages whose payload was written in the other encoding: at most once each, at the home of the channel or participant.
    transcoded: "counter",
    /// Messages of the past that were sent to who was catching up.
    replayed: "counter",
    /// Bytes that the histories take whose home this shard is.
    history_bytes: "gauge",
    /// Publishes that repeated the idempotency key of an earlier one, and were delivered to nobody.
    duplicates_suppressed: "counter",
    /// Idempotency keys that are known.
    idempotency_keys: "gauge",
    /// Idempotency keys forgotten before their five minutes were over, because limits.idempotency_keys was reached.
    idempotency_keys_forgotten: "counter",
    /// Sessions without a connection that wait for their client to resume.
    sessions_suspended: "gauge",
    /// Sessions that went on in a new connection, on this shard.
    sessions_resumed: "counter",
    /// Sessions that nobody resumed in time, or that gave way to later ones because limits.sessions was reached.
    sessions_expired: "counter",
    /// Connections that were closed because their session went on in another one.
    sessions_taken_over: "counter",
    /// Messages sent again because they were not acknowledged in time.
    redelivered: "counter",
    /// Messages that were not acknowledged however often they were sent.
    unacked_given_up: "counter",
    /// Messages queued for clients, copies counted.
    deliveries: "counter",
    /// Bytes handed to the kernel.
    bytes_out: "counter",
    /// Batches handed to the kernel: one send each.
    sends: "counter",
    /// Messages dropped for slow consumers.
    dropped: "counter",
    /// Messages replaced by later ones for slow consumers.
    conflated: "counter",
    /// Messages compressed: once, however many get them.
    compressed_messages: "counter",
    /// Bytes of these messages before.
    compression_bytes_in: "counter",
    /// And after.
    compression_bytes_out: "counter",
    /// Messages that somebody would have taken compressed, and that were not: too small, too large, or in vain.
    compression_skipped: "counter",
    /// Bytes that compressed messages from clients became.
    inflated_bytes: "counter",
    /// Inflaters and compressors that connections own.
    deflate_contexts: "gauge",
    /// Turns of the loop.
    ticks: "counter",
    /// Times the shard announced its sleep to the others.
    parks: "counter",
    /// Times it slept; otherwise something came in between.
    sleeps: "counter",
    /// Wake-ups sent to other shards.
    wakes: "counter",
    /// Records that did not fit a ring at once.
    spills: "counter",
    /// Bytes of records that wait now for room in rings to other shards.
    spilled_bytes: "gauge",
    /// Times a connection's input was held back for lack of room.
    stalls: "counter",
    /// Bytes received that wait now: input held back, and the beginnings of handshakes.
    held_bytes: "gauge",
    /// Frames held by outboxes and batches.
    frames_in_use: "gauge",
    /// Bytes in buffers of unfinished messages in pieces.
    assembly_bytes: "gauge",
    /// System calls that entered the kernel's queue (io_uring) or sent, received and waited (epoll).
    kernel_entries: "counter",
    /// Times no receive buffer was left.
    buffer_shortages: "counter",
}
