//! How the real binary ends: what a signal promises to publishers, to subscribers, and to those who still wait.

mod support;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Client, DEADLINE, End, HANDSHAKE, Raw, Response, Server, Start, masked, on_all_layouts, on_both_drivers,
};
use tungstenite::{Error, Message};

on_all_layouts!(
    an_idle_node_ends,
    clients_are_told_to_go,
    every_answered_publish_is_delivered,
    every_answered_publish_is_delivered_through_tiny_rings,
    a_late_reader_still_gets_everything,
    who_waits_to_be_accepted_is_answered,
    new_connections_are_refused,
);

on_both_drivers!(
    a_slow_reader_is_given_time_while_it_reads,
    late_connections_are_not_left_waiting,
    who_never_reads_holds_up_nobody_beyond_the_timeout,
    who_never_answers_a_close_holds_up_nobody_beyond_the_timeout,
    half_a_handshake_holds_up_nobody_beyond_its_own_timeout,
    a_second_signal_ends_it_at_once,
);

const SIGNALS: [&str; 2] = ["TERM", "INT"];

/// So long that a test fails before it passes.
const NEVER_MS: u64 = 3_600_000;

const CHANNEL: &str = "conversation:1";

/// A node that nothing but the end of its work ends.
fn patient(start: Start) -> Start {
    start
        .set("limits.drain_timeout_ms", NEVER_MS)
        .set("limits.close_timeout_ms", NEVER_MS)
        .set("limits.heartbeat_interval_ms", 0)
        // Nobody here is to be disconnected for being slow.
        .set("limits.outbox_messages", 1 << 20)
        .set("limits.outbox_bytes", 1_u64 << 30)
        .set("limits.connections_per_ip", 0)
}

#[track_caller]
fn assert_ends_cleanly(server: &mut Server) {
    assert_eq!(server.wait_for_exit().code(), Some(0), "{:#?}", server.log());
}

/// Sends the signal and waits until the server has seen it.
#[track_caller]
fn begin(server: &Server, signal: &str) {
    server.signal(signal);
    server.wait_for_line(&format!("SIG{signal}: draining"));
}

fn an_idle_node_ends(start: Start) {
    for signal in SIGNALS {
        let mut server = patient(start.clone()).start();
        server.signal(signal);
        assert_ends_cleanly(&mut server);
        assert!(
            server.log().iter().any(|line| line.contains(&format!("SIG{signal}: draining 0 connections")))
        );
    }
}

fn clients_are_told_to_go(start: Start) {
    for signal in SIGNALS {
        let mut server = patient(start.clone()).arg("--echo").start();
        let mut clients = server.connect_on_every_shard("/ws/demo");
        let mut echo = server.to("/ws/echo").open_only();
        echo.send_text("anybody there?");
        assert_eq!(echo.socket.read().expect("an echo"), Message::text("anybody there?"));
        begin(&server, signal);
        for client in &mut clients {
            let reconnect = client.expect("reconnect");
            assert!(reconnect["after_ms"].is_u64() && reconnect["reason"].is_string(), "{reconnect}");
            client.assert_closed(1001, "DRAINING");
        }
        echo.assert_closed(1001, "DRAINING");
        assert_ends_cleanly(&mut server);
    }
}

/// What a publisher was promised: the offset of each of its messages that was answered.
type Promises = HashMap<u64, u64>;

/// Publishes as fast as answers come, up to a bound of unanswered ones, until the server closes.
fn publish_until_closed(mut client: Client, name: usize) -> Promises {
    const UNANSWERED_MAX: u64 = 500;
    let (mut sent, mut promises) = (0, Promises::new());
    loop {
        while sent - (promises.len() as u64) < UNANSWERED_MAX {
            sent += 1;
            client.send_json(&json!({
                "type": "publish", "id": sent, "channel": CHANNEL, "payload": {"from": name, "n": sent}
            }));
        }
        match client.socket.read() {
            Ok(Message::Text(text)) => {
                let message: Value = serde_json::from_str(&text).expect("the hub sends JSON");
                if message["type"] == "response" {
                    let n = message["id"].as_u64().expect("the id that was sent");
                    let offset = message["result"]["offset"].as_u64().expect("an offset");
                    assert_eq!(promises.insert(n, offset), None, "answered once");
                } else {
                    assert_eq!(message["type"], "reconnect", "{message}");
                }
            }
            Ok(Message::Close(Some(frame))) => {
                assert_eq!(u16::from(frame.code), 1001);
                assert!(frame.reason.starts_with("DRAINING"), "{}", frame.reason);
                // Sends the answer, whatever the server thinks of what was sent before it.
                let _ = client.socket.read();
                return promises;
            }
            Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
            other => panic!("a message or the close was awaited, not {other:?}"),
        }
    }
}

