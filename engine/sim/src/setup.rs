//! What a seed decides before the first tick: sizes, rates, and who takes part. Parts can be left out, which is how
//! a failure is made smaller.

mod delivery;
mod memory;
mod waiting;

use std::time::Duration;

use corecast_hub::HubLimits;
use corecast_shard::rings::RingConfig;
use corecast_shard::{CompressionConfig, CompressionMode, OutboxLimits, ShardLimits};

use crate::chaos::Fault;
use crate::client::{Habits, Temper};
use crate::oracle::AckLimits;
pub use memory::Memory;
pub use waiting::Waiting;

/// Everything that a run is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// From this all else follows.
    pub seed: u64,
    /// Turns of a shard's loop until the run comes to its end.
    pub ticks: u64,
    /// Shards of the node.
    pub shards: usize,
    /// Clients by temper.
    pub tempers: Vec<Temper>,
    /// Clients that take no part.
    pub without: Vec<u32>,
    /// Channels of each class.
    pub rooms: usize,
    /// Participants that clients share.
    pub participants: usize,
    /// Rings between shards.
    pub rings: RingConfig,
    /// Bounds of each shard.
    pub limits: ShardLimits,
    /// What is sent compressed to those who offer it.
    pub compression: CompressionConfig,
    /// Bounds of the hub.
    pub hub_limits: HubLimits,
    /// What is kept of channels.
    pub memory: Memory,
    /// Receive buffers of each shard, and their bytes.
    pub buffers: (usize, usize),
    /// Slots of each shard's table.
    pub table: usize,
    /// Bytes that the network holds in each direction of a connection.
    pub pipe_bytes: usize,
    /// One strike in so many chances, by [`Fault`]; 0 for never.
    pub one_in: [u32; Fault::ALL.len()],
    /// How clients behave.
    pub habits: Habits,
    /// Whether slots are used again at once.
    pub takes_newest_slot: bool,
    /// Whether resets are noticed while a connection is paused.
    pub notices_resets_while_paused: bool,
    /// Ticks between two moments of rest.
    pub busy_ticks: u64,
    /// How the run ends.
    pub ending: Ending,
    /// Whether one shard stands still when a drain begins.
    pub has_laggard: bool,
}

/// How a run ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// All clients leave.
    EverybodyLeaves,
    /// The node drains in the middle of everything.
    DrainUnderLoad,
}

