//! How many sessions wait: nobody makes others lose theirs with many of its own.

mod harness;

use corecast_hub::HubLimits;
use harness::Net;
use harness::sessions::{join, refused, resumed};

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
