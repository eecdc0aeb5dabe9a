//! Acknowledgements where something else happens too: catching up, a look back, a new epoch, an outbox that is never empty.

use std::time::Duration;

use corecast_hub::Idle;
use serde_json::{Value, json};

use super::acks::{CHANNEL, TIMEOUT_MS, ack, came, publish, subscribe};
use crate::harness::{Client, Net, sessions, unlimited};

fn offsets(net: &mut Net, client: Client) -> Vec<u64> {
    came(net, client).into_iter().map(|it| it.0).collect()
}

fn receipts(net: &mut Net, client: Client) -> Vec<Value> {
    net.take(client).into_iter().filter(|it| it["type"] == "event").collect()
}

fn publish_with_receipt(net: &mut Net, client: Client, target: Value) {
    let mut message = json!({"type": "publish", "id": 1, "payload": 1, "receipt": true});
    message.as_object_mut().expect("an object").extend(target.as_object().expect("an object").clone());
    net.send(client, &message.to_string());
    net.run();
}

#[test]
fn who_promises_acks_while_catching_up_goes_on() {
    for shards in 1..=4 {
        let mut net = sessions::net(shards);
        let (ann, _) = sessions::join(&mut net, 0, 1, "ann");
        let (bob, token) = sessions::join(&mut net, 0, 2, "bob");
        let message = json!({"type": "subscribe", "channel": CHANNEL}).to_string();
        let epoch = net.ask(bob, &message)[0]["epoch"].clone();
        ack(&mut net, bob, &epoch, 0);
        net.lose(bob);
        for number in 1..=90 {
            publish(&mut net, ann, number);
        }
        net.run();
        let (bob, _) = sessions::join(&mut net, shards - 1, 3, "bob");
        // What it missed waits until it has room: it promises while it is behind.
        net.holds_room = true;
        net.send(bob, &sessions::resume(&token));
        net.run();
        let message = json!({"type": "subscribe", "channel": CHANNEL, "ack": true});
        net.send(bob, &message.to_string());
        net.run();
        net.holds_room = false;
        net.give_room();
        net.run();
        for number in 91..=95 {
            publish(&mut net, ann, number);
        }
        net.run();
        assert_eq!(offsets(&mut net, bob), (1..=95).collect::<Vec<_>>());
        ack(&mut net, bob, &epoch, 94);
        net.run();
        net.wait_ms(2 * TIMEOUT_MS);
        assert_eq!(came(&mut net, bob), [(95, 2)]);
    }
}

#[test]
fn an_outbox_that_is_never_empty_starves_nobody_who_acknowledges() {
    for shards in [1, 3] {
        let mut net = Net::new(shards, 7, unlimited());
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
        let epoch = subscribe(&mut net, bob)["epoch"].clone();
        for number in 1..=150 {
            publish(&mut net, ann, number);
            net.run();
        }
        assert_eq!(offsets(&mut net, bob), (1..=100).collect::<Vec<_>>());
        net.busy.insert(bob);
        net.wait_ms(2 * TIMEOUT_MS);
        assert!(net.awaited.contains_key(&bob));
        ack(&mut net, bob, &epoch, 100);
        net.run();
        assert_eq!(offsets(&mut net, bob), (101..=150).collect::<Vec<_>>());
        ack(&mut net, bob, &epoch, 149);
        net.run();
        // What it heard of the outbox in the meantime is of no use any more.
        net.idle(bob, Idle::Before);
        net.run();
        assert_eq!(came(&mut net, bob), []);
        net.busy.clear();
        net.wait_ms(TIMEOUT_MS);
        assert_eq!(came(&mut net, bob), [(150, 2)], "its time goes on");
    }
}

