//! The node: one pinned thread per shard, the control plane beside them, and the order in which all of it ends.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use corecast_driver::epoll::Epoll;
use corecast_driver::listener::{is_free, listen};
use corecast_driver::uring::Uring;
use corecast_driver::{Driver, DriverConfig, ShardId, WakeHandle, Waker};
use corecast_hub::state::State;
use corecast_hub::{Hub, HubConfig, Now, ReplayLimits, Secret, ShardSet};
use corecast_protocol::ws::handshake::Mode;
use corecast_shard::rings::{Links, mesh};
use corecast_shard::{Counters, Node, Order, ShardConfig, ShardLoop};

use crate::capacity::{self, Capacity};
use crate::control;
use crate::memory;
use corecast_server::config::{DriverChoice, Settings};

/// How long a port in use may take to become free.
const PORT_PATIENCE: Duration = Duration::from_secs(1);

/// What the control plane knows of the running shards.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) node: Arc<Node>,
    pub(crate) counters: Arc<[Arc<Counters>]>,
    pub(crate) wakers: Arc<[Waker]>,
    pub(crate) listen: SocketAddr,
    /// Where people without a token connect.
    pub(crate) path: String,
    pub(crate) started: Instant,
    pub(crate) driver: &'static str,
    pub(crate) capacity: Capacity,
}

/// What a shard's thread tells once its driver stands.
struct Ready {
    shard: usize,
    handles: Result<(WakeHandle, Waker)>,
}

/// Everything that one shard's thread needs.
struct Plan {
    shard: usize,
    core: Option<core_affinity::CoreId>,
    driver: DriverConfig,
    config: ShardConfig,
    hub: HubConfig,
    links: Links,
    counters: Arc<Counters>,
    node: Arc<Node>,
    /// Where the wake-up targets of all shards come from.
    peers: Receiver<Vec<WakeHandle>>,
    /// What the last node on this host remembered.
    memory: Option<Arc<State>>,
    /// Where what this one remembers goes.
    heir: Option<Sender<State>>,
}

/// Runs the node until it is told to end.
///
/// # Errors
/// What the host refuses at start, and what ends a shard before its time.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    // Sets of shards have 128 places; a host with more cores is served by as many as that.
    let most = ShardSet::SHARDS_MAX;
    let shards = if settings.shards == 0 { cores.len().clamp(1, most) } else { settings.shards };
    let driver = capacity::choose_driver(settings, shards)?;
    let capacity = Capacity::of(settings, driver, shards)?;
    // From here on a signal is seen, and whoever uses the admin port already is found before any client connects.
    let control = control::prepare(settings)?;
    let listeners = listeners(settings, shards)?;
    let listen = listeners[0].local_addr().context("the listener has no address")?;
    // Only who has the port takes it: two nodes must not go on from one state.
    let taken = settings.state_file.as_deref().map(memory::take).transpose()?.flatten();
    let (heir, inherited) = channel();
    let (seed, secret) = randomness()?;
    let start = Start {
        settings,
        driver,
        shards,
        capacity,
        cores,
        node: Node::new(),
        counters: (0..shards).map(|_| Arc::default()).collect(),
        seed,
        memory: taken.map(Arc::new),
        heir: settings.state_file.as_ref().map(|_| heir),
        secret,
    };
    let (threads, ended, wakers) = start.threads(listeners).inspect_err(|_| start.put_back())?;
    let Start { node, counters, heir, .. } = start;
    drop(heir);
    let running = Running {
        node,
        counters,
        wakers: wakers.into(),
        listen,
        path: path(settings),
        started: Instant::now(),
        driver: driver.name(),
        capacity,
    };
    let control = control.start(running.clone())?;
    running.announce(settings, shards, &control.address);
    let outcome = await_end(&ended, &running);
    for thread in threads {
        // In release builds a panic has aborted the process already.
        thread.join().map_err(|_| anyhow!("a shard panicked"))?;
    }
    if let Some(path) = &settings.state_file
        && outcome.is_ok()
    {
        let mut state = State::default();
        inherited.iter().for_each(|part| state.merge(part));
        memory::leave(path, &state)?;
    }
    control.stop();
    if outcome.is_ok() {
        tracing::info!("all shards have ended");
    }
    outcome
}

/// What identifiers and hashes are made with.
fn randomness() -> Result<(u64, Secret)> {
    let (mut seed, mut secret) = ([0; 8], [0; 32]);
    let random =
        |bytes: &mut [u8]| getrandom::fill(bytes).map_err(|error| anyhow!("no random seed: {error}"));
    random(&mut seed)?;
    random(&mut secret)?;
    Ok((u64::from_le_bytes(seed), Secret(secret)))
}

