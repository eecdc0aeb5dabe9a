//! What messages grow to in the other encoding: judged at their home and only if somebody is sent it; together, where
//! they are published.

mod harness;

use corecast_hub::Format;
use harness::{Client, Net, Seen, packed, unlimited};
use serde_json::{Value, json};

/// Several nodes, so that homes lie here and elsewhere.
fn nodes(message_bytes: u64, check: impl Fn(&mut Net)) {
    for (shards, seed) in [(1, 1), (2, 2), (2, 3), (4, 4), (4, 5)] {
        check(&mut Net::with_messages_of(shards, seed, unlimited(), message_bytes));
    }
}

/// One byte each in MessagePack, five with a comma in JSON.
fn nulls(count: usize) -> Value {
    Value::Array(vec![Value::Null; count])
}

/// Four bytes each in JSON, nine in MessagePack.
fn doubles(count: usize) -> Value {
    Value::Array(vec![json!(1.5); count])
}

fn to_channel(id: usize, channel: &str, payload: &Value) -> Value {
    json!({"type": "publish", "id": id, "channel": channel, "payload": payload})
}

fn to_participants(id: usize, names: &[String], payload: &Value) -> Value {
    json!({"type": "publish", "id": id, "to": names, "payload": payload})
}

/// Sends these as one batch in one frame; what the client saw.
fn batch(net: &mut Net, client: Client, format: Format, messages: &[Value]) -> Vec<Value> {
    net.take(client);
    let hub = usize::from(client.0);
    let length = |message: &Value| match format {
        Format::Json => message.to_string().len(),
        Format::MessagePack => packed(message).len(),
    };
    net.hubs[hub].begin_batch(format, messages.iter().map(length).sum());
    for message in messages {
        match format {
            Format::Json => net.send(client, &message.to_string()),
            Format::MessagePack => net.send_packed(client, &packed(message)),
        }
    }
    net.hubs[hub].end_batch();
    net.run();
    net.take(client)
}

fn assert_too_large(answers: &[Value], id: usize, words: &[&str]) {
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((&answers[0]["code"], &answers[0]["id"]), (&json!("MESSAGE_TOO_LARGE"), &json!(id)));
    let why = answers[0]["message"].as_str().unwrap_or_default();
    assert!(words.iter().all(|it| why.contains(it)), "{why}");
}

#[test]
fn what_would_grow_too_large_for_somebody_is_refused() {
    nodes(1_000, |net| {
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(net.last_shard(), 1, "bob"));
        net.subscribe(bob, "conversation:1");
        for (count, is_fitting) in [(10, true), (199, true), (200, false), (900, false)] {
            for message in [
                to_channel(count, "conversation:1", &nulls(count)),
                to_participants(count, &["bob".into()], &nulls(count)),
            ] {
                let answers = net.ask_packed(ann, &message);
                let got = net.payloads(bob);
                if is_fitting {
                    assert_eq!((&answers[0]["type"], got), (&json!("response"), vec![nulls(count)]));
                    continue;
                }
                assert_too_large(&answers, count, &["JSON", &(5 * count + 1).to_string(), "1000"]);
                assert!(got.is_empty(), "and nobody gets it");
            }
        }
    });
}

#[test]
fn what_would_grow_too_large_for_nobody_is_delivered() {
    nodes(1_000, |net| {
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(net.last_shard(), 1, "bob"));
        net.subscribe(bob, "conversation:1");
        let floats = doubles(200);
        for message in
            [to_channel(1, "conversation:1", &floats), to_participants(1, &["bob".into()], &floats)]
        {
            let answers = net.ask(ann, &message.to_string());
            assert_eq!(answers[0]["type"], "response", "{answers:?}");
            assert_eq!(net.payloads(bob), std::slice::from_ref(&floats));
        }
        let carl = net.join_binary(0, 2, "carl");
        net.subscribe(carl, "room");
        let answers = net.ask_packed(ann, &to_channel(2, "room", &nulls(900)));
        assert_eq!(
            (&answers[0]["type"], net.payloads(carl)),
            (&json!("response"), vec![nulls(900)]),
            "and so in MessagePack"
        );
    });
}

/// A history is read later, and by readers of either encoding: who recovers must be able to read on.
#[test]
fn what_would_grow_far_too_large_for_later_readers_is_refused() {
    nodes(1_000, |net| {
        let ann = net.join_binary(0, 0, "ann");
        net.join(net.last_shard(), 1, "bob");
        let list = json!(vec![false; 600]);
        for message in [to_channel(1, "conversation:1", &list), to_participants(1, &["bob".into()], &list)] {
            let answers = net.ask_packed(ann, &message);
            assert_eq!(answers[0]["code"], "MESSAGE_TOO_LARGE", "{answers:?}");
        }
        let answers = net.ask_packed(ann, &to_channel(1, "room", &list));
        assert_eq!(answers[0]["type"], "response", "nothing is kept there: {answers:?}");
    });
}

