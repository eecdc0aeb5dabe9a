//! Compressed messages from a peer: whatever the bytes, what is read is what the slow twin reads, within the limit and
//! however it is cut; and what is packed is read again by both.

use corecast_protocol::CloseCode;
use corecast_protocol::ws::deflate::{Compressor, Negotiated};
use corecast_protocol::ws::frame::{self, Opcode};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};

use crate::puff;

/// Small, so that inputs reach it.
const MESSAGE_BYTES: usize = 3000;

/// Everything that must hold: the first byte chooses what varies, the rest is a payload.
pub fn check(bytes: &[u8]) {
    let Some((&choice, payload)) = bytes.split_first() else { return };
    let forgets = Negotiated { server_no_context_takeover: true, ..Negotiated::default() };
    // One inflater for all whose messages stand for themselves: whatever it read, the next reads as if it were new.
    let pool = &mut AssemblyPool::new(64, 2, 4 * MESSAGE_BYTES);
    let whole = read(pool, forgets, &[payload], usize::MAX);
    let twin = puff::message(payload, MESSAGE_BYTES).filter(|_| payload.len() <= MESSAGE_BYTES);
    assert_eq!(whole.as_ref().ok().map(|all| all[0].as_slice()), twin.as_ref().map(|it| it.bytes.as_slice()));
    let piece = usize::from(choice) % 32 + 1;
    assert_eq!(read(pool, forgets, &[payload], piece), whole, "cut differently");
    // Messages that refer to earlier ones: no twin, but no panic, no more than the limit, whatever the cuts.
    let half = payload.split_at(payload.len() / 2);
    let parts = [payload, half.0, half.1];
    let takes_over = Negotiated::default();
    assert_eq!(read(pool, takes_over, &parts, piece), read(pool, takes_over, &parts, usize::MAX));
    pack_and_read(pool, choice, payload);
}

/// The payload as a message, packed twice in every window and at every level.
fn pack_and_read(pool: &mut AssemblyPool, choice: u8, message: &[u8]) {
    let message = &message[..message.len().min(MESSAGE_BYTES / 2)];
    let negotiated = Negotiated {
        server_no_context_takeover: choice & 1 == 1,
        server_max_window_bits: Some(8 + (choice >> 1) % 8),
        ..Negotiated::default()
    };
    let level = u32::from(choice >> 4) % 9 + 1;
    let mut compressor = Compressor::for_connection(level, &negotiated, Role::Server);
    let [first, second] = [(); 2].map(|()| {
        let mut packed = Vec::new();
        compressor.pack(message, &mut packed);
        packed
    });
    let twin = puff::message(&first, usize::MAX).expect("the twin reads what is packed");
    assert_eq!(twin.bytes, message);
    assert!(twin.distance_max <= 1 << (8 + (choice >> 1) % 8), "it left its window");
    let expected = Ok(vec![message.to_vec(); 2]);
    assert_eq!(read(pool, negotiated, &[&first, &second], usize::MAX), expected);
}

/// What a client reads of these compressed messages, in pieces of so many bytes.
fn read(
    pool: &mut AssemblyPool,
    negotiated: Negotiated,
    messages: &[&[u8]],
    piece: usize,
) -> Result<Vec<Vec<u8>>, CloseCode> {
    let limits = Limits { message_bytes: MESSAGE_BYTES, fragments: 1 };
    let mut connection = Connection::with_deflate(Role::Client, limits, negotiated);
    let mut bytes = Vec::new();
    for message in messages {
        let at = bytes.len();
        frame::encode(Opcode::Binary, message, &mut bytes);
        frame::mark_compressed(&mut bytes[at..]);
    }
    let mut read = Vec::new();
    let mut end = None;
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let mut reader = connection.receive(&mut piece, pool);
        while let Some(event) = reader.next() {
            match event {
                Ok(Event::Binary(message)) => {
                    assert!(message.len() <= MESSAGE_BYTES);
                    read.push(message.to_vec());
                }
                Ok(event) => panic!("nothing else was sent: {event:?}"),
                Err(violation) => end = Some(violation.code),
            }
        }
        drop(reader);
        assert!(pool.bytes_in_use() <= 2 * MESSAGE_BYTES, "more is held than a message as it came");
    }
    connection.release(pool);
    assert_eq!((pool.bytes_in_use(), pool.contexts()), (0, 0));
    end.map_or(Ok(read), Err)
}
