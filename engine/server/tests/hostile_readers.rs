//! Peers that never read, or stop: what each policy makes of them, that nobody else pays for it, and that the kernel
//! holds little for them, however large the windows that they opened before.

mod support;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;
use support::{
    Client, Crowd, DEADLINE, Gauges, Link, OWN_NETWORK, Raw, Server, Start, in_own_network, masked,
    on_both_drivers,
};

on_both_drivers!(
    a_deaf_consumer_of_a_conversation,
    a_deaf_consumer_of_what_may_be_dropped,
    a_deaf_consumer_of_latest_values,
    who_stops_reading_with_a_large_window,
    who_vanishes_with_a_large_window,
    who_stops_reading_its_replies_after_much_talk,
    who_stops_reading_in_the_middle_of_a_message,
);

/// What the kernel may hold for one connection.
const KERNEL_BYTES_MAX: u64 = 256 << 10;

/// A window that is large: it would make the kernel hold far more than it may.
const WINDOW_BYTES_MIN: u64 = 4 * KERNEL_BYTES_MAX;

/// A payload that fills sockets soon.
const FILLER_BYTES: usize = 4000;

/// A payload that fills windows soon.
const LARGE_BYTES: usize = 60_000;

fn a_deaf_consumer_of_a_conversation(start: Start) {
    deaf(start, "conversation:1", "slow_disconnects_total", 1);
}

fn a_deaf_consumer_of_what_may_be_dropped(start: Start) {
    deaf(start, "room", "dropped_total", 2000);
}

fn a_deaf_consumer_of_latest_values(start: Start) {
    deaf(start, "metrics:1", "conflated_total", 2000);
}

/// Largest figure of the kernel's memory for a connection, over all looks.
struct Watch {
    peer: SocketAddr,
    bytes: u64,
    looks: u32,
}

impl Watch {
    fn over(stream: &TcpStream) -> Self {
        Self { peer: stream.local_addr().expect("it is connected"), bytes: 0, looks: 0 }
    }

    /// Whether the connection is there.
    #[track_caller]
    fn look(&mut self, server: &Server) -> bool {
        let held = server.kernel_bytes(self.peer);
        self.bytes = self.bytes.max(held.unwrap_or(0));
        self.looks += u32::from(held.is_some());
        held.is_some()
    }

    #[track_caller]
    fn assert_small(&self) {
        assert!(self.looks > 0, "the connection was never seen");
        assert!(self.bytes > 0, "a peer that does not read makes the kernel hold something");
        let bytes = self.bytes;
        eprintln!("the kernel held up to {bytes} bytes in {} looks", self.looks);
        assert!(bytes < KERNEL_BYTES_MAX, "the kernel holds {bytes} bytes for one peer");
    }
}

/// Publishes numbered messages, each of which the bystander reads before the next; looks at the rest now and then.
/// Ends when a counter has moved so far.
#[track_caller]
fn publish_until(
    server: &Server,
    channel: &str,
    bystander: &mut Client,
    watch: &mut Watch,
    (counter, wanted): (&str, u64),
) {
    const MESSAGES_MAX: u64 = 50_000;
    let mut publisher = server.connect("/ws/demo");
    let filler = "x".repeat(FILLER_BYTES);
    for number in 0..MESSAGES_MAX {
        publisher.send_json(&json!({
            "type": "publish", "channel": channel, "event": "value",
            "payload": {"number": number, "filler": filler},
        }));
        assert_eq!(bystander.expect("message")["payload"]["number"], number, "a neighbour loses nothing");
        if number % 200 == 199 {
            watch.look(server);
            if server.metric(counter) >= wanted {
                publisher.close();
                return;
            }
        }
    }
    panic!("{MESSAGES_MAX} messages, and {counter} is {}", server.metric(counter));
}

