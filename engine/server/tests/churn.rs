//! Connections that come and go: what each leaves behind is nothing, so memory does not follow their number.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::{DEADLINE, End, Gauges, Raw, Server, Start, masked, on_both_drivers};

on_both_drivers!(memory_does_not_follow_connections);

/// The same at full length, in `cargo test -- --ignored` or `cargo nextest run --run-ignored all`.
mod full {
    use super::support::Server;

    #[test]
    #[ignore = "takes a minute: 100,000 connections"]
    fn uring() {
        super::churn(Server::on("uring").shards(2), 10_000, 100_000);
    }

    #[test]
    #[ignore = "takes a minute: 100,000 connections"]
    fn epoll() {
        super::churn(Server::on("epoll").shards(2), 10_000, 100_000);
    }
}

/// Connections that are open at once.
const WORKERS: usize = 16;

fn memory_does_not_follow_connections(start: Start) {
    churn(start.shards(2), 10_000, 25_000);
}

/// After `all` connections, resident memory is within 5% of what it was after the `first`.
#[track_caller]
fn churn(start: Start, first: usize, all: usize) {
    let server = start.arg("--no-limits").start();
    come_and_go(&server, 0..first);
    let early_kib = settled_kib(&server);
    come_and_go(&server, first..all);
    let late_kib = settled_kib(&server);
    eprintln!("resident memory: {early_kib} KiB after {first} connections, {late_kib} KiB after {all}");
    assert_eq!(server.metric("accepted_total"), all as u64);
    assert!(late_kib * 20 <= early_kib * 21, "{early_kib} KiB became {late_kib} KiB, more than 5% more");
}

/// Resident memory once all connections are over.
#[track_caller]
fn settled_kib(server: &Server) -> u64 {
    server.wait_for_metric("connections", |connections| connections == 0);
    assert_eq!(Gauges::of(server).total(), 0, "nothing is left: {:?}", Gauges::of(server));
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
    // Rooms come and go with their members; conversations and their numbering stay.
    let (room, conversation) = (format!("room-{number}"), format!("conversation:{}", number % 64));
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
