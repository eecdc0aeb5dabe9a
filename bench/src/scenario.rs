//! The scenarios: what is connected, what is published, and how a run is put together.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::audit::Audit;
use crate::client::{Job, Outcome, Worker, histogram, open};
use crate::cpu;
use crate::report::RunResult;
use crate::server::{Placement, Server};

/// One scenario's numbers.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    kind: Kind,
    connections: usize,
    room: usize,
    /// Publishes per second.
    rate: f64,
    size: usize,
    seconds: f64,
    shards: usize,
    workers: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Load,
    Echo,
    Idle,
    Connect,
    Slow,
    Ramp,
}

/// Numbers to be used in place of a scenario's own.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Overrides {
    /// Connections
    #[arg(long)]
    connections: Option<usize>,
    /// Members of a room
    #[arg(long)]
    room: Option<usize>,
    /// Publishes per second
    #[arg(long)]
    rate: Option<f64>,
    /// Bytes of payload
    #[arg(long)]
    size: Option<usize>,
    /// Seconds that are measured
    #[arg(long)]
    seconds: Option<f64>,
    /// Shards of the server
    #[arg(long)]
    shards: Option<usize>,
    /// Threads of the load generator
    #[arg(long)]
    workers: Option<usize>,
}

const fn load(name: &'static str, connections: usize, room: usize, rate: f64) -> Scenario {
    Scenario {
        name,
        kind: Kind::Load,
        connections,
        room,
        rate,
        size: 64,
        seconds: 5.0,
        shards: 1,
        workers: 1,
    }
}

const ALL: &[Scenario] = &[
    load("fanout-1k", 1000, 1000, 100.0),
    load("rooms-1k", 1000, 10, 6000.0),
    load("rooms-5k", 5000, 10, 6000.0),
    load("rooms-10k", 10_000, 10, 6000.0),
    load("burst", 100, 100, 20_000.0),
    Scenario { shards: 2, ..load("two-shards", 1000, 10, 6000.0) },
    Scenario { kind: Kind::Echo, ..load("echo", 100, 1, 10_000.0) },
    Scenario { kind: Kind::Slow, ..load("slow-consumer", 100, 10, 2000.0) },
    Scenario { kind: Kind::Ramp, seconds: 2.0, ..load("ramp", 1000, 10, 2000.0) },
    Scenario { kind: Kind::Idle, shards: 2, ..load("idle-20k", 20_000, 10, 0.0) },
    Scenario { kind: Kind::Connect, ..load("connect", 10_000, 10, 0.0) },
];

impl Scenario {
    /// By name.
    pub(crate) fn find(name: &str) -> Result<Self> {
        let names = || ALL.iter().map(|it| it.name).collect::<Vec<_>>().join(", ");
        ALL.iter()
            .find(|it| it.name == name)
            .cloned()
            .ok_or_else(|| anyhow!("no scenario {name}: there are {}", names()))
    }

    /// With other numbers.
    pub(crate) fn with(mut self, it: &Overrides) -> Self {
        self.connections = it.connections.unwrap_or(self.connections);
        self.room = it.room.unwrap_or(self.room);
        self.rate = it.rate.unwrap_or(self.rate);
        self.size = it.size.unwrap_or(self.size);
        self.seconds = it.seconds.unwrap_or(self.seconds);
        self.shards = it.shards.unwrap_or(self.shards);
        self.workers = it.workers.unwrap_or(self.workers).max(1);
        self
    }

    fn placement(&self) -> Placement {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Placement { shards: self.shards, cores: self.shards.min(cores) }
    }

    /// Starts the server, runs the load, ends the server.
    pub(crate) fn run(&self, server: &str) -> Result<RunResult> {
        match self.kind {
            Kind::Connect => self.run_connect(server),
            Kind::Idle => self.run_idle(server),
            Kind::Ramp => self.run_ramp(server),
            Kind::Load | Kind::Echo | Kind::Slow => self.run_load(server),
        }
    }

