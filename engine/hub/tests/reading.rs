//! Reading the past: however many ask for however much, a turn of a shard reads a bounded part, in the order in which it
//! was asked for, and nobody else waits for it.

mod harness;

use harness::{Client, Net, Random, TURN_BYTES, packed, unlimited};
use serde_json::{Value, json};

const CHANNEL: &str = "conversation:1";

/// A channel with so many lists of numbers, kept as MessagePack.
fn with_lists(net: &mut Net, lists: usize) {
    let ann = net.join_binary(0, 0, "ann");
    for number in 0..lists {
        let payload: Vec<Value> = (0..200).map(|at| json!(at + number)).collect();
        let message = json!({"type": "publish", "channel": CHANNEL, "payload": payload});
        net.send_packed(ann, &packed(&message));
    }
    net.run();
    net.close(ann);
    net.run();
}

fn query(net: &mut Net, client: Client, id: usize) {
    let params = json!({"channel": CHANNEL, "limit": 5});
    let message = json!({"type": "query", "id": id, "method": "history", "params": params});
    net.send(client, &message.to_string());
}

/// Ids of the answers that came since the last time.
fn answered(net: &mut Net, clients: &[Client]) -> Vec<u64> {
    let seen: Vec<Value> = clients.iter().flat_map(|client| net.take(*client)).collect();
    let answers = seen.into_iter().filter(|it| it["type"] == "response");
    let ids = answers.map(|it| {
        assert_eq!(it["result"]["messages"].as_array().map(Vec::len), Some(5), "{it}");
        it["id"].as_u64().expect("a number")
    });
    ids.collect()
}

