//! Unmasking, in place and many bytes at a time (RFC 6455 section 5.3).

/// XORs `bytes` with `mask`, beginning at byte `phase` of the mask; returns the phase behind the last byte.
///
/// The loops work on arrays of fixed size, which the compiler turns into vector instructions.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) -> usize {
    let after = (phase + bytes.len()) & 3;
    let turned = [mask[phase & 3], mask[(phase + 1) & 3], mask[(phase + 2) & 3], mask[(phase + 3) & 3]];
    let wide = u64::from(u32::from_ne_bytes(turned));
    let wide = wide << 32 | wide;
    let (blocks, rest) = bytes.as_chunks_mut::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
    }
    let (words, rest) = rest.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(turned.iter().cycle()) {
        *byte ^= key;
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The algorithm as the RFC writes it.
    fn slow(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte ^= mask[(phase + index) % 4];
        }
    }

    #[test]
    fn every_alignment_length_and_phase_equals_the_slow_twin() {
        let mask = [0x11, 0xa5, 0x00, 0xfe];
        let source: Vec<u8> = (0..200).map(|i| (i * 7) as u8).collect();
        for start in 0..9 {
            for length in 0..(source.len() - start) {
                for phase in 0..4 {
                    let mut fast = source.clone();
                    let mut twin = source.clone();
                    let after = unmask(&mut fast[start..start + length], mask, phase);
                    slow(&mut twin[start..start + length], mask, phase);
                    assert_eq!(fast, twin, "start {start}, length {length}, phase {phase}");
                    assert_eq!(after, (phase + length) % 4);
                }
            }
        }
    }
}
