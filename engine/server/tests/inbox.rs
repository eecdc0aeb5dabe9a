//! Inboxes on the real binary: what is sent to who is away, who comes back, and who dies while reading.

mod support;

use serde_json::{Value, json};
use support::{Client, Monitor, Server, Start, on_all_layouts};

on_all_layouts!(
    what_is_stored_waits_for_its_recipient,
    a_recipient_that_dies_while_reading_loses_nothing,
    an_inbox_is_recovered_after_a_drop,
    goodbye_confirms_what_was_sent,
    what_was_queued_and_never_written_comes_again,
);

/// What one message of the larger ones takes; two make a page.
const LARGE: usize = 20_000;

fn store(from: &mut Client, to: &str, payload: &Value) -> Value {
    from.send_json(&json!({"type": "publish", "id": 1, "to": to, "store": true, "payload": payload}));
    from.expect("response")["result"].clone()
}

/// Reads so many messages of the inbox, each of which follows the one before.
fn read(client: &mut Client, count: u64) -> Vec<u64> {
    let offsets: Vec<u64> = (0..count)
        .map(|_| {
            let message = client.expect("message");
            assert_eq!(message["channel"], "@me", "{message}");
            message["offset"].as_u64().expect("an offset")
        })
        .collect();
    assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "{offsets:?}");
    offsets
}

fn development(start: Start) -> Server {
    start.mode("development").set("demo_endpoint", true).start()
}

fn gone(server: &Server, connections: u64) {
    Monitor::new(server.admin).wait_for("connections", |count| count == connections);
}

fn what_is_stored_waits_for_its_recipient(start: Start) {
    let server = development(start);
    let mut ann = server.connect("/ws/dev?as=ann");
    ann.send_json(&json!({"type": "publish", "id": 1, "to": "bob", "payload": "lost"}));
    ann.expect_error("NOT_FOUND");
    let first = store(&mut ann, "bob", &json!({"text": "hello"}));
    assert_eq!(first["offset"], 1);
    assert_eq!(store(&mut ann, "bob", &json!(2))["epoch"], first["epoch"]);
    // On whichever shard he comes.
    for (number, mut bob) in server.connect_on_every_shard("/ws/dev?as=bob").into_iter().enumerate() {
        let message = bob.expect("message");
        assert_eq!(message["payload"], json!({"text": "hello"}));
        assert_eq!((&message["epoch"], &message["offset"]), (&first["epoch"], &json!(1)));
        assert_eq!((&message["publisher"], &message["to"]), (&json!("ann"), &json!("bob")));
        assert_eq!(bob.expect("message")["offset"], 2);
        if number == 0 {
            bob.subscribe("conversation:1");
        }
        bob.send_json(&json!({"type": "ping"}));
        bob.expect("pong");
    }
}

/// Killed again and again in the middle of a page: what it had not acknowledged comes again.
fn a_recipient_that_dies_while_reading_loses_nothing(start: Start) {
    const MESSAGES: u64 = 60;
    let server = development(start);
    let mut ann = server.connect("/ws/dev?as=ann");
    let payload = json!("x".repeat(LARGE));
    let mut epoch = Value::Null;
    for _ in 0..MESSAGES {
        epoch = store(&mut ann, "bob", &payload)["epoch"].clone();
    }
    let mut acked = 0;
    for count in [1, 7, 20] {
        // A small window, so that most of what was kept is still on its way when it dies.
        let mut bob = server.to("/ws/dev?as=bob").receive_buffer(16 << 10).open();
        let offsets = read(&mut bob, count);
        assert_eq!(
            offsets[0],
            acked + 1,
            "what was acknowledged does not come again, and nothing else is missing"
        );
        acked = *offsets.last().expect("it read something");
        bob.send_json(&json!({"type": "ack", "channel": "@me", "epoch": epoch, "offset": acked}));
        // The answer is behind what the server queued; that the question came is what matters.
        bob.send_json(&json!({"type": "publish", "to": "ann", "payload": "acked"}));
        assert_eq!(ann.expect("message")["payload"], "acked");
        drop(bob);
        gone(&server, 1);
    }
    let mut bob = server.connect("/ws/dev?as=bob");
    let offsets = read(&mut bob, MESSAGES - acked);
    assert_eq!((offsets[0], offsets.last()), (acked + 1, Some(&MESSAGES)));
    store(&mut ann, "bob", &json!("live"));
    assert_eq!(bob.expect("message")["payload"], "live");
    bob.assert_quiet();
}

