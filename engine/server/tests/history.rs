//! History and recovery on the real binary: what a chat user expects who comes back, scrolls up, or is cut off.

mod support;

use serde_json::{Value, json};
use support::{Client, Start, on_all_layouts, on_both_drivers};

on_all_layouts!(
    who_comes_back_reads_what_was_missed,
    who_is_cut_off_while_catching_up_misses_nothing,
    the_latest_messages_come_with_the_subscription,
    scrolling_up_and_down,
    a_list_of_channels_brings_the_past_of_all_of_them,
);

on_both_drivers!(
    a_slow_reader_is_paced_and_not_disconnected,
    a_channel_keeps_to_its_own_bytes,
    without_memory_the_oldest_histories_go_and_subscribers_are_told,
);

const CHANNEL: &str = "conversation:42";

fn recover(client: &mut Client, channel: &str, position: (&Value, u64)) -> Value {
    let recover = json!({"epoch": position.0, "offset": position.1});
    client.send_json(&json!({"type": "subscribe", "id": 1, "channel": channel, "recover": recover}));
    client.expect("subscribed")
}

fn offsets(messages: &Value) -> Vec<u64> {
    messages.as_array().into_iter().flatten().filter_map(|it| it["offset"].as_u64()).collect()
}

fn who_comes_back_reads_what_was_missed(start: Start) {
    let server = start.start();
    for mut ann in server.connect_on_every_shard("/ws/demo") {
        let mut bob = server.connect("/ws/demo");
        let start = bob.subscribe(CHANNEL);
        let at = start["offset"].as_u64().expect("an offset");
        ann.publish(CHANNEL, &json!("read"));
        bob.expect("message");
        bob.close();
        for text in ["missed", "too"] {
            ann.publish(CHANNEL, &json!(text));
        }
        let mut bob = server.connect("/ws/demo");
        let back = recover(&mut bob, CHANNEL, (&start["epoch"], at + 1));
        assert_eq!((&back["recovered"], &back["offset"]), (&json!(true), &json!(at + 3)));
        let payloads: Vec<_> =
            back["messages"].as_array().expect("messages").iter().map(|it| &it["payload"]).collect();
        assert_eq!(payloads, ["missed", "too"]);
        ann.publish(CHANNEL, &json!("new"));
        assert_eq!(bob.expect("message")["offset"], at + 4);
        bob.assert_quiet();
    }
}

/// Cut off by a reset in the middle of a replay, again and again, while others publish: whoever goes on from what it
/// has read reads everything once.
fn who_is_cut_off_while_catching_up_misses_nothing(start: Start) {
    const MESSAGES: u64 = 60;
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    let mut bob = server.connect("/ws/demo");
    let epoch = bob.subscribe(CHANNEL)["epoch"].clone();
    bob.close();
    let text = "x".repeat(30_000);
    let mut seen = Vec::new();
    for round in 1.. {
        for _ in 0..MESSAGES / 6 {
            ann.send_json(&json!({"type": "publish", "channel": CHANNEL, "payload": text}));
        }
        ann.assert_quiet();
        let mut bob = server.connect("/ws/demo");
        let back = recover(&mut bob, CHANNEL, (&epoch, seen.len() as u64));
        assert_eq!(back["recovered"], true, "all of it is kept: {}", seen.len());
        seen.extend(offsets(&back["messages"]));
        if round == 6 {
            while seen.len() as u64 <= MESSAGES {
                if seen.len() as u64 == MESSAGES {
                    ann.publish(CHANNEL, &json!("the end"));
                }
                seen.extend(bob.expect("message")["offset"].as_u64());
            }
            bob.assert_quiet();
            break;
        }
        // Some of what follows is read, the rest is lost with the connection.
        if back["more"] == true {
            seen.extend(bob.expect("message")["offset"].as_u64());
        }
        let stream = socket2::SockRef::from(bob.socket.get_ref());
        stream.set_linger(Some(std::time::Duration::ZERO)).expect("it is TCP");
    }
    assert_eq!(seen, (1..=MESSAGES + 1).collect::<Vec<_>>());
}

fn the_latest_messages_come_with_the_subscription(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    for number in 1..=120 {
        ann.publish(CHANNEL, &json!({"n": number}));
    }
    for mut bob in server.connect_on_every_shard("/ws/demo") {
        bob.send_json(&json!({"type": "subscribe", "channel": CHANNEL, "history": 2}));
        let told = bob.expect("subscribed");
        assert_eq!((offsets(&told["messages"]), &told["recovered"]), (vec![119, 120], &json!(false)));
        assert_eq!(told["messages"][1]["payload"], json!({"n": 120}));
    }
}

