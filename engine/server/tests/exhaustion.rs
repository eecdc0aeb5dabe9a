//! More clients than there are places: descriptors, slots, connections. Who is over is told so or waits, the others
//! notice nothing, and every place comes back.

mod support;

use std::collections::VecDeque;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{
    Client, DEADLINE, End, HANDSHAKE, Monitor, Raw, Response, Server, Start, masked, need_descriptors,
    on_all_layouts, on_both_drivers,
};

on_all_layouts!(
    who_is_over_the_descriptors_gets_503,
    silent_connections_take_all_there_is,
    every_place_comes_back,
    every_slot_comes_back,
);

on_both_drivers!(descriptors_are_taken_away_while_it_runs);

/// Descriptors of a server that is to run short of them: 256 are kept, and few clients make it full.
const DESCRIPTORS: &str = "--nofile=400:400";

/// Descriptors of a test: there are more clients than the server has places.
const CLIENTS_MAX: usize = 1000;

/// So long that a test fails before it passes.
const NEVER_MS: u64 = 3_600_000;

const CHANNEL: &str = "conversation:1";

fn short(start: Start) -> Start {
    need_descriptors(CLIENTS_MAX);
    start.through(&["prlimit", DESCRIPTORS]).set("limits.connections_per_ip", 0)
}

/// How many connections it says it takes.
#[track_caller]
fn capacity(server: &Server) -> usize {
    let line = server.wait_for_line("up to ");
    assert!(line.contains("descriptors allow no more"), "{line}");
    let number = line.split("up to ").nth(1).and_then(|it| it.split(' ').next());
    number.and_then(|it| it.parse().ok()).expect("a number")
}

/// Tries to become a client.
#[track_caller]
fn attempt(server: &Server) -> Result<Raw, Response> {
    let mut raw = server.raw();
    raw.send(format!("GET /ws/demo{HANDSHAKE}").as_bytes());
    let head = raw.read_head();
    if head.starts_with("HTTP/1.1 101 ") {
        return Ok(raw);
    }
    let (body, end) = raw.read_to_end();
    assert_eq!(end, End::Fin, "a refusal ends cleanly");
    Err(Response::parse(&[head.as_bytes(), &body].concat()))
}

#[track_caller]
fn assert_is_full(response: &Response) {
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some(), "{response:?}");
}

/// Opens clients until so many were refused.
#[track_caller]
fn fill(server: &Server, refusals: usize) -> Vec<Raw> {
    let (mut clients, mut refused) = (Vec::new(), 0);
    while refused < refusals {
        match attempt(server) {
            Ok(client) => clients.push(client),
            Err(response) => {
                assert_is_full(&response);
                refused += 1;
            }
        }
    }
    clients
}

/// A client as soon as there is a place for it.
#[track_caller]
fn when_free(server: &Server) -> Raw {
    let until = Instant::now() + DEADLINE;
    loop {
        match attempt(server) {
            Ok(client) => return client,
            Err(response) => assert_is_full(&response),
        }
        assert!(Instant::now() < until, "no place is given back");
    }
}

/// Clients of every shard that chat whatever happens around them.
struct Chat {
    publisher: Client,
    subscribers: Vec<Client>,
    published: u64,
}

impl Chat {
    #[track_caller]
    fn new(server: &Server) -> Self {
        let mut subscribers = server.connect_on_every_shard("/ws/demo");
        for subscriber in &mut subscribers {
            subscriber.subscribe(CHANNEL);
        }
        let publisher = server.connect("/ws/demo");
        let chat = Self { publisher, subscribers, published: 0 };
        let clients = chat.clients() as u64;
        server.wait_for_metric("connections", |connections| connections == clients);
        chat
    }

    fn clients(&self) -> usize {
        self.subscribers.len() + 1
    }

    /// Nothing is lost, nobody was disconnected.
    #[track_caller]
    fn go_on(&mut self) {
        for _ in 0..20 {
            self.published += 1;
            let result = self.publisher.publish(CHANNEL, &json!(self.published));
            assert_eq!(result["offset"], self.published);
            for subscriber in &mut self.subscribers {
                let message = subscriber.expect("message");
                assert_eq!((&message["offset"], &message["payload"]), (&result["offset"], &result["offset"]));
            }
        }
    }
}

