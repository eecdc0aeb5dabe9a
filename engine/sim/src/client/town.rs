//! What all clients of a run share.

use std::rc::Rc;

use super::deeds::DeedCounts;
use crate::books::Book;
use crate::chaos::Chaos;
use crate::names::Names;
use crate::net::Net;
use crate::oracle::{Oracle, Serial};
use crate::setup::Waiting;
use crate::trace::Trace;

/// How a run lets its clients behave.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// One in so many steps does something, while there is room.
    pub idle: u32,
    /// Publishes of one step at most.
    pub burst: u32,
    /// Bytes of a large payload.
    pub large_bytes: usize,
    /// Subscriptions of one connection that a client wants at most, and that it may have.
    pub subscriptions_max: usize,
    /// See `subscriptions_max`.
    pub subscriptions_limit: usize,
    /// Bytes and fragments of one message at most, and how deep it may be nested.
    pub message_bytes: usize,
    /// See `message_bytes`.
    pub fragments_max: u32,
    /// See `message_bytes`.
    pub json_depth: usize,
    /// Whether `/ws/echo` is there.
    pub has_echo: bool,
    /// Whether permessage-deflate is agreed on with who offers it.
    pub takes_deflate: bool,
    /// Whether addresses and participants may have a few connections only.
    pub limits_who: bool,
    /// How many clients share an address.
    pub clients_per_ip: u32,
    /// Whether outboxes are small or sends are late.
    pub is_tight: bool,
    /// Whether an outbox may fill although its client reads at once.
    pub has_small_outboxes: bool,
    /// How long the server waits for an answer to its close frame.
    pub close_timeout_us: u64,
    /// Whether handshakes may be refused for lack of room.
    pub is_crowded: bool,
    /// Connections of one shard at most, those included that nobody holds any more.
    pub room_here: usize,
    /// How long sessions wait for their clients, and how many.
    pub sessions: Waiting,
    /// Whether they subscribe to patterns.
    pub has_patterns: bool,
    /// Whether clocks jump far enough for time-outs to strike who is merely slow to answer.
    pub jumps: bool,
}

/// What all clients of a run share.
#[derive(Debug)]
pub struct Town {
    /// The network.
    pub net: Net,
    /// The faults.
    pub chaos: Chaos,
    /// The promises.
    pub oracle: Oracle,
    /// All that happens.
    pub trace: Trace,
    /// How often clients did what they can do.
    pub deeds: DeedCounts,
    /// The names in use.
    pub names: Rc<Names>,
    /// How clients behave.
    pub habits: Habits,
    /// Virtual time, in microseconds.
    pub now_us: u64,
    /// Clients begin nothing new and read all that there is.
    pub is_settling: bool,
    /// The node drains: being closed is right.
    pub is_draining: bool,
    /// When clients are told to go by a drain whatever is still owed to them.
    pub overdue_at_us: u64,
    /// For the next connection.
    pub serials: Serial,
    /// Bytes of the largest message that a client has sent.
    pub largest_bytes: u64,
    /// What the clients of each shard saw of it.
    pub books: Vec<Book>,
    /// All is quiet, but that somebody typed: who did will be told of in time.
    pub nobody_types: bool,
    /// Nobody is held by a shard who is gone for its client.
    pub all_are_known: bool,
    /// No session waits, so that nobody leaves by its end.
    pub nobody_waits: bool,
    /// How often all has come to rest, or is about to.
    pub rests: u64,
    /// Nobody comes, leaves or changes a subscription: what was dropped can be told exactly.
    pub is_steady: bool,
}

impl Town {
    /// Whether a drain has taken so long that not all is delivered that it owes.
    pub fn is_overdue(&self) -> bool {
        self.is_draining && self.now_us >= self.overdue_at_us
    }
}
