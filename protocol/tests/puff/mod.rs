//! The slow twin of the inflater: DEFLATE (RFC 1951) bit by bit, as its reference decoder `puff` reads it, and a message
//! as RFC 7692 section 7.2.2 puts it together. Shares no code with zlib.

/// What a stream held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Inflated {
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
    /// How far back it looked at most.
    pub(crate) distance_max: usize,
}

/// What a whole message of this payload holds, up to a limit; `None` if it is no message. It refers to no earlier one.
pub(crate) fn message(payload: &[u8], bytes_max: usize) -> Option<Inflated> {
    if payload.is_empty() {
        return Some(Inflated::default());
    }
    let mut out = Inflated::default();
    let mut input = payload.to_vec();
    if Reader::new(&input, &mut out, bytes_max).streams().is_some() {
        return Some(out);
    }
    // The block that the sender left out, and one behind it that ends the stream.
    input.extend_from_slice(&[0x00, 0x00, 0xff, 0xff]);
    for last in [&[][..], &[0x01, 0x00, 0x00, 0xff, 0xff]] {
        input.extend_from_slice(last);
        out = Inflated::default();
        if Reader::new(&input, &mut out, bytes_max).streams().is_some() {
            return Some(out);
        }
    }
    None
}

const LENGTH_BASES: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195,
    227, 258,
];
const LENGTH_BITS: [u8; 29] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASES: [u16; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073,
    4097, 6145, 8193, 12289, 16385, 24577,
];
const CODE_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// A Huffman code: how many of each length, and the symbols in order.
struct Code {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

impl Code {
    /// A code of these lengths: complete, empty, or of a single bit that is half used.
    fn new(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; 16];
        lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
        let mut left = 1i32;
        for count in &counts[1..] {
            left = (left << 1) - i32::from(*count);
            if left < 0 {
                return None;
            }
        }
        let used = lengths.len() - usize::from(counts[0]);
        if left > 0 && used > 0 && usize::from(counts[1]) != used {
            return None;
        }
        let mut symbols: Vec<u16> =
            (0..lengths.len() as u16).filter(|symbol| lengths[usize::from(*symbol)] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[usize::from(*symbol)]);
        Some(Self { counts, symbols })
    }
}

/// Reads bits and writes bytes.
struct Reader<'a> {
    input: &'a [u8],
    bit: usize,
    out: &'a mut Inflated,
    /// Where the current stream began: it may not look further back.
    start: usize,
    bytes_max: usize,
}

impl<'a> Reader<'a> {
    fn new(input: &'a [u8], out: &'a mut Inflated, bytes_max: usize) -> Self {
        Self { input, bit: 0, out, start: 0, bytes_max }
    }

    /// Streams one behind the other, the last of which ends with the input.
    fn streams(&mut self) -> Option<()> {
        loop {
            self.start = self.out.bytes.len();
            while !self.block()? {}
            self.bit = self.bit.next_multiple_of(8);
            if self.bit == 8 * self.input.len() {
                return Some(());
            }
        }
    }

    fn bits(&mut self, count: u8) -> Option<u16> {
        let mut value = 0;
        for place in 0..count {
            let byte = self.input.get(self.bit / 8)?;
            value |= u16::from(byte >> (self.bit % 8) & 1) << place;
            self.bit += 1;
        }
        Some(value)
    }

    fn symbol(&mut self, code: &Code) -> Option<u16> {
        let (mut value, mut first, mut index) = (0i32, 0i32, 0i32);
        for count in &code.counts[1..] {
            value |= i32::from(self.bits(1)?);
            let count = i32::from(*count);
            if value - count < first {
                return code.symbols.get((index + value - first) as usize).copied();
            }
            index += count;
            first = (first + count) << 1;
            value <<= 1;
        }
        None
    }

    fn put(&mut self, byte: u8) -> Option<()> {
        (self.out.bytes.len() < self.bytes_max).then(|| self.out.bytes.push(byte))
    }

    /// One block; whether it was the last.
    fn block(&mut self) -> Option<bool> {
        let is_last = self.bits(1)? == 1;
        match self.bits(2)? {
            0 => self.stored()?,
            1 => {
                let lengths: Vec<u8> = (0..288)
                    .map(|symbol| match symbol {
                        0..144 => 8,
                        144..256 => 9,
                        256..280 => 7,
                        _ => 8,
                    })
                    .collect();
                self.codes(&Code::new(&lengths)?, &Code::new(&[5; 32])?)?;
            }
            2 => {
                let (literals, distances) = self.tables()?;
                self.codes(&literals, &distances)?;
            }
            _ => return None,
        }
        Some(is_last)
    }

    fn stored(&mut self) -> Option<()> {
        self.bit = self.bit.next_multiple_of(8);
        let (length, inverted) = (self.bits(16)?, self.bits(16)?);
        if length != !inverted {
            return None;
        }
        for _ in 0..length {
            let byte = self.bits(8)? as u8;
            self.put(byte)?;
        }
        Some(())
    }

    fn tables(&mut self) -> Option<(Code, Code)> {
        let (literals, distances) = (usize::from(self.bits(5)?) + 257, usize::from(self.bits(5)?) + 1);
        let codes = usize::from(self.bits(4)?) + 4;
        if literals > 286 || distances > 30 {
            return None;
        }
        let mut lengths = [0; 19];
        for place in &CODE_ORDER[..codes] {
            lengths[*place] = self.bits(3)? as u8;
        }
        let code = Code::new(&lengths)?;
        let mut lengths: Vec<u8> = Vec::new();
        while lengths.len() < literals + distances {
            let (length, times) = match self.symbol(&code)? {
                16 => (*lengths.last()?, 3 + self.bits(2)?),
                17 => (0, 3 + self.bits(3)?),
                18 => (0, 11 + self.bits(7)?),
                length => (length as u8, 1),
            };
            lengths.extend(std::iter::repeat_n(length, usize::from(times)));
        }
        if lengths.len() > literals + distances || lengths[256] == 0 {
            return None;
        }
        Some((Code::new(&lengths[..literals])?, Code::new(&lengths[literals..])?))
    }

    fn codes(&mut self, literals: &Code, distances: &Code) -> Option<()> {
        loop {
            let symbol = self.symbol(literals)?;
            match symbol {
                0..256 => self.put(symbol as u8)?,
                256 => return Some(()),
                257.. => {
                    let index = usize::from(symbol - 257);
                    let length = *LENGTH_BASES.get(index)? + self.bits(LENGTH_BITS[index])?;
                    let symbol = usize::from(self.symbol(distances)?);
                    let extra = (symbol as u8 / 2).saturating_sub(1);
                    let distance = usize::from(*DISTANCE_BASES.get(symbol)?) + usize::from(self.bits(extra)?);
                    if distance > self.out.bytes.len() - self.start {
                        return None;
                    }
                    self.out.distance_max = self.out.distance_max.max(distance);
                    for _ in 0..length {
                        let byte = self.out.bytes[self.out.bytes.len() - distance];
                        self.put(byte)?;
                    }
                }
            }
        }
    }
}
