//! Inboxes: what is kept for who is away, who gets it, how often, and for how long.

mod harness;

use std::time::Duration;

use corecast_hub::{Format, HubLimits, Idle};
use harness::{Client, Net, Random, binary, development, unlimited};
use serde_json::{Value, json};

const TO_BOB: &str = r#"{"type":"publish","id":1,"to":"bob","store":true,"payload":"#;

/// Sends bob something to be kept: the answer.
fn store(net: &mut Net, from: Client, payload: impl Into<Value>) -> Value {
    let answers = net.ask(from, &format!("{TO_BOB}{}}}", payload.into()));
    answers[0].clone()
}

fn offsets(messages: &[Value]) -> Vec<u64> {
    messages.iter().filter_map(|it| it["offset"].as_u64()).collect()
}

/// What bob gets when he comes, behind `connection_established`.
fn come(net: &mut Net, shard: u16, slot: u32, format: Format) -> (Client, Vec<Value>) {
    let open = if format == Format::Json { development("bob") } else { binary("bob") };
    let bob = net.open_with(shard, slot, open);
    net.run();
    let mut seen = net.take(bob);
    assert_eq!(seen.remove(0)["type"], "connection_established");
    (bob, seen)
}

/// Once nothing moves any more time passes, and what is due by then is done.
fn pass(net: &mut Net, by: Duration) {
    net.run();
    net.advance(by);
    net.run();
}

fn limits(change: impl FnOnce(&mut HubLimits)) -> HubLimits {
    let mut limits = unlimited();
    change(&mut limits);
    limits
}

