//! Random interleavings of commands, records, settling and closing on one to four shards.
//!
//! What must hold at every client: `subscribed` precedes a channel's first message, nothing comes that was not
//! subscribed, nothing comes twice, and everybody sees one order. After each storm, when all is quiet, exactly those
//! who are subscribed get a probe: a home that was told wrongly (or not told) that a shard lost interest shows here.

mod harness;

use std::collections::{BTreeMap, BTreeSet};

use corecast_hub::Format;
use harness::{Client, Net, Random, Seen, demo, development, packed, unlimited};
use serde_json::{Value, json};

const CHANNELS: [&str; 6] =
    ["conversation:1", "conversation:2", "conversation:22", "agent:7", "agent:77", "room"];
const PATTERNS: [&str; 4] = ["conversation:*", "conversation:2*", "agent:*", "agent:7*"];
const SLOTS: usize = 3;

/// What the test knows of a client.
#[derive(Debug, Default)]
struct Known {
    /// What it asked for last, per name: subscribed or not.
    wants: BTreeSet<String>,
    /// Numbers of what it published with `echo:false`.
    silent: BTreeSet<u64>,
    /// Whether it is sent MessagePack.
    is_binary: bool,
    /// What it saw, taken over from the net.
    log: Vec<Seen>,
}

struct Storm {
    net: Net,
    random: Random,
    shards: u16,
    clients: BTreeMap<Client, Known>,
    slots: BTreeMap<(u16, u32), Client>,
    published: u64,
    /// Numbers of messages that get an offset of their own.
    numbered: BTreeSet<u64>,
}

impl Storm {
    fn act(&mut self) {
        let place = (self.random.below(usize::from(self.shards)) as u16, self.random.below(SLOTS) as u32);
        let client = self.slots.get(&place).copied();
        match (self.random.below(20), client) {
            (0..=2, None) => self.open(place),
            (0, Some(client)) => {
                self.net.close(client);
                self.slots.remove(&place);
                self.clients.remove(&client);
            }
            (1..=3, Some(client)) if self.is_admitted(client) => self.subscribe(client),
            (4..=5, Some(client)) if self.is_admitted(client) => self.unsubscribe(client),
            (6..=9, Some(client)) if self.is_admitted(client) => self.publish(client),
            (10, _) => {
                let budget = self.random.below(3);
                self.net.settle(place.0, budget);
            }
            _ => {
                for _ in 0..self.random.below(4) {
                    self.net.step(&mut self.random);
                }
            }
        }
    }

    fn open(&mut self, place: (u16, u32)) {
        let name = format!("p{}", self.random.below(4));
        let mut open = development(&name);
        open.is_time_iso = self.random.chance(4);
        open.format = if self.random.chance(2) { Format::MessagePack } else { Format::Json };
        let path = self.random.chance(4).then(|| CHANNELS[self.random.below(CHANNELS.len())]);
        open.channel = path;
        let client = self.net.open_with(place.0, place.1, open);
        let mut known = Known { is_binary: open.format == Format::MessagePack, ..Known::default() };
        known.wants.extend(path.map(str::to_owned));
        self.clients.insert(client, known);
        self.slots.insert(place, client);
    }

    fn is_admitted(&mut self, client: Client) -> bool {
        self.pull(client);
        self.clients[&client].log.contains(&Seen::Admitted)
    }

    fn pull(&mut self, client: Client) {
        let seen = std::mem::take(self.net.seen.get_mut(&client).expect("it is open"));
        self.clients.get_mut(&client).expect("it is open").log.extend(seen);
    }

