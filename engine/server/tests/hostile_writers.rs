//! Peers that send a byte at a time, without end, or what nobody should send: what becomes of them, that they cost no
//! more memory than was announced, and that good connections beside them miss nothing.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{
    Crowd, DEADLINE, End, Gauges, HANDSHAKE, Raw, Server, Start, masked, need_descriptors, on_both_drivers,
};

on_both_drivers!(
    handshakes_byte_by_byte_get_408,
    frames_byte_by_byte_are_no_messages,
    what_is_announced_is_not_held,
    unfinished_messages_are_bounded_together,
    endless_pings_that_nobody_reads_the_answers_of,
);

/// What a connection that sends next to nothing may cost, with all that belongs to it.
const SLOW_KIB_MAX: u64 = 16;

/// Beside other tests in the same process, whose descriptors count too.
fn unlimited(start: Start) -> Start {
    need_descriptors(1000);
    start.arg("--no-limits")
}

/// A peer that sends one byte per turn.
struct Drip {
    stream: TcpStream,
    bytes: Box<dyn Iterator<Item = u8>>,
    heard: Vec<u8>,
    end: Option<End>,
}

impl Drip {
    fn new(raw: Raw, bytes: impl Iterator<Item = u8> + 'static) -> Self {
        let stream = raw.stream;
        stream.set_nonblocking(true).expect("a socket can be non-blocking");
        Self { stream, bytes: Box::new(bytes), heard: Vec::new(), end: None }
    }

    /// Sends a byte and hears what came.
    fn turn(&mut self) {
        if self.end.is_none() {
            let byte = self.bytes.next().expect("it never ends");
            // What the server thinks of it is heard below.
            let _result = self.stream.write(&[byte]);
        }
        let mut buffer = [0; 4096];
        while self.end.is_none() {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.end = Some(End::Fin),
                Ok(count) => self.heard.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.end = Some(End::Reset),
                Err(error) => panic!("bytes or the end were awaited, not {error}"),
            }
        }
    }

    fn says(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.heard).contains(text)
    }
}

/// Turn after turn, until the server has ended them all.
#[track_caller]
fn drip(drips: &mut [Drip], pause: Duration) {
    let until = Instant::now() + DEADLINE;
    while drips.iter().any(|it| it.end.is_none()) {
        let left = drips.iter().filter(|it| it.end.is_none()).count();
        assert!(Instant::now() < until, "{left} of {} go on for ever", drips.len());
        drips.iter_mut().for_each(Drip::turn);
        thread::sleep(pause);
    }
}

/// A connection past its handshake and `connection_established`.
#[track_caller]
fn open(server: &Server) -> Raw {
    let mut raw = server.raw_upgraded("/ws/demo");
    assert_eq!(raw.frame().opcode, 1, "connection_established");
    raw
}

/// Fails if the server has grown by more than so much.
#[track_caller]
fn assert_grown(server: &Server, before_kib: u64, kib_max: u64) {
    let grown = server.resident_kib().saturating_sub(before_kib);
    eprintln!("resident memory grew by {grown} KiB, {kib_max} are allowed");
    assert!(grown <= kib_max, "resident memory grew by {grown} KiB of {kib_max}");
}

fn handshakes_byte_by_byte_get_408(start: Start) {
    const PEERS: usize = 300;
    let server = unlimited(start)
        .set("limits.handshake_timeout_ms", 1500)
        .set("limits.close_timeout_ms", 5000)
        .start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let (before, before_kib) = (Gauges::settled(&server), server.resident_kib());
    let (refused, timeouts) = (server.metric("refused_total"), server.metric("timeouts_total"));
    let chatting = crowd.chat();
    let head = format!("GET /ws/demo{}", HANDSHAKE.trim_end());
    let request = || head.clone().into_bytes().into_iter().chain(b"\r\nX: y".iter().copied().cycle());
    let mut drips: Vec<Drip> = (0..PEERS).map(|_| Drip::new(server.raw(), request())).collect();
    drip(&mut drips, Duration::from_millis(5));
    for drip in &drips {
        assert!(drip.heard.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&drip.heard));
        assert_eq!(drip.end, Some(End::Fin), "an answer ends cleanly");
    }
    assert_grown(&server, before_kib, PEERS as u64 * SLOW_KIB_MAX);
    assert_eq!(server.metric("refused_total") - refused, PEERS as u64);
    assert_eq!(server.metric("timeouts_total") - timeouts, PEERS as u64);
    drop(drips);
    crowd = chatting.stop();
    before.assert_back(&server);
    crowd.round();
}

