//! Recovery: whoever comes back with a position gets all that came since, once and in order, whatever happens
//! meanwhile and on whichever shard; or is told that it can't be had.

mod harness;

use std::collections::BTreeMap;

use corecast_hub::HubLimits;
use harness::{Client, Net, Random, binary, development, packed, unlimited};
use serde_json::{Value, json};

const CHANNEL: &str = "conversation:1";

fn subscribe(position: Option<(&str, u64)>) -> String {
    let mut message = json!({"type": "subscribe", "id": 1, "channel": CHANNEL});
    if let Some((epoch, offset)) = position {
        message["recover"] = json!({"epoch": epoch, "offset": offset});
    }
    message.to_string()
}

fn publish(net: &mut Net, client: Client, number: usize) {
    net.send(client, &json!({"type": "publish", "channel": CHANNEL, "payload": number}).to_string());
}

fn epoch_of(answer: &Value) -> String {
    answer["epoch"].as_str().expect("an epoch").to_owned()
}

#[test]
fn what_was_missed_comes_before_what_is_new() {
    for shards in 1..=4 {
        for format in [development("bob"), binary("bob")] {
            let mut net = Net::new(shards, 7, unlimited());
            let ann = net.join(0, 0, "ann");
            let start = net.ask(ann, &subscribe(None));
            let epoch = epoch_of(&start[0]);
            for number in 1..=5 {
                publish(&mut net, ann, number);
            }
            net.run();
            let bob = net.open_with(net.last_shard(), 1, format);
            net.run();
            net.take(bob);
            net.send(bob, &subscribe(Some((&epoch, 2))));
            net.run();
            publish(&mut net, ann, 6);
            net.run();
            let seen = net.take(bob);
            assert_eq!((&seen[0]["recovered"], &seen[0]["offset"]), (&json!(true), &json!(5)));
            assert_eq!(offsets(&seen[0]["messages"]), [3, 4, 5]);
            assert_eq!((seen.len(), &seen[1]["offset"], &seen[0]["more"]), (2, &json!(6), &Value::Null));
            assert_eq!(seen[0]["messages"][0]["publisher"], "ann");
            assert_eq!(seen[0]["messages"][0]["type"], "message");
        }
    }
}

#[test]
fn who_was_away_too_long_is_told_so() {
    let mut net = Net::new(2, 7, unlimited());
    let ann = net.join(0, 0, "ann");
    let start = net.ask(ann, &subscribe(None));
    let epoch = epoch_of(&start[0]);
    for number in 1..=150 {
        publish(&mut net, ann, number);
    }
    net.run();
    for position in [(&*epoch, 49), (&*epoch, 151), ("00000000", 100), ("what?", 100)] {
        let bob = net.join(1, 1, "bob");
        let seen = net.ask(bob, &subscribe(Some(position)));
        assert_eq!((seen.len(), &seen[0]["offset"]), (1, &json!(150)), "{position:?}: {seen:?}");
        assert_eq!((&seen[0]["recovered"], &seen[0]["messages"]), (&json!(false), &json!([])));
        net.close(bob);
        net.run();
    }
    let bob = net.join(1, 1, "bob");
    let seen = net.ask(bob, &subscribe(Some((&epoch, 50))));
    assert_eq!(offsets(&seen[0]["messages"]), (51..=150).collect::<Vec<u64>>(), "all that is kept");
}

fn offsets(messages: &Value) -> Vec<u64> {
    let messages = messages.as_array().expect("an array").iter();
    messages.map(|it| it["offset"].as_u64().expect("an offset")).collect()
}

