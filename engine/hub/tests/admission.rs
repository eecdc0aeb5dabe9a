//! Admission: limits per address and participant across shards, and that no count is ever lost or left.

mod harness;

use std::net::{IpAddr, Ipv4Addr};

use corecast_hub::{Access, Class, Format, HubLimits, Open, Refusal};
use harness::sessions::{WINDOW_MS, join, moves};
use harness::{Client, Net, Random, Seen, demo, development, unlimited};

fn limits(per_ip: u32, per_participant: u32) -> HubLimits {
    HubLimits {
        connections_per_ip: per_ip,
        connections_per_participant: per_participant,
        ..HubLimits::default()
    }
}

fn first(net: &Net, client: Client) -> Option<&Seen> {
    net.seen[&client].first()
}

#[test]
fn limits_hold_across_shards_and_end_with_the_connections() {
    for (limits, refusal) in
        [(limits(3, 0), Refusal::PerIp { limit: 3 }), (limits(0, 3), Refusal::PerParticipant { limit: 3 })]
    {
        let mut net = Net::new(3, 9, limits);
        let all: Vec<Client> = (0..5).map(|n| net.join(n % 3, u32::from(n), "ann")).collect();
        let admitted = |net: &Net| all.iter().filter(|it| first(net, **it) == Some(&Seen::Admitted)).count();
        assert_eq!(admitted(&net), 3);
        let refused = all.iter().filter(|it| first(&net, **it) == Some(&Seen::Refused(refusal))).count();
        assert_eq!(refused, 2);
        net.close(all[0]);
        net.run();
        let next = net.join(1, 9, "ann");
        assert_eq!(first(&net, next), Some(&Seen::Admitted));
        let one_more = net.join(2, 9, "ann");
        assert_eq!(first(&net, one_more), Some(&Seen::Refused(refusal)));
        for client in net.seen.keys().copied().collect::<Vec<_>>() {
            net.close(client);
        }
        net.run();
        assert!(net.is_empty());
    }
}

#[test]
fn on_one_shard_all_happens_in_the_call() {
    let mut net = Net::new(1, 1, HubLimits::default());
    let mut open = development("ann");
    open.channel = Some("conversation:42");
    let client = net.open_with(0, 0, open);
    let [Seen::Admitted, Seen::Message(established), Seen::Message(subscribed)] =
        net.seen[&client].as_slice()
    else {
        panic!("{:?}", net.seen[&client]);
    };
    assert_eq!(
        (&established["type"], &established["participant"]),
        (&"connection_established".into(), &"ann".into())
    );
    assert_eq!(
        (&subscribed["type"], &subscribed["channel"]),
        (&"subscribed".into(), &"conversation:42".into())
    );
}

#[test]
fn what_the_path_names_is_refused_as_an_error() {
    let mut net = Net::new(3, 1, HubLimits::default());
    let mut open = demo(None);
    open.channel = Some("agent:7");
    let client = net.open_with(1, 0, open);
    net.run();
    let messages = net.take(client);
    assert_eq!(
        messages[0]["participant"],
        format!("demo:{}", messages[0]["client_id"].as_str().expect("an id"))
    );
    assert_eq!((&messages[1]["type"], &messages[1]["code"]), (&"error".into(), &"FORBIDDEN".into()));
}

