//! Recovery: whoever comes back with a position gets all that came since, once and in order, whatever happens
//! meanwhile and on whichever shard; or is told that it can't be had.

mod harness;

use std::collections::BTreeMap;

use corecast_hub::HubLimits;
use harness::{Client, Net, Random, binary, development, unlimited};
use serde_json::{Value, json};

const CHANNEL: &str = "conversation:1";

fn subscribe(position: Option<(&str, u64)>) -> String {
    let mut message = json!({"type": "subscribe", "id": 1, "channel": CHANNEL});
    if let Some((epoch, offset)) = position {
        message["recover"] = json!({"epoch": epoch, "offset": offset});
    }
    message.to_string()
}

fn publish(net: &mut Net, client: Client, number: usize) {
    net.send(client, &json!({"type": "publish", "channel": CHANNEL, "payload": number}).to_string());
}

fn epoch_of(answer: &Value) -> String {
    answer["epoch"].as_str().expect("an epoch").to_owned()
}

#[test]
fn what_was_missed_comes_before_what_is_new() {
    for shards in 1..=4 {
        for format in [development("bob"), binary("bob")] {
            let mut net = Net::new(shards, 7, unlimited());
            let ann = net.join(0, 0, "ann");
            let start = net.ask(ann, &subscribe(None));
            let epoch = epoch_of(&start[0]);
            for number in 1..=5 {
                publish(&mut net, ann, number);
            }
            net.run();
            let bob = net.open_with(net.last_shard(), 1, format);
            net.run();
            net.take(bob);
            net.send(bob, &subscribe(Some((&epoch, 2))));
            net.run();
            publish(&mut net, ann, 6);
            net.run();
            let seen = net.take(bob);
            assert_eq!(seen[0]["type"], "subscribed");
            let offsets: Vec<_> = seen[1..].iter().map(|it| it["offset"].as_u64()).collect();
            assert_eq!(offsets, [Some(3), Some(4), Some(5), Some(6)]);
            assert_eq!(seen[1]["publisher"], "ann");
        }
    }
}

#[test]
fn who_was_away_too_long_is_told_so() {
    let mut net = Net::new(2, 7, unlimited());
    let ann = net.join(0, 0, "ann");
    let start = net.ask(ann, &subscribe(None));
    let epoch = epoch_of(&start[0]);
    for number in 1..=150 {
        publish(&mut net, ann, number);
    }
    net.run();
    for position in [(&*epoch, 49), (&*epoch, 151), ("00000000", 100), ("what?", 100)] {
        let bob = net.join(1, 1, "bob");
        let seen = net.ask(bob, &subscribe(Some(position)));
        assert_eq!((seen.len(), &seen[0]["offset"]), (1, &json!(150)), "{position:?}: {seen:?}");
        net.close(bob);
        net.run();
    }
    let bob = net.join(1, 1, "bob");
    assert_eq!(net.ask(bob, &subscribe(Some((&epoch, 50)))).len(), 101, "all that is kept");
}

/// What one subscriber has seen since its last `subscribed`.
#[derive(Default)]
struct View {
    position: Option<(String, u64)>,
}

impl View {
    /// Everything must follow the position without a gap.
    fn read(&mut self, seen: Vec<Value>, seed: u64) {
        for message in seen {
            let at = (epoch_of(&message), message["offset"].as_u64().expect("an offset"));
            if message["type"] == "message" {
                let (epoch, offset) = self.position.as_ref().expect("`subscribed` comes first");
                assert_eq!((epoch, offset + 1), (&at.0, at.1), "seed {seed}: {message}");
            }
            self.position = Some(at);
        }
    }
}

/// Subscribers come and go with their positions, publishers publish, records wait at random; histories are lost for
/// lack of memory in some runs.
#[test]
fn storms_leave_no_gaps() {
    for seed in 1..=300 {
        let mut random = Random(seed * 7919);
        let shards = 1 + random.below(4) as u16;
        let limits = HubLimits { idle_channels: 1 + random.below(3) as u32, ..unlimited() };
        let mut net = Net::new(shards, seed, limits);
        let publishers: Vec<Client> = (0..shards).map(|shard| net.join(shard, 0, "ann")).collect();
        let mut views: BTreeMap<u32, View> = (1..6).map(|slot| (slot, View::default())).collect();
        let mut clients: BTreeMap<u32, Client> = BTreeMap::new();
        for number in 0..400 {
            let slot = 1 + random.below(5) as u32;
            match random.below(8) {
                0..=3 => publish(&mut net, publishers[random.below(publishers.len())], number),
                4 => match clients.remove(&slot) {
                    Some(client) => {
                        let view = views.get_mut(&slot).expect("there is one for each");
                        view.read(net.take(client), seed);
                        net.close(client);
                    }
                    None => {
                        let client = net.join(random.below(shards.into()) as u16, slot, "bob");
                        net.take(client);
                        let position = views[&slot].position.clone();
                        net.send(client, &subscribe(position.as_ref().map(|(epoch, at)| (&**epoch, *at))));
                        clients.insert(slot, client);
                    }
                },
                5 => {
                    net.settle(random.below(shards.into()) as u16, random.below(4));
                }
                _ => {
                    for _ in 0..random.below(6) {
                        net.step(&mut random);
                    }
                }
            }
        }
        net.run();
        for (slot, client) in &clients {
            views.get_mut(slot).expect("there is one for each").read(net.take(*client), seed);
        }
        publish(&mut net, publishers[0], 400);
        net.run();
        let last = net.take(*clients.values().next().unwrap_or(&publishers[0]));
        assert!(clients.is_empty() || last.len() == 1, "seed {seed}: live in the end: {last:?}");
    }
}
