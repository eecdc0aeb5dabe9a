//! Two encodings on one node: who is sent which, and that a message is transcoded once, at its home, and only if
//! somebody is sent the other encoding.

mod harness;

use corecast_hub::HubLimits;
use harness::{Client, Net, binary, demo, packed, unlimited};
use serde_json::{Value, json};

/// Several nodes, so that homes lie here and elsewhere.
fn nodes(check: impl Fn(&mut Net)) {
    for (shards, seed) in [(1, 1), (2, 2), (2, 3), (4, 4), (4, 5)] {
        check(&mut Net::new(shards, seed, unlimited()));
    }
}

fn unsubscribe(net: &mut Net, client: Client, channel: &str) {
    let answers = net.ask(client, &json!({"type": "unsubscribe", "channel": channel}).to_string());
    assert_eq!(answers[0]["type"], "unsubscribed", "{answers:?}");
}

/// Publishes in JSON; how many messages were transcoded for that.
fn publish(net: &mut Net, client: Client, channel: &str, payload: &Value) -> u64 {
    let before = net.transcoded();
    net.send(client, &json!({"type": "publish", "channel": channel, "payload": payload}).to_string());
    net.run();
    net.transcoded() - before
}

/// Publishes in MessagePack.
fn publish_packed(net: &mut Net, client: Client, channel: &str, payload: &Value) -> u64 {
    let before = net.transcoded();
    net.send_packed(client, &packed(&json!({"type": "publish", "channel": channel, "payload": payload})));
    net.run();
    net.transcoded() - before
}

#[test]
fn a_message_is_transcoded_once_and_only_for_somebody() {
    nodes(|net| {
        let (last, channel) = (net.last_shard(), "conversation:1");
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(last, 1, "bob"));
        let binaries: Vec<Client> = (0..=last)
            .flat_map(|shard| [(shard, 2), (shard, 3)])
            .map(|(shard, slot)| net.join_binary(shard, slot, "bin"))
            .collect();
        for client in [ann, bob] {
            net.subscribe(client, channel);
        }
        assert_eq!(publish(net, ann, channel, &json!({"n": 1})), 0, "nobody is sent MessagePack");
        assert_eq!(publish_packed(net, ann, channel, &json!({"n": 2})), 1, "nobody but JSON");
        for client in &binaries {
            net.subscribe(*client, channel);
        }
        for client in [ann, bob] {
            assert_eq!(net.payloads(client), [json!({"n": 1}), json!({"n": 2})]);
        }
        assert_eq!(publish(net, ann, channel, &json!({"n": 3})), 1, "however many are sent it");
        assert_eq!(publish_packed(net, bob, channel, &json!({"n": 4})), 1);
        for client in binaries.iter().chain([&ann, &bob]) {
            assert_eq!(net.payloads(*client), [json!({"n": 3}), json!({"n": 4})]);
        }
        for client in [ann, bob] {
            unsubscribe(net, client, channel);
        }
        assert_eq!(publish_packed(net, ann, channel, &json!({"n": 5})), 0, "all are sent what was published");
        assert_eq!(publish(net, ann, channel, &json!({"n": 6})), 1, "and nobody what was published");
        assert_eq!(publish(net, ann, "conversation:2", &json!(0)), 0, "nobody is there");
    });
}

