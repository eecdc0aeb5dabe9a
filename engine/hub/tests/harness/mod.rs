//! A node in memory: several hubs, and the two classes of rings between every pair of them as queues.
//!
//! Nothing here knows what the hub should answer; it checks only what holds for every record and every effect: a
//! request causes at most one delivery per shard and no requests, a delivery causes no records at all, and nothing
//! is delivered to who is not connected.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod sessions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use corecast_hub::rules::Namespaces;
use corecast_hub::{
    Access, Class, ConnKey, Effect, Effects, End, Format, Hub, HubConfig, HubLimits, Idle, Now, Open,
    Refusal, ReplayLimits, Secret, Tracking,
};
use corecast_protocol::envelope::{Scanner, parse, parse_msgpack};
use serde_json::{Value, json};

/// What one turn of a hub transcodes before readers wait.
pub(crate) const TURN_BYTES: usize = 1_000;

/// A connection anywhere on the node: its shard and its key there.
pub(crate) type Client = (u16, ConnKey);

/// What caused effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    Call,
    Request,
    Deliver,
}

/// What a client sends.
enum Input {
    Text(String),
    Binary(Vec<u8>),
}

/// What a client sees.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Seen {
    Admitted,
    Refused(Refusal),
    Message(Value),
    Closed(u16, String),
}

/// Small and reproducible; prints as its seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // xorshift64* (Vigna 2016).
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        value as usize % bound
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

pub(crate) struct Net {
    pub(crate) hubs: Vec<Hub>,
    /// By class, from and to.
    rings: BTreeMap<(bool, u16, u16), VecDeque<Vec<u8>>>,
    pub(crate) seen: BTreeMap<Client, Vec<Seen>>,
    generations: BTreeMap<(u16, u32), u32>,
    formats: BTreeMap<Client, Format>,
    fx: Effects,
    time: Instant,
    /// What clients sent that the hub acts on nothing of for the time being.
    held: BTreeMap<Client, VecDeque<Input>>,
    /// Whose turn it is again.
    let_go: Vec<Client>,
    /// Whether outboxes are full until [`Net::give_room`].
    pub(crate) holds_room: bool,
    without_room: Vec<(u16, ConnKey)>,
    pub(crate) records: u64,
    pub(crate) record_bytes: u64,
    /// Bytes that one call of a hub wrote at most.
    pub(crate) effects_bytes_max: usize,
    pub(crate) delivers: Vec<(Client, corecast_hub::Delivery)>,
    /// Whose outboxes are never empty, and of whom it is to be told when they are.
    pub(crate) busy: BTreeSet<Client>,
    pub(crate) awaited: BTreeMap<Client, u32>,
    /// Counted copies in outboxes, with their payloads.
    pub(crate) copies: Vec<(Client, Tracking, Value)>,
}

impl Net {
    pub(crate) fn new(shards: u16, seed: u64, limits: HubLimits) -> Self {
        Self::with_messages_of(shards, seed, limits, 1 << 20)
    }

    /// With messages of so many bytes at most.
    pub(crate) fn with_messages_of(shards: u16, seed: u64, limits: HubLimits, message_bytes: u64) -> Self {
        Self::of(shards, seed, (limits, message_bytes), Namespaces::built_in(true))
    }

    /// With these namespaces.
    pub(crate) fn of(
        shards: u16,
        seed: u64,
        (limits, message_bytes): (HubLimits, u64),
        namespaces: Namespaces,
    ) -> Self {
        let config = |shard| HubConfig {
            shard,
            shards,
            node: "test".into(),
            version: "0".into(),
            seed,
            secret: Secret([seed as u8; 32]),
            limits,
            namespaces: namespaces.clone(),
            heartbeat_interval_ms: 30_000,
            message_bytes,
            // So little that readers wait for each other in all tests.
            replay: ReplayLimits { turn_bytes: TURN_BYTES, ..ReplayLimits::for_outbox(1_000, 4 << 20) },
        };
        Self {
            hubs: (0..shards).map(|shard| Hub::new(config(shard))).collect(),
            rings: BTreeMap::new(),
            seen: BTreeMap::new(),
            generations: BTreeMap::new(),
            formats: BTreeMap::new(),
            fx: Effects::default(),
            time: Instant::now(),
            held: BTreeMap::new(),
            let_go: Vec::new(),
            records: 0,
            record_bytes: 0,
            effects_bytes_max: 0,
            delivers: Vec::new(),
            holds_room: false,
            without_room: Vec::new(),
            busy: BTreeSet::new(),
            awaited: BTreeMap::new(),
            copies: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { instant: self.time, unix_ms: 1_700_000_000_000 }
    }

    /// Time passes.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.time += by;
    }