#[test]
fn what_is_stored_for_who_is_away_comes_first_on_return() {
    for shards in 1..=4 {
        for format in [Format::Json, Format::MessagePack] {
            let mut net = Net::new(shards, 3, unlimited());
            let ann = net.join(0, 0, "ann");
            let refused = net.ask(ann, r#"{"type":"publish","id":1,"to":"bob","payload":1}"#);
            assert_eq!((&refused[0]["type"], &refused[0]["code"]), (&json!("error"), &json!("NOT_FOUND")));
            let first = store(&mut net, ann, 1);
            assert_eq!((&first["type"], &first["result"]["offset"]), (&json!("response"), &json!(1)));
            assert_eq!(store(&mut net, ann, json!({"n": 2}))["result"]["offset"], 2);
            let (bob, seen) = come(&mut net, shards - 1, 7, format);
            assert_eq!(offsets(&seen), [1, 2], "{shards} shards");
            let expected = json!({
                "type": "message", "channel": "@me", "to": "bob", "payload": 1, "publisher": "ann",
                "epoch": first["result"]["epoch"], "offset": 1, "timestamp": 1_700_000_000_000u64,
            });
            assert_eq!(seen[0], expected);
            assert_eq!(seen[1]["payload"], json!({"n": 2}));
            net.ask(ann, r#"{"type":"publish","to":"bob","payload":3}"#);
            assert_eq!(offsets(&net.take(bob)), [3], "and then he is live");
        }
    }
}

#[test]
fn ephemeral_messages_leave_no_trace() {
    for shards in 1..=3 {
        let mut net = Net::new(shards, 5, unlimited());
        let ann = net.join(0, 0, "ann");
        let typing = r#"{"type":"publish","id":1,"to":"bob","event":"user_typing","store":true,"payload":1}"#;
        assert_eq!(net.ask(ann, typing)[0]["code"], "NOT_FOUND");
        let (bob, _) = come(&mut net, shards - 1, 7, Format::Json);
        let position = net.ask(bob, r#"{"type":"subscribe","channel":"@me"}"#)[0].clone();
        assert_eq!((&position["type"], &position["offset"]), (&json!("subscribed"), &json!(0)));
        net.ask(ann, r#"{"type":"publish","to":"bob","store":false,"payload":1}"#);
        net.ask(ann, typing);
        assert_eq!(offsets(&net.take(bob)), [0, 0], "they carry the offset that the inbox has");
        let recover = json!({"type": "subscribe", "channel": "@me",
            "recover": {"epoch": position["epoch"], "offset": 0}});
        let seen = net.ask(bob, &recover.to_string());
        assert_eq!((seen.len(), &seen[0]["recovered"]), (1, &json!(true)), "{seen:?}");
    }
}

#[test]
fn it_comes_again_until_somebody_is_known_to_have_got_it() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 11, unlimited());
        let ann = net.join(0, 0, "ann");
        let epoch = store(&mut net, ann, 1)["result"]["epoch"].clone();
        for number in 2..=4 {
            store(&mut net, ann, number);
        }
        let (bob, seen) = come(&mut net, shards - 1, 1, Format::Json);
        assert_eq!(offsets(&seen), [1, 2, 3, 4]);
        // A second device comes meanwhile: nobody knows whether the first one got anything.
        let (other, seen) = come(&mut net, 0, 2, Format::Json);
        assert_eq!(offsets(&seen), [1, 2, 3, 4]);
        let ack =
            |offset| json!({"type": "ack", "channel": "@me", "epoch": epoch, "offset": offset}).to_string();
        assert_eq!(net.ask(bob, &ack(2)), Vec::<Value>::new());
        net.close(bob);
        net.close(other);
        net.run();
        let (bob, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [3, 4], "what was acknowledged does not come again");
        net.ask(bob, &ack(9));
        net.close(bob);
        let (bob, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [] as [u64; 0]);
        net.close(bob);
        net.run();
        store(&mut net, ann, 5);
        let (bob, seen) = come(&mut net, shards - 1, 1, Format::Json);
        assert_eq!(offsets(&seen), [5]);
        pass(&mut net, Duration::from_millis(HubLimits::default().ack_timeout_ms));
        net.close(bob);
        let (_, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [] as [u64; 0], "who stays has got it");
    }
}

/// Bob comes, and what he gets stays in his outbox.
fn come_clogged(net: &mut Net, shard: u16, slot: u32) -> (Client, Vec<Value>) {
    let bob = net.open(shard, slot, "bob");
    net.busy.insert(bob);
    net.run();
    let mut seen = net.take(bob);
    assert_eq!(seen.remove(0)["type"], "connection_established");
    (bob, seen)
}

/// All that waited for a client has just been written, if anybody wants to know.
fn drain(net: &mut Net, client: Client) {
    if net.awaited.contains_key(&client) {
        net.idle(client, Idle::Now);
    }
    net.run();
}

#[test]
fn what_waits_in_an_outbox_is_not_seen() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 11, unlimited());
        let ann = net.join(0, 0, "ann");
        (1..=3).for_each(|number| drop(store(&mut net, ann, number)));
        let (bob, seen) = come_clogged(&mut net, shards - 1, 1);
        assert_eq!(offsets(&seen), [1, 2, 3]);
        let timeout = Duration::from_millis(HubLimits::default().ack_timeout_ms);
        pass(&mut net, 10 * timeout);
        net.close(bob);
        net.run();
        let (bob, seen) = come_clogged(&mut net, 0, 1);
        assert_eq!(offsets(&seen), [1, 2, 3], "{shards} shards: it may have died with them in its outbox");
        pass(&mut net, timeout);
        assert!(net.awaited.contains_key(&bob));
        drain(&mut net, bob);
        pass(&mut net, timeout - Duration::from_millis(1));
        net.close(bob);
        let (bob, seen) = come(&mut net, shards - 1, 1, Format::Json);
        assert_eq!(offsets(&seen), [1, 2, 3], "it was written just now");
        pass(&mut net, timeout);
        net.close(bob);
        let (_, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [] as [u64; 0]);
    }
}

/// What was asked earlier, for acknowledgements, was answered before the messages were queued.
#[test]
fn an_answer_to_an_earlier_question_is_none_to_this_one() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 11, unlimited());
        let ann = net.join(0, 0, "ann");
        (1..=3).for_each(|number| drop(store(&mut net, ann, number)));
        let (bob, seen) = come_clogged(&mut net, shards - 1, 1);
        assert_eq!(offsets(&seen), [1, 2, 3]);
        let earlier = net.awaited[&bob] - 1;
        net.hubs[usize::from(bob.0)].idle(bob.1, earlier, Idle::Before);
        let timeout = Duration::from_millis(HubLimits::default().ack_timeout_ms);
        pass(&mut net, 2 * timeout);
        net.close(bob);
        net.run();
        let (_, seen) = come(&mut net, 0, 2, Format::Json);
        assert_eq!(offsets(&seen), [1, 2, 3], "{shards} shards: it died with them in its outbox");
    }
}