fn a_turn_reads_a_bounded_part() {
    let mut net = Net::new(1, 5, unlimited());
    with_lists(&mut net, 20);
    let clients: Vec<Client> = (1..=40).map(|slot| net.join(0, slot, &format!("r{slot}"))).collect();
    let bystander = net.join(0, 50, "bystander");
    answered(&mut net, &clients);
    net.take(bystander);
    net.hubs[0].begin_turn();
    for (id, client) in clients.iter().enumerate() {
        query(&mut net, *client, id);
    }
    let (mut all, mut turns) = (answered(&mut net, &clients), 0);
    net.send(bystander, r#"{"type":"ping"}"#);
    assert_eq!(net.take(bystander).len(), 1, "who reads nothing waits for nobody");
    // An answer is five lists of about 800 bytes: the first transcodes them, for the others they are only copied.
    assert_eq!(all.len(), 1);
    while net.settle(0, 100) {
        let more = answered(&mut net, &clients);
        assert!((1..=1 + TURN_BYTES * 8 / 4_000).contains(&more.len()), "{} in one turn", more.len());
        (all, turns) = ([all, more].concat(), turns + 1);
    }
    all.extend(answered(&mut net, &clients));
    assert_eq!(all, (0..40).collect::<Vec<u64>>(), "in turn");
    assert!(turns > 10, "{turns}");
}

#[test]
fn readers_wait_for_their_turns() {
    a_turn_reads_a_bounded_part();
}

#[test]
fn who_leaves_while_it_waits_leaves_nothing() {
    for shards in 1..=3 {
        let mut net = Net::new(shards, 5, unlimited());
        with_lists(&mut net, 20);
        let readers: Vec<Client> = (1..=6).map(|slot| net.join(slot as u16 % shards, slot, "r")).collect();
        for client in &readers {
            net.take(*client);
            for id in 0..3 {
                query(&mut net, *client, id);
            }
            let subscribe = json!({"type": "subscribe", "id": "s", "channel": CHANNEL, "history": 5});
            net.send(*client, &subscribe.to_string());
            net.send(*client, &json!({"type": "unsubscribe", "id": "u", "channel": CHANNEL}).to_string());
            net.send(*client, &json!({"type": "subscribe", "id": "t", "channel": CHANNEL}).to_string());
        }
        net.run();
        let ann = net.join(0, 0, "ann");
        net.send(ann, &json!({"type": "publish", "channel": CHANNEL, "payload": "new"}).to_string());
        net.run();
        for client in &readers {
            let seen = net.take(*client);
            let of = |kind: &str| seen.iter().filter(|it| it["type"] == kind).collect::<Vec<_>>();
            assert_eq!((of("response").len(), of("unsubscribed").len()), (3, 1), "{seen:?}");
            assert_eq!((of("error").len(), &of("error")[0]["code"]), (1, &json!("CANCELLED")), "{seen:?}");
            assert_eq!((of("subscribed").len(), &of("subscribed")[0]["id"]), (1, &json!("t")), "{seen:?}");
            assert_eq!((of("message").len(), &of("message")[0]["payload"]), (1, &json!("new")), "{seen:?}");
        }
        for client in readers.iter().chain(&[ann]) {
            net.close(*client);
        }
        net.run();
        assert!(net.is_empty());
        assert_eq!(net.hubs.iter().map(|it| it.channels().0).sum::<usize>(), 0);
    }
}

#[test]
fn whatever_happens_meanwhile_recovery_is_whole() {
    for seed in 1..=60 {
        let shards = 1 + (seed % 4) as u16;
        println!("seed {seed}, {shards} shards");
        let (mut net, mut random) = (Net::new(shards, seed, unlimited()), Random(seed));
        with_lists(&mut net, 20);
        let ann = net.join(0, 0, "ann");
        let readers: Vec<Client> =
            (1..=5).map(|slot| net.join(random.below(shards.into()) as u16, slot, "r")).collect();
        let epoch =
            net.ask(readers[0], &json!({"type": "subscribe", "channel": CHANNEL}).to_string())[0]["epoch"]
                .clone();
        net.ask(readers[0], &json!({"type": "unsubscribe", "channel": CHANNEL}).to_string());
        let mut asked = std::collections::BTreeSet::new();
        for round in 0..200 {
            match random.below(8) {
                0 => net
                    .send(ann, &json!({"type": "publish", "channel": CHANNEL, "payload": round}).to_string()),
                1..=2 => {
                    let reader = readers[random.below(5)];
                    if asked.insert(reader) {
                        let recover = json!({"epoch": epoch, "offset": random.below(20)});
                        let message = json!({"type": "subscribe", "channel": CHANNEL, "recover": recover});
                        net.send(reader, &message.to_string());
                    } else {
                        query(&mut net, reader, round);
                    }
                }
                3 => drop(net.settle(random.below(shards.into()) as u16, 1 + random.below(3))),
                _ => {
                    net.step(&mut random);
                }
            }
        }
        net.send(ann, &json!({"type": "publish", "channel": CHANNEL, "payload": "last"}).to_string());
        net.run();
        for reader in asked {
            let mut at = None;
            for it in net.take(reader) {
                let offsets = match it["type"].as_str() {
                    Some("subscribed") if it["recovered"] == true => {
                        let messages = it["messages"].as_array().cloned().unwrap_or_default();
                        let last = it["offset"].as_u64().expect("a number");
                        at = Some(last - messages.len() as u64);
                        messages
                    }
                    Some("message") => vec![it],
                    _ => continue,
                };
                for message in offsets {
                    let next = at.expect("`subscribed` comes first") + 1;
                    assert_eq!(message["offset"], next, "nothing is missing and nothing comes twice");
                    at = Some(next);
                }
            }
        }
    }
}

/// The tests can fail: this bug, planted, is found by the one above.
#[cfg(feature = "canaries")]
#[test]
fn planted_bugs_are_found() {
    use corecast_hub::canary::{Canary, plant};
    plant(Some(Canary::TurnUnbounded));
    let result = std::panic::catch_unwind(a_turn_reads_a_bounded_part);
    plant(None);
    assert!(result.is_err(), "it was not noticed");
}
