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

/// What is looked at before it is checked again that it becomes something.
const PIECE_BYTES: usize = 64 << 10;

/// Input that may be in excess of what it becomes and an eighth of that: blocks that hold nothing, and their tables.
/// Nobody who wants to make something smaller comes near it, and reading them takes up to 90 ns a byte.
const EXCESS_BYTES: usize = 64 << 10;

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
        let input_bytes = input.len();
        loop {
            let (taken, made) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(&input[..input.len().min(PIECE_BYTES)], &mut chunk, FlushDecompress::None)
                .map_err(|_| Unusable::Corrupt)?;
            let taken = (self.stream.total_in() - taken) as usize;
            let made = &chunk[..(self.stream.total_out() - made) as usize];
            input = &input[taken..];
            if made.len() > bytes_max - out.as_ref().map_or(0, Vec::len) {
                return Err(Unusable::TooLarge);
            }
            pool.append(out, made).map_err(|_| Unusable::Exhausted)?;
            let made_bytes = out.as_ref().map_or(0, Vec::len);
            if input_bytes - input.len() > made_bytes + made_bytes / 8 + EXCESS_BYTES {
                return Err(Unusable::Corrupt);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What reading `payload` comes to, how many bytes it becomes, and how much of it was looked at.
    fn unpack(inflater: &mut Inflater, payload: &[u8]) -> (Result<(), Unusable>, usize, u64) {
        let mut pool = AssemblyPool::new(1 << 10, 4, 64 << 20);
        let mut out = None;
        let result = inflater.unpack(payload, 16 << 20, &mut pool, &mut out);
        (result, out.map_or(0, |out| out.len()), inflater.stream.total_in())
    }

    /// Literals of nine bits each, the longest that an encoder without tables writes.
    fn nine_bits_each(literals: usize) -> Vec<u8> {
        let is_set = |bit: usize| bit == 1 || (3..3 + 9 * literals).contains(&bit);
        let byte = |at: usize| (0..8).map(|bit| u8::from(is_set(8 * at + bit)) << bit).sum();
        (0..(3 + 9 * literals + 10).div_ceil(8)).map(byte).collect()
    }

    #[test]
    fn what_becomes_nothing_is_not_read_to_its_end() {
        const BYTES: usize = 8 << 20;
        // Stored, with fixed codes, and with fixed codes and an end of the stream each time.
        let nothing: [&[u8]; 3] = [&[0, 0, 0, 0xff, 0xff], &[0x02, 0x08, 0x20, 0x80, 0], &[3, 0]];
        for shared in [true, false] {
            for block in nothing {
                let mut inflater = if shared { Inflater::shared() } else { Inflater::taking_over(15) };
                let mut few = block.repeat(EXCESS_BYTES / block.len() - 1);
                few.push(0);
                let (result, made, _) = unpack(&mut inflater, &few);
                assert_eq!((result, made), (Ok(()), 0), "{block:x?}: some of them are nobody's fault");
                let before = inflater.stream.total_in();
                let mut many = block.repeat(BYTES / block.len());
                many.push(0);
                let (result, made, looked_at) = unpack(&mut inflater, &many);
                assert_eq!((result, made), (Err(Unusable::Corrupt), 0), "{block:x?}");
                let most = (EXCESS_BYTES + PIECE_BYTES) as u64;
                assert!(looked_at.saturating_sub(before) <= most, "{block:x?}: {looked_at} bytes");
            }
        }
        // Behind a message as well as before it.
        let mut message = nine_bits_each(1000);
        message.extend([0, 0, 0xff, 0xff]);
        message.extend([0, 0, 0, 0xff, 0xff].repeat(BYTES / 5));
        let (result, made, looked_at) = unpack(&mut Inflater::shared(), &message);
        assert_eq!((result, made), (Err(Unusable::Corrupt), 1000));
        assert!(looked_at <= (EXCESS_BYTES + 2 * PIECE_BYTES) as u64, "{looked_at} bytes");
    }

    #[test]
    fn what_does_not_compress_is_read() {
        let literals = 1 << 20;
        let packed = nine_bits_each(literals);
        assert!(packed.len() > literals + literals / 8);
        let (result, made, _) = unpack(&mut Inflater::shared(), &packed);
        assert_eq!((result, made), (Ok(()), literals));
        let mut packed = Vec::new();
        // Stored, and flushed behind every hundred bytes.
        for _ in 0..40_000 {
            packed.extend([0, 100, 0, !100, 0xff]);
            packed.extend([0xaa; 100]);
            packed.extend([0, 0, 0, 0xff, 0xff]);
        }
        packed.push(0);
        let (result, made, _) = unpack(&mut Inflater::shared(), &packed);
        assert_eq!((result, made), (Ok(()), 4_000_000));
    }
}