/// They are heard, so no pong is missed; but nothing of it is a message.
fn frames_byte_by_byte_are_no_messages(start: Start) {
    const PEERS_PER_KIND: usize = 80;
    let server = unlimited(start)
        .set("limits.idle_timeout_ms", 1500)
        .set("limits.heartbeat_interval_ms", 300)
        .set("limits.pong_timeout_ms", 400)
        .set("limits.missed_pongs", 3)
        .set("limits.close_timeout_ms", 300)
        .start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let (before, before_kib) = (Gauges::settled(&server), server.resident_kib());
    let chatting = crowd.chat();
    // A header of a large message, then its payload; a message in endless fragments; control frames without end.
    let header = [0x81, 0xff, 0, 0, 0, 0, 0, 0x0f, 0xff, 0xff, 1, 2, 3, 4];
    let kinds: [(Vec<u8>, Vec<u8>); 4] = [
        (header.to_vec(), vec![b'x']),
        (masked(0x01, b"{"), masked(0x00, b" ")),
        (Vec::new(), masked(0x89, b"x")),
        (Vec::new(), masked(0x8a, b"x")),
    ];
    let mut drips = Vec::new();
    for (first, then) in &kinds {
        for _ in 0..PEERS_PER_KIND {
            let bytes = first.clone().into_iter().chain(then.clone().into_iter().cycle());
            drips.push(Drip::new(open(&server), bytes));
        }
    }
    drip(&mut drips, Duration::from_millis(20));
    for drip in &drips {
        assert!(drip.says("TIMEOUT: idle"), "{:?}", String::from_utf8_lossy(&drip.heard));
        assert!(!drip.says("TIMEOUT: no answer"), "it was heard all the time");
    }
    assert_grown(&server, before_kib, drips.len() as u64 * SLOW_KIB_MAX);
    drop(drips);
    crowd = chatting.stop();
    before.assert_back(&server);
    crowd.round();
}

fn what_is_announced_is_not_held(start: Start) {
    const PEERS: usize = 500;
    const MESSAGE_BYTES: usize = 1 << 20;
    // Lent as a whole, and not touched before it is needed.
    const BUFFER_BYTES: usize = 65_536;
    let server = unlimited(start).start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let (before, before_kib) = (Gauges::settled(&server), server.resident_kib());
    let chatting = crowd.chat();
    let message = masked(0x81, &vec![b' '; MESSAGE_BYTES]);
    let mut peers: Vec<Raw> = (0..PEERS).map(|_| open(&server)).collect();
    peers.iter_mut().for_each(|peer| peer.send(&message[..100]));
    chatting.wait_for_rounds(2);
    assert_grown(&server, before_kib, PEERS as u64 * SLOW_KIB_MAX);
    // Who sends it all but for a byte makes the server hold that much, and no more.
    let many = &mut peers[..20];
    many.iter_mut().for_each(|peer| peer.send(&message[100..message.len() - 1]));
    let sent = (20 * MESSAGE_BYTES) as u64;
    server.wait_for_metric("bytes_in_total", |bytes| bytes >= sent);
    let (held, held_max) = (server.metric("assembly_bytes"), (PEERS * BUFFER_BYTES) as u64 + sent);
    assert!((sent..=held_max).contains(&held), "{held} bytes are held of {held_max}");
    assert_grown(&server, before_kib, PEERS as u64 * SLOW_KIB_MAX + 2 * sent / 1024);
    chatting.wait_for_rounds(2);
    peers.into_iter().for_each(Raw::reset);
    server.wait_for_metric("connections", |connections| connections == before.connections());
    crowd = chatting.stop();
    before.assert_back(&server);
    crowd.round();
}

