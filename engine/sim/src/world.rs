//! A run: which shard is run next, how time passes, when all rests and is checked.
//!
//! Single-threaded, and everything that happens follows from the seed.

mod audit;
mod checks;
mod phases;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corecast_driver::ShardId;
use corecast_shard::Node;
use corecast_shard::rings::mesh;

use audit::Statement;

use crate::books::Book;
use crate::chaos::{Chaos, Fault, FaultCounts};
use crate::client::deeds::DeedCounts;
use crate::client::{Client, Town};
use crate::host::{Host, State};
use crate::names::Names;
use crate::net::Net;
use crate::oracle::{Check, Checked, Failure, Oracle};
use crate::setup::{Ending, Setup};
use crate::trace::Trace;

/// Messages that clients read per tick, on average; then the run comes to its end.
const DELIVERIES_PER_TICK: u64 = 20;

/// Clients that get a turn in one tick.
const TURNS_PER_TICK: usize = 6;

/// The wall clock at the start, in milliseconds since the Unix epoch.
const WALL_START_MS: u64 = 1_700_000_000_000;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Equal for equal runs.
    pub hash: u64,
    /// Turns of shards' loops.
    pub ticks: u64,
    /// Messages that clients read.
    pub deliveries: u64,
    /// Publishes that were answered.
    pub accepted: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Times at which everything rested and was checked.
    pub settled: u64,
    /// How often each fault struck.
    pub faults: FaultCounts,
    /// How often clients did what they can do.
    pub deeds: DeedCounts,
    /// The promise that was broken.
    pub failure: Option<Failure>,
    /// The last that happened, where lines were kept.
    pub lines: Vec<String>,
}

/// A node, its clients and the time.
#[derive(Debug)]
pub struct World {
    setup: Setup,
    rng: fastrand::Rng,
    hosts: Vec<Host>,
    clients: Vec<Client>,
    town: Town,
    node: Arc<Node>,
    start: Instant,
    /// What the wall clock is ahead of the monotonic one, in milliseconds.
    wall_ahead_ms: i64,
    tick: u64,
    settled: u64,
    /// Whether two shards had records for each other that found no room.
    were_full: bool,
    /// Steps in which no client got on.
    idle_steps: u64,
    /// What shards had counted and clients had seen then, by shard.
    settled_at: Vec<Statement>,
}

impl World {
    /// The beginning of a run that keeps the last `lines` lines of what happens.
    pub fn new(setup: Setup, lines: usize) -> Self {
        let start = Instant::now();
        let names = Rc::new(Names::new(setup.rooms, setup.participants));
        let node = Node::new();
        let links = mesh(setup.shards, setup.rings);
        let hosts = links.into_iter().enumerate();
        let hosts =
            hosts.map(|(shard, links)| Host::new(&setup, shard, links, Arc::clone(&node), start)).collect();
        let clients = (0..).zip(&setup.tempers).filter(|(index, _)| !setup.without.contains(index));
        let clients =
            clients.map(|(index, temper)| Client::new(setup.seed, index, *temper, &names)).collect();
        let town = Town {
            net: Net::new(setup.shards, setup.pipe_bytes),
            chaos: Chaos::new(setup.seed, setup.one_in),
            oracle: Oracle::new(
                Rc::clone(&names),
                setup.memory.keeps,
                setup.is_forgetful(),
                setup.habits.sessions.window_us(),
            )
            .with_acks(setup.ack_limits()),
            trace: Trace::new(lines),
            deeds: DeedCounts::default(),
            names,
            habits: setup.habits,
            now_us: 0,
            is_settling: false,
            is_draining: false,
            overdue_at_us: 0,
            serials: 0,
            largest_bytes: 0,
            books: vec![Book::default(); setup.shards],
            is_steady: false,
            all_are_known: false,
            nobody_types: false,
            nobody_waits: true,
            rests: 0,
        };
        Self {
            rng: fastrand::Rng::with_seed(setup.seed ^ 0x5eed),
            hosts,
            clients,
            town,
            node,
            start,
            wall_ahead_ms: 0,
            tick: 0,
            settled: 0,
            were_full: false,
            idle_steps: 0,
            settled_at: vec![Statement::default(); setup.shards],
            setup,
        }
    }

    /// What the run came to so far.
    pub fn outcome(&self, failure: Option<Failure>) -> Outcome {
        Outcome {
            hash: self.town.trace.hash(),
            ticks: self.tick,
            deliveries: self.town.oracle.delivered,
            accepted: self.town.oracle.accepted,
            connections: u64::from(self.town.serials),
            settled: self.settled,
            faults: self.town.chaos.counts(),
            deeds: self.town.deeds.clone(),
            failure,
            lines: self.town.trace.lines().map(str::to_owned).collect(),
        }
    }