/// Reads until the server closes; who sent which message, by offset.
fn read_until_closed(mut client: Client, delivered: &AtomicU64) -> HashMap<u64, (usize, u64)> {
    let mut messages = HashMap::new();
    loop {
        let message = client.next();
        if message["type"] == "reconnect" {
            client.assert_closed(1001, "DRAINING");
            return messages;
        }
        let offset = message["offset"].as_u64().expect("an offset");
        assert_eq!(offset, messages.len() as u64 + 1, "in order, without gaps: {message}");
        let number = |name: &str| message["payload"][name].as_u64().expect("a number");
        messages.insert(offset, (number("from") as usize, number("n")));
        delivered.fetch_add(1, Ordering::Relaxed);
    }
}

fn every_answered_publish_is_delivered(start: Start) {
    sigterm_under_load(patient(start));
}

fn every_answered_publish_is_delivered_through_tiny_rings(start: Start) {
    let tiny = patient(start)
        .set("rings.request_bytes", 1024)
        .set("rings.deliver_bytes", 1024)
        // Much is on its way between shards, in small pieces.
        .set("rings.spill_bytes", 65_536)
        .set("rings.inline_bytes", 128);
    sigterm_under_load(tiny);
}

fn sigterm_under_load(start: Start) {
    let mut server = start.start();
    let delivered = Arc::new(AtomicU64::new(0));
    let mut subscribers = Vec::new();
    for mut client in
        server.connect_on_every_shard("/ws/demo").into_iter().chain([server.connect("/ws/demo")])
    {
        client.subscribe(CHANNEL);
        let delivered = Arc::clone(&delivered);
        subscribers.push(thread::spawn(move || read_until_closed(client, &delivered)));
    }
    let mut publishers = Vec::new();
    let clients = server.connect_on_every_shard("/ws/demo").into_iter().chain([server.connect("/ws/demo")]);
    for (name, client) in clients.enumerate() {
        publishers.push(thread::spawn(move || publish_until_closed(client, name)));
    }
    // In full swing.
    while delivered.load(Ordering::Relaxed) < 10_000 {
        assert!(subscribers.iter().all(|it| !it.is_finished()), "nobody is closed before the signal");
        thread::yield_now();
    }
    server.signal("TERM");
    let promises: Vec<Promises> =
        publishers.into_iter().map(|it| it.join().expect("no publisher fails")).collect();
    let seen: Vec<_> = subscribers.into_iter().map(|it| it.join().expect("no subscriber fails")).collect();
    assert_ends_cleanly(&mut server);
    // What one of them got all got, answered or not, and of each publisher all up to some message.
    for messages in &seen {
        assert!(*messages == seen[0], "{} and {} messages", messages.len(), seen[0].len());
    }
    assert_no_gaps(&seen[0], promises.len());
    for (name, promises) in promises.iter().enumerate() {
        assert!(!promises.is_empty(), "publisher {name} was answered");
        for (n, offset) in promises {
            for (subscriber, messages) in seen.iter().enumerate() {
                let got = messages.get(offset);
                assert_eq!(got, Some(&(name, *n)), "offset {offset} at subscriber {subscriber}");
            }
        }
    }
}

/// Fails unless each publisher's messages came in the order in which they were sent, none left out.
#[track_caller]
fn assert_no_gaps(messages: &HashMap<u64, (usize, u64)>, publishers: usize) {
    let mut last = vec![0; publishers];
    for offset in 1..=messages.len() as u64 {
        let (publisher, n) = messages[&offset];
        last[publisher] += 1;
        assert_eq!(n, last[publisher], "offset {offset}, of publisher {publisher}");
    }
}

fn a_late_reader_still_gets_everything(start: Start) {
    read_late(patient(start), Duration::ZERO);
}

