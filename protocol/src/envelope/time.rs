//! Times on the wire: integer milliseconds since the Unix epoch, or ISO 8601 in UTC.
//!
//! The calendar is Howard Hinnant's `days_from_civil` (proleptic Gregorian), exact for all years used here.

/// Appends `YYYY-MM-DDTHH:MM:SS.mmmZ`; from the year 10000 on `+YYYYYY-…`, as JavaScript writes and reads it.
pub(crate) fn write_iso(unix_ms: u64, out: &mut Vec<u8>) {
    let (days, ms) = ((unix_ms / 86_400_000) as i64, unix_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let mut pad = |before: Option<u8>, value: u64, width: u32| {
        out.extend(before);
        for place in (0..width).rev() {
            out.push(b'0' + (value / 10u64.pow(place) % 10) as u8);
        }
    };
    match year {
        0..=9999 => pad(None, year as u64, 4),
        _ => pad(Some(b'+'), year as u64, 6),
    }
    pad(Some(b'-'), month, 2);
    pad(Some(b'-'), day, 2);
    pad(Some(b'T'), ms / 3_600_000, 2);
    pad(Some(b':'), ms / 60_000 % 60, 2);
    pad(Some(b':'), ms / 1000 % 60, 2);
    pad(Some(b'.'), ms % 1000, 3);
    out.push(b'Z');
}

/// Reads `YYYY-MM-DDTHH:MM:SS[.fff][Z|+HH:MM|-HH:MM]` of the years 1970 to 9999.
pub(crate) fn parse_iso(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let bytes = text.as_bytes();
    let fixed = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !fixed.iter().all(|(at, byte)| bytes.get(*at) == Some(byte)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // A day that is none, such as 30 February, comes back from the calendar as another one.
    let is_day =
        (1..=12).contains(&month) && civil(days(year, month, day)) == (year, month as u64, day as u64);
    if !is_day || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut ms = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let kept = fraction.get(..length.min(3))?;
        ms = kept.parse::<i64>().ok()? * 10i64.pow(3 - kept.len() as u32);
        rest = fraction.get(length..)?;
    }
    let zone_minutes = match rest.as_bytes() {
        [] | [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), a, b, b':', c, d] if [a, b, c, d].iter().all(|it| it.is_ascii_digit()) => {
            let two = |high: u8, low: u8| i64::from(high - b'0') * 10 + i64::from(low - b'0');
            let (hours, minutes) = (two(*a, *b), two(*c, *d));
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = hours * 60 + minutes;
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let total = ((days(year, month, day) * 24 + hour) * 60 + minute - zone_minutes) * 60 + second;
    u64::try_from(total * 1000 + ms).ok()
}

fn civil(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u64, day as u64)
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn iso(unix_ms: u64) -> String {
        let mut out = Vec::new();
        write_iso(unix_ms, &mut out);
        String::from_utf8(out).expect("digits and dashes")
    }

    #[test]
    fn known_times() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(1_704_067_200_000), "2024-01-01T00:00:00.000Z");
        assert_eq!(iso(1_709_210_096_789), "2024-02-29T12:34:56.789Z");
        assert_eq!(parse_iso("2024-01-01T01:00:00+01:00"), Some(1_704_067_200_000));
        assert_eq!(parse_iso("2024-01-01T00:00:00.5Z"), Some(1_704_067_200_500));
        for bad in ["", "2024-01-01", "2024-13-01T00:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01T00:00:00X"]
        {
            assert_eq!(parse_iso(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn times_survive(unix_ms in 0u64..253_402_300_799_999) {
            prop_assert_eq!(parse_iso(&iso(unix_ms)), Some(unix_ms));
        }
    }
}
