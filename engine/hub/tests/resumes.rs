//! What a client gets when its session goes on: what it missed, once and in order, and its presence.

mod harness;

use harness::Net;
use harness::sessions::{WINDOW_MS, join, moves, net, publish, resumed};
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
