//! What clients do on several shards, in any order, and how records move between them: the harness of the hub's own
//! tests judges every record and effect, and here stands what each client may see.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Arbitrary;
use corecast_hub::{Class, Format, HubLimits};
use corecast_protocol::envelope::command::Command;
use corecast_protocol::envelope::{Scanner, parse, parse_msgpack};
use serde_json::{Value, json};

use crate::harness::{Client, Net, Random, Seen, demo, development, packed};

const SHARDS: u16 = 4;
const SLOTS: u32 = 3;

const CHANNELS: [&str; 8] = [
    "conversation:1",
    "conversation:2",
    "conversation:22",
    "agent:7",
    "user:p0",
    "metrics:7",
    "room",
    "system",
];
const PATTERNS: [&str; 5] = ["conversation:*", "conversation:2*", "agent:*", "a*", "*"];

/// Steps, and the node that they are taken on.
#[derive(Debug, Arbitrary)]
pub struct Plan {
    shards: u8,
    seed: u8,
    subscriptions: u8,
    connections: u8,
    idle_channels: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Open {
        place: Place,
        name: u8,
        is_demo: bool,
        is_iso: bool,
        is_binary: bool,
        channel: Option<u8>,
    },
    Close(Place),
    Subscribe {
        place: Place,
        names: Vec<u8>,
        is_text: bool,
    },
    Unsubscribe {
        place: Place,
        names: Vec<u8>,
    },
    Publish {
        place: Place,
        channel: u8,
        options: u8,
    },
    Direct {
        place: Place,
        to: Vec<u8>,
        options: u8,
    },
    /// Several publishes in one frame.
    Batch {
        place: Place,
        channels: Vec<u8>,
    },
    /// Whatever a client may write.
    Raw {
        place: Place,
        text: String,
    },
    /// The same in MessagePack.
    RawBinary {
        place: Place,
        bytes: Vec<u8>,
    },
    /// A command that this version answers with an error.
    Other {
        place: Place,
        kind: u8,
        channel: u8,
    },
    /// Records move, of one path or of any.
    Move {
        is_request: bool,
        from: u8,
        to: u8,
    },
    MoveAny {
        seed: u8,
        count: u8,
    },
    Settle {
        shard: u8,
        budget: u8,
    },
    /// Until nothing moves: then everybody who is subscribed gets a probe, and nobody else.
    Quiet,
}

/// A shard, a slot of it, and the encoding of what is sent from there.
#[derive(Clone, Copy, Debug, Arbitrary)]
struct Place(u8);

impl Place {
    fn sends_binary(self) -> bool {
        self.0 & 8 != 0
    }
}

/// Everything that must hold for this plan.
pub fn check(plan: Plan) {
    let shards = 1 + u16::from(plan.shards) % SHARDS;
    let limit = |byte: u8| if byte < 128 { 0 } else { u32::from(byte % 8) };
    let limits = HubLimits {
        connections_per_participant: limit(plan.connections),
        connections_per_ip: limit(plan.connections.rotate_left(3)),
        subscriptions_per_connection: limit(plan.subscriptions),
        idle_channels: u32::from(plan.idle_channels),
        ..HubLimits::default()
    };
    let net = Net::new(shards, u64::from(plan.seed), limits);
    let mut node = Node { net, shards, clients: BTreeMap::new(), published: 0 };
    for step in plan.steps.iter().take(200) {
        node.step(step);
        node.look();
    }
    node.quiet();
    for client in node.clients.values().map(|it| it.client).collect::<Vec<_>>() {
        node.net.close(client);
    }
    node.net.run();
    assert!(node.net.is_empty(), "nothing is left when everybody has gone");
    assert!(node.net.hubs.iter().all(|hub| hub.members() == 0 && hub.malformed() == 0));
}

struct Node {
    net: Net,
    shards: u16,
    /// By shard and slot.
    clients: BTreeMap<(u16, u32), Known>,
    published: u64,
}

