//! A node's memory moves into a fresh hub, and everything goes on there.

mod harness;

use corecast_hub::rules::{Mode, Namespaces};
use corecast_hub::state::{ChannelState, STATE_VERSION, State, StateError};
use harness::sessions::{channels_of, join};
use harness::{Net, binary, unlimited};
use serde_json::{Value, json};

const CHANNELS: [&str; 5] = ["conversation:1", "conversation:2", "agent:7", "user:ann", "system"];

fn exported(net: &Net) -> State {
    let mut state = State::default();
    for hub in &net.hubs {
        state.merge(hub.export(net.now()));
    }
    state
}

fn restored(state: &State, shards: u16) -> Net {
    restored_in(state, Net::new(shards, 99, unlimited()))
}

fn restored_in(state: &State, mut net: Net) -> Net {
    let bytes = state.to_bytes();
    let now = net.now();
    let state = State::from_bytes(&bytes).expect("it was just written");
    for hub in &mut net.hubs {
        hub.import(now, &state);
    }
    net
}

fn position(answer: &Value) -> (String, u64) {
    (answer["epoch"].as_str().expect("an epoch").to_owned(), answer["offset"].as_u64().expect("an offset"))
}

#[test]
fn positions_and_messages_move_to_a_node_with_another_number_of_shards() {
    for (before, after) in [(1, 4), (4, 1), (3, 3)] {
        let mut net = Net::new(before, 7, unlimited());
        let ann = net.join(0, 0, "ann");
        let bob = net.join_binary(net.last_shard(), 1, "bob");
        let mut positions = Vec::new();
        for channel in CHANNELS {
            let at = net.ask(ann, &json!({"type": "subscribe", "channel": channel}).to_string());
            positions.push((channel, position(&at[0])));
            net.ask(ann, &json!({"type": "publish", "channel": channel, "payload": {"n": 1}}).to_string());
            net.ask_packed(
                bob,
                &json!({"type": "publish", "channel": channel, "event": "e", "payload": [2]}),
            );
        }
        let state = exported(&net);
        drop(net);
        let mut net = restored(&state, after);
        let ann = net.join(0, 0, "ann");
        for (channel, (epoch, offset)) in positions {
            let recover = json!({"epoch": epoch, "offset": offset});
            let seen = net
                .ask(ann, &json!({"type": "subscribe", "channel": channel, "recover": recover}).to_string());
            let messages = seen[0]["messages"].as_array().expect("what was missed");
            let payloads: Vec<&Value> = messages.iter().map(|it| &it["payload"]).collect();
            assert_eq!(payloads, [&json!({"n": 1}), &json!([2])], "{channel}");
            assert_eq!((&messages[1]["event"], &messages[1]["publisher"]), (&json!("e"), &json!("bob")));
            net.ask(ann, &json!({"type": "publish", "channel": channel, "id": 1, "payload": 3}).to_string());
            let carl = net.open_with(0, 5, binary("ann"));
            net.run();
            net.take(carl);
            let seen = net
                .ask(carl, &json!({"type": "subscribe", "channel": channel, "recover": recover}).to_string());
            assert_eq!(position(seen.last().expect("something")), (epoch, 3), "it goes on where it was");
            net.close(carl);
            net.run();
        }
    }
}

#[test]
fn what_is_no_state_is_refused_with_a_reason() {
    let state = State { version: STATE_VERSION + 1, ..State::default() };
    assert_eq!(State::from_bytes(&state.to_bytes()), Err(StateError::Version(STATE_VERSION + 1)));
    let bytes = State::default().to_bytes();
    let channel =
        |offset| ChannelState { name: "a:1".into(), epoch: "00000000".into(), offset, messages: vec![] };
    let with = |channels| State { channels, ..State::default() }.to_bytes();
    let (far, twice) = (with(vec![channel(1 << 53)]), with(vec![channel(1), channel(2)]));
    let longer = [&*bytes, b"\0"].concat();
    for wrong in [&b""[..], b"{}", &bytes[..bytes.len() - 1], &far, &twice, &longer] {
        assert!(matches!(State::from_bytes(wrong), Err(StateError::Malformed(_))));
    }
    assert!(State::from_bytes(&with(vec![channel((1 << 53) - 1)])).is_ok());
}

