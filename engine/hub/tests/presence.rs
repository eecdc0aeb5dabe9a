//! Who is in a channel: what queries answer and what those are told who want to know, on one shard and several.

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use harness::{Client, Net, Random, demo, unlimited};

const WINDOW: Duration = Duration::from_millis(250);
const CHANNEL: &str = "conversation:42";

fn nodes() -> impl Iterator<Item = Net> {
    (1..=4).map(|shards| Net::new(shards, 11 * u64::from(shards), unlimited()))
}

fn watch(net: &mut Net, client: Client, channel: &str) {
    let answers =
        net.ask(client, &json!({"type": "subscribe", "channel": channel, "presence": true}).to_string());
    assert_eq!(answers[0]["type"], "subscribed", "{answers:?}");
}

fn unsubscribe(net: &mut Net, client: Client) {
    let answers = net.ask(client, &json!({"type": "unsubscribe", "channel": CHANNEL}).to_string());
    assert_eq!(answers[0]["type"], "unsubscribed", "{answers:?}");
}

fn query(net: &mut Net, client: Client, method: &str, mut params: Value) -> Value {
    params["channel"] = params.get("channel").cloned().unwrap_or_else(|| CHANNEL.into());
    let text = json!({"type": "query", "id": 9, "method": method, "params": params}).to_string();
    let answers = net.ask(client, &text);
    let answer = answers.into_iter().find(|it| it["type"] == "response").expect("a query is answered");
    assert_eq!(answer["id"], 9);
    answer
}

fn members(net: &mut Net, client: Client) -> Value {
    query(net, client, "presence", json!({}))["result"].clone()
}

/// What is said of members: name, participants, count.
fn events(net: &mut Net, client: Client) -> Vec<(String, Value, u64)> {
    let messages = net.take(client).into_iter().filter(|it| it["type"] == "event");
    messages
        .map(|it| {
            assert_eq!(it["channel"], CHANNEL);
            let count = it["count"].as_u64().expect("events say how many there are");
            (it["name"].as_str().expect("events have names").to_owned(), it["participants"].clone(), count)
        })
        .collect()
}

fn event(name: &str, participants: &[&str], count: u64) -> (String, Value, u64) {
    (name.to_owned(), json!(participants), count)
}

#[test]
fn participants_are_counted_and_not_their_connections() {
    for mut net in nodes() {
        let last = net.last_shard();
        let bob = net.join(0, 1, "bob");
        watch(&mut net, bob, CHANNEL);
        net.pass(WINDOW);
        assert_eq!(events(&mut net, bob), [event("join", &["bob"], 1)], "he is told of himself as of others");
        let tabs = [net.join(0, 2, "ann"), net.join(last, 3, "ann"), net.join(last, 4, "ann")];
        for tab in tabs {
            net.subscribe(tab, CHANNEL);
        }
        assert_eq!(members(&mut net, bob)["participants"], json!(["ann", "bob"]));
        let stats = query(&mut net, bob, "presence_stats", json!({}));
        assert_eq!(stats["result"], json!({"channel": CHANNEL, "participants": 2, "connections": 4}));
        net.pass(WINDOW);
        assert_eq!(events(&mut net, bob), [event("join", &["ann"], 2)]);
        net.close(tabs[1]);
        unsubscribe(&mut net, tabs[0]);
        net.pass(WINDOW);
        assert_eq!(events(&mut net, bob), [], "one tab is left");
        net.close(tabs[2]);
        net.pass(WINDOW);
        assert_eq!(events(&mut net, bob), [event("leave", &["ann"], 1)]);
        assert_eq!(members(&mut net, bob)["participants"], json!(["bob"]));
        [tabs[0], bob].into_iter().for_each(|client| net.close(client));
        net.pass(WINDOW);
        assert!(net.is_empty());
    }
}

