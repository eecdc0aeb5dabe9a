//! What a watcher is told that was away: with its session suspended, or in the moment before it was taken over.

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::sessions::{LINGER_MS, WINDOW_MS, join, moves, net, resume, resumed, token_of};
use harness::{Client, Net, Random};
use serde_json::{Value, json};

const WINDOW: Duration = Duration::from_millis(250);
/// Until then what a connection was told may not have arrived.
const UNSEEN: Duration = Duration::from_secs(60);
const CHANNEL: &str = "conversation:42";

fn watch(net: &mut Net, client: Client) {
    let answers =
        net.ask(client, &json!({"type": "subscribe", "channel": CHANNEL, "presence": true}).to_string());
    assert_eq!(answers[0]["type"], "subscribed", "{answers:?}");
}

fn unsubscribe(net: &mut Net, client: Client) {
    net.ask(client, &json!({"type": "unsubscribe", "channel": CHANNEL}).to_string());
}

/// What is said of members: name, participants, count.
fn events(messages: &[Value]) -> Vec<(String, Value, u64)> {
    let events = messages.iter().filter(|it| it["type"] == "event");
    events
        .map(|it| {
            assert_eq!(it["channel"], CHANNEL);
            let name = it["name"].as_str().expect("events have names").to_owned();
            (name, it["participants"].clone(), it["count"].as_u64().expect("events count"))
        })
        .collect()
}

fn event(name: &str, participants: &[&str], count: u64) -> (String, Value, u64) {
    (name.to_owned(), json!(participants), count)
}

/// What came behind `resumed`, which is looked for first.
fn behind_resumed(messages: &[Value]) -> &[Value] {
    let at = messages.iter().position(|it| it["type"] == "resumed");
    &messages[at.unwrap_or_else(|| panic!("{messages:?}")) + 1..]
}

#[test]
fn who_comes_back_is_told_who_came_and_went() {
    for shards in 1..=4 {
        for (from, to) in moves(shards) {
            let mut net = net(shards);
            let (ann, token) = join(&mut net, from, 1, "ann");
            watch(&mut net, ann);
            let [bob, cid, dan] = [(2, "bob"), (3, "cid"), (4, "dan")]
                .map(|(slot, name)| join(&mut net, slot as u16 % shards, slot, name).0);
            [bob, cid].into_iter().for_each(|it| net.subscribe(it, CHANNEL));
            net.pass(2 * UNSEEN);
            net.take(ann);
            net.lose(ann);
            net.pass(2 * WINDOW);
            unsubscribe(&mut net, bob);
            net.subscribe(dan, CHANNEL);
            unsubscribe(&mut net, cid);
            net.pass(2 * WINDOW);
            net.subscribe(cid, CHANNEL);
            net.pass(2 * WINDOW);
            let (again, _) = join(&mut net, to, 5, "ann");
            let seen = net.ask(again, &resume(&token));
            let expected = [event("leave", &["bob"], 3), event("join", &["cid", "dan"], 3)];
            assert_eq!(events(behind_resumed(&seen)), expected, "how it stands with all who came or went");
            net.pass(2 * WINDOW);
            assert_eq!(events(&net.take(again)), []);
            unsubscribe(&mut net, dan);
            net.pass(WINDOW);
            assert_eq!(events(&net.take(again)), [event("leave", &["dan"], 2)], "and it goes on");
            [again, bob, cid, dan].into_iter().for_each(|it| net.close(it));
            net.pass(Duration::from_millis(LINGER_MS));
            assert!(net.is_empty());
            net.pass(Duration::from_millis(WINDOW_MS) + 3 * UNSEEN);
            assert!(net.is_empty());
        }
    }
}

