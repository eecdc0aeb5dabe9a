//! Every time-out, set short: what it ends and what the peer is told. How long it takes is nobody's assertion.

mod support;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{DEADLINE, End, HANDSHAKE, Raw, Server, Start, masked, nonsense, on_both_drivers};

on_both_drivers!(
    who_says_nothing_gets_408,
    who_says_it_byte_by_byte_gets_408,
    a_handshake_that_nobody_ends_is_reset,
    who_answers_no_ping_is_closed,
    who_answers_pings_stays,
    whatever_is_heard_counts_as_an_answer,
    who_says_nothing_useful_is_idle,
    without_an_idle_timeout_nobody_is_idle,
    who_does_not_answer_a_close_is_reset,
    who_never_reads_is_reset,
    who_never_reads_and_says_no_more_is_reset,
    who_says_no_more_still_gets_its_answers,
);

const SHORT_MS: u64 = 60;

/// So long that a test fails before it passes.
const NEVER_MS: u64 = 3_600_000;

/// A connection past its handshake and `connection_established`.
#[track_caller]
fn raw(server: &Server) -> Raw {
    let mut raw = server.raw_upgraded("/ws/demo");
    assert_eq!(raw.frame().opcode, 1, "connection_established");
    raw
}

/// Fails unless the server forgets all its clients.
#[track_caller]
fn assert_forgotten(server: &Server) {
    server.wait_for_metric("clients", |clients| clients == 0);
    server.wait_for_metric("connections", |connections| connections == 0);
}

#[track_caller]
fn assert_timed_out(raw: &mut Raw) {
    let response = raw.response();
    assert_eq!(response.status, 408);
    assert_eq!(response.header("connection"), Some("close"));
    assert!(response.body.contains("in time"), "{}", response.body);
}

fn who_says_nothing_gets_408(start: Start) {
    let server = start.set("limits.handshake_timeout_ms", SHORT_MS).start();
    // On a loaded machine a good client may be too late as well, and tries again.
    let mut client = server.connect_when_free("/ws/demo");
    let mut raw = server.raw();
    assert_timed_out(&mut raw);
    assert!(server.metric("timeouts_total") >= 1);
    assert!(server.metric("refused_total") >= 1);
    client.assert_quiet();
    drop((raw, client));
    assert_forgotten(&server);
}

