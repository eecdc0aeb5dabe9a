//! Acknowledgements: in order, never too many at once, sent again in time and not for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use corecast_hub::{Hub, HubLimits, Idle};
use serde_json::{Value, json};

use crate::harness::{Client, Net, Random, binary, development, sessions, unlimited};

pub(crate) const CHANNEL: &str = "conversation:1";
pub(crate) const TIMEOUT_MS: u64 = 5_000;
const ATTEMPTS: usize = 5;

pub(crate) fn subscribe(net: &mut Net, client: Client) -> Value {
    let message = json!({"type": "subscribe", "channel": CHANNEL, "ack": true});
    let mut answers = net.ask(client, &message.to_string());
    assert_eq!(answers[0]["type"], "subscribed", "{answers:?}");
    answers.remove(0)
}

pub(crate) fn publish(net: &mut Net, client: Client, payload: u64) {
    let message = json!({"type": "publish", "channel": CHANNEL, "payload": payload, "echo": false});
    net.send(client, &message.to_string());
}

pub(crate) fn ack(net: &mut Net, client: Client, epoch: &Value, offset: u64) {
    let message = json!({"type": "ack", "channel": CHANNEL, "epoch": epoch, "offset": offset});
    net.send(client, &message.to_string());
}

/// Offset and attempt of what came since the last time.
pub(crate) fn came(net: &mut Net, client: Client) -> Vec<(u64, u64)> {
    let messages = net.take(client).into_iter().filter(|it| it["type"] == "message");
    let number = |value: &Value| value.as_u64().expect("a number");
    messages.map(|it| (number(&it["offset"]), it.get("attempt").map_or(1, number))).collect()
}

fn total(net: &Net, count: impl Fn(&Hub) -> u64) -> u64 {
    net.hubs.iter().map(count).sum()
}

/// What one subscriber has seen.
struct Reader {
    client: Client,
    epoch: Value,
    /// Nothing is missing between the subscription and this offset.
    seen: u64,
    acked: u64,
    /// When it acknowledged something last.
    progress: u64,
    /// When each copy came that is not acknowledged.
    copies: BTreeMap<u64, Vec<u64>>,
}

struct Storm {
    net: Net,
    random: Random,
    readers: Vec<Reader>,
    /// Does not acknowledge, and so gets everything once.
    bystander: Client,
    publishers: Vec<Client>,
    published: u64,
    ms: u64,
}

impl Storm {
    fn new(shards: u16, seed: u64) -> Self {
        let (mut net, mut random) = (Net::new(shards, seed, unlimited()), Random(seed));
        let mut place = |net: &mut Net, slot: u32, name: &str| {
            let shard = random.below(usize::from(shards)) as u16;
            let open = if random.chance(2) { binary(name) } else { development(name) };
            let client = net.open_with(shard, slot, open);
            net.run();
            net.take(client);
            client
        };
        let publishers = (0..2).map(|slot| place(&mut net, slot, "publisher")).collect();
        let bystander = place(&mut net, 9, "bystander");
        net.subscribe(bystander, "conversation:*");
        let readers = (0..3)
            .map(|slot| {
                let client = place(&mut net, 20 + slot, "reader");
                if slot == 2 {
                    // By a pattern too: that delivers nothing twice.
                    net.subscribe(client, "conversation:*");
                }
                let epoch = subscribe(&mut net, client)["epoch"].clone();
                Reader { client, epoch, seen: 0, acked: 0, progress: 0, copies: BTreeMap::new() }
            })
            .collect();
        net.take(bystander);
        Self { net, random, readers, bystander, publishers, published: 0, ms: 0 }
    }

    fn act(&mut self) {
        match self.random.below(16) {
            // No more than the history keeps: what it has forgotten can't be sent again.
            0..=4 if self.published < 100 => {
                self.published += 1;
                let publisher = self.publishers[self.random.below(2)];
                publish(&mut self.net, publisher, self.published);
            }
            5 => {
                let ms = 1 + self.random.below(4_000) as u64;
                self.pass(ms);
            }
            6 => {
                let shard = self.random.below(self.net.hubs.len()) as u16;
                self.net.settle(shard, 3);
            }
            7..=8 => {
                let which = self.random.below(self.readers.len());
                self.hear();
                let Reader { client, epoch, seen, acked, .. } = &self.readers[which];
                let offset = acked + self.random.below((seen - acked) as usize + 1) as u64;
                let (client, epoch) = (*client, epoch.clone());
                ack(&mut self.net, client, &epoch, offset);
                self.acknowledged(which, offset);
            }
            _ => {
                self.net.step(&mut self.random);
            }
        }
        self.hear();
    }