/// Sockets and outboxes as they are by default, and a peer with a receive buffer as it is by default.
#[track_caller]
fn deaf(start: Start, channel: &str, counter: &str, wanted: u64) {
    let server = start.arg("--no-limits").start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    let mut bystander = server.connect("/ws/demo");
    bystander.subscribe(channel);
    crowd.round();
    let before = Gauges::settled(&server);
    let mut deaf = server.connect("/ws/demo");
    deaf.subscribe(channel);
    let mut watch = Watch::over(deaf.socket.get_ref());
    let chatting = crowd.chat();
    publish_until(&server, channel, &mut bystander, &mut watch, (counter, wanted));
    chatting.wait_for_rounds(2);
    watch.look(&server);
    watch.assert_small();
    reset(deaf.socket.get_ref());
    drop(deaf);
    bystander.assert_quiet();
    crowd = chatting.stop();
    before.assert_back(&server);
    crowd.round();
}

/// A socket that ends by RST once it is dropped.
fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a socket can linger");
}

/// A subscriber of `room` on `address` that reads so much so fast that its window becomes large.
#[track_caller]
fn eager(server: &Server, address: SocketAddr, publisher: &mut Client) -> Raw {
    let mut eager = Raw::upgraded(address, "/ws/demo");
    eager.send(&masked(0x81, br#"{"type":"subscribe","channel":"room"}"#));
    for _ in 0..2 {
        assert_eq!(eager.frame().opcode, 1, "connection_established and subscribed");
    }
    let mut stream = eager.stream.try_clone().expect("a socket can be cloned");
    let is_over = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&is_over);
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out can be set");
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while !end.load(Ordering::Relaxed) {
            // Nothing, for a moment.
            let _bytes = stream.read(&mut buffer).unwrap_or(0);
        }
    });
    let peer = eager.stream.local_addr().expect("it is connected");
    let until = Instant::now() + DEADLINE;
    loop {
        publish_large(publisher, 40);
        let window = server.send_window(peer);
        if window >= WINDOW_BYTES_MIN {
            eprintln!("its window is {window} bytes");
            break;
        }
        assert!(Instant::now() < until, "its window stays {window} bytes");
    }
    is_over.store(true, Ordering::Relaxed);
    reading.join().expect("it reads");
    eager
}

/// Publishes to `room` without waiting for anything, and then for all of it.
#[track_caller]
fn publish_large(publisher: &mut Client, count: usize) {
    let message =
        json!({"type": "publish", "channel": "room", "payload": "x".repeat(LARGE_BYTES)}).to_string();
    for _ in 0..count {
        publisher.send_text(&message);
    }
    publisher.assert_quiet();
}

/// What was sent into a large window and is not acknowledged is the kernel's to keep.
fn who_stops_reading_with_a_large_window(start: Start) {
    let server = start.arg("--no-limits").start();
    let mut publisher = server.connect("/ws/demo");
    let before = Gauges::settled(&server);
    let deaf = eager(&server, server.clients, &mut publisher);
    stop_reading(&server, &mut publisher, &deaf);
    deaf.reset();
    before.assert_back(&server);
    publisher.assert_quiet();
}

fn who_vanishes_with_a_large_window(start: Start) {
    let test = format!("{}::who_vanishes_with_a_large_window", start.driver);
    in_own_network(&test, || {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut server = start.arg("--no-limits").listen(any).admin(any).through(&OWN_NETWORK).start();
        let (near, far) = (Link::lay(&server, 1), Link::lay(&server, 2));
        server.clients.set_ip(near.server);
        server.admin.set_ip(near.server);
        let mut publisher = server.connect("/ws/demo");
        let gone = eager(&server, SocketAddr::new(far.server, server.clients.port()), &mut publisher);
        far.cut();
        stop_reading(&server, &mut publisher, &gone);
        publisher.assert_quiet();
        drop(gone);
    });
}

