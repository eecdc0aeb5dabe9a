//! What a client gets when its session goes on: what it missed, once and in order, and its presence.

mod harness;

use harness::sessions::{WINDOW_MS, join, moves, net, publish, resume, resumed, token_of};
use harness::{Client, Net};
use serde_json::{Value, json};

/// The payloads of a channel's messages.
fn payloads_of(messages: &[Value], channel: &str) -> Vec<Value> {
    let of_channel = messages.iter().filter(|it| it["type"] == "message" && it["channel"] == channel);
    of_channel.map(|it| it["payload"].clone()).collect()
}

#[test]
fn what_was_missed_follows_resumed_once_and_in_order() {
    for shards in 1..=4u16 {
        for seed in 1..=60 {
            let mut net = net(shards);
            let mut random = harness::Random(seed);
            let shard = |random: &mut harness::Random| random.below(usize::from(shards)) as u16;
            let (bob, _) = join(&mut net, shard(&mut random), 9, "bob");
            let (ann, token) = join(&mut net, shard(&mut random), 0, "ann");
            net.subscribe(ann, "conversation:1");
            net.subscribe(ann, "agent:7");
            let mut number = 0;
            let mut say = |net: &mut Net, count: usize| {
                for _ in 0..count {
                    number += 1;
                    for channel in ["conversation:1", "agent:7"] {
                        publish(net, bob, channel, &json!(number));
                    }
                }
                number
            };
            say(&mut net, random.below(4));
            net.run();
            let seen = net.take(ann);
            let had = payloads_of(&seen, "conversation:1").len();
            let positions: serde_json::Map<_, _> = ["conversation:1", "agent:7"]
                .into_iter()
                .filter_map(|channel| {
                    let last = seen.iter().rfind(|it| it["channel"] == channel && it["type"] == "message")?;
                    Some((channel.to_owned(), json!([last["epoch"], last["offset"]])))
                })
                .collect();
            let has_positions = !positions.is_empty();
            say(&mut net, random.below(3));
            if random.chance(2) {
                net.lose(ann);
            }
            say(&mut net, random.below(8));
            let (again, _) = join(&mut net, shard(&mut random), 1, "ann");
            say(&mut net, random.below(3));
            let request = json!({"type": "resume", "id": 9, "token": token, "positions": positions});
            net.send(again, &request.to_string());
            for _ in 0..random.below(40) {
                match random.below(4) {
                    0 => drop(say(&mut net, 1)),
                    1 => drop(net.settle(random.below(usize::from(shards)) as u16, 1)),
                    _ => drop(net.step(&mut random)),
                }
            }
            say(&mut net, 1);
            net.run();
            let last = say(&mut net, 1);
            net.run();
            let seen = net.take(again);
            let at = seen.iter().position(|it| it["type"] == "resumed").unwrap_or_else(|| panic!("{seen:?}"));
            assert_eq!(payloads_of(&seen[..at], "conversation:1"), Vec::<Value>::new());
            for channel in ["conversation:1", "agent:7"] {
                let list = seen[at]["subscriptions"].as_array().expect("a list");
                let told = list.iter().find(|it| it["channel"] == channel).expect("it is subscribed");
                let got = payloads_of(&seen, channel);
                let all: Vec<Value> = (1..=last).map(|number: u64| json!(number)).collect();
                assert_eq!(told["recovered"], has_positions, "{told}");
                if has_positions {
                    assert_eq!(got, all[had..], "seed {seed}, {shards} shards, {channel}: {seen:#?}");
                } else {
                    assert!(all.ends_with(&got) && !got.is_empty(), "seed {seed}: {got:?}");
                }
            }
        }
    }
}

#[test]
fn a_channel_without_a_past_is_live_from_resumed_on() {
    for (from, to) in moves(2) {
        let mut net = net(2);
        let (bob, _) = join(&mut net, 0, 9, "bob");
        let (ann, token) = join(&mut net, from, 0, "ann");
        net.subscribe(ann, "room");
        net.lose(ann);
        net.run();
        let (again, _) = join(&mut net, to, 1, "ann");
        let answer = resumed(&mut net, again, &token);
        assert_eq!(answer["subscriptions"][0]["recovered"], false);
        publish(&mut net, bob, "room", &json!(1));
        net.run();
        assert_eq!(net.payloads(again), [json!(1)]);
    }
}

