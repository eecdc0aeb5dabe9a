//! Sessions: what is kept of a connection that is lost, who may resume it, and what must hold while it moves.

mod harness;

use corecast_hub::{Format, HubLimits};
use harness::sessions::{
    LINGER_MS, WINDOW_MS, channels_of, join, moves, net, publish, refused, resume, resumed, session_of,
    token_of,
};
use harness::{Client, Net, development, unlimited};
use serde_json::{Value, json};

#[test]
fn a_lost_connection_is_resumed_on_any_shard() {
    for shards in 1..=4 {
        for (from, to) in moves(shards) {
            let mut net = net(shards);
            let (bob, _) = join(&mut net, 0, 9, "bob");
            let (ann, token) = join(&mut net, from, 0, "ann");
            net.subscribe(ann, "conversation:1");
            net.subscribe(ann, "room");
            net.subscribe(ann, "agent:*");
            net.lose(ann);
            net.run();
            assert!(!net.is_empty());
            let (again, _) = join(&mut net, to, 1, "ann");
            let answer = resumed(&mut net, again, &token);
            assert_eq!(answer["id"], 9);
            assert_eq!(channels_of(&answer), ["agent:*", "conversation:1", "room"]);
            for channel in ["conversation:1", "room", "agent:7"] {
                publish(&mut net, bob, channel, &json!(channel));
                net.run();
                assert_eq!(net.payloads(again), [json!(channel)], "{from} to {to}");
            }
            net.close(again);
            net.close(bob);
            net.run();
            net.wait_ms(LINGER_MS);
            assert!(net.is_empty(), "{from} to {to}");
        }
    }
}

