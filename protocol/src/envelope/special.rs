//! Where a JSON string stops being plain: quotes, backslashes and control characters, eight bytes at a time.

/// Whether the byte ends a run of plain ones: `"`, `\` or a control character.
pub(crate) fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// How many plain bytes there are before the first special one, or in all.
#[inline(always)]
pub(crate) fn plain_length(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((word, behind)) = rest.split_first_chunk() {
        let found = specials(*word);
        if found != 0 {
            return bytes.len() - rest.len() + found.trailing_zeros() as usize / 8;
        }
        rest = behind;
    }
    let in_rest = rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len());
    bytes.len() - rest.len() + in_rest
}

/// Whether no byte is special; the last word overlaps the one before it.
#[inline]
pub(crate) fn are_plain(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk() else { return !bytes.iter().copied().any(is_special) };
    bytes.as_chunks().0.iter().all(|word| specials(*word) == 0) && specials(*last) == 0
}

/// The high bit of each special byte; exact up to the first of them, behind which borrows may set more.
#[inline]
fn specials(word: [u8; 8]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(word);
    // A byte below what is subtracted from it borrows, and so gets a high bit that it did not have.
    let control = word.wrapping_sub(ONES * 0x20);
    let quote = (word ^ (ONES * 0x22)).wrapping_sub(ONES);
    let backslash = (word ^ (ONES * 0x5c)).wrapping_sub(ONES);
    (control | quote | backslash) & !word & (ONES * 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255u8 {
            for place in 0..8 {
                let mut word = *b"ab\x7f\x80 !#]";
                word[place] = byte;
                let found = specials(word);
                let first = (found != 0).then(|| found.trailing_zeros() as usize / 8);
                assert_eq!(first, is_special(byte).then_some(place), "{byte:#x} at {place}");
            }
        }
    }

    /// Mostly plain bytes, those beside the special ones included.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let special = prop::sample::select(b"\"\\\0\x1f\n".as_slice());
        let beside = prop::sample::select(b" !#[]\x7f\x80\xa2\xdc\xff".as_slice());
        prop::collection::vec(prop_oneof![1 => special, 12 => beside, 20 => Just(b'a')], 0..80)
    }

    proptest! {
        #[test]
        fn equals_the_slow_twin_at_every_alignment(bytes in bytes()) {
            for start in 0..=bytes.len() {
                let rest = &bytes[start..];
                prop_assert_eq!(are_plain(rest), !rest.iter().copied().any(is_special));
                let twin = rest.iter().position(|byte| is_special(*byte));
                prop_assert_eq!(plain_length(rest), twin.unwrap_or(rest.len()));
            }
        }
    }
}