/// What is known of a client from what it saw.
struct Known {
    client: Client,
    is_admitted: bool,
    is_over: bool,
    /// Whether it is sent MessagePack.
    is_binary: bool,
    /// What its path subscribes to, until that is answered.
    path: Option<&'static str>,
    subscribed: BTreeSet<String>,
    /// Numbers of published messages: each comes once.
    got: BTreeSet<u64>,
    /// Per channel and epoch, the last offset.
    offsets: BTreeMap<(String, String), u64>,
}

impl Node {
    fn place(&self, place: Place) -> (u16, u32) {
        (u16::from(place.0 >> 4) % self.shards, u32::from(place.0) % SLOTS)
    }

    /// Input of who is not admitted waits in the shard, and of who is closed nobody reads it.
    fn who(&self, place: Place) -> Option<Client> {
        let known = self.clients.get(&self.place(place))?;
        (known.is_admitted && !known.is_over).then_some(known.client)
    }

    fn send(&mut self, place: Place, mut message: Value) {
        let Some(client) = self.who(place) else { return };
        // What has no id while the path's subscription is awaited can only be its answer.
        if self.is_path_awaited(place) && message["id"].is_null() {
            message["id"] = json!(0);
        }
        if place.sends_binary() {
            return self.net.send_packed(client, &packed(&message));
        }
        self.net.send(client, &message.to_string());
    }