/// All of it takes much longer than the time-out, each part of it much less.
fn a_slow_reader_is_given_time_while_it_reads(start: Start) {
    read_late(patient(start).set("limits.close_timeout_ms", 1000), Duration::from_millis(25));
}

/// A client is behind when the signal comes, and reads on only then.
fn read_late(start: Start, rest: Duration) {
    const MESSAGES: u64 = 100;
    let mut server = start.start();
    let mut late = server.to("/ws/demo").receive_buffer(4096).open();
    late.subscribe(CHANNEL);
    let mut publisher = server.connect("/ws/demo");
    let content = "x".repeat(60_000);
    for n in 1..=MESSAGES {
        let result = publisher.publish(CHANNEL, &json!({"n": n, "content": content}));
        assert_eq!(result["offset"], n);
    }
    begin(&server, "TERM");
    publisher.assert_closed(1001, "DRAINING");
    for n in 1..=MESSAGES {
        thread::sleep(rest);
        let message = late.expect("message");
        assert_eq!((message["offset"].as_u64(), message["payload"]["n"].as_u64()), (Some(n), Some(n)));
    }
    late.expect("reconnect");
    late.assert_closed(1001, "DRAINING");
    assert_ends_cleanly(&mut server);
}

fn who_waits_to_be_accepted_is_answered(start: Start) {
    // More than are accepted in one turn. The signal and the connections meet in another way each time.
    for waiting in [3, 40, 100, 100, 300] {
        signal_while_they_wait(patient(start.clone()), waiting);
    }
}

/// Connections that the kernel has taken and the server has not: it is stopped while they come.
fn signal_while_they_wait(start: Start, waiting: usize) {
    let mut server = start.start();
    server.signal("STOP");
    let waiting: Vec<Raw> = (0..waiting)
        .map(|index| {
            let mut raw = server.raw();
            let request = match index % 3 {
                0 => format!("GET /ws/demo{HANDSHAKE}"),
                1 => format!(
                    "GET /ws/demo{}",
                    HANDSHAKE.replacen("\r\n", "\r\nOrigin: http://127.0.0.1\r\n", 1)
                ),
                _ => "GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_owned(),
            };
            raw.send(request.as_bytes());
            raw
        })
        .collect();
    server.signal("TERM");
    server.signal("CONT");
    // Those that wait are served while the signal is on its way, and refused behind it.
    let answers: Vec<String> =
        waiting.into_iter().enumerate().map(|(index, raw)| answer(index, raw)).collect();
    assert_ends_cleanly(&mut server);
    for answer in &answers {
        let fine = ["served", "1013", "503", "200"].contains(&answer.as_str());
        assert!(fine, "{answers:?}");
    }
}

/// What the server said to one that waited and leaves then, in a word.
#[track_caller]
fn answer(index: usize, mut raw: Raw) -> String {
    let head = raw.read_head();
    if head.starts_with("HTTP/1.1 101 ") {
        let (code, reason) = raw.frame_of(8).close();
        assert!(reason.starts_with("DRAINING"), "{reason}");
        raw.send(&masked(0x88, &code.to_be_bytes()));
        assert_eq!(raw.read_to_end().1, End::Fin, "connection {index}");
        return if code == 1001 { "served".to_owned() } else { code.to_string() };
    }
    let (body, end) = raw.read_to_end();
    assert_eq!(end, End::Fin, "connection {index}");
    let response = Response::parse(&[head.as_bytes(), &body].concat());
    if response.status == 503 && index.is_multiple_of(3) {
        assert!(response.header("retry-after").is_some(), "{response:?}");
        assert!(response.body.contains("going away"), "{response:?}");
    }
    response.status.to_string()
}

/// A client past its handshake that holds up a drain: it does not answer the close frame.
#[track_caller]
fn silent(server: &Server) -> Raw {
    let mut raw = server.raw_upgraded("/ws/demo");
    assert_eq!(raw.frame_of(1).opcode, 1, "connection_established");
    raw
}