    fn acknowledged(&mut self, which: usize, offset: u64) {
        let reader = &mut self.readers[which];
        if offset > reader.acked {
            (reader.acked, reader.progress) = (offset, self.ms);
        }
        reader.copies = reader.copies.split_off(&(reader.acked + 1));
    }

    fn pass(&mut self, ms: u64) {
        self.ms += ms;
        self.net.advance(Duration::from_millis(ms));
    }

    fn hear(&mut self) {
        for reader in &mut self.readers {
            for (offset, attempt) in came(&mut self.net, reader.client) {
                if offset > reader.seen {
                    assert_eq!((offset, attempt), (reader.seen + 1, 1), "in order, and for the first time");
                    reader.seen = offset;
                    assert!(reader.seen - reader.acked <= 100, "{} of {}", reader.acked, reader.seen);
                }
                if offset <= reader.acked {
                    // It was on its way when it was acknowledged.
                    continue;
                }
                let copies = reader.copies.entry(offset).or_default();
                copies.push(self.ms);
                assert_eq!(copies.len() as u64, attempt, "attempt of {offset}");
                // The oldest sets the time; what was sent behind it goes along.
                if let [.., before, last] = copies[..]
                    && offset == reader.acked + 1
                    && before > reader.progress
                {
                    let delay = TIMEOUT_MS << (attempt - 2);
                    assert!(last - before >= delay, "attempt {attempt} of {offset} after {}", last - before);
                }
            }
        }
    }

    /// Everybody acknowledges everything: nothing more comes.
    fn finish(&mut self) {
        let mut rounds = 0;
        while self.readers.iter().any(|reader| reader.acked < self.published) {
            rounds += 1;
            assert!(rounds < 100, "somebody gets nothing any more");
            self.net.run();
            self.hear();
            for which in 0..self.readers.len() {
                let Reader { client, epoch, seen, .. } = &self.readers[which];
                let (client, epoch, seen) = (*client, epoch.clone(), *seen);
                ack(&mut self.net, client, &epoch, seen);
                self.acknowledged(which, seen);
            }
        }
        self.net.run();
        self.hear();
        let resent = total(&self.net, Hub::redelivered);
        for _ in 0..50 {
            self.pass(10_000);
            self.net.run();
        }
        assert_eq!(total(&self.net, Hub::redelivered), resent, "nothing is left to be sent again");
        let expected: Vec<_> = (1..=self.published).map(|offset| (offset, 1)).collect();
        assert_eq!(came(&mut self.net, self.bystander), expected);
        let clients: Vec<Client> = self.readers.iter().map(|it| it.client).collect();
        for client in clients.iter().chain(&self.publishers).chain(&[self.bystander]) {
            self.net.close(*client);
        }
        self.net.run();
        assert!(self.net.is_empty());
    }
}

#[test]
fn whatever_happens_everything_comes_in_order_and_in_time() {
    let mut resent = 0;
    for seed in 1..=60 {
        let shards = 1 + (seed % 4) as u16;
        println!("seed {seed}, {shards} shards");
        let mut storm = Storm::new(shards, seed);
        for _ in 0..300 {
            storm.act();
        }
        storm.finish();
        resent += total(&storm.net, Hub::redelivered);
    }
    assert!(resent > 1_000, "the storms test something: {resent}");
}