#[test]
fn only_who_asked_hears_and_nobody_before_it_is_subscribed() {
    for mut net in nodes() {
        let last = net.last_shard();
        let (ann, bob, cid) =
            (net.join(0, 1, "ann"), net.join_binary(last, 2, "bob"), net.join(last, 3, "cid"));
        net.subscribe(ann, CHANNEL);
        watch(&mut net, bob, CHANNEL);
        net.take(cid);
        net.send(cid, &json!({"type": "subscribe", "channel": CHANNEL, "presence": true}).to_string());
        net.pass(WINDOW);
        let seen = net.take(cid);
        assert_eq!(seen[0]["type"], "subscribed", "{seen:?}");
        assert_eq!((&seen[1]["name"], &seen[1]["participants"]), (&json!("join"), &json!(["bob", "cid"])));
        assert_eq!(events(&mut net, bob), [event("join", &["bob", "cid"], 3)], "in his encoding too");
        assert_eq!(events(&mut net, ann), []);
        let patterns = net.join(0, 4, "dan");
        net.subscribe(patterns, "conversation:*");
        // Subscribing once more adds the wish, and does not make anybody twice a member.
        watch(&mut net, ann, CHANNEL);
        unsubscribe(&mut net, cid);
        net.pass(WINDOW);
        assert_eq!(events(&mut net, ann), [event("leave", &["cid"], 2)]);
        assert_eq!(events(&mut net, cid), [], "whoever is gone hears nothing");
        assert_eq!(events(&mut net, patterns), [], "patterns have no members");
        net.close(bob);
        unsubscribe(&mut net, ann);
        net.pass(WINDOW);
        assert_eq!(
            members(&mut net, cid),
            json!({"channel": CHANNEL, "count": 0, "participants": [], "more": false})
        );
        [ann, cid, patterns].into_iter().for_each(|client| net.close(client));
        net.run();
        assert!(net.is_empty());
    }
}

#[test]
fn within_a_window_only_the_net_change_is_told() {
    for mut net in nodes() {
        let last = net.last_shard();
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(last, 2, "bob"));
        watch(&mut net, ann, CHANNEL);
        net.pass(WINDOW);
        net.take(ann);
        for _ in 0..3 {
            net.subscribe(bob, CHANNEL);
            unsubscribe(&mut net, bob);
        }
        net.pass(WINDOW);
        assert_eq!(events(&mut net, ann), []);
        for _ in 0..3 {
            unsubscribe_or_not(&mut net, bob);
            net.subscribe(bob, CHANNEL);
        }
        net.pass(WINDOW - Duration::from_millis(1));
        assert_eq!(events(&mut net, ann), [], "not yet");
        net.pass(Duration::from_millis(1));
        assert_eq!(events(&mut net, ann), [event("join", &["bob"], 2)]);
        let crowd: Vec<_> =
            (0..150).map(|it| net.join(it % (last + 1), 10 + u32::from(it), &format!("p{it:03}"))).collect();
        for client in &crowd {
            net.subscribe(*client, CHANNEL);
        }
        net.pass(WINDOW);
        let seen = net.take(ann);
        let expected = json!({"type": "event", "name": "presence", "channel": CHANNEL, "count": 152, "joined": 150, "left": 0});
        assert_eq!(seen, [expected], "many are counted");
    }
}

fn unsubscribe_or_not(net: &mut Net, client: Client) {
    net.ask(client, &json!({"type": "unsubscribe", "channel": CHANNEL}).to_string());
}

#[test]
fn answers_come_in_pages_and_only_to_who_may_subscribe() {
    for mut net in nodes() {
        let last = net.last_shard();
        let ann = net.join(last, 1, "ann");
        let names: Vec<_> = (0..250).map(|it| format!("p{it:03}")).collect();
        for (slot, name) in (10..).zip(&names) {
            let client = net.join(slot as u16 % (last + 1), slot, name);
            net.subscribe(client, CHANNEL);
        }
        let first = members(&mut net, ann);
        assert_eq!(first["participants"].as_array().map(Vec::len), Some(100));
        let (mut known, mut after) = (Vec::<String>::new(), Value::Null);
        loop {
            let page =
                query(&mut net, ann, "presence", json!({"limit": 90, "after": after}))["result"].clone();
            assert_eq!(page["count"], 250);
            let names = page["participants"].as_array().expect("a page has names");
            known.extend(names.iter().map(|it| it.as_str().expect("names are text").to_owned()));
            after = json!(known.last());
            if page["more"] == false {
                break;
            }
        }
        assert_eq!(known, names);
        let counted = query(&mut net, ann, "presence", json!({"count_only": true}));
        assert_eq!(counted["result"], json!({"channel": CHANNEL, "count": 250}));
        let code = |answer: Value| answer["error"]["code"].as_str().unwrap_or_default().to_owned();
        for (params, expected) in [
            (json!({"limit": 0}), "INVALID_MESSAGE"),
            (json!({"limit": 1001}), "INVALID_MESSAGE"),
            (json!({"channel": "agent:7"}), "NOT_FOUND"),
            (json!({"channel": "user:bob"}), "FORBIDDEN"),
            (json!({"channel": "conversation:*"}), "INVALID_CHANNEL"),
            (json!({"channel": "nowhere:1"}), "INVALID_CHANNEL"),
        ] {
            assert_eq!(code(query(&mut net, ann, "presence", params.clone())), expected, "{params}");
            if params.get("limit").is_none() {
                assert_eq!(code(query(&mut net, ann, "presence_stats", params)), expected);
            }
        }
    }
}

