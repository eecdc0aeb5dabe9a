//! The server itself is away: stopped and continued, killed and started again, one of its shards held up. Nobody
//! pays for that with a connection or a message.

mod support;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Client, HANDSHAKE, Raw, Server, Start, masked, on_all_layouts, on_both_drivers};

on_all_layouts!(nobody_is_late_while_the_server_is_stopped, what_is_sent_while_it_is_stopped_is_delivered);

on_both_drivers!(
    half_a_handshake_is_given_its_time,
    a_close_that_was_answered_meanwhile_is_clean,
    who_is_dead_is_closed_all_the_same,
    a_killed_server_is_replaced_at_once,
);

/// A time-out of clients, and how long the server is away: several times that.
const TIMEOUT_MS: u64 = 600;
const AWAY: Duration = Duration::from_millis(1500);

const CHANNEL: &str = "conversation:1";

/// A server that gives its clients [`TIMEOUT_MS`] for everything, and no second chance.
fn strict(start: Start) -> Start {
    start
        .set("limits.heartbeat_interval_ms", TIMEOUT_MS / 2)
        .set("limits.pong_timeout_ms", TIMEOUT_MS)
        .set("limits.missed_pongs", 1)
        .set("limits.handshake_timeout_ms", TIMEOUT_MS)
        .set("limits.close_timeout_ms", TIMEOUT_MS)
        .set("limits.connections_per_ip", 0)
}

/// Stops the whole process, does something, and lets it go on when it was away for long enough.
fn away<T>(server: &Server, meanwhile: impl FnOnce() -> T) -> T {
    server.signal("STOP");
    let outcome = meanwhile();
    thread::sleep(AWAY);
    server.signal("CONT");
    outcome
}

/// Answers every ping after some time, which is well within its limit, until the server closes; the close code.
fn answer_late(mut raw: Raw) -> u16 {
    loop {
        let frame = raw.frame();
        match frame.opcode {
            9 => {
                thread::sleep(Duration::from_millis(TIMEOUT_MS / 4));
                raw.send(&masked(0x8a, &frame.payload));
            }
            8 => {
                let (code, _) = frame.close();
                raw.try_send(&masked(0x88, &code.to_be_bytes()));
                return code;
            }
            _ => {}
        }
    }
}

/// At any moment about every third client owes a pong. It comes while the server is stopped, and is overdue when
/// the server goes on.
fn nobody_is_late_while_the_server_is_stopped(start: Start) {
    let mut server = strict(start).start();
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let raw = server.raw_upgraded("/ws/demo");
            // Each at its own time.
            thread::sleep(Duration::from_millis(TIMEOUT_MS / 30));
            thread::spawn(move || answer_late(raw))
        })
        .collect();
    away(&server, || ());
    // Heartbeats go on.
    thread::sleep(Duration::from_millis(TIMEOUT_MS));
    assert_eq!(server.metric("clients"), 24);
    assert_eq!(server.metric("timeouts_total"), 0);
    server.signal("TERM");
    for client in clients {
        assert_eq!(client.join().expect("no client fails"), 1001);
    }
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

fn what_is_sent_while_it_is_stopped_is_delivered(start: Start) {
    const EACH: u64 = 200;
    // Nobody here is to be disconnected for being slow: it reads when all is published.
    let server = start.set("limits.outbox_messages", 1 << 20).set("limits.connections_per_ip", 0).start();
    let mut publishers = server.connect_on_every_shard("/ws/demo");
    let mut subscribers = server.connect_on_every_shard("/ws/demo");
    for subscriber in &mut subscribers {
        subscriber.subscribe(CHANNEL);
    }
    let publish = |publishers: &mut [Client], from: u64| {
        for n in from..from + EACH {
            for (name, publisher) in publishers.iter_mut().enumerate() {
                let payload = json!({"from": name, "n": n});
                publisher.send_json(&json!({"type": "publish", "channel": CHANNEL, "payload": payload}));
            }
        }
    };
    publish(&mut publishers, 0);
    server.signal("STOP");
    publish(&mut publishers, EACH);
    server.signal("CONT");
    publish(&mut publishers, 2 * EACH);
    for subscriber in &mut subscribers {
        let mut next: BTreeMap<u64, u64> = BTreeMap::new();
        for offset in 1..=3 * EACH * publishers.len() as u64 {
            let message = subscriber.expect("message");
            assert_eq!(message["offset"], offset);
            let number = |name: &str| message["payload"][name].as_u64().expect("a number");
            let expected = next.entry(number("from")).or_default();
            assert_eq!(number("n"), *expected, "{message}");
            *expected += 1;
        }
    }
    for client in publishers.iter_mut().chain(&mut subscribers) {
        client.assert_quiet();
    }
}

