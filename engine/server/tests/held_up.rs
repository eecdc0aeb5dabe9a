//! One shard stands still for longer than any time-out while the others run: theirs goes on, what concerns it waits,
//! nothing is lost and nobody is closed.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{DEADLINE, HANDSHAKE, Held, Live, Raw, Server, Start, example, masked, on_both_drivers};

on_both_drivers!(
    others_go_on_while_a_shard_stands_still,
    who_floods_a_shard_that_stands_still_is_held_back,
    who_connects_meanwhile_is_served,
);

/// The shard that stands still, and the other one.
const HELD: usize = 0;
const OTHER: usize = 1;

/// Time-outs of clients, and how long the shard stands still.
const TIMEOUT_MS: u64 = 500;
const HOLD: Duration = Duration::from_millis(1100);

/// Set by who wants to go without these tests; they say so.
const SKIP: &str = "CORECAST_SKIP_PTRACE_TESTS";

/// What holds up a thread: an example of the driver's, the only package with `unsafe` code.
fn hold_thread() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| example("hold_thread"))
}

/// Two shards that may be held up, and no second chance for anybody.
fn strict(start: Start) -> Server {
    start
        .shards(2)
        .through(&[hold_thread(), "allow"])
        .set("limits.heartbeat_interval_ms", TIMEOUT_MS / 2)
        .set("limits.pong_timeout_ms", TIMEOUT_MS)
        .set("limits.missed_pongs", 1)
        .set("limits.connections_per_ip", 0)
        // Nobody here is to be disconnected for being slow.
        .set("limits.outbox_messages", 1 << 20)
        .set("limits.outbox_bytes", 1_u64 << 30)
        .start()
}

/// Holds up a shard; none where nobody may, and whoever runs the tests knows that.
#[track_caller]
fn hold(server: &Server) -> Option<Held> {
    match server.hold_shard(hold_thread(), HELD) {
        Ok(held) => Some(held),
        Err(error) => {
            assert!(
                std::env::var_os(SKIP).is_some(),
                "a thread can't be held up, which needs ptrace (CAP_SYS_PTRACE in containers): {error}\n\
                 Set {SKIP}=1 to go without what is tested here."
            );
            eprintln!("SKIPPED: a shard that stands still: {error}");
            None
        }
    }
}

/// A shard that stands still since it asked one of its clients for a pong. The pong comes in time, and is overdue by
/// the clock on the wall when the shard goes on.
struct Standstill {
    held: Held,
    began: Instant,
    debtor: Raw,
}

impl Standstill {
    /// None where nobody may be held up.
    #[track_caller]
    fn begin(server: &Server) -> Option<Self> {
        let mut debtor = raw_on_held_shard(server);
        loop {
            let ping = debtor.frame_of(9);
            let began = Instant::now();
            let held = hold(server)?;
            debtor.send(&masked(0x8a, &ping.payload));
            if began.elapsed() < Duration::from_millis(TIMEOUT_MS / 2) {
                return Some(Self { held, began, debtor });
            }
            // Where holding takes so long the shard itself might have seen that nothing came.
            drop(held);
        }
    }

    /// Ends it when it has lasted long enough. The next that the client hears is another ping.
    #[track_caller]
    fn end(mut self) {
        thread::sleep(HOLD.saturating_sub(self.began.elapsed()));
        drop(self.held);
        let frame = self.debtor.frame();
        assert_eq!(frame.opcode, 9, "{}", String::from_utf8_lossy(&frame.payload));
    }
}

#[track_caller]
fn raw_on_held_shard(server: &Server) -> Raw {
    for _ in 0..200 {
        let mut raw = server.raw_upgraded("/ws/demo");
        let established: Value = serde_json::from_slice(&raw.frame_of(1).payload).expect("JSON");
        if established["shard"] == HELD {
            return raw;
        }
    }
    panic!("the kernel spreads connections over shards");
}