/// All of it was queued for a recipient that reads nothing, long before it dies.
fn what_was_queued_and_never_written_comes_again(start: Start) {
    const MESSAGES: u64 = 60;
    let server = development(start.set("limits.ack_timeout_ms", 50).set("limits.resume_window_ms", 0));
    let mut ann = server.connect("/ws/dev?as=ann");
    let payload = json!("x".repeat(LARGE));
    for _ in 0..MESSAGES {
        store(&mut ann, "bob", &payload);
    }
    let mut bob = server.to("/ws/dev?as=bob").receive_buffer(16 << 10).open();
    // It is live when this comes back to it, behind everything: by then all was queued.
    bob.send_json(&json!({"type": "publish", "to": "ann", "payload": "queued"}));
    assert_eq!(ann.expect("message")["payload"], "queued");
    Monitor::new(server.admin).wait_for("replayed_total", |count| count >= MESSAGES);
    // Twenty times as long as it takes until they would count as seen.
    std::thread::sleep(std::time::Duration::from_secs(1));
    drop(bob);
    gone(&server, 1);
    let mut bob = server.connect("/ws/dev?as=bob");
    assert_eq!(read(&mut bob, MESSAGES)[0], 1);
}

fn an_inbox_is_recovered_after_a_drop(start: Start) {
    let server = development(start);
    let mut ann = server.connect("/ws/dev?as=ann");
    let mut bob = server.connect("/ws/dev?as=bob");
    let position = bob.subscribe("@me");
    assert_eq!(position["offset"], 0);
    for number in 1..=3 {
        ann.send_json(&json!({"type": "publish", "to": "bob", "payload": number}));
        assert_eq!(bob.expect("message")["payload"], number);
    }
    drop(bob);
    gone(&server, 1);
    store(&mut ann, "bob", &json!(4));
    let mut bob = server.connect("/ws/dev?as=bob");
    assert_eq!(read(&mut bob, 1), [4], "what came while he was away comes by itself");
    let recover = json!({"epoch": position["epoch"], "offset": 1});
    bob.send_json(&json!({"type": "subscribe", "channel": "@me", "recover": recover}));
    let back = bob.expect("subscribed");
    assert_eq!((&back["recovered"], &back["offset"]), (&json!(true), &json!(4)));
    let payloads: Vec<&Value> =
        back["messages"].as_array().expect("messages").iter().map(|it| &it["payload"]).collect();
    assert_eq!(payloads, [&json!(2), &json!(3), &json!(4)], "and what he missed before when he asks");
    let params = json!({"channel": "@me", "limit": 1, "direction": "backward"});
    bob.send_json(&json!({"type": "query", "id": 1, "method": "history", "params": params}));
    let result = bob.expect("response")["result"].clone();
    assert_eq!((&result["messages"][0]["payload"], &result["more"]), (&json!(4), &json!(true)));
}

fn goodbye_confirms_what_was_sent(start: Start) {
    let server = development(start);
    let mut ann = server.connect("/ws/dev?as=ann");
    for number in 1..=3 {
        store(&mut ann, "bob", &json!(number));
    }
    let mut bob = server.connect("/ws/dev?as=bob");
    assert_eq!(read(&mut bob, 3), [1, 2, 3]);
    // An answer in return for a request: the socket took what came before.
    bob.send_json(&json!({"type": "ping", "id": 1}));
    bob.expect("pong");
    bob.close();
    gone(&server, 1);
    store(&mut ann, "bob", &json!(4));
    let mut bob = server.connect("/ws/dev?as=bob");
    assert_eq!(read(&mut bob, 1), [4], "only what is new");
    bob.assert_quiet();
}
