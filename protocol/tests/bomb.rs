//! A small message that becomes a large one costs no more memory than a message may have: counted by the allocator.

use corecast_protocol::CloseCode;
use corecast_protocol::ws::deflate::{Compressor, Negotiated};
use corecast_protocol::ws::frame::{self, Opcode};
use corecast_protocol::ws::{AssemblyPool, Connection, Limits, Role};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const MESSAGE_BYTES: usize = 1 << 20;

/// What zlib itself needs to unpack: its window and its tables.
const INFLATER_BYTES: usize = 64 << 10;

/// One test, because the allocator counts for the whole process.
#[test]
fn a_bomb_costs_no_more_than_a_message() {
    let mut bombs = Vec::new();
    for size in [MESSAGE_BYTES + 1, 100 * MESSAGE_BYTES] {
        let (mut packed, mut bytes) = (Vec::new(), Vec::new());
        Compressor::shared(9).pack(&vec![0; size], &mut packed);
        frame::encode(Opcode::Binary, &packed, &mut bytes);
        frame::mark_compressed(&mut bytes);
        bombs.push(bytes);
    }
    let limits = Limits { message_bytes: MESSAGE_BYTES, fragments: 1 };
    for server_no_context_takeover in [true, false] {
        for bomb in &bombs {
            let mut bytes = bomb.clone();
            let _profiler = dhat::Profiler::builder().testing().build();
            let mut pool = AssemblyPool::new(64 << 10, 64, 256 << 20);
            let negotiated = Negotiated { server_no_context_takeover, ..Negotiated::default() };
            let mut receiver = Connection::with_deflate(Role::Client, limits, negotiated);
            let mut reader = receiver.receive(&mut bytes, &mut pool);
            let violation = reader.next().map(|event| event.map_err(|it| it.code).map(|_| ()));
            assert_eq!(violation, Some(Err(CloseCode::TooLarge)));
            drop(reader);
            let stats = dhat::HeapStats::get();
            // A buffer that grows holds what it had for a moment longer: half as much again.
            let most = MESSAGE_BYTES * 3 / 2 + INFLATER_BYTES;
            assert!(stats.max_bytes <= most, "{} bytes for a bomb of {}", stats.max_bytes, bomb.len());
            assert!(stats.max_bytes > MESSAGE_BYTES, "the allocator counts");
            assert_eq!((pool.bytes_in_use(), pool.contexts()), (0, 0));
        }
    }
}
