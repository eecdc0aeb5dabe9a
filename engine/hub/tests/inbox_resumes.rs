//! What of its inbox a client gets when its session goes on: what it missed, once, wherever it asks from.

mod harness;

use std::time::Duration;

use corecast_hub::Open;
use corecast_hub::state::State;
use harness::sessions::{join, moves, net};
use harness::{Client, Net, Random, development};
use serde_json::{Value, json};

/// Sends ann something that is kept for her.
fn say(net: &mut Net, bob: Client, payload: u64) {
    net.send(bob, &json!({"type": "publish", "to": "ann", "store": true, "payload": payload}).to_string());
}

fn payloads(messages: &[Value]) -> Vec<u64> {
    let direct = messages.iter().filter(|it| it["type"] == "message" && it["channel"] == "@me");
    direct.map(|it| it["payload"].as_u64().expect("a number")).collect()
}

fn resume_from(token: &str, position: &Value) -> String {
    let positions = json!({"@me": [position["epoch"], position["offset"]]});
    json!({"type": "resume", "id": 9, "token": token, "positions": positions}).to_string()
}

fn ack(position: &Value) -> String {
    json!({"type": "ack", "channel": "@me", "epoch": position["epoch"], "offset": position["offset"]})
        .to_string()
}

fn inbox_of(seen: &[Value]) -> Option<Value> {
    let resumed = seen.iter().find(|it| it["type"] == "resumed").unwrap_or_else(|| panic!("{seen:?}"));
    let all = resumed["subscriptions"].as_array().expect("a list");
    all.iter().find(|it| it["channel"] == "@me").cloned()
}

#[test]
fn a_position_in_the_inbox_is_gone_on_from_once() {
    for shards in 1..=4 {
        for (from, to) in moves(shards) {
            for seen_by_ann in 1..=3usize {
                let mut net = net(shards);
                let (bob, _) = join(&mut net, 0, 9, "bob");
                let (ann, token) = join(&mut net, from, 0, "ann");
                (1..=3).for_each(|number| say(&mut net, bob, number));
                net.run();
                let seen = net.take(ann);
                assert_eq!(payloads(&seen), [1, 2, 3]);
                net.lose(ann);
                net.run();
                (4..=5).for_each(|number| say(&mut net, bob, number));
                net.run();
                let (again, _) = join(&mut net, to, 1, "ann");
                net.send(again, &resume_from(&token, &seen[seen_by_ann - 1]));
                net.run();
                let seen = net.take(again);
                let missed: Vec<u64> = (seen_by_ann as u64 + 1..=5).collect();
                assert_eq!(payloads(&seen), missed, "{from} to {to}: {seen:?}");
                let inbox = inbox_of(&seen).expect("it was asked for");
                assert_eq!((&inbox["recovered"], &inbox["offset"]), (&json!(true), &json!(seen_by_ann)));
                assert_eq!(inbox["epoch"], seen.last().expect("messages")["epoch"]);
                assert_eq!(seen[0]["type"], "resumed", "it comes before what follows its positions");
                say(&mut net, bob, 6);
                net.run();
                assert_eq!(payloads(&net.take(again)), [6], "and then it is live");
            }
        }
    }
}

