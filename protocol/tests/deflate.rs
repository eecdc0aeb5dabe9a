//! Compressed messages: what one end packs the other unpacks, at every fragmentation; an independent implementation
//! (miniz_oxide) and a slow twin agree; no window is left.

#[path = "puff/mod.rs"]
mod puff;
mod seeded;

use corecast_protocol::CloseCode;
use corecast_protocol::ws::deflate::{Compressor, Negotiated};
use corecast_protocol::ws::frame::{self, Opcode};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role, unmask};
use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush};
use proptest::prelude::*;
use seeded::seeded;

const LIMITS: Limits = Limits { message_bytes: 1 << 20, fragments: 1 << 20 };
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Frames of one message as `role` sends them, cut at these places of its payload, a ping behind each.
fn frames(role: Role, opcode: Opcode, is_compressed: bool, payload: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(payload.len());
    let mut start = 0;
    for (index, end) in cuts.iter().copied().enumerate() {
        let at = out.len();
        let opcode = if index == 0 { opcode } else { Opcode::Continuation };
        match role {
            Role::Server => frame::encode(opcode, &payload[start..end], &mut out),
            Role::Client => frame::encode_masked(opcode, &payload[start..end], [7, 1, 99, 200], &mut out),
        }
        if index == 0 && is_compressed {
            frame::mark_compressed(&mut out[at..]);
        }
        if index + 1 < cuts.len() {
            out[at] &= 0x7f;
            match role {
                Role::Server => frame::encode(Opcode::Ping, b"", &mut out),
                Role::Client => frame::encode_masked(Opcode::Ping, b"", [1; 4], &mut out),
            }
        }
        start = end;
    }
    out
}

/// The messages that `receiver` reads, in pieces of so many bytes, or the code of a violation.
fn read(
    receiver: &mut Connection,
    pool: &mut AssemblyPool,
    bytes: &[u8],
    piece: usize,
) -> Result<Vec<Vec<u8>>, CloseCode> {
    let mut messages = Vec::new();
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let mut reader = receiver.receive(&mut piece, pool);
        while let Some(event) = reader.next() {
            match event.map_err(|violation| violation.code)? {
                Event::Text(text) => messages.push(text.as_bytes().to_vec()),
                Event::Binary(bytes) => messages.push(bytes.to_vec()),
                _ => {}
            }
        }
    }
    Ok(messages)
}

fn pack(compressor: &mut Compressor, payload: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    compressor.pack(payload, &mut packed);
    packed
}

fn pool() -> AssemblyPool {
    AssemblyPool::new(64 << 10, 8, 64 << 20)
}

/// Packs with miniz_oxide, which has one window only.
struct Miniz(Box<CompressorOxide>);

impl Miniz {
    fn new(level: i32) -> Self {
        Self(Box::new(CompressorOxide::new(create_comp_flags_from_zip_params(level, -15, 0))))
    }

    fn pack(&mut self, mut payload: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let result = deflate(&mut self.0, payload, &mut chunk, MZFlush::Sync);
            payload = &payload[result.bytes_consumed..];
            packed.extend_from_slice(&chunk[..result.bytes_written]);
            if payload.is_empty() && result.bytes_written < chunk.len() && packed.ends_with(&TAIL) {
                break;
            }
            assert_ne!(
                (result.bytes_consumed, result.bytes_written),
                (0, 0),
                "a flush ends with an empty block"
            );
        }
        packed.truncate(packed.len() - TAIL.len());
        packed
    }
}

/// Unpacks with miniz_oxide.
struct Inflate(Box<InflateState>);

impl Inflate {
    fn new() -> Self {
        Self(InflateState::new_boxed(DataFormat::Raw))
    }

    fn unpack(&mut self, packed: &[u8]) -> Vec<u8> {
        let input = [packed, &TAIL].concat();
        let (mut input, mut out, mut chunk) = (&input[..], Vec::new(), [0; 4096]);
        loop {
            let result = inflate(&mut self.0, input, &mut chunk, MZFlush::None);
            input = &input[result.bytes_consumed..];
            out.extend_from_slice(&chunk[..result.bytes_written]);
            if input.is_empty() && result.bytes_written < chunk.len() {
                return out;
            }
            result.status.expect("what was packed can be unpacked");
        }
    }
}

/// Texts that repeat themselves near and far, and bytes that don't.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        "[a-e]{1,9}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 1..40),
        Just(br#"{"type":"message","channel":"conversation:42","payload":"#.to_vec()),
    ];
    let words = proptest::collection::vec(word, 0..20);
    (words, 1usize..60).prop_map(|(words, times)| words.concat().repeat(times))
}