#[test]
fn a_token_is_good_until_the_first_message_behind_resumed() {
    for (from, to) in moves(3) {
        let mut net = net(3);
        let (ann, first) = join(&mut net, from, 0, "ann");
        net.subscribe(ann, "conversation:1");
        net.lose(ann);
        let (again, own) = join(&mut net, to, 1, "ann");
        let second = token_of(&resumed(&mut net, again, &first));
        assert!(second != first && second != own);
        // What was the connection's own is gone: it has the other session now.
        let (third, third_own) = join(&mut net, from, 2, "ann");
        refused(&mut net, third, &own);
        // `resumed` got lost, so the first token is good once more, and what the client never got is not.
        net.lose(again);
        let latest = token_of(&resumed(&mut net, third, &first));
        let (other, _) = join(&mut net, to, 3, "ann");
        refused(&mut net, other, &second);
        refused(&mut net, other, &third_own);
        // It says something: it has the latest token.
        net.ask(third, r#"{"type":"ping"}"#);
        net.lose(third);
        refused(&mut net, other, &first);
        assert_eq!(channels_of(&resumed(&mut net, other, &latest)), ["conversation:1"]);
        net.close(other);
        net.run();
        net.wait_ms(LINGER_MS);
        assert!(net.is_empty());
    }
}

#[test]
fn only_its_participant_resumes_a_session() {
    for (from, to) in moves(2) {
        let mut net = net(2);
        let (ann, token) = join(&mut net, from, 0, "ann");
        net.subscribe(ann, "conversation:1");
        net.lose(ann);
        let (bob, bobs) = join(&mut net, to, 1, "bob");
        refused(&mut net, bob, &token);
        refused(&mut net, bob, &bobs);
        for wrong in ["", "x", "AAAAAAAAAAAAAAAAAAAAAA", &token[1..]] {
            let answers = net.ask(bob, &resume(wrong));
            assert_eq!(answers[0]["type"], "error", "{wrong}: {answers:?}");
        }
        // It stays usable.
        net.subscribe(bob, "conversation:1");
        let (again, _) = join(&mut net, to, 2, "ann");
        resumed(&mut net, again, &token);
    }
}

#[test]
fn goodbye_ends_a_session() {
    for (from, to) in moves(2) {
        let mut net = net(2);
        let (ann, token) = join(&mut net, from, 0, "ann");
        net.subscribe(ann, "conversation:1");
        net.close(ann);
        net.run();
        assert!(net.is_empty());
        let (again, _) = join(&mut net, to, 1, "ann");
        refused(&mut net, again, &token);
    }
}

#[test]
fn what_nobody_resumes_in_time_is_over() {
    for shards in [1, 3] {
        let mut net = net(shards);
        let (ann, token) = join(&mut net, 0, 0, "ann");
        net.subscribe(ann, "conversation:1");
        net.lose(ann);
        net.wait_ms(WINDOW_MS / 2);
        let last = net.last_shard();
        let (bob, _) = join(&mut net, last, 3, "bob");
        net.lose(bob);
        net.wait_ms(WINDOW_MS / 2 - 1);
        assert_eq!(net.hubs.iter().map(|hub| hub.sessions().suspended).sum::<u64>(), 2);
        net.wait_ms(1);
        assert_eq!(net.hubs.iter().map(|hub| hub.sessions().suspended).sum::<u64>(), 1);
        let (again, _) = join(&mut net, 0, 1, "ann");
        refused(&mut net, again, &token);
        net.close(again);
        net.wait_ms(WINDOW_MS / 2);
        assert!(net.is_empty());
        assert_eq!(net.hubs.iter().map(|hub| hub.sessions().expired).sum::<u64>(), 2);
    }
}

#[test]
fn the_oldest_gives_way_where_too_many_wait() {
    let limits = HubLimits { resume_window_ms: WINDOW_MS, sessions: 4, ..unlimited() };
    let mut net = Net::new(2, 7, limits);
    let tokens: Vec<_> = (0..3)
        .map(|slot| {
            let (client, token) = join(&mut net, 0, slot, "ann");
            net.lose(client);
            token
        })
        .collect();
    net.run();
    assert_eq!(net.hubs[0].sessions().suspended, 2, "a shard keeps its part of them");
    let (again, _) = join(&mut net, 1, 9, "ann");
    refused(&mut net, again, &tokens[0]);
    resumed(&mut net, again, &tokens[1]);
}

#[test]
fn a_session_that_goes_on_elsewhere_is_taken_from_its_connection() {
    for (from, to) in moves(3) {
        let mut net = net(3);
        let (ann, token) = join(&mut net, from, 0, "ann");
        net.subscribe(ann, "conversation:1");
        let (again, _) = join(&mut net, to, 1, "ann");
        net.take(ann);
        let answer = resumed(&mut net, again, &token);
        assert_eq!(channels_of(&answer), ["conversation:1"]);
        let seen = &net.seen[&ann];
        let [harness::Seen::Closed(4502, reason)] = seen.as_slice() else { panic!("{seen:?}") };
        assert!(reason.starts_with("CANCELLED"), "{reason}");
        assert_eq!(net.hubs[usize::from(from)].sessions().taken_over, 1);
        assert_eq!(net.hubs[usize::from(to)].sessions().resumed, 1);
        net.lose(ann);
        net.close(again);
        net.run();
        net.wait_ms(LINGER_MS);
        assert!(net.is_empty());
    }
}

#[test]
fn publishes_of_both_connections_keep_their_order() {
    for (from, to) in moves(4).filter(|(from, to)| from != to) {
        for seed in 1..=50 {
            let mut net = net(4);
            let (eve, _) = join(&mut net, 0, 9, "eve");
            let (ann, token) = join(&mut net, from, 0, "ann");
            let (again, _) = join(&mut net, to, 1, "ann");
            for channel in ["conversation:1", "conversation:2", "conversation:3"] {
                net.subscribe(eve, channel);
            }
            let mut random = harness::Random(seed);
            let all = |net: &mut Net, client, number: u64| {
                for channel in ["conversation:1", "conversation:2", "conversation:3"] {
                    publish(net, client, channel, &json!(number));
                }
            };
            all(&mut net, ann, 1);
            net.send(again, &resume(&token));
            // It is held back until the session is here.
            all(&mut net, again, 2);
            while net.step(&mut random) || (0..4).any(|shard| net.settle(shard, 1)) {
                // Often: what the session waits for must be able to pass what was published before.
                for shard in 0..4 {
                    if random.chance(2) {
                        net.settle(shard, 4);
                    }
                }
            }
            net.run();
            let got = net.take(eve);
            for channel in ["conversation:1", "conversation:2", "conversation:3"] {
                let order: Vec<_> = got
                    .iter()
                    .filter(|it| it["channel"] == channel)
                    .map(|it| it["payload"].clone())
                    .collect();
                assert_eq!(order, [1, 2], "seed {seed}, {from} to {to}, {channel}");
            }
        }
    }
}

#[test]
fn who_asks_last_gets_the_session() {
    let mut net = net(3);
    let (ann, token) = join(&mut net, 0, 0, "ann");
    net.subscribe(ann, "conversation:1");
    net.lose(ann);
    let others: Vec<_> = (0..3).map(|shard| join(&mut net, shard, 5, "ann").0).collect();
    for client in &others {
        net.send(*client, &resume(&token));
    }
    net.run();
    // One is refused without having had it, one has it for a moment, and one keeps it.
    let keeps = |net: &Net, client: &Client| {
        let seen = &net.seen[client];
        let is_closed = seen.iter().any(|it| matches!(it, harness::Seen::Closed(4502, _)));
        let is_told = |kind: &str| {
            seen.iter().any(|it| matches!(it, harness::Seen::Message(message) if message["type"] == kind))
        };
        (is_closed, is_told("error"), is_told("resumed") && !is_closed)
    };
    let mut outcomes: Vec<_> = others.iter().map(|client| keeps(&net, client)).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, [(false, false, true), (false, true, false), (true, false, false)]);
}

