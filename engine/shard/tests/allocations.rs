//! A publish allocates nothing once the pools are warm, in either encoding or both: whole shards on real sockets under a counting allocator.
//!
//! The clients live in the same process and are counted too, so they read and write fixed buffers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use corecast_driver::epoll::Epoll;
use corecast_driver::listener::{ListenOptions, listen};
use corecast_driver::uring::{Uring, probe};
use corecast_driver::{Driver, DriverConfig, ShardId, WakeHandle, Waker};
use corecast_hub::rules::Namespaces;
use corecast_hub::{Format, Hub, HubConfig, HubLimits, PerFormat, ReplayLimits, Secret};
use corecast_protocol::envelope;
use corecast_protocol::ws::handshake::{Mode, Policy, parse_client_response, write_client_request};
use corecast_shard::rings::{Links, RingConfig, mesh};
use corecast_shard::{CompressionConfig, Counters, Node, Order, ShardConfig, ShardLimits, ShardLoop};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SUBSCRIBERS_PER_SHARD: usize = 4;
const ROUNDS: usize = 2_000;
const WARM_UPS_MAX: usize = 5;

/// Shards in this process, on real sockets.
struct Shards {
    address: SocketAddr,
    node: Arc<Node>,
    wakers: Vec<Waker>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Shards {
    fn start<D: Driver + 'static>(count: usize, build: fn(DriverConfig) -> std::io::Result<D>) -> Self {
        let mut address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let node = Node::new();
        let (handles_in, handles) = channel();
        let mut starts = Vec::new();
        let mut threads = Vec::new();
        for (shard, links) in mesh(count, RingConfig::default()).into_iter().enumerate() {
            let listener = listen(address, &ListenOptions::default()).unwrap();
            address = listener.local_addr().unwrap();
            let driver = DriverConfig {
                shard: ShardId(shard as u16),
                listener: Some(listener),
                connections_max: 512,
                recv_buffers: 64,
                recv_buffer_bytes: 4096,
                queue_entries: 256,
            };
            let (peers_in, peers) = channel::<Vec<WakeHandle>>();
            starts.push(peers_in);
            let (handles_in, node) = (handles_in.clone(), Arc::clone(&node));
            threads.push(thread::spawn(move || {
                let mut driver = build(driver).unwrap();
                handles_in.send((shard, driver.wake_handle(), driver.waker())).unwrap();
                driver.connect(peers.recv().unwrap());
                driver.run(shard_loop(shard, count, links, node)).unwrap();
            }));
        }
        let mut all: Vec<_> = (0..count).map(|_| handles.recv().unwrap()).collect();
        all.sort_by_key(|(shard, ..)| *shard);
        let peers: Vec<_> = all.iter().map(|(_, handle, _)| handle.clone()).collect();
        for start in &starts {
            start.send(peers.clone()).unwrap();
        }
        Self { address, node, wakers: all.into_iter().map(|(.., waker)| waker).collect(), threads }
    }

