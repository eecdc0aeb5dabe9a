//! Receipts: each publish that wants one gets one, and it says what became of every copy.

use std::collections::BTreeMap;
use std::time::Duration;

use corecast_hub::{Fate, HubLimits};
use serde_json::{Value, json};

use crate::harness::{Client, Net, Random, unlimited};

const CHANNELS: [&str; 3] = ["conversation:1", "agent:7", "room"];
const SLOTS: u32 = 3;

/// What is known of the copies of one publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Copies {
    of: u64,
    delivered: u64,
    failed: u64,
}

struct Storm {
    net: Net,
    random: Random,
    shards: u16,
    clients: BTreeMap<(u16, u32), Client>,
    /// By number of the publish: whose it is and what became of its copies.
    wanted: BTreeMap<u64, (Client, Copies)>,
    receipts: BTreeMap<u64, Copies>,
    published: u64,
}

impl Storm {
    fn new(shards: u16, seed: u64) -> Self {
        let net = Net::new(shards, seed, unlimited());
        let (clients, wanted, receipts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { net, random: Random(seed), shards, clients, wanted, receipts, published: 0 }
    }

    fn act(&mut self) {
        let place =
            (self.random.below(usize::from(self.shards)) as u16, self.random.below(SLOTS as usize) as u32);
        let client = self.clients.get(&place).copied();
        match (self.random.below(12), client) {
            (0..=1, None) => self.join(place),
            (0, Some(client)) => self.close(place, client),
            (1..=4, Some(client)) => self.publish(client),
            (5..=6, _) => self.decide(),
            _ => {
                self.net.step(&mut self.random);
            }
        }
        self.hear();
    }

    fn join(&mut self, place: (u16, u32)) {
        let name = format!("p{}", self.random.below(3));
        let client = self.net.join(place.0, place.1, &name);
        for channel in CHANNELS.iter().chain(&["conversation:*"]) {
            if !self.random.chance(3) {
                self.net.send(client, &json!({"type": "subscribe", "channel": channel}).to_string());
            }
        }
        self.clients.insert(place, client);
    }

    /// What waits for a connection that ends is lost; receipts for it are nobody's.
    fn close(&mut self, place: (u16, u32), client: Client) {
        self.hear();
        while let Some(at) = self.net.copies.iter().position(|it| it.0 == client) {
            self.resolve(at, Fate::Lost);
        }
        self.net.close(client);
        self.clients.remove(&place);
        self.wanted.retain(|_, (publisher, _)| *publisher != client);
    }

    fn publish(&mut self, client: Client) {
        self.published += 1;
        let id = self.published;
        let mut message = json!({"type": "publish", "id": id, "payload": id, "echo": self.random.chance(2)});
        message["receipt"] = json!(!self.random.chance(4));
        if self.random.chance(4) {
            message["to"] = json!(format!("p{}", self.random.below(3)));
        } else {
            message["channel"] = json!(CHANNELS[self.random.below(CHANNELS.len())]);
        }
        if message["receipt"] == true {
            self.wanted.insert(id, (client, Copies::default()));
        }
        self.net.send(client, &message.to_string());
    }

    /// The fate of some copy is decided.
    fn decide(&mut self) {
        if !self.net.copies.is_empty() {
            let at = self.random.below(self.net.copies.len());
            let fate = if self.random.chance(3) { Fate::Lost } else { Fate::Written };
            self.resolve(at, fate);
        }
    }

    fn resolve(&mut self, at: usize, fate: Fate) {
        let ((shard, _), tracking, payload) = self.net.copies.remove(at);
        self.net.hubs[usize::from(shard)].tracked(tracking, fate);
        let id = payload.as_u64().expect("a number was published");
        if let Some((_, copies)) = self.wanted.get_mut(&id) {
            match fate {
                Fate::Written => copies.delivered += 1,
                Fate::Lost => copies.failed += 1,
            }
        }
    }

    fn hear(&mut self) {
        for client in self.clients.values().copied().collect::<Vec<_>>() {
            for seen in self.net.take(client) {
                if seen["type"] == "message" {
                    let id = seen["payload"].as_u64().expect("a number was published");
                    if let Some((_, copies)) = self.wanted.get_mut(&id) {
                        copies.of += 1;
                    }
                } else if seen["type"] == "event" {
                    self.hear_receipt(client, &seen);
                } else if seen["type"] == "error" && seen["code"] == "NOT_FOUND" {
                    self.wanted.remove(&seen["id"].as_u64().expect("publishes have numbers"));
                }
            }
        }
    }

    fn hear_receipt(&mut self, client: Client, seen: &Value) {
        assert_eq!(seen["name"], "receipt");
        let id = seen["id"].as_u64().expect("it names the publish");
        assert_eq!(self.wanted.get(&id).map(|it| it.0), Some(client), "its publisher is told: {seen}");
        let count = |field: &str| seen[field].as_u64().expect("a count");
        let told = Copies { of: count("of"), delivered: count("delivered"), failed: count("failed") };
        assert_eq!(self.receipts.insert(id, told), None, "once: {seen}");
    }

    /// Each publish that wanted a receipt has one, and it says what happened.
    fn check(&mut self) {
        self.net.run();
        self.hear();
        for (id, (_, copies)) in &self.wanted {
            assert_eq!(self.receipts.get(id), Some(copies), "publish {id}");
        }
    }

    /// Nobody decides about the rest in time: it has failed, whatever becomes of it later.
    fn wait_in_vain(&mut self) {
        self.net.run();
        self.hear();
        let known = self.receipts.len();
        self.net.advance(Duration::from_millis(29_999));
        self.net.run();
        self.hear();
        assert_eq!(self.receipts.len(), known, "there is time left");
        for (_, _, payload) in &self.net.copies {
            let id = payload.as_u64().expect("a number was published");
            if let Some((_, copies)) = self.wanted.get_mut(&id) {
                copies.failed += 1;
            }
        }
        self.net.advance(Duration::from_millis(1));
        self.check();
        let (wanted, copies) = (std::mem::take(&mut self.wanted), self.net.copies.len());
        for _ in 0..copies {
            self.resolve(0, Fate::Written);
        }
        self.net.run();
        self.hear();
        self.wanted = wanted;
        for (place, client) in self.clients.clone() {
            self.close(place, client);
        }
        self.net.run();
        assert!(self.net.is_empty(), "nothing is left of anything");
    }
}

#[test]
pub(crate) fn a_receipt_tells_what_became_of_every_copy() {
    let mut receipts = 0;
    for seed in 1..=60 {
        let shards = 1 + (seed % 4) as u16;
        println!("seed {seed}, {shards} shards");
        let mut storm = Storm::new(shards, seed);
        for _ in 0..150 {
            storm.act();
        }
        storm.net.run();
        storm.hear();
        if seed % 3 == 0 {
            while !storm.net.copies.is_empty() {
                storm.decide();
            }
            storm.check();
        }
        storm.wait_in_vain();
        receipts += storm.receipts.len();
    }
    assert!(receipts > 500, "the storms test something: {receipts}");
}

#[test]
fn nobody_is_a_number_of_recipients_too() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 7, unlimited());
        let ann = net.join(0, 1, "ann");
        let publish =
            json!({"type": "publish", "id": "r", "channel": "conversation:1", "payload": 1, "receipt": true});
        let seen = net.ask(ann, &publish.to_string());
        assert_eq!(seen[0]["type"], "response", "{seen:?}");
        let expected = json!({
            "type": "event", "name": "receipt", "id": "r", "channel": "conversation:1",
            "epoch": seen[0]["result"]["epoch"], "offset": 1, "of": 0, "delivered": 0, "failed": 0,
        });
        assert_eq!(seen[1], expected);
        assert_eq!(seen.len(), 2);
    }
}