#[test]
fn a_session_whose_new_connection_is_lost_on_the_way_waits_there() {
    for (from, to) in moves(3) {
        for steps in 0..12 {
            let mut net = net(3);
            let (ann, token) = join(&mut net, from, 0, "ann");
            net.subscribe(ann, "conversation:1");
            net.subscribe(ann, "agent:*");
            net.lose(ann);
            net.run();
            let (again, _) = join(&mut net, to, 1, "ann");
            net.send(again, &resume(&token));
            let mut random = harness::Random(steps + 1);
            for _ in 0..steps {
                if !net.step(&mut random) {
                    (0..3).for_each(|shard| {
                        net.settle(shard, 1);
                    });
                }
            }
            net.lose(again);
            net.run();
            let (last, _) = join(&mut net, 2, 2, "ann");
            let answer = resumed(&mut net, last, &token);
            assert_eq!(channels_of(&answer), ["agent:*", "conversation:1"], "{from} to {to}, {steps}");
            net.close(last);
            net.run();
            net.wait_ms(LINGER_MS);
            assert!(net.is_empty());
        }
    }
}

#[test]
fn the_handshake_may_present_a_token() {
    for (from, to) in moves(2) {
        let mut net = net(2);
        let (ann, token) = join(&mut net, from, 0, "ann");
        net.subscribe(ann, "conversation:1");
        net.lose(ann);
        net.run();
        let mut open = development("ann");
        open.resume = Some(&token);
        open.channel = Some("conversation:2");
        let again = net.open_with(to, 1, open);
        net.run();
        let seen = net.take(again);
        let types: Vec<_> = seen.iter().map(|it| it["type"].clone()).collect();
        assert_eq!(types, ["connection_established", "resumed", "subscribed"], "{seen:?}");
        assert_eq!(channels_of(&seen[1]), ["conversation:1"]);
        assert_eq!(seen[2]["channel"], "conversation:2");
        let mut open = development("ann");
        open.resume = Some("nonsense");
        open.channel = Some("conversation:2");
        let other = net.open_with(to, 2, open);
        net.run();
        let seen = net.take(other);
        let types: Vec<_> = seen.iter().map(|it| it["type"].clone()).collect();
        assert_eq!(types, ["connection_established", "error", "subscribed"], "{seen:?}");
        assert_eq!(seen[1]["code"], "UNRECOVERABLE");
    }
}

