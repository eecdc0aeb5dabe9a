//! Validated settings: what the rest of the program reads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use corecast_driver::listener::ListenOptions;
use corecast_hub::HubLimits;
use corecast_hub::rules::Namespaces;
use corecast_protocol::ws::handshake::{Mode, Policy};
use corecast_shard::rings::RingConfig;
use corecast_shard::{CompressionConfig, CompressionMode, OutboxLimits, ShardLimits};

use super::layers::{Layers, Problem, Sources};
use super::namespaces;

/// Where operators connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admin {
    /// An address of this host.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// Which driver is to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriverChoice {
    /// io_uring, or epoll where it is refused.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
    /// glommio or nothing.
    #[cfg(feature = "glommio")]
    Glommio,
}

impl DriverChoice {
    /// As it is configured.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
            #[cfg(feature = "glommio")]
            Self::Glommio => "glommio",
        }
    }
}

/// What glommio is where it is built in.
#[cfg(feature = "glommio")]
const GLOMMIO: Option<DriverChoice> = Some(DriverChoice::Glommio);
#[cfg(not(feature = "glommio"))]
const GLOMMIO: Option<DriverChoice> = None;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Everything the program was told, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators connect.
    pub admin: Admin,
    /// Threads that serve clients; 0 for one per core.
    pub shards: usize,
    /// Cores to pin shards to; empty for all in order.
    pub cpus: Vec<usize>,
    /// What the loops of the shards run on.
    pub driver: DriverChoice,
    /// Who may connect where.
    pub policy: Policy,
    /// As clients see this node.
    pub node_name: String,
    /// Where what the node remembers is left for the next start.
    pub state_file: Option<PathBuf>,
    /// What is logged: this and what is worse. `None` where nobody chose one.
    pub log_level: Option<String>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Of every socket.
    pub listen_options: ListenOptions,
    /// Receive buffers per shard: a power of two.
    pub recv_buffers: u16,
    /// Bytes of each.
    pub recv_buffer_bytes: u32,
    /// Submission queue of a shard's ring.
    pub queue_entries: u32,
    /// Between every two shards.
    pub rings: RingConfig,
    /// Of this node; 0 for what descriptors and memory allow.
    pub connections: usize,
    /// What a shard enforces.
    pub shard_limits: ShardLimits,
    /// What is sent compressed.
    pub compression: CompressionConfig,
    /// What a hub enforces.
    pub hub_limits: HubLimits,
    /// What may be done where, and how messages are treated there.
    pub namespaces: Namespaces,
}

impl Settings {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(sources: &Sources) -> Result<Self, Vec<Problem>> {
        let layers = Layers::load(sources);
        let mut reader = Reader { layers };
        let settings = reader.settings();
        match (settings, reader.layers.problems) {
            (Some(settings), problems) if problems.is_empty() => Ok(settings),
            (_, problems) => Err(problems),
        }
    }

    /// The mode's name.
    pub fn mode_name(&self) -> &'static str {
        match self.policy.mode {
            Mode::Demo => "demo",
            Mode::Development => "development",
            Mode::Production => "production",
        }
    }
}

/// From layers to settings; what is wrong is noted and reading goes on.
struct Reader {
    layers: Layers,
}

impl Reader {
    fn problem(&mut self, place: &str, what: impl Into<String>) {
        self.layers.problems.push(Problem { place: place.to_owned(), what: what.into() });
    }

    fn number(&self, name: &'static str) -> u64 {
        self.layers.integer_of(name).0
    }

    fn duration(&self, name: &'static str) -> Duration {
        Duration::from_millis(self.number(name))
    }

    fn address(&mut self, name: &'static str) -> Option<SocketAddr> {
        let (text, place) = self.layers.text_of(name);
        let address = text.parse().ok();
        if address.is_none() {
            self.problem(
                &place,
                format!("`{name}` must be ADDRESS:PORT, as 127.0.0.1:8080 or [::]:8080, not `{text}`"),
            );
        }
        address
    }

