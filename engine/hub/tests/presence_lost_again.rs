//! Watchers whose connections are lost again and again, and who say nothing themselves: what they know of who is there.

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::Random;
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

/// What a client knows that adds who joins and removes who leaves.
#[derive(Debug, Default)]
struct View {
    members: BTreeSet<String>,
    unsure: bool,
}

impl View {
    fn take(&mut self, messages: &[Value]) {
        for it in messages {
            let names = it["participants"].as_array().into_iter().flatten();
            let names = names.map(|it| it.as_str().expect("a name").to_owned());
            match it["name"].as_str() {
                Some("join") => self.members.extend(names),
                Some("leave") => {
                    let left: BTreeSet<_> = names.collect();
                    self.members.retain(|name| !left.contains(name));
                }
                Some("presence") => self.unsure = true,
                _ => {}
            }
        }
    }
}

#[test]
fn a_watcher_that_seldom_says_anything_knows_who_is_there() {
    let mut wrong = Vec::new();
    for shards in 1..=4u16 {
        for seed in 1..=80 {
            let mut random = Random(seed);
            let mut net = net(shards);
            let shard = |random: &mut Random| random.below(usize::from(shards)) as u16;
            let (mut ann, mut token) = join(&mut net, shard(&mut random), 0, "ann");
            net.ask(ann, &json!({"type": "subscribe", "channel": CHANNEL, "presence": true}).to_string());
            let others: Vec<_> = (1..=4)
                .map(|slot| join(&mut net, shard(&mut random), slot, &format!("p{}", slot % 3)).0)
                .collect();
            let mut view = View::default();
            for round in 0..6 {
                for _ in 0..random.below(30) {
                    let other = others[random.below(others.len())];
                    match random.below(5) {
                        0 => net.send(other, &json!({"type": "subscribe", "channel": CHANNEL}).to_string()),
                        1 => net.send(other, &json!({"type": "unsubscribe", "channel": CHANNEL}).to_string()),
                        2 => net.advance(Duration::from_millis(random.below(400) as u64)),
                        3 => drop(net.settle(shard(&mut random), 1)),
                        _ => drop(net.step(&mut random)),
                    }
                }
                view.take(&net.take(ann));
                net.lose(ann);
                for _ in 0..random.below(20) {
                    let other = others[random.below(others.len())];
                    let kind = if random.chance(2) { "subscribe" } else { "unsubscribe" };
                    net.send(other, &json!({"type": kind, "channel": CHANNEL}).to_string());
                    net.advance(Duration::from_millis(random.below(200) as u64));
                    net.step(&mut random);
                }
                let (again, _) = join(&mut net, shard(&mut random), 10 + round, "ann");
                net.send(again, &resume(&token));
                while net.step(&mut random) {}
                net.run();
                net.pass(Duration::from_millis(500));
                let seen = net.take(again);
                view.take(&seen);
                token = token_of(seen.iter().find(|it| it["type"] == "resumed").expect("it is resumed"));
                ann = again;
                let ask =
                    json!({"type": "query", "id": 1, "method": "presence", "params": {"channel": CHANNEL}});
                // Somebody else asks: ann says nothing.
                let answer = net.ask(others[0], &ask.to_string());
                let answer = answer.iter().find(|it| it["id"] == 1).expect("it is answered");
                let there =
                    serde_json::from_value::<BTreeSet<String>>(answer["result"]["participants"].clone());
                let there = there.expect("a list of names");
                if !view.unsure && view.members != there {
                    wrong.push(format!(
                        "{shards} shards, seed {seed}, round {round}: {:?}, not {there:?}",
                        view.members
                    ));
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of 320: {}", wrong.len(), wrong[0]);
}

/// A session that is asked for again and again by connections that are lost on the way.
#[test]
fn who_was_lost_before_what_is_known_began_is_told_so() {
    let mut net = net(1);
    let (ann, token) = join(&mut net, 0, 1, "ann");
    net.ask(ann, &json!({"type": "subscribe", "channel": CHANNEL, "presence": true}).to_string());
    let (bob, _) = join(&mut net, 0, 2, "bob");
    net.pass(Duration::from_secs(120));
    net.take(ann);
    net.lose(ann);
    net.pass(Duration::from_secs(1));
    net.subscribe(bob, CHANNEL);
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
    let (ann, token) = join(&mut net, 0, 1, "ann");
    net.ask(ann, &json!({"type": "subscribe", "channel": CHANNEL, "presence": true}).to_string());
    let (bob, _) = join(&mut net, 0, 2, "bob");
    let (eve, _) = join(&mut net, 0, 3, "eve");
    net.pass(Duration::from_secs(120));
    net.take(ann);
    net.lose(ann);
    net.pass(Duration::from_secs(1));
    net.subscribe(bob, CHANNEL);
    for _ in 0..16_400 {
        net.ask(eve, r#"{"type":"subscribe","channel":"conversation:7","presence":true}"#);
        net.ask(eve, r#"{"type":"unsubscribe","channel":"conversation:7"}"#);
    }
    net.pass(Duration::from_secs(1));
    let (again, _) = join(&mut net, 0, 5, "ann");
    let seen = net.ask(again, &resume(&token));
    assert_eq!(events(&seen), [("join".to_owned(), json!(["bob"]))], "{seen:#?}");
}
