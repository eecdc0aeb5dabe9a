//! Conversations on the real binary: what clients are told, in which order, on one shard and on four.

mod support;

use serde_json::{Value, json};
use support::{Client, Start, on_all_layouts, on_both_drivers};

on_all_layouts!(
    two_clients_chat,
    every_shard_reaches_every_shard,
    a_publisher_may_leave_itself_out,
    unsubscribing_ends_it,
    a_path_names_a_channel,
    direct_messages_reach_every_connection_of_a_participant,
    a_pattern_matches_its_prefix,
    overlapping_subscriptions_deliver_once,
    everybody_gets_system,
);

on_both_drivers!(
    a_new_connection_is_told_where_it_is,
    names_are_chosen_with_as,
    ids_are_echoed_as_they_came,
    without_an_id_only_errors_are_answered,
    short_forms_are_publishes,
    what_is_ephemeral_takes_no_offset,
    a_batch_is_its_messages_in_order,
    pings_are_answered,
    times_are_iso_where_wanted,
    heartbeats_are_messages_where_wanted,
    the_json_subprotocol_is_named_where_offered,
);

fn a_new_connection_is_told_where_it_is(start: Start) {
    let server = start.set("node.name", "here").set("limits.message_bytes", 65_536).start();
    let client = server.connect("/ws/demo");
    let told = &client.established;
    let id = told["client_id"].as_str().expect("a text");
    assert!(!id.is_empty());
    assert_eq!(told["participant"], format!("demo:{id}"));
    assert_eq!(told["node"], "here");
    assert_eq!(told["shard"], 0);
    assert_eq!(told["heartbeat_interval_ms"], 30_000);
    assert_eq!(told["max_message_bytes"], 65_536);
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert!(told["resume_window_ms"].is_u64());
    let other = server.connect("/ws/demo");
    assert_ne!(other.established["client_id"], client.established["client_id"]);
    client.close();
    other.close();
}

fn two_clients_chat(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo?as=ann");
    let mut bob = server.connect("/ws/demo?as=bob");
    let before = ann.subscribe("conversation:1");
    assert_eq!(before["offset"], 0);
    assert_eq!(before["recovered"], false);
    assert_eq!(bob.subscribe("conversation:1")["epoch"], before["epoch"]);
    for round in 1..=20 {
        let result = ann.publish("conversation:1", &json!({"round": round}));
        assert_eq!(result["epoch"], before["epoch"]);
        assert_eq!(result["offset"], round);
        assert_eq!(result["durability"], "memory");
        let message = bob.expect("message");
        assert_eq!(message["offset"], round);
        assert_eq!(message["epoch"], before["epoch"]);
        assert_eq!(message["channel"], "conversation:1");
        assert_eq!(message["publisher"], "demo:ann");
        assert_eq!(message["payload"], json!({"round": round}));
        assert!(message["timestamp"].is_u64(), "{message}");
        assert_eq!(message["id"], Value::Null, "the publisher's request id is the publisher's");
    }
    // Subscribing again changes nothing and tells the position.
    assert_eq!(bob.subscribe("conversation:1")["offset"], 20);
    ann.publish("conversation:1", &json!("once"));
    assert_eq!(bob.expect("message")["payload"], "once");
    bob.assert_quiet();
}

/// Each client publishes while all others do: everybody gets everything, in one order.
fn every_shard_reaches_every_shard(start: Start) {
    const ROUNDS: usize = 25;
    let server = start.start();
    let mut clients = server.connect_on_every_shard("/ws/demo");
    for client in &mut clients {
        client.subscribe("conversation:all");
    }
    for round in 0..ROUNDS {
        for (from, client) in clients.iter_mut().enumerate() {
            client.send_json(
                &json!({"type": "publish", "channel": "conversation:all", "payload": [from, round]}),
            );
        }
    }
    let count = clients.len() * ROUNDS;
    let seen: Vec<Vec<Value>> =
        clients.iter_mut().map(|client| (0..count).map(|_| client.expect("message")).collect()).collect();
    for messages in &seen {
        assert_eq!(messages, &seen[0], "one order for all");
        let offsets: Vec<u64> = messages.iter().filter_map(|it| it["offset"].as_u64()).collect();
        assert_eq!(offsets, (1..=count as u64).collect::<Vec<_>>());
        for from in 0..clients.len() {
            let rounds = messages.iter().filter(|it| it["payload"][0] == from).map(|it| &it["payload"][1]);
            assert!(
                rounds.eq((0..ROUNDS).map(|round| json!(round)).collect::<Vec<_>>().iter()),
                "from {from}"
            );
        }
    }
}