/// Channels whose home is the other shard, and such whose home is the held one: while it stands still only the
/// former answer.
fn channels(server: &Server) -> Option<[Vec<String>; 2]> {
    let names: Vec<String> = (0..32).map(|it| format!("conversation:{it}")).collect();
    let client = Live::on_shard(server, OTHER);
    let held = hold(server)?;
    for (id, name) in names.iter().enumerate() {
        client.publish(name, &json!(0), Some(id as u64));
    }
    // What its own shard says comes before the answer to this.
    client.send(&json!({"type": "ping"}));
    let mut answered = Vec::new();
    loop {
        let message = client.next();
        match message["type"].as_str() {
            Some("response") => answered.push(message["id"].as_u64().expect("a number") as usize),
            _ => break,
        }
    }
    drop(held);
    for _ in answered.len()..names.len() {
        assert_eq!(client.next()["type"], "response", "the others answer later");
    }
    let (other, held): (Vec<_>, Vec<_>) =
        names.into_iter().enumerate().partition(|(id, _)| answered.contains(id));
    let names = |of: Vec<(usize, String)>| of.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    let homes = [names(held), names(other)];
    assert!(homes.iter().all(|it| !it.is_empty()), "32 channels have more than one home: {homes:?}");
    Some(homes)
}

/// Messages of one publisher, in order, without gaps; behind the one that told the homes.
#[track_caller]
fn assert_hears(client: &Live, channel: &str, count: u64) {
    for n in 1..=count {
        let message = client.next();
        assert_eq!((&message["channel"], &message["payload"]), (&json!(channel), &json!(n)), "{message}");
        assert_eq!(message["offset"], n + 1);
    }
}

fn assert_nobody_was_closed(server: &Server, clients: &[&Live]) {
    for client in clients {
        client.assert_quiet();
    }
    for name in ["timeouts_total", "slow_disconnects_total", "dropped_total"] {
        assert_eq!(server.metric(name), 0, "{name}");
    }
}

fn others_go_on_while_a_shard_stands_still(start: Start) {
    const OWN: u64 = 500;
    const ACROSS: u64 = 200;
    let server = strict(start);
    let Some([of_held, of_other]) = channels(&server) else { return };
    let [here, there] = [OTHER, HELD].map(|shard| Live::on_shard(&server, shard));
    // Subscribed on both shards: to a channel of each, one of whose publishers is on the wrong side.
    let listeners: Vec<Live> = [HELD, OTHER, HELD, OTHER].map(|shard| Live::on_shard(&server, shard)).into();
    for (listener, channel) in listeners.iter().zip([&of_held[0], &of_held[0], &of_other[0], &of_other[0]]) {
        listener.subscribe(channel);
    }
    let own = Live::on_shard(&server, OTHER);
    let third = of_other.get(1).expect("half of 32 channels are there");
    own.subscribe(third);
    let standstill = Standstill::begin(&server).expect("it went well before");
    for n in 1..=ACROSS {
        here.publish(&of_held[0], &json!(n), None);
        there.publish(&of_other[0], &json!(n), None);
    }
    // Each of these is awaited: they are exchanged while the other shard stands still.
    for n in 1..=OWN {
        here.publish(third, &json!(n), Some(n));
        let message = own.next();
        assert_eq!((&message["payload"], &message["offset"]), (&json!(n), &json!(n + 1)), "{message}");
        assert_eq!(here.next()["id"], n);
    }
    standstill.end();
    for (listener, channel) in listeners.iter().zip([&of_held[0], &of_held[0], &of_other[0], &of_other[0]]) {
        assert_hears(listener, channel, ACROSS);
    }
    let all: Vec<&Live> = listeners.iter().chain([&here, &there, &own]).collect();
    assert_nobody_was_closed(&server, &all);
}