/// Seed 138 of the simulator: patterns were live before `resumed` was written, while other homes had not answered yet.
#[test]
fn patterns_are_live_from_resumed_on() {
    for shards in 1..=4u16 {
        for seed in 1..=60 {
            let mut net = net(shards);
            let mut random = harness::Random(seed);
            let shard = |random: &mut harness::Random| random.below(usize::from(shards)) as u16;
            let (bob, _) = join(&mut net, shard(&mut random), 9, "bob");
            let (ann, token) = join(&mut net, shard(&mut random), 0, "ann");
            ["agent:*", "conversation:1", "metrics:*", "conversation:2"]
                .iter()
                .for_each(|it| net.subscribe(ann, it));
            net.lose(ann);
            net.run();
            let (again, _) = join(&mut net, shard(&mut random), 1, "ann");
            net.send(again, &json!({"type": "resume", "id": 9, "token": token}).to_string());
            for number in 0..40 {
                match random.below(3) {
                    0 => publish(&mut net, bob, ["agent:7", "metrics:3"][number % 2], &json!(number)),
                    1 => drop(net.settle(random.below(usize::from(shards)) as u16, 1)),
                    _ => drop(net.step(&mut random)),
                }
            }
            net.run();
            publish(&mut net, bob, "agent:7", &json!("last"));
            publish(&mut net, bob, "metrics:3", &json!("last"));
            net.run();
            let seen = net.take(again);
            let at = seen.iter().position(|it| it["type"] == "resumed").unwrap_or_else(|| panic!("{seen:?}"));
            for channel in ["agent:7", "metrics:3"] {
                let before = payloads_of(&seen[..at], channel);
                assert!(before.is_empty(), "seed {seed}, {shards} shards: {before:?} came before `resumed`");
                assert_eq!(payloads_of(&seen, channel).last(), Some(&json!("last")), "{seen:?}");
            }
        }
    }
}

#[test]
fn what_the_connection_subscribed_by_itself_stays_as_it_is() {
    for (from, to) in moves(2) {
        let mut net = net(2);
        let (bob, _) = join(&mut net, 0, 9, "bob");
        let (ann, token) = join(&mut net, from, 0, "ann");
        net.subscribe(ann, "conversation:1");
        net.lose(ann);
        let (again, _) = join(&mut net, to, 1, "ann");
        net.subscribe(again, "conversation:1");
        publish(&mut net, bob, "conversation:1", &json!(1));
        net.run();
        assert_eq!(net.payloads(again), [json!(1)]);
        let answer = resumed(&mut net, again, &token);
        assert_eq!(answer["subscriptions"][0]["recovered"], false);
        publish(&mut net, bob, "conversation:1", &json!(2));
        net.run();
        assert_eq!(net.payloads(again), [json!(2)], "each once");
    }
}

/// Seed 7002 of the simulator: it was in the connection's own subscriptions, and among those still to be restored.
#[test]
fn what_is_lost_while_it_is_restored_has_each_subscription_once() {
    for shards in 1..=4u16 {
        for seed in 1..=60 {
            let mut net = net(shards);
            let mut random = harness::Random(seed);
            let shard = |random: &mut harness::Random| random.below(usize::from(shards)) as u16;
            let (ann, token) = join(&mut net, shard(&mut random), 0, "ann");
            let channels = ["conversation:1", "conversation:2", "conversation:3"];
            channels.iter().for_each(|channel| net.subscribe(ann, channel));
            net.run();
            net.lose(ann);
            let (second, _) = join(&mut net, shard(&mut random), 1, "ann");
            net.subscribe(second, "conversation:3");
            let request = json!({"type": "resume", "id": 9, "token": token});
            net.send(second, &request.to_string());
            for _ in 0..random.below(12) {
                match random.below(2) {
                    0 => drop(net.settle(random.below(usize::from(shards)) as u16, 1)),
                    _ => drop(net.step(&mut random)),
                }
            }
            net.lose(second);
            net.run();
            let (third, _) = join(&mut net, shard(&mut random), 2, "ann");
            net.send(third, &request.to_string());
            net.run();
            let seen = net.take(third);
            let resumed =
                seen.iter().find(|it| it["type"] == "resumed").unwrap_or_else(|| panic!("{seen:?}"));
            let listed = resumed["subscriptions"].as_array().expect("a list");
            let mut names: Vec<_> = listed.iter().map(|it| it["channel"].as_str().expect("a name")).collect();
            names.sort_unstable();
            assert_eq!(names, channels, "{shards} shards, seed {seed}");
        }
    }
}