    /// Once nothing moves any more time passes, and what is due by then is done.
    pub(crate) fn pass(&mut self, by: Duration) {
        self.run();
        self.advance(by);
        self.run();
    }

    /// A connection asks for admission, on a slot that is free.
    pub(crate) fn open_with(&mut self, shard: u16, slot: u32, open: Open<'_>) -> Client {
        let generation = self.generations.entry((shard, slot)).or_insert(0);
        *generation += 1;
        let key = ConnKey { index: slot, generation: *generation };
        self.seen.insert((shard, key), Vec::new());
        self.formats.insert((shard, key), open.format);
        let now = self.now();
        self.hubs[usize::from(shard)].open(now, key, open, &mut self.fx);
        self.carry_out(shard, Cause::Call);
        (shard, key)
    }

    pub(crate) fn open(&mut self, shard: u16, slot: u32, as_name: &str) -> Client {
        self.open_with(shard, slot, development(as_name))
    }

    /// Opens and waits for admission.
    pub(crate) fn join(&mut self, shard: u16, slot: u32, as_name: &str) -> Client {
        let client = self.open(shard, slot, as_name);
        self.run();
        client
    }

    /// The same for a connection that is sent MessagePack.
    pub(crate) fn join_binary(&mut self, shard: u16, slot: u32, as_name: &str) -> Client {
        let client = self.open_with(shard, slot, binary(as_name));
        self.run();
        self.take(client);
        client
    }

    pub(crate) fn last_shard(&self) -> u16 {
        self.hubs.len() as u16 - 1
    }

    pub(crate) fn subscribe(&mut self, client: Client, channel: &str) {
        let answers = self.ask(client, &json!({"type": "subscribe", "channel": channel}).to_string());
        assert_eq!(answers[0]["type"], "subscribed", "{answers:?}");
    }

    /// Payloads of the messages that a client got since the last time.
    pub(crate) fn payloads(&mut self, client: Client) -> Vec<Value> {
        let messages = self.take(client).into_iter();
        messages
            .filter(|it| it["type"] == "message" || it["type"] == "broadcast")
            .map(|it| it["payload"].clone())
            .collect()
    }

    pub(crate) fn send(&mut self, client: Client, text: &str) {
        self.input(client, Input::Text(text.to_owned()));
    }

    /// The same in MessagePack, whatever the client itself is sent.
    pub(crate) fn send_packed(&mut self, client: Client, bytes: &[u8]) {
        self.input(client, Input::Binary(bytes.to_vec()));
    }

    /// As a shard does: what the hub does not act on yet waits.
    fn input(&mut self, client: Client, input: Input) {
        match self.held.get_mut(&client) {
            Some(held) => held.push_back(input),
            None => self.act_on(client, &input),
        }
        self.go_on();
    }

    fn act_on(&mut self, (shard, key): Client, input: &Input) {
        let now = self.now();
        let mut scanner = Scanner::new(64);
        let parsed = match input {
            Input::Text(text) => parse(text, &mut scanner),
            Input::Binary(bytes) => parse_msgpack(bytes, &mut scanner),
        };
        match parsed {
            Ok(request) => self.hubs[usize::from(shard)].apply(now, key, &request, &mut self.fx),
            Err(rejection) => self.hubs[usize::from(shard)].reject(key, &rejection, &mut self.fx),
        }
        self.carry_out(shard, Cause::Call);
    }