#[test]
fn an_encoding_that_nobody_is_sent_any_more_is_forgotten_at_home() {
    nodes(|net| {
        let (last, channel) = (net.last_shard(), "conversation:1");
        let ann = net.join(0, 0, "ann");
        net.subscribe(ann, channel);
        let (bob, carl) = (net.join_binary(0, 1, "bob"), net.join_binary(last, 2, "carl"));
        for round in 0..3 {
            net.subscribe(bob, channel);
            assert_eq!(publish(net, ann, channel, &json!(round)), 1);
            net.subscribe(carl, channel);
            unsubscribe(net, bob, channel);
            assert_eq!(publish(net, ann, channel, &json!(round)), 1, "another one is left");
            unsubscribe(net, carl, channel);
            assert_eq!(publish(net, ann, channel, &json!(round)), 0, "round {round}");
        }
        // Whoever dies takes it along like whoever unsubscribes.
        let dies = net.join_binary(last, 3, "dies");
        net.subscribe(dies, channel);
        net.subscribe(dies, "conversation:*");
        assert_eq!(publish(net, ann, channel, &json!(0)), 1);
        net.close(dies);
        net.run();
        assert_eq!(publish(net, ann, channel, &json!(0)), 0);
        // And one that leaves before the home has answered leaves nothing either.
        let hasty = net.join_binary(last, 4, "hasty");
        net.send(hasty, r#"{"type":"subscribe","channel":"conversation:1"}"#);
        net.close(hasty);
        net.run();
        assert_eq!(publish(net, ann, channel, &json!(0)), 0);
    });
}

#[test]
fn patterns_know_encodings_too() {
    nodes(|net| {
        let last = net.last_shard();
        let ann = net.join(0, 0, "ann");
        let (bob, carl) = (net.join_binary(last, 1, "bob"), net.join_binary(0, 2, "carl"));
        net.subscribe(bob, "conversation:*");
        assert_eq!(publish(net, ann, "conversation:1", &json!("a")), 1);
        assert_eq!(publish(net, ann, "agent:1", &json!("a")), 0);
        net.subscribe(ann, "conversation:1*");
        net.subscribe(carl, "conversation:1");
        net.subscribe(carl, "conversation:*");
        assert_eq!(publish_packed(net, ann, "conversation:1", &json!("b")), 1);
        let got = net.take(bob);
        assert_eq!(got.last().map(|it| &it["pattern"]), Some(&json!("conversation:*")), "{got:?}");
        let got = net.take(carl);
        assert_eq!((got.len(), &got[0]["pattern"]), (1, &Value::Null), "once, by the name: {got:?}");
        let got = net.take(ann);
        let by = (&got[got.len() - 1]["pattern"], &got[got.len() - 1]["payload"]);
        assert_eq!(by, (&json!("conversation:1*"), &json!("b")));
        unsubscribe(net, bob, "conversation:*");
        unsubscribe(net, carl, "conversation:1");
        assert_eq!(publish(net, ann, "conversation:1", &json!("c")), 1, "by the pattern still");
        assert_eq!(net.take(carl)[0]["pattern"], "conversation:*");
        unsubscribe(net, carl, "conversation:*");
        assert_eq!(publish(net, ann, "conversation:1", &json!("d")), 0);
    });
}

#[test]
fn direct_messages_are_transcoded_for_participants_with_connections_of_both_kinds() {
    nodes(|net| {
        let last = net.last_shard();
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(last, 1, "bob"));
        let send = |net: &mut Net, to: &str| {
            let before = net.transcoded();
            net.ask(ann, &json!({"type": "publish", "to": to, "payload": {"x": 1}}).to_string());
            net.transcoded() - before
        };
        assert_eq!(send(net, "bob"), 0);
        let other = net.join_binary(0, 2, "bob");
        assert_eq!(send(net, "bob"), 1);
        assert_eq!(net.payloads(bob), [json!({"x": 1}), json!({"x": 1})]);
        assert_eq!(net.take(other)[0]["to"], "bob");
        net.close(bob);
        net.run();
        let packed_message = json!({"type": "publish", "to": "bob", "payload": {"x": 2}});
        let before = net.transcoded();
        net.ask_packed(ann, &packed_message);
        assert_eq!((net.payloads(other), net.transcoded() - before), (vec![json!({"x": 2})], 0));
        net.close(other);
        net.run();
        let bob = net.join(last, 3, "bob");
        assert_eq!(
            (send(net, "bob"), net.payloads(bob)),
            (0, vec![json!({"x": 1})]),
            "nothing is left of the other"
        );
    });
}

#[test]
fn system_is_written_for_everybody() {
    nodes(|net| {
        let last = net.last_shard();
        let (ann, bob) = (net.join(0, 0, "ann"), net.join_binary(last, 1, "bob"));
        assert_eq!(publish(net, ann, "system", &json!("hear")), 1);
        assert_eq!(publish_packed(net, bob, "system", &json!("hear")), 1);
        for client in [ann, bob] {
            assert_eq!(net.payloads(client), [json!("hear"), json!("hear")]);
        }
    });
}

#[test]
fn both_encodings_carry_the_same_message_and_one_epoch() {
    for (shards, seed) in [(1, 1), (3, 2), (3, 3)] {
        let mut net = Net::new(shards, seed, HubLimits { idle_channels: 2, ..unlimited() });
        let (ann, bob) = (net.join(0, 0, "ann"), net.join_binary(shards - 1, 1, "bob"));
        for client in [ann, bob] {
            net.subscribe(client, "conversation:*");
        }
        for channel in 0..=40 {
            publish(&mut net, ann, &format!("conversation:{channel}"), &json!(1));
        }
        for client in [ann, bob] {
            net.take(client);
        }
        let message = json!({
            "type": "publish", "channel": "conversation:0", "event": "e", "priority": "high", "timestamp": 7,
            "payload": {"a": [1, -2, 0.5, null, true, "\u{e9}\n\""]},
        });
        net.ask(ann, &message.to_string());
        net.ask_packed(ann, &message);
        let (json, packed) = (net.take(ann), net.take(bob));
        // What came as an answer to `ask` is taken already: the last message is what both have.
        assert_eq!(packed.len(), 3, "the epoch, and two messages: {packed:?}");
        assert_eq!((&packed[0]["type"], &packed[0]["epoch"]), (&json!("subscribed"), &packed[1]["epoch"]));
        assert!(json.is_empty());
        for got in &packed[1..] {
            for (key, value) in
                [("payload", &message["payload"]), ("event", &json!("e")), ("timestamp", &json!(7))]
            {
                assert_eq!(&got[key], value, "{got}");
            }
            assert_eq!((&got["priority"], &got["pattern"]), (&json!("high"), &json!("conversation:*")));
        }
        assert_eq!((&packed[1]["offset"], &packed[2]["offset"]), (&json!(1), &json!(2)));
    }
}