impl Running {
    /// Says what runs now, and where.
    fn announce(&self, settings: &Settings, shards: usize, control: &str) {
        tracing::info!(
            "corecast {} in {} mode: {shards} {} on {}, up to {} connections ({})",
            env!("CARGO_PKG_VERSION"),
            settings.mode_name(),
            if shards == 1 { "shard" } else { "shards" },
            self.driver,
            self.capacity.connections,
            self.capacity.bound
        );
        tracing::info!("clients: ws://{}{}", self.listen, self.path);
        tracing::info!("demo page and metrics: {control}");
    }
}

/// What all shards start from.
struct Start<'a> {
    settings: &'a Settings,
    driver: DriverChoice,
    shards: usize,
    capacity: Capacity,
    cores: Vec<core_affinity::CoreId>,
    node: Arc<Node>,
    counters: Arc<[Arc<Counters>]>,
    seed: u64,
    memory: Option<Arc<State>>,
    heir: Option<Sender<State>>,
    secret: Secret,
}

/// The shards' threads, how each of them ended, and what wakes them.
type Started = (Vec<thread::JoinHandle<()>>, Receiver<Result<()>>, Vec<Waker>);

impl Start<'_> {
    /// Nobody was served: what was taken is the next start's.
    fn put_back(&self) {
        if let Some(path) = &self.settings.state_file
            && self.memory.is_some()
        {
            memory::put_back(path);
        }
    }

    /// One thread for each shard; all of them know each other when this returns.
    fn threads(&self, listeners: Vec<TcpListener>) -> Result<Started> {
        let (ready_in, ready_out) = channel();
        let (ended_in, ended) = channel();
        let mut starts = Vec::new();
        let mut threads = Vec::new();
        let links = mesh(self.shards, self.settings.rings);
        for (shard, (links, listener)) in links.into_iter().zip(listeners).enumerate() {
            let (peers_in, peers) = channel();
            starts.push(peers_in);
            let plan = self.plan(shard, links, listener, peers)?;
            let (driver, ready, ended) = (self.driver, ready_in.clone(), ended_in.clone());
            let name = format!("shard-{shard}");
            let thread = thread::Builder::new().name(name).spawn(move || {
                // Nobody listens any more when the start has failed.
                let _ = ended.send(shard_thread(driver, plan, &ready));
            });
            threads.push(thread.context("a thread can't be started")?);
        }
        drop((ready_in, ended_in));
        let wakers = exchange(&ready_out, &starts, self.shards)?;
        Ok((threads, ended, wakers))
    }

    fn plan(
        &self,
        shard: usize,
        links: Links,
        listener: TcpListener,
        peers: Receiver<Vec<WakeHandle>>,
    ) -> Result<Plan> {
        Ok(Plan {
            shard,
            core: core_for(self.settings, &self.cores, shard)?,
            driver: DriverConfig {
                shard: ShardId(shard as u16),
                listener: Some(listener),
                connections_max: self.capacity.table as u32,
                recv_buffers: self.settings.recv_buffers,
                recv_buffer_bytes: self.settings.recv_buffer_bytes,
                queue_entries: self.settings.queue_entries,
            },
            config: shard_config(self.settings, shard, self.shards, &self.capacity),
            hub: hub_config(self.settings, shard, self.shards, (self.seed, self.secret)),
            links,
            counters: Arc::clone(&self.counters[shard]),
            node: Arc::clone(&self.node),
            peers,
            memory: self.memory.clone(),
            heir: self.heir.clone(),
        })
    }
}

/// All shards' wake-up targets to all shards, once every driver stands.
fn exchange(
    ready: &Receiver<Ready>,
    starts: &[Sender<Vec<WakeHandle>>],
    shards: usize,
) -> Result<Vec<Waker>> {
    let mut handles: Vec<Option<(WakeHandle, Waker)>> = (0..shards).map(|_| None).collect();
    for _ in 0..shards {
        let ready = ready.recv().context("a shard ended before it began")?;
        handles[ready.shard] = Some(ready.handles?);
    }
    let (peers, wakers): (Vec<_>, Vec<_>) = handles.into_iter().flatten().unzip();
    for start in starts {
        start.send(peers.clone()).map_err(|_| anyhow!("a shard ended before it began"))?;
    }
    Ok(wakers)
}

/// Where a client without a token connects.
fn path(settings: &Settings) -> String {
    let endpoint = match settings.policy.mode {
        Mode::Demo => "/ws/demo",
        Mode::Development => "/ws/dev",
        Mode::Production => "/ws",
    };
    format!("{}{endpoint}", settings.policy.prefix)
}

/// Until all shards have ended. One that fails takes the others with it: channels whose home it was are gone, and
/// clients of the others would wait for it in vain.
fn await_end(ended: &Receiver<Result<()>>, running: &Running) -> Result<()> {
    let mut outcome = Ok(());
    while let Ok(end) = ended.recv() {
        if let Err(error) = end {
            tracing::error!("{error:#}: ending the node");
            running.tell(Order::Stop);
            outcome = outcome.and(Err(error));
        }
    }
    outcome
}