    /// Acts on what waited, until it has to wait again.
    fn go_on(&mut self) {
        while let Some(client) = self.let_go.pop() {
            let mut held = self.held.remove(&client).unwrap_or_default();
            while let Some(input) = held.pop_front() {
                self.act_on(client, &input);
                if let Some(again) = self.held.get_mut(&client) {
                    again.append(&mut held);
                }
            }
        }
    }

    pub(crate) fn ask_packed(&mut self, client: Client, message: &Value) -> Vec<Value> {
        self.take(client);
        self.send_packed(client, &packed(message));
        self.run();
        self.take(client)
    }

    /// Messages that were transcoded, wherever.
    pub(crate) fn transcoded(&self) -> u64 {
        self.hubs.iter().map(Hub::transcoded).sum()
    }

    /// Sends, waits until nothing moves, and returns what the client saw meanwhile.
    pub(crate) fn ask(&mut self, client: Client, text: &str) -> Vec<Value> {
        self.take(client);
        self.send(client, text);
        self.run();
        self.take(client)
    }

    /// The client says goodbye.
    pub(crate) fn close(&mut self, client: Client) {
        self.end(client, End::Ended);
    }

    /// The connection is lost.
    pub(crate) fn lose(&mut self, client: Client) {
        self.end(client, End::Suspended);
    }

    /// The client says goodbye after it took everything.
    pub(crate) fn part(&mut self, client: Client) {
        self.end(client, End::Parted);
    }

    fn end(&mut self, (shard, key): Client, end: End) {
        let now = self.now();
        self.hubs[usize::from(shard)].close(now, key, end, &mut self.fx);
        self.carry_out(shard, Cause::Call);
        self.held.remove(&(shard, key));
        self.seen.remove(&(shard, key));
        self.go_on();
    }

    /// Time passes, and everything comes to rest.
    pub(crate) fn wait_ms(&mut self, ms: u64) {
        self.run();
        self.advance(Duration::from_millis(ms));
        self.run();
    }

    pub(crate) fn settle(&mut self, shard: u16, budget: usize) -> bool {
        let now = self.now();
        self.hubs[usize::from(shard)].begin_turn();
        self.hubs[usize::from(shard)].settle(now, budget, &mut self.fx);
        self.carry_out(shard, Cause::Call);
        self.go_on();
        // What was carried out may have made room for more.
        self.hubs[usize::from(shard)].has_to_settle(now)
    }

    /// One record of one ring, if there is any anywhere.
    pub(crate) fn step(&mut self, random: &mut Random) -> bool {
        let full: Vec<_> =
            self.rings.iter().filter(|(_, ring)| !ring.is_empty()).map(|(key, _)| *key).collect();
        if full.is_empty() {
            return false;
        }
        self.pop(full[random.below(full.len())]);
        true
    }

    /// One record of this class between these two.
    pub(crate) fn step_one(&mut self, class: Class, from: u16, to: u16) -> bool {
        let key = (class == Class::Request, from, to);
        let has_one = self.rings.get(&key).is_some_and(|ring| !ring.is_empty());
        if has_one {
            self.pop(key);
        }
        has_one
    }

    /// Until nothing moves any more.
    pub(crate) fn run(&mut self) {
        let mut random = Random(1);
        loop {
            let mut moved = false;
            while self.step(&mut random) {
                moved = true;
            }
            for shard in 0..self.hubs.len() as u16 {
                moved |= self.settle(shard, 7);
            }
            if !moved && self.rings.values().all(VecDeque::is_empty) {
                return;
            }
        }
    }

    fn pop(&mut self, key: (bool, u16, u16)) {
        let (is_request, from, to) = key;
        let record = self.rings.get_mut(&key).and_then(VecDeque::pop_front).expect("the ring is not empty");
        let now = self.now();
        let (class, cause) =
            if is_request { (Class::Request, Cause::Request) } else { (Class::Deliver, Cause::Deliver) };
        self.hubs[usize::from(to)].remote(now, from, class, &record, &mut self.fx);
        self.carry_out(to, cause);
        self.go_on();
    }