/// Publishes until messages are dropped for a peer that does not read any more, and watches its socket.
#[track_caller]
fn stop_reading(server: &Server, publisher: &mut Client, peer: &Raw) {
    let mut watch = Watch::over(&peer.stream);
    let dropped = server.metric("dropped_total");
    let until = Instant::now() + DEADLINE;
    while server.metric("dropped_total") < dropped + 100 {
        assert!(Instant::now() < until, "it takes all that comes");
        publish_large(publisher, 20);
        assert!(watch.look(server), "it is still connected");
    }
    watch.assert_small();
}

/// A fast talker has a large window at the server; then its input is held back, and the window fills.
fn who_stops_reading_its_replies_after_much_talk(start: Start) {
    const MESSAGES: usize = 500;
    let server = start.arg("--no-limits").start();
    let mut bystander = server.connect("/ws/demo");
    let before = Gauges::settled(&server);
    let mut talker = server.raw_upgraded("/ws/demo");
    let text =
        json!({"type": "publish", "channel": "nobody", "payload": "x".repeat(LARGE_BYTES)}).to_string();
    let message = masked(0x81, text.as_bytes());
    for _ in 0..MESSAGES {
        talker.send(&message);
    }
    server.wait_for_metric("messages_in_total", |messages| messages >= MESSAGES as u64);
    let mut watch = Watch::over(&talker.stream);
    talker.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a time-out can be set");
    let pings =
        masked(0x81, json!({"type": "ping", "id": "x".repeat(64)}).to_string().as_bytes()).repeat(200);
    let mut count = 0;
    let until = Instant::now() + DEADLINE;
    while talker.try_send(&pings) {
        assert!(Instant::now() < until, "all that it says is read");
        count += 1;
        if count % 20 == 0 {
            watch.look(&server);
        }
    }
    assert!(server.metric("stalls_total") > 0, "its input is held back");
    assert!(watch.look(&server), "it is still connected");
    watch.assert_small();
    bystander.assert_quiet();
    talker.reset();
    before.assert_back(&server);
}

/// It has half of a message: what follows must be the other half, whatever was dropped behind it.
fn who_stops_reading_in_the_middle_of_a_message(start: Start) {
    const MESSAGES: u64 = 400;
    let server = start
        .arg("--no-limits")
        .set("limits.message_bytes", 131_072)
        .set("limits.outbox_messages", 20)
        .set("limits.outbox_bytes", 1 << 20)
        .start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    let mut slow = Raw::with_receive_buffer(server.clients, Some(4096)).upgrade("/ws/demo");
    slow.send(&masked(0x81, br#"{"type":"subscribe","channel":"room"}"#));
    for _ in 0..2 {
        assert_eq!(slow.frame().opcode, 1, "connection_established and subscribed");
    }
    let chatting = crowd.chat();
    let mut publisher = server.connect("/ws/demo");
    let filler = "x".repeat(LARGE_BYTES);
    let payload = |number: u64| json!({"number": number, "filler": filler});
    publisher.publish("room", &payload(0));
    slow.await_bytes(1000);
    for number in 1..MESSAGES {
        publisher.publish("room", &payload(number));
    }
    chatting.wait_for_rounds(2);
    let (mut numbers, filler) = (Vec::new(), filler.as_str());
    while numbers.last() != Some(&(MESSAGES - 1)) {
        let message: Value = serde_json::from_slice(&slow.frame_of(1).payload).expect("a message is whole");
        assert_eq!(message["payload"]["filler"], filler);
        numbers.push(message["payload"]["number"].as_u64().expect("a number"));
    }
    crowd = chatting.stop();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "in order and each once: {numbers:?}");
    assert_eq!(numbers[0], 0, "what was on its way is not taken back");
    assert_eq!(
        MESSAGES - numbers.len() as u64,
        server.metric("dropped_total"),
        "what is missing was counted"
    );
    assert!(server.metric("dropped_total") > 0, "it was slow");
    crowd.round();
}