fn new_connections_are_refused(start: Start) {
    let mut server = patient(start).start();
    let mut silent = silent(&server);
    begin(&server, "TERM");
    assert_eq!(silent.frame_of(8).close().0, 1001);
    assert_eq!(server.admin_get("/ready").status, 503);
    assert_eq!(server.admin_get("/health").status, 200);
    for _ in 0..20 {
        match TcpStream::connect(server.clients) {
            // Where the port is still open, it answers that it drains.
            Ok(_) => refused_politely(&server),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
        }
    }
    silent.send(&masked(0x88, &1001_u16.to_be_bytes()));
    assert_eq!(silent.read_to_end().1, End::Fin);
    assert_ends_cleanly(&mut server);
    let after = TcpStream::connect(server.clients).expect_err("nobody listens");
    assert_eq!(after.kind(), ErrorKind::ConnectionRefused);
}

fn late_connections_are_not_left_waiting(start: Start) {
    let mut server = patient(start).start();
    let mut silent = silent(&server);
    begin(&server, "TERM");
    assert_eq!(silent.frame_of(8).close().0, 1001);
    // First the server itself answers; who comes when that is over is refused by the kernel.
    let until = Instant::now() + DEADLINE;
    while TcpStream::connect(server.clients).is_ok() {
        assert!(Instant::now() < until, "the port stays open");
        refused_politely(&server);
        thread::sleep(Duration::from_millis(20));
    }
    silent.send(&masked(0x88, &1001_u16.to_be_bytes()));
    assert_eq!(silent.read_to_end().1, End::Fin);
    assert_ends_cleanly(&mut server);
}

fn refused_politely(server: &Server) {
    let Ok(mut stream) = TcpStream::connect(server.clients) else { return };
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out can be set");
    let mut bytes = Vec::new();
    let request = format!("GET /ws/demo{HANDSHAKE}");
    // The port may close in between: refused as well.
    let sent = std::io::Write::write_all(&mut stream, request.as_bytes());
    let read = sent.and_then(|()| std::io::Read::read_to_end(&mut stream, &mut bytes));
    match read {
        Ok(_) => assert_eq!(Response::parse(&bytes).status, 503),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        }
    }
}

fn who_never_reads_holds_up_nobody_beyond_the_timeout(start: Start) {
    const MESSAGES: u64 = 200;
    let mut server = patient(start).set("limits.drain_timeout_ms", 300).start();
    let mut never = server.to("/ws/demo").receive_buffer(4096).open();
    never.subscribe(CHANNEL);
    let mut reader = server.connect("/ws/demo");
    reader.subscribe(CHANNEL);
    let content = "x".repeat(60_000);
    for n in 1..=MESSAGES {
        let message = json!({"type": "publish", "channel": CHANNEL, "payload": {"n": n, "content": content}});
        reader.send_json(&message);
        assert_eq!(reader.expect("message")["offset"], n);
    }
    server.signal("TERM");
    reader.expect("reconnect");
    reader.assert_closed(1001, "DRAINING");
    assert_ends_cleanly(&mut server);
    drop(never);
}

fn who_never_answers_a_close_holds_up_nobody_beyond_the_timeout(start: Start) {
    let mut server = patient(start).set("limits.drain_timeout_ms", 300).start();
    let mut silent = silent(&server);
    server.signal("TERM");
    assert_eq!(silent.frame_of(8).close().0, 1001);
    assert_ends_cleanly(&mut server);
    // It was told before; how the connection ends is its own fault.
    silent.read_to_end();
}

fn half_a_handshake_holds_up_nobody_beyond_its_own_timeout(start: Start) {
    let mut server = patient(start).set("limits.handshake_timeout_ms", 300).start();
    let mut mute = server.raw();
    let mut half = server.raw();
    half.send(b"GET /ws/demo HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    // Both are accepted once a later one is served.
    server.connect("/ws/demo").close();
    server.signal("TERM");
    for raw in [&mut mute, &mut half] {
        let response = raw.response();
        assert!([408, 503].contains(&response.status), "{response:?}");
    }
    drop((mute, half));
    assert_ends_cleanly(&mut server);
}

fn a_second_signal_ends_it_at_once(start: Start) {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut server = patient(start.clone()).shards(2).start();
        let mut silent = silent(&server);
        begin(&server, first);
        assert_eq!(silent.frame_of(8).close().0, 1001);
        server.signal(second);
        // Asked for, so no failure.
        assert_ends_cleanly(&mut server);
        assert!(server.log().iter().any(|line| line.contains(&format!("SIG{second} again: ending at once"))));
        silent.read_to_end();
    }
}
