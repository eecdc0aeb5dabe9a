//! What a connection promises to its caller: readers may be dropped early, and behind our own close only the peer's
//! close is reported.

mod seeded;

use corecast_protocol::CloseCode;
use corecast_protocol::ws::frame::{Opcode, close_payload, encode_masked};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};
use proptest::prelude::*;
use seeded::seeded;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn connection() -> Connection {
    Connection::new(Role::Server, Limits { message_bytes: 1 << 16, fragments: 16 })
}

fn pool() -> AssemblyPool {
    AssemblyPool::new(64, 2, 1 << 20)
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_masked(opcode, payload, MASK, &mut out);
    out
}

/// The same without the bit that says that it is the last fragment.
fn fragment(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = frame(opcode, payload);
    out[0] &= 0x7f;
    out
}

fn close(code: CloseCode, reason: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    close_payload(code, reason, &mut payload);
    frame(Opcode::Close, &payload)
}

/// All events of some bytes, as text.
fn events(connection: &mut Connection, pool: &mut AssemblyPool, bytes: &[u8]) -> Vec<String> {
    let mut bytes = bytes.to_vec();
    let mut reader = connection.receive(&mut bytes, pool);
    let mut seen = Vec::new();
    while let Some(event) = reader.next() {
        seen.push(format!("{event:?}"));
    }
    seen
}

/// Pieces of a client's stream: messages whole and in fragments, control frames between, perhaps a close.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let payload = || prop::collection::vec(any::<u8>(), 0..100);
    let part = prop_oneof![
        "[a-zä]{0,40}".prop_map(|text| frame(Opcode::Text, text.as_bytes())),
        payload().prop_map(|bytes| frame(Opcode::Binary, &bytes)),
        payload().prop_map(|bytes| frame(Opcode::Ping, &bytes)),
        (payload(), payload(), payload()).prop_map(|(first, between, last)| {
            let first = fragment(Opcode::Binary, &first);
            [first, frame(Opcode::Pong, &between), frame(Opcode::Continuation, &last)].concat()
        }),
    ];
    (prop::collection::vec(part, 0..8), any::<bool>()).prop_map(|(parts, is_closing)| {
        let end = if is_closing { close(CloseCode::Normal, "bye") } else { Vec::new() };
        [parts.concat(), end].concat()
    })
}

proptest! {
    #![proptest_config(seeded(1000))]

    #[test]
    fn a_reader_may_be_dropped_behind_every_event(stream in stream(), piece in 1usize..200) {
        let expected = events(&mut connection(), &mut pool(), &stream);
        let (mut connection, mut pool) = (connection(), pool());
        let mut seen = Vec::new();
        for part in stream.chunks(piece) {
            let mut rest = part.to_vec();
            // As a caller does that is paused: what was not consumed is presented again, as it is now.
            while !rest.is_empty() {
                let mut reader = connection.receive(&mut rest, &mut pool);
                if let Some(event) = reader.next() {
                    seen.push(format!("{event:?}"));
                }
                let consumed = reader.consumed();
                drop(reader);
                prop_assert!(consumed > 0, "no progress");
                rest.drain(..consumed);
            }
        }
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(pool.bytes_in_use(), 0);
    }

    #[test]
    fn behind_our_close_only_the_peers_close_is_reported(before in stream(), behind in stream(), cut in any::<prop::sample::Index>()) {
        // A close of the peer's own before ours would end it all.
        let before: Vec<u8> = before.strip_suffix(&close(CloseCode::Normal, "bye")[..]).unwrap_or(&before).to_vec();
        let (mut connection, mut pool) = (connection(), pool());
        let all = [before, behind, close(CloseCode::GoingAway, "later")].concat();
        let (early, late) = all.split_at(cut.index(all.len() + 1));
        let seen = events(&mut connection, &mut pool, early);
        let is_over = seen.last().is_some_and(|event| event.contains("Close("));
        connection.close_sent();
        let late = events(&mut connection, &mut pool, late);
        if is_over {
            prop_assert_eq!(late, Vec::<String>::new());
        } else {
            prop_assert_eq!(late.len(), 1, "{:?}", late);
            prop_assert!(late[0].contains("Close(Some(("), "{:?}", late);
        }
        prop_assert_eq!(pool.bytes_in_use(), 0);
    }
}

#[test]
fn behind_our_close_what_is_unfinished_is_not_kept() {
    let (mut connection, mut pool) = (connection(), pool());
    connection.close_sent();
    let mut reads = vec![fragment(Opcode::Binary, &[7; 300])];
    // A frame that never ends.
    reads.push(frame(Opcode::Continuation, &[7; 300])[..200].to_vec());
    for read in reads {
        assert_eq!(events(&mut connection, &mut pool, &read), Vec::<String>::new());
        assert_eq!(pool.bytes_in_use(), 0);
    }
}

#[test]
fn behind_our_close_a_violation_is_still_one() {
    let (mut connection, mut pool) = (connection(), pool());
    connection.close_sent();
    let mut bytes = frame(Opcode::Text, b"x");
    bytes[0] |= 0x40;
    let mut reader = connection.receive(&mut bytes, &mut pool);
    assert!(matches!(reader.next(), Some(Err(violation)) if violation.code == CloseCode::Protocol));
}

#[test]
fn a_pool_that_is_exhausted_refuses_and_recovers() {
    let mut pool = AssemblyPool::new(64, 1, 128);
    let (mut first, mut second, mut third) = (connection(), connection(), connection());
    let unfinished = fragment(Opcode::Binary, &[7; 60]);
    assert_eq!(events(&mut first, &mut pool, &unfinished), Vec::<String>::new());
    assert_eq!(events(&mut second, &mut pool, &unfinished), Vec::<String>::new());
    let mut bytes = unfinished.clone();
    match third.receive(&mut bytes, &mut pool).next() {
        Some(Err(violation)) => {
            assert_eq!(violation.code, CloseCode::TryAgainLater);
            assert!(violation.reason.starts_with("OVERLOADED:"), "{}", violation.reason);
        }
        other => panic!("{other:?}"),
    }
    // Complete messages need no buffer; and what is given back can be lent again.
    let mut whole = frame(Opcode::Binary, &[7; 1000]);
    assert!(matches!(connection().receive(&mut whole, &mut pool).next(), Some(Ok(Event::Binary(_)))));
    assert_eq!(events(&mut first, &mut pool, &frame(Opcode::Continuation, &[])).len(), 1);
    assert_eq!(pool.bytes_in_use(), 64);
    assert_eq!(events(&mut connection(), &mut pool, &unfinished), Vec::<String>::new());
    assert_eq!(pool.bytes_in_use(), 128);
}