fn names_are_chosen_with_as(start: Start) {
    let server = start.mode("development").set("demo_endpoint", true).start();
    assert_eq!(server.connect("/ws/demo?as=ann").participant(), "demo:ann");
    assert_eq!(server.connect("/ws/dev?as=ann").participant(), "ann");
    assert_eq!(server.connect("/ws/dev?as=%C3%A5sa%2F1").participant(), "åsa/1");
}

fn a_publisher_may_leave_itself_out(start: Start) {
    let server = start.start();
    let (mut ann, mut bob) = (server.connect("/ws/demo"), server.connect("/ws/demo"));
    ann.subscribe("conversation:1");
    bob.subscribe("conversation:1");
    let mut publish =
        json!({"type": "publish", "id": 1, "channel": "conversation:1", "payload": 1, "echo": false});
    ann.send_json(&publish);
    assert_eq!(ann.expect("response")["result"]["offset"], 1, "the answer comes without the message");
    publish["echo"] = json!(true);
    publish["payload"] = json!(2);
    ann.send_json(&publish);
    assert_eq!(ann.next_json("message")["payload"], 2, "with echo it comes back");
    assert_eq!(bob.expect("message")["payload"], 1);
    assert_eq!(bob.expect("message")["payload"], 2);
}

fn unsubscribing_ends_it(start: Start) {
    let server = start.start();
    let (mut ann, mut bob) = (server.connect("/ws/demo"), server.connect("/ws/demo"));
    ann.send_json(&json!({"type": "subscribe", "id": "s", "channels": ["conversation:1", "conversation:2"]}));
    let mut named: Vec<Value> = (0..2).map(|_| ann.expect("subscribed")["channel"].clone()).collect();
    named.sort_by_key(ToString::to_string);
    assert_eq!(named, ["conversation:1", "conversation:2"], "one answer for each channel");
    ann.send_json(&json!({"type": "unsubscribe", "id": 9, "channel": "conversation:1"}));
    let answer = ann.expect("unsubscribed");
    assert_eq!((&answer["id"], &answer["channel"]), (&json!(9), &json!("conversation:1")));
    bob.publish("conversation:1", &json!("gone"));
    bob.publish("conversation:2", &json!("kept"));
    assert_eq!(ann.expect("message")["payload"], "kept");
    ann.send_json(&json!({"type": "unsubscribe", "channel": "conversation:1"}));
    ann.expect_error("NOT_SUBSCRIBED");
}

fn a_path_names_a_channel(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/conversation/42");
    assert_eq!(ann.expect("subscribed")["channel"], "conversation:42");
    let mut bob = server.connect("/ws/demo");
    bob.publish("conversation:42", &json!("hi"));
    assert_eq!(ann.expect("message")["payload"], "hi");
    // Decoded once.
    let mut eve = server.connect("/ws/conversation/a%2Fb%2520c");
    assert_eq!(eve.expect("subscribed")["channel"], "conversation:a/b%20c");
    // A refusal is an error, and the connection stays.
    let mut mallory = server.connect("/ws/agent/42");
    assert_eq!(mallory.expect_error("FORBIDDEN")["channel"], "agent:42");
    mallory.assert_quiet();
    let mut nobody = server.connect("/ws/nowhere/42");
    nobody.expect_error("INVALID_CHANNEL");
    nobody.assert_quiet();
}