/// More than one answer holds: the rest follows by itself, in pages, and then what is new.
#[test]
fn what_an_answer_does_not_hold_follows_it() {
    for shards in [1, 3] {
        for is_iso in [false, true] {
            let mut net = Net::new(shards, 7, unlimited());
            let ann = net.join(0, 0, "ann");
            let epoch = epoch_of(&net.ask(ann, &subscribe(None))[0]);
            for _ in 0..90 {
                let payload = "x".repeat(20_000);
                net.ask(ann, &json!({"type": "publish", "channel": CHANNEL, "payload": payload}).to_string());
            }
            let mut open = development("bob");
            open.is_time_iso = is_iso;
            let bob = net.open_with(net.last_shard(), 1, open);
            net.run();
            net.take(bob);
            net.send(bob, &subscribe(Some((&epoch, 0))));
            publish(&mut net, ann, 1);
            net.run();
            let seen = net.take(bob);
            assert_eq!((&seen[0]["recovered"], &seen[0]["more"]), (&json!(true), &json!(true)));
            let carried = offsets(&seen[0]["messages"]);
            assert_eq!(carried.len(), 13, "256 KiB");
            assert_eq!(seen[0]["offset"], 13, "where the subscription stands, not where the channel is");
            let rest = seen[1..].iter().map(|it| it["offset"].as_u64().expect("an offset"));
            assert_eq!(carried.into_iter().chain(rest).collect::<Vec<_>>(), (1..=91).collect::<Vec<_>>());
            let times = seen[1..].iter().chain(seen[0]["messages"].as_array().expect("an array"));
            assert!(times.map(|it| &it["timestamp"]).all(|it| it.is_string() == is_iso));
        }
    }
}

#[test]
fn the_latest_come_with_the_answer() {
    let mut net = Net::new(2, 7, unlimited());
    let ann = net.join(0, 0, "ann");
    net.ask(ann, &subscribe(None));
    for number in 1..=30 {
        publish(&mut net, ann, number);
    }
    net.run();
    let mut ask = |wanted: Value| {
        let bob = net.join(1, 1, "bob");
        let mut message = json!({"type": "subscribe", "channel": CHANNEL, "history": wanted});
        message["recover"] = json!({"epoch": "unknown", "offset": 3});
        let seen = net.ask(bob, &message.to_string());
        net.close(bob);
        net.run();
        assert_eq!((seen.len(), &seen[0]["recovered"], &seen[0]["offset"]), (1, &json!(false), &json!(30)));
        offsets(&seen[0]["messages"])
    };
    assert_eq!(ask(json!(3)), [28, 29, 30]);
    assert_eq!(ask(json!(1_000)), (1..=30).collect::<Vec<u64>>());
    assert_eq!(ask(json!(0)), [0u64; 0]);
}

/// A subscription that is live already and is asked for once more with a position: nothing comes twice from then on.
#[test]
fn a_live_subscription_may_look_back() {
    let mut net = Net::new(3, 7, unlimited());
    let ann = net.join(0, 0, "ann");
    let bob = net.join(2, 0, "bob");
    let epoch = epoch_of(&net.ask(bob, &subscribe(None))[0]);
    for number in 1..=3 {
        publish(&mut net, ann, number);
    }
    net.send(bob, &subscribe(Some((&epoch, 1))));
    net.send(bob, &subscribe(None));
    for number in 4..=5 {
        publish(&mut net, ann, number);
    }
    net.run();
    let seen = net.take(bob);
    let answers: Vec<_> = seen.iter().filter(|it| it["type"] == "subscribed").collect();
    assert_eq!(answers.len(), 2, "{seen:?}");
    let from = seen.iter().position(|it| it["type"] == "subscribed").expect("an answer");
    let mut got = offsets(&seen[from]["messages"]);
    got.extend(
        seen[from + 1..].iter().filter(|it| it["type"] == "message").filter_map(|it| it["offset"].as_u64()),
    );
    assert_eq!(got, [2, 3, 4, 5]);
}

fn history(net: &mut Net, client: Client, mut params: Value) -> Value {
    params["channel"] = json!(CHANNEL);
    let query = json!({"type": "query", "id": 9, "method": "history", "params": params});
    let seen = net.ask(client, &query.to_string());
    assert_eq!((seen.len(), &seen[0]["type"], &seen[0]["id"]), (1, &json!("response"), &json!(9)));
    seen[0].clone()
}