#[test]
fn what_was_on_its_way_when_it_was_taken_over_is_told_again() {
    for shards in 1..=4 {
        for (from, to) in moves(shards) {
            let mut net = net(shards);
            let (ann, token) = join(&mut net, from, 1, "ann");
            watch(&mut net, ann);
            let (bob, _) = join(&mut net, 0, 2, "bob");
            net.pass(2 * UNSEEN);
            net.subscribe(bob, CHANNEL);
            net.pass(Duration::from_millis(100));
            let (again, _) = join(&mut net, to, 5, "ann");
            let seen = net.ask(again, &resume(&token));
            assert_eq!(events(behind_resumed(&seen)), [event("join", &["bob"], 2)], "nobody was told");
            net.pass(WINDOW);
            net.take(again);
            // It was told, but that may have been lost on the way.
            unsubscribe(&mut net, bob);
            net.pass(Duration::from_secs(40));
            let token = token_of(&json!({"resume_token": resumed_again(&seen)}));
            let (last, _) = join(&mut net, from, 6, "ann");
            let seen = net.ask(last, &resume(&token));
            assert_eq!(events(behind_resumed(&seen)), [event("leave", &["bob"], 1)]);
        }
    }
}

fn resumed_again(seen: &[Value]) -> Value {
    let resumed = seen.iter().find(|it| it["type"] == "resumed");
    resumed.unwrap_or_else(|| panic!("{seen:?}"))["resume_token"].clone()
}

#[test]
fn who_was_lost_again_before_it_was_known_to_be_back_is_told_all_of_it() {
    for shards in 1..=4 {
        let mut net = net(shards);
        let (ann, token) = join(&mut net, 0, 1, "ann");
        watch(&mut net, ann);
        let (bob, _) = join(&mut net, 0, 2, "bob");
        net.pass(2 * UNSEEN);
        net.lose(ann);
        net.subscribe(bob, CHANNEL);
        net.pass(Duration::from_secs(50));
        let (again, _) = join(&mut net, shards - 1, 3, "ann");
        resumed(&mut net, again, &token);
        net.pass(Duration::from_secs(40));
        net.lose(again);
        net.pass(Duration::from_secs(30));
        let (last, _) = join(&mut net, 0, 4, "ann");
        let seen = net.ask(last, &resume(&token));
        assert_eq!(events(behind_resumed(&seen)), [event("join", &["bob"], 2)]);
    }
}

#[test]
fn too_many_changes_are_a_count() {
    for shards in [1, 3] {
        let mut net = net(shards);
        let (ann, token) = join(&mut net, 0, 1, "ann");
        watch(&mut net, ann);
        net.pass(2 * UNSEEN);
        net.take(ann);
        net.lose(ann);
        for slot in 0..120 {
            let (client, _) = join(&mut net, slot as u16 % shards, 10 + slot, &format!("p{slot}"));
            net.subscribe(client, CHANNEL);
        }
        net.pass(WINDOW);
        let (again, _) = join(&mut net, shards - 1, 2, "ann");
        let seen = net.ask(again, &resume(&token));
        let counted = json!({"type": "event", "name": "presence", "channel": CHANNEL, "count": 121});
        assert_eq!(behind_resumed(&seen), [counted]);
    }
}

#[test]
fn who_did_not_ask_for_it_is_told_nothing() {
    let mut net = net(2);
    let (ann, token) = join(&mut net, 0, 1, "ann");
    let (bob, _) = join(&mut net, 1, 2, "bob");
    let (cid, _) = join(&mut net, 1, 3, "cid");
    watch(&mut net, cid);
    net.subscribe(ann, CHANNEL);
    net.lose(ann);
    net.subscribe(bob, CHANNEL);
    net.pass(WINDOW);
    let (again, _) = join(&mut net, 1, 4, "ann");
    let seen = net.ask(again, &resume(&token));
    assert_eq!(events(behind_resumed(&seen)), []);
}

/// What a client knows that adds who joins and removes who leaves.
#[derive(Debug, Default)]
struct View {
    members: BTreeSet<String>,
}

