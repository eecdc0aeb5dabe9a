//! What waits for its turn, or for answers, keeps nobody else waiting, and is passed by nothing that follows from it.

mod harness;

use corecast_hub::HubLimits;
use harness::{Client, Net, packed, sessions, unlimited};
use serde_json::{Value, json};

#[test]
fn a_session_goes_on_although_much_waits() {
    let limits = HubLimits { resume_window_ms: 60_000, subscriptions_per_connection: 50, ..unlimited() };
    let mut net = Net::new(2, 7, limits);
    let (ann, token) = sessions::join(&mut net, 0, 0, "ann");
    net.subscribe(ann, "conversation:x");
    net.lose(ann);
    net.run();
    let (again, _) = sessions::join(&mut net, 1, 1, "ann");
    net.holds_room = true;
    let names: Vec<String> = (0..256).map(|it| format!("conversation:{}", it % 40)).collect();
    for _ in 0..2 {
        net.send(again, &json!({"type": "subscribe", "channels": names, "history": 1}).to_string());
    }
    net.send(again, &sessions::resume(&token));
    net.run();
    net.holds_room = false;
    for _ in 0..1_000 {
        net.give_room();
        net.run();
    }
    let seen = net.take(again);
    let strange: Vec<&Value> = seen.iter().filter(|it| it["id"].as_u64() == Some(u64::MAX)).collect();
    assert!(seen.iter().any(|it| it["type"] == "resumed"), "never resumed; told instead: {strange:?}");
}

/// A query that is answered with nothing.
fn cheap(net: &mut Net, client: Client) {
    let params = json!({"channel": "conversation:empty", "limit": 5});
    net.send(client, &json!({"type": "query", "id": 1, "method": "history", "params": params}).to_string());
}

#[test]
fn answers_of_nothing_keep_nobody_else_from_being_served() {
    let mut net = Net::new(1, 5, unlimited());
    let ann = net.join_binary(0, 0, "ann");
    let list: Vec<Value> = (0..2_000).map(|it| json!(it)).collect();
    net.send_packed(ann, &packed(&json!({"type": "publish", "channel": "conversation:1", "payload": list})));
    net.run();
    let clients: Vec<Client> = (1..=8).map(|slot| net.join(0, slot, &format!("r{slot}"))).collect();
    let bystander = net.join(0, 50, "bystander");
    net.run();
    net.take(bystander);
    // One that costs a turn; behind it such that cost nothing.
    let params = json!({"channel": "conversation:1", "limit": 5});
    net.send(ann, &json!({"type": "query", "id": 1, "method": "history", "params": params}).to_string());
    net.take(ann);
    net.send(
        clients[0],
        &json!({"type": "query", "id": 1, "method": "history", "params": params}).to_string(),
    );
    for client in &clients {
        net.take(*client);
        for _ in 0..8 {
            cheap(&mut net, *client);
        }
    }
    net.send(bystander, r#"{"type":"publish","id":7,"channel":"conversation:2","payload":1,"receipt":true}"#);
    let mut answered = 0;
    for turn in 0..200 {
        // What a shard does in one turn with little else to do.
        net.settle(0, 32);
        if net.take(bystander).iter().any(|it| it["name"] == "receipt") {
            assert!(turn < 3, "the receipt came after {turn} turns, behind {answered} answers");
            return;
        }
        for client in &clients {
            for it in net.take(*client) {
                answered += usize::from(it["type"] == "response");
                cheap(&mut net, *client);
            }
        }
    }
    panic!("no receipt in 200 turns, in which {answered} queries were answered");
}

#[test]
fn a_publish_does_not_pass_a_subscription_behind_others_that_read() {
    let mut net = Net::new(1, 5, unlimited());
    let ann = net.join_binary(0, 0, "ann");
    let list: Vec<Value> = (0..2_000).map(|it| json!(it)).collect();
    for channel in ["conversation:1", "conversation:2"] {
        net.send_packed(ann, &packed(&json!({"type": "publish", "channel": channel, "payload": list})));
    }
    net.run();
    let bob = net.join(0, 1, "bob");
    net.take(bob);
    net.hubs[0].begin_turn();
    for message in [
        json!({"type": "subscribe", "channels": ["conversation:1", "conversation:2"], "history": 1}),
        json!({"type": "subscribe", "channel": "conversation:3"}),
        json!({"type": "publish", "channel": "conversation:3", "payload": "own"}),
    ] {
        net.send(bob, &message.to_string());
    }
    net.run();
    let seen = net.take(bob);
    assert_eq!(
        seen.iter().filter(|it| it["payload"] == "own").count(),
        1,
        "{:?}",
        seen.iter().map(|it| it.to_string().chars().take(200).collect::<String>()).collect::<Vec<_>>()
    );
}

#[test]
fn a_publish_does_not_pass_a_subscription_behind_others_that_wait() {
    let mut net = Net::new(2, 5, unlimited());
    let bob = net.join(0, 1, "bob");
    net.take(bob);
    let names: Vec<String> = (0..50).map(|it| format!("conversation:{it}")).collect();
    net.send(bob, &json!({"type": "subscribe", "channels": names, "history": 1}).to_string());
    net.send(bob, r#"{"type":"subscribe","channel":"conversation:x"}"#);
    net.send(bob, r#"{"type":"publish","id":1,"channel":"conversation:x","payload":"own"}"#);
    net.run();
    let seen = net.take(bob);
    assert_eq!(seen.iter().filter(|it| it["payload"] == "own").count(), 1, "{:?}", seen.last());
}

#[test]
fn what_was_unsubscribed_does_not_take_the_place_of_others() {
    let mut net = Net::new(2, 7, HubLimits { subscriptions_per_connection: 50, ..unlimited() });
    let bob = net.join(1, 1, "bob");
    net.holds_room = true;
    let names: Vec<String> = (0..50).map(|it| format!("conversation:{it}")).collect();
    for _ in 0..7 {
        net.ask(bob, &json!({"type": "subscribe", "channels": names, "history": 1}).to_string());
        net.ask(bob, &json!({"type": "unsubscribe", "channels": names}).to_string());
    }
    let seen = net.ask(bob, r#"{"type":"subscribe","channel":"conversation:x"}"#);
    assert!(seen.iter().all(|it| it["code"] != "OVERLOADED"), "it has no subscription at all: {seen:?}");
}
