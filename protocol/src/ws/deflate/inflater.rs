//! Messages unpacked as they came off the wire (RFC 7692 section 7.2.2), never to more than their limit.

use flate2::{Decompress, FlushDecompress, Status};

use crate::ws::AssemblyPool;
use crate::ws::deflate::{TAIL, WINDOW_BITS_MAX, WINDOW_BITS_OF_ZLIB_MIN};

/// Why a message can't be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unusable {
    /// What it holds is no DEFLATE.
    Corrupt,
    /// It would be larger than it may.
    TooLarge,
    /// The shard holds as many unfinished bytes as it may.
    Exhausted,
}

/// Unpacks messages.
#[derive(Debug)]
pub(crate) struct Inflater {
    stream: Decompress,
    takes_over: bool,
}

/// What is unpacked at a time: the message's buffer grows by what is there, not by what may come.
const CHUNK_BYTES: usize = 16 << 10;

/// The empty last block. Behind a whole message it ends the stream, in the midst of a cut one it does not: zlib says
/// neither by itself. Where later messages refer to this one the stream must go on, and so it can't be tried.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

impl Inflater {
    /// One for many connections: it begins each message anew, with the largest window.
    pub(crate) fn shared() -> Self {
        Self { stream: Decompress::new_with_window_bits(false, WINDOW_BITS_MAX), takes_over: false }
    }

    /// One for messages that refer to earlier ones.
    pub(crate) fn taking_over(window_bits: u8) -> Self {
        let window_bits = window_bits.max(WINDOW_BITS_OF_ZLIB_MIN);
        Self { stream: Decompress::new_with_window_bits(false, window_bits), takes_over: true }
    }

    /// Unpacks a whole message into `out`, which is empty, up to `bytes_max`.
    pub(crate) fn unpack(
        &mut self,
        payload: &[u8],
        bytes_max: usize,
        pool: &mut AssemblyPool,
        out: &mut Option<Vec<u8>>,
    ) -> Result<(), Unusable> {
        if !self.takes_over {
            self.stream.reset(false);
        }
        // Some send nothing at all where the RFC asks for the one byte of an empty block.
        if payload.is_empty() {
            return Ok(());
        }
        // A last block may end the stream at the very end of the message.
        if self.feed(payload, bytes_max, pool, out)? == At::StreamEnd {
            return Ok(());
        }
        let tail = self.feed(&TAIL, bytes_max, pool, out)?;
        if self.takes_over || tail == At::StreamEnd {
            return Ok(());
        }
        match self.feed(&LAST_BLOCK, bytes_max, pool, out)? {
            At::StreamEnd => Ok(()),
            At::InputEnd => Err(Unusable::Corrupt),
        }
    }

    fn feed(
        &mut self,
        mut input: &[u8],
        bytes_max: usize,
        pool: &mut AssemblyPool,
        out: &mut Option<Vec<u8>>,
    ) -> Result<At, Unusable> {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            let (taken, made) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(input, &mut chunk, FlushDecompress::None)
                .map_err(|_| Unusable::Corrupt)?;
            let taken = (self.stream.total_in() - taken) as usize;
            let made = &chunk[..(self.stream.total_out() - made) as usize];
            input = &input[taken..];
            if made.len() > bytes_max - out.as_ref().map_or(0, Vec::len) {
                return Err(Unusable::TooLarge);
            }
            pool.append(out, made).map_err(|_| Unusable::Exhausted)?;
            if status == Status::StreamEnd {
                // "BFINAL" may be set inside a message (section 7.2.3.4); what follows begins a new stream, which refers
                // to nothing before it.
                self.stream.reset(false);
                if input.is_empty() {
                    return Ok(At::StreamEnd);
                }
            } else if input.is_empty() && made.len() < CHUNK_BYTES {
                return Ok(At::InputEnd);
            } else if taken == 0 && made.is_empty() {
                return Err(Unusable::Corrupt);
            }
        }
    }
}

/// Where unpacking came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    StreamEnd,
    InputEnd,
}