#[test]
fn history_is_read_in_pages_in_both_directions() {
    for shards in [1, 4] {
        let mut net = Net::new(shards, 7, unlimited());
        let ann = net.join(0, 0, "ann");
        let epoch = epoch_of(&net.ask(ann, &subscribe(None))[0]);
        for number in 1..=25 {
            publish(&mut net, ann, number);
        }
        net.run();
        let bob = net.join_binary(net.last_shard(), 1, "bob");
        let mut page = |params: Value| {
            let answer = history(&mut net, bob, params)["result"].clone();
            assert_eq!((&answer["offset"], &answer["channel"]), (&json!(25), &json!(CHANNEL)));
            (offsets(&answer["messages"]), answer["more"].as_bool().expect("a flag"))
        };
        let since = |offset: u64| json!({"epoch": epoch, "offset": offset});
        assert_eq!(page(json!({})), ((1..=25).collect(), false));
        assert_eq!(page(json!({"limit": 3})), (vec![1, 2, 3], true));
        assert_eq!(page(json!({"limit": 3, "since": since(3)})), (vec![4, 5, 6], true));
        assert_eq!(page(json!({"since": since(25)})), (vec![], false));
        assert_eq!(page(json!({"limit": 0})), (vec![], true));
        assert_eq!(page(json!({"limit": 2, "direction": "backward"})), (vec![25, 24], true));
        assert_eq!(
            page(json!({"limit": 3, "direction": "backward", "since": since(3)})),
            (vec![2, 1], false)
        );
        assert_eq!(page(json!({"direction": "backward", "since": since(1)})), (vec![], false));
        assert_eq!(page(json!({"direction": "backward", "since": since(0)})), (vec![], false));
        for wrong in [since(26), json!({"epoch": "00000000", "offset": 3})] {
            let answer = history(&mut net, bob, json!({"since": wrong}));
            assert_eq!(answer["error"]["code"], "UNRECOVERABLE", "{answer}");
        }
    }
}

#[test]
fn only_who_may_subscribe_reads_history_and_not_without_end() {
    let mut net = Net::new(2, 7, unlimited());
    let ann = net.join(0, 0, "ann");
    let mut ask = |method: &str, params: Value| {
        let query = json!({"type": "query", "id": 9, "method": method, "params": params});
        net.ask(ann, &query.to_string())[0]["error"]["code"].clone()
    };
    assert_eq!(ask("history", json!({"channel": "user:bob"})), "FORBIDDEN");
    assert_eq!(ask("history", json!({"channel": "conversation:*"})), "INVALID_CHANNEL");
    assert_eq!(ask("history", json!({"channel": "nowhere:1"})), "INVALID_CHANNEL");
    assert_eq!(ask("history", json!({})), "INVALID_MESSAGE");
    assert_eq!(ask("history", json!({"channel": "conversation:1", "limit": -1})), "INVALID_MESSAGE");
    assert_eq!(ask("historie", json!({})), "NO_HANDLER");
    // Whatever a client asks for at once: it waits for eight answers at most, and all of them come.
    let query =
        json!({"type": "query", "id": 9, "method": "history", "params": {"channel": "conversation:1"}});
    let far = net.join(1, 1, "bob");
    let near = net.join(0, 1, "bob");
    let mut counts = [far, near].map(|client| {
        for _ in 0..20 {
            net.send(client, &query.to_string());
        }
        net.run();
        let seen = net.take(client);
        assert_eq!(seen.iter().filter(|it| it["type"] == "response").count(), 20);
        seen.iter().filter(|it| it["error"]["code"] == "OVERLOADED").count()
    });
    counts.sort_unstable();
    assert_eq!(counts, [0, 12], "who is at home is answered at once");
    assert_eq!(net.ask(far, &query.to_string())[0]["error"], Value::Null, "later again");
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("conversation:{number}")).collect()
}

