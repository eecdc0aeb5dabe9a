//! Epochs that change while somebody asks for the past, again and again, with acknowledgements and without.

mod harness;

use corecast_hub::HubLimits;
use harness::{Net, Random, unlimited};
use serde_json::{Value, json};

const CHANNEL: &str = "conversation:1";

#[test]
fn epochs_that_change_are_told_and_nothing_of_the_new_one_is_lost() {
    let mut changed = 0;
    for seed in 1..=300 {
        let mut random = Random(seed * 104_729);
        let shards = 1 + random.below(4) as u16;
        let mut net = Net::new(shards, seed, HubLimits { history_bytes: 3_000, ..unlimited() });
        let ann = net.join(random.below(shards.into()) as u16, 0, "ann");
        let bob = net.join(random.below(shards.into()) as u16, 1, "bob");
        let what = format!("seed {seed}, {shards} shards");
        net.take(bob);
        let wants_ack = random.chance(3);
        let has_pattern = random.chance(4);
        let (mut epoch, mut at) = (Value::Null, 0);
        net.send(bob, &json!({"type": "subscribe", "channel": CHANNEL, "ack": wants_ack}).to_string());
        net.run();
        if has_pattern {
            net.send(
                bob,
                &json!({"type": "subscribe", "channel": "conversation:*", "events": ["none"]}).to_string(),
            );
            net.run();
        }
        let mut log: Vec<String> = Vec::new();
        for round in 0..80 {
            match random.below(9) {
                0 | 1 => {
                    for _ in 0..random.below(4) {
                        net.send(
                            ann,
                            &json!({"type": "publish", "channel": CHANNEL, "payload": 1}).to_string(),
                        );
                    }
                }
                2 => {
                    let other = format!("conversation:{}", 2 + random.below(30));
                    net.send(
                        ann,
                        &json!({"type": "publish", "channel": other, "payload": "x".repeat(900)}).to_string(),
                    );
                }
                3 => net.send(
                    ann,
                    &json!({"type": "user_typing", "channel": CHANNEL, "payload": {}}).to_string(),
                ),
                4 | 5 => {
                    let mut asked = json!({"type": "subscribe", "channel": CHANNEL});
                    if random.chance(2) {
                        asked["history"] = json!(random.below(4));
                    }
                    if random.chance(3) {
                        asked["recover"] = json!({"epoch": epoch, "offset": at});
                    }
                    log.push(format!("--- {asked}"));
                    net.send(bob, &asked.to_string());
                }
                6 => drop(net.settle(random.below(shards.into()) as u16, random.below(4))),
                _ => {
                    for _ in 0..random.below(12) {
                        net.step(&mut random);
                    }
                }
            }
            net.holds_room = random.chance(2) && round < 78;
            if !net.holds_room {
                net.give_room();
            }
            if round >= 78 {
                net.run();
            }
            for it in net.take(bob) {
                log.push(it.to_string());
                if it["channel"] != CHANNEL {
                    continue;
                }
                match it["type"].as_str() {
                    Some("subscribed") => {
                        let carried = it["messages"].as_array().map_or(0, Vec::len) as u64;
                        let offset = it["offset"].as_u64().expect("an offset");
                        if it["epoch"] == epoch {
                            assert!(offset - carried <= at, "{what}: {at} and then {it}: {log:#?}");
                            at = offset;
                        } else {
                            changed += 1;
                            (epoch, at) = (it["epoch"].clone(), offset);
                        }
                    }
                    Some("message") if it["event"] == "user_typing" => {
                        assert_eq!(it["epoch"], epoch, "{what}: {log:#?}");
                    }
                    Some("message") => {
                        assert_eq!(it["epoch"], epoch, "{what}: {log:#?}");
                        if it["attempt"].is_null() {
                            assert_eq!(it["offset"], at + 1, "{what}: {log:#?}");
                            at += 1;
                        }
                    }
                    Some("error") => {}
                    _ => panic!("{what}: {it}"),
                }
            }
        }
    }
    assert!(changed > 600, "{changed}");
}