/// Seed 7036 of the simulator: who had not been seen to have got what waited for it was told where that had ended, which
/// it had passed long ago.
#[test]
fn a_position_that_is_none_leaves_who_is_live_where_it_is() {
    for (from, to) in moves(3) {
        let mut net = net(3);
        let (bob, _) = join(&mut net, 0, 9, "bob");
        let (ann, token) = join(&mut net, from, 0, "ann");
        net.lose(ann);
        net.run();
        say(&mut net, bob, 1);
        net.run();
        let (again, _) = join(&mut net, to, 1, "ann");
        net.ask(again, r#"{"type":"query","id":1,"method":"session"}"#);
        (2..=3).for_each(|number| say(&mut net, bob, number));
        net.run();
        assert_eq!(net.take(again).len(), 2, "it is live");
        let request = resume_from(&token, &json!({"epoch": "abcdefgh", "offset": 1}));
        net.send(again, &request);
        net.run();
        let inbox = inbox_of(&net.take(again)).expect("it was asked for");
        assert_eq!((&inbox["recovered"], &inbox["offset"]), (&json!(false), &json!(3)), "{from} to {to}");
        say(&mut net, bob, 4);
        net.run();
        assert_eq!(payloads(&net.take(again)), [4]);
    }
}

/// Seed 7018 of the simulator: what came live before `resumed` was written lay behind the position that it named, and did
/// not follow it.
#[test]
fn everything_follows_the_position_that_is_named() {
    for shards in 1..=4u16 {
        for seed in 1..=60 {
            let mut net = net(shards);
            let mut random = Random(seed);
            let shard = |random: &mut Random| random.below(usize::from(shards)) as u16;
            let (bob, _) = join(&mut net, shard(&mut random), 9, "bob");
            let (ann, token) = join(&mut net, shard(&mut random), 0, "ann");
            ["conversation:1", "conversation:2"].iter().for_each(|channel| net.subscribe(ann, channel));
            let (again, _) = join(&mut net, shard(&mut random), 1, "ann");
            net.send(again, &resume_from(&token, &json!({"epoch": "abcdefgh", "offset": 1})));
            for number in 1..=40 {
                match random.below(3) {
                    0 => say(&mut net, bob, number),
                    1 => drop(net.settle(random.below(usize::from(shards)) as u16, 1)),
                    _ => drop(net.step(&mut random)),
                }
            }
            net.run();
            say(&mut net, bob, 99);
            net.run();
            let seen = net.take(again);
            let at = seen.iter().position(|it| it["type"] == "resumed").unwrap_or_else(|| panic!("{seen:?}"));
            let named = inbox_of(&seen).expect("it was asked for")["offset"].as_u64().expect("a number");
            let messages = seen[at..].iter().filter(|it| it["channel"] == "@me" && it["type"] == "message");
            let offsets: Vec<u64> = messages.map(|it| it["offset"].as_u64().expect("a number")).collect();
            let due: Vec<u64> = (named + 1..).take(offsets.len()).collect();
            assert_eq!(offsets, due, "seed {seed}, {shards} shards: {seen:?}");
            assert_eq!(payloads(&seen[at..]).last(), Some(&99));
        }
    }
}

#[test]
fn a_position_covers_what_nobody_was_known_to_have_seen() {
    for (from, to) in moves(3) {
        let mut net = net(3);
        let (bob, _) = join(&mut net, 0, 9, "bob");
        (1..=3).for_each(|number| say(&mut net, bob, number));
        net.run();
        let ann = net.join(from, 0, "ann");
        let seen = net.take(ann);
        assert_eq!(payloads(&seen), [1, 2, 3], "nobody had a session: at once");
        let token = seen[0]["resume_token"].as_str().expect("a text").to_owned();
        net.lose(ann);
        net.run();
        let (again, _) = join(&mut net, to, 1, "ann");
        let seen = net.ask(again, &resume_from(&token, &seen[2]));
        assert_eq!(payloads(&seen), [3], "{from} to {to}: {seen:?}");
    }
}

#[test]
fn without_a_position_the_last_ack_counts() {
    for (from, to) in moves(3) {
        let mut net = net(3);
        let (bob, _) = join(&mut net, 0, 9, "bob");
        let (ann, token) = join(&mut net, from, 0, "ann");
        (1..=3).for_each(|number| say(&mut net, bob, number));
        net.run();
        let seen = net.take(ann);
        net.ask(ann, &ack(&seen[1]));
        net.lose(ann);
        say(&mut net, bob, 4);
        net.run();
        // It travels with the session more than once.
        let (again, _) = join(&mut net, to, 1, "ann");
        let seen = net.ask(again, &json!({"type": "resume", "token": token}).to_string());
        assert_eq!(payloads(&seen), [3, 4], "{from} to {to}: {seen:?}");
        assert_eq!(inbox_of(&seen).expect("it was acknowledged")["offset"], 2);
        let token = seen[0]["resume_token"].as_str().expect("a text").to_owned();
        net.lose(again);
        net.run();
        let opened = Open { resume: Some(&token), ..development("ann") };
        let third = net.open_with(from, 2, opened);
        net.run();
        assert_eq!(payloads(&net.take(third)), [3, 4], "{from} to {to}");
        say(&mut net, bob, 5);
        net.run();
        assert_eq!(payloads(&net.take(third)), [5]);
    }
}

#[test]
fn without_a_position_and_an_ack_what_nobody_got_comes() {
    for (from, to) in moves(3) {
        for is_in_handshake in [false, true] {
            let mut net = net(3);
            let (bob, _) = join(&mut net, 0, 9, "bob");
            let (ann, token) = join(&mut net, from, 0, "ann");
            say(&mut net, bob, 1);
            net.run();
            net.lose(ann);
            net.run();
            say(&mut net, bob, 2);
            net.run();
            let opened = Open { resume: is_in_handshake.then_some(&*token), ..development("ann") };
            let again = net.open_with(to, 1, opened);
            net.run();
            if !is_in_handshake {
                net.send(again, &json!({"type": "resume", "token": token}).to_string());
            }
            net.run();
            let seen = net.take(again);
            assert_eq!(payloads(&seen), [2], "{from} to {to}: {seen:?}");
            assert_eq!(inbox_of(&seen), None);
        }
    }
}

#[test]
fn a_position_that_is_none_loses_nothing_that_waits() {
    for (from, to) in moves(2) {
        let mut net = net(2);
        let (bob, _) = join(&mut net, 0, 9, "bob");
        let (ann, token) = join(&mut net, from, 0, "ann");
        net.lose(ann);
        net.run();
        say(&mut net, bob, 1);
        net.run();
        let (again, _) = join(&mut net, to, 1, "ann");
        let seen = net.ask(again, &resume_from(&token, &json!({"epoch": "00000000", "offset": 77})));
        assert_eq!(inbox_of(&seen).expect("it was asked for")["recovered"], false);
        assert_eq!(payloads(&seen), [1], "{seen:?}");
    }
}

/// Whoever has a session that waits may be about to resume it: its inbox waits as well, but not for long.
#[test]
fn who_does_not_resume_gets_what_waits_with_the_first_request_or_soon() {
    for (from, to) in moves(3) {
        for says_something in [false, true] {
            let mut net = net(3);
            let (bob, _) = join(&mut net, 0, 9, "bob");
            let (ann, _) = join(&mut net, from, 0, "ann");
            net.lose(ann);
            net.run();
            say(&mut net, bob, 1);
            net.run();
            let (again, _) = join(&mut net, to, 1, "ann");
            say(&mut net, bob, 2);
            net.run();
            assert_eq!(payloads(&net.take(again)), [] as [u64; 0]);
            if says_something {
                net.send(again, r#"{"type":"subscribe","channel":"room"}"#);
                net.run();
            } else {
                net.pass(Duration::from_secs(1));
                net.run();
            }
            assert_eq!(payloads(&net.take(again)), [1, 2], "{from} to {to}");
            say(&mut net, bob, 3);
            net.run();
            assert_eq!(payloads(&net.take(again)), [3]);
        }
    }
}

#[test]
fn a_resume_that_is_refused_brings_what_waits() {
    for (from, to) in moves(2) {
        let mut net = net(2);
        let (bob, _) = join(&mut net, 0, 9, "bob");
        let (ann, _) = join(&mut net, from, 0, "ann");
        net.lose(ann);
        net.run();
        say(&mut net, bob, 1);
        net.run();
        let (again, own) = join(&mut net, to, 1, "ann");
        let seen = net.ask(again, &resume_from(&own, &json!({"epoch": "00000000", "offset": 0})));
        assert_eq!((&seen[0]["code"], payloads(&seen)), (&json!("UNRECOVERABLE"), vec![1]));
    }
}

#[test]
fn what_came_while_the_inbox_waited_is_kept_for_the_next_one() {
    let mut net = net(2);
    let (bob, _) = join(&mut net, 0, 9, "bob");
    let (ann, token) = join(&mut net, 1, 0, "ann");
    net.lose(ann);
    net.run();
    let (brief, own) = join(&mut net, 0, 1, "ann");
    say(&mut net, bob, 1);
    net.run();
    net.lose(brief);
    net.run();
    assert_ne!(own, token);
    let (again, _) = join(&mut net, 1, 2, "ann");
    let seen = net.ask(again, &json!({"type": "resume", "token": token}).to_string());
    assert_eq!(payloads(&seen), [1]);
}

#[test]
fn an_ack_of_the_inbox_moves_to_another_node() {
    for (before, after) in [(1, 3), (3, 2)] {
        let mut old = net(before);
        let last = old.last_shard();
        let (bob, _) = join(&mut old, 0, 9, "bob");
        let (ann, token) = join(&mut old, last, 0, "ann");
        (1..=3).for_each(|number| say(&mut old, bob, number));
        old.run();
        let seen = old.take(ann);
        old.ask(ann, &ack(&seen[0]));
        old.lose(ann);
        old.run();
        let mut state = State::default();
        old.hubs.iter().for_each(|hub| state.merge(hub.export(old.now())));
        let state = State::from_bytes(&state.to_bytes()).expect("it was just written");
        let mut new = net(after);
        let now = new.now();
        new.hubs.iter_mut().for_each(|hub| hub.import(now, &state));
        let last = new.last_shard();
        let (ann, _) = join(&mut new, last, 0, "ann");
        let seen = new.ask(ann, &json!({"type": "resume", "token": token}).to_string());
        assert_eq!(payloads(&seen), [2, 3], "{seen:?}");
    }
}

#[test]
fn whatever_happens_meanwhile_everything_behind_the_position_comes_once_and_in_order() {
    for shards in 1..=4u16 {
        for seed in 1..=80 {
            let mut net = net(shards);
            let mut random = Random(seed);
            let shard = |random: &mut Random| random.below(usize::from(shards)) as u16;
            let (bob, _) = join(&mut net, shard(&mut random), 9, "bob");
            let (ann, token) = join(&mut net, shard(&mut random), 0, "ann");
            let mut number = 0;
            let mut next = |net: &mut Net, count: usize| {
                (0..count).for_each(|_| {
                    number += 1;
                    say(net, bob, number);
                });
                number
            };
            next(&mut net, 1 + random.below(3));
            net.run();
            let seen = net.take(ann);
            let position = seen[random.below(seen.len())].clone();
            next(&mut net, random.below(3));
            net.lose(ann);
            net.run();
            next(&mut net, random.below(4));
            let again = net.join(shard(&mut random), 1, "ann");
            net.send(again, &resume_from(&token, &position));
            for _ in 0..random.below(40) {
                match random.below(4) {
                    0 => drop(next(&mut net, 1)),
                    1 => drop(net.settle(random.below(usize::from(shards)) as u16, 1)),
                    _ => drop(net.step(&mut random)),
                }
            }
            net.run();
            let last = next(&mut net, 1);
            net.run();
            let expected: Vec<u64> = (position["payload"].as_u64().expect("a number") + 1..=last).collect();
            assert_eq!(payloads(&net.take(again)), expected, "seed {seed}, {shards} shards");
        }
    }
}
