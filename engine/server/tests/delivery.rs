//! What publishers and subscribers may rely on: keys, receipts and acknowledgements on the real binary.

mod support;

use serde_json::{Value, json};
use support::{Client, Start, on_all_layouts};

on_all_layouts!(
    a_key_makes_a_publish_happen_once,
    a_receipt_counts_who_got_it,
    what_is_not_acknowledged_is_sent_again,
    a_receipt_awaits_acknowledgements,
    a_subscriber_that_is_killed_has_failed,
    what_is_never_acknowledged_is_given_up,
    a_hundred_wait_for_acknowledgements_at_most,
    what_is_kept_is_sent_again_although_some_was_lost,
);

const CHANNEL: &str = "conversation:orders";

fn publish(client: &mut Client, more: &Value) {
    let mut message = json!({"type": "publish", "id": "p", "channel": CHANNEL, "payload": {"item": 7}});
    for (name, value) in more.as_object().expect("an object") {
        message[name] = value.clone();
    }
    client.send_json(&message);
}

/// Subscribes with acknowledgements; the epoch.
fn acknowledge_from_now_on(client: &mut Client) -> Value {
    client.send_json(&json!({"type": "subscribe", "channel": CHANNEL, "ack": true}));
    client.expect("subscribed")["epoch"].clone()
}

fn ack(client: &mut Client, message: &Value) {
    let (epoch, offset) = (&message["epoch"], &message["offset"]);
    client.send_json(&json!({"type": "ack", "channel": CHANNEL, "epoch": epoch, "offset": offset}));
}

/// The next receipt: of how many, delivered and failed.
fn receipt(client: &mut Client) -> [u64; 3] {
    let receipt = client.next_json("event");
    assert_eq!(
        (&receipt["name"], &receipt["id"], &receipt["channel"]),
        (&json!("receipt"), &json!("p"), &json!(CHANNEL))
    );
    ["of", "delivered", "failed"].map(|field| receipt[field].as_u64().expect("a count"))
}

fn a_key_makes_a_publish_happen_once(start: Start) {
    let server = start.start();
    let mut bob = server.connect("/ws/demo?as=bob");
    bob.subscribe(CHANNEL);
    let mut ann = server.connect("/ws/demo?as=ann");
    publish(&mut ann, &json!({"idempotency_key": "order-7"}));
    let first = ann.next_json("response")["result"].clone();
    assert_eq!(first["duplicate"], Value::Null);
    // Nobody knows whether it arrived: the connection is lost, and another one tries again.
    drop(ann);
    let mut ann = server.connect("/ws/demo?as=ann");
    publish(&mut ann, &json!({"idempotency_key": "order-7"}));
    let again = ann.next_json("response")["result"].clone();
    assert_eq!((&again["epoch"], &again["offset"]), (&first["epoch"], &first["offset"]));
    assert_eq!(again["duplicate"], true);
    publish(&mut ann, &json!({"idempotency_key": "order-8"}));
    assert_eq!(ann.next_json("response")["result"]["offset"], 2);
    assert_eq!(bob.expect("message")["offset"], 1);
    assert_eq!(bob.expect("message")["offset"], 2);
    assert_eq!(server.metric("duplicates_suppressed_total"), 1);
}

fn a_receipt_counts_who_got_it(start: Start) {
    let server = start.start();
    let mut clients = server.connect_on_every_shard("/ws/demo");
    for client in &mut clients {
        client.subscribe(CHANNEL);
    }
    let mut ann = server.connect("/ws/demo?as=ann");
    publish(&mut ann, &json!({"receipt": true}));
    ann.expect("response");
    let all = clients.len() as u64;
    assert_eq!(receipt(&mut ann), [all, all, 0]);
}

fn what_is_not_acknowledged_is_sent_again(start: Start) {
    let server = start.set("limits.ack_timeout_ms", 200).start();
    let (mut ann, mut bob) = (server.connect("/ws/demo?as=ann"), server.connect("/ws/demo?as=bob"));
    acknowledge_from_now_on(&mut bob);
    publish(&mut ann, &json!({}));
    let first = bob.expect("message");
    assert_eq!((&first["offset"], &first["attempt"]), (&json!(1), &Value::Null));
    let second = bob.expect("message");
    assert_eq!(
        (&second["offset"], &second["attempt"], &second["payload"]),
        (&json!(1), &json!(2), &first["payload"])
    );
    assert_eq!(bob.expect("message")["attempt"], 3);
    ack(&mut bob, &second);
    publish(&mut ann, &json!({}));
    // One more copy may have been on its way.
    let mut next = bob.expect("message");
    if next["offset"] == 1 {
        next = bob.expect("message");
    }
    assert_eq!((&next["offset"], &next["attempt"]), (&json!(2), &Value::Null));
    ack(&mut bob, &next);
    bob.assert_quiet();
    assert!(server.metric("redelivered_total") >= 2);
}

