//! Base64 (RFC 4648 section 4, padded), in pieces of a fixed size: nothing is allocated.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::envelope::sink::Sink;
use crate::envelope::text;

const BYTES: usize = 48;
const DIGITS: usize = BYTES / 3 * 4;

/// Writes `bytes` as digits.
pub(super) fn encode(bytes: &[u8], out: &mut impl Sink) {
    let mut digits = [0; DIGITS];
    for chunk in bytes.chunks(BYTES) {
        let length = STANDARD.encode_slice(chunk, &mut digits).expect("48 bytes are 64 digits");
        out.put(&digits[..length]);
    }
}

/// Writes the bytes that a JSON string's contents stand for; `None` if they are no base64 as [`encode`] writes it.
pub(super) fn decode(contents: &str, out: &mut impl Sink) -> Option<()> {
    let mut decoder = Decoder { digits: [0; DIGITS], filled: 0, is_over: false };
    let mut decoded = Some(());
    text::pieces(contents, |piece| {
        decoded = decoded.and_then(|()| decoder.take(piece.as_bytes(), out));
    });
    decoded?;
    if decoder.filled > 0 { decoder.flush(out) } else { Some(()) }
}

struct Decoder {
    digits: [u8; DIGITS],
    filled: usize,
    /// Padding was seen: only at the end may it be.
    is_over: bool,
}

impl Decoder {
    fn take(&mut self, mut piece: &[u8], out: &mut impl Sink) -> Option<()> {
        while !piece.is_empty() {
            if self.filled == DIGITS {
                self.flush(out)?;
            }
            let (now, later) = piece.split_at(piece.len().min(DIGITS - self.filled));
            self.digits[self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            piece = later;
        }
        Some(())
    }

    fn flush(&mut self, out: &mut impl Sink) -> Option<()> {
        if self.is_over {
            return None;
        }
        let digits = &self.digits[..self.filled];
        let mut bytes = [0; BYTES];
        let length = STANDARD.decode_slice(digits, &mut bytes).ok()?;
        out.put(&bytes[..length]);
        self.is_over = digits.ends_with(b"=");
        self.filled = 0;
        Some(())
    }
}