    fn jobs(&self, port: u16, placement: Placement) -> Vec<Job> {
        let rooms = (self.connections / self.room.max(1)).max(1);
        let workers = self.workers.min(rooms);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut first = 0;
        (0..workers)
            .map(|worker| {
                let own = rooms / workers + usize::from(worker < rooms % workers);
                let connections = own * self.room;
                let job = Job {
                    port,
                    first,
                    connections,
                    room: self.room,
                    name: format!("bench{worker}-"),
                    rate: self.rate * own as f64 / rooms as f64,
                    size: self.size,
                    warmup: Duration::from_secs_f64((self.seconds / 5.0).min(1.0)),
                    time: Duration::from_secs_f64(self.seconds),
                    is_echo: self.kind == Kind::Echo,
                    deaf: if self.kind == Kind::Slow && worker == 0 { 1 } else { 0 },
                    core: Some((placement.cores.min(cores - 1) + worker) % cores),
                };
                first += connections;
                job
            })
            .collect()
    }

    fn run_load(&self, what: &str) -> Result<RunResult> {
        let placement = self.placement();
        let server = Server::start(what, placement)?;
        let jobs = self.jobs(server.port, placement);
        let begin = Instant::now();
        let workers = jobs.into_iter().map(Worker::connect).collect::<Result<Vec<_>>>()?;
        let connect_seconds = begin.elapsed().as_secs_f64();
        let counters = ["wakes", "parks", "spills", "stalls", "sends", "ticks", "kernel_entries"];
        let counters_before = counters.map(|name| server.counter(name));
        let process = cpu::process_seconds(server.pid());
        let idle: f64 = (0..placement.cores).map(cpu::core_idle_seconds).sum();
        let measured = Instant::now();
        let start = Instant::now() + Duration::from_millis(200);
        let threads: Vec<_> = workers
            .into_iter()
            .map(|worker| {
                std::thread::spawn(move || {
                    std::thread::sleep(start.saturating_duration_since(Instant::now()));
                    worker.run(start)
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for thread in threads {
            outcomes.push(thread.join().map_err(|_| anyhow!("a worker panicked"))??);
        }
        let mut result = self.collect(what, outcomes);
        result.server_cpu_seconds = cpu::process_seconds(server.pid()) - process;
        let idle = (0..placement.cores).map(cpu::core_idle_seconds).sum::<f64>() - idle;
        result.core_busy_seconds =
            (measured.elapsed().as_secs_f64() * placement.cores as f64 - idle).max(0.0);
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        result.connect_seconds = connect_seconds;
        for (name, before) in counters.iter().zip(counters_before) {
            if let (Some(before), Some(after)) = (before, server.counter(name)) {
                result.counters.insert((*name).to_owned(), after - before);
            }
        }
        if self.kind == Kind::Slow {
            // The deaf member may be disconnected or dropped to; the others are audited.
            result.note = format!("1 of {} members never reads", self.connections);
        }
        Ok(result)
    }

    fn collect(&self, what: &str, outcomes: Vec<Outcome>) -> RunResult {
        let (mut latency, mut slip) = (histogram(), histogram());
        let mut audit = Audit::default();
        let (mut published, mut measured, mut idle, mut closed) = (0, 0, 1.0f64, 0);
        for outcome in outcomes {
            latency.add(&outcome.latency_ns).expect("the same bounds");
            slip.add(&outcome.slip_ns).expect("the same bounds");
            audit.add(outcome.audit);
            published += outcome.published;
            measured += outcome.measured;
            idle = idle.min(outcome.idle_share);
            closed += outcome.closed;
        }
        let mut result = RunResult::new(self.name, what, self.connections, self.size);
        result.latency(&latency);
        result.audit = audit;
        result.published = published;
        result.deliveries_per_second = measured as f64 / self.seconds;
        result.slip_p99_us = slip.value_at_quantile(0.99) as f64 / 1e3;
        result.client_idle_share = idle;
        result.closed = closed;
        result
    }

    /// Handshakes only, from several threads so that the server is never idle.
    fn run_connect(&self, what: &str) -> Result<RunResult> {
        let server = Server::start(what, self.placement())?;
        let before = cpu::process_seconds(server.pid());
        let (port, threads) = (server.port, 8.min(self.connections));
        let begin = Instant::now();
        let openers: Vec<_> = (0..threads)
            .map(|thread| {
                let numbers: Vec<usize> = (0..self.connections).filter(|it| it % threads == thread).collect();
                std::thread::spawn(move || {
                    numbers.into_iter().map(|it| open(port, it, "/ws")).collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        let mut streams = Vec::new();
        for opener in openers {
            streams.extend(opener.join().map_err(|_| anyhow!("an opener panicked"))??);
        }
        let mut result = RunResult::new(self.name, what, self.connections, 0);
        result.connect_seconds = begin.elapsed().as_secs_f64();
        result.server_cpu_seconds = cpu::process_seconds(server.pid()) - before;
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        result.note = format!("{} handshakes in {:.2} s", streams.len(), result.connect_seconds);
        Ok(result)
    }

    /// Memory of connections that do nothing. The other end lives in processes of its own: 20,000 descriptors are
    /// the limit of one.
    fn run_idle(&self, what: &str) -> Result<RunResult> {
        let server = Server::start(what, self.placement())?;
        let few = 100.min(self.connections);
        let mut helpers = vec![Helper::start(server.port, 0, few)?];
        let base = cpu::resident_kib(server.pid());
        let mut opened = few;
        while opened < self.connections {
            let next = 9000.min(self.connections - opened);
            helpers.push(Helper::start(server.port, opened, next)?);
            opened += next;
        }
        let mut result = RunResult::new(self.name, what, self.connections, 0);
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        let each = (result.resident_kib - base) as f64 / (opened - few) as f64;
        result.note = format!("{each:.2} KiB resident per connection beyond the first {few} ({base} KiB)");
        result.kib_per_connection = each;
        Ok(result)
    }

    /// Rises the rate until the 99th percentile passes a millisecond.
    fn run_ramp(&self, what: &str) -> Result<RunResult> {
        let mut best: Option<RunResult> = None;
        let mut step = Self { kind: Kind::Load, ..self.clone() };
        loop {
            let result = step.run_load(what)?;
            eprintln!("{:>8.0} publishes/s: p99 {:.0} us", step.rate, result.p99_us);
            let is_over = result.p99_us > 1000.0 || !result.is_clean();
            if is_over || step.rate > 1e6 {
                let mut knee = best.unwrap_or(result);
                knee.note =
                    format!("the knee: {:.0} deliveries/s with p99 under 1 ms", knee.deliveries_per_second);
                knee.scenario = self.name.to_owned();
                return Ok(knee);
            }
            best = Some(result);
            step.rate *= 1.3;
        }
    }
}

/// A process that opens connections and holds them until it is ended.
struct Helper(std::process::Child);

impl Helper {
    fn start(port: u16, first: usize, count: usize) -> Result<Self> {
        use std::io::BufRead;
        let own = std::env::current_exe().context("this program has no path")?;
        let mut child = std::process::Command::new(own)
            .args(["reference", &format!("hold:{first}:{count}"), "--port", &port.to_string()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .context("a helper can't be started")?;
        let stdout = child.stdout.take().context("a helper has no output")?;
        let mut line = String::new();
        std::io::BufReader::new(stdout).read_line(&mut line).context("a helper says nothing")?;
        if line.trim() != "ready" {
            bail!("a helper could not open its connections: {line}");
        }
        Ok(Self(child))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every scenario, tiny; whether all was clean.
pub(crate) fn smoke() -> Result<bool> {
    let mut is_clean = true;
    for scenario in ALL {
        let mut tiny = scenario.clone();
        tiny.connections = scenario.connections.min(match scenario.kind {
            Kind::Idle | Kind::Connect => 300,
            _ => 100,
        });
        tiny.room = scenario.room.min(tiny.connections);
        tiny.rate = scenario.rate.min(500.0);
        tiny.seconds = 0.5;
        if scenario.kind == Kind::Ramp {
            tiny.kind = Kind::Load;
        }
        let result = tiny.run("corecast").with_context(|| scenario.name)?;
        println!("{}", result.line());
        is_clean &= result.is_clean();
    }
    for reference in ["floor", "raw", "tungstenite"] {
        let mut tiny = ALL[0].clone();
        (tiny.connections, tiny.room, tiny.seconds) = (50, 50, 0.5);
        let result = tiny.run(reference).with_context(|| reference)?;
        println!("{}", result.line());
        is_clean &= result.is_clean();
    }
    match crate::json_cost::smoke()? {
        Some(line) => println!("json-cost      {line}"),
        None => println!("json-cost      left out: there is no valgrind"),
    }
    Ok(is_clean)
}