impl Setup {
    /// What this seed decides.
    pub fn of(seed: u64, ticks: u64) -> Self {
        let mut setup = Self::of_moment(seed, ticks);
        // What channels remember came later than all else, and is drawn apart too.
        let (one_in, memory) = Memory::of(seed, setup.shards);
        setup.one_in[Fault::Recovery as usize] = one_in;
        setup.remember(memory);
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x2e9e_7171);
        setup.one_in[Fault::Repetition as usize] = if rng.u32(..3) == 0 { 0 } else { rng.u32(1..20) };
        setup.one_in[Fault::Presence as usize] = if rng.u32(..3) == 0 { 0 } else { rng.u32(1..6) };
        let (one_in, waiting) = Waiting::of(seed);
        setup.one_in[Fault::Resume as usize] = one_in;
        setup.keep_sessions(waiting);
        delivery::of(seed, &mut setup.one_in, &mut setup.hub_limits);
        if waiting.window_ms > 0 && delivery::is_plain(seed) {
            setup.leave_out(Fault::Filters);
            setup.leave_out(Fault::Acks);
        }
        setup
    }

    /// How long sessions wait, and how many.
    fn keep_sessions(&mut self, waiting: Waiting) {
        self.hub_limits.resume_window_ms = waiting.window_ms;
        self.hub_limits.sessions = waiting.sessions;
        self.habits.sessions = waiting;
        // What is filtered or acknowledged is kept apart from sessions that have patterns, or find little room.
        self.habits.has_patterns = waiting.window_ms == 0 || delivery::is_plain(self.seed);
        let drawn = Self::of_moment(self.seed, self.ticks).hub_limits.subscriptions_per_connection;
        let limit = if self.habits.has_patterns { drawn } else { drawn.max(SUBSCRIPTIONS) };
        self.hub_limits.subscriptions_per_connection = limit;
        self.habits.subscriptions_limit = limit as usize;
    }

    fn remember(&mut self, memory: Memory) {
        self.hub_limits.history_bytes = memory.bytes.unwrap_or(HubLimits::default().history_bytes);
        self.memory = memory;
    }

    /// All that has nothing to do with the past.
    fn of_moment(seed: u64, ticks: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let shards = [1, 2, 3, 3, 4][rng.usize(..5)];
        let clients = clients(&mut rng);
        let has_tiny_rings = shards > 1 && rng.u32(..3) > 0;
        let is_tight = rng.u32(..3) == 0;
        // Compression came later: it is drawn apart, so that without it runs stay what they were.
        let mut apart = fastrand::Rng::with_seed(seed ^ 0x0def_1a7e);
        let compression = compression(&mut apart);
        let one_in = rates(&mut rng, &mut apart);
        let table = if rng.u32(..6) == 0 { (clients / shards).max(4) } else { clients * 4 };
        // More messages than rings and outboxes hold, though not more bytes than a run has time for.
        let is_busy = rng.u32(..3) == 0;
        let mut limits = limits(&mut rng, (is_tight, is_busy), table);
        let is_small = rng.u32(..8) == 0;
        if is_small {
            limits.connections = rng.usize(1..clients);
        }
        let hub_limits = hub_limits(&mut rng);
        let habits = Habits {
            idle: if is_busy { rng.u32(1..4) } else { rng.u32(1..30) },
            burst: if is_busy { rng.u32(6..20) } else { rng.u32(1..12) },
            large_bytes: large_bytes(&mut rng, is_busy),
            subscriptions_max: rng.usize(1..20),
            is_tight: is_tight || is_late(&one_in) || is_busy,
            has_small_outboxes: limits.outbox.messages <= 1_000,
            close_timeout_us: limits.close_timeout.as_micros() as u64,
            is_crowded: is_small || table < clients * 4,
            jumps: one_in[Fault::ClockJump as usize] > 0,
            subscriptions_limit: hub_limits.subscriptions_per_connection as usize,
            room_here: limits.connections_here,
            message_bytes: limits.message_bytes,
            fragments_max: limits.message_fragments,
            json_depth: limits.json_depth,
            has_echo: rng.u32(..3) == 0,
            takes_deflate: compression.mode != CompressionMode::Off,
            limits_who: hub_limits.connections_per_ip > 0,
            clients_per_ip: rng.u32(1..6),
            sessions: Waiting::default(),
            has_patterns: true,
        };
        let has_few_buffers = one_in[Fault::BufferShortage as usize] > 0 && rng.bool();
        Self {
            seed,
            ticks,
            shards,
            tempers: tempers(&mut rng, clients),
            without: Vec::new(),
            rooms: rng.usize(1..8),
            participants: rng.usize(1..=clients),
            rings: rings(&mut rng, has_tiny_rings),
            hub_limits,
            limits,
            memory: Memory::default(),
            compression,
            buffers: if has_few_buffers { (rng.usize(1..8), rng.usize(16..400)) } else { BUFFERS },
            table,
            // Large messages through a thin pipe would take the whole run.
            pipe_bytes: [600, 4_000, 64_000][rng.usize(..3)].max(habits.large_bytes / 2),
            one_in,
            habits,
            takes_newest_slot: rng.bool(),
            notices_resets_while_paused: rng.bool(),
            busy_ticks: if rng.bool() { rng.u64(200..1_500) } else { rng.u64(1_500..8_000) },
            ending: if rng.bool() { Ending::DrainUnderLoad } else { Ending::EverybodyLeaves },
            has_laggard: shards > 1 && rng.bool(),
        }
    }
}

impl Setup {
    /// Whether channels may be forgotten, or what is kept of them.
    pub fn is_forgetful(&self) -> bool {
        let default = HubLimits::default();
        self.hub_limits.idle_channels < default.idle_channels
            || self.hub_limits.history_bytes < default.history_bytes
    }

    /// When and how often what is not acknowledged is sent again.
    pub fn ack_limits(&self) -> AckLimits {
        let timeout_us = 1_000 * self.hub_limits.ack_timeout_ms;
        AckLimits { timeout_us, attempts: self.hub_limits.ack_attempts }
    }

    /// The same without a fault.
    pub fn leave_out(&mut self, fault: Fault) {
        self.one_in[fault as usize] = 0;
        match fault {
            Fault::BufferShortage => self.buffers = BUFFERS,
            Fault::Acks => delivery::without_acks(&mut self.hub_limits),
            Fault::Recovery => self.remember(Memory::default()),
            Fault::Resume => self.keep_sessions(Waiting::default()),
            _ => {}
        }
    }
}

/// Small towns are quick, and what few do is rarely covered up by others.
fn clients(rng: &mut fastrand::Rng) -> usize {
    match rng.u32(..4) {
        0 => rng.usize(2..12),
        1 => rng.usize(12..40),
        _ => rng.usize(40..200),
    }
}

/// Who talks much sends small messages: a run has time for so many bytes only.
fn large_bytes(rng: &mut fastrand::Rng, is_busy: bool) -> usize {
    if is_busy { rng.usize(100..1_000) } else { [100, 1_000, 9_000, 70_000][rng.usize(..4)] }
}

/// Whether the server may find clients slow that are not.
fn is_late(one_in: &[u32; Fault::ALL.len()]) -> bool {
    let late = [Fault::DelayedCompletion, Fault::ShortWrite, Fault::ShardStall, Fault::BufferShortage];
    late.iter().any(|fault| one_in[*fault as usize] > 0)
}

