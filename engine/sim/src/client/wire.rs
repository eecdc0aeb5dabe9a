//! Frames as a client writes and reads them: written apart from the server's codec, so that both can't share a
//! mistake.

/// A whole frame of the server, or what is wrong with its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) opcode: u8,
    pub(super) is_packed: bool,
    /// Where its payload lies in the bytes that were looked at.
    pub(super) payload: std::ops::Range<usize>,
}

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// With an opcode: the message is compressed (RFC 7692 section 6).
pub(super) const PACKED: u8 = 0x40;

/// The first frame of `bytes`, if all of it is there.
///
/// # Errors
/// If a server may not send this.
pub(super) fn next(bytes: &[u8], from: usize) -> Result<Option<Frame>, String> {
    let rest = &bytes[from..];
    let [first, second, ..] = rest else { return Ok(None) };
    let opcode = first & 0x0f;
    let is_packed = first & PACKED != 0 && matches!(opcode, TEXT | BINARY);
    let reserved = if is_packed { 0xb0 } else { 0xf0 };
    if first & reserved != 0x80 || !matches!(opcode, TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(format!("a frame begins with {first:#04x}"));
    }
    if second & 0x80 != 0 {
        return Err("a server's frame is masked".to_owned());
    }
    let (header, length) = match second {
        126 => match rest.get(2..4) {
            Some(bytes) => (4, usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))),
            None => return Ok(None),
        },
        127 => match rest.get(2..10) {
            Some(bytes) => (10, bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))),
            None => return Ok(None),
        },
        short => (2, usize::from(*short)),
    };
    if opcode >= CLOSE && length > 125 {
        return Err("a control frame has more than 125 bytes".to_owned());
    }
    let start = from + header;
    Ok((bytes.len() >= start + length).then(|| Frame { opcode, is_packed, payload: start..start + length }))
}

/// Appends a masked frame.
pub(super) fn write(out: &mut Vec<u8>, is_last: bool, opcode: u8, payload: &[u8], key: u32) {
    out.push(if is_last { 0x80 } else { 0 } | opcode);
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = key.to_be_bytes();
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Bytes that no client may send as a frame, by number below [`BAD`]; the code with which that must be closed. A bit
/// is `reserved` that nothing was agreed on for.
pub(super) fn bad(kind: usize, key: u32, reserved: u8, out: &mut Vec<u8>) -> u16 {
    match kind {
        // Unmasked.
        0 => out.extend_from_slice(&[0x81, 2, b'h', b'i']),
        // A reserved bit.
        1 => {
            write(out, true, TEXT, b"hi", key);
            let at = out.len() - 8;
            out[at] |= reserved;
        }
        // A reserved opcode.
        2 => write(out, true, 3, b"", key),
        // A continuation of nothing.
        3 => write(out, true, CONTINUATION, b"lost", key),
        // A ping in pieces.
        4 => write(out, false, PING, b"", key),
        // A ping that is too long.
        5 => write(out, true, PING, &[b'x'; 126], key),
        // A length that is not in its shortest form.
        6 => out.extend_from_slice(&[0x81, 0x80 | 126, 0, 5, 1, 2, 3, 4]),
        // A message inside another.
        7 => {
            write(out, false, TEXT, b"{", key);
            write(out, true, TEXT, b"{}", key);
        }
        // Not UTF-8.
        8 => {
            write(out, true, TEXT, &[0xff, 0xfe], key);
            return 1007;
        }
        // Not UTF-8 already, whatever follows.
        9 => {
            write(out, false, TEXT, b"\xc3", key);
            write(out, false, CONTINUATION, b"(", key);
            return 1007;
        }
        // A reason that is not UTF-8.
        10 => {
            write(out, true, CLOSE, &[0x03, 0xe8, 0xff], key);
            return 1007;
        }
        // Codes that none may send, and half of one.
        11 => write(out, true, CLOSE, &1005u16.to_be_bytes(), key),
        12 => write(out, true, CLOSE, &1006u16.to_be_bytes(), key),
        13 => write(out, true, CLOSE, &5000u16.to_be_bytes(), key),
        _ => write(out, true, CLOSE, &[3], key),
    }
    1002
}

/// How many kinds of bad frames there are; those from [`BAD_CLOSE`] on are close frames.
pub(super) const BAD: usize = 15;
pub(super) const BAD_CLOSE: usize = 10;