fn half_a_handshake_is_given_its_time(start: Start) {
    let server = strict(start).start();
    let request = format!("GET /ws/demo{HANDSHAKE}");
    let (first, second) = request.as_bytes().split_at(40);
    let mut halves: Vec<Raw> = (0..8).map(|_| server.raw()).collect();
    for raw in &mut halves {
        raw.send(first);
    }
    server.wait_for_metric("connections", |connections| connections == 8);
    let mut late = away(&server, || {
        for raw in &mut halves {
            raw.send(second);
        }
        // Whoever comes meanwhile waits in the kernel.
        let mut late = server.raw();
        late.send(request.as_bytes());
        late
    });
    for raw in halves.iter_mut().chain([&mut late]) {
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
    assert_eq!(server.metric("timeouts_total"), 0);
}

fn a_close_that_was_answered_meanwhile_is_clean(start: Start) {
    let server = strict(start).start();
    let mut raw = server.raw_upgraded("/ws/demo");
    // The tenth invalid message in a row ends it.
    for _ in 0..10 {
        raw.send(&masked(0x81, b"no JSON"));
    }
    let (code, _) = raw.frame_of(8).close();
    away(&server, || raw.send(&masked(0x88, &code.to_be_bytes())));
    let (rest, end) = raw.read_to_end();
    assert_eq!((rest, end), (Vec::new(), support::End::Fin));
    assert_eq!(server.metric("timeouts_total"), 0);
}

/// The absence of others still counts.
fn who_is_dead_is_closed_all_the_same(start: Start) {
    let server = strict(start).start();
    let mut mute = server.raw_upgraded("/ws/demo");
    mute.frame_of(9);
    away(&server, || ());
    assert_eq!(mute.frame_of(8).close().0, 4001);
    server.wait_for_metric("timeouts_total", |timeouts| timeouts >= 1);
}

fn a_killed_server_is_replaced_at_once(start: Start) {
    let start = start.shards(2).set("limits.connections_per_ip", 0);
    let mut server = start.clone().start();
    let address = server.clients;
    let again = start.listen(address);
    for life in 0..3 {
        let mut clients = server.connect_on_every_shard("/ws/demo");
        for client in &mut clients {
            client.subscribe(CHANNEL);
        }
        let last = clients.len() - 1;
        // In the middle of work.
        for n in 0..500 {
            clients[0].send_json(&json!({"type": "publish", "channel": CHANNEL, "payload": n}));
        }
        assert_eq!(clients[last].expect("message")["payload"], 0, "life {life}");
        server.kill();
        server = again.clone().start();
        assert_eq!(server.clients, address);
        for client in &mut clients {
            assert_cut_off(client);
        }
        let mut back = server.connect("/ws/demo");
        back.subscribe(CHANNEL);
        assert_eq!(back.publish(CHANNEL, &json!("back"))["offset"], 1, "a new life counts anew");
    }
}

/// What came is whole and in order, and then there is nothing more.
#[track_caller]
fn assert_cut_off(client: &mut Client) {
    let mut offset: Option<u64> = None;
    while let Ok(message) = client.socket.read() {
        let message: Value = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
        if message["type"] == "message" {
            let this = message["offset"].as_u64().expect("an offset");
            assert!(offset.is_none_or(|before| this == before + 1), "{message} behind {offset:?}");
            offset = Some(this);
        }
    }
}
