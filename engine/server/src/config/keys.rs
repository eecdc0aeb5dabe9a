//! Every key there is: its kind, range, default, and what it means.

use corecast_hub::MESSAGE_BYTES_MAX;

/// What a value must be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Kind {
    /// A whole number of this range.
    Integer(u64, u64),
    /// `true` or `false`.
    Flag,
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of texts; in the environment and on the command line separated by commas.
    List,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// With its section, as in `limits.message_bytes`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: &'static str,
    /// Meaning, unit, cost.
    pub(crate) about: &'static str,
}

const MAX: u64 = 1 << 40;
const DAY_MS: u64 = 86_400_000;

/// Messages that a channel or an inbox keeps at most, whatever is configured.
const HISTORY_MESSAGES_MAX: u64 = 100_000;

/// The kernel doubles it for its own needs. Left to itself it lets a buffer grow to megabytes for a peer that was fast
/// once, and keeps them full once that peer stops reading: both directions together stay under 256 KiB so.
const BUFFER_BYTES: &str = "49152";
const BUFFER_ABOUT: &str =
    "per connection, for what is under way; 0 leaves it to the kernel, which may take megabytes";

const fn integer(name: &'static str, min: u64, max: u64, default: &'static str, about: &'static str) -> Key {
    Key { name, kind: Kind::Integer(min, max), default, about }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, about }
}

