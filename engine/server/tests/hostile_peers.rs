//! Peers that go without a word: by a reset or by nothing at all, in every phase of their lives, many at once, and
//! beside good connections that miss nothing meanwhile.

mod support;

use support::{Crowd, Gauges, HANDSHAKE, Phase, Raw, Server, Start, flood, masked, on_all_layouts};

on_all_layouts!(resets_in_every_phase, a_reset_behind_every_byte, whole_lives_cut_short);

/// Peers in every phase at once.
const PEERS_PER_PHASE: usize = 20;

/// Small outboxes are soon full; time-outs that nobody meets.
fn start_with_small_outboxes(start: Start) -> Server {
    start
        .arg("--no-limits")
        .set("limits.message_bytes", 65_536)
        .set("limits.outbox_messages", 40)
        .set("limits.outbox_bytes", 131_072)
        .start()
}

/// Peers in every phase, as many of each; those that are flooded have a batch under way.
#[track_caller]
fn peers_in_every_phase(server: &Server) -> Vec<Raw> {
    let mut peers = Vec::new();
    for _ in 0..PEERS_PER_PHASE {
        peers.extend(Phase::ALL.map(|phase| phase.peer(server.clients)));
    }
    flood(server, server.clients);
    peers
}

/// Waits until none but those who were there before are left.
#[track_caller]
fn wait_for_the_end(server: &Server, before: &Gauges) {
    server.wait_for_metric("connections", |connections| connections == before.connections());
}

fn resets_in_every_phase(start: Start) {
    const WAVES: usize = 2;
    let server = start_with_small_outboxes(start);
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let before = Gauges::of(&server);
    let accepted = server.metric("accepted_total");
    for _ in 0..WAVES {
        let chatting = crowd.chat();
        let peers = peers_in_every_phase(&server);
        assert!(server.metric("stalls_total") > 0, "somebody is held back");
        assert!(server.metric("assembly_bytes") > 0, "messages are unfinished");
        peers.into_iter().for_each(Raw::reset);
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
    let server = start.arg("--no-limits").start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let (before, life) = (Gauges::of(&server), life());
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
    let server = start.arg("--no-limits").start();
    let mut crowd = Crowd::connect(server.clients, 5, 4);
    crowd.round();
    let (before, life) = (Gauges::of(&server), life());
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