/// Fails if the server is busy although nothing happens.
#[track_caller]
fn assert_does_not_spin(server: &Server, monitor: &mut Monitor, shards: usize) {
    let began = Instant::now();
    let (entries, ticks) = (monitor.metric("kernel_entries_total"), cpu_ticks(server));
    thread::sleep(Duration::from_millis(500));
    let (entries, ticks) = (monitor.metric("kernel_entries_total") - entries, cpu_ticks(server) - ticks);
    let elapsed_ms = began.elapsed().as_millis() as u64;
    // Ten times a second every shard looks again, a few system calls each.
    let looks = elapsed_ms / 100 + 2;
    assert!(entries <= 10 * looks * shards as u64, "{entries} kernel entries while nothing happens");
    // A thread that spins has one in ten milliseconds.
    assert!(ticks < elapsed_ms / 20, "{ticks} ticks of the processor in {elapsed_ms} ms of nothing");
}

/// Hundredths of a second that it has worked.
fn cpu_ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("it runs");
    // Behind the name, which may contain anything, comes the third field.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).map(|it| it.parse::<u64>().expect("a number")).sum()
}

#[track_caller]
fn assert_told_once(server: &Server, text: &str) -> String {
    let line = server.wait_for_line(text);
    assert_eq!(server.log().iter().filter(|line| line.contains(text)).count(), 1, "{:#?}", server.log());
    line
}

fn who_is_over_the_descriptors_gets_503(start: Start) {
    let shards = start.shard_count();
    let server = short(start).start();
    let most = capacity(&server);
    let mut chat = Chat::new(&server);
    let mut clients = fill(&server, 30);
    let all = clients.len() + chat.clients();
    // The kernel spreads them unevenly: one shard may be full before the node is.
    assert!(if shards == 1 { all == most } else { all <= most && all >= most / 2 }, "{all} of {most}");
    chat.go_on();
    let told = if all == most { "the node is full" } else { "is full, the node is not" };
    assert_told_once(&server, told);
    fill(&server, 300);
    chat.go_on();
    // Those that leave make room for as many.
    let left = clients.len() / 2;
    clients.truncate(left);
    for _ in 0..left / 2 {
        clients.push(when_free(&server));
    }
    chat.go_on();
    let line = assert_told_once(&server, told);
    assert!(line.contains("WARN") && line.contains("ulimit -n"), "{line}");
}

/// Connections that never say anything are nobody's clients: no limit counts them, and each has its place.
fn silent_connections_take_all_there_is(start: Start) {
    const SILENT: usize = 800;
    let (driver, shards) = (start.driver, start.shard_count());
    let server = short(start).set("limits.handshake_timeout_ms", NEVER_MS).start();
    let mut monitor = Monitor::new(server.admin);
    let mut chat = Chat::new(&server);
    let silent: Vec<Raw> = (0..SILENT).map(|_| server.raw()).collect();
    await_rest(&mut monitor);
    let taken = monitor.metric("connections") as usize;
    assert!((100..SILENT).contains(&taken), "{taken} of {SILENT} have a place");
    // The kernel has taken it; the server comes to it when there is a place.
    let mut late = server.raw();
    late.send(format!("GET /ws/demo{HANDSHAKE}").as_bytes());
    chat.go_on();
    assert_does_not_spin(&server, &mut monitor, shards);
    chat.go_on();
    let refusals = monitor.metric("accept_refusals_total");
    // Sockets of all others are descriptors of the process, whatever the tables hold.
    assert_eq!(refusals > 0, driver != "uring" && shards > 1, "{refusals} refusals of the kernel");
    if refusals > 0 {
        let line = assert_told_once(&server, "clients wait to be accepted");
        assert!(line.contains("os error 24") && line.contains("ulimit -n"), "{line}");
    }
    drop(silent);
    // Served, or told to come again where its turn comes while most of the silent ones are still there.
    let head = late.read_head();
    assert!(head.starts_with("HTTP/1.1 101 ") || head.contains("\r\nRetry-After: "), "{head}");
    drop(late);
    let clients = chat.clients() as u64;
    monitor.wait_for("connections", |connections| connections == clients);
    chat.go_on();
    server.connect("/ws/demo").assert_quiet();
    assert_eq!(server.admin_get("/health").status, 200);
}

/// Until no more connections are accepted.
fn await_rest(monitor: &mut Monitor) {
    let mut before = 0;
    loop {
        let now = monitor.metric("connections");
        if now == before {
            return;
        }
        before = now;
        thread::sleep(Duration::from_millis(150));
    }
}

