//! One shard of the simulated node: the real shard and hub on a simulated driver.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corecast_driver::{Next, Shard};
use corecast_hub::rules::{HistoryOptions, Namespaces};
use corecast_hub::{Hub, HubConfig, ReplayLimits, Secret, ShardSet};
use corecast_protocol::ws::handshake::{Mode, Policy};
use corecast_shard::rings::Links;
use corecast_shard::{Counters, Node, ShardConfig, ShardLoop};

use crate::io::{IoConfig, SimIo, SimLease};
use crate::setup::Setup;

/// A shard, its driver, and whether it sleeps.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) io: SimIo,
    shard: ShardLoop<SimLease>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: State,
    /// A wake-up arrives in this tick.
    pub(crate) wakes_at: Option<u64>,
    /// It is not run before this tick.
    pub(crate) stalled_until: u64,
}

/// What the shard answered last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Awake,
    Asleep { until: Option<Instant> },
    Stopped,
}

/// Those of the contract, with what the run says of histories.
fn namespaces(setup: &Setup) -> Namespaces {
    let mut namespaces = Namespaces::built_in(true);
    if let Some(keeps) = setup.memory.keeps {
        for name in ["agent", "user", "conversation"] {
            let mut namespace = namespaces.named(name).expect("it is built in").clone();
            let age = Duration::from_micros(keeps.age_us);
            namespace.history = HistoryOptions {
                messages: keeps.messages as u32,
                bytes: keeps.bytes.unwrap_or(u64::MAX),
                age,
            };
            namespaces.set(namespace);
        }
    }
    namespaces
}

impl Host {
    pub(crate) fn new(setup: &Setup, shard: usize, links: Links, node: Arc<Node>, now: Instant) -> Self {
        let (shard, shards) = (shard as u16, setup.shards as u16);
        let hub = Hub::new(HubConfig {
            shard,
            shards,
            node: "sim".to_owned(),
            version: "0".to_owned(),
            seed: setup.seed,
            secret: Secret([setup.seed as u8; 32]),
            limits: setup.hub_limits,
            namespaces: namespaces(setup),
            heartbeat_interval_ms: setup.limits.heartbeat_interval.as_millis() as u64,
            message_bytes: setup.limits.message_bytes as u64,
            replay: setup.memory.replay.unwrap_or_else(|| {
                ReplayLimits::for_outbox(setup.limits.outbox.messages, setup.limits.outbox.bytes)
            }),
        });
        let policy = Policy {
            prefix: String::new(),
            mode: Mode::Development,
            demo_endpoint: true,
            echo: setup.habits.has_echo,
            allowed_origins: Vec::new(),
        };
        let config = ShardConfig {
            shard,
            shards,
            policy,
            limits: setup.limits.clone(),
            compression: setup.compression,
        };
        let counters = Arc::new(Counters::default());
        let (buffers, buffer_bytes) = setup.buffers;
        let io = IoConfig {
            shard,
            table: setup.table,
            buffers,
            buffer_bytes,
            takes_newest_slot: setup.takes_newest_slot,
            notices_resets_while_paused: setup.notices_resets_while_paused,
        };
        Self {
            io: SimIo::new(io, now),
            shard: ShardLoop::new(config, hub, links, node, Arc::clone(&counters), now),
            counters,
            state: State::Awake,
            wakes_at: None,
            stalled_until: 0,
        }
    }

    /// One turn of the shard's loop.
    pub(crate) fn tick(&mut self) {
        self.state = match self.shard.tick(&mut self.io) {
            Next::Again => State::Awake,
            Next::Until(until) => State::Asleep { until: Some(until) },
            Next::Park => State::Asleep { until: None },
            Next::Stop => State::Stopped,
        };
    }

    /// Whether the shard has something to do, apart from being stalled.
    pub(crate) fn is_due(&self, now: Instant, tick: u64) -> bool {
        match self.state {
            State::Awake => true,
            State::Stopped => false,
            State::Asleep { until } => {
                until.is_some_and(|until| now >= until)
                    || self.wakes_at.is_some_and(|at| tick >= at)
                    || self.io.has_visible_events(tick)
            }
        }
    }

    /// Whether it sleeps, and nothing that is under way will wake it.
    pub(crate) fn is_still(&self) -> bool {
        match self.state {
            State::Awake => false,
            State::Stopped => true,
            State::Asleep { .. } => self.wakes_at.is_none() && !self.io.has_events(),
        }
    }

    /// When it wakes by itself.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Asleep { until } => until,
            _ => None,
        }
    }

    /// Shards to which records wait for room in a ring.
    pub(crate) fn spills_to(&self) -> ShardSet {
        self.shard.spills_to()
    }

    /// Whether nothing of any connection is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.shard.is_empty()
    }
}
