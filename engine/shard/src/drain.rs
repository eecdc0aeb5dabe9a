//! How a shard ends: nothing that was accepted is lost, and nobody waits for ever.
//!
//! First every socket stops being read. Then each shard sends a marker behind its last request to every shard;
//! who has all request markers has seen every request there will be, and sends a marker behind its last delivery.
//! Who has all delivery markers has every message in an outbox: only now connections are closed.

use std::time::{Duration, Instant};

use corecast_hub::canary::{self, Canary};
use corecast_hub::{Class, ShardSet};

/// The record that marks the end of a ring; the hub's records are never empty.
pub(crate) const MARKER: &[u8] = &[];

/// How long new connections are still answered once all others are being closed. Who waited to be accepted when
/// the drain began is answered by then; who comes later should find another node.
const ANSWERING: Duration = Duration::from_secs(1);

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
    /// When clients are told to go although not all that was accepted has been delivered.
    close_by: Option<Instant>,
    /// When new connections are no longer accepted; set while they are, once the others are being closed.
    accept_until: Option<Instant>,
    /// Ticks since the last connection came or went.
    idle_ticks: u32,
}

impl Drain {
    /// A drain begins; it ends when `timeout` has passed, whatever is left. A quarter of that is kept for telling
    /// clients, should another shard not keep up.
    pub(crate) fn begin(&mut self, now: Instant, timeout: Duration) {
        self.stage = Stage::Quieting;
        self.deadline = Some(now + timeout);
        self.close_by = Some(now + timeout * 3 / 4);
    }

    /// All clients were told.
    pub(crate) fn closing(&mut self, now: Instant) {
        self.stage = Stage::Closing;
        self.close_by = None;
        self.accept_until = Some(now + ANSWERING);
    }

    /// Whether new connections are to be refused by the kernel from now on; said once.
    pub(crate) fn stops_accepting(&mut self, now: Instant) -> bool {
        self.accept_until.take_if(|until| now >= *until).is_some()
    }

    /// Whether clients are to be told to go, whatever other shards still owe.
    pub(crate) fn must_close(&self, now: Instant) -> bool {
        self.close_by.is_some_and(|deadline| now >= deadline)
    }

    /// Notes how many connections there are; whether there are none and a further look at the accept queue has
    /// found it empty.
    pub(crate) fn is_deserted(&mut self, connections: usize) -> bool {
        self.idle_ticks = if connections == 0 { self.idle_ticks + 1 } else { 0 };
        self.idle_ticks > 2
    }

    /// Whether the accept queue is still to be looked at once more before the end.
    pub(crate) fn looks_again(&self, connections: usize) -> bool {
        self.stage == Stage::Closing && connections == 0 && self.idle_ticks <= 2
    }

    /// When the drain is to be looked at without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.deadline, self.close_by, self.accept_until].into_iter().flatten().min()
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
        self.requests_ended == others || canary::strikes(Canary::DrainEarly)
    }

    /// Whether all `others` have sent their last delivery.
    pub(crate) fn deliveries_are_over(&self, others: ShardSet) -> bool {
        self.deliveries_ended == others || canary::strikes(Canary::DrainEarly)
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

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(8);

    #[test]
    fn every_step_has_its_deadline() {
        let start = Instant::now();
        let mut drain = Drain::default();
        assert_eq!(drain.deadline(), None, "nothing is to be looked at while serving");
        drain.begin(start, TIMEOUT);
        let close_by = start + TIMEOUT * 3 / 4;
        assert_eq!(drain.deadline(), Some(close_by));
        assert!(!drain.must_close(close_by - Duration::from_millis(1)) && drain.must_close(close_by));
        assert!(!drain.is_overdue(close_by) && drain.is_overdue(start + TIMEOUT));
        drain.closing(close_by);
        assert!(!drain.must_close(start + TIMEOUT), "it was done");
        assert_eq!(drain.deadline(), Some(close_by + ANSWERING));
        assert!(!drain.stops_accepting(close_by));
        assert!(drain.stops_accepting(close_by + ANSWERING));
        assert!(!drain.stops_accepting(close_by + ANSWERING), "said once");
        assert_eq!(drain.deadline(), Some(start + TIMEOUT));
    }

    #[test]
    fn the_accept_queue_is_looked_at_again_before_the_end() {
        let mut drain = Drain::default();
        drain.closing(Instant::now());
        assert!(!drain.is_deserted(0) && drain.looks_again(0));
        assert!(
            !drain.is_deserted(1) && !drain.looks_again(1),
            "somebody came: it is waited for, without a circle"
        );
        assert!(!drain.is_deserted(0) && !drain.is_deserted(0) && drain.looks_again(0));
        assert!(drain.is_deserted(0));
    }

    #[test]
    fn all_markers_are_waited_for() {
        let mut others = ShardSet::EMPTY;
        others.insert(1);
        others.insert(3);
        let mut drain = Drain::default();
        for class in [Class::Request, Class::Deliver] {
            drain.marker(1, class);
            assert!(!drain.deliveries_are_over(others));
            assert!(!(class == Class::Request && drain.requests_are_over(others)));
            drain.marker(3, class);
        }
        assert!(drain.requests_are_over(others) && drain.deliveries_are_over(others));
    }

    #[test]
    fn nothing_is_accepted_behind_the_marker() {
        let mut drain = Drain::default();
        assert!(!drain.is_on() && !drain.is_silent());
        drain.begin(Instant::now(), TIMEOUT);
        assert!(drain.is_on() && !drain.is_silent(), "what was sent before is still acted on");
        drain.stage = Stage::AwaitingRequests;
        assert!(drain.is_on() && drain.is_silent());
    }
}