    fn is_path_awaited(&self, place: Place) -> bool {
        self.clients.get(&self.place(place)).is_some_and(|known| known.path.is_some())
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Open { place, name: as_name, is_demo, is_iso, is_binary, channel } => {
                self.open(self.place(*place), *as_name, (*is_demo, *is_iso, *is_binary), *channel);
            }
            Step::Close(place) => {
                if let Some(known) = self.clients.remove(&self.place(*place)) {
                    self.net.close(known.client);
                }
            }
            Step::Subscribe { place, names, is_text } => {
                let id = if *is_text { json!("s") } else { json!(1) };
                self.send(*place, json!({"type": "subscribe", "id": id, "channels": channels(names)}));
            }
            Step::Unsubscribe { place, names } => {
                self.send(*place, json!({"type": "unsubscribe", "channels": channels(names)}));
            }
            Step::Publish { place, channel, options } => {
                let message = self.publish(json!({"channel": name(*channel)}), *options);
                self.send(*place, message);
            }
            Step::Direct { place, to, options } => {
                let to: Vec<String> = to.iter().take(4).map(|it| format!("p{}", it % 4)).collect();
                let message = self.publish(json!({"to": to}), *options);
                self.send(*place, message);
            }
            Step::Batch { place, channels } => self.batch(*place, channels),
            Step::Raw { place, text } => {
                if let Some(client) = self.who(*place)
                    && is_of_no_other_step(text)
                    && !self.is_path_awaited(*place)
                {
                    self.net.send(client, text);
                }
            }
            Step::RawBinary { place, bytes } => {
                if let Some(client) = self.who(*place)
                    && is_of_no_other_step_binary(bytes)
                    && !self.is_path_awaited(*place)
                {
                    self.net.send_packed(client, bytes);
                }
            }
            Step::Other { place, kind, channel } => self.send(*place, other(*kind, name(*channel))),
            Step::Move { is_request, from, to } => {
                let class = if *is_request { Class::Request } else { Class::Deliver };
                self.net.step_one(class, u16::from(*from) % self.shards, u16::from(*to) % self.shards);
            }
            Step::MoveAny { seed, count } => {
                let mut random = Random(u64::from(*seed) + 1);
                for _ in 0..count % 16 {
                    self.net.step(&mut random);
                }
            }
            Step::Settle { shard, budget } => {
                self.net.settle(u16::from(*shard) % self.shards, usize::from(budget % 4));
            }
            Step::Quiet => self.quiet(),
        }
    }

    fn open(
        &mut self,
        place: (u16, u32),
        as_name: u8,
        (is_demo, is_iso, is_binary): (bool, bool, bool),
        channel: Option<u8>,
    ) {
        if self.clients.contains_key(&place) {
            return;
        }
        let as_name = format!("p{}", as_name % 4);
        let mut open = if is_demo { demo(Some(&as_name)) } else { development(&as_name) };
        open.is_time_iso = is_iso;
        open.format = if is_binary { Format::MessagePack } else { Format::Json };
        open.channel = channel.map(name);
        let client = self.net.open_with(place.0, place.1, open);
        let known = Known {
            client,
            is_admitted: false,
            is_over: false,
            is_binary,
            path: channel.map(name),
            subscribed: BTreeSet::new(),
            got: BTreeSet::new(),
            offsets: BTreeMap::new(),
        };
        self.clients.insert(place, known);
    }

    /// A publish with the next number in its payload.
    fn publish(&mut self, mut message: Value, options: u8) -> Value {
        self.published += 1;
        message["type"] = json!("publish");
        message["payload"] = json!({"number": self.published});
        for (bit, key, value) in [
            (1, "id", json!("i")),
            (2, "echo", json!(false)),
            (4, "store", json!(false)),
            (8, "event", json!("user_typing")),
            (16, "priority", json!("high")),
        ] {
            if options & bit != 0 {
                message[key] = value;
            }
        }
        message
    }

    /// As the shard unrolls it.
    fn batch(&mut self, place: Place, channels: &[u8]) {
        let Some((shard, _)) = self.who(place) else { return };
        self.net.hubs[usize::from(shard)].begin_batch(Format::Json, 0);
        for channel in channels.iter().take(8) {
            let message = self.publish(json!({"channel": name(*channel)}), channel >> 3);
            self.send(place, message);
        }
        self.net.hubs[usize::from(shard)].end_batch();
    }

    /// Takes over what clients saw, and checks it.
    fn look(&mut self) {
        for known in self.clients.values_mut() {
            let Some(seen) = self.net.seen.get_mut(&known.client) else { continue };
            for seen in std::mem::take(seen) {
                known.see(seen);
            }
        }
    }

    /// Nothing moves any more: a probe on every channel reaches exactly its subscribers.
    fn quiet(&mut self) {
        self.net.run();
        self.look();
        let is_publisher = |it: &&Known| it.is_admitted && !it.is_over;
        let Some(publisher) = self.clients.values().find(is_publisher).map(|it| it.client) else { return };
        for channel in CHANNELS {
            let before: Vec<usize> = self.clients.values().map(|it| it.got.len()).collect();
            let message = self.publish(json!({"channel": channel}), 1);
            let transcoded = self.net.transcoded();
            let is_binary = self.published % 2 == 0;
            if is_binary {
                self.net.send_packed(publisher, &packed(&message));
            } else {
                self.net.send(publisher, &message.to_string());
            }
            self.net.run();
            let seen = &self.net.seen[&publisher];
            let is_accepted =
                seen.iter().any(|it| matches!(it, Seen::Message(it) if it["type"] == "response"));
            self.look();
            let is_other = |it: &Known| it.is_binary != is_binary && it.is_subscribed(channel);
            let is_transcoded = channel == "system" || self.clients.values().any(is_other);
            let transcoded = self.net.transcoded() - transcoded;
            assert_eq!(transcoded, u64::from(is_accepted && is_transcoded), "once, and only for somebody");
            for (known, before) in self.clients.values().zip(before) {
                let is_wanted = is_accepted && known.is_subscribed(channel);
                assert_eq!(known.got.len() - before, usize::from(is_wanted), "{channel} {:?}", known.client);
            }
        }
    }
}

impl Known {
    fn is_subscribed(&self, channel: &str) -> bool {
        let covers =
            |name: &String| name.strip_suffix('*').map_or(name == channel, |it| channel.starts_with(it));
        self.is_admitted && (channel == "system" || self.subscribed.iter().any(covers))
    }