    fn name(&mut self) -> &'static str {
        if self.random.chance(3) {
            PATTERNS[self.random.below(PATTERNS.len())]
        } else {
            CHANNELS[self.random.below(CHANNELS.len())]
        }
    }

    fn subscribe(&mut self, client: Client) {
        let name = self.name();
        self.send(client, json!({"type": "subscribe", "id": 1, "channel": name}));
        self.clients.get_mut(&client).expect("it is open").wants.insert(name.to_owned());
    }

    fn unsubscribe(&mut self, client: Client) {
        let name = self.name();
        self.send(client, json!({"type": "unsubscribe", "id": 2, "channel": name}));
        self.clients.get_mut(&client).expect("it is open").wants.remove(name);
    }

    fn publish(&mut self, client: Client) {
        self.published += 1;
        let number = self.published;
        let channel = CHANNELS[self.random.below(CHANNELS.len())];
        let is_silent = self.random.chance(3);
        let is_numbered = channel != "room" && !self.random.chance(4);
        let mut message = json!({"type": "publish", "channel": channel, "payload": number});
        if !is_numbered && channel != "room" {
            message["store"] = json!(false);
        }
        self.numbered.extend(is_numbered.then_some(number));
        if self.random.chance(2) {
            message["id"] = json!(3);
        }
        if is_silent {
            message["echo"] = json!(false);
        }
        self.send(client, message);
        if is_silent {
            self.clients.get_mut(&client).expect("it is open").silent.insert(number);
        }
    }

    /// In either encoding, whatever the client is sent; whether it was MessagePack.
    fn send(&mut self, client: Client, message: Value) -> bool {
        let is_binary = self.random.chance(2);
        if is_binary {
            self.net.send_packed(client, &packed(&message));
        } else {
            self.net.send(client, &message.to_string());
        }
        is_binary
    }

    /// Nothing moves any more: a probe on every channel reaches exactly its subscribers, once, and is transcoded only
    /// if one of them is sent the other encoding.
    fn probe(&mut self) {
        self.net.run();
        let all: Vec<Client> = self.clients.keys().copied().collect();
        let Some(publisher) = all.first().copied() else { return };
        for channel in CHANNELS {
            all.iter().for_each(|client| self.pull(*client));
            self.published += 1;
            let number = self.published;
            let transcoded = self.net.transcoded();
            let message = json!({"type": "publish", "channel": channel, "payload": number});
            let is_binary = self.send(publisher, message);
            self.net.run();
            let is_other = |known: &Known| known.is_binary != is_binary;
            let wants = |known: &Known| known.wants.iter().any(|want| covers(want, channel));
            let is_transcoded = self.clients.values().any(|known| is_other(known) && wants(known));
            assert_eq!(self.net.transcoded() - transcoded, u64::from(is_transcoded), "{channel}");
            for client in &all {
                let before = self.clients[client].log.len();
                self.pull(*client);
                let known = &self.clients[client];
                let got = known.log[before..].len();
                let is_wanted = known.wants.iter().any(|want| covers(want, channel));
                assert_eq!(got, usize::from(is_wanted), "{client:?} {channel} {:?}", known.wants);
            }
        }
    }

    fn check(&mut self) {
        let all: Vec<Client> = self.clients.keys().copied().collect();
        let mut orders: BTreeMap<String, Vec<Vec<u64>>> = BTreeMap::new();
        let mut identities: BTreeMap<(String, String, u64), u64> = BTreeMap::new();
        for client in all {
            self.pull(client);
            for (channel, order) in check_log(&self.clients[&client], &self.numbered, &mut identities) {
                orders.entry(channel).or_default().push(order);
            }
        }
        for sequences in orders.values() {
            for one in sequences {
                let places: BTreeMap<u64, usize> = one.iter().copied().zip(0..).collect();
                for other in sequences {
                    let common: Vec<usize> = other.iter().filter_map(|it| places.get(it).copied()).collect();
                    assert!(common.is_sorted(), "one order for all: {one:?} {other:?}");
                }
            }
        }
    }
}

/// One client's whole log; per channel, what it got in which order.
fn check_log(
    known: &Known,
    numbered: &BTreeSet<u64>,
    identities: &mut BTreeMap<(String, String, u64), u64>,
) -> BTreeMap<String, Vec<u64>> {
    let mut subscribed: BTreeSet<String> = BTreeSet::new();
    let mut got: BTreeSet<u64> = BTreeSet::new();
    let mut orders: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut offsets: BTreeMap<(String, String), u64> = BTreeMap::new();
    for seen in &known.log {
        let Seen::Message(message) = seen else { continue };
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        let channel = text("channel");
        match message["type"].as_str() {
            Some("subscribed") => {
                subscribed.insert(channel.clone());
                // The position is not behind what came before it.
                if let Some(offset) = message["offset"].as_u64() {
                    let last = offsets.entry((channel, text("epoch"))).or_insert(offset);
                    assert!(*last <= offset, "{message} after {last}");
                }
            }
            Some("unsubscribed") => {
                subscribed.remove(&channel);
            }
            Some("message") => {
                let number = message["payload"].as_u64().expect("payloads are numbers");
                assert!(got.insert(number), "twice: {message}");
                assert!(!known.silent.contains(&number), "echoed: {message}");
                let by = message["pattern"].as_str().unwrap_or(&channel);
                assert!(subscribed.contains(by), "before `subscribed`, or after `unsubscribed`: {message}");
                assert!(covers(by, &channel), "{message}");
                let (epoch, offset) = (text("epoch"), message["offset"].as_u64().expect("an offset"));
                let last = offsets.entry((channel.clone(), epoch.clone())).or_insert(offset);
                assert!(*last <= offset, "offsets never fall: {message} after {last}");
                // Ephemeral messages carry the offset of the last numbered one, and come after it.
                *last = offset;
                if numbered.contains(&number) {
                    let identity = (channel.clone(), epoch, offset);
                    let first = *identities.entry(identity).or_insert(number);
                    assert_eq!(first, number, "an offset is one message's: {message}");
                }
                orders.entry(channel).or_default().push(number);
            }
            _ => {}
        }
    }
    orders
}

