//! Who is subscribed already and asks for the past: what is published between request and answer is neither lost nor
//! doubled, and keeps its order.

mod harness;

use harness::{Client, Net, Random, unlimited};
use serde_json::{Value, json};

const CHANNEL: &str = "conversation:1";

/// What a client knows, and how it must go on.
#[derive(Debug, Default)]
struct View {
    epoch: Value,
    /// Of the last message that came.
    at: u64,
    typed: u64,
}

impl View {
    fn read(&mut self, messages: &[Value], what: &str) {
        for it in messages {
            match it["type"].as_str() {
                Some("subscribed") => self.begin(it, what),
                Some("message") if it["event"] == "user_typing" => self.typed += 1,
                Some("message") => {
                    assert_eq!(it["offset"], self.at + 1, "{what}: {messages:#?}");
                    self.at += 1;
                }
                _ => panic!("{what}: {it}"),
            }
        }
    }

    fn begin(&mut self, it: &Value, what: &str) {
        let carried = it["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let offset = it["offset"].as_u64().expect("it names a position");
        let begin = offset - carried.len() as u64;
        for (at, message) in (begin + 1..).zip(carried) {
            assert_eq!(message["offset"], at, "{what}: {it}");
        }
        assert!(begin <= self.at || self.epoch.is_null(), "{what}: {} to {begin} are lost: {it}", self.at);
        (self.epoch, self.at) = (it["epoch"].clone(), offset);
    }
}

fn publish(net: &mut Net, client: Client, kind: &str) {
    net.send(client, &json!({"type": kind, "channel": CHANNEL, "payload": {}}).to_string());
}

#[test]
fn nothing_is_lost_between_a_request_for_the_latest_and_its_answer() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 7, unlimited());
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(shards - 1, 1, "bob"));
        let mut view = View::default();
        view.read(&net.ask(bob, &json!({"type": "subscribe", "channel": CHANNEL}).to_string()), "first");
        (0..3).for_each(|_| publish(&mut net, ann, "chat_message"));
        net.run();
        net.send(bob, &json!({"type": "subscribe", "channel": CHANNEL, "history": 1}).to_string());
        publish(&mut net, ann, "user_typing");
        (0..3).for_each(|_| publish(&mut net, ann, "chat_message"));
        net.run();
        view.read(&net.take(bob), &format!("{shards} shards"));
        assert_eq!((view.at, view.typed), (6, 1));
        publish(&mut net, ann, "chat_message");
        net.run();
        view.read(&net.take(bob), "in the end");
        assert_eq!(view.at, 7);
    }
}

/// A namespace that keeps nothing has nothing to go on from: there who asks stays live.
#[test]
fn where_nothing_is_kept_nothing_is_lost_either() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 7, unlimited());
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(shards - 1, 1, "bob"));
        net.subscribe(bob, "room");
        net.send(bob, r#"{"type":"subscribe","channel":"room","history":5}"#);
        for number in 0..5 {
            net.send(ann, &json!({"type": "publish", "channel": "room", "payload": number}).to_string());
        }
        net.run();
        assert_eq!(net.payloads(bob), [0, 1, 2, 3, 4]);
    }
}

#[test]
fn however_often_somebody_looks_back_all_comes_once_and_in_order() {
    for seed in 1..=600 {
        let mut random = Random(seed * 7919);
        let shards = 1 + random.below(4) as u16;
        let mut net = Net::new(shards, seed, unlimited());
        let ann = net.join(random.below(shards.into()) as u16, 0, "ann");
        let bob = net.join(random.below(shards.into()) as u16, 1, "bob");
        let (has_pattern, is_filtered) = (random.chance(4), random.chance(4));
        let (mut view, mut published) = (View::default(), 0);
        let what = format!("seed {seed}, {shards} shards");
        (0..random.below(20)).for_each(|_| publish(&mut net, ann, "chat_message"));
        view.read(&net.ask(bob, &json!({"type": "subscribe", "channel": CHANNEL}).to_string()), &what);
        if has_pattern {
            net.subscribe(bob, "conversation:*");
        }
        for _ in 0..60 {
            match random.below(8) {
                0..=2 => {
                    (0..random.below(4)).for_each(|_| publish(&mut net, ann, "chat_message"));
                    published += 1;
                }
                3 => publish(&mut net, ann, "user_typing"),
                4 => {
                    let mut asked = json!({"type": "subscribe", "channel": CHANNEL});
                    let mut at = view.at.saturating_sub(random.below(5) as u64);
                    if random.chance(3) {
                        asked["history"] = json!(random.below(6));
                    }
                    if random.chance(2) {
                        at += 1_000 * u64::from(random.chance(3));
                        asked["recover"] = json!({"epoch": view.epoch, "offset": at});
                    }
                    if is_filtered {
                        asked["events"] = json!(["chat_message", "user_typing"]);
                    }
                    net.send(bob, &asked.to_string());
                }
                5 => {
                    net.settle(random.below(shards.into()) as u16, random.below(4));
                }
                _ => {
                    for _ in 0..random.below(6) {
                        net.step(&mut random);
                    }
                }
            }
            net.holds_room = random.chance(2);
            if !net.holds_room {
                net.give_room();
            }
            view.read(&net.take(bob), &what);
        }
        net.holds_room = false;
        net.give_room();
        net.run();
        view.read(&net.take(bob), &what);
        publish(&mut net, ann, "chat_message");
        net.run();
        let last = net.take(bob);
        assert_eq!(last.len(), 1, "{what}: live in the end, once: {last:?}");
        view.read(&last, &what);
        assert!(published > 0, "{what}");
        net.close(bob);
        net.close(ann);
        net.run();
        assert!(net.is_empty(), "{what}");
    }
}