    /// Runs to the end, or to the first broken promise.
    ///
    /// # Errors
    /// The promise.
    pub fn run(&mut self) -> Checked {
        // Large towns that talk much would take a hundred times as long as others.
        let deliveries_max = DELIVERIES_PER_TICK * self.setup.ticks;
        let is_over =
            |world: &Self| world.tick >= world.setup.ticks || world.town.oracle.delivered >= deliveries_max;
        while !is_over(self) {
            let until = (self.tick + self.setup.busy_ticks).min(self.setup.ticks);
            while self.tick < until && !is_over(self) {
                self.step()?;
            }
            if is_over(self) && self.setup.ending == Ending::DrainUnderLoad {
                break;
            }
            self.fall_behind()?;
            self.settle()?;
            self.rest()?;
            self.town.is_steady = self.rng.bool();
        }
        match self.setup.ending {
            Ending::EverybodyLeaves => self.everybody_leaves(),
            Ending::DrainUnderLoad => self.drain(),
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.town.now_us)
    }

    /// A turn for some clients, and one for a shard that has something to do; whether anything moved.
    fn step(&mut self) -> Result<bool, Failure> {
        self.town.now_us += self.rng.u64(1..40);
        self.disturb();
        let is_sure = !self.hosts.iter().any(|host| self.tick < host.stalled_until);
        self.town.oracle.time_passes(self.town.now_us, is_sure);
        let mut has_moved = false;
        // On the way to rest everybody gets a turn: that is shorter, and shows when nothing moves.
        let is_settling = self.town.is_settling || self.town.is_draining;
        let turns = if is_settling { self.clients.len() } else { TURNS_PER_TICK.min(self.clients.len()) };
        let first = self.rng.usize(..self.clients.len().max(1));
        for turn in 0..turns {
            let index = if is_settling { first + turn } else { self.rng.usize(..self.clients.len()) };
            let index = index % self.clients.len();
            has_moved |= self.clients[index].step(&mut self.town)?;
        }
        self.idle_steps = if has_moved { 0 } else { self.idle_steps + 1 };
        let shards = if is_settling { self.hosts.len() } else { 1 };
        for _ in 0..shards {
            has_moved |= self.run_a_shard()?;
        }
        Ok(has_moved)
    }

    /// What befalls the whole host.
    fn disturb(&mut self) {
        let chaos = &mut self.town.chaos;
        if chaos.strikes(Fault::ClockJump) {
            let jump_ms_max = if chaos.below(Fault::ClockJump, 8) == 0 { 2_000 } else { 50 };
            self.town.now_us += 1_000 * chaos.below(Fault::ClockJump, jump_ms_max) as u64;
        }
        if chaos.strikes(Fault::WallClockJump) {
            self.wall_ahead_ms += chaos.below(Fault::WallClockJump, 20_000) as i64 - 10_000;
        }
        if self.hosts.len() > 1 && chaos.strikes(Fault::ShardStall) {
            let index = chaos.below(Fault::ShardStall, self.hosts.len());
            self.hosts[index].stalled_until = self.tick + chaos.below(Fault::ShardStall, 400) as u64;
        }
    }

    /// Runs one of the shards that have something to do; whether there was one.
    fn run_a_shard(&mut self) -> Result<bool, Failure> {
        self.tick += 1;
        (self.town.trace.tick, self.town.trace.now_us) = (self.tick, self.town.now_us);
        let now = self.now();
        let first = self.rng.usize(..self.hosts.len());
        for step in 0..self.hosts.len() {
            let index = (first + step) % self.hosts.len();
            let host = &mut self.hosts[index];
            if host.state == State::Stopped || self.tick < host.stalled_until {
                continue;
            }
            host.io.advance(&mut self.town.net, &mut self.town.chaos, self.tick);
            let is_due = host.is_due(now, self.tick);
            if is_due || self.town.chaos.strikes(Fault::SpuriousWake) {
                self.turn(index, now)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One turn of a shard, and what follows from it.
    fn turn(&mut self, index: usize, now: Instant) -> Checked {
        let host = &mut self.hosts[index];
        host.wakes_at = None;
        host.io.now = now;
        let wall_ms = WALL_START_MS + self.town.now_us / 1_000;
        host.io.unix_ms = wall_ms.saturating_add_signed(self.wall_ahead_ms);
        self.town.oracle.wall_clock(host.io.unix_ms);
        host.tick();
        if let Some(breach) = host.io.breaches.pop() {
            return Err(Failure::new(Check::Driver, format!("shard {index}: {breach}")));
        }
        // The kernel takes what was sent before anybody else runs.
        host.io.advance(&mut self.town.net, &mut self.town.chaos, self.tick);
        let wakes = std::mem::take(&mut host.io.wakes);
        for ShardId(woken) in &wakes {
            if self.town.chaos.strikes(Fault::WakeFailure) {
                self.hosts[index].io.failed_wakes.push_back(ShardId(*woken));
            } else {
                let delay = self.rng.u64(..6);
                let at = &mut self.hosts[usize::from(*woken)].wakes_at;
                *at = Some(at.map_or(self.tick + delay, |earlier| earlier.min(self.tick + delay)));
            }
        }
        self.hosts[index].io.wakes = {
            let mut wakes = wakes;
            wakes.clear();
            wakes
        };
        let state = match self.hosts[index].state {
            State::Awake => 0,
            State::Asleep { .. } => 1,
            State::Stopped => 2,
        };
        self.town.trace.note("turn", &[index as u64, state]);
        self.check_bounds(index)
    }
}
