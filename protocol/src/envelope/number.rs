//! Decimal numbers as they are written for every message: eight digits at a time, and without a copy of unknown length.

/// Numbers below this have at most eight digits.
const EIGHT_DIGITS: u64 = 100_000_000;

/// Appends `number` in decimal.
#[inline(always)]
pub(crate) fn write(number: u64, out: &mut Vec<u8>) {
    if number < EIGHT_DIGITS {
        return write_first(number, out);
    }
    if number < EIGHT_DIGITS * EIGHT_DIGITS {
        write_first(number / EIGHT_DIGITS, out);
        out.extend_from_slice(&(digits(number % EIGHT_DIGITS) | ZEROS).to_le_bytes());
        return;
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Eight times the character 0.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// At most eight digits, without leading zeros.
#[inline(always)]
fn write_first(number: u64, out: &mut Vec<u8>) {
    let digits = digits(number);
    // The last digit stays, whatever it is.
    let leading = (digits | 1 << 56).trailing_zeros() & !7;
    let end = out.len() + 8 - leading as usize / 8;
    // Eight bytes at once, of which the last are too many.
    out.extend_from_slice(&((digits | ZEROS) >> leading).to_le_bytes());
    out.truncate(end);
}

/// The values of eight decimal digits, the first one in the lowest byte.
///
/// All are computed at once: the number is halved into two of four digits, those into pairs, and those into digits.
/// Divisions are multiplications with a rounded reciprocal, exact for all that can come up (Paul Khuong, "How to print
/// integers really fast", 2017).
#[inline(always)]
fn digits(number: u64) -> u64 {
    debug_assert!(number < EIGHT_DIGITS, "eight digits");
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let pairs = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((pairs * 103) >> 10) & 0xf_000f_000f_000f;
    tens | ((pairs - tens * 10) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn equals_the_slow_twin(number: u64) {
        let mut out = b"before".to_vec();
        write(number, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), format!("before{number}"));
    }

    #[test]
    fn every_number_of_up_to_five_digits_and_around_each_power_of_ten() {
        (0..100_000).for_each(equals_the_slow_twin);
        for power in 0..20 {
            for distance in 0..1000 {
                equals_the_slow_twin(10u64.pow(power).saturating_sub(distance));
                equals_the_slow_twin(10u64.pow(power).saturating_add(distance));
            }
        }
        equals_the_slow_twin(u64::MAX);
    }

    #[test]
    fn every_half_of_eight_digits() {
        for four in 0..10_000 {
            equals_the_slow_twin(four * 10_000 + 9_999 - four);
            equals_the_slow_twin(1_234 * EIGHT_DIGITS + (9_999 - four) * 10_000 + four);
        }
    }

    proptest! {
        #[test]
        fn any_number(number in any::<u64>(), shift in 0u32..64) {
            equals_the_slow_twin(number >> shift);
        }
    }
}