    fn carry_out(&mut self, shard: u16, cause: Cause) {
        let fx = std::mem::take(&mut self.fx);
        self.effects_bytes_max = self.effects_bytes_max.max(fx.bytes.len());
        let mut delivers_to = vec![0; self.hubs.len()];
        for effect in &fx.list {
            match *effect {
                Effect::Deliver { message, format, variant, recipients, delivery, tracking } => {
                    let mut bytes = Vec::new();
                    fx.message(message, format, variant, &mut bytes);
                    let value = self.read(format, &bytes);
                    for key in &fx.recipients[recipients.0 as usize..recipients.1 as usize] {
                        self.delivers.push(((shard, *key), delivery));
                        self.is_of_format(shard, *key, format);
                        self.see(shard, *key, Seen::Message(value.clone()));
                        self.copies.extend(tracking.map(|it| ((shard, *key), it, value["payload"].clone())));
                    }
                }
                Effect::Reply { conn, message, format, .. } => {
                    let value = self.read(format, fx.span(message));
                    self.is_of_format(shard, conn, format);
                    self.see(shard, conn, Seen::Message(value));
                }
                Effect::Forward { shards, class, record } => {
                    assert!(!shards.contains(shard) && !shards.is_empty(), "others only, and some");
                    assert_ne!(cause, Cause::Deliver, "a delivery causes no records");
                    if cause == Cause::Request {
                        assert_eq!(class, Class::Deliver, "a request causes no requests");
                    }
                    for to in shards.iter() {
                        delivers_to[usize::from(to)] += 1;
                        self.records += 1;
                        self.record_bytes += fx.span(record).len() as u64;
                        let ring = self.rings.entry((class == Class::Request, shard, to)).or_default();
                        ring.push_back(fx.span(record).to_vec());
                    }
                }
                Effect::AwaitIdle { conn, serial } if self.busy.contains(&(shard, conn)) => {
                    self.awaited.insert((shard, conn), serial);
                }
                Effect::AwaitIdle { conn, serial } => {
                    self.hubs[usize::from(shard)].idle(conn, serial, Idle::Before);
                }
                Effect::AwaitRoom { conn } if self.holds_room => self.without_room.push((shard, conn)),
                Effect::AwaitRoom { conn } => self.hubs[usize::from(shard)].has_room(conn),
                Effect::Admitted { conn } => self.see(shard, conn, Seen::Admitted),
                Effect::Refused { conn, refusal } => self.see(shard, conn, Seen::Refused(refusal)),
                Effect::Hold { conn } => {
                    self.held.insert((shard, conn), VecDeque::new());
                }
                Effect::GoOn { conn } => self.let_go.push((shard, conn)),
                Effect::Close { conn, code, reason } => {
                    let reason = String::from_utf8(fx.span(reason).to_vec()).expect("a reason is text");
                    self.see(shard, conn, Seen::Closed(code.code(), reason));
                }
            }
        }
        if cause == Cause::Request {
            assert!(delivers_to.iter().all(|count| *count <= 1), "one delivery per shard: {delivers_to:?}");
        }
        self.fx = fx;
        self.fx.clear();
    }

    /// A message as whoever is sent this encoding reads it.
    fn read(&self, format: Format, bytes: &[u8]) -> Value {
        match format {
            Format::Json => serde_json::from_slice(bytes).expect("what the hub writes is JSON"),
            Format::MessagePack => unpacked(bytes),
        }
    }

    fn is_of_format(&self, shard: u16, key: ConnKey, format: Format) {
        assert_eq!(self.formats.get(&(shard, key)), Some(&format), "everybody is sent one encoding");
    }

    fn see(&mut self, shard: u16, key: ConnKey, seen: Seen) {
        self.seen.get_mut(&(shard, key)).expect("only who is connected gets something").push(seen);
    }