    fn stop(self) {
        self.node.order(Order::Drain);
        self.wakers.iter().for_each(Waker::wake);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn shard_loop<L>(shard: usize, shards: usize, links: Links, node: Arc<Node>) -> ShardLoop<L> {
    let (shard, shards) = (shard as u16, shards as u16);
    let policy = Policy {
        prefix: String::new(),
        mode: Mode::Development,
        demo_endpoint: false,
        echo: false,
        allowed_origins: Vec::new(),
    };
    let hub = Hub::new(HubConfig {
        shard,
        shards,
        node: "test".into(),
        version: "0".into(),
        seed: 7,
        secret: Secret([7; 32]),
        limits: HubLimits::default(),
        namespaces: Namespaces::built_in(true),
        heartbeat_interval_ms: 30_000,
        message_bytes: 1 << 20,
        replay: ReplayLimits::for_outbox(1_000, 4 << 20),
    });
    let config = ShardConfig {
        shard,
        shards,
        policy,
        limits: ShardLimits::default(),
        compression: CompressionConfig::default(),
    };
    ShardLoop::new(config, hub, links, node, Arc::new(Counters::default()), Instant::now())
}

/// A client with a fixed buffer.
struct Client {
    stream: TcpStream,
    buffer: Box<[u8; 4096]>,
    shard: u64,
    format: Format,
}

impl Client {
    fn connect(address: SocketAddr, format: Format) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut request = Vec::new();
        let wanted = match format {
            Format::Json => "",
            Format::MessagePack => "Sec-WebSocket-Protocol: agent-protocol-v1.msgpack\r\n",
        };
        write_client_request("127.0.0.1", "/ws", KEY, wanted, &mut request);
        stream.write_all(&request).unwrap();
        let mut response = Vec::new();
        while parse_client_response(&response, KEY).unwrap().is_none() {
            // Byte by byte: the first frame must stay in the socket.
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            response.push(byte[0]);
        }
        let mut client = Self { stream, buffer: Box::new([0; 4096]), shard: 0, format };
        let mut text = Vec::new();
        match format {
            Format::Json => text.extend_from_slice(client.message()),
            Format::MessagePack => envelope::transcode(format, client.message(), &mut text),
        }
        let established: serde_json::Value = serde_json::from_slice(&text).unwrap();
        client.shard = established["shard"].as_u64().unwrap();
        client
    }

    /// The payload of the next frame.
    fn message(&mut self) -> &[u8] {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).unwrap();
        let first = if self.format == Format::Json { 0x81 } else { 0x82 };
        assert_eq!(head[0], first, "a whole message of its encoding");
        let mut length = usize::from(head[1]);
        if length == 126 {
            self.stream.read_exact(&mut head).unwrap();
            length = usize::from(u16::from_be_bytes(head));
        }
        self.stream.read_exact(&mut self.buffer[..length]).unwrap();
        &self.buffer[..length]
    }

    /// Whether the next message begins as an envelope does: an object whose first member is its type.
    fn hears_an_envelope(&mut self) -> bool {
        match self.format {
            Format::Json => self.message().starts_with(b"{\"type\":\""),
            Format::MessagePack => self.message()[1..].starts_with(b"\xa4type"),
        }
    }

    fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).unwrap();
    }
}

/// A masked frame of what is said here in JSON.
fn frame(text: &str, format: Format) -> Vec<u8> {
    let mut message = Vec::new();
    match format {
        Format::Json => message.extend_from_slice(text.as_bytes()),
        Format::MessagePack => envelope::transcode(Format::Json, text.as_bytes(), &mut message),
    }
    let mask = [1, 2, 3, 4];
    let mut frame = vec![if format == Format::Json { 0x81 } else { 0x82 }];
    match message.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// As many clients on each shard as wanted, their encodings in turn: the kernel chooses where a connection goes.
fn clients(address: SocketAddr, shards: usize, formats: &[Format]) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    let of_shard = |clients: &[Client], shard| clients.iter().filter(|it| it.shard == shard).count();
    while clients.len() < shards * SUBSCRIBERS_PER_SHARD {
        for format in formats {
            let client = Client::connect(address, *format);
            let place = of_shard(&clients, client.shard);
            if place < SUBSCRIBERS_PER_SHARD && formats[place % formats.len()] == *format {
                clients.push(client);
            }
        }
    }
    clients
}

/// Blocks allocated by each publisher publishing so many messages at once, `rounds` times. Pools are warm when nothing
/// happens at the same time that did not before: the last of a few tries counts.
fn blocks_allocated(
    clients: &mut [Client],
    publishers: &[usize],
    publish: &PerFormat<Vec<u8>>,
    messages: usize,
    rounds: usize,
) -> u64 {
    let mut blocks = u64::MAX;
    for _ in 0..WARM_UPS_MAX {
        let before = dhat::HeapStats::get().total_blocks;
        for _ in 0..rounds {
            for publisher in publishers {
                let format = clients[*publisher].format;
                clients[*publisher].send(publish.of(format));
                for (index, client) in clients.iter_mut().enumerate() {
                    // The publisher hears of its own message, and that it was accepted.
                    for _ in 0..messages * if index == *publisher { 2 } else { 1 } {
                        assert!(client.hears_an_envelope(), "an envelope");
                    }
                }
            }
        }
        blocks = dhat::HeapStats::get().total_blocks - before;
        if blocks == 0 {
            break;
        }
    }
    blocks
}