#[test]
fn a_receipt_needs_a_name_and_one_target() {
    let mut net = Net::new(2, 8, HubLimits::default());
    let ann = net.join(0, 1, "ann");
    for wrong in [
        json!({"type": "publish", "channel": "conversation:1", "payload": 1, "receipt": true}),
        json!({"type": "publish", "id": 1, "to": ["bob", "eve"], "payload": 1, "receipt": true}),
    ] {
        let seen = net.ask(ann, &wrong.to_string());
        assert_eq!((seen.len(), &seen[0]["code"]), (1, &json!("INVALID_MESSAGE")), "{seen:?}");
    }
}

/// `conversation:1` has a recipient whose copies nobody decides about.
fn publish(net: &mut Net, client: Client, id: u64) {
    let publish =
        json!({"type": "publish", "id": id, "channel": "conversation:1", "payload": id, "receipt": true});
    net.send(client, &publish.to_string());
}

/// How many receipts came, and what was refused.
fn told(net: &mut Net, client: Client) -> (usize, Vec<Value>) {
    let seen = net.take(client).into_iter().filter(|it| it["type"] == "event" || it["type"] == "error");
    let (receipts, refused): (Vec<Value>, Vec<Value>) = seen.partition(|it| it["type"] == "event");
    (receipts.len(), refused)
}