#[test]
fn suspended_sessions_are_no_connections() {
    let limits = HubLimits { resume_window_ms: WINDOW_MS, connections_per_participant: 1, ..unlimited() };
    let mut net = Net::new(2, 7, limits);
    for slot in 0..5 {
        let (ann, _) = join(&mut net, 1, slot, "ann");
        net.lose(ann);
        net.run();
    }
    assert_eq!(net.hubs[1].sessions().suspended, 5);
}

#[test]
fn ten_thousand_resume_at_once() {
    let mut net = net(4);
    let clients: Vec<_> = (0..10_000u32)
        .map(|number| {
            let name = format!("p{number}");
            let (client, token) = join(&mut net, (number % 4) as u16, number / 4, &name);
            net.send(
                client,
                &json!({"type": "subscribe", "channel": format!("conversation:{number}")}).to_string(),
            );
            (name, client, token)
        })
        .collect();
    net.run();
    for (_, client, _) in &clients {
        net.lose(*client);
    }
    net.run();
    assert_eq!(net.hubs.iter().map(|hub| hub.sessions().suspended).sum::<u64>(), 10_000);
    let mut again = Vec::new();
    for (number, (name, _, token)) in (0u32..).zip(&clients) {
        let mut open = development(name);
        open.resume = Some(token);
        again.push(net.open_with(((number + 1) % 4) as u16, 100_000 + number / 4, open));
    }
    net.run();
    for (number, client) in again.iter().enumerate() {
        let seen = net.take(*client);
        let answer = seen.iter().find(|it| it["type"] == "resumed").unwrap_or_else(|| panic!("{seen:?}"));
        assert_eq!(channels_of(answer), [format!("conversation:{number}")]);
    }
    for client in again {
        net.close(client);
    }
    net.run();
    net.wait_ms(LINGER_MS);
    assert!(net.is_empty());
}

#[test]
fn a_session_can_be_asked_for() {
    for format in [Format::Json, Format::MessagePack] {
        let mut net = net(2);
        let mut open = development("ann");
        open.format = format;
        let ann = net.open_with(1, 0, open);
        net.run();
        let told = net.take(ann).remove(0);
        net.subscribe(ann, "conversation:1");
        net.subscribe(ann, "agent:*");
        assert_eq!(
            session_of(&mut net, ann),
            json!({
                "participant": "ann", "client_id": told["client_id"], "state": "authenticated",
                "subscriptions": ["conversation:1", "agent:*"], "resume_window_ms": WINDOW_MS,
            })
        );
    }
}

#[test]
fn where_no_sessions_are_kept_there_is_nothing_to_resume() {
    let mut net = Net::new(2, 7, HubLimits { resume_window_ms: 0, ..unlimited() });
    let ann = net.join(1, 0, "ann");
    let told = net.take(ann).remove(0);
    assert_eq!((&told["resume_window_ms"], &told["resume_token"]), (&json!(0), &Value::Null));
    refused(&mut net, ann, "AAAAAAAAAAAAAAAAAAAAAA");
    net.lose(ann);
    net.run();
    assert!(net.is_empty());
}

#[test]
fn a_connection_resumes_once_and_not_in_a_batch() {
    let mut net = net(2);
    let tokens: Vec<_> = (0..2)
        .map(|slot| {
            let (client, token) = join(&mut net, 0, slot, "ann");
            net.subscribe(client, "conversation:1");
            net.lose(client);
            token
        })
        .collect();
    let (again, _) = join(&mut net, 1, 0, "ann");
    net.hubs[1].begin_batch(Format::Json, 100);
    let answers = net.ask(again, &resume(&tokens[0]));
    assert_eq!(answers[0]["code"], "INVALID_MESSAGE", "{answers:?}");
    net.hubs[1].end_batch();
    resumed(&mut net, again, &tokens[0]);
    refused(&mut net, again, &tokens[1]);
    assert_eq!(session_of(&mut net, again)["subscriptions"], json!(["conversation:1"]));
}