    fn settings(&mut self) -> Option<Settings> {
        let mode = self.mode();
        let policy = self.policy(mode);
        let listen = self.address("listen");
        let admin = self.admin();
        self.ports_differ(listen, admin.as_ref());
        let driver = self.driver();
        let cpus = self.cpus();
        let shard_limits = self.shard_limits();
        let rings = self.rings();
        let buffers = self.recv_buffers();
        Some(Settings {
            listen: listen?,
            admin: admin?,
            shards: self.number("shards") as usize,
            cpus: cpus?,
            driver: driver?,
            policy,
            node_name: self.node_name(),
            state_file: Some(self.layers.text_of("state.file").0)
                .filter(|it| !it.is_empty())
                .map(PathBuf::from),
            log_level: self.layers.is_set("log.level").then(|| self.layers.text_of("log.level").0),
            log_format: match self.layers.text_of("log.format").0.as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
            listen_options: self.listen_options(),
            recv_buffers: buffers?,
            recv_buffer_bytes: self.number("shard.recv_buffer_bytes") as u32,
            queue_entries: self.number("shard.queue_entries") as u32,
            rings: rings?,
            connections: if self.layers.flag_of("no_limits").0 {
                0
            } else {
                self.number("limits.connections") as usize
            },
            shard_limits: shard_limits?,
            compression: self.compression(),
            hub_limits: self.hub_limits(),
            namespaces: self.namespaces(mode),
        })
    }

    fn mode(&mut self) -> Mode {
        let (mode, place) = self.layers.text_of("mode");
        if mode != "production" {
            return if mode == "demo" { Mode::Demo } else { Mode::Development };
        }
        let what = "production mode needs authentication, which this version does not have yet: use demo or development";
        self.problem(&place, what);
        for name in ["echo", "no_limits"] {
            if let (true, place) = self.layers.flag_of(name) {
                self.problem(&place, format!("`{name}` is refused in production"));
            }
        }
        Mode::Production
    }

