//! Messages packed for the wire (RFC 7692 section 7.2.1).

use flate2::{Compress, Compression, FlushCompress};

use crate::ws::Role;
use crate::ws::deflate::{Negotiated, TAIL, WINDOW_BITS_MAX, WINDOW_BITS_OF_ZLIB_MIN};

/// Packs messages. It owns some 200 to 400 KiB, by its window: far more than what it packs usually.
#[derive(Debug)]
pub struct Compressor {
    stream: Compress,
    takes_over: bool,
}

impl Compressor {
    /// One for many connections: it begins each message anew, with the largest window. `level` is 1 (fast) to 9.
    pub fn shared(level: u32) -> Self {
        Self::with(level, WINDOW_BITS_MAX, false)
    }

    /// One for what this end of a connection sends. `level` is 1 (fast) to 9.
    pub fn for_connection(level: u32, negotiated: &Negotiated, role: Role) -> Self {
        Self::with(level, negotiated.window_bits_sent(role), negotiated.takes_over_sent(role))
    }

    fn with(level: u32, window_bits: u8, takes_over: bool) -> Self {
        let window_bits = window_bits.max(WINDOW_BITS_OF_ZLIB_MIN);
        let stream = Compress::new_with_window_bits(Compression::new(level.clamp(1, 9)), false, window_bits);
        Self { stream, takes_over }
    }

    /// Appends the payload of a compressed message. Where it refers to earlier ones it must be sent, and in this order.
    pub fn pack(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        if payload.is_empty() {
            // "an empty DEFLATE block with no compression", less the tail (section 7.2.3.6).
            return out.push(0);
        }
        if !self.takes_over {
            self.stream.reset();
        }
        // What can't be made smaller grows by five bytes for every 16 KiB or so.
        out.reserve(payload.len() + payload.len() / 1024 + ROOM_BYTES);
        let mut rest = payload;
        loop {
            let before = self.stream.total_in();
            let status = self.stream.compress_vec(rest, out, FlushCompress::Sync);
            debug_assert!(status.is_ok(), "a stream that is not at its end takes everything");
            rest = &rest[(self.stream.total_in() - before) as usize..];
            // A flush is complete when it left room.
            if rest.is_empty() && out.len() < out.capacity() {
                break;
            }
            out.reserve(payload.len() / 8 + ROOM_BYTES);
        }
        debug_assert!(out.ends_with(&TAIL), "a flush ends with an empty block");
        out.truncate(out.len() - TAIL.len());
    }
}

/// For what surrounds a message's own bytes: blocks and their tables.
const ROOM_BYTES: usize = 64;