/// A byte now and then buys no time: the deadline is for the whole request.
fn who_says_it_byte_by_byte_gets_408(start: Start) {
    let server =
        start.set("limits.handshake_timeout_ms", 5 * SHORT_MS).set("limits.close_timeout_ms", 1000).start();
    let mut raw = server.raw();
    let mut slow = raw.stream.try_clone().expect("a socket can be cloned");
    let writer = thread::spawn(move || {
        let until = Instant::now() + DEADLINE;
        let head = format!("GET /ws/demo{}", HANDSHAKE.trim_end());
        // More header lines without an end, up to far beyond the limit of time, not of bytes.
        for byte in head.bytes().chain("\r\nX: y".bytes().cycle()).take(8000) {
            if slow.write_all(&[byte]).is_err() || Instant::now() > until {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    assert_timed_out(&mut raw);
    drop(raw);
    writer.join().expect("it ends when nobody reads any more");
    assert_forgotten(&server);
}

/// Behind its last words the server waits for the peer's end, but not for ever.
fn a_handshake_that_nobody_ends_is_reset(start: Start) {
    let server =
        start.set("limits.handshake_timeout_ms", NEVER_MS).set("limits.close_timeout_ms", SHORT_MS).start();
    let mut raw = server.raw();
    raw.send(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(raw.response().status, 404);
    // The peer keeps its side open.
    server.wait_for_metric("timeouts_total", |timeouts| timeouts == 1);
    assert_forgotten(&server);
    drop(raw);
}

fn who_answers_no_ping_is_closed(start: Start) {
    let server = start
        .set("limits.heartbeat_interval_ms", SHORT_MS)
        .set("limits.pong_timeout_ms", SHORT_MS / 2)
        .set("limits.missed_pongs", 3)
        .start();
    let mut raw = raw(&server);
    for _ in 0..3 {
        assert_eq!(raw.frame().opcode, 9, "three pings");
    }
    let (code, reason) = raw.frame().close();
    assert_eq!(code, 4001);
    assert!(reason.starts_with("TIMEOUT"), "{reason}");
    raw.send(&masked(0x88, &4001_u16.to_be_bytes()));
    assert_eq!(raw.read_to_end(), (Vec::new(), End::Fin));
    assert_eq!(server.metric("timeouts_total"), 1);
    drop(raw);
    assert_forgotten(&server);
}

fn who_answers_pings_stays(start: Start) {
    let server = start
        .set("limits.heartbeat_interval_ms", SHORT_MS)
        .set("limits.pong_timeout_ms", 8000)
        .set("limits.missed_pongs", 1)
        .start();
    let mut raw = raw(&server);
    for _ in 0..5 {
        let ping = raw.frame();
        assert_eq!(ping.opcode, 9, "a ping, not {ping:?}");
        raw.send(&masked(0x8a, &ping.payload));
    }
    assert_eq!(server.metric("timeouts_total"), 0);
}

/// The contract counts silence, not missing pongs.
fn whatever_is_heard_counts_as_an_answer(start: Start) {
    let server = start
        .set("limits.heartbeat_interval_ms", SHORT_MS)
        .set("limits.pong_timeout_ms", 8000)
        .set("limits.missed_pongs", 1)
        .start();
    let mut raw = raw(&server);
    for _ in 0..5 {
        assert_eq!(raw.frame_of(9).opcode, 9);
        raw.send(&masked(0x81, br#"{"type":"pong"}"#));
    }
    assert_eq!(server.metric("timeouts_total"), 0);
}

fn who_says_nothing_useful_is_idle(start: Start) {
    let server = start
        .set("limits.idle_timeout_ms", 4 * SHORT_MS)
        .set("limits.heartbeat_interval_ms", SHORT_MS)
        .set("limits.pong_timeout_ms", NEVER_MS)
        .start();
    let mut raw = raw(&server);
    // Pongs keep it alive, but it is idle all the same.
    let close = loop {
        let frame = raw.frame();
        match frame.opcode {
            9 => raw.send(&masked(0x8a, &frame.payload)),
            _ => break frame,
        }
    };
    let (code, reason) = close.close();
    assert_eq!(code, 4002);
    assert!(reason.starts_with("TIMEOUT: idle"), "{reason}");
    raw.send(&masked(0x88, &4002_u16.to_be_bytes()));
    assert_eq!(raw.read_to_end(), (Vec::new(), End::Fin));
    drop(raw);
    assert_forgotten(&server);
}

fn without_an_idle_timeout_nobody_is_idle(start: Start) {
    let server = start.set("limits.idle_timeout_ms", 0).set("limits.heartbeat_interval_ms", 20).start();
    let mut raw = raw(&server);
    for _ in 0..20 {
        assert_eq!(raw.frame().opcode, 9);
        raw.send(&masked(0x8a, b""));
    }
    raw.send(&masked(0x81, &json!({"type": "ping"}).to_string().into_bytes()));
    assert_eq!(raw.frame_of(1).opcode, 1);
}

fn who_does_not_answer_a_close_is_reset(start: Start) {
    let server = start.set("limits.close_timeout_ms", SHORT_MS).start();
    let mut raw = raw(&server);
    raw.send(&nonsense());
    assert_eq!(raw.frame_of(8).close().0, 1008);
    // Messages are no answer.
    raw.try_send(&masked(0x81, br#"{"type":"ping"}"#));
    let (rest, end) = raw.read_to_end();
    assert_eq!((rest, end), (Vec::new(), End::Reset));
    assert_eq!(server.metric("timeouts_total"), 1);
    assert_forgotten(&server);
}

/// The close frame itself can't be delivered: the peer's window is shut.
fn who_never_reads_is_reset(start: Start) {
    let server = start
        .set("socket.send_buffer_bytes", 4096)
        .set("limits.outbox_messages", 20)
        .set("limits.close_timeout_ms", SHORT_MS)
        .start();
    let mut slow = server.to("/ws/demo").receive_buffer(4096).open();
    slow.subscribe("conversation:1");
    let mut publisher = server.connect("/ws/demo");
    let filler = json!("x".repeat(4000));
    for _ in 0..2000 {
        publisher.publish("conversation:1", &filler);
    }
    assert_eq!(server.metric("slow_disconnects_total"), 1);
    server.wait_for_metric("timeouts_total", |timeouts| timeouts == 1);
    server.wait_for_metric("connections", |connections| connections == 1);
    publisher.assert_quiet();
    drop(slow);
}

/// FIN without a close frame, and a window that never opens: nothing would ever end such a connection by itself.
fn who_never_reads_and_says_no_more_is_reset(start: Start) {
    let server = start
        .set("socket.send_buffer_bytes", 4096)
        .set("limits.heartbeat_interval_ms", 0)
        .set("limits.close_timeout_ms", SHORT_MS)
        .start();
    let mut slow = Raw::with_receive_buffer(server.clients, Some(4096)).upgrade("/ws/demo");
    slow.send(&masked(0x81, br#"{"type":"subscribe","channel":"conversation:1"}"#));
    let mut publisher = server.connect("/ws/demo");
    server.wait_for_metric("messages_in_total", |messages| messages == 1);
    let filler = json!("x".repeat(4000));
    for _ in 0..200 {
        publisher.publish("conversation:1", &filler);
    }
    slow.finish();
    server.wait_for_metric("connections", |connections| connections == 1);
    assert_eq!(server.metric("timeouts_total"), 1);
    publisher.assert_quiet();
    drop(slow);
}

/// As a script does that pipes its messages in and reads what comes back.
fn who_says_no_more_still_gets_its_answers(start: Start) {
    let server = start.start();
    let mut raw = raw(&server);
    for _ in 0..50 {
        raw.send(&masked(0x81, br#"{"type":"ping","id":1}"#));
    }
    raw.finish();
    for _ in 0..50 {
        assert_eq!(raw.frame().opcode, 1, "an answer");
    }
    assert_eq!(raw.read_to_end(), (Vec::new(), End::Fin));
    assert_forgotten(&server);
}