fn direct_messages_reach_every_connection_of_a_participant(start: Start) {
    let server = start.mode("development").set("demo_endpoint", true).start();
    let mut ann = server.connect("/ws/dev?as=ann");
    let mut bobs: Vec<Client> = (0..3).map(|_| server.connect("/ws/dev?as=bob")).collect();
    let mut eve = server.connect("/ws/dev?as=eve");
    let send = json!({"type": "publish", "id": "d", "to": "bob", "event": "note", "payload": {"n": 1}});
    for offset in 1..=2 {
        ann.send_json(&send);
        let response = ann.expect("response");
        assert_eq!(response["result"]["offset"], offset, "a place in the inbox");
        for bob in &mut bobs {
            let message = bob.expect("message");
            assert_eq!(message["channel"], "@me");
            assert_eq!(message["to"], "bob");
            assert_eq!(message["event"], "note");
            assert_eq!(message["publisher"], "ann");
            assert_eq!(message["payload"], json!({"n": 1}));
            assert_eq!(message["offset"], offset);
            assert_eq!(message["epoch"], response["result"]["epoch"]);
        }
    }
    ann.send_json(&json!({"type": "publish", "id": "l", "to": ["bob", "eve"], "payload": 2}));
    ann.expect("response");
    assert_eq!(bobs[0].expect("message")["payload"], 2);
    assert_eq!(eve.expect("message")["to"], "eve");
    ann.send_json(&json!({"type": "publish", "id": "n", "to": "nobody", "payload": 3}));
    assert_eq!(ann.expect_error("NOT_FOUND")["id"], "n");
    ann.assert_quiet();
    let mut demo = server.connect("/ws/demo");
    demo.send_json(&json!({"type": "publish", "id": "n", "to": "demo:bob", "payload": 3}));
    demo.expect_error("FORBIDDEN");
}

fn a_pattern_matches_its_prefix(start: Start) {
    let server = start.start();
    let (mut ann, mut bob) = (server.connect("/ws/demo"), server.connect("/ws/demo"));
    let subscribed = ann.subscribe("conversation:a*");
    assert_eq!(subscribed["recovered"], false);
    for channel in ["conversation:b", "conversation:a1", "conversation:a2", "conversation:a"] {
        bob.publish(channel, &json!(channel));
    }
    let mut channels: Vec<String> = (0..3)
        .map(|_| {
            let message = ann.expect("message");
            assert_eq!(message["pattern"], "conversation:a*");
            assert_eq!(message["payload"], message["channel"]);
            message["channel"].as_str().expect("a name").to_owned()
        })
        .collect();
    // Different channels may have different homes: only within one there is an order.
    channels.sort();
    assert_eq!(channels, ["conversation:a", "conversation:a1", "conversation:a2"]);
    ann.assert_quiet();
    bob.send_json(&json!({"type": "subscribe", "channel": "*"}));
    bob.expect_error("INVALID_CHANNEL");
}

fn overlapping_subscriptions_deliver_once(start: Start) {
    let server = start.start();
    let (mut ann, mut bob) = (server.connect("/ws/demo"), server.connect("/ws/demo"));
    for channel in ["conversation:*", "conversation:1", "conversation:1*"] {
        ann.subscribe(channel);
    }
    for payload in 1..=3 {
        bob.publish("conversation:1", &json!(payload));
        let message = ann.expect("message");
        assert_eq!(message["payload"], payload, "each once");
        assert_eq!(message["pattern"], Value::Null, "the channel's own subscription goes first");
    }
    ann.assert_quiet();
}

fn everybody_gets_system(start: Start) {
    let server = start.mode("development").start();
    let mut clients = server.connect_on_every_shard("/ws/dev");
    let mut backend = server.connect("/ws/dev?as=backend");
    backend.publish("system", &json!({"notice": "soon"}));
    for client in &mut clients {
        let broadcast = client.expect("broadcast");
        assert_eq!(broadcast["channel"], "system");
        assert_eq!(broadcast["payload"], json!({"notice": "soon"}));
        assert_eq!(broadcast["offset"], 1);
    }
}

