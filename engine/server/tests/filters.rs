//! Filters on the real binary: a dashboard that wants few of a busy channel's messages gets those, and knows how many
//! it did not get.

mod support;

use std::io::Write;

use serde_json::{Value, json};
use support::{Client, Server, Start, on_all_layouts};

on_all_layouts!(
    only_the_events_that_were_asked_for_come,
    a_busy_channel_is_thinned_out,
    a_publisher_that_is_killed_leaves_nothing_uncounted,
    what_was_missed_is_filtered_too,
    what_is_not_there_yet_is_refused,
);

const CHANNEL: &str = "conversation:build";

fn subscribe(client: &mut Client, mut message: Value) -> Value {
    message["type"] = json!("subscribe");
    client.send_json(&message);
    client.expect("subscribed")
}

fn publish(client: &mut Client, event: &str, number: usize) {
    client.send_json(&json!({"type": "publish", "channel": CHANNEL, "event": event, "payload": number}));
}

fn skipped(message: &Value) -> u64 {
    message.get("skipped").map_or(0, |it| it.as_u64().expect("a number"))
}

/// Reads up to the last message, which has this event: with what is said to be missing they are without gaps.
fn read_to(client: &mut Client, mut offset: u64, last: &str) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let message = client.expect("message");
        let is_last = message["event"] == last;
        assert_eq!(message["offset"], offset + skipped(&message) + 1, "{message}");
        offset += skipped(&message) + 1;
        all.push(message);
        if is_last {
            return all;
        }
    }
}

/// One client on each shard, all of them subscribed with the same filter.
fn on_every_shard(server: &Server, filter: &Value) -> Vec<Client> {
    let mut clients = server.connect_on_every_shard("/ws/demo");
    for client in &mut clients {
        subscribe(client, filter.clone());
    }
    clients
}

fn only_the_events_that_were_asked_for_come(start: Start) {
    let server = start.start();
    let by_name = on_every_shard(&server, &json!({"channel": CHANNEL, "events": ["failed", "end"]}));
    let by_pattern =
        on_every_shard(&server, &json!({"channel": "conversation:b*", "events": ["failed", "end"]}));
    let mut all = server.connect("/ws/demo");
    all.subscribe(CHANNEL);
    let mut publisher = server.connect("/ws/demo");
    for number in 0..60 {
        publish(&mut publisher, if number % 10 == 3 { "failed" } else { "passed" }, number);
    }
    publish(&mut publisher, "end", 60);
    assert_eq!(read_to(&mut all, 0, "end").len(), 61, "others get everything");
    for mut client in by_name.into_iter().chain(by_pattern) {
        let seen = read_to(&mut client, 0, "end");
        let counts: Vec<_> = seen.iter().map(|it| (it["payload"].as_u64(), skipped(it))).collect();
        let failed = (0..6).map(|ten| (Some(ten * 10 + 3), if ten == 0 { 3 } else { 9 }));
        assert_eq!(counts, failed.chain([(Some(60), 6)]).collect::<Vec<_>>());
        client.assert_quiet();
    }
}

fn a_busy_channel_is_thinned_out(start: Start) {
    let server = start.start();
    let thinned = on_every_shard(&server, &json!({"channel": CHANNEL, "max_rate": 5}));
    let mut publisher = server.connect("/ws/demo");
    for number in 0..200 {
        publish(&mut publisher, "progress", number);
    }
    publisher.publish(CHANNEL, &json!("all are accepted"));
    for mut client in thinned {
        // From the answer on there is no filter: all that is missing was left out by it.
        let (mut seen, mut offset) = (0, 0);
        client.send_json(&json!({"type": "subscribe", "channel": CHANNEL}));
        loop {
            let message = client.next();
            if message["type"] == "subscribed" {
                assert_eq!(message["offset"], 201);
                break;
            }
            assert_eq!(message["offset"], offset + skipped(&message) + 1, "{message}");
            offset += skipped(&message) + 1;
            seen += 1;
        }
        assert!((5..201).contains(&seen), "thinned out, whatever time it took: {seen}");
        client.close();
    }
}

fn a_publisher_that_is_killed_leaves_nothing_uncounted(start: Start) {
    let server = start.start();
    let filtered = on_every_shard(&server, &json!({"channel": CHANNEL, "events": ["kept", "end"]}));
    let mut all = server.connect("/ws/demo");
    all.subscribe(CHANNEL);
    let mut victim = server.connect("/ws/demo");
    for number in 0..50 {
        publish(&mut victim, if number % 7 == 0 { "kept" } else { "left" }, number);
    }
    // In the midst of a frame, of which a few bytes are on their way.
    victim.socket.get_mut().write_all(&[0x81, 0xfe, 0x01]).expect("the connection is open");
    drop(victim);
    let others = filtered.len() as u64 + 1;
    server.wait_for_metric("connections", |connections| connections == others);
    let mut heir = server.connect("/ws/demo");
    publish(&mut heir, "end", 50);
    let count = read_to(&mut all, 0, "end").len() as u64;
    for mut client in filtered {
        let seen = read_to(&mut client, 0, "end");
        let left: u64 = seen.iter().map(skipped).sum();
        assert_eq!(seen.len() as u64 + left, count);
        assert!(seen.iter().all(|it| it["event"] != "left"));
    }
}

fn what_was_missed_is_filtered_too(start: Start) {
    let server = start.start();
    let mut publisher = server.connect("/ws/demo");
    let before = publisher.subscribe(CHANNEL);
    for number in 0..40 {
        publish(&mut publisher, if number % 4 == 0 { "kept" } else { "left" }, number);
    }
    publisher.publish(CHANNEL, &json!("all are accepted"));
    let recover = json!({"epoch": before["epoch"], "offset": 0});
    for mut client in server.connect_on_every_shard("/ws/demo") {
        let message = json!({"channel": CHANNEL, "events": ["kept"], "recover": recover});
        let answer = subscribe(&mut client, message);
        assert_eq!(answer["recovered"], true, "{answer}");
        let mut offset = 0;
        for message in answer["messages"].as_array().expect("a list") {
            assert_eq!(message["event"], "kept");
            assert_eq!(message["offset"], offset + skipped(message) + 1, "{message}");
            offset += skipped(message) + 1;
        }
        assert_eq!((offset, &answer["offset"]), (37, &json!(41)));
        client.close();
    }
}

fn what_is_not_there_yet_is_refused(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo?as=ann");
    for (field, value) in [("filter", json!({"a": 1})), ("delta", json!(true)), ("group", json!("g"))] {
        let mut message = json!({"type": "subscribe", "id": field, "channel": CHANNEL});
        message[field] = value;
        ann.send_json(&message);
        let refused = ann.expect_error("INVALID_MESSAGE");
        assert_eq!((&refused["id"], &refused["channel"]), (&json!(field), &json!(CHANNEL)));
    }
    ann.send_json(&json!({"type": "subscribe", "id": 1, "channel": "conversation:*", "presence": true}));
    assert_eq!(ann.expect_error("INVALID_MESSAGE")["channel"], "conversation:*");
}