    fn see(&mut self, seen: Seen) {
        let message = match seen {
            Seen::Admitted => {
                assert!(!self.is_admitted && !self.is_over, "admitted once");
                self.is_admitted = true;
                return;
            }
            Seen::Refused(_) => {
                assert!(!self.is_admitted && !self.is_over, "refused instead of admitted");
                self.is_over = true;
                return;
            }
            Seen::Closed(code, reason) => {
                assert_eq!(code, 1008, "{reason}");
                self.is_over = true;
                return;
            }
            Seen::Message(message) => message,
        };
        assert!(self.is_admitted, "before it was admitted: {message}");
        let channel = message["channel"].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str() {
            Some("subscribed") => {
                // Without an id and unasked it says only that the epoch of a pattern's channel has changed.
                if message["id"].is_null() && self.path.take_if(|path| *path == channel).is_none() {
                    assert!(self.is_subscribed(&channel) && message["recovered"] == false, "{message}");
                } else {
                    self.subscribed.insert(channel);
                }
            }
            Some("error") if message["id"].is_null() => {
                self.path.take_if(|path| *path == channel);
            }
            Some("unsubscribed") => {
                self.path.take_if(|path| *path == channel);
                self.subscribed.remove(&channel);
            }
            Some("message" | "broadcast") => self.got(&message, &channel),
            _ => {}
        }
    }

    fn got(&mut self, message: &Value, channel: &str) {
        if channel != "@me" {
            let by = message["pattern"].as_str().unwrap_or(channel);
            assert!(self.is_subscribed(channel), "not subscribed: {message}");
            assert!(by == "system" || self.subscribed.contains(by), "not by this name: {message}");
        }
        let epoch = message["epoch"].as_str().unwrap_or_default().to_owned();
        if let Some(offset) = message["offset"].as_u64() {
            let last = self.offsets.insert((channel.to_owned(), epoch), offset);
            assert!(last.is_none_or(|last| last <= offset), "offsets never fall: {message} after {last:?}");
        }
        if let Some(number) = message["payload"]["number"].as_u64() {
            assert!(self.got.insert(number), "twice: {message}");
        }
    }
}

fn name(byte: u8) -> &'static str {
    let all = CHANNELS.len() + PATTERNS.len();
    let index = usize::from(byte) % all;
    CHANNELS.iter().chain(&PATTERNS).nth(index).copied().unwrap_or("room")
}

/// What is counted is published, and what is followed is subscribed to, by steps of their own.
fn is_of_no_other_step(text: &str) -> bool {
    let mut scanner = Scanner::new(64);
    let is_subscribe = parse(text, &mut scanner).is_ok_and(|it| matches!(it.command, Command::Subscribe(_)));
    !is_subscribe && !text.contains("number")
}

fn is_of_no_other_step_binary(bytes: &[u8]) -> bool {
    let mut scanner = Scanner::new(64);
    let request = parse_msgpack(bytes, &mut scanner);
    let is_subscribe = request.is_ok_and(|it| matches!(it.command, Command::Subscribe(_)));
    !is_subscribe && !bytes.windows(6).any(|it| it == b"number")
}

fn channels(names: &[u8]) -> Vec<&'static str> {
    names.iter().take(16).map(|it| name(*it)).collect()
}

/// Commands that nobody gets more than an answer for.
fn other(kind: u8, channel: &str) -> Value {
    match kind % 10 {
        0 => json!({"type": "ping", "id": 1}),
        1 => json!({"type": "pong"}),
        2 => json!({"type": "ack", "channel": channel, "epoch": "e", "offset": 1}),
        3 => json!({"type": "query", "method": "presence", "id": 2}),
        4 => json!({"type": "command", "method": "m", "id": 3}),
        5 => json!({"type": "cancel", "id": 4}),
        6 => json!({"type": "register", "capabilities": ["c"]}),
        7 => json!({"type": "response", "call": "c", "result": 1}),
        8 => json!({"type": "resume", "token": "t"}),
        _ => json!({"type": "authenticate", "token": "t"}),
    }
}