#[test]
fn who_never_acknowledges_gets_it_five_times_with_doubling_delay() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 3, HubLimits::default());
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
        subscribe(&mut net, bob);
        net.take(ann);
        let message = json!({"type": "publish", "id": 1, "channel": CHANNEL, "payload": 1, "receipt": true});
        net.send(ann, &message.to_string());
        net.run();
        assert_eq!(came(&mut net, bob), [(1, 1)]);
        let (mut times, mut told) = (Vec::new(), Vec::new());
        for half_second in 1..=400u64 {
            net.advance(Duration::from_millis(500));
            net.run();
            times.extend(came(&mut net, bob).into_iter().map(|(_, attempt)| (attempt, half_second * 500)));
            let receipts = net.take(ann).into_iter().filter(|it| it["type"] == "event");
            told.extend(receipts.map(|it| (it, half_second * 500)));
        }
        assert_eq!(times, [(2, 5_000), (3, 15_000), (4, 35_000), (5, 75_000)]);
        assert_eq!(told.len(), 1, "{told:?}");
        let (receipt, at) = &told[0];
        assert_eq!(*at, 155_000);
        assert_eq!(
            (&receipt["of"], &receipt["delivered"], &receipt["failed"]),
            (&json!(1), &json!(0), &json!(1))
        );
        assert_eq!(times.len() + 1, ATTEMPTS);
        assert_eq!((total(&net, Hub::redelivered), total(&net, Hub::unacked_given_up)), (4, 1));
        // It goes on behind what was given up.
        publish(&mut net, ann, 2);
        net.run();
        assert_eq!(came(&mut net, bob), [(2, 1)]);
    }
}

#[test]
fn a_hundred_wait_for_acknowledgements_at_most() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 4, unlimited());
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
        let epoch = subscribe(&mut net, bob)["epoch"].clone();
        let offsets = |it: Vec<(u64, u64)>| it.into_iter().map(|it| it.0).collect::<Vec<_>>();
        let mut seen = Vec::new();
        for number in 1..=150 {
            publish(&mut net, ann, number);
            net.run();
        }
        seen.extend(offsets(came(&mut net, bob)));
        assert_eq!(seen, (1..=100).collect::<Vec<_>>());
        ack(&mut net, bob, &epoch, 70);
        net.run();
        seen.extend(offsets(came(&mut net, bob)));
        assert_eq!(seen, (1..=150).collect::<Vec<_>>(), "and now it is live again");
        publish(&mut net, ann, 151);
        net.run();
        assert_eq!(offsets(came(&mut net, bob)), [151]);
    }
}

#[test]
fn an_ack_that_makes_no_sense_is_told_what_would() {
    let mut net = Net::new(2, 5, unlimited());
    let (ann, bob) = (net.join(0, 1, "ann"), net.join(1, 2, "bob"));
    let epoch = subscribe(&mut net, bob)["epoch"].clone();
    publish(&mut net, ann, 1);
    net.run();
    net.take(bob);
    let ask = |net: &mut Net, epoch: &Value, offset: u64| {
        let message = json!({"type": "ack", "id": 7, "channel": CHANNEL, "epoch": epoch, "offset": offset});
        net.ask(bob, &message.to_string())
    };
    for (named, offset) in [(json!("xxxxxxxx"), 1), (json!("other"), 1), (epoch.clone(), 2)] {
        let answers = ask(&mut net, &named, offset);
        assert_eq!((answers.len(), &answers[0]["code"]), (1, &json!("INVALID_MESSAGE")), "{answers:?}");
        let why =
            format!("{CHANNEL} is in epoch {}, and offset 1 was sent last", epoch.as_str().expect("text"));
        assert_eq!(answers[0]["message"], why);
    }
    assert_eq!(ask(&mut net, &epoch, 1), [] as [Value; 0]);
    assert_eq!(ask(&mut net, &epoch, 0), [] as [Value; 0], "an earlier one is no mistake");
    net.advance(Duration::from_secs(60));
    net.run();
    assert_eq!(came(&mut net, bob), []);
}

#[test]
fn who_may_acknowledge() {
    let mut net = Net::new(2, 6, unlimited());
    let bob = net.join(1, 2, "bob");
    for channel in ["agent:7", "room", "conversation:*", "system"] {
        let message = json!({"type": "subscribe", "id": 1, "channel": channel, "ack": true});
        let answers = net.ask(bob, &message.to_string());
        assert_eq!((answers.len(), &answers[0]["code"]), (1, &json!("INVALID_MESSAGE")), "{answers:?}");
    }
    net.subscribe(bob, CHANNEL);
    for (channel, expected) in
        [(CHANNEL, None), ("@me", None), ("system", None), ("room", Some("NOT_SUBSCRIBED"))]
    {
        let message = json!({"type": "ack", "channel": channel, "epoch": "abcdefgh", "offset": 1});
        let answers = net.ask(bob, &message.to_string());
        assert_eq!(answers.first().and_then(|it| it["code"].as_str()), expected, "{answers:?}");
    }
}