/// What a client sends at once finds the path's subscription made, even if its admission went by rings.
#[test]
fn the_path_is_subscribed_before_the_first_command() {
    for seed in 0..20 {
        let mut net = Net::new(3, seed, unlimited());
        let mut open = development("ann");
        open.channel = Some("conversation:42");
        let client = net.open_with(0, 0, open);
        let mut random = Random(seed + 1);
        while !net.seen[&client].contains(&Seen::Admitted) {
            if !net.step(&mut random) {
                net.settle(0, 1);
            }
        }
        net.send(client, r#"{"type":"unsubscribe","id":1,"channel":"conversation:42"}"#);
        net.run();
        let kinds: Vec<_> = net.take(client).iter().map(|it| it["type"].to_string()).collect();
        assert!(kinds.contains(&r#""unsubscribed""#.to_owned()), "seed {seed}: {kinds:?}");
        assert!(net.ask(client, r#"{"type":"publish","channel":"conversation:42","payload":1}"#).is_empty());
    }
}

/// Connections that close at every possible step of their admission.
#[test]
fn an_admission_in_flight_leaks_no_count() {
    for seed in 0..400u64 {
        let mut random = Random(seed * 7 + 1);
        let mut net = Net::new(1 + random.below(4) as u16, seed, limits(4, 2));
        let shards = net.hubs.len();
        let mut open: Vec<Client> = Vec::new();
        for slot in 0..40 {
            let name = ["ann", "bob", "eve"][random.below(3)];
            let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, random.below(3) as u8));
            let (access, channel) = (Access::Development, random.chance(2).then_some("conversation:1"));
            let is_time_iso = random.chance(3);
            let format = if random.chance(3) { Format::MessagePack } else { Format::Json };
            let it = Open { access, as_name: Some(name), ip, channel, is_time_iso, format, resume: None };
            open.push(net.open_with(random.below(shards) as u16, slot, it));
            for _ in 0..random.below(4) {
                match random.below(4) {
                    0 => drop(net.settle(random.below(shards) as u16, random.below(2))),
                    1 if !open.is_empty() => {
                        let gone = open.swap_remove(random.below(open.len()));
                        net.close(gone);
                    }
                    _ => drop(net.step(&mut random)),
                }
            }
        }
        net.run();
        for client in open {
            net.close(client);
        }
        net.run();
        assert!(net.is_empty(), "seed {seed}");
    }
}

/// The race of the module documentation of `channel`: the home may only hear "nobody is left" before it hears of
/// somebody new, never after.
#[test]
fn a_late_settle_never_switches_off_a_newer_subscription() {
    let subscribe = r#"{"type":"subscribe","channel":"conversation:1"}"#;
    let unsubscribe = r#"{"type":"unsubscribe","channel":"conversation:1"}"#;
    // A bit each: settle before the second subscription, answer the first before it, answer before settling.
    for (seed, variant) in (0..8).flat_map(|seed| (0..8).map(move |variant| (seed, variant))) {
        let mut net = Net::new(2, seed, unlimited());
        let ann = net.join(0, 0, "ann");
        let bob = net.join(1, 1, "bob");
        net.send(ann, subscribe);
        let deliver_one = |net: &mut Net| {
            net.step_one(Class::Request, 0, 1);
            net.step_one(Class::Deliver, 1, 0);
        };
        if variant & 1 != 0 {
            deliver_one(&mut net);
        }
        net.send(ann, unsubscribe);
        if variant & 2 != 0 {
            net.settle(0, 10);
        }
        if variant & 4 != 0 {
            deliver_one(&mut net);
        }
        net.send(ann, subscribe);
        net.settle(0, 10);
        net.run();
        net.take(ann);
        net.send(bob, r#"{"type":"publish","channel":"conversation:1","payload":1}"#);
        net.run();
        assert_eq!(net.take(ann).len(), 1, "seed {seed} variant {variant}");
    }
}

/// When the last subscriber of a shard is gone, its shard hears no more of the channel.
#[test]
fn what_nobody_wants_is_not_forwarded() {
    for (seed, name) in (0..4).flat_map(|seed| [(seed, "conversation:1"), (seed, "conversation:*")]) {
        let mut net = Net::new(2, seed, unlimited());
        let clients = [net.join(0, 0, "ann"), net.join(1, 1, "bob")];
        for client in clients {
            net.ask(client, &format!(r#"{{"type":"subscribe","channel":"{name}"}}"#));
        }
        for client in clients {
            net.ask(client, &format!(r#"{{"type":"unsubscribe","channel":"{name}"}}"#));
        }
        let before = net.records;
        for client in clients {
            net.ask(client, r#"{"type":"publish","channel":"conversation:1","payload":1}"#);
        }
        // One of the two publishers asks a home elsewhere; nothing else moves.
        assert_eq!(net.records - before, 1);
    }
}

#[test]
fn a_connection_that_is_dead_but_counted_gives_its_place_to_who_resumes_it() {
    for shards in 1..=4 {
        for (from, to) in moves(shards) {
            let mut net = Net::new(shards, 7, HubLimits { resume_window_ms: WINDOW_MS, ..limits(0, 1) });
            let (_, foreign) = join(&mut net, 0, 9, "bob");
            let (ann, token) = join(&mut net, from, 0, "ann");
            let open = |net: &mut Net, slot, resume| {
                let client = net.open_with(to, slot, Open { resume, ..development("ann") });
                net.run();
                (client, first(net, client) == Some(&Seen::Admitted))
            };
            for presented in [None, Some(&*foreign), Some("AAAAAAAAAAAAAAAAAAAAAA"), Some("none")] {
                assert!(!open(&mut net, 1, presented).1, "{presented:?}");
            }
            let (again, is_admitted) = open(&mut net, 2, Some(&*token));
            assert!(is_admitted, "{from} to {to}");
            let is_taken = |it: &Seen| matches!(it, Seen::Closed(4502, _));
            assert!(net.seen[&ann].iter().any(is_taken));
            assert_eq!(net.take(again)[1]["type"], "resumed");
            assert!(!open(&mut net, 3, None).1, "the place is taken");
            net.close(again);
            net.run();
            assert!(open(&mut net, 4, None).1, "and free again");
        }
    }
}
