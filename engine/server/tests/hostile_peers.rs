//! Peers that go without a word: by a reset or by nothing at all, in every phase of their lives, many at once, and
//! beside good connections that miss nothing meanwhile.

mod support;

use std::net::{Ipv4Addr, SocketAddr};

use support::{
    Crowd, Gauges, HANDSHAKE, Link, OWN_NETWORK, Phase, Raw, Server, Start, flood, in_own_network, masked,
    need_descriptors, on_all_layouts, on_both_drivers,
};

on_all_layouts!(resets_in_every_phase, a_reset_behind_every_byte, whole_lives_cut_short);
on_both_drivers!(who_falls_silent_is_ended, who_vanishes_is_ended);

/// Few enough that all are in their phases before the first time-out.
const SILENT_PER_PHASE: usize = 6;

/// Beside other tests in the same process, whose descriptors count too.
fn unlimited(start: Start) -> Start {
    need_descriptors(1000);
    start.arg("--no-limits")
}

/// Small outboxes are soon full.
fn with_small_outboxes(start: Start) -> Start {
    unlimited(start)
        .set("limits.message_bytes", 65_536)
        .set("limits.outbox_messages", 40)
        .set("limits.outbox_bytes", 131_072)
}

/// Every phase ends by a time-out: long enough to bring peers into their phases, and for good connections.
fn impatient(start: Start) -> Start {
    with_small_outboxes(start)
        .shards(2)
        .set("limits.handshake_timeout_ms", 2000)
        .set("limits.heartbeat_interval_ms", 1000)
        .set("limits.pong_timeout_ms", 400)
        .set("limits.missed_pongs", 3)
        .set("limits.close_timeout_ms", 300)
}

/// Peers in every phase, as many of each; those that are flooded have a batch under way. The flood comes from
/// where the good connections are.
#[track_caller]
fn peers_in_every_phase(count: usize, server: &Server, address: SocketAddr) -> Vec<(Phase, Raw)> {
    let mut peers = Vec::new();
    for _ in 0..count {
        peers.extend(Phase::ALL.map(|phase| (phase, phase.peer(address))));
    }
    flood(server, server.clients);
    assert!(server.metric("stalls_total") > 0, "somebody is held back");
    assert!(server.metric("assembly_bytes") > 0, "messages are unfinished");
    peers
}

/// Waits until none but those who were there before are left.
#[track_caller]
fn wait_for_the_end(server: &Server, before: &Gauges) {
    server.wait_for_metric("connections", |connections| connections == before.connections());
}

fn resets_in_every_phase(start: Start) {
    const WAVES: usize = 2;
    const PEERS_PER_PHASE: usize = 20;
    let server = with_small_outboxes(start).start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let before = Gauges::settled(&server);
    let accepted = server.metric("accepted_total");
    for _ in 0..WAVES {
        let chatting = crowd.chat();
        let peers = peers_in_every_phase(PEERS_PER_PHASE, &server, server.clients);
        peers.into_iter().for_each(|(_, peer)| peer.reset());
        chatting.wait_for_rounds(5);
        wait_for_the_end(&server, &before);
        crowd = chatting.stop();
        before.assert_back(&server);
    }
    let peers = WAVES * (PEERS_PER_PHASE * Phase::ALL.len() + 1);
    assert_eq!(server.metric("accepted_total") - accepted, peers as u64);
    crowd.round();
}

/// Everything that a client says in a short life; each line in frames of its own.
fn life() -> Vec<u8> {
    let mut bytes = format!("GET /ws/demo{HANDSHAKE}").into_bytes();
    for text in [
        r#"{"type":"subscribe","id":1,"channel":"conversation:1"}"#,
        r#"{"type":"publish","id":2,"channel":"conversation:1","payload":[1,2,3]}"#,
        r#"{"type":"unsubscribe","channel":"conversation:1"}"#,
    ] {
        bytes.extend(masked(0x81, text.as_bytes()));
    }
    bytes.extend(masked(0x89, b"ping"));
    let (first, rest) = br#"{"type":"ping","id":3}"#.split_at(9);
    bytes.extend(masked(0x01, first));
    bytes.extend(masked(0x80, rest));
    bytes.extend(masked(0x88, &1000_u16.to_be_bytes()));
    bytes
}