fn ids_are_echoed_as_they_came(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    for id in [r#""7""#, "7", "0", "9007199254740991", r#""\u00e4\n\"""#, r#""ä""#] {
        ann.send_text(&format!(
            r#"{{"type":"publish","id":{id},"channel":"conversation:1","payload":null}}"#
        ));
        let expected: Value = serde_json::from_str(id).expect("JSON");
        assert_eq!(ann.expect("response")["id"], expected);
    }
    for id in [r#""""#, "-1", "1.5", "9007199254740992", "true", "{}"] {
        ann.send_text(&format!(
            r#"{{"type":"publish","id":{id},"channel":"conversation:1","payload":null}}"#
        ));
        ann.expect_error("INVALID_MESSAGE");
    }
    ann.send_json(&json!({"type": "ping", "id": "x".repeat(64)}));
    assert_eq!(ann.expect("pong")["id"], "x".repeat(64));
    ann.send_json(&json!({"type": "ping", "id": "x".repeat(65)}));
    ann.expect_error("INVALID_MESSAGE");
}

fn without_an_id_only_errors_are_answered(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    ann.send_json(&json!({"type": "publish", "channel": "conversation:1", "payload": 1}));
    ann.send_json(&json!({"type": "pong"}));
    ann.assert_quiet();
    ann.send_json(&json!({"type": "publish", "channel": "agent:x", "payload": 1}));
    let error = ann.expect_error("FORBIDDEN");
    assert_eq!((&error["id"], &error["channel"]), (&Value::Null, &json!("agent:x")));
    ann.send_json(&json!({"type": "no_such_thing", "id": 1}));
    assert_eq!(ann.expect_error("UNKNOWN_TYPE")["id"], 1);
    ann.send_text("{\"type\":");
    ann.expect_error("INVALID_JSON");
}

fn short_forms_are_publishes(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo?as=ann");
    ann.subscribe("conversation:1");
    for event in ["chat_message", "chat_message_chunk", "agent_status_update", "user_typing"] {
        ann.send_json(&json!({"type": event, "channel": "conversation:1", "content": "hi", "role": "user"}));
        let message = ann.expect("message");
        assert_eq!(message["event"], event);
        assert_eq!(message["publisher"], "demo:ann");
        assert_eq!(
            message["payload"],
            json!({"content": "hi", "role": "user"}),
            "what is not of the envelope"
        );
    }
    ann.send_json(
        &json!({"type": "chat_message", "channel": "conversation:1", "payload": [1], "content": "no"}),
    );
    assert_eq!(ann.expect("message")["payload"], json!([1]), "a payload is the payload");
    ann.send_json(&json!({"type": "chat_message", "content": "hi"}));
    ann.expect_error("INVALID_MESSAGE");
}

fn what_is_ephemeral_takes_no_offset(start: Start) {
    let server = start.start();
    let (mut ann, mut bob) = (server.connect("/ws/demo"), server.connect("/ws/demo"));
    bob.subscribe("conversation:1");
    ann.publish("conversation:1", &json!("first"));
    assert_eq!(bob.expect("message")["offset"], 1);
    let typing = json!({"type": "user_typing", "id": "t", "channel": "conversation:1"});
    let not_stored =
        json!({"type": "publish", "id": "t", "channel": "conversation:1", "payload": 1, "store": false});
    for ephemeral in [typing, not_stored] {
        ann.send_json(&ephemeral);
        assert_eq!(ann.expect("response")["result"]["offset"], 1);
        assert_eq!(bob.expect("message")["offset"], 1, "it carries the channel's position");
    }
    assert_eq!(ann.publish("conversation:1", &json!("second"))["offset"], 2);
}