/// However long it waited in the outbox before, and however idle the connection is when that time is over.
#[test]
fn its_time_begins_when_it_is_written() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 11, unlimited());
        let ann = net.join(0, 0, "ann");
        (1..=3).for_each(|number| drop(store(&mut net, ann, number)));
        let timeout = HubLimits::default().ack_timeout_ms;
        for waited in [0, 1, timeout - 1, timeout, timeout + 1] {
            let (bob, seen) = come_clogged(&mut net, shards - 1, 1);
            assert_eq!(offsets(&seen), [1, 2, 3], "{shards} shards, before {waited} ms");
            pass(&mut net, Duration::from_millis(waited));
            net.busy.clear();
            drain(&mut net, bob);
            pass(&mut net, Duration::from_millis(1));
            pass(&mut net, Duration::from_millis(timeout - 2));
            net.close(bob);
            net.run();
        }
        let (_, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [1, 2, 3], "{shards} shards: each died 1 ms too early");
    }
}

#[test]
fn what_was_written_once_is_seen_whatever_waits_later() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 11, unlimited());
        let ann = net.join(0, 0, "ann");
        (1..=3).for_each(|number| drop(store(&mut net, ann, number)));
        let (bob, seen) = come_clogged(&mut net, shards - 1, 1);
        assert_eq!(offsets(&seen), [1, 2, 3]);
        let timeout = Duration::from_millis(HubLimits::default().ack_timeout_ms);
        // Each time something else is on its way just then; all before it is written soon.
        for _ in 0..20 {
            drain(&mut net, bob);
            pass(&mut net, timeout);
        }
        net.close(bob);
        net.run();
        let (_, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [] as [u64; 0], "{shards} shards: it stayed long enough");
    }
}

#[test]
fn who_says_goodbye_after_all_was_sent_has_got_it() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 11, unlimited());
        let ann = net.join(0, 0, "ann");
        (1..=3).for_each(|number| drop(store(&mut net, ann, number)));
        let (bob, seen) = come(&mut net, shards - 1, 1, Format::Json);
        assert_eq!(offsets(&seen), [1, 2, 3]);
        net.close(bob);
        let (bob, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [1, 2, 3], "nobody knows whether it got them");
        store(&mut net, ann, 4);
        assert_eq!(offsets(&net.take(bob)), [4]);
        net.part(bob);
        store(&mut net, ann, 5);
        let (bob, seen) = come(&mut net, shards - 1, 1, Format::Json);
        assert_eq!(
            offsets(&seen),
            [4, 5],
            "{shards} shards: what was unseen does not come again, nothing is lost"
        );
        net.part(bob);
        let (bob, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [] as [u64; 0], "{shards} shards");
        net.part(bob);
        net.close(ann);
        net.run();
        assert!(net.is_empty());
    }
}

#[test]
fn an_inbox_is_bounded_by_count_and_age() {
    for shards in 1..=2 {
        let mut net = Net::new(shards, 2, limits(|it| (it.inbox_messages, it.inbox_age_ms) = (3, 60_000)));
        let ann = net.join(0, 0, "ann");
        for number in 1..=5 {
            assert_eq!(store(&mut net, ann, number)["result"]["offset"], number);
        }
        pass(&mut net, Duration::from_secs(40));
        store(&mut net, ann, 6);
        let (bob, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [4, 5, 6], "the latest three");
        net.close(bob);
        pass(&mut net, Duration::from_secs(40));
        let (bob, seen) = come(&mut net, 0, 1, Format::Json);
        assert_eq!(offsets(&seen), [6], "the others are too old");
        net.close(bob);
        pass(&mut net, Duration::from_secs(40));
        pass(&mut net, Duration::from_secs(1));
        assert_eq!(net.hubs.iter().map(corecast_hub::Hub::history_bytes).sum::<usize>(), 0);
        let again = store(&mut net, ann, 1);
        assert_eq!(again["result"]["offset"], 1, "an inbox of which nothing was left begins anew");
    }
}

