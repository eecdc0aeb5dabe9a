//! What each command is answered by, above all when it is wrong: on one shard and on three, where homes are elsewhere.

mod harness;

use corecast_hub::{Format, HubLimits, SlowPolicy};
use corecast_protocol::envelope::command::Priority;
use harness::{Client, Net, Seen, demo, development, unlimited};
use serde_json::{Value, json};

/// Runs the same on one shard and on three.
fn nodes(test: impl Fn(&mut Net)) {
    for (shards, seed) in [(1, 1), (3, 2), (3, 3), (3, 4)] {
        test(&mut Net::new(shards, seed, unlimited()));
    }
}

fn last_shard(net: &Net) -> u16 {
    net.hubs.len() as u16 - 1
}

fn kinds(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|it| it["type"].as_str().unwrap_or_default()).collect()
}

#[test]
fn every_error_names_its_request_and_what_would_be_right() {
    // Who asks, what, the code, the channel in the answer, and what its text must speak of.
    let cases = [
        (
            "demo",
            r#"{"type":"subscribe","id":1,"channel":"agent:7"}"#,
            "FORBIDDEN",
            "agent:7",
            "conversation:",
        ),
        (
            "demo",
            r#"{"type":"subscribe","id":1,"channel":"user:bob"}"#,
            "FORBIDDEN",
            "user:bob",
            "participant",
        ),
        (
            "demo",
            r#"{"type":"subscribe","id":1,"channel":"user:demo:ann*"}"#,
            "FORBIDDEN",
            "user:demo:ann*",
            "full",
        ),
        (
            "demo",
            r#"{"type":"publish","id":1,"channel":"system","payload":1}"#,
            "FORBIDDEN",
            "system",
            "backends",
        ),
        (
            "demo",
            r#"{"type":"publish","id":1,"channel":"user:bob","payload":1}"#,
            "FORBIDDEN",
            "user:bob",
            "own",
        ),
        ("demo", r#"{"type":"publish","id":1,"to":"bob","payload":1}"#, "FORBIDDEN", "", "`channel`"),
        (
            "dev",
            r#"{"type":"subscribe","id":1,"channel":"user:bob"}"#,
            "FORBIDDEN",
            "user:bob",
            "participant",
        ),
        ("dev", r#"{"type":"subscribe","id":1,"channel":"a b"}"#, "INVALID_CHANNEL", "a b", "U+0020"),
        (
            "dev",
            r#"{"type":"subscribe","id":1,"channel":"conversation:"}"#,
            "INVALID_CHANNEL",
            "conversation:",
            "colon",
        ),
        ("dev", r#"{"type":"subscribe","id":1,"channel":"*"}"#, "INVALID_CHANNEL", "*", "agent:*"),
        ("dev", r#"{"type":"subscribe","id":1,"channel":"@you"}"#, "INVALID_CHANNEL", "@you", "@"),
        ("dev", r#"{"type":"unsubscribe","id":1,"channel":"@me"}"#, "FORBIDDEN", "@me", "everybody"),
        (
            "dev",
            r#"{"type":"subscribe","id":1,"channel":"cats:1"}"#,
            "INVALID_CHANNEL",
            "cats:1",
            "conversation",
        ),
        (
            "dev",
            r#"{"type":"subscribe","id":1,"max_rate":1001,"channel":"a"}"#,
            "INVALID_MESSAGE",
            "",
            "`max_rate`",
        ),
        (
            "dev",
            r#"{"type":"publish","id":1,"channel":"cats:1","payload":1}"#,
            "INVALID_CHANNEL",
            "cats:1",
            "metrics",
        ),
        (
            "dev",
            r#"{"type":"publish","id":1,"channel":"agent:*","payload":1}"#,
            "INVALID_CHANNEL",
            "agent:*",
            "U+002A",
        ),
        ("dev", r#"{"type":"publish","id":1,"to":"nobody","payload":1}"#, "NOT_FOUND", "", "nobody"),
        ("dev", r#"{"type":"publish","id":1,"to":"group:g","payload":1}"#, "NOT_FOUND", "", "groups"),
        (
            "dev",
            r#"{"type":"publish","id":1,"to":["ann","a b"],"payload":1}"#,
            "INVALID_MESSAGE",
            "",
            "U+0020",
        ),
        ("dev", r#"{"type":"unsubscribe","id":1,"channel":"a"}"#, "NOT_SUBSCRIBED", "a", "subscription"),
        (
            "dev",
            r#"{"type":"unsubscribe","id":1,"channel":"agent:**"}"#,
            "NOT_SUBSCRIBED",
            "agent:**",
            "no such",
        ),
        ("dev", r#"{"type":"unsubscribe","id":1,"channel":"system"}"#, "FORBIDDEN", "system", "everybody"),
        (
            "dev",
            r#"{"type":"ack","id":1,"channel":"a","epoch":"e","offset":1}"#,
            "NOT_SUBSCRIBED",
            "a",
            "subscribe",
        ),
        ("dev", r#"{"type":"authenticate","id":1,"token":"t"}"#, "FORBIDDEN", "", "without authentication"),
        ("dev", r#"{"type":"refresh","id":1,"token":"t"}"#, "FORBIDDEN", "", "without authentication"),
        ("dev", r#"{"type":"resume","id":1,"token":"t"}"#, "UNRECOVERABLE", "", "subscribe again"),
        ("dev", r#"{"type":"register","id":1,"capabilities":["c"]}"#, "FORBIDDEN", "", "permission"),
        ("dev", r#"{"type":"cancel","id":1}"#, "NOT_FOUND", "", "call"),
        ("dev", r#"{"type":"response","id":1,"call":"c","result":1}"#, "NOT_FOUND", "", "call"),
        ("dev", r#"{"type":"batch","id":1,"messages":[]}"#, "INVALID_MESSAGE", "", "batch"),
        ("dev", r#"{"type":"nonsense","id":1}"#, "UNKNOWN_TYPE", "", "`type`"),
        ("dev", "{", "INVALID_JSON", "", ""),
    ];
    nodes(|net| {
        let dev = net.join(last_shard(net), 0, "ann");
        let demo = net.open_with(0, 1, demo(Some("ann")));
        net.run();
        for (who, text, code, channel, about) in cases {
            let client = if who == "demo" { demo } else { dev };
            let answers = net.ask(client, text);
            let [error] = answers.as_slice() else { panic!("one answer to {text}: {answers:?}") };
            assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{text}");
            assert_eq!(error["channel"].as_str().unwrap_or_default(), channel, "{text}");
            assert!(error["message"].as_str().is_some_and(|it| it.contains(about)), "{text}: {error}");
            if code != "INVALID_JSON" {
                assert_eq!(error["id"], 1, "{text}");
            }
        }
        // None of it ends a connection or leaves anything behind.
        assert_eq!(net.ask(dev, r#"{"type":"ping","id":"p"}"#)[0]["type"], "pong");
    });
}

#[test]
fn calls_have_no_handlers_yet() {
    nodes(|net| {
        let client = net.join(0, 0, "ann");
        for text in [r#"{"type":"query","id":5,"method":"m"}"#, r#"{"type":"command","id":5,"method":"m"}"#] {
            let answers = net.ask(client, text);
            assert_eq!(answers[0]["type"], "response");
            assert_eq!((&answers[0]["id"], &answers[0]["error"]["code"]), (&json!(5), &json!("NO_HANDLER")));
        }
    });
}

#[test]
fn ten_invalid_messages_in_a_row_end_the_connection_once() {
    nodes(|net| {
        let (shard, key) = net.join(0, 0, "ann");
        for round in 0..2 {
            for _ in 0..9 {
                assert_eq!(net.ask((shard, key), "{").len(), 1);
            }
            // A valid one in between, even if it is refused, starts the count again.
            if round == 0 {
                net.ask((shard, key), r#"{"type":"publish","channel":"system","payload":1}"#);
            }
        }
        for _ in 0..3 {
            net.send((shard, key), "{");
        }
        net.send((shard, key), r#"{"type":"ping"}"#);
        let seen = &net.seen[&(shard, key)];
        let [Seen::Message(error), Seen::Closed(1008, reason)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!(error["code"], "INVALID_JSON");
        assert!(reason.starts_with("INVALID_JSON"), "{reason}");
    });
}

#[test]
fn a_subscriber_gets_what_is_published_and_the_publisher_a_receipt() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        let bob = net.join(last_shard(net), 1, "bob");
        let answers = net.ask(bob, r#"{"type":"subscribe","id":"s","channel":"conversation:1"}"#);
        assert_eq!(kinds(&answers), ["subscribed"]);
        assert_eq!((&answers[0]["id"], &answers[0]["offset"]), (&json!("s"), &json!(0)));
        let epoch = answers[0]["epoch"].clone();
        let text =
            r#"{"type":"chat_message","id":7,"channel":"conversation:1","content":"hi","priority":"high"}"#;
        let receipts = net.ask(ann, text);
        let expected =
            json!({"type":"response","id":7,"result":{"epoch":epoch,"offset":1,"durability":"memory"}});
        assert_eq!(receipts, [expected]);
        let messages = net.take(bob);
        let expected = json!({
            "type":"message","channel":"conversation:1","event":"chat_message","payload":{"content":"hi"},
            "publisher":"ann","epoch":epoch,"offset":1,"timestamp":1_700_000_000_000u64,"priority":"high",
        });
        assert_eq!(messages, [expected]);
        let (_, delivery) = net.delivers[net.delivers.len() - 1];
        assert_eq!((delivery.policy, delivery.priority), (SlowPolicy::Disconnect, Priority::High));
    });
}

#[test]
fn ephemeral_messages_carry_the_current_offset() {
    nodes(|net| {
        let ann = net.join(last_shard(net), 0, "ann");
        net.ask(ann, r#"{"type":"subscribe","channel":"conversation:1"}"#);
        let mut offsets = Vec::new();
        for rest in [
            r#""payload":1"#,
            r#""payload":1,"store":false"#,
            r#""payload":1,"event":"user_typing""#,
            r#""payload":1,"event":"agent_status_update""#,
            r#""payload":1,"event":"chat_message_chunk""#,
            r#""payload":1,"event":"other""#,
        ] {
            let text = format!(r#"{{"type":"publish","channel":"conversation:1",{rest}}}"#);
            offsets.push(net.ask(ann, &text)[0]["offset"].clone());
        }
        assert_eq!(offsets, [1, 1, 1, 1, 1, 2]);
        net.ask(ann, r#"{"type":"subscribe","channel":"room"}"#);
        for _ in 0..2 {
            assert_eq!(net.ask(ann, r#"{"type":"publish","channel":"room","payload":1}"#)[0]["offset"], 0);
        }
    });
}

#[test]
fn echo_false_leaves_out_the_publishing_connection_alone() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        let other_ann = net.join(last_shard(net), 1, "ann");
        for client in [ann, other_ann] {
            net.ask(client, r#"{"type":"subscribe","channel":"conversation:1"}"#);
            net.ask(client, r#"{"type":"subscribe","channel":"conversation:*"}"#);
        }
        for target in [r#""channel":"conversation:1""#, r#""to":"ann""#] {
            for id in ["", r#""id":1,"#] {
                let text = format!(r#"{{"type":"publish",{id}{target},"payload":1,"echo":false}}"#);
                let own = net.ask(ann, &text);
                assert_eq!(kinds(&own), if id.is_empty() { vec![] } else { vec!["response"] }, "{text}");
                assert_eq!(kinds(&net.take(other_ann)), ["message"], "{text}");
                let text = text.replace("false", "true");
                assert_eq!(net.ask(ann, &text).len(), 1 + usize::from(!id.is_empty()), "{text}");
                assert_eq!(kinds(&net.take(other_ann)), ["message"], "{text}");
            }
        }
    });
}

#[test]
fn direct_messages_have_their_identity_in_the_recipients_inbox() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        let bobs: Vec<Client> = vec![net.join(0, 1, "bob"), net.join(last_shard(net), 2, "bob")];
        let receipt = net.ask(ann, r#"{"type":"publish","id":1,"to":"bob","event":"e","payload":{"n":1}}"#);
        let identity = receipt[0]["result"].clone();
        assert_eq!(identity["offset"], 1);
        for bob in &bobs {
            let expected = json!({
                "type":"message","channel":"@me","to":"bob","event":"e","payload":{"n":1},"publisher":"ann",
                "epoch":identity["epoch"],"offset":1,"timestamp":1_700_000_000_000u64,
            });
            assert_eq!(net.take(*bob).last(), Some(&expected));
        }
        // A list has one receipt; each copy has its own recipient's identity; who is not there is named.
        let text = r#"{"type":"publish","id":2,"to":["eve","ann","bob"],"payload":2,"store":false}"#;
        let mut answers = net.ask(ann, text);
        answers.sort_by_key(|it| it["type"].to_string());
        assert_eq!(kinds(&answers), ["error", "message", "response"]);
        assert_eq!((&answers[0]["code"], &answers[0]["id"]), (&json!("NOT_FOUND"), &Value::Null));
        assert!(answers[0]["message"].as_str().is_some_and(|it| it.contains("eve")));
        // Not stored: no offset of its own.
        assert_eq!((&answers[1]["to"], &answers[1]["offset"]), (&json!("ann"), &json!(0)));
        assert_eq!((&answers[2]["id"], &answers[2]["result"]["offset"]), (&json!(2), &json!(1)));
        assert!(bobs.iter().all(|bob| net.take(*bob).len() == 1));
    });
}

#[test]
fn the_copies_of_one_direct_message_are_bounded_in_bytes() {
    let mut net = Net::new(2, 1, unlimited());
    let ann = net.join(0, 0, "ann");
    let clients: Vec<Client> =
        (1..=255).map(|other: u16| net.join(other % 2, u32::from(other), &format!("other{other}"))).collect();
    let others: Vec<String> = (1..=255).map(|other| format!("\"other{other}\"")).collect();
    let names = format!("\"ann\",{}", others.join(","));
    let payload = "x".repeat(20_000);
    let text = format!(r#"{{"type":"publish","id":1,"to":[{names}],"payload":"{payload}"}}"#);
    let answers = net.ask(ann, &text);
    assert_eq!((answers.len(), &answers[0]["code"]), (1, &json!("MESSAGE_TOO_LARGE")));
    let text = format!(r#"{{"type":"publish","id":1,"to":[{names}],"payload":"short"}}"#);
    assert_eq!(kinds(&net.ask(ann, &text)), ["message", "response"]);
    assert!(clients.iter().all(|other| kinds(&net.take(*other)).contains(&"message")));
}

#[test]
fn everybody_gets_system_without_asking_and_first() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        let demo = net.open_with(last_shard(net), 1, demo(None));
        net.run();
        net.take(demo);
        let receipt = net.ask(ann, r#"{"type":"publish","id":1,"channel":"system","payload":"up"}"#);
        assert_eq!(kinds(&receipt), ["broadcast", "response"]);
        assert_eq!(kinds(&net.take(demo)), ["broadcast"]);
        assert!(net.delivers.iter().all(|(_, it)| it.priority == Priority::Critical));
        // Asking for it is no mistake, and changes nothing.
        let answers = net.ask(demo, r#"{"type":"subscribe","id":1,"channel":"system"}"#);
        assert_eq!((kinds(&answers), &answers[0]["offset"]), (vec!["subscribed"], &json!(1)));
        net.ask(ann, r#"{"type":"publish","channel":"system","payload":"up"}"#);
        assert_eq!(kinds(&net.take(demo)), ["broadcast"]);
        assert!(net.ask(demo, r#"{"type":"ack","channel":"system","epoch":"e","offset":1}"#).is_empty());
    });
}

#[test]
fn asking_twice_is_answered_twice_and_delivers_once() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        for name in ["conversation:1", "conversation:*", "conversation:1*"] {
            // Both while the first is pending, and when it is active.
            for id in 1..=2 {
                net.send(ann, &format!(r#"{{"type":"subscribe","id":{id},"channel":"{name}"}}"#));
            }
            net.run();
            let answers = net.take(ann);
            let ids: Vec<_> = answers.iter().filter_map(|it| it["id"].as_u64()).collect();
            assert_eq!(ids, [1, 2], "{answers:?}");
            let again = net.ask(ann, &format!(r#"{{"type":"subscribe","id":3,"channel":"{name}"}}"#));
            assert_eq!((kinds(&again), &again[0]["id"]), (vec!["subscribed"], &json!(3)), "{name}");
        }
        let one = net.ask(ann, r#"{"type":"publish","channel":"conversation:1","payload":1}"#);
        assert_eq!((one.len(), &one[0]["pattern"]), (1, &Value::Null));
        // Of patterns, the longest speaks.
        net.ask(ann, r#"{"type":"unsubscribe","channel":"conversation:1"}"#);
        let one = net.ask(ann, r#"{"type":"publish","channel":"conversation:1","payload":1}"#);
        assert_eq!((one.len(), &one[0]["pattern"]), (1, &json!("conversation:1*")));
        assert!(
            net.ask(ann, r#"{"type":"ack","channel":"conversation:1","epoch":"e","offset":1}"#).is_empty()
        );
    });
}

#[test]
fn what_was_taken_back_while_pending_is_answered_as_cancelled() {
    let mut net = Net::new(3, 2, unlimited());
    let ann = net.join(0, 0, "ann");
    let away = (0..).map(|n| format!("conversation:{n}")).find(|name| {
        net.take(ann);
        net.send(ann, &format!(r#"{{"type":"subscribe","channel":"{name}"}}"#));
        let is_pending = net.take(ann).is_empty();
        net.run();
        is_pending
    });
    let away = away.expect("some home is elsewhere");
    net.ask(ann, &format!(r#"{{"type":"unsubscribe","channel":"{away}"}}"#));
    for name in [away.as_str(), "agent:*"] {
        net.send(ann, &format!(r#"{{"type":"subscribe","id":1,"channel":"{name}"}}"#));
        net.send(ann, &format!(r#"{{"type":"unsubscribe","id":2,"channel":"{name}"}}"#));
        net.send(ann, &format!(r#"{{"type":"subscribe","id":3,"channel":"{name}"}}"#));
        net.run();
        let answers = net.take(ann);
        assert_eq!(kinds(&answers), ["unsubscribed", "error", "subscribed"], "{answers:?}");
        assert_eq!((&answers[1]["id"], &answers[1]["code"]), (&json!(1), &json!("CANCELLED")));
        assert_eq!(answers[2]["id"], 3);
    }
}

#[test]
fn subscriptions_are_limited_per_connection() {
    let limits = HubLimits { subscriptions_per_connection: 2, ..unlimited() };
    let mut net = Net::new(2, 5, limits);
    let ann = net.join(0, 0, "ann");
    let answers = net.ask(ann, r#"{"type":"subscribe","id":1,"channels":["a","agent:*","b","a","system"]}"#);
    let mut codes: Vec<_> = answers.iter().map(|it| (it["channel"].as_str(), it["code"].as_str())).collect();
    codes.sort_unstable();
    let expected = [
        (Some("a"), None),
        (Some("a"), None),
        (Some("agent:*"), None),
        (Some("b"), Some("SUBSCRIPTION_LIMIT")),
        (Some("system"), None),
    ];
    assert_eq!(codes, expected);
    net.ask(ann, r#"{"type":"unsubscribe","channel":"a"}"#);
    assert_eq!(kinds(&net.ask(ann, r#"{"type":"subscribe","channel":"b"}"#)), ["subscribed"]);
}

#[test]
fn whoever_wants_iso_times_gets_them_from_one_more_variant() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        let mut iso = development("bob");
        iso.is_time_iso = true;
        let bob = net.open_with(last_shard(net), 1, iso);
        net.run();
        for client in [ann, bob] {
            net.ask(client, r#"{"type":"subscribe","channel":"conversation:*"}"#);
        }
        net.take(bob);
        let text = r#"{"type":"publish","channel":"conversation:1","payload":1,"timestamp":1500000000000}"#;
        let own = net.ask(ann, text);
        assert_eq!(own[0]["timestamp"], 1_500_000_000_000u64);
        let other = net.take(bob);
        assert_eq!(other[0]["timestamp"], "2017-07-14T02:40:00.000Z");
        assert_eq!(
            (&own[0]["pattern"], &other[0]["pattern"]),
            (&json!("conversation:*"), &json!("conversation:*"))
        );
        assert_eq!(net.ask(bob, r#"{"type":"ping"}"#)[0]["timestamp"], "2023-11-14T22:13:20.000Z");
    });
}

#[test]
fn metrics_conflate_by_channel_and_event() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        net.ask(ann, r#"{"type":"subscribe","channels":["metrics:1","metrics:2"]}"#);
        for (channel, event) in
            [("metrics:1", "a"), ("metrics:1", "a"), ("metrics:1", "b"), ("metrics:2", "a")]
        {
            let text = format!(r#"{{"type":"publish","channel":"{channel}","event":"{event}","payload":1}}"#);
            net.ask(ann, &text);
        }
        let keys: Vec<_> = net.delivers.iter().map(|(_, it)| it.conflate).collect();
        assert!(net.delivers.iter().all(|(_, it)| it.policy == SlowPolicy::Conflate));
        assert!(keys[0] == keys[1] && keys[1] != keys[2] && keys[2] != keys[3] && keys[0] != keys[3]);
    });
}

#[test]
fn an_epoch_that_begins_anew_is_announced_to_who_is_subscribed_by_a_pattern() {
    for (shards, seed) in [(1, 1), (3, 2), (3, 3), (3, 4)] {
        let mut net = Net::new(shards, seed, HubLimits { idle_channels: 2, ..unlimited() });
        let ann = net.join(0, 0, "ann");
        let bob = net.join(last_shard(&net), 1, "bob");
        net.ask(ann, r#"{"type":"subscribe","channel":"conversation:*"}"#);
        let publish = |net: &mut Net, channel: usize| {
            net.take(ann);
            let text = format!(r#"{{"type":"publish","channel":"conversation:{channel}","payload":1}}"#);
            net.ask(bob, &text);
            net.take(ann)
        };
        let before = publish(&mut net, 0);
        assert_eq!(kinds(&before), ["message"], "nothing was forgotten yet");
        for other in 1..=40 {
            publish(&mut net, other);
        }
        let after = publish(&mut net, 0);
        assert_eq!(kinds(&after), ["subscribed", "message"], "{after:?}");
        assert_eq!(after[0]["channel"], "conversation:0");
        assert_eq!(after[0]["recovered"], false);
        assert_eq!((&after[0]["offset"], &after[1]["offset"]), (&json!(0), &json!(1)));
        assert_eq!(after[0]["epoch"], after[1]["epoch"]);
        assert_ne!(before[0]["epoch"], after[1]["epoch"]);
        assert_eq!(kinds(&publish(&mut net, 0)), ["message"], "said once");
        // Who subscribes first brings the channel back just as well, and knows its epoch from the answer.
        for other in 1..=40 {
            publish(&mut net, other);
        }
        let carl = net.join(0, 2, "carl");
        net.ask(carl, r#"{"type":"subscribe","channel":"conversation:0"}"#);
        assert_eq!(kinds(&publish(&mut net, 0)), ["subscribed", "message"]);
        assert_eq!(kinds(&net.take(carl)), ["message"]);
    }
}

#[test]
fn an_epoch_that_begins_with_a_message_without_echo_is_announced_to_its_publisher_too() {
    for (shards, seed) in [(1, 1), (3, 2), (3, 3), (3, 4)] {
        let mut net = Net::new(shards, seed, HubLimits { idle_channels: 2, ..unlimited() });
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(last_shard(&net), 1, "bob"));
        net.ask(ann, r#"{"type":"subscribe","channel":"conversation:*"}"#);
        for channel in 0..=40 {
            net.ask(bob, &format!(r#"{{"type":"publish","channel":"conversation:{channel}","payload":1}}"#));
        }
        net.take(ann);
        let silent = r#"{"type":"publish","channel":"conversation:0","echo":false,"payload":1}"#;
        let mut heard = net.ask(ann, silent);
        net.ask(bob, r#"{"type":"publish","channel":"conversation:0","payload":1}"#);
        heard.extend(net.take(ann));
        assert_eq!(kinds(&heard), ["subscribed", "message"], "{heard:?}");
        assert_eq!((&heard[0]["epoch"], &heard[1]["offset"]), (&heard[1]["epoch"], &json!(2)));
    }
}

#[test]
fn the_messages_of_a_batch_name_no_more_than_one_message_may() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        let names = |from: usize| {
            let names: Vec<String> = (from..from + 128).map(|it| format!("conversation:{it}")).collect();
            json!({"type": "subscribe", "id": from, "channels": names}).to_string()
        };
        net.hubs[0].begin_batch(Format::Json, 0);
        let answers: Vec<Value> =
            [0, 128, 256].into_iter().flat_map(|from| net.ask(ann, &names(from))).collect();
        net.hubs[0].end_batch();
        assert_eq!(answers.len(), 257);
        assert!(answers[..256].iter().all(|it| it["type"] == "subscribed"));
        assert_eq!((&answers[256]["code"], &answers[256]["id"]), (&json!("OVERLOADED"), &json!(256)));
        assert_eq!(net.ask(ann, &names(256)).len(), 128, "the next message has its own");
    });
}

#[test]
fn who_is_named_twice_gets_a_message_once() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        let bob = net.join(last_shard(net), 1, "bob");
        let answers = net.ask(ann, r#"{"type":"publish","id":1,"to":["bob","bob","@me","ann"],"payload":1}"#);
        assert_eq!(kinds(&answers).iter().filter(|it| **it == "message").count(), 1, "{answers:?}");
        assert_eq!(kinds(&answers).iter().filter(|it| **it == "response").count(), 1, "{answers:?}");
        assert_eq!(kinds(&net.take(bob)).iter().filter(|it| **it == "message").count(), 1);
    });
}

#[test]
fn messages_that_make_no_sense_count_as_invalid_too() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        let nobody = r#"{"type":"publish","to":[],"payload":1}"#;
        let long = "x".repeat(256);
        let twice = format!(r#"{{"type":"subscribe","events":["{long}"],"channel":"conversation:1"}}"#);
        let twice = &*twice;
        for round in 0..9 {
            net.ask(ann, if round % 2 == 0 { nobody } else { twice });
        }
        net.ask(ann, r#"{"type":"ping"}"#);
        for _ in 0..9 {
            net.ask(ann, twice);
        }
        let closed = |net: &Net| net.seen[&ann].iter().any(|it| matches!(it, Seen::Closed(1008, _)));
        assert!(!closed(net), "a good message forgives");
        net.send(ann, twice);
        assert!(closed(net), "the tenth in a row");
    });
}

#[test]
fn the_own_inbox_is_reached_by_its_short_name() {
    nodes(|net| {
        let ann = net.join(0, 0, "ann");
        let other = net.join(last_shard(net), 1, "ann");
        let answers = net.ask(ann, r#"{"type":"publish","id":1,"to":"@me","payload":1}"#);
        assert_eq!(kinds(&answers), ["message", "response"]);
        let copies = net.take(other);
        let copy = copies.iter().find(|it| it["type"] == "message").expect("the other connection gets it");
        assert_eq!((&copy["channel"], &copy["to"]), (&json!("@me"), &json!("ann")));
    });
}

#[test]
fn system_keeps_its_epoch_whatever_is_forgotten() {
    let mut net = Net::new(2, 3, HubLimits { idle_channels: 1, ..HubLimits::default() });
    let client = net.join(0, 0, "ann");
    let mut positions = Vec::new();
    for round in 0..4 {
        let heard = net.ask(client, r#"{"type":"publish","channel":"system","payload":1}"#);
        positions.push((heard[0]["epoch"].clone(), heard[0]["offset"].clone()));
        // Others push out of the homes' memory what nobody is subscribed to.
        for room in 0..4 {
            net.ask(
                client,
                &format!(r#"{{"type":"publish","channel":"conversation:{round}-{room}","payload":1}}"#),
            );
        }
    }
    let epoch = &positions[0].0;
    assert!(positions.iter().zip(1..).all(|((e, offset), n)| e == epoch && *offset == n), "{positions:?}");
}
