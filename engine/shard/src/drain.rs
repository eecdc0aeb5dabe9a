//! How a shard ends: nothing that was accepted is lost, and nobody waits for ever.
//!
//! First every socket stops being read. Then each shard sends a marker behind its last request to every shard;
//! who has all request markers has seen every request there will be, and sends a marker behind its last delivery.
//! Who has all delivery markers has every message in an outbox: only now connections are closed.

use std::time::Instant;

use corecast_hub::{Class, ShardSet};

/// The record that marks the end of a ring; the hub's records are never empty.
pub(crate) const MARKER: &[u8] = &[];

/// Where the drain of this shard is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Stage {
    /// Not draining.
    #[default]
    Serving,
    /// Sockets stop being read; what was read is acted upon.
    Quieting,
    /// All own requests are sent; waiting for everybody's request markers.
    AwaitingRequests,
    /// Waiting for everybody's delivery markers.
    AwaitingDeliveries,
    /// Connections are being closed.
    Closing,
}

/// Progress of a drain.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    pub(crate) stage: Stage,
    requests_ended: ShardSet,
    deliveries_ended: ShardSet,
    deadline: Option<Instant>,
}

impl Drain {
    /// A drain begins; it ends at the deadline, whatever is left.
    pub(crate) fn begin(&mut self, deadline: Instant) {
        self.stage = Stage::Quieting;
        self.deadline = Some(deadline);
    }

    /// When patience is over, whatever is left.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether patience is over.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// A marker came from another shard.
    pub(crate) fn marker(&mut self, from: u16, class: Class) {
        match class {
            Class::Request => self.requests_ended.insert(from),
            Class::Deliver => self.deliveries_ended.insert(from),
        }
    }

    /// Whether all `others` have sent their last request.
    pub(crate) fn requests_are_over(&self, others: ShardSet) -> bool {
        self.requests_ended == others
    }

    /// Whether all `others` have sent their last delivery.
    pub(crate) fn deliveries_are_over(&self, others: ShardSet) -> bool {
        self.deliveries_ended == others
    }

    /// Whether new handshakes are refused.
    pub(crate) fn is_on(&self) -> bool {
        self.stage != Stage::Serving
    }

    /// Whether nothing that clients send is accepted any more: a marker has gone out behind the last request.
    pub(crate) fn is_silent(&self) -> bool {
        !matches!(self.stage, Stage::Serving | Stage::Quieting)
    }
}