fn of_event(net: &mut Net, client: Client, channel: &str, event: &str) {
    let message = json!({"type": "publish", "channel": channel, "event": event, "payload": 1});
    net.send(client, &message.to_string());
}

/// Of the messages among these the channel, the event and how many were left out before.
fn events_of(seen: &[Value]) -> Vec<(&str, &str, u64)> {
    let messages = seen.iter().filter(|it| it["type"] == "message");
    let skipped = |it: &Value| it.get("skipped").map_or(0, |it| it.as_u64().expect("a number"));
    let texts = messages.map(|it| (it["channel"].as_str(), it["event"].as_str(), skipped(it)));
    texts.map(|(channel, event, skipped)| (channel.expect("one"), event.expect("one"), skipped)).collect()
}

/// Also of what was missed, and twice: a session that was resumed has all of it again.
#[test]
fn filters_go_with_the_session() {
    for (from, to) in moves(3) {
        let mut net = net(3);
        let (bob, _) = join(&mut net, 0, 9, "bob");
        let (mut ann, mut token) = join(&mut net, from, 0, "ann");
        let wanted = json!({"type": "subscribe", "channel": "conversation:1", "events": ["x", "y"]});
        let at = net.ask(ann, &wanted.to_string());
        let wanted = json!({"type": "subscribe", "channel": "agent:*", "events": ["x"], "max_rate": 2});
        net.ask(ann, &wanted.to_string());
        for round in 0..2 {
            net.lose(ann);
            // Until the bucket of its rate is full again.
            net.wait_ms(1_000);
            for event in ["x", "z", "y"] {
                of_event(&mut net, bob, "conversation:1", event);
            }
            net.run();
            ann = join(&mut net, to, 1 + round, "ann").0;
            let positions = json!({"conversation:1": [at[0]["epoch"], 7 * u64::from(round)]});
            let request = json!({"type": "resume", "id": 9, "token": token, "positions": positions});
            let seen = net.ask(ann, &request.to_string());
            let expected = [("conversation:1", "x", 0), ("conversation:1", "y", 1)];
            assert_eq!(
                (&seen[0]["type"], events_of(&seen)),
                (&json!("resumed"), expected.into()),
                "{seen:?}"
            );
            token = token_of(&seen[0]);
            for (channel, event) in [("conversation:1", "z"), ("agent:7", "z"), ("conversation:1", "y")] {
                of_event(&mut net, bob, channel, event);
            }
            for _ in 0..3 {
                of_event(&mut net, bob, "agent:7", "x");
            }
            net.run();
            let seen = net.take(ann);
            let expected = [("conversation:1", "y", 1), ("agent:7", "x", 1), ("agent:7", "x", 0)];
            let mut got = events_of(&seen);
            got.sort_by_key(|it| it.0.starts_with("agent"));
            assert_eq!(got, expected, "{from} to {to}");
            of_event(&mut net, bob, "conversation:1", "x");
            of_event(&mut net, bob, "conversation:1", "x");
            net.run();
            assert_eq!(net.take(ann).len(), 2, "nothing bounds this one");
        }
    }
}

