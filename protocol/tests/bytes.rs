//! The fast loops over bytes against slow twins: unmasking, UTF-8 that arrives in pieces, the pool's bound.

mod seeded;

use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role, unmask};
use proptest::prelude::*;
use proptest::sample::Index;
use seeded::seeded;

/// RFC 6455 section 5.3 as it is written: "transformed-octet-i = original-octet-i XOR masking-key-octet-(i MOD 4)".
fn unmask_slowly(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[(index + phase) % 4];
    }
}

#[test]
fn unmasking_equals_the_slow_twin_at_every_alignment_length_and_phase() {
    let source: Vec<u8> = (0..512u32).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    for start in 0..=32 {
        for length in (0..=130).chain([255, 256, 257, 479, 480]) {
            for phase in 0..4 {
                let (mut fast, mut slow) = (source.clone(), source.clone());
                let mask = [0x37, 0xfa, 0x21, length as u8];
                let after = unmask(&mut fast[start..start + length], mask, phase);
                unmask_slowly(&mut slow[start..start + length], mask, phase);
                assert_eq!((fast, after), (slow, (phase + length) % 4), "{start}, {length}, {phase}");
            }
        }
    }
}

/// One masked frame, with a mask of zeros.
fn frame(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![opcode | u8::from(is_final) << 7];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// The text that a connection takes from these pieces, or how many of them it read before it refused.
fn text_of(pieces: Vec<Vec<u8>>) -> Result<Option<String>, usize> {
    let mut connection = Connection::new(Role::Server, Limits { message_bytes: 1 << 20, fragments: 1024 });
    let mut pool = AssemblyPool::new(64, 1, 1 << 20);
    let mut text = None;
    for (index, mut piece) in pieces.into_iter().enumerate() {
        let mut reader = connection.receive(&mut piece, &mut pool);
        while let Some(event) = reader.next() {
            match event {
                Ok(Event::Text(found)) => text = Some(found.to_owned()),
                Ok(other) => panic!("{other:?} from a text"),
                Err(_) => return Err(index),
            }
        }
    }
    Ok(text)
}

/// The length of the binary message that these bytes complete, if they do, or the code that they are closed with.
fn first_length(
    connection: &mut Connection,
    bytes: &mut [u8],
    pool: &mut AssemblyPool,
) -> Result<Option<usize>, u16> {
    match connection.receive(bytes, pool).next() {
        None => Ok(None),
        Some(Ok(Event::Binary(bytes))) => Ok(Some(bytes.len())),
        Some(Ok(other)) => panic!("{other:?} from binary frames"),
        Some(Err(violation)) => Err(violation.code.code()),
    }
}

/// The fewest bytes after which no continuation can make them UTF-8 any more.
fn hopeless_after(bytes: &[u8]) -> Option<usize> {
    (1..=bytes.len())
        .find(|end| std::str::from_utf8(&bytes[..*end]).is_err_and(|error| error.error_len().is_some()))
}

/// Bytes that are UTF-8 or nearly so.
fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
    let scrap = prop_oneof![
        4 => ".{0,6}".prop_map(String::into_bytes),
        2 => "[äß€한😀\u{10ffff}]{1,4}".prop_map(String::into_bytes),
        1 => prop::collection::vec(prop_oneof![0x80u8..=0xff, any::<u8>()], 1..3),
        1 => prop::sample::select(vec![
            vec![0xed, 0xa0, 0x80], vec![0xf4, 0x90, 0x80, 0x80], vec![0xe0, 0x9f, 0xbf], vec![0xc0, 0x80],
            vec![0xf0, 0x9f, 0x98], vec![0xe2, 0x82], vec![0xc3], vec![0xf0, 0x8f, 0xbf, 0xbf],
        ]),
    ];
    prop::collection::vec(scrap, 0..6).prop_map(|scraps| scraps.concat())
}

proptest! {
    #![proptest_config(seeded(256))]

    #[test]
    fn unmasking_in_pieces_equals_the_slow_twin(
        source in prop::collection::vec(any::<u8>(), 0..2000), mask in any::<[u8; 4]>(),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(source.len() + 1)).collect();
        cuts.push(source.len());
        cuts.sort_unstable();
        let (mut fast, mut slow) = (source.clone(), source);
        let (mut start, mut phase) = (0, 0);
        for end in cuts {
            phase = unmask(&mut fast[start..end], mask, phase);
            start = end;
        }
        unmask_slowly(&mut slow, mask, 0);
        prop_assert_eq!(fast, slow);
    }

    #[test]
    fn a_text_cut_in_three_anywhere_gets_the_verdict_of_the_standard_library(bytes in nearly_text()) {
        let twin = std::str::from_utf8(&bytes).ok().map(str::to_owned);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let fragments = vec![
                    frame(1, false, &bytes[..first]),
                    frame(0, false, &bytes[first..second]),
                    frame(0, true, &bytes[second..]),
                ];
                let seen = text_of(fragments).ok().flatten();
                prop_assert_eq!(&seen, &twin, "cut at {} and {}", first, second);
            }
            // One frame that arrives in two reads.
            let mut whole = frame(1, true, &bytes);
            let rest = whole.split_off(whole.len() - (bytes.len() - first));
            prop_assert_eq!(&text_of(vec![whole, rest]).ok().flatten(), &twin, "read in two, cut at {}", first);
        }
    }

    #[test]
    fn a_hopeless_text_is_refused_at_once(bytes in nearly_text()) {
        // A frame that announces one byte more never ends: only what arrived can be judged.
        let mut header = frame(1, true, &[&bytes[..], &[0]].concat());
        header.truncate(header.len() - bytes.len() - 1);
        let pieces = std::iter::once(header).chain(bytes.iter().map(|byte| vec![*byte])).collect();
        prop_assert_eq!(text_of(pieces).err(), hopeless_after(&bytes));
    }

    #[test]
    fn unfinished_messages_stay_within_the_pools_bound(
        arrivals in prop::collection::vec((0usize..6, 0usize..700, prop::bool::weighted(0.3)), 1..80),
    ) {
        const BYTES_MAX: usize = 2048;
        let mut pool = AssemblyPool::new(256, 3, BYTES_MAX);
        let new = || Connection::new(Role::Server, Limits { message_bytes: 4096, fragments: 1024 });
        // Each with the bytes of its unfinished message, none where there is no such message.
        let mut connections: Vec<(Connection, Option<usize>)> = (0..6).map(|_| (new(), None)).collect();
        for (who, length, is_final) in arrivals {
            let (connection, unfinished) = &mut connections[who];
            let opcode = if unfinished.is_some() { 0 } else { 2 };
            let mut bytes = frame(opcode, is_final, &vec![7; length]);
            let total = unfinished.unwrap_or(0) + length;
            match first_length(connection, &mut bytes, &mut pool) {
                Ok(None) => *unfinished = Some(total),
                Ok(Some(length)) => {
                    prop_assert_eq!(length, total);
                    *unfinished = None;
                }
                Err(code) => {
                    // Over the message's limit, or the pool's.
                    prop_assert!(matches!(code, 1009 | 1013), "closed with {}", code);
                    connections[who] = (new(), None);
                }
            }
            let kept: usize = connections.iter().filter_map(|(_, unfinished)| *unfinished).sum();
            let lent = pool.bytes_in_use();
            prop_assert!(kept <= lent && lent <= BYTES_MAX, "{} bytes kept in {}", kept, lent);
        }
        for (connection, _) in &mut connections {
            connection.release(&mut pool);
        }
        prop_assert_eq!(pool.bytes_in_use(), 0);
    }
}
