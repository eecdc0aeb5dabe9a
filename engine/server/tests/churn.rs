//! Connections that come and go: what each leaves behind is nothing, so memory does not follow their number.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::{DEADLINE, End, Gauges, Raw, Server, Start, masked, on_both_drivers};

on_both_drivers!(memory_does_not_follow_connections);

/// `full` for 100,000 connections, which take a minute.
const LENGTH: &str = "CORECAST_CHURN";

/// Connections that are open at once.
const WORKERS: usize = 16;

const SHARDS: usize = 2;

/// Conversations without members whose numbering a shard remembers: each further one takes the place of the oldest.
const REMEMBERED_PER_SHARD: usize = 65_536;

/// What a connection may leave behind, on average: the noise of the allocator, far below anything that is kept.
const LEFT_BYTES_MAX: u64 = 16;

/// After all connections, resident memory is what it was after the first 10,000.
fn memory_does_not_follow_connections(start: Start) {
    const FIRST: usize = 10_000;
    let all = match std::env::var(LENGTH).as_deref() {
        Ok("full") => 100_000,
        Ok(other) => panic!("{LENGTH} is `full` or not set, not {other:?}"),
        Err(_) => 25_000,
    };
    // Sessions outlive their connections: here, not for long, so that how many wait at once does not follow how fast
    // connections come.
    let server = start.shards(SHARDS).arg("--no-limits").set("limits.resume_window_ms", 20).start();
    fill_what_is_remembered(&server);
    come_and_go(&server, 0..FIRST);
    let early_kib = settled_kib(&server);
    come_and_go(&server, FIRST..all);
    let late_kib = settled_kib(&server);
    eprintln!("resident memory: {early_kib} KiB after {FIRST} connections, {late_kib} KiB after {all}");
    assert_eq!(server.metric("accepted_total"), all as u64 + 1);
    assert!(late_kib * 20 <= early_kib * 21, "{early_kib} KiB became {late_kib} KiB, more than 5% more");
    let left = late_kib.saturating_sub(early_kib) * 1024 / (all - FIRST) as u64;
    assert!(left <= LEFT_BYTES_MAX, "each connection leaves {left} bytes: {early_kib} KiB became {late_kib}");
}

/// Publishes to so many conversations that every shard remembers as many as it ever does.
#[track_caller]
fn fill_what_is_remembered(server: &Server) {
    // Names are spread over shards almost evenly.
    const NAMES: usize = SHARDS * REMEMBERED_PER_SHARD * 21 / 20;
    let mut client = server.raw_upgraded("/ws/demo");
    let names: Vec<String> = (0..NAMES).map(|it| format!("conversation:old-{it:06}")).collect();
    for names in names.chunks(500) {
        let mut bytes = Vec::new();
        for name in names {
            let message = json!({"type": "publish", "id": 1, "channel": name, "payload": 0}).to_string();
            bytes.extend(masked(0x81, message.as_bytes()));
        }
        client.send(&bytes);
        for _ in names {
            let answer = client.frame_of(1).payload;
            assert!(!answer.starts_with(br#"{"type":"error""#), "{}", String::from_utf8_lossy(&answer));
        }
    }
    client.reset();
}

/// Resident memory once all connections are over.
#[track_caller]
fn settled_kib(server: &Server) -> u64 {
    Gauges::assert_nothing_is_left(server);
    server.wait_for_metric("sessions_suspended", |waiting| waiting == 0);
    server.resident_kib()
}

/// One connection after the other on each worker.
#[track_caller]
fn come_and_go(server: &Server, numbers: std::ops::Range<usize>) {
    let next = AtomicUsize::new(numbers.start);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    live(server.clients, number);
                }
            });
        }
    });
}

/// A whole life: handshake, subscribe, publish, hear the message, end. Half of them end by RST, the others by a
/// close frame or by FIN.
#[track_caller]
fn live(address: SocketAddr, number: usize) {
    let mut raw = connect(address, number).upgrade("/ws/demo");
    // Rooms come and go with their members; conversations and their numbering stay, some until they are forgotten.
    let room = format!("room-{number}");
    let conversation = match number % 8 {
        0..4 => format!("conversation:{}", number % 64),
        _ => format!("conversation:new-{number:06}"),
    };
    let says = |raw: &mut Raw, message: Value| raw.send(&masked(0x81, message.to_string().as_bytes()));
    says(&mut raw, json!({"type": "subscribe", "channels": [room, conversation]}));
    says(&mut raw, json!({"type": "publish", "channel": room, "payload": number}));
    says(&mut raw, json!({"type": "publish", "id": number, "channel": conversation, "payload": number}));
    let (mut has_heard, mut is_answered) = (false, false);
    while !has_heard || !is_answered {
        let message: Value = serde_json::from_slice(&raw.frame_of(1).payload).expect("the hub sends JSON");
        assert_ne!(message["type"], "error", "{message}");
        has_heard |= message["type"] == "message" && message["channel"] == room.as_str();
        is_answered |= message["type"] == "response" && message["id"] == number;
    }
    match number % 4 {
        0 => {
            raw.send(&masked(0x88, &1000_u16.to_be_bytes()));
            assert_eq!(raw.frame_of(8).close().0, 1000);
            assert_eq!(raw.read_to_end(), (Vec::new(), End::Fin));
        }
        1 => {
            raw.finish();
            let (_, end) = raw.read_to_end();
            assert_eq!(end, End::Fin);
        }
        _ => raw.reset(),
    }
}

/// From one of many addresses: each has its own ports, and a port rests for a minute after its use.
#[track_caller]
fn connect(address: SocketAddr, number: usize) -> Raw {
    let from = Ipv4Addr::new(127, 0, 1, 1 + (number % 200) as u8);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("loopback has many addresses");
    socket.connect(&address.into()).expect("the port is open");
    socket.set_tcp_nodelay(true).expect("it is TCP");
    socket.set_read_timeout(Some(DEADLINE)).expect("a time-out can be set");
    socket.set_write_timeout(Some(DEADLINE)).expect("a time-out can be set");
    Raw::of(socket.into())
}
