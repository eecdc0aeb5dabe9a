//! Idempotency keys: of all publishes with one key one is delivered, and all are answered with its position.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Net, Random, unlimited};

const TARGETS: [&str; 3] = ["conversation:1", "agent:7", "room"];
const KEYS: [&str; 3] = ["a", "b", "ab"];
const PARTICIPANTS: usize = 3;

fn publish(id: u64, target: &str, key: &str) -> Value {
    let mut message = json!({"type": "publish", "id": id, "payload": id, "idempotency_key": key, "echo": !id.is_multiple_of(3)});
    let field = if target.starts_with('p') { "to" } else { "channel" };
    message[field] = json!(target);
    message
}

/// What was published under an id: by whom, where and with which key.
type Made = (usize, &'static str, &'static str);

struct Storm {
    net: Net,
    random: Random,
    /// Two of each participant, on random shards; every one of them is subscribed to everything.
    clients: Vec<Client>,
    made: BTreeMap<u64, Made>,
    /// Per publish its answer's epoch, offset and whether it was a duplicate.
    answers: BTreeMap<u64, (Value, Value, bool)>,
    /// Payloads that each client got.
    got: Vec<Vec<u64>>,
}

impl Storm {
    fn new(shards: u16, seed: u64) -> Self {
        let (mut net, mut random) = (Net::new(shards, seed, unlimited()), Random(seed));
        let clients: Vec<Client> = (0..2 * PARTICIPANTS)
            .map(|number| {
                let shard = random.below(usize::from(shards)) as u16;
                net.join(shard, number as u32, &format!("p{}", number % PARTICIPANTS))
            })
            .collect();
        for client in &clients {
            for channel in TARGETS {
                net.subscribe(*client, channel);
            }
            net.take(*client);
        }
        let got = vec![Vec::new(); clients.len()];
        Self { net, random, clients, made: BTreeMap::new(), answers: BTreeMap::new(), got }
    }

    fn run(&mut self) {
        for _ in 0..60 {
            if self.random.chance(2) {
                let client = self.random.below(self.clients.len());
                let target = [&TARGETS[..], &["p0"]].concat()[self.random.below(TARGETS.len() + 1)];
                let key = KEYS[self.random.below(KEYS.len())];
                let id = self.made.len() as u64 + 1;
                self.made.insert(id, (client % PARTICIPANTS, target, key));
                self.net.send(self.clients[client], &publish(id, target, key).to_string());
            } else {
                self.net.step(&mut self.random);
            }
        }
        self.net.run();
        for (client, got) in self.clients.iter().zip(&mut self.got) {
            for seen in self.net.take(*client) {
                match seen["type"].as_str() {
                    Some("message") => got.push(seen["payload"].as_u64().expect("a number was published")),
                    Some("response") => {
                        let id = seen["id"].as_u64().expect("the publish had a number");
                        let result = &seen["result"];
                        let is_duplicate = result.get("duplicate").is_some_and(|it| *it == json!(true));
                        let answer = (result["epoch"].clone(), result["offset"].clone(), is_duplicate);
                        assert_eq!(self.answers.insert(id, answer), None, "one answer each");
                    }
                    _ => panic!("nothing else was asked for: {seen}"),
                }
            }
        }
    }

    /// Of each key one publish was delivered, to everybody who was to get it; the others name its position.
    fn check(&self) {
        assert!(self.answers.keys().eq(self.made.keys()), "every publish was answered");
        let mut firsts = BTreeMap::new();
        for (id, made) in &self.made {
            if !self.answers[id].2 {
                assert_eq!(firsts.insert(*made, *id), None, "{made:?} was accepted twice");
            }
        }
        for (id, made) in &self.made {
            let first = &self.answers[firsts.get(made).expect("one of them was accepted")];
            assert_eq!((&self.answers[id].0, &self.answers[id].1), (&first.0, &first.1), "{made:?}");
        }
        for (number, got) in self.got.iter().enumerate() {
            let unique: BTreeSet<u64> = got.iter().copied().collect();
            assert_eq!(unique.len(), got.len(), "nothing comes twice: {got:?}");
            for ((publisher, target, _), id) in &firsts {
                let is_own = number % PARTICIPANTS == *publisher && id.is_multiple_of(3);
                let is_direct_to_another = *target == "p0" && number % PARTICIPANTS != 0;
                if !is_own {
                    assert_eq!(unique.contains(id), !is_direct_to_another, "{id} at {number}");
                }
            }
            assert!(unique.iter().all(|id| firsts.values().any(|it| it == id)), "a duplicate came: {got:?}");
        }
    }

    /// The earlier keys are forgotten.
    fn forget(&mut self) {
        self.made.clear();
        self.answers.clear();
        self.got.iter_mut().for_each(Vec::clear);
    }
}

#[test]
pub(crate) fn a_key_makes_a_publish_happen_once() {
    for seed in 1..=40 {
        let shards = 1 + (seed % 4) as u16;
        println!("seed {seed}, {shards} shards");
        let mut storm = Storm::new(shards, seed);
        storm.run();
        storm.check();
        let suppressed: u64 = storm.net.hubs.iter().map(corecast_hub::Hub::duplicates_suppressed).sum();
        let duplicates = storm.answers.values().filter(|answer| answer.2).count() as u64;
        assert_eq!(suppressed, duplicates);
        assert!(duplicates > 0, "the storm tests something");
        storm.forget();
        storm.net.advance(Duration::from_secs(300));
        storm.run();
        storm.check();
    }
}

#[test]
fn a_key_outlives_its_connection_and_is_the_participants_own() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 5, unlimited());
        let ann = net.join(0, 1, "ann");
        let first = net.ask(ann, &publish(1, "conversation:1", "k").to_string());
        net.close(ann);
        let ann = net.join(net.last_shard(), 2, "ann");
        let again = net.ask(ann, &publish(2, "conversation:1", "k").to_string());
        assert_eq!(again[0]["result"]["duplicate"], true);
        assert_eq!(again[0]["result"]["offset"], first[0]["result"]["offset"]);
        let bob = net.join(0, 3, "bob");
        let others = net.ask(bob, &publish(3, "conversation:1", "k").to_string());
        assert_eq!(others[0]["result"].get("duplicate"), None);
        assert_eq!(others[0]["result"]["offset"], 2);
    }
}

#[test]
fn what_was_refused_is_not_remembered() {
    for shards in [1, 3] {
        let mut net = Net::new(shards, 6, unlimited());
        let ann = net.join(0, 1, "ann");
        let refused = net.ask(ann, &publish(1, "pip", "k").to_string());
        assert_eq!(refused[0]["code"], "NOT_FOUND", "{refused:?}");
        let pip = net.join(net.last_shard(), 2, "pip");
        net.take(pip);
        let accepted = net.ask(ann, &publish(2, "pip", "k").to_string());
        assert_eq!(accepted[0]["result"].get("duplicate"), None, "{accepted:?}");
        assert_eq!(net.payloads(pip), [json!(2)]);
        let again = net.ask(ann, &publish(3, "pip", "k").to_string());
        assert_eq!(again[0]["result"]["duplicate"], true, "{again:?}");
        assert_eq!(net.payloads(pip), [] as [Value; 0]);
    }
}