fn every_place_comes_back(start: Start) {
    const PLACES: usize = 8;
    const TURNS: usize = 1500;
    let server = start.set("limits.connections", PLACES).set("limits.connections_per_ip", 0).start();
    let mut clients: VecDeque<Raw> = (1..PLACES).map(|_| when_free(&server)).collect();
    for turn in 0..TURNS {
        clients.push_back(when_free(&server));
        match attempt(&server) {
            Ok(_) => panic!("turn {turn}: there are {PLACES} places"),
            Err(response) => assert_is_full(&response),
        }
        let mut leaver = clients.pop_front().expect("it is full");
        match turn % 3 {
            0 => leaver.send(&masked(0x88, &1000_u16.to_be_bytes())),
            1 => {
                let socket = socket2::SockRef::from(&leaver.stream);
                socket.set_linger(Some(Duration::ZERO)).expect("it is TCP");
            }
            _ => {}
        }
    }
    assert_empty_and_whole(&server, clients, PLACES);
}

/// When all have left there are as many places as in the beginning.
#[track_caller]
fn assert_empty_and_whole(server: &Server, clients: VecDeque<Raw>, places: usize) {
    drop(clients);
    server.wait_for_metric("connections", |connections| connections == 0);
    assert_eq!((server.metric("clients"), server.metric("frames_in_use")), (0, 0));
    let clients = fill(server, 1);
    assert_eq!(clients.len(), places);
}

/// The tables below: each of their slots was in use many times, by connections that came and went all at once.
fn every_slot_comes_back(start: Start) {
    const ROUNDS: usize = 10;
    let shards = start.shard_count();
    let server = short(start).set("limits.handshake_timeout_ms", NEVER_MS).start();
    let most = capacity(&server);
    let mut monitor = Monitor::new(server.admin);
    for round in 0..ROUNDS {
        let silent: Vec<Raw> = (0..200 * shards).map(|_| server.raw()).collect();
        monitor.wait_for("connections", |connections| connections as usize >= most);
        for raw in silent {
            if round % 2 == 0 {
                let socket = socket2::SockRef::from(&raw.stream);
                socket.set_linger(Some(Duration::ZERO)).expect("it is TCP");
            }
        }
        monitor.wait_for("connections", |connections| connections == 0);
    }
    let all = fill(&server, 10).len();
    assert!(if shards == 1 { all == most } else { all <= most && all >= most / 2 }, "{all} of {most}");
}

/// Lowers the limit of a running process, or raises it again.
#[track_caller]
fn limit_descriptors(server: &Server, soft: u32) {
    let status = Command::new("prlimit")
        .args([format!("--pid={}", server.pid()), format!("--nofile={soft}:")])
        .status();
    assert!(status.expect("prlimit can be run").success());
}

fn descriptors_are_taken_away_while_it_runs(start: Start) {
    let driver = start.driver;
    let has_descriptors = driver != "uring";
    let server = start.start();
    let mut monitor = Monitor::new(server.admin);
    let mut chat = Chat::new(&server);
    limit_descriptors(&server, 8);
    chat.go_on();
    let mut late = server.raw();
    late.send(format!("GET /ws/demo{HANDSHAKE}").as_bytes());
    let mut operator = Raw::connect(server.admin);
    operator.send(b"GET /health HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    if has_descriptors {
        monitor.wait_for("accept_refusals_total", |refusals| refusals >= 1);
        assert_does_not_spin(&server, &mut monitor, 1);
        let line = assert_told_once(&server, "clients wait to be accepted");
        assert!(line.contains("os error 24") && line.contains("ulimit -n"), "{line}");
        // glommio asks for the next client before there is one, and the kernel looks at the limit when it is asked.
        let ahead = u64::from(driver == "glommio");
        let clients = chat.clients() as u64 + ahead;
        assert_eq!(monitor.metric("clients"), clients, "nobody is served without a descriptor");
    } else {
        // Sockets of io_uring are none of the process's descriptors.
        assert!(late.read_head().starts_with("HTTP/1.1 101 "));
        assert_does_not_spin(&server, &mut monitor, 1);
    }
    chat.go_on();
    limit_descriptors(&server, 1024);
    if has_descriptors {
        assert!(late.read_head().starts_with("HTTP/1.1 101 "));
    }
    assert_eq!(operator.response().status, 200);
    chat.go_on();
    server.connect("/ws/demo").assert_quiet();
}