/// Subscriptions of a connection, where that is no narrow bound.
const SUBSCRIPTIONS: u32 = 50;

/// Receive buffers that never run out, and their bytes.
const BUFFERS: (usize, usize) = (1024, 4096);

/// Each fault is off in some runs, rare in some, and common in some.
fn rates(rng: &mut fastrand::Rng, apart: &mut fastrand::Rng) -> [u32; Fault::ALL.len()] {
    let mut one_in = [0; Fault::ALL.len()];
    for fault in Fault::ALL {
        let rng = match fault {
            Fault::Recovery
            | Fault::Repetition
            | Fault::Presence
            | Fault::Resume
            | Fault::Acks
            | Fault::Filters
            | Fault::Receipts => {
                continue;
            }
            Fault::Deflate | Fault::BadDeflate => &mut *apart,
            _ => &mut *rng,
        };
        let rate = match fault {
            Fault::ShortRead | Fault::ShortWrite | Fault::DelayedCompletion => rng.u32(2..60),
            Fault::ClockJump => rng.u32(150..1_500),
            Fault::WallClockJump | Fault::SpuriousWake => rng.u32(50..500),
            Fault::ShardStall => rng.u32(100..1_000),
            Fault::WakeFailure => rng.u32(2..40),
            Fault::BadHandshake | Fault::ByteByByte | Fault::Deflate => rng.u32(1..4),
            Fault::PeerReset | Fault::HalfOpen => rng.u32(2..15),
            Fault::BadDeflate => rng.u32(1..6),
            _ => rng.u32(2..25),
        };
        one_in[fault as usize] = if rng.u32(..3) == 0 { 0 } else { rate };
    }
    one_in
}

/// Off in some runs in which it is offered; thresholds below what most messages have, and above.
fn compression(rng: &mut fastrand::Rng) -> CompressionConfig {
    CompressionConfig {
        mode: match rng.u32(..6) {
            0 => CompressionMode::Off,
            1..4 => CompressionMode::Standard,
            _ => CompressionMode::Adaptive,
        },
        level: rng.u32(1..10),
        threshold_bytes: [0, 1, 64, 256, 300, 1_000][rng.usize(..6)],
    }
}

fn tempers(rng: &mut fastrand::Rng, clients: usize) -> Vec<Temper> {
    let good = rng.u32(1..8);
    (0..clients)
        .map(
            |_| if rng.u32(..10) < good { Temper::Good } else { Temper::ALL[rng.usize(..Temper::ALL.len())] },
        )
        .collect()
}

fn rings(rng: &mut fastrand::Rng, is_tiny: bool) -> RingConfig {
    if !is_tiny {
        return RingConfig::default();
    }
    let inline_bytes = rng.usize(400..1_500);
    let least = 4 * (inline_bytes + 4);
    // Where one class has room and the other has not, one can run ahead of the other.
    let spare = |rng: &mut fastrand::Rng| if rng.u32(..4) == 0 { 100_000 } else { rng.usize(..4_000) };
    RingConfig {
        request_bytes: least + spare(rng),
        deliver_bytes: least + spare(rng),
        spill_bytes: rng.usize(100..8_000),
        inline_bytes,
    }
}

/// Limits per address and participant are on in some runs only; so are few subscriptions.
fn hub_limits(rng: &mut fastrand::Rng) -> HubLimits {
    let limits_who = rng.u32(..5) == 0;
    HubLimits {
        connections_per_participant: if limits_who { rng.u32(1..4) } else { 0 },
        connections_per_ip: if limits_who { rng.u32(1..5) } else { 0 },
        subscriptions_per_connection: if rng.u32(..4) == 0 { rng.u32(1..10) } else { SUBSCRIPTIONS },
        idle_channels: if rng.u32(..3) == 0 { rng.u32(1..4) } else { 65_536 },
        // Drawn apart.
        resume_window_ms: 0,
        ..HubLimits::default()
    }
}

fn limits(rng: &mut fastrand::Rng, (is_tight, is_busy): (bool, bool), table: usize) -> ShardLimits {
    let messages = match is_tight {
        true => rng.usize(8..100),
        false if is_busy => 1_000,
        false => 8_000,
    };
    let bytes = if is_tight { 256 << 10 } else { 64 << 20 };
    ShardLimits {
        connections: 1_000_000,
        connections_here: table.saturating_sub(2).max(2),
        message_bytes: 128 << 10,
        message_fragments: 16,
        outbox: OutboxLimits { messages, bytes },
        handshake_timeout: Duration::from_millis(500),
        heartbeat_interval: Duration::from_millis(rng.u64(500..3_000)),
        pong_timeout: Duration::from_millis(200),
        missed_pongs: 3,
        idle_timeout: Duration::ZERO,
        close_timeout: Duration::from_millis(300),
        drain_timeout: Duration::from_secs(10),
        ..ShardLimits::default()
    }
}
