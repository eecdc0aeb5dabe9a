//! A message from a client, from its bytes on: what is no text is refused by the frame layer, what is no JSON by the
//! envelope, and what is understood says what serde_json reads.

use corecast_protocol::CloseCode;
use corecast_protocol::ws::frame::{Opcode, encode_masked};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};

/// Messages are as long as the product takes them.
const MESSAGE_BYTES: usize = 1 << 20;

/// Everything that must hold for a text message of these bytes.
pub fn check(bytes: &[u8]) {
    let mut frame = Vec::new();
    encode_masked(Opcode::Text, bytes, [1, 2, 3, 4], &mut frame);
    let mut connection = Connection::new(Role::Server, Limits { message_bytes: MESSAGE_BYTES, fragments: 1 });
    let mut pool = AssemblyPool::new(512, 1, 2 * MESSAGE_BYTES);
    let (start, end) = frame.split_at_mut(bytes.len() / 2);
    let first = connection.receive(start, &mut pool).next().map(|event| event.map(|_| ()));
    let violation = match first {
        None => match connection.receive(end, &mut pool).next() {
            Some(Ok(Event::Text(text))) => {
                assert_eq!(text.as_bytes(), bytes);
                return crate::twin::check(text);
            }
            Some(Err(violation)) => violation,
            other => panic!("a text message became {other:?}"),
        },
        Some(Err(violation)) => violation,
        Some(Ok(())) => panic!("a message before its end"),
    };
    assert!(std::str::from_utf8(bytes).is_err(), "refused although it is UTF-8: {violation:?}");
    assert_eq!(violation.code, CloseCode::InvalidPayload);
}