#[test]
fn a_list_of_channels_brings_the_past_of_all_of_them() {
    for shards in 1..=4 {
        let mut net = Net::new(shards, 7, unlimited());
        let ann = net.join(0, 0, "ann");
        let channels = names(50);
        for channel in &channels {
            for number in 1..=3 {
                net.send(ann, &json!({"type": "publish", "channel": channel, "payload": number}).to_string());
            }
        }
        net.run();
        let (bob, eve) = (net.join(shards - 1, 1, "bob"), net.join(0, 2, "eve"));
        let subscribe = json!({"type": "subscribe", "id": 1, "channels": channels, "history": 2});
        let mut seen = net.ask(bob, &subscribe.to_string());
        net.send(ann, r#"{"type":"publish","channel":"conversation:49","payload":4}"#);
        net.run();
        seen.extend(net.take(bob));
        let last = seen.pop().expect("it is live");
        assert_eq!((&last["type"], &last["payload"]), (&json!("message"), &json!(4)));
        let mut answered: Vec<String> = seen
            .iter()
            .map(|it| {
                assert_eq!(
                    (&it["type"], &it["offset"], &it["id"]),
                    (&json!("subscribed"), &json!(3), &json!(1))
                );
                let payloads =
                    it["messages"].as_array().expect("its past").iter().map(|it| it["payload"].clone());
                assert_eq!(payloads.collect::<Vec<_>>(), [2, 3], "{it}");
                it["channel"].as_str().expect("a name").to_owned()
            })
            .collect();
        answered.sort_unstable();
        let mut expected = channels.clone();
        expected.sort_unstable();
        assert_eq!(answered, expected, "{shards} shards");
        // Who reads nothing is sent nothing more, and may change its mind.
        net.holds_room = true;
        net.take(eve);
        let seen = net.ask(eve, &subscribe.to_string());
        assert!(seen.len() <= 50, "{}", seen.len());
        let waits = channels.iter().filter(|name| !seen.iter().any(|it| it["channel"] == name.as_str()));
        let waits: Vec<_> = waits.cloned().collect();
        if shards > 1 {
            assert!(waits.len() >= 20, "those with homes elsewhere: {}", waits.len());
        }
        let mut seen = net.ask(eve, &json!({"type": "unsubscribe", "channels": waits}).to_string());
        net.holds_room = false;
        net.give_room();
        net.run();
        seen.extend(net.take(eve));
        seen.retain(|it| it["type"] != "unsubscribed");
        assert!(seen.iter().all(|it| it["code"] == "CANCELLED"), "{seen:?}");
        assert_eq!(seen.len(), waits.len(), "{shards} shards");
        for client in [ann, bob, eve] {
            net.close(client);
        }
        net.run();
        assert!(net.is_empty());
    }
}

#[test]
fn what_waits_for_answers_is_bounded_and_nothing_passes_it() {
    let mut net = Net::new(2, 7, unlimited());
    let (ann, bob) = (net.join(0, 0, "ann"), net.join(1, 1, "bob"));
    for channel in names(300) {
        net.send(ann, &json!({"type": "publish", "channel": channel, "payload": 1}).to_string());
    }
    net.run();
    net.take(bob);
    net.holds_room = true;
    for part in names(512).chunks(256) {
        net.send(bob, &json!({"type": "subscribe", "channels": part, "history": 1}).to_string());
    }
    net.send(bob, &json!({"type": "subscribe", "id": "again", "channel": "conversation:200"}).to_string());
    net.run();
    let refused = net.take(bob).iter().filter(|it| it["code"] == "OVERLOADED").count();
    assert!((1..=257).contains(&refused), "{refused}");
    net.holds_room = false;
    net.give_room();
    net.run();
    let seen = net.take(bob);
    assert!(seen.len() >= 200 && seen.iter().all(|it| it["type"] == "subscribed"), "{}", seen.len());
    let first = |it: &&Value| it["channel"] == "conversation:200";
    assert!(seen.iter().find(first).is_some_and(|it| it["messages"].is_array()), "in the order of asking");
}

/// What one subscriber has seen since its last `subscribed`.
#[derive(Default)]
struct View {
    position: Option<(String, u64)>,
}

impl View {
    /// Everything must follow the position without a gap.
    fn read(&mut self, seen: Vec<Value>, seed: u64) {
        for message in seen {
            let at = (epoch_of(&message), message["offset"].as_u64().expect("an offset"));
            let carried = message["messages"].as_array().cloned().unwrap_or_default();
            let is_message = message["type"] == "message";
            for message in carried.iter().chain(is_message.then_some(&message)) {
                let at = (epoch_of(message), message["offset"].as_u64().expect("an offset"));
                let (epoch, offset) = self.position.as_ref().expect("`subscribed` comes first");
                assert_eq!((epoch, offset + 1), (&at.0, at.1), "seed {seed}: {message}");
                self.position = Some(at);
            }
            if message["recovered"] == true {
                assert_eq!(self.position.as_ref(), Some(&at), "seed {seed}: {message}");
            }
            self.position = Some(at);
        }
    }
}

/// Subscribers come and go with their positions, publishers publish, records wait at random; histories are lost for
/// lack of memory in some runs.
#[test]
fn storms_leave_no_gaps() {
    for seed in 1..=300 {
        let mut random = Random(seed * 7919);
        let shards = 1 + random.below(4) as u16;
        let limits = HubLimits { idle_channels: 1 + random.below(3) as u32, ..unlimited() };
        let mut net = Net::new(shards, seed, limits);
        let publishers: Vec<Client> = (0..shards).map(|shard| net.join(shard, 0, "ann")).collect();
        let mut views: BTreeMap<u32, View> = (1..6).map(|slot| (slot, View::default())).collect();
        let mut clients: BTreeMap<u32, Client> = BTreeMap::new();
        for number in 0..400 {
            let slot = 1 + random.below(5) as u32;
            match random.below(8) {
                0..=3 => publish(&mut net, publishers[random.below(publishers.len())], number),
                4 => match clients.remove(&slot) {
                    Some(client) => {
                        let view = views.get_mut(&slot).expect("there is one for each");
                        view.read(net.take(client), seed);
                        net.close(client);
                    }
                    None => {
                        let client = net.join(random.below(shards.into()) as u16, slot, "bob");
                        net.take(client);
                        let position = views[&slot].position.clone();
                        net.send(client, &subscribe(position.as_ref().map(|(epoch, at)| (&**epoch, *at))));
                        clients.insert(slot, client);
                    }
                },
                5 => {
                    net.settle(random.below(shards.into()) as u16, random.below(4));
                }
                _ => {
                    for _ in 0..random.below(6) {
                        net.step(&mut random);
                    }
                }
            }
        }
        net.run();
        for (slot, client) in &clients {
            views.get_mut(slot).expect("there is one for each").read(net.take(*client), seed);
        }
        publish(&mut net, publishers[0], 400);
        net.run();
        let last = net.take(*clients.values().next().unwrap_or(&publishers[0]));
        assert!(clients.is_empty() || last.len() == 1, "seed {seed}: live in the end: {last:?}");
    }
}

/// Everybody gets `system` without an answer that names its epoch.
#[test]
fn who_did_not_subscribe_to_system_is_told_of_its_new_epoch_all_the_same() {
    for shards in 1..=3 {
        let limits = HubLimits { history_bytes: 600 * u64::from(shards), ..unlimited() };
        let mut net = Net::new(shards, 7, limits);
        let ann = net.join(0, 0, "ann");
        let bob = net.open_with(net.last_shard(), 1, binary("bob"));
        net.run();
        net.take(ann);
        net.take(bob);
        for number in 0..3 {
            let payload = "x".repeat(if number == 1 { 1_000 } else { 10 });
            net.send(ann, &json!({"type": "publish", "channel": "system", "payload": payload}).to_string());
            net.run();
        }
        for seen in [net.take(ann), net.take(bob)] {
            let what: Vec<_> = seen.iter().map(|it| (it["type"].as_str(), it["offset"].as_u64())).collect();
            let message = |offset| (Some("broadcast"), Some(offset));
            assert_eq!(what, [message(1), message(2), (Some("subscribed"), Some(2)), message(3)]);
            assert_ne!(seen[1]["epoch"], seen[2]["epoch"], "what was too large took the history with it");
            assert_eq!(seen[2]["epoch"], seen[3]["epoch"]);
        }
    }
}

/// A channel of which one answer holds two messages, who is to catch up with it, and the epoch.
fn six_large_ones() -> (Net, Client, String) {
    let mut net = Net::new(2, 7, unlimited());
    let ann = net.join(0, 0, "ann");
    let epoch = epoch_of(&net.ask(ann, &subscribe(None))[0]);
    let payload = "x".repeat(100_000);
    for _ in 0..6 {
        net.send(ann, &json!({"type": "publish", "channel": CHANNEL, "payload": payload}).to_string());
    }
    net.run();
    let bob = net.join(1, 1, "bob");
    net.take(bob);
    (net, bob, epoch)
}

/// Its position is the one that it has come to, not the channel's.
#[test]
fn who_subscribes_again_while_catching_up_is_told_how_far_it_is() {
    let (mut net, bob, epoch) = six_large_ones();
    net.send(bob, &subscribe(Some((&epoch, 0))));
    net.send(bob, &subscribe(None));
    net.run();
    let seen = net.take(bob);
    assert_eq!((&seen[0]["more"], &seen[1]["type"]), (&json!(true), &json!("subscribed")));
    assert_eq!(seen[1]["offset"], seen[0]["offset"], "all that was queued for it by then");
    let rest: Vec<_> = seen[2..].iter().map(|it| it["offset"].as_u64()).collect();
    assert_eq!((seen[1]["offset"].as_u64(), rest), (Some(2), (3..=6).map(Some).collect()));
}

/// It may ask for a position that is lost, and for the latest messages, while an earlier request is still being
/// answered: those messages come anyway.
#[test]
fn who_asks_for_the_latest_while_catching_up_gets_each_message_once() {
    let (mut net, bob, epoch) = six_large_ones();
    let ask = |net: &mut Net, id: u64, epoch: &str, offset: u64| {
        let recover = json!({"epoch": epoch, "offset": offset});
        let message =
            json!({"type": "subscribe", "id": id, "channel": CHANNEL, "recover": recover, "history": 1});
        net.send(bob, &message.to_string());
    };
    net.holds_room = true;
    ask(&mut net, 1, &epoch, 0);
    net.run();
    assert_eq!(offsets(&net.take(bob)[0]["messages"]), [1, 2]);
    ask(&mut net, 2, "00000000", 1);
    ask(&mut net, 3, &epoch, 2);
    net.run();
    let seen = net.take(bob);
    assert_eq!((&seen[0]["id"], &seen[0]["recovered"]), (&json!(2), &json!(false)));
    assert_eq!(seen[0]["offset"], json!(2), "where it stands");
    assert_eq!((&seen[0]["messages"], &seen[0]["more"]), (&json!([]), &json!(true)));
    assert_eq!((&seen[1]["id"], offsets(&seen[1]["messages"])), (&json!(3), vec![3, 4]));
    net.holds_room = false;
    net.give_room();
    net.run();
    let later = net.take(bob).iter().filter_map(|it| it["offset"].as_u64()).collect::<Vec<_>>();
    assert_eq!(later, [5, 6]);
}

/// A channel that is published to faster than its subscriber reads keeps no other one in the past.
#[test]
fn channels_catch_up_in_turn() {
    for shards in [1, 3] {
        let mut net = Net::new(shards, 7, unlimited());
        let ann = net.join(0, 0, "ann");
        let (busy, quiet) = ("conversation:1", "conversation:2");
        let position = |net: &mut Net, channel: &str| {
            let seen = net.ask(ann, &json!({"type": "subscribe", "channel": channel}).to_string());
            json!({"epoch": seen[0]["epoch"], "offset": 0})
        };
        let positions = [position(&mut net, busy), position(&mut net, quiet)];
        let text = "x".repeat(60_000);
        let publish = |net: &mut Net, channel: &str| {
            net.send(ann, &json!({"type": "publish", "channel": channel, "payload": text}).to_string());
            net.run();
        };
        for _ in 0..20 {
            publish(&mut net, busy);
            publish(&mut net, quiet);
        }
        let bob = net.join(net.last_shard(), 1, "bob");
        net.holds_room = true;
        for (channel, recover) in [busy, quiet].into_iter().zip(positions) {
            net.send(bob, &json!({"type": "subscribe", "channel": channel, "recover": recover}).to_string());
        }
        net.run();
        net.take(bob);
        let mut quiet_ones = 0;
        for _ in 0..40 {
            publish(&mut net, busy);
            net.give_room();
            net.run();
            quiet_ones += net.take(bob).iter().filter(|it| it["channel"] == quiet).count();
        }
        assert_eq!(quiet_ones, 16, "what did not fit into the answer");
    }
}

/// What an answer holds is counted as it is written, and one message it always holds.
#[test]
fn the_latest_are_counted_as_they_are_written() {
    let mut net = Net::new(2, 7, unlimited());
    let ann = net.join(0, 0, "ann");
    net.ask(ann, &subscribe(None));
    let large = json!({"type": "publish", "channel": CHANNEL, "payload": vec![false; 60_000]});
    for _ in 0..3 {
        net.send_packed(ann, &packed(&large));
    }
    net.run();
    let bob = net.join(1, 1, "bob");
    let ask = json!({"type": "subscribe", "channel": CHANNEL, "history": 3}).to_string();
    let seen = net.ask(bob, &ask);
    assert_eq!((offsets(&seen[0]["messages"]), &seen[0]["more"]), (vec![3], &json!(true)), "360 KB each");
}
