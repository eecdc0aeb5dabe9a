//! Frames on the wire (RFC 6455 section 5.2): headers read and written, nothing about messages.

use crate::CloseCode;

/// Bytes of the longest header: two, eight of length, four of mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// A control frame's payload at most (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// What a frame is (RFC 6455 section 11.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// Goes on with a fragmented message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// Close.
    Close = 8,
    /// Ping.
    Ping = 9,
    /// Pong.
    Pong = 10,
}

impl Opcode {
    /// Close, ping or pong.
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }

    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The last fragment of its message.
    pub is_final: bool,
    /// RSV1: the first frame of a compressed message (RFC 7692 section 6).
    pub is_compressed: bool,
    /// What it is.
    pub opcode: Opcode,
    /// The masking key, if there is one.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload.
    pub length: u64,
}

/// What the reserved bits may say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reserved {
    /// Nothing: no extension was negotiated.
    Unused,
    /// RSV1 that a message is compressed.
    Deflate,
}

/// Bits of a frame's first byte.
const FINAL: u8 = 0x80;
const RSV1: u8 = 0x40;
const RESERVED: u8 = 0x70;

/// Why a header is no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// RSV1-3 set without an extension that defines them, or where it does not.
    Reserved,
    /// An opcode that nobody defined.
    Opcode,
    /// A control frame that is fragmented or longer than 125 bytes.
    Control,
    /// A length not in its shortest form, or with the highest bit set.
    Length,
}

impl HeaderError {
    /// What was wrong, for a close reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Reserved => "INVALID_MESSAGE: reserved bits set where no negotiated extension defines them",
            Self::Opcode => "INVALID_MESSAGE: unknown opcode",
            Self::Control => "INVALID_MESSAGE: control frames are unfragmented and at most 125 bytes",
            Self::Length => "INVALID_MESSAGE: the length is not in its shortest form",
        }
    }
}

impl Header {
    /// Reads a header from the front of `bytes`: the header and its length, or `None` if bytes are missing.
    ///
    /// # Errors
    /// What RFC 6455 section 5.2 forbids, as early as the bytes show it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeaderError> {
        Self::parse_with(bytes, Reserved::Unused)
    }

    /// Reads a header as [`parse`](Self::parse) does, on a connection where the reserved bits may say something.
    ///
    /// # Errors
    /// Likewise.
    #[inline(always)]
    pub fn parse_with(bytes: &[u8], reserved: Reserved) -> Result<Option<(Self, usize)>, HeaderError> {
        let &[first, second, ..] = bytes else {
            // One byte is enough to see a reserved bit or opcode.
            return match bytes.first() {
                Some(&first) => Self::check_first(first, reserved).map(|_| None),
                None => Ok(None),
            };
        };
        let opcode = Self::check_first(first, reserved)?;
        let (is_final, is_compressed) = (first & FINAL != 0, first & RSV1 != 0);
        let short = second & 0x7f;
        if opcode.is_control() && (!is_final || short > 125) {
            return Err(HeaderError::Control);
        }
        let (length, at) = match short {
            126 => {
                let Some(&[a, b]) = bytes.get(2..4).and_then(|it| it.first_chunk()) else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes([a, b]));
                // "the minimal number of bytes MUST be used to encode the length"
                if length < 126 {
                    return Err(HeaderError::Length);
                }
                (length, 4)
            }
            127 => {
                let Some(raw) = bytes.get(2..10).and_then(|it| it.first_chunk::<8>()) else {
                    return Ok(None);
                };
                let length = u64::from_be_bytes(*raw);
                // "the most significant bit MUST be 0"
                if length <= 0xffff || length >> 63 != 0 {
                    return Err(HeaderError::Length);
                }
                (length, 10)
            }
            short => (u64::from(short), 2),
        };
        if second & 0x80 == 0 {
            return Ok(Some((Self { is_final, is_compressed, opcode, mask: None, length }, at)));
        }
        let Some(mask) = bytes.get(at..at + 4).and_then(|it| it.first_chunk::<4>()) else { return Ok(None) };
        Ok(Some((Self { is_final, is_compressed, opcode, mask: Some(*mask), length }, at + 4)))
    }

    fn check_first(first: u8, reserved: Reserved) -> Result<Opcode, HeaderError> {
        let opcode = Opcode::from_bits(first & 0x0f);
        // "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values"
        if first & RESERVED != 0 {
            // RFC 7692 section 6.1: "MUST NOT set the RSV1 bit of control frames and non-first fragments"
            let may_be_compressed = matches!(opcode, Some(Opcode::Text | Opcode::Binary));
            if first & RESERVED != RSV1 || reserved == Reserved::Unused || !may_be_compressed {
                return Err(HeaderError::Reserved);
            }
        }
        opcode.ok_or(HeaderError::Opcode)
    }
}

