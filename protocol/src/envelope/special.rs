//! Where a JSON string stops being plain: quotes, backslashes and control characters, 16 bytes at a time.

use wide::u8x16;

/// Bytes that are looked at together.
const BLOCK: usize = 16;

/// Whether the byte ends a run of plain ones: `"`, `\` or a control character.
pub(crate) fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// What is left of `bytes` from the first special one on.
#[inline(always)]
pub(crate) fn skip_plain(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let Some((block, behind)) = rest.split_first_chunk() {
        let found = specials(*block);
        if found != 0 {
            return &rest[found.trailing_zeros() as usize..];
        }
        rest = behind;
    }
    let Some(last) = bytes.last_chunk::<BLOCK>() else { return skip_plain_in_rest(rest) };
    // The last block again, without what was looked at already.
    let found = specials(*last) >> (BLOCK - rest.len());
    rest.get(found.trailing_zeros() as usize..).unwrap_or(&[])
}

/// Less than a block: the zeros that fill it are special themselves, so one is found at the end at the latest.
#[inline(never)]
fn skip_plain_in_rest(rest: &[u8]) -> &[u8] {
    let mut block = [0; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    &rest[specials(block).trailing_zeros() as usize..]
}

/// Whether no byte is special.
#[inline]
pub(crate) fn are_plain(bytes: &[u8]) -> bool {
    if let Some(last) = bytes.last_chunk() {
        // The last block overlaps the one before it.
        return bytes.as_chunks().0.iter().all(|block| specials(*block) == 0) && specials(*last) == 0;
    }
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        // Most names are this long: two halves that overlap.
        (Some(first), Some(last)) => {
            let both = u128::from(u64::from_ne_bytes(*first)) << 64 | u128::from(u64::from_ne_bytes(*last));
            specials(both.to_ne_bytes()) == 0
        }
        _ => !bytes.iter().copied().any(is_special),
    }
}

/// A bit for each special byte, the first byte's lowest.
#[inline(always)]
fn specials(block: [u8; BLOCK]) -> u32 {
    let block = u8x16::new(block);
    let quote = block.cmp_eq(u8x16::splat(b'"'));
    let backslash = block.cmp_eq(u8x16::splat(b'\\'));
    let control = block.cmp_eq(block.min(u8x16::splat(0x1f)));
    (quote | backslash | control).move_mask() as u32 & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255u8 {
            for place in 0..BLOCK {
                let mut block = *b"ab\x7f\x80 !#]abcdefgh";
                block[place] = byte;
                assert_eq!(specials(block), u32::from(is_special(byte)) << place, "{byte:#x} at {place}");
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
                prop_assert_eq!(skip_plain(rest), &rest[twin.unwrap_or(rest.len())..]);
            }
        }
    }
}