/// All keys.
pub(crate) const KEYS: &[Key] = &[
    key("mode", Kind::Word(&["demo", "development", "production"]), "demo", "how strict the node is"),
    key(
        "profile",
        Kind::Word(&["none", "edge", "regional", "core", "low-latency"]),
        "none",
        "a set of defaults",
    ),
    key("listen", Kind::Text, "127.0.0.1:8080", "where clients connect; ADDRESS:PORT"),
    key("admin", Kind::Text, "127.0.0.1:8081", "where operators connect; ADDRESS:PORT or unix:PATH"),
    integer("shards", 0, 128, "0", "threads that serve clients; 0 for one per core"),
    key("cpus", Kind::Text, "", "cores to pin shards to, as 0,2,4-7; empty for all in order"),
    key(
        "driver",
        Kind::Word(&["auto", "uring", "epoll", "glommio"]),
        "auto",
        "auto: uring, or epoll where it is refused",
    ),
    key(
        "echo",
        Kind::Flag,
        "false",
        "offer /ws/echo, for conformance and probes: 16 MiB hold a shard up to 1 s; refused in production",
    ),
    key(
        "no_limits",
        Kind::Flag,
        "false",
        "lift rates and counts, never sizes and time-outs; refused in production",
    ),
    key("demo_endpoint", Kind::Flag, "false", "offer /ws/demo outside demo mode"),
    key("allowed_origins", Kind::List, "", "origins that may connect; empty for those of the same host name"),
    key("http.prefix", Kind::Text, "", "precedes every path, as /api/v1"),
    key("node.name", Kind::Text, "", "as clients see this node; empty for the host's name"),
    key(
        "state.file",
        Kind::Text,
        "",
        "where histories, inboxes and sessions are left at the end for the next start; empty for nowhere",
    ),
    key(
        "log.level",
        Kind::Word(&["error", "warn", "info", "debug", "trace"]),
        "info",
        "what is logged: this and what is worse",
    ),
    key("log.format", Kind::Word(&["text", "json"]), "text", "one line per event"),
    integer(
        "socket.backlog",
        1,
        65_535,
        "10000",
        "connections waiting to be accepted; the kernel caps it at net.core.somaxconn",
    ),
    integer("socket.send_buffer_bytes", 0, 1 << 30, BUFFER_BYTES, BUFFER_ABOUT),
    integer("socket.recv_buffer_bytes", 0, 1 << 30, BUFFER_BYTES, BUFFER_ABOUT),
    integer(
        "socket.notsent_lowat_bytes",
        1,
        1 << 30,
        "16384",
        "unsent bytes above which a socket takes no more",
    ),
    integer("shard.recv_buffers", 16, 32_768, "1024", "receive buffers per shard, a power of two"),
    integer("shard.recv_buffer_bytes", 256, 1 << 20, "4096", "bytes of each"),
    integer("shard.queue_entries", 64, 32_768, "2048", "submission queue of the ring"),
    integer("rings.request_bytes", 64, 1 << 30, "262144", "each ring of requests between two shards"),
    integer("rings.deliver_bytes", 64, 1 << 30, "1048576", "each ring of deliveries between two shards"),
    integer("rings.spill_bytes", 64, 1 << 30, "1048576", "per ring, before publishers are paused"),
    integer(
        "rings.inline_bytes",
        8,
        1 << 20,
        "4096",
        "larger records are shared between shards instead of copied",
    ),
    key(
        "compression.mode",
        Kind::Word(&["off", "standard", "adaptive"]),
        "off",
        "permessage-deflate, of messages up to 256 KiB; adaptive: where it saves a quarter, by namespace",
    ),
    integer("compression.level", 1, 9, "1", "1 is fast, 9 is small"),
    integer("compression.threshold_bytes", 0, 1 << 28, "256", "smaller messages are sent as they are"),
    integer("limits.connections", 0, 1 << 24, "0", "of this node; 0 for what descriptors and memory allow"),
    integer("limits.connections_per_participant", 0, 1 << 24, "5", "0 for no limit"),
    integer("limits.connections_per_ip", 0, 1 << 24, "100", "0 for no limit"),
    integer("limits.subscriptions_per_connection", 0, 1 << 24, "50", "0 for no limit"),
    integer("limits.message_bytes", 125, MESSAGE_BYTES_MAX, "1048576", "of one message"),
    integer("limits.message_fragments", 1, 1 << 20, "1024", "of one message"),
    integer("limits.json_depth", 1, 128, "64", "nested arrays and objects of a message"),
    integer("limits.outbox_messages", 1, 1 << 20, "1000", "that wait for one connection"),
    integer(
        "limits.outbox_bytes",
        1,
        1 << 32,
        "4194304",
        "that wait for one connection; at least twice message_bytes",
    ),
    integer(
        "limits.assembly_bytes",
        1 << 16,
        MAX,
        "268435456",
        "of unfinished messages in pieces, per shard",
    ),
    integer("limits.handshake_timeout_ms", 1, DAY_MS, "5000", "for a complete request"),
    integer("limits.auth_timeout_ms", 1, DAY_MS, "5000", "for a token; not used by this version"),
    integer("limits.heartbeat_interval_ms", 0, DAY_MS, "30000", "between pings; 0 for none"),
    integer("limits.pong_timeout_ms", 1, DAY_MS, "5000", "silence after a ping that counts as a miss"),
    integer("limits.missed_pongs", 1, 1000, "3", "misses in a row that end a connection"),
    integer("limits.idle_timeout_ms", 0, DAY_MS, "0", "without a message from the client; 0 for none"),
    integer("limits.close_timeout_ms", 1, DAY_MS, "5000", "for the answer to a close frame"),
    integer("limits.drain_timeout_ms", 1, DAY_MS, "30000", "from SIGTERM to the end, whatever is left"),
    integer("limits.messages_per_second_per_connection", 0, MAX, "100", "not enforced by this version"),
    integer("limits.messages_per_second_per_participant", 0, MAX, "1000", "not enforced by this version"),
    integer("limits.messages_per_second_per_ip", 0, MAX, "10000", "not enforced by this version"),
    integer("limits.messages_per_second_per_node", 0, MAX, "100000", "not enforced by this version"),
    integer("limits.connects_per_minute_per_participant", 0, MAX, "10", "not enforced by this version"),
    integer("limits.connects_per_minute_per_ip", 0, MAX, "100", "not enforced by this version"),
    integer("limits.connects_per_second_per_node", 0, MAX, "1000", "not enforced by this version"),
    integer("limits.bytes_per_second_per_participant", 0, MAX, "10000000", "not enforced by this version"),
    integer(
        "limits.history_bytes",
        0,
        MAX,
        "1073741824",
        "of all channels and inboxes of this node; what was unused longest goes first; 0 for no limit",
    ),
    integer(
        "limits.inbox_messages",
        0,
        HISTORY_MESSAGES_MAX,
        "100",
        "kept for one participant; 0 for what history_bytes lets",
    ),
    integer("limits.inbox_age_ms", 0, 30 * DAY_MS, "86400000", "for how long each is kept; 0 for no limit"),
    integer(
        "limits.idempotency_keys",
        1,
        1 << 28,
        "917504",
        "remembered for five minutes by this node, up to 100 bytes each; the oldest go first",
    ),
    integer("limits.sessions", 0, 1 << 24, "100000", "that wait for their client to resume; 0 for no limit"),
    integer("limits.resume_window_ms", 0, DAY_MS, "60000", "for how long each waits; 0: none does"),
    integer(
        "limits.ack_timeout_ms",
        1,
        DAY_MS,
        "5000",
        "then a message that must be acknowledged is sent again; doubled with each attempt",
    ),
    integer("limits.ack_attempts", 1, 100, "5", "to have a message acknowledged, before it counts as failed"),
];

