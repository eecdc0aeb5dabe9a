//! The scenarios: what is connected, what is published, and with what numbers. How they run is in the files below.

mod channels;
mod connect;
mod idle;
mod load;
mod modes;
mod presence;
mod ramp;
mod recover;
mod slow;
mod smoke;

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use crate::client::{Dialect, Encoding, Job, Payload, Return};
use crate::report::RunResult;
use crate::server::{Placement, is_bundled, is_corecast};

pub(crate) use smoke::smoke;

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
    /// The channels' namespace, with its colon.
    namespace: &'static str,
    /// Times that everything is done, where it is compared within one run.
    rounds: usize,
    /// Subscribers acknowledge every so many-th message.
    acks_every: Option<u64>,
    dialect: Dialect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Load,
    Echo,
    Idle,
    Connect,
    Slow,
    Ramp,
    /// All clients are cut off and come back.
    Cut(Return),
    Channels,
    Presence,
    Modes,
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
    /// Shards of the server, each on a core of its own while there are cores
    #[arg(long)]
    shards: Option<usize>,
    /// Threads of the load generator. Each has its own rooms and its share of the rate, and takes the next core
    /// behind the server's; one that has to share a core with the server sleeps where it would spin, adding up to
    /// 0.1 ms to latencies, and the whole core's time is then left out of the result
    #[arg(long)]
    workers: Option<usize>,
    #[command(flatten)]
    dialect: Dialect,
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
        namespace: "",
        rounds: 1,
        acks_every: None,
        dialect: Dialect { format: Encoding::Json, payload: Payload::Padding, is_deflated: false },
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
    Scenario { kind: Kind::Slow, size: 4096, ..load("slow-consumer", 100, 10, 2000.0) },
    Scenario { kind: Kind::Ramp, seconds: 2.0, ..load("ramp", 1000, 10, 2000.0) },
    Scenario { kind: Kind::Idle, shards: 2, ..load("idle-20k", 20_000, 10, 0.0) },
    // More than one process may have descriptors for: each shard has a table of its own.
    Scenario { kind: Kind::Idle, shards: 3, ..load("idle-40k", 40_000, 10, 0.0) },
    Scenario { kind: Kind::Connect, ..load("connect", 10_000, 10, 0.0) },
    Scenario {
        kind: Kind::Cut(Return::Recover),
        namespace: "conversation:",
        ..load("recover-10k", 10_000, 10, 3000.0)
    },
    Scenario {
        kind: Kind::Cut(Return::Resume),
        namespace: "conversation:",
        ..load("resume-10k", 10_000, 10, 3000.0)
    },
    Scenario { kind: Kind::Channels, seconds: 2.0, ..load("channels-1m", 10_000, 1, 20_000.0) },
    Scenario {
        kind: Kind::Presence,
        namespace: "conversation:",
        ..load("presence-10k", 10_000, 10_000, 0.0)
    },
    Scenario { kind: Kind::Modes, seconds: 2.0, rounds: 10, ..load("modes", 1000, 1000, 50.0) },
];

impl Scenario {
    /// By name.
    pub(crate) fn find(name: &str) -> Result<Self> {
        let names = || ALL.iter().map(|it| it.name).collect::<Vec<_>>().join(", ");
        ALL.iter()
            .find(|it| it.name == name)
            .cloned()
            .ok_or_else(|| anyhow!("no scenario {name}: there are {}, json-cost", names()))
    }

    /// With other numbers.
    pub(crate) fn with(mut self, it: &Overrides) -> Result<Self> {
        self.connections = it.connections.unwrap_or(self.connections);
        self.room = it.room.unwrap_or(self.room);
        self.rate = it.rate.unwrap_or(self.rate);
        self.size = it.size.unwrap_or(self.size);
        self.seconds = it.seconds.unwrap_or(self.seconds);
        self.shards = it.shards.unwrap_or(self.shards);
        self.workers = it.workers.unwrap_or(self.workers);
        self.dialect = it.dialect;
        if [self.connections, self.room, self.shards, self.workers].contains(&0) {
            bail!("--connections, --room, --shards and --workers are at least 1");
        }
        if !(self.seconds > 0.0 && self.seconds < 86_400.0 && self.rate >= 0.0 && self.rate.is_finite()) {
            bail!("--seconds is above 0 and below a day, --rate is not negative");
        }
        Ok(self)
    }