/// Writes the header of an unfragmented, unmasked frame; returns its length, 2 to 10.
pub fn encode_header(opcode: Opcode, length: u64, out: &mut [u8; 10]) -> usize {
    out[0] = FINAL | opcode as u8;
    match length {
        0..=125 => {
            out[1] = length as u8;
            2
        }
        126..=0xffff => {
            out[1] = 126;
            out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..10].copy_from_slice(&length.to_be_bytes());
            10
        }
    }
}

/// Marks the first frame of a compressed message: `header` is its beginning.
pub fn mark_compressed(header: &mut [u8]) {
    header[0] |= RSV1;
}

/// Appends an unmasked frame, as a server sends it.
#[inline(always)]
pub fn encode(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let first = 0x80 | opcode as u8;
    match payload.len() {
        // The usual lengths, without a detour.
        length @ 0..=125 => out.extend_from_slice(&[first, length as u8]),
        length @ 126..=0xffff => {
            let [high, low] = (length as u16).to_be_bytes();
            out.extend_from_slice(&[first, 126, high, low]);
        }
        length => {
            let mut header = [0; 10];
            let used = encode_header(opcode, length as u64, &mut header);
            out.extend_from_slice(&header[..used]);
        }
    }
    out.extend_from_slice(payload);
}

/// Appends a masked frame, as a client sends it.
pub fn encode_masked(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    let mut header = [0; 10];
    let length = encode_header(opcode, payload.len() as u64, &mut header);
    header[1] |= 0x80;
    out.extend_from_slice(&header[..length]);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    super::unmask(&mut out[start..], mask, 0);
}

/// A close frame's payload; the reason is cut to fit 123 bytes, between characters.
pub fn close_payload(code: CloseCode, reason: &str, out: &mut Vec<u8>) {
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&code.code().to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

/// Appends an unmasked close frame.
pub fn encode_close(code: CloseCode, reason: &str, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0x80 | Opcode::Close as u8, 0]);
    close_payload(code, reason, out);
    out[at + 1] = (out.len() - at - 2) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        encode_close(CloseCode::Normal, &"ä".repeat(100), &mut out);
        assert_eq!((out.len(), out[1]), (2 + 2 + 122, 124));
        assert!(std::str::from_utf8(&out[4..]).is_ok());
    }

    proptest! {
        #[test]
        fn headers_survive_the_wire(length in prop_oneof![0u64..200, 65_000u64..66_000, any::<u64>().prop_map(|n| n >> 1)]) {
            let mut out = [0; 10];
            let used = encode_header(Opcode::Binary, length, &mut out);
            let parsed = Header::parse(&out[..used]);
            let expected = Header { is_final: true, is_compressed: false, opcode: Opcode::Binary, mask: None, length };
            prop_assert_eq!(parsed, Ok(Some((expected, used))));
            let mut frame = Vec::new();
            encode(Opcode::Binary, &vec![7; length.min(70_000) as usize], &mut frame);
            let used_of_frame = encode_header(Opcode::Binary, length.min(70_000), &mut [0; 10]);
            prop_assert_eq!(frame.len() as u64, used_of_frame as u64 + length.min(70_000));
            let payload = Header::parse(&frame).map(|it| it.map(|(header, used)| (header.length, used)));
            prop_assert_eq!(payload, Ok(Some((length.min(70_000), used_of_frame))));
            for cut in 0..used {
                prop_assert_eq!(Header::parse(&out[..cut]), Ok(None));
            }
        }
    }
}