fn a_batch_is_its_messages_in_order(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    ann.send_json(&json!({"type": "batch", "messages": [
        {"type": "subscribe", "channel": "conversation:1"},
        {"type": "chat_message", "channel": "conversation:1", "content": "a"},
        {"type": "nonsense"},
        {"type": "chat_message", "channel": "conversation:1", "content": "b"},
        {"type": "batch", "messages": []},
        {"type": "ping", "id": 1},
    ]}));
    ann.expect("subscribed");
    assert_eq!(ann.expect("message")["payload"], json!({"content": "a"}));
    ann.expect_error("UNKNOWN_TYPE");
    assert_eq!(ann.expect("message")["payload"], json!({"content": "b"}));
    ann.expect_error("INVALID_MESSAGE");
    assert_eq!(ann.expect("pong")["id"], 1);
    ann.send_json(&json!({"type": "batch", "messages": vec![json!({"type": "ping", "id": 2}); 256]}));
    for _ in 0..256 {
        assert_eq!(ann.expect("pong")["id"], 2);
    }
    ann.send_json(&json!({"type": "batch", "messages": vec![json!({"type": "ping", "id": 3}); 257]}));
    ann.expect_error("INVALID_MESSAGE");
    ann.assert_quiet();
}

fn pings_are_answered(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    for kind in ["ping", "connection_heartbeat"] {
        ann.send_json(&json!({"type": kind, "id": kind, "timestamp": 1_704_067_200_000_u64}));
        let pong = ann.expect("pong");
        assert_eq!(pong["id"], kind);
        assert!(
            pong["timestamp"].as_u64().is_some_and(|it| it > 1_704_067_200_000),
            "the hub's time: {pong}"
        );
    }
    // A ping frame is answered with its payload.
    let mut raw = server.raw_upgraded("/ws/demo");
    raw.frame_of(1);
    raw.send(&support::masked(0x89, b"are you there"));
    assert_eq!(raw.frame_of(10).payload, b"are you there");
}

fn times_are_iso_where_wanted(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo?time=iso");
    let mut bob = server.connect("/ws/demo");
    ann.subscribe("conversation:1");
    bob.subscribe("conversation:1");
    for timestamp in [json!(1_704_067_200_450_u64), json!("2024-01-01T00:00:00.450Z")] {
        bob.send_json(&json!(
            {"type": "publish", "channel": "conversation:1", "payload": {"timestamp": 1}, "timestamp": timestamp}
        ));
        let message = ann.expect("message");
        assert_eq!(message["timestamp"], "2024-01-01T00:00:00.450Z");
        assert_eq!(message["payload"], json!({"timestamp": 1}), "payloads are left alone");
        assert_eq!(bob.expect("message")["timestamp"], 1_704_067_200_450_u64);
    }
    ann.send_json(&json!({"type": "ping"}));
    let pong = ann.expect("pong");
    assert!(pong["timestamp"].as_str().is_some_and(|it| it.ends_with('Z')), "{pong}");
}

fn heartbeats_are_messages_where_wanted(start: Start) {
    // The next ping is an interval after the last sign of life, however long a pong might have taken.
    let server =
        start.set("limits.heartbeat_interval_ms", 30).set("limits.pong_timeout_ms", 3_600_000).start();
    let mut raw = server.raw_upgraded("/ws/demo?heartbeat=message");
    raw.frame();
    for _ in 0..3 {
        let frame = raw.frame();
        assert_eq!(frame.opcode, 1, "a message, no ping frame: {frame:?}");
        let ping: Value = serde_json::from_slice(&frame.payload).expect("JSON");
        assert_eq!(ping["type"], "ping");
        assert!(ping["timestamp"].is_u64(), "{ping}");
        raw.send(&support::masked(0x81, br#"{"type":"pong"}"#));
    }
    // Everybody else gets frames.
    let mut raw = server.raw_upgraded("/ws/demo");
    raw.frame();
    assert_eq!(raw.frame().opcode, 9);
}

fn the_json_subprotocol_is_named_where_offered(start: Start) {
    let server = start.start();
    let named = |client: &Client| client.response.headers().get("sec-websocket-protocol").cloned();
    assert_eq!(named(&server.connect("/ws/demo")), None);
    let one = server.to("/ws/demo").protocol("agent-protocol-v1").open();
    assert_eq!(named(&one).expect("it is named"), "agent-protocol-v1");
    let many = server.to("/ws/demo").protocol("other").protocol("agent-protocol-v1").open();
    assert_eq!(named(&many).expect("it is named"), "agent-protocol-v1");
}