    /// The messages that a client saw since the last time.
    pub(crate) fn take(&mut self, client: Client) -> Vec<Value> {
        let seen = std::mem::take(self.seen.get_mut(&client).expect("the client is connected"));
        seen.into_iter()
            .filter_map(|it| match it {
                Seen::Message(value) => Some(value),
                _ => None,
            })
            .collect()
    }

    /// Clients have read what waited for them.
    pub(crate) fn give_room(&mut self) {
        for (shard, conn) in std::mem::take(&mut self.without_room) {
            self.hubs[usize::from(shard)].has_room(conn);
        }
    }

    /// Nothing waits for the client any more: its hub is told, which wants to know.
    pub(crate) fn idle(&mut self, client: Client, idle: Idle) {
        let serial = self.awaited.remove(&client).expect("its hub wants to know");
        self.hubs[usize::from(client.0)].idle(client.1, serial, idle);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hubs.iter().all(Hub::is_empty)
    }
}

pub(crate) fn development(as_name: &str) -> Open<'_> {
    Open {
        access: Access::Development,
        as_name: Some(as_name),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        channel: None,
        is_time_iso: false,
        format: Format::Json,
        resume: None,
    }
}

/// Who is sent MessagePack.
pub(crate) fn binary(as_name: &str) -> Open<'_> {
    Open { format: Format::MessagePack, ..development(as_name) }
}

pub(crate) fn demo(as_name: Option<&str>) -> Open<'_> {
    Open {
        access: Access::Demo,
        as_name,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        channel: None,
        is_time_iso: false,
        format: Format::Json,
        resume: None,
    }
}

pub(crate) fn unlimited() -> HubLimits {
    HubLimits {
        connections_per_participant: 0,
        connections_per_ip: 0,
        subscriptions_per_connection: 0,
        ..HubLimits::default()
    }
}

/// What the hub writes in MessagePack, to be compared with JSON; binary shows as an array of numbers.
pub(crate) fn unpacked(mut bytes: &[u8]) -> Value {
    let value = rmpv::decode::read_value(&mut bytes).expect("what the hub writes is MessagePack");
    assert!(bytes.is_empty(), "and nothing follows it");
    plain(value)
}

fn plain(value: rmpv::Value) -> Value {
    let text = |it: rmpv::Value| it.as_str().expect("text").to_owned();
    match value {
        rmpv::Value::Nil => Value::Null,
        rmpv::Value::Boolean(is) => is.into(),
        rmpv::Value::Integer(it) => it.as_u64().map_or_else(|| it.as_i64().into(), Value::from),
        rmpv::Value::F32(it) => it.into(),
        rmpv::Value::F64(it) => it.into(),
        rmpv::Value::String(_) => text(value).into(),
        rmpv::Value::Binary(bytes) => bytes.into(),
        rmpv::Value::Array(values) => values.into_iter().map(plain).collect(),
        rmpv::Value::Map(members) => members.into_iter().map(|(key, it)| (text(key), plain(it))).collect(),
        rmpv::Value::Ext(kind, bytes) => json!({"extension": kind, "bytes": bytes}),
    }
}

/// A client's message in MessagePack.
pub(crate) fn packed(value: &Value) -> Vec<u8> {
    fn of(value: &Value) -> rmpv::Value {
        match value {
            Value::Null => rmpv::Value::Nil,
            Value::Bool(is) => (*is).into(),
            Value::Number(it) => match (it.as_u64(), it.as_i64()) {
                (Some(it), _) => it.into(),
                (_, Some(it)) => it.into(),
                _ => it.as_f64().expect("a number").into(),
            },
            Value::String(text) => text.as_str().into(),
            Value::Array(values) => rmpv::Value::Array(values.iter().map(of).collect()),
            Value::Object(members) => {
                rmpv::Value::Map(members.iter().map(|(key, it)| (key.as_str().into(), of(it))).collect())
            }
        }
    }
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &of(value)).expect("memory takes it");
    bytes
}
