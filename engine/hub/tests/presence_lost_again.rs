//! Watchers whose connections are lost again and again, and who say nothing themselves: what they know of who is there.

mod harness;

use std::time::Duration;

use harness::Net;
use harness::sessions::{join, net, resume, resumed, token_of};
use serde_json::{Value, json};

const WINDOW: Duration = Duration::from_millis(250);
const UNSEEN: Duration = Duration::from_secs(60);
const CHANNEL: &str = "conversation:42";

fn events(messages: &[Value]) -> Vec<(String, Value)> {
    messages
        .iter()
        .filter(|it| it["type"] == "event")
        .map(|it| (it["name"].as_str().expect("events have names").to_owned(), it["participants"].clone()))
        .collect()
}

/// Ann watches and is lost, and then bob comes: the token of her session.
fn lost_before_bob_came(net: &mut Net) -> String {
    let (ann, token) = join(net, 0, 1, "ann");
    net.ask(ann, &json!({"type": "subscribe", "channel": CHANNEL, "presence": true}).to_string());
    let (bob, _) = join(net, 0, 2, "bob");
    net.pass(2 * UNSEEN);
    net.take(ann);
    net.lose(ann);
    net.pass(Duration::from_secs(1));
    net.subscribe(bob, CHANNEL);
    token
}

/// It was told of bob while it was back, and never said anything: bob goes while it is away again.
#[test]
fn who_was_told_by_a_connection_that_only_listened_is_told_that_it_is_gone() {
    for shards in 1..=4 {
        for listened in [10, 90, 3600] {
            let mut net = net(shards);
            let (ann, token) = join(&mut net, 0, 1, "ann");
            net.ask(ann, &json!({"type": "subscribe", "channel": CHANNEL, "presence": true}).to_string());
            let (bob, _) = join(&mut net, 0, 2, "bob");
            net.pass(2 * UNSEEN);
            net.take(ann);
            net.lose(ann);
            net.pass(Duration::from_secs(10));
            let (again, _) = join(&mut net, shards - 1, 3, "ann");
            let token = token_of(&resumed(&mut net, again, &token));
            net.pass(Duration::from_secs(5));
            net.take(again);
            net.subscribe(bob, CHANNEL);
            net.pass(2 * WINDOW);
            assert_eq!(events(&net.take(again)), [("join".to_owned(), json!(["bob"]))]);
            // It listens, and answers no more than pings.
            net.pass(Duration::from_secs(listened));
            assert_eq!(events(&net.take(again)), []);
            net.lose(again);
            net.pass(Duration::from_secs(5));
            net.ask(bob, &json!({"type": "unsubscribe", "channel": CHANNEL}).to_string());
            net.pass(Duration::from_secs(5));
            let (last, _) = join(&mut net, 0, 4, "ann");
            let seen = net.ask(last, &resume(&token));
            // So far back nobody knows any more, and it is told so.
            let expected =
                if listened < 3600 { ("leave", json!(["bob"])) } else { ("presence", Value::Null) };
            let expected = [(expected.0.to_owned(), expected.1)];
            assert_eq!(events(&seen), expected, "{shards} shards, listened {listened}: {seen:#?}");
        }
    }
}

/// A session that is asked for again and again by connections that are lost on the way.
#[test]
fn who_was_lost_before_what_is_known_began_is_told_so() {
    let mut net = net(1);
    let token = lost_before_bob_came(&mut net);
    for slot in 3..8 {
        net.pass(Duration::from_secs(50));
        let (again, _) = join(&mut net, 0, slot, "ann");
        net.send(again, &resume(&token));
        net.lose(again);
        net.run();
    }
    let (again, _) = join(&mut net, 0, 9, "ann");
    let seen = net.ask(again, &resume(&token));
    assert_eq!(events(&seen), [("presence".to_owned(), Value::Null)], "{seen:#?}");
}

/// Nobody takes away what is known of other channels.
#[test]
fn a_channel_that_is_watched_again_and_again_takes_one_place() {
    let mut net = net(1);
    let token = lost_before_bob_came(&mut net);
    let (eve, _) = join(&mut net, 0, 3, "eve");
    for _ in 0..16_400 {
        net.ask(eve, r#"{"type":"subscribe","channel":"conversation:7","presence":true}"#);
        net.ask(eve, r#"{"type":"unsubscribe","channel":"conversation:7"}"#);
    }
    net.pass(Duration::from_secs(1));
    let (again, _) = join(&mut net, 0, 5, "ann");
    let seen = net.ask(again, &resume(&token));
    assert_eq!(events(&seen), [("join".to_owned(), json!(["bob"]))], "{seen:#?}");
}