#[test]
fn what_is_refused_uses_no_offset_and_reaches_nobody() {
    nodes(1_000, |net| {
        let last = net.last_shard();
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(last, 1, "bob"));
        let carl = net.join_binary(last, 2, "bob");
        net.subscribe(ann, "conversation:1");
        for pattern in ["conversation:1", "conversation:*"] {
            net.subscribe(carl, pattern);
            let placed = |net: &mut Net, id: usize, message: Value| {
                let mut answers = net.ask(ann, &message.to_string());
                answers.retain(|it| it["type"] != "message");
                assert_eq!(answers[0]["id"], id, "{answers:?}");
                answers[0]["result"]["offset"].as_u64().expect("an offset")
            };
            for to_one in [false, true] {
                let message = |id: usize, payload: &Value| match to_one {
                    true => to_participants(id, &["bob".into()], payload),
                    false => to_channel(id, "conversation:1", payload),
                };
                let before = placed(net, 1, message(1, &json!("before")));
                net.take(bob);
                net.take(carl);
                let answers = net.ask(ann, &message(2, &doubles(200)).to_string());
                assert_too_large(&answers, 2, &["MessagePack", "1803", "1000"]);
                assert_eq!(answers[0]["channel"].is_null(), to_one);
                assert!(net.take(bob).is_empty() && net.take(carl).is_empty());
                assert_eq!(placed(net, 3, message(3, &json!("after"))), before + 1);
            }
            net.ask(carl, &json!({"type": "unsubscribe", "channel": pattern}).to_string());
            let answers = net.ask(ann, &to_channel(4, "conversation:1", &doubles(200)).to_string());
            assert!(answers.iter().any(|it| it["type"] == "response"), "nobody is left: {answers:?}");
        }
        let answers = net.ask(ann, &to_channel(5, "system", &doubles(200)).to_string());
        assert_too_large(&answers, 5, &["MessagePack"]);
    });
}

#[test]
fn the_messages_of_a_batch_grow_to_no_more_than_one_message_may() {
    nodes(1_000, |net| {
        let last = net.last_shard();
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(last, 1, "bob"));
        let carl = net.join_binary(last, 2, "carl");
        for client in [bob, carl] {
            net.subscribe(client, "conversation:1");
        }
        for (format, payload, fitting) in [
            // 451 bytes each in JSON, 453 in MessagePack.
            (Format::MessagePack, nulls(90), 2),
            (Format::Json, doubles(50), 2),
            (Format::Json, json!("x".repeat(200)), 4),
        ] {
            let messages: Vec<Value> = (0..6).map(|id| to_channel(id, "conversation:1", &payload)).collect();
            for _ in 0..3 {
                let answers = batch(net, ann, format, &messages);
                assert_eq!(answers.len(), 6, "{answers:?}");
                for (id, answer) in answers.iter().enumerate() {
                    let expected = if id < fitting { &Value::Null } else { &json!("OVERLOADED") };
                    assert!(answers.iter().any(|it| it["id"] == id && it["code"] == *expected), "{answer}");
                }
                assert_eq!(net.payloads(bob), vec![payload.clone(); fitting]);
                assert_eq!(net.payloads(carl), vec![payload.clone(); fitting]);
            }
        }
        let is_closed = |net: &Net| net.seen[&ann].iter().any(|it| matches!(it, Seen::Closed(..)));
        assert!(!is_closed(net), "alone each would have been fine");
        assert_eq!(net.ask_packed(ann, &to_channel(9, "conversation:1", &nulls(90)))[0]["type"], "response");
    });
}

#[test]
fn the_copies_of_a_batchs_direct_messages_are_bounded_in_bytes() {
    nodes(10_000, |net| {
        let ann = net.join(0, 0, "ann");
        let others: Vec<Client> = (1..=20)
            .map(|other: u16| {
                net.join(other % net.hubs.len() as u16, u32::from(other), &format!("other{other}"))
            })
            .collect();
        let names: Vec<String> = (1..=20).map(|other| format!("other{other}")).collect();
        // Twenty copies of 900 bytes, at most 40,000 in all.
        let payload = json!("x".repeat(898));
        let messages: Vec<Value> = (0..6).map(|id| to_participants(id, &names, &payload)).collect();
        let answers = batch(net, ann, Format::Json, &messages);
        assert_eq!(answers.len(), 6, "{answers:?}");
        for id in 0..6 {
            let expected = if id < 2 { &Value::Null } else { &json!("OVERLOADED") };
            assert!(answers.iter().any(|it| it["id"] == id && it["code"] == *expected), "{answers:?}");
        }
        for other in &others {
            assert_eq!(net.payloads(*other), vec![payload.clone(); 2]);
        }
        let answers = batch(net, ann, Format::Json, &messages[..2]);
        assert!(answers.iter().all(|it| it["type"] == "response"), "the next has its own: {answers:?}");
        // Short ones are as many as names allow.
        let messages: Vec<Value> = (0..12).map(|id| to_participants(id, &names, &json!("short"))).collect();
        let answers = batch(net, ann, Format::Json, &messages);
        assert!(answers.iter().all(|it| it["type"] == "response"), "{answers:?}");
    });
}
