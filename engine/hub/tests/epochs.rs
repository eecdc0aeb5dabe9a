//! Epochs that change while somebody asks for the past, again and again, with acknowledgements and without.

mod harness;

use corecast_hub::HubLimits;
use harness::{Client, Net, Random, unlimited};
use serde_json::{Value, json};

const CHANNEL: &str = "conversation:1";

/// Where a subscriber is, by what it was told.
#[derive(Debug, Default)]
struct View {
    epoch: Value,
    at: u64,
    epochs: u32,
}

impl View {
    /// Fails if something is missing, comes twice, or is of an epoch that was not told.
    fn see(&mut self, it: &Value, what: &str) {
        if it["channel"] != CHANNEL || it["type"] == "error" {
            return;
        }
        let offset = it["offset"].as_u64().expect("an offset");
        if it["type"] == "subscribed" {
            let carried = it["messages"].as_array().map_or(0, Vec::len) as u64;
            if it["epoch"] == self.epoch {
                assert!(offset - carried <= self.at, "{what}: {} and then {it}", self.at);
            } else {
                self.epoch = it["epoch"].clone();
                self.epochs += 1;
            }
            self.at = offset;
            return;
        }
        assert_eq!((&it["type"], &it["epoch"]), (&json!("message"), &self.epoch), "{what}: {it}");
        // What is sent again has its place already, and who types has none.
        if it["event"] != "user_typing" && it["attempt"].is_null() {
            assert_eq!(offset, self.at + 1, "{what}: {it}");
            self.at = offset;
        }
    }

    /// A request for the past, from where it is, or for the latest.
    fn request(&self, random: &mut Random) -> String {
        let mut asked = json!({"type": "subscribe", "channel": CHANNEL});
        if random.chance(2) {
            asked["history"] = json!(random.below(4));
        }
        if random.chance(3) {
            asked["recover"] = json!({"epoch": self.epoch, "offset": self.at});
        }
        asked.to_string()
    }
}

/// Ann publishes, here or where it takes memory away, bob asks, or something of that is done.
fn act(net: &mut Net, shards: usize, (ann, bob): (Client, Client), view: &View, random: &mut Random) {
    let publish = |channel: &str, payload: &str| {
        json!({"type": "publish", "channel": channel, "payload": payload}).to_string()
    };
    match random.below(9) {
        0 | 1 => (0..random.below(4)).for_each(|_| net.send(ann, &publish(CHANNEL, "x"))),
        2 => {
            let other = format!("conversation:{}", 2 + random.below(30));
            net.send(ann, &publish(&other, &"x".repeat(900)));
        }
        3 => {
            net.send(ann, &json!({"type": "user_typing", "channel": CHANNEL, "payload": {}}).to_string());
        }
        4 | 5 => net.send(bob, &view.request(random)),
        6 => drop(net.settle(random.below(shards) as u16, random.below(4))),
        _ => {
            for _ in 0..random.below(12) {
                net.step(random);
            }
        }
    }
}

#[test]
fn epochs_that_change_are_told_and_nothing_of_the_new_one_is_lost() {
    let mut epochs = 0;
    for seed in 1..=2_000 {
        let mut random = Random(seed * 104_729);
        let shards = 1 + random.below(4);
        let mut net = Net::new(shards as u16, seed, HubLimits { history_bytes: 3_000, ..unlimited() });
        let ann = net.join(random.below(shards) as u16, 0, "ann");
        let bob = net.join(random.below(shards) as u16, 1, "bob");
        let mut view = View::default();
        let wants_ack = random.chance(3);
        net.send(bob, &json!({"type": "subscribe", "channel": CHANNEL, "ack": wants_ack}).to_string());
        net.run();
        if random.chance(4) {
            let pattern = json!({"type": "subscribe", "channel": "conversation:*", "events": ["none"]});
            net.send(bob, &pattern.to_string());
            net.run();
        }
        for round in 0..80 {
            act(&mut net, shards, (ann, bob), &view, &mut random);
            net.holds_room = random.chance(2) && round < 78;
            if !net.holds_room {
                net.give_room();
            }
            if round >= 78 {
                net.run();
            }
            for it in net.take(bob) {
                view.see(&it, &format!("seed {seed}, {shards} shards"));
            }
        }
        epochs += view.epochs;
    }
    assert!(epochs > 4_000, "{epochs}");
}