/// Events of a channel or of all with its prefix, so many per second.
fn rated(net: &mut Net, client: Client, name: &str) {
    let wanted = json!({"type": "subscribe", "channel": name, "max_rate": 4});
    net.ask(client, &wanted.to_string());
}

/// Publishes so many, and how many of them come.
fn burst(net: &mut Net, (publisher, reader): (Client, Client), count: usize) -> usize {
    for _ in 0..count {
        of_event(net, publisher, "conversation:1", "x");
    }
    net.run();
    net.payloads(reader).len()
}

/// Lost and back, or taken over from a connection that is still there.
#[test]
fn resuming_does_not_fill_the_bucket_of_a_rate() {
    for name in ["conversation:1", "conversation:*"] {
        for ((from, to), is_lost) in moves(3).flat_map(|it| [(it, true), (it, false)]) {
            let mut net = net(3);
            let (bob, _) = join(&mut net, 0, 9, "bob");
            let (ann, token) = join(&mut net, from, 0, "ann");
            rated(&mut net, ann, name);
            assert_eq!(burst(&mut net, (bob, ann), 6), 4, "a full bucket");
            if is_lost {
                net.lose(ann);
                net.run();
            }
            let (again, _) = join(&mut net, to, 1, "ann");
            let answer = resumed(&mut net, again, &token);
            let how = format!("{name}, {from} to {to}, lost: {is_lost}");
            assert_eq!(burst(&mut net, (bob, again), 3), 0, "no time has passed: {how}");
            net.wait_ms(500);
            assert_eq!(burst(&mut net, (bob, again), 3), 2, "half of it has dripped in: {how}");
            // It drips on while the session waits, and never beyond its rim.
            net.lose(again);
            net.wait_ms(250);
            let (third, _) = join(&mut net, from, 2, "ann");
            let answer = resumed(&mut net, third, &token_of(&answer));
            assert_eq!(burst(&mut net, (bob, third), 3), 1, "{how}");
            net.lose(third);
            net.wait_ms(5_000);
            let (last, _) = join(&mut net, to, 3, "ann");
            resumed(&mut net, last, &token_of(&answer));
            assert_eq!(burst(&mut net, (bob, last), 9), 4, "{how}");
        }
    }
}

/// Nor does it where the connection had subscribed by itself before.
#[test]
fn resuming_does_not_fill_the_bucket_of_what_the_connection_has_by_itself() {
    for (from, to) in moves(2) {
        let mut net = net(2);
        let (bob, _) = join(&mut net, 0, 9, "bob");
        let (ann, token) = join(&mut net, from, 0, "ann");
        net.subscribe(ann, "conversation:1");
        net.lose(ann);
        let (again, _) = join(&mut net, to, 1, "ann");
        rated(&mut net, again, "conversation:1");
        assert_eq!(burst(&mut net, (bob, again), 6), 4, "a full bucket");
        resumed(&mut net, again, &token);
        assert_eq!(burst(&mut net, (bob, again), 3), 0, "no time has passed: {from} to {to}");
        net.wait_ms(500);
        assert_eq!(burst(&mut net, (bob, again), 3), 2, "{from} to {to}");
    }
}

/// What it asked for by itself, it asked for last: neither a filter nor acknowledgements of the session change it.
#[test]
fn what_the_connection_filters_by_itself_stays_as_it_is() {
    let (all, some, acking) = (json!({}), json!({"events": ["x"]}), json!({"ack": true}));
    for (before, own, expected) in [
        (&some, &all, vec![("conversation:1", "y", 0), ("conversation:1", "x", 0)]),
        (&all, &some, vec![("conversation:1", "x", 1)]),
        (&some, &acking, vec![("conversation:1", "y", 0), ("conversation:1", "x", 0)]),
        (&acking, &some, vec![("conversation:1", "x", 1)]),
    ] {
        for (from, to) in moves(2) {
            let mut net = net(2);
            let (bob, _) = join(&mut net, 0, 9, "bob");
            let wanting = |options: &Value| {
                let mut message = json!({"type": "subscribe", "channel": "conversation:1"});
                message.as_object_mut().expect("one").extend(options.as_object().expect("one").clone());
                message.to_string()
            };
            let (ann, token) = join(&mut net, from, 0, "ann");
            net.ask(ann, &wanting(before));
            net.lose(ann);
            let (again, _) = join(&mut net, to, 1, "ann");
            net.ask(again, &wanting(own));
            resumed(&mut net, again, &token);
            for event in ["y", "x"] {
                of_event(&mut net, bob, "conversation:1", event);
            }
            net.run();
            assert_eq!(events_of(&net.take(again)), expected, "{before} and then {own}");
        }
    }
}