#[test]
fn typing_expires_unless_something_is_written() {
    for mut net in nodes() {
        let last = net.last_shard();
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(last, 2, "bob"));
        watch(&mut net, ann, CHANNEL);
        net.subscribe(bob, CHANNEL);
        net.pass(WINDOW);
        net.take(ann);
        let types = |net: &mut Net| {
            let text = json!({"type": "user_typing", "channel": CHANNEL}).to_string();
            net.ask(bob, &text);
        };
        types(&mut net);
        net.pass(Duration::from_millis(3000));
        types(&mut net);
        assert_eq!(members(&mut net, ann)["typing"], json!(["bob"]));
        net.pass(Duration::from_millis(5999));
        assert_eq!(events(&mut net, ann), []);
        net.pass(Duration::from_millis(1));
        assert_eq!(events(&mut net, ann), [event("typing_expired", &["bob"], 2)]);
        assert_eq!(members(&mut net, ann).get("typing"), None);
        types(&mut net);
        net.ask(bob, &json!({"type": "chat_message", "channel": CHANNEL, "content": "hi"}).to_string());
        assert_eq!(members(&mut net, ann).get("typing"), None);
        net.pass(Duration::from_secs(7));
        assert_eq!(events(&mut net, ann), [], "the message said it");
        types(&mut net);
        net.close(bob);
        net.pass(Duration::from_secs(7));
        assert_eq!(events(&mut net, ann), [event("leave", &["bob"], 1)], "leaving said it");
    }
}

#[test]
fn a_pattern_makes_nobody_a_member_and_says_so() {
    for mut net in nodes() {
        let ann = net.join(0, 1, "ann");
        let message =
            r#"{"type":"subscribe","id":1,"channels":["conversation:*","conversation:1"],"presence":true}"#;
        let seen = net.ask(ann, message);
        let errors: Vec<_> = seen.iter().filter(|it| it["type"] == "error").collect();
        assert_eq!((errors.len(), &errors[0]["code"]), (1, &json!("INVALID_MESSAGE")), "{seen:?}");
        assert_eq!(errors[0]["channel"], "conversation:*");
        assert!(
            seen.iter().any(|it| it["type"] == "subscribed" && it["channel"] == "conversation:1"),
            "{seen:?}"
        );
    }
}

#[test]
fn a_namespace_without_presence_keeps_and_tells_nothing() {
    for mut net in nodes() {
        let (ann, bob) = (net.join(0, 1, "ann"), net.open_with(net.last_shard(), 2, demo(Some("bob"))));
        net.run();
        watch(&mut net, ann, "room");
        net.subscribe(bob, "room");
        let records = net.records;
        net.ask(bob, &json!({"type": "user_typing", "channel": "room"}).to_string());
        net.pass(Duration::from_secs(7));
        assert!(net.take(ann).iter().all(|it| it["type"] != "event"));
        assert!(net.records - records <= 3, "a publish and its delivery to two");
    }
}