#[test]
pub(crate) fn nothing_is_sent_again_while_an_earlier_copy_waits() {
    for shards in [1, 3] {
        let mut net = Net::new(shards, 7, unlimited());
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
        subscribe(&mut net, bob);
        publish(&mut net, ann, 1);
        net.run();
        assert_eq!(came(&mut net, bob), [(1, 1)]);
        net.busy.insert(bob);
        let wait = |net: &mut Net, ms| {
            net.advance(Duration::from_millis(ms));
            net.run();
            came(net, bob)
        };
        assert_eq!(wait(&mut net, 60_000), [], "it may still be in the outbox");
        net.busy.clear();
        net.idle(bob, Idle::Now);
        assert_eq!(wait(&mut net, 0), [], "it has only now been written");
        assert_eq!(wait(&mut net, TIMEOUT_MS - 1), []);
        assert_eq!(wait(&mut net, 1), [(1, 2)]);
    }
}

#[test]
fn a_receipt_awaits_acks_and_who_goes_away_has_failed() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 8, unlimited());
        let ann = net.join(0, 1, "ann");
        let readers: Vec<Client> =
            (0..4).map(|slot| net.join(slot as u16 % shards, 10 + slot, &format!("r{slot}"))).collect();
        let mut epoch = Value::Null;
        for reader in &readers {
            epoch = subscribe(&mut net, *reader)["epoch"].clone();
        }
        net.subscribe(ann, CHANNEL);
        net.take(ann);
        let message =
            json!({"type": "publish", "id": "r", "channel": CHANNEL, "payload": 1, "receipt": true});
        net.send(ann, &message.to_string());
        net.run();
        // Its own copy is counted by its writing, the others by their acknowledgements.
        assert_eq!(net.copies.len(), 1);
        let ((shard, _), tracking, _) = net.copies.remove(0);
        net.hubs[usize::from(shard)].tracked(tracking, corecast_hub::Fate::Written);
        ack(&mut net, readers[0], &epoch, 1);
        ack(&mut net, readers[1], &epoch, 1);
        net.close(readers[2]);
        net.run();
        let is_event = |it: &Value| it["type"] == "event";
        assert!(!net.take(ann).iter().any(is_event), "one is open");
        net.ask(readers[3], &json!({"type": "unsubscribe", "channel": CHANNEL}).to_string());
        let told: Vec<Value> = net.take(ann).into_iter().filter(is_event).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        let counts = ["of", "delivered", "failed"].map(|field| told[0][field].as_u64());
        assert_eq!(counts, [Some(5), Some(3), Some(2)]);
    }
}

#[test]
fn who_resumes_goes_on_behind_its_last_ack() {
    for shards in 1..=4 {
        let mut net = sessions::net(shards);
        let (ann, _) = sessions::join(&mut net, 0, 1, "ann");
        let (bob, token) = sessions::join(&mut net, 0, 2, "bob");
        let epoch = subscribe(&mut net, bob)["epoch"].clone();
        for number in 1..=5 {
            publish(&mut net, ann, number);
        }
        net.run();
        assert_eq!(came(&mut net, bob).len(), 5);
        ack(&mut net, bob, &epoch, 3);
        net.run();
        net.lose(bob);
        publish(&mut net, ann, 6);
        net.run();
        let (bob, _) = sessions::join(&mut net, shards - 1, 3, "bob");
        net.send(bob, &sessions::resume(&token));
        net.run();
        assert_eq!(came(&mut net, bob), [(4, 1), (5, 1), (6, 1)]);
        // It acknowledges in the new connection as it promised in the old one.
        net.wait_ms(TIMEOUT_MS);
        assert_eq!(came(&mut net, bob), [(4, 2), (5, 2), (6, 2)]);
        ack(&mut net, bob, &epoch, 6);
        net.wait_ms(10 * TIMEOUT_MS);
        assert_eq!(came(&mut net, bob), []);
    }
}