fn negotiated() -> impl Strategy<Value = Negotiated> {
    let window = || proptest::option::of(8u8..=15);
    (any::<bool>(), any::<bool>(), window(), window()).prop_map(|(server, client, own, other)| Negotiated {
        server_no_context_takeover: server,
        client_no_context_takeover: client,
        server_max_window_bits: own,
        client_max_window_bits: other,
    })
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

/// One message: its payload, where it is cut, whether it is sent compressed.
type Sent = (Vec<u8>, Vec<usize>, bool);

fn sent() -> impl Strategy<Value = Vec<Sent>> {
    let cuts = proptest::collection::vec(any::<usize>(), 0..6);
    proptest::collection::vec((payload(), cuts, proptest::bool::weighted(0.8)), 1..6)
}

/// A block that is stored may end exactly where the flush does: miniz_oxide leaves the empty block out then, as it does
/// for 31,745 bytes at level 0.
#[test]
fn what_is_stored_ends_at_every_length() {
    for length in (0..40).chain(31_700..31_800).chain(63_450..63_550) {
        let payload = vec![7; length];
        let packed = Miniz::new(0).pack(&payload);
        assert_eq!(Inflate::new().unpack(&packed), payload, "{length} bytes: miniz_oxide reads its own");
        let mut receiver = Connection::with_deflate(Role::Server, LIMITS, Negotiated::default());
        let bytes = frames(Role::Client, Opcode::Binary, true, &packed, &[]);
        assert_eq!(read(&mut receiver, &mut pool(), &bytes, usize::MAX), Ok(vec![payload]), "{length} bytes");
    }
}

proptest! {
    #![proptest_config(seeded(200))]

    #[test]
    fn what_one_end_packs_the_other_unpacks(
        messages in sent(), negotiated in negotiated(), role in role(), level in 1u32..10, piece in 1usize..5000,
    ) {
        let mut compressor = Compressor::for_connection(level, &negotiated, role);
        let mut receiver = Connection::with_deflate(role.other(), LIMITS, negotiated);
        let mut pool = pool();
        let mut independent = Inflate::new();
        for (payload, cuts, is_compressed) in &messages {
            let bytes = if *is_compressed {
                let packed = &pack(&mut compressor, payload);
                if !negotiated.takes_over_sent(role) {
                    independent = Inflate::new();
                }
                prop_assert_eq!(&independent.unpack(packed), payload, "miniz_oxide reads it");
                frames(role, Opcode::Binary, true, packed, cuts)
            } else {
                frames(role, Opcode::Binary, false, payload, cuts)
            };
            let read = read(&mut receiver, &mut pool, &bytes, piece);
            prop_assert_eq!(read, Ok(vec![payload.clone()]));
        }
        prop_assert_eq!(pool.contexts() > 0, negotiated.takes_over_sent(role) && messages.iter().any(|it| it.2));
        receiver.release(&mut pool);
        prop_assert_eq!((pool.bytes_in_use(), pool.contexts()), (0, 0));
    }

    #[test]
    fn what_an_independent_end_packs_is_read(messages in sent(), level in 0i32..10, takes_over: bool, piece in 1usize..5000) {
        let negotiated = Negotiated { client_no_context_takeover: !takes_over, ..Negotiated::default() };
        let mut receiver = Connection::with_deflate(Role::Server, LIMITS, negotiated);
        let (mut pool, mut miniz) = (pool(), Miniz::new(level));
        for (payload, cuts, _) in &messages {
            if !takes_over {
                miniz = Miniz::new(level);
            }
            let bytes = frames(Role::Client, Opcode::Binary, true, &miniz.pack(payload), cuts);
            prop_assert_eq!(read(&mut receiver, &mut pool, &bytes, piece), Ok(vec![payload.clone()]));
        }
        receiver.release(&mut pool);
        prop_assert_eq!(pool.bytes_in_use(), 0);
    }

    #[test]
    fn no_message_leaves_its_window(payload in payload(), bits in 8u8..=15, level in 1u32..10) {
        let negotiated = Negotiated {
            server_no_context_takeover: true,
            server_max_window_bits: Some(bits),
            ..Negotiated::default()
        };
        let mut compressor = Compressor::for_connection(level, &negotiated, Role::Server);
        let twin = puff::message(&pack(&mut compressor, &payload), usize::MAX).expect("the twin reads it");
        prop_assert_eq!(&twin.bytes, &payload);
        prop_assert!(twin.distance_max <= 1 << bits, "{} bytes back with {bits} bits", twin.distance_max);
    }

    #[test]
    fn noise_gets_the_verdict_of_the_slow_twin(
        payload in payload(), level in 1u32..10, flips in proptest::collection::vec(any::<(usize, u8)>(), 0..3),
        cut in any::<usize>(), bytes_max in 1usize..3000,
    ) {
        let mut packed = pack(&mut Compressor::shared(level), &payload);
        for (at, bits) in flips {
            let at = at % packed.len();
            packed[at] ^= bits;
        }
        if cut % 4 == 0 {
            packed.truncate(cut / 4 % (packed.len() + 1));
        }
        let negotiated = Negotiated { server_no_context_takeover: true, ..Negotiated::default() };
        let limits = Limits { message_bytes: bytes_max, fragments: 1 };
        let mut receiver = Connection::with_deflate(Role::Client, limits, negotiated);
        let mut bytes = Vec::new();
        frame::encode(Opcode::Binary, &packed, &mut bytes);
        frame::mark_compressed(&mut bytes);
        let ours = read(&mut receiver, &mut pool(), &bytes, usize::MAX);
        let twin = puff::message(&packed, bytes_max).filter(|_| packed.len() <= bytes_max);
        prop_assert_eq!(ours.ok(), twin.map(|it| vec![it.bytes]));
    }

    #[test]
    fn what_one_connection_sends_does_not_change_what_another_says(
        bad in payload(), good in payload(), flips in proptest::collection::vec(any::<(usize, u8)>(), 0..4),
        cut in any::<usize>(), bytes_max in 1usize..3000, piece in 1usize..5000,
    ) {
        let negotiated = Negotiated { client_no_context_takeover: true, ..Negotiated::default() };
        let mut compressor = Compressor::shared(6);
        let mut noise = pack(&mut compressor, &bad);
        for (at, bits) in flips {
            let at = at % noise.len();
            noise[at] ^= bits;
        }
        noise.truncate(cut % (noise.len() + 1));
        let noise = frames(Role::Client, Opcode::Binary, true, &noise, &[]);
        let message = frames(Role::Client, Opcode::Binary, true, &pack(&mut compressor, &good), &[]);
        // Both are read by the inflater that a pool keeps for all.
        let mut pool = pool();
        let mut honest = Connection::with_deflate(Role::Server, LIMITS, negotiated);
        for _ in 0..2 {
            let limits = Limits { message_bytes: bytes_max, fragments: 1 };
            let mut other = Connection::with_deflate(Role::Server, limits, negotiated);
            let _ = read(&mut other, &mut pool, &noise, piece);
            prop_assert_eq!(read(&mut honest, &mut pool, &message, piece), Ok(vec![good.clone()]));
            other.release(&mut pool);
        }
        prop_assert_eq!((pool.bytes_in_use(), pool.contexts()), (0, 0));
    }
}

/// Long runs and far references are what a window could be left by: every level, every window, whole windows long.
#[test]
fn no_long_message_leaves_its_window() {
    let mut state = 7u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for bits in 8..=15u8 {
        for period in [1, 3, 249, 250, 251, 255, 256, 257, (1 << bits) - 262, (1 << bits) - 1, 1 << bits] {
            let once: Vec<u8> = (0..period.max(1)).map(|_| noise()).collect();
            let payload: Vec<u8> = once.iter().copied().cycle().take(3 << bits).collect();
            for level in 1..=9 {
                let negotiated = Negotiated { client_max_window_bits: Some(bits), ..Negotiated::default() };
                let mut compressor = Compressor::for_connection(level, &negotiated, Role::Client);
                let twin =
                    puff::message(&pack(&mut compressor, &payload), usize::MAX).expect("the twin reads it");
                assert!(twin.bytes == payload, "{bits} bits, level {level}, period {period}");
                assert!(
                    twin.distance_max <= 1 << bits,
                    "{bits} bits, level {level}, period {period}: {}",
                    twin.distance_max
                );
            }
        }
    }
}

/// A masked payload is unmasked before it is unpacked, also where it lies whole.
#[test]
fn the_mask_is_outside() {
    let packed = pack(&mut Compressor::shared(6), b"Hello");
    let mut bytes = frames(Role::Client, Opcode::Text, true, &packed, &[]);
    let mut masked = packed.clone();
    unmask(&mut masked, [7, 1, 99, 200], 0);
    assert!(bytes.ends_with(&masked) && masked != packed);
    let mut receiver = Connection::with_deflate(Role::Server, LIMITS, Negotiated::default());
    let mut pool = pool();
    let mut reader = receiver.receive(&mut bytes, &mut pool);
    assert_eq!(reader.next(), Some(Ok(Event::Text("Hello"))));
}
