//! Clients that stop reading: each namespace's policy, and that nobody else pays for it.

mod support;

use std::io::Write;
use std::thread;

use serde_json::{Value, json};
use support::{Client, Raw, Server, Start, masked, on_all_layouts};

on_all_layouts!(
    a_slow_consumer_of_a_conversation_is_disconnected,
    bytes_fill_an_outbox_too,
    the_oldest_messages_are_dropped,
    the_latest_value_replaces_the_ones_before,
    a_burst_replaces_only_its_own_kind,
    replies_that_nobody_reads_hold_their_asker_back,
    a_burst_makes_nobody_slow,
    who_never_reads_its_replies_is_disconnected,
);

/// So small that the kernel can't take in what the outbox is to be filled with.
const SMALL_BUFFER_BYTES: usize = 4096;

/// A payload large enough to fill a socket soon.
const FILLER_BYTES: usize = 4000;

/// Messages that wait at most.
const OUTBOX_MESSAGES: u64 = 20;

fn small(start: Start) -> Start {
    start
        .set("socket.send_buffer_bytes", SMALL_BUFFER_BYTES)
        .set("limits.message_bytes", 65_536)
        .set("limits.outbox_messages", OUTBOX_MESSAGES)
        .set("limits.outbox_bytes", 1 << 20)
}

/// A subscriber that reads nothing from now on.
#[track_caller]
fn slow(server: &Server, channel: &str) -> Client {
    let mut slow = server.to("/ws/demo?as=slow").receive_buffer(SMALL_BUFFER_BYTES).open();
    slow.subscribe(channel);
    slow
}

/// Publishes numbered messages, each of which the bystander reads before the next, until a counter has moved so
/// far. Returns how many there were.
#[track_caller]
fn publish_until(server: &Server, channel: &str, bystander: &mut Client, counter: &str, wanted: u64) -> u64 {
    const MESSAGES_MAX: u64 = 20_000;
    let mut publisher = server.connect("/ws/demo?as=publisher");
    let filler = "x".repeat(FILLER_BYTES);
    for number in 0..MESSAGES_MAX {
        publisher.send_json(&json!({
            "type": "publish", "channel": channel, "event": "value",
            "payload": {"number": number, "filler": filler},
        }));
        assert_eq!(bystander.expect("message")["payload"]["number"], number, "a bystander loses nothing");
        // The counters are looked at now and then: that takes longer than publishing.
        if number % 50 == 49 && server.metric(counter) >= wanted {
            return number + 1;
        }
    }
    panic!("{MESSAGES_MAX} messages, and {counter} is {}", server.metric(counter));
}

/// Reads up to the message of this number; the numbers that came, in order.
#[track_caller]
fn numbers_up_to(client: &mut Client, last: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let message = client.expect("message");
        numbers.push(message["payload"]["number"].as_u64().expect("a number"));
    }
    numbers
}

#[track_caller]
fn assert_rising(numbers: &[u64]) {
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "in order and each once: {numbers:?}");
}

fn a_slow_consumer_of_a_conversation_is_disconnected(start: Start) {
    disconnects(small(start));
}

fn bytes_fill_an_outbox_too(start: Start) {
    disconnects(small(start).set("limits.outbox_messages", 100_000).set("limits.outbox_bytes", 131_072));
}

#[track_caller]
fn disconnects(start: Start) {
    let server = start.start();
    let mut bystander = server.connect("/ws/demo?as=bystander");
    bystander.subscribe("conversation:1");
    let mut slow = slow(&server, "conversation:1");
    publish_until(&server, "conversation:1", &mut bystander, "slow_disconnects_total", 1);
    assert_eq!(server.metric("slow_disconnects_total"), 1, "one consumer, once");
    // What was under way arrives without a gap, then the reason: nothing is silently left out.
    let mut expected = 0;
    loop {
        match slow.socket.read().expect("what was sent arrives") {
            tungstenite::Message::Text(text) => {
                let message: Value = serde_json::from_str(&text).expect("the hub sends JSON");
                assert_eq!(message["payload"]["number"], expected);
                expected += 1;
            }
            tungstenite::Message::Close(Some(close)) => {
                assert_eq!(u16::from(close.code), 4000);
                assert!(close.reason.starts_with("SLOW_CONSUMER"), "{}", close.reason);
                break;
            }
            other => panic!("a message or the close was awaited, not {other:?}"),
        }
    }
    assert!(server.metric("dropped_total") >= OUTBOX_MESSAGES, "what waited was given up");
    bystander.assert_quiet();
}

fn the_oldest_messages_are_dropped(start: Start) {
    let server = small(start).start();
    let mut bystander = server.connect("/ws/demo?as=bystander");
    bystander.subscribe("room");
    let mut slow = slow(&server, "room");
    let count = publish_until(&server, "room", &mut bystander, "dropped_total", 100);
    let numbers = numbers_up_to(&mut slow, count - 1);
    let dropped = server.metric("dropped_total");
    assert_rising(&numbers);
    assert_eq!(numbers[0], 0, "what was on its way is not taken back");
    assert_eq!(count - numbers.len() as u64, dropped, "what is missing was counted");
    // The end is complete: what was dropped is the oldest.
    let tail = &numbers[numbers.len() - OUTBOX_MESSAGES as usize..];
    assert_eq!(tail, (count - OUTBOX_MESSAGES..count).collect::<Vec<_>>());
    slow.assert_quiet();
    bystander.assert_quiet();
    assert_eq!(server.metric("slow_disconnects_total"), 0);
}