/// The same in both encodings.
fn frames(text: &str, count: usize) -> PerFormat<Vec<u8>> {
    let of = |format| frame(text, format).repeat(count);
    PerFormat { json: of(Format::Json), msgpack: of(Format::MessagePack) }
}

fn allocates_nothing<D: Driver + 'static>(
    shards: usize,
    formats: &[Format],
    build: fn(DriverConfig) -> std::io::Result<D>,
) {
    let running = Shards::start(shards, build);
    let mut clients = clients(running.address, shards, formats);
    let subscribe = frames(r#"{"type":"subscribe","channel":"conversation:1"}"#, 1);
    for client in &mut clients {
        client.send(subscribe.of(client.format));
        assert!(client.hears_an_envelope(), "the answer");
    }
    let is_publisher = |at: &usize| {
        let earlier = &clients[..*at];
        let (shard, format) = (clients[*at].shard, clients[*at].format);
        !earlier.iter().any(|it| it.shard == shard && it.format == format)
    };
    // One of each encoding on each shard: every message is transcoded where subscribers are of both.
    let publishers: Vec<usize> = (0..clients.len()).filter(is_publisher).collect();
    assert_eq!(publishers.len(), shards * formats.len());
    let publish = frames(
        r#"{"type":"publish","id":"7","channel":"conversation:1","payload":{"content":"hi\u0001","parts":[1,-2.5,null]}}"#,
        1,
    );
    let blocks = blocks_allocated(&mut clients, &publishers, &publish, 1, ROUNDS / formats.len());
    let what = format!("{formats:?} on {shards} shards");
    assert_eq!(blocks, 0, "blocks allocated by {ROUNDS} publishes for each shard, {what}");
    // Too large to be copied together, and two at once: sent from several places in one call.
    let large = "x".repeat(2000);
    let text = format!(r#"{{"type":"publish","id":"7","channel":"conversation:1","payload":"{large}"}}"#);
    let publish = frames(&text, 2);
    let rounds = ROUNDS / 4 / formats.len();
    let blocks = blocks_allocated(&mut clients, &publishers, &publish, 2, rounds);
    // In both encodings it is a record of over 4 KiB, which travels to the other shard as one shared block.
    let is_shared = shards > 1 && formats.len() > 1;
    let blocks_max = if is_shared { 2 * rounds * publishers.len() } else { 0 };
    assert!(
        blocks <= blocks_max as u64,
        "{blocks} blocks allocated by large publishes, {what}: {blocks_max}"
    );
    drop(clients);
    running.stop();
}

/// One test, because the allocator counts for the whole process.
#[test]
fn a_publish_allocates_nothing_in_any_encoding_on_one_shard_and_on_two() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let barrier = Arc::new(Barrier::new(2));
    let before = dhat::HeapStats::get().total_blocks;
    let other = {
        let barrier = Arc::clone(&barrier);
        thread::spawn(move || {
            barrier.wait();
            std::hint::black_box(Box::new(1));
        })
    };
    barrier.wait();
    other.join().unwrap();
    assert!(dhat::HeapStats::get().total_blocks > before, "the allocator counts other threads' blocks");

    let encodings: [&[Format]; 3] =
        [&[Format::Json], &[Format::MessagePack], &[Format::Json, Format::MessagePack]];
    for (shards, formats) in [1, 2].into_iter().flat_map(|shards| encodings.map(|it| (shards, it))) {
        allocates_nothing(shards, formats, Epoll::new);
        match probe().available {
            Ok(()) => allocates_nothing(shards, formats, Uring::new),
            Err(error) => eprintln!("io_uring is not available here ({error}): tested on epoll alone"),
        }
    }
}