#[test]
fn a_look_back_acknowledges_nothing() {
    for shards in 1..=4 {
        for past in [json!({"history": 1}), json!({"recover": {"epoch": "abcdefgh", "offset": 1}})] {
            let mut net = Net::new(shards, 7, unlimited());
            let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
            let epoch = subscribe(&mut net, bob)["epoch"].clone();
            publish_with_receipt(&mut net, ann, json!({"channel": CHANNEL}));
            net.take(bob);
            let mut message = json!({"type": "subscribe", "channel": CHANNEL, "ack": true});
            message.as_object_mut().expect("an object").extend(past.as_object().expect("an object").clone());
            net.send(bob, &message.to_string());
            net.run();
            assert_eq!(receipts(&mut net, ann), [] as [Value; 0], "nobody has acknowledged");
            net.take(bob);
            net.wait_ms(TIMEOUT_MS);
            assert_eq!(came(&mut net, bob), [(1, 2)]);
            publish(&mut net, ann, 2);
            net.run();
            assert_eq!(came(&mut net, bob), [(2, 1)]);
            ack(&mut net, bob, &epoch, 2);
            net.run();
            let told = receipts(&mut net, ann);
            assert_eq!((told.len(), &told[0]["delivered"]), (1, &json!(1)), "{told:?}");
        }
    }
}

#[test]
fn what_is_published_during_a_look_back_comes_behind_it() {
    for shards in 2..=4 {
        let mut net = Net::new(shards, 7, unlimited());
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
        subscribe(&mut net, bob);
        publish(&mut net, ann, 1);
        net.run();
        assert_eq!(came(&mut net, bob), [(1, 1)]);
        for number in 2..=4 {
            publish(&mut net, ann, number);
        }
        let message = json!({"type": "subscribe", "channel": CHANNEL, "ack": true, "history": 1});
        net.send(bob, &message.to_string());
        net.run();
        assert_eq!(came(&mut net, bob), [(2, 1), (3, 1), (4, 1)]);
    }
}

#[test]
fn a_position_that_is_named_is_what_is_acknowledged() {
    let mut net = Net::new(2, 7, unlimited());
    let (ann, bob) = (net.join(0, 1, "ann"), net.join(1, 2, "bob"));
    let epoch = subscribe(&mut net, bob)["epoch"].clone();
    publish_with_receipt(&mut net, ann, json!({"channel": CHANNEL}));
    publish_with_receipt(&mut net, ann, json!({"channel": CHANNEL}));
    let recover = json!({"epoch": epoch, "offset": 1});
    let message = json!({"type": "subscribe", "channel": CHANNEL, "ack": true, "recover": recover});
    net.send(bob, &message.to_string());
    net.run();
    let told = receipts(&mut net, ann);
    assert_eq!((told.len(), &told[0]["offset"]), (1, &json!(1)), "{told:?}");
    net.take(bob);
    net.wait_ms(TIMEOUT_MS);
    assert_eq!(offsets(&mut net, bob), [2]);
}

#[test]
fn a_direct_message_waits_for_no_acks_of_a_channel() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 7, unlimited());
        let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
        let other = net.join(shards - 1, 3, CHANNEL);
        subscribe(&mut net, bob);
        publish_with_receipt(&mut net, ann, json!({"to": CHANNEL}));
        assert_eq!(net.take(other).len(), 2, "welcome and the message");
        let (client, tracking, _) = net.copies.remove(0);
        net.hubs[usize::from(client.0)].tracked(tracking, corecast_hub::Fate::Written);
        net.run();
        let told = receipts(&mut net, ann);
        assert_eq!((told.len(), &told[0]["of"], &told[0]["delivered"]), (1, &json!(1), &json!(1)));
    }
}

#[test]
fn nothing_new_is_sent_again_early_after_waiting_for_the_outbox() {
    let mut net = Net::new(1, 7, unlimited());
    let (ann, bob) = (net.join(0, 1, "ann"), net.join(0, 2, "bob"));
    subscribe(&mut net, bob);
    publish(&mut net, ann, 1);
    net.run();
    net.busy.insert(bob);
    net.pass(Duration::from_millis(TIMEOUT_MS));
    assert_eq!(came(&mut net, bob), [(1, 1)]);
    net.busy.clear();
    net.idle(bob, Idle::Before);
    net.run();
    assert_eq!(came(&mut net, bob), [(1, 2)]);
}