/// Whose message finds no room is told so; the others' go on.
fn unfinished_messages_are_bounded_together(start: Start) {
    const MESSAGE_BYTES: usize = 1 << 20;
    const ROOM: usize = 4;
    let server = unlimited(start).set("limits.assembly_bytes", ROOM * MESSAGE_BYTES).start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let before = Gauges::settled(&server);
    let chatting = crowd.chat();
    let text = json!({"type": "ping", "id": 7, "filler": "x".repeat(MESSAGE_BYTES - 100)}).to_string();
    let message = masked(0x81, text.as_bytes());
    let (most, rest) = message.split_at(message.len() - 1000);
    let mut lucky: Vec<Raw> = (0..ROOM).map(|_| open(&server)).collect();
    for (number, peer) in lucky.iter_mut().enumerate() {
        peer.send(most);
        // The header takes part in `most`; the buffer has room for the rest.
        let least = ((number + 1) * (most.len() - 14)) as u64;
        server.wait_for_metric("assembly_bytes", |bytes| bytes >= least);
    }
    let mut unlucky: Vec<Raw> = (0..2).map(|_| open(&server)).collect();
    for peer in &mut unlucky {
        peer.try_send(most);
    }
    let closed = unlucky.iter_mut().map(|peer| peer.frame().close()).filter(|(code, reason)| {
        assert!(reason.starts_with("OVERLOADED"), "{reason}");
        *code == 1013
    });
    assert_eq!(closed.count(), 2, "there is room for {ROOM}");
    assert!(server.metric("assembly_bytes") <= (ROOM * MESSAGE_BYTES) as u64);
    for mut peer in lucky {
        peer.send(rest);
        let pong: serde_json::Value = serde_json::from_slice(&peer.frame().payload).expect("JSON");
        assert_eq!((&pong["type"], &pong["id"]), (&json!("pong"), &json!(7)));
    }
    // What was given back is there for others.
    let mut next = open(&server);
    next.send(&message);
    assert_eq!(next.frame().opcode, 1);
    drop((next, unlucky));
    crowd = chatting.stop();
    before.assert_back(&server);
    crowd.round();
}

fn endless_pings_that_nobody_reads_the_answers_of(start: Start) {
    const PEERS: usize = 10;
    let server = unlimited(start)
        .set("limits.heartbeat_interval_ms", 500)
        .set("limits.pong_timeout_ms", 400)
        .set("limits.missed_pongs", 3)
        .set("limits.close_timeout_ms", 200)
        .start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let (before, before_kib) = (Gauges::settled(&server), server.resident_kib());
    let chatting = crowd.chat();
    let senders: Vec<_> = (0..PEERS)
        .map(|_| {
            let mut peer = Raw::with_receive_buffer(server.clients, Some(4096)).upgrade("/ws/demo");
            let pings = masked(0x89, &[b'x'; 125]).repeat(100);
            // Blocks once nothing is read from it any more, until it is reset.
            thread::spawn(move || while peer.try_send(&pings) {})
        })
        .collect();
    server.wait_for_metric("stalls_total", |stalls| stalls >= PEERS as u64);
    // The outbox may hold 1,000 answers of 127 bytes, each in a buffer of its own; nothing else that is sent is kept.
    assert_grown(&server, before_kib, PEERS as u64 * (1000 * 512 / 1024 + SLOW_KIB_MAX));
    server.wait_for_metric("slow_disconnects_total", |count| count == PEERS as u64);
    server.wait_for_metric("connections", |connections| connections == before.connections());
    senders.into_iter().for_each(|it| it.join().expect("the sender notices"));
    crowd = chatting.stop();
    before.assert_back(&server);
    crowd.round();
}