fn shard_thread(choice: DriverChoice, plan: Plan, ready: &Sender<Ready>) -> Result<()> {
    if let Some(core) = plan.core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!("shard {} could not be pinned to core {}", plan.shard, core.id);
    }
    match choice {
        DriverChoice::Epoll => drive(Epoll::new, plan, ready),
        #[cfg(feature = "glommio")]
        DriverChoice::Glommio => drive(corecast_driver::glommio::Glommio::new, plan, ready),
        DriverChoice::Auto | DriverChoice::Uring => drive(Uring::new, plan, ready),
    }
}

fn drive<D: Driver>(
    build: impl FnOnce(DriverConfig) -> std::io::Result<D>,
    plan: Plan,
    ready: &Sender<Ready>,
) -> Result<()> {
    let shard = plan.shard;
    let mut driver = match build(plan.driver) {
        Ok(driver) => driver,
        Err(error) => {
            let why = anyhow!(error).context(format!("the driver of shard {shard} can't be built"));
            // The main thread tells it; this one has nothing left to do.
            let _ = ready.send(Ready { shard, handles: Err(why) });
            return Ok(());
        }
    };
    let handles = Ok((driver.wake_handle(), driver.waker()));
    ready.send(Ready { shard, handles }).map_err(|_| anyhow!("the node ended before it began"))?;
    let Ok(peers) = plan.peers.recv() else { return Ok(()) };
    driver.connect(peers);
    let mut hub = Hub::new(plan.hub);
    let now = Instant::now();
    if let Some(state) = plan.memory {
        hub.import(Now { instant: now, unix_ms: unix_ms() }, &state);
    }
    let mut shard_loop = ShardLoop::new(plan.config, hub, plan.links, plan.node, plan.counters, now);
    if let Some(heir) = plan.heir {
        shard_loop.leaves_memory_to(heir);
    }
    driver.run(shard_loop).with_context(|| format!("shard {shard}"))?;
    Ok(())
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn listeners(settings: &Settings, shards: usize) -> Result<Vec<TcpListener>> {
    let mut address = settings.listen;
    let mut listeners = Vec::with_capacity(shards);
    await_free(address).with_context(|| format!("can't listen on {address}"))?;
    for _ in 0..shards {
        let listener = listen(address, &settings.listen_options)
            .with_context(|| format!("can't listen on {address}"))?;
        // Port 0 means any: the others share the one that the first got.
        address = listener.local_addr().context("the listener has no address")?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// The kernel takes a ring down behind the end of its process: the port of a killed one is free some milliseconds
/// after that.
fn await_free(address: SocketAddr) -> std::io::Result<()> {
    let until = Instant::now() + PORT_PATIENCE;
    loop {
        match is_free(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(PORT_PATIENCE / 100);
            }
            result => return result,
        }
    }
}

fn core_for(
    settings: &Settings,
    cores: &[core_affinity::CoreId],
    shard: usize,
) -> Result<Option<core_affinity::CoreId>> {
    if settings.cpus.is_empty() {
        return Ok((!cores.is_empty()).then(|| cores[shard % cores.len()]));
    }
    let wanted = settings.cpus[shard % settings.cpus.len()];
    match cores.iter().find(|core| core.id == wanted) {
        Some(core) => Ok(Some(*core)),
        None => bail!("cpus names core {wanted}, which this process may not use"),
    }
}

fn shard_config(settings: &Settings, shard: usize, shards: usize, capacity: &Capacity) -> ShardConfig {
    let mut limits = settings.shard_limits.clone();
    limits.connections = capacity.connections;
    limits.connections_here = capacity.table - capacity.margin;
    ShardConfig {
        shard: shard as u16,
        shards: shards as u16,
        policy: settings.policy.clone(),
        limits,
        compression: settings.compression,
    }
}

fn hub_config(settings: &Settings, shard: usize, shards: usize, (seed, secret): (u64, Secret)) -> HubConfig {
    HubConfig {
        shard: shard as u16,
        shards: shards as u16,
        node: settings.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seed,
        secret,
        limits: settings.hub_limits,
        namespaces: settings.namespaces.clone(),
        heartbeat_interval_ms: settings.shard_limits.heartbeat_interval.as_millis() as u64,
        message_bytes: settings.shard_limits.message_bytes as u64,
        replay: ReplayLimits::for_outbox(
            settings.shard_limits.outbox.messages,
            settings.shard_limits.outbox.bytes,
        ),
    }
}

/// Keeps the compiler honest: what crosses threads may.
const _: fn() = || {
    fn crosses<T: Send>() {}
    crosses::<Plan>();
    crosses::<Mutex<Running>>();
};