#[test]
fn presence_stays_while_suspended_and_moves_with_its_session() {
    for (from, to) in moves(3) {
        let mut net = net(3);
        let (eve, _) = join(&mut net, 0, 9, "eve");
        let (ann, token) = join(&mut net, from, 0, "ann");
        let watch = json!({"type": "subscribe", "channel": "conversation:1", "presence": true}).to_string();
        net.ask(eve, &watch);
        net.ask(ann, &watch);
        net.wait_ms(1_000);
        net.take(eve);
        net.lose(ann);
        net.wait_ms(1_000);
        let (again, _) = join(&mut net, to, 1, "ann");
        resumed(&mut net, again, &token);
        net.wait_ms(1_000);
        assert_eq!(net.take(eve), Vec::<Value>::new(), "nobody left: {from} to {to}");
        let (bob, _) = join(&mut net, 1, 8, "bob");
        net.subscribe(bob, "conversation:1");
        net.wait_ms(1_000);
        for watcher in [eve, again] {
            let told = net.take(watcher);
            assert_eq!(
                (&told[0]["name"], &told[0]["participants"]),
                (&json!("join"), &json!(["bob"])),
                "{told:?}"
            );
        }
        net.lose(again);
        net.wait_ms(WINDOW_MS);
        net.wait_ms(1_000);
        let told = net.take(eve);
        assert_eq!(
            (&told[0]["name"], &told[0]["participants"]),
            (&json!("leave"), &json!(["ann"])),
            "{told:?}"
        );
        net.close(eve);
        net.close(bob);
        net.wait_ms(WINDOW_MS);
        assert!(net.is_empty(), "{from} to {to}");
    }
}

/// Also of one that the connection is catching up with by itself.
#[test]
fn everything_of_a_channel_follows_the_position_that_resumed_names() {
    for shards in 1..=4 {
        let mut net = net(shards);
        let (bob, _) = join(&mut net, 0, 0, "bob");
        let (ann, token) = join(&mut net, 0, 1, "ann");
        net.subscribe(ann, "conversation:1");
        let large = "x".repeat(100_000);
        for _ in 0..12 {
            publish(&mut net, bob, "conversation:1", &json!(large));
        }
        net.run();
        let first = net.take(ann);
        let epoch = first.iter().find_map(|it| it["epoch"].as_str()).expect("an epoch").to_owned();
        net.lose(ann);
        net.run();
        let (again, _) = join(&mut net, shards - 1, 2, "ann");
        net.take(again);
        net.holds_room = true;
        let recover = json!({"epoch": epoch, "offset": 0});
        net.send(
            again,
            &json!({"type": "subscribe", "channel": "conversation:1", "recover": recover}).to_string(),
        );
        net.run();
        net.send(again, &resume(&token));
        net.run();
        net.holds_room = false;
        net.give_room();
        net.run();
        let seen = net.take(again);
        let at = seen.iter().position(|it| it["type"] == "resumed").unwrap_or_else(|| panic!("{seen:?}"));
        let named = seen[at]["subscriptions"][0]["offset"].as_u64().expect("an offset");
        let behind: Vec<u64> = seen[at..]
            .iter()
            .filter(|it| it["type"] == "message")
            .filter_map(|it: &Value| it["offset"].as_u64())
            .collect();
        let due: Vec<u64> = (named + 1..).take(behind.len()).collect();
        assert_eq!(behind, due, "{shards} shards, named {named}");
    }
}
