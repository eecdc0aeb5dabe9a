//! Acknowledgements where the history has forgotten a part of what was not acknowledged.

use serde_json::{Value, json};

use super::acks::{CHANNEL, TIMEOUT_MS, ack, came, publish, subscribe};
use crate::harness::{Client, Net, Random, unlimited};

/// `subscribed` and messages since the last time: what was lost up to where, and offset and attempt of the others.
fn heard(net: &mut Net, client: Client) -> Vec<(Option<u64>, u64)> {
    let number = |value: &Value| value.as_u64().expect("a number");
    let told = net.take(client).into_iter().filter_map(|it| match it["type"].as_str() {
        Some("subscribed") => {
            assert_eq!(it["recovered"], false, "{it}");
            Some((None, number(&it["offset"])))
        }
        Some("message") => Some((Some(number(&it["offset"])), it.get("attempt").map_or(1, number))),
        _ => None,
    });
    told.collect()
}

fn given_up(net: &Net) -> u64 {
    net.hubs.iter().map(|it| it.unacked_given_up()).sum()
}

fn publish_with_receipt(net: &mut Net, client: Client) {
    let message = json!({"type": "publish", "id": 1, "channel": CHANNEL, "payload": 1, "receipt": true});
    net.send(client, &message.to_string());
    net.run();
}

/// Offsets of the receipts that came, and whether the message was delivered.
fn receipts(net: &mut Net, client: Client) -> Vec<(u64, bool)> {
    let told = net.take(client).into_iter().filter(|it| it["name"] == "receipt");
    told.map(|it| (it["offset"].as_u64().expect("a number"), it["delivered"] == 1)).collect()
}

#[test]
fn what_is_kept_is_sent_again_behind_what_was_lost() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 5, unlimited());
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
        let epoch = subscribe(&mut net, bob)["epoch"].clone();
        for number in 1..=150 {
            match number {
                10 | 60 => publish_with_receipt(&mut net, ann),
                number => publish(&mut net, ann, number),
            }
            net.run();
        }
        assert_eq!(came(&mut net, bob).len(), 100);
        net.take(ann);
        net.wait_ms(TIMEOUT_MS);
        // A hundred are kept: 51 to 150.
        let again = (51..=150).map(|offset| (Some(offset), if offset <= 100 { 2 } else { 1 }));
        let expected: Vec<_> = std::iter::once((None, 50)).chain(again).collect();
        assert_eq!(heard(&mut net, bob), expected, "{shards} shards");
        assert_eq!((given_up(&net), receipts(&mut net, ann)), (50, vec![(10, false)]));
        // It is sent again until it is acknowledged.
        net.wait_ms(2 * TIMEOUT_MS);
        let again = (51..=150).map(|offset| (Some(offset), if offset <= 100 { 3 } else { 2 }));
        assert_eq!(heard(&mut net, bob), again.collect::<Vec<_>>());
        ack(&mut net, bob, &epoch, 150);
        net.run();
        assert_eq!((given_up(&net), receipts(&mut net, ann)), (50, vec![(60, true)]));
        publish(&mut net, ann, 151);
        net.run();
        assert_eq!(heard(&mut net, bob), [(Some(151), 1)], "and it is live");
        ack(&mut net, bob, &epoch, 151);
        net.wait_ms(100 * TIMEOUT_MS);
        assert_eq!(heard(&mut net, bob), []);
    }
}

#[test]
fn what_was_never_sent_and_is_lost_is_told_too() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 5, unlimited());
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
        let epoch = subscribe(&mut net, bob)["epoch"].clone();
        for number in 1..=250 {
            publish(&mut net, ann, number);
            net.run();
        }
        assert_eq!(came(&mut net, bob).len(), 100);
        ack(&mut net, bob, &epoch, 100);
        net.run();
        let rest = (151..=250).map(|offset| (Some(offset), 1));
        assert_eq!(heard(&mut net, bob), std::iter::once((None, 150)).chain(rest).collect::<Vec<_>>());
        assert_eq!(given_up(&net), 50);
        ack(&mut net, bob, &epoch, 250);
        publish(&mut net, ann, 251);
        net.run();
        assert_eq!(heard(&mut net, bob), [(Some(251), 1)]);
    }
}

/// Faster than it is acknowledged and than it is kept, for as long as it takes: offsets that are neither told as lost
/// nor come are a defect, and so is a message that comes again before its turn.
#[test]
fn faster_than_it_is_acknowledged_nothing_is_lost_in_silence() {
    let mut losses = 0;
    for seed in 1..=40 {
        let shards = 1 + (seed % 4) as u16;
        println!("seed {seed}, {shards} shards");
        let (mut net, mut random) = (Net::new(shards, seed, unlimited()), Random(seed));
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
        let epoch = subscribe(&mut net, bob)["epoch"].clone();
        let (mut seen, mut acked, mut published) = (0, 0, 0);
        for _ in 0..600 {
            match random.below(8) {
                0..=1 => {
                    for _ in 0..random.below(30) {
                        published += 1;
                        publish(&mut net, ann, published);
                    }
                }
                2 => net.advance(std::time::Duration::from_millis(random.below(6_000) as u64)),
                3 if random.chance(3) => {
                    acked = acked.max(seen - random.below((seen - acked) as usize + 1) as u64);
                    ack(&mut net, bob, &epoch, acked);
                }
                4 => net.run(),
                _ => {
                    net.step(&mut random);
                }
            }
            let mut last = None;
            for (offset, at) in heard(&mut net, bob) {
                match offset {
                    None => {
                        (seen, acked, losses) = (seen.max(at), acked.max(at), losses + 1);
                        last = Some(at);
                    }
                    Some(offset) => {
                        assert!(offset <= seen + 1, "{offset} behind {seen}");
                        assert!(last.is_none_or(|last| offset == last + 1 || offset <= last));
                        (seen, last) = (seen.max(offset), Some(offset));
                    }
                }
            }
        }
        for _ in 0..20 {
            net.run();
            for (offset, at) in heard(&mut net, bob) {
                let next = offset.unwrap_or(at);
                assert!(offset.is_none() || next <= seen + 1, "{next} behind {seen}");
                seen = seen.max(next);
            }
            ack(&mut net, bob, &epoch, seen);
        }
        assert_eq!(seen, published, "all came or was told");
    }
    assert!(losses > 40, "the storms test something: {losses}");
}