    /// Starts the server, runs the load, ends the server.
    pub(crate) fn run(&self, server: &str) -> Result<RunResult> {
        let (words, dialect) = self.dialect.of(server)?;
        let is_plain = dialect == Dialect { payload: dialect.payload, ..Dialect::default() };
        if !is_plain && is_bundled(&words) && !is_corecast(&words) {
            bail!("{words} speaks plain JSON only");
        }
        if dialect != Dialect::default() && matches!(self.kind, Kind::Idle | Kind::Connect) {
            bail!("{} sends no messages: it takes no --format, --payload or --deflate", self.name);
        }
        if matches!(self.kind, Kind::Cut(_) | Kind::Channels | Kind::Presence | Kind::Modes)
            && !is_corecast(&words)
        {
            bail!("{} is about what corecast keeps: it runs with no other server", self.name);
        }
        if dialect != Dialect::default()
            && matches!(self.kind, Kind::Cut(_) | Kind::Channels | Kind::Presence)
        {
            bail!("{} speaks plain JSON: it takes no --format, --payload or --deflate", self.name);
        }
        let mut result = Self { dialect, ..self.clone() }.run_as_told(&words)?;
        // With the words about its client.
        server.clone_into(&mut result.server);
        Ok(result)
    }

    /// Whether these servers' clients hear equally many bytes of each message.
    pub(crate) fn is_same_protocol(&self, servers: [&str; 2]) -> bool {
        let [a, b] = servers.map(|it| self.dialect.of(it).ok());
        let (Some((a, ours)), Some((b, theirs))) = (a, b) else { return false };
        is_bundled(&a) && is_bundled(&b) && ours == theirs && !ours.is_deflated
    }

    fn run_as_told(&self, server: &str) -> Result<RunResult> {
        match self.kind {
            Kind::Connect => self.run_connect(server),
            Kind::Idle => self.run_idle(server),
            Kind::Ramp => self.run_ramp(server),
            Kind::Slow => self.run_slow(server),
            Kind::Cut(how) => apart(|| self.run_cut(server, how)),
            Kind::Channels => self.run_channels(server),
            Kind::Presence => apart(|| self.run_presence(server)),
            Kind::Modes => self.run_modes(server),
            Kind::Load | Kind::Echo => self.run_load(server),
        }
    }

    fn placement(&self) -> Placement {
        Placement { shards: self.shards, cores: self.shards.min(cores()) }
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64((self.seconds / 5.0).min(1.0))
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn jobs(&self, port: u16) -> Vec<Job> {
        let rooms = (self.connections / self.room).max(1);
        let workers = self.workers.min(rooms);
        let placement = self.placement();
        let mut first = 0;
        (0..workers)
            .map(|worker| {
                let own = rooms / workers + usize::from(worker < rooms % workers);
                let connections = own * self.room;
                let core = client_core(placement, worker, cores());
                let job = Job {
                    port,
                    first,
                    connections,
                    room: self.room,
                    name: format!("{}bench{worker}-", self.namespace),
                    rate: self.rate * own as f64 / rooms as f64,
                    size: self.size,
                    dialect: self.dialect,
                    warmup: self.warmup(),
                    time: self.time(),
                    is_echo: self.kind == Kind::Echo,
                    deaf: usize::from(self.kind == Kind::Slow && worker == 0),
                    acks_every: self.acks_every,
                    stop: None,
                    core,
                    shares_core: core < placement.cores,
                };
                first += connections;
                job
            })
            .collect()
    }
}

/// From a thread of its own, which may take a core and keep it: what is started later may still run on all of them.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("a run panicked"))?
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The core of the client's n-th thread: those behind the server's while there are any, then all in turn.
fn client_core(placement: Placement, thread: usize, cores: usize) -> usize {
    (placement.cores.min(cores - 1) + thread) % cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_the_cores_that_the_server_leaves() {
        let core = |shards, thread, cores| client_core(Placement { shards, cores: shards }, thread, cores);
        assert_eq!([core(1, 0, 4), core(1, 1, 4), core(1, 2, 4), core(1, 3, 4)], [1, 2, 3, 0]);
        assert_eq!(core(2, 0, 2), 1, "two shards on two cores: shared");
        assert_eq!(core(1, 0, 1), 0, "one core for all");
    }

    #[test]
    fn workers_share_rooms_and_rate() {
        let it = Overrides { workers: Some(3), connections: Some(100), ..Overrides::default() };
        let scenario = Scenario::find("rooms-1k").expect("it is there").with(&it).expect("good numbers");
        let jobs = scenario.jobs(1);
        assert_eq!(jobs.iter().map(|job| job.connections).collect::<Vec<_>>(), [40, 30, 30]);
        assert_eq!(jobs.iter().map(|job| job.first).collect::<Vec<_>>(), [0, 40, 70]);
        assert_eq!(jobs.iter().map(|job| job.rate).sum::<f64>().round(), 6000.0);
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        let with = |it| Scenario::find("rooms-1k").expect("it is there").with(&it);
        assert!(with(Overrides { room: Some(0), ..Overrides::default() }).is_err());
        assert!(with(Overrides { seconds: Some(0.0), ..Overrides::default() }).is_err());
        assert!(with(Overrides { seconds: Some(f64::NAN), ..Overrides::default() }).is_err());
        assert!(with(Overrides { rate: Some(-1.0), ..Overrides::default() }).is_err());
        assert!(Scenario::find("nothing").is_err());
    }
}