/// Who never acknowledges holds a bounded number of receipts: the oldest are told as failed.
#[test]
fn receipts_that_wait_for_acknowledgements_are_bounded() {
    for shards in [1, 3] {
        let mut net = Net::new(shards, 7, unlimited());
        let last = net.last_shard();
        let (ann, bob) = (net.join(0, 0, "ann"), net.join(last, 1, "bob"));
        net.ask(bob, &json!({"type": "subscribe", "channel": "conversation:1", "ack": true}).to_string());
        let mut told = 0;
        for number in 0..400 {
            let publish = json!({
                "type": "publish", "id": number, "channel": "conversation:1", "payload": number, "receipt": true
            });
            let seen = net.ask(ann, &publish.to_string());
            for receipt in seen.iter().filter(|it| it["name"] == "receipt") {
                assert_eq!((&receipt["of"], &receipt["failed"]), (&json!(1), &json!(1)), "{receipt}");
                assert_eq!(receipt["id"], told, "the oldest first");
                told += 1;
            }
        }
        assert!((400 - 256..400).contains(&told), "{told}");
    }
}

/// What is heard of the channel: `subscribed` as 0, and messages by their offsets, with their events.
fn heard(net: &mut Net, client: Client) -> Vec<(u64, String)> {
    let told =
        net.take(client).into_iter().filter(|it| it["type"] == "message" || it["type"] == "subscribed");
    let of = |it: Value| match it["type"].as_str() {
        Some("message") => {
            (it["offset"].as_u64().expect("a number"), it["event"].as_str().expect("a text").to_owned())
        }
        _ => (0, String::new()),
    };
    told.map(of).collect()
}

/// Who catches up on some events and then promises to acknowledge gets no others before that is answered, and all of
/// them behind it.
#[test]
fn a_filter_holds_until_the_promise_to_acknowledge_is_answered() {
    for shards in 1..=4 {
        for fetches_first in [true, false] {
            let mut net = Net::new(shards, 7, unlimited());
            let (ann, bob) = (net.join(0, 1, "ann"), net.join(shards - 1, 2, "bob"));
            let epoch =
                net.ask(ann, &json!({"type": "subscribe", "channel": CHANNEL}).to_string())[0]["epoch"]
                    .clone();
            for number in 0..100 {
                let event = if number % 2 == 0 { "x" } else { "y" };
                let payload = "p".repeat(6_000);
                let message =
                    json!({"type": "publish", "channel": CHANNEL, "event": event, "payload": payload});
                net.send(ann, &message.to_string());
                net.run();
            }
            net.holds_room = true;
            let recover = json!({"epoch": epoch, "offset": 0});
            let wanted =
                json!({"type": "subscribe", "channel": CHANNEL, "events": ["x"], "recover": recover});
            net.ask(bob, &wanted.to_string());
            if fetches_first {
                // The page was asked for before the promise was made.
                net.give_room();
                net.settle(bob.0, 7);
            }
            net.send(bob, &json!({"type": "subscribe", "channel": CHANNEL, "ack": true}).to_string());
            for _ in 0..200 {
                net.give_room();
                net.run();
            }
            let seen = heard(&mut net, bob);
            let at = seen.iter().position(|it| it.0 == 0).expect("it was answered");
            assert!(seen[..at].iter().all(|(_, event)| event == "x"), "{shards} shards: {seen:?}");
            let behind: Vec<u64> = seen[at + 1..].iter().map(|it| it.0).collect();
            let first = behind[0];
            assert_eq!(behind, (first..=100).collect::<Vec<_>>(), "{shards} shards: nothing is left out");
            let last = seen[..at].last().map_or(first - 1, |it| it.0);
            assert!((last..=last + 2).contains(&first), "{shards} shards: {first} behind {last}");
            // All of it is sent again, and nothing that came before the answer.
            net.holds_room = false;
            net.wait_ms(TIMEOUT_MS);
            let again: Vec<u64> = heard(&mut net, bob).iter().map(|it| it.0).collect();
            assert_eq!(again, behind, "{shards} shards");
        }
    }
}