fn who_floods_a_shard_that_stands_still_is_held_back(start: Start) {
    const FLOOD: u64 = 20_000;
    const RECV_BUFFERS: u64 = 32;
    // Of 9 MB: a ring, its spill up to its bound, and all receive buffers, some of them twice before reading ends.
    const TAKEN_BYTES_MAX: u64 = 4096 + 16_384 + 2 * RECV_BUFFERS * 4096;
    let small = start
        .set("rings.request_bytes", 4096)
        .set("rings.deliver_bytes", 4096)
        .set("rings.inline_bytes", 1020)
        .set("rings.spill_bytes", 16_384)
        .set("shard.recv_buffers", RECV_BUFFERS)
        .set("socket.recv_buffer_bytes", 8192);
    let server = strict(small);
    let Some([of_held, _]) = channels(&server) else { return };
    let channel = of_held[0].clone();
    let listeners = [HELD, OTHER].map(|shard| Live::on_shard(&server, shard));
    for listener in &listeners {
        listener.subscribe(&channel);
    }
    let publisher = Live::on_shard(&server, OTHER);
    let stalls = server.metric("stalls_total");
    let standstill = Standstill::begin(&server).expect("it went well before");
    let bytes_in = server.metric("bytes_in_total");
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let flood = thread::spawn(move || {
        let filler = "x".repeat(400);
        for n in 1..=FLOOD {
            publisher.publish(&channel, &json!({"n": n, "filler": filler}), None);
            count.store(n, Ordering::Relaxed);
        }
        publisher
    });
    // What does not fit is not read, and its socket takes no more.
    server.wait_for_metric("stalls_total", |now| now > stalls);
    let blocked_at = settled(&sent);
    assert!(blocked_at < FLOOD, "all of the flood was taken");
    let bytes_in = server.metric("bytes_in_total") - bytes_in;
    let [held, spilled] = ["held_bytes", "spilled_bytes"].map(|name| server.metric(name));
    eprintln!("{bytes_in} bytes were read, {held} are held, {spilled} wait; blocked at message {blocked_at}");
    assert!(bytes_in <= TAKEN_BYTES_MAX, "{bytes_in} bytes were read");
    assert!((1..=TAKEN_BYTES_MAX).contains(&held), "{held} bytes are held");
    assert!((1..=TAKEN_BYTES_MAX).contains(&spilled), "{spilled} bytes wait for room in rings");
    assert_eq!(sent.load(Ordering::Relaxed), blocked_at, "it is still blocked");
    standstill.end();
    for listener in &listeners {
        for n in 1..=FLOOD {
            let message = listener.next();
            assert_eq!((&message["payload"]["n"], &message["offset"]), (&json!(n), &json!(n + 1)));
        }
    }
    let publisher = flood.join().expect("everything is taken in the end");
    assert_nobody_was_closed(&server, &[&listeners[0], &listeners[1], &publisher]);
}

/// A count that has stopped to grow, for several looks.
fn settled(count: &AtomicU64) -> u64 {
    const LOOKS: usize = 5;
    let until = Instant::now() + DEADLINE;
    let (mut before, mut looks) = (count.load(Ordering::Relaxed), 0);
    while looks < LOOKS {
        assert!(Instant::now() < until, "it goes on to grow: {before}");
        thread::sleep(Duration::from_millis(50));
        let now = count.load(Ordering::Relaxed);
        looks = if now == before { looks + 1 } else { 0 };
        before = now;
    }
    before
}

/// Whoever connects meanwhile, half of them to the shard that stands still, is served: at once or when it goes on.
fn who_connects_meanwhile_is_served(start: Start) {
    let server = strict(start);
    let Some(standstill) = Standstill::begin(&server) else { return };
    let mut waiting: Vec<_> = (0..16)
        .map(|_| {
            let mut raw = server.raw();
            raw.send(format!("GET /ws/demo{}", HANDSHAKE).as_bytes());
            raw
        })
        .collect();
    standstill.end();
    let mut shards = Vec::new();
    for raw in &mut waiting {
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let established: Value = serde_json::from_slice(&raw.frame_of(1).payload).expect("JSON");
        shards.push(established["shard"].as_u64());
    }
    assert!(shards.contains(&Some(HELD as u64)), "of 16 one comes to each shard: {shards:?}");
}
