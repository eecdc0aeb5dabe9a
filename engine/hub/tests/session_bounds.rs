//! How many sessions wait: nobody makes others lose theirs with many of its own.

mod harness;

use corecast_hub::HubLimits;
use harness::Net;
use harness::sessions::{join, refused, resume, resumed, session_of};
use serde_json::json;

#[test]
fn a_participant_s_own_oldest_session_goes_first() {
    for (connections, most) in [(1, 10), (5, 10), (8, 16)] {
        let limits = HubLimits {
            connections_per_participant: connections,
            connections_per_ip: 0,
            ..HubLimits::default()
        };
        let mut net = Net::new(2, 7, limits);
        let (bob, bobs) = join(&mut net, 0, 0, "bob");
        net.subscribe(bob, "conversation:1");
        net.lose(bob);
        let mut tokens = Vec::new();
        for slot in 1..=40 {
            let (ann, token) = join(&mut net, 0, slot, "ann");
            net.subscribe(ann, "conversation:1");
            net.lose(ann);
            net.run();
            tokens.push(token);
        }
        let sessions = net.hubs[0].sessions();
        assert_eq!((sessions.suspended, sessions.expired), (most + 1, 40 - most));
        let (again, _) = join(&mut net, 1, 0, "ann");
        refused(&mut net, again, &tokens[40 - most as usize - 1]);
        resumed(&mut net, again, &tokens[40 - most as usize]);
        let (bob, _) = join(&mut net, 1, 1, "bob");
        resumed(&mut net, bob, &bobs);
    }
}

/// A session brings its channels along: together with those that the new connection has they are as many as one may
/// have, and who asks for more is told which it goes on without.
#[test]
fn a_session_brings_no_more_than_a_connection_may_have() {
    let limits = HubLimits { subscriptions_per_connection: 3, connections_per_ip: 0, ..HubLimits::default() };
    let mut net = Net::new(2, 7, limits);
    let (bob, token) = join(&mut net, 0, 0, "bob");
    for channel in ["conversation:1", "conversation:2", "conversation:3"] {
        net.subscribe(bob, channel);
    }
    net.lose(bob);
    net.run();
    let (again, _) = join(&mut net, 1, 0, "bob");
    net.subscribe(again, "conversation:4");
    net.subscribe(again, "conversation:1");
    let seen = net.ask(again, &resume(&token));
    assert_eq!(seen[0]["type"], "resumed", "{seen:?}");
    let without: Vec<_> = seen[1..].iter().map(|it| (&it["type"], &it["code"])).collect();
    assert_eq!(without, [(&json!("unsubscribed"), &json!("SUBSCRIPTION_LIMIT"))], "{seen:?}");
    let subscriptions = session_of(&mut net, again)["subscriptions"].as_array().map(Vec::len);
    assert_eq!(subscriptions, Some(3));
    let over = net.ask(again, r#"{"type":"subscribe","id":1,"channel":"conversation:5"}"#);
    assert_eq!(over[0]["code"], "SUBSCRIPTION_LIMIT");
}