fn a_receipt_awaits_acknowledgements(start: Start) {
    let server = start.start();
    let (mut ann, mut bob) = (server.connect("/ws/demo?as=ann"), server.connect("/ws/demo?as=bob"));
    acknowledge_from_now_on(&mut bob);
    publish(&mut ann, &json!({"receipt": true}));
    ann.expect("response");
    let message = bob.expect("message");
    ann.assert_quiet();
    ack(&mut bob, &message);
    assert_eq!(receipt(&mut ann), [1, 1, 0]);
}

fn a_subscriber_that_is_killed_has_failed(start: Start) {
    let server = start.start();
    let mut readers = server.connect_on_every_shard("/ws/demo");
    for reader in &mut readers {
        acknowledge_from_now_on(reader);
    }
    let mut victim = server.connect("/ws/demo?as=victim");
    acknowledge_from_now_on(&mut victim);
    let mut ann = server.connect("/ws/demo?as=ann");
    publish(&mut ann, &json!({"receipt": true}));
    ann.expect("response");
    victim.expect("message");
    // Killed before it could acknowledge.
    drop(victim);
    for reader in &mut readers {
        let message = reader.expect("message");
        ack(reader, &message);
    }
    let others = readers.len() as u64;
    assert_eq!(receipt(&mut ann), [others + 1, others, 1]);
}

fn what_is_never_acknowledged_is_given_up(start: Start) {
    let server = start.set("limits.ack_timeout_ms", 50).set("limits.ack_attempts", 2).start();
    let (mut ann, mut bob) = (server.connect("/ws/demo?as=ann"), server.connect("/ws/demo?as=bob"));
    acknowledge_from_now_on(&mut bob);
    publish(&mut ann, &json!({"receipt": true}));
    assert_eq!(receipt(&mut ann), [1, 0, 1]);
    assert_eq!(bob.expect("message")["attempt"], Value::Null);
    assert_eq!(bob.expect("message")["attempt"], 2);
    bob.assert_quiet();
    assert_eq!(server.wait_for_metric("unacked_given_up_total", |count| count == 1), 1);
}

fn a_hundred_wait_for_acknowledgements_at_most(start: Start) {
    let server = start.set("limits.ack_timeout_ms", 60_000).start();
    let (mut ann, mut bob) = (server.connect("/ws/demo?as=ann"), server.connect("/ws/demo?as=bob"));
    acknowledge_from_now_on(&mut bob);
    for _ in 0..150 {
        publish(&mut ann, &json!({}));
        ann.expect("response");
    }
    let mut last = Value::Null;
    for offset in 1..=100 {
        last = bob.expect("message");
        assert_eq!(last["offset"], offset);
    }
    bob.assert_quiet();
    ack(&mut bob, &last);
    for offset in 101..=150 {
        assert_eq!(bob.expect("message")["offset"], offset);
    }
}

fn what_is_kept_is_sent_again_although_some_was_lost(start: Start) {
    let server = start.set("limits.ack_timeout_ms", 1_000).start();
    let (mut ann, mut bob) = (server.connect("/ws/demo?as=ann"), server.connect("/ws/demo?as=bob"));
    acknowledge_from_now_on(&mut bob);
    let message = json!({"type": "publish", "channel": CHANNEL, "payload": 1});
    // A hundred are sent, and a hundred are kept: not the same ones.
    ann.send_json(&json!({"type": "batch", "messages": vec![message; 150]}));
    for offset in 1..=100 {
        assert_eq!(bob.expect("message")["offset"], offset);
    }
    let lost = bob.expect("subscribed");
    assert_eq!((&lost["recovered"], &lost["offset"]), (&json!(false), &json!(50)));
    let mut last = Value::Null;
    for offset in 51..=150 {
        last = bob.expect("message");
        assert_eq!(last["offset"], offset);
        assert_eq!(last["attempt"], if offset <= 100 { json!(2) } else { Value::Null });
    }
    ack(&mut bob, &last);
    assert_eq!(server.wait_for_metric("unacked_given_up_total", |count| count == 50), 50);
    publish(&mut ann, &json!({}));
    while last["offset"] != 151 {
        last = bob.expect("message");
    }
}