#[test]
fn an_inbox_is_recovered_like_a_channel() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 21, limits(|it| it.inbox_messages = 4));
        let ann = net.join(0, 0, "ann");
        let (bob, _) = come(&mut net, shards - 1, 1, Format::Json);
        let position = net.ask(bob, r#"{"type":"subscribe","id":"s","channel":"@me"}"#)[0].clone();
        for number in 1..=6 {
            net.ask(ann, &json!({"type": "publish", "to": "bob", "payload": number}).to_string());
        }
        assert_eq!(offsets(&net.take(bob)), [1, 2, 3, 4, 5, 6]);
        let recover = |epoch: &Value, offset: u64| {
            let recover = json!({"epoch": epoch, "offset": offset});
            json!({"type": "subscribe", "id": "s", "channel": "@me", "recover": recover}).to_string()
        };
        let seen = net.ask(bob, &recover(&position["epoch"], 4));
        assert_eq!((&seen[0]["type"], &seen[0]["recovered"]), (&json!("subscribed"), &json!(true)));
        assert_eq!((&seen[0]["id"], &seen[0]["channel"]), (&json!("s"), &json!("@me")));
        assert_eq!(seen.len(), 1, "all of it comes with the answer");
        assert_eq!(offsets(seen[0]["messages"].as_array().expect("messages")), [5, 6]);
        let latest = r#"{"type":"subscribe","id":"s","channel":"@me","history":3}"#;
        assert_eq!(offsets(net.ask(bob, latest)[0]["messages"].as_array().expect("messages")), [4, 5, 6]);
        let query = |params: Value| {
            json!({"type": "query", "id": 1, "method": "history", "params": params}).to_string()
        };
        let answer = net.ask(bob, &query(json!({"channel": "@me", "limit": 2, "direction": "backward"})));
        let result = &answer[0]["result"];
        assert_eq!(offsets(result["messages"].as_array().expect("messages")), [6, 5]);
        assert_eq!((&result["more"], &result["epoch"]), (&json!(true), &position["epoch"]));
        for (epoch, offset) in [(&position["epoch"], 1), (&json!("zzzzzzzz"), 4), (&position["epoch"], 7)] {
            let seen = net.ask(bob, &recover(epoch, offset));
            assert_eq!((seen.len(), &seen[0]["recovered"]), (1, &json!(false)), "{seen:?}");
            assert_eq!(seen[0]["messages"], json!([]));
            assert_eq!(seen[0]["offset"], 6);
        }
        net.ask(ann, r#"{"type":"publish","to":"bob","payload":7}"#);
        assert_eq!(offsets(&net.take(bob)), [7], "and he is live all the same");
        let error = net.ask(bob, r#"{"type":"unsubscribe","channel":"@me"}"#);
        assert_eq!(error[0]["code"], "FORBIDDEN");
    }
}

#[test]
fn inboxes_and_channels_share_one_bound_of_bytes() {
    let mut net = Net::new(1, 2, limits(|it| it.history_bytes = 10_000));
    let ann = net.join(0, 0, "ann");
    let publish = |net: &mut Net, target: &str, name: &str| {
        let payload = "x".repeat(3_000);
        let message = json!({"type": "publish", "id": 1, target: name, "store": true, "payload": payload});
        net.ask(ann, &message.to_string())[0]["result"]["offset"].clone()
    };
    publish(&mut net, "to", "bob");
    pass(&mut net, Duration::from_secs(1));
    publish(&mut net, "channel", "conversation:1");
    pass(&mut net, Duration::from_secs(1));
    publish(&mut net, "to", "eve");
    pass(&mut net, Duration::from_secs(1));
    assert!(net.hubs[0].history_bytes() > 9_000);
    publish(&mut net, "to", "eve");
    assert!(net.hubs[0].history_bytes() < 10_000);
    let (_, seen) = come(&mut net, 0, 1, Format::Json);
    assert_eq!(offsets(&seen), [] as [u64; 0], "bob's was used longest ago");
    pass(&mut net, Duration::from_secs(1));
    publish(&mut net, "to", "eve");
    assert!(net.hubs[0].history_bytes() < 10_000);
    let eve = net.open(0, 2, "eve");
    net.run();
    assert_eq!(offsets(&net.take(eve)), [1, 2, 3], "then the channel's");
}

/// What does not fit the answer comes by pages, and what is sent meanwhile behind it.
#[test]
fn what_is_recovered_and_what_comes_meanwhile_keep_their_order() {
    for seed in 1..=40u64 {
        let mut random = Random(seed);
        let shards = 1 + random.below(4) as u16;
        let mut net = Net::new(shards, seed, limits(|it| it.inbox_messages = 1_000));
        let ann = net.join(random.below(shards.into()) as u16, 0, "ann");
        let (bob, _) = come(&mut net, random.below(shards.into()) as u16, 1, Format::Json);
        let position = net.ask(bob, r#"{"type":"subscribe","id":"s","channel":"@me"}"#)[0].clone();
        let send = |net: &mut Net| {
            let payload = "x".repeat(20_000);
            net.send(ann, &json!({"type": "publish", "to": "bob", "payload": payload}).to_string());
        };
        (0..30).for_each(|_| send(&mut net));
        net.run();
        assert_eq!(offsets(&net.take(bob)), (1..=30).collect::<Vec<_>>());
        let recover = json!({"epoch": position["epoch"], "offset": 3});
        net.send(bob, &json!({"type": "subscribe", "channel": "@me", "recover": recover}).to_string());
        for round in 0..100 {
            if round % 5 == 0 {
                send(&mut net);
            }
            net.step(&mut random);
            net.settle(random.below(shards.into()) as u16, random.below(3));
        }
        net.run();
        let seen = net.take(bob);
        let answer = seen.iter().position(|it| it["type"] == "subscribed").expect("an answer");
        assert_eq!((&seen[answer]["recovered"], &seen[answer]["more"]), (&json!(true), &json!(true)));
        let before = offsets(&seen[..answer]);
        assert!((31..).zip(&before).all(|(expected, offset)| expected == *offset), "seed {seed}: {before:?}");
        let mut after = offsets(seen[answer]["messages"].as_array().expect("messages"));
        after.extend(offsets(&seen[answer + 1..]));
        assert_eq!(after, (4..=50).collect::<Vec<_>>(), "seed {seed}");
    }
}

/// Comes, goes and sends happen at any moment. Who is there gets offsets without a gap, and nothing that was kept while
/// nobody was there is lost, however often those who come are killed.
#[test]
fn nothing_that_was_kept_is_lost_under_any_interleaving() {
    for seed in 1..=150u64 {
        let mut random = Random(seed);
        let shards = 1 + random.below(4) as u16;
        let mut net = Net::new(shards, seed, limits(|it| it.inbox_messages = 10_000));
        let ann = net.join(random.below(shards.into()) as u16, 0, "ann");
        let mut bobs: Vec<(u32, Client, Vec<u64>)> = Vec::new();
        let (mut slots, mut kept, mut got) = (1, Vec::new(), std::collections::BTreeSet::new());
        for _ in 0..120 {
            match random.below(10) {
                0 => {
                    let client = net.open(random.below(shards.into()) as u16, slots, "bob");
                    bobs.push((slots, client, Vec::new()));
                    slots += 1;
                }
                1 | 2 if !bobs.is_empty() => {
                    let (_, client, mut seen) = bobs.swap_remove(random.below(bobs.len()));
                    seen.extend(offsets_of_inbox(&net.take(client)));
                    assert_without_gaps(seed, &seen);
                    got.extend(seen);
                    net.close(client);
                }
                3 if bobs.is_empty() => {
                    // Now everybody knows that he is away.
                    net.run();
                    for _ in 0..=random.below(6) {
                        let payload = "x".repeat([1, 25_000][random.below(2)]);
                        let answer = store(&mut net, ann, payload);
                        kept.push(answer["result"]["offset"].as_u64().expect("it was accepted"));
                    }
                }
                4 => net.send(ann, r#"{"type":"publish","to":"bob","store":true,"payload":2}"#),
                5 if random.chance(4) => pass(&mut net, Duration::from_secs(6)),
                _ => {
                    for _ in 0..random.below(6) {
                        net.step(&mut random);
                        net.settle(random.below(shards.into()) as u16, random.below(3));
                    }
                }
            }
        }
        net.run();
        let last = net.join(0, slots, "bob");
        for (client, mut seen) in
            bobs.into_iter().map(|(_, client, seen)| (client, seen)).chain([(last, Vec::new())])
        {
            seen.extend(offsets_of_inbox(&net.take(client)));
            assert_without_gaps(seed, &seen);
            got.extend(seen);
        }
        let lost: Vec<_> = kept.iter().filter(|offset| !got.contains(offset)).collect();
        assert!(lost.is_empty(), "seed {seed}: lost {lost:?} of {kept:?}");
        assert!(!kept.is_empty() || seed % 150 != 0, "the last seed keeps something");
    }
}

fn offsets_of_inbox(messages: &[Value]) -> Vec<u64> {
    offsets(&messages.iter().filter(|it| it["channel"] == "@me").cloned().collect::<Vec<_>>())
}

fn assert_without_gaps(seed: u64, seen: &[u64]) {
    assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "seed {seed}: {seen:?}");
}

/// What is kept and not sent is noticed.
#[cfg(feature = "canaries")]
#[test]
fn a_planted_bug_is_found() {
    use corecast_hub::canary::{Canary, plant};
    plant(Some(Canary::StoredMessageForgotten));
    let result = std::panic::catch_unwind(nothing_that_was_kept_is_lost_under_any_interleaving);
    plant(None);
    assert!(result.is_err(), "{} was not noticed", Canary::StoredMessageForgotten.name());
}