    fn policy(&mut self, mode: Mode) -> Policy {
        let (prefix, place) = self.layers.text_of("http.prefix");
        if !prefix.is_empty()
            && (!prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#', ' ']))
        {
            self.problem(
                &place,
                format!("`http.prefix` must begin with / and not end with it, not `{prefix}`"),
            );
        }
        Policy {
            prefix,
            mode,
            demo_endpoint: self.layers.flag_of("demo_endpoint").0,
            echo: self.layers.flag_of("echo").0,
            allowed_origins: self.layers.list_of("allowed_origins"),
        }
    }

    fn admin(&mut self) -> Option<Admin> {
        let (text, place) = self.layers.text_of("admin");
        match text.strip_prefix("unix:") {
            Some("") => {
                self.problem(&place, "`admin` needs a path behind unix:");
                None
            }
            Some(path) => Some(Admin::Unix(path.into())),
            None => self.address("admin").map(Admin::Tcp),
        }
    }

    fn ports_differ(&mut self, listen: Option<SocketAddr>, admin: Option<&Admin>) {
        let (Some(listen), Some(Admin::Tcp(admin))) = (listen, admin) else { return };
        let overlap =
            listen.ip() == admin.ip() || listen.ip().is_unspecified() || admin.ip().is_unspecified();
        // Port 0 is any that is free.
        if overlap && listen.port() == admin.port() && listen.port() != 0 {
            let place = self.layers.place_of(&["admin", "listen"]);
            self.problem(&place, format!("`admin` needs a port of its own: `listen` is {listen}"));
        }
    }

    fn driver(&mut self) -> Option<DriverChoice> {
        let (driver, place) = self.layers.text_of("driver");
        match driver.as_str() {
            "uring" => Some(DriverChoice::Uring),
            "epoll" => Some(DriverChoice::Epoll),
            "glommio" => {
                if GLOMMIO.is_none() {
                    let problem = "the glommio driver is not built in: use uring or epoll, or build the server with \
                                   --features glommio";
                    self.problem(&place, problem);
                }
                GLOMMIO
            }
            _ => Some(DriverChoice::Auto),
        }
    }

    /// `0,2,4-7`.
    fn cpus(&mut self) -> Option<Vec<usize>> {
        let (text, place) = self.layers.text_of("cpus");
        let mut cpus = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse::<usize>(), last.parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < 4096 => cpus.extend(first..=last),
                _ => {
                    self.problem(&place, format!("`cpus` must be a list as 0,2,4-7, not `{text}`"));
                    return None;
                }
            }
        }
        Some(cpus)
    }

    fn node_name(&self) -> String {
        let (name, _) = self.layers.text_of("node.name");
        if !name.is_empty() {
            return name;
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        if host.trim().is_empty() { "corecast".to_owned() } else { host.trim().to_owned() }
    }

    fn listen_options(&self) -> ListenOptions {
        let buffer = |name| Some(self.number(name) as u32).filter(|bytes| *bytes > 0);
        ListenOptions {
            backlog: self.number("socket.backlog") as i32,
            notsent_lowat: self.number("socket.notsent_lowat_bytes") as u32,
            send_buffer: buffer("socket.send_buffer_bytes"),
            recv_buffer: buffer("socket.recv_buffer_bytes"),
        }
    }

    fn recv_buffers(&mut self) -> Option<u16> {
        let (count, place) = self.layers.integer_of("shard.recv_buffers");
        if count.is_power_of_two() {
            return Some(count as u16);
        }
        self.problem(
            &place,
            format!("`shard.recv_buffers` must be a power of two, as {}", count.next_power_of_two()),
        );
        None
    }

    fn rings(&mut self) -> Option<RingConfig> {
        let rings = RingConfig {
            request_bytes: self.number("rings.request_bytes") as usize,
            deliver_bytes: self.number("rings.deliver_bytes") as usize,
            spill_bytes: self.number("rings.spill_bytes") as usize,
            inline_bytes: self.number("rings.inline_bytes") as usize,
        };
        let smallest = rings.request_bytes.min(rings.deliver_bytes);
        if rings.inline_bytes + 4 > smallest / 4 {
            let most = (smallest / 4).saturating_sub(4);
            let place =
                self.layers.place_of(&["rings.inline_bytes", "rings.request_bytes", "rings.deliver_bytes"]);
            self.problem(
                &place,
                format!("`rings.inline_bytes` must be at most a quarter of a ring: {most} or less here"),
            );
            return None;
        }
        Some(rings)
    }

    fn shard_limits(&mut self) -> Option<ShardLimits> {
        let message_bytes = self.number("limits.message_bytes");
        let outbox_bytes = self.number("limits.outbox_bytes");
        if outbox_bytes < 2 * message_bytes {
            let what = format!(
                "`limits.outbox_bytes` must be at least twice `limits.message_bytes`: {} or more here, not {outbox_bytes}",
                2 * message_bytes
            );
            let place = self.layers.place_of(&["limits.outbox_bytes", "limits.message_bytes"]);
            self.problem(&place, what);
            return None;
        }
        let outbox = OutboxLimits {
            messages: self.number("limits.outbox_messages") as usize,
            bytes: outbox_bytes as usize,
        };
        Some(ShardLimits {
            // Set once the node knows what descriptors allow.
            connections: 0,
            connections_here: 0,
            message_bytes: message_bytes as usize,
            message_fragments: self.number("limits.message_fragments") as u32,
            json_depth: self.number("limits.json_depth") as usize,
            outbox,
            handshake_timeout: self.duration("limits.handshake_timeout_ms"),
            heartbeat_interval: self.duration("limits.heartbeat_interval_ms"),
            pong_timeout: self.duration("limits.pong_timeout_ms"),
            missed_pongs: self.number("limits.missed_pongs") as u32,
            idle_timeout: self.duration("limits.idle_timeout_ms"),
            close_timeout: self.duration("limits.close_timeout_ms"),
            drain_timeout: self.duration("limits.drain_timeout_ms"),
            assembly_bytes: self.number("limits.assembly_bytes") as usize,
        })
    }

    fn namespaces(&mut self, mode: Mode) -> Namespaces {
        let configured = self.layers.take_namespaces();
        let message_bytes = self.number("limits.message_bytes");
        let has_default = mode != Mode::Production;
        namespaces::read(&configured, has_default, message_bytes, &mut self.layers.problems)
    }

    fn compression(&self) -> CompressionConfig {
        CompressionConfig {
            mode: match self.layers.text_of("compression.mode").0.as_str() {
                "standard" => CompressionMode::Standard,
                "adaptive" => CompressionMode::Adaptive,
                _ => CompressionMode::Off,
            },
            level: self.number("compression.level") as u32,
            threshold_bytes: self.number("compression.threshold_bytes") as usize,
        }
    }

    fn hub_limits(&self) -> HubLimits {
        let lifted = self.layers.flag_of("no_limits").0;
        let count = |name| if lifted { 0 } else { self.number(name) as u32 };
        HubLimits {
            connections_per_participant: count("limits.connections_per_participant"),
            connections_per_ip: count("limits.connections_per_ip"),
            subscriptions_per_connection: count("limits.subscriptions_per_connection"),
            sessions: count("limits.sessions"),
            // Memory, as sizes are.
            idempotency_keys: self.number("limits.idempotency_keys") as u32,
            // What is kept is a size, and how long something waits a time-out: those stay.
            history_bytes: self.number("limits.history_bytes"),
            inbox_messages: self.number("limits.inbox_messages") as u32,
            inbox_age_ms: self.number("limits.inbox_age_ms"),
            resume_window_ms: self.number("limits.resume_window_ms"),
            ack_timeout_ms: self.number("limits.ack_timeout_ms"),
            ack_attempts: self.number("limits.ack_attempts") as u32,
            ..HubLimits::default()
        }
    }
}