/// Connections come, break, say goodbye and resume by whatever token anybody knows, in any order: nothing of it stays.
#[test]
fn whatever_happens_nothing_stays_behind() {
    for seed in 1..=150u64 {
        let mut random = harness::Random(seed);
        let shards = 1 + random.below(4) as u16;
        let sessions = if random.chance(3) { 4 } else { 0 };
        let mut net = Net::new(shards, seed, HubLimits { resume_window_ms: 1_000, sessions, ..unlimited() });
        let mut clients: Vec<Client> = Vec::new();
        let mut tokens = vec!["AAAAAAAAAAAAAAAAAAAAAA".to_owned()];
        for step in 0..150u32 {
            match random.below(12) {
                0..=2 if clients.len() < 6 => {
                    let shard = random.below(usize::from(shards)) as u16;
                    let name = ["ann", "bob"][random.below(2)];
                    let mut open = development(name);
                    let token = tokens[random.below(tokens.len())].clone();
                    open.resume = random.chance(4).then_some(&*token);
                    open.channel = random.chance(4).then_some("conversation:9");
                    let client = net.open_with(shard, step, open);
                    clients.push(client);
                }
                3 if !clients.is_empty() => {
                    let gone = clients.swap_remove(random.below(clients.len()));
                    net.close(gone);
                }
                4..=5 if !clients.is_empty() => {
                    let gone = clients.swap_remove(random.below(clients.len()));
                    net.lose(gone);
                }
                6..=8 if !clients.is_empty() => {
                    let client = clients[random.below(clients.len())];
                    if !net.seen[&client].contains(&harness::Seen::Admitted) {
                        continue;
                    }
                    let channel = ["conversation:1", "agent:7", "room", "agent:*"][random.below(4)];
                    let message = match random.below(4) {
                        0 => json!({"type": "resume", "token": tokens[random.below(tokens.len())]}),
                        1 => json!({"type": "unsubscribe", "channel": channel}),
                        _ => json!({"type": "subscribe", "channel": channel, "presence": random.chance(2)}),
                    };
                    net.send(client, &message.to_string());
                }
                9 => net.advance(std::time::Duration::from_millis(random.below(400) as u64)),
                10 => drop(net.settle(random.below(usize::from(shards)) as u16, 1 + random.below(3))),
                _ => drop((0..random.below(8)).all(|_| net.step(&mut random))),
            }
            clients.retain(|client| {
                let seen = &net.seen[client];
                let texts = seen.iter().filter_map(|it| match it {
                    harness::Seen::Message(message) => message["resume_token"].as_str().map(str::to_owned),
                    _ => None,
                });
                let new: Vec<_> = texts.filter(|it| !tokens.contains(it)).collect();
                tokens.extend(new);
                !seen.iter().any(|it| matches!(it, harness::Seen::Closed(..) | harness::Seen::Refused(_)))
            });
        }
        net.run();
        for client in clients {
            net.close(client);
        }
        net.wait_ms(1_001);
        net.wait_ms(1_000);
        assert!(net.is_empty(), "seed {seed}");
        assert!(net.hubs.iter().all(|hub| hub.members() == 0 && hub.malformed() == 0), "seed {seed}");
    }
}

/// Bugs about sessions that can be planted, each with the tests of which one notices it.
#[cfg(feature = "canaries")]
#[test]
fn planted_bugs_are_found() {
    use corecast_hub::canary::{Canary, plant};
    let tests: [(Canary, fn()); 4] = [
        (Canary::SessionRemembered, whatever_happens_nothing_stays_behind),
        (Canary::TokenReused, a_token_is_good_until_the_first_message_behind_resumed),
        (Canary::TakeoverUnfenced, publishes_of_both_connections_keep_their_order),
        (Canary::SubscriptionLost, ten_thousand_resume_at_once),
    ];
    for (canary, test) in tests {
        plant(Some(canary));
        let result = std::panic::catch_unwind(test);
        plant(None);
        assert!(result.is_err(), "{} was not noticed", canary.name());
    }
}