/// However slow a session's move is, and whether its connection was lost before or is taken over: nobody leaves, and
/// nobody joins.
#[test]
fn nobody_sees_a_session_move() {
    let moves = (0..3).flat_map(|from| (0..3).map(move |to| (from, to)));
    for ((from, to), is_lost) in moves.flat_map(|it| [(it, true), (it, false)]) {
        let mut net = Net::new(3, 7, unlimited());
        let eve = net.join(1, 9, "eve");
        watch(&mut net, eve, CHANNEL);
        let ann = net.join(from, 1, "ann");
        let token = net.take(ann)[0]["resume_token"].clone();
        net.subscribe(ann, CHANNEL);
        net.pass(WINDOW);
        if is_lost {
            net.lose(ann);
        }
        net.pass(Duration::from_secs(5));
        let again = net.join(to, 2, "ann");
        net.take(eve);
        net.send(again, &json!({"type": "resume", "id": 9, "token": token}).to_string());
        let mut random = Random(from as u64 * 3 + to as u64 + 1);
        for _ in 0..12 {
            net.step(&mut random);
            (0..3).for_each(|shard| {
                net.settle(shard, 7);
            });
            net.advance(Duration::from_millis(100));
        }
        net.run();
        assert!(net.take(again).iter().any(|it| it["type"] == "resumed"), "{from} to {to}");
        assert_eq!(members(&mut net, eve)["participants"], json!(["ann", "eve"]));
        net.pass(Duration::from_secs(5));
        assert_eq!(events(&mut net, eve), [], "{from} to {to}, {is_lost}");
        let stats = query(&mut net, eve, "presence_stats", json!({}))["result"].clone();
        assert_eq!(stats["connections"], 2, "nothing is left where the session was");
        [again, eve].into_iter().for_each(|client| net.close(client));
        if !is_lost {
            net.close(ann);
        }
        net.pass(Duration::from_secs(61));
        assert!(net.is_empty());
    }
}

/// What one connection was told, checked as it comes.
#[derive(Default)]
struct View {
    watches: bool,
    /// Between `subscribed` and `unsubscribed`.
    is_subscribed: bool,
    /// Members, from a full answer on.
    known: Option<BTreeSet<String>>,
    /// The last event about each.
    last: BTreeMap<String, bool>,
}