fn covers(name: &str, channel: &str) -> bool {
    name.strip_suffix('*').map_or(name == channel, |prefix| channel.starts_with(prefix))
}

fn storm(seed: u64) {
    let mut random = Random(seed);
    let shards = 1 + random.below(4) as u16;
    let net = Net::new(shards, seed, unlimited());
    let (clients, slots) = (BTreeMap::new(), BTreeMap::new());
    let mut storm = Storm { net, random, shards, clients, slots, published: 0, numbered: BTreeSet::new() };
    for _ in 0..3 {
        for _ in 0..120 {
            storm.act();
        }
        storm.probe();
        storm.check();
    }
    for client in storm.slots.clone().into_values() {
        storm.net.close(client);
    }
    storm.net.run();
    assert!(storm.net.is_empty(), "nothing is left when everybody has gone");
}

#[test]
fn whatever_the_interleaving() {
    for seed in 1..=300u64 {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let result = std::panic::catch_unwind(|| storm(seed));
        assert!(result.is_ok(), "seed {seed:#x}");
    }
}

/// The harness can fail: an anonymous participant may not publish to others' channels, and the check notices
/// that a client got nothing which the test believes it wants.
#[test]
#[should_panic(expected = "left: 0")]
fn a_canary_fails() {
    let (clients, slots) = (BTreeMap::new(), BTreeMap::new());
    let mut storm = Storm {
        net: Net::new(2, 7, unlimited()),
        random: Random(7),
        shards: 2,
        clients,
        slots,
        published: 0,
        numbered: BTreeSet::new(),
    };
    let client = storm.net.open_with(0, 0, demo(Some("ann")));
    let wants = BTreeSet::from(["conversation:1".to_owned()]);
    storm.clients.insert(client, Known { wants, ..Known::default() });
    storm.probe();
}

/// What can be planted in a hub is noticed here already, but for what only a publisher's answers or gaps show.
#[cfg(feature = "canaries")]
#[test]
fn planted_bugs_are_caught() {
    use corecast_hub::canary::{Canary, plant, struck};
    for canary in [
        Canary::OffsetRepeated,
        Canary::PublishDroppedAtHome,
        Canary::MessageToNonSubscriber,
        Canary::RecipientForgotten,
        Canary::EchoNotLeftOut,
        Canary::PatternServedTwice,
        Canary::UnsubscribedStillServed,
        Canary::EarlyMessages,
        Canary::RecordCorrupted,
        Canary::WrongForm,
        Canary::EncodingForgotten,
        Canary::MemberRemembered,
        Canary::AddressRemembered,
        Canary::SlotReuse,
    ] {
        plant(Some(canary));
        let caught_by = (1..=300u64).find(|seed| std::panic::catch_unwind(|| storm(*seed)).is_err());
        println!("{}: seed {caught_by:?}, it had struck {} times", canary.name(), struck());
        assert!(caught_by.is_some(), "{}", canary.name());
        plant(None);
    }
}

/// Every numbered message has the offset behind the last one's, wherever it came from.
#[test]
fn offsets_rise_by_one() {
    let mut net = Net::new(4, 3, unlimited());
    let clients: Vec<Client> = (0..4).map(|shard| net.join(shard, 0, &format!("p{shard}"))).collect();
    let mut random = Random(11);
    for _ in 0..100 {
        let client = clients[random.below(4)];
        net.send(client, r#"{"type":"publish","id":1,"channel":"conversation:1","payload":0}"#);
        net.step(&mut random);
    }
    net.run();
    let mut offsets: Vec<u64> = clients
        .iter()
        .flat_map(|client| net.take(*client))
        .filter_map(|message| message["result"]["offset"].as_u64())
        .collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (1..=100).collect::<Vec<u64>>());
}