/// Whom a namespace lets do something.
const WHO: Kind = Kind::Word(&["anyone", "owner", "backends"]);

/// The keys of `[namespaces.NAME]`. What a built-in namespace does not set stays as it is; these are the defaults of
/// others.
pub(crate) const NAMESPACE_KEYS: &[Key] = &[
    key(
        "mode",
        Kind::Word(&["best_effort", "ordered", "reliable"]),
        "best_effort",
        "best_effort may drop for slow consumers; ordered never drops one; reliable sends again what is not acknowledged",
    ),
    integer(
        "history_size",
        0,
        HISTORY_MESSAGES_MAX,
        "",
        "messages kept of each channel; 0 for none and no offsets; 100 where the mode is ordered or reliable, else 0",
    ),
    integer("history_age_ms", 1, 30 * DAY_MS, "300000", "for how long each is kept"),
    integer(
        "history_bytes",
        1,
        MAX,
        "",
        "of memory for the messages of one channel, of which the latest is always kept; unset for what limits.history_bytes lets",
    ),
    key(
        "presence",
        Kind::Flag,
        "false",
        "whether who is on a channel is known, and comings and goings are told",
    ),
    integer(
        "presence_members",
        1,
        1 << 20,
        "10000",
        "participants of one channel that are known by name; more are only counted",
    ),
    key("subscribe", WHO, "anyone", "owner: whose name follows the colon"),
    key("publish", WHO, "anyone", "owner: whose name follows the colon; backends may always"),
    key("demo", Kind::Flag, "false", "whether demo participants may use it"),
    key(
        "slow_consumer",
        Kind::Word(&["disconnect", "drop_oldest", "conflate"]),
        "",
        "when an outbox is full; drop_oldest where the mode is best_effort, else disconnect",
    ),
    key(
        "priority",
        Kind::Word(&["low", "normal", "high", "critical"]),
        "normal",
        "of messages that name none",
    ),
    integer(
        "payload_bytes",
        1,
        MESSAGE_BYTES_MAX,
        "",
        "of one payload at most; limits.message_bytes if unset",
    ),
];

/// The key of a namespace.
pub(crate) fn of_namespace(name: &str) -> Option<&'static Key> {
    NAMESPACE_KEYS.iter().find(|key| key.name == name)
}

/// The names of a namespace's keys.
pub fn namespace_names() -> impl Iterator<Item = &'static str> {
    NAMESPACE_KEYS.iter().map(|key| key.name)
}

/// The names of all keys.
pub fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name)
}

/// What a profile sets in place of the defaults.
pub(crate) fn profile(name: &str) -> &'static [(&'static str, &'static str)] {
    match name {
        "edge" => &[("limits.connections", "1000")],
        "regional" => &[("limits.connections", "5000")],
        "low-latency" => &[
            ("listen", "0.0.0.0:8081"),
            ("admin", "127.0.0.1:8082"),
            ("limits.message_bytes", "65536"),
            ("limits.outbox_bytes", "131072"),
            ("compression.mode", "off"),
            ("socket.notsent_lowat_bytes", "16384"),
            ("socket.send_buffer_bytes", "262144"),
            ("socket.recv_buffer_bytes", "262144"),
        ],
        _ => &[],
    }
}

/// The key of this name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key whose name is most like this one, if any is.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    let last = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let distance = |key: &&Key| distance(name, key.name).min(distance(name, last(key.name)) + 1);
    let best = KEYS.iter().min_by_key(distance)?;
    (distance(&best) <= name.len().div_ceil(3) + 1).then_some(best.name)
}

/// Edits from one word to another (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_recognised() {
        assert_eq!(nearest("limits.mesage_bytes"), Some("limits.message_bytes"));
        assert_eq!(nearest("message_bytes"), Some("limits.message_bytes"));
        assert_eq!(nearest("qqqqqqqqqqqqqqqqqqqqqqq"), None);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