fn the_latest_value_replaces_the_ones_before(start: Start) {
    let server = small(start).start();
    let mut bystander = server.connect("/ws/demo?as=bystander");
    bystander.subscribe("metrics:1");
    let mut slow = slow(&server, "metrics:1");
    let count = publish_until(&server, "metrics:1", &mut bystander, "conflated_total", 100);
    let numbers = numbers_up_to(&mut slow, count - 1);
    let conflated = server.metric("conflated_total");
    assert_rising(&numbers);
    assert_eq!(count - numbers.len() as u64, conflated, "what is missing was counted");
    slow.assert_quiet();
    bystander.assert_quiet();
    assert_eq!((server.metric("slow_disconnects_total"), server.metric("dropped_total")), (0, 0));
}

/// A burst of one event takes no other event's latest value away, not even from a consumer that keeps up.
fn a_burst_replaces_only_its_own_kind(start: Start) {
    let server = small(start).start();
    let mut ann = server.connect("/ws/demo");
    ann.subscribe("metrics:1");
    let message = |event: &str, number: u64| json!({"type": "publish", "channel": "metrics:1", "event": event, "payload": number});
    let mut messages = vec![message("rare", 7)];
    messages.extend((0..3 * OUTBOX_MESSAGES).map(|number| message("often", number)));
    let mut publisher = server.connect("/ws/demo");
    publisher.send_json(&json!({"type": "batch", "messages": messages}));
    let rare = ann.expect("message");
    assert_eq!((&rare["event"], &rare["payload"]), (&json!("rare"), &json!(7)));
    while ann.expect("message")["payload"] != 3 * OUTBOX_MESSAGES - 1 {}
    assert_eq!(server.metric("dropped_total"), 0);
}

/// Who asks without reading the answers is not disconnected and loses none: its input waits.
fn replies_that_nobody_reads_hold_their_asker_back(start: Start) {
    const PINGS: usize = 3000;
    let server = small(start).start();
    let mut asker = server.to("/ws/demo").receive_buffer(SMALL_BUFFER_BYTES).open();
    let mut bystander = server.connect("/ws/demo");
    let stream = asker.socket.get_ref().try_clone().expect("a socket can be cloned");
    let writer = thread::spawn(move || {
        let mut stream = stream;
        for number in 0..PINGS {
            let ping = json!({"type": "ping", "id": number}).to_string();
            Write::write_all(&mut stream, &masked(0x81, ping.as_bytes())).expect("it is read");
        }
    });
    server.wait_for_metric("stalls_total", |stalls| stalls > 0);
    bystander.assert_quiet();
    for number in 0..PINGS {
        assert_eq!(asker.expect("pong")["id"], number);
    }
    writer.join().expect("all was sent");
    asker.assert_quiet();
    assert_eq!((server.metric("slow_disconnects_total"), server.metric("dropped_total")), (0, 0));
}

/// All of it is there in one turn, before a single message could be sent.
fn a_burst_makes_nobody_slow(start: Start) {
    const BURST: u64 = 300;
    let server = start.set("limits.outbox_messages", 100).start();
    let mut subscriber = server.connect("/ws/demo");
    subscriber.subscribe("conversation:1");
    let mut publisher = server.connect("/ws/demo");
    server.signal("STOP");
    for number in 0..BURST {
        publisher.send_json(&json!({"type": "publish", "channel": "conversation:1", "payload": number}));
    }
    server.signal("CONT");
    for number in 0..BURST {
        assert_eq!(subscriber.expect("message")["payload"], number);
    }
    assert_eq!(server.metric("slow_disconnects_total"), 0);
}

/// Its own replies fill its outbox, and nobody is to wait for it for ever.
fn who_never_reads_its_replies_is_disconnected(start: Start) {
    let server = small(start)
        .set("limits.heartbeat_interval_ms", 50)
        .set("limits.pong_timeout_ms", 50)
        .set("limits.close_timeout_ms", 50)
        .start();
    let deaf = Raw::with_receive_buffer(server.clients, Some(SMALL_BUFFER_BYTES)).upgrade("/ws/demo");
    let mut asker = deaf.stream.try_clone().expect("a socket can be cloned");
    // Blocks once nothing is read from it any more, until it is reset.
    let asking = thread::spawn(move || {
        let ping = masked(0x81, br#"{"type":"ping","id":1}"#).repeat(100);
        while asker.write_all(&ping).is_ok() {}
    });
    server.wait_for_metric("slow_disconnects_total", |count| count == 1);
    server.wait_for_metric("connections", |connections| connections == 0);
    asking.join().expect("the asker notices");
    drop(deaf);
}
