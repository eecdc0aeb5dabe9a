//! DEFLATE as a client reads it (RFC 1951): apart from the server's, so that both can't share a mistake, and with a
//! window that ends exactly where it was agreed to. Simple, not fast.

/// What a sender leaves out at the end (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Where the lengths of the codes of lengths stand.
const LENGTHS_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The symbol that ends a block; above it are lengths.
const END_OF_BLOCK: usize = 256;

/// Unpacks messages of one direction of a connection.
#[derive(Debug)]
pub(super) struct Unpacker {
    window_bytes: usize,
    takes_over: bool,
    /// Of messages before, as far back as later ones may refer to.
    earlier: Vec<u8>,
}

impl Unpacker {
    pub(super) fn new(window_bits: u8, takes_over: bool) -> Self {
        Self { window_bytes: 1 << window_bits, takes_over, earlier: Vec::new() }
    }

    /// A message from its payload.
    ///
    /// # Errors
    /// What is wrong with it; references beyond the window are, and those to what was agreed to be forgotten.
    pub(super) fn unpack(&mut self, payload: &[u8]) -> Result<Vec<u8>, String> {
        let mut bits = Bits { bytes: [payload, &TAIL].concat(), at: 0 };
        let mut out = std::mem::take(&mut self.earlier);
        let start = out.len();
        while bits.at < 8 * bits.bytes.len() {
            self.block(&mut bits, &mut out)?;
        }
        let message = out[start..].to_vec();
        if self.takes_over {
            out.drain(..out.len().saturating_sub(self.window_bytes));
            self.earlier = out;
        }
        Ok(message)
    }

    fn block(&self, bits: &mut Bits, out: &mut Vec<u8>) -> Result<(), String> {
        let is_last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => stored(bits, out)?,
            1 => self.packed(bits, out, &Code::fixed(), &Code::of(&[5; 30]))?,
            2 => {
                let (symbols, distances) = codes(bits)?;
                self.packed(bits, out, &symbols, &distances)?;
            }
            _ => return Err("a block of a type that there is not".to_owned()),
        }
        if is_last {
            bits.align();
        }
        Ok(())
    }

    fn packed(
        &self,
        bits: &mut Bits,
        out: &mut Vec<u8>,
        symbols: &Code,
        distances: &Code,
    ) -> Result<(), String> {
        loop {
            let symbol = symbols.next(bits)?;
            match symbol {
                0..END_OF_BLOCK => out.push(symbol as u8),
                END_OF_BLOCK => return Ok(()),
                _ => {
                    let length = length_of(symbol - END_OF_BLOCK - 1, bits)?;
                    let distance = distance_of(distances.next(bits)?, bits)?;
                    if distance > out.len() {
                        return Err(format!("it goes back {distance} bytes where {} are known", out.len()));
                    }
                    if distance > self.window_bytes {
                        return Err(format!("it goes back {distance} of {} bytes", self.window_bytes));
                    }
                    for _ in 0..length {
                        out.push(out[out.len() - distance]);
                    }
                }
            }
        }
    }
}

fn stored(bits: &mut Bits, out: &mut Vec<u8>) -> Result<(), String> {
    bits.align();
    let (length, complement) = (bits.take(16)?, bits.take(16)?);
    if length != !complement & 0xffff {
        return Err("a length and its complement differ".to_owned());
    }
    for _ in 0..length {
        out.push(bits.take(8)? as u8);
    }
    Ok(())
}

/// The codes of a block that brings its own: of literals and lengths, and of distances.
fn codes(bits: &mut Bits) -> Result<(Code, Code), String> {
    let symbols = bits.take(5)? + 257;
    let distances = bits.take(5)? + 1;
    let mut lengths = [0; 19];
    for at in &LENGTHS_ORDER[..bits.take(4)? + 4] {
        lengths[*at] = bits.take(3)? as u8;
    }
    let of_lengths = Code::of(&lengths);
    let mut lengths = Vec::new();
    while lengths.len() < symbols + distances {
        let (length, count) = match of_lengths.next(bits)? {
            16 => {
                let last = *lengths.last().ok_or("it repeats the length before the first")?;
                (last, 3 + bits.take(2)?)
            }
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length as u8, 1),
        };
        lengths.resize(lengths.len() + count, length);
    }
    if lengths.len() > symbols + distances {
        return Err("more lengths than codes".to_owned());
    }
    Ok((Code::of(&lengths[..symbols]), Code::of(&lengths[symbols..])))
}

