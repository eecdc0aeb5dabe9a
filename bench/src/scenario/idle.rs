//! Memory of connections that do nothing, in four steps. The other ends live in processes of their own: 20,000
//! descriptors are the limit of one.

mod helper;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;

use super::Scenario;
use crate::memory::{Kernel, Line, Memory, Point, descriptors_max};
use crate::report::RunResult;
use crate::server::{Placement, Server};
use crate::{cpu, progress};

use helper::Helper;

/// Open before memory is looked at for the first time: what these cost is not told.
const FIRST: usize = 100;
/// Looks at the memory, after equally many connections each.
const STEPS: usize = 4;
/// Of one helper.
const HELD_MAX: usize = 9000;
/// Between two programs that only hold sockets: enough for a line, and within the limits of one process.
const PAIRS_MAX: usize = 10_000;

impl Scenario {
    pub(super) fn run_idle(&self, what: &str) -> Result<RunResult> {
        if self.connections <= FIRST + STEPS {
            bail!(
                "{} compares with the first {FIRST} connections: --connections is more than that",
                self.name
            );
        }
        let pair_kib = pair_kib(self.connections.min(PAIRS_MAX))?;
        let server = Server::start(what, self.placement())?;
        let bar = progress::bar(self.connections, self.name);
        let begin = Instant::now();
        let mut held = Held::new(&server)?;
        let base = cpu::resident_kib(server.pid());
        let points = held.steps(self.connections, &bar)?;
        bar.finish_and_clear();
        let mut result = RunResult::new(self.name, what, self.connections, 0);
        result.connect_seconds = begin.elapsed().as_secs_f64();
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        result.server_cpu_seconds = cpu::process(server.pid()).ran;
        let answered = points.last().map_or(0, |it| it.answered);
        if answered != self.connections {
            result
                .failures
                .push(format!("only {answered} of {} connections answer a ping", self.connections));
        }
        result.check_connected(&server, self.connections);
        let each = result.resident_kib.saturating_sub(base) as f64 / (self.connections - FIRST) as f64;
        result.note = format!("{each:.2} KiB resident per connection beyond the first {FIRST} ({base} KiB)");
        result.kib_per_connection = each;
        let mut memory = Memory::new(points, pair_kib);
        memory.descriptors_max = descriptors_max(server.pid());
        memory.shards = server.clients_by_shard();
        result.memory = Some(memory);
        Ok(result)
    }
}

/// What the kernel needs for a connection whose both ends are held by programs that do nothing else.
fn pair_kib(pairs: usize) -> Result<f64> {
    let server = Server::start("keep", Placement { shards: 1, cores: 1 })?;
    let points = Held::new(&server)?.steps(pairs, &ProgressBar::hidden())?;
    let sums: Vec<(f64, f64)> = points.iter().map(|it| (it.connections as f64, it.both_ends.sum())).collect();
    Ok(Line::through(&sums).slope)
}

/// Connections to a server, and the memory before there were any.
struct Held<'a> {
    server: &'a Server,
    empty: Kernel,
    helpers: Vec<Helper>,
    opened: usize,
}

impl<'a> Held<'a> {
    /// The first ones.
    fn new(server: &'a Server) -> Result<Self> {
        let mut it = Self { server, empty: Kernel::settled(), helpers: Vec::new(), opened: 0 };
        it.open(FIRST)?;
        Ok(it)
    }

    fn open(&mut self, connections: usize) -> Result<()> {
        while self.opened < connections {
            let next = HELD_MAX.min(connections - self.opened);
            let helper = Helper::start(self.server.port, self.opened, next);
            self.helpers.push(helper.with_context(|| format!("behind {} connections", self.opened))?);
            self.opened += next;
        }
        Ok(())
    }

    /// Opens equally many at each step, has all answer a ping and looks at the memory.
    fn steps(&mut self, connections: usize, bar: &ProgressBar) -> Result<Vec<Point>> {
        (1..=STEPS)
            .map(|step| {
                self.open(connections * step / STEPS)?;
                bar.set_position(self.opened as u64);
                // The pong is what a helper reads last: nothing waits in its buffers any more.
                let mut answered = 0;
                for helper in &mut self.helpers {
                    answered += helper.ping()?;
                }
                Ok(Point {
                    connections: self.opened,
                    answered,
                    user_kib: cpu::resident_kib(self.server.pid()) as f64,
                    kernel_kib: 0.0,
                    both_ends: Kernel::now().since(&self.empty),
                })
            })
            .collect()
    }
}

impl RunResult {
    /// Fails where not everybody is connected any more: memory and time of those that are gone say nothing.
    pub(super) fn check_connected(&mut self, server: &Server, open: usize) {
        if open != self.connections {
            self.failures.push(format!("only {open} of {} connections are open", self.connections));
        }
        let until = Instant::now() + Duration::from_secs(1);
        // The server counts a moment later than it answers.
        while let Some(&clients) = server.counters().get("clients")
            && clients != self.connections as u64
        {
            if Instant::now() > until {
                let counted = format!("the server has {clients} clients, not {}", self.connections);
                return self.failures.push(counted);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