impl View {
    fn take(&mut self, messages: &[Value]) {
        for it in messages {
            let names = it["participants"].as_array().into_iter().flatten();
            let names = names.map(|it| it.as_str().expect("a name").to_owned());
            match it["name"].as_str() {
                Some("join") => self.members.extend(names),
                Some("leave") => {
                    let left: BTreeSet<_> = names.collect();
                    self.members.retain(|name| !left.contains(name));
                }
                Some("presence") => panic!("so few are named: {it}"),
                _ => {}
            }
        }
    }
}

/// Who asks who is there, and so whether the watcher ever says anything itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asks {
    Watcher,
    Another,
}

#[test]
fn a_watcher_knows_who_is_there_however_often_it_is_lost() {
    is_lost_again_and_again(Asks::Watcher);
}

/// Its client is not known to have come back before it says something.
#[test]
fn a_watcher_that_says_nothing_knows_who_is_there() {
    is_lost_again_and_again(Asks::Another);
}

/// A watcher is lost or taken over in every round, and knows who is there behind it.
fn is_lost_again_and_again(asks: Asks) {
    for shards in 1..=4u16 {
        for seed in 1..=80 {
            let mut random = Random(seed);
            let mut net = net(shards);
            let shard = |random: &mut Random| random.below(usize::from(shards)) as u16;
            let (mut ann, mut token) = join(&mut net, shard(&mut random), 0, "ann");
            watch(&mut net, ann);
            let others: Vec<_> = (1..=4)
                .map(|slot| join(&mut net, shard(&mut random), slot, &format!("p{}", slot % 3)).0)
                .collect();
            let mut view = View::default();
            for round in 0..6 {
                come_and_go(&mut net, &others, shards, &mut random);
                view.take(&net.take(ann));
                if random.chance(2) {
                    // What it is told from here on does not arrive.
                    for _ in 0..random.below(20) {
                        net.step(&mut random);
                    }
                    net.advance(Duration::from_millis(random.below(30_000) as u64));
                    net.lose(ann);
                }
                for _ in 0..random.below(20) {
                    let other = others[random.below(others.len())];
                    let kind = if random.chance(2) { "subscribe" } else { "unsubscribe" };
                    net.send(other, &json!({"type": kind, "channel": CHANNEL}).to_string());
                    net.advance(Duration::from_millis(random.below(200) as u64));
                    net.step(&mut random);
                }
                let (again, _) = join(&mut net, shard(&mut random), 10 + round, "ann");
                net.send(again, &resume(&token));
                while net.step(&mut random) {}
                net.run();
                net.pass(2 * WINDOW);
                let seen = net.take(again);
                view.take(&seen);
                token = token_of(seen.iter().find(|it| it["type"] == "resumed").expect("it is resumed"));
                ann = again;
                let there = members(&mut net, if asks == Asks::Watcher { ann } else { others[0] });
                assert_eq!(view.members, there, "{shards} shards, seed {seed}, round {round}: {seen:#?}");
            }
        }
    }
}

/// Some of these subscribe, unsubscribe, or a part of that is done.
fn come_and_go(net: &mut Net, others: &[Client], shards: u16, random: &mut Random) {
    for _ in 0..random.below(30) {
        let other = others[random.below(others.len())];
        match random.below(8) {
            0..=1 => net.send(other, &json!({"type": "subscribe", "channel": CHANNEL}).to_string()),
            2..=3 => net.send(other, &json!({"type": "unsubscribe", "channel": CHANNEL}).to_string()),
            4 => net.advance(Duration::from_millis(random.below(400) as u64)),
            5 => drop(net.settle(random.below(usize::from(shards)) as u16, 1)),
            _ => drop(net.step(random)),
        }
    }
}

fn members(net: &mut Net, client: Client) -> BTreeSet<String> {
    let asked = json!({"type": "query", "id": 1, "method": "presence", "params": {"channel": CHANNEL}});
    let answers = net.ask(client, &asked.to_string());
    let answer = answers.iter().find(|it| it["id"] == 1).expect("it is answered");
    serde_json::from_value(answer["result"]["participants"].clone()).expect("a list of names")
}