/// From 3 on; in groups of four, each with one more bit behind it than the one before. The last is 258.
fn length_of(symbol: usize, bits: &mut Bits) -> Result<usize, String> {
    match symbol {
        0..8 => Ok(3 + symbol),
        28 => Ok(258),
        8..28 => {
            let extra = symbol / 4 - 1;
            Ok(3 + ((4 + symbol % 4) << extra) + bits.take(extra)?)
        }
        _ => Err("a length that there is not".to_owned()),
    }
}

/// From 1 on; likewise in groups of two.
fn distance_of(symbol: usize, bits: &mut Bits) -> Result<usize, String> {
    match symbol {
        0..4 => Ok(1 + symbol),
        4..30 => {
            let extra = symbol / 2 - 1;
            Ok(1 + ((2 + symbol % 2) << extra) + bits.take(extra)?)
        }
        _ => Err("a distance that there is not".to_owned()),
    }
}

/// A Huffman code: how many symbols have each length, and the symbols in the order of their codes.
struct Code {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

impl Code {
    fn of(lengths: &[u8]) -> Self {
        let mut counts = [0; 16];
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).collect();
        symbols.iter().for_each(|symbol| counts[usize::from(lengths[*symbol])] += 1);
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Self { counts, symbols }
    }

    /// The code of blocks that bring none.
    fn fixed() -> Self {
        let lengths: Vec<u8> = (0..288)
            .map(|symbol| match symbol {
                0..144 => 8,
                144..256 => 9,
                256..280 => 7,
                _ => 8,
            })
            .collect();
        Self::of(&lengths)
    }

    fn next(&self, bits: &mut Bits) -> Result<usize, String> {
        // The first code of each length follows the last one of the length before.
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            code = code << 1 | bits.take(1)?;
            first <<= 1;
            if code < first + count {
                return Ok(self.symbols[index + code - first]);
            }
            index += count;
            first += count;
        }
        Err("a code that there is not".to_owned())
    }
}

/// Bytes, read from their lowest bit on.
struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    fn take(&mut self, count: usize) -> Result<usize, String> {
        let mut value = 0;
        for bit in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or("it ends in the midst")?;
            value |= usize::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Ok(value)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }
}

#[cfg(test)]
mod tests {
    use corecast_protocol::ws::Role;
    use corecast_protocol::ws::deflate::{Compressor, Negotiated};

    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        let mut unpacker = Unpacker::new(15, true);
        for payload in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(unpacker.unpack(payload).as_deref(), Ok(&b"Hello"[..]), "{payload:02x?}");
        }
        assert_eq!(unpacker.unpack(&[0x00]).as_deref(), Ok(&b""[..]));
        let forgets = Unpacker::new(15, false).unpack(&[0xf2, 0x00, 0x11, 0x00, 0x00]);
        assert!(forgets.is_err(), "it refers to another message: {forgets:?}");
    }

    #[test]
    fn what_a_compressor_packs_is_unpacked() {
        let mut rng = fastrand::Rng::with_seed(1);
        for level in 1..=9 {
            for takes_over in [true, false] {
                let agreed = Negotiated { server_no_context_takeover: !takes_over, ..Negotiated::default() };
                let mut compressor = Compressor::for_connection(level, &agreed, Role::Server);
                let mut unpacker = Unpacker::new(15, takes_over);
                for _ in 0..20 {
                    let letters = [2, 4, 26, 255][rng.usize(..4)];
                    let message: Vec<u8> = (0..rng.usize(..9_000)).map(|_| rng.u8(..letters)).collect();
                    let mut packed = Vec::new();
                    compressor.pack(&message, &mut packed);
                    assert_eq!(unpacker.unpack(&packed).as_ref(), Ok(&message), "level {level}, seed 1");
                }
            }
        }
    }

    #[test]
    fn the_window_ends_where_it_was_agreed_to() {
        let far: Vec<u8> = (0..300u32).map(|it| (it * it % 251) as u8 ^ (it / 3) as u8).collect();
        let message = [far.as_slice(), &far].concat();
        let mut packed = Vec::new();
        Compressor::shared(9).pack(&message, &mut packed);
        assert_eq!(Unpacker::new(9, false).unpack(&packed).as_ref(), Ok(&message));
        let beyond = Unpacker::new(8, false).unpack(&packed);
        assert!(beyond.as_ref().is_err_and(|it| it.ends_with("of 256 bytes")), "{beyond:?}");
    }

    #[test]
    fn what_is_no_deflate_is_an_error() {
        for bad in [&[0x07][..], &[0x00, 0x05, 0x00, 0x00, 0x00], &[0x02, 0x02, 0x00, 0x00], &[0x00, 0x64]] {
            assert!(Unpacker::new(15, false).unpack(bad).is_err(), "{bad:02x?}");
        }
    }
}