#[test]
fn the_same_is_said_in_both_encodings() {
    nodes(|net| {
        let last = net.last_shard();
        for (request, expected) in [
            (json!({"type": "ping", "id": "a\"b\u{1}"}), "pong"),
            (json!({"type": "subscribe", "id": 1, "channel": "conversation:1"}), "subscribed"),
            (json!({"type": "publish", "id": "p", "channel": "conversation:2", "payload": 1}), "response"),
            (json!({"type": "unsubscribe", "id": 2, "channel": "conversation:9"}), "error"),
            (json!({"type": "publish", "id": "n", "to": "nobody", "payload": 1}), "error"),
            (json!({"type": "query", "id": "q", "method": "m"}), "response"),
            (json!({"type": "nonsense", "id": "x"}), "error"),
        ] {
            let (ann, bob) = (net.join(0, 0, "ann"), net.join_binary(last, 1, "bob"));
            net.take(ann);
            let answers = [
                net.ask(ann, &request.to_string()),
                net.ask_packed(ann, &request),
                net.ask(bob, &request.to_string()),
                net.ask_packed(bob, &request),
            ];
            for mut answer in answers.concat() {
                assert_eq!((&answer["type"], &answer["id"]), (&json!(expected), &request["id"]), "{answer}");
                // Published several times, each has its own place.
                if let Some(offset) = answer.pointer_mut("/result/offset") {
                    *offset = Value::Null;
                }
                let mut first = answers[0][0].clone();
                if let Some(offset) = first.pointer_mut("/result/offset") {
                    *offset = Value::Null;
                }
                assert_eq!(answer, first);
            }
            net.close(ann);
            net.close(bob);
            net.run();
        }
    });
}

#[test]
fn a_publisher_without_echo_hears_nothing_of_it_in_either_encoding() {
    nodes(|net| {
        let last = net.last_shard();
        let (ann, bob) = (net.join(0, 0, "ann"), net.join_binary(last, 1, "bob"));
        for channel in ["conversation:1", "conversation:*"] {
            for client in [ann, bob] {
                net.subscribe(client, channel);
            }
            let silent = json!({"type": "publish", "channel": "conversation:1", "echo": false, "payload": 1});
            assert!(net.ask(ann, &silent.to_string()).is_empty());
            assert_eq!(net.payloads(bob), [json!(1)]);
            assert!(net.ask_packed(bob, &silent).is_empty());
            assert_eq!(net.payloads(ann), [json!(1)]);
        }
    });
}

#[test]
fn iso_times_come_in_both_encodings() {
    nodes(|net| {
        let last = net.last_shard();
        let mut open = binary("iso");
        open.is_time_iso = true;
        let iso = net.open_with(last, 0, open);
        let (ann, bob) = (net.join(0, 1, "ann"), net.join_binary(0, 2, "bob"));
        net.take(iso);
        for client in [iso, bob] {
            net.subscribe(client, "conversation:*");
        }
        let message = json!({"type": "publish", "channel": "conversation:1", "timestamp": 1_704_067_200_000u64, "payload": 1});
        net.ask(ann, &message.to_string());
        let got = net.take(iso);
        assert_eq!(got[0]["timestamp"], "2024-01-01T00:00:00.000Z", "{got:?}");
        assert_eq!(got[0]["pattern"], "conversation:*");
        assert_eq!(net.take(bob)[0]["timestamp"], 1_704_067_200_000u64);
    });
}

#[test]
fn whatever_is_no_messagepack_counts_as_invalid() {
    let mut net = Net::new(1, 1, unlimited());
    let ann = net.join_binary(0, 0, "ann");
    for bytes in [
        &[][..],
        b"\xc1",
        b"\x81\xa4type",
        b"\x90",
        b"{}",
        b"\x80\x80",
        b"\x81\x01\x02",
        b"\xc0",
        b"\xde\xff\xff",
    ] {
        net.send_packed(ann, bytes);
        let answers = net.take(ann);
        assert_eq!((answers.len(), &answers[0]["type"]), (1, &json!("error")), "{bytes:?}: {answers:?}");
    }
    net.send_packed(ann, b"\xc1");
    let seen = net.seen.get(&ann).cloned().unwrap_or_default();
    assert!(matches!(&seen[1..], [harness::Seen::Closed(1008, _)]), "the tenth in a row: {seen:?}");
    let bob = net.open_with(0, 1, demo(None));
    net.run();
    assert!(!net.take(bob).is_empty(), "others stay");
}