/// The whole life in one packet, cut at each place: the bytes and the reset often arrive together.
fn a_reset_behind_every_byte(start: Start) {
    let server = unlimited(start).start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let (before, life) = (Gauges::settled(&server), life());
    let accepted = server.metric("accepted_total");
    let chatting = crowd.chat();
    for cut in 0..=life.len() {
        let mut raw = server.raw();
        raw.send(&life[..cut]);
        raw.reset();
    }
    // Who is reset before it is accepted is accepted all the same.
    let everybody = accepted + life.len() as u64 + 1;
    server.wait_for_metric("accepted_total", |accepted| accepted == everybody);
    wait_for_the_end(&server, &before);
    crowd = chatting.stop();
    before.assert_back(&server);
    crowd.round();
}

/// Lives that the server has time to follow, each cut at another place, many at once.
fn whole_lives_cut_short(start: Start) {
    const AT_ONCE: usize = 64;
    let server = unlimited(start).start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let (before, life) = (Gauges::settled(&server), life());
    let chatting = crowd.chat();
    let cuts: Vec<usize> = (1..life.len()).step_by(3).collect();
    for cuts in cuts.chunks(AT_ONCE) {
        let mut peers: Vec<Raw> = cuts.iter().map(|_| server.raw()).collect();
        for (peer, cut) in peers.iter_mut().zip(cuts) {
            peer.send(&life[..*cut]);
        }
        // What was sent is acted on before the next round is over: it came before.
        chatting.wait_for_rounds(2);
        peers.into_iter().for_each(Raw::reset);
    }
    wait_for_the_end(&server, &before);
    crowd = chatting.stop();
    before.assert_back(&server);
    crowd.round();
}

/// The peer's kernel still acknowledges, but the peer neither reads nor says anything: as a process that was stopped.
fn who_falls_silent_is_ended(start: Start) {
    let server = impatient(start).start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let before = Gauges::settled(&server);
    let chatting = crowd.chat();
    let peers = peers_in_every_phase(SILENT_PER_PHASE, &server, server.clients);
    wait_for_the_end(&server, &before);
    crowd = chatting.stop();
    before.assert_back(&server);
    crowd.round();
    for (phase, mut peer) in peers {
        let last_words = match phase {
            Phase::Silent | Phase::HalfRequest => "HTTP/1.1 408 ",
            Phase::Requested | Phase::Idle | Phase::HalfHeader | Phase::HalfPayload | Phase::Fragments => {
                "TIMEOUT: no answer to pings"
            }
            _ => continue,
        };
        let (bytes, _) = peer.read_to_end();
        assert!(String::from_utf8_lossy(&bytes).contains(last_words), "{phase:?} is told why");
    }
}

/// Neither FIN nor RST, and no acknowledgement either: a machine without power, a cut cable.
fn who_vanishes_is_ended(start: Start) {
    let test = format!("{}::who_vanishes_is_ended", start.driver);
    in_own_network(&test, || {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut server = impatient(start).listen(any).admin(any).through(&OWN_NETWORK).start();
        let (near, far) = (Link::lay(&server, 1), Link::lay(&server, 2));
        server.clients.set_ip(near.server);
        server.admin.set_ip(near.server);
        let mut crowd = Crowd::connect(server.clients, 5, 4);
        crowd.round();
        let before = Gauges::settled(&server);
        let chatting = crowd.chat();
        let address = SocketAddr::new(far.server, server.clients.port());
        let peers = peers_in_every_phase(SILENT_PER_PHASE, &server, address);
        far.cut();
        wait_for_the_end(&server, &before);
        crowd = chatting.stop();
        before.assert_back(&server);
        crowd.round();
        drop(peers);
    });
}