#[test]
fn open_receipts_are_bounded_and_no_wrong_one_is_told() {
    let mut net = Net::new(2, 9, unlimited());
    let bob = net.join(1, 1, "bob");
    net.subscribe(bob, "conversation:1");
    // Sixteen take 1,024 each, then there is none left for anybody.
    let publishers: Vec<_> = (0..17).map(|at| net.join(0, 1 + at, &format!("p{at}"))).collect();
    for id in 0..=16_384 {
        publish(&mut net, publishers[id as usize / 1_024], id);
    }
    net.run();
    for publisher in &publishers[..16] {
        assert_eq!(told(&mut net, *publisher), (0, vec![]));
    }
    let (receipts, refused) = told(&mut net, publishers[16]);
    assert_eq!((receipts, refused.len()), (0, 1), "{refused:?}");
    let fields = ["id", "channel", "code"].map(|field| refused[0][field].clone());
    assert_eq!(fields, [json!(16_384), json!("conversation:1"), json!("OVERLOADED")]);
    assert!(!refused[0].to_string().contains("your"), "it has none: {refused:?}");
    assert_eq!(net.payloads(bob).len(), 16_384, "and it was not published");
    for ((shard, _), tracking, _) in std::mem::take(&mut net.copies) {
        net.hubs[usize::from(shard)].tracked(tracking, Fate::Written);
    }
    net.run();
    for publisher in &publishers[..16] {
        assert_eq!(told(&mut net, *publisher), (1_024, vec![]));
    }
    publish(&mut net, publishers[16], 1);
    net.run();
    assert_eq!(told(&mut net, publishers[16]), (0, vec![]), "there is room again");
    assert_eq!(net.payloads(bob).len(), 1);
}

/// It is one participant's bound, on however many connections, and comes back with each receipt.
#[test]
fn one_participant_has_a_part_of_the_receipts_of_a_home() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 10, unlimited());
        let last = net.last_shard();
        let (anns, bob) = ([net.join(0, 1, "ann"), net.join(last, 2, "ann")], net.join(last, 3, "bob"));
        net.subscribe(bob, "conversation:1");
        for id in 0..1_024 {
            publish(&mut net, anns[id as usize % 2], id);
        }
        net.run();
        for ann in anns {
            assert_eq!(told(&mut net, ann), (0, vec![]));
            publish(&mut net, ann, 2_000);
            net.run();
            let (receipts, refused) = told(&mut net, ann);
            assert_eq!((receipts, refused.len(), &refused[0]["code"]), (0, 1, &json!("OVERLOADED")));
            assert!(refused[0].to_string().contains("your receipts"), "it says whose: {refused:?}");
        }
        assert_eq!(net.payloads(bob).len(), 1_024, "and they were not published");
        let ((shard, _), tracking, _) = net.copies.remove(0);
        net.hubs[usize::from(shard)].tracked(tracking, Fate::Written);
        net.run();
        for (id, expected) in [(2_001, "response"), (2_002, "error")] {
            net.take(anns[0]);
            publish(&mut net, anns[0], id);
            net.run();
            assert_eq!(net.take(anns[0])[0]["type"], expected, "one came, one more may be open");
        }
    }
}

/// Nobody acknowledges, and whoever publishes to them takes nothing from others.
#[test]
fn receipts_that_nobody_acknowledges_are_not_at_the_expense_of_others() {
    let mut net = Net::new(1, 5, HubLimits::default());
    let ann = net.join(0, 0, "ann");
    let bobs = [net.join(0, 1, "bob"), net.join(0, 2, "bob")];
    for number in 0..65 {
        let message = json!({"type": "subscribe", "channel": format!("conversation:{number}"), "ack": true});
        let answer = net.ask(bobs[number % 2], &message.to_string());
        assert_eq!(answer[0]["type"], "subscribed");
    }
    for at in 0..65 * 256 {
        let channel = format!("conversation:{}", at % 65);
        let publish = json!({"type": "publish", "id": at, "channel": channel, "payload": 1, "receipt": true});
        net.send(ann, &publish.to_string());
        if at % 1_000 == 0 {
            net.run();
        }
    }
    net.run();
    let carol = net.join(0, 3, "carol");
    let publish =
        json!({"type": "publish", "id": 1, "channel": "conversation:c", "payload": 1, "receipt": true});
    let seen = net.ask(carol, &publish.to_string());
    assert_eq!(seen[0]["type"], "response", "{seen:?}");
    assert_eq!((&seen[1]["name"], &seen[1]["of"]), (&json!("receipt"), &json!(0)), "{seen:?}");
}
