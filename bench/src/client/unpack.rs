//! Compressed frames to messages, by the protocol's own connection.

use std::sync::{Arc, Mutex, PoisonError};

use corecast_protocol::ws::deflate::Negotiated;
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};

/// Unpacks one connection's messages, or those of all whose server begins each message anew.
#[derive(Debug)]
pub(crate) struct Unpacker {
    connection: Connection,
    pool: AssemblyPool,
    /// The last frame and its message. A message to a thousand subscribers is the same bytes a thousand times, and no
    /// work for a client that wants to measure the server.
    last: Option<(Vec<u8>, Vec<u8>)>,
    forgets: Forgets,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Forgets {
    EachMessage,
    Nothing,
}

/// Connections of a worker share it where they may.
pub(crate) type Shared = Arc<Mutex<Unpacker>>;

const LIMITS: Limits = Limits { message_bytes: 64 << 20, fragments: 1 };

impl Unpacker {
    /// For a connection with this agreement: `common`, if one will do for all.
    pub(super) fn of(negotiated: Negotiated, common: &mut Option<Shared>) -> Shared {
        let forgets = if negotiated.takes_over_received(Role::Client) {
            Forgets::Nothing
        } else {
            Forgets::EachMessage
        };
        let new = || {
            let connection = Connection::with_deflate(Role::Client, LIMITS, negotiated);
            let pool = AssemblyPool::new(1 << 16, 16, 64 << 20);
            Arc::new(Mutex::new(Self { connection, pool, last: None, forgets }))
        };
        match forgets {
            Forgets::Nothing => new(),
            Forgets::EachMessage => Arc::clone(common.get_or_insert_with(new)),
        }
    }

    /// What a whole frame holds; nothing if it is broken.
    pub(super) fn unpack(&mut self, frame: &[u8]) -> Option<&[u8]> {
        let is_again = self.last.as_ref().is_some_and(|(last, _)| last == frame);
        if !is_again || self.forgets == Forgets::Nothing {
            let (mut last, mut message) = self.last.take().unwrap_or_default();
            last.clear();
            last.extend_from_slice(frame);
            message.clear();
            // Frames of a server are not masked: reading leaves the bytes as they are.
            match self.connection.receive(&mut last, &mut self.pool).next()? {
                Ok(Event::Text(text)) => message.extend_from_slice(text.as_bytes()),
                Ok(Event::Binary(bytes)) => message.extend_from_slice(bytes),
                _ => return None,
            }
            self.last = Some((last, message));
        }
        self.last.as_ref().map(|(_, message)| message.as_slice())
    }
}

/// Calls `then` with what a frame holds; nothing if it is broken, or compression was not agreed on.
pub(super) fn unpacked<T>(
    unpacker: Option<&Mutex<Unpacker>>,
    frame: &[u8],
    then: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    // A panic elsewhere ends the run anyway.
    let mut unpacker = unpacker?.lock().unwrap_or_else(PoisonError::into_inner);
    unpacker.unpack(frame).map(then)
}

#[cfg(test)]
mod tests {
    use corecast_protocol::ws::deflate::Compressor;
    use corecast_protocol::ws::frame::{self, Opcode};

    use super::*;

    fn packed(compressor: &mut Compressor, text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut packed = Vec::new();
        compressor.pack(text, &mut packed);
        frame::encode(Opcode::Text, &packed, &mut bytes);
        frame::mark_compressed(&mut bytes);
        bytes
    }

    fn unpack(unpacker: &Shared, frame: &[u8]) -> Option<Vec<u8>> {
        unpacked(Some(unpacker), frame, <[u8]>::to_vec)
    }

    #[test]
    fn one_serves_all_where_messages_stand_for_themselves() {
        let agreed = Negotiated { server_no_context_takeover: true, ..Negotiated::default() };
        let (mut common, mut compressor) = (None, Compressor::shared(1));
        let (a, b) = (Unpacker::of(agreed, &mut common), Unpacker::of(agreed, &mut common));
        assert!(Arc::ptr_eq(&a, &b));
        for text in [b"one one one".as_slice(), b"one one one", b"two two two"] {
            let frame = packed(&mut compressor, text);
            assert_eq!(unpack(&a, &frame).as_deref(), Some(text));
            assert_eq!(unpack(&b, &frame).as_deref(), Some(text));
        }
        assert_eq!(unpack(&a, b"\xc1\x02??"), None, "no compressed message");
        assert_eq!(unpacked(None, b"\xc1\x00", |_| ()), None, "it was not agreed on");
    }

    #[test]
    fn a_server_that_remembers_has_one_for_each_connection() {
        let agreed = Negotiated::default();
        let mut common = None;
        let unpacker = Unpacker::of(agreed, &mut common);
        assert!(common.is_none());
        let mut compressor = Compressor::for_connection(1, &agreed, Role::Server);
        for text in [b"again and again".as_slice(), b"again and again", b"again and again"] {
            assert_eq!(unpack(&unpacker, &packed(&mut compressor, text)).as_deref(), Some(text));
        }
    }
}