impl View {
    fn see(&mut self, message: &Value, has_asked: bool) {
        match message["type"].as_str().expect("messages have types") {
            "subscribed" => self.is_subscribed = true,
            "unsubscribed" => *self = Self::default(),
            "response" => {
                let names = message["result"]["participants"].as_array().expect("an answer has names");
                assert_eq!(message["result"]["more"], false);
                // Whoever does not hear what follows knows nothing for longer.
                self.known = self.is_subscribed.then(|| names.iter().map(text).collect());
            }
            "event" => {
                assert!(self.watches && self.is_subscribed, "nobody asked for {message}");
                let joins = message["name"] == "join";
                for name in message["participants"].as_array().expect("few are listed").iter().map(text) {
                    let before = self.last.insert(name.clone(), joins);
                    assert!(has_asked || before != Some(joins), "twice {message}");
                    if let Some(known) = &mut self.known {
                        if joins {
                            known.insert(name)
                        } else {
                            known.remove(&name)
                        };
                    }
                }
            }
            _ => {}
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("names are text").to_owned()
}

/// One connection of the crowd.
struct Peer {
    participant: String,
    is_admitted: bool,
    /// As far as it was asked for.
    is_in: bool,
    view: View,
}

struct Crowd {
    net: Net,
    random: Random,
    clients: BTreeMap<Client, Peer>,
    slots: u32,
    asks: bool,
}

impl Crowd {
    fn look(&mut self) {
        for (client, peer) in &mut self.clients {
            for message in self.net.take(*client) {
                peer.is_admitted |= message["type"] == "connection_established";
                peer.view.see(&message, self.asks);
            }
        }
    }

    /// Any connection that was admitted.
    fn any(&mut self) -> Option<(Client, &mut Peer)> {
        let count = self.clients.len();
        let at = if count > 0 { self.random.below(count) } else { return None };
        let (client, peer) = self.clients.iter_mut().nth(at)?;
        peer.is_admitted.then_some((*client, peer))
    }

    fn act(&mut self) {
        match self.random.below(12) {
            0 | 1 if self.clients.len() < 12 => {
                let shard = self.random.below(self.net.hubs.len()) as u16;
                let name = format!("p{}", self.random.below(5));
                self.slots += 1;
                let client = self.net.open(shard, self.slots, &name);
                let view = View::default();
                let peer = Peer { participant: name, is_admitted: false, is_in: false, view };
                self.clients.insert(client, peer);
            }
            2 | 3 => {
                let watches = self.random.chance(2);
                let Some((client, peer)) = self.any() else { return };
                if !peer.is_in {
                    (peer.is_in, peer.view.watches) = (true, watches);
                    let text = json!({"type": "subscribe", "channel": CHANNEL, "presence": watches});
                    self.net.send(client, &text.to_string());
                }
            }
            4 => {
                let Some((client, peer)) = self.any() else { return };
                if peer.is_in {
                    peer.is_in = false;
                    let text = json!({"type": "unsubscribe", "channel": CHANNEL});
                    self.net.send(client, &text.to_string());
                }
            }
            5 => {
                let Some((client, _)) = self.any() else { return };
                self.clients.remove(&client);
                self.net.close(client);
            }
            6 if self.asks => {
                let Some((client, _)) = self.any() else { return };
                let text = json!({"type": "query", "method": "presence", "params": {"channel": CHANNEL}});
                self.net.send(client, &text.to_string());
            }
            7 => {
                let by = Duration::from_millis(self.random.below(200) as u64);
                self.net.advance(by);
            }
            8 => {
                let shard = self.random.below(self.net.hubs.len()) as u16;
                let budget = 1 + self.random.below(3);
                self.net.settle(shard, budget);
            }
            _ => {
                self.net.step(&mut self.random);
            }
        }
        self.look();
    }

    fn check(&mut self) {
        self.net.run();
        self.net.pass(WINDOW);
        self.look();
        let present = || self.clients.values().filter(|peer| peer.is_in);
        let members: BTreeSet<_> = present().map(|peer| peer.participant.clone()).collect();
        for view in present().map(|peer| &peer.view).filter(|view| view.watches) {
            for (name, joined) in &view.last {
                assert_eq!(members.contains(name), *joined, "{name}");
            }
            if let Some(known) = &view.known {
                assert_eq!(known, &members);
            }
        }
        if let Some((client, _)) = self.any() {
            assert_eq!(members_of(&mut self.net, client), members);
        }
    }
}

fn members_of(net: &mut Net, client: Client) -> BTreeSet<String> {
    members(net, client)["participants"].as_array().expect("an answer has names").iter().map(text).collect()
}

#[test]
fn views_are_right_in_the_end_however_records_interleave() {
    let seeds = std::env::var("SEEDS").ok().and_then(|it| it.parse().ok()).unwrap_or(150);
    for seed in 1..=seeds {
        let (shards, asks) = (1 + seed % 4, seed % 3 > 0);
        let caught = std::panic::catch_unwind(|| {
            let net = Net::new(shards as u16, seed, unlimited());
            let random = Random(seed * 0x9e37_79b9 + 1);
            let mut crowd = Crowd { net, random, clients: BTreeMap::new(), slots: 0, asks };
            for _ in 0..6 {
                for _ in 0..200 {
                    crowd.act();
                }
                crowd.check();
            }
            for client in std::mem::take(&mut crowd.clients).into_keys() {
                crowd.net.close(client);
            }
            crowd.net.run();
            assert!(crowd.net.is_empty(), "something is left");
        });
        assert!(caught.is_ok(), "seed {seed}");
    }
}

/// What is measured is printed: `cargo nextest run -p corecast-hub --test presence --no-capture 10_000`.
#[test]
fn a_join_as_member_10_000_costs_a_name_and_no_list() {
    let mut costs = Vec::new();
    for members in [10u16, 9_996] {
        let mut net = Net::new(4, 5, unlimited());
        let watchers: Vec<_> = (0..3).map(|it| net.join(it, 1, &format!("watcher{it}"))).collect();
        for client in &watchers {
            watch(&mut net, *client, CHANNEL);
        }
        for number in 0..members {
            let client = net.join(number % 4, 2 + u32::from(number), &format!("participant-{number:05}"));
            net.subscribe(client, CHANNEL);
        }
        net.pass(WINDOW);
        let late = net.join(3, 60_000, "participant-late");
        watchers.iter().for_each(|client| drop(net.take(*client)));
        let before = (net.records, net.record_bytes, net.delivers.len());
        net.subscribe(late, CHANNEL);
        net.pass(WINDOW);
        let cost = (net.records - before.0, net.record_bytes - before.1, net.delivers.len() - before.2);
        let mut bytes = 0;
        for client in watchers {
            let seen = net.take(client);
            let [event] = seen.as_slice() else { panic!("one event each: {seen:?}") };
            assert_eq!(event["participants"], json!(["participant-late"]));
            assert_eq!(event["count"], u64::from(members) + 4);
            bytes = event.to_string().len();
        }
        println!(
            "one join behind {members} members: {} records of {} bytes between 4 shards, {} events of {bytes} bytes",
            cost.0, cost.1, cost.2
        );
        costs.push((cost, bytes - event_count_digits(members)));
    }
    assert_eq!(costs[0], costs[1], "as much in a large channel as in a small one");
}

fn event_count_digits(members: u16) -> usize {
    (members + 4).to_string().len()
}
