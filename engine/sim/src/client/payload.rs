//! What clients put into payloads, so that whoever reads them can tell that nothing was changed.

use std::fmt::Write;

/// What a payload's numbers add up to.
pub(super) fn checksum(by: u32, n: u32) -> u32 {
    by.wrapping_mul(0x9e37_79b1) ^ n.wrapping_mul(0x85eb_ca6b).rotate_left(13)
}

/// What fills a large payload; characters of one or two bytes.
pub(super) fn pad_of(by: u32, n: u32, bytes: usize) -> String {
    let sum = checksum(by, n);
    if sum.is_multiple_of(5) && bytes.is_multiple_of(2) {
        return "ж".repeat(bytes / 2);
    }
    char::from(b'a' + (sum % 26) as u8).to_string().repeat(bytes)
}

/// Milliseconds since the Unix epoch as the contract's ISO 8601, counted year by year.
pub(super) fn iso(unix_ms: u64) -> String {
    let (mut days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    let mut text = String::new();
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    let _ = write!(text, "{year:04}-{:02}-{:02}T{hours:02}:{minutes:02}:{seconds:02}", month + 1, days + 1);
    let _ = write!(text, ".{:03}Z", ms % 1_000);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_that_are_known() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(iso(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
    }
}