fn scrolling_up_and_down(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    for number in 1..=10 {
        ann.publish(CHANNEL, &json!(number));
    }
    let mut ask = |params: Value| {
        ann.send_json(&json!({"type": "query", "id": "h", "method": "history", "params": params}));
        ann.expect("response")
    };
    let latest = ask(json!({"channel": CHANNEL, "limit": 3, "direction": "backward"}))["result"].clone();
    assert_eq!((offsets(&latest["messages"]), &latest["more"]), (vec![10, 9, 8], &json!(true)));
    let since = json!({"epoch": latest["epoch"], "offset": 8});
    let older = ask(json!({"channel": CHANNEL, "limit": 20, "direction": "backward", "since": since}));
    assert_eq!(offsets(&older["result"]["messages"]), [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(older["result"]["more"], false);
    let newer = ask(json!({"channel": CHANNEL, "since": since}));
    assert_eq!(offsets(&newer["result"]["messages"]), [9, 10]);
    let wrong = ask(json!({"channel": CHANNEL, "since": {"epoch": "elsewhere", "offset": 8}}));
    assert_eq!(wrong["error"]["code"], "UNRECOVERABLE", "{wrong}");
}

/// Far more than an outbox holds, for somebody who reads slowly: it comes as fast as it is read.
fn a_slow_reader_is_paced_and_not_disconnected(start: Start) {
    let server = start
        .set("limits.outbox_messages", 20)
        .set("limits.outbox_bytes", 300_000)
        .set("limits.message_bytes", 150_000)
        .start();
    let mut ann = server.connect("/ws/demo");
    let text = "x".repeat(100_000);
    let mut position = None;
    for _ in 0..100 {
        let result = ann.publish(CHANNEL, &json!(text));
        position.get_or_insert(result["epoch"].clone());
    }
    let mut bob = server.to("/ws/demo").receive_buffer(4_096).open();
    let back = recover(&mut bob, CHANNEL, (position.as_ref().expect("it was published"), 0));
    let mut seen = offsets(&back["messages"]);
    while seen.len() < 100 {
        seen.extend(bob.expect("message")["offset"].as_u64());
    }
    assert_eq!(seen, (1..=100).collect::<Vec<_>>());
    assert_eq!(server.metric("slow_disconnects_total"), 0);
    ann.publish(CHANNEL, &json!("new"));
    assert_eq!(bob.expect("message")["payload"], "new");
}

fn without_memory_the_oldest_histories_go_and_subscribers_are_told(start: Start) {
    let server = start.set("limits.history_bytes", 100_000).start();
    let mut ann = server.connect("/ws/demo");
    let mut bob = server.connect("/ws/demo");
    let epoch = bob.subscribe("conversation:old")["epoch"].clone();
    ann.publish("conversation:old", &json!("x".repeat(30_000)));
    bob.expect("message");
    for _ in 0..3 {
        ann.publish("conversation:new", &json!("x".repeat(30_000)));
    }
    assert!(server.wait_for_metric("history_bytes", |bytes| bytes > 0) <= 100_000);
    let back = recover(&mut server.connect("/ws/demo"), "conversation:old", (&epoch, 0));
    assert_eq!((&back["recovered"], &back["messages"]), (&json!(false), &json!([])));
    assert_ne!(back["epoch"], epoch);
    ann.publish("conversation:old", &json!("next"));
    let told = bob.expect("subscribed");
    assert_eq!(
        (&told["epoch"], &told["recovered"]),
        (&back["epoch"], &json!(false)),
        "before the next message"
    );
    assert_eq!(bob.expect("message")["epoch"], back["epoch"]);
}

/// One channel alone gives up its oldest messages, and keeps its epoch: its subscribers have lost nothing.
fn a_channel_keeps_to_its_own_bytes(start: Start) {
    let server = start.set("namespaces.conversation.history_bytes", 100_000).start();
    let mut ann = server.connect("/ws/demo");
    let mut bob = server.connect("/ws/demo");
    let epoch = bob.subscribe(CHANNEL)["epoch"].clone();
    ann.publish("conversation:other", &json!("x".repeat(90_000)));
    for number in 1..=20 {
        ann.publish(CHANNEL, &json!(format!("{number}:{}", "x".repeat(30_000))));
        assert_eq!(bob.expect("message")["offset"], number);
    }
    let recovers = |offset| recover(&mut server.connect("/ws/demo"), CHANNEL, (&epoch, offset));
    let back = recovers(17);
    assert_eq!(
        (&back["recovered"], offsets(&back["messages"])),
        (&json!(true), vec![18, 19, 20]),
        "three fit"
    );
    let back = recovers(16);
    assert_eq!((&back["recovered"], &back["epoch"]), (&json!(false), &epoch), "the fourth does not");
    ann.publish(CHANNEL, &json!("x".repeat(200_000)));
    assert_eq!(offsets(&recovers(20)["messages"]), [21], "the latest is kept whatever it takes");
    ann.send_json(
        &json!({"type": "query", "id": 1, "method": "history", "params": {"channel": "conversation:other"}}),
    );
    assert_eq!(offsets(&ann.expect("response")["result"]["messages"]), [1], "no other channel pays for it");
}

fn a_list_of_channels_brings_the_past_of_all_of_them(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    let channels: Vec<String> = (0..40).map(|number| format!("conversation:{number}")).collect();
    for channel in &channels {
        for text in ["old", "older", "new"] {
            ann.publish(channel, &json!(text));
        }
    }
    for mut bob in server.connect_on_every_shard("/ws/demo") {
        bob.send_json(&json!({"type": "subscribe", "id": 1, "channels": channels, "history": 1}));
        let mut answered: Vec<String> = (0..channels.len())
            .map(|_| {
                let answer = bob.expect("subscribed");
                assert_eq!(answer["messages"][0]["payload"], "new", "{answer}");
                answer["channel"].as_str().expect("a name").to_owned()
            })
            .collect();
        answered.sort_unstable();
        answered.dedup();
        assert_eq!(answered.len(), channels.len());
        bob.send_json(
            &json!({"type": "publish", "channel": channels[39], "payload": "live", "store": false}),
        );
        assert_eq!(bob.next_json("message")["payload"], "live");
    }
}
