//! Bytes taken apart into frames. No sockets, and nothing of what messages mean.

use corecast_protocol::ws::frame::{self, Header, Opcode, Reserved};

/// A frame that came.
pub(super) enum Came<'a> {
    /// The frame and its payload; not more than a piece of a message, if the header says so.
    Data(Header, &'a [u8], &'a [u8]),
    Ping(&'a [u8]),
    /// With its code; 1005 where there is none.
    Close(u16),
    /// What no server of these scenarios should send.
    Unreadable,
}

const NO_CODE: u16 = 1005;

/// Hands out the whole frames; returns how many bytes they were.
pub(super) fn take(bytes: &[u8], reserved: Reserved, mut each: impl FnMut(Came<'_>)) -> usize {
    let mut at = 0;
    loop {
        let (header, length) = match Header::parse_with(&bytes[at..], reserved) {
            Ok(Some(it)) => it,
            Ok(None) => return at,
            Err(_) => {
                // Where the next frame begins nobody knows.
                each(Came::Unreadable);
                return bytes.len();
            }
        };
        let (start, end) = (at + length, at + length + header.length as usize);
        let Some(payload) = bytes.get(start..end) else { return at };
        match header.opcode {
            Opcode::Ping => each(Came::Ping(payload)),
            Opcode::Pong => {}
            Opcode::Close => {
                each(Came::Close(payload.first_chunk().map_or(NO_CODE, |it| u16::from_be_bytes(*it))));
            }
            _ => each(Came::Data(header, &bytes[at..end], payload)),
        }
        at = end;
    }
}

/// Answers a ping; `now` makes the mask.
pub(super) fn pong(payload: &[u8], now: u64, out: &mut Vec<u8>) {
    frame::encode_masked(Opcode::Pong, payload, (now as u32).to_ne_bytes(), out);
}