/// Who was cut off with the old node resumes on the new one: subscriptions, what was missed, presence, and all.
#[test]
fn sessions_move_with_what_they_were_subscribed_to() {
    for (before, after) in [(1, 3), (3, 2)] {
        let mut net = Net::new(before, 7, unlimited());
        let last = net.last_shard();
        let (ann, token) = join(&mut net, last, 0, "ann");
        let watch = json!({"type": "subscribe", "channel": "conversation:1", "presence": true});
        let at = net.ask(ann, &watch.to_string());
        net.subscribe(ann, "agent:*");
        let some =
            json!({"type": "subscribe", "channel": "conversation:2", "events": ["x", "y"], "max_rate": 3});
        net.ask(ann, &some.to_string());
        let bob = net.join(0, 1, "bob");
        net.lose(ann);
        net.run();
        net.ask(
            bob,
            &json!({"type": "publish", "channel": "conversation:1", "payload": "missed"}).to_string(),
        );
        let state = exported(&net);
        assert_eq!(state.sessions.len(), 1);
        let mut net = restored(&state, after);
        net.run();
        let bob = net.join(0, 1, "bob");
        let query = json!({"type": "query", "method": "presence", "params": {"channel": "conversation:1"}});
        assert_eq!(net.ask(bob, &query.to_string())[0]["result"]["participants"], json!(["ann"]));
        let last = net.last_shard();
        let (ann, _) = join(&mut net, last, 0, "ann");
        let mut resume = json!({"type": "resume", "token": token});
        resume["positions"] = json!({"conversation:1": [at[0]["epoch"], at[0]["offset"]]});
        let seen = net.ask(ann, &resume.to_string());
        assert_eq!(channels_of(&seen[0]), ["agent:*", "conversation:1", "conversation:2"], "{seen:?}");
        let counted = json!({"type": "event", "name": "presence", "channel": "conversation:1", "count": 1});
        assert_eq!(seen[1], counted, "nobody knows who came and went");
        assert_eq!(seen[2]["payload"], "missed");
        for channel in ["conversation:1", "agent:7"] {
            net.ask(bob, &json!({"type": "publish", "channel": channel, "payload": channel}).to_string());
        }
        assert_eq!(net.payloads(ann), ["conversation:1", "agent:7"]);
        for event in ["x", "z", "y", "x", "y"] {
            let message =
                json!({"type": "publish", "channel": "conversation:2", "event": event, "payload": event});
            net.ask(bob, &message.to_string());
        }
        assert_eq!(net.payloads(ann), ["x", "y", "x"], "its events, and three at once");
        net.close(ann);
        net.close(bob);
        // A session that moved stays present for two seconds where it was.
        net.pass(std::time::Duration::from_secs(3));
        net.run();
        assert!(net.is_empty(), "what was restored is forgotten like everything else");
    }
}

/// A namespace that is gone and one that is not reliable any more keep nobody from going on with the rest.
#[test]
fn what_a_session_can_t_have_any_more_is_told_behind_resumed() {
    for (before, after) in [(1, 1), (1, 3), (3, 2)] {
        let mut net = Net::new(before, 7, unlimited());
        let (ann, token) = join(&mut net, 0, 0, "ann");
        for channel in ["agent:7", "agent:*", "conversation:1", "user:ann"] {
            let is_acking = channel.starts_with("conversation");
            let wanted = json!({"type": "subscribe", "channel": channel, "ack": is_acking});
            assert_eq!(net.ask(ann, &wanted.to_string())[0]["type"], "subscribed");
        }
        net.lose(ann);
        net.run();
        let state = exported(&net);
        let built_in = Namespaces::built_in(true);
        let mut namespaces = Namespaces::default();
        for name in built_in.names().filter(|name| *name != "agent") {
            let mut namespace = built_in.named(name).expect("it is named").clone();
            if name == "conversation" {
                namespace.mode = Mode::Ordered;
            }
            namespaces.set(namespace);
        }
        let mut net = restored_in(&state, Net::of(after, 99, (unlimited(), 1 << 20), namespaces));
        let last = net.last_shard();
        let (ann, _) = join(&mut net, last, 0, "ann");
        let seen = net.ask(ann, &json!({"type": "resume", "id": 9, "token": token}).to_string());
        assert_eq!((&seen[0]["type"], &seen[0]["id"]), (&json!("resumed"), &json!(9)), "{seen:?}");
        assert_eq!(channels_of(&seen[0]), ["conversation:1", "user:ann"]);
        for (told, channel) in seen[1..].iter().zip(["agent:7", "agent:*"]) {
            assert_eq!(
                (&told["type"], &told["channel"]),
                (&json!("unsubscribed"), &json!(channel)),
                "{told}"
            );
            assert_eq!((&told["code"], told.get("id")), (&json!("INVALID_CHANNEL"), None), "{told}");
        }
        assert_eq!(seen.len(), 3);
        let publish = json!({"type": "publish", "channel": "conversation:1", "payload": 1});
        let seen = net.ask(ann, &publish.to_string());
        assert_eq!(seen[0]["payload"], 1, "it goes on, without acknowledgements: {seen:?}");
    }
}

#[test]
fn what_was_published_once_stays_published_once() {
    let publish = json!({
        "type": "publish", "id": 1, "channel": "conversation:1", "payload": 1, "idempotency_key": "order-7"
    });
    let mut net = Net::new(2, 7, unlimited());
    let ann = net.join(0, 0, "ann");
    let first = net.ask(ann, &publish.to_string())[0]["result"].clone();
    let mut net = restored(&exported(&net), 3);
    let ann = net.join(1, 0, "ann");
    let again = net.ask(ann, &publish.to_string())[0]["result"].clone();
    assert_eq!(
        (&again["duplicate"], &again["epoch"], &again["offset"]),
        (&json!(true), &first["epoch"], &json!(1))
    );
    net.pass(std::time::Duration::from_secs(301));
    assert_eq!(net.ask(ann, &publish.to_string())[0]["result"]["offset"], 2, "it is forgotten in time");
}

#[test]
fn what_waits_in_an_inbox_waits_on_the_next_node() {
    for (before, after) in [(1, 4), (4, 1)] {
        let mut net = Net::new(before, 7, unlimited());
        let bob = net.join(0, 1, "bob");
        let mut send = json!({"type": "publish", "id": 1, "to": "ann", "payload": "for you", "store": true});
        let first = net.ask(bob, &send.to_string())[0]["result"].clone();
        let mut net = restored(&exported(&net), after);
        let ann = net.join(net.last_shard(), 0, "ann");
        let seen = net.take(ann);
        let message = seen.iter().find(|it| it["channel"] == "@me").expect("what was kept");
        assert_eq!((&message["payload"], &message["epoch"]), (&json!("for you"), &first["epoch"]));
        let bob = net.join(0, 1, "bob");
        send["payload"] = json!("more");
        assert_eq!(net.ask(bob, &send.to_string())[0]["result"]["offset"], 2, "it goes on where it was");
    }
}
